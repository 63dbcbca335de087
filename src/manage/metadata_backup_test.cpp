// SPDX-License-Identifier: Apache-2.0
#include "manage/metadata_backup.h"

#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/compression.h"
#include "device/test_support.h"
#include "volumes/fake_group.h"
#include "volumes/json.h"

namespace lamella::manage {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::SizeIs;

class Backup : public testing::Test {
  protected:
    Result<MetadataBackup> back_up(unsigned keep = 10) {
        clock.advance(std::chrono::seconds(1));
        return back_up_metadata(group, {.folder = folder.file("kept"), .keep = keep, .clock = &clock});
    }
    std::vector<std::string> copies() const {
        std::vector<std::string> names;
        for (const auto& entry : fs::directory_iterator(folder.file("kept") + "/vms-AAAAAA"))
            names.push_back(entry.path().filename());
        std::ranges::sort(names);
        return names;
    }
    static std::string content(const fs::path& file) {
        std::ostringstream text;
        text << std::ifstream(file).rdbuf();
        return text.str();
    }

    static std::string unpacked(const fs::path& file) {
        const std::string compressed = content(file);
        const auto text = decompress(Compression::gzip, std::as_bytes(std::span(compressed)), 1 << 20);
        EXPECT_TRUE(text) << file;
        return text ? std::string(reinterpret_cast<const char*>(text->data()), text->size()) : "";
    }

    test::TemporaryFolder folder;
    FakeGroup group;
    ManualClock clock;
};

TEST_F(Backup, HoldsTextAndPools) {
    auto backup = back_up();
    ASSERT_TRUE(backup) << backup.error().message();
    EXPECT_EQ(unpacked(backup->folder / "group.txt.gz"), group.text);
    EXPECT_EQ(content(backup->folder / "pool.pack"), "packed");
    const Json manifest = parse_json(content(backup->folder / "backup.json")).value();
    EXPECT_EQ(manifest["group"], "vms");
    EXPECT_EQ(manifest["id"], group.group.id);
    EXPECT_EQ(manifest["time"], clock.wall_seconds());
    EXPECT_EQ(manifest["pools"][0]["file"], "pool.pack");
    EXPECT_THAT(manifest["restore"], SizeIs(2));
    EXPECT_EQ(fs::status(backup->folder).permissions(), fs::perms::owner_all);
}

TEST_F(Backup, TheOldestGo) {
    for (int i = 0; i < 4; ++i)
        ASSERT_TRUE(back_up());
    EXPECT_THAT(copies(), SizeIs(4));
    const std::vector<std::string> before = copies();
    auto backup = back_up(3);
    ASSERT_TRUE(backup);
    EXPECT_THAT(backup->removed, SizeIs(2));
    EXPECT_THAT(copies(), ElementsAre(before[2], before[3], backup->folder.filename().native()));
}

TEST_F(Backup, TwoInOneSecondAreBothKept) {
    ASSERT_TRUE(back_up_metadata(group, {.folder = folder.file("kept"), .clock = &clock}));
    ASSERT_TRUE(back_up_metadata(group, {.folder = folder.file("kept"), .clock = &clock}));
    EXPECT_THAT(copies(), SizeIs(2));
}

TEST_F(Backup, WhatACrashLeftIsNoCopyAndGoes) {
    ASSERT_TRUE(back_up());
    fs::create_directory(folder.file("kept") + "/vms-AAAAAA/20200101T000000Z.unfinished");
    ASSERT_TRUE(back_up(2));
    EXPECT_THAT(copies(), SizeIs(2));
}

TEST_F(Backup, AGroupOfTheSameNameKeepsItsOwn) {
    ASSERT_TRUE(back_up());
    group.group.id = "BBBBBB-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG";
    ASSERT_TRUE(back_up(1));
    EXPECT_THAT(copies(), SizeIs(1));
}

TEST_F(Backup, NoNameLeadsOutOfItsFolder) {
    group.list[0].name = "../../../escaped";
    auto backup = back_up();
    ASSERT_TRUE(backup) << backup.error().message();
    EXPECT_THAT(backup->failed, SizeIs(1));
    EXPECT_THAT(backup->pools, testing::IsEmpty());
    EXPECT_FALSE(fs::exists(folder.file("escaped.pack")));
    group.group.name = "../vms";
    EXPECT_EQ(back_up().error().kind(), ErrorKind::damaged);
    EXPECT_FALSE(fs::exists(folder.file("vms-AAAAAA")));
}

// A pool that can't be read.
struct Damaged final : FakeGroup {
    Result<PackedMetadata> pack_metadata(const std::string& pool, const std::string& file) override {
        std::ofstream(file) << "half";
        return fail(kind, "pool {}: no superblock", pool);
    }
    ErrorKind kind = ErrorKind::damaged;
};

TEST_F(Backup, APoolThatCannotBeReadDoesNotKeepTheRestFromBeingKept) {
    Damaged damaged;
    auto backup = back_up_metadata(damaged, {.folder = folder.file("kept"), .clock = &clock});
    ASSERT_TRUE(backup) << backup.error().message();
    EXPECT_THAT(backup->failed, ElementsAre("pool: pool pool: no superblock"));
    EXPECT_FALSE(fs::exists(backup->folder / "pool.pack"));
    EXPECT_EQ(unpacked(backup->folder / "group.txt.gz"), damaged.text);
}

TEST_F(Backup, AFolderThatCannotBeWrittenIsAnError) {
    ASSERT_TRUE(back_up());
    std::ofstream(folder.file("file")) << "no folder";
    EXPECT_FALSE(back_up_metadata(group, {.folder = folder.file("file"), .clock = &clock}));
    EXPECT_THAT(copies(), SizeIs(1));
}

struct FullDisk final : FakeGroup {
    Result<PackedMetadata> pack_metadata(const std::string&, const std::string& file) override { return fail_errno(file, ENOSPC); }
};

TEST_F(Backup, AFullDiskCostsNoOlderCopy) {
    for (int i = 0; i < 3; ++i)
        ASSERT_TRUE(back_up());
    FullDisk full;
    clock.advance(std::chrono::seconds(1));
    auto backup = back_up_metadata(full, {.folder = folder.file("kept"), .keep = 1, .clock = &clock});
    ASSERT_FALSE(backup);
    EXPECT_EQ(backup.error().kind(), ErrorKind::no_space);
    EXPECT_THAT(copies(), SizeIs(3));
}

}  // namespace
}  // namespace lamella::manage
