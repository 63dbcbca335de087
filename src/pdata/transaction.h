// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/strong.h"
#include "pdata/block.h"
#include "pdata/metadata_space_map.h"

namespace lamella::pdata {

// Makes and changes the blocks of one transaction. A block of the last commit is never changed in place, nor is its place used
// again before the next commit: it is shadowed, that is copied to a new place, and every parent up to the superblock follows.
class TransactionManager {
  public:
    // Both outlive it.
    TransactionManager(BlockCache& cache, MetadataSpaceMap& space_map) : cache_(cache), space_map_(space_map) {}

    BlockCache& cache() const { return cache_; }

    // A new block of zeros with one reference, to be filled in.
    Result<BlockRef> create(BlockKind kind);

    struct Shadow {
        BlockRef block;  // writable
        // Others still refer to the original: what it refers to has one more referrer now, and the caller counts that.
        bool was_shared;
    };
    // A block to be written instead of `original`, which loses one reference unless it was made by this transaction for us alone.
    Result<Shadow> shadow(MetadataBlock original, BlockKind kind);

    Result<std::uint32_t> count(MetadataBlock block) { return space_map_.count(block); }
    Result<void> increment(MetadataBlock block) { return space_map_.increment(block); }
    // Returns how many references are left.
    Result<std::uint32_t> decrement(MetadataBlock block);

  private:
    BlockCache& cache_;
    MetadataSpaceMap& space_map_;
};

}  // namespace lamella::pdata
