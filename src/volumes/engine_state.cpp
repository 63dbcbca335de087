// SPDX-License-Identifier: Apache-2.0
#include "volumes/engine_state.h"

#include <unistd.h>
#include <utility>

#include "volumes/snapshot_state.h"

namespace lamella {

EngineGroup::State::State(const EngineOptions& its_options, std::vector<std::unique_ptr<BlockDevice>> its_devices,
                          lvm2::GroupStore its_store)
    : options(its_options), devices(std::move(its_devices)), store(std::move(its_store)) {
    recovered = store.notes();
    for (const lvm2::Finding& finding : store.findings())
        findings.push_back(lvm2::to_string(finding));
    for (const lvm2::MissingPhysicalVolume& missing : store.missing())
        findings.push_back(
            fmt::format("physical volume {} ({}, last seen at {}) is missing", missing.name, missing.id.dashed(), missing.device_hint));
}

Result<const lvm2::LogicalVolume*> EngineGroup::State::find(std::string_view name) const {
    if (const lvm2::LogicalVolume* volume = group().logical_volume(name))
        return volume;
    return fail(ErrorKind::not_found, "group {} has no volume {}", group().name, name);
}

Result<void> EngineGroup::State::writable(const ChangeOptions& change) {
    if (options.read_only)
        return fail(ErrorKind::refused, "group {} is open read-only", group().name);
    // Before anything is written: what looks free in the text that is known here may be in use in the one on the disk.
    if (store.unsettled())
        return fail(ErrorKind::refused, "group {}: an earlier change failed in its last step; open the group anew", group().name);
    // What a removal left that failed is finished before the next change is planned. Where it can't be yet, the pool's own changes say so.
    if (change.dry_run)
        return {};
    std::vector<std::string> left;
    for (const lvm2::LogicalVolume& volume : group().logical_volumes)
        if (const auto* segment = volume.sole<lvm2::ThinPool>();
            segment != nullptr && !segment->messages.empty() && pools_.contains(volume.id))
            left.push_back(volume.name);
    for (const std::string& name : left)
        (void)recover_pool(*group().logical_volume(name));
    return {};
}

mapper::FindDevice EngineGroup::State::find_device() const {
    return [this](std::string_view name) { return store.device(name); };
}

lvm2::Stamp EngineGroup::State::stamp() const {
    char host[256] = {};
    ::gethostname(host, sizeof host - 1);
    return {Clock::system().wall_seconds(), host};
}

// --- Pools ----------------------------------------------------------------------------------------------------------------

Result<std::unique_ptr<mapper::VolumeDevice>> EngineGroup::State::map(std::string_view name) const {
    const lvm2::LogicalVolume* volume = TRY(find(name));
    if (group().shared())
        return fail(ErrorKind::refused,
                    "group {} is shared between hosts by lvmlockd ({:.64}): another one may be writing to {}, so that what is read of it "
                    "may never have been",
                    group().name, group().lock_type, name);
    return mapper::VolumeDevice::open(group(), *volume, find_device());
}

thin::ThinPoolOptions EngineGroup::State::pool_options(const lvm2::LogicalVolume& volume) const {
    const lvm2::ThinPool& pool = *volume.sole<lvm2::ThinPool>();
    thin::ThinPoolOptions made;
    made.data_block_sectors = pool.chunk_sectors;
    made.zero_new_blocks = pool.zero_new_blocks;
    switch (pool.discards) {
    case lvm2::Discards::passdown: made.discards = thin::DiscardPolicy::passdown; break;
    case lvm2::Discards::nopassdown: made.discards = thin::DiscardPolicy::no_passdown; break;
    case lvm2::Discards::ignore: made.discards = thin::DiscardPolicy::ignore; break;
    }
    made.error_if_no_space = volume.error_when_full();
    made.no_space_timeout = std::chrono::seconds(options.no_space_timeout);
    made.read_only = options.read_only;
    made.mapping_cache_bytes = options.mapping_cache_bytes;
    made.metadata_cache_bytes = options.metadata_cache_bytes;
    return made;
}

Result<void> EngineGroup::State::open_pool(const lvm2::LogicalVolume& volume) {
    const auto* segment = volume.sole<lvm2::ThinPool>();
    if (segment == nullptr)
        return fail(ErrorKind::usage, "{} is not a thin pool", volume.name);
    Pool opened;
    opened.metadata = TRY_WITHIN(volume.name, map(segment->metadata_volume));
    opened.data = TRY_WITHIN(volume.name, map(segment->data_volume));
    auto pool = thin::ThinPool::open(*opened.metadata, *opened.data, pool_options(volume), options.queue);
    if (!pool)
        return std::unexpected(pool.error().within(fmt::format("thin pool {}", volume.name)));
    opened.pool = std::move(*pool);
    pools_.emplace(volume.id, std::move(opened));
    return {};
}

Result<thin::ThinPool*> EngineGroup::State::pool(std::string_view name) {
    const lvm2::LogicalVolume* volume = TRY(find(name));
    if (auto open = pools_.find(volume->id); open != pools_.end())
        return open->second.pool.get();
    TRY(open_pool(*volume));
    if (auto recovery = recover_pool(*volume); !recovery) {
        pools_.erase(volume->id);
        return std::unexpected(recovery.error());
    }
    return pools_.at(TRY(find(name))->id).pool.get();
}

Result<void> EngineGroup::State::close_pool(const lvm2::LogicalVolume& volume) {
    auto open = pools_.find(volume.id);
    if (open == pools_.end())
        return {};
    auto closed = open->second.pool->close();
    pools_.erase(open);
    return closed;
}

Result<void> EngineGroup::State::refresh_pool(const lvm2::LogicalVolume& volume) {
    const auto open = pools_.find(volume.id);
    return open == pools_.end() ? Result<void>() : open->second.pool->change_options(pool_options(volume));
}

Result<void> EngineGroup::State::close_all() {
    std::exchange(volumes_, {}).clear();  // what they give back is looked for there
    Result<void> result;
    for (auto& [id, origin] : merges_)
        origin->origin->stop_merge();
    merges_.clear();
    for (auto& [id, pool] : pools_)
        if (auto closed = pool.pool->close(); !closed && result)
            result = closed;
    pools_.clear();
    return result;
}

// The messages that are queued for a pool, as the pool takes them.
Result<std::vector<thin::PoolChange>> EngineGroup::State::changes_of(const lvm2::VolumeGroup& from, const lvm2::ThinPool& pool) const {
    std::vector<thin::PoolChange> changes;
    for (const lvm2::ThinMessage& message : pool.messages) {
        if (message.create.empty()) {
            changes.push_back({thin::PoolChange::Kind::remove, message.delete_id});
            continue;
        }
        const lvm2::LogicalVolume* volume = from.logical_volume(message.create);
        const lvm2::Thin* thin = volume != nullptr ? volume->sole<lvm2::Thin>() : nullptr;
        if (thin == nullptr)
            return fail(ErrorKind::damaged, "a message asks for thin volume {}, which the group doesn't have", message.create);
        if (thin->origin.empty()) {
            changes.push_back({thin::PoolChange::Kind::create_thin, thin->device_id});
            continue;
        }
        const lvm2::LogicalVolume* origin = from.logical_volume(thin->origin);
        const lvm2::Thin* origin_thin = origin != nullptr ? origin->sole<lvm2::Thin>() : nullptr;
        if (origin_thin == nullptr)
            return fail(ErrorKind::damaged, "thin snapshot {} has an origin {} that isn't a thin volume", message.create, thin->origin);
        changes.push_back({thin::PoolChange::Kind::create_snapshot, thin->device_id, origin_thin->device_id});
    }
    return changes;
}

// A change of a pool is durable in three steps: the group's text with the messages and a raised transaction id; the pool's
// metadata with the same id; the text without the messages. The two ids tell which step a crash has left out.
Result<void> EngineGroup::State::recover_pool(const lvm2::LogicalVolume& volume) {
    const std::string name = volume.name;
    const lvm2::ThinPool segment = *volume.sole<lvm2::ThinPool>();
    thin::ThinPool& pool = *pools_.at(volume.id).pool;
    const thin::PoolStatus status = TRY(pool.status());
    if (status.transaction_id != segment.transaction_id &&
        (segment.messages.empty() || status.transaction_id + 1 != segment.transaction_id))
        return fail(ErrorKind::damaged,
                    "thin pool {}: transaction id {} in the pool, {} in the group; nothing is changed until that is settled", name,
                    status.transaction_id, segment.transaction_id);
    if (segment.messages.empty() || options.read_only)
        return {};
    if (status.transaction_id != segment.transaction_id) {
        std::vector<thin::PoolChange> changes = TRY(changes_of(group(), segment));
        // The kernel commits each message by itself: some may have been carried out.
        std::erase_if(changes, [&](const thin::PoolChange& change) {
            const auto details = pool.details(change.id);
            const bool there = details.has_value();
            const bool missing = !there && details.error().kind() == ErrorKind::not_found;
            return change.kind == thin::PoolChange::Kind::remove ? missing : there;
        });
        TRY(pool.transact(changes, status.transaction_id, segment.transaction_id));
    }
    lvm2::VolumeGroup next = group();
    TRY(lvm2::forget_messages(next, name));
    TRY(store.commit(std::move(next), fmt::format("finish change of pool {}", name), lvm2::GroupStore::Archive::nothing));
    recovered.push_back(fmt::format("thin pool {}: an interrupted change was finished ({} messages)", name, segment.messages.size()));
    return {};
}

Result<void> EngineGroup::State::recover_pools() {
    std::vector<std::string> names;
    for (const lvm2::LogicalVolume& volume : group().logical_volumes)
        if (const auto* segment = volume.sole<lvm2::ThinPool>(); segment != nullptr && !segment->messages.empty())
            names.push_back(volume.name);
    for (const std::string& name : names)
        TRY(pool(name));
    return {};
}

Result<void> EngineGroup::State::change_pools(lvm2::VolumeGroup next, const std::vector<std::string>& names, const std::string& description,
                                              const ReportProgress& progress) {
    struct Part {
        std::string name;
        thin::ThinPool* pool;
        std::uint64_t old_transaction;
        std::uint64_t new_transaction;
        std::vector<thin::PoolChange> changes;
        std::vector<ThinId> origins;
        std::vector<std::string> created;
        std::uint64_t chunk_bytes;
        bool removes = false;
    };
    std::vector<Part> parts;
    for (const std::string& name : names) {
        Part part;
        part.name = name;
        part.pool = TRY(pool(name));
        const lvm2::ThinPool& present = *group().logical_volume(name)->sole<lvm2::ThinPool>();
        if (!present.messages.empty()) {
            // Left by a removal that failed, and `next` has them too: writable() wasn't able to finish it.
            TRY_WITHIN("an earlier change had failed, and can't be finished", recover_pool(*group().logical_volume(name)));
            return fail(ErrorKind::refused, "thin pool {}: an earlier change had failed, and was finished first; try again", name);
        }
        part.old_transaction = present.transaction_id;
        const lvm2::ThinPool& segment = *next.logical_volume(name)->sole<lvm2::ThinPool>();
        part.new_transaction = segment.transaction_id;
        part.chunk_bytes = segment.chunk_sectors * sector_bytes;
        part.changes = TRY(changes_of(next, segment));
        for (const lvm2::ThinMessage& message : segment.messages)
            if (!message.create.empty())
                part.created.push_back(message.create);
        for (const thin::PoolChange& change : part.changes) {
            part.removes |= change.kind == thin::PoolChange::Kind::remove;
            if (change.kind == thin::PoolChange::Kind::create_snapshot)
                part.origins.push_back(change.origin);
        }
        parts.push_back(std::move(part));
    }

    // Nothing of LVM's comes between the steps: a change whose last step is refused would be half a change.
    const auto lock = TRY(store.hold_lock());
    TRY(store.commit(std::move(next), description));
    Result<void> result;
    // One pool sees to the moment by itself.
    std::size_t frozen = 0;
    for (; parts.size() > 1 && frozen < parts.size() && result; ++frozen)
        result = parts[frozen].pool->freeze(parts[frozen].origins);
    std::size_t carried_out = 0;
    while (result && carried_out < parts.size()) {
        const Part& part = parts[carried_out];
        thin::ThinPool::Progress removed;
        if (progress)
            removed = [&](std::uint64_t done, std::uint64_t total) { progress({done * part.chunk_bytes, total * part.chunk_bytes}); };
        result = part.pool->transact(part.changes, part.old_transaction, part.new_transaction, removed);
        carried_out += result ? 1 : 0;
    }
    for (std::size_t index = 0; index < frozen; ++index)
        parts[index].pool->thaw(parts[index].origins);

    next = group();
    for (std::size_t index = 0; index < carried_out; ++index)
        TRY(lvm2::forget_messages(next, parts[index].name));
    if (result)
        return store.commit(std::move(next), description, lvm2::GroupStore::Archive::nothing);

    // A removal may be half done: it stays queued, and is finished when the pool is opened again. Creations are taken back.
    for (std::size_t index = carried_out; index < parts.size(); ++index) {
        const auto status = parts[index].pool->status();
        if (!parts[index].removes && status && status->transaction_id == parts[index].old_transaction)
            TRY(lvm2::withdraw_messages(next, parts[index].name));
    }
    TRY(store.commit(std::move(next), fmt::format("undo: {}", description)));
    for (std::size_t index = 0; index < carried_out; ++index) {
        lvm2::VolumeGroup without = group();
        for (const std::string& name : parts[index].created)
            TRY(lvm2::remove_volume(without, name));
        if (!parts[index].created.empty())
            TRY(change_pools(std::move(without), {parts[index].name}, fmt::format("undo: {}", description)));
    }
    return result;
}

Result<void> EngineGroup::State::refresh_pool(std::string_view name) {
    const lvm2::LogicalVolume* volume = TRY(find(name));
    auto open = pools_.find(volume->id);
    if (open == pools_.end()) {
        TRY(pool(name));
        open = pools_.find(volume->id);
    }
    const auto* segment = volume->sole<lvm2::ThinPool>();
    TRY(open->second.data->update(group(), *TRY(find(segment->data_volume)), find_device()));
    TRY(open->second.metadata->update(group(), *TRY(find(segment->metadata_volume)), find_device()));
    TRY(open->second.pool->grow_metadata());
    return open->second.pool->grow_data();
}

Result<EngineGroup::State::PoolView> EngineGroup::State::view_pool(const lvm2::LogicalVolume& volume, bool with_devices) {
    PoolView view;
    if (auto open = pools_.find(volume.id); open != pools_.end()) {
        view.status = TRY(open->second.pool->status());
        if (with_devices)
            for (const thin::DeviceEntry& entry : TRY(open->second.pool->devices()))
                view.devices.emplace(entry.id, entry.details);
        return view;
    }
    // Not open: its metadata is read, nothing is started.
    const auto* segment = volume.sole<lvm2::ThinPool>();
    if (segment == nullptr)
        return fail(ErrorKind::usage, "{} is not a thin pool", volume.name);
    auto device = TRY(map(segment->metadata_volume));
    auto metadata = TRY(thin::ThinMetadata::open(*device, {.read_only = true, .cache_bytes = 8 << 20}));
    view.status = thin::status_of(*metadata);
    if (with_devices) {
        constexpr std::size_t at_once = 1024;
        for (ThinId first{};;) {
            const auto some = TRY(metadata->devices(first, at_once));
            if (some.empty())
                break;
            for (const thin::DeviceEntry& entry : some)
                view.devices.emplace(entry.id, entry.details);
            first = some.back().id + 1;
        }
    }
    return view;
}

Result<void> EngineGroup::State::refuse_full_pool(const std::string& name) {
    // Metadata that can't be read the change itself tells of.
    if (const auto view = view_pool(*TRY(find(name)), false); view && view->status.used_data_blocks >= view->status.data_blocks)
        return fail(ErrorKind::no_space, "pool {} is full: no chunk is free", name);
    return {};
}

// --- Volumes --------------------------------------------------------------------------------------------------------------

std::string EngineGroup::State::finding_about(std::string_view name) const {
    for (const lvm2::Finding& finding : store.findings())
        if (finding.subject == lvm2::Finding::Subject::logical_volume && finding.name == name)
            return lvm2::to_string(finding);
    return {};
}

// Whether a part of the volume, or of what it stands on, is on a physical volume that isn't there. A thin volume is `steps` above the
// data of its pool; a damaged text may go in circles.
static bool lacks_disk(const lvm2::GroupStore& store, const lvm2::LogicalVolume& volume, int steps = 2) {
    if (store.missing().empty())
        return false;
    const lvm2::VolumeGroup& group = store.group();
    const auto below = [&](const std::string& name) {
        const lvm2::LogicalVolume* part = group.logical_volume(name);
        return part != nullptr && steps > 0 && lacks_disk(store, *part, steps - 1);
    };
    return std::ranges::any_of(volume.segments, [&](const lvm2::Segment& segment) {
        if (const auto* striped = segment.as<lvm2::Striped>())
            return std::ranges::any_of(striped->areas, [&](const lvm2::Area& area) {
                return group.physical_volume(area.name) != nullptr && store.device(area.name) == nullptr;
            });
        if (const auto* pool = segment.as<lvm2::ThinPool>())
            return below(pool->data_volume) || below(pool->metadata_volume);
        const auto* thin = segment.as<lvm2::Thin>();
        return thin != nullptr && below(thin->pool);
    });
}

std::string EngineGroup::State::why_refused(const lvm2::LogicalVolume& volume) const {
    if (lacks_disk(store, volume))
        return "a physical volume of it is missing";
    if (const auto file = OriginFile::of(volume)) {
        const auto there = file->check(image_folder());
        return there ? "" : there.error().message();
    }
    if (const auto* thin = volume.sole<lvm2::Thin>(); thin != nullptr && !thin->external_origin.empty())
        if (const lvm2::LogicalVolume* origin = group().logical_volume(thin->external_origin); origin != nullptr && OriginFile::of(*origin))
            if (std::string reason = why_refused(*origin); !reason.empty())
                return fmt::format("its external origin {}: {}", origin->name, reason);
    for (const lvm2::Segment& segment : volume.segments)
        if (segment.as<lvm2::Opaque>() != nullptr || segment.as<lvm2::ClassicSnapshot>() != nullptr)
            return fmt::format("segment type {} is not served", segment.type);
    if (const lvm2::ClassicSnapshot* snapshot = classic().of_store(volume.name)) {
        if (snapshot->merging)
            return fmt::format("it is being merged into {}", snapshot->origin);
        const lvm2::LogicalVolume* origin = group().logical_volume(snapshot->origin);
        if (origin == nullptr)
            return fmt::format("its origin {} is missing", snapshot->origin);
        if (std::string reason = why_refused(*origin); !reason.empty())
            return fmt::format("its origin {}: {}", snapshot->origin, reason);
    }
    if (const lvm2::ClassicSnapshot* merging = classic().merging_into(volume.name); merging != nullptr && options.read_only)
        return fmt::format("{} is being merged into it, which needs the group open for writing", merging->store);
    if (volume.sole<lvm2::ThinPool>() != nullptr)
        return "a pool is not served, only its volumes are";
    if (store.findings().empty())
        return {};
    // In a damaged group: only what stands on nothing that is unsound.
    if (std::string finding = finding_about(volume.name); !finding.empty())
        return finding;
    if (const auto* thin = volume.sole<lvm2::Thin>()) {
        const lvm2::LogicalVolume* pool = group().logical_volume(thin->pool);
        const auto* body = pool != nullptr ? pool->sole<lvm2::ThinPool>() : nullptr;
        if (body == nullptr)
            return fmt::format("its pool {} is missing", thin->pool);
        for (const std::string& part : {thin->pool, body->metadata_volume, body->data_volume})
            if (std::string finding = finding_about(part); !finding.empty())
                return finding;
    }
    return {};
}

Result<std::shared_ptr<EngineGroup::State::OpenVolume>> EngineGroup::State::open_volume(const lvm2::LogicalVolume& volume) {
    if (auto open = volumes_.find(volume.id); open != volumes_.end()) {
        ++open->second->users;
        return open->second;
    }
    if (const std::string reason = why_refused(volume); !reason.empty())
        return fail(ErrorKind::unsupported, "{}: {}", volume.name, reason);
    std::shared_ptr<OpenVolume> opened;
    const lvm2::ClassicSnapshot* snapshot = classic().of_store(volume.name);
    // Read-only, an origin never has to copy. Written to, it may get snapshots while it is in use.
    if (snapshot != nullptr) {
        opened = std::make_shared<OpenVolume>();
        opened->origin = TRY_WITHIN(volume.name, open_origin(*TRY(find(snapshot->origin))));
        opened->device = opened->origin->stores.at(volume.id).snapshot;
    } else if (!options.read_only) {
        opened = std::make_shared<OpenVolume>();
        opened->origin = TRY(open_origin(volume));
        opened->device = opened->origin->origin;
    } else {
        opened = TRY(open_real(volume));
    }
    opened->users = 1;
    volumes_.emplace(volume.id, opened);
    return opened;
}

Result<std::shared_ptr<EngineGroup::State::OpenVolume>> EngineGroup::State::open_real(const lvm2::LogicalVolume& volume) {
    auto opened = std::make_shared<OpenVolume>();
    if (const auto* thin = volume.sole<lvm2::Thin>()) {
        thin::ThinPool* from = TRY(pool(thin->pool));
        if (!thin->external_origin.empty()) {
            const lvm2::LogicalVolume* origin = TRY(find(thin->external_origin));
            if (const auto file = OriginFile::of(*origin))
                opened->origin_file = TRY_WITHIN(volume.name, file->open(image_folder()));
            else
                opened->external_origin = user_of(*origin, TRY_WITHIN(volume.name, open_volume(*origin)));
        }
        BlockDevice* falls_to = opened->origin_file != nullptr       ? opened->origin_file.get()
                                : opened->external_origin != nullptr ? opened->external_origin->device.get()
                                                                     : nullptr;
        opened->device = TRY(from->open_volume(thin->device_id, group().size_bytes(volume), group().name + "/" + volume.name, falls_to));
    } else {
        opened->device = TRY(map(volume.name));
    }
    return opened;
}

// Gives the volume back with the last copy of the pointer, under the lock.
std::shared_ptr<EngineGroup::State::OpenVolume> EngineGroup::State::user_of(const lvm2::LogicalVolume& volume,
                                                                            std::shared_ptr<OpenVolume> opened) {
    OpenVolume* const used = opened.get();
    return {used, [this, id = volume.id, opened = std::move(opened)](OpenVolume*) mutable {
                opened.reset();
                drop_volume(id);
            }};
}

std::filesystem::path EngineGroup::State::image_folder() const {
    const BlockDevice* device = group().physical_volumes.empty() ? nullptr : store.device(group().physical_volumes[0].name);
    std::error_code error;
    if (device == nullptr || !std::filesystem::is_regular_file(device->name(), error))
        return {};
    const auto whole = std::filesystem::canonical(device->name(), error);
    return error ? std::filesystem::path() : whole.parent_path();
}

void EngineGroup::State::drop_volume(const LvmId& id) {
    auto open = volumes_.find(id);
    if (open == volumes_.end() || --open->second->users > 0)
        return;
    const std::shared_ptr<OpenVolume> last = std::move(open->second);
    volumes_.erase(open);
}

Result<void> EngineGroup::State::refuse_in_use(const lvm2::LogicalVolume& volume) const {
    if (auto open = volumes_.find(volume.id); open != volumes_.end())
        return fail(ErrorKind::refused, "volume {} is in use ({} connections)", volume.name, open->second->users);
    return {};
}

Result<void> EngineGroup::State::refresh_volume(const lvm2::LogicalVolume& volume) {
    if (const lvm2::ClassicSnapshot* snapshot = classic().of_store(volume.name)) {
        const auto origin = opened_origin(snapshot->origin);
        return origin != nullptr ? origin->stores.at(volume.id).device->update(group(), volume, find_device()) : Result<void>();
    }
    BlockDevice* device = nullptr;
    if (const auto origin = opened_origin(volume.name))
        device = origin->real->device.get();
    else if (auto open = volumes_.find(volume.id); open != volumes_.end())
        device = open->second->device.get();
    if (auto* thin = dynamic_cast<thin::ThinVolume*>(device))
        thin->resize(group().size_bytes(volume));
    else if (auto* mapped = dynamic_cast<mapper::VolumeDevice*>(device))
        TRY(mapped->update(group(), volume, find_device()));
    return {};
}

// --- Descriptions ---------------------------------------------------------------------------------------------------------

VolumeInfo EngineGroup::State::describe(const lvm2::VolumeGroup& from, const lvm2::LogicalVolume& volume, const PoolView* view) const {
    VolumeInfo info;
    info.name = volume.name;
    info.id = volume.id.dashed();
    info.size = from.size_bytes(volume);
    info.visible = volume.visible();
    const bool is_now = &from == &group();
    const std::optional<lvm2::ClassicSnapshots> of_trial = is_now ? std::nullopt : std::optional<lvm2::ClassicSnapshots>(from);
    if (volume.sole<lvm2::ClassicSnapshot>() != nullptr) {
        info.visible = false;
        info.segment_type = "snapshot";
    }
    info.read_only = !volume.writable();
    info.skip_activation = volume.skips_activation();
    info.tags = volume.tags;
    if (volume.creation_time != 0)
        info.creation_time = volume.creation_time;
    info.creation_host = volume.creation_host;
    if (!volume.segments.empty())
        info.segment_type = volume.segments[0].type;
    if (!volume.segments.empty() && volume.segments[0].as<lvm2::Striped>() != nullptr) {
        const auto& striped = *volume.segments[0].as<lvm2::Striped>();
        info.stripes = static_cast<std::uint32_t>(striped.areas.size());
        info.stripe_size = striped.stripe_sectors * sector_bytes;
        info.kind = info.stripes > 1 ? VolumeKind::striped : VolumeKind::linear;
        if (info.stripes == 1)
            info.segment_type = "linear";
        for (const lvm2::Segment& segment : volume.segments)
            if (const auto* body = segment.as<lvm2::Striped>())
                for (const lvm2::Area& area : body->areas)
                    if (std::find(info.physical_volumes.begin(), info.physical_volumes.end(), area.name) == info.physical_volumes.end())
                        info.physical_volumes.push_back(area.name);
        if (!info.visible) {
            // Hidden volumes are known by what they serve for, which LVM tells by their names.
            const auto ends = [&](std::string_view end) { return volume.name.ends_with(end); };
            if (ends("_tdata"))
                info.kind = VolumeKind::pool_data;
            else if (ends("_tmeta"))
                info.kind = VolumeKind::pool_metadata;
            else if (ends("_pmspare"))
                info.kind = VolumeKind::spare;
        }
    }
    if (const auto file = OriginFile::of(volume)) {
        info.kind = VolumeKind::file;
        info.origin_file = file->path;
    }
    if (const auto* thin = volume.sole<lvm2::Thin>()) {
        info.kind = VolumeKind::thin;
        info.pool = thin->pool;
        info.origin = thin->origin;
        if (info.origin.empty())
            info.former_origin = origin_by_tag(info.tags);
        info.external_origin = thin->external_origin;
        if (const lvm2::LogicalVolume* origin = thin->external_origin.empty() ? nullptr : from.logical_volume(thin->external_origin))
            if (const auto file = OriginFile::of(*origin))
                info.origin_file = file->path;
        info.device_id = thin->device_id.value();
        if (view != nullptr)
            if (auto device = view->devices.find(thin->device_id); device != view->devices.end())
                info.mapped = device->second.mapped_blocks * view->status.data_block_sectors * sector_bytes;
    }
    if (const auto* pool = volume.sole<lvm2::ThinPool>()) {
        info.kind = VolumeKind::thin_pool;
        info.transaction_id = pool->transaction_id;
        info.chunk_size = pool->chunk_sectors * sector_bytes;
        info.discards = std::string(lvm2::to_string(pool->discards));
        info.zero_new_blocks = pool->zero_new_blocks;
        info.error_when_full = volume.error_when_full();
        if (const lvm2::LogicalVolume* metadata = from.logical_volume(pool->metadata_volume))
            info.metadata_size = from.size_bytes(*metadata);
        if (view != nullptr) {
            info.data_used = view->status.used_data_blocks * view->status.data_block_sectors * sector_bytes;
            info.metadata_used = view->status.used_metadata_blocks * 4096;
            if (view->status.held_root)
                info.metadata_snapshot = view->status.held_root->value();
            info.needs_check = view->status.needs_check;
            switch (view->status.mode) {
            case thin::PoolMode::write: info.pool_mode = "rw"; break;
            case thin::PoolMode::out_of_data_space: info.pool_mode = "out_of_data_space"; break;
            case thin::PoolMode::out_of_metadata_space:
            case thin::PoolMode::read_only: info.pool_mode = "ro"; break;
            case thin::PoolMode::fail: info.pool_mode = "Fail"; break;
            }
        }
    }
    const lvm2::ClassicSnapshots& snapshots = is_now ? classic() : *of_trial;
    if (const lvm2::ClassicSnapshot* snapshot = snapshots.of_store(volume.name)) {
        info.kind = VolumeKind::snapshot;
        info.segment_type = "snapshot";
        info.visible = !snapshot->merging;
        info.origin = snapshot->origin;
        info.chunk_size = snapshot->chunk_sectors * sector_bytes;
        info.store_size = info.size;
        info.size = snapshots.extents(volume.name) * from.extent_bytes();
        if (is_now)
            if (const auto status = snapshot_status(volume)) {
                info.snapshot_state =
                    status->condition == cow::SnapshotCondition::active ? snapshot->merging ? "merging" : "active" : status->line();
                if (status->condition == cow::SnapshotCondition::active || status->condition == cow::SnapshotCondition::merge_failed) {
                    info.store_used = status->usage.allocated * sector_bytes;
                    info.store_metadata = status->usage.metadata * sector_bytes;
                }
            }
    }
    if (auto open = volumes_.find(volume.id); open != volumes_.end())
        info.open_count = open->second->users;
    if (info.visible && (info.kind != VolumeKind::thin_pool || lacks_disk(store, volume)))
        info.refused = why_refused(volume);
    info.state = snapshot_state_of(info);
    return info;
}

Result<VolumeInfo> EngineGroup::State::describe(std::string_view name) {
    const lvm2::LogicalVolume* volume = TRY(find(name));
    const lvm2::LogicalVolume* pool = volume->sole<lvm2::ThinPool>() != nullptr ? volume : nullptr;
    if (const auto* thin = volume->sole<lvm2::Thin>())
        pool = group().logical_volume(thin->pool);
    if (pool == nullptr)
        return describe(group(), *volume, nullptr);
    auto view = view_pool(*pool, pool != volume);
    VolumeInfo info = describe(group(), *volume, view ? &*view : nullptr);
    if (!view)
        info.refused = view.error().message();
    return info;
}

}  // namespace lamella
