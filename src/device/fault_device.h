// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "device/block_device.h"

namespace lamella {

// Hands requests to a lower device, but for those that a rule picks: these fail, or wait until they are released. Also counts
// what comes by. For tests. Any thread. The lower device outlives it.
class FaultDevice final : public BlockDevice {
  public:
    struct Rule {
        std::optional<IoOperation> operation{};  // any
        // Bytes; a request that overlaps matches. A flush matches every range.
        std::uint64_t offset = 0;
        std::uint64_t length = UINT64_MAX;
        std::uint64_t skip = 0;            // so many matching requests pass first
        std::uint64_t count = UINT64_MAX;  // so many are picked then
        int error = EIO;                   // what they complete with, and without effect
        bool hold = false;                 // instead: they reach the lower device when release() is called
    };

    explicit FaultDevice(BlockDevice& lower) : lower_(lower) {}

    // The first rule that picks a request decides.
    void add(const Rule& rule);
    void clear();
    // Lets everything that is held go on, on the threads of the queues that it came from.
    void release();

    std::size_t held() const;
    // Requests of a kind that have been submitted, failed and held ones included.
    std::uint64_t count(IoOperation operation) const;

    std::uint64_t size() const override { return lower_.size(); }
    DeviceTraits traits() const override { return lower_.traits(); }
    std::string name() const override { return lower_.name(); }
    void submit(IoQueue& queue, IoRequest& request) override;
    void status(IoQueue& queue, StatusRequest& request) override { lower_.status(queue, request); }
    std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) override { return lower_.known_zero(offset, limit); }

  private:
    struct Held : Task {
        BlockDevice* lower = nullptr;
        IoQueue* queue = nullptr;
        IoRequest* request = nullptr;
    };
    std::optional<Rule> pick(const IoRequest& request);

    BlockDevice& lower_;
    mutable std::mutex mutex_;
    std::vector<Rule> rules_;
    std::vector<Held*> held_;
    std::array<std::uint64_t, 5> counts_{};
};

}  // namespace lamella
