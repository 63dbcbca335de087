// SPDX-License-Identifier: Apache-2.0
#include "tools/check.h"

#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "device/crash_device.h"
#include "device/fault_device.h"
#include "tools/pool_test_support.h"

namespace lamella::tools {
namespace {

using pdata::block_bytes;
using pdata::BlockKind;
using test::key_place;
using test::run_on;
using test::TestPool;
using test::value_of;
using test::value_place;
using testing::Contains;
using testing::HasSubstr;

std::vector<std::string> texts(const CheckReport& report) {
    std::vector<std::string> found;
    for (const Finding& finding : report.findings)
        found.push_back(fmt::format("{}: {}", to_string(finding.severity), finding.to_text()));
    return found;
}

void expect_clean(BlockDevice& device) {
    CheckReport report = value_of(check(device, {}));
    EXPECT_EQ(report.grade, Severity::note) << fmt::format("{}", fmt::join(texts(report), "\n"));
    test::Ran witness = run_on(device, "thin_check @");
    EXPECT_EQ(witness.status, 0) << witness.output;
    EXPECT_EQ(report.finding_count, report.needs_check ? 1u : 0u);
}

std::vector<std::byte> content(BlockDevice& device) {
    std::vector<std::byte> bytes(device.size());
    value_of(read_now(device, 0, bytes));
    return bytes;
}

// Volume 1 with two leaves and more, its snapshot 2, both changed since; volume 3 alone.
void fill(TestPool& pool) {
    pool.thin(1);
    pool.write(1, 0, 1000);
    pool.thin(3);
    pool.write(3, 5000, 400, 3);
    pool.snapshot(2, 1);
    pool.write(1, 100, 20);
    pool.write(2, 700, 30);
}

TEST(Check, SoundPoolsAreClean) {
    TestPool pool;
    expect_clean(pool.device);
    pool.thin(1);
    expect_clean(pool.device);
    fill(*std::make_unique<TestPool>());
    pool.write(1, 0, 10'000);
    for (std::uint32_t id = 2; id < 40; ++id) {
        pool.snapshot(id, id / 2);
        pool.write(id, id * 200, 5, 7);
    }
    expect_clean(pool.device);
    pool.metadata_snapshot();
    expect_clean(pool.device);
    pool.write(1, 50, 300);
    pool.discard(1, 1000, 3000);
    pool.remove(7);
    pool.snapshot(50, 1);
    pool.write(50, 0, 100);
    expect_clean(pool.device);
    CheckReport held = value_of(check(pool.device, {.metadata_snapshot = true}));
    EXPECT_EQ(held.grade, Severity::note) << fmt::format("{}", fmt::join(texts(held), "\n"));
}

TEST(Check, ReadsEachNodeOfSharedTreesAboutOnce) {
    TestPool pool(60'000);
    pool.thin(1);
    pool.write(1, 0, 50'000);
    for (std::uint32_t id = 2; id < 500; ++id)
        value_of(pool.engine().create_snapshot(ThinId(id), ThinId(1)));
    value_of(pool.engine().commit());
    FaultDevice counted(pool.device);
    expect_clean(counted);
    std::uint64_t nodes = value_of(survey(pool.device)).size();
    FaultDevice again(pool.device);
    value_of(check(again, {}));
    // Each request reads one block at least, many read more; 500 volumes times 300 leaves would show.
    EXPECT_LT(again.count(IoOperation::read), nodes);
}

TEST(Check, CountsRoom) {
    TestPool pool;
    fill(pool);
    CheckReport report = value_of(check(pool.device, {}));
    EXPECT_EQ(report.data_blocks, 20'000u);
    EXPECT_EQ(report.data_free, 20'000u - 1450);
    EXPECT_EQ(report.metadata_blocks, 2048u);
    EXPECT_EQ(report.metadata_free, pool.engine().metadata_counts().free);
    EXPECT_EQ(report.transaction_id, pool.engine().transaction_id());
}

TEST(Check, NeverWritesUnlessAsked) {
    TestPool pool;
    fill(pool);
    Damage damage(pool.device);
    value_of(damage.set_needs_check());
    value_of(damage.set_count(SpaceMapKind::data, 15'000, 1));
    auto before = content(pool.device);
    for (auto scope : {CheckOptions::Scope::superblock, CheckOptions::Scope::volumes, CheckOptions::Scope::everything}) {
        FaultDevice device(pool.device);
        device.add({.operation = IoOperation::write});
        EXPECT_TRUE(check(device, {.scope = scope}));
        EXPECT_EQ(device.count(IoOperation::write), 0u);
    }
    EXPECT_EQ(content(pool.device), before);
}

// --- The superblock ---

struct SuperblockCase {
    std::string name;
    std::function<void(std::byte*)> change;
    std::string text;
};

TEST(Check, LooksAtEveryFieldOfTheSuperblock) {
    const SuperblockCase cases[] = {
        {"magic", [](std::byte* block) { store_little<std::uint64_t>(block + 32, 1); }, "superblock: magic 1, expected 27022010"},
        {"version", [](std::byte* block) { store_little<std::uint32_t>(block + 40, 99); }, "superblock: version 99, known up to 2"},
        {"number", [](std::byte* block) { store_little<std::uint64_t>(block + 8, 7); }, "superblock: superblock says it is block 7"},
        {"block size", [](std::byte* block) { store_little<std::uint32_t>(block + 336, 100); }, "data block size of 100 sectors"},
        {"features", [](std::byte* block) { store_little<std::uint32_t>(block + 360, 4); }, "unknown incompatible features 0x4"},
        {"more metadata than there can be", [](std::byte* block) { store_little<std::uint64_t>(block + 192, 5'000'000); },
         "5000000 metadata blocks, at most 4161600 are possible"},
        {"metadata size", [](std::byte* block) { store_little<std::uint64_t>(block + 192, 5000); },
         "5000 metadata blocks, but the device has only 2048"},
        {"data size", [](std::byte* block) { store_little<std::uint64_t>(block + 64, std::uint64_t{1} << 50); },
         "1125899906842624 data blocks, more than this metadata can count"},
    };
    for (const SuperblockCase& one : cases) {
        TestPool pool;
        fill(pool);
        pool.edit_superblock(one.change);
        CheckReport report = value_of(check(pool.device, {}));
        EXPECT_EQ(report.grade, Severity::needs_repair) << one.name;
        EXPECT_THAT(texts(report), Contains(HasSubstr(one.text))) << one.name;
        // Nobody writes a superblock with fields that can't be.
        auto before = content(pool.device);
        value_of(check(pool.device, {.rebuild_space_maps = true, .clear_needs_check = true}));
        EXPECT_EQ(content(pool.device), before) << one.name;
    }
    // Several at once are all told.
    TestPool pool;
    pool.edit_superblock([&](std::byte* block) {
        cases[0].change(block);
        cases[1].change(block);
    });
    EXPECT_THAT(texts(value_of(check(pool.device, {}))), testing::IsSupersetOf({HasSubstr(cases[0].text), HasSubstr(cases[1].text)}));
}

TEST(Check, TellsAnEmptyDeviceFromALostSuperblock) {
    MemoryDevice empty(64 * block_bytes);
    EXPECT_THAT(texts(value_of(check(empty, {}))), Contains(HasSubstr("all zeros")));
    MemoryDevice tiny(1000);
    EXPECT_EQ(check(tiny, {}).error().kind(), ErrorKind::damaged);
    TestPool pool;
    value_of(write_now(pool.device, 100, std::vector<std::byte>(4, std::byte{1})));
    EXPECT_THAT(texts(value_of(check(pool.device, {}))), Contains(HasSubstr("not a superblock: checksum")));
}

TEST(Check, TheSuperblockAloneIsEnoughForItself) {
    TestPool pool;
    std::vector<std::byte> block(block_bytes);
    value_of(read_now(pool.device, 0, block));
    MemoryDevice one(block_bytes);
    value_of(write_now(one, 0, block));
    EXPECT_EQ(value_of(check(one, {.scope = CheckOptions::Scope::superblock})).grade, Severity::note);
}

// --- Space maps ---

TEST(Check, LeakedBlocksComeBack) {
    TestPool pool;
    fill(pool);
    CheckReport before = value_of(check(pool.device, {}));
    std::string dump = run_on(pool.device, "thin_dump @").output;
    pool.edit_superblock([](std::byte* block) {
        store_little<std::uint64_t>(block + 16, 0x6465656e);      // uuid
        store_little<std::uint32_t>(block + 352, 6);              // features that don't matter
        store_little<std::uint64_t>(block + 2000, 0xfedcba9876);  // of somebody else
    });
    Damage damage(pool.device);
    for (std::uint64_t block : {9000u, 9001u, 9002u, 19'999u})
        value_of(damage.set_count(SpaceMapKind::data, block, 1));
    const std::uint64_t alone = pool.data_block(3, 5000).value();
    value_of(damage.set_count(SpaceMapKind::data, alone, 2));
    value_of(damage.set_count(SpaceMapKind::metadata, 2000, 1));

    CheckReport report = value_of(check(pool.device, {}));
    EXPECT_EQ(report.leaked_data_blocks, 4u);
    EXPECT_EQ(report.leaked_metadata_blocks, 1u);
    EXPECT_EQ(report.grade, Severity::leak);
    EXPECT_TRUE(report.accounting_only);
    EXPECT_THAT(texts(report), Contains("leak: data blocks 9000-9002: counted as used, but nothing refers to it"));
    EXPECT_THAT(texts(report), Contains(fmt::format("leak: data block {}: counted 2 times, but referred to 1 times", alone)));
    EXPECT_NE(run_on(pool.device, "thin_check @").status, 0);

    auto superblock = content(pool.device);
    report = value_of(check(pool.device, {.return_leaks = true}));
    EXPECT_TRUE(report.space_maps_written);
    expect_clean(pool.device);
    CheckReport after = value_of(check(pool.device, {}));
    EXPECT_EQ(after.data_free, before.data_free);
    EXPECT_EQ(after.metadata_free, before.metadata_free);
    // The totals that the kernel reads, too.
    auto root = pdata::SpaceMapRoot::unpack(pool.superblock().data_space_map_root.data());
    EXPECT_EQ(root.blocks - root.allocated, before.data_free);
    root = pdata::SpaceMapRoot::unpack(pool.superblock().metadata_space_map_root.data());
    EXPECT_EQ(root.blocks - root.allocated, before.metadata_free);
    // All else is as it was.
    EXPECT_EQ(pool.superblock().uuid[0], std::byte{0x6e});
    EXPECT_EQ(pool.superblock().compatible_flags, 6u);
    auto now = content(pool.device);
    EXPECT_TRUE(std::equal(now.begin() + 364, now.begin() + block_bytes, superblock.begin() + 364));
    std::string dump_now = run_on(pool.device, "thin_dump @").output;
    EXPECT_EQ(dump_now.substr(dump_now.find('>')), dump.substr(dump.find('>')));
    // And the engine goes on with it.
    auto engine = value_of(thin::ThinMetadata::open(pool.device, {}));
    for (int count = 0; count < 300; ++count)
        value_of(engine->insert(ThinId(1), VirtualBlock(20'000 + 300 * static_cast<std::uint64_t>(count)),
                                value_of(engine->allocate_data_block())));
    value_of(engine->commit());
    expect_clean(pool.device);
}

TEST(Check, WrongTotalsAreSeenAndMended) {
    struct Case {
        std::string text;
        Severity severity;
        std::function<void(TestPool&)> change;
    };
    const Case cases[] = {
        {"data: its total says that 1447 data blocks are in use; its bitmaps say 1450", Severity::leak,
         [](TestPool& pool) { pool.edit_superblock([](std::byte* block) { store_little<std::uint64_t>(block + 72, 1447); }); }},
        {"metadata: its total says that 1 metadata blocks are in use", Severity::leak,
         [](TestPool& pool) { pool.edit_superblock([](std::byte* block) { store_little<std::uint64_t>(block + 200, 1); }); }},
        {"its total says that 20000 data blocks are in use", Severity::needs_repair,
         [](TestPool& pool) { pool.edit_superblock([](std::byte* block) { store_little<std::uint64_t>(block + 72, 20'000); }); }},
        {"says that 0 are free", Severity::needs_repair,
         [](TestPool& pool) {
             for (std::uint64_t node : pool.blocks_of(BlockRole::data_index_node))
                 pool.edit(node, BlockKind::node, [](std::byte* bytes) { store_little<std::uint32_t>(value_place(bytes, 0) + 8, 0); });
         }},
        {"says that none is free before its entry 16000", Severity::leak,
         [](TestPool& pool) {
             for (std::uint64_t index : pool.blocks_of(BlockRole::metadata_index))
                 pool.edit(index, BlockKind::index, [](std::byte* bytes) { store_little<std::uint32_t>(bytes + 28, 16'000); });
         }},
    };
    for (const Case& one : cases) {
        TestPool pool;
        fill(pool);
        one.change(pool);
        CheckReport report = value_of(check(pool.device, {}));
        EXPECT_EQ(report.grade, one.severity) << one.text;
        EXPECT_EQ(report.finding_count, 1u) << one.text;
        EXPECT_TRUE(report.accounting_only) << one.text;
        EXPECT_THAT(texts(report), Contains(HasSubstr(one.text)));
        value_of(check(pool.device, {.return_leaks = true}));
        expect_clean(pool.device);
    }
}

TEST(Check, CountsThatAreTooLowAreARiskAndNoLeak) {
    TestPool pool;
    fill(pool);
    const std::uint64_t shared = pool.data_block(1, 500).value();
    Damage damage(pool.device);
    value_of(damage.set_count(SpaceMapKind::data, pool.data_block(3, 5000).value(), 0));
    value_of(damage.set_count(SpaceMapKind::metadata, pool.leaf_of(3, 5000), 0));
    CheckReport report = value_of(check(pool.device, {}));
    EXPECT_EQ(report.grade, Severity::data_at_risk);
    EXPECT_FALSE(report.accounting_only);
    EXPECT_THAT(texts(report), Contains(HasSubstr("counted as free, but in use")));
    EXPECT_EQ(report.findings[0].severity, Severity::data_at_risk);
    EXPECT_EQ(shared, pool.data_block(2, 500).value());

    auto before = content(pool.device);
    report = value_of(check(pool.device, {.return_leaks = true, .clear_needs_check = true}));
    EXPECT_FALSE(report.space_maps_written);
    EXPECT_EQ(content(pool.device), before);
    report = value_of(check(pool.device, {.rebuild_space_maps = true}));
    EXPECT_TRUE(report.space_maps_written);
    expect_clean(pool.device);
}

TEST(Check, DamagedSpaceMapsAreWrittenAnew) {
    for (BlockRole role : {BlockRole::data_index_node, BlockRole::data_bitmap, BlockRole::data_overflow_node, BlockRole::metadata_index,
                           BlockRole::metadata_bitmap, BlockRole::metadata_overflow_node}) {
        TestPool pool;
        fill(pool);
        pool.snapshot(10, 1);
        pool.snapshot(11, 2);
        pool.write(10, 0, 1);
        pool.write(11, 0, 1);  // some blocks have three references now
        Damage damage(pool.device);
        value_of(damage.zero(MetadataBlock(pool.blocks_of(role).front())));
        CheckReport report = value_of(check(pool.device, {.return_leaks = true}));
        EXPECT_EQ(report.grade, Severity::needs_repair) << to_string(role);
        EXPECT_FALSE(report.space_maps_written) << to_string(role);
        EXPECT_TRUE(report.volumes.empty());
        value_of(check(pool.device, {.rebuild_space_maps = true}));
        expect_clean(pool.device);
    }
}

TEST(Check, CountsOfThreeAndMore) {
    TestPool pool(40'000, 4096);
    pool.thin(1);
    pool.write(1, 0, 600);
    for (std::uint32_t id = 2; id <= 302; ++id) {
        pool.snapshot(id, 1);
        value_of(pool.engine().insert(ThinId(id), VirtualBlock(0), value_of(pool.engine().allocate_data_block())));
    }
    value_of(pool.engine().commit());
    expect_clean(pool.device);  // some data blocks have 302 references
    // A count is wrong by one; an entry is gone.
    auto node = pool.blocks_of(BlockRole::data_overflow_node).front();
    pool.edit(node, BlockKind::node, [](std::byte* bytes) {
        auto count = load_little<std::uint32_t>(value_place(bytes, 0));
        store_little<std::uint32_t>(value_place(bytes, 0), count - 1);
    });
    CheckReport report = value_of(check(pool.device, {}));
    EXPECT_EQ(report.grade, Severity::data_at_risk);
    EXPECT_EQ(report.finding_count, 1u);
    EXPECT_THAT(texts(report), Contains(HasSubstr("it would be freed too early")));
    pool.edit(node, BlockKind::node, [](std::byte* bytes) {
        auto count = load_little<std::uint32_t>(value_place(bytes, 0));
        store_little<std::uint32_t>(value_place(bytes, 0), count + 1);
        store_little<std::uint32_t>(bytes + 16, pdata::Node(bytes).entries() - 1);
    });
    EXPECT_THAT(texts(value_of(check(pool.device, {}))), Contains(HasSubstr("lacks 1 blocks that have 3 references or more")));
    value_of(check(pool.device, {.rebuild_space_maps = true}));
    expect_clean(pool.device);
}

TEST(Check, HarmlessBytesAreHarmless) {
    // Entries of the metadata's index that stand for no bitmap may hold anything.
    TestPool pool;
    fill(pool);
    pool.edit(pool.blocks_of(BlockRole::metadata_index).front(), BlockKind::index,
              [](std::byte* bytes) { store_little<std::uint64_t>(bytes + 16 + 16 * 200, 0x123456789); });
    expect_clean(pool.device);
}

// --- needs_check ---

TEST(Check, ClearsTheFlagAndNothingElse) {
    for (auto scope : {CheckOptions::Scope::superblock, CheckOptions::Scope::volumes, CheckOptions::Scope::everything}) {
        TestPool pool;
        fill(pool);
        pool.edit_superblock([](std::byte* block) {
            store_little<std::uint32_t>(block + 4, 1 | 8);
            store_little<std::uint64_t>(block + 16, 0x6465656e);
            store_little<std::uint32_t>(block + 352, 6);
        });
        auto before = content(pool.device);
        CheckReport report = value_of(check(pool.device, {.scope = scope}));
        EXPECT_TRUE(report.needs_check);
        EXPECT_EQ(report.grade, Severity::note);
        EXPECT_EQ(content(pool.device), before);
        report = value_of(check(pool.device, {.scope = scope, .clear_needs_check = true}));
        EXPECT_TRUE(report.needs_check_cleared);
        auto after = content(pool.device);
        EXPECT_EQ(load_little<std::uint32_t>(after.data() + 4), 8u);
        for (std::size_t at = 8; at < after.size(); ++at)
            ASSERT_EQ(after[at], before[at]) << at;
        EXPECT_FALSE(value_of(check(pool.device, {.scope = scope, .clear_needs_check = true})).needs_check_cleared);
    }
}

TEST(Check, KeepsTheFlagWhereSomethingIsWrong) {
    TestPool pool;
    fill(pool);
    Damage damage(pool.device);
    value_of(damage.set_needs_check());
    value_of(damage.zero(MetadataBlock(pool.leaf_of(3, 5000))));
    auto before = content(pool.device);
    CheckReport report = value_of(check(pool.device, {.return_leaks = true, .clear_needs_check = true}));
    EXPECT_FALSE(report.needs_check_cleared);
    EXPECT_EQ(content(pool.device), before);
}

// --- Crashes ---

TEST(Check, ACrashWhileMendingLeavesTheOldOrTheNewState) {
    TestPool pool(20'000, 300);
    fill(pool);
    Damage damage(pool.device);
    value_of(damage.set_count(SpaceMapKind::data, 15'000, 1));
    value_of(damage.set_count(SpaceMapKind::metadata, 290, 1));
    value_of(damage.set_needs_check());
    const std::string dump = run_on(pool.device, "thin_dump @").output;
    const std::string mappings = dump.substr(dump.find('\n'));
    const auto start = content(pool.device);
    bool seen_old = false;
    bool seen_new = false;
    for (std::uint64_t cut = 1;; ++cut) {
        PowerSwitch power;
        SparseBytes disk;
        disk.write(0, start);
        CrashDevice device(pool.device.size(), "pool_tmeta", power, std::move(disk));
        power.cut_after(cut);
        auto result = check(device, {.return_leaks = true, .clear_needs_check = true});
        for (std::uint64_t seed = 0; seed < 2; ++seed) {
            auto left = device.cut(seed);
            CheckReport report = value_of(check(*left, {}));
            const bool is_new = !report.needs_check;
            seen_old |= !is_new;
            seen_new |= is_new;
            EXPECT_EQ(report.grade, is_new ? Severity::note : Severity::leak) << "cut " << cut << ", seed " << seed;
            EXPECT_EQ(report.leaked_data_blocks, is_new ? 0u : 1u);
            std::string now = run_on(*left, "thin_dump @").output;
            EXPECT_EQ(now.substr(now.find('\n')), mappings);
        }
        if (!power.off()) {
            EXPECT_TRUE(result) << result.error().message();
            break;
        }
        EXPECT_FALSE(result);
    }
    EXPECT_TRUE(seen_old);
    EXPECT_TRUE(seen_new);
}

TEST(Check, TooFewFreeBlocksChangeNothing) {
    TestPool pool(480'000, 200);  // 30 bitmaps
    pool.thin(1);
    for (std::uint64_t block = 0; value_of(check(pool.device, {})).metadata_free > 34; block += 400)
        pool.write(1, block, 200);
    Damage damage(pool.device);
    value_of(damage.set_count(SpaceMapKind::data, 479'999, 1));
    auto before = content(pool.device);
    auto result = check(pool.device, {.return_leaks = true});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().kind(), ErrorKind::no_space);
    EXPECT_EQ(content(pool.device), before);
}

// --- Volumes ---

TEST(Check, LooksAtDetails) {
    struct Case {
        std::string text;
        std::size_t offset;
        std::uint64_t value;
        bool wide;
    };
    const Case cases[] = {
        {"volume 3: 400 mapped blocks can be read, its details say 7", 0, 7, true},
        {"volume 3: made in transaction 99, but the pool's is 0", 8, 99, true},
        {"volume 3: made at time 50, but the pool's time is 1", 16, 50, false},
        {"volume 3: snapshotted at time 51, but the pool's time is 1", 20, 51, false},
    };
    for (const Case& one : cases) {
        TestPool pool;
        fill(pool);
        pool.edit(pool.superblock().device_details_root.value(), BlockKind::node, [&](std::byte* node) {
            std::byte* place = value_place(node, 2) + one.offset;
            if (one.wide)
                store_little<std::uint64_t>(place, one.value);
            else
                store_little<std::uint32_t>(place, static_cast<std::uint32_t>(one.value));
        });
        CheckReport report = value_of(check(pool.device, {}));
        EXPECT_EQ(report.grade, Severity::needs_repair);
        EXPECT_THAT(texts(report), Contains("needs-repair: " + one.text));
        EXPECT_EQ(report.finding_count, 1u) << one.text;
    }
}

TEST(Check, LooksAtIds) {
    TestPool pool;
    fill(pool);
    auto set_id = [](std::uint64_t id) { return [id](std::byte* node) { store_little<std::uint64_t>(key_place(node, 2), id); }; };
    pool.edit(pool.superblock().data_mapping_root.value(), BlockKind::node, set_id(8));
    EXPECT_THAT(texts(value_of(check(pool.device, {}))), testing::IsSupersetOf({HasSubstr("volume 8: it has mappings, but no details"),
                                                                                HasSubstr("volume 3: it has details, but no mappings")}));
    pool.edit(pool.superblock().data_mapping_root.value(), BlockKind::node, set_id(1 << 24));
    pool.edit(pool.superblock().device_details_root.value(), BlockKind::node, set_id(1 << 24));
    CheckReport report = value_of(check(pool.device, {}));
    EXPECT_THAT(texts(report), Contains("needs-repair: volume 16777216: the highest id there can be is 16777215"));
    EXPECT_EQ(report.finding_count, 1u);
}

TEST(Check, SharingIsUnsafeIfAUserWouldOverwrite) {
    // The same block twice, in volumes that were never snapshotted.
    TestPool pool;
    pool.thin(1);
    pool.write(1, 0, 10);
    pool.thin(2);
    pool.write(2, 0, 10);
    const DataBlock stolen = pool.data_block(1, 4);
    pool.edit(pool.leaf_of(2, 0), BlockKind::node, [&](std::byte* node) {
        store_little<std::uint64_t>(value_place(node, 7), thin::BlockTime{stolen, 0}.packed());
    });
    CheckReport report = value_of(check(pool.device, {}));
    EXPECT_EQ(report.grade, Severity::data_at_risk);
    EXPECT_THAT(texts(report),
                Contains(testing::MatchesRegex("data-at-risk: volume 1, virtual block 4, metadata block .*: data block 4, mapped at time "
                                               "0, is in use elsewhere too, but would be overwritten in place.*")));
    EXPECT_THAT(texts(report), Contains(testing::HasSubstr("volume 2, virtual block 7, ")));
    // Writing the space maps anew makes the counts right, and leaves that as it is.
    report = value_of(check(pool.device, {.rebuild_space_maps = true}));
    EXPECT_TRUE(report.space_maps_written);
    report = value_of(check(pool.device, {}));
    EXPECT_EQ(report.grade, Severity::data_at_risk);
    EXPECT_EQ(report.finding_count, 2u);
}

TEST(Check, ABlockTwiceInOneVolumeIsUnsafe) {
    TestPool pool;
    pool.thin(1);
    pool.write(1, 0, 10);
    const DataBlock doubled = pool.data_block(1, 4);
    pool.edit(pool.leaf_of(1, 0), BlockKind::node, [&](std::byte* node) {
        store_little<std::uint64_t>(value_place(node, 7), thin::BlockTime{doubled, 0}.packed());
    });
    CheckReport report = value_of(check(pool.device, {}));
    EXPECT_EQ(report.grade, Severity::data_at_risk);
    EXPECT_THAT(texts(report), testing::IsSupersetOf({HasSubstr("volume 1, virtual block 4, "), HasSubstr("volume 1, virtual block 7, ")}));
}

TEST(Check, ALeafOfTwoVolumesIsUnsafeIfOneWasNeverSnapshotted) {
    TestPool pool;
    fill(pool);
    expect_clean(pool.device);
    // Volume 1 forgets that it has a snapshot.
    pool.edit(pool.superblock().device_details_root.value(), BlockKind::node,
              [&](std::byte* node) { store_little<std::uint32_t>(value_place(node, 0) + 20, 0); });
    CheckReport report = value_of(check(pool.device, {}));
    EXPECT_EQ(report.grade, Severity::data_at_risk);
    EXPECT_THAT(texts(report), Contains(HasSubstr("would overwrite it in place")));
    // The metadata snapshot's users overwrite nothing: these are no findings.
    TestPool held;
    held.thin(1);
    held.write(1, 0, 1000);
    held.metadata_snapshot();
    held.write(1, 0, 1);
    expect_clean(held.device);
}

TEST(Check, ATimeBeyondThePoolsIsARisk) {
    TestPool pool;
    fill(pool);
    pool.edit(pool.leaf_of(3, 5000), BlockKind::node, [](std::byte* node) {
        auto value = load_little<std::uint64_t>(value_place(node, 3));
        store_little<std::uint64_t>(value_place(node, 3), value + 77);
    });
    CheckReport report = value_of(check(pool.device, {}));
    EXPECT_EQ(report.grade, Severity::data_at_risk);
    EXPECT_THAT(texts(report), Contains(testing::MatchesRegex(".*volume 3, virtual block 5009, .*: mapped at time 77, but the pool's.*")));
}

TEST(Check, ADataBlockBeyondThePool) {
    TestPool pool;
    fill(pool);
    pool.edit(pool.leaf_of(3, 5000), BlockKind::node,
              [](std::byte* node) { store_little<std::uint64_t>(value_place(node, 0), std::uint64_t{20'000} << 24); });
    CheckReport report = value_of(check(pool.device, {}));
    EXPECT_THAT(texts(report), Contains(HasSubstr("virtual block 5000, ")));
    EXPECT_THAT(texts(report), Contains(HasSubstr("mapped to data block 20000; the pool has 20000")));
}

// --- Damaged trees ---

TEST(Check, ADamagedLeafCostsItsRangeOfItsVolumes) {
    TestPool pool;
    fill(pool);
    const std::uint64_t leaf = pool.leaf_of(1, 500);
    EXPECT_EQ(leaf, pool.leaf_of(2, 500));
    Damage damage(pool.device);
    value_of(damage.zero(MetadataBlock(leaf)));
    CheckReport report = value_of(check(pool.device, {}));
    EXPECT_EQ(report.grade, Severity::needs_repair);
    std::set<std::uint32_t> named;
    for (const Finding& finding : report.findings)
        if (finding.block == MetadataBlock(leaf) && finding.range) {
            ASSERT_TRUE(finding.range->end && finding.volume);
            EXPECT_LE(finding.range->begin.value(), 500u);
            EXPECT_GT(finding.range->end->value(), 500u);
            named.insert(finding.volume->value());
        }
    EXPECT_EQ(named, (std::set<std::uint32_t>{1, 2}));
    ASSERT_EQ(report.volumes.size(), 2u);
    EXPECT_EQ(report.volumes[0].expected_blocks, 1000u);
    EXPECT_LT(report.volumes[0].mapped_blocks, 1000u);
    EXPECT_EQ(report.volumes[0].faults, 1u);
    // No block is called leaked that the leaf may have held.
    EXPECT_EQ(report.leaked_data_blocks, 0u);
}

TEST(Check, DamageOfEveryNodeIsFound) {
    TestPool pool;
    fill(pool);
    pool.metadata_snapshot();
    pool.write(1, 0, 1);
    for (const SurveyedBlock& block : value_of(survey(pool.device))) {
        Damage damage(pool.device);
        std::mt19937_64 random(block.location.value());
        value_of(damage.flip(block.location, 1, random));
        CheckReport report = value_of(check(pool.device, {}));
        EXPECT_GE(report.grade, Severity::needs_repair) << to_string(block.role);
        value_of(damage.undo());
    }
    expect_clean(pool.device);
}

TEST(Check, AReadErrorIsAFinding) {
    TestPool pool;
    fill(pool);
    FaultDevice device(pool.device);
    const std::uint64_t leaf = pool.leaf_of(3, 5000);
    device.add({.operation = IoOperation::read, .offset = leaf * block_bytes, .length = 512});
    CheckReport report = value_of(check(device, {}));
    EXPECT_THAT(texts(report), Contains(testing::MatchesRegex(
                                   fmt::format("needs-repair: volume 3, virtual block.*, metadata block {}: .*Input/output error", leaf))));
}

// A write that the disk lost: an older state of the same leaf, with the same keys. Only the counts know of what the newer one refers to.
TEST(Check, AStaleLeafShowsInTheCounts) {
    TestPool pool;
    pool.thin(1);
    pool.write(1, 0, 200);
    const std::uint64_t older = pool.leaf_of(1, 0);
    std::vector<std::byte> stale(pdata::block_bytes);
    value_of(read_now(pool.device, older * pdata::block_bytes, stale));
    pool.snapshot(2, 1);
    pool.write(1, 100, 20);
    const std::uint64_t newer = pool.leaf_of(1, 0);
    ASSERT_NE(newer, older);
    expect_clean(pool.device);
    pdata::seal_block(stale, pdata::BlockKind::node, MetadataBlock(newer));
    Damage damage(pool.device);
    value_of(damage.replace(MetadataBlock(newer), stale));
    const CheckReport report = value_of(check(pool.device, {}));
    EXPECT_EQ(report.grade, Severity::data_at_risk);
    EXPECT_EQ(report.leaked_data_blocks, 20u);
}

TEST(Check, KeysOutOfOrderOrPlace) {
    TestPool pool;
    fill(pool);
    const std::uint64_t leaf = pool.leaf_of(3, 5000);
    Damage damage(pool.device);
    pool.edit(leaf, BlockKind::node, [](std::byte* node) { std::memcpy(key_place(node, 4), key_place(node, 3), 8); });
    EXPECT_THAT(texts(value_of(check(pool.device, {}))), Contains(HasSubstr("keys 3 and 4 are not in order")));

    TestPool other;
    fill(other);
    // The last key is its right neighbour's.
    other.edit(other.leaf_of(1, 300), BlockKind::node,
               [](std::byte* node) { store_little<std::uint64_t>(key_place(node, pdata::Node(node).entries() - 1), 999); });
    EXPECT_THAT(texts(value_of(check(other.device, {}))), Contains(HasSubstr("belongs to its neighbour")));
}

TEST(Check, ChildrenThatCantBe) {
    struct Case {
        std::string text;
        std::function<MetadataBlock(TestPool&, MetadataBlock root)> child;
    };
    const Case cases[] = {
        {"it leads to metadata block 900000, which there isn't", [](TestPool&, MetadataBlock) { return MetadataBlock(900'000); }},
        {"it leads to metadata block 0, which there isn't", [](TestPool&, MetadataBlock) { return MetadataBlock(0); }},
        {"part of a tree at another height", [](TestPool&, MetadataBlock root) { return root; }},
        {"used for the tree of volumes", [](TestPool& pool, MetadataBlock) { return pool.superblock().data_mapping_root; }},
        {"reached as the place of different keys", [](TestPool& pool, MetadataBlock) { return MetadataBlock(pool.leaf_of(1, 0)); }},
    };
    for (const Case& one : cases) {
        TestPool pool;
        pool.thin(1);
        pool.write(1, 0, 1000);
        const MetadataBlock root = pool.root_of(1);
        Damage damage(pool.device);
        value_of(damage.link(root, 2, one.child(pool, root)));
        CheckReport report = value_of(check(pool.device, {}));
        EXPECT_THAT(texts(report), Contains(HasSubstr(one.text)));
        EXPECT_GE(report.grade, Severity::needs_repair);
    }
}

TEST(Check, OverridesOfRoots) {
    TestPool pool;
    fill(pool);
    auto roots = pool.superblock();
    Damage damage(pool.device);
    value_of(damage.set_mapping_root(MetadataBlock(1500)));
    value_of(damage.set_details_root(MetadataBlock(1501)));
    EXPECT_GE(value_of(check(pool.device, {})).grade, Severity::needs_repair);
    EXPECT_EQ(value_of(check(pool.device, {.mapping_root = roots.data_mapping_root, .details_root = roots.device_details_root})).grade,
              Severity::note);
}

// --- The metadata snapshot ---

TEST(Check, TheMetadataSnapshotAlone) {
    TestPool pool;
    fill(pool);
    EXPECT_EQ(check(pool.device, {.metadata_snapshot = true}).error().kind(), ErrorKind::not_found);
    pool.metadata_snapshot();
    pool.write(3, 5000, 1);
    expect_clean(pool.device);
    const auto held = pool.superblock().held_root;
    // Damage of the pool's own trees doesn't concern it.
    Damage damage(pool.device);
    value_of(damage.zero(MetadataBlock(pool.leaf_of(3, 5000))));
    EXPECT_EQ(value_of(check(pool.device, {.metadata_snapshot = true})).grade, Severity::note);
    EXPECT_EQ(value_of(check(pool.device, {})).grade, Severity::needs_repair);
    value_of(damage.undo());
    // Its own does, and is told apart.
    value_of(damage.zero(held));
    for (bool alone : {true, false}) {
        CheckReport report = value_of(check(pool.device, {.metadata_snapshot = alone}));
        EXPECT_THAT(texts(report), Contains(HasSubstr(fmt::format("needs-repair: metadata snapshot, metadata block {}: ", held))));
    }
}

// --- Anything at all ---

TEST(Check, RandomBytesWithRightChecksumsNeverHurt) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    TestPool pool;
    fill(pool);
    pool.metadata_snapshot();
    pool.write(2, 0, 1);
    const auto blocks = value_of(survey(pool.device));
    for (int round = 0; round < 300; ++round) {
        Damage damage(pool.device);
        for (int fault = 0; fault < 3; ++fault) {
            const SurveyedBlock& block = blocks[random() % blocks.size()];
            std::vector<std::byte> bytes(block_bytes);
            value_of(read_now(pool.device, block.location.value() * block_bytes, bytes));
            // Small numbers and places at the front do the most harm.
            for (int change = 0; change < 4; ++change) {
                std::size_t at = 4 + random() % (change % 2 == 0 ? 60 : block_bytes - 12);
                store_little<std::uint64_t>(bytes.data() + at, random() >> (random() % 64));
            }
            const bool superblock = block.role == BlockRole::superblock || block.role == BlockRole::held_superblock;
            const bool bitmap = block.role == BlockRole::data_bitmap || block.role == BlockRole::metadata_bitmap;
            const BlockKind kind = superblock                                ? BlockKind::superblock
                                   : bitmap                                  ? BlockKind::bitmap
                                   : block.role == BlockRole::metadata_index ? BlockKind::index
                                                                             : BlockKind::node;
            pdata::seal_block(bytes, kind, block.location);
            value_of(damage.replace(block.location, bytes));
        }
        auto result = check(pool.device, {.threads = 2});
        if (!result) {
            EXPECT_EQ(result.error().kind(), ErrorKind::damaged);
        }
        value_of(damage.undo());
    }
    expect_clean(pool.device);
}

}  // namespace
}  // namespace lamella::tools
