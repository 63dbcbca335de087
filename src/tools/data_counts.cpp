// SPDX-License-Identifier: Apache-2.0
#include "tools/data_counts.h"

#include <cstring>

#include "base/endian.h"
#include "tools/tree_builder.h"

namespace lamella::tools {

using pdata::bitmap_count;
using pdata::bitmap_overflow;
using pdata::block_bytes;
using pdata::BlockKind;
using pdata::entries_per_bitmap;
using pdata::IndexEntry;
using pdata::set_bitmap_count;
using pdata::SpaceMapRoot;

namespace {

constexpr std::size_t max_pages_in_memory = 16384;

}  // namespace

Result<DataCounts> DataCounts::start(BlockStream& stream, std::uint64_t data_blocks, std::uint64_t metadata_blocks) {
    std::uint64_t bitmaps = pdata::bitmaps_for(data_blocks);
    if (bitmaps >= metadata_blocks)
        return fail(ErrorKind::no_space, "metadata of {} blocks is too small for {} data blocks: counting them takes {} blocks",
                    metadata_blocks, data_blocks, bitmaps);
    DataCounts counts(stream, data_blocks);
    counts.pages_.resize(bitmaps);
    return counts;
}

Result<DataCounts::Page*> DataCounts::load(std::uint64_t index) {
    Page& page = pages_[index];
    page.recently_used = true;
    if (page.bytes)
        return &page;
    if (in_memory_ == max_pages_in_memory)
        TRY(make_room());
    page.bytes = std::make_unique<std::byte[]>(block_bytes);
    ++in_memory_;
    if (page.place != 0)
        TRY(stream_->read(MetadataBlock(page.place), BlockKind::bitmap, {page.bytes.get(), block_bytes}));
    return &page;
}

// Writes out one page that wasn't used since the hand came by.
Result<void> DataCounts::make_room() {
    for (;;) {
        Page& page = pages_[hand_];
        hand_ = (hand_ + 1) % pages_.size();
        if (!page.bytes || std::exchange(page.recently_used, false))
            continue;
        TRY(write(page));
        page.bytes.reset();
        --in_memory_;
        return {};
    }
}

Result<void> DataCounts::write(Page& page) {
    if (page.place != 0)
        return stream_->rewrite(MetadataBlock(page.place), BlockKind::bitmap, {page.bytes.get(), block_bytes});
    BlockStream::Place place = TRY(stream_->next(BlockKind::bitmap));
    if (page.bytes)
        std::memcpy(place.bytes, page.bytes.get(), block_bytes);
    page.place = static_cast<std::uint32_t>(place.location.value());
    return {};
}

Result<void> DataCounts::increment(std::span<const std::uint64_t> packed) {
    std::uint64_t index = ~std::uint64_t{0};
    Page* page = nullptr;
    for (std::uint64_t value : packed) {
        std::uint64_t block = value >> 24;
        if (block / entries_per_bitmap != index) {
            index = block / entries_per_bitmap;
            page = TRY(load(index));
        }
        auto entry = static_cast<std::uint32_t>(block % entries_per_bitmap);
        std::uint32_t count = bitmap_count(page->bytes.get(), entry);
        if (count < bitmap_overflow)
            set_bitmap_count(page->bytes.get(), entry, count + 1);
        if (count == 0)
            ++allocated_;
        if (count < bitmap_overflow - 1)
            continue;
        if (!page->overflow)
            page->overflow = std::make_unique<CountTable>();
        std::uint32_t& full = (*page->overflow)[entry];
        full = count < bitmap_overflow ? bitmap_overflow : full + 1;
    }
    return {};
}

Result<void> DataCounts::decrement(std::span<const std::uint64_t> packed) {
    for (std::uint64_t value : packed) {
        std::uint64_t block = value >> 24;
        Page* page = TRY(load(block / entries_per_bitmap));
        auto entry = static_cast<std::uint32_t>(block % entries_per_bitmap);
        std::uint32_t count = bitmap_count(page->bytes.get(), entry);
        if (count == bitmap_overflow)
            count = (*page->overflow)[entry]--;
        if (count <= bitmap_overflow)
            set_bitmap_count(page->bytes.get(), entry, count - 1);
        if (count == 1)
            --allocated_;
    }
    return {};
}

Result<SpaceMapRoot> DataCounts::finish() {
    TreeBuilder index(*stream_, IndexEntry::disk_bytes);
    TreeBuilder overflow(*stream_, sizeof(std::uint32_t));
    for (std::uint64_t number = 0; number < pages_.size(); ++number) {
        Page& page = pages_[number];
        if (!page.bytes && page.place != 0)
            TRY(load(number));
        IndexEntry entry;
        if (page.bytes) {
            entry.free = entries_per_bitmap - pdata::count_allocated_entries(page.bytes.get());
            entry.none_free_before = pdata::find_free_entry(page.bytes.get(), nullptr, 0, entries_per_bitmap).value_or(entries_per_bitmap);
        }
        TRY(write(page));
        entry.location = page.place;
        std::byte packed[IndexEntry::disk_bytes];
        entry.pack(packed);
        TRY(index.add(number, packed));
        if (page.overflow) {
            for (auto [place, count] : page.overflow->sorted()) {
                if (count < bitmap_overflow)
                    continue;
                std::byte value[sizeof count];
                store_little<std::uint32_t>(value, count);
                TRY(overflow.add(number * entries_per_bitmap + place, value));
            }
        }
        if (page.bytes) {
            page.bytes.reset();
            --in_memory_;
        }
        page.overflow.reset();
    }
    return SpaceMapRoot{data_blocks_, allocated_, TRY(index.finish()).value(), TRY(overflow.finish()).value()};
}

}  // namespace lamella::tools
