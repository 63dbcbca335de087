// SPDX-License-Identifier: Apache-2.0
//
// What the tools do to pools of a group.
#include <algorithm>
#include <set>

#include "tools/check.h"
#include "tools/pack.h"
#include "tools/shrink.h"
#include "volumes/engine_state.h"
#include "volumes/pool_check.h"

namespace lamella {

Result<VolumeInfo> EngineGroup::State::shrink_pool(const std::string& name, std::uint32_t extents, const ChangeOptions& change) {
    for (const lvm2::LogicalVolume& other : group().logical_volumes)
        if (const auto* thin = other.sole<lvm2::Thin>(); thin != nullptr && thin->pool == name)
            TRY(refuse_in_use(other));
    // What a crash left of a change of the pool is finished first.
    TRY(pool(name));
    TRY(close_pool(*TRY(find(name))));

    lvm2::VolumeGroup next = group();
    TRY(lvm2::reduce_pool(next, name, extents));
    const lvm2::ThinPool& segment = *group().logical_volume(name)->sole<lvm2::ThinPool>();
    const std::uint64_t data_blocks =
        next.size_bytes(*next.logical_volume(segment.data_volume)) / (std::uint64_t{segment.chunk_sectors} * sector_bytes);
    auto metadata = TRY(map(segment.metadata_volume));
    auto data = TRY(map(segment.data_volume));
    auto spare = TRY(map(lvm2::spare_metadata(group())->name));

    // Until the group's commit its pool is as it was: what is copied goes to free blocks, and the spare metadata is nobody's.
    std::atomic<bool> stop = false;
    tools::Control control{.stop = &stop};
    if (change.progress)
        control.progress = [&](std::uint64_t done, std::uint64_t total) { stop = stop || !change.progress({done, total}); };
    const auto stopped = [&](Error error) {
        return stop ? Error(ErrorKind::failed, fmt::format("{}: interrupted; the pool is as it was", name)) : error.within(name);
    };
    auto planned = tools::Shrink::plan(*metadata, data_blocks, control);
    if (!planned)
        return std::unexpected(stopped(std::move(planned).error()));
    const std::unique_ptr<tools::Shrink> shrink = *std::move(planned);
    TRY_WITHIN(name, shrink->check(*data, *spare));
    if (change.dry_run)
        return describe(next, *next.logical_volume(name), nullptr);
    if (auto written = shrink->write(data.get(), *spare, control); !written)
        return std::unexpected(stopped(std::move(written).error()));
    TRY(store.commit(std::move(next), fmt::format("shrink {}", name)));
    return describe(name);
}

Result<void> EngineGroup::State::check_idle_pool(const std::string& name) {
    for (const lvm2::LogicalVolume& other : group().logical_volumes)
        if (const auto* thin = other.sole<lvm2::Thin>(); thin != nullptr && thin->pool == name && in_use(other))
            return {};
    TRY(pool(name));
    TRY(close_pool(*TRY(find(name))));
    const auto metadata = TRY(map(group().logical_volume(name)->sole<lvm2::ThinPool>()->metadata_volume));
    const tools::CheckReport report = TRY_WITHIN(name, tools::check(*metadata, {}));
    if (report.grade > tools::Severity::leak)
        return fail(ErrorKind::damaged, "pool {}: nothing was changed: {}", name, report.findings.front().to_text());
    return {};
}

// The lock is free between the parts: volumes are opened and closed meanwhile.
Result<std::uint64_t> EngineGroup::trim(const std::string& pool, ChangeOptions options) {
    std::uint64_t block_bytes = 0;
    std::uint64_t total = 0;
    {
        std::lock_guard lock(state_->mutex);
        TRY(state_->writable(options));
        if (TRY(state_->find(pool))->sole<lvm2::ThinPool>() == nullptr)
            return fail(ErrorKind::usage, "{} is not a thin pool", pool);
        TRY(state_->check_idle_pool(pool));
        const thin::PoolStatus status = TRY(TRY(state_->pool(pool))->status());
        block_bytes = status.data_block_sectors * sector_bytes;
        total = status.data_blocks;
        if (options.dry_run)
            return (status.data_blocks - status.used_data_blocks) * block_bytes;
    }
    std::uint64_t blocks = 0;
    thin::ThinPool::Trimmed part;
    while (!part.done) {
        std::lock_guard lock(state_->mutex);
        part = TRY_WITHIN(pool, TRY(state_->pool(pool))->trim(part.next));
        blocks += part.blocks;
        const bool go_on = !options.progress || options.progress({std::min(part.next.value(), total) * block_bytes, total * block_bytes});
        if (!go_on && !part.done)
            return fail(ErrorKind::failed, "{}: interrupted after {} bytes were discarded", pool, blocks * block_bytes);
    }
    return blocks * block_bytes;
}

Result<PoolContents> EngineGroup::pool_contents(const std::string& pool, bool check) {
    std::lock_guard lock(state_->mutex);
    const lvm2::LogicalVolume* volume = TRY(state_->find(pool));
    const State::PoolView view = TRY_WITHIN(pool, state_->view_pool(*volume, true));
    PoolContents contents{.transaction_id = view.status.transaction_id,
                          .changing = !volume->sole<lvm2::ThinPool>()->messages.empty(),
                          .needs_check = view.status.needs_check};
    for (const auto& [id, details] : view.devices)
        contents.device_ids.push_back(id.value());
    std::ranges::sort(contents.device_ids);
    if (check && !state_->pool_is_open(*volume)) {
        const auto metadata = TRY(state_->map(volume->sole<lvm2::ThinPool>()->metadata_volume));
        contents.check = TRY_WITHIN(pool, check_metadata(*metadata));
    }
    return contents;
}

Result<std::vector<PoolDependent>> EngineGroup::pool_dependents(const std::string& pool) {
    std::lock_guard lock(state_->mutex);
    return state_->pool_dependents(*TRY(state_->find(pool)));
}

Result<std::vector<PoolDependent>> EngineGroup::State::pool_dependents(const lvm2::LogicalVolume& pool) {
    const PoolView view = TRY_WITHIN(pool.name, view_pool(pool, true));
    std::vector<PoolDependent> dependents;
    std::set<ThinId> unknown;
    for (const auto& [id, details] : view.devices)
        unknown.insert(id);
    for (const lvm2::LogicalVolume& volume : group().logical_volumes)
        if (const auto* thin = volume.sole<lvm2::Thin>(); thin != nullptr && thin->pool == pool.name) {
            unknown.erase(thin->device_id);
            dependents.push_back({.name = volume.name, .device_id = thin->device_id.value(), .used_by = in_use(volume) ? "open" : ""});
        }
    for (ThinId id : unknown)
        dependents.push_back({.device_id = id.value(), .foreign = true});
    return dependents;
}

Result<void> EngineGroup::remove_foreign(const std::string& name, const std::vector<PoolDependent>& dependents, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
    const std::vector<PoolDependent> now = TRY(state_->pool_dependents(*TRY(state_->find(name))));
    for (const PoolDependent& dependent : dependents) {
        const auto same = std::ranges::find(now, dependent.device_id, &PoolDependent::device_id);
        if (same == now.end() || !same->foreign || !dependent.device_id)
            return fail(ErrorKind::refused, "pool {}: device {} is no longer what it was", name, dependent.device_id.value_or(0));
    }
    if (options.dry_run)
        return {};
    for (const PoolDependent& dependent : dependents)
        TRY_WITHIN(name, TRY(state_->pool(name))->message(fmt::format("delete {}", *dependent.device_id)));
    return {};
}

Result<void> EngineGroup::State::read_metadata(const std::string& name, const ReadMetadata& read) {
    const lvm2::LogicalVolume* volume = TRY(find(name));
    const auto* segment = volume->sole<lvm2::ThinPool>();
    if (segment == nullptr)
        return fail(ErrorKind::usage, "{} is not a thin pool", name);
    const auto metadata = TRY(map(segment->metadata_volume));
    if (!pool_is_open(*volume)) {
        const PoolView view = TRY_WITHIN(name, view_pool(*volume, false));
        TRY_WITHIN(name, read(*metadata, view.status, false));
        return {};
    }
    thin::ThinPool* open = TRY(pool(name));
    thin::PoolStatus status = TRY(open->status());
    const bool held_before = status.held_root.has_value();
    if (!held_before) {
        TRY_WITHIN(name, open->reserve_metadata_snapshot());
        status = TRY(open->status());
    }
    Result<void> done = read(*metadata, status, true);
    if (!held_before)
        TRY_WITHIN(name, open->release_metadata_snapshot());
    TRY_WITHIN(name, std::move(done));
    return {};
}

Result<PackedMetadata> EngineGroup::pack_metadata(const std::string& pool, const std::string& file) {
    std::lock_guard lock(state_->mutex);
    PackedMetadata packed;
    TRY(state_->read_metadata(pool, [&](BlockDevice& metadata, const thin::PoolStatus& status, bool in_snapshot) -> Result<void> {
        packed = {TRY(tools::pack_into_file(metadata, file)).bytes, status.transaction_id, in_snapshot};
        return {};
    }));
    return packed;
}

Result<std::vector<ThinUsage>> EngineGroup::pool_usage(const std::string& pool) {
    std::lock_guard lock(state_->mutex);
    std::vector<ThinUsage> usage;
    TRY(state_->read_metadata(pool, [&](BlockDevice& metadata, const thin::PoolStatus&, bool in_snapshot) -> Result<void> {
        usage = TRY(thin_usage(metadata, in_snapshot));
        return {};
    }));
    return usage;
}

Result<VolumeInfo> EngineGroup::make_spare(ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
    lvm2::VolumeGroup next = state_->group();
    TRY(lvm2::make_spare(next, state_->stamp()));
    const std::string name = lvm2::spare_metadata(next)->name;
    if (options.dry_run)
        return state_->describe(next, *next.logical_volume(name), nullptr);
    TRY(state_->store.commit(std::move(next), "make spare metadata"));
    return state_->describe(name);
}

}  // namespace lamella
