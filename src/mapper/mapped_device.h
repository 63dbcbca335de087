// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "device/block_device.h"
#include "device/grace_period.h"

namespace lamella::mapper {

// Tells whoever wants to know that some device had an event. Any thread.
class EventBell {
  public:
    // Must not block. Not called any more when this returns after another was set.
    void set_handler(std::function<void()> handler) {
        std::lock_guard lock(mutex_);
        handler_ = std::move(handler);
    }
    void ring() {
        std::lock_guard lock(mutex_);
        if (handler_)
            handler_();
    }

  private:
    std::mutex mutex_;
    std::function<void()> handler_;
};

// The data path of a device of the mapper: hands requests to the live table, or holds them while the device is suspended. Devices are
// made and changed by Mapper alone; targets and clients see this.
//
// A request enters a grace period, takes the live table, and leaves when it has completed: two uncontended atomic operations beside what
// the table does. Suspending takes the table away and waits until everybody has left; whoever comes later is put into a list, which the
// resume sends on, in order. That list is the only thing here that takes a lock, and only while the device is suspended.
//
// Threads: as BlockDevice. What is marked so is the mapper's, one call at a time.
class MappedDevice final : public BlockDevice {
  public:
    static Result<std::shared_ptr<MappedDevice>> create(std::uint32_t minor, std::string name, std::shared_ptr<EventBell> bell);
    ~MappedDevice() override;

    // 0 without a live table.
    std::uint64_t size() const override { return size_.load(); }
    DeviceTraits traits() const override;
    std::string name() const override;
    void submit(IoQueue& queue, IoRequest& request) override;
    // While the device is suspended: allocated, not known to be zero.
    void status(IoQueue& queue, StatusRequest& request) override;
    std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) override;

    std::uint32_t minor() const { return minor_; }
    // "253:4"
    std::string number() const;

    // Any thread, the data path's too: somebody may wait for it (`dm wait`).
    void raise_event() {
        events_.fetch_add(1);
        bell_->ring();
    }
    std::uint32_t event_number() const { return events_.load(); }

    // --- The mapper's ---
    void rename(std::string name);
    // From now on requests are held.
    void block();
    // Whether everything that had been taken before block() has completed; waits for it up to `patience`.
    bool drained(Duration patience);
    // From now on requests go to `table` (null: they fail with EIO), those that were held first. The table lives until a drained() after
    // the next block() has said yes.
    void unblock(BlockDevice* table, bool read_only);
    // The same beside them, without another table, for a device that this one stands on: requests are held as long as either says so.
    void block_from_below();
    void unblock_from_below();

  private:
    struct Io;
    struct Held;
    struct Waiter;

    MappedDevice(std::uint32_t minor, std::string name, std::shared_ptr<EventBell> bell, std::unique_ptr<IoQueue> queue);
    void hold(IoQueue& queue, IoRequest& request);
    void wait_for_those_inside();

    const std::uint32_t minor_;
    const std::shared_ptr<EventBell> bell_;
    const std::unique_ptr<IoQueue> queue_;  // for the grace period; stepped in drained()
    GracePeriod grace_;
    std::atomic<BlockDevice*> live_{nullptr};
    std::atomic<std::uint64_t> size_{0};
    std::atomic<bool> read_only_{false};
    std::atomic<std::uint32_t> events_{0};

    mutable std::mutex mutex_;
    std::string name_;
    DeviceTraits traits_;
    BlockDevice* table_ = nullptr;
    bool blocked_ = false;
    bool blocked_from_below_ = false;
    std::vector<Held*> held_;

    std::list<Waiter> waiters_;  // the mapper's
};

}  // namespace lamella::mapper
