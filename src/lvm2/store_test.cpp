// SPDX-License-Identifier: Apache-2.0
#include "lvm2/store.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "device/crash_device.h"
#include "device/memory_device.h"
#include "lvm2/metadata_area.h"

namespace lamella::lvm2 {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t MiB = 1u << 20;

StoreOptions writing() {
    StoreOptions options;
    options.writable = true;
    options.host = "test";
    return options;
}

// Two disks with two areas each.
struct Disks {
    MemoryDevice a{64 * MiB, "a"}, b{96 * MiB, "b"};
    std::vector<BlockDevice*> both = {&b, &a};  // in any order

    Result<GroupStore> create(unsigned areas = 2) {
        return GroupStore::create({.name = "vg", .tags = {"t"}, .physical_volumes = {{&a, areas}, {&b, areas}}}, writing());
    }
};

Result<void> commit_tag(GroupStore& store, const std::string& tag) {
    VolumeGroup next = store.group();
    next.tags = {tag};
    return store.commit(std::move(next), "tag " + tag);
}

TEST(Store, CreatesCommitsAndOpens) {
    Disks disks;
    {
        auto store = disks.create();
        ASSERT_TRUE(store) << store.error().message();
        EXPECT_EQ(store->group().seqno, 1u);
        EXPECT_EQ(store->group().physical_volumes[0].extent_count, 15u);  // 64 MiB less 1 at the start and 1 at the end
        VolumeGroup next = store->group();
        ASSERT_TRUE(create_volume(next, {"v", {}, false, {1, "h"}}, 20, {}));
        auto done = store->commit(next, "lamella create v");
        ASSERT_TRUE(done) << done.error().message();
        EXPECT_EQ(store->commit(next, "again").error().kind(), ErrorKind::usage);  // of the seqno before
    }
    auto store = GroupStore::open(disks.both, writing());
    ASSERT_TRUE(store) << store.error().message();
    EXPECT_EQ(store->group().seqno, 2u);
    EXPECT_EQ(store->group().description, "lamella create v");
    EXPECT_EQ(store->group().logical_volume("v")->extent_count(), 20u);
    EXPECT_EQ(store->device("pv0"), &disks.a);
    EXPECT_EQ(store->device("pv1"), &disks.b);
    EXPECT_TRUE(store->notes().empty());
    EXPECT_EQ(disks.create().error().kind(), ErrorKind::exists);  // not blank
}

// LVM's commands write to physical volumes that somebody has claimed. What they wrote is not lost.
TEST(Store, OverwritesNoTextOfSomebodyElse) {
    Disks disks;
    ASSERT_TRUE(disks.create());
    auto ours = GroupStore::open(disks.both, writing());
    auto theirs = GroupStore::open(disks.both, writing());
    ASSERT_TRUE(commit_tag(*theirs, "theirs"));
    const auto refused = commit_tag(*ours, "ours");
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::refused);
    EXPECT_THAT(refused.error().message(), HasSubstr("somebody else has changed"));
    EXPECT_EQ(GroupStore::open(disks.both, writing())->group().tags, Words{"theirs"});
    EXPECT_TRUE(commit_tag(*theirs, "more"));
}

TEST(Store, RefusesWhatIsNotOneWholeGroup) {
    Disks disks, others;
    ASSERT_TRUE(disks.create());
    ASSERT_TRUE(others.create());
    MemoryDevice blank(64 * MiB, "blank"), copy(64 * MiB, "copy");
    const auto open = [&](std::vector<BlockDevice*> devices, bool writable) {
        StoreOptions options;
        options.writable = writable;
        return GroupStore::open(devices, options);
    };
    EXPECT_EQ(open({&disks.a, &blank}, false).error().kind(), ErrorKind::not_found);
    EXPECT_THAT(open({&disks.a, &others.b}, false).error().message(), HasSubstr("belongs to group"));

    std::vector<std::byte> bytes(2 * MiB);
    ASSERT_TRUE(read_now(disks.a, 0, bytes));
    ASSERT_TRUE(write_now(copy, 0, bytes));
    const auto twice = open({&disks.a, &copy}, false);
    EXPECT_EQ(twice.error().kind(), ErrorKind::refused);
    EXPECT_THAT(twice.error().message(), HasSubstr("a and copy carry the same"));

    auto partial = open({&disks.a}, false);
    ASSERT_TRUE(partial) << partial.error().message();
    ASSERT_EQ(partial->missing().size(), 1u);
    EXPECT_EQ(partial->missing()[0].name, "pv1");
    EXPECT_EQ(partial->device("pv1"), nullptr);
    EXPECT_EQ(open({&disks.a}, true).error().kind(), ErrorKind::refused);
    EXPECT_EQ(commit_tag(*partial, "x").error().kind(), ErrorKind::refused);
}

TEST(Store, KeepsForeignGroupsReadOnly) {
    Disks disks;
    StoreOptions options = writing();
    options.system_id = "here";
    ASSERT_TRUE(GroupStore::create({.name = "vg", .tags = {}, .system_id = "here", .physical_volumes = {{&disks.a, 1}}}, options));
    std::vector<BlockDevice*> devices = {&disks.a};
    ASSERT_TRUE(GroupStore::open(devices, options));
    options.system_id = "there";
    EXPECT_THAT(GroupStore::open(devices, options).error().message(), HasSubstr("system id 'here'"));
    options.writable = false;
    EXPECT_TRUE(GroupStore::open(devices, options));
}

TEST(Store, WrapsTheRingFiveThousandTimes) {
    MemoryDevice disk(16 * MiB, "disk");
    auto store = GroupStore::create({.name = "vg", .tags = {}, .physical_volumes = {{&disk, 1}}}, writing());
    ASSERT_TRUE(store);
    std::vector<BlockDevice*> devices = {&disk};
    for (unsigned i = 0; i < 5000; ++i) {
        VolumeGroup next = store->group();
        next.tags.assign(i % 97, {});
        for (std::size_t tag = 0; tag < next.tags.size(); ++tag)
            next.tags[tag] = fmt::format("tag{}-{}", tag, i);
        auto done = store->commit(next, "tags");
        ASSERT_TRUE(done) << done.error().message();
        if (i % 50 != 0)
            continue;
        auto again = GroupStore::open(devices, {});
        ASSERT_TRUE(again) << i << again.error().message();
        ASSERT_EQ(again->group().seqno, i + 2);
        ASSERT_EQ(again->group().tags, next.tags);
    }
}

TEST(Store, SaysWhenTheTextNoLongerFits) {
    Disks disks;
    auto store = disks.create(1);
    ASSERT_TRUE(store);
    VolumeGroup next = store->group();
    for (unsigned i = 0; i < 600; ++i)
        next.tags.push_back(std::string(1000, 'x'));
    const auto result = store->commit(next, "much");
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().kind(), ErrorKind::no_space);
    EXPECT_TRUE(commit_tag(*store, "still"));
}

// What every cut of a commit leaves is the old or the new text, readable; and after opening for writing every area holds it.
TEST(Store, SurvivesACutAtEveryOperation) {
    constexpr std::uint64_t seeds = 12;
    std::size_t cuts = 0, old_texts = 0, new_texts = 0;
    bool completed = false;
    for (std::uint64_t operation = 1; !completed; ++operation) {
        PowerSwitch power;
        CrashDevice a(64 * MiB, "a", power), b(64 * MiB, "b", power);
        auto store = GroupStore::create({.name = "vg", .tags = {"old"}, .physical_volumes = {{&a, 2}, {&b, 2}}}, writing());
        ASSERT_TRUE(store);
        for (int i = 0; i < 3; ++i)
            ASSERT_TRUE(commit_tag(*store, "old"));
        power.cut_after(operation);
        VolumeGroup next = store->group();
        next.tags = {"new"};
        const std::uint32_t seqno = next.seqno;
        ASSERT_TRUE(create_volume(next, {"v", {}, false, {1, "h"}}, 20, {}));
        completed = bool(store->commit(next, "new"));
        if (completed)
            power.cut_now();
        for (std::uint64_t seed = 0; seed < seeds; ++seed, ++cuts) {
            SCOPED_TRACE(fmt::format("operation {} seed {}", operation, seed));
            const auto left_a = a.cut(2 * seed), left_b = b.cut(2 * seed + 1);
            std::vector<BlockDevice*> devices = {left_a.get(), left_b.get()};
            auto reading = GroupStore::open(devices, {});
            ASSERT_TRUE(reading) << reading.error().message();
            ASSERT_TRUE(reading->findings().empty());
            const bool is_new = reading->group().seqno == seqno + 1;
            ASSERT_TRUE(is_new || reading->group().seqno == seqno);
            ASSERT_EQ(reading->group().tags, Words{is_new ? "new" : "old"});
            ASSERT_TRUE(is_new || !completed);
            (is_new ? new_texts : old_texts)++;

            auto repaired = GroupStore::open(devices, writing());
            ASSERT_TRUE(repaired) << repaired.error().message();
            ASSERT_EQ(repaired->group().seqno, reading->group().seqno);
            for (BlockDevice* device : devices) {
                const auto label = read_label(*device);
                ASSERT_TRUE(label && *label);
                for (const DiskArea& place : (*label)->metadata_areas) {
                    auto area = MetadataArea::open(*device, place);
                    ASSERT_TRUE(area);
                    auto text = area->read();
                    ASSERT_TRUE(text && *text);
                    ASSERT_EQ(parse_group(**text)->group.seqno, reading->group().seqno);
                    ASSERT_EQ(area->precommitted().size, 0u);
                }
            }
            ASSERT_TRUE(commit_tag(*repaired, "next"));
        }
    }
    EXPECT_GT(old_texts, 0u);
    EXPECT_GT(new_texts, 0u);
    RecordProperty("cuts", static_cast<int>(cuts));
}

TEST(Store, CreationIsAllOrNothing) {
    bool completed = false;
    for (std::uint64_t operation = 1; !completed; ++operation) {
        PowerSwitch power;
        CrashDevice disk(64 * MiB, "disk", power);
        power.cut_after(operation);
        completed = bool(GroupStore::create({.name = "vg", .tags = {}, .physical_volumes = {{&disk, 2}}}, writing()));
        if (completed)
            power.cut_now();
        for (std::uint64_t seed = 0; seed < 8; ++seed) {
            const auto left = disk.cut(seed);
            std::vector<BlockDevice*> devices = {left.get()};
            auto store = GroupStore::open(devices, {});
            if (!store) {
                ASSERT_FALSE(completed);
                ASSERT_EQ(store.error().kind(), ErrorKind::not_found) << operation << " " << seed << store.error().message();
            } else {
                ASSERT_EQ(store->group().seqno, 1u);
            }
        }
    }
}

TEST(Store, RepairsDamagedAreas) {
    Disks disks;
    ASSERT_TRUE(disks.create());
    const std::vector<std::byte> noise(512, std::byte{0x5a});
    ASSERT_TRUE(write_now(disks.a, 4096, noise));        // a header
    ASSERT_TRUE(write_now(disks.b, 4096 + 512, noise));  // a text
    auto reading = GroupStore::open(disks.both, {});
    ASSERT_TRUE(reading);
    EXPECT_EQ(reading->notes().size(), 2u);
    auto store = GroupStore::open(disks.both, writing());
    ASSERT_TRUE(store) << store.error().message();
    auto again = GroupStore::open(disks.both, {});
    ASSERT_TRUE(again);
    EXPECT_TRUE(again->notes().empty()) << again->notes()[0];

    ASSERT_TRUE(write_now(disks.a, 512 + 16, noise));  // the label
    EXPECT_EQ(GroupStore::open(disks.both, {}).error().kind(), ErrorKind::damaged);
}

TEST(Store, NeverPanicsOverFlippedBits) {
    const unsigned seed = std::random_device()();
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 300; ++round) {
        MemoryDevice disk(16 * MiB, "disk");
        {
            auto store = GroupStore::create({.name = "vg", .tags = {}, .physical_volumes = {{&disk, 1}}}, writing());
            ASSERT_TRUE(store);
            VolumeGroup next = store->group();
            ASSERT_TRUE(create_volume(next, {"v", {}, false, {}}, 2, {}));
            ASSERT_TRUE(store->commit(next, "v"));
        }
        std::vector<std::byte> bytes(8192);
        ASSERT_TRUE(read_now(disk, 0, bytes));
        for (unsigned flips = 1 + random() % 4; flips > 0; --flips)
            bytes[512 + random() % 7000] ^= static_cast<std::byte>(1u << random() % 8);
        ASSERT_TRUE(write_now(disk, 0, bytes));
        std::vector<BlockDevice*> devices = {&disk};
        (void)GroupStore::open(devices, {});
        (void)GroupStore::open(devices, writing());
    }
}

TEST(Store, BacksUpAndRestores) {
    Disks disks;
    std::string backup;
    {
        auto store = disks.create();
        ASSERT_TRUE(store);
        ASSERT_TRUE(commit_tag(*store, "kept"));
        backup = store->backup("before");
        EXPECT_THAT(backup, HasSubstr("tags = [\"kept\"]"));
        ASSERT_TRUE(commit_tag(*store, "lost"));
    }
    {
        auto restored = GroupStore::restore(backup, disks.both, GroupStore::RestoreTo::labelled, writing());
        ASSERT_TRUE(restored) << restored.error().message();
        EXPECT_EQ(restored->group().tags, Words{"kept"});
        EXPECT_EQ(restored->group().seqno, 4u);
    }
    auto store = GroupStore::open(disks.both, writing());
    ASSERT_TRUE(store) << store.error().message();
    EXPECT_EQ(store->group().seqno, 4u);

    MemoryDevice c(64 * MiB, "c"), d(96 * MiB, "d");
    std::vector<BlockDevice*> blank = {&c, &d};
    auto moved = GroupStore::restore(backup, blank, GroupStore::RestoreTo::blank, writing());
    ASSERT_TRUE(moved) << moved.error().message();
    EXPECT_EQ(moved->group().id, store->group().id);
    EXPECT_TRUE(GroupStore::open(blank, writing()));
    EXPECT_EQ(GroupStore::restore(backup, blank, GroupStore::RestoreTo::blank, writing()).error().kind(), ErrorKind::exists);
    MemoryDevice small(16 * MiB, "small"), other(96 * MiB, "other");
    std::vector<BlockDevice*> too_small = {&small, &other};
    EXPECT_EQ(GroupStore::restore(backup, too_small, GroupStore::RestoreTo::blank, writing()).error().kind(), ErrorKind::damaged);
}

TEST(Store, ArchivesWhatItReplaces) {
    const std::filesystem::path directory = testing::TempDir() + fmt::format("lamella-archive-{}", ::getpid());
    struct Remove {
        std::filesystem::path path;
        ~Remove() { std::filesystem::remove_all(path); }
    } remove{directory};
    Disks disks;
    ASSERT_TRUE(disks.create());
    StoreOptions options = writing();
    options.archive_directory = directory / "archive";
    options.archive_files = 3;
    auto store = GroupStore::open(disks.both, options);
    ASSERT_TRUE(store);
    const auto files = [&] {
        std::vector<std::string> names;
        for (const auto& entry : std::filesystem::directory_iterator(options.archive_directory))
            names.push_back(entry.path().filename());
        std::ranges::sort(names);
        return names;
    };
    for (int i = 0; i < 5; ++i)
        ASSERT_TRUE(commit_tag(*store, fmt::format("t{}", i)));
    ASSERT_EQ(files().size(), 5u);  // none is old
    EXPECT_THAT(files()[0], testing::StartsWith("vg_00000-"));
    EXPECT_THAT(files()[4], testing::StartsWith("vg_00004-"));
    std::ifstream file(options.archive_directory / files()[4]);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    auto parsed = parse_group(text);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->group.tags, Words{"t3"});
    for (const std::string& name : files())
        std::filesystem::last_write_time(options.archive_directory / name,
                                         std::filesystem::file_time_type::clock::now() - std::chrono::days(40));
    ASSERT_TRUE(commit_tag(*store, "last"));
    EXPECT_EQ(files().size(), 3u);
    EXPECT_THAT(files()[0], testing::StartsWith("vg_00003-"));
    VolumeGroup next = store->group();
    ASSERT_TRUE(store->commit(next, "finish", GroupStore::Archive::nothing));
    EXPECT_EQ(files().size(), 3u);
}

}  // namespace
}  // namespace lamella::lvm2
