// SPDX-License-Identifier: Apache-2.0
#include "tools/repair.h"

#include <gtest/gtest.h>

#include "base/test_support.h"
#include "device/memory_device.h"
#include "pdata/block.h"
#include "tools/builder.h"
#include "tools/check.h"
#include "tools/damage.h"
#include "tools/generate.h"
#include "tools/pool_test_support.h"

namespace lamella::tools {
namespace {

using lamella::test::value_of;

std::unique_ptr<MemoryDevice> make(const PoolShape& shape, std::uint64_t blocks = 4096) {
    auto device = std::make_unique<MemoryDevice>(blocks * pdata::block_bytes, "pool");
    auto builder = value_of(MetadataBuilder::start(*device));
    value_of(generate(*builder, shape));
    return device;
}

MetadataBlock find(BlockDevice& device, BlockRole role, std::size_t number = 0) {
    for (const SurveyedBlock& block : value_of(survey(device)))
        if (block.role == role && number-- == 0)
            return block.location;
    ADD_FAILURE() << "no " << to_string(role);
    return {};
}

std::size_t count(BlockDevice& device, BlockRole role) {
    return static_cast<std::size_t>(
        std::ranges::count_if(value_of(survey(device)), [&](const SurveyedBlock& block) { return block.role == role; }));
}

const RepairedVolume& volume_of(const RepairReport& report, std::uint32_t id) {
    for (const RepairedVolume& volume : report.volumes)
        if (volume.id == ThinId(id))
            return volume;
    ADD_FAILURE() << "no volume " << id;
    return report.volumes.front();
}

TEST(Repair, CopiesWhatIsSoundWithItsSharing) {
    auto input = make({.mappings = 100000, .snapshots = 50, .random = true});
    auto repair = value_of(Repair::plan(*input, {}));
    EXPECT_FALSE(repair->report().damaged);
    // Prediction and truth: what 51 volumes share takes no more room than one.
    MemoryDevice output(repair->report().metadata_blocks * pdata::block_bytes + 10 * pdata::block_bytes, "output");
    value_of(repair->write(output));
    EXPECT_EQ(count(output, BlockRole::mapping_leaf), count(*input, BlockRole::mapping_leaf));
    EXPECT_EQ(count(output, BlockRole::mapping_inner), count(*input, BlockRole::mapping_inner));
    EXPECT_LE(value_of(survey(output)).size(), repair->report().metadata_blocks);
}

TEST(Repair, LosesOfADamagedLeafOnlyItsRange) {
    auto input = make({.volumes = 3, .mappings = 5000});
    Damage damage(*input);
    value_of(damage.zero(find(*input, BlockRole::mapping_leaf, 3)));
    auto repair = value_of(Repair::plan(*input, {}));
    const RepairReport& report = repair->report();
    EXPECT_TRUE(report.damaged);
    ASSERT_EQ(report.volumes.size(), 3u);
    EXPECT_FALSE(volume_of(report, 1).complete);
    EXPECT_EQ(volume_of(report, 1).lost, (std::vector<KeyRange>{{3 * 252, 4 * 252}}));
    EXPECT_EQ(volume_of(report, 1).intact, 5000u - 252);
    EXPECT_TRUE(volume_of(report, 2).complete);
    EXPECT_TRUE(volume_of(report, 3).complete);
}

TEST(Repair, PutsLeavesBelowADamagedInnerNodeBack) {
    auto input = make({.volumes = 2, .mappings = 70000, .random = true});
    for (std::size_t number = 0; number < count(*input, BlockRole::mapping_inner); ++number) {
        Damage damage(*input);
        value_of(damage.zero(find(*input, BlockRole::mapping_inner, number)));
        auto repair = value_of(Repair::plan(*input, {}));
        for (std::uint32_t id : {1u, 2u}) {
            EXPECT_TRUE(volume_of(repair->report(), id).complete) << "inner node " << number << ", volume " << id;
            EXPECT_EQ(volume_of(repair->report(), id).intact + volume_of(repair->report(), id).recovered, 70000u);
        }
        EXPECT_TRUE(repair->report().unplaced.empty());
        value_of(damage.undo());
    }
}

// As old copies of nodes do that a disk brought back.
TEST(Repair, NodesThatLeadBackToThemselvesEnd) {
    auto input = make({.mappings = 70000});
    const auto root = find(*input, BlockRole::mapping_inner, count(*input, BlockRole::mapping_inner) - 1);
    const auto child = find(*input, BlockRole::mapping_inner);
    ASSERT_NE(root, child);
    Damage damage(*input);
    value_of(damage.zero(root));
    value_of(damage.link(child, 3, child));
    auto repair = value_of(Repair::plan(*input, {}));
    EXPECT_EQ(volume_of(repair->report(), 1).intact, 0u);
    EXPECT_EQ(volume_of(repair->report(), 1).recovered, 70000u);  // the leaf that the link led to is found as well
    EXPECT_TRUE(volume_of(repair->report(), 1).complete);
    MemoryDevice output(4096 * pdata::block_bytes, "output");
    value_of(repair->write(output));
    EXPECT_EQ(value_of(check(output, {})).grade, Severity::note);
}

// Two volumes of one size, and the only node lost that says which tree is whose: nothing proves it, so nothing is put back.
TEST(Repair, DoesNotGuessWhichTreeIsWhose) {
    auto input = make({.volumes = 2, .mappings = 5000});
    Damage damage(*input);
    value_of(damage.zero(find(*input, BlockRole::device_node)));
    auto repair = value_of(Repair::plan(*input, {}));
    EXPECT_EQ(volume_of(repair->report(), 1).recovered, 0u);
    EXPECT_EQ(volume_of(repair->report(), 2).recovered, 0u);
    ASSERT_EQ(repair->report().unplaced.size(), 2u);
    EXPECT_EQ(repair->report().unplaced.front().possible_owners, (std::vector<ThinId>{ThinId(1), ThinId(2)}));
}

// What was the origin's root then is the snapshot's now, and nothing in it says so.
TEST(Repair, AnOldTreeOfDevicesGivesNobodyAnothersMappings) {
    auto device = std::make_unique<MemoryDevice>(1024 * pdata::block_bytes, "pool");
    auto metadata = value_of(thin::ThinMetadata::create(*device, {.data_block_sectors = 128, .data_blocks = 20000}));
    const auto write = [&](std::uint32_t id, std::uint64_t count) {
        for (std::uint64_t block = 0; block < count; ++block)
            value_of(metadata->insert(ThinId(id), VirtualBlock(block), value_of(metadata->allocate_data_block())));
    };
    for (std::uint32_t id : {1u, 2u}) {
        value_of(metadata->create_thin(ThinId(id)));
        write(id, id * 1000);
    }
    value_of(metadata->commit());
    std::vector<std::byte> old(pdata::block_bytes);
    const MetadataBlock then = find(*device, BlockRole::device_node);
    value_of(read_now(*device, then.value() * pdata::block_bytes, old));
    value_of(metadata->create_snapshot(ThinId(3), ThinId(1)));
    write(1, 60);
    value_of(metadata->commit());
    metadata.reset();

    const MetadataBlock now = find(*device, BlockRole::device_node);
    ASSERT_NE(now, then);
    pdata::seal_block(old, pdata::BlockKind::node, now);
    Damage damage(*device);
    value_of(damage.replace(now, old));
    auto repair = value_of(Repair::plan(*device, {}));
    EXPECT_EQ(volume_of(repair->report(), 1).intact + volume_of(repair->report(), 1).recovered, 0u);
    EXPECT_EQ(volume_of(repair->report(), 2).intact + volume_of(repair->report(), 2).recovered, 2000u);
    EXPECT_EQ(volume_of(repair->report(), 3).intact + volume_of(repair->report(), 3).recovered, 0u);
    ASSERT_EQ(repair->report().unplaced.size(), 2u);
    for (const auto& orphan : repair->report().unplaced)
        EXPECT_EQ(orphan.possible_owners, (std::vector<ThinId>{ThinId(1), ThinId(3)}));
}

TEST(Repair, RebuildsLostDetailsSoThatSharingIsSafe) {
    auto input = make({.mappings = 1000, .snapshots = 2, .own_mappings = 10});
    Damage damage(*input);
    value_of(damage.zero(find(*input, BlockRole::details_node)));
    auto repair = value_of(Repair::plan(*input, {}));
    MemoryDevice output(256 * pdata::block_bytes, "output");
    value_of(repair->write(output));
    auto metadata = value_of(thin::ThinMetadata::open(output, {.read_only = true}));
    EXPECT_EQ(metadata->time(), 3u);  // no mapping is as late
    for (std::uint32_t id : {1u, 2u, 3u}) {
        EXPECT_EQ(value_of(metadata->details(ThinId(id))).snapshotted_time, 3u);
        EXPECT_EQ(value_of(metadata->details(ThinId(id))).mapped_blocks, id == 1 ? 1000u : 1010u);
    }
}

TEST(Repair, FindsTheRootsOfALostSuperblock) {
    auto input = make({.volumes = 2, .mappings = 3000});
    const MetadataBlock devices = find(*input, BlockRole::device_node);
    const MetadataBlock details = find(*input, BlockRole::details_node);
    Damage damage(*input);
    value_of(damage.zero(MetadataBlock(0)));
    auto refused = Repair::plan(*input, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::damaged);
    EXPECT_NE(refused.error().message().find("data block size"), std::string::npos);
    auto roots = value_of(find_roots(*input));
    ASSERT_EQ(roots.size(), 1u);
    EXPECT_EQ(roots.front().roots.devices, devices);
    EXPECT_EQ(roots.front().roots.details, details);
    EXPECT_EQ(roots.front().matching_devices, 2u);
    auto repair = value_of(Repair::plan(*input, {.transaction_id = 7, .data_block_sectors = 128}));
    EXPECT_EQ(repair->superblock().transaction_id, 7u);
    EXPECT_TRUE(volume_of(repair->report(), 1).complete);
    EXPECT_TRUE(volume_of(repair->report(), 2).complete);
}

// Two volumes of one size, and a snapshot, made by the engine; then a metadata snapshot, and changes since.
std::unique_ptr<MemoryDevice> make_held() {
    auto device = std::make_unique<MemoryDevice>(1024 * pdata::block_bytes, "pool");
    auto metadata = value_of(thin::ThinMetadata::create(*device, {.data_block_sectors = 128, .data_blocks = 20000}));
    const auto write = [&](std::uint32_t id, std::uint64_t first, std::uint64_t count) {
        for (std::uint64_t block = first; block < first + count; ++block)
            value_of(metadata->insert(ThinId(id), VirtualBlock(block), value_of(metadata->allocate_data_block())));
    };
    for (std::uint32_t id : {1u, 2u}) {
        value_of(metadata->create_thin(ThinId(id)));
        write(id, 0, 2000);
    }
    value_of(metadata->create_snapshot(ThinId(3), ThinId(1)));
    value_of(metadata->reserve_metadata_snapshot());
    value_of(metadata->commit());
    write(1, 700, 30);
    write(2, 2000, 300);
    value_of(metadata->set_transaction_id(0, 5));
    value_of(metadata->commit());
    return device;
}

void expect_all_back(BlockDevice& device, const RepairOptions& options, const std::string& what) {
    auto repair = value_of(Repair::plan(device, options));
    for (const RepairedVolume& volume : repair->report().volumes) {
        EXPECT_TRUE(volume.complete) << what << ", volume " << volume.id.value();
        EXPECT_EQ(volume.intact + volume.recovered, volume.id == ThinId(2) ? 2300u : 2000u) << what << ", volume " << volume.id.value();
    }
    EXPECT_EQ(repair->report().volumes.size(), 3u) << what;
    MemoryDevice output(1024 * pdata::block_bytes, "output");
    value_of(repair->write(output));
    const CheckReport checked = value_of(check(output, {}));
    EXPECT_EQ(checked.grade, Severity::note) << what << ": " << (checked.findings.empty() ? "" : checked.findings.front().to_text());
}

// What the snapshot refers to must not be taken for what the pool has lost, and can't be if the rest is accounted for.
TEST(Repair, ALostMetadataSnapshotHidesNothingOfThePool) {
    auto input = make_held();
    const MetadataBlock held = find(*input, BlockRole::held_superblock);
    const auto surveyed = value_of(survey(*input));
    std::size_t nodes = 0;
    for (const SurveyedBlock& block : surveyed) {
        if (block.role != BlockRole::mapping_inner)
            continue;
        ++nodes;
        Damage damage(*input);
        value_of(damage.zero(held));
        value_of(damage.zero(block.location));
        expect_all_back(*input, {}, fmt::format("inner node {}", block.location));
        value_of(damage.undo());
    }
    EXPECT_GE(nodes, 4u);
}

TEST(Repair, ALostSuperblockAndAnInnerNodeWhileAMetadataSnapshotIsHeld) {
    auto input = make_held();
    for (const SurveyedBlock& block : value_of(survey(*input))) {
        if (block.role != BlockRole::mapping_inner)
            continue;
        Damage damage(*input);
        value_of(damage.zero(block.location));
        const std::vector<RootCandidate> roots = value_of(find_roots(*input));
        value_of(damage.zero(MetadataBlock(0)));
        expect_all_back(*input, {.data_block_sectors = 128, .roots = roots.front().roots}, fmt::format("inner node {}", block.location));
        value_of(damage.undo());
    }
}

TEST(Repair, NeedsNoSpaceMaps) {
    auto input = make_held();
    const MetadataBlock leaf = find(*input, BlockRole::mapping_leaf);
    std::mt19937_64 random(1);
    Damage damage(*input);
    std::size_t nodes = 0;
    for (const SurveyedBlock& block : value_of(survey(*input)))
        if (block.role >= BlockRole::data_index_node) {
            value_of(damage.scramble(block.location, random));
            ++nodes;
        }
    EXPECT_GE(nodes, 5u);
    expect_all_back(*input, {}, "all of the space maps");
    value_of(damage.zero(leaf));
    auto repair = value_of(Repair::plan(*input, {}));
    EXPECT_TRUE(repair->report().damaged);
    std::uint64_t back = 0;
    for (const RepairedVolume& volume : repair->report().volumes)
        back += volume.intact + volume.recovered;
    EXPECT_LT(back, 6300u);
    EXPECT_GE(back, 6300u - 2 * 252);
}

TEST(Repair, ASizeOfDataThatCannotBeIsTakenFromTheMappings) {
    for (const std::uint64_t size : {UINT64_MAX, UINT64_MAX - 20'000, (std::uint64_t{1} << 40) + 1, std::uint64_t{1} << 40}) {
        SCOPED_TRACE(size);
        test::TestPool pool(2000, 512);
        pool.thin(1);
        pool.write(1, 0, 400, 3);
        const std::uint64_t end = pool.data_block(1, 399 * 3).value() + 1;
        pool.edit_superblock([&](std::byte* block) { store_little<std::uint64_t>(block + 64, size); });
        for (const std::optional<std::uint64_t> given : {std::optional<std::uint64_t>(), std::optional<std::uint64_t>(2000)}) {
            auto repair = value_of(Repair::plan(pool.device, {.data_blocks = given}));
            EXPECT_TRUE(repair->report().damaged);
            EXPECT_EQ(repair->report().data_blocks_by_mappings, given ? std::nullopt : std::optional(end));
            EXPECT_EQ(volume_of(repair->report(), 1).intact, 400u);
            MemoryDevice output(256 * pdata::block_bytes, "output");
            value_of(repair->write(output));
            const CheckReport report = value_of(check(output, {}));
            EXPECT_EQ(report.grade, Severity::note);
            EXPECT_EQ(report.data_blocks, given.value_or(end));
        }
    }
    test::TestPool pool;
    const auto refused = Repair::plan(pool.device, {.data_blocks = UINT64_MAX});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::usage);
}

TEST(Repair, RootsThatAreChosenBringTheirTimeAndTransaction) {
    auto input = make({.mappings = 1000, .snapshots = 2, .own_mappings = 10});
    const auto sound = value_of(thin::ThinMetadata::open(*input, {.read_only = true}));
    const TreeRoots roots{find(*input, BlockRole::device_node), find(*input, BlockRole::details_node)};
    Damage damage(*input);
    value_of(damage.zero(MetadataBlock(0)));
    auto repair = value_of(Repair::plan(*input, {.data_block_sectors = 128, .roots = roots}));
    EXPECT_EQ(repair->superblock().time, sound->time());
    MemoryDevice output(256 * pdata::block_bytes, "output");
    value_of(repair->write(output));
    EXPECT_EQ(value_of(check(output, {})).grade, Severity::note);
}

TEST(Repair, RefusesAnOutputThatIsTooSmallBeforeItIsTouched) {
    auto input = make({.mappings = 100000});
    auto repair = value_of(Repair::plan(*input, {}));
    MemoryDevice output(100 * pdata::block_bytes, "output");
    auto refused = repair->write(output);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::no_space);
    EXPECT_EQ(output.allocated_pages(), 0u);
}

TEST(Repair, StopsWhenItIsTold) {
    auto input = make({.mappings = 10000});
    auto repair = value_of(Repair::plan(*input, {}));
    std::atomic<bool> stop{true};
    MemoryDevice output(1024 * pdata::block_bytes, "output");
    EXPECT_FALSE(repair->write(output, {.stop = &stop}));
    EXPECT_FALSE(thin::ThinMetadata::open(output, {.read_only = true}));
}

}  // namespace
}  // namespace lamella::tools
