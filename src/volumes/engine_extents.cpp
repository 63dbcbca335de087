// SPDX-License-Identifier: Apache-2.0
//
// What takes extents of a group: its pools and volumes, made and resized.
#include <algorithm>

#include "volumes/engine_group.h"
#include "volumes/engine_state.h"
#include "volumes/size_request.h"

namespace lamella {

namespace {

constexpr std::uint64_t wiped_bytes = 4096;  // at the start of a new thick volume, as LVM wipes it

bool is_part_of_group(const SizeRequest& request) {
    return request.base == SizeRequest::Base::percent_of_group || request.base == SizeRequest::Base::percent_of_free ||
           request.base == SizeRequest::Base::percent_of_physical_volumes;
}

// attempt(extents) with the extents that are wanted. A part of the group is an upper limit, as LVM takes it: where there is no room for
// all of it in the shape that is asked for, with the most above `least` that there is room for, `step` extents at a time.
template <typename Attempt>
Result<lvm2::VolumeGroup> as_much_as_fits(const SizeRequest& request, std::uint32_t least, std::uint32_t wanted, std::uint32_t step,
                                          Attempt attempt) {
    Result<lvm2::VolumeGroup> best = attempt(wanted);
    if (best || best.error().kind() != ErrorKind::no_space || !is_part_of_group(request))
        return best;
    std::uint32_t fits = 0;
    std::uint32_t fails = (wanted - least + step - 1) / step;
    while (fails - fits > 1) {
        const std::uint32_t middle = fits + (fails - fits) / 2;
        Result<lvm2::VolumeGroup> made = attempt(least + middle * step);
        if (!made && made.error().kind() != ErrorKind::no_space)
            return made;
        (made ? fits : fails) = middle;
        if (made)
            best = std::move(made);
    }
    return best;
}

lvm2::Placement placement_of(std::uint32_t stripes, std::uint64_t stripe_size) {
    lvm2::Placement placement;
    placement.stripes = stripes;
    placement.stripe_sectors = static_cast<std::uint32_t>(stripe_size / sector_bytes);
    return placement;
}

// By their names in the group's text, or their paths.
Result<std::vector<std::string>> physical_volumes(const lvm2::VolumeGroup& group, const std::vector<std::string>& words,
                                                  const mapper::FindDevice& find) {
    std::vector<std::string> names;
    for (const std::string& word : words) {
        const auto named = std::ranges::find_if(group.physical_volumes, [&](const lvm2::PhysicalVolume& physical) {
            const BlockDevice* device = find(physical.name);
            return physical.name == word || (device != nullptr && device->name() == word);
        });
        if (named == group.physical_volumes.end())
            return fail(ErrorKind::not_found, "group {} has no physical volume {}", group.name, word);
        names.push_back(named->name);
    }
    return names;
}

// Puts a new pool into the group's model.
Result<void> add_pool(lvm2::VolumeGroup& group, const CreatePool& request, const lvm2::Stamp& stamp, const mapper::FindDevice& find) {
    if (request.autoextend_threshold != 0)
        return fail(ErrorKind::unsupported, "pool {}: LVM's automatic extension is for groups that the host runs", request.name);
    if (request.chunk_size < lvm2::min_chunk_bytes || request.chunk_size > lvm2::max_chunk_bytes ||
        request.chunk_size % lvm2::min_chunk_bytes != 0)
        return fail(ErrorKind::usage, "chunk size {} is not a multiple of 64 KiB between 64 KiB and 1 GiB", request.chunk_size);
    lvm2::NewThinPool pool;
    pool.volume = {request.name, request.tags, false, stamp};
    pool.chunk_sectors = static_cast<std::uint32_t>(request.chunk_size / sector_bytes);
    pool.discards = TRY(parse_discards(request.discards));
    pool.zero_new_blocks = request.zero_new_blocks;
    pool.error_when_full = request.error_when_full;
    pool.data = placement_of(request.stripes, request.stripe_size);
    pool.data.physical_volumes = TRY(physical_volumes(group, request.data_on, find));
    pool.metadata_physical_volumes = TRY(physical_volumes(group, request.metadata_on, find));

    std::uint64_t spare = 0;
    for (const lvm2::LogicalVolume& volume : group.logical_volumes)
        if (volume.name.ends_with("_pmspare"))
            spare = volume.extent_count();
    const auto metadata_extents = [&](std::uint64_t data_extents) {
        return group.extents_for(request.metadata_size
                                     ? *request.metadata_size
                                     : lvm2::default_metadata_bytes(data_extents * group.extent_bytes(), pool.chunk_sectors));
    };
    std::uint64_t data = TRY(resolve_size(group, request.size, 0, false));
    if (request.size.base != SizeRequest::Base::bytes) {
        // A part of the group is meant with everything that the pool needs: metadata and its spare come out of it.
        const std::uint64_t total = data;
        for (int round = 0; round < 8; ++round) {
            const std::uint64_t metadata = metadata_extents(data);
            const std::uint64_t beside = metadata + (metadata > spare ? metadata - spare : 0);
            const std::uint64_t left = total > beside ? total - beside : 0;
            if (left == data)
                break;
            data = left;
        }
        data -= data % std::max<std::uint32_t>(1, request.stripes);
        if (data == 0)
            return fail(ErrorKind::no_space, "group {} has {} extents for the pool, too few for data, metadata and its spare", group.name,
                        total);
    }
    group = TRY(as_much_as_fits(request.size, 0, TRY(checked_extents(data)), std::max<std::uint32_t>(1, request.stripes),
                                [&](std::uint32_t extents) -> Result<lvm2::VolumeGroup> {
                                    lvm2::VolumeGroup changed = group;
                                    pool.data_extents = extents;
                                    pool.metadata_extents = TRY(checked_extents(metadata_extents(extents)));
                                    TRY(lvm2::create_thin_pool(changed, pool));
                                    return changed;
                                }));
    return {};
}

// Makes a pool's data larger, and first its metadata if a new pool of that size would have more, as LVM does.
Result<void> extend_pool(lvm2::VolumeGroup& group, const std::string& name, std::uint32_t more, const lvm2::Placement& placement) {
    const auto& pool = *group.logical_volume(name)->sole<lvm2::ThinPool>();
    const std::uint64_t data_extents = std::uint64_t{group.logical_volume(pool.data_volume)->extent_count()} + more;
    const std::uint64_t have = group.logical_volume(pool.metadata_volume)->extent_count();
    const std::uint64_t wanted = group.extents_for(lvm2::default_metadata_bytes(data_extents * group.extent_bytes(), pool.chunk_sectors));
    if (wanted > have)
        TRY_WITHIN("metadata for the larger pool", lvm2::extend_metadata(group, name, TRY(checked_extents(wanted - have)), {}));
    auto extended = lvm2::extend_volume(group, name, more, placement);
    if (!extended && wanted > have)
        return std::unexpected(extended.error().within(
            fmt::format("the larger pool's metadata takes {} extents more, and the spare grows along", wanted - have)));
    return extended;
}

}  // namespace

Result<VolumeInfo> EngineGroup::create_pool(const CreatePool& request, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
    lvm2::VolumeGroup next = state_->group();
    TRY(add_pool(next, request, state_->stamp(), state_->find_device()));
    if (options.dry_run)
        return state_->describe(next, *next.logical_volume(request.name), nullptr);
    TRY_WITHIN(request.name, state_->format_pool(next, request.name));
    TRY(state_->store.commit(std::move(next), fmt::format("create pool {}", request.name)));
    return state_->describe(request.name);
}

Result<VolumeInfo> EngineGroup::create_volume(const CreateVolume& request, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
    lvm2::VolumeGroup next = state_->group();
    const lvm2::NewVolume volume{request.name, request.tags, request.read_only, state_->stamp()};
    const std::string description = fmt::format("create {}", request.name);
    std::optional<OriginFile> file;
    if (!request.origin_file.empty())
        file = TRY(OriginFile::examine(request.origin_file, state_->image_folder()));
    const bool as_large_as_file = file && request.size.base == SizeRequest::Base::bytes && request.size.value == 0;
    const std::uint32_t extents =
        TRY(checked_extents(as_large_as_file ? next.extents_for(file->size) : TRY(resolve_size(next, request.size, 0, !request.linear))));
    if (request.linear) {
        next = TRY(as_much_as_fits(request.size, 0, extents, std::max<std::uint32_t>(1, request.stripes),
                                   [&](std::uint32_t fewer) -> Result<lvm2::VolumeGroup> {
                                       lvm2::VolumeGroup changed = next;
                                       TRY(lvm2::create_volume(changed, volume, fewer, placement_of(request.stripes, request.stripe_size)));
                                       return changed;
                                   }));
        if (options.dry_run)
            return state_->describe(next, *next.logical_volume(request.name), nullptr);
        auto device = TRY(mapper::VolumeDevice::open(next, *next.logical_volume(request.name), state_->find_device()));
        TRY(write_zeroes_now(*device, 0, wiped_bytes));
        TRY(flush_now(*device));
        TRY(state_->store.commit(std::move(next), description));
        return state_->describe(request.name);
    }

    std::string pool = request.pool;
    if (pool.empty()) {
        for (const lvm2::LogicalVolume& candidate : next.logical_volumes) {
            if (candidate.sole<lvm2::ThinPool>() == nullptr)
                continue;
            if (!pool.empty())
                return fail(ErrorKind::usage, "group {} has several thin pools ({}, {}, ...): name one", next.name, pool, candidate.name);
            pool = candidate.name;
        }
        if (pool.empty())
            return fail(ErrorKind::not_found, "group {} has no thin pool", next.name);
    }
    TRY(lvm2::create_thin(next, volume, pool, extents));
    TRY(state_->refuse_full_pool(pool));
    if (file) {
        const std::string stands_for = TRY(volume_of_origin_file(next, *file, state_->stamp()));
        next.logical_volume(request.name)->sole<lvm2::Thin>()->external_origin = stands_for;
        // For LVM and the kernel, which can't read it.
        TRY(lvm2::set_skip_activation(next, request.name, true));
    } else if (!request.external_origin.empty()) {
        const lvm2::LogicalVolume* origin = TRY(state_->find(request.external_origin));
        if (origin->writable())
            return fail(ErrorKind::refused, "external origin {} is writable: it must not change under {}", request.external_origin,
                        request.name);
        if (const auto* of_same_pool = origin->sole<lvm2::Thin>(); of_same_pool != nullptr && of_same_pool->pool == pool)
            return fail(ErrorKind::usage, "{} is in pool {} itself: take a snapshot of it", request.external_origin, pool);
        if (const std::string reason = state_->why_refused(*origin); !reason.empty())
            return fail(ErrorKind::unsupported, "external origin {}: {}", request.external_origin, reason);
        next.logical_volume(request.name)->sole<lvm2::Thin>()->external_origin = request.external_origin;
    }
    if (options.dry_run)
        return state_->describe(next, *next.logical_volume(request.name), nullptr);
    TRY(state_->change_pools(std::move(next), {pool}, description));
    return state_->describe(request.name);
}

Result<VolumeInfo> EngineGroup::resize(const ResizeVolume& request, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
    const lvm2::LogicalVolume* volume = TRY(state_->find(request.name));
    lvm2::VolumeGroup next = state_->group();
    const std::string description = fmt::format("resize {}", request.name);
    const auto* pool = volume->sole<lvm2::ThinPool>();
    if (request.metadata && pool == nullptr)
        return fail(ErrorKind::usage, "{} is not a thin pool: it has no metadata to resize", request.name);

    if (state_->classic().of_store(request.name) != nullptr)
        return state_->resize_store(request, options.dry_run);
    if (state_->classic().of_origin(request.name) != nullptr)
        TRY(state_->refuse_in_use(*volume));
    const bool is_thin = volume->sole<lvm2::Thin>() != nullptr;
    const lvm2::LogicalVolume* sized = volume;
    if (pool != nullptr)
        sized = TRY(state_->find(request.metadata ? pool->metadata_volume : pool->data_volume));
    const std::uint64_t current = sized->extent_count();
    const std::uint32_t wanted = TRY(checked_extents(TRY(resolve_size(next, request.size, current, is_thin))));
    if (wanted == current)
        return state_->describe(request.name);
    if (wanted < current) {
        if (pool != nullptr && request.metadata)
            return fail(ErrorKind::unsupported, "{}: a thin pool's metadata doesn't become smaller", request.name);
        if (pool != nullptr) {
            if (!request.shrink_allowed)
                return fail(ErrorKind::refused, "{}: a pool becomes smaller only when told to", request.name);
            return state_->shrink_pool(request.name, static_cast<std::uint32_t>(current - wanted), options);
        }
        if (!request.shrink_allowed)
            return fail(ErrorKind::refused, "{}: what lies beyond {} bytes would be lost", request.name, wanted * next.extent_bytes());
        TRY(state_->refuse_in_use(*volume));
    }
    if (is_thin) {
        TRY(lvm2::resize_thin(next, request.name, wanted));
    } else if (wanted < current) {
        TRY(lvm2::reduce_volume(next, request.name, static_cast<std::uint32_t>(current - wanted)));
    } else {
        // New extents take the shape of the last segment.
        lvm2::Placement placement;
        if (!sized->segments.empty())
            if (const auto* last = sized->segments.back().as<lvm2::Striped>()) {
                placement.stripes = static_cast<std::uint32_t>(last->areas.size());
                if (last->stripe_sectors != 0)
                    placement.stripe_sectors = last->stripe_sectors;
            }
        const auto extend = [&](std::uint32_t extents) -> Result<lvm2::VolumeGroup> {
            lvm2::VolumeGroup changed = next;
            const auto more = static_cast<std::uint32_t>(extents - current);
            if (request.metadata)
                TRY(lvm2::extend_metadata(changed, request.name, more, placement));
            else if (pool != nullptr)
                TRY(extend_pool(changed, request.name, more, placement));
            else
                TRY(lvm2::extend_volume(changed, request.name, more, placement));
            return changed;
        };
        next = TRY(as_much_as_fits(request.size, static_cast<std::uint32_t>(current), wanted, std::max<std::uint32_t>(1, placement.stripes),
                                   extend));
    }
    if (options.dry_run)
        return state_->describe(next, *next.logical_volume(request.name), nullptr);
    TRY(state_->store.commit(std::move(next), description));
    if (pool != nullptr)
        TRY(state_->refresh_pool(request.name));
    else
        TRY(state_->refresh_volume(*TRY(state_->find(request.name))));
    return state_->describe(request.name);
}

}  // namespace lamella
