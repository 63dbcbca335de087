// SPDX-License-Identifier: Apache-2.0
#include "tools/metadata_reader.h"

#include <map>
#include <mutex>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "device/fault_device.h"
#include "device/file_device.h"
#include "device/memory_device.h"
#include "device/test_support.h"

namespace lamella::tools {
namespace {

using pdata::block_bytes;
using pdata::BlockKind;

// A device whose blocks are sealed nodes that say where they are.
void fill(BlockDevice& device) {
    std::vector<std::byte> block(block_bytes);
    for (std::uint64_t location = 0; location < device.size() / block_bytes; ++location) {
        pdata::seal_block(block, BlockKind::node, MetadataBlock(location));
        ASSERT_TRUE(write_now(device, location * block_bytes, block));
    }
}

struct Visits {
    std::mutex mutex;
    std::map<std::uint64_t, int> errors;  // by block
    std::map<std::size_t, std::uint64_t> indexes;

    MetadataReader::Visit visit() {
        return [this](unsigned, const ReadBlock& block) {
            bool sound = block.verify(BlockKind::node).has_value();
            std::lock_guard lock(mutex);
            EXPECT_TRUE(errors.emplace(block.location.value(), block.error).second) << "visited twice";
            EXPECT_EQ(sound, block.error == 0);
            indexes[block.index] = block.location.value();
        };
    }
};

TEST(MetadataReader, VisitsASetOnce) {
    MemoryDevice device(5000 * block_bytes + 512);
    fill(device);
    for (unsigned threads : {1u, 2u, 5u}) {
        auto reader = MetadataReader::start(device, {.threads = threads});
        ASSERT_TRUE(reader);
        EXPECT_EQ((*reader)->blocks(), 5000u);
        EXPECT_EQ((*reader)->threads(), threads);
        for (unsigned step : {1u, 2u, 7u, 9u, 100u}) {
            MetadataBlockSet set(5000);
            std::map<std::uint64_t, int> expected;
            for (std::uint64_t block = step; block < 5000; block += step) {
                EXPECT_TRUE(set.insert(MetadataBlock(block)));
                expected[block] = 0;
            }
            EXPECT_EQ(set.count(), expected.size());
            Visits visits;
            ASSERT_TRUE((*reader)->read_set(set, visits.visit()));
            EXPECT_EQ(visits.errors, expected);
        }
    }
}

TEST(MetadataReader, ReadsFilesDirectly) {
    test::TemporaryFolder folder;
    auto device = FileDevice::open(folder.file("metadata"), {.create = 300 * block_bytes});
    ASSERT_TRUE(device);
    fill(**device);
    auto reader = MetadataReader::start(**device, {});
    ASSERT_TRUE(reader);
    MetadataBlockSet set(300);
    set.insert_all();
    Visits visits;
    ASSERT_TRUE((*reader)->read_set(set, visits.visit()));
    EXPECT_EQ(visits.errors.size(), 300u);
}

TEST(MetadataReader, KeepsTheOrderOfAListInItsIndexes) {
    MemoryDevice device(1000 * block_bytes);
    fill(device);
    std::vector<MetadataBlock> list;
    for (std::uint64_t block = 500; block < 700; ++block)
        list.emplace_back(block);
    for (std::uint64_t block = 400; block > 10; block -= 3)
        list.emplace_back(block);
    list.emplace_back(999);
    list.emplace_back(1000);  // beyond the end
    auto reader = MetadataReader::start(device, {});
    ASSERT_TRUE(reader);
    Visits visits;
    ASSERT_TRUE((*reader)->read_list(list, visits.visit()));
    ASSERT_EQ(visits.indexes.size(), list.size());
    for (std::size_t index = 0; index < list.size(); ++index)
        EXPECT_EQ(visits.indexes[index], list[index].value());
    EXPECT_EQ(visits.errors[1000], EINVAL);
    EXPECT_EQ(visits.errors[999], 0);
}

TEST(MetadataReader, GivesEachBlockAroundABadOneItsChance) {
    MemoryDevice disk(300 * block_bytes);
    fill(disk);
    FaultDevice device(disk);
    device.add({.operation = IoOperation::read, .offset = 77 * block_bytes + 512, .length = 512});
    auto reader = MetadataReader::start(device, {});
    ASSERT_TRUE(reader);
    MetadataBlockSet set(300);
    set.insert_all();
    Visits visits;
    ASSERT_TRUE((*reader)->read_set(set, visits.visit()));
    ASSERT_EQ(visits.errors.size(), 300u);
    for (auto [block, error] : visits.errors)
        EXPECT_EQ(error, block == 77 ? EIO : 0) << block;
}

TEST(MetadataReader, StopsWhenTold) {
    MemoryDevice device(1000 * block_bytes);
    auto reader = MetadataReader::start(device, {});
    ASSERT_TRUE(reader);
    MetadataBlockSet set(1000);
    set.insert_all();
    std::atomic<bool> stop = false;
    std::atomic<unsigned> visited = 0;
    auto result = (*reader)->read_set(set,
                                      [&](unsigned, const ReadBlock&) {
                                          ++visited;
                                          stop = true;
                                      },
                                      {.stop = &stop});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().message(), "interrupted");
    EXPECT_LT(visited, 1000u);
}

TEST(MetadataReader, ReportsProgressToTheEnd) {
    MemoryDevice device(1000 * block_bytes);
    auto reader = MetadataReader::start(device, {});
    ASSERT_TRUE(reader);
    MetadataBlockSet set(1000);
    set.insert_all();
    std::uint64_t last = 0;
    Control control{.progress = [&](std::uint64_t done, std::uint64_t total) {
        EXPECT_GT(done, last);
        EXPECT_EQ(total, 1000 * block_bytes);
        last = done;
    }};
    ASSERT_TRUE((*reader)->read_set(
        set, [](unsigned, const ReadBlock&) {}, control));
    EXPECT_EQ(last, 1000 * block_bytes);
}

TEST(MetadataReader, NamesABadBlock) {
    MemoryDevice device(10 * block_bytes, "pool_tmeta");
    fill(device);
    auto reader = MetadataReader::start(device, {});
    ASSERT_TRUE(reader);
    std::vector<std::byte> bytes(block_bytes);
    EXPECT_TRUE((*reader)->read_block(MetadataBlock(3), BlockKind::node, bytes));
    auto wrong = (*reader)->read_block(MetadataBlock(3), BlockKind::bitmap, bytes);
    ASSERT_FALSE(wrong);
    EXPECT_THAT(wrong.error().message(), testing::StartsWith("metadata block 3 of pool_tmeta: not a space map bitmap"));
    EXPECT_FALSE((*reader)->read_block(MetadataBlock(10), BlockKind::node, bytes));
}

}  // namespace
}  // namespace lamella::tools
