// SPDX-License-Identifier: Apache-2.0
//
// What the tools do to pools of a group.
#include "tools/check.h"
#include "tools/shrink.h"
#include "volumes/engine_state.h"

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

    tools::Control control;
    if (change.progress)
        control.progress = [&](std::uint64_t done, std::uint64_t total) { change.progress({done, total}); };
    auto shrink = TRY_WITHIN(name, tools::Shrink::plan(*metadata, data_blocks, control));
    TRY_WITHIN(name, shrink->check(*data, *spare));
    if (change.dry_run)
        return describe(next, *next.logical_volume(name), nullptr);
    TRY_WITHIN(name, shrink->write(data.get(), *spare, control));
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
        TRY(state_->writable());
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
        if (options.progress)
            options.progress({std::min(part.next.value(), total) * block_bytes, total * block_bytes});
    }
    return blocks * block_bytes;
}

}  // namespace lamella
