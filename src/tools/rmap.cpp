// SPDX-License-Identifier: Apache-2.0
//
// Leaves with mappings to the ranges are found in one pass over all leaves, each once. Then the way to them is traced from each volume
// that leads there.
#include "tools/rmap.h"

#include <algorithm>
#include <tuple>

#include "tools/volume_trees.h"

namespace lamella::tools {

using pdata::Node;

namespace {

// Sorted, without overlaps.
std::vector<DataRange> merged(std::span<const DataRange> ranges) {
    std::vector<DataRange> sorted(ranges.begin(), ranges.end());
    std::ranges::sort(sorted, {}, &DataRange::begin);
    std::vector<DataRange> result;
    for (const DataRange& range : sorted)
        if (!result.empty() && range.begin <= result.back().end)
            result.back().end = std::max(result.back().end, range.end);
        else
            result.push_back(range);
    return result;
}

bool contains(std::span<const DataRange> ranges, DataBlock block) {
    auto after = std::ranges::upper_bound(ranges, block, {}, &DataRange::begin);
    return after != ranges.begin() && block < std::prev(after)->end;
}

DataBlock data_block(const Node& leaf, std::uint32_t index) { return DataBlock(load_little<std::uint64_t>(leaf.value(index)) >> 24); }

}  // namespace

Result<std::vector<ReverseMapping>> reverse_map(BlockDevice& metadata, std::span<const DataRange> ranges, const Control& control) {
    for (const DataRange& range : ranges)
        if (range.end <= range.begin)
            return fail(ErrorKind::usage, "data blocks {} to {}: an empty range", range.begin, range.end);
    const std::vector<DataRange> wanted = merged(ranges);
    auto pool = TRY(PoolMetadata::open(metadata, false, 0, control));
    std::vector<ForestRoot> roots;
    for (const auto& [id, volume] : pool->volumes())
        roots.push_back({.root = *volume.root});
    MappingForest& forest = pool->forest();
    TRY(forest.descend(roots, control));
    TRY(forest.visit_leaves(
        forest.leaves(),
        [&](unsigned, MetadataBlock location, const Node& leaf) {
            std::uint32_t found = 0;
            for (std::uint32_t index = 0; index < leaf.entries(); ++index)
                found += contains(wanted, data_block(leaf, index));
            pool->table()[location].mapped = found;
        },
        control));
    TRY(pool->sound());
    TRY(forest.add_up(control));

    std::vector<ReverseMapping> result;
    for (const auto& [id, volume] : pool->volumes()) {
        const ThinId thin_id(static_cast<std::uint32_t>(id));
        const std::size_t first = result.size();
        TRY(forest.visit_counted_leaves(*volume.root, [&](const Node& leaf) {
            for (std::uint32_t index = 0; index < leaf.entries(); ++index)
                if (DataBlock block = data_block(leaf, index); contains(wanted, block)) {
                    VirtualBlock virtual_block(leaf.key(index));
                    if (result.size() > first && result.back().data.end == block &&
                        result.back().virtual_begin + (block - result.back().data.begin) == virtual_block)
                        ++result.back().data.end;
                    else
                        result.push_back({.data = {block, block + 1}, .volume = thin_id, .virtual_begin = virtual_block});
                }
        }));
        if (control.stopped())
            return Control::interrupted();
    }
    std::ranges::sort(result, {}, [](const ReverseMapping& run) { return std::tuple(run.data.begin, run.volume, run.virtual_begin); });
    return result;
}

}  // namespace lamella::tools
