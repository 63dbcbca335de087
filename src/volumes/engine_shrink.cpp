// SPDX-License-Identifier: Apache-2.0
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

}  // namespace lamella
