// SPDX-License-Identifier: Apache-2.0
#include "tools/shrink.h"

#include <map>
#include <random>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "tools/dump.h"
#include "tools/pool_test_support.h"
#include "tools/printer.h"
#include "tools/restore.h"

namespace lamella::tools {
namespace {

using test::run_on;
using test::TestPool;
using test::value_of;

constexpr std::uint64_t block_bytes = 128 * sector_bytes;
constexpr std::uint64_t data_blocks = 600;

// What each volume maps, and what is there.
struct Content {
    std::uint64_t stamp = 0;
    std::uint32_t time = 0;
    DataBlock where{};
};
using Contents = std::map<std::pair<std::uint32_t, std::uint64_t>, Content>;

std::uint64_t stamp_of(BlockDevice& data, DataBlock block) {
    std::byte bytes[8];
    // The last bytes of a block tell whether all of it came along.
    value_of(read_now(data, (block.value() + 1) * block_bytes - sizeof bytes, bytes));
    return load_little<std::uint64_t>(bytes);
}

Contents read(BlockDevice& metadata, BlockDevice& data) {
    Contents contents;
    auto engine = value_of(thin::ThinMetadata::open(metadata, {.read_only = true}));
    for (const thin::DeviceEntry& device : value_of(engine->devices(ThinId(0), 1000))) {
        std::vector<thin::Mapping> mappings;
        const VirtualBlock end(1 << 20);
        for (VirtualBlock from(0); from < end;)
            from = value_of(engine->lookup_range(device.id, from, end, 1000, mappings));
        for (const thin::Mapping& mapping : mappings)
            contents[{device.id.value(), mapping.virtual_block.value()}] = {stamp_of(data, mapping.where.block), mapping.where.time,
                                                                            mapping.where.block};
        EXPECT_EQ(value_of(engine->details(device.id)).mapped_blocks, mappings.size());
    }
    return contents;
}

void expect_same_content(const Contents& before, const Contents& after, std::uint64_t limit) {
    ASSERT_EQ(before.size(), after.size());
    std::map<DataBlock, DataBlock> moved;
    std::map<DataBlock, DataBlock> came_from;
    for (const auto& [place, content] : before) {
        ASSERT_TRUE(after.contains(place));
        const Content& now = after.at(place);
        EXPECT_EQ(now.stamp, content.stamp) << "volume " << place.first << ", block " << place.second;
        EXPECT_EQ(now.time, content.time);
        EXPECT_LT(now.where.value(), limit);
        // Who shared a block shares it still, and nobody else does.
        EXPECT_EQ(moved.emplace(content.where, now.where).first->second, now.where);
        EXPECT_EQ(came_from.emplace(now.where, content.where).first->second, content.where);
        if (content.where.value() < limit) {
            EXPECT_EQ(now.where, content.where) << "moved without need";
        }
    }
}

// A pool of random volumes and snapshots, some removed again, with a stamp in each data block.
struct StampedPool {
    explicit StampedPool(std::uint64_t seed, bool snapshot = false)
        : pool(data_blocks, 512), data(data_blocks * block_bytes, "data"), random(seed) {
        std::vector<std::uint32_t> ids;
        for (std::uint32_t id = 0; id < 3; ++id) {
            pool.thin(id);
            ids.push_back(id);
        }
        for (std::uint32_t round = 0; round < 40; ++round) {
            const std::uint32_t id = ids[pick(ids.size())];
            switch (pick(5)) {
            case 0:
                if (ids.size() < 12) {
                    ids.push_back(100 + round);
                    pool.snapshot(ids.back(), id);
                }
                break;
            case 1: {
                const std::uint64_t first = pick(300);
                pool.discard(id, first, first + 1 + pick(40));
                break;
            }
            default:
                if (value_of_free() > 60)
                    pool.write(id, pick(300), 1 + pick(25), 1 + pick(3));
            }
        }
        for (std::size_t index = 0; index < 2; ++index) {
            pool.remove(ids.front());
            ids.erase(ids.begin());
        }
        if (snapshot)
            pool.metadata_snapshot();
        for (std::uint64_t block = 0; block < data_blocks; ++block) {
            std::vector<std::byte> bytes(block_bytes);
            store_little<std::uint64_t>(bytes.data() + block_bytes - 8, seed << 32 | (block + 1));
            value_of(write_now(data, block * block_bytes, bytes));
        }
        used = data_blocks - value_of_free();
    }
    std::uint64_t pick(std::uint64_t below) { return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random); }
    std::uint64_t value_of_free() { return pool.engine().data_counts().free; }

    TestPool pool;
    MemoryDevice data;
    std::mt19937_64 random;
    std::uint64_t used = 0;
};

TEST(Shrink, MovesWhatIsBeyondTheEndForAllWhoShareIt) {
    std::uint64_t moved = 0;
    for (std::uint64_t seed = 1; seed <= 12; ++seed) {
        SCOPED_TRACE(seed);
        StampedPool made(seed, seed % 4 == 0);
        const Contents before = read(made.pool.device, made.data);
        // As small as it goes, or a little less so.
        const std::uint64_t wanted = made.used + (seed % 3 == 0 ? 0 : made.pick((data_blocks - made.used) / 4 + 1));
        auto shrink = value_of(Shrink::plan(made.pool.device, wanted));
        moved += shrink->report().moved_blocks;
        MemoryDevice output(512 * pdata::block_bytes, "output");
        value_of(shrink->write(&made.data, output));
        expect_same_content(before, read(output, made.data), wanted);
        // The old metadata is as true as before.
        expect_same_content(before, read(made.pool.device, made.data), data_blocks);
        EXPECT_EQ(value_of(thin::ThinMetadata::open(output, {.read_only = true}))->data_counts().total, wanted);
        const test::Ran checked = run_on(output, "thin_check @");
        EXPECT_EQ(checked.status, 0) << checked.output;
    }
    EXPECT_GT(moved, 300u);
}

TEST(Shrink, RefusesBeforeAnythingIsWritten) {
    StampedPool made(7);
    MemoryDevice output(512 * pdata::block_bytes, "output");
    const auto kind = [&](std::uint64_t blocks) {
        auto plan = Shrink::plan(made.pool.device, blocks);
        EXPECT_FALSE(plan);
        return plan ? ErrorKind::failed : plan.error().kind();
    };
    EXPECT_EQ(kind(made.used - 1), ErrorKind::no_space);
    EXPECT_EQ(kind(0), ErrorKind::usage);
    EXPECT_EQ(kind(data_blocks), ErrorKind::usage);

    const Contents before = read(made.pool.device, made.data);
    auto plan = value_of(Shrink::plan(made.pool.device, made.used));
    MemoryDevice small(12 * pdata::block_bytes, "small");
    auto refused = plan->write(&made.data, small);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::no_space);
    EXPECT_EQ(small.allocated_pages(), 0u);
    MemoryDevice short_data((data_blocks - 1) * block_bytes, "short");
    refused = plan->write(&short_data, output);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::usage);
    EXPECT_EQ(output.allocated_pages(), 0u);
    expect_same_content(before, read(made.pool.device, made.data), data_blocks);

    made.pool.edit(made.pool.blocks_of(BlockRole::mapping_leaf).front(), pdata::BlockKind::node,
                   [](std::byte* node) { store_little<std::uint64_t>(test::value_place(node, 0), ~std::uint64_t{0}); });
    EXPECT_EQ(kind(data_blocks - 1), ErrorKind::damaged);
}

// Stopped anywhere, the output isn't metadata, and the old state is whole.
TEST(Shrink, IsNothingUntilItIsDone) {
    StampedPool made(3);
    const Contents before = read(made.pool.device, made.data);
    auto plan = value_of(Shrink::plan(made.pool.device, made.used));
    ASSERT_GT(plan->report().moved_blocks, 10u);
    for (std::uint64_t most = 0; most < plan->report().moved_blocks * block_bytes; most += 5 * block_bytes) {
        MemoryDevice output(512 * pdata::block_bytes, "output");
        std::atomic<bool> stop = false;
        auto stopped = plan->write(&made.data, output,
                                   {.progress = [&](std::uint64_t done, std::uint64_t) { stop = stop || done > most; }, .stop = &stop});
        EXPECT_FALSE(stopped);
        EXPECT_FALSE(thin::ThinMetadata::open(output, {.read_only = true}));
        expect_same_content(before, read(made.pool.device, made.data), data_blocks);
    }
}

TEST(Shrink, RewritesXmlWithTheNewSize) {
    for (std::uint64_t seed = 20; seed < 24; ++seed) {
        SCOPED_TRACE(seed);
        StampedPool made(seed);
        const Contents before = read(made.pool.device, made.data);
        StringSink dumped;
        value_of(dump(made.pool.device, {.definitions = seed % 2 == 0}, *make_printer(DumpFormat::xml, dumped)));
        StringSink shrunk;
        const auto report =
            value_of(shrink_xml([&]() -> Result<std::unique_ptr<TextSource>> { return std::make_unique<StringSource>(dumped.text, 4096); },
                                made.used, &made.data, *make_printer(DumpFormat::xml, shrunk)));
        EXPECT_EQ(report.data_blocks, made.used);
        MemoryDevice output(512 * pdata::block_bytes, "output");
        StringSource source(shrunk.text, 1000);
        value_of(restore(source, output, {}));
        expect_same_content(before, read(output, made.data), made.used);
        expect_same_content(before, read(made.pool.device, made.data), data_blocks);
        EXPECT_EQ(value_of(thin::ThinMetadata::open(output, {.read_only = true}))->data_counts().total, made.used);
    }
}

TEST(DataMoves, SplitsRunsWhereEitherSideEnds) {
    const auto range = [](std::uint64_t begin, std::uint64_t end) { return DataRange{DataBlock(begin), DataBlock(end)}; };
    const std::vector<DataRange> used{range(100, 110), range(200, 201)};
    const std::vector<DataRange> free{range(0, 4), range(10, 12), range(20, 30)};
    const DataMoves moves = value_of(DataMoves::plan(used, free));
    EXPECT_EQ(moves.runs(), (std::vector<DataMove>{{DataBlock(100), DataBlock(0), 4},
                                                   {DataBlock(104), DataBlock(10), 2},
                                                   {DataBlock(106), DataBlock(20), 4},
                                                   {DataBlock(200), DataBlock(24), 1}}));
    EXPECT_EQ(moves.move(DataBlock(98), 20), (DataMove{DataBlock(98), DataBlock(98), 2}));
    EXPECT_EQ(moves.move(DataBlock(103), 20), (DataMove{DataBlock(103), DataBlock(3), 1}));
    EXPECT_EQ(moves.move(DataBlock(107), 1), (DataMove{DataBlock(107), DataBlock(21), 1}));
    EXPECT_EQ(moves.move(DataBlock(110), 500), (DataMove{DataBlock(110), DataBlock(110), 90}));
    EXPECT_EQ(moves.move(DataBlock(201), 5), (DataMove{DataBlock(201), DataBlock(201), 5}));
    EXPECT_FALSE(DataMoves::plan(used, std::span(free).first(2)));
}

}  // namespace
}  // namespace lamella::tools
