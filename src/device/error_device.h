// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "device/block_device.h"

namespace lamella {

// A device that isn't there, as device mapper's error target: everything fails with EIO. Any thread.
class ErrorDevice final : public BlockDevice {
  public:
    ErrorDevice(std::uint64_t size, std::string name) : size_(size), name_(std::move(name)) {}

    std::uint64_t size() const override { return size_; }
    DeviceTraits traits() const override { return {}; }
    std::string name() const override { return name_; }
    void submit(IoQueue& queue, IoRequest& request) override;
    void status(IoQueue& queue, StatusRequest& request) override;

  private:
    std::uint64_t size_;
    std::string name_;
};

}  // namespace lamella
