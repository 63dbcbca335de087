// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "pdata/data_space_map.h"
#include "pdata/test_support.h"

namespace lamella::pdata {
namespace {

TEST(Bitmap, CountsLieAsTheKernelReadsThem) {
    std::array<std::byte, block_bytes> block{};
    set_bitmap_count(block.data(), 0, 1);
    set_bitmap_count(block.data(), 1, 2);
    set_bitmap_count(block.data(), 2, 3);
    set_bitmap_count(block.data(), 33, 1);
    // The high bit of a count comes first.
    EXPECT_EQ(block[16], std::byte{0b00110110});
    EXPECT_EQ(block[24], std::byte{0b00001000});
    EXPECT_EQ(bitmap_count(block.data(), 0), 1u);
    EXPECT_EQ(bitmap_count(block.data(), 1), 2u);
    EXPECT_EQ(bitmap_count(block.data(), 2), 3u);
    EXPECT_EQ(count_allocated_entries(block.data()), 4u);
    EXPECT_EQ(find_free_entry(block.data(), nullptr, 0, 100), 3u);
    EXPECT_EQ(find_free_entry(block.data(), nullptr, 33, 100), 34u);
    EXPECT_EQ(find_free_entry(block.data(), nullptr, 0, 3), std::nullopt);
    std::array<std::byte, block_bytes> other{};
    set_bitmap_count(other.data(), 3, 2);
    EXPECT_EQ(find_free_entry(block.data(), other.data(), 0, 100), 4u);
}

TEST(BlockSet, HoldsWhatASetHolds) {
    const unsigned seed = std::random_device()();
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    BlockSet blocks;
    std::set<std::uint64_t> model;
    for (int step = 0; step < 60000; ++step) {
        std::uint64_t block = random() % 3 == 0 ? random() % 300000 : 70000 + random() % 12000;
        if (random() % 4 != 0)
            EXPECT_EQ(blocks.insert(block), model.insert(block).second);
        else
            EXPECT_EQ(blocks.erase(block), model.erase(block) == 1);
    }
    EXPECT_EQ(blocks.count(), model.size());
    for (std::uint64_t block = 0; block < 300000; ++block)
        ASSERT_EQ(blocks.contains(block), model.contains(block));
    std::set<std::uint64_t> walked;
    std::uint64_t last_end = 0;
    blocks.for_each_run([&](std::uint64_t first, std::uint64_t length) {
        EXPECT_TRUE(walked.empty() || first > last_end);
        last_end = first + length;
        for (std::uint64_t block = first; block < last_end; ++block)
            walked.insert(block);
    });
    EXPECT_EQ(walked, model);
    blocks.erase(BlockSet(blocks));
    EXPECT_TRUE(blocks.empty());
}

void expect_exact(const IndexEntry& entry, Store& store) {
    BlockRef bitmap = value_of(store.cache.read(MetadataBlock(entry.location), BlockKind::bitmap));
    EXPECT_EQ(entry.free, entries_per_bitmap - count_allocated_entries(bitmap.bytes()));
    EXPECT_LE(entry.none_free_before, find_free_entry(bitmap.bytes(), nullptr, 0, entries_per_bitmap).value_or(entries_per_bitmap));
}

// What the index block of a committed metadata map says of its bitmaps.
void expect_exact_index(Store& store) {
    std::vector<IndexEntry> entries;
    std::uint64_t allocated = 0;
    {
        BlockRef index = value_of(store.cache.read(MetadataBlock(store.root.bitmap_root), BlockKind::index));
        for (std::uint64_t bitmap = 0; bitmap * entries_per_bitmap < store.root.blocks; ++bitmap)
            entries.push_back(IndexEntry::unpack(index.bytes() + 16 + bitmap * IndexEntry::disk_bytes));
    }
    for (const IndexEntry& entry : entries) {
        expect_exact(entry, store);
        allocated += entries_per_bitmap - entry.free;
    }
    EXPECT_EQ(store.root.allocated, allocated);
}

TEST(MetadataSpaceMap, RandomCountsSurviveCommits) {
    const unsigned seed = std::random_device()();
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    // Three bitmaps, the last one partly used.
    Store store(2 * entries_per_bitmap + 5000);
    std::map<std::uint64_t, std::uint32_t> model;
    std::vector<std::uint64_t> blocks;
    std::set<std::uint64_t> freed;
    auto committed_model = model;
    for (int step = 0; step < 30000; ++step) {
        switch (random() % 5) {
        case 0:
        case 1: {
            std::uint64_t block = value_of(store.map.allocate()).value();
            EXPECT_FALSE(model.contains(block));
            EXPECT_FALSE(freed.contains(block)) << "a block of the last commit was used again";
            model[block] = 1;
            blocks.push_back(block);
            break;
        }
        case 2:
        case 3:
            if (!blocks.empty()) {
                std::uint64_t block = blocks[random() % blocks.size()];
                for (unsigned count = random() % 4; count > 0 && model.contains(block); --count) {
                    value_of(store.map.increment(MetadataBlock(block)));
                    ++model[block];
                }
            }
            break;
        case 4:
            if (!blocks.empty()) {
                std::size_t index = random() % blocks.size();
                std::uint64_t block = blocks[index];
                std::uint32_t left = value_of(store.map.decrement(MetadataBlock(block)));
                EXPECT_EQ(left, model[block] - 1);
                if (left == 0) {
                    model.erase(block);
                    if (committed_model.contains(block))
                        freed.insert(block);
                    blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(index));
                } else {
                    model[block] = left;
                }
            }
            break;
        }
        if (step % 3000 == 2999) {
            store.commit();
            committed_model = model;
            freed.clear();
            expect_exact_index(store);
            if (step / 3000 % 2 == 0)
                store.reopen();
            for (auto [block, count] : model)
                ASSERT_EQ(value_of(store.map.count(MetadataBlock(block))), count);
        }
    }
    // An abort brings back what the last commit had.
    for (int count = 0; count < 100; ++count)
        value_of(store.map.allocate());
    store.reopen();
    for (auto [block, count] : committed_model)
        ASSERT_EQ(value_of(store.map.count(MetadataBlock(block))), count);
}

TEST(MetadataSpaceMap, AFullDeviceSaysSoAndKeepsItsState) {
    Store store(200);
    store.commit();
    while (store.map.allocatable() > 0)
        value_of(store.map.allocate());
    auto refused = store.map.allocate();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::no_space);
    store.reopen();
    EXPECT_GT(store.map.allocatable(), 100u);
    value_of(store.map.allocate());
    store.commit();
}

TEST(MetadataSpaceMap, CountsThatCannotBeAreDamage) {
    Store store(200);
    store.commit();
    EXPECT_EQ(store.map.increment(MetadataBlock(150)).error().kind(), ErrorKind::damaged);
    EXPECT_EQ(store.map.decrement(MetadataBlock(150)).error().kind(), ErrorKind::damaged);
    EXPECT_EQ(store.map.count(MetadataBlock(200)).error().kind(), ErrorKind::damaged);
    SpaceMapRoot root = store.root;
    root.blocks = MetadataSpaceMap::max_blocks + 1;
    EXPECT_FALSE(store.map.load(root));
    root.blocks = root.allocated - 1;
    EXPECT_FALSE(store.map.load(root));
}

TEST(DataSpaceMap, RandomCountsSurviveCommits) {
    const unsigned seed = std::random_device()();
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    Store store(4000, 64 * block_bytes);
    DataSpaceMap map(store.cache);
    const std::uint64_t data_blocks = 3 * entries_per_bitmap + 100;
    value_of(map.start(store.manager, data_blocks));
    std::map<std::uint64_t, std::uint32_t> model;
    std::set<std::uint64_t> withheld;
    for (int step = 0; step < 20000; ++step) {
        std::vector<std::uint64_t> some;
        for (unsigned count = random() % 5; count > 0 && !model.empty(); --count)
            some.push_back(
                std::next(model.begin(), static_cast<std::ptrdiff_t>(random() % std::min<std::size_t>(model.size(), 100)))->first);
        switch (random() % 4) {
        case 0:
        case 1: {
            DataBlock block = value_of(map.reserve());
            EXPECT_FALSE(model.contains(block.value()));
            EXPECT_FALSE(withheld.contains(block.value()));
            if (random() % 10 == 0) {
                map.unreserve(block);
            } else {
                value_of(map.take(store.manager, block));
                model[block.value()] = 1;
            }
            break;
        }
        case 2:
            value_of(map.increment(store.manager, some));
            for (std::uint64_t block : some)
                ++model[block];
            break;
        case 3: {
            for (std::uint64_t block : some) {
                if (!model.contains(block))
                    continue;
                value_of(map.decrement(store.manager, {&block, 1}));
                if (--model[block] == 0) {
                    model.erase(block);
                    withheld.insert(block);
                }
            }
            break;
        }
        }
        EXPECT_EQ(map.free(), data_blocks - model.size());
        EXPECT_EQ(map.allocatable(), data_blocks - model.size() - withheld.size());
        if (step % 2500 == 2499) {
            SpaceMapRoot root = value_of(map.fold(store.manager));
            store.commit();
            map.committed();
            EXPECT_EQ(root.allocated, model.size());
            std::vector<IndexEntry> entries;
            Btree index(store.cache, IndexEntry::disk_bytes, "index");
            value_of(index.walk(MetadataBlock(root.bitmap_root), 0, [&](std::uint64_t, const std::byte* value) {
                entries.push_back(IndexEntry::unpack(value));
                return true;
            }));
            EXPECT_EQ(entries.size(), 4u);
            for (const IndexEntry& entry : entries)
                expect_exact(entry, store);
            if (step % 5000 == 4999) {
                store.reopen();
                value_of(map.load(root));
            }
            for (auto [block, count] : model)
                ASSERT_EQ(value_of(map.count(DataBlock(block))), count);
            if (random() % 2 == 0) {
                BlockSet freed = map.take_freed();
                freed.for_each([&](std::uint64_t block) { withheld.erase(block); });
                map.make_reusable(freed);
            }
        }
    }
}

}  // namespace
}  // namespace lamella::pdata
