// SPDX-License-Identifier: Apache-2.0
#include "tools/transfer_map.h"

#include <map>
#include <random>

#include <gtest/gtest.h>

#include "tools/pool_test_support.h"

namespace lamella::tools {
namespace {

using test::TestPool;
using test::value_of;
using Kind = TransferRun::Kind;

std::vector<TransferRun> runs(TestPool& pool, const TransferOptions& options) {
    std::vector<TransferRun> found;
    value_of(transfer_map(pool.device, options, [&](const TransferRun& run) -> Result<void> {
        found.push_back(run);
        return {};
    }));
    return found;
}

TEST(TransferMap, TellsWhatIsMappedAndWhatHasChanged) {
    TestPool pool;
    pool.thin(1);
    pool.write(1, 10, 5);
    pool.write(1, 100, 3, 2);
    pool.snapshot(2, 1);
    EXPECT_EQ(runs(pool, {.volume = ThinId(1)}), (std::vector<TransferRun>{{Kind::copy, VirtualBlock(10), 5},
                                                                           {Kind::copy, VirtualBlock(100), 1},
                                                                           {Kind::copy, VirtualBlock(102), 1},
                                                                           {Kind::copy, VirtualBlock(104), 1}}));
    EXPECT_TRUE(runs(pool, {.volume = ThinId(1), .base = ThinId(2)}).empty());
    pool.metadata_snapshot();
    pool.write(1, 12, 1);       // changed
    pool.write(1, 15, 1);       // new
    pool.discard(1, 100, 103);  // gone
    const std::vector<TransferRun> changes{{Kind::copy, VirtualBlock(12), 1},
                                           {Kind::copy, VirtualBlock(15), 1},
                                           {Kind::discard, VirtualBlock(100), 1},
                                           {Kind::discard, VirtualBlock(102), 1}};
    EXPECT_EQ(runs(pool, {.volume = ThinId(1), .base = ThinId(2)}), changes);
    EXPECT_EQ(runs(pool, {.volume = ThinId(1), .base = ThinId(1), .base_in_snapshot = true}), changes);
    auto missing = transfer_map(pool.device, {.volume = ThinId(9)}, [](const TransferRun&) -> Result<void> { return {}; });
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().kind(), ErrorKind::not_found);
}

// Carried out, the runs make the one content of the other.
TEST(TransferMap, MakesTheBaseTheVolume) {
    for (unsigned seed = 1; seed <= 5; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937 random(seed);
        TestPool pool;
        pool.thin(1);
        pool.write(1, random() % 50, 300, 1 + random() % 3);
        pool.snapshot(2, 1);
        for (unsigned round = 0; round < 20; ++round) {
            const std::uint64_t first = random() % 1000;
            if (round % 3 == 0)
                pool.discard(1, first, first + random() % 40);
            else
                pool.write(1, first, 1 + random() % 20, 1 + random() % 2);
        }
        const auto mapped = [&](std::uint32_t id) {
            std::map<std::uint64_t, DataBlock> blocks;
            std::vector<thin::Mapping> mappings;
            for (VirtualBlock from(0); from < VirtualBlock(5000);)
                from = value_of(pool.engine().lookup_range(ThinId(id), from, VirtualBlock(5000), 1000, mappings));
            for (const thin::Mapping& mapping : mappings)
                blocks[mapping.virtual_block.value()] = mapping.where.block;
            return blocks;
        };
        const auto volume = mapped(1);
        for (bool with_base : {false, true}) {
            auto copy = with_base ? mapped(2) : std::map<std::uint64_t, DataBlock>();
            TransferOptions options{.volume = ThinId(1)};
            if (with_base)
                options.base = ThinId(2);
            std::uint64_t end = 0;
            for (const TransferRun& run : runs(pool, options)) {
                EXPECT_GE(run.begin.value(), end);
                end = run.begin.value() + run.length;
                for (std::uint64_t block = run.begin.value(); block < end; ++block) {
                    EXPECT_EQ(volume.contains(block), run.kind == Kind::copy);
                    if (run.kind == Kind::copy) {
                        copy[block] = volume.at(block);
                    } else {
                        EXPECT_EQ(copy.erase(block), 1u);
                    }
                }
            }
            EXPECT_EQ(copy, volume);
        }
    }
}

}  // namespace
}  // namespace lamella::tools
