// SPDX-License-Identifier: Apache-2.0
//
// One client request on a thin volume while it is in flight, and the requests on the data device that it turns into.
// Shared by the volume (data path, any reactor) and the pool's thread; nobody else includes this.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "device/block_device.h"
#include "device/grace_period.h"
#include "thin/volume.h"

namespace lamella::thin {

// Owned by itself: made in ThinVolume::submit(), gone after the completion of the request that it serves.
struct ThinIo {
    ThinIo(ThinVolume& its_volume, IoQueue& its_home, IoRequest& its_request)
        : volume(its_volume), home(its_home), request(its_request), operation(its_request.operation), start(its_request.offset) {
        task.io = this;
    }

    ThinVolume& volume;
    IoQueue& home;  // where the request was submitted and is to complete
    IoRequest& request;
    const IoOperation operation;
    const std::uint64_t start;   // bytes; the request's own offset isn't ours to keep
    std::uint64_t position = 0;  // bytes of the request that have been dealt out
    bool must_commit = false;    // durable, and some of it rests on mappings that aren't committed

    // Parts under way, and one for whoever is dealing them out.
    std::atomic<std::uint32_t> parts{1};
    std::atomic<int> error{0};

    struct IoTask : Task {
        ThinIo* io;
    };
    IoTask task;

    void note_error(int errno_value) {
        int none = 0;
        if (errno_value != 0)
            error.compare_exchange_strong(none, errno_value);
    }
    // A part is done. The last one completes the request, at home. `here`: the queue of the calling thread; `from_submit`: the
    // caller is inside submit(), where nothing may be completed directly.
    void finish_part(IoQueue& here, bool from_submit = false);

    // Reads, and writes to blocks of the volume's own: deals parts out from `position` on until the request is dealt out (true)
    // or meets what only the pool's thread can do (false).
    bool deal(IoQueue& here);

    // Starts one part on a device: the bytes [offset, offset + length) of the request at `device_offset`.
    void start_part(IoQueue& here, BlockDevice& device, std::uint64_t offset, std::uint64_t length, std::uint64_t device_offset,
                    GracePeriod::Token token);
    // Reads nothing: [offset, offset + length) of the request is a hole.
    void read_hole(std::uint64_t offset, std::uint64_t length);
    // The part of a read that isn't mapped: the external origin, or a hole.
    void read_unmapped(IoQueue& here, std::uint64_t offset, std::uint64_t length);

  private:
    void complete(IoQueue& here, bool from_submit);
};

}  // namespace lamella::thin
