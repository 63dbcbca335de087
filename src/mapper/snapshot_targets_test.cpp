// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <thread>

#include <gmock/gmock.h>

#include "base/strong.h"
#include "mapper/test_support.h"

namespace lamella::mapper {
namespace {

constexpr std::uint64_t chunk = 8 * sector_bytes;
constexpr const char* slow_writes = "0 8192 delay b.img 0 0 b.img 0 100 b.img 0 0";

// The origin is the first 8 MiB of a.img, the store the first 4 MiB of b.img.
class SnapshotTargetsTest : public MapperTest {
  protected:
    void make_snapshot(const std::string& store_table = "0 8192 linear b.img 0") {
        make("real", "0 16384 linear a.img 0");
        make("cow", store_table);
        ASSERT_TRUE(write_now(open("real"), 0, test::pattern(64 * chunk, 1)));
        make("snap", "0 16384 snapshot real cow P 8");
        make("origin", "0 16384 snapshot-origin real");
    }
    BlockDevice& open(const std::string& name) {
        opened.push_back(mapper.open(name).value());
        return opened.back()->device();
    }
    // What both images hold now, with the snapshot on them, in a mapper of its own: as after the process was killed.
    std::vector<std::byte> snapshot_of_what_is_on_disk(std::uint64_t offset, std::uint64_t size) {
        // The store first, before more arrives there.
        for (const char* name : {"b", "a"})
            std::filesystem::copy_file(folder.file(fmt::format("{}.img", name)), folder.file(fmt::format("{}.copy", name)),
                                       std::filesystem::copy_options::overwrite_existing);
        Mapper after;
        for (const auto& [name, table] : {std::pair("real", "0 16384 linear a.copy 0"), std::pair("cow", "0 8192 linear b.copy 0"),
                                          std::pair("snap", "0 16384 snapshot real cow P 8")}) {
            EXPECT_TRUE(after.create(name, ""));
            EXPECT_TRUE(after.load(name, table, directory, false));
            EXPECT_TRUE(after.resume(name));
        }
        std::vector<std::byte> bytes(size);
        EXPECT_TRUE(read_now(after.open("snap").value()->device(), offset, bytes));
        return bytes;
    }
    std::vector<std::unique_ptr<OpenDevice>> opened;

    ~SnapshotTargetsTest() override { opened.clear(); }
};

TEST_F(SnapshotTargetsTest, LinesAndContent) {
    make_snapshot();
    EXPECT_EQ(table("snap"), "0 16384 snapshot 253:0 253:1 P 8\n");
    EXPECT_EQ(table("origin"), "0 16384 snapshot-origin 253:0\n");
    EXPECT_EQ(status("snap"), "0 16384 snapshot 16/8192 16\n");
    EXPECT_EQ(status("origin"), "0 16384 snapshot-origin \n");
    ASSERT_TRUE(write_now(open("origin"), 0, test::pattern(chunk, 2)));
    EXPECT_EQ(status("snap"), "0 16384 snapshot 24/8192 16\n");
    std::vector<std::byte> found(chunk);
    ASSERT_TRUE(read_now(open("snap"), 0, found));
    EXPECT_EQ(found, test::pattern(chunk, 1));
    EXPECT_NE(error_of("snap", "0 16384 snapshot real cow P 7"), "none");
    EXPECT_NE(error_of("snap", "0 16384 snapshot real real P 8"), "none");
    EXPECT_NE(error_of("snap", "0 16384 snapshot real cow X 8"), "none");
}

// A write to a snapshot is answered before its exception is durable; a flush of what stands on the snapshot waits for that.
TEST_F(SnapshotTargetsTest, FlushReachesTheSnapshotThroughOtherDevices) {
    make_snapshot(slow_writes);
    make("middle", "0 8192 linear snap 0");
    make("top", "0 8 zero\n8 4096 linear middle 8\n4104 4096 linear a.img 20480");
    const auto bytes = test::pattern(chunk, 7);
    BlockDevice& top = open("top");
    ASSERT_TRUE(write_now(top, 5 * chunk, bytes));
    ASSERT_TRUE(flush_now(top));
    EXPECT_EQ(snapshot_of_what_is_on_disk(5 * chunk, chunk), bytes);
}

// Nothing is on its way to a store whose snapshot is suspended: it may be copied.
TEST_F(SnapshotTargetsTest, ASuspendedSnapshotsStoreIsWhole) {
    make_snapshot(slow_writes);
    const auto bytes = test::pattern(chunk, 7);
    ASSERT_TRUE(write_now(open("snap"), 5 * chunk, bytes));
    for (;;) {
        const auto suspended = mapper.suspend("snap", {});
        ASSERT_TRUE(suspended) << suspended.error().message();
        if (*suspended)
            break;
    }
    EXPECT_EQ(snapshot_of_what_is_on_disk(5 * chunk, chunk), bytes);
    resume("snap");
}

// The origin's write is answered when the old chunk can't be lost any more: at each answer the images are as a crash would leave them.
TEST_F(SnapshotTargetsTest, AnAnsweredWriteToTheOriginHasItsCopy) {
    make_snapshot();
    BlockDevice& origin = open("origin");
    std::vector<std::byte> before(64 * chunk);
    ASSERT_TRUE(read_now(open("snap"), 0, before));
    for (std::uint64_t number = 0; number < 4; ++number) {
        ASSERT_TRUE(write_now(origin, number * 7 * chunk, test::pattern(chunk, 9)));
        ASSERT_EQ(snapshot_of_what_is_on_disk(0, before.size()), before) << number;
    }
}

TEST_F(SnapshotTargetsTest, EachDeviceThatIsThereHearsOfTheSnapshotsEnd) {
    make_snapshot("0 64 linear b.img 0");
    for (const char* name : {"second", "removed"})
        make(name, "0 16384 snapshot real cow P 8");
    ASSERT_TRUE(mapper.remove("removed"));
    std::map<std::string, std::uint32_t> events;
    for (const char* name : {"snap", "second"})
        events[name] = mapper.info(name)->event_number;
    for (std::uint64_t number = 0; number < 16; ++number)
        ASSERT_TRUE(write_now(open("origin"), number * chunk, test::pattern(chunk, 9)));
    for (const auto& [name, before] : events) {
        EXPECT_EQ(status(name), "0 16384 snapshot Invalid\n") << name;
        EXPECT_EQ(mapper.info(name)->event_number, before + 1) << name;
    }
}

// What one writes to it the other would take for its own.
TEST_F(SnapshotTargetsTest, AStoreIsThatOfOneOrigin) {
    make_snapshot();
    make("other", "0 16384 linear b.img 16384");
    make("free", "0 4096 linear b.img 8192");
    ASSERT_TRUE(mapper.create("x", ""));
    for (const char* table : {"0 16384 snapshot other cow P 8", "0 16384 snapshot-merge other cow P 8"}) {
        const auto loaded = load("x", table);
        ASSERT_FALSE(loaded) << table;
        EXPECT_EQ(loaded.error().kind(), ErrorKind::refused);
        EXPECT_THAT(loaded.error().message(), testing::HasSubstr("is the store of a snapshot of 253:"));
    }
    EXPECT_FALSE(load("x", "0 512 snapshot-merge real free P 8\n512 512 snapshot-merge other free P 8"));
    ASSERT_TRUE(mapper.remove("snap"));
    const auto loaded = load("x", "0 16384 snapshot other cow P 8");
    EXPECT_TRUE(loaded) << loaded.error().message();
}

TEST_F(SnapshotTargetsTest, AMergeGivesTheOriginBack) {
    make_snapshot();
    BlockDevice& origin = open("origin");
    for (const std::uint64_t place : {3, 9, 4})
        ASSERT_TRUE(write_now(origin, place * chunk, test::pattern(chunk, 2)));
    ASSERT_TRUE(write_now(open("snap"), 20 * chunk, test::pattern(chunk, 3)));
    std::vector<std::byte> before(64 * chunk), found(64 * chunk);
    ASSERT_TRUE(read_now(open("snap"), 0, before));
    suspend("origin");
    ASSERT_TRUE(load("origin", "0 16384 snapshot-merge real cow P 8"));
    resume("origin");
    // From the first moment, and when all is merged.
    ASSERT_TRUE(read_now(origin, 0, found));
    EXPECT_EQ(found, before);
    while (status("origin") != "0 16384 snapshot-merge 16/8192 16\n")
        std::this_thread::yield();
    ASSERT_TRUE(read_now(open("real"), 0, found));
    EXPECT_EQ(found, before);
    EXPECT_FALSE(read_now(open("snap"), 0, found));
    EXPECT_EQ(status("snap"), "0 16384 snapshot Invalid\n");
}

TEST_F(SnapshotTargetsTest, AStoreIsInOneMergeAtATime) {
    make_snapshot();
    const std::string merge = "0 16384 snapshot-merge real cow P 8";
    suspend("origin");
    ASSERT_TRUE(load("origin", merge));
    EXPECT_EQ(load("origin", merge).error().kind(), ErrorKind::refused);
    resume("origin");
    EXPECT_EQ(load("origin", merge).error().kind(), ErrorKind::refused);
}

// A disk that takes its time over a chunk keeps who waits for the merge waiting, and nobody else.
class SlowMergeTest : public SnapshotTargetsTest {
  protected:
    void SetUp() override {
        SnapshotTargetsTest::SetUp();
        make_snapshot();
        ASSERT_TRUE(write_now(open("origin"), 0, test::pattern(chunk, 2)));
        ASSERT_TRUE(read_now(open("snap"), 0, before));
        sound = table("real");
        ASSERT_TRUE(load("real", "0 16384 delay a.img 0 0 a.img 0 3600000 a.img 0 0"));
        resume("real");
        suspend("origin");
        ASSERT_TRUE(load("origin", "0 16384 snapshot-merge real cow P 8"));
        resume("origin");
        while (status("real") != "0 16384 delay 0 1 0\n")
            std::this_thread::yield();
    }
    void make_fast() {
        ASSERT_TRUE(load("real", sound));
        resume("real");
    }
    void expect_merged() {
        std::vector<std::byte> found(chunk);
        ASSERT_TRUE(read_now(open("real"), 0, found));
        EXPECT_EQ(found, before);
    }
    std::vector<std::byte> before = std::vector<std::byte>(chunk);
    std::string sound;
};

TEST_F(SlowMergeTest, ASuspendHoldsUpNoOtherCommand) {
    EXPECT_FALSE(mapper.suspend("origin", {}, std::chrono::milliseconds(1)).value());
    EXPECT_FALSE(mapper.suspend("origin", {}, std::chrono::milliseconds(1)).value());
    EXPECT_EQ(status("origin"), "0 16384 snapshot-merge 24/8192 16\n");
    // Called off, the merge goes on.
    resume("origin");
    make_fast();
    while (status("origin") != "0 16384 snapshot-merge 16/8192 16\n")
        std::this_thread::yield();
    expect_merged();
}

TEST_F(SlowMergeTest, ARemovalWaitsAsASuspendDoes) {
    opened.clear();
    EXPECT_FALSE(mapper.remove("origin", false, std::chrono::milliseconds(1)).value());
    EXPECT_TRUE(mapper.info("origin")->suspended);
    make_fast();
    while (!mapper.remove("origin").value()) {}
    expect_merged();
}

TEST_F(SlowMergeTest, ADeferredRemovalIsTriedAgain) {
    EXPECT_FALSE(mapper.remove("origin", true).value());
    opened.clear();
    EXPECT_TRUE(mapper.info("origin")->deferred_remove);
    EXPECT_FALSE(mapper.info("origin")->suspended);
    make_fast();
    while (mapper.info("origin").has_value()) {
        (void)open("snap");
        opened.clear();
    }
    expect_merged();
}

}  // namespace
}  // namespace lamella::mapper
