// SPDX-License-Identifier: Apache-2.0
#include "pdata/metadata_space_map.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "pdata/btree.h"
#include "pdata/transaction.h"

namespace lamella::pdata {

namespace {

constexpr std::size_t index_header_bytes = 16;
static_assert(index_header_bytes + MetadataSpaceMap::max_bitmaps * IndexEntry::disk_bytes == block_bytes);

}  // namespace

MetadataSpaceMap::MetadataSpaceMap(BlockCache& cache)
    : cache_(cache), overflow_tree_(std::make_unique<Btree>(cache, sizeof(std::uint32_t), "overflow tree of the metadata space map")) {}
MetadataSpaceMap::~MetadataSpaceMap() = default;

std::string MetadataSpaceMap::name() const { return fmt::format("metadata space map of {}", cache_.device().name()); }

Result<void> MetadataSpaceMap::start(std::uint64_t blocks) {
    blocks_ = allocated_ = allocatable_ = cursor_ = 0;
    index_location_ = overflow_root_ = MetadataBlock(0);
    index_loaded_ = true;
    index_.clear();
    bitmaps_.clear();
    overflow_changes_.clear();
    return extend(blocks);
}

Result<void> MetadataSpaceMap::load(const SpaceMapRoot& root) {
    if (root.blocks > max_blocks)
        return fail(ErrorKind::damaged, "{}: {} blocks, at most {} are possible", name(), root.blocks, max_blocks);
    if (root.allocated > root.blocks)
        return fail(ErrorKind::damaged, "{}: {} blocks allocated of {}", name(), root.allocated, root.blocks);
    blocks_ = root.blocks;
    allocated_ = root.allocated;
    allocatable_ = blocks_ - allocated_;
    cursor_ = 0;
    index_location_ = MetadataBlock(root.bitmap_root);
    overflow_root_ = MetadataBlock(root.overflow_root);
    index_loaded_ = false;
    changed_ = false;
    std::size_t bitmaps = bitmaps_for(blocks_);
    index_.assign(bitmaps, IndexEntry{});
    bitmaps_.clear();
    bitmaps_.resize(bitmaps);
    overflow_changes_.clear();
    return {};
}

Result<std::uint32_t> MetadataSpaceMap::count(MetadataBlock block) {
    Bitmap* bitmap = TRY(bitmap_of(block));
    std::uint32_t bits = bitmap_count(bitmap->working.data(), block.value() % entries_per_bitmap);
    return bits == bitmap_overflow ? overflow_count(block) : bits;
}

Result<bool> MetadataSpaceMap::is_new(MetadataBlock block) {
    Bitmap* bitmap = TRY(bitmap_of(block));
    return bitmap_count(bitmap->committed.data(), block.value() % entries_per_bitmap) == 0;
}

Result<MetadataBlock> MetadataSpaceMap::allocate() {
    auto search = [this](std::uint64_t from, std::uint64_t end) -> Result<std::optional<MetadataBlock>> {
        TRY(load_index());
        for (std::uint64_t at = from; at < end;) {
            std::uint64_t index = at / entries_per_bitmap;
            std::uint64_t base = index * entries_per_bitmap;
            bool full = bitmaps_[index] == nullptr && index_[index].free == 0;
            if (!full) {
                Bitmap* bitmap = TRY(load_bitmap(index));
                auto last = static_cast<std::uint32_t>(std::min<std::uint64_t>(end - base, entries_per_bitmap));
                auto entry = find_free_entry(bitmap->working.data(), bitmap->committed.data(), static_cast<std::uint32_t>(at - base), last);
                if (entry)
                    return MetadataBlock(base + *entry);
            }
            at = base + entries_per_bitmap;
        }
        return std::nullopt;
    };
    std::optional<MetadataBlock> found;
    if (allocatable_ > 0) {
        found = TRY(search(cursor_, blocks_));
        if (!found)
            found = TRY(search(0, cursor_));
    }
    if (!found)
        return fail(ErrorKind::no_space, "no free metadata block in {}", cache_.device().name());
    set_count(*found, *TRY(bitmap_of(*found)), 0, 1);
    cursor_ = found->value() + 1;
    ++allocated_;
    --allocatable_;
    return *found;
}

Result<void> MetadataSpaceMap::increment(MetadataBlock block) {
    std::uint32_t old_count = TRY(count(block));
    if (old_count == 0 || old_count == std::numeric_limits<std::uint32_t>::max())
        return fail(ErrorKind::damaged, "{}: block {} gets a referrer, but has a count of {}", name(), block, old_count);
    set_count(block, *TRY(bitmap_of(block)), old_count, old_count + 1);
    return {};
}

Result<std::uint32_t> MetadataSpaceMap::decrement(MetadataBlock block) {
    std::uint32_t old_count = TRY(count(block));
    if (old_count == 0)
        return fail(ErrorKind::damaged, "{}: block {} loses a referrer, but has a count of 0", name(), block);
    set_count(block, *TRY(bitmap_of(block)), old_count, old_count - 1);
    if (old_count == 1) {
        if (allocated_ == 0)
            return fail(ErrorKind::damaged, "{}: more blocks freed than its root says are allocated", name());
        --allocated_;
        if (TRY(is_new(block)))
            ++allocatable_;
    }
    return old_count - 1;
}

Result<void> MetadataSpaceMap::extend(std::uint64_t blocks) {
    if (blocks > max_blocks || blocks < blocks_)
        return fail(ErrorKind::usage, "{}: {} blocks asked for, it has {} and can have {}", name(), blocks, blocks_, max_blocks);
    TRY(load_index());
    std::size_t bitmaps = bitmaps_for(blocks);
    index_.resize(bitmaps);
    while (bitmaps_.size() < bitmaps)
        bitmaps_.push_back(std::make_unique<Bitmap>(Bitmap{.changed = true}));
    allocatable_ += blocks - blocks_;
    blocks_ = blocks;
    changed_ = true;
    return {};
}

std::uint64_t MetadataSpaceMap::fold_cost() const {
    // The overflow tree: a path and a split for every change, but no more than the tree could have nodes.
    constexpr std::uint64_t min_fill = max_node_entries(sizeof(std::uint32_t)) / 3;
    std::uint64_t overflow = std::min<std::uint64_t>(overflow_changes_.size() * 4, allocated_ * 2 / min_fill + 8);
    return bitmaps_.size() + 1 + (overflow_changes_.empty() ? 0 : overflow);
}

Result<void> MetadataSpaceMap::fold_overflow(TransactionManager& manager) {
    const Btree& tree = *overflow_tree_;
    if (overflow_root_ == MetadataBlock(0))
        overflow_root_ = TRY(tree.create(manager));
    auto changes = std::exchange(overflow_changes_, {});
    for (auto [block, count] : changes) {
        if (count < bitmap_overflow) {
            TRY(tree.remove(manager, overflow_root_, block));
            continue;
        }
        std::array<std::byte, sizeof(std::uint32_t)> value{};
        store_little<std::uint32_t>(value.data(), count);
        TRY(tree.insert(manager, overflow_root_, block, value.data()));
    }
    if (!overflow_changes_.empty())
        return fail(ErrorKind::damaged, "{}: a node of its overflow tree is shared", name());
    return {};
}

Result<SpaceMapRoot> MetadataSpaceMap::fold(TransactionManager& manager) {
    TRY(load_index());
    TRY(fold_overflow(manager));
    MetadataBlock new_index = TRY(allocate());
    if (index_location_ != MetadataBlock(0))
        TRY(free_own_block(index_location_));
    std::vector<std::size_t> moved;
    for (bool settled = false; !settled;) {
        settled = true;
        for (std::size_t index = 0; index < bitmaps_.size(); ++index) {
            Bitmap* bitmap = bitmaps_[index].get();
            if (bitmap == nullptr || !bitmap->changed || bitmap->moved)
                continue;
            MetadataBlock old_location(index_[index].location);
            index_[index].location = TRY(allocate()).value();
            if (old_location != MetadataBlock(0))
                TRY(free_own_block(old_location));
            bitmap->moved = true;
            moved.push_back(index);
            settled = false;
        }
    }
    for (std::size_t index : moved) {
        const Bitmap& bitmap = *bitmaps_[index];
        BlockRef block = TRY(cache_.create(MetadataBlock(index_[index].location), BlockKind::bitmap));
        std::memcpy(block.writable() + bitmap_header_bytes, bitmap.working.data() + bitmap_header_bytes, block_bytes - bitmap_header_bytes);
        index_[index].free = entries_per_bitmap - count_allocated_entries(bitmap.working.data());
        index_[index].none_free_before =
            find_free_entry(bitmap.working.data(), nullptr, 0, entries_per_bitmap).value_or(entries_per_bitmap);
    }
    BlockRef block = TRY(cache_.create(new_index, BlockKind::index));
    for (std::size_t index = 0; index < index_.size(); ++index)
        index_[index].pack(block.writable() + index_header_bytes + index * IndexEntry::disk_bytes);
    index_location_ = new_index;
    return SpaceMapRoot{blocks_, allocated_, index_location_.value(), overflow_root_.value()};
}

void MetadataSpaceMap::committed() {
    for (auto& bitmap : bitmaps_) {
        if (bitmap == nullptr || !bitmap->changed)
            continue;
        bitmap->committed = bitmap->working;
        bitmap->changed = bitmap->moved = false;
    }
    allocatable_ = blocks_ - allocated_;
    cursor_ = 0;
    changed_ = false;
}

Result<void> MetadataSpaceMap::load_index() {
    if (index_loaded_)
        return {};
    BlockRef block = TRY_WITHIN(name(), cache_.read(index_location_, BlockKind::index));
    for (std::size_t index = 0; index < index_.size(); ++index)
        index_[index] = IndexEntry::unpack(block.bytes() + index_header_bytes + index * IndexEntry::disk_bytes);
    index_loaded_ = true;
    return {};
}

Result<MetadataSpaceMap::Bitmap*> MetadataSpaceMap::bitmap_of(MetadataBlock block) {
    if (block.value() >= blocks_)
        return fail(ErrorKind::damaged, "{}: block {} lies beyond its {} blocks", name(), block, blocks_);
    return load_bitmap(block.value() / entries_per_bitmap);
}

Result<MetadataSpaceMap::Bitmap*> MetadataSpaceMap::load_bitmap(std::size_t index) {
    if (bitmaps_[index] == nullptr) {
        TRY(load_index());
        BlockRef block = TRY_WITHIN(name(), cache_.read(MetadataBlock(index_[index].location), BlockKind::bitmap));
        auto bitmap = std::make_unique<Bitmap>();
        std::memcpy(bitmap->committed.data(), block.bytes(), block_bytes);
        bitmap->working = bitmap->committed;
        bitmaps_[index] = std::move(bitmap);
    }
    return bitmaps_[index].get();
}

void MetadataSpaceMap::set_count(MetadataBlock block, Bitmap& bitmap, std::uint32_t old_count, std::uint32_t new_count) {
    set_bitmap_count(bitmap.working.data(), block.value() % entries_per_bitmap, std::min(new_count, bitmap_overflow));
    bitmap.changed = true;
    changed_ = true;
    if (old_count >= bitmap_overflow || new_count >= bitmap_overflow)
        overflow_changes_[block.value()] = new_count;
}

Result<std::uint32_t> MetadataSpaceMap::overflow_count(MetadataBlock block) {
    if (auto found = overflow_changes_.find(block.value()); found != overflow_changes_.end())
        return found->second;
    std::array<std::byte, sizeof(std::uint32_t)> value{};
    if (overflow_root_ == MetadataBlock(0) || !TRY(overflow_tree_->lookup(overflow_root_, block.value(), value.data())))
        return fail(ErrorKind::damaged, "{}: the count of block {} is missing from the overflow tree", name(), block);
    auto count = load_little<std::uint32_t>(value.data());
    if (count < bitmap_overflow)
        return fail(ErrorKind::damaged, "{}: the overflow tree has a count of {} for block {}", name(), count, block);
    return count;
}

// The map's own blocks have one referrer. (Anything else would change the overflow tree, which has been written already.)
Result<void> MetadataSpaceMap::free_own_block(MetadataBlock block) {
    std::uint32_t references = TRY(count(block));
    if (references != 1)
        return fail(ErrorKind::damaged, "{}: its own block {} has a count of {}", name(), block, references);
    TRY(decrement(block));
    return {};
}

}  // namespace lamella::pdata
