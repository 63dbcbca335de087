// SPDX-License-Identifier: Apache-2.0
#include "tools/space_map_check.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <vector>

#include "pdata/metadata_space_map.h"
#include "tools/plain_tree.h"

namespace lamella::tools {

using pdata::bitmap_header_bytes;
using pdata::bitmap_overflow;
using pdata::bitmap_words;
using pdata::entries_per_bitmap;
using pdata::entries_per_word;
using pdata::IndexEntry;
using pdata::Node;
using pdata::SpaceMapRoot;

namespace {

constexpr std::uint32_t overflow_value_bytes = 4;

// As in a bitmap: the high bit of the count comes first.
constexpr std::uint64_t raw_count(std::uint64_t count) {
    std::uint64_t capped = std::min<std::uint64_t>(count, bitmap_overflow);
    return capped >> 1 | (capped & 1) << 1;
}

// What the two maps differ in: whose blocks they count, and who counted them.
class Counted {
  public:
    virtual ~Counted() = default;
    virtual std::uint64_t word(std::uint64_t index) const = 0;
    virtual std::uint64_t count(std::uint64_t block) const = 0;
    // How many blocks have 3 references or more.
    virtual std::uint64_t many() const = 0;
};

class CountedData final : public Counted {
  public:
    explicit CountedData(const DataBlockCounts& counts) : counts_(counts) {}
    std::uint64_t word(std::uint64_t index) const override { return bitmap_word(counts_, index); }
    std::uint64_t count(std::uint64_t block) const override { return counts_.count(DataBlock(block)); }
    std::uint64_t many() const override {
        std::uint64_t many = 0;
        counts_.for_each_shared([&](DataBlock, std::uint64_t count) { many += count >= bitmap_overflow; });
        return many;
    }

  private:
    const DataBlockCounts& counts_;
};

class CountedMetadata final : public Counted {
  public:
    explicit CountedMetadata(const BlockTable& table) : table_(table) {}
    std::uint64_t word(std::uint64_t index) const override { return bitmap_word(table_, index); }
    std::uint64_t count(std::uint64_t block) const override {
        return block < table_.blocks() ? table_[MetadataBlock(block)].references : 0;
    }
    std::uint64_t many() const override {
        std::uint64_t many = 0;
        for (std::uint64_t block = 0; block < table_.blocks(); ++block)
            many += count(block) >= bitmap_overflow;
        return many;
    }

  private:
    const BlockTable& table_;
};

class Comparison {
  public:
    Comparison(std::string_view name, std::string_view unit, bool of_data, bool complete, Findings& findings)
        : name_(name), unit_(unit), of_data_(of_data), complete_(complete), findings_(findings) {}

    SpaceMapComparison result{};

    void damage(std::string text, std::optional<MetadataBlock> block = std::nullopt) {
        findings_.add({.severity = Severity::needs_repair, .text = fmt::format("{}: {}", name_, text), .block = block});
    }

    // One bitmap of the map. Threads: several bitmaps at once.
    void compare(std::uint64_t index, const ReadBlock& block, const IndexEntry& entry, std::uint64_t blocks, const Counted& counted) {
        if (auto sound = block.verify(pdata::BlockKind::bitmap); !sound) {
            damage(sound.error().message(), block.location);
            std::lock_guard lock(mutex_);
            unreadable_ = true;
            return;
        }
        const std::uint64_t first = index * entries_per_bitmap;
        const auto valid = static_cast<std::uint32_t>(std::min<std::uint64_t>(blocks - first, entries_per_bitmap));
        const std::byte* bytes = block.bytes.data();
        Run run;
        for (std::size_t word = 0; word < bitmap_words; ++word) {
            auto on_disk = load_little<std::uint64_t>(bytes + bitmap_header_bytes + word * 8);
            std::uint64_t expected = first + word * entries_per_word < blocks ? counted.word(index * bitmap_words + word) : 0;
            if (on_disk == expected)
                continue;
            for (std::uint32_t place = 0; place < entries_per_word; ++place) {
                auto number = static_cast<std::uint32_t>(word * entries_per_word + place);
                std::uint64_t should = raw_count(expected >> (place * 2) & 3);
                std::uint64_t is = raw_count(on_disk >> (place * 2) & 3);
                if (is != should)
                    add(run, first + number, is, should);
            }
        }
        finish(run);

        std::uint32_t allocated = pdata::count_allocated_entries(bytes);
        // The kernel counts places beyond the end of the device as free, thin_restore 0.9 doesn't.
        const std::uint32_t free = entries_per_bitmap - allocated;
        const std::uint32_t free_within = valid - std::min(allocated, valid);
        if (entry.free != free && entry.free != free_within)
            totals(entry.free == 0,
                   fmt::format("the bitmap of {} blocks from {} on says that {} are free; {} are", unit_, first, entry.free,
                               entry.free > valid ? free : free_within),
                   block.location);
        // Below that entry nobody looks for a free one.
        std::uint32_t first_free = pdata::find_free_entry(bytes, nullptr, 0, valid).value_or(entries_per_bitmap);
        if (entry.none_free_before > first_free)
            totals(false,
                   fmt::format("the bitmap of {} blocks from {} on says that none is free before its entry {}; entry {} is", unit_, first,
                               entry.none_free_before, first_free),
                   block.location);
        std::lock_guard lock(mutex_);
        result.used += allocated;
    }

    void compare_total(const SpaceMapRoot& root) {
        if (!unreadable_ && root.allocated != result.used)
            totals(root.allocated >= root.blocks,
                   fmt::format("its total says that {} {} blocks are in use; its bitmaps say {}", root.allocated, unit_, result.used),
                   std::nullopt);
    }

    // An entry of the overflow tree. True: it's about a block that needs one.
    bool compare_overflow(std::uint64_t block, std::uint32_t count, const Counted& counted) {
        std::uint64_t expected = counted.count(block);
        if (expected < bitmap_overflow)
            return false;  // if the bitmap sends anybody here, that was found there
        if (count != expected) {
            Run run;
            add(run, block, count, expected);
            finish(run);
        }
        return true;
    }

    void compare_overflow_total(std::uint64_t found, std::uint64_t expected) {
        if (found >= expected)
            return;
        result.overflow_wrong = true;
        damage(fmt::format("its tree of counts lacks {} blocks that have 3 references or more", expected - found));
    }

    SpaceMapComparison finished(bool trees_readable) {
        result.readable = trees_readable && !unreadable_;
        if (hidden_ != 0)
            findings_.add({.severity = Severity::note,
                           .text = fmt::format("{}: {} blocks are counted as used and nothing that can be read refers to them; what "
                                               "can't be read may",
                                               name_, hidden_)});
        return result;
    }

  private:
    // Neighbours that have the same wrong count for the same right one.
    struct Run {
        std::uint64_t first = 0;
        std::uint64_t count = 0;
        std::uint64_t is = 0;
        std::uint64_t should = 0;
    };

    void add(Run& run, std::uint64_t block, std::uint64_t is, std::uint64_t should) {
        if (run.count != 0 && run.first + run.count == block && run.is == is && run.should == should) {
            ++run.count;
            return;
        }
        finish(run);
        run = {block, 1, is, should};
    }

    void finish(const Run& run) {
        if (run.count == 0)
            return;
        {
            std::lock_guard lock(mutex_);
            if (run.is < run.should)
                result.too_low += run.count;
            else if (!complete_)
                hidden_ += run.count;
            else if (run.is == 1)
                result.leaked += run.count;
            else
                result.too_high += run.count;
        }
        if (run.is > run.should && !complete_)
            return;
        Finding finding;
        auto shown = [](std::uint64_t count) { return count == bitmap_overflow ? std::string("3 or more") : fmt::format("{}", count); };
        if (run.is > run.should) {
            finding.severity = Severity::leak;
            finding.text = run.should == 0 ? "counted as used, but nothing refers to it"
                                           : fmt::format("counted {} times, but referred to {} times", shown(run.is), shown(run.should));
        } else {
            finding.severity = Severity::data_at_risk;
            finding.text = run.is == 0 ? "counted as free, but in use: it would be given away and overwritten"
                                       : fmt::format("counted {} times, but referred to {} times: it would be freed too early",
                                                     shown(run.is), shown(run.should));
        }
        if (of_data_) {
            finding.data = DataRange{DataBlock(run.first), DataBlock(run.first + run.count)};
        } else {
            finding.block = MetadataBlock(run.first);
            if (run.count > 1)
                finding.text = fmt::format("this and the next {}: {}", run.count - 1, finding.text);
        }
        findings_.add(std::move(finding));
    }

    // A wrong sum may cost room, as a leak does. `looks_full`: it keeps the pool from allocating at all.
    void totals(bool looks_full, std::string text, std::optional<MetadataBlock> block) {
        {
            std::lock_guard lock(mutex_);
            result.totals_wrong = true;
        }
        findings_.add(
            {.severity = looks_full ? Severity::needs_repair : Severity::leak, .text = fmt::format("{}: {}", name_, text), .block = block});
    }

    std::string_view name_;
    std::string_view unit_;
    bool of_data_;
    bool complete_;
    Findings& findings_;
    std::mutex mutex_;
    bool unreadable_ = false;
    std::uint64_t hidden_ = 0;
};

// The bitmaps that an index leads to; what isn't there or belongs to others is 0 in `locations`.
bool take_bitmaps(BlockTable& table, std::span<const IndexEntry> entries, std::vector<MetadataBlock>& locations, Comparison& comparison) {
    bool all = true;
    for (std::size_t index = 0; index < entries.size(); ++index) {
        MetadataBlock location(entries[index].location);
        std::string fault;
        if (location.value() == 0 || location.value() >= table.blocks()) {
            fault = fmt::format("its bitmap {} would be metadata block {}", index, location);
        } else {
            table.refer(location);
            if (BlockUse use = table.claim(location, BlockUse::space_map); use != BlockUse::space_map)
                fault = fmt::format("its bitmap {} is metadata block {}, which is used for {} as well", index, location, to_string(use));
        }
        if (!fault.empty()) {
            comparison.damage(std::move(fault));
            all = false;
            location = MetadataBlock(std::numeric_limits<std::uint64_t>::max());
        }
        locations.push_back(location);
    }
    return all;
}

Result<bool> compare_bitmaps(MetadataReader& reader, BlockTable& table, const SpaceMapRoot& root, std::span<const IndexEntry> entries,
                             const Counted& counted, Comparison& comparison, const Control& control) {
    std::vector<MetadataBlock> locations;
    bool all = take_bitmaps(table, entries, locations, comparison);
    TRY(reader.read_list(locations,
                         [&](unsigned, const ReadBlock& block) {
                             if (block.location.value() < table.blocks())
                                 comparison.compare(block.index, block, entries[block.index], root.blocks, counted);
                         },
                         {.stop = control.stop}));
    if (all)
        comparison.compare_total(root);
    return all;
}

}  // namespace

std::uint64_t bitmap_word(const BlockTable& table, std::uint64_t index) {
    std::uint64_t word = 0;
    std::uint64_t first = index * entries_per_word;
    for (std::uint64_t place = 0; place < entries_per_word && first + place < table.blocks(); ++place)
        if (std::uint32_t references = table[MetadataBlock(first + place)].references; references != 0)
            word |= raw_count(references) << (place * 2);
    return word;
}

std::uint64_t bitmap_word(const DataBlockCounts& counts, std::uint64_t index) {
    std::uint64_t word = counts.word_of_ones(index);
    std::uint64_t first = index * entries_per_word;
    if (word == 0 || !counts.has_shared(first / DataBlockCounts::blocks_per_region))
        return word;
    for (std::uint64_t place = 0; place < entries_per_word; ++place)
        if (std::uint64_t count = counts.count(DataBlock(first + place)); count > 1)
            word = (word & ~(std::uint64_t{3} << (place * 2))) | raw_count(count) << (place * 2);
    return word;
}

Result<SpaceMapComparison> compare_data_space_map(MetadataReader& reader, BlockTable& table, const SpaceMapRoot& root,
                                                  const DataBlockCounts& counts, bool complete, Findings& findings,
                                                  const Control& control) {
    Comparison comparison("space map of the data", "data", true, complete, findings);
    CountedData counted(counts);
    std::uint64_t bitmaps = (root.blocks + entries_per_bitmap - 1) / entries_per_bitmap;
    std::vector<IndexEntry> entries(bitmaps);
    std::mutex mutex;
    std::uint64_t found = 0;
    bool readable = TRY(walk_plain_tree(
        reader, table,
        {.name = "index of the data's space map",
         .use = BlockUse::space_map,
         .value_size = IndexEntry::disk_bytes,
         .root = MetadataBlock(root.bitmap_root)},
        findings,
        [&](MetadataBlock location, const Node& leaf, bool) {
            std::lock_guard lock(mutex);
            for (std::uint32_t index = 0; index < leaf.entries(); ++index) {
                if (leaf.key(index) >= bitmaps) {
                    comparison.damage(fmt::format("index entry {} is beyond its {} bitmaps", leaf.key(index), bitmaps), location);
                    continue;
                }
                entries[leaf.key(index)] = IndexEntry::unpack(leaf.value(index));
                ++found;
            }
        },
        control));
    if (readable && found != bitmaps)
        comparison.damage(fmt::format("{} of its {} bitmaps have an entry in its index", found, bitmaps));
    readable = readable && found == bitmaps;
    if (readable)
        readable = TRY(compare_bitmaps(reader, table, root, entries, counted, comparison, control));

    std::atomic<std::uint64_t> overflows = 0;
    bool overflow_readable = TRY(walk_plain_tree(
        reader, table,
        {.name = "counts of 3 and more of the data's space map",
         .use = BlockUse::space_map,
         .value_size = overflow_value_bytes,
         .root = MetadataBlock(root.overflow_root)},
        findings,
        [&](MetadataBlock, const Node& leaf, bool) {
            std::uint64_t matched = 0;
            for (std::uint32_t index = 0; index < leaf.entries(); ++index)
                if (std::uint64_t block = leaf.key(index); block < root.blocks)
                    matched += comparison.compare_overflow(block, load_little<std::uint32_t>(leaf.value(index)), counted);
            overflows.fetch_add(matched, std::memory_order_relaxed);
        },
        control));
    if (overflow_readable)
        comparison.compare_overflow_total(overflows, counted.many());
    return comparison.finished(readable && overflow_readable);
}

Result<SpaceMapComparison> compare_metadata_space_map(MetadataReader& reader, BlockTable& table, const SpaceMapRoot& root, bool complete,
                                                      Findings& findings, const Control& control) {
    Comparison comparison("space map of the metadata", "metadata", false, complete, findings);
    CountedMetadata counted(table);
    struct Overflow {
        std::uint64_t block;
        std::uint32_t count;
    };
    std::vector<Overflow> overflows;
    std::mutex mutex;
    bool overflow_readable = TRY(walk_plain_tree(
        reader, table,
        {.name = "counts of 3 and more of the metadata's space map",
         .use = BlockUse::space_map,
         .value_size = overflow_value_bytes,
         .root = MetadataBlock(root.overflow_root)},
        findings,
        [&](MetadataBlock, const Node& leaf, bool) {
            std::lock_guard lock(mutex);
            for (std::uint32_t index = 0; index < leaf.entries(); ++index)
                overflows.push_back({leaf.key(index), load_little<std::uint32_t>(leaf.value(index))});
        },
        control));

    bool readable = false;
    MetadataBlock index_block(root.bitmap_root);
    if (index_block.value() == 0 || index_block.value() >= table.blocks()) {
        comparison.damage(fmt::format("its index would be metadata block {}", index_block));
    } else {
        table.refer(index_block);
        AlignedBuffer bytes(pdata::block_bytes);
        if (BlockUse use = table.claim(index_block, BlockUse::space_map); use != BlockUse::space_map) {
            comparison.damage(fmt::format("its index is used for {} as well", to_string(use)), index_block);
        } else if (auto read = reader.read_block(index_block, pdata::BlockKind::index, bytes.bytes()); !read) {
            comparison.damage(read.error().message(), index_block);
        } else {
            // Entries of bitmaps that aren't there may hold anything.
            std::vector<IndexEntry> entries((std::min(root.blocks, table.blocks()) + entries_per_bitmap - 1) / entries_per_bitmap);
            for (std::size_t index = 0; index < entries.size(); ++index)
                entries[index] = IndexEntry::unpack(bytes.data() + bitmap_header_bytes + index * IndexEntry::disk_bytes);
            readable = TRY(compare_bitmaps(reader, table, root, entries, counted, comparison, control));
        }
    }
    if (overflow_readable) {
        std::uint64_t matched = 0;
        for (const Overflow& overflow : overflows)
            matched += comparison.compare_overflow(overflow.block, overflow.count, counted);
        comparison.compare_overflow_total(matched, counted.many());
    }
    return comparison.finished(readable && overflow_readable);
}

}  // namespace lamella::tools
