// SPDX-License-Identifier: Apache-2.0
#include "tools/transfer.h"

#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "device/fault_device.h"
#include "tools/pool_test_support.h"

namespace lamella::tools {
namespace {

using test::TestPool;
using test::value_of;

constexpr std::uint64_t block_bytes = 128 * sector_bytes;
constexpr std::uint64_t blocks = 300;                               // of the volumes
constexpr std::uint64_t volume_size = blocks * block_bytes - 4096;  // the last one lies beyond the end in part

// A pool with data, and what its volumes hold: a number at the beginning and at the end of each block, 0 where nothing is mapped.
struct DataPool {
    explicit DataPool(std::uint64_t seed) : random(seed) {}

    void write(std::uint32_t id, std::uint64_t first, std::uint64_t count, std::uint64_t step) {
        pool.write(id, first, count, step);
        for (std::uint64_t block = first; block < first + count * step; block += step) {
            std::vector<std::byte> bytes(block_bytes);
            store_little<std::uint64_t>(bytes.data(), ++stamp);
            store_little<std::uint64_t>(bytes.data() + block_bytes - 4096 - 8, stamp);
            value_of(write_now(data, pool.data_block(id, block).value() * block_bytes, bytes));
            contents[id][block] = stamp;
        }
    }
    void discard(std::uint32_t id, std::uint64_t first, std::uint64_t end) {
        pool.discard(id, first, end);
        std::erase_if(contents[id], [&](const auto& entry) { return entry.first >= first && entry.first < end; });
    }
    void snapshot(std::uint32_t id, std::uint32_t origin) {
        pool.snapshot(id, origin);
        contents[id] = contents[origin];
    }
    // A volume 1 that is written, discarded and snapshot as 2 before the last rounds.
    void draw() {
        pool.thin(1);
        for (unsigned round = 0; round < 24; ++round) {
            if (round == 16)
                snapshot(2, 1);
            const std::uint64_t first = random() % (blocks - 60);
            if (round % 4 == 3)
                discard(1, first, first + random() % 60);
            else
                write(1, first, 1 + random() % 20, 1 + random() % 3);
        }
        write(1, blocks - 1, 1, 1);
    }
    void expect(std::uint32_t id, BlockDevice& copy) {
        const std::map<std::uint64_t, std::uint64_t>& expected = contents[id];
        for (std::uint64_t block = 0; block < blocks; ++block) {
            const std::uint64_t stamp_there = expected.contains(block) ? expected.at(block) : 0;
            for (const std::uint64_t place : {block * block_bytes, (block + 1) * block_bytes - 4096 - 8}) {
                std::byte bytes[8];
                value_of(read_now(copy, place, bytes));
                ASSERT_EQ(load_little<std::uint64_t>(bytes), stamp_there) << "block " << block;
            }
        }
    }

    TestPool pool{2000, 512};
    MemoryDevice data{2000 * block_bytes, "data"};
    std::mt19937_64 random;
    std::uint64_t stamp = 0;
    std::map<std::uint32_t, std::map<std::uint64_t, std::uint64_t>> contents;
};

TEST(Transfer, MakesACopyAndThenOnlyWhatDiffers) {
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
        SCOPED_TRACE(seed);
        DataPool pool(seed);
        pool.draw();
        MemoryDevice copy(volume_size, "copy");
        const TransferTarget target{.device = copy, .size = volume_size, .memory = 3 * 4096};
        TransferReport report = value_of(transfer(pool.pool.device, pool.data, target, {.volume = ThinId(2)}));
        EXPECT_EQ(report.zeroed, 0u);
        EXPECT_EQ(report.copied + report.left, volume_size);
        pool.expect(2, copy);
        report = value_of(transfer(pool.pool.device, pool.data, target, {.volume = ThinId(1), .base = ThinId(2)}));
        EXPECT_LT(report.copied, pool.contents[1].size() * block_bytes);
        pool.expect(1, copy);
        EXPECT_EQ(value_of(measure_transfer(pool.pool.device, {.volume = ThinId(1)})).end, blocks * block_bytes);
    }
}

TEST(Transfer, LeavesTheRestOrMakesZerosOfIt) {
    DataPool pool(7);
    pool.draw();
    std::vector<std::byte> old(volume_size, std::byte{0xee});
    MemoryDevice copy(volume_size, "copy");
    value_of(write_now(copy, 0, old));
    TransferTarget target{.device = copy, .size = volume_size, .memory = 1 << 20};
    TransferReport report = value_of(transfer(pool.pool.device, pool.data, target, {.volume = ThinId(1)}));
    EXPECT_GT(report.left, 0u);
    std::vector<std::byte> bytes(volume_size);
    value_of(read_now(copy, 0, bytes));
    std::uint64_t untouched = 0;
    for (std::uint64_t block = 0; block < blocks; ++block)
        if (!pool.contents[1].contains(block)) {
            ++untouched;
            EXPECT_TRUE(std::equal(old.begin(), old.begin() + block_bytes, bytes.begin() + std::int64_t(block * block_bytes)));
        }
    EXPECT_EQ(report.left, untouched * block_bytes);
    target.zero_rest = true;
    report = value_of(transfer(pool.pool.device, pool.data, target, {.volume = ThinId(1)}));
    EXPECT_EQ(report.left, 0u);
    EXPECT_EQ(report.zeroed, untouched * block_bytes);
    pool.expect(1, copy);
}

TEST(Transfer, CopiesOfABiggerVolumeWhatTheTargetHolds) {
    DataPool pool(8);
    pool.draw();
    const std::uint64_t size = 100 * block_bytes;
    MemoryDevice copy(2 * size, "copy");
    std::vector<std::byte> beyond(size, std::byte{0xee});
    value_of(write_now(copy, size, beyond));
    value_of(
        transfer(pool.pool.device, pool.data, {.device = copy, .size = size, .zero_rest = true, .memory = 4096}, {.volume = ThinId(1)}));
    std::vector<std::byte> bytes(size);
    value_of(read_now(copy, size, bytes));
    EXPECT_EQ(bytes, beyond);
}

TEST(Transfer, EndsWithinAUnitOfTheDevices) {
    DataPool pool(11);
    pool.draw();
    const std::uint64_t size = volume_size - 100;
    MemoryDevice copy(volume_size, "copy");
    std::vector<std::byte> old(volume_size, std::byte{0xee});
    value_of(write_now(copy, 0, old));
    const TransferTarget target{.device = copy, .size = size, .zero_rest = true, .memory = 1 << 20};
    const TransferReport report = value_of(transfer(pool.pool.device, pool.data, target, {.volume = ThinId(1)}));
    EXPECT_EQ(report.copied + report.zeroed, size);
    std::vector<std::byte> bytes(volume_size);
    value_of(read_now(copy, 0, bytes));
    EXPECT_TRUE(std::equal(old.end() - 100, old.end(), bytes.end() - 100)) << "what lies behind the volume was changed";
    EXPECT_EQ(std::to_integer<unsigned>(bytes[size - 1]), 0u);
    // The last block's second number lies within that unit.
    EXPECT_EQ(load_little<std::uint64_t>(bytes.data() + (blocks - 1) * block_bytes), pool.contents[1].at(blocks - 1));
}

TEST(Transfer, ReadsWhileItWrites) {
    DataPool pool(12);
    pool.draw();
    MemoryDevice copy(volume_size, "copy");
    FaultDevice data(pool.data);
    FaultDevice slow(copy);
    slow.add({.operation = IoOperation::write, .count = 1, .hold = true});
    std::atomic<bool> ended = false;
    std::thread transferring([&] {
        value_of(transfer(pool.pool.device, data, {.device = slow, .size = volume_size, .memory = 4 * 4096}, {.volume = ThinId(1)}));
        ended = true;
    });
    // One of the four pieces waits for its write, the others go on until all is read but what would take its place.
    while (slow.count(IoOperation::write) < 100)
        std::this_thread::yield();
    EXPECT_EQ(slow.held(), 1u);
    EXPECT_FALSE(ended);
    slow.release();
    transferring.join();
    pool.expect(1, copy);
}

TEST(Transfer, TellsWhatCouldNotBeReadOrWritten) {
    DataPool pool(13);
    pool.draw();
    MemoryDevice copy(volume_size, "copy");
    FaultDevice data(pool.data);
    data.add({.operation = IoOperation::read, .skip = 20, .count = 1});
    auto report = transfer(pool.pool.device, data, {.device = copy, .size = volume_size, .memory = 8 * 4096}, {.volume = ThinId(1)});
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().error_number(), EIO);
    EXPECT_NE(report.error().message().find("reading 4096 bytes at "), std::string::npos) << report.error().message();
    EXPECT_LT(data.count(IoOperation::read), 40u) << "goes on reading though it has failed";

    FaultDevice full(copy);
    full.add({.operation = IoOperation::write, .skip = 20, .error = ENOSPC});
    report = transfer(pool.pool.device, pool.data, {.device = full, .size = volume_size, .memory = 8 * 4096}, {.volume = ThinId(1)});
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().kind(), ErrorKind::no_space) << report.error().message();
    EXPECT_EQ(full.count(IoOperation::flush), 0u);
}

// A key beyond all sizes, in a leaf with a right checksum, is no place to write to.
TEST(Transfer, BelievesNoImpossibleMapping) {
    DataPool pool(9);
    pool.pool.thin(1);
    pool.write(1, 0, 3, 1);
    const std::uint64_t leaf = pool.pool.leaf_of(1, 0);
    pool.pool.edit(leaf, pdata::BlockKind::node, [](std::byte* node) {
        store_little<std::uint64_t>(test::key_place(node, 1), (std::uint64_t{1} << 48) + 1);
        store_little<std::uint64_t>(test::key_place(node, 2), UINT64_MAX);
    });
    MemoryDevice copy(volume_size, "copy");
    const auto report = transfer(pool.pool.device, pool.data, {.device = copy, .size = volume_size, .zero_rest = true, .memory = 4096},
                                 {.volume = ThinId(1)});
    if (report) {
        std::byte bytes[8];
        value_of(read_now(copy, 0, bytes));
        EXPECT_EQ(load_little<std::uint64_t>(bytes), 1u);
        EXPECT_EQ(report->copied, block_bytes);
    } else {
        EXPECT_EQ(report.error().kind(), ErrorKind::damaged);
    }
}

TEST(Transfer, StopsWhenItIsTold) {
    DataPool pool(10);
    pool.draw();
    std::atomic<bool> stop = false;
    MemoryDevice copy(volume_size, "copy");
    const Control control{.progress = [&](std::uint64_t done, std::uint64_t) { stop = done >= 10 * block_bytes; }, .stop = &stop};
    const auto report = transfer(pool.pool.device, pool.data, {.device = copy, .size = volume_size, .memory = block_bytes},
                                 {.volume = ThinId(1), .control = control});
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().message(), "interrupted");
}

}  // namespace
}  // namespace lamella::tools
