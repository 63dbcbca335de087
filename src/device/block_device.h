// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "device/io_queue.h"
#include "device/io_request.h"

namespace lamella {

// What a device asks of its requests and offers for them.
struct DeviceTraits {
    // Offsets and lengths of reads and writes are multiples of this (power of two, 1 .. 4096).
    // Memory that isn't aligned to it is copied by the device.
    std::uint32_t alignment = 512;
    // Bytes that a crash never tears: a write of as many, at a multiple of it, is on the disk whole or not at all. Power of two, 512 .. 4096;
    // less than `alignment` where requests must be larger than what is sure to stay whole. (Linux: physical_block_size, "the smallest unit
    // a physical storage device can write atomically", Documentation/ABI/stable/sysfs-block.)
    std::uint32_t physical_block = 512;
    std::uint64_t preferred_io = 4096;         // bytes
    bool discards = false;                     // discard does something; otherwise it may complete with EOPNOTSUPP
    bool discard_zeroes = false;               // a discarded range reads as zeros from then on
    std::uint64_t discard_granularity = 4096;  // bytes
    bool rotational = false;
    bool read_only = false;
};

// A seam: an array of bytes with asynchronous operations. Leaves are files, block devices and memory; others map onto lower
// devices or, like a thin volume, do work of their own. A volatile write cache is assumed: only flush and durable writes
// make data outlive a crash.
//
// Threads: submit() and status() are called on the thread of `queue`; any number of queues may use one device.
// A device outlives every request in flight.
class BlockDevice {
  public:
    virtual ~BlockDevice() = default;

    // Bytes. May grow while the device is open; any thread.
    virtual std::uint64_t size() const = 0;
    virtual DeviceTraits traits() const = 0;
    // For messages: "./vms.img", "vms/web".
    virtual std::string name() const = 0;

    // Requests beyond size() complete with EINVAL (reads, discards) or ENOSPC (writes).
    virtual void submit(IoQueue& queue, IoRequest& request) = 0;

    // The default says: allocated, not known to be zero, depth 1.
    virtual void status(IoQueue& queue, StatusRequest& request);

    // How many bytes from `offset` are known to read as zeros without reading them; at most `limit`. May block shortly.
    virtual std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) {
        (void)offset;
        (void)limit;
        return 0;
    }

    // Adds the leaf devices that this one stands on, each once: a flush of one leaf covers everything that stands on it.
    virtual void add_leaves(std::vector<BlockDevice*>& leaves);
};

// What a device says first of a request: 0, EINVAL (misaligned, or a read or discard beyond `size`) or ENOSPC (a write beyond it).
// Discards and write_zeroes need no alignment by this check.
int check_request(const IoRequest& request, std::uint64_t size, std::uint32_t alignment);

// Synchronous calls, for code that is off the data path. Each runs a private plain queue on the calling thread.
// Any offset and length: an unaligned write reads and rewrites the units that it touches, so nobody else may write those meanwhile;
// write_zeroes_now does so too at its edges; discard_now leaves out the units that it covers in part.
Result<void> read_now(BlockDevice& device, std::uint64_t offset, std::span<std::byte> bytes);
Result<void> write_now(BlockDevice& device, std::uint64_t offset, std::span<const std::byte> bytes);
Result<void> flush_now(BlockDevice& device);
Result<void> discard_now(BlockDevice& device, std::uint64_t offset, std::uint64_t length);
Result<void> write_zeroes_now(BlockDevice& device, std::uint64_t offset, std::uint64_t length);
Result<std::vector<StatusExtent>> status_now(BlockDevice& device, std::uint64_t offset, std::uint64_t length, std::size_t max_extents);

// Memory that suits O_DIRECT: aligned to 4096 bytes, filled with zeros.
class AlignedBuffer {
  public:
    AlignedBuffer() = default;
    explicit AlignedBuffer(std::size_t size);
    AlignedBuffer(AlignedBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~AlignedBuffer();

    std::byte* data() { return data_; }
    const std::byte* data() const { return data_; }
    std::size_t size() const { return size_; }
    std::span<std::byte> bytes() { return {data_, size_}; }
    std::span<const std::byte> bytes() const { return {data_, size_}; }

  private:
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace lamella
