// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "device/composite_device.h"

namespace lamella {

// Stripes: chunk after chunk goes to stripe after stripe, as device mapper's striped target and LVM's segments of type "striped" lay them.
// The lower devices outlive it.
class StripedDevice final : public CompositeDevice {
  public:
    struct Stripe {
        BlockDevice* device;
        std::uint64_t start;  // bytes
    };
    // `chunk`: bytes, a multiple of the lower devices' alignment. `length` of the whole: a multiple of chunk * stripes, as it is with
    // whole extents. ErrorKind::usage where that, or a stripe's place, is wrong.
    static Result<std::unique_ptr<StripedDevice>> create(std::span<const Stripe> stripes, std::uint64_t chunk, std::uint64_t length,
                                                         std::string name);

    std::uint64_t size() const override { return length_; }
    DeviceTraits traits() const override { return traits_; }
    std::string name() const override { return name_; }
    void add_leaves(std::vector<BlockDevice*>& leaves) override;
    Piece piece_at(std::uint64_t offset, std::uint64_t limit) const override;

  protected:
    void add_runs(std::uint64_t offset, std::uint64_t length, std::vector<Piece>& runs) const override;

  private:
    StripedDevice(std::span<const Stripe> stripes, std::uint64_t chunk, std::uint64_t length, std::string name)
        : stripes_(stripes.begin(), stripes.end()), chunk_(chunk), length_(length), name_(std::move(name)) {}
    // How many of the first `offset` bytes lie on a stripe.
    std::uint64_t share_of(std::size_t stripe, std::uint64_t offset) const;

    std::vector<Stripe> stripes_;
    std::uint64_t chunk_;
    std::uint64_t length_;
    std::string name_;
    DeviceTraits traits_;
};

}  // namespace lamella
