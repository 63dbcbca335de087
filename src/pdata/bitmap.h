// SPDX-License-Identifier: Apache-2.0
//
// One bitmap block of a space map: the reference counts of 16320 blocks in 2 bits each.
// Layout: Linux drivers/md/persistent-data/dm-space-map-common.{h,c}. The block's header takes 16 bytes; then 510 little-endian
// words of 32 entries. Entry i has the bits 2i and 2i+1 of its word, the high bit of the count first; the count 3 means
// "3 or more: look into the overflow tree".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/endian.h"

namespace lamella::pdata {

constexpr std::size_t bitmap_header_bytes = 16;
constexpr std::size_t entries_per_word = 32;
constexpr std::size_t bitmap_words = 510;
constexpr std::uint32_t entries_per_bitmap = bitmap_words * entries_per_word;
constexpr std::uint32_t bitmap_overflow = 3;

// How many bitmaps count so many blocks.
constexpr std::uint64_t bitmaps_for(std::uint64_t blocks) { return blocks / entries_per_bitmap + (blocks % entries_per_bitmap != 0); }

// What an index entry says of a bitmap. 16 bytes on disk: block u64, free u32, none free before u32.
struct IndexEntry {
    static constexpr std::size_t disk_bytes = 16;

    std::uint64_t location = 0;
    std::uint32_t free = entries_per_bitmap;  // counts all entries, those beyond the end of the device too
    std::uint32_t none_free_before = 0;       // every entry below is allocated

    void pack(std::byte* bytes) const {
        store_little<std::uint64_t>(bytes, location);
        store_little<std::uint32_t>(bytes + 8, free);
        store_little<std::uint32_t>(bytes + 12, none_free_before);
    }
    static IndexEntry unpack(const std::byte* bytes) {
        return {load_little<std::uint64_t>(bytes), load_little<std::uint32_t>(bytes + 8), load_little<std::uint32_t>(bytes + 12)};
    }
};

// `block` is a whole bitmap block. Counts are 0, 1, 2 or bitmap_overflow.
inline std::uint32_t bitmap_count(const std::byte* block, std::uint32_t entry) {
    auto word = load_little<std::uint64_t>(block + bitmap_header_bytes + entry / entries_per_word * 8);
    auto bits = static_cast<std::uint32_t>(word >> (entry % entries_per_word * 2)) & 3;
    return bits >> 1 | (bits & 1) << 1;
}

inline void set_bitmap_count(std::byte* block, std::uint32_t entry, std::uint32_t count) {
    std::byte* place = block + bitmap_header_bytes + entry / entries_per_word * 8;
    unsigned shift = entry % entries_per_word * 2;
    std::uint64_t bits = count >> 1 | (count & 1) << 1;
    auto word = load_little<std::uint64_t>(place);
    store_little<std::uint64_t>(place, (word & ~(std::uint64_t{3} << shift)) | bits << shift);
}

// The first entry in [from, end) with count 0 in `block` and, if that's given, in `other` too.
inline std::optional<std::uint32_t> find_free_entry(const std::byte* block, const std::byte* other, std::uint32_t from, std::uint32_t end) {
    constexpr std::uint64_t low_bits = 0x5555555555555555;
    for (std::uint32_t entry = from; entry < end; entry = (entry / entries_per_word + 1) * entries_per_word) {
        std::size_t offset = bitmap_header_bytes + entry / entries_per_word * 8;
        auto word = load_little<std::uint64_t>(block + offset);
        if (other != nullptr)
            word |= load_little<std::uint64_t>(other + offset);
        std::uint64_t free = ~(word | word >> 1) & low_bits;
        free &= ~std::uint64_t{0} << (entry % entries_per_word * 2);
        if (free == 0)
            continue;
        auto found = static_cast<std::uint32_t>(entry / entries_per_word * entries_per_word + __builtin_ctzll(free) / 2);
        if (found < end)
            return found;
        return std::nullopt;
    }
    return std::nullopt;
}

// How many entries of a bitmap have a count other than 0.
inline std::uint32_t count_allocated_entries(const std::byte* block) {
    constexpr std::uint64_t low_bits = 0x5555555555555555;
    std::uint32_t allocated = 0;
    for (std::size_t index = 0; index < bitmap_words; ++index) {
        auto word = load_little<std::uint64_t>(block + bitmap_header_bytes + index * 8);
        allocated += static_cast<std::uint32_t>(__builtin_popcountll((word | word >> 1) & low_bits));
    }
    return allocated;
}

// The root of a space map: 32 of the 128 bytes that the superblock has for it.
struct SpaceMapRoot {
    static constexpr std::size_t disk_bytes = 128;

    std::uint64_t blocks = 0;
    std::uint64_t allocated = 0;
    std::uint64_t bitmap_root = 0;    // data: B-tree of index entries; metadata: the index block
    std::uint64_t overflow_root = 0;  // B-tree: block -> count of 3 or more (u32)

    void pack(std::byte* bytes) const {
        store_little<std::uint64_t>(bytes, blocks);
        store_little<std::uint64_t>(bytes + 8, allocated);
        store_little<std::uint64_t>(bytes + 16, bitmap_root);
        store_little<std::uint64_t>(bytes + 24, overflow_root);
    }
    static SpaceMapRoot unpack(const std::byte* bytes) {
        return {load_little<std::uint64_t>(bytes), load_little<std::uint64_t>(bytes + 8), load_little<std::uint64_t>(bytes + 16),
                load_little<std::uint64_t>(bytes + 24)};
    }
};

}  // namespace lamella::pdata
