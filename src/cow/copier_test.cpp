// SPDX-License-Identifier: Apache-2.0
#include "cow/copier.h"

#include <algorithm>
#include <deque>
#include <vector>

#include <gtest/gtest.h>

#include "device/fault_device.h"
#include "device/io_queue.h"
#include "device/memory_device.h"

namespace lamella::cow {
namespace {

constexpr std::uint64_t small = 4 << 10, large = 256 << 10;

class CopierTest : public testing::Test {
  protected:
    CopierTest() {
        std::vector<std::byte> bytes(memory.size());
        for (std::size_t at = 0; at < bytes.size(); ++at)
            bytes[at] = static_cast<std::byte>(at / 512 % 251);
        EXPECT_TRUE(write_now(memory, 0, bytes));
        from.add({.operation = IoOperation::read, .hold = true});
    }
    void settle() {
        while (queue->run_once(false)) {}
    }
    void start(std::uint64_t offset, std::uint64_t length) {
        Copy& copy = copies.emplace_back();
        copy.from = &from;
        copy.offset = offset;
        copy.length = length;
        copy.targets.push_back({.device = &to, .start = 0, .length = length, .offset = offset});
        copy.completed = [](Copy& done) { done.from = nullptr; };
        copier.start(copy);
    }
    void release_all() {
        while (from.held() > 0) {
            from.release();
            settle();
        }
        for (const Copy& copy : copies)
            EXPECT_TRUE(copy.from == nullptr && copy.targets[0].error == 0);
        std::vector<std::byte> read(memory.size()), copied(memory.size());
        EXPECT_TRUE(read_now(memory, 0, read) && read_now(to, 0, copied));
        for (const Copy& copy : copies)
            EXPECT_TRUE(std::equal(read.begin() + copy.offset, read.begin() + copy.offset + copy.length, copied.begin() + copy.offset));
        copies.clear();
    }

    MemoryDevice memory{4 << 20, "origin"}, to{4 << 20, "store"};
    FaultDevice from{memory};
    std::unique_ptr<IoQueue> queue = *make_plain_queue();
    Copier copier{*queue, 1 << 20};
    std::deque<Copy> copies;
};

// Many small copies wait for a flush together: as many as the memory is for, however few large ones that were.
TEST_F(CopierTest, AsManyCopiesAreUnderWayAsTheBytesAllow) {
    for (std::uint64_t number = 0; number < 300; ++number)
        start(number * 2 * small, small);
    settle();
    EXPECT_EQ(from.held(), (1u << 20) / (9 << 10));
    release_all();

    // The memory of the small ones goes to the large ones, and back.
    for (std::uint64_t number = 0; number < 6; ++number)
        start(number * large, large);
    settle();
    EXPECT_EQ(from.held(), (1u << 20) / (261 << 10));
    release_all();

    start(0, large);
    start(large, 2 * large + small);
    for (std::uint64_t number = 0; number < 100; ++number)
        start((2 << 20) + number * small, small);
    settle();
    EXPECT_EQ(from.held(), 3 + ((1u << 20) - 3 * (261 << 10)) / (9 << 10)) << "three pieces of 256 KiB, all others of 4 KiB";
    release_all();
}

TEST_F(CopierTest, APieceAtATimeWhereThereIsMemoryForLess) {
    Copier scant(*queue, 1);
    Copy& copy = copies.emplace_back();
    copy.from = &from;
    copy.length = 4 * large - 512;
    copy.targets.push_back({.device = &to, .start = 0, .length = copy.length, .offset = 0});
    copy.completed = [](Copy& done) { done.from = nullptr; };
    scant.start(copy);
    for (int piece = 0; piece < 4; ++piece) {
        settle();
        ASSERT_EQ(from.held(), 1u);
        from.release();
    }
    settle();
    release_all();
}

}  // namespace
}  // namespace lamella::cow
