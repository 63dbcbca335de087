// SPDX-License-Identifier: Apache-2.0
#include "tools/metadata_counts.h"

#include <algorithm>
#include <array>

#include "pdata/block.h"
#include "pdata/metadata_space_map.h"
#include "tools/salvage_walk.h"

namespace lamella::tools {

namespace {
constexpr std::size_t index_header_bytes = 16;
}

MetadataCounts MetadataCounts::read(NodeCatalog& catalog, const pdata::SpaceMapRoot& root) {
    MetadataCounts counts(catalog.blocks());
    const MetadataReader& reader = catalog.reader();
    std::array<std::byte, pdata::block_bytes> index;
    const MetadataBlock index_location(root.bitmap_root);
    counts.own_.push_back(index_location);
    if (root.blocks > pdata::MetadataSpaceMap::max_blocks || !reader.read_block(index_location, pdata::BlockKind::index, index))
        return counts;
    counts.complete_ = true;
    const std::uint64_t bitmaps = (root.blocks + pdata::entries_per_bitmap - 1) / pdata::entries_per_bitmap;
    for (std::uint64_t number = 0; number < bitmaps; ++number) {
        const auto entry = pdata::IndexEntry::unpack(index.data() + index_header_bytes + number * pdata::IndexEntry::disk_bytes);
        counts.own_.push_back(MetadataBlock(entry.location));
        std::array<std::byte, pdata::block_bytes> bitmap;
        if (!reader.read_block(MetadataBlock(entry.location), pdata::BlockKind::bitmap, bitmap)) {
            counts.complete_ = false;
            continue;
        }
        const std::uint64_t base = number * pdata::entries_per_bitmap;
        const std::uint64_t end = std::min({base + pdata::entries_per_bitmap, root.blocks, counts.blocks()});
        for (std::uint64_t block = base; block < end; ++block) {
            const std::uint32_t count = pdata::bitmap_count(bitmap.data(), static_cast<std::uint32_t>(block - base));
            counts.counts_[block] = count == pdata::bitmap_overflow ? unknown : count;
        }
    }
    // Blocks that the map doesn't reach are not in use.
    if (root.blocks < counts.blocks())
        std::fill(counts.counts_.begin() + static_cast<std::ptrdiff_t>(root.blocks), counts.counts_.end(), 0);
    SalvageWalk overflow(
        catalog, sizeof(std::uint32_t),
        [&](std::uint64_t block, const std::byte* value) {
            if (block < counts.blocks() && counts.counts_[block] == unknown)
                counts.counts_[block] = load_little<std::uint32_t>(value);
        },
        [&](MetadataBlock block) {
            counts.own_.push_back(block);
            return true;
        },
        [&](KeyRange, MetadataBlock) { counts.complete_ = false; });
    overflow.walk(MetadataBlock(root.overflow_root));
    return counts;
}

}  // namespace lamella::tools
