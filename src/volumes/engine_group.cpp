// SPDX-License-Identifier: Apache-2.0
#include "volumes/engine_group.h"

#include <unistd.h>
#include <algorithm>
#include <cstdlib>
#include <system_error>

#include "base/files.h"
#include "device/file_device.h"
#include "device/memory_device.h"
#include "device/trial_device.h"
#include "lvm2/allocation.h"
#include "volumes/engine_state.h"
#include "volumes/size_request.h"
#include "volumes/snapshot_state.h"

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
    return lvm2::extend_volume(group, name, more, placement);
}

std::string default_group_name(const std::string& path) {
    const std::string file = std::filesystem::path(path).filename().string();
    return file.substr(0, file.find('.'));
}

}  // namespace

// --- Opening and making ---------------------------------------------------------------------------------------------------

namespace {

lvm2::StoreOptions store_options(bool writable, const std::filesystem::path& archive, const std::string& system_id = {}) {
    lvm2::StoreOptions options;
    options.writable = writable;
    options.system_id = system_id;
    options.archive_directory = archive.empty() && !state_directory().empty() ? state_directory() / "archive" : archive;
    return options;
}

std::vector<BlockDevice*> pointers(const std::vector<std::unique_ptr<BlockDevice>>& devices) {
    std::vector<BlockDevice*> borrowed;
    for (const auto& device : devices)
        borrowed.push_back(device.get());
    return borrowed;
}

// For a trial: what opening the file for writing, or making it, would fail with.
Result<void> check_permission(const std::string& path, bool there) {
    const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
    const std::string& needed = there ? path : folder.native();
    if (::access(needed.c_str(), W_OK) != 0)
        return fail(ErrorKind::refused, "{}: {}", needed, std::generic_category().message(errno));
    return {};
}

}  // namespace

Result<GroupInfo> EngineGroup::create(const CreateGroup& request, ChangeOptions options) {
    if (request.paths.empty())
        return fail(ErrorKind::usage, "no physical volume named");
    const std::string name = request.name.empty() ? default_group_name(request.paths[0]) : request.name;
    TRY(lvm2::check_group_name(name));
    if (request.extent_size % sector_bytes != 0 || request.extent_size / sector_bytes > UINT32_MAX)
        return fail(ErrorKind::usage, "extent size {} is not a number of sectors", request.extent_size);

    std::vector<std::string> made;
    const auto undo = [&] {
        for (const std::string& path : made)
            std::filesystem::remove(path);
    };
    const auto make = [&]() -> Result<GroupInfo> {
        std::vector<std::unique_ptr<BlockDevice>> lower;  // of trials
        std::vector<std::unique_ptr<BlockDevice>> devices;
        for (const std::string& path : request.paths) {
            std::error_code error;
            const bool there = std::filesystem::exists(path, error);
            if (!there && !request.size)
                return fail(ErrorKind::usage, "{} isn't there, and no size is given to make it", path);
            FileOptions file_options;
            file_options.read_only = options.dry_run;
            if (!there)
                file_options.create = *request.size;
            if (options.dry_run) {
                TRY(check_permission(path, there));
                if (there) {
                    lower.push_back(TRY(FileDevice::open(path, file_options)));
                    devices.push_back(std::make_unique<TrialDevice>(*lower.back()));
                } else {
                    devices.push_back(std::make_unique<MemoryDevice>(*request.size, path));
                }
                continue;
            }
            auto file = FileDevice::open(path, file_options);
            if (!file)
                return std::unexpected(file.error());
            if (file_options.create)
                made.push_back(path);
            devices.push_back(std::move(*file));
        }
        lvm2::NewGroup group;
        group.name = name;
        group.tags = request.tags;
        group.extent_sectors = static_cast<std::uint32_t>(request.extent_size / sector_bytes);
        group.overwrite = request.overwrite;
        for (const auto& device : devices)
            group.physical_volumes.push_back({device.get(), request.metadata_areas});
        lvm2::GroupStore store = TRY(lvm2::GroupStore::create(group, store_options(true, {})));
        EngineOptions engine_options;
        EngineGroup opened(std::make_unique<State>(engine_options, std::move(devices), std::move(store)));
        if (request.pool)
            TRY(opened.create_pool(*request.pool, {}));
        GroupInfo info = TRY(opened.info());
        TRY(opened.close());
        return info;
    };
    auto info = make();
    if (!info)
        undo();
    return info;
}

Result<std::unique_ptr<EngineGroup>> EngineGroup::open(const std::vector<std::string>& paths, const EngineOptions& options) {
    std::vector<std::unique_ptr<BlockDevice>> devices;
    FileOptions file_options;
    file_options.read_only = options.read_only;
    file_options.claim_read_only = options.claim_read_only;
    for (const std::string& path : paths)
        devices.push_back(TRY(FileDevice::open(path, file_options)));
    return open(std::move(devices), options);
}

Result<std::unique_ptr<EngineGroup>> EngineGroup::open(std::vector<std::unique_ptr<BlockDevice>> devices, const EngineOptions& options) {
    lvm2::GroupStore store =
        TRY(lvm2::GroupStore::open(pointers(devices), store_options(!options.read_only, options.archive_directory, options.system_id)));
    std::unique_ptr<EngineGroup> group(new EngineGroup(std::make_unique<State>(options, std::move(devices), std::move(store))));
    if (!options.read_only)
        // A pool that can't be brought in line is a finding: the others, and thick volumes, are none the worse for it.
        if (auto recovery = group->state_->recover_pools(); !recovery)
            group->state_->findings.push_back(recovery.error().message());
    return group;
}

EngineGroup::EngineGroup(std::unique_ptr<State> state) : state_(std::move(state)) {}

EngineGroup::~EngineGroup() {
    if (state_ != nullptr)
        (void)close();
}

Result<void> EngineGroup::close() {
    state_->stop_looking_after();
    std::lock_guard lock(state_->mutex);
    return state_->close_all();
}

void EngineGroup::look_after_snapshots() {
    std::lock_guard lock(state_->mutex);
    state_->look_after_snapshots();
}

Result<void> EngineGroup::commit() {
    std::lock_guard lock(state_->mutex);
    for (const lvm2::LogicalVolume& volume : state_->group().logical_volumes)
        if (volume.sole<lvm2::ThinPool>() != nullptr && state_->pool_is_open(volume))
            TRY(TRY(state_->pool(volume.name))->commit());
    for (const auto& device : state_->devices)
        TRY(flush_now(*device));
    return {};
}

// --- What there is --------------------------------------------------------------------------------------------------------

Result<GroupInfo> EngineGroup::info() {
    std::lock_guard lock(state_->mutex);
    const lvm2::VolumeGroup& group = state_->group();
    GroupInfo info;
    info.name = group.name;
    info.id = group.id.dashed();
    info.sequence_number = group.seqno;
    info.extent_size = group.extent_bytes();
    info.system_id = group.system_id;
    info.lock_type = group.lock_type;
    info.tags = group.tags;
    for (const lvm2::PhysicalVolume& physical : group.physical_volumes) {
        PhysicalVolumeInfo one;
        one.name = physical.name;
        one.id = physical.id.dashed();
        BlockDevice* device = state_->store.device(physical.name);
        one.device = device != nullptr ? device->name() : physical.device_hint;
        one.missing = device == nullptr;
        one.device_hint = physical.device_hint;
        one.extents = physical.extent_count;
        one.size = physical.extent_count * info.extent_size;
        std::uint64_t free = 0;
        for (const lvm2::ExtentRun& run : lvm2::free_runs(group, physical.name))
            free += run.count;
        one.allocated = one.size - free * info.extent_size;
        one.tags = physical.tags;
        info.size += one.size;
        info.free += free * info.extent_size;
        info.physical_volumes.push_back(std::move(one));
    }
    info.findings = state_->findings;
    info.recovered = state_->recovered;
    info.writable = !state_->options.read_only;
    info.capabilities = {Capability::external_origins, Capability::origin_files, Capability::sets_in_use, Capability::smaller_pools,
                         Capability::trim};
    return info;
}

Result<std::vector<VolumeInfo>> EngineGroup::volumes() {
    std::lock_guard lock(state_->mutex);
    const lvm2::VolumeGroup& group = state_->group();
    std::map<std::string, Result<State::PoolView>, std::less<>> views;
    for (const lvm2::LogicalVolume& volume : group.logical_volumes)
        if (volume.sole<lvm2::ThinPool>() != nullptr)
            views.emplace(volume.name, state_->view_pool(volume, true));
    std::vector<VolumeInfo> all;
    all.reserve(group.logical_volumes.size());
    for (const lvm2::LogicalVolume& volume : group.logical_volumes) {
        const auto* thin = volume.sole<lvm2::Thin>();
        const auto view = views.find(thin != nullptr ? thin->pool : volume.name);
        const bool known = view != views.end() && view->second;
        all.push_back(state_->describe(group, volume, known ? &*view->second : nullptr));
        if (view != views.end() && !view->second)
            all.back().refused = view->second.error().message();
    }
    return all;
}

Result<VolumeInfo> EngineGroup::volume(const std::string& name) {
    std::lock_guard lock(state_->mutex);
    return state_->describe(name);
}

Result<std::string> EngineGroup::backup_text() {
    std::lock_guard lock(state_->mutex);
    return state_->store.backup("lamella group backup");
}

// --- Changes --------------------------------------------------------------------------------------------------------------

Result<VolumeInfo> EngineGroup::create_pool(const CreatePool& request, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable());
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
    TRY(state_->writable());
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

Result<std::vector<VolumeInfo>> EngineGroup::create_snapshots(const std::vector<CreateSnapshot>& requests, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable());
    if (requests.empty())
        return fail(ErrorKind::usage, "no origin named");
    std::size_t classic = 0;
    for (const CreateSnapshot& request : requests)
        classic += request.classic || TRY(state_->find(request.origin))->sole<lvm2::Thin>() == nullptr ? 1 : 0;
    if (classic == requests.size())
        return state_->create_classic_snapshots(requests, options.dry_run);
    if (classic > 0)
        return fail(ErrorKind::unsupported, "thin and classic snapshots are not taken in one go");
    lvm2::VolumeGroup next = state_->group();
    std::vector<std::string> pools;
    std::vector<std::string> names;
    for (const CreateSnapshot& request : requests) {
        const lvm2::LogicalVolume* origin = TRY(state_->find(request.origin));
        const auto* thin = origin->sole<lvm2::Thin>();
        if (std::find(pools.begin(), pools.end(), thin->pool) == pools.end())
            pools.push_back(thin->pool);
        std::string name = request.name;
        for (unsigned number = 1; name.empty(); ++number) {
            std::string candidate = fmt::format("{}-s{}", request.origin, number);
            if (next.logical_volume(candidate) == nullptr)
                name = std::move(candidate);
        }
        TRY(lvm2::create_thin_snapshot(next, {name, request.tags, request.read_only, state_->stamp()}, request.origin));
        names.push_back(std::move(name));
    }
    std::vector<VolumeInfo> made;
    if (!options.dry_run)
        TRY(state_->change_pools(next, pools, fmt::format("snapshot {}", fmt::join(names, " "))));
    for (const std::string& name : names)
        made.push_back(state_->describe(options.dry_run ? next : state_->group(),
                                        *(options.dry_run ? next : state_->group()).logical_volume(name), nullptr));
    return made;
}

Result<VolumeInfo> EngineGroup::resize(const ResizeVolume& request, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable());
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

Result<VolumeInfo> EngineGroup::rename(const std::string& name, const std::string& new_name, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable());
    TRY(state_->find(name));
    lvm2::VolumeGroup next = state_->group();
    TRY(lvm2::rename_volume(next, name, new_name));
    if (options.dry_run)
        return state_->describe(next, *next.logical_volume(new_name), nullptr);
    TRY(state_->store.commit(std::move(next), fmt::format("rename {} {}", name, new_name)));
    return state_->describe(new_name);
}

Result<VolumeInfo> EngineGroup::change_tags(const std::string& name, const std::vector<std::string>& add,
                                            const std::vector<std::string>& remove, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable());
    TRY(state_->find(name));
    lvm2::VolumeGroup next = state_->group();
    for (const std::string& tag : remove)
        TRY(lvm2::remove_tag(next, name, tag));
    for (const std::string& tag : add)
        TRY(lvm2::add_tag(next, name, tag));
    if (options.dry_run)
        return state_->describe(next, *next.logical_volume(name), nullptr);
    TRY(state_->store.commit(std::move(next), fmt::format("tag {}", name)));
    return state_->describe(name);
}

Result<VolumeInfo> EngineGroup::rollback(const std::string& name, const std::string& snapshot, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable());
    const lvm2::LogicalVolume* volume = TRY(state_->find(name));
    const lvm2::LogicalVolume* source = TRY(state_->find(snapshot));
    if (state_->classic().of_store(snapshot) != nullptr) {
        TRY(state_->merge_classic_snapshot(name, snapshot, options.dry_run));
        return state_->describe(name);
    }
    const auto* thin = source->sole<lvm2::Thin>();
    if (thin == nullptr || volume->sole<lvm2::Thin>() == nullptr)
        return fail(ErrorKind::usage, "{} is not a snapshot of {}", snapshot, name);
    if (thin->origin != name)
        return fail(ErrorKind::usage, "{} is not a snapshot of {}", snapshot, name);
    TRY(state_->refuse_in_use(*volume));
    TRY(state_->refuse_in_use(*source));
    lvm2::VolumeGroup next = state_->group();
    for (lvm2::LogicalVolume& other : next.logical_volumes)
        if (const auto* sibling = other.sole<lvm2::Thin>();
            sibling != nullptr && sibling->origin == name && other.name != snapshot && !has_lineage_tag(other.tags))
            other.tags.push_back(lineage_tag(name));
    TRY(lvm2::merge_thin_snapshot(next, snapshot));
    if (options.dry_run)
        return state_->describe(next, *next.logical_volume(name), nullptr);
    const std::string pool = thin->pool;
    TRY(state_->change_pools(std::move(next), {pool}, fmt::format("rollback {} to {}", name, snapshot), options.progress));
    return state_->describe(name);
}

Result<std::uint64_t> EngineGroup::reserve_metadata_snapshot(const std::string& pool, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable());
    thin::ThinPool* open = TRY(state_->pool(pool));
    if (options.dry_run) {
        if (TRY(open->status()).held_root)
            return fail(ErrorKind::exists, "pool {} holds a metadata snapshot already", pool);
        return 0;
    }
    return TRY_WITHIN(pool, open->reserve_metadata_snapshot()).value();
}

Result<void> EngineGroup::release_metadata_snapshot(const std::string& pool, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable());
    thin::ThinPool* open = TRY(state_->pool(pool));
    if (options.dry_run) {
        if (!TRY(open->status()).held_root)
            return fail(ErrorKind::not_found, "pool {} holds no metadata snapshot", pool);
        return {};
    }
    TRY_WITHIN(pool, open->release_metadata_snapshot());
    return {};
}

Result<std::string> EngineGroup::status_line(const std::string& name) {
    std::lock_guard lock(state_->mutex);
    const lvm2::VolumeGroup& group = state_->group();
    const lvm2::LogicalVolume* volume = TRY(state_->find(name));
    const std::uint64_t sectors = group.size_bytes(*volume) / sector_bytes;
    if (volume->sole<lvm2::ThinPool>() != nullptr)
        return fmt::format("0 {} thin-pool {}", sectors, TRY(TRY(state_->pool(name))->status_line()));
    if (const auto* thin = volume->sole<lvm2::Thin>()) {
        thin::ThinPool* pool = TRY(state_->pool(thin->pool));
        const thin::DeviceDetails details = TRY(pool->details(thin->device_id));
        const auto highest = TRY(pool->highest_mapped_sector(thin->device_id));
        return fmt::format("0 {} thin {} {}", sectors, details.mapped_blocks * pool->data_block_sectors(),
                           highest ? fmt::to_string(*highest) : "-");
    }
    if (state_->classic().of_store(name) != nullptr) {
        const cow::SnapshotStatus status = TRY(state_->snapshot_status(*volume));
        return fmt::format("0 {} {} {}", state_->served_size(*volume) / sector_bytes, status.merging ? "snapshot-merge" : "snapshot",
                           status.line());
    }
    if (state_->classic().of_origin(name) != nullptr)
        return fmt::format("0 {} snapshot-origin ", sectors);
    if (lvm2::is_error_volume(*volume))
        return fmt::format("0 {} error ", sectors);
    const auto* striped = volume->segments.empty() ? nullptr : volume->segments[0].as<lvm2::Striped>();
    if (striped == nullptr)
        return fail(ErrorKind::unsupported, "{}: {}", name, state_->why_refused(*volume));
    return fmt::format("0 {} {}", sectors, striped->areas.size() > 1 ? "striped" : "linear");
}

Result<std::string> EngineGroup::table_line(const std::string& name) {
    std::lock_guard lock(state_->mutex);
    const lvm2::VolumeGroup& group = state_->group();
    const lvm2::LogicalVolume* volume = TRY(state_->find(name));
    const std::uint64_t sectors = group.size_bytes(*volume) / sector_bytes;
    if (const auto* pool = volume->sole<lvm2::ThinPool>())
        return fmt::format(
            "0 {} thin-pool {}", sectors,
            TRY(state_->pool(name))
                ->table_line(lvm2::dm_name(group.name, pool->metadata_volume), lvm2::dm_name(group.name, pool->data_volume)));
    if (const auto* thin = volume->sole<lvm2::Thin>()) {
        std::string line = fmt::format("0 {} thin {} {}", sectors, lvm2::dm_name(group.name, thin->pool, "tpool"), thin->device_id);
        if (!thin->external_origin.empty())
            line += " " + lvm2::dm_name(group.name, thin->external_origin);
        return line;
    }
    if (const lvm2::ClassicSnapshot* snapshot = state_->classic().of_store(name))
        return fmt::format("0 {} {} {} {} P {}", state_->served_size(*volume) / sector_bytes,
                           snapshot->merging ? "snapshot-merge" : "snapshot", lvm2::dm_name(group.name, snapshot->origin, "real"),
                           lvm2::dm_name(group.name, name, "cow"), snapshot->chunk_sectors);
    if (state_->classic().of_origin(name) != nullptr)
        return fmt::format("0 {} snapshot-origin {}", sectors, lvm2::dm_name(group.name, name, "real"));
    if (lvm2::is_error_volume(*volume))
        return fmt::format("0 {} error ", sectors);
    std::string lines;
    for (const lvm2::Segment& segment : volume->segments) {
        const auto* striped = segment.as<lvm2::Striped>();
        if (striped == nullptr)
            return fail(ErrorKind::unsupported, "{}: {}", name, state_->why_refused(*volume));
        if (!lines.empty())
            lines += '\n';
        lines += fmt::format("{} {} ", std::uint64_t{segment.start_extent} * group.extent_sectors,
                             std::uint64_t{segment.extent_count} * group.extent_sectors);
        lines += striped->areas.size() > 1 ? fmt::format("striped {} {}", striped->areas.size(), striped->stripe_sectors) : "linear";
        for (const lvm2::Area& area : striped->areas) {
            const lvm2::PhysicalVolume* physical = group.physical_volume(area.name);
            BlockDevice* device = state_->store.device(area.name);
            lines += fmt::format(" {} {}", device != nullptr ? device->name() : area.name,
                                 physical != nullptr ? group.extent_offset(*physical, area.first_extent) / sector_bytes : 0);
        }
    }
    return lines;
}

Result<void> EngineGroup::send_message(const std::string& pool, const std::string& message) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable());
    TRY_WITHIN(pool, TRY(state_->pool(pool))->message(message));
    return {};
}

Result<void> EngineGroup::restore_text(const std::string& text, bool force, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable());
    const lvm2::ParsedGroup parsed = TRY_WITHIN("the backup", lvm2::check_backup(text));
    if (!parsed.findings.empty())
        return fail(ErrorKind::damaged, "the backup is not sound: {}", lvm2::to_string(parsed.findings[0]));
    const lvm2::VolumeGroup& group = state_->group();
    if (parsed.group.id != group.id)
        return fail(ErrorKind::refused, "the backup is of group {} ({}), this is {} ({})", parsed.group.name, parsed.group.id.dashed(),
                    group.name, group.id.dashed());
    for (const lvm2::LogicalVolume& volume : group.logical_volumes) {
        TRY(state_->refuse_in_use(volume));
        if (const auto* snapshot = volume.sole<lvm2::ClassicSnapshot>(); snapshot != nullptr && snapshot->merging)
            return fail(ErrorKind::refused, "{} is being merged into {}", snapshot->store, snapshot->origin);
    }
    // As vgcfgrestore: a pool's own metadata isn't in the backup, and may have gone on since.
    for (const lvm2::LogicalVolume& volume : parsed.group.logical_volumes)
        if (volume.sole<lvm2::ThinPool>() != nullptr && !force)
            return fail(ErrorKind::refused, "the backup has thin pool {}, whose own metadata it doesn't hold: restore with force",
                        volume.name);
    if (options.dry_run)
        return {};
    TRY(state_->close_all());
    state_->forget_classic();
    state_->store = TRY(lvm2::GroupStore::restore(text, pointers(state_->devices), lvm2::GroupStore::RestoreTo::labelled,
                                                  store_options(true, state_->options.archive_directory)));
    return {};
}

// --- Exports --------------------------------------------------------------------------------------------------------------

namespace {

class GroupExport final : public Export {
  public:
    GroupExport(EngineGroup::State& state, LvmId id, std::shared_ptr<EngineGroup::State::OpenVolume> volume, bool read_only,
                std::string description)
        : state_(state), id_(id), volume_(std::move(volume)), read_only_(read_only), description_(std::move(description)) {}
    ~GroupExport() override {
        std::lock_guard lock(state_.mutex);
        volume_.reset();
        state_.drop_volume(id_);
    }
    BlockDevice& device() override { return *volume_->device; }
    bool read_only() const override { return read_only_; }
    std::string description() const override { return description_; }
    std::uint32_t preferred_block_size() const override {
        return static_cast<std::uint32_t>(std::min<std::uint64_t>(volume_->device->traits().preferred_io, 32 << 20));
    }

  private:
    EngineGroup::State& state_;
    LvmId id_;
    std::shared_ptr<EngineGroup::State::OpenVolume> volume_;
    bool read_only_;
    std::string description_;
};

class GroupExports final : public ExportSource {
  public:
    GroupExports(EngineGroup::State& state, std::vector<std::string> only) : state_(state), only_(std::move(only)) {}

    std::vector<ExportInfo> list() override {
        std::lock_guard lock(state_.mutex);
        std::vector<ExportInfo> all;
        for (const lvm2::LogicalVolume& volume : state_.group().logical_volumes)
            if (offered(volume))
                all.push_back({volume.name, describe(volume), state_.served_size(volume)});
        return all;
    }

    Result<std::unique_ptr<Export>> open(std::string_view name, bool read_only) override {
        std::lock_guard lock(state_.mutex);
        const lvm2::LogicalVolume* volume = TRY(state_.find(name));
        if (!offered(*volume)) {
            const std::string reason = state_.why_refused(*volume);
            if (state_.shown(*volume) && !reason.empty())
                return fail(ErrorKind::unsupported, "{}: {}", name, reason);
            return fail(ErrorKind::not_found, "{} is not exported", name);
        }
        auto opened = TRY(state_.open_volume(*volume));
        const bool writes_refused = read_only || state_.options.read_only || !volume->writable();
        return std::make_unique<GroupExport>(state_, volume->id, std::move(opened), writes_refused, describe(*volume));
    }

  private:
    bool offered(const lvm2::LogicalVolume& volume) const {
        if (!state_.shown(volume) || OriginFile::of(volume) || !state_.why_refused(volume).empty())
            return false;
        return only_.empty() || std::find(only_.begin(), only_.end(), volume.name) != only_.end();
    }
    std::string describe(const lvm2::LogicalVolume& volume) const {
        if (const lvm2::ClassicSnapshot* snapshot = state_.classic().of_store(volume.name))
            return fmt::format("classic snapshot of {} in group {}", snapshot->origin, state_.group().name);
        const auto* thin = volume.sole<lvm2::Thin>();
        if (thin == nullptr)
            return fmt::format("{} volume of group {}",
                               volume.segments.empty() || volume.segments[0].as<lvm2::Striped>()->areas.size() < 2 ? "linear" : "striped",
                               state_.group().name);
        if (!thin->origin.empty())
            return fmt::format("thin snapshot of {} in pool {} of group {}", thin->origin, thin->pool, state_.group().name);
        return fmt::format("thin volume in pool {} of group {}", thin->pool, state_.group().name);
    }

    EngineGroup::State& state_;
    std::vector<std::string> only_;
};

}  // namespace

std::unique_ptr<ExportSource> EngineGroup::exports(std::vector<std::string> only) {
    if (!state_->options.read_only) {
        std::lock_guard lock(state_->mutex);
        state_->resume_merges();
    }
    return std::make_unique<GroupExports>(*state_, std::move(only));
}

}  // namespace lamella
