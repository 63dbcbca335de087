// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "device/composite_device.h"

namespace lamella {

// A run of a lower device, which outlives it.
class SliceDevice final : public CompositeDevice {
  public:
    // Bytes; both are multiples of the lower device's alignment, and the run lies within it. ErrorKind::usage otherwise.
    static Result<std::unique_ptr<SliceDevice>> create(BlockDevice& lower, std::uint64_t start, std::uint64_t length, std::string name);

    std::uint64_t size() const override { return length_; }
    DeviceTraits traits() const override;
    std::string name() const override { return name_; }
    void add_leaves(std::vector<BlockDevice*>& leaves) override { lower_.add_leaves(leaves); }
    Piece piece_at(std::uint64_t offset, std::uint64_t limit) const override { return {&lower_, start_ + offset, limit}; }

  private:
    SliceDevice(BlockDevice& lower, std::uint64_t start, std::uint64_t length, std::string name)
        : lower_(lower), start_(start), length_(length), name_(std::move(name)) {}

    BlockDevice& lower_;
    std::uint64_t start_;
    std::uint64_t length_;
    std::string name_;
};

}  // namespace lamella
