// SPDX-License-Identifier: Apache-2.0
//
// The reference counts of a pool's data blocks. Layout: Linux drivers/md/persistent-data/dm-space-map-disk.c,
// dm-space-map-common.h: a B-tree of index entries, one bitmap for every 16320 blocks, an overflow B-tree for counts of 3 and more.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

#include "base/result.h"
#include "base/strong.h"
#include "pdata/bitmap.h"
#include "pdata/block.h"
#include "pdata/block_set.h"
#include "pdata/btree.h"
#include "pdata/transaction.h"

namespace lamella::pdata {

// A free block may be withheld from allocation: because this transaction freed it (the last commit still refers to it), because
// it is in quarantine (I/O to its former self may be under way), or because it is reserved (handed out, not yet in use).
class DataSpaceMap {
  public:
    explicit DataSpaceMap(BlockCache& cache);

    // A fresh map of free blocks.
    Result<void> start(TransactionManager& manager, std::uint64_t blocks);
    // The committed state. Forgets what the open transaction changed; quarantine and reservations stay.
    Result<void> load(const SpaceMapRoot& root);

    std::uint64_t blocks() const { return blocks_; }
    // Without the reserved ones.
    std::uint64_t free() const;
    std::uint64_t allocatable() const;
    std::uint64_t freed_in_transaction() const { return freed_.count(); }
    std::uint64_t quarantined() const { return quarantine_.count(); }
    std::uint64_t bitmaps() const { return bitmaps_for(blocks_); }

    Result<std::uint32_t> count(DataBlock block);
    // The next free block that isn't withheld, from where the last search ended; it is reserved now.
    Result<DataBlock> reserve();
    bool is_reserved(DataBlock block) const { return reserved_.contains(block.value()); }
    void unreserve(DataBlock block) { reserved_.erase(block.value()); }
    // A reserved block gets its first referrer.
    Result<void> take(TransactionManager& manager, DataBlock block);
    Result<void> increment(TransactionManager& manager, std::span<const std::uint64_t> blocks);
    Result<void> decrement(TransactionManager& manager, std::span<const std::uint64_t> blocks);
    Result<void> extend(TransactionManager& manager, std::uint64_t blocks);

    // Puts free blocks that aren't withheld into quarantine: up to `most` of those from `from` on. Looks at `most_bitmaps` bitmaps at the
    // most. Returns where to go on: the number of blocks, at the end.
    Result<DataBlock> quarantine_free(DataBlock from, std::uint64_t most, BlockSet& blocks);

    bool changed() const { return changed_; }
    // Keeps memory bounded. Between two operations.
    Result<void> trim(TransactionManager& manager);

    // Writes the map into blocks of the cache and returns its root. Takes no new blocks.
    Result<SpaceMapRoot> fold(TransactionManager& manager);
    void committed();

    // Blocks freed by commits since the last call.
    BlockSet take_freed() { return std::exchange(unclaimed_, {}); }
    void make_reusable(const BlockSet& blocks) { quarantine_.erase(blocks); }

  private:
    static constexpr std::uint64_t most_bitmaps = 16;

    struct Region {
        IndexEntry entry;
        bool dirty = false;
    };
    struct Writable {
        std::uint64_t index = 0;
        Region* region = nullptr;
        BlockRef bitmap;
    };

    Result<Region*> region(std::uint64_t index);
    Result<void> make_writable(TransactionManager& manager, std::uint64_t index, Writable& writable);
    Result<void> adjust(TransactionManager& manager, std::span<const std::uint64_t> blocks, bool up);
    Result<void> set_count(TransactionManager& manager, Writable& writable, std::uint64_t block, std::uint32_t old_count,
                           std::uint32_t new_count);
    Result<std::uint32_t> full_count(const std::byte* bitmap, std::uint64_t block);
    Result<std::optional<std::uint64_t>> search(std::uint64_t from, std::uint64_t end);
    Result<void> write_back(TransactionManager& manager);
    bool withheld(std::uint64_t block) const;
    std::string name() const;

    BlockCache& cache_;
    Btree index_tree_;
    Btree overflow_tree_;
    std::uint64_t blocks_ = 0;
    std::uint64_t allocated_ = 0;
    std::uint64_t cursor_ = 0;
    MetadataBlock index_root_{};
    MetadataBlock overflow_root_{};
    bool changed_ = false;
    std::unordered_map<std::uint64_t, Region> regions_;  // index entries as they are now, as far as they were asked for
    BlockSet freed_;
    BlockSet quarantine_;
    BlockSet unclaimed_;
    BlockSet reserved_;
};

}  // namespace lamella::pdata
