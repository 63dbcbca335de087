// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pdata/bitmap.h"
#include "tools/block_stream.h"
#include "tools/count_table.h"

namespace lamella::tools {

// Counts how often each data block is referred to, and writes that down as a space map. The counts are kept as the bitmaps in which
// they end up: 2 bits a block. Up to 64 MiB of them (267 million blocks) stay in memory; beyond that those that weren't used lately
// are written to the place that they take in the end, and read again when they are needed. Counts of 3 and more take some 12 bytes a
// block.
class DataCounts {
  public:
    // no_space: the bitmaps of so many blocks don't fit into `metadata_blocks`.
    static Result<DataCounts> start(BlockStream& stream, std::uint64_t data_blocks, std::uint64_t metadata_blocks);

    // Packed mappings: data block << 24 | time. The blocks are below `data_blocks`.
    Result<void> increment(std::span<const std::uint64_t> packed);
    Result<void> decrement(std::span<const std::uint64_t> packed);

    // Writes bitmaps and trees. Called once, at the end.
    Result<pdata::SpaceMapRoot> finish();

  private:
    struct Page {
        std::unique_ptr<std::byte[]> bytes;  // the bitmap; none: not in memory, or all zeros without a place
        std::unique_ptr<CountTable> overflow;
        std::uint32_t place = 0;  // the metadata block; 0: none yet
        bool recently_used = false;
    };

    DataCounts(BlockStream& stream, std::uint64_t data_blocks) : stream_(&stream), data_blocks_(data_blocks) {}
    Result<Page*> load(std::uint64_t index);
    Result<void> make_room();
    Result<void> write(Page& page);

    BlockStream* stream_;
    std::uint64_t data_blocks_;
    std::vector<Page> pages_;  // one a bitmap
    std::size_t in_memory_ = 0;
    std::size_t hand_ = 0;
    std::uint64_t allocated_ = 0;  // blocks with a count other than 0
};

}  // namespace lamella::tools
