// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/strong.h"

namespace lamella::tools {

// A set of blocks of one metadata device: a bit each, so at most 508 KiB. Threads: any number may insert, erase and ask at once; the
// walks over it want nobody to change it meanwhile.
class MetadataBlockSet {
  public:
    // Of a device with so many blocks.
    explicit MetadataBlockSet(std::uint64_t blocks) : blocks_(blocks), words_((blocks + 63) / 64) {}

    std::uint64_t blocks() const { return blocks_; }

    // False: it was there already.
    bool insert(MetadataBlock block) {
        return (std::atomic_ref(words_[block.value() / 64]).fetch_or(bit(block), std::memory_order_relaxed) & bit(block)) == 0;
    }
    // False: it wasn't there.
    bool erase(MetadataBlock block) {
        return (std::atomic_ref(words_[block.value() / 64]).fetch_and(~bit(block), std::memory_order_relaxed) & bit(block)) != 0;
    }
    bool contains(MetadataBlock block) const { return block.value() < blocks_ && (words_[block.value() / 64] & bit(block)) != 0; }

    void insert_all() {
        words_.assign(words_.size(), ~std::uint64_t{0});
        if (blocks_ % 64 != 0)
            words_.back() = (std::uint64_t{1} << (blocks_ % 64)) - 1;
    }
    void clear() { words_.assign(words_.size(), 0); }

    std::uint64_t count() const {
        std::uint64_t count = 0;
        for (std::uint64_t word : words_)
            count += static_cast<unsigned>(__builtin_popcountll(word));
        return count;
    }
    bool empty() const { return !next(MetadataBlock(0)); }

    // The first member at or after `from`.
    std::optional<MetadataBlock> next(MetadataBlock from) const {
        if (from.value() >= blocks_)
            return std::nullopt;
        std::size_t index = from.value() / 64;
        std::uint64_t word = words_[index] & (~std::uint64_t{0} << (from.value() % 64));
        while (word == 0)
            if (++index == words_.size())
                return std::nullopt;
            else
                word = words_[index];
        return MetadataBlock(index * 64 + static_cast<unsigned>(__builtin_ctzll(word)));
    }

  private:
    static std::uint64_t bit(MetadataBlock block) { return std::uint64_t{1} << (block.value() % 64); }

    std::uint64_t blocks_;
    std::vector<std::uint64_t> words_;
};

}  // namespace lamella::tools
