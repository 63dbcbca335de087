// SPDX-License-Identifier: Apache-2.0
#include "volumes/engine_group.h"

#include <unistd.h>
#include <algorithm>
#include <system_error>

#include "base/files.h"
#include "device/file_device.h"
#include "device/memory_device.h"
#include "device/trial_device.h"
#include "lvm2/allocation.h"
#include "volumes/engine_state.h"
#include "volumes/pool_message.h"
#include "volumes/snapshot_state.h"
#include "volumes/unfinished.h"

namespace lamella {

// --- Opening and making ---------------------------------------------------------------------------------------------------

namespace {

std::string default_group_name(const std::string& path) {
    const std::string file = std::filesystem::path(path).filename().string();
    return file.substr(0, file.find('.'));
}

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
    lvm2::StoreOptions of_store = store_options(!options.read_only, options.archive_directory, options.system_id);
    of_store.lvm_locks = options.lvm_locks;
    lvm2::GroupStore store = TRY(lvm2::GroupStore::open(pointers(devices), of_store));
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
    info.lock_type = group.shared() ? group.lock_type : "";
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
    // Left by a change through the host's LVM, whose end only that can bring about.
    for (const std::string& tag : group.tags)
        if (tag.starts_with(unfinished::prefix))
            info.broken_off.push_back({"", tag});
    for (const lvm2::LogicalVolume& volume : group.logical_volumes)
        if (const std::string tag = unfinished::tag_of(volume.tags); !tag.empty())
            info.broken_off.push_back({volume.name, tag});
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

Result<std::vector<VolumeInfo>> EngineGroup::create_snapshots(const std::vector<CreateSnapshot>& requests, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
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
        if (std::find(pools.begin(), pools.end(), thin->pool) == pools.end()) {
            TRY(state_->refuse_full_pool(thin->pool));
            pools.push_back(thin->pool);
        }
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

Result<VolumeInfo> EngineGroup::rename(const std::string& name, const std::string& new_name, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
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
    TRY(state_->writable(options));
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
    TRY(state_->writable(options));
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
    TRY(state_->writable(options));
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
    TRY(state_->writable(options));
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
    const lvm2::ClassicSnapshots& classic = state_->classic();
    if (const lvm2::ClassicSnapshot* merging = classic.merging_into(name)) {
        // A store that can't be read is the store's affair.
        const auto status = state_->snapshot_status(*TRY(state_->find(merging->store)));
        return fmt::format("0 {} snapshot-merge {}", sectors, status ? status->line() : "Unknown");
    }
    if (classic.of_store(name) != nullptr) {
        const cow::SnapshotStatus status = TRY(state_->snapshot_status(*volume));
        return fmt::format("0 {} {} {}", state_->served_size(*volume) / sector_bytes, status.merging ? "snapshot-merge" : "snapshot",
                           status.line());
    }
    if (classic.of_origin(name) != nullptr)
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
    const lvm2::ClassicSnapshots& classic = state_->classic();
    const lvm2::ClassicSnapshot* snapshot = classic.of_store(name);
    if (snapshot == nullptr)
        snapshot = classic.merging_into(name);
    if (snapshot != nullptr)
        return fmt::format("0 {} {} {} {} P {}", state_->served_size(*volume) / sector_bytes,
                           snapshot->merging ? "snapshot-merge" : "snapshot", lvm2::dm_name(group.name, snapshot->origin, "real"),
                           lvm2::dm_name(group.name, snapshot->store, "cow"), snapshot->chunk_sectors);
    if (classic.of_origin(name) != nullptr)
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
    TRY(state_->writable({}));
    auto* target = TRY(state_->pool(pool));
    std::vector<std::uint32_t> known;
    for (const lvm2::LogicalVolume& volume : state_->group().logical_volumes)
        if (const auto* thin = volume.sole<lvm2::Thin>(); thin != nullptr && thin->pool == pool)
            known.push_back(thin->device_id.value());
    // A pool of another transaction than the text's isn't opened.
    TRY(refuse_behind_the_text(pool, message, known, true));
    TRY_WITHIN(pool, target->message(message));
    return {};
}

Result<void> EngineGroup::restore_text(const std::string& text, bool force, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
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
    TRY(state_->store.hold_lock());  // and given back: a command of LVM's that is at it shows before anything is closed
    TRY(state_->close_all());
    state_->forget_classic();
    lvm2::StoreOptions of_store = store_options(true, state_->options.archive_directory, state_->options.system_id);
    of_store.lvm_locks = state_->options.lvm_locks;
    state_->store = TRY(lvm2::GroupStore::restore(text, pointers(state_->devices), lvm2::GroupStore::RestoreTo::labelled, of_store));
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
