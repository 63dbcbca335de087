// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "device/concatenation_device.h"
#include "device/striped_device.h"
#include "lvm2/group.h"

namespace lamella::mapper {

// The device of a physical volume by its name in the group's text; null: missing.
using FindDevice = std::function<BlockDevice*(std::string_view physical_volume)>;

// A linear or striped logical volume as one device over the group's physical volumes, which are borrowed.
//
// Threads: as BlockDevice; update() on one thread at a time, I/O may go on.
class VolumeDevice final : public CompositeDevice {
  public:
    // Errors: unsupported, naming the segment type, for what isn't linear or striped; not_found for a missing physical volume;
    // damaged when an area lies outside of its device.
    static Result<std::unique_ptr<VolumeDevice>> open(const lvm2::VolumeGroup& group, const lvm2::LogicalVolume& volume,
                                                      const FindDevice& find);

    // The volume has been extended: what it had stays where it was.
    Result<void> update(const lvm2::VolumeGroup& group, const lvm2::LogicalVolume& volume, const FindDevice& find);

    std::uint64_t size() const override { return segments_->size(); }
    DeviceTraits traits() const override { return segments_->traits(); }
    std::string name() const override { return segments_->name(); }
    void add_leaves(std::vector<BlockDevice*>& leaves) override { segments_->add_leaves(leaves); }
    Piece piece_at(std::uint64_t offset, std::uint64_t limit) const override { return segments_->piece_at(offset, limit); }

  private:
    VolumeDevice() = default;
    // Where the volume's bytes from `begin` on lie.
    Result<std::vector<Piece>> pieces_from(std::uint64_t begin, const lvm2::VolumeGroup& group, const lvm2::LogicalVolume& volume,
                                           const FindDevice& find);

    std::vector<std::unique_ptr<StripedDevice>> striped_;
    std::unique_ptr<ConcatenationDevice> segments_;
};

}  // namespace lamella::mapper
