// SPDX-License-Identifier: Apache-2.0
//
// A request on an origin or a snapshot that isn't handed down as it is. Internal to the cow floor.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "cow/exception_table.h"
#include "device/block_device.h"
#include "device/grace_period.h"

namespace lamella::cow {

class OriginThread;
struct SnapshotState;
struct Pending;

// Something on the origin's thread that waits for others; who makes it wait counts up, and down with unblock().
struct Blocked {
    unsigned waits = 0;
    void (*ready)(Blocked& blocked) = nullptr;
    void unblock() {
        if (--waits == 0)
            ready(*this);
    }
};

// Lives from submit() until the request has completed. Whoever has it in hand, the submitter's thread or the origin's, owns a part of it;
// I/O on lower devices are parts too; the last one completes the request.
struct CowIo {
    CowIo(OriginThread& its_thread, IoQueue& queue, IoRequest& its_request, SnapshotState* its_snapshot);

    // What the request said, before a lower device changed it.
    OriginThread& thread;
    IoQueue& home;
    IoRequest& request;
    SnapshotState* const snapshot;  // null: on the origin
    const IoOperation operation;
    const std::uint64_t start;   // bytes, on the device
    const std::uint64_t length;  // bytes
    // A discard on a snapshot, when it is the origin's turn.
    bool passed_down = false;

    std::atomic<unsigned> parts{1};
    std::atomic<int> error{0};
    // While writes of this request may be under way that looked at the snapshots as they were.
    std::optional<GracePeriod::Token> token;
    struct IoTask : Task {
        CowIo* io = nullptr;
    } task;
    struct IoBlocked : Blocked {
        CowIo* io = nullptr;
    } blocked;

    bool writes() const { return operation != IoOperation::read; }
    void note_error(int number) {
        int none = 0;
        if (number != 0)
            error.compare_exchange_strong(none, number);
    }
    // `here`: the queue of the calling thread.
    void finish_part(IoQueue& here, bool from_submit = false);

    // Bytes [offset, offset + size) of the request, on a lower device.
    struct Place {
        BlockDevice* device = nullptr;
        std::uint64_t offset = 0;
        std::uint64_t size = 0;
        std::uint64_t device_offset = 0;
        // Held in the table of `held_by` until the part has completed.
        SnapshotState* held_by = nullptr;
        OriginChunk first{};
        std::uint64_t count = 0;
        // The data of new exceptions.
        Pending* pending = nullptr;
    };
    void start_part(IoQueue& here, const Place& place);
    void leave_grace();

  private:
    void complete(IoQueue& here, bool from_submit);
};

}  // namespace lamella::cow
