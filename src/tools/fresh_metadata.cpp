// SPDX-License-Identifier: Apache-2.0
#include "tools/fresh_metadata.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/endian.h"
#include "tools/tree_builder.h"

namespace lamella::tools {

using pdata::BlockKind;
using pdata::entries_per_bitmap;
using pdata::IndexEntry;

namespace {

constexpr std::uint32_t details_bytes = 24;

// Where the magic of a superblock would be there are letters.
constexpr std::string_view under_way =
    "This is not the metadata of a thin pool: a restore onto it began, and did not end. Restore once more, or give the device another "
    "use.\n";

}  // namespace

Result<void> begin_fresh_metadata(BlockDevice& device) {
    AlignedBuffer note(pdata::block_bytes);
    std::memcpy(note.data(), under_way.data(), under_way.size());
    TRY(write_now(device, 0, note.bytes()));
    return flush_now(device);
}

Result<void> write_device_trees(BlockStream& stream, std::span<const FreshDevice> devices, thin::Superblock& superblock) {
    TreeBuilder roots(stream, sizeof(std::uint64_t));
    TreeBuilder details(stream, details_bytes);
    for (const FreshDevice& device : devices) {
        std::byte value[details_bytes];
        store_little<std::uint64_t>(value, device.root.value());
        TRY(roots.add(device.id.value(), value));
        store_little<std::uint64_t>(value, device.details.mapped_blocks);
        store_little<std::uint64_t>(value + 8, device.details.transaction_id);
        store_little<std::uint32_t>(value + 16, device.details.creation_time);
        store_little<std::uint32_t>(value + 20, device.details.snapshotted_time);
        TRY(details.add(device.id.value(), value));
    }
    superblock.data_mapping_root = TRY(roots.finish());
    superblock.device_details_root = TRY(details.finish());
    return {};
}

// The blocks of the map itself are known before it is written: those of its overflow tree are of no interest to that tree, for their
// count is 1, and bitmaps and index are as many as the device asks for.
Result<pdata::SpaceMapRoot> write_metadata_space_map(BlockStream& stream, std::vector<std::uint32_t>& counts, std::uint64_t blocks) {
    pdata::SpaceMapRoot root;
    root.blocks = blocks;
    TreeBuilder overflow(stream, sizeof(std::uint32_t));
    for (std::uint64_t block = 0; block < counts.size(); ++block) {
        if (counts[block] < pdata::bitmap_overflow)
            continue;
        std::byte value[sizeof(std::uint32_t)];
        store_little<std::uint32_t>(value, counts[block]);
        TRY(overflow.add(block, value));
    }
    root.overflow_root = TRY(overflow.finish()).value();

    const std::uint64_t bitmaps = pdata::bitmaps_for(blocks);
    const std::uint64_t used = stream.position().value() + bitmaps + 1;
    counts.resize(used, 1);
    root.allocated = static_cast<std::uint64_t>(std::ranges::count_if(counts, [](std::uint32_t count) { return count != 0; }));
    std::vector<IndexEntry> index;
    for (std::uint64_t number = 0; number < bitmaps; ++number) {
        const BlockStream::Place place = TRY(stream.next(BlockKind::bitmap));
        const std::uint64_t first = number * entries_per_bitmap;
        for (std::uint64_t block = first; block < std::min<std::uint64_t>(used, first + entries_per_bitmap); ++block)
            pdata::set_bitmap_count(place.bytes, static_cast<std::uint32_t>(block - first),
                                    std::min(counts[block], pdata::bitmap_overflow));
        IndexEntry& entry = index.emplace_back();
        entry.location = place.location.value();
        entry.free = entries_per_bitmap - pdata::count_allocated_entries(place.bytes);
        entry.none_free_before = pdata::find_free_entry(place.bytes, nullptr, 0, entries_per_bitmap).value_or(entries_per_bitmap);
    }
    const BlockStream::Place place = TRY(stream.next(BlockKind::index));
    for (std::size_t number = 0; number < index.size(); ++number)
        index[number].pack(place.bytes + pdata::bitmap_header_bytes + number * IndexEntry::disk_bytes);
    root.bitmap_root = place.location.value();
    return root;
}

Result<void> end_fresh_metadata(BlockDevice& device, BlockStream& stream, const thin::Superblock& superblock) {
    TRY(stream.finish());
    TRY(flush_now(device));
    AlignedBuffer block(pdata::block_bytes);
    superblock.pack(block.bytes());
    TRY(write_now(device, 0, block.bytes()));
    return flush_now(device);
}

}  // namespace lamella::tools
