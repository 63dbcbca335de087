// SPDX-License-Identifier: Apache-2.0
#include "tools/volume_trees.h"

#include <algorithm>
#include <mutex>

#include "pdata/bitmap.h"
#include "pdata/metadata_space_map.h"
#include "tools/plain_tree.h"

namespace lamella::tools {

using pdata::Node;
using thin::Superblock;

namespace {

constexpr std::uint32_t root_bytes = 8;
constexpr std::uint32_t details_bytes = 24;

thin::DeviceDetails unpack_details(const std::byte* value) {
    return {load_little<std::uint64_t>(value), load_little<std::uint64_t>(value + 8), load_little<std::uint32_t>(value + 16),
            load_little<std::uint32_t>(value + 20)};
}

}  // namespace

Result<thin::Superblock> read_superblock(BlockDevice& metadata, MetadataBlock location) {
    AlignedBuffer block(pdata::block_bytes);
    if (location.value() >= metadata.size() / block.size())
        return fail(ErrorKind::damaged, "{}: {} bytes are too few for a superblock in block {}", metadata.name(), metadata.size(),
                    location);
    TRY_WITHIN(metadata.name(), read_now(metadata, location.value() * block.size(), block.bytes()));
    return TRY_WITHIN(metadata.name(), thin::Superblock::unpack(block.bytes(), false, location));
}

bool can_count(std::uint64_t metadata_blocks, std::uint64_t data_blocks) {
    // Each bitmap is a metadata block, and maps what it has room for.
    return data_blocks <= thin::max_data_blocks &&
           data_blocks / pdata::entries_per_bitmap <= std::min(metadata_blocks, pdata::MetadataSpaceMap::max_blocks);
}

Result<bool> read_volumes(MetadataReader& reader, BlockTable& table, const Superblock& superblock, bool in_metadata_snapshot,
                          Findings& findings, const Control& control, VolumeEntries& volumes) {
    std::mutex mutex;
    bool devices = TRY(walk_plain_tree(
        reader, table,
        {.name = "tree of volumes",
         .use = BlockUse::device_tree,
         .value_size = root_bytes,
         .root = superblock.data_mapping_root,
         .in_metadata_snapshot = in_metadata_snapshot},
        findings,
        [&](MetadataBlock, const Node& leaf, bool first_visit) {
            std::lock_guard lock(mutex);
            for (std::uint32_t index = 0; index < leaf.entries(); ++index) {
                VolumeEntry& volume = volumes[leaf.key(index)];
                volume.root = leaf.child(index);
                volume.root_counted = !first_visit;
            }
        },
        control));
    bool details = TRY(walk_plain_tree(
        reader, table,
        {.name = "tree of volumes' details",
         .use = BlockUse::details_tree,
         .value_size = details_bytes,
         .root = superblock.device_details_root,
         .in_metadata_snapshot = in_metadata_snapshot},
        findings,
        [&](MetadataBlock, const Node& leaf, bool) {
            std::lock_guard lock(mutex);
            for (std::uint32_t index = 0; index < leaf.entries(); ++index)
                volumes[leaf.key(index)].details = unpack_details(leaf.value(index));
        },
        control));
    return devices && details;
}

Result<std::unique_ptr<PoolMetadata>> PoolMetadata::open(BlockDevice& device, bool metadata_snapshot, unsigned threads,
                                                         const Control& control) {
    std::unique_ptr<PoolMetadata> pool(new PoolMetadata);
    pool->superblock_ = TRY(read_superblock(device));
    pool->reader_ = TRY(MetadataReader::start(device, {.threads = threads}));
    pool->table_ = TRY(BlockTable::create(pool->reader_->blocks()));
    pool->forest_ = std::make_unique<MappingForest>(*pool->reader_, *pool->table_);
    pool->data_blocks_ = pdata::SpaceMapRoot::unpack(pool->superblock_.data_space_map_root.data()).blocks;
    if (pool->data_blocks_ / pdata::entries_per_bitmap > pool->reader_->blocks())
        return fail(ErrorKind::damaged, "{}: superblock: {} data blocks, more than this metadata can count", device.name(),
                    pool->data_blocks_);
    const Superblock looked_at = metadata_snapshot ? TRY(pool->held_superblock()) : pool->superblock_;
    TRY(read_volumes(*pool->reader_, *pool->table_, looked_at, metadata_snapshot, pool->findings_, control, pool->volumes_));
    TRY(pool->sound());
    for (const auto& [id, volume] : pool->volumes_)
        if (id > thin::max_thin_id || !volume.root || !volume.details)
            return fail(ErrorKind::damaged, "{}: volume {}: {}", device.name(), id,
                        !volume.root      ? "it has details, but no mappings"
                        : !volume.details ? "it has mappings, but no details"
                                          : "there can be no such id");
    return pool;
}

Result<Superblock> PoolMetadata::held_superblock() const {
    MetadataBlock location = superblock_.held_root;
    if (location.value() == 0)
        return fail(ErrorKind::not_found, "{} has no metadata snapshot", reader_->device().name());
    AlignedBuffer block(pdata::block_bytes);
    TRY_WITHIN("metadata snapshot", reader_->read_block(location, pdata::BlockKind::superblock, block.bytes()));
    return TRY_WITHIN("metadata snapshot", Superblock::unpack(block.bytes(), false, location));
}

Result<VolumeEntries> PoolMetadata::held_volumes(const Control& control) {
    VolumeEntries volumes;
    TRY(read_volumes(*reader_, *table_, TRY(held_superblock()), true, findings_, control, volumes));
    TRY(sound());
    return volumes;
}

Result<const VolumeEntry*> PoolMetadata::volume(ThinId id) const {
    auto found = volumes_.find(id.value());
    if (found == volumes_.end())
        return fail(ErrorKind::not_found, "{} has no volume {}", reader_->device().name(), id);
    return &found->second;
}

Result<void> PoolMetadata::sound() const {
    std::string text;
    if (auto finding = findings_.first())
        text = finding->to_text();
    else if (auto fault = table_->first_fault())
        text = std::move(*fault);
    else
        return {};
    return fail(ErrorKind::damaged, "{}: {}", reader_->device().name(), text);
}

}  // namespace lamella::tools
