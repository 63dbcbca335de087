// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "device/block_device.h"

namespace lamella {

// Reads as zeros and forgets what is written, as device mapper's zero target. Any thread.
class ZeroDevice final : public BlockDevice {
  public:
    ZeroDevice(std::uint64_t size, std::string name) : size_(size), name_(std::move(name)) {}

    std::uint64_t size() const override { return size_; }
    DeviceTraits traits() const override;
    std::string name() const override { return name_; }
    void submit(IoQueue& queue, IoRequest& request) override;
    void status(IoQueue& queue, StatusRequest& request) override;
    std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) override;

  private:
    std::uint64_t size_;
    std::string name_;
};

}  // namespace lamella
