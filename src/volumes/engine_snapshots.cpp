// SPDX-License-Identifier: Apache-2.0
//
// Classic snapshots of a group that is open here. The text says who is a snapshot of whom; what was copied stands in the stores.
//
// Order matters in two places. A snapshot of a volume in use begins to be kept before the text knows of it, and stops being kept after
// the text has forgotten it: whatever moment a crash comes at, a snapshot that the text names has all that it needs. And a merge ends
// with the commit that takes the snapshot out of the text: until then it is begun again wherever the group is opened next, which finds
// an empty store when all was merged.
#include <algorithm>

#include "volumes/engine_state.h"
#include "volumes/size_request.h"

namespace lamella {

namespace {

constexpr std::uint64_t wiped_bytes = 4096;  // where a new store begins: zeros there make the kernel begin one, too
constexpr std::uint64_t least_chunks = 3;    // of a store, as LVM has it
constexpr std::chrono::milliseconds look_every(100);
constexpr std::chrono::seconds writes_end_within(5);  // or no snapshot is taken: others wait for the group meanwhile

std::uint64_t largest_store(const lvm2::VolumeGroup& group, std::uint64_t origin_bytes, std::uint32_t chunk_sectors) {
    return group.extents_for(cow::largest_useful_store(origin_bytes, chunk_sectors));
}

// A percentage of the origin has the room for a whole store's own metadata added, as LVM reckons.
Result<std::uint64_t> store_extents(const lvm2::VolumeGroup& group, const SizeRequest& request, std::uint64_t current,
                                    std::uint64_t origin_bytes, std::uint32_t chunk_sectors) {
    const std::uint64_t most = largest_store(group, origin_bytes, chunk_sectors);
    std::uint64_t extents = 0;
    if (request.base == SizeRequest::Base::percent_of_origin && request.relation == SizeRequest::Relation::absolute) {
        const std::uint64_t origin = group.extents_for(origin_bytes);
        extents = static_cast<std::uint64_t>((static_cast<unsigned __int128>(origin) * request.value + 9999) / 10000) + (most - origin);
    } else if (request.base == SizeRequest::Base::percent_of_origin) {
        return fail(ErrorKind::usage, "a percentage of the origin is the whole size of a snapshot's store, not a difference");
    } else {
        extents = TRY(resolve_size(group, request, current, false));
    }
    extents = std::min(extents, std::max(most, current));
    if (extents * group.extent_bytes() < least_chunks * chunk_sectors * sector_bytes)
        return fail(ErrorKind::usage, "a snapshot's store has at least {} chunks, {} bytes", least_chunks,
                    least_chunks * chunk_sectors * sector_bytes);
    return extents;
}

}  // namespace

// --- What the text says -----------------------------------------------------------------------------------------------------

const lvm2::ClassicSnapshots& EngineGroup::State::classic() const {
    if (classic_of_ != group().seqno) {
        classic_.emplace(group());
        classic_of_ = group().seqno;
    }
    return *classic_;
}

bool EngineGroup::State::shown(const lvm2::LogicalVolume& volume) const {
    if (volume.sole<lvm2::ClassicSnapshot>() != nullptr)
        return false;
    const lvm2::ClassicSnapshot* snapshot = classic().of_store(volume.name);
    return snapshot != nullptr ? !snapshot->merging : volume.visible();
}

std::uint64_t EngineGroup::State::served_size(const lvm2::LogicalVolume& volume) const {
    return classic().of_store(volume.name) != nullptr ? classic().extents(volume.name) * group().extent_bytes()
                                                      : group().size_bytes(volume);
}

// --- In use -----------------------------------------------------------------------------------------------------------------

std::shared_ptr<EngineGroup::State::OpenOrigin> EngineGroup::State::opened_origin(const std::string& name) const {
    const lvm2::LogicalVolume* volume = group().logical_volume(name);
    const auto found = volume != nullptr ? origins_.find(volume->id) : origins_.end();
    return found != origins_.end() ? found->second.lock() : nullptr;
}

Result<void> EngineGroup::State::open_store(OpenOrigin& open, const lvm2::VolumeGroup& from, const lvm2::ClassicSnapshots& snapshots,
                                            const lvm2::ClassicSnapshot& snapshot) {
    const lvm2::LogicalVolume* volume = from.logical_volume(snapshot.store);
    OpenOrigin::Store opened;
    opened.device = TRY(mapper::VolumeDevice::open(from, *volume, find_device()));
    cow::SnapshotOptions snapshot_options;
    snapshot_options.store.chunk_sectors = snapshot.chunk_sectors;
    snapshot_options.size = snapshots.extents(snapshot.store) * from.extent_bytes();
    snapshot_options.name = from.name + "/" + snapshot.store;
    opened.snapshot = TRY_WITHIN(snapshot.store, open.origin->open_snapshot(*opened.device, snapshot_options));
    // Not under the group's lock, whose holder may wait for the thread that calls this.
    if (looks_after_snapshots() && options.snapshot_autoextend_threshold < 100 && !snapshot.merging)
        opened.snapshot->set_room_handler([this] { look_now(); });
    open.stores.insert_or_assign(volume->id, std::move(opened));
    return {};
}

Result<std::shared_ptr<EngineGroup::State::OpenOrigin>> EngineGroup::State::open_origin(const lvm2::LogicalVolume& volume) {
    if (auto open = opened_origin(volume.name))
        return open;
    auto open = std::make_shared<OpenOrigin>();
    open->real = TRY(open_real(volume));
    cow::OriginOptions origin_options;
    origin_options.name = group().name + "/" + volume.name;
    open->origin = TRY(cow::Origin::open(*open->real->device, origin_options, options.queue));
    if (const auto* snapshots = classic().of_origin(volume.name))
        for (const lvm2::ClassicSnapshot& snapshot : *snapshots)
            TRY(open_store(*open, group(), classic(), snapshot));
    origins_.insert_or_assign(volume.id, open);
    if (classic().merging_into(volume.name) != nullptr)
        TRY(start_merge(volume.name));
    look_after_from_now_on();
    return open;
}

// --- Creating, extending, removing ------------------------------------------------------------------------------------------

Result<std::vector<VolumeInfo>> EngineGroup::State::create_classic_snapshots(const std::vector<CreateSnapshot>& requests, bool dry_run) {
    lvm2::VolumeGroup next = group();
    std::vector<std::string> names;
    for (const CreateSnapshot& request : requests) {
        const lvm2::LogicalVolume* origin = TRY(find(request.origin));
        if (const std::string reason = why_refused(*origin); !reason.empty())
            return fail(ErrorKind::unsupported, "{}: {}", request.origin, reason);
        if (const auto* thin = origin->sole<lvm2::Thin>();
            thin != nullptr && in_use(*origin) && TRY(TRY(pool(thin->pool))->status()).mode == thin::PoolMode::out_of_data_space)
            return fail(ErrorKind::refused, "pool {} is full: writes to {} may wait for room, and there is no moment without any",
                        thin->pool, request.origin);
        lvm2::NewClassicSnapshot snapshot;
        snapshot.origin = request.origin;
        snapshot.chunk_sectors = static_cast<std::uint32_t>(std::min<std::uint64_t>(request.chunk_size / sector_bytes, UINT32_MAX));
        snapshot.volume = {request.name, request.tags, request.read_only, stamp()};
        for (unsigned number = 1; snapshot.volume.name.empty(); ++number)
            if (std::string candidate = fmt::format("{}-s{}", request.origin, number); next.logical_volume(candidate) == nullptr)
                snapshot.volume.name = std::move(candidate);
        if (request.chunk_size % sector_bytes != 0 || snapshot.chunk_sectors < lvm2::min_snapshot_chunk_sectors ||
            snapshot.chunk_sectors > lvm2::max_snapshot_chunk_sectors)
            return fail(ErrorKind::usage, "a classic snapshot's chunk size is a power of two from 4 KiB to 512 KiB, not {} bytes",
                        request.chunk_size);
        const std::uint64_t extents = TRY(store_extents(next, request.size, 0, next.size_bytes(*origin), snapshot.chunk_sectors));
        snapshot.extents = TRY(checked_extents(extents));
        TRY(lvm2::create_classic_snapshot(next, snapshot));
        names.push_back(snapshot.volume.name);
    }

    std::vector<VolumeInfo> made;
    if (!dry_run) {
        const lvm2::ClassicSnapshots snapshots(next);
        for (const std::string& name : names) {
            auto device = TRY(mapper::VolumeDevice::open(next, *next.logical_volume(name), find_device()));
            TRY(write_zeroes_now(*device, 0, wiped_bytes));
            TRY(flush_now(*device));
        }
        std::vector<std::pair<std::shared_ptr<OpenOrigin>, LvmId>> begun;
        const auto forget = [&] {
            for (const auto& [open, id] : begun)
                open->stores.erase(id);
        };
        if (auto opened = begin_at_one_moment(next, snapshots, names, begun); !opened) {
            forget();
            return std::unexpected(opened.error());
        }
        if (auto committed = store.commit(next, fmt::format("snapshot {}", fmt::join(names, " "))); !committed) {
            // Where nobody knows whether the text names the snapshots now, they go on being kept, so that they have all that they need if so.
            // No other change can take their extents meanwhile: they are refused until the group is opened anew.
            if (!store.unsettled())
                forget();
            return std::unexpected(committed.error());
        }
    }
    const lvm2::VolumeGroup& result = dry_run ? next : group();
    for (const std::string& name : names)
        made.push_back(describe(result, *result.logical_volume(name), nullptr));
    return made;
}

// Where the origins are in use. What was begun is in `begun`, also after an error.
Result<void> EngineGroup::State::begin_at_one_moment(const lvm2::VolumeGroup& next, const lvm2::ClassicSnapshots& snapshots,
                                                     const std::vector<std::string>& names,
                                                     std::vector<std::pair<std::shared_ptr<OpenOrigin>, LvmId>>& begun) {
    std::vector<std::shared_ptr<OpenOrigin>> frozen;
    Result<void> result;
    for (const std::string& name : names)
        if (auto open = opened_origin(snapshots.of_store(name)->origin);
            open != nullptr && result && std::ranges::find(frozen, open) == frozen.end())
            if (result = open->origin->freeze(writes_end_within); result)
                frozen.push_back(std::move(open));
    for (const std::string& name : names)
        if (auto open = opened_origin(snapshots.of_store(name)->origin); open != nullptr && result)
            if (result = open_store(*open, next, snapshots, *snapshots.of_store(name)); result)
                begun.emplace_back(std::move(open), next.logical_volume(name)->id);
    for (const auto& open : frozen)
        open->origin->thaw();
    return result;
}

Result<VolumeInfo> EngineGroup::State::resize_store(const ResizeVolume& request, bool dry_run) {
    const lvm2::LogicalVolume* volume = TRY(find(request.name));
    const lvm2::ClassicSnapshot snapshot = *classic().of_store(request.name);
    const std::uint64_t current = volume->extent_count();
    const std::uint64_t origin_bytes = served_size(*volume);
    const std::uint64_t wanted = TRY(store_extents(group(), request.size, current, origin_bytes, snapshot.chunk_sectors));
    if (TRY_WITHIN(request.name, snapshot_status(*volume)).condition == cow::SnapshotCondition::invalid)
        return fail(ErrorKind::refused, "{} is Invalid: more room doesn't bring back what it lost; remove it", request.name);
    if (wanted < current)
        return fail(ErrorKind::unsupported, "{}: a snapshot's store doesn't become smaller", request.name);
    if (wanted == current)
        return describe(request.name);
    lvm2::VolumeGroup next = group();
    TRY(lvm2::extend_store(next, request.name, TRY(checked_extents(wanted - current)), {}));
    if (dry_run)
        return describe(next, *next.logical_volume(request.name), nullptr);
    TRY(store.commit(std::move(next), fmt::format("extend {}", request.name)));
    TRY(refresh_volume(*TRY(find(request.name))));
    return describe(request.name);
}

Result<void> EngineGroup::State::remove_classic_snapshots(const std::vector<std::string>& names) {
    lvm2::VolumeGroup next = group();
    std::vector<std::pair<std::shared_ptr<OpenOrigin>, LvmId>> open;
    for (const std::string& name : names) {
        const lvm2::ClassicSnapshot& snapshot = *classic().of_store(name);
        if (auto origin = opened_origin(snapshot.origin))
            open.emplace_back(std::move(origin), group().logical_volume(name)->id);
        TRY(lvm2::remove_classic_snapshot(next, name));
    }
    TRY(store.commit(std::move(next), fmt::format("remove {}", fmt::join(names, " "))));
    for (auto& [origin, id] : open)
        origin->stores.erase(id);
    return {};
}

Result<cow::SnapshotStatus> EngineGroup::State::snapshot_status(const lvm2::LogicalVolume& volume) const {
    const lvm2::ClassicSnapshot& snapshot = *classic().of_store(volume.name);
    if (const auto open = opened_origin(snapshot.origin))
        if (const auto found = open->stores.find(volume.id); found != open->stores.end())
            return found->second.snapshot->snapshot_status();
    auto device = TRY(map(volume.name));
    const cow::StoreSummary summary = TRY(cow::inspect_store(*device, served_size(volume)));
    cow::SnapshotStatus status;
    status.usage = summary.usage;
    status.merging = snapshot.merging;
    if (summary.kind == cow::StoreSummary::Kind::invalid)
        status.condition = cow::SnapshotCondition::invalid;
    return status;
}

// --- Merging ----------------------------------------------------------------------------------------------------------------

Result<void> EngineGroup::State::merge_classic_snapshot(const std::string& name, const std::string& snapshot_name, bool dry_run) {
    const lvm2::ClassicSnapshot snapshot = *classic().of_store(snapshot_name);
    if (snapshot.origin != name)
        return fail(ErrorKind::usage, "{} is not a snapshot of {}", snapshot_name, name);
    const lvm2::LogicalVolume* origin = TRY(find(name));
    const lvm2::LogicalVolume* source = TRY(find(snapshot_name));
    if (!snapshot.merging) {
        TRY(refuse_in_use(*origin));
        TRY(refuse_in_use(*source));
        const cow::SnapshotStatus status = TRY_WITHIN(snapshot_name, snapshot_status(*source));
        if (status.condition != cow::SnapshotCondition::active)
            return fail(ErrorKind::refused, "{} is {}: what it held of {} is lost", snapshot_name, status.line(), name);
        lvm2::VolumeGroup next = group();
        TRY(lvm2::begin_merge(next, snapshot_name));
        if (dry_run)
            return {};
        TRY(store.commit(std::move(next), fmt::format("merge {} into {}", snapshot_name, name)));
    }
    return dry_run ? Result<void>() : start_merge(name);
}

Result<void> EngineGroup::State::start_merge(const std::string& name) {
    const lvm2::LogicalVolume* volume = TRY(find(name));
    const std::shared_ptr<OpenOrigin> open = TRY(open_origin(*volume));
    // Opening it may have begun that; only one that failed is begun again.
    if (const auto merging = open->origin->merging();
        merging != nullptr && merging->snapshot_status().condition != cow::SnapshotCondition::merge_failed)
        return {};
    if (const lvm2::ClassicSnapshot* snapshot = classic().merging_into(name)) {
        const auto found = open->stores.find(TRY(find(snapshot->store))->id);
        TRY_WITHIN(snapshot->store, open->origin->start_merge(found->second.snapshot));
        merges_.insert_or_assign(volume->id, open);
        look_after_from_now_on();
    }
    return {};
}

void EngineGroup::State::resume_merges() {
    std::vector<std::string> names;
    for (const lvm2::LogicalVolume& volume : group().logical_volumes)
        if (const auto* snapshot = volume.sole<lvm2::ClassicSnapshot>(); snapshot != nullptr && snapshot->merging)
            names.push_back(snapshot->origin);
    for (const std::string& name : names)
        if (auto started = start_merge(name); !started)
            note(fmt::format("the merge into {}: {}", name, started.error().message()));
}

void EngineGroup::State::finish_merge(const LvmId& id) {
    const std::shared_ptr<OpenOrigin> open = merges_.at(id);
    for (const lvm2::LogicalVolume& volume : group().logical_volumes) {
        const lvm2::ClassicSnapshot* snapshot = classic().of_store(volume.name);
        if (snapshot == nullptr || !snapshot->merging || group().logical_volume(snapshot->origin)->id != id)
            continue;
        const LvmId store_id = volume.id;
        lvm2::VolumeGroup next = group();
        auto done = lvm2::remove_classic_snapshot(next, volume.name);
        if (done)
            done = store.commit(std::move(next), fmt::format("merged {} into {}", volume.name, snapshot->origin));
        if (!done)
            return note(fmt::format("the end of the merge: {}", done.error().message()));
        if (auto ended = open->origin->end_merge(); !ended)
            note(fmt::format("the end of the merge: {}", ended.error().message()));
        open->stores.erase(store_id);
        break;
    }
    merges_.erase(id);
}

// --- Looking after what is in use -------------------------------------------------------------------------------------------

void EngineGroup::State::note(std::string finding) {
    if (std::ranges::find(findings, finding) == findings.end())
        findings.push_back(std::move(finding));
}

void EngineGroup::State::look_after_snapshots() {
    std::vector<LvmId> merged;
    for (const auto& [id, open] : merges_) {
        const std::shared_ptr<cow::Snapshot> merging = open->origin->merging();
        const cow::SnapshotStatus status = merging != nullptr ? merging->snapshot_status() : cow::SnapshotStatus{};
        if (status.condition == cow::SnapshotCondition::merge_failed)
            note(fmt::format("a merge into {} failed; opening the group again goes on with it", open->origin->name()));
        else if (status.condition == cow::SnapshotCondition::active && status.usage.allocated == status.usage.metadata)
            merged.push_back(id);
    }
    for (const LvmId& id : merged)
        finish_merge(id);
    if (options.snapshot_autoextend_threshold < 100)
        for (auto entry = origins_.begin(); entry != origins_.end();) {
            if (const auto open = entry->second.lock()) {
                extend_where_needed(*open);
                ++entry;
            } else {
                entry = origins_.erase(entry);
            }
        }
}

void EngineGroup::State::extend_where_needed(OpenOrigin& open) {
    for (auto& [id, in_use] : open.stores) {
        const bool writes_wait = in_use.snapshot->needs_room();
        const cow::SnapshotStatus status = in_use.snapshot->snapshot_status();
        const bool filled = static_cast<unsigned __int128>(status.usage.allocated) * 100 >
                            static_cast<unsigned __int128>(status.usage.total) * options.snapshot_autoextend_threshold;
        if ((filled || writes_wait) && status.condition == cow::SnapshotCondition::active && !status.merging)
            if (!extend_store(id, in_use, status.usage))
                continue;  // the writes wait for the next look
        if (writes_wait)
            in_use.snapshot->room_seen_to();
    }
}

// False: a command of LVM's has the group locked, so that nobody knows yet.
bool EngineGroup::State::extend_store(const LvmId& id, OpenOrigin::Store& in_use, const cow::StoreUsage& usage) {
    const auto volume = std::ranges::find(group().logical_volumes, id, &lvm2::LogicalVolume::id);
    if (in_use.no_room_at == group().seqno || volume == group().logical_volumes.end())
        return true;
    // Without waiting: other changes wait for this look.
    const auto lock = store.hold_lock(std::chrono::milliseconds(0));
    if (!lock) {
        note(fmt::format("{} can't be extended yet: {}", volume->name, lock.error().message()));
        return lock.error().kind() != ErrorKind::refused;
    }
    const std::uint64_t size = group().size_bytes(*volume);
    const std::string name = volume->name;
    ResizeVolume request;
    request.name = name;
    request.size.relation = SizeRequest::Relation::grow;
    request.size.value = std::max<std::uint64_t>(size / 100 * options.snapshot_autoextend_percent, 1);
    if (auto extended = resize_store(request, false); !extended)
        note(fmt::format("{} is {} % full and can't be extended: {}", name, usage.allocated * 100 / std::max<std::uint64_t>(1, usage.total),
                         extended.error().message()));
    in_use.no_room_at = group().size_bytes(*group().logical_volume(name)) == size ? group().seqno : 0;
    return true;
}

void EngineGroup::State::look_now() {
    std::lock_guard lock(look_mutex_);
    look_now_ = true;
    look_again_.notify_one();
}

void EngineGroup::State::look_after_from_now_on() {
    if (!looks_after_snapshots() || looking_after_.joinable())
        return look_now();
    looking_after_ = std::thread([this] {
        std::unique_lock lock(look_mutex_);
        while (!stop_looking_) {
            lock.unlock();
            bool often = false;
            {
                std::lock_guard group_lock(mutex);
                look_after_snapshots();
                often = !merges_.empty() || options.snapshot_autoextend_threshold < 100;
            }
            lock.lock();
            const auto wanted = [this] { return stop_looking_ || look_now_; };
            if (often)
                look_again_.wait_for(lock, look_every, wanted);
            else
                look_again_.wait(lock, wanted);
            look_now_ = false;
        }
    });
}

void EngineGroup::State::stop_looking_after() {
    {
        std::lock_guard lock(look_mutex_);
        stop_looking_ = true;
        look_again_.notify_one();
    }
    if (looking_after_.joinable())
        looking_after_.join();
}

}  // namespace lamella
