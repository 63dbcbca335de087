// SPDX-License-Identifier: Apache-2.0
//
// Classic snapshots in a group's model, as lvcreate, lvconvert and lvremove of LVM 2.03.16 make and change them.
#include <algorithm>
#include <bit>

#include "lvm2/allocation.h"
#include "lvm2/change_parts.h"

namespace lamella::lvm2 {

namespace {

struct Tie {
    LogicalVolume* volume;
    ClassicSnapshot* body;
};

Result<Tie> find_tie(VolumeGroup& group, std::string_view store) {
    for (LogicalVolume& volume : group.logical_volumes)
        if (ClassicSnapshot* body = volume.sole<ClassicSnapshot>(); body && body->store == store)
            return Tie{&volume, body};
    return fail(ErrorKind::usage, "{}/{} is not a classic snapshot", group.name, store);
}

bool can_be_origin(const LogicalVolume& volume) {
    return volume.visible() && (volume.sole<Thin>() || std::ranges::all_of(volume.segments, [](const Segment& segment) {
                                    return segment.as<Striped>() != nullptr;
                                }));
}

}  // namespace

Result<void> create_classic_snapshot(VolumeGroup& group, const NewClassicSnapshot& request) {
    TRY(check_new(group, request.volume));
    const LogicalVolume* origin = TRY(find(group, request.origin));
    const ClassicSnapshots present(group);
    if (present.of_store(origin->name))
        return fail(ErrorKind::refused, "{}/{} is a classic snapshot itself: those have none of their own", group.name, origin->name);
    if (!can_be_origin(*origin))
        return fail(ErrorKind::unsupported, "{}/{} is of a type that has no classic snapshots", group.name, origin->name);
    if (const ClassicSnapshot* merging = present.merging_into(origin->name))
        return fail(ErrorKind::refused, "{} is being merged into {}/{}: no snapshot can be taken meanwhile", merging->store, group.name,
                    origin->name);
    if (request.chunk_sectors < min_snapshot_chunk_sectors || request.chunk_sectors > max_snapshot_chunk_sectors ||
        !std::has_single_bit(request.chunk_sectors))
        return fail(ErrorKind::usage, "a snapshot's chunk size is a power of two from 4 KiB to 512 KiB, not {} bytes",
                    request.chunk_sectors * sector_bytes);

    // Origin, store and snapshot are devices of the kernel's.
    for (const auto& [name, layer] : {std::pair{request.origin, "real"}, std::pair{request.volume.name, "cow"}})
        if (dm_name(group.name, name, layer).size() > max_name_length)
            return fail(ErrorKind::usage, "'{}' is too long for the name of a volume with snapshots", name);

    VolumeGroup changed = group;
    TRY(create_volume(changed, request.volume, request.extents, request.placement));
    LogicalVolume& store = changed.logical_volumes.back();
    std::erase(store.status, "VISIBLE");
    LogicalVolume tie = make_volume(free_numbered_name(group, "snapshot"), request.volume.created, true);
    ClassicSnapshot body{request.origin, request.volume.name, request.chunk_sectors, false};
    tie.segments.push_back(whole_segment("snapshot", static_cast<std::uint32_t>(origin->extent_count()), std::move(body)));
    changed.logical_volumes.push_back(std::move(tie));
    group = std::move(changed);
    return {};
}

Result<void> begin_merge(VolumeGroup& group, std::string_view store) {
    const Tie tie = TRY(find_tie(group, store));
    if (tie.body->merging)
        return {};
    for (const LogicalVolume& other : group.logical_volumes)
        if (const auto* body = other.sole<ClassicSnapshot>(); body && body->merging && body->origin == tie.body->origin)
            return fail(ErrorKind::refused, "{} is being merged into {}/{} already", body->store, group.name, body->origin);
    tie.body->merging = true;
    std::erase(tie.volume->status, "VISIBLE");
    return {};
}

Result<void> remove_classic_snapshot(VolumeGroup& group, std::string_view store) {
    const std::string tie = TRY(find_tie(group, store)).volume->name;
    erase_volume(group, tie);
    erase_volume(group, store);
    return {};
}

Result<void> extend_store(VolumeGroup& group, std::string_view store, std::uint32_t extents, const Placement& placement) {
    TRY(find_tie(group, store));
    return extend_striped(group, *TRY(find(group, store)), extents, placement);
}

ClassicSnapshots::ClassicSnapshots(const VolumeGroup& group) {
    for (const LogicalVolume& volume : group.logical_volumes)
        if (const auto* body = volume.sole<ClassicSnapshot>()) {
            by_store_.emplace(body->store, Entry{*body, volume.extent_count()});
            by_origin_[body->origin].push_back(*body);
        }
}

const ClassicSnapshot* ClassicSnapshots::of_store(std::string_view store) const {
    const auto found = by_store_.find(store);
    return found == by_store_.end() ? nullptr : &found->second.snapshot;
}

std::uint64_t ClassicSnapshots::extents(std::string_view store) const {
    const auto found = by_store_.find(store);
    return found == by_store_.end() ? 0 : found->second.extents;
}

const std::vector<ClassicSnapshot>* ClassicSnapshots::of_origin(std::string_view origin) const {
    const auto found = by_origin_.find(origin);
    return found == by_origin_.end() ? nullptr : &found->second;
}

const ClassicSnapshot* ClassicSnapshots::merging_into(std::string_view origin) const {
    const std::vector<ClassicSnapshot>* snapshots = of_origin(origin);
    if (snapshots == nullptr)
        return nullptr;
    const auto merging = std::ranges::find_if(*snapshots, &ClassicSnapshot::merging);
    return merging == snapshots->end() ? nullptr : &*merging;
}

}  // namespace lamella::lvm2
