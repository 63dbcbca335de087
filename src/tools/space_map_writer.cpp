// SPDX-License-Identifier: Apache-2.0
//
// The metadata's map counts its own blocks and those of the data's map. That is no knot here: how many blocks both will take is known
// from the counts alone (its own blocks have one reference, and so never need an entry among the counts of 3 and more), so all places are
// taken first and counted, and then everything is written.
#include "tools/space_map_writer.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "pdata/btree.h"
#include "tools/space_map_check.h"
#include "tools/tree_builder.h"

namespace lamella::tools {

using pdata::bitmap_header_bytes;
using pdata::bitmap_overflow;
using pdata::bitmap_words;
using pdata::block_bytes;
using pdata::BlockKind;
using pdata::entries_per_bitmap;
using pdata::IndexEntry;
using pdata::max_node_entries;
using pdata::Node;

namespace {

constexpr std::uint32_t overflow_value_bytes = 4;
constexpr std::uint32_t child_bytes = 8;
constexpr std::size_t most_buffered = 256;

// Writes blocks to the places that were taken for them, in the order in which they were taken; neighbours together.
class Places {
  public:
    Places(BlockDevice& device, BlockTable& table) : device_(device), table_(table), buffer_(most_buffered * block_bytes) {}

    Result<void> take(std::uint64_t count, std::uint64_t metadata_blocks) {
        std::uint64_t end = std::min(metadata_blocks, table_.blocks());
        for (std::uint64_t block = 1; block < end && places_.size() < count; ++block)
            if (table_[MetadataBlock(block)].references == 0 && table_[MetadataBlock(block)].use == BlockUse::none)
                places_.emplace_back(block);
        if (places_.size() < count)
            return fail(ErrorKind::no_space, "{}: writing its space maps anew takes {} free blocks; there are {}", device_.name(), count,
                        places_.size());
        for (MetadataBlock place : places_)
            table_[place].references = 1;
        return {};
    }

    // Zeros to fill in before the next call; `location` is where they go.
    Result<std::byte*> next(MetadataBlock& location) {
        if (buffered_ == most_buffered || (buffered_ != 0 && places_[next_] != first_ + buffered_))
            TRY(write());
        if (buffered_ == 0)
            first_ = places_[next_];
        location = places_[next_++];
        std::byte* bytes = buffer_.data() + buffered_++ * block_bytes;
        std::fill_n(bytes, block_bytes, std::byte{0});
        return bytes;
    }

    Result<void> write() {
        if (buffered_ == 0)
            return {};
        TRY_WITHIN(device_.name(), write_now(device_, first_.value() * block_bytes, buffer_.bytes().first(buffered_ * block_bytes)));
        buffered_ = 0;
        return {};
    }

  private:
    BlockDevice& device_;
    BlockTable& table_;
    AlignedBuffer buffer_;
    std::vector<MetadataBlock> places_;
    std::size_t next_ = 0;
    MetadataBlock first_{};
    std::size_t buffered_ = 0;
};

// A tree of so many entries, which are added in ascending order; on each level all nodes have the same number of entries, or one more.
class EvenTree {
  public:
    EvenTree(Places& places, std::uint64_t entries, std::uint32_t value_size)
        : places_(places), entries_(entries), value_size_(value_size), nodes_(level_nodes(entries, value_size)) {}

    Result<void> add(std::uint64_t key, const std::byte* value) {
        keys_.push_back(key);
        values_.insert(values_.end(), value, value + value_size_);
        ++added_;
        if (added_ == entries_ * (written_.size() + 1) / nodes_)
            TRY(write_node());
        return {};
    }

    Result<MetadataBlock> finish() {
        if (entries_ == 0)
            TRY(write_node());
        if (written_.size() == 1)
            return written_.front().node;
        EvenTree above(places_, written_.size(), child_bytes, false);
        for (const Child& child : written_) {
            std::byte value[child_bytes];
            store_little<std::uint64_t>(value, child.node.value());
            TRY(above.add(child.key, value));
        }
        return above.finish();
    }

  private:
    struct Child {
        std::uint64_t key;
        MetadataBlock node;
    };

    EvenTree(Places& places, std::uint64_t entries, std::uint32_t value_size, bool leaf) : EvenTree(places, entries, value_size) {
        leaf_ = leaf;
    }

    Result<void> write_node() {
        MetadataBlock location;
        std::byte* bytes = TRY(places_.next(location));
        std::uint32_t most = max_node_entries(value_size_);
        store_little<std::uint32_t>(bytes + 4, leaf_ ? Node::leaf_flag : Node::internal_flag);
        store_little<std::uint32_t>(bytes + 16, static_cast<std::uint32_t>(keys_.size()));
        store_little<std::uint32_t>(bytes + 20, most);
        store_little<std::uint32_t>(bytes + 24, value_size_);
        for (std::size_t index = 0; index < keys_.size(); ++index)
            store_little<std::uint64_t>(bytes + Node::header_bytes + index * 8, keys_[index]);
        std::ranges::copy(values_, bytes + Node::header_bytes + std::size_t{most} * 8);
        pdata::seal_block({bytes, block_bytes}, BlockKind::node, location);
        written_.push_back({keys_.empty() ? 0 : keys_.front(), location});
        keys_.clear();
        values_.clear();
        return {};
    }

    Places& places_;
    std::uint64_t entries_;
    std::uint32_t value_size_;
    std::uint64_t nodes_;
    bool leaf_ = true;
    std::uint64_t added_ = 0;
    std::vector<std::uint64_t> keys_;
    std::vector<std::byte> values_;
    std::vector<Child> written_;
};

// The bitmaps of `blocks` blocks, whose counts word() gives 32 at a time.
Result<std::vector<IndexEntry>> write_bitmaps(Places& places, std::uint64_t blocks, std::uint64_t& allocated,
                                              const std::function<std::uint64_t(std::uint64_t)>& word) {
    std::vector<IndexEntry> entries;
    for (std::uint64_t bitmap = 0; bitmap < pdata::bitmaps_for(blocks); ++bitmap) {
        MetadataBlock location;
        std::byte* bytes = TRY(places.next(location));
        for (std::uint64_t index = 0; index < bitmap_words; ++index)
            if ((bitmap * bitmap_words + index) * pdata::entries_per_word < blocks)
                store_little<std::uint64_t>(bytes + bitmap_header_bytes + index * 8, word(bitmap * bitmap_words + index));
        std::uint32_t in_use = pdata::count_allocated_entries(bytes);
        entries.push_back({location.value(), entries_per_bitmap - in_use,
                           pdata::find_free_entry(bytes, nullptr, 0, entries_per_bitmap).value_or(entries_per_bitmap)});
        allocated += in_use;
        pdata::seal_block({bytes, block_bytes}, BlockKind::bitmap, location);
    }
    return entries;
}

}  // namespace

Result<SpaceMapRoots> write_space_maps(BlockDevice& device, BlockTable& table, const DataBlockCounts& counts,
                                       std::uint64_t metadata_blocks) {
    std::vector<std::pair<std::uint64_t, std::uint32_t>> metadata_overflow;
    for (std::uint64_t block = 0; block < table.blocks(); ++block) {
        BlockRecord& record = table[MetadataBlock(block)];
        if (record.use == BlockUse::space_map)
            record.references = 0;
        else if (record.references >= bitmap_overflow)
            metadata_overflow.emplace_back(block, record.references);
    }
    std::uint64_t data_overflows = 0;
    counts.for_each_shared([&](DataBlock, std::uint64_t count) { data_overflows += count >= bitmap_overflow; });

    SpaceMapRoots roots;
    roots.data.blocks = counts.blocks();
    roots.metadata.blocks = metadata_blocks;
    const std::uint64_t data_bitmaps = pdata::bitmaps_for(counts.blocks());
    const std::uint64_t needed = data_bitmaps + tree_nodes(data_bitmaps, IndexEntry::disk_bytes) +
                                 tree_nodes(data_overflows, overflow_value_bytes) + pdata::bitmaps_for(metadata_blocks) + 1 +
                                 tree_nodes(metadata_overflow.size(), overflow_value_bytes);
    Places places(device, table);
    TRY(places.take(needed, metadata_blocks));

    auto data_entries = TRY(
        write_bitmaps(places, roots.data.blocks, roots.data.allocated, [&](std::uint64_t index) { return bitmap_word(counts, index); }));
    EvenTree index(places, data_bitmaps, IndexEntry::disk_bytes);
    for (std::uint64_t bitmap = 0; bitmap < data_bitmaps; ++bitmap) {
        std::byte value[IndexEntry::disk_bytes];
        data_entries[bitmap].pack(value);
        TRY(index.add(bitmap, value));
    }
    roots.data.bitmap_root = TRY(index.finish()).value();

    EvenTree data_overflow(places, data_overflows, overflow_value_bytes);
    Result<void> outcome;
    counts.for_each_shared([&](DataBlock block, std::uint64_t count) {
        std::byte value[overflow_value_bytes];
        store_little<std::uint32_t>(value, static_cast<std::uint32_t>(std::min<std::uint64_t>(count, UINT32_MAX)));
        if (outcome && count >= bitmap_overflow)
            outcome = data_overflow.add(block.value(), value);
    });
    TRY(std::move(outcome));
    roots.data.overflow_root = TRY(data_overflow.finish()).value();

    auto metadata_entries =
        TRY(write_bitmaps(places, metadata_blocks, roots.metadata.allocated, [&](std::uint64_t word) { return bitmap_word(table, word); }));
    MetadataBlock location;
    std::byte* bytes = TRY(places.next(location));
    for (std::size_t entry = 0; entry < metadata_entries.size(); ++entry)
        metadata_entries[entry].pack(bytes + bitmap_header_bytes + entry * IndexEntry::disk_bytes);
    pdata::seal_block({bytes, block_bytes}, BlockKind::index, location);
    roots.metadata.bitmap_root = location.value();

    EvenTree metadata_tree(places, metadata_overflow.size(), overflow_value_bytes);
    for (auto [block, count] : metadata_overflow) {
        std::byte value[overflow_value_bytes];
        store_little<std::uint32_t>(value, count);
        TRY(metadata_tree.add(block, value));
    }
    roots.metadata.overflow_root = TRY(metadata_tree.finish()).value();
    TRY(places.write());
    return roots;
}

}  // namespace lamella::tools
