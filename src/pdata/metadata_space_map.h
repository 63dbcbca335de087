// SPDX-License-Identifier: Apache-2.0
//
// The reference counts of a metadata device's blocks, kept in blocks of that same device. Layout: Linux
// drivers/md/persistent-data/dm-space-map-metadata.c, dm-space-map-common.h: one index block of up to 255 entries, one bitmap for
// every 16320 blocks, an overflow B-tree for counts of 3 and more.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "pdata/bitmap.h"
#include "pdata/block.h"

namespace lamella::pdata {

class Btree;
class TransactionManager;

// The map describes itself: to write down that a block was taken, blocks must be taken. The knot is cut by time. While a
// transaction runs, its changes are kept in memory only: bitmaps that were touched as they were and as they are (2 MiB for the
// largest device), counts of 3 and more as a list of what differs from the tree. So counting never allocates. fold() then writes
// all of it at once: first the overflow tree, whose own nodes have a count of 1 and so never touch the overflow tree; then a place
// is taken for every touched bitmap, which may touch further bitmaps, until all touched ones have a place: each moves at most
// once, so that ends; only then are the contents final and written out.
class MetadataSpaceMap {
  public:
    static constexpr std::size_t max_bitmaps = 255;
    static constexpr std::uint64_t max_blocks = max_bitmaps * entries_per_bitmap;

    explicit MetadataSpaceMap(BlockCache& cache);
    ~MetadataSpaceMap();

    // A fresh map of a device whose blocks are all free.
    Result<void> start(std::uint64_t blocks);
    // The committed state. Forgets everything else.
    Result<void> load(const SpaceMapRoot& root);

    std::uint64_t blocks() const { return blocks_; }
    // How many blocks allocate() could hand out: what this transaction freed is not among them unless it made it.
    std::uint64_t allocatable() const { return allocatable_; }

    Result<std::uint32_t> count(MetadataBlock block);
    // The last commit doesn't use the block.
    Result<bool> is_new(MetadataBlock block);
    // A block that neither the last commit nor this transaction uses, with a count of 1. no_space: there is none.
    Result<MetadataBlock> allocate();
    Result<void> increment(MetadataBlock block);
    // Returns the new count.
    Result<std::uint32_t> decrement(MetadataBlock block);
    // Growing only.
    Result<void> extend(std::uint64_t blocks);

    bool changed() const { return changed_; }
    // A bound on how many blocks fold() will take.
    std::uint64_t fold_cost() const;
    // Writes what memory holds of the overflow tree into the tree, so that the rest stays small. Between two operations.
    Result<void> fold_overflow(TransactionManager& manager);
    std::size_t overflow_changes() const { return overflow_changes_.size(); }

    // Writes the map into blocks of the cache and returns its root. Nothing may change before committed() or load().
    Result<SpaceMapRoot> fold(TransactionManager& manager);
    // What fold() wrote is durable, and the superblock refers to it.
    void committed();

  private:
    struct Bitmap {
        std::array<std::byte, block_bytes> committed{};
        std::array<std::byte, block_bytes> working{};
        bool changed = false;
        bool moved = false;
    };

    Result<void> load_index();
    Result<Bitmap*> bitmap_of(MetadataBlock block);
    Result<Bitmap*> load_bitmap(std::size_t index);
    void set_count(MetadataBlock block, Bitmap& bitmap, std::uint32_t old_count, std::uint32_t new_count);
    Result<std::uint32_t> overflow_count(MetadataBlock block);
    Result<void> free_own_block(MetadataBlock block);
    std::string name() const;

    BlockCache& cache_;
    std::unique_ptr<Btree> overflow_tree_;
    std::uint64_t blocks_ = 0;
    std::uint64_t allocated_ = 0;
    std::uint64_t allocatable_ = 0;
    std::uint64_t cursor_ = 0;
    MetadataBlock index_location_{};
    MetadataBlock overflow_root_{};
    bool index_loaded_ = false;
    bool changed_ = false;
    std::vector<IndexEntry> index_;
    std::vector<std::unique_ptr<Bitmap>> bitmaps_;
    // Counts that differ from the overflow tree's; below 3: to be removed from it.
    std::map<std::uint64_t, std::uint32_t> overflow_changes_;
};

}  // namespace lamella::pdata
