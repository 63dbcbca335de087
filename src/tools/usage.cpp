// SPDX-License-Identifier: Apache-2.0
//
// A leaf that leads several volumes to a block shows by itself that the block is shared. A leaf of one volume alone shows it where
// another leaf refers to the same block. So what a volume has to itself are the blocks with one reference in leaves that are its alone.
#include "tools/usage.h"

#include <algorithm>
#include <unordered_map>

#include "tools/data_block_counts.h"
#include "tools/volume_trees.h"

namespace lamella::tools {

using pdata::Node;

namespace {

void add_leaf(const Node& leaf, MetadataBlock location, DataBlockCounts& counts, bool mark, PoolMetadata& pool) {
    const std::uint32_t entries = leaf.entries();
    const std::byte* values = leaf.value(0);
    auto block_at = [values](std::uint32_t index) { return DataBlock(load_little<std::uint64_t>(values + std::size_t{index} * 8) >> 24); };
    for (std::uint32_t index = 0; index < entries; ++index) {
        if (block_at(index).value() >= counts.blocks()) {
            pool.table().add_fault(location,
                                   {.text = fmt::format("mapped to data block {}; the pool has {}", block_at(index), counts.blocks())});
            return;
        }
        counts.prefetch(block_at(index));
    }
    for (std::uint32_t index = 0; index < entries; ++index)
        counts.add(block_at(index), mark);
}

Result<void> find_exclusive(PoolMetadata& pool, Usage& usage, const Control& control) {
    auto counts = TRY(DataBlockCounts::create(pool.data_blocks()));
    MappingForest& forest = pool.forest();
    std::vector<std::vector<std::uint64_t>> exclusive(pool.reader().threads(), std::vector<std::uint64_t>(usage.volumes.size()));
    auto owner_of = [&](MetadataBlock location) -> std::optional<std::size_t> {
        std::uint32_t owner = pool.table()[location].owner;
        return owner == 0 || owner == BlockRecord::many_owners ? std::nullopt : std::optional<std::size_t>(owner - 1);
    };
    // Only the pool's own leaves: what the metadata snapshot alone refers to is no volume's.
    auto live = [&](MetadataBlock location) { return (pool.table()[location].marks & BlockRecord::live) != 0; };
    TRY(forest.visit_leaves(
        forest.leaves(),
        [&](unsigned thread, MetadataBlock location, const Node& leaf) {
            if (!live(location))
                return;
            add_leaf(leaf, location, *counts, false, pool);
            if (auto owner = owner_of(location))
                exclusive[thread][*owner] += leaf.entries();
        },
        control));
    TRY(pool.sound());
    if (counts->has_shared()) {
        // Some of these are shared after all.
        TRY(forest.visit_leaves(forest.leaves(),
                                [&](unsigned thread, MetadataBlock location, const Node& leaf) {
                                    auto owner = owner_of(location);
                                    if (!owner || !live(location))
                                        return;
                                    for (std::uint32_t index = 0; index < leaf.entries(); ++index)
                                        if (counts->count(DataBlock(load_little<std::uint64_t>(leaf.value(index)) >> 24)) > 1)
                                            --exclusive[thread][*owner];
                                },
                                {.stop = control.stop}));
    }
    for (const auto& of_thread : exclusive)
        for (std::size_t index = 0; index < of_thread.size(); ++index)
            usage.volumes[index].exclusive_blocks += of_thread[index];
    return {};
}

// Blocks that leaves refer to which only deleted volumes lead to, and no other leaf.
Result<std::uint64_t> count_freed(PoolMetadata& pool, const Control& control) {
    auto counts = TRY(DataBlockCounts::create(pool.data_blocks()));
    MappingForest& forest = pool.forest();
    TRY(forest.visit_leaves(forest.leaves(),
                            [&](unsigned, MetadataBlock location, const Node& leaf) {
                                const bool kept = (pool.table()[location].marks & BlockRecord::kept) != 0;
                                add_leaf(leaf, location, *counts, kept, pool);
                            },
                            {.stop = control.stop}));
    TRY(pool.sound());
    std::uint64_t freed = 0;
    for (std::uint64_t block = 0; block < counts->blocks(); ++block)
        freed += counts->referenced(DataBlock(block)) && !counts->in_place(DataBlock(block));
    return freed;
}

Result<void> find_highest(PoolMetadata& pool, Usage& usage) {
    std::unordered_map<std::uint64_t, std::optional<VirtualBlock>> known;  // by root: snapshots often share it
    AlignedBuffer bytes(pdata::block_bytes);
    for (VolumeUsage& volume : usage.volumes) {
        MetadataBlock at = *pool.volumes().at(volume.id.value()).root;
        auto [entry, is_new] = known.try_emplace(at.value());
        for (unsigned depth = 0; is_new; ++depth) {
            TRY(pool.reader().read_block(at, pdata::BlockKind::node, bytes.bytes()));
            TRY_WITHIN(pool.reader().describe(at), pdata::verify_node(bytes.data()));
            Node node(bytes.data());
            if (node.is_leaf() && node.entries() > 0)
                entry->second = VirtualBlock(node.key(node.entries() - 1));
            if (node.is_leaf())
                break;
            if (depth >= pdata::Btree::max_depth)
                return fail(ErrorKind::damaged, "{}: deeper than a tree can be", pool.reader().describe(at));
            at = node.child(node.entries() - 1);
        }
        volume.highest_mapped = entry->second;
    }
    return {};
}

}  // namespace

Result<Usage> usage(BlockDevice& metadata, const UsageOptions& options) {
    auto pool = TRY(PoolMetadata::open(metadata, options.metadata_snapshot, options.threads, options.control));
    for (ThinId id : options.deleted)
        TRY(pool->volume(id));
    Usage usage{.data_block_sectors = pool->superblock().data_block_sectors};
    std::vector<ForestRoot> roots;
    for (const auto& [id, volume] : pool->volumes()) {
        ThinId thin_id(static_cast<std::uint32_t>(id));
        usage.volumes.push_back({.id = thin_id, .details = *volume.details});
        const bool deleted = std::ranges::find(options.deleted, thin_id) != options.deleted.end();
        roots.push_back({.root = *volume.root,
                         .owner = static_cast<std::uint32_t>(usage.volumes.size()),
                         .marks = static_cast<std::uint8_t>(BlockRecord::live | (deleted ? 0 : BlockRecord::kept))});
    }
    if (options.exclusive || !options.deleted.empty()) {
        if (!options.deleted.empty() && !options.metadata_snapshot && pool->superblock().held_root.value() != 0)
            for (const auto& [id, volume] : TRY(pool->held_volumes(options.control)))
                if (volume.root)
                    roots.push_back({.root = *volume.root, .marks = BlockRecord::kept});
        TRY(pool->forest().descend(roots, options.control));
        TRY(pool->sound());
    }
    if (options.exclusive)
        TRY(find_exclusive(*pool, usage, options.control));
    if (!options.deleted.empty())
        usage.freed_blocks = TRY(count_freed(*pool, options.control));
    if (options.highest)
        TRY(find_highest(*pool, usage));
    return usage;
}

}  // namespace lamella::tools
