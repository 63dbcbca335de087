// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace lamella::pdata {

// A set of block numbers that may be large and is mostly clustered. Kept in pages of 65536 numbers, each a sorted list of
// 16-bit offsets or, past 4096 members, a bitmap: at most 2 bytes a member and a small constant a page, at best 1/8 byte.
// Not thread-safe; may be moved to another thread.
class BlockSet {
  public:
    // False: it was there already.
    bool insert(std::uint64_t block);
    // False: it wasn't there.
    bool erase(std::uint64_t block);
    bool contains(std::uint64_t block) const;

    void insert(const BlockSet& other);
    void erase(const BlockSet& other);
    void clear();

    std::uint64_t count() const { return count_; }
    bool empty() const { return count_ == 0; }

    // Calls run(first, length) for every run of consecutive members, in ascending order, each run as long as it can be.
    template <typename Run>
    void for_each_run(Run run) const {
        std::uint64_t first = 0;
        std::uint64_t length = 0;
        for_each([&](std::uint64_t block) {
            if (length != 0 && first + length == block) {
                ++length;
                return;
            }
            if (length != 0)
                run(first, length);
            first = block;
            length = 1;
        });
        if (length != 0)
            run(first, length);
    }

    // Calls visit(block) for every member in ascending order.
    template <typename Visit>
    void for_each(Visit visit) const {
        for (const auto& [number, page] : pages_) {
            if (page.words.empty()) {
                for (std::uint16_t offset : page.offsets)
                    visit(number << page_bits | offset);
                continue;
            }
            for (std::size_t index = 0; index < page.words.size(); ++index)
                for (std::uint64_t word = page.words[index]; word != 0; word &= word - 1)
                    visit(number << page_bits | (index * 64 + static_cast<unsigned>(__builtin_ctzll(word))));
        }
    }

  private:
    static constexpr unsigned page_bits = 16;
    static constexpr std::size_t most_offsets = 4096;
    static constexpr std::size_t page_words = (std::size_t{1} << page_bits) / 64;

    struct Page {
        std::vector<std::uint16_t> offsets;  // sorted; used while `words` is empty
        std::vector<std::uint64_t> words;    // page_words of them, or none
        std::uint32_t count = 0;
    };

    std::map<std::uint64_t, Page> pages_;  // no empty page
    std::uint64_t count_ = 0;
};

}  // namespace lamella::pdata
