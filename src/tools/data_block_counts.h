// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "tools/zeroed_array.h"

namespace lamella::tools {

// How often each data block of a pool is referred to, counted from the leaves.
//
// Most blocks have one reference, and references come in no order: so each block has two bits in a plain array, and only a second
// reference costs more. The bits lie as a space map's bitmap has them (pdata/bitmap.h), so that a count of 1 reads there as it does
// here. Further references are kept by regions of blocks: a sorted list where few blocks have them, a byte a block where many do.
//
// Memory: 1/4 byte for a block in use; for one with several references 8 bytes, but never more than 5/4 bytes a block of its region.
// Threads: any number may add at once; what only asks wants nobody to add.
class DataBlockCounts {
  public:
    // Bitmaps hold a whole number of regions, regions of words.
    static constexpr std::uint64_t blocks_per_word = 32;
    static constexpr std::uint64_t blocks_per_region = 3264;

    static Result<std::unique_ptr<DataBlockCounts>> create(std::uint64_t blocks);
    ~DataBlockCounts();
    DataBlockCounts(const DataBlockCounts&) = delete;
    DataBlockCounts& operator=(const DataBlockCounts&) = delete;

    std::uint64_t blocks() const { return blocks_; }

    void prefetch(DataBlock block) const { __builtin_prefetch(&words_[block.value() / blocks_per_word], 1); }

    // One reference more. `in_place`: by someone who'd overwrite the block, because he takes it for his alone.
    void add(DataBlock block, bool in_place) {
        std::uint64_t referenced = std::uint64_t{2} << (block.value() % blocks_per_word * 2);
        std::uint64_t marks = in_place ? referenced | referenced >> 1 : referenced;
        std::atomic_ref word(words_[block.value() / blocks_per_word]);
        if ((word.fetch_or(marks, std::memory_order_relaxed) & referenced) != 0) [[unlikely]]
            add_further(block);
    }

    std::uint64_t count(DataBlock block) const { return referenced(block) ? 1 + further(block) : 0; }
    bool referenced(DataBlock block) const { return (word_of(block) >> (block.value() % blocks_per_word * 2) & 2) != 0; }
    bool in_place(DataBlock block) const { return (word_of(block) >> (block.value() % blocks_per_word * 2) & 1) != 0; }
    // How many blocks are referred to.
    std::uint64_t used() const;

    // 32 blocks as a bitmap has them if none of them has more than one reference.
    std::uint64_t word_of_ones(std::uint64_t index) const { return words_[index] & 0xaaaaaaaaaaaaaaaa; }
    // Some block of the region, or of the whole, has more than one reference.
    bool has_shared(std::uint64_t region) const { return regions_[region] != nullptr; }
    bool has_shared() const { return has_shared_.load(std::memory_order_relaxed); }

    // visit(block, count) for every block with more than one reference, in ascending order.
    template <typename Visit>
    void for_each_shared(Visit visit) const {
        for (std::uint64_t region = 0; has_shared() && region < regions_.size(); ++region) {
            if (!has_shared(region))
                continue;
            std::uint64_t end = std::min(blocks_, (region + 1) * blocks_per_region);
            for (std::uint64_t block = region * blocks_per_region; block < end; ++block)
                if (std::uint64_t more = further(DataBlock(block)); more != 0)
                    visit(DataBlock(block), 1 + more);
        }
    }

  private:
    struct Few {
        std::uint32_t offset;  // in the region
        std::uint32_t count;
    };
    // Made by the first further reference to one of its blocks.
    struct Region {
        std::mutex mutex;
        std::vector<Few> few;
        std::unique_ptr<std::uint8_t[]> bytes;  // used instead of `few` once there are many
    };
    static constexpr std::size_t most_few = blocks_per_region / 8;
    static constexpr std::uint8_t full_byte = 255;

    DataBlockCounts() = default;
    void add_further(DataBlock block);
    void add_to_byte(Region& region, DataBlock block, std::uint64_t more);
    std::uint64_t further(DataBlock block) const;
    std::uint64_t word_of(DataBlock block) const { return words_[block.value() / blocks_per_word]; }

    std::uint64_t blocks_ = 0;
    ZeroedArray<std::uint64_t> words_;
    ZeroedArray<Region*> regions_;
    std::atomic<bool> has_shared_ = false;
    std::mutex overflow_mutex_;
    std::unordered_map<std::uint64_t, std::uint64_t> overflow_;  // what a full byte leaves out, by block
};

}  // namespace lamella::tools
