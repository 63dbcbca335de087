// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>

#include "device/block_device.h"
#include "device/sparse_bytes.h"

namespace lamella {

// Shows what a device would hold after some writes, without writing to it: they stay in memory. For trials of changes to metadata:
// takes memory for all that is read or written, in pages of 4096 bytes, and reads the lower device inside submit().
// Any thread. The lower device outlives it.
class TrialDevice final : public BlockDevice {
  public:
    explicit TrialDevice(BlockDevice& lower) : lower_(lower) {}

    std::uint64_t size() const override { return lower_.size(); }
    DeviceTraits traits() const override;
    std::string name() const override { return lower_.name(); }
    void submit(IoQueue& queue, IoRequest& request) override;

  private:
    int perform(IoRequest& request);
    Result<void> take_page(std::uint64_t number);

    BlockDevice& lower_;
    std::mutex mutex_;
    SparseBytes written_;
};

}  // namespace lamella
