// SPDX-License-Identifier: Apache-2.0
#include "cow/origin.h"

#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/endian.h"
#include "cow/exception_log.h"
#include "cow/exception_store.h"
#include "device/concatenation_device.h"
#include "device/crash_device.h"
#include "device/fault_device.h"
#include "device/memory_device.h"
#include "device/slice_device.h"
#include "device/test_support.h"

namespace lamella::cow {
namespace {

constexpr std::uint64_t chunk = 4096;

SnapshotOptions options(std::string_view type = "P", std::uint32_t chunk_sectors = 8) {
    SnapshotOptions made;
    made.store = *parse_store_type(type);
    made.store.chunk_sectors = chunk_sectors;
    return made;
}

std::vector<std::byte> filled(std::size_t size, int value) { return std::vector<std::byte>(size, static_cast<std::byte>(value)); }

class OriginTest : public testing::Test {
  protected:
    OriginTest() {
        write(device, 0, filled(device.size(), 1));
        origin = *Origin::open(device);
    }

    static void write(BlockDevice& to, std::uint64_t offset, const std::vector<std::byte>& bytes) {
        const auto written = write_now(to, offset, bytes);
        ASSERT_TRUE(written) << written.error().message();
    }
    static std::vector<std::byte> read(BlockDevice& from, std::uint64_t offset, std::uint64_t size) {
        std::vector<std::byte> bytes(size);
        const auto got = read_now(from, offset, bytes);
        EXPECT_TRUE(got) << got.error().message();
        return bytes;
    }
    std::shared_ptr<Snapshot> open(BlockDevice& on, const SnapshotOptions& with = options()) {
        auto opened = origin->open_snapshot(on, with);
        EXPECT_TRUE(opened) << opened.error().message();
        return *opened;
    }

    MemoryDevice device{64 * chunk, "origin"};
    MemoryDevice store{32 * chunk, "store"};
    MemoryDevice store2{32 * chunk, "store2"};
    std::shared_ptr<Origin> origin;
};

TEST_F(OriginTest, ASnapshotKeepsWhatTheOriginHeld) {
    auto snapshot = open(store);
    EXPECT_EQ(snapshot->snapshot_status().line(), "16/256 16");
    write(*origin, 3 * chunk + 512, filled(512, 2));
    EXPECT_EQ(read(*snapshot, 0, snapshot->size()), filled(device.size(), 1));
    EXPECT_EQ(read(*origin, 3 * chunk + 512, 512), filled(512, 2));
    EXPECT_EQ(snapshot->snapshot_status().line(), "24/256 16");
    write(*origin, 3 * chunk, filled(chunk, 3));
    EXPECT_EQ(snapshot->snapshot_status().line(), "24/256 16") << "copied once";
}

TEST_F(OriginTest, PromisesNoWholeBlocks) {
    PowerSwitch power;
    CrashDevice disk(64 * chunk, "disk", power, SparseBytes(), {}, 4096);
    const auto over = *Origin::open(disk);
    EXPECT_EQ(over->traits().physical_block, 512u);
    EXPECT_EQ((*over->open_snapshot(store, options()))->traits().physical_block, 512u);
}

TEST_F(OriginTest, ASnapshotIsWritten) {
    auto snapshot = open(store);
    write(*snapshot, chunk + 512, filled(512, 7));        // part of a chunk
    write(*snapshot, 8 * chunk, filled(2 * chunk, 8));    // whole chunks
    write(*snapshot, 20 * chunk - 512, filled(1024, 9));  // two parts
    auto expected = filled(device.size(), 1);
    std::memset(expected.data() + chunk + 512, 7, 512);
    std::memset(expected.data() + 8 * chunk, 8, 2 * chunk);
    std::memset(expected.data() + 20 * chunk - 512, 9, 1024);
    EXPECT_EQ(read(*snapshot, 0, snapshot->size()), expected);
    EXPECT_EQ(read(*origin, 0, origin->size()), filled(device.size(), 1));
    write(*origin, 0, filled(device.size() / 4, 2));
    EXPECT_EQ(read(*snapshot, 0, snapshot->size()), expected);
    // And again, as it lies on the disk.
    snapshot.reset();
    snapshot = open(store);
    EXPECT_EQ(read(*snapshot, 0, snapshot->size()), expected);
}

TEST_F(OriginTest, WhatOneSnapshotHoldsAnotherMayLack) {
    auto first = open(store);
    write(*origin, 5 * chunk, filled(chunk, 2));
    write(*origin, 5 * chunk, filled(chunk, 3));
    auto second = open(store2);
    write(*origin, 5 * chunk, filled(chunk, 4));
    EXPECT_EQ(read(*first, 5 * chunk, chunk), filled(chunk, 1));
    EXPECT_EQ(read(*second, 5 * chunk, chunk), filled(chunk, 3));
    first.reset();
    second.reset();
    MemoryDevice store3(32 * chunk, "store3");
    auto third = open(store3);
    write(*origin, 5 * chunk, filled(chunk, 5));
    EXPECT_EQ(read(*third, 5 * chunk, chunk), filled(chunk, 4));
}

TEST_F(OriginTest, AWriteBehindASnapshotSaysNothingOfItsLastChunk) {
    SnapshotOptions shorter = options("P", 32);
    shorter.size = 10 * 4 * chunk + 512;
    auto snapshot = open(store, shorter);
    write(*origin, shorter.size, filled(512, 2));
    write(*origin, shorter.size, filled(512, 3));
    write(*origin, shorter.size - 512, filled(512, 4));
    EXPECT_EQ(read(*snapshot, shorter.size - 512, 512), filled(512, 1));
}

TEST_F(OriginTest, SnapshotsShareOneRead) {
    FaultDevice counting(device);
    origin = *Origin::open(counting);
    auto first = open(store);
    auto second = open(store2, options("P", 32));
    const std::uint64_t before = counting.count(IoOperation::read);
    write(*origin, 5 * chunk, filled(chunk, 2));
    EXPECT_EQ(counting.count(IoOperation::read) - before, 1u);
    EXPECT_EQ(read(*first, 0, device.size()), filled(device.size(), 1));
    EXPECT_EQ(read(*second, 0, device.size()), filled(device.size(), 1));
}

// What a store's device writes at once may be more than where another store's chunks begin.
TEST_F(OriginTest, StoresOfOtherAlignmentsAreServed) {
    struct Coarse final : BlockDevice {
        explicit Coarse(BlockDevice& lower) : lower_(lower) {}
        std::uint64_t size() const override { return lower_.size(); }
        DeviceTraits traits() const override {
            DeviceTraits coarse = lower_.traits();
            coarse.alignment = chunk;
            return coarse;
        }
        std::string name() const override { return "coarse"; }
        void submit(IoQueue& queue, IoRequest& request) override {
            if (const int error = check_request(request, size(), chunk); error != 0)
                return queue.complete_later(request, error);
            lower_.submit(queue, request);
        }

      private:
        BlockDevice& lower_;
    };
    MemoryDevice large(75 * chunk, "large"), fine_store(1 << 20, "fine"), lower(1 << 20, "lower");
    Coarse coarse_store(lower);
    write(large, 0, filled(large.size(), 1));
    origin = *Origin::open(large);
    auto fine = open(fine_store, options("P", 1)), coarse = open(coarse_store);
    write(*coarse, 0, filled(chunk, 3));
    // The first lacks all sectors but one, the second all chunks but one.
    write(*origin, sector_bytes, filled(large.size() - sector_bytes, 2));
    EXPECT_EQ(coarse->snapshot_status().condition, SnapshotCondition::active);
    EXPECT_EQ(read(*fine, 0, large.size()), filled(large.size(), 1));
    EXPECT_EQ(read(*coarse, chunk, large.size() - chunk), filled(large.size() - chunk, 1));
}

TEST_F(OriginTest, FrozenItHoldsWritesBack) {
    FaultDevice slow(device);
    origin = *Origin::open(slow);
    const auto queue = *make_plain_queue();
    slow.add({.operation = IoOperation::write, .count = 1, .hold = true});
    auto bytes = filled(chunk, 2);
    test::Request first(IoOperation::write, 0, chunk, bytes.data());
    origin->submit(*queue, first);
    EXPECT_EQ(origin->freeze(std::chrono::milliseconds(1)).error().kind(), ErrorKind::refused);
    // Others aren't held up by that.
    write(*origin, chunk, bytes);
    slow.release();
    queue->run_until([&] { return first.done; });

    ASSERT_TRUE(origin->freeze(std::chrono::hours(1)));
    test::Request second(IoOperation::write, 2 * chunk, chunk, bytes.data());
    origin->submit(*queue, second);
    auto snapshot = open(store);
    auto other = open(store2);
    while (queue->run_once(false)) {}
    EXPECT_FALSE(second.done);
    EXPECT_EQ(read(*origin, 2 * chunk, chunk), filled(chunk, 1));
    origin->thaw();
    queue->run_until([&] { return second.done; });
    EXPECT_EQ(read(*origin, 0, 3 * chunk), filled(3 * chunk, 2));
    for (Snapshot* each : {snapshot.get(), other.get()}) {
        EXPECT_EQ(read(*each, 0, 2 * chunk), filled(2 * chunk, 2));
        EXPECT_EQ(read(*each, 2 * chunk, chunk), filled(chunk, 1));
    }
}

TEST_F(OriginTest, AFullStoreIsInvalidForGood) {
    MemoryDevice small(8 * chunk, "small");
    auto snapshot = open(small);
    int events = 0;
    snapshot->set_event_handler([&] { ++events; });
    for (std::uint64_t at = 0; at < 7; ++at)
        write(*origin, at * chunk, filled(chunk, 2));
    EXPECT_EQ(snapshot->snapshot_status().line(), "Invalid");
    EXPECT_EQ(events, 1);
    EXPECT_EQ(read(*origin, 0, 7 * chunk), filled(7 * chunk, 2));
    std::vector<std::byte> bytes(chunk);
    EXPECT_FALSE(read_now(*snapshot, 30 * chunk, bytes));
    snapshot.reset();
    EXPECT_EQ(inspect_store(small, device.size())->kind, StoreSummary::Kind::invalid);
    EXPECT_EQ(open(small)->snapshot_status().line(), "Invalid");
}

TEST_F(OriginTest, AWriteThatFindsNoRoomOverflows) {
    MemoryDevice small(8 * chunk, "small");
    auto snapshot = open(small, options("PO"));
    write(*snapshot, 0, filled(6 * chunk, 2));
    EXPECT_EQ(snapshot->snapshot_status().line(), "64/64 16");
    EXPECT_FALSE(write_now(*snapshot, 10 * chunk, filled(chunk, 3)));
    EXPECT_EQ(snapshot->snapshot_status().line(), "Overflow");
    EXPECT_FALSE(write_now(*snapshot, 0, filled(chunk, 3))) << "no writes at all";
    EXPECT_EQ(read(*snapshot, 0, 6 * chunk), filled(6 * chunk, 2));
    small.grow(64 * chunk);
    write(*origin, 10 * chunk, filled(chunk, 2));
    EXPECT_EQ(read(*snapshot, 10 * chunk, chunk), filled(chunk, 1));
    snapshot.reset();
    snapshot = open(small, options("PO"));
    EXPECT_EQ(snapshot->snapshot_status().line(), "72/512 16");
    write(*snapshot, 0, filled(chunk, 3));
}

TEST_F(OriginTest, AMergeGivesTheSnapshotToTheOrigin) {
    auto snapshot = open(store);
    auto other = open(store2);
    write(*origin, 0, filled(6 * chunk, 2));
    write(*snapshot, 2 * chunk, filled(chunk, 9));
    auto expected = read(*snapshot, 0, snapshot->size());
    ASSERT_TRUE(origin->start_merge(snapshot));
    EXPECT_EQ(read(*origin, 0, origin->size()), expected) << "at once";
    write(*origin, 4 * chunk, filled(chunk, 5));
    std::memset(expected.data() + 4 * chunk, 5, chunk);
    EXPECT_EQ(read(*origin, 0, origin->size()), expected);
    while (snapshot->snapshot_status().usage.allocated != snapshot->snapshot_status().usage.metadata)
        std::this_thread::yield();
    EXPECT_EQ(read(*origin, 0, origin->size()), expected);
    EXPECT_EQ(snapshot->snapshot_status().line(), "16/256 16");
    ASSERT_TRUE(origin->end_merge());
    EXPECT_EQ(read(device, 0, origin->size()), expected);
    EXPECT_EQ(read(*other, 0, origin->size()), filled(device.size(), 1)) << "got its copies";
    std::vector<std::byte> bytes(chunk);
    EXPECT_FALSE(read_now(*snapshot, 0, bytes)) << "given up";
}

TEST_F(OriginTest, AReadOfASnapshotIsNotOvertakenByAWrite) {
    FaultDevice slow(device);
    origin = *Origin::open(slow);
    auto snapshot = open(store);
    auto queue = *make_plain_queue();
    slow.add({.operation = IoOperation::read, .count = 1, .hold = true});
    std::vector<std::byte> seen(chunk), data = filled(chunk, 2);
    test::Request reading(IoOperation::read, 0, chunk, seen.data());
    snapshot->submit(*queue, reading);
    test::Request writing(IoOperation::write, 0, chunk, data.data());
    origin->submit(*queue, writing);
    // The copy has its own read, and is committed; the write still waits for the old reader.
    while (snapshot->snapshot_status().usage.allocated != 24)
        queue->run_once(false);
    test::Request elsewhere(IoOperation::write, 10 * chunk, chunk, data.data());
    EXPECT_EQ(elsewhere.run(*origin, *queue), 0);
    EXPECT_FALSE(writing.done);
    EXPECT_EQ(read(device, 0, chunk), filled(chunk, 1));
    slow.release();
    queue->run_until([&] { return reading.done && writing.done; });
    EXPECT_EQ(reading.error, 0);
    EXPECT_EQ(seen, filled(chunk, 1));
    EXPECT_EQ(read(device, 0, chunk), filled(chunk, 2));
}

// --- Commits: an origin whose queue is stepped here, stores on a disk that holds its flush ---

class CommitTest : public testing::Test {
  protected:
    CommitTest() {
        EXPECT_TRUE(write_now(device, 0, filled(device.size(), 1)));
        for (const auto& store : stores)
            snapshots.push_back(*origin->open_snapshot(*store, options()));
    }
    void settle() {
        while (queue->run_once(false)) {}
    }
    test::Request& start(BlockDevice& on, std::uint64_t offset, std::uint64_t size, bool durable = false) {
        requests.push_back(std::make_unique<test::Request>(IoOperation::write, offset, size, data.data()));
        requests.back()->durable = durable;
        on.submit(*queue, *requests.back());
        return *requests.back();
    }
    test::Request& start_flush(BlockDevice& of) {
        requests.push_back(std::make_unique<test::Request>(IoOperation::flush, 0, 0, nullptr));
        of.submit(*queue, *requests.back());
        return *requests.back();
    }
    std::vector<std::byte> read(BlockDevice& from, std::uint64_t offset, std::uint64_t size) {
        std::vector<std::byte> bytes(size);
        test::Request reading(IoOperation::read, offset, size, bytes.data());
        EXPECT_EQ(reading.run(from, *queue), 0);
        return bytes;
    }
    // The first round waits for its flush: what is written next comes together.
    void begin_a_round() {
        disk.add({.operation = IoOperation::flush, .count = 1, .hold = true});
        start(*origin, 0, chunk);
        settle();
        ASSERT_EQ(disk.held(), 1u);
    }

    MemoryDevice device{64 * chunk, "origin"};
    MemoryDevice memory{64 * chunk, "disk"};
    FaultDevice disk{memory};
    const std::unique_ptr<SliceDevice> stores[2] = {*SliceDevice::create(disk, 0, 32 * chunk, "store0"),
                                                    *SliceDevice::create(disk, 32 * chunk, 32 * chunk, "store1")};
    std::unique_ptr<IoQueue> queue = *make_plain_queue();
    std::shared_ptr<Origin> origin = *Origin::open(device, {}, queue.get());
    std::vector<std::shared_ptr<Snapshot>> snapshots;
    std::vector<std::byte> data = filled(chunk, 2);
    std::vector<std::unique_ptr<test::Request>> requests;
};

TEST_F(CommitTest, ManyCopiesTakeOneWriteAStoreAndTwoFlushes) {
    begin_a_round();
    const std::uint64_t writes = disk.count(IoOperation::write), flushes = disk.count(IoOperation::flush);
    for (std::uint64_t number = 1; number <= 8; ++number)
        start(*origin, (60 - 7 * number) * chunk, chunk);
    settle();
    disk.release();
    settle();
    for (const auto& request : requests)
        EXPECT_TRUE(request->done && request->error == 0);
    // In each store: the first exception, the data of eight chunks, their exceptions.
    EXPECT_EQ(disk.count(IoOperation::write) - writes, 2 * 3u);
    EXPECT_EQ(disk.count(IoOperation::flush) - flushes, 2u);
    for (const auto& snapshot : snapshots) {
        std::vector<std::byte> seen(device.size());
        ASSERT_TRUE(read_now(*snapshot, 0, seen));
        EXPECT_EQ(seen, filled(device.size(), 1));
    }
}

// The exceptions of one round are those that a crash leaves all or none of.
TEST_F(CommitTest, ARoundNotesWhatAPhysicalBlockHolds) {
    PowerSwitch power;
    CrashDevice large(1 << 20, "large", power, SparseBytes(), {}, 4096);
    MemoryDevice small(1 << 20, "small");
    FaultDevice counting(large);
    const auto store = *ConcatenationDevice::create(std::array{ConcatenationDevice::Piece{&counting, 0, counting.size()}}, "store");
    snapshots.clear();
    device.grow(128 * 4096);
    const auto snapshot = *origin->open_snapshot(*store, options("P", 8));
    const auto flushes_for_sixty_copies = [&](std::uint64_t from) {
        counting.add({.operation = IoOperation::flush, .count = 1, .hold = true});
        start(*origin, from * 4096, 512);
        settle();
        EXPECT_EQ(counting.held(), 1u);
        const std::uint64_t flushes = counting.count(IoOperation::flush);
        for (std::uint64_t number = 1; number <= 60; ++number)
            start(*origin, (from + number) * 4096, 512);
        settle();
        counting.release();
        settle();
        for (const auto& request : requests)
            EXPECT_TRUE(request->done && request->error == 0);
        return counting.count(IoOperation::flush) - flushes;
    };
    EXPECT_EQ(flushes_for_sixty_copies(0), 2u) << "of their data, of their exceptions";
    ASSERT_TRUE(store->append(std::array{ConcatenationDevice::Piece{&small, 0, small.size()}}));
    EXPECT_EQ(flushes_for_sixty_copies(61), 4u) << "exceptions 62 and 63, to 95, to 121: blocks of 32 since it has grown";
}

TEST_F(CommitTest, AChunkThatCantBeWrittenCostsNoOther) {
    begin_a_round();
    disk.add({.operation = IoOperation::write, .offset = 4 * chunk, .length = chunk});
    for (const std::uint64_t place : {10, 20, 30})
        start(*snapshots[0], place * chunk, 512);  // in chunks 3, 4 and 5 of the store
    settle();
    disk.release();
    settle();
    std::vector<int> errors;
    for (const auto& request : requests)
        errors.push_back(request->done ? request->error : -1);
    EXPECT_EQ(errors, (std::vector{0, 0, EIO, 0}));
    EXPECT_EQ(snapshots[0]->snapshot_status().condition, SnapshotCondition::active);
}

// One that has grown onto another disk since.
TEST_F(CommitTest, ADiskThatFailsCostsNoStoreElsewhere) {
    struct Grown final : BlockDevice {
        Grown(BlockDevice& of, BlockDevice& onto) : of_(of), onto_(onto) {}
        std::uint64_t size() const override { return of_.size(); }
        DeviceTraits traits() const override { return of_.traits(); }
        std::string name() const override { return "grown"; }
        void submit(IoQueue& at, IoRequest& request) override { of_.submit(at, request); }
        void add_leaves(std::vector<BlockDevice*>& leaves) override {
            of_.add_leaves(leaves);
            if (has_grown)
                onto_.add_leaves(leaves);
        }
        bool has_grown = false;

      private:
        BlockDevice &of_, &onto_;
    };
    MemoryDevice further_memory(16 * chunk, "further");
    FaultDevice further(further_memory);
    const auto slice = *SliceDevice::create(memory, 0, 32 * chunk, "own");
    const auto other = *SliceDevice::create(memory, 32 * chunk, 32 * chunk, "other");
    ASSERT_TRUE(write_now(memory, 0, std::vector<std::byte>(memory.size())));
    for (auto& snapshot : snapshots)
        snapshot.reset();
    Grown growing(*slice, further);
    const auto one = *origin->open_snapshot(growing, options()), two = *origin->open_snapshot(*other, options());
    growing.has_grown = true;
    further.add({.operation = IoOperation::flush});
    start(*origin, 0, chunk);
    settle();
    EXPECT_EQ(requests.back()->error, 0);
    EXPECT_EQ(one->snapshot_status().condition, SnapshotCondition::invalid);
    EXPECT_EQ(two->snapshot_status().condition, SnapshotCondition::active);
    start(*origin, chunk, chunk);
    settle();
    EXPECT_EQ(two->snapshot_status().condition, SnapshotCondition::active);
}

TEST_F(CommitTest, AnAreaIsFilledWhenTheNextOneIsZeroAndFlushed) {
    MemoryDevice dirty(300 * sector_bytes, "dirty");
    ASSERT_TRUE(write_now(dirty, 4096, filled(dirty.size() - 4096, 0xff)));
    FaultDevice slow(dirty);
    const auto snapshot = *origin->open_snapshot(slow, options("P", 1));
    const std::uint64_t last = 2 * sector_bytes - exception_bytes;  // exception of area 0, which is chunk 1
    const auto seen = [&](std::uint64_t offset, std::uint64_t size) {
        std::vector<std::byte> bytes(size);
        EXPECT_TRUE(read_now(dirty, offset, bytes));
        return bytes;
    };
    const std::vector<std::byte> none = filled(sector_bytes, 0);
    slow.add({.operation = IoOperation::flush, .count = 1, .hold = true});
    data = filled(64 * sector_bytes, 2);
    start(*origin, 0, data.size());
    settle();
    ASSERT_EQ(slow.held(), 1u);
    EXPECT_EQ(seen(1 * sector_bytes, sector_bytes), none) << "area 0, before the data and the zeros of area 1 are flushed";
    EXPECT_EQ(seen(34 * sector_bytes, sector_bytes), none) << "area 1";
    EXPECT_NE(seen(67 * sector_bytes, sector_bytes), none) << "area 2";
    slow.add({.operation = IoOperation::flush, .count = 1, .hold = true});
    slow.release();
    settle();
    ASSERT_EQ(slow.held(), 1u);
    EXPECT_NE(seen(last, exception_bytes), filled(exception_bytes, 0));
    EXPECT_EQ(seen(34 * sector_bytes, sector_bytes), none) << "area 1";
    EXPECT_EQ(seen(67 * sector_bytes, sector_bytes), none) << "area 2";
    slow.release();
    settle();
    EXPECT_TRUE(requests[0]->done);
    EXPECT_NE(seen(34 * sector_bytes + last - sector_bytes, exception_bytes), filled(exception_bytes, 0));
}

TEST_F(CommitTest, AnAreaIsFilledInOneRound) {
    MemoryDevice memory_of_its_own(300 * sector_bytes, "store");
    FaultDevice counting(memory_of_its_own);
    snapshots.clear();
    const auto snapshot = *origin->open_snapshot(counting, options("P", 1));
    const std::uint64_t flushes = counting.count(IoOperation::flush);
    for (std::uint64_t number = 0; number < 32; ++number)
        start(*origin, (31 - number) * 1024, 512);
    settle();
    for (const auto& request : requests)
        EXPECT_TRUE(request->done && request->error == 0);
    EXPECT_EQ(counting.count(IoOperation::flush) - flushes, 2u) << "of the data and the next area's zeros, of 32 exceptions";
    EXPECT_EQ(snapshot->snapshot_status().usage.metadata, 3u) << "the area is full";
}

// Data that was written while a round was open is flushed before the next area's zeros are even written.
TEST_F(CommitTest, AnAreaIsNotFilledBeforeTheNextOneIsZero) {
    MemoryDevice dirty(1 << 20, "dirty");
    FaultDevice slow(dirty);
    const auto whole = *SliceDevice::create(slow, 0, 1 << 19, "whole"), open = *SliceDevice::create(slow, 1 << 19, 1 << 19, "open");
    ASSERT_TRUE(write_now(*whole, sector_bytes, filled((1 << 19) - sector_bytes, 0xff)));
    const auto snapshot = *origin->open_snapshot(*whole, options("P", 1)), other = *origin->open_snapshot(*open, options());
    slow.add({.operation = IoOperation::write, .offset = (1 << 19) + 2 * chunk, .length = chunk, .count = 1, .hold = true});
    start(*other, 0, sector_bytes);
    settle();
    ASSERT_EQ(slow.held(), 1u);
    for (std::uint64_t number = 0; number < 32; ++number)
        start(*snapshot, number * 2 * sector_bytes, sector_bytes);
    settle();
    slow.add({.operation = IoOperation::flush, .skip = 1, .count = 1, .hold = true});
    slow.release();
    settle();
    ASSERT_EQ(slow.held(), 1u);
    std::vector<std::byte> area(sector_bytes);
    ASSERT_TRUE(read_now(*whole, sector_bytes, area));
    EXPECT_NE(load_little<std::uint64_t>(area.data() + 30 * exception_bytes + 8), 0u);
    EXPECT_EQ(load_little<std::uint64_t>(area.data() + 31 * exception_bytes + 8), 0u);
    ASSERT_TRUE(read_now(*whole, 34 * sector_bytes, area));
    EXPECT_EQ(area, filled(sector_bytes, 0)) << "area 1";
    slow.release();
    settle();
    EXPECT_EQ(snapshot->snapshot_status().usage.metadata, 3u);
}

// Zeros for an area that isn't needed in the end, as the data couldn't be written, end before the store is anybody else's.
TEST_F(CommitTest, NothingIsWrittenToAStoreThatWasClosed) {
    constexpr std::uint64_t two_sectors = 2 * sector_bytes;
    MemoryDevice lower(200 * sector_bytes, "store");
    FaultDevice store(lower);
    auto snapshot = *origin->open_snapshot(store, options("P", 2));
    store.add({.operation = IoOperation::write, .offset = 2 * two_sectors, .length = two_sectors});
    store.add({.operation = IoOperation::write, .offset = 66 * two_sectors, .length = two_sectors, .hold = true});
    const auto& failed = start(*snapshot, 0, sector_bytes);
    settle();
    EXPECT_TRUE(failed.done && failed.error == EIO);
    ASSERT_EQ(store.held(), 1u) << "area 1";
    struct Later : Task {
        IoQueue& queue;
        FaultDevice& store;
        int steps = 100;
        Later(IoQueue& its_queue, FaultDevice& its_store) : queue(its_queue), store(its_store) {
            run = [](Task& task) {
                Later& self = static_cast<Later&>(task);
                if (--self.steps > 0)
                    self.queue.post(task);
                else
                    self.store.release();
            };
        }
    } later(*queue, store);
    queue->post(later);
    snapshot.reset();
    EXPECT_EQ(later.steps, 0) << "closed while it was being written";
    settle();
}

TEST_F(CommitTest, AStoreElsewhereDoesNotWaitForThisDisk) {
    MemoryDevice elsewhere(32 * chunk, "elsewhere");
    const auto other = *origin->open_snapshot(elsewhere, options());
    disk.add({.operation = IoOperation::flush, .count = 1, .hold = true});
    start(*snapshots[0], 0, chunk, true);
    start(*other, 0, chunk, true);
    settle();
    EXPECT_FALSE(requests[0]->done);
    EXPECT_TRUE(requests[1]->done);
    disk.release();
    settle();
    EXPECT_TRUE(requests[0]->done);
}

TEST_F(CommitTest, AStepOfAMergeTakesSeveralAreas) {
    MemoryDevice elsewhere(512 * sector_bytes, "elsewhere");
    FaultDevice counting(elsewhere);
    const auto snapshot = *origin->open_snapshot(counting, options("P", 1));
    for (std::uint64_t index = 0; index < 100; ++index)  // 32 are an area
        start(*snapshot, (index * 7 % 128) * sector_bytes, sector_bytes);
    settle();
    const auto expected = read(*snapshot, 0, snapshot->size());
    const std::uint64_t flushes = counting.count(IoOperation::flush);
    counting.add({.operation = IoOperation::flush, .count = 1, .hold = true});
    ASSERT_TRUE(origin->start_merge(snapshot));
    settle();
    EXPECT_EQ(counting.count(IoOperation::flush) - flushes, 1u);
    EXPECT_EQ(read(device, 0, snapshot->size()), expected) << "merged, not yet taken away";
    EXPECT_EQ(snapshot->snapshot_status().line(), "105/512 5");
    counting.release();
    settle();
    EXPECT_EQ(snapshot->snapshot_status().line(), "2/512 2");
    EXPECT_EQ(inspect_store(elsewhere, device.size())->exceptions, 0u);
    ASSERT_TRUE(origin->end_merge());
    EXPECT_EQ(read(*origin, 0, snapshot->size()), expected);
}

TEST_F(CommitTest, AWriteToASnapshotWaitsForNoFlush) {
    Snapshot& snapshot = *snapshots[0];
    disk.add({.operation = IoOperation::flush, .count = 1, .hold = true});
    start(snapshot, 3 * chunk, chunk);
    start(snapshot, 4 * chunk + 512, 512);  // what is around it is copied
    settle();
    EXPECT_EQ(disk.held(), 1u);
    EXPECT_TRUE(requests[0]->done && requests[1]->done);
    EXPECT_EQ(read(snapshot, 3 * chunk, chunk), data);
    EXPECT_EQ(read(snapshot, 4 * chunk, 512), filled(512, 1));
    EXPECT_EQ(read(snapshot, 4 * chunk + 512, 512), filled(512, 2));
    // Those who rely on it wait: a write to the origin, a flush, also of what stands on the snapshot, a write that is durable.
    const auto& flushed = start_flush(snapshot);
    const auto slice = *SliceDevice::create(snapshot, 0, snapshot.size(), "slice");
    const auto table = *ConcatenationDevice::create({{{slice.get(), 0, slice->size()}}}, "table");
    const auto& flushed_above = start_flush(*table);
    const auto& to_origin = start(*origin, 3 * chunk, chunk);
    const auto& durable = start(snapshot, 3 * chunk, 512, true);
    // A read doesn't, whatever it asks for, and leaves what it reads as it is.
    std::vector<std::byte> seen(chunk);
    test::Request reading(IoOperation::read, 6 * chunk, chunk, seen.data());
    reading.durable = true;
    EXPECT_EQ(reading.run(snapshot, *queue), 0);
    EXPECT_EQ(seen, filled(chunk, 1));
    settle();
    EXPECT_FALSE(flushed.done || flushed_above.done || to_origin.done || durable.done);
    EXPECT_EQ(read(device, 3 * chunk, 1 * 512)[0], std::byte{1});
    disk.release();
    settle();
    EXPECT_TRUE(flushed.done && flushed_above.done && to_origin.done && durable.done);
    EXPECT_EQ(flushed.error, 0);
    EXPECT_EQ(snapshot.snapshot_status().line(), "32/256 16");
    start(*origin, 6 * chunk, chunk);
    settle();
    EXPECT_TRUE(requests.back()->done);
    EXPECT_EQ(read(snapshot, 6 * chunk, chunk), filled(chunk, 1));
    EXPECT_EQ(read(device, 3 * chunk, 1 * 512)[0], std::byte{2});
}

TEST_F(CommitTest, WhatWasNotCommittedEndsTheSnapshotBeforeTheOriginIsWritten) {
    Snapshot& snapshot = *snapshots[0];
    const auto& written = start(snapshot, 3 * chunk, chunk);
    settle();
    snapshots[1].reset();
    disk.add({.operation = IoOperation::write, .offset = chunk, .length = chunk, .count = 1});            // the exception
    disk.add({.operation = IoOperation::write, .offset = 0, .length = chunk, .count = 1, .hold = true});  // the mark in the header
    disk.add({.operation = IoOperation::flush, .count = 1, .hold = true});
    const auto& lost = start(snapshot, 5 * chunk, chunk);
    settle();
    EXPECT_TRUE(written.done && lost.done && lost.error == 0);
    const auto& flushed = start_flush(snapshot);
    const auto& to_origin = start(*origin, 5 * chunk, chunk);
    settle();
    EXPECT_FALSE(flushed.done || to_origin.done);
    disk.release();
    settle();
    EXPECT_EQ(disk.held(), 1u);
    EXPECT_TRUE(flushed.done && flushed.error == EIO);
    EXPECT_FALSE(to_origin.done);
    const auto& durable = start(snapshot, 5 * chunk, chunk, true);
    settle();
    EXPECT_TRUE(durable.done && durable.error == EIO);
    EXPECT_EQ(read(device, 5 * chunk, 1 * 512)[0], std::byte{1});
    disk.release();
    settle();
    EXPECT_TRUE(to_origin.done && to_origin.error == 0);
    EXPECT_EQ(snapshot.snapshot_status().line(), "Invalid");
    const auto& again = start_flush(snapshot);
    settle();
    EXPECT_EQ(again.error, EIO) << "a flush succeeds only if everything before it is durable";
}

TEST_F(CommitTest, AMergeBeginsWithWhatIsDurable) {
    start(*snapshots[0], 3 * chunk, chunk);
    start(*snapshots[0], 4 * chunk, chunk);
    settle();
    snapshots[1].reset();
    // In the table when the merge is asked for, and never on the disk.
    disk.add({.operation = IoOperation::write, .offset = chunk, .length = chunk, .count = 1});
    disk.add({.operation = IoOperation::flush, .count = 1, .hold = true});
    const auto& lost = start(*snapshots[0], 5 * chunk, chunk);
    settle();
    EXPECT_TRUE(lost.done);
    const auto& to_origin = start(*origin, 5 * chunk, chunk);
    disk.release();
    ASSERT_TRUE(origin->start_merge(snapshots[0]));
    settle();
    EXPECT_EQ(snapshots[0]->snapshot_status().line(), "Invalid");
    EXPECT_TRUE(to_origin.done && to_origin.error == 0);
    EXPECT_EQ(read(device, 5 * chunk, chunk), data);
    EXPECT_EQ(read(*origin, 3 * chunk, chunk), filled(chunk, 1)) << "nothing of it was merged";
}

TEST_F(CommitTest, AMergeWaitsForWhatIsPromised) {
    snapshots[1].reset();
    disk.add({.operation = IoOperation::flush, .count = 1, .hold = true});
    const auto& promised = start(*snapshots[0], 5 * chunk, chunk);
    settle();
    ASSERT_TRUE(promised.done);
    const auto first_exception = [this] {
        std::vector<std::byte> bytes(16);
        EXPECT_TRUE(read_now(memory, chunk, bytes));
        return load_little<std::uint64_t>(bytes.data());
    };
    struct Release : Timer {
        FaultDevice* disk;
    } release;
    release.disk = &disk;
    release.fired = [](Timer& timer) { static_cast<Release&>(timer).disk->release(); };
    queue->arm(release, queue->clock().monotonic() + std::chrono::milliseconds(10));
    ASSERT_EQ(first_exception(), 0u);
    ASSERT_TRUE(origin->start_merge(snapshots[0]));
    EXPECT_EQ(first_exception(), 5u) << "the origin shows what a crash would take from the snapshot";
    EXPECT_FALSE(release.armed);
    settle();
    EXPECT_EQ(read(device, 5 * chunk, chunk), data);
}

TEST_F(CommitTest, OnlySoManyWritesToASnapshotArePromised) {
    MemoryDevice large(2048 * sector_bytes, "large"), elsewhere(1024 * sector_bytes, "elsewhere");
    ASSERT_TRUE(write_now(large, 0, filled(large.size(), 1)));
    FaultDevice slow(elsewhere);
    const auto of_large = *Origin::open(large, {}, queue.get());
    const auto snapshot = *of_large->open_snapshot(slow, options("P", 1));
    slow.add({.operation = IoOperation::flush, .count = 1, .hold = true});
    constexpr std::size_t all = 400;
    for (std::uint64_t index = 0; index < all; ++index)
        start(*snapshot, 2 * index * sector_bytes, sector_bytes);
    settle();
    const auto done = [&] { return std::count_if(requests.begin(), requests.end(), [](const auto& request) { return request->done; }); };
    EXPECT_EQ(done(), 256);
    slow.release();
    settle();
    EXPECT_EQ(done(), static_cast<std::ptrdiff_t>(all));
    start_flush(*snapshot);
    settle();
    EXPECT_TRUE(requests.back()->done && requests.back()->error == 0);
    // Each stands on the disk now: as many as in a store that was closed.
    EXPECT_EQ(inspect_store(elsewhere, large.size())->exceptions, all);
}

// --- What fails below ---

TEST_F(OriginTest, AStoreThatFailsCostsTheSnapshotOnly) {
    const std::uint64_t area = chunk;
    const FaultDevice::Rule rules[] = {
        {.operation = IoOperation::write, .offset = area, .length = chunk, .count = 1},  // an exception
        {.operation = IoOperation::write, .offset = 2 * chunk, .count = 1},              // the data
        {.operation = IoOperation::flush, .count = 1},
    };
    for (const FaultDevice::Rule& rule : rules) {
        MemoryDevice memory(32 * chunk, "faulty");
        FaultDevice faulty(memory);
        auto snapshot = open(faulty);
        faulty.add(rule);
        write(*origin, 0, filled(chunk, 2));
        EXPECT_EQ(snapshot->snapshot_status().line(), "Invalid");
        snapshot.reset();
        EXPECT_EQ(inspect_store(memory, device.size())->kind, StoreSummary::Kind::invalid);
        write(*origin, 0, filled(chunk, 1));
    }
}

TEST_F(OriginTest, AMarkThatFailedIsMadeWhenTheSnapshotIsClosed) {
    MemoryDevice memory(8 * chunk, "faulty");
    FaultDevice faulty(memory);
    auto snapshot = open(faulty);
    faulty.add({.operation = IoOperation::write, .offset = 0, .length = 512, .count = 1});
    write(*origin, 0, filled(7 * chunk, 2));
    EXPECT_EQ(snapshot->snapshot_status().line(), "Invalid");
    EXPECT_EQ(inspect_store(memory, device.size())->kind, StoreSummary::Kind::valid);
    snapshot.reset();
    EXPECT_EQ(inspect_store(memory, device.size())->kind, StoreSummary::Kind::invalid);
}

TEST_F(OriginTest, AnOriginThatCantBeRead) {
    FaultDevice faulty(device);
    origin = *Origin::open(faulty);
    auto snapshot = open(store);
    faulty.add({.operation = IoOperation::read, .offset = 0, .length = chunk});
    EXPECT_FALSE(write_now(*snapshot, 512, filled(512, 3))) << "the chunk's other bytes are lost";
    EXPECT_EQ(snapshot->snapshot_status().condition, SnapshotCondition::active) << "and nothing else";
    write(*snapshot, 0, filled(chunk, 4));
    EXPECT_EQ(read(*snapshot, 0, chunk), filled(chunk, 4));
    faulty.clear();
    faulty.add({.operation = IoOperation::read, .offset = 5 * chunk, .length = chunk});
    write(*origin, 5 * chunk, filled(chunk, 3));
    EXPECT_EQ(snapshot->snapshot_status().line(), "Invalid");
}

TEST_F(OriginTest, AMergeThatFailsLosesNothing) {
    FaultDevice faulty(device), faulty_store(store);
    origin = *Origin::open(faulty);
    auto snapshot = open(faulty_store);
    write(*origin, 0, filled(6 * chunk, 2));
    faulty.add({.operation = IoOperation::write, .offset = 2 * chunk, .length = chunk, .count = 1});
    const auto ended = [&] { return snapshot->snapshot_status().usage.allocated == snapshot->snapshot_status().usage.metadata; };
    const auto failed = [&] { return snapshot->snapshot_status().condition == SnapshotCondition::merge_failed; };
    ASSERT_TRUE(origin->start_merge(snapshot));
    while (!failed())
        std::this_thread::yield();
    EXPECT_EQ(snapshot->snapshot_status().line(), "Merge failed");
    EXPECT_EQ(read(*origin, 0, origin->size()), filled(device.size(), 1));
    write(*origin, 2 * chunk, filled(chunk, 7));
    // The exceptions are merged, and can't be taken away: their chunks are read, and written when the store has been opened again.
    faulty_store.add({.operation = IoOperation::write, .offset = chunk, .length = chunk, .count = 1});
    ASSERT_TRUE(origin->start_merge(snapshot));
    while (!failed())
        std::this_thread::yield();
    auto expected = filled(device.size(), 1);
    std::memset(expected.data() + 2 * chunk, 7, chunk);
    EXPECT_EQ(read(*origin, 0, origin->size()), expected);
    EXPECT_FALSE(write_now(*origin, 2 * chunk, filled(chunk, 8)));
    ASSERT_TRUE(origin->end_merge());
    snapshot.reset();
    snapshot = open(store);
    ASSERT_TRUE(origin->start_merge(snapshot));
    while (!ended())
        std::this_thread::yield();
    ASSERT_TRUE(origin->end_merge());
    EXPECT_EQ(read(device, 0, device.size()), expected);
}

// What the disk has of the step's exceptions isn't known after the flush that failed: a write acknowledged in the store could be lost.
TEST_F(OriginTest, AMergeThatMayHaveForgottenTakesNoWritesThereHoweverOftenItBegins) {
    FaultDevice faulty_store(store);
    auto snapshot = open(faulty_store);
    write(*origin, 0, filled(6 * chunk, 2));
    faulty_store.add({.operation = IoOperation::flush, .count = 1});
    const auto failed = [&] { return snapshot->snapshot_status().condition == SnapshotCondition::merge_failed; };
    for (int begun = 0; begun < 3; ++begun) {
        ASSERT_TRUE(origin->start_merge(snapshot));
        while (!failed())
            std::this_thread::yield();
        EXPECT_FALSE(write_now(*origin, 2 * chunk, filled(chunk, 8))) << begun;
        EXPECT_EQ(read(*origin, 0, origin->size()), filled(device.size(), 1)) << begun;
    }
    write(*origin, 7 * chunk, filled(chunk, 7));
    ASSERT_TRUE(origin->end_merge());
    snapshot.reset();
    snapshot = open(store);
    auto expected = filled(device.size(), 1);
    std::memset(expected.data() + 7 * chunk, 7, chunk);
    EXPECT_EQ(read(*origin, 0, origin->size()), expected);
}

TEST_F(OriginTest, AMergeOfNothingEndsThoughRoomWasLost) {
    FaultDevice faulty_store(store);
    auto snapshot = open(faulty_store);
    faulty_store.add({.operation = IoOperation::write, .offset = 2 * chunk, .length = chunk, .count = 1});
    EXPECT_FALSE(write_now(*snapshot, 0, filled(chunk, 5)));
    const auto usage = [&] { return snapshot->snapshot_status().usage; };
    EXPECT_GT(usage().allocated, usage().metadata);
    ASSERT_TRUE(origin->start_merge(snapshot));
    origin->stop_merge();
    EXPECT_EQ(usage().allocated, usage().metadata);
    ASSERT_TRUE(origin->end_merge());
}

// --- Stores that can't be ---

TEST_F(OriginTest, DamagedStoresAreRefused) {
    open(store).reset();
    const auto damaged = [&](std::uint64_t offset, std::vector<std::uint64_t> words) {
        MemoryDevice copy(store.size(), "copy");
        write(copy, 0, read(store, 0, store.size()));
        std::vector<std::byte> bytes(words.size() * 8);
        for (std::size_t index = 0; index < words.size(); ++index)
            store_little(&bytes[index * 8], words[index]);
        write(copy, offset, bytes);
        const auto opened = origin->open_snapshot(copy, options());
        return opened ? std::string("opened") : opened.error().message();
    };
    EXPECT_EQ(damaged(chunk, {}), "opened");
    EXPECT_THAT(damaged(0, {0x1234}), testing::HasSubstr("not an exception store"));
    EXPECT_THAT(damaged(8, {8ull << 32 | 2}), testing::HasSubstr("version 2"));
    EXPECT_THAT(damaged(8, {7ull << 32 | 1}), testing::HasSubstr("power of two"));
    EXPECT_THAT(damaged(8, {1ull << 63 | 1}), testing::HasSubstr("more than"));
    EXPECT_THAT(damaged(8, {1024ull << 32 | 1}), testing::HasSubstr("too few"));
    EXPECT_THAT(damaged(chunk, {3, 1}), testing::HasSubstr("not one of the store's data"));
    EXPECT_THAT(damaged(chunk, {3, 32}), testing::HasSubstr("not one of the store's data"));
    EXPECT_THAT(damaged(chunk, {64, 2}), testing::HasSubstr("behind the end of the origin"));
    EXPECT_THAT(damaged(chunk, {UINT64_MAX, UINT64_MAX}), testing::HasSubstr("not one of the store's data"));
    EXPECT_THAT(damaged(chunk, {3, 2, 3, 3}), testing::HasSubstr("a second exception"));
    EXPECT_THAT(damaged(chunk, {3, 2, 4, 2}), testing::HasSubstr("two exceptions name chunk 2"));
}

TEST_F(OriginTest, WhatATornWriteLeftIsPutRight) {
    auto snapshot = open(store);
    write(*origin, 0, filled(chunk, 2));
    snapshot.reset();
    std::vector<std::byte> stale(16);
    store_little<std::uint64_t>(&stale[0], 9);
    store_little<std::uint64_t>(&stale[8], 3);
    write(store, chunk + 2 * 16, stale);  // one exception behind the end
    snapshot = open(store);
    write(*origin, chunk, filled(chunk, 2));
    snapshot.reset();
    snapshot = open(store);
    EXPECT_EQ(snapshot->snapshot_status().line(), "32/256 16") << "it doesn't count";
    EXPECT_EQ(read(*snapshot, 0, device.size()), filled(device.size(), 1));
}

// Room is given out so that an area that is full has the next behind it.
TEST_F(OriginTest, TheLastAreaIsNeverFull) {
    MemoryDevice tight((2 + 32) * 512, "tight");  // the header, an area of 32 exceptions, 32 chunks of data
    auto snapshot = open(tight, options("PO", 1));
    write(*snapshot, 0, filled(31 * 512, 2));
    EXPECT_FALSE(write_now(*snapshot, 40 * 512, filled(512, 3)));
    EXPECT_EQ(snapshot->snapshot_status().line(), "Overflow");
    snapshot.reset();
    EXPECT_EQ(inspect_store(tight, device.size())->exceptions, 31u);
}

}  // namespace
}  // namespace lamella::cow
