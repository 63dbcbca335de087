// SPDX-License-Identifier: Apache-2.0
//
// Pools of random content, restored and dumped. That other tools agree is for tests/interop.
#include "tools/restore.h"

#include <map>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/endian.h"
#include "device/fault_device.h"
#include "device/memory_device.h"
#include "pdata/bitmap.h"
#include "pdata/block.h"
#include "pdata/btree.h"
#include "thin/superblock.h"
#include "tools/builder.h"
#include "tools/dump.h"
#include "tools/printer.h"
#include "tools/xml_parser.h"

namespace lamella::tools {
namespace {

using pdata::block_bytes;
using pdata::BlockKind;
using testing::HasSubstr;

std::string dumped(BlockDevice& device, const DumpOptions& options, DumpFormat format = DumpFormat::xml) {
    StringSink sink;
    auto printer = make_printer(format, sink);
    auto result = dump(device, options, *printer);
    return result ? sink.text : "error: " + result.error().message();
}

Result<RestoreReport> restored(const std::string& xml, BlockDevice& device, const HeaderOverrides& overrides = {}) {
    StringSource source(xml, 4096, "dump.xml");
    return restore(source, device, overrides);
}

// Mappings of a device: virtual block -> data block, time.
using Content = std::map<std::uint64_t, std::pair<std::uint64_t, std::uint32_t>>;

constexpr std::uint64_t data_blocks = 100'000;
constexpr std::uint32_t pool_time = 9;

std::string header(std::uint64_t blocks = data_blocks) {
    return fmt::format(
        "<superblock uuid=\"\" time=\"{}\" transaction=\"5\" flags=\"0\" version=\"2\" data_block_size=\"128\" "
        "nr_data_blocks=\"{}\">\n",
        pool_time, blocks);
}

std::string mapping_lines(const Content& content) {
    std::string text;
    for (auto [block, place] : content)
        text += fmt::format("    <single_mapping origin_block=\"{}\" data_block=\"{}\" time=\"{}\"/>\n", block, place.first, place.second);
    return text;
}

Content random_content(std::mt19937_64& random, std::uint64_t first, std::size_t count) {
    Content content;
    std::uint64_t block = first;
    std::uint64_t data = random() % data_blocks;
    for (std::size_t index = 0; index < count; ++index) {
        content[block] = {data, static_cast<std::uint32_t>(random() % (pool_time + 1))};
        block += random() % 3 == 0 ? 1 + random() % 100 : 1;
        data = random() % 3 == 0 ? random() % data_blocks : (data + 1) % data_blocks;
    }
    return content;
}

// How many entries a definition or a device's part has: often where leaves begin and end.
std::size_t random_count(std::mt19937_64& random) {
    static constexpr std::size_t counts[] = {1, 2, 83, 84, 85, 251, 252, 253, 335, 336, 337, 504, 600, 3000};
    return random() % 4 == 0 ? random() % 400 : counts[random() % std::size(counts)];
}

struct Pool {
    std::string xml;
    std::map<std::uint32_t, Content> devices;
};

Pool random_pool(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    Pool pool;
    pool.xml = header();
    std::vector<Content> definitions(random() % 5);
    std::uint64_t at = 0;
    for (std::size_t index = 0; index < definitions.size(); ++index) {
        definitions[index] = random_content(random, at += random() % 10, random_count(random));
        if (!definitions[index].empty())
            at = definitions[index].rbegin()->first + 1;
        at += random() % 2 == 0 ? 0 : 10'000;
        pool.xml += fmt::format("  <def name=\"{}\">\n{}  </def>\n", index, mapping_lines(definitions[index]));
    }
    for (std::uint64_t device = random() % 8; device > 0; --device) {
        std::uint32_t id = random() % 2 == 0 ? static_cast<std::uint32_t>(device) : static_cast<std::uint32_t>(random() % (1 << 24));
        if (pool.devices.contains(id))
            continue;
        Content& content = pool.devices[id];
        std::string body;
        auto own = [&](std::uint64_t from, std::uint64_t below) {
            Content part = random_content(random, from, random_count(random));
            part.erase(part.lower_bound(below), part.end());
            body += mapping_lines(part);
            content.merge(part);
        };
        for (std::size_t index = 0; index < definitions.size(); ++index) {
            const Content& definition = definitions[index];
            if (definition.empty() || random() % 3 == 0)
                continue;
            if (random() % 3 == 0)
                own(content.empty() ? 0 : content.rbegin()->first + 1, definition.begin()->first);
            body += fmt::format("    <ref name=\"{}\"/>\n", index);
            content.insert(definition.begin(), definition.end());
        }
        if (random() % 2 == 0)
            own(content.empty() ? 0 : content.rbegin()->first + 1, ~std::uint64_t{0});
        pool.xml += fmt::format(
            "  <device dev_id=\"{}\" mapped_blocks=\"{}\" transaction=\"1\" creation_time=\"2\" snap_time=\"3\">\n{}  </device>\n", id,
            content.size(), body);
    }
    pool.xml += "</superblock>\n";
    return pool;
}

// What a plain dump prints of it.
std::string expected_dump(const Pool& pool, std::uint64_t begin = 0, std::uint64_t end = ~std::uint64_t{0}) {
    StringSink sink;
    auto printer = make_printer(DumpFormat::xml, sink);
    EXPECT_TRUE(printer->superblock_begin(
        {.time = pool_time, .transaction_id = 5, .version = 2, .data_block_sectors = 128, .data_blocks = data_blocks}));
    for (const auto& [id, whole] : pool.devices) {
        Content content(whole.lower_bound(begin), whole.lower_bound(std::max(begin, end)));
        EXPECT_TRUE(printer->device_begin({ThinId(id), content.size(), 1, 2, 3}));
        for (auto [block, place] : content) {
            Mapping mapping{VirtualBlock(block), DataBlock(place.first), 1, place.second};
            EXPECT_TRUE(printer->map({&mapping, 1}));
        }
        EXPECT_TRUE(printer->device_end());
    }
    EXPECT_TRUE(printer->superblock_end());
    return sink.text;
}

// Reads everything that the superblock leads to and counts it anew: block counts, data counts, how full nodes are.
class Audit {
  public:
    explicit Audit(BlockDevice& device) : device_(device) {
        std::vector<std::byte> block = read(0, BlockKind::superblock);
        auto superblock = thin::Superblock::unpack(block, true);
        EXPECT_TRUE(superblock);
        references_[0] = 1;
        visit(superblock->data_mapping_root.value(), 8, [this](std::uint64_t, const std::byte* value) {
            visit(load_little<std::uint64_t>(value), 8,
                  [this](std::uint64_t, const std::byte* mapping) { ++data_[load_little<std::uint64_t>(mapping) >> 24]; });
        });
        visit(superblock->device_details_root.value(), 24, [](std::uint64_t, const std::byte*) {});
        check_data(pdata::SpaceMapRoot::unpack(superblock->data_space_map_root.data()));
        check_metadata(pdata::SpaceMapRoot::unpack(superblock->metadata_space_map_root.data()));
    }

  private:
    std::vector<std::byte> read(std::uint64_t location, BlockKind kind) {
        std::vector<std::byte> block(block_bytes);
        EXPECT_TRUE(read_now(device_, location * block_bytes, block));
        auto sound = pdata::verify_block(block, kind, MetadataBlock(location));
        EXPECT_TRUE(sound) << location << ": " << sound.error().message();
        return block;
    }

    template <typename Visit>
    void visit(std::uint64_t location, std::uint32_t value_size, Visit value, bool root = true) {
        if (++references_[location] > 1)
            return;
        std::vector<std::byte> block = read(location, BlockKind::node);
        auto sound = pdata::verify_node(block.data());
        ASSERT_TRUE(sound) << location << ": " << sound.error().message();
        pdata::Node node(block.data());
        EXPECT_EQ(node.max_entries(), pdata::max_node_entries(node.is_leaf() ? value_size : 8)) << location;
        if (!root) {
            EXPECT_GE(node.entries(), node.max_entries() / 3) << location;
        }
        for (std::uint32_t index = 0; index < node.entries(); ++index) {
            if (node.is_leaf())
                value(node.key(index), node.value(index));
            else
                visit(node.child(index).value(), value_size, value, false);
        }
    }

    void check_data(const pdata::SpaceMapRoot& root) {
        std::map<std::uint64_t, std::uint32_t> overflow, counts;
        visit(root.overflow_root, 4,
              [&](std::uint64_t block, const std::byte* value) { overflow[block] = load_little<std::uint32_t>(value); });
        visit(root.bitmap_root, 16, [&](std::uint64_t number, const std::byte* value) {
            auto entry = pdata::IndexEntry::unpack(value);
            ++references_[entry.location];
            check_bitmap(number, entry, overflow, counts);
        });
        EXPECT_EQ(root.blocks, data_blocks);
        EXPECT_EQ(counts, data_);
        EXPECT_EQ(root.allocated, counts.size());
    }

    void check_metadata(const pdata::SpaceMapRoot& root) {
        std::map<std::uint64_t, std::uint32_t> overflow, counts;
        visit(root.overflow_root, 4,
              [&](std::uint64_t block, const std::byte* value) { overflow[block] = load_little<std::uint32_t>(value); });
        std::vector<std::byte> index = read(root.bitmap_root, BlockKind::index);
        ++references_[root.bitmap_root];
        for (std::uint64_t number = 0; number * pdata::entries_per_bitmap < root.blocks; ++number) {
            auto entry = pdata::IndexEntry::unpack(index.data() + 16 + number * 16);
            ++references_[entry.location];
            check_bitmap(number, entry, overflow, counts);
        }
        EXPECT_EQ(root.blocks, device_.size() / block_bytes);
        EXPECT_EQ(counts, references_);
        EXPECT_EQ(root.allocated, counts.size());
    }

    void check_bitmap(std::uint64_t number, const pdata::IndexEntry& entry, const std::map<std::uint64_t, std::uint32_t>& overflow,
                      std::map<std::uint64_t, std::uint32_t>& counts) {
        std::vector<std::byte> bitmap = read(entry.location, BlockKind::bitmap);
        std::uint32_t free = 0;
        std::uint32_t first_free = pdata::entries_per_bitmap;
        for (std::uint32_t place = pdata::entries_per_bitmap; place-- > 0;) {
            std::uint64_t block = number * pdata::entries_per_bitmap + place;
            std::uint32_t count = pdata::bitmap_count(bitmap.data(), place);
            if (count == 0) {
                ++free;
                first_free = place;
            } else {
                counts[block] = count == 3 ? overflow.at(block) : count;
                EXPECT_EQ(overflow.contains(block), count == 3) << block;
            }
        }
        EXPECT_EQ(entry.free, free);
        EXPECT_EQ(entry.none_free_before, first_free);
    }

    BlockDevice& device_;
    std::map<std::uint64_t, std::uint32_t> references_;
    std::map<std::uint64_t, std::uint32_t> data_;
};

TEST(Restore, RandomPoolsComeBack) {
    std::uint64_t base = std::random_device()();
    for (std::uint64_t seed = base; seed < base + 60; ++seed) {
        SCOPED_TRACE(fmt::format("seed {}", seed));
        Pool pool = random_pool(seed);
        MemoryDevice device(2000 * block_bytes);
        auto report = restored(pool.xml, device);
        ASSERT_TRUE(report) << report.error().message();
        EXPECT_EQ(report->devices, pool.devices.size());
        Audit audit(device);
        ASSERT_EQ(dumped(device, {}), expected_dump(pool));

        // With definitions, onto another device: the same pool, no larger.
        std::string shared = dumped(device, {.definitions = true});
        MemoryDevice second(2000 * block_bytes);
        auto again = restored(shared, second);
        ASSERT_TRUE(again) << again.error().message();
        Audit second_audit(second);
        ASSERT_EQ(dumped(second, {}), expected_dump(pool));
        EXPECT_LE(again->metadata_blocks, report->metadata_blocks + 5);

        std::uint64_t begin = seed % 1000;
        std::uint64_t end = begin + seed % 777;
        if (begin < end) {
            EXPECT_EQ(dumped(device, {.begin = VirtualBlock(begin), .end = VirtualBlock(end)}), expected_dump(pool, begin, end));
        }
        if (::testing::Test::HasFailure())
            return;
    }
}

// Several levels of inner nodes, several windows of leaves, several bitmaps.
TEST(Restore, ALargeVolume) {
    Pool pool;
    Content& content = pool.devices[3];
    for (std::uint64_t index = 0; index < 90'000; ++index)
        content[index * 5] = {index * 7919 % data_blocks, static_cast<std::uint32_t>(index % 3)};
    pool.xml = header() + "<device dev_id=\"3\" mapped_blocks=\"90000\" transaction=\"1\" creation_time=\"2\" snap_time=\"3\">\n" +
               mapping_lines(content) + "</device></superblock>";
    MemoryDevice device(2000 * block_bytes);
    ASSERT_TRUE(restored(pool.xml, device));
    Audit audit(device);
    EXPECT_EQ(dumped(device, {}), expected_dump(pool));
    EXPECT_EQ(dumped(device, {.definitions = true}), expected_dump(pool));
    EXPECT_EQ(dumped(device, {.devices = {ThinId(4)}}), expected_dump({}));
    EXPECT_THAT(dumped(device, {.devices = {ThinId(4)}, .devices_must_exist = true}), HasSubstr("error: memory: no thin device 4"));

    // Damage is named, and what lies before it is told.
    std::vector<std::byte> zeros(block_bytes);
    ASSERT_TRUE(write_now(device, 300 * block_bytes, zeros));
    EXPECT_THAT(dumped(device, {}), HasSubstr("error: device 3: metadata block 300 of memory: not a B-tree node"));
}

// A hundred volumes that are the same share one tree, and its dump has the mappings once.
TEST(Restore, EqualVolumesShareTheirTree) {
    std::mt19937_64 random(1);
    Content content = random_content(random, 0, 30'000);
    std::string xml = header() + "<def name=\"all\">\n" + mapping_lines(content) + "</def>\n";
    Pool pool;
    for (unsigned id = 0; id < 100; ++id) {
        pool.devices[id] = content;
        xml += fmt::format(
            "<device dev_id=\"{}\" mapped_blocks=\"{}\" transaction=\"1\" creation_time=\"2\" snap_time=\"3\"><ref "
            "name=\"all\"/></device>\n",
            id, content.size());
    }
    xml += "</superblock>";
    MemoryDevice device(1000 * block_bytes);
    auto report = restored(xml, device);
    ASSERT_TRUE(report) << report.error().message();
    EXPECT_LT(report->metadata_blocks, 30'000 / 252 + 30);
    Audit audit(device);
    std::string text = dumped(device, {.definitions = true});
    EXPECT_LT(text.size(), mapping_lines(content).size() + 20'000);
    MemoryDevice second(1000 * block_bytes);
    ASSERT_TRUE(restored(text, second));
    EXPECT_EQ(dumped(second, {}), expected_dump(pool));
}

// Until all of it is there the device holds nothing that anybody takes for metadata, whichever request fails.
TEST(Restore, WhatFailsIsNotMetadata) {
    Pool pool = random_pool(7);
    for (std::uint64_t seed = 7; pool.devices.size() < 3; pool = random_pool(++seed)) {}
    for (IoOperation operation : {IoOperation::write, IoOperation::flush}) {
        bool failed = true;
        for (std::uint64_t skip = 0; failed; ++skip) {
            MemoryDevice memory(2000 * block_bytes);
            ASSERT_TRUE(restored(random_pool(3).xml, memory));
            FaultDevice device(memory);
            device.add({.operation = operation, .skip = skip, .count = 1, .error = ENOSPC});
            auto result = restored(pool.xml, device);
            failed = !result.has_value();
            ASSERT_LT(skip, 100u);
            if (!failed)
                break;
            EXPECT_EQ(result.error().kind(), ErrorKind::no_space) << result.error().message();
            std::vector<std::byte> block(block_bytes);
            ASSERT_TRUE(read_now(memory, 0, block));
            // The very first write leaves what was there; the last flush comes after the superblock, which then describes what is there.
            if (auto superblock = thin::Superblock::unpack(block, true)) {
                bool first = operation == IoOperation::write && skip == 0;
                EXPECT_EQ(dumped(memory, {}), expected_dump(first ? random_pool(3) : pool)) << skip;
                EXPECT_TRUE(first || operation == IoOperation::flush);
            } else {
                EXPECT_FALSE(thin::is_unformatted(block)) << "the kernel would format it";
            }
        }
    }
}

TEST(Restore, TooSmall) {
    Pool pool = random_pool(11);
    for (std::uint64_t seed = 11; pool.xml.size() < 100'000; pool = random_pool(++seed)) {}
    MemoryDevice tiny(9 * block_bytes);
    EXPECT_EQ(restored(pool.xml, tiny).error().kind(), ErrorKind::no_space);
    EXPECT_EQ(tiny.allocated_pages(), 0u) << "not touched";
    std::uint64_t needed = 10;
    for (;; ++needed) {
        MemoryDevice device(needed * block_bytes);
        auto result = restored(pool.xml, device);
        if (result) {
            EXPECT_EQ(result->metadata_blocks, needed) << "not one block too many is asked for";
            Audit audit(device);
            break;
        }
        ASSERT_EQ(result.error().kind(), ErrorKind::no_space) << result.error().message();
        EXPECT_THAT(dumped(device, {}), HasSubstr("error: memory: superblock: magic"));
    }
    // More data blocks than their counts have room for.
    MemoryDevice device(100 * block_bytes);
    auto result = restored(header(1ull << 40) + "</superblock>", device);
    ASSERT_FALSE(result);
    EXPECT_THAT(result.error().message(), HasSubstr("too small for 1099511627776 data blocks"));
}

// XML that turns out wrong in the middle leaves no metadata behind; wrong from the beginning, it leaves what was there.
TEST(Restore, WrongXml) {
    MemoryDevice device(2000 * block_bytes);
    Pool pool = random_pool(3);
    ASSERT_TRUE(restored(pool.xml, device));
    EXPECT_FALSE(restored("<hello/>", device));
    EXPECT_FALSE(restored("", device));
    EXPECT_EQ(dumped(device, {}), expected_dump(pool));
    EXPECT_FALSE(restored(header(), device));
    EXPECT_THAT(dumped(device, {}), HasSubstr("error: memory: superblock: magic"));
}

TEST(Restore, KeepsTheUuid) {
    std::string xml = header() + "</superblock>\n";
    xml.replace(xml.find("uuid=\"\""), 7, "uuid=\"000102030405060708090a0b0c0d0eff\"");
    MemoryDevice device(100 * block_bytes);
    ASSERT_TRUE(restored(xml, device));
    EXPECT_EQ(dumped(device, {}), xml);
}

// What is an inner node of one device, another's tree has where its leaves are.
TEST(Dump, ABlockIsLeafAndInnerNode) {
    std::string xml = header();
    for (unsigned id : {1, 2}) {
        xml += fmt::format("<device dev_id=\"{}\" mapped_blocks=\"600\" transaction=\"0\" creation_time=\"0\" snap_time=\"0\">", id);
        for (unsigned number = 0; number < 600; ++number)
            xml += fmt::format("<single_mapping origin_block=\"{}\" data_block=\"{}\" time=\"0\"/>", number, 2 * (number + 600 * (id - 1)));
        xml += "</device>";
    }
    MemoryDevice device(2000 * block_bytes);
    const auto report = restored(xml + "</superblock>", device);
    ASSERT_TRUE(report) << report.error().message();
    std::vector<std::uint64_t> inner;
    std::vector<std::byte> block(block_bytes);
    for (std::uint64_t location = 1; location < report->metadata_blocks; ++location) {
        ASSERT_TRUE(read_now(device, location * block_bytes, block));
        if (pdata::kind_by_checksum(block) == pdata::BlockKind::node && load_little<std::uint32_t>(block.data() + 4) == 1)
            inner.push_back(location);
    }
    ASSERT_EQ(inner.size(), 2u);
    for (unsigned which : {0, 1}) {
        const std::uint64_t location = inner[which];
        ASSERT_TRUE(read_now(device, location * block_bytes, block));
        std::vector<std::byte> changed = block;
        const auto most = load_little<std::uint32_t>(block.data() + 20);
        store_little<std::uint64_t>(changed.data() + 32 + std::size_t{most} * 8 + 8, inner[1 - which]);
        pdata::seal_block(changed, pdata::BlockKind::node, MetadataBlock(location));
        ASSERT_TRUE(write_now(device, location * block_bytes, changed));
        EXPECT_TRUE(dumped(device, {.definitions = true}).contains("a leaf in one place and an inner node in another")) << which;
        ASSERT_TRUE(write_now(device, location * block_bytes, block));
    }
}

// Metadata with right checksums and wrong content: an error or a dump, soon, whatever it is.
TEST(Dump, HostileMetadata) {
    std::uint64_t seed = std::random_device()();
    fmt::print(stderr, "seed {}\n", seed);  // a crash tells of no trace
    std::mt19937_64 random(seed);
    Pool pool = random_pool(seed);
    for (std::uint64_t next = seed; pool.devices.size() < 4; pool = random_pool(++next)) {}
    MemoryDevice device(2000 * block_bytes);
    auto report = restored(pool.xml, device);
    ASSERT_TRUE(report);
    unsigned refused = 0;
    for (unsigned round = 0; round < 400; ++round) {
        std::uint64_t location = random() % report->metadata_blocks;
        std::vector<std::byte> before(block_bytes);
        ASSERT_TRUE(read_now(device, location * block_bytes, before));
        std::vector<std::byte> after = before;
        auto kind = pdata::kind_by_checksum(before);
        ASSERT_TRUE(kind);
        for (unsigned changes = 1 + random() % 4; changes > 0; --changes) {
            // Often the header, or a child or key: another block, something huge, a neighbour's.
            std::size_t at = random() % 2 == 0 ? 4 + random() % 28 : 32 + random() % 60 * 8;
            if (random() % 3 == 0)
                at = 32 + 2016 + random() % 60 * 8;
            std::uint64_t values[] = {random(), random() % report->metadata_blocks, 0, ~std::uint64_t{0}, location};
            store_little<std::uint64_t>(after.data() + std::min(at, block_bytes - 8), values[random() % std::size(values)]);
        }
        pdata::seal_block(after, *kind, MetadataBlock(location));
        ASSERT_TRUE(write_now(device, location * block_bytes, after));
        for (bool definitions : {false, true})
            refused += dumped(device, {.definitions = definitions}).starts_with("error");
        ASSERT_TRUE(write_now(device, location * block_bytes, before));
    }
    EXPECT_GT(refused, 100u);
    EXPECT_EQ(dumped(device, {}), expected_dump(pool));
}

// Counting more data blocks than its memory has room for.
TEST(DataCounts, GoToDiskAndComeBack) {
    MemoryDevice device(40'000 * block_bytes);
    constexpr std::uint64_t blocks = 17'000ull * pdata::entries_per_bitmap;
    auto stream = BlockStream::start(device, MetadataBlock(1), MetadataBlock(40'000));
    ASSERT_TRUE(stream);
    auto counts = DataCounts::start(**stream, blocks, 40'000);
    ASSERT_TRUE(counts);
    for (unsigned round = 0; round < 4; ++round)
        for (std::uint64_t bitmap = 0; bitmap < 17'000; bitmap += round % 2 == 0 ? 1 : 13) {
            std::uint64_t packed = (bitmap * pdata::entries_per_bitmap + bitmap % 1000) << 24 | 5;
            ASSERT_TRUE(counts->increment({&packed, 1}));
        }
    auto root = counts->finish();
    ASSERT_TRUE(root) << root.error().message();
    ASSERT_TRUE((*stream)->finish());
    EXPECT_EQ(root->allocated, 17'000u);
    pdata::BlockCache cache(device, 1 << 20);
    pdata::Btree index(cache, 16, "index");
    pdata::Btree overflow(cache, 4, "overflow");
    for (std::uint64_t bitmap : {0ull, 1ull, 13ull, 16'999ull}) {
        std::byte value[16];
        ASSERT_TRUE(*index.lookup(MetadataBlock(root->bitmap_root), bitmap, value));
        auto entry = pdata::IndexEntry::unpack(value);
        std::vector<std::byte> block(block_bytes);
        ASSERT_TRUE(read_now(device, entry.location * block_bytes, block));
        ASSERT_TRUE(pdata::verify_block(block, BlockKind::bitmap, MetadataBlock(entry.location)));
        bool more = bitmap % 13 == 0;
        EXPECT_EQ(pdata::bitmap_count(block.data(), static_cast<std::uint32_t>(bitmap % 1000)), more ? 3u : 2u);
        EXPECT_EQ(entry.free, pdata::entries_per_bitmap - 1);
        std::byte count[4];
        EXPECT_EQ(*overflow.lookup(MetadataBlock(root->overflow_root), bitmap * pdata::entries_per_bitmap + bitmap % 1000, count), more);
        if (more) {
            EXPECT_EQ(load_little<std::uint32_t>(count), 4u);
        }
    }
}

}  // namespace
}  // namespace lamella::tools
