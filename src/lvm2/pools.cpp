// SPDX-License-Identifier: Apache-2.0
//
// Thin pools as LVM's commands make them, out of nothing or out of volumes; their metadata and the group's spare for it. Each works on a
// copy of what it changes, so that a failure leaves the group as it was.
#include <algorithm>

#include "lvm2/allocation.h"
#include "lvm2/change_parts.h"

namespace lamella::lvm2 {

namespace {

// LVM's own limits.
constexpr std::uint64_t max_metadata_bytes = std::uint64_t(255) * ((1 << 14) - 64) * 4096;  // 15.875 GiB
// Beyond 15.8125 GiB a pool says whether its metadata is to be cropped to that.
constexpr std::uint64_t crop_metadata_bytes = (std::uint64_t(255) * (1 << 14) * 8 - 256 * 1024) * sector_bytes;
constexpr std::uint64_t min_metadata_bytes = 2u << 20;
constexpr std::uint64_t max_spare_bytes = std::uint64_t(16) << 30;
constexpr std::uint64_t bytes_per_chunk = 64;

// Makes the spare as large as `extents`, within its limit.
Result<void> grow_spare(VolumeGroup& group, std::uint32_t extents, const Stamp& created, const Placement& placement) {
    const std::uint64_t limit = group.extents_for(max_spare_bytes);
    const auto wanted = static_cast<std::uint32_t>(std::min<std::uint64_t>(extents, limit));
    Placement linear = placement;
    linear.stripes = 1;
    if (LogicalVolume* spare = find_spare(group)) {
        const std::uint64_t present = spare->extent_count();
        if (present >= wanted)
            return {};
        return extend_striped(group, *spare, static_cast<std::uint32_t>(wanted - present), linear);
    }
    LogicalVolume spare = make_volume(free_numbered_name(group, "lvol") + "_pmspare", created, false);
    spare.segments = TRY(allocate(group, linear, 0, wanted));
    group.logical_volumes.push_back(std::move(spare));
    return {};
}

std::uint32_t largest_metadata(const VolumeGroup& group) {
    std::uint64_t largest = 0;
    for (const LogicalVolume& volume : group.logical_volumes)
        if (const ThinPool* pool = volume.sole<ThinPool>())
            if (const LogicalVolume* metadata = group.logical_volume(pool->metadata_volume))
                largest = std::max(largest, metadata->extent_count());
    return static_cast<std::uint32_t>(largest);
}

// --- Parts of a pool

// NAME_tmeta and NAME_tdata are free, or `besides`, and no longer than the device mapper takes them.
Result<void> check_part_names(const VolumeGroup& group, const std::string& name, std::string_view besides) {
    const std::string metadata = name + "_tmeta", data = name + "_tdata";
    for (const std::string* part : {&metadata, &data})
        if (*part != besides && group.logical_volume(*part))
            return fail(ErrorKind::exists, "group {} has a volume {} already", group.name, *part);
    return check_pool_name(group.name, name);
}

// The chunk size asked for, or the one that LVM chooses, in sectors.
Result<std::uint32_t> chunk_of(const VolumeGroup& group, const std::string& name, std::uint32_t asked, std::uint32_t data_extents) {
    const std::uint64_t data_bytes = data_extents * group.extent_bytes();
    const std::uint32_t chunk_sectors = asked ? asked : default_chunk_sectors(data_bytes);
    const std::uint64_t chunk_bytes = chunk_sectors * sector_bytes;
    if (chunk_bytes < min_chunk_bytes || chunk_bytes > max_chunk_bytes || chunk_bytes % min_chunk_bytes != 0)
        return fail(ErrorKind::usage, "a chunk size of {} bytes; a multiple of {} up to {} is needed", chunk_bytes, min_chunk_bytes,
                    max_chunk_bytes);
    if (data_bytes < chunk_bytes)
        return fail(ErrorKind::usage, "thin pool {}: {} bytes of data hold no chunk of {}", name, data_bytes, chunk_bytes);
    if (data_bytes / chunk_bytes > max_metadata_bytes / bytes_per_chunk)
        return fail(ErrorKind::usage, "thin pool {}: {} chunks are more than metadata can describe; choose larger ones", name,
                    data_bytes / chunk_bytes);
    return chunk_sectors;
}

// In extents. `asked` 0: as LVM reckons it.
std::uint32_t metadata_for(const VolumeGroup& group, std::uint32_t asked, std::uint32_t data_extents, std::uint32_t chunk_sectors) {
    const std::uint64_t least = group.extents_for(min_metadata_bytes), most = group.extents_for(max_metadata_bytes);
    const std::uint64_t wanted =
        asked ? asked : group.extents_for(default_metadata_bytes(data_extents * group.extent_bytes(), chunk_sectors));
    return static_cast<std::uint32_t>(std::clamp(wanted, least, most));
}

// Whether the pool is to see only a part of it; absent where that is the question of larger metadata only.
std::optional<bool> crops(const VolumeGroup& group, const LogicalVolume& metadata) {
    return metadata.extent_count() * group.extent_bytes() > crop_metadata_bytes ? std::optional(false) : std::nullopt;
}

Segment pool_segment(const VolumeGroup& group, const LogicalVolume& metadata, const LogicalVolume& data, std::uint32_t chunk_sectors) {
    ThinPool body;
    body.metadata_volume = metadata.name;
    body.data_volume = data.name;
    body.chunk_sectors = chunk_sectors;
    body.crop_metadata = crops(group, metadata);
    return whole_segment("thin-pool", static_cast<std::uint32_t>(data.extent_count()), std::move(body));
}

// A volume that can become a part of a pool.
Result<LogicalVolume*> find_part(VolumeGroup& group, std::string_view name) {
    LogicalVolume* volume = TRY(find(group, name));
    if (!volume->visible())
        return fail(ErrorKind::refused, "{}/{} is a hidden part of something else", group.name, name);
    TRY(check_not_used(group, *volume));
    if (volume->segments.empty() || !std::ranges::all_of(volume->segments, [](const Segment& one) { return one.as<Striped>() != nullptr; }))
        return fail(ErrorKind::unsupported, "{}/{}: only a linear or striped volume becomes a part of a pool", group.name, name);
    if (!volume->writable())
        return fail(ErrorKind::refused, "{}/{} is read-only", group.name, name);
    return volume;
}

void become_part(LogicalVolume& volume, std::string name) {
    volume.name = std::move(name);
    std::erase(volume.status, "VISIBLE");
}

Result<void> check_metadata_size(const VolumeGroup& group, const LogicalVolume& volume) {
    if (volume.extent_count() * group.extent_bytes() < min_metadata_bytes)
        return fail(ErrorKind::usage, "{}/{} is too small for a pool's metadata: at least {} bytes are needed", group.name, volume.name,
                    min_metadata_bytes);
    return {};
}

}  // namespace

// --- The spare --------------------------------------------------------------------------------------------------------------

LogicalVolume* find_spare(VolumeGroup& group) {
    const auto found =
        std::ranges::find_if(group.logical_volumes, [](const LogicalVolume& volume) { return volume.name.ends_with("_pmspare"); });
    return found == group.logical_volumes.end() ? nullptr : &*found;
}

Result<void> make_spare(VolumeGroup& group, const Stamp& created) {
    const std::uint32_t extents = largest_metadata(group);
    if (extents == 0)
        return fail(ErrorKind::usage, "group {} has no thin pool that could need a spare", group.name);
    VolumeGroup changed = group;
    TRY_WITHIN("spare metadata", grow_spare(changed, extents, created, Placement{}));
    group = std::move(changed);
    return {};
}

const LogicalVolume* spare_metadata(const VolumeGroup& group) { return find_spare(const_cast<VolumeGroup&>(group)); }

// --- Pools ------------------------------------------------------------------------------------------------------------------

std::uint32_t default_chunk_sectors(std::uint64_t data_bytes) {
    constexpr std::uint64_t optimal_metadata_bytes = 128u << 20;
    std::uint64_t chunk = min_chunk_bytes;
    while (data_bytes / chunk * bytes_per_chunk > optimal_metadata_bytes && chunk < max_chunk_bytes)
        chunk *= 2;
    return static_cast<std::uint32_t>(chunk / sector_bytes);
}

std::uint64_t default_metadata_bytes(std::uint64_t data_bytes, std::uint32_t chunk_sectors) {
    const std::uint64_t chunk = std::max<std::uint64_t>(1, chunk_sectors) * sector_bytes;
    return std::clamp(data_bytes / chunk * bytes_per_chunk, min_metadata_bytes, max_metadata_bytes);
}

Result<void> create_thin_pool(VolumeGroup& group, const NewThinPool& request) {
    TRY(check_new(group, request.volume));
    const std::string& name = request.volume.name;
    TRY(check_part_names(group, name, {}));
    const std::uint32_t data_extents = TRY(round_up(request.data_extents, request.data.stripes));
    const std::uint32_t chunk_sectors = TRY(chunk_of(group, name, request.chunk_sectors, data_extents));
    const std::uint32_t metadata_extents = metadata_for(group, request.metadata_extents, data_extents, chunk_sectors);

    VolumeGroup changed = group;
    const Stamp& created = request.volume.created;
    Placement beside = request.data;
    if (!request.metadata_physical_volumes.empty())
        beside.physical_volumes = request.metadata_physical_volumes;
    if (request.spare)
        TRY_WITHIN("spare metadata", grow_spare(changed, metadata_extents, created, beside));

    LogicalVolume pool = make_volume(request.volume);
    LogicalVolume metadata = make_volume(name + "_tmeta", created, false);
    LogicalVolume data = make_volume(name + "_tdata", created, false);
    if (request.metadata_physical_volumes.empty()) {
        PoolSegments segments = TRY(allocate_pool(changed, request.data, data_extents, metadata_extents));
        metadata.segments = {std::move(segments.metadata)};
        data.segments = std::move(segments.data);
    } else {
        Placement linear;
        linear.physical_volumes = request.metadata_physical_volumes;
        metadata.segments = TRY_WITHIN("metadata", allocate(changed, linear, 0, metadata_extents));
        VolumeGroup with_metadata = changed;
        with_metadata.logical_volumes.push_back(metadata);
        data.segments = TRY_WITHIN("data", allocate(with_metadata, request.data, 0, data_extents));
    }
    pool.segments.push_back(pool_segment(group, metadata, data, chunk_sectors));
    changed.logical_volumes.push_back(std::move(pool));
    changed.logical_volumes.push_back(std::move(metadata));
    changed.logical_volumes.push_back(std::move(data));
    TRY(set_pool_options(changed, name, request.discards, request.zero_new_blocks, request.error_when_full));
    group = std::move(changed);
    return {};
}

Result<void> convert_to_pool(VolumeGroup& group, const PoolConversion& request) {
    VolumeGroup changed = group;
    const std::string& name = request.data;
    if (request.metadata == name)
        return fail(ErrorKind::usage, "{}/{} can't be both data and metadata of a pool", group.name, name);
    LogicalVolume* volume = TRY(find_part(changed, name));
    TRY(check_part_names(group, name, request.metadata));
    const auto data_extents = static_cast<std::uint32_t>(volume->extent_count());
    const std::uint32_t chunk_sectors = TRY(chunk_of(group, name, request.chunk_sectors, data_extents));

    become_part(*volume, name + "_tdata");
    LogicalVolume metadata;
    std::uint32_t metadata_extents = metadata_for(group, request.metadata_extents, data_extents, chunk_sectors);
    if (request.metadata.empty()) {
        metadata = make_volume(name + "_tmeta", request.created, false);
        metadata.segments = TRY_WITHIN("metadata", allocate(changed, Placement{}, 0, metadata_extents));
    } else {
        metadata = *TRY(find_part(changed, request.metadata));
        TRY(check_metadata_size(group, metadata));
        metadata_extents = static_cast<std::uint32_t>(metadata.extent_count());
        erase_volume(changed, request.metadata);
        become_part(metadata, name + "_tmeta");
    }
    LogicalVolume pool = make_volume(name, request.created, true);
    pool.segments.push_back(pool_segment(group, metadata, *changed.logical_volume(name + "_tdata"), chunk_sectors));
    changed.logical_volumes.push_back(std::move(pool));
    changed.logical_volumes.push_back(std::move(metadata));
    TRY(set_pool_options(changed, name, request.discards, request.zero_new_blocks, request.error_when_full));
    TRY_WITHIN("spare metadata", grow_spare(changed, metadata_extents, request.created, Placement{}));
    group = std::move(changed);
    return {};
}

Result<void> swap_metadata(VolumeGroup& group, std::string_view pool_name, std::string_view volume_name) {
    VolumeGroup changed = group;
    ThinPool& pool = *TRY(find_pool(changed, pool_name))->sole<ThinPool>();
    if (!pool.messages.empty())
        return fail(ErrorKind::refused, "thin pool {}/{} has messages queued", group.name, pool_name);
    LogicalVolume* next = TRY(find_part(changed, volume_name));
    TRY(check_metadata_size(group, *next));
    LogicalVolume* present = TRY(find(changed, pool.metadata_volume));
    const std::string freed = next->name;
    become_part(*next, pool.metadata_volume);
    present->name = freed;
    present->status.push_back("VISIBLE");
    if (!pool.crop_metadata || !crops(group, *next))
        pool.crop_metadata = crops(group, *next);
    group = std::move(changed);
    return {};
}

Result<void> extend_metadata(VolumeGroup& group, std::string_view name, std::uint32_t extents, const Placement& placement) {
    VolumeGroup changed = group;
    LogicalVolume* volume = TRY(find_pool(changed, name));
    const std::string metadata_name = volume->sole<ThinPool>()->metadata_volume;
    LogicalVolume* metadata = TRY(find(changed, metadata_name));
    const std::uint64_t most = group.extents_for(max_metadata_bytes);
    const std::uint64_t present = metadata->extent_count();
    if (present + extents > most)
        return fail(ErrorKind::usage, "thin pool {}/{}: {} extents of metadata; {} are the most that it can use", group.name, name,
                    present + extents, most);
    TRY(extend_striped(changed, *metadata, extents, placement));
    // As LVM has it: the pool's own need goes first, and what the physical volumes are named for.
    if (placement.physical_volumes.empty() && find_spare(changed))
        if (const Result<void> grown = grow_spare(changed, largest_metadata(changed), {}, Placement{});
            !grown && grown.error().kind() != ErrorKind::no_space)
            return std::unexpected(grown.error());
    group = std::move(changed);
    return {};
}

}  // namespace lamella::lvm2
