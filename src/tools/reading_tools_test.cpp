// SPDX-License-Identifier: Apache-2.0
//
// usage, rmap, trim and diff, against what the engine says of the same pool, and against Debian's tools.
#include <map>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "device/fault_device.h"
#include "tools/diff.h"
#include "tools/pool_test_support.h"
#include "tools/rmap.h"
#include "tools/trim.h"
#include "tools/usage.h"

namespace lamella::tools {
namespace {

using pdata::block_bytes;
using test::run_on;
using test::TestPool;
using test::value_of;

using Model = std::map<std::uint32_t, std::map<std::uint64_t, std::uint64_t>>;  // volume, virtual block, data block

Model model_of(TestPool& pool) {
    Model model;
    for (const thin::DeviceEntry& device : value_of(pool.engine().devices(ThinId(0), 1000))) {
        std::vector<thin::Mapping> mappings;
        VirtualBlock at(0);
        const VirtualBlock end(std::uint64_t{1} << 40);
        while (at < end)
            at = value_of(pool.engine().lookup_range(device.id, at, end, 1000, mappings));
        auto& volume = model[device.id.value()];
        for (const thin::Mapping& mapping : mappings)
            volume[mapping.virtual_block.value()] = mapping.where.block.value();
    }
    return model;
}

// Volumes and snapshots with a history drawn from the seed.
std::unique_ptr<TestPool> random_pool(unsigned seed) {
    auto pool = std::make_unique<TestPool>(60'000, 4096);
    std::mt19937 random(seed);
    std::vector<std::uint32_t> ids = {1};
    pool->thin(1);
    pool->write(1, 0, 2000);
    for (int step = 0; step < 30; ++step) {
        const std::uint32_t id = ids[random() % ids.size()];
        switch (random() % 4) {
        case 0:
            ids.push_back(static_cast<std::uint32_t>(ids.size() * 3 + 2));
            pool->snapshot(ids.back(), id);
            break;
        case 1: pool->write(id, random() % 5000, 1 + random() % 300, 1 + random() % 3); break;
        case 2: pool->write(id, random() % 5000, 1 + random() % 5, 100); break;
        case 3:
            const std::uint64_t first = random() % 4000;
            pool->discard(id, first, first + random() % 400);
            break;
        }
    }
    return pool;
}

std::set<std::uint64_t> blocks_of(const Model& model, const std::set<std::uint32_t>& ids, bool those) {
    std::set<std::uint64_t> blocks;
    for (const auto& [id, mappings] : model)
        if (ids.contains(id) == those)
            for (auto [virtual_block, block] : mappings)
                blocks.insert(block);
    return blocks;
}

std::uint64_t freed(const Model& model, const std::set<std::uint32_t>& ids) {
    std::set<std::uint64_t> kept = blocks_of(model, ids, false);
    std::uint64_t count = 0;
    for (std::uint64_t block : blocks_of(model, ids, true))
        count += !kept.contains(block);
    return count;
}

TEST(Usage, TellsWhatEachVolumeHasToItself) {
    for (unsigned seed = 0; seed < 8; ++seed) {
        SCOPED_TRACE(seed);
        auto pool = random_pool(seed);
        if (seed % 2 == 1)
            pool->metadata_snapshot();
        if (seed % 4 == 3)
            pool->write(1, 0, 700);
        const Model model = model_of(*pool);
        Usage found = value_of(usage(pool->device, {}));
        ASSERT_EQ(found.volumes.size(), model.size());
        for (const VolumeUsage& volume : found.volumes) {
            const auto& mappings = model.at(volume.id.value());
            EXPECT_EQ(volume.details.mapped_blocks, mappings.size());
            EXPECT_EQ(volume.exclusive_blocks, freed(model, {volume.id.value()})) << volume.id.value();
            EXPECT_EQ(volume.highest_mapped, VirtualBlock(mappings.rbegin()->first));
        }
    }
}

TEST(Usage, TellsWhatDeletingFrees) {
    for (unsigned seed = 10; seed < 16; ++seed) {
        SCOPED_TRACE(seed);
        auto pool = random_pool(seed);
        const Model model = model_of(*pool);
        std::mt19937 random(seed);
        for (int round = 0; round < 5; ++round) {
            UsageOptions options{.exclusive = false};
            std::set<std::uint32_t> ids;
            for (const auto& [id, mappings] : model)
                if (random() % 2 == 0) {
                    options.deleted.emplace_back(id);
                    ids.insert(id);
                }
            EXPECT_EQ(value_of(usage(pool->device, options)).freed_blocks, freed(model, ids));
        }
        // And deleting them does.
        UsageOptions options{.exclusive = false, .deleted = {ThinId(model.rbegin()->first)}};
        const std::uint64_t promised = value_of(usage(pool->device, options)).freed_blocks;
        const std::uint64_t free = pool->engine().data_counts().free;
        pool->remove(model.rbegin()->first);
        EXPECT_EQ(pool->engine().data_counts().free, free + promised);
    }
    auto pool = random_pool(1);
    EXPECT_EQ(usage(pool->device, {.deleted = {ThinId(999)}}).error().kind(), ErrorKind::not_found);
}

TEST(Usage, WhatTheMetadataSnapshotHoldsIsntFreed) {
    TestPool pool;
    pool.thin(1);
    pool.write(1, 0, 500);
    pool.metadata_snapshot();
    pool.write(1, 100, 50);  // new blocks; the old ones are the snapshot's
    UsageOptions options{.deleted = {ThinId(1)}};
    Usage found = value_of(usage(pool.device, options));
    EXPECT_EQ(found.freed_blocks, 50u);
    EXPECT_EQ(found.volumes[0].exclusive_blocks, 500u);
    pool.remove(1);
    EXPECT_EQ(pool.engine().data_counts().used(), 500u);
    EXPECT_EQ(value_of(usage(pool.device, {})).volumes.size(), 0u);
    EXPECT_EQ(value_of(usage(pool.device, {.metadata_snapshot = true})).volumes.at(0).exclusive_blocks, 500u);
}

TEST(Usage, DamageIsAnError) {
    auto pool = random_pool(3);
    Damage damage(pool->device);
    value_of(damage.zero(MetadataBlock(pool->leaf_of(1, 50))));
    auto found = usage(pool->device, {});
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().kind(), ErrorKind::damaged);
    EXPECT_THAT(found.error().message(), testing::HasSubstr("not a B-tree node"));
}

TEST(ReverseMap, NamesEverySharer) {
    for (unsigned seed = 20; seed < 26; ++seed) {
        SCOPED_TRACE(seed);
        auto pool = random_pool(seed);
        const DataRange ranges[] = {{DataBlock(100), DataBlock(400)}, {DataBlock(1990), DataBlock(2100)}, {DataBlock(300), DataBlock(350)}};
        std::set<std::tuple<std::uint64_t, std::uint32_t, std::uint64_t>> expected;
        for (const auto& [id, mappings] : model_of(*pool))
            for (auto [virtual_block, block] : mappings)
                if ((block >= 100 && block < 400) || (block >= 1990 && block < 2100))
                    expected.emplace(block, id, virtual_block);
        std::set<std::tuple<std::uint64_t, std::uint32_t, std::uint64_t>> found;
        auto runs = value_of(reverse_map(pool->device, ranges));
        for (const ReverseMapping& run : runs)
            for (std::uint64_t offset = 0; offset < run.data.end - run.data.begin; ++offset)
                EXPECT_TRUE(found.emplace(run.data.begin.value() + offset, run.volume.value(), run.virtual_begin.value() + offset).second);
        EXPECT_EQ(found, expected);
        EXPECT_TRUE(std::ranges::is_sorted(runs, {}, [](const ReverseMapping& run) { return std::tuple(run.data.begin, run.volume); }));
    }
    auto pool = random_pool(20);
    const DataRange empty[] = {{DataBlock(5), DataBlock(5)}};
    EXPECT_EQ(reverse_map(pool->device, empty).error().kind(), ErrorKind::usage);
}

TEST(Trim, DiscardsWhatIsFreeAndNothingElse) {
    TestPool pool(300);
    pool.thin(1);
    pool.write(1, 0, 200);
    pool.metadata_snapshot();
    pool.discard(1, 0, 50);  // the metadata snapshot has them still
    pool.write(1, 0, 10);
    constexpr std::uint64_t bytes = 128 * sector_bytes;
    MemoryDevice data(300 * bytes);
    std::vector<std::byte> ones(bytes, std::byte{1});
    for (std::uint64_t block = 0; block < 300; ++block)
        value_of(write_now(data, block * bytes, ones));
    TrimReport report = value_of(trim(pool.device, data));
    EXPECT_EQ(report.blocks, 90u);
    std::vector<std::byte> read(bytes);
    for (std::uint64_t block = 0; block < 300; ++block) {
        value_of(read_now(data, block * bytes, read));
        EXPECT_EQ(read[0], std::byte{block < 210 ? std::uint8_t{1} : std::uint8_t{0}}) << block;
    }
}

TEST(Trim, DiscardsNothingOfADamagedPool) {
    TestPool pool(300);
    pool.thin(1);
    pool.write(1, 0, 200);
    Damage damage(pool.device);
    value_of(damage.set_count(SpaceMapKind::data, 5, 0));
    MemoryDevice disk(300 * 65536);
    FaultDevice data(disk);
    EXPECT_EQ(trim(pool.device, data).error().kind(), ErrorKind::damaged);
    EXPECT_EQ(data.count(IoOperation::discard), 0u);
    value_of(damage.undo());
    MemoryDevice small(299 * 65536);
    EXPECT_EQ(trim(pool.device, small).error().kind(), ErrorKind::usage);
}

// --- diff ---

using Kind = DiffRun::Kind;

struct Sides {
    std::map<std::uint64_t, std::tuple<Kind, std::uint64_t, std::uint64_t>> blocks;
    Result<void> add(const DiffRun& run) {
        EXPECT_GT(run.length, 0u);
        for (std::uint64_t offset = 0; offset < run.length; ++offset) {
            const std::uint64_t left = run.kind == Kind::right_only ? 0 : run.left_begin.value() + offset;
            const std::uint64_t right = run.kind == Kind::left_only ? 0 : run.right_begin.value() + offset;
            EXPECT_TRUE(blocks.empty() || blocks.rbegin()->first < run.begin.value() + offset);
            blocks[run.begin.value() + offset] = {run.kind, left, right};
        }
        return {};
    }
};

Sides expected_diff(const std::map<std::uint64_t, std::uint64_t>& left, const std::map<std::uint64_t, std::uint64_t>& right, bool same) {
    Sides expected;
    for (auto [key, block] : left) {
        auto other = right.find(key);
        if (other == right.end())
            expected.blocks[key] = {Kind::left_only, block, 0};
        else if (other->second != block)
            expected.blocks[key] = {Kind::different, block, other->second};
        else if (same)
            expected.blocks[key] = {Kind::same, block, block};
    }
    for (auto [key, block] : right)
        if (!left.contains(key))
            expected.blocks[key] = {Kind::right_only, 0, block};
    return expected;
}

TEST(Diff, FindsTheDifferencesOfAnyTwoVolumes) {
    for (unsigned seed = 30; seed < 38; ++seed) {
        auto pool = random_pool(seed);
        const Model model = model_of(*pool);
        for (const auto& [left, left_mappings] : model)
            for (const auto& [right, right_mappings] : model) {
                const bool same = (left + right + seed) % 2 == 0;
                SCOPED_TRACE(fmt::format("seed {}, {} to {}", seed, left, right));
                Sides found;
                auto result = diff(pool->device, {.left = ThinId(left), .right = ThinId(right), .same = same},
                                   [&](const DiffRun& run) { return found.add(run); });
                ASSERT_TRUE(result) << result.error().message();
                // A mapping to the same block may be found in leaves that aren't shared.
                std::erase_if(found.blocks, [&](const auto& entry) { return !same && std::get<0>(entry.second) == Kind::same; });
                EXPECT_EQ(found.blocks, expected_diff(left_mappings, right_mappings, same).blocks);
            }
    }
}

TEST(Diff, ReadsAsMuchAsHasChanged) {
    TestPool pool(120'000, 8192);
    pool.thin(1);
    pool.write(1, 0, 100'000);
    pool.snapshot(2, 1);
    pool.write(1, 500, 10, 9000);
    FaultDevice counted(pool.device);
    Sides found;
    value_of(diff(counted, {.left = ThinId(2), .right = ThinId(1)}, [&](const DiffRun& run) { return found.add(run); }));
    std::erase_if(found.blocks, [](const auto& entry) { return std::get<0>(entry.second) == Kind::same; });
    EXPECT_EQ(found.blocks.size(), 10u);
    EXPECT_LT(counted.count(IoOperation::read), 60u);  // of some 1600 nodes
    FaultDevice again(pool.device);
    value_of(diff(again, {.left = ThinId(2), .right = ThinId(2)}, [&](const DiffRun&) -> Result<void> {
        ADD_FAILURE() << "a volume differs from itself";
        return {};
    }));
    EXPECT_LT(again.count(IoOperation::read), 15u);
}

TEST(Diff, RootsAndTheMetadataSnapshot) {
    TestPool pool;
    pool.thin(1);
    pool.write(1, 0, 600);
    pool.metadata_snapshot();
    pool.write(1, 300, 2);
    const MetadataBlock root = pool.root_of(1);
    for (DiffSide right : {DiffSide(ThinId(1)), DiffSide(root)}) {
        std::vector<DiffRun> runs;
        value_of(diff(pool.device, {.left = ThinId(1), .right = right, .left_in_snapshot = true}, [&](const DiffRun& run) -> Result<void> {
            if (run.kind != Kind::same)
                runs.push_back(run);
            return {};
        }));
        ASSERT_EQ(runs.size(), 1u);
        EXPECT_EQ(runs[0], (DiffRun{Kind::different, VirtualBlock(300), 2, DataBlock(300), DataBlock(600)}));
    }
    auto nothing = [](const DiffRun&) -> Result<void> { return {}; };
    EXPECT_EQ(diff(pool.device, {.left = ThinId(1), .right = ThinId(2)}, nothing).error().kind(), ErrorKind::not_found);
    EXPECT_EQ(diff(pool.device, {.left = ThinId(1), .right = MetadataBlock(2000)}, nothing).error().kind(), ErrorKind::damaged);
    Damage damage(pool.device);
    value_of(damage.zero(MetadataBlock(pool.leaf_of(1, 300))));
    auto damaged = diff(pool.device, {.left = ThinId(1), .right = ThinId(1), .left_in_snapshot = true}, nothing);
    ASSERT_FALSE(damaged);
    EXPECT_THAT(damaged.error().message(), testing::HasSubstr("metadata block"));
}

TEST(Diff, SinceATime) {
    TestPool pool;
    pool.thin(1);
    pool.write(1, 0, 600);
    pool.snapshot(2, 1);
    const std::uint32_t since = pool.engine().time();
    pool.write(1, 100, 3);
    pool.write(1, 500, 1);
    std::vector<DiffRun> runs;
    value_of(diff_since(pool.device, ThinId(1), false, since, {}, [&](const DiffRun& run) -> Result<void> {
        runs.push_back(run);
        return {};
    }));
    EXPECT_EQ(runs, (std::vector<DiffRun>{{Kind::right_only, VirtualBlock(100), 3, {}, DataBlock(600)},
                                          {Kind::right_only, VirtualBlock(500), 1, {}, DataBlock(603)}}));
}

}  // namespace
}  // namespace lamella::tools
