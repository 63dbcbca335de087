// SPDX-License-Identifier: Apache-2.0
#include "device/crash_device.h"

#include <cstring>
#include <set>

#include "device/test_support.h"

namespace lamella {
namespace {

using test::pattern;
using test::Request;

constexpr std::uint64_t sector = 512;
constexpr std::uint64_t disk_size = 1024 * 1024;

std::vector<std::byte> content_of(BlockDevice& device) {
    std::vector<std::byte> bytes(device.size());
    EXPECT_TRUE(read_now(device, 0, bytes));
    return bytes;
}

std::vector<std::byte> filled(std::size_t size, int value) { return std::vector<std::byte>(size, static_cast<std::byte>(value)); }

class CrashDeviceTest : public testing::Test {
  protected:
    PowerSwitch power;
    CrashDevice device{disk_size, "disk", power};
    std::unique_ptr<IoQueue> queue = *make_plain_queue();
};

TEST_F(CrashDeviceTest, LosesKeepsAndTearsWhatNoFlushCovers) {
    ASSERT_TRUE(write_now(device, 0, filled(8 * sector, 1)));
    ASSERT_TRUE(flush_now(device));
    ASSERT_EQ(device.uncovered(), 0u);
    ASSERT_TRUE(write_now(device, 0, filled(8 * sector, 2)));
    int lost = 0, kept = 0, torn = 0;
    std::set<std::vector<int>> shapes;
    for (std::uint64_t seed = 0; seed < 1000; ++seed) {
        const auto disk = device.cut(seed);
        const auto bytes = content_of(*disk);
        std::vector<int> shape;
        for (std::uint64_t at = 0; at < 8 * sector; at += sector) {
            for (std::uint64_t byte = 1; byte < sector; ++byte)
                ASSERT_EQ(bytes[at + byte], bytes[at]) << "a sector is never torn";
            shape.push_back(static_cast<int>(bytes[at]));
        }
        const auto twos = std::count(shape.begin(), shape.end(), 2);
        ASSERT_EQ(twos + std::count(shape.begin(), shape.end(), 1), 8);
        (twos == 0 ? lost : twos == 8 ? kept : torn)++;
        shapes.insert(shape);
    }
    EXPECT_GT(lost, 100);
    EXPECT_GT(kept, 100);
    EXPECT_GT(torn, 50);
    EXPECT_GT(shapes.size(), 20u) << "torn in many ways";
    EXPECT_EQ(content_of(device)[0], std::byte{2}) << "cut() leaves the device alone";
    EXPECT_EQ(content_of(*device.cut(77)), content_of(*device.cut(77))) << "a seed says it all";
}

TEST_F(CrashDeviceTest, TearsNoPhysicalBlock) {
    constexpr std::uint64_t block = 4096;
    CrashDevice disk{disk_size, "disk", power, SparseBytes(), {}, block};
    EXPECT_EQ(disk.traits().physical_block, block);
    ASSERT_TRUE(write_now(disk, 0, filled(5 * block, 1)));
    ASSERT_TRUE(flush_now(disk));
    ASSERT_TRUE(write_now(disk, block - sector, filled(3 * block, 2)));  // one sector of the first block, all but one of the last
    std::set<std::vector<int>> shapes;
    for (std::uint64_t seed = 0; seed < 5000; ++seed) {
        const auto bytes = content_of(*disk.cut(seed));
        std::vector<int> shape;
        for (const auto& [begin, end] :
             {std::pair{block - sector, block}, {block, 2 * block}, {2 * block, 3 * block}, {3 * block, 4 * block - sector}}) {
            for (std::uint64_t at = begin; at < end; ++at)
                ASSERT_EQ(bytes[at], bytes[begin]) << "seed " << seed << ", byte " << at;
            shape.push_back(static_cast<int>(bytes[begin]));
        }
        shapes.insert(shape);
    }
    EXPECT_EQ(shapes.size(), 16u) << "all sets of blocks";
}

TEST_F(CrashDeviceTest, ReordersWritesOfOneFlushInterval) {
    for (int index = 0; index < 4; ++index)
        ASSERT_TRUE(write_now(device, static_cast<std::uint64_t>(index) * 4096, filled(4096, index + 1)));
    std::set<std::vector<bool>> seen;
    for (std::uint64_t seed = 0; seed < 2000; ++seed) {
        const auto bytes = content_of(*device.cut(seed));
        std::vector<bool> there;
        for (std::size_t index = 0; index < 4; ++index)
            there.push_back(bytes[index * 4096] != std::byte{0});
        seen.insert(there);
    }
    EXPECT_EQ(seen.size(), 16u) << "every set of survivors, whatever the order of writing";
}

TEST_F(CrashDeviceTest, AnOlderWriteNeverWinsOverALaterOneThatWasKept) {
    ASSERT_TRUE(write_now(device, 0, filled(4096, 1)));
    ASSERT_TRUE(write_now(device, 0, filled(4096, 2)));
    ASSERT_TRUE(write_now(device, 4096, filled(4096, 3)));
    std::set<int> seen;
    for (std::uint64_t seed = 0; seed < 500; ++seed)
        seen.insert(static_cast<int>(content_of(*device.cut(seed))[0]));
    EXPECT_EQ(seen, (std::set<int>{0, 1, 2}));
    // Once the later is durable, there is no way back to the earlier.
    Request durable{IoOperation::write, 0, 4096};
    auto bytes = filled(4096, 4);
    durable.vector = {bytes.data(), bytes.size()};
    durable.durable = true;
    ASSERT_EQ(durable.run(device, *queue), 0);
    for (std::uint64_t seed = 0; seed < 500; ++seed)
        ASSERT_EQ(content_of(*device.cut(seed))[0], std::byte{4});
}

TEST_F(CrashDeviceTest, AFlushCoversWhatHadCompletedWhenItWasSubmitted) {
    auto early = filled(4096, 1);
    auto late = filled(4096, 2);
    Request before{IoOperation::write, 0, 4096, early.data()};
    ASSERT_EQ(before.run(device, *queue), 0);
    Request beside{IoOperation::write, 4096, 4096, late.data()};
    device.submit(*queue, beside);  // in flight as the flush comes
    Request flush{IoOperation::flush, 0, 0};
    device.submit(*queue, flush);
    // In the middle of the flush both may be lost.
    std::set<int> first, second;
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
        const auto bytes = content_of(*device.cut(seed));
        first.insert(static_cast<int>(bytes[0]));
        second.insert(static_cast<int>(bytes[4096]));
    }
    EXPECT_EQ(first, (std::set<int>{0, 1}));
    EXPECT_EQ(second, (std::set<int>{0, 2}));
    queue->run_until([&] { return flush.done && beside.done; });
    first.clear();
    second.clear();
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
        const auto bytes = content_of(*device.cut(seed));
        first.insert(static_cast<int>(bytes[0]));
        second.insert(static_cast<int>(bytes[4096]));
    }
    EXPECT_EQ(first, (std::set<int>{1}));
    EXPECT_EQ(second, (std::set<int>{0, 2})) << "a write beside the flush is not covered";
}

TEST_F(CrashDeviceTest, DiscardsAndZerosAreLostLikeWrites) {
    ASSERT_TRUE(write_now(device, 0, filled(16384, 1)));
    ASSERT_TRUE(flush_now(device));
    ASSERT_TRUE(discard_now(device, 0, 8192));
    ASSERT_TRUE(write_zeroes_now(device, 8192, 8192));
    EXPECT_EQ(content_of(device)[0], std::byte{0});
    std::set<std::pair<int, int>> seen;
    for (std::uint64_t seed = 0; seed < 500; ++seed) {
        const auto bytes = content_of(*device.cut(seed));
        seen.insert({static_cast<int>(bytes[0]), static_cast<int>(bytes[8192])});
    }
    EXPECT_EQ(seen.size(), 4u);
}

TEST_F(CrashDeviceTest, ThePowerGoesWithTheNthOperationOfAllDisks) {
    CrashDevice other{disk_size, "other", power};
    ASSERT_TRUE(write_now(device, 0, filled(4096, 1)));
    ASSERT_TRUE(flush_now(device));
    power.cut_after(3);
    ASSERT_TRUE(write_now(other, 0, filled(4096, 2)));
    ASSERT_TRUE(write_now(device, 4096, filled(4096, 3)));
    EXPECT_FALSE(power.off());
    // The third is a flush: it never completes well, and what it would have covered may be lost.
    EXPECT_EQ(flush_now(device).error().error_number(), EIO);
    EXPECT_TRUE(power.off());
    EXPECT_EQ(power.operations(), 5u);
    EXPECT_FALSE(write_now(other, 4096, filled(4096, 4)));
    std::vector<std::byte> bytes(4096);
    EXPECT_FALSE(read_now(device, 0, bytes));
    std::set<int> seen;
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
        const auto disk = content_of(*device.cut(seed));
        EXPECT_EQ(disk[0], std::byte{1});
        seen.insert(static_cast<int>(disk[4096]));
        EXPECT_EQ(content_of(*other.cut(seed))[4096], std::byte{0}) << "nothing is taken without power";
    }
    EXPECT_EQ(seen, (std::set<int>{0, 3}));
    // The next start goes on from what is left.
    PowerSwitch again;
    CrashDevice revived{disk_size, "disk", again, device.remains(1)};
    EXPECT_EQ(content_of(revived), content_of(*device.cut(1)));
}

TEST_F(CrashDeviceTest, WhatIsInFlightAtTheCutFailsWithoutEffect) {
    auto bytes = filled(4096, 1);
    Request write{IoOperation::write, 0, 4096, bytes.data()};
    device.submit(*queue, write);
    power.cut_now();
    queue->run_until([&] { return write.done; });
    EXPECT_EQ(write.error, EIO);
    std::set<int> seen;
    for (std::uint64_t seed = 0; seed < 300; ++seed)
        seen.insert(static_cast<int>(content_of(*device.cut(seed))[0]));
    EXPECT_EQ(seen, (std::set<int>{0, 1})) << "the disk may have got it all the same";
}

TEST(CrashDevice, CompletionsOvertakeEachOtherByTheSeed) {
    std::set<std::vector<int>> orders;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        std::vector<int> first;
        for (int repeat = 0; repeat < 2; ++repeat) {
            PowerSwitch power;
            CrashDevice device{disk_size, "disk", power, CompletionDelays{.seed = seed, .max_steps = 5}};
            auto queue = *make_plain_queue();
            struct Ordered : Request {
                using Request::Request;
                std::vector<int>* order = nullptr;
                int number = 0;
            };
            std::vector<int> order;
            auto bytes = filled(4096, 1);
            std::vector<std::unique_ptr<Ordered>> requests;
            for (int index = 0; index < 6; ++index) {
                const std::uint64_t offset = static_cast<std::uint64_t>(index) * 4096;
                requests.push_back(std::make_unique<Ordered>(IoOperation::write, offset, 4096, bytes.data()));
                requests.back()->order = &order;
                requests.back()->number = index;
                requests.back()->completed = [](IoRequest& request, int) {
                    auto& self = static_cast<Ordered&>(request);
                    self.order->push_back(self.number);
                };
                device.submit(*queue, *requests.back());
            }
            queue->run_until([&] { return order.size() == 6; });
            if (repeat == 0)
                first = order;
            EXPECT_EQ(order, first) << "seed " << seed;
        }
        orders.insert(first);
    }
    EXPECT_GT(orders.size(), 10u);
}

// A model of its own: for every sector the values that a cut may show.
TEST(CrashDevice, ACutShowsWhatAModelAllows) {
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
        SCOPED_TRACE(testing::Message() << "seed " << seed);
        std::mt19937_64 random(seed);
        constexpr std::uint64_t sectors = 64;
        PowerSwitch power;
        CrashDevice device{sectors * sector, "disk", power};
        auto queue = *make_plain_queue();
        std::vector<std::set<int>> allowed(sectors, std::set<int>{0});
        std::vector<int> current(sectors, 0);
        for (int round = 1; round < 120; ++round) {
            const std::uint64_t begin = random() % sectors;
            const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(8, sectors - begin);
            const int kind = static_cast<int>(random() % 10);
            if (kind == 0) {
                ASSERT_TRUE(flush_now(device));
                for (std::uint64_t index = 0; index < sectors; ++index)
                    allowed[index] = {current[index]};
                continue;
            }
            const bool zero = kind == 1;
            const int value = zero ? 0 : round;
            auto bytes = filled(count * sector, value);
            Request request{zero ? IoOperation::write_zeroes : IoOperation::write, begin * sector, count * sector, bytes.data()};
            request.durable = random() % 8 == 0;
            ASSERT_EQ(request.run(device, *queue), 0);
            for (std::uint64_t index = begin; index < begin + count; ++index) {
                current[index] = value;
                if (request.durable)
                    allowed[index].clear();
                allowed[index].insert(value);
            }
            const auto disk = content_of(*device.cut(random()));
            for (std::uint64_t index = 0; index < sectors; ++index)
                ASSERT_TRUE(allowed[index].contains(static_cast<int>(disk[index * sector]))) << "sector " << index << " round " << round;
        }
    }
}

}  // namespace
}  // namespace lamella
