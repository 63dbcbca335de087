// SPDX-License-Identifier: Apache-2.0
//
// Pools made of volumes that are there; and what asks more of the host's LVM than of this engine.
#include "lvm2/allocation.h"
#include "volumes/engine_state.h"
#include "volumes/size_request.h"

namespace lamella {

Result<lvm2::Discards> parse_discards(const std::string& word) {
    for (lvm2::Discards known : {lvm2::Discards::passdown, lvm2::Discards::nopassdown, lvm2::Discards::ignore})
        if (word == lvm2::to_string(known))
            return known;
    return fail(ErrorKind::usage, "discards are passdown, nopassdown or ignore, not '{:.40}'", word);
}

Result<void> EngineGroup::State::format_pool(const lvm2::VolumeGroup& next, const std::string& name) const {
    const auto* segment = next.logical_volume(name)->sole<lvm2::ThinPool>();
    const lvm2::LogicalVolume* metadata = next.logical_volume(segment->metadata_volume);
    const lvm2::LogicalVolume* data = next.logical_volume(segment->data_volume);
    auto device = TRY(mapper::VolumeDevice::open(next, *metadata, find_device()));
    return thin::ThinPool::format(*device, next.size_bytes(*data), segment->chunk_sectors);
}

Result<VolumeInfo> EngineGroup::convert_to_pool(const ConvertToPool& request, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
    if (!request.metadata.empty() && request.metadata_size)
        return fail(ErrorKind::usage, "{} has the size that it has", request.metadata);
    if (request.autoextend_threshold != 0)
        return fail(ErrorKind::unsupported, "only pools of a group that the host's LVM runs are extended automatically");
    TRY(state_->refuse_in_use(*TRY(state_->find(request.name))));
    if (!request.metadata.empty())
        TRY(state_->refuse_in_use(*TRY(state_->find(request.metadata))));
    lvm2::VolumeGroup next = state_->group();
    lvm2::PoolConversion conversion{.data = request.name, .metadata = request.metadata};
    if (request.chunk_size < lvm2::min_chunk_bytes || request.chunk_size > lvm2::max_chunk_bytes || request.chunk_size % sector_bytes != 0)
        return fail(ErrorKind::usage, "chunk size {} is not a multiple of 64 KiB between 64 KiB and 1 GiB", request.chunk_size);
    conversion.chunk_sectors = static_cast<std::uint32_t>(request.chunk_size / sector_bytes);
    if (request.metadata_size)
        conversion.metadata_extents = TRY(checked_extents(next.extents_for(*request.metadata_size)));
    conversion.discards = TRY(parse_discards(request.discards));
    conversion.zero_new_blocks = request.zero_new_blocks;
    conversion.error_when_full = request.error_when_full;
    conversion.created = state_->stamp();
    TRY(lvm2::convert_to_pool(next, conversion));
    if (options.dry_run)
        return state_->describe(next, *next.logical_volume(request.name), nullptr);
    TRY_WITHIN(request.name, state_->format_pool(next, request.name));
    TRY(state_->store.commit(std::move(next), fmt::format("convert {} to a pool", request.name)));
    return state_->describe(request.name);
}

Result<VolumeInfo> EngineGroup::change_pool(const ChangePool& request, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
    if (request.autoextend_threshold != 0 || !request.profile.empty())
        return fail(ErrorKind::unsupported, "only pools of a group that the host's LVM runs are extended automatically");
    const lvm2::LogicalVolume& volume = *TRY(state_->find(request.name));
    const auto* pool = volume.sole<lvm2::ThinPool>();
    if (pool == nullptr)
        return fail(ErrorKind::usage, "{} is not a thin pool", request.name);
    const lvm2::Discards discards = request.discards.empty() ? pool->discards : TRY(parse_discards(request.discards));
    // Whether its volumes take discards at all, whoever has them open was told when he opened them.
    const bool anew = (discards == lvm2::Discards::ignore) != (pool->discards == lvm2::Discards::ignore);
    if (anew)
        for (const lvm2::LogicalVolume& other : state_->group().logical_volumes)
            if (const auto* thin = other.sole<lvm2::Thin>(); thin != nullptr && thin->pool == request.name)
                TRY(state_->refuse_in_use(other));
    lvm2::VolumeGroup next = state_->group();
    TRY(lvm2::set_pool_options(next, request.name, discards, pool->zero_new_blocks,
                               request.error_when_full.value_or(volume.error_when_full())));
    if (options.dry_run) {
        VolumeInfo info = TRY(state_->describe(request.name));
        info.discards = lvm2::to_string(discards);
        info.error_when_full = request.error_when_full.value_or(info.error_when_full);
        return info;
    }
    if (anew)
        TRY(state_->close_pool(volume));
    TRY(state_->store.commit(std::move(next), fmt::format("change {}", request.name)));
    TRY_WITHIN("the group's text is changed, but the pool in use isn't", state_->refresh_pool(*TRY(state_->find(request.name))));
    return state_->describe(request.name);
}

Result<AutomaticExtension> EngineGroup::automatic_extension(const std::string&) {
    return fail(ErrorKind::unsupported, "only pools of a group that the host's LVM runs are extended automatically");
}

Result<VolumeInfo> EngineGroup::swap_metadata(const std::string& pool, const std::string& volume, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
    const lvm2::LogicalVolume* of = TRY(state_->find(pool));
    TRY(state_->refuse_in_use(*TRY(state_->find(volume))));
    for (const lvm2::LogicalVolume& other : state_->group().logical_volumes)
        if (const auto* thin = other.sole<lvm2::Thin>(); thin != nullptr && thin->pool == pool)
            TRY(state_->refuse_in_use(other));
    lvm2::VolumeGroup next = state_->group();
    TRY(lvm2::swap_metadata(next, pool, volume));
    if (options.dry_run)
        return state_->describe(next, *next.logical_volume(pool), nullptr);
    TRY(state_->close_pool(*of));
    TRY(state_->store.commit(std::move(next), fmt::format("swap metadata of {} with {}", pool, volume)));
    // The metadata may be damaged: that it is what the text says now has been done all the same.
    return state_->describe(state_->group(), *state_->group().logical_volume(pool), nullptr);
}

// Opening the group has looked closely: it refuses two copies of one physical volume.
Result<std::vector<PhysicalVolumeInfo>> EngineGroup::inspect_disks() { return TRY(info()).physical_volumes; }

Result<std::vector<VolumeInfo>> EngineGroup::set_active(const SetActive&, ChangeOptions) {
    return fail(ErrorKind::unsupported,
                "only a group that the host's LVM runs is activated; the volumes of this one are used through lamella serve or lamella "
                "attach");
}

}  // namespace lamella
