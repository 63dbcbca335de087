// SPDX-License-Identifier: Apache-2.0
#include "mapper/volume_device.h"

namespace lamella::mapper {

namespace {

struct Stripe {
    BlockDevice* device;
    std::uint64_t start;  // bytes
};

Result<Stripe> locate(const lvm2::VolumeGroup& group, const lvm2::Area& area, std::uint64_t bytes, const FindDevice& find) {
    const lvm2::PhysicalVolume* physical = group.physical_volume(area.name);
    if (physical == nullptr)
        return fail(ErrorKind::unsupported, "an area on {}, which isn't a physical volume", area.name);
    BlockDevice* device = find(area.name);
    if (device == nullptr)
        return fail(ErrorKind::not_found, "physical volume {} ({}) is missing", area.name, physical->id.dashed());
    const std::uint64_t start = group.extent_offset(*physical, area.first_extent);
    if (start > device->size() || bytes > device->size() - start)
        return fail(ErrorKind::damaged, "extents from {} on end beyond {}, which has {} bytes", area.first_extent, device->name(),
                    device->size());
    return Stripe{device, start};
}

}  // namespace

Result<std::vector<CompositeDevice::Piece>> VolumeDevice::pieces_from(std::uint64_t begin, const lvm2::VolumeGroup& group,
                                                                      const lvm2::LogicalVolume& volume, const FindDevice& find) {
    std::vector<Piece> pieces;
    for (const lvm2::Segment& segment : volume.segments) {
        const auto* body = segment.as<lvm2::Striped>();
        if (body == nullptr)
            return fail(ErrorKind::unsupported, "{}: segment type {} is not one that I/O can go through here", volume.name, segment.type);
        const std::uint64_t segment_begin = segment.start_extent * group.extent_bytes();
        const std::uint64_t length = segment.extent_count * group.extent_bytes();
        if (segment_begin + length <= begin)
            continue;
        const std::uint64_t skipped = begin > segment_begin ? begin - segment_begin : 0;
        const std::uint64_t each = length / body->areas.size();
        if (body->areas.size() == 1) {
            const Stripe stripe = TRY_WITHIN(volume.name, locate(group, body->areas[0], each, find));
            pieces.push_back({stripe.device, stripe.start + skipped, length - skipped});
            continue;
        }
        std::vector<StripedDevice::Stripe> stripes;
        for (const lvm2::Area& area : body->areas) {
            const Stripe stripe = TRY_WITHIN(volume.name, locate(group, area, each, find));
            stripes.push_back({stripe.device, stripe.start});
        }
        striped_.push_back(
            TRY_WITHIN(volume.name, StripedDevice::create(stripes, body->stripe_sectors * sector_bytes, length, volume.name)));
        pieces.push_back({striped_.back().get(), skipped, length - skipped});
    }
    return pieces;
}

Result<std::unique_ptr<VolumeDevice>> VolumeDevice::open(const lvm2::VolumeGroup& group, const lvm2::LogicalVolume& volume,
                                                         const FindDevice& find) {
    std::unique_ptr<VolumeDevice> device(new VolumeDevice);
    const std::vector<Piece> pieces = TRY(device->pieces_from(0, group, volume, find));
    device->segments_ = TRY_WITHIN(volume.name, ConcatenationDevice::create(pieces, group.name + "/" + volume.name));
    return device;
}

Result<void> VolumeDevice::update(const lvm2::VolumeGroup& group, const lvm2::LogicalVolume& volume, const FindDevice& find) {
    const std::uint64_t had = size();
    if (group.size_bytes(volume) <= had)
        return {};
    const std::vector<Piece> pieces = TRY(pieces_from(had, group, volume, find));
    return segments_->append(pieces);
}

}  // namespace lamella::mapper
