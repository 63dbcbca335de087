// SPDX-License-Identifier: Apache-2.0
#include "cow/exception_table.h"

#include <map>
#include <random>

#include <gtest/gtest.h>

#include "cow/settled_map.h"

namespace lamella::cow {
namespace {

TEST(ExceptionTable, NeighboursBecomeOneRun) {
    ExceptionTable table(1000);
    EXPECT_TRUE(table.insert(OriginChunk(10), StoreChunk(100), 1));
    EXPECT_TRUE(table.insert(OriginChunk(12), StoreChunk(102), 1));
    EXPECT_TRUE(table.insert(OriginChunk(11), StoreChunk(101), 1));
    const auto run = table.find(OriginChunk(10), 50);
    EXPECT_EQ(run.where, StoreChunk(100));
    EXPECT_EQ(run.count, 3u);
    EXPECT_EQ(table.block_bytes(), 0u) << "one run needs no memory but its word";
    EXPECT_FALSE(table.insert(OriginChunk(11), StoreChunk(500), 1)) << "a chunk is there once";
    EXPECT_EQ(table.find(OriginChunk(0), 50).count, 10u) << "up to the first that is there";
    EXPECT_EQ(table.find(OriginChunk(13), 1000).count, 243u) << "up to the end of the bucket";
}

TEST(ExceptionTable, HoldsAreSeenAndReleased) {
    ExceptionTable table(1000);
    table.insert(OriginChunk(5), StoreChunk(7), 2);
    const auto absent = table.find_and_hold(OriginChunk(0), 5, ExceptionTable::Holds::absent);
    EXPECT_EQ(absent.count, 5u);
    const auto present = table.find_and_hold(OriginChunk(5), 2, ExceptionTable::Holds::absent);
    EXPECT_TRUE(present.where.has_value());
    EXPECT_TRUE(table.held(OriginChunk(4), 2));
    EXPECT_FALSE(table.held(OriginChunk(5), 2)) << "only what is absent was to be held";
    EXPECT_TRUE(table.settled(OriginChunk(5), 2));
    EXPECT_FALSE(table.settled(OriginChunk(4), 2));
    table.insert(OriginChunk(0), StoreChunk(20), 5);
    EXPECT_FALSE(table.settled(OriginChunk(4), 1)) << "it is held";
    EXPECT_FALSE(table.release(OriginChunk(0), 5)) << "nobody waits";
    EXPECT_TRUE(table.settled(OriginChunk(0), 7));
    table.watch_releases(true);
    (void)table.find_and_hold(OriginChunk(600), 1, ExceptionTable::Holds::absent);
    EXPECT_TRUE(table.release(OriginChunk(600), 1));
}

// Against a map, with random runs; and never more than 16 bytes an exception.
TEST(ExceptionTable, IsAMapInLittleMemory) {
    const unsigned seed = std::random_device()();
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    for (const unsigned density : {1u, 3u, 40u}) {
        constexpr std::uint64_t chunks = 40000;
        ExceptionTable table(chunks);
        std::map<std::uint64_t, std::uint64_t> model;
        std::uint64_t next = 2;
        for (int step = 0; step < 20000; ++step) {
            const std::uint64_t first = random() % chunks;
            if (random() % 3 == 0) {
                EXPECT_EQ(table.erase(OriginChunk(first)), model.erase(first) == 1);
                continue;
            }
            const std::uint64_t count = std::min<std::uint64_t>(1 + random() % density, chunks - first);
            if (const auto there = model.lower_bound(first); there != model.end() && there->first < first + count)
                continue;
            ASSERT_TRUE(table.insert(OriginChunk(first), StoreChunk(next), count));
            for (std::uint64_t index = 0; index < count; ++index)
                model[first + index] = next + index;
            next += count + random() % 2;
        }
        ASSERT_EQ(table.size(), model.size());
        EXPECT_LE(table.block_bytes(), 16 * model.size());
        for (std::uint64_t chunk = 0; chunk < chunks;) {
            const auto run = table.find(OriginChunk(chunk), chunks);
            for (std::uint64_t index = 0; index < run.count && chunk < chunks; ++index, ++chunk) {
                const auto found = model.find(chunk);
                ASSERT_EQ(run.where.has_value(), found != model.end()) << chunk;
                if (run.where) {
                    ASSERT_EQ(run.where->value() + index, found->second) << chunk;
                }
            }
        }
    }
}

TEST(SettledMap, KnowsWholeUnitsOnly) {
    const auto made = SettledMap::make(100 * 4096 + 512, 16384), of_sectors = SettledMap::make(1 << 20, 512);
    SettledMap& chunks = *made;
    EXPECT_FALSE(chunks.settled(0, 1));
    chunks.note(20000, 20001);  // its chunk
    EXPECT_TRUE(chunks.settled(16384, 32768));
    EXPECT_FALSE(chunks.settled(16383, 16385));
    EXPECT_FALSE(chunks.settled(32767, 32769));
    chunks.note(100 * 4096, 100 * 4096 + 512);
    EXPECT_TRUE(chunks.settled(100 * 4096 + 511, 100 * 4096 + 512));
    EXPECT_FALSE(chunks.settled(1 << 30, (1 << 30) + 1));
    chunks.note(1 << 30, (1 << 30) + 1);
    EXPECT_FALSE(chunks.settled(1 << 30, (1 << 30) + 1)) << "behind its end";

    SettledMap& sectors = *of_sectors;
    sectors.note(8192, 8192 + 3584 + 1);  // the last of its sectors in part
    EXPECT_TRUE(sectors.settled(8192, 12288));
    sectors.note(16384, 16384 + 3584);
    EXPECT_FALSE(sectors.settled(16384, 16385)) << "a unit of which a sector may be missing";
    sectors.note(20480 - 512, 28672);
    EXPECT_FALSE(sectors.settled(20480 - 512, 20480));
    EXPECT_TRUE(sectors.settled(20480, 28672));
}

}  // namespace
}  // namespace lamella::cow
