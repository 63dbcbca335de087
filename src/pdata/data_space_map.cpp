// SPDX-License-Identifier: Apache-2.0
#include "pdata/data_space_map.h"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

namespace lamella::pdata {

namespace {

constexpr std::size_t most_regions = 16384;  // index entries in memory, about 1 MiB
constexpr std::uint64_t most_blocks = std::uint64_t{1} << 40;

}  // namespace

DataSpaceMap::DataSpaceMap(BlockCache& cache)
    : cache_(cache),
      index_tree_(cache, IndexEntry::disk_bytes, "index tree of the data space map"),
      overflow_tree_(cache, sizeof(std::uint32_t), "overflow tree of the data space map") {}

std::string DataSpaceMap::name() const { return fmt::format("data space map in {}", cache_.device().name()); }

Result<void> DataSpaceMap::start(TransactionManager& manager, std::uint64_t blocks) {
    TRY(load({}));
    index_root_ = TRY(index_tree_.create(manager));
    overflow_root_ = TRY(overflow_tree_.create(manager));
    return extend(manager, blocks);
}

Result<void> DataSpaceMap::load(const SpaceMapRoot& root) {
    if (root.blocks > most_blocks)
        return fail(ErrorKind::damaged, "{}: {} blocks, at most {} are possible", name(), root.blocks, most_blocks);
    if (root.allocated > root.blocks)
        return fail(ErrorKind::damaged, "{}: {} blocks allocated of {}", name(), root.allocated, root.blocks);
    blocks_ = root.blocks;
    allocated_ = root.allocated;
    index_root_ = MetadataBlock(root.bitmap_root);
    overflow_root_ = MetadataBlock(root.overflow_root);
    changed_ = false;
    regions_.clear();
    freed_.clear();
    if (cursor_ >= blocks_)
        cursor_ = 0;
    return {};
}

std::uint64_t DataSpaceMap::free() const { return blocks_ - std::min(blocks_, allocated_ + reserved_.count()); }

std::uint64_t DataSpaceMap::allocatable() const { return free() - std::min(free(), freed_.count() + quarantine_.count()); }

Result<std::uint32_t> DataSpaceMap::count(DataBlock block) {
    if (block.value() >= blocks_)
        return fail(ErrorKind::damaged, "{}: block {} lies beyond its {} blocks", name(), block, blocks_);
    Region* found = TRY(region(block.value() / entries_per_bitmap));
    BlockRef bitmap = TRY_WITHIN(name(), cache_.read(MetadataBlock(found->entry.location), BlockKind::bitmap));
    return full_count(bitmap.bytes(), block.value());
}

Result<DataBlock> DataSpaceMap::reserve() {
    std::optional<std::uint64_t> found;
    if (allocatable() > 0) {
        found = TRY(search(cursor_, blocks_));
        if (!found)
            found = TRY(search(0, cursor_));
    }
    if (!found)
        return fail(ErrorKind::no_space, "no free data block for {}", cache_.device().name());
    cursor_ = *found + 1;
    reserved_.insert(*found);
    return DataBlock(*found);
}

Result<void> DataSpaceMap::take(TransactionManager& manager, DataBlock block) {
    Writable writable;
    TRY(make_writable(manager, block.value() / entries_per_bitmap, writable));
    if (std::uint32_t old_count = TRY(full_count(writable.bitmap.bytes(), block.value())); old_count != 0)
        return fail(ErrorKind::damaged, "{}: block {} was free, but has a count of {}", name(), block, old_count);
    TRY(set_count(manager, writable, block.value(), 0, 1));
    reserved_.erase(block.value());
    return {};
}

Result<void> DataSpaceMap::increment(TransactionManager& manager, std::span<const std::uint64_t> blocks) {
    return adjust(manager, blocks, true);
}

Result<void> DataSpaceMap::decrement(TransactionManager& manager, std::span<const std::uint64_t> blocks) {
    return adjust(manager, blocks, false);
}

Result<void> DataSpaceMap::extend(TransactionManager& manager, std::uint64_t blocks) {
    if (blocks > most_blocks || blocks < blocks_)
        return fail(ErrorKind::usage, "{}: {} blocks asked for, it has {} and can have {}", name(), blocks, blocks_, most_blocks);
    std::uint64_t wanted = bitmaps_for(blocks);
    for (std::uint64_t index = bitmaps(); index < wanted; ++index) {
        IndexEntry entry;
        entry.location = TRY(manager.create(BlockKind::bitmap)).location().value();
        std::array<std::byte, IndexEntry::disk_bytes> value;
        entry.pack(value.data());
        TRY(index_tree_.insert(manager, index_root_, index, value.data()));
    }
    blocks_ = blocks;
    changed_ = true;
    return {};
}

Result<void> DataSpaceMap::trim(TransactionManager& manager) {
    if (regions_.size() < most_regions)
        return {};
    TRY(write_back(manager));
    regions_.clear();
    return {};
}

Result<SpaceMapRoot> DataSpaceMap::fold(TransactionManager& manager) {
    TRY(write_back(manager));
    return SpaceMapRoot{blocks_, allocated_, index_root_.value(), overflow_root_.value()};
}

void DataSpaceMap::committed() {
    quarantine_.insert(freed_);
    unclaimed_.insert(freed_);
    freed_.clear();
    changed_ = false;
}

Result<DataSpaceMap::Region*> DataSpaceMap::region(std::uint64_t index) {
    if (auto found = regions_.find(index); found != regions_.end())
        return &found->second;
    std::array<std::byte, IndexEntry::disk_bytes> value;
    if (!TRY(index_tree_.lookup(index_root_, index, value.data())))
        return fail(ErrorKind::damaged, "{}: bitmap {} is missing from the index tree", name(), index);
    IndexEntry entry = IndexEntry::unpack(value.data());
    if (entry.free > entries_per_bitmap || entry.none_free_before > entries_per_bitmap)
        return fail(ErrorKind::damaged, "{}: the entry of bitmap {} has {} free, none before {}, of {}", name(), index, entry.free,
                    entry.none_free_before, entries_per_bitmap);
    return &regions_.emplace(index, Region{.entry = entry}).first->second;
}

// Makes the bitmap this transaction's own. Its new place goes into the index tree at once, so that fold() needs no new nodes.
Result<void> DataSpaceMap::make_writable(TransactionManager& manager, std::uint64_t index, Writable& writable) {
    writable.bitmap = BlockRef();
    writable.region = TRY(region(index));
    writable.index = index;
    IndexEntry& entry = writable.region->entry;
    writable.bitmap = TRY_WITHIN(name(), manager.shadow(MetadataBlock(entry.location), BlockKind::bitmap)).block;
    if (writable.bitmap.location().value() != entry.location) {
        entry.location = writable.bitmap.location().value();
        if (!TRY(index_tree_.update(manager, index_root_, index, [&](std::byte* value) { entry.pack(value); })))
            return fail(ErrorKind::damaged, "{}: bitmap {} is missing from the index tree", name(), index);
    }
    return {};
}

Result<void> DataSpaceMap::adjust(TransactionManager& manager, std::span<const std::uint64_t> blocks, bool up) {
    Writable writable;
    for (std::uint64_t block : blocks) {
        if (block >= blocks_)
            return fail(ErrorKind::damaged, "{}: block {} lies beyond its {} blocks", name(), block, blocks_);
        std::uint64_t index = block / entries_per_bitmap;
        if (writable.region == nullptr || writable.index != index)
            TRY(make_writable(manager, index, writable));
        std::uint32_t old_count = TRY(full_count(writable.bitmap.bytes(), block));
        if (old_count == 0 || (up && old_count == std::numeric_limits<std::uint32_t>::max()))
            return fail(ErrorKind::damaged, "{}: block {} {} a referrer, but has a count of {}", name(), block, up ? "gets" : "loses",
                        old_count);
        TRY(set_count(manager, writable, block, old_count, up ? old_count + 1 : old_count - 1));
    }
    return {};
}

Result<void> DataSpaceMap::set_count(TransactionManager& manager, Writable& writable, std::uint64_t block, std::uint32_t old_count,
                                     std::uint32_t new_count) {
    if (new_count >= bitmap_overflow) {
        std::array<std::byte, sizeof(std::uint32_t)> value;
        store_little<std::uint32_t>(value.data(), new_count);
        TRY(overflow_tree_.insert(manager, overflow_root_, block, value.data()));
    } else if (old_count >= bitmap_overflow) {
        TRY(overflow_tree_.remove(manager, overflow_root_, block));
    }
    auto bit = static_cast<std::uint32_t>(block % entries_per_bitmap);
    set_bitmap_count(writable.bitmap.writable(), bit, std::min(new_count, bitmap_overflow));
    changed_ = true;
    IndexEntry& entry = writable.region->entry;
    if (old_count == 0) {
        if (entry.free == 0)
            return fail(ErrorKind::damaged, "{}: bitmap {} has more free blocks than its entry says", name(), writable.index);
        --entry.free;
        if (entry.none_free_before == bit)
            entry.none_free_before = bit + 1;
        ++allocated_;
        freed_.erase(block);
        writable.region->dirty = true;
    } else if (new_count == 0) {
        if (allocated_ == 0 || entry.free == entries_per_bitmap)
            return fail(ErrorKind::damaged, "{}: bitmap {} has fewer free blocks than its entry says", name(), writable.index);
        ++entry.free;
        entry.none_free_before = std::min(entry.none_free_before, bit);
        --allocated_;
        freed_.insert(block);
        writable.region->dirty = true;
    }
    return {};
}

Result<std::uint32_t> DataSpaceMap::full_count(const std::byte* bitmap, std::uint64_t block) {
    std::uint32_t bits = bitmap_count(bitmap, static_cast<std::uint32_t>(block % entries_per_bitmap));
    if (bits != bitmap_overflow)
        return bits;
    std::array<std::byte, sizeof(std::uint32_t)> value;
    if (!TRY(overflow_tree_.lookup(overflow_root_, block, value.data())))
        return fail(ErrorKind::damaged, "{}: the count of block {} is missing from the overflow tree", name(), block);
    auto count = load_little<std::uint32_t>(value.data());
    if (count < bitmap_overflow)
        return fail(ErrorKind::damaged, "{}: the overflow tree has a count of {} for block {}", name(), count, block);
    return count;
}

Result<std::optional<std::uint64_t>> DataSpaceMap::search(std::uint64_t from, std::uint64_t end) {
    for (std::uint64_t at = from; at < end;) {
        std::uint64_t index = at / entries_per_bitmap;
        std::uint64_t base = index * entries_per_bitmap;
        const IndexEntry& entry = TRY(region(index))->entry;
        if (entry.free > 0) {
            BlockRef bitmap = TRY_WITHIN(name(), cache_.read(MetadataBlock(entry.location), BlockKind::bitmap));
            auto last = static_cast<std::uint32_t>(std::min<std::uint64_t>(end - base, entries_per_bitmap));
            auto bit = std::max(static_cast<std::uint32_t>(at - base), entry.none_free_before);
            while (auto found = find_free_entry(bitmap.bytes(), nullptr, bit, last)) {
                if (!withheld(base + *found))
                    return base + *found;
                bit = *found + 1;
            }
        }
        at = base + entries_per_bitmap;
    }
    return std::nullopt;
}

Result<DataBlock> DataSpaceMap::quarantine_free(DataBlock from, std::uint64_t most, BlockSet& blocks) {
    const std::uint64_t stop = (from.value() / entries_per_bitmap + most_bitmaps) * entries_per_bitmap;
    const std::uint64_t end = std::min(blocks_, stop);
    for (std::uint64_t taken = 0; from.value() < end && taken < most; ++taken) {
        const auto found = TRY(search(from.value(), end));
        if (!found)
            return DataBlock(end);
        quarantine_.insert(*found);
        blocks.insert(*found);
        from = DataBlock(*found + 1);
    }
    return std::min(from, DataBlock(blocks_));
}

bool DataSpaceMap::withheld(std::uint64_t block) const {
    return reserved_.contains(block) || freed_.contains(block) || quarantine_.contains(block);
}

Result<void> DataSpaceMap::write_back(TransactionManager& manager) {
    std::vector<std::uint64_t> dirty;
    for (const auto& [index, entry] : regions_)
        if (entry.dirty)
            dirty.push_back(index);
    std::ranges::sort(dirty);
    for (std::uint64_t index : dirty) {
        Region& changed = regions_.at(index);
        if (!TRY(index_tree_.update(manager, index_root_, index, [&](std::byte* value) { changed.entry.pack(value); })))
            return fail(ErrorKind::damaged, "{}: bitmap {} is missing from the index tree", name(), index);
        changed.dirty = false;
    }
    return {};
}

}  // namespace lamella::pdata
