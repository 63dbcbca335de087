// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <sys/uio.h>

namespace lamella {

enum class IoOperation : std::uint8_t { read, write, flush, discard, write_zeroes };

// The parts of a read that the device knows to be unmapped. It leaves the buffer untouched there, so that nobody copies zeros.
// When the list is full the device fills the buffer with zeros as it would without a list.
struct HoleList {
    struct Hole {
        std::uint64_t offset;  // bytes, from the start of the request
        std::uint64_t length;  // bytes
    };
    static constexpr std::size_t capacity = 32;

    // Holes are added in ascending order or not; neighbours that touch the last one are merged. False: full.
    bool add(std::uint64_t offset, std::uint64_t length) {
        if (count > 0 && holes[count - 1].offset + holes[count - 1].length == offset) {
            holes[count - 1].length += length;
            return true;
        }
        if (count == capacity)
            return false;
        holes[count++] = {offset, length};
        return true;
    }

    std::array<Hole, capacity> holes;
    std::size_t count = 0;
};

// One operation on a BlockDevice. The submitter owns it and the memory that it names, and keeps both until `completed` is called.
// While it is in flight, the device may change `offset`, `next` and `scratch`.
struct IoRequest {
    IoOperation operation = IoOperation::read;
    // write, write_zeroes: complete only when durable (FUA).
    bool durable = false;
    // write_zeroes: the range must stay allocated (NBD's NO_HOLE). Otherwise the device may unmap it.
    bool keep_allocated = false;
    // write_zeroes: fail with EOPNOTSUPP at once if it would be no faster than writing (NBD's FAST_ZERO).
    bool fast_only = false;

    std::uint64_t offset = 0;  // bytes
    std::uint64_t length = 0;  // bytes; 0 for a flush
    // read, write: the buffers; their lengths add up to `length`.
    std::span<const iovec> vectors{};
    // read: where to report holes; may be null.
    HoleList* holes = nullptr;

    // Called once, on the thread of the IoQueue, never from inside submit(). `error` is 0 or an errno.
    void (*completed)(IoRequest& request, int error) = nullptr;
    // The submitter's own.
    void* context = nullptr;

    // The device's own, while in flight.
    IoRequest* next = nullptr;
    std::uint64_t scratch = 0;
};

struct StatusExtent {
    std::uint64_t length;  // bytes
    bool allocated;        // takes room here
    bool zero;             // known to read as zeros
    std::uint8_t depth;    // qemu:allocation-depth: 0 not allocated, 1 own, 2 shared with another volume or from an origin
};

// Asks how a range is allocated. Owned by the asker until `completed`.
struct StatusRequest {
    std::uint64_t offset = 0;  // bytes
    std::uint64_t length = 0;  // bytes
    std::size_t max_extents = 1;

    // Extents from `offset` on, neighbours of one kind merged; together at least one byte, at most `length`.
    std::vector<StatusExtent> extents;
    // As IoRequest::completed.
    void (*completed)(StatusRequest& request, int error) = nullptr;
    void* context = nullptr;

    // Adds an extent; merges it with the last one if both are of a kind. False: `max_extents` are there already.
    bool add(StatusExtent extent) {
        if (!extents.empty()) {
            StatusExtent& last = extents.back();
            if (last.allocated == extent.allocated && last.zero == extent.zero && last.depth == extent.depth) {
                last.length += extent.length;
                return true;
            }
        }
        if (extents.size() >= max_extents)
            return false;
        extents.push_back(extent);
        return true;
    }

    // The device's own, while in flight.
    StatusRequest* next = nullptr;
    std::uint64_t scratch = 0;
};

}  // namespace lamella
