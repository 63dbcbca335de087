// SPDX-License-Identifier: Apache-2.0
//
// Random requests of 4 KiB to a device, many at a time: what programs here measure with.
#pragma once

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "base/clock.h"
#include "device/block_device.h"
#include "device/io_queue.h"

namespace lamella {

constexpr std::uint64_t request_bytes = 4096;

inline std::vector<std::uint64_t> shuffled(std::uint64_t count) {
    std::vector<std::uint64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
    return order;
}

inline double since(Duration begin) { return std::chrono::duration<double>(Clock::system().monotonic() - begin).count(); }

class Load {
  public:
    // So many requests, each at the start of another chunk, `depth` at a time.
    Load(IoQueue& queue, std::uint64_t chunk_bytes, std::uint64_t count, unsigned depth)
        : queue_(queue), chunk_bytes_(chunk_bytes), order_(shuffled(count)), slots_(depth), data_(depth * request_bytes) {
        std::fill_n(data_.data(), data_.size(), std::byte{7});
    }

    // All of them, and again until so many seconds are over. Requests a second.
    Result<double> run(BlockDevice& device, double seconds = 0, IoOperation operation = IoOperation::write) {
        device_ = &device;
        operation_ = operation;
        next_ = done_ = 0;
        error_ = 0;
        begin_ = Clock::system().monotonic();
        seconds_ = seconds;
        last_ = order_.size();
        for (Slot& slot : slots_) {
            slot.load = this;
            slot.vector = {data_.data() + (&slot - slots_.data()) * request_bytes, request_bytes};
            slot.completed = [](IoRequest& request, int error) {
                Load& load = *static_cast<Slot&>(request).load;
                if (error != 0)
                    load.error_ = error;
                ++load.done_;
                load.submit(static_cast<Slot&>(request));
            };
            submit(slot);
        }
        queue_.run_until([&] { return done_ == last_; });
        if (error_ != 0)
            return fail_errno(device.name(), error_);
        if (operation == IoOperation::write)
            TRY(flush_now(device));  // what was left for later is paid for, too
        return static_cast<double>(last_) / since(begin_);
    }

  private:
    struct Slot : IoRequest {
        Load* load = nullptr;
        iovec vector{};
    };
    void submit(Slot& slot) {
        if (next_ == last_ && since(begin_) < seconds_)
            last_ += order_.size();
        if (next_ == last_)
            return;
        slot.operation = operation_;
        slot.offset = order_[next_++ % order_.size()] * chunk_bytes_;
        slot.length = request_bytes;
        slot.vectors = {&slot.vector, 1};
        device_->submit(queue_, slot);
    }

    IoQueue& queue_;
    const std::uint64_t chunk_bytes_;
    std::vector<std::uint64_t> order_;
    std::vector<Slot> slots_;
    AlignedBuffer data_;
    BlockDevice* device_ = nullptr;
    IoOperation operation_ = IoOperation::write;
    Duration begin_{};
    double seconds_ = 0;
    std::size_t next_ = 0, done_ = 0, last_ = 0;
    int error_ = 0;
};

}  // namespace lamella
