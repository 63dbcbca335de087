// SPDX-License-Identifier: Apache-2.0
//
// Writes that wait for room in a store, on an origin whose queue is stepped here.
#include <deque>

#include <gtest/gtest.h>

#include "cow/origin.h"
#include "device/fault_device.h"
#include "device/memory_device.h"
#include "device/test_support.h"

namespace lamella::cow {
namespace {

constexpr std::uint64_t chunk = 4096;

class RoomTest : public testing::Test {
  protected:
    RoomTest() { EXPECT_TRUE(write_now(device, 0, filled(device.size(), 1))); }
    static std::vector<std::byte> filled(std::size_t size, int value) {
        return std::vector<std::byte>(size, static_cast<std::byte>(value));
    }
    std::shared_ptr<Snapshot> open(BlockDevice& store, std::string_view type = "P") {
        SnapshotOptions options;
        options.store = *parse_store_type(type);
        options.store.chunk_sectors = 8;
        auto opened = origin->open_snapshot(store, options);
        EXPECT_TRUE(opened) << opened.error().message();
        return *opened;
    }
    // Has its store grow on demand, when somebody calls room_seen_to().
    std::shared_ptr<Snapshot> open_small(std::string_view type = "P") {
        auto snapshot = open(small, type);
        snapshot->set_room_handler([this] { ++asked; });
        return snapshot;
    }
    test::Request& start(BlockDevice& on, std::uint64_t first, std::uint64_t count, int value = 2) {
        data.push_back(filled(count * chunk, value));
        requests.push_back(std::make_unique<test::Request>(IoOperation::write, first * chunk, count * chunk, data.back().data()));
        on.submit(*queue, *requests.back());
        settle();
        return *requests.back();
    }
    void settle() {
        while (queue->run_once(false)) {}
    }
    bool holds(BlockDevice& on, std::uint64_t first, std::uint64_t count, int value) {
        std::vector<std::byte> seen(count * chunk);
        test::Request read(IoOperation::read, first * chunk, seen.size(), seen.data());
        return read.run(on, *queue) == 0 && seen == filled(seen.size(), value);
    }

    MemoryDevice device{64 * chunk, "origin"};
    MemoryDevice large{128 * chunk, "large"};
    MemoryDevice small{8 * chunk, "small"};  // the header, an area, 6 chunks of data
    std::unique_ptr<IoQueue> queue = *make_plain_queue();
    std::shared_ptr<Origin> origin = *Origin::open(device, {}, queue.get());
    int asked = 0;
    std::deque<std::vector<std::byte>> data;
    std::vector<std::unique_ptr<test::Request>> requests;
};

TEST_F(RoomTest, AWriteToTheOriginWaitsUntilTheStoreHasGrown) {
    const auto snapshot = open_small();
    const auto other = open(large);
    EXPECT_TRUE(start(*origin, 0, 6).done);
    EXPECT_FALSE(snapshot->needs_room());
    test::Request& waits = start(*origin, 6, 20);
    test::Request& waits_too = start(*origin, 30, 1);
    EXPECT_FALSE(waits.done || waits_too.done);
    EXPECT_EQ(asked, 1);
    EXPECT_TRUE(snapshot->needs_room());
    EXPECT_TRUE(holds(device, 6, 58, 1));
    // It is in nobody's way.
    EXPECT_TRUE(start(*origin, 2, 1, 3).done);
    EXPECT_TRUE(start(*other, 40, 1, 4).done);
    ASSERT_TRUE(origin->freeze(std::chrono::hours(1)));
    origin->thaw();
    // Not enough yet, and then it is.
    small.grow(12 * chunk);
    snapshot->room_seen_to();
    settle();
    EXPECT_FALSE(waits.done && waits_too.done);
    EXPECT_EQ(asked, 2);
    small.grow(64 * chunk);
    snapshot->room_seen_to();
    settle();
    EXPECT_TRUE(waits.done && waits_too.done);
    EXPECT_FALSE(snapshot->needs_room());
    EXPECT_TRUE(holds(*snapshot, 0, 64, 1));
    EXPECT_TRUE(holds(*other, 0, 40, 1));
    EXPECT_TRUE(holds(*origin, 6, 20, 2));
    EXPECT_TRUE(holds(*origin, 30, 1, 2));
}

TEST_F(RoomTest, WithoutRoomTheSnapshotIsInvalid) {
    const auto snapshot = open_small();
    test::Request& waits = start(*origin, 0, 8);
    EXPECT_FALSE(waits.done);
    snapshot->room_seen_to();
    settle();
    EXPECT_TRUE(waits.done);
    EXPECT_EQ(waits.error, 0);
    EXPECT_EQ(snapshot->snapshot_status().line(), "Invalid");
    EXPECT_TRUE(start(*origin, 20, 8).done);
    EXPECT_EQ(asked, 1) << "nobody needs more any longer";
}

// Whenever it comes while a write looks for it: whoever made it may have been told before of another write, and says so once.
TEST_F(RoomTest, RoomThatComesMeanwhileCounts) {
    struct Growing final : BlockDevice {
        std::uint64_t size() const override {
            const std::uint64_t now = lower.size();
            if (looks > 0 && --looks == 0)
                lower.grow(64 * chunk);
            return now;
        }
        DeviceTraits traits() const override { return lower.traits(); }
        std::string name() const override { return lower.name(); }
        void submit(IoQueue& on, IoRequest& request) override { lower.submit(on, request); }
        mutable MemoryDevice lower{8 * chunk, "small"};
        mutable int looks = 0;  // so many more see it as it is
    };
    for (const bool to_snapshot : {false, true}) {
        bool asked_while_it_came = false;
        for (int looks = 1; looks <= 6; ++looks) {
            SCOPED_TRACE(testing::Message() << looks << " looks at a store's size, for a write to " << (to_snapshot ? "it" : "the origin"));
            EXPECT_TRUE(write_now(device, 0, filled(device.size(), 1)));
            Growing store;
            const auto snapshot = open(store);
            snapshot->set_room_handler([&] { ++asked; });
            EXPECT_TRUE(start(*origin, 0, 6).done);
            asked = 0;
            store.looks = looks;
            test::Request& write = start(to_snapshot ? static_cast<BlockDevice&>(*snapshot) : *origin, 10, 1);
            asked_while_it_came |= asked > 0 && store.looks == 0;
            store.looks = 0;
            store.lower.grow(64 * chunk);
            snapshot->room_seen_to();
            settle();
            EXPECT_TRUE(write.done && write.error == 0);
            EXPECT_EQ(snapshot->snapshot_status().condition, SnapshotCondition::active);
        }
        EXPECT_TRUE(asked_while_it_came);
    }
}

TEST_F(RoomTest, AWriteToTheSnapshotWaitsBeforeItBegins) {
    const auto snapshot = open_small("PO");
    test::Request& waits = start(*snapshot, 3, 9);
    EXPECT_FALSE(waits.done);
    EXPECT_EQ(snapshot->snapshot_status().line(), "16/64 16");
    EXPECT_TRUE(start(*origin, 0, 4).done) << "what fits goes on";
    small.grow(24 * chunk);
    snapshot->room_seen_to();
    settle();
    EXPECT_TRUE(waits.done);
    EXPECT_EQ(waits.error, 0);
    EXPECT_TRUE(holds(*snapshot, 0, 3, 1));
    EXPECT_TRUE(holds(*snapshot, 3, 9, 2));
    test::Request& too_much = start(*snapshot, 20, 20);
    EXPECT_FALSE(too_much.done);
    snapshot->room_seen_to();
    settle();
    EXPECT_TRUE(too_much.done);
    EXPECT_EQ(too_much.error, EIO);
    EXPECT_EQ(snapshot->snapshot_status().line(), "Overflow");
    const int before = asked;
    EXPECT_EQ(start(*snapshot, 50, 1).error, EIO);
    EXPECT_EQ(asked, before);
}

TEST_F(RoomTest, AClosedSnapshotKeepsNobodyWaiting) {
    auto snapshot = open_small();
    test::Request& waits = start(*origin, 0, 8);
    EXPECT_FALSE(waits.done);
    snapshot.reset();
    settle();
    EXPECT_TRUE(waits.done);
    EXPECT_TRUE(holds(device, 0, 8, 2));
}

TEST_F(RoomTest, ASnapshotThatIsMergedKeepsNobodyWaiting) {
    const auto snapshot = open_small();
    test::Request& to_origin = start(*origin, 0, 8);
    test::Request& to_snapshot = start(*snapshot, 20, 8);
    EXPECT_FALSE(to_origin.done || to_snapshot.done);
    ASSERT_TRUE(origin->start_merge(snapshot));
    settle();
    EXPECT_TRUE(to_origin.done);
    EXPECT_EQ(to_origin.error, 0);
    EXPECT_TRUE(to_snapshot.done);
    EXPECT_EQ(to_snapshot.error, EIO);
    EXPECT_TRUE(holds(*origin, 0, 8, 2));
    ASSERT_TRUE(origin->end_merge());
}

TEST_F(RoomTest, AMergeThatWaitsCanBeStopped) {
    const auto merged = open(large);
    EXPECT_TRUE(start(*origin, 0, 10).done);
    const auto snapshot = open_small();
    ASSERT_TRUE(origin->start_merge(merged));
    settle();
    EXPECT_EQ(asked, 1) << "ten chunks are overwritten";
    EXPECT_TRUE(holds(device, 0, 10, 2));
    EXPECT_TRUE(holds(*origin, 0, 10, 1));
    origin->stop_merge();
    small.grow(24 * chunk);
    snapshot->room_seen_to();
    ASSERT_TRUE(origin->start_merge(merged));
    settle();
    EXPECT_EQ(merged->snapshot_status().usage.allocated, merged->snapshot_status().usage.metadata);
    ASSERT_TRUE(origin->end_merge());
    EXPECT_TRUE(holds(device, 0, 10, 1));
    EXPECT_TRUE(holds(*snapshot, 0, 10, 2));
}

TEST_F(RoomTest, AMergeMakesSureThatOthersHaveTheirCopies) {
    FaultDevice slow(large);
    const auto merged = open(slow);
    EXPECT_TRUE(start(*origin, 0, 4).done);
    // A write to the other snapshot brings the chunk that the merge is about to overwrite, and fails while the merge waits for it.
    MemoryDevice memory(32 * chunk, "other");
    FaultDevice failing(memory);
    FaultDevice holding(static_cast<BlockDevice&>(failing));
    const auto other = open(holding);
    holding.add({.operation = IoOperation::write, .offset = 2 * chunk, .length = chunk, .count = 1, .hold = true});
    failing.add({.operation = IoOperation::write, .offset = 2 * chunk, .length = chunk, .count = 1});
    slow.add({.operation = IoOperation::read, .count = 1, .hold = true});  // where the merge begins
    ASSERT_TRUE(origin->start_merge(merged));
    settle();
    test::Request& fails = start(*other, 0, 1, 5);
    slow.release();
    settle();
    EXPECT_TRUE(holds(device, 0, 4, 2));
    holding.release();
    settle();
    EXPECT_EQ(fails.error, EIO);
    EXPECT_TRUE(holds(device, 0, 4, 1));
    EXPECT_TRUE(holds(*other, 0, 4, 2));
    ASSERT_TRUE(origin->end_merge());
}

}  // namespace
}  // namespace lamella::cow
