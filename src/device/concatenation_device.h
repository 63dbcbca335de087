// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "device/composite_device.h"

namespace lamella {

// Runs of lower devices, one after the other: a linear volume of several segments. The lower devices outlive it. It may grow while
// other threads use it.
class ConcatenationDevice final : public CompositeDevice {
  public:
    // Runs of at least one byte, aligned to the strictest of all devices, within them. ErrorKind::usage otherwise.
    static Result<std::unique_ptr<ConcatenationDevice>> create(std::span<const Piece> segments, std::string name);
    ~ConcatenationDevice() override;

    // Any thread. Requests that are in flight or submitted meanwhile see the device before or after. On an error nothing has changed.
    Result<void> append(std::span<const Piece> segments);

    std::uint64_t size() const override;
    DeviceTraits traits() const override;
    std::string name() const override { return name_; }
    void add_leaves(std::vector<BlockDevice*>& leaves) override;
    Piece piece_at(std::uint64_t offset, std::uint64_t limit) const override;

  private:
    struct Segment {
        std::uint64_t begin;  // of this device
        Piece piece;
    };
    // Never changed once it is published. Readers take the newest without a lock; older ones are kept for those who still look at
    // them, until the device goes: a few hundred bytes for each time that a volume grows.
    struct Table {
        std::vector<Segment> segments;
        std::uint64_t size = 0;
        DeviceTraits traits;
    };

    explicit ConcatenationDevice(std::string name) : name_(std::move(name)) {}
    const Table& table() const { return *table_.load(std::memory_order_acquire); }

    const std::string name_;
    std::mutex growing_;
    std::vector<std::unique_ptr<const Table>> tables_;
    std::atomic<const Table*> table_{nullptr};
};

}  // namespace lamella
