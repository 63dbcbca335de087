// SPDX-License-Identifier: Apache-2.0
#include "thin/mapping_cache.h"

#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace lamella::thin {
namespace {

constexpr std::uint64_t entries = MappingCache::page_entries;

std::unique_ptr<MappingCache::Page> page_of(std::uint64_t first_block) {
    auto page = std::make_unique<MappingCache::Page>();
    for (std::uint64_t entry = 0; entry < entries; ++entry)
        page->words[entry].store(CachedMapping(DataBlock(first_block + entry + 7), 3).word());
    return page;
}

class MappingCacheTest : public testing::Test {
  protected:
    void TearDown() override { settle(); }
    void settle() {
        while (queue->run_once(false)) {}
    }
    std::unique_ptr<IoQueue> queue = *make_plain_queue();
    GracePeriod grace{*queue};
};

TEST(CachedMapping, HoldsBlockAndTimeInOneWord) {
    EXPECT_FALSE(CachedMapping().mapped());
    for (const std::uint64_t block : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{12345}, (std::uint64_t{1} << 39) - 1})
        for (const std::uint32_t time : {0u, 1u, (1u << 24) - 1}) {
            const CachedMapping mapping(DataBlock(block), time);
            ASSERT_TRUE(mapping.mapped());
            EXPECT_EQ(mapping.block(), DataBlock(block));
            EXPECT_EQ(mapping.time(), time);
            EXPECT_EQ(CachedMapping::from_word(mapping.word()).word(), mapping.word());
        }
}

TEST_F(MappingCacheTest, FindsWhatWasInserted) {
    MappingBudget budget(grace, 1 << 20);
    MappingCache cache(budget, 10 * entries);
    EXPECT_EQ(cache.find(0), nullptr);
    cache.insert(2 * entries, page_of(2 * entries));
    ASSERT_NE(cache.find(2 * entries), nullptr);
    ASSERT_NE(cache.find(3 * entries - 1), nullptr);
    EXPECT_EQ(cache.find(2 * entries - 1), nullptr);
    EXPECT_EQ(cache.find(3 * entries), nullptr);
    EXPECT_EQ(cache.find(2 * entries + 5)->at(2 * entries + 5).block(), DataBlock(2 * entries + 12));
    EXPECT_EQ(cache.find(std::uint64_t{1} << 50), nullptr) << "beyond the volume";
    EXPECT_EQ(budget.bytes(), MappingBudget::page_bytes);
}

TEST_F(MappingCacheTest, SetsAndClearsWhereAPageIsPresent) {
    MappingBudget budget(grace, 1 << 20);
    MappingCache cache(budget, 100 * entries);
    cache.insert(0, page_of(0));
    cache.insert(2 * entries, page_of(2 * entries));
    cache.set(VirtualBlock(3), CachedMapping(DataBlock(99), 8));
    cache.set(VirtualBlock(entries + 3), CachedMapping(DataBlock(99), 8));  // absent: stays so
    EXPECT_EQ(cache.find(3)->at(3).block(), DataBlock(99));
    EXPECT_EQ(cache.find(3)->at(3).time(), 8u);
    EXPECT_EQ(cache.find(entries + 3), nullptr);

    cache.clear(VirtualBlock(entries - 2), VirtualBlock(2 * entries + 2));
    EXPECT_TRUE(cache.find(0)->at(entries - 3).mapped());
    EXPECT_FALSE(cache.find(0)->at(entries - 2).mapped());
    EXPECT_FALSE(cache.find(0)->at(entries - 1).mapped());
    EXPECT_FALSE(cache.find(2 * entries)->at(2 * entries).mapped());
    EXPECT_FALSE(cache.find(2 * entries)->at(2 * entries + 1).mapped());
    EXPECT_TRUE(cache.find(2 * entries)->at(2 * entries + 2).mapped());

    cache.clear(VirtualBlock(0), VirtualBlock(std::uint64_t{1} << 39));  // far beyond the end: nothing there
    EXPECT_FALSE(cache.find(0)->at(0).mapped());
}

TEST_F(MappingCacheTest, KeepsWithinItsBudgetAndKeepsTheNewestPage) {
    constexpr std::uint64_t limit_pages = 4;
    MappingBudget budget(grace, limit_pages * MappingBudget::page_bytes + 100);
    MappingCache first(budget, 1000 * entries);
    MappingCache second(budget, 1000 * entries);
    for (std::uint64_t page = 0; page < 200; ++page) {
        MappingCache& cache = page % 3 == 0 ? first : second;
        cache.insert(page * entries, page_of(page * entries));
        ASSERT_NE(cache.find(page * entries), nullptr);
        ASSERT_LE(budget.bytes(), limit_pages * MappingBudget::page_bytes);
        settle();
    }
    std::uint64_t present = 0;
    for (std::uint64_t page = 0; page < 200; ++page)
        for (MappingCache* cache : {&first, &second})
            if (const auto* found = cache->find(page * entries)) {
                ++present;
                EXPECT_EQ(found->at(page * entries + 1).block(), DataBlock(page * entries + 8));
            }
    EXPECT_EQ(present * MappingBudget::page_bytes, budget.bytes());
}

TEST_F(MappingCacheTest, EvictsWhatIsNotUsedFirst) {
    MappingBudget budget(grace, 4 * MappingBudget::page_bytes);
    MappingCache cache(budget, 1000 * entries);
    // A page counts as used when it comes in, too, so that the one in steady use goes now and then; most of the time it stays.
    int misses = 0;
    for (std::uint64_t page = 1; page <= 100; ++page) {
        if (cache.find(0) == nullptr) {
            ++misses;
            cache.insert(0, page_of(0));
        }
        cache.insert(page * entries, page_of(page * entries));
    }
    EXPECT_LE(misses, 34);
}

TEST_F(MappingCacheTest, ABudgetOfNothingStillKeepsOnePage) {
    MappingBudget budget(grace, 0);
    MappingCache cache(budget, 10 * entries);
    for (std::uint64_t page = 0; page < 10; ++page) {
        cache.insert(page * entries, page_of(page * entries));
        ASSERT_NE(cache.find(page * entries), nullptr);
    }
    EXPECT_EQ(budget.bytes(), MappingBudget::page_bytes);
}

TEST_F(MappingCacheTest, DropsAllOfOneCacheOnly) {
    MappingBudget budget(grace, 1 << 20);
    MappingCache first(budget, 10 * entries);
    {
        MappingCache second(budget, 10 * entries);
        for (std::uint64_t page = 0; page < 5; ++page) {
            first.insert(page * entries, page_of(page * entries));
            second.insert(page * entries, page_of(page * entries));
        }
        first.drop_all();
        for (std::uint64_t page = 0; page < 5; ++page) {
            EXPECT_EQ(first.find(page * entries), nullptr);
            EXPECT_NE(second.find(page * entries), nullptr);
        }
        EXPECT_EQ(budget.bytes(), 5 * MappingBudget::page_bytes);
        first.insert(0, page_of(0));
        EXPECT_NE(first.find(0), nullptr);
    }
    EXPECT_EQ(budget.bytes(), MappingBudget::page_bytes);
}

TEST_F(MappingCacheTest, GrowsAndKeepsWhatItHas) {
    MappingBudget budget(grace, 1 << 20);
    MappingCache cache(budget, 3);
    cache.insert(0, page_of(0));
    const std::uint64_t far = std::uint64_t{100} << 30;
    EXPECT_EQ(cache.find(far), nullptr);
    cache.grow(far + entries);
    EXPECT_EQ(cache.find(1)->at(1).block(), DataBlock(8));
    cache.insert(far, page_of(far));
    ASSERT_NE(cache.find(far), nullptr);
    EXPECT_EQ(cache.find(far)->at(far).block(), DataBlock(far + 7));
    cache.clear(VirtualBlock(1), VirtualBlock(far));
    EXPECT_TRUE(cache.find(0)->at(0).mapped());
    EXPECT_FALSE(cache.find(0)->at(1).mapped());
    EXPECT_TRUE(cache.find(far)->at(far).mapped());
}

// Readers on threads of their own see a right mapping or none, while the owner inserts, evicts, clears and grows.
TEST_F(MappingCacheTest, ReadersSeeWholePagesWhileTheOwnerChanges) {
    MappingBudget budget(grace, 3 * MappingBudget::page_bytes);
    auto cache = std::make_unique<MappingCache>(budget, 16 * entries);
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> hits{0}, wrong{0};
    std::vector<std::thread> readers;
    for (unsigned reader = 0; reader < 3; ++reader)
        readers.emplace_back([&, reader] {
            std::mt19937 random(reader);
            while (!stop.load(std::memory_order_relaxed)) {
                const std::uint64_t block = random() % (16 * entries);
                const auto token = grace.enter();
                if (const auto* page = cache->find(block)) {
                    const CachedMapping mapping = page->at(block);
                    hits.fetch_add(1, std::memory_order_relaxed);
                    if (mapping.mapped() && (mapping.block() != DataBlock(block + 7) || mapping.time() != 3))
                        wrong.fetch_add(1);
                }
                grace.leave(token);
            }
        });
    std::mt19937 random(99);
    std::uint64_t blocks = 16 * entries;
    for (int round = 0; round < 5000 || hits.load() < 1000; ++round) {
        const std::uint64_t first = random() % 16 * entries;
        switch (random() % 8) {
        case 0: cache->clear(VirtualBlock(first), VirtualBlock(first + random() % 1000)); break;
        case 1:
            if (round % 50 == 0)
                cache->drop_all();
            break;
        case 2:
            if (round % 500 == 0)
                cache->grow(blocks += entries * 4096);
            break;
        default:
            if (cache->find(first) == nullptr)
                cache->insert(first, page_of(first));
        }
        queue->run_once(false);
    }
    stop.store(true);
    for (std::thread& reader : readers)
        reader.join();
    EXPECT_EQ(wrong.load(), 0u);
    cache.reset();
}

}  // namespace
}  // namespace lamella::thin
