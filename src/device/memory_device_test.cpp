// SPDX-License-Identifier: Apache-2.0
#include "device/memory_device.h"

#include <cstring>

#include "device/test_support.h"

namespace lamella {
namespace {

using test::pattern;

TEST(MemoryDevice, SynchronousCallsAtAnyOffsetMatchAnArray) {
    constexpr std::size_t size = 256 * 1024;
    MemoryDevice device(size);
    std::vector<std::byte> model(size);
    std::mt19937 random(7);
    for (int round = 0; round < 2000; ++round) {
        const std::size_t offset = random() % size;
        const std::size_t length = random() % std::min<std::size_t>(size - offset + 1, 20000);
        switch (random() % 4) {
        case 0: {
            const auto bytes = pattern(length, random());
            ASSERT_TRUE(write_now(device, offset, bytes));
            std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
            break;
        }
        case 1:
            ASSERT_TRUE(write_zeroes_now(device, offset, length));
            std::memset(model.data() + offset, 0, length);
            break;
        default: {
            std::vector<std::byte> bytes(length, std::byte{0xee});
            ASSERT_TRUE(read_now(device, offset, bytes));
            ASSERT_EQ(0, std::memcmp(bytes.data(), model.data() + offset, length)) << "round " << round;
        }
        }
    }
    std::vector<std::byte> all(size);
    ASSERT_TRUE(read_now(device, 0, all));
    EXPECT_EQ(all, model);
}

TEST(MemoryDevice, ReportsHolesAndLeavesThemUntouched) {
    MemoryDevice device(64 * 1024);
    const auto bytes = pattern(4096, 1);
    ASSERT_TRUE(write_now(device, 8192, bytes));
    auto queue = *make_plain_queue();
    std::vector<std::byte> buffer(16384, std::byte{0x55});
    const iovec vector{buffer.data(), buffer.size()};
    HoleList holes;
    bool done = false;
    IoRequest request{.operation = IoOperation::read, .offset = 0, .length = buffer.size(), .vectors = {&vector, 1}, .holes = &holes};
    request.context = &done;
    request.completed = [](IoRequest& finished, int error) {
        EXPECT_EQ(error, 0);
        *static_cast<bool*>(finished.context) = true;
    };
    device.submit(*queue, request);
    EXPECT_FALSE(done) << "completed inside submit";
    queue->run_until([&] { return done; });
    ASSERT_EQ(holes.count, 2u);
    EXPECT_EQ(holes.holes[0].offset, 0u);
    EXPECT_EQ(holes.holes[0].length, 8192u);
    EXPECT_EQ(holes.holes[1].offset, 12288u);
    EXPECT_EQ(holes.holes[1].length, 4096u);
    EXPECT_EQ(buffer[0], std::byte{0x55});
    EXPECT_EQ(0, std::memcmp(buffer.data() + 8192, bytes.data(), bytes.size()));
}

TEST(MemoryDevice, FillsZerosOnceTheHoleListIsFull) {
    MemoryDevice device(1024 * 1024);
    for (std::uint64_t page = 1; page < 256; page += 2)
        ASSERT_TRUE(write_now(device, page * 4096, pattern(4096, static_cast<unsigned>(page))));
    auto queue = *make_plain_queue();
    std::vector<std::byte> buffer(1024 * 1024, std::byte{0x55});
    const iovec vector{buffer.data(), buffer.size()};
    HoleList holes;
    bool done = false;
    IoRequest request{.operation = IoOperation::read, .offset = 0, .length = buffer.size(), .vectors = {&vector, 1}, .holes = &holes};
    request.context = &done;
    request.completed = [](IoRequest& finished, int) { *static_cast<bool*>(finished.context) = true; };
    device.submit(*queue, request);
    queue->run_until([&] { return done; });
    EXPECT_EQ(holes.count, HoleList::capacity);
    for (std::size_t page = 2 * HoleList::capacity; page < 256; page += 2)
        EXPECT_EQ(buffer[page * 4096], std::byte{0});
}

TEST(MemoryDevice, RefusesWhatLiesBeyondItsEnd) {
    MemoryDevice device(8192);
    std::vector<std::byte> bytes(4096);
    EXPECT_EQ(read_now(device, 8192, bytes).error().error_number(), EINVAL);
    EXPECT_EQ(write_now(device, 8192, bytes).error().error_number(), ENOSPC);
    EXPECT_EQ(write_zeroes_now(device, 4096, 8192).error().kind(), ErrorKind::no_space);
    EXPECT_EQ(discard_now(device, 1ULL << 63, 1ULL << 63).error().error_number(), EINVAL);
    device.grow(12288);
    EXPECT_TRUE(write_now(device, 8192, bytes));
}

TEST(MemoryDevice, StatusAndKnownZeroFollowTheAllocation) {
    MemoryDevice device(32 * 1024);
    ASSERT_TRUE(write_now(device, 8192, pattern(8192, 2)));
    auto extents = *status_now(device, 0, 32 * 1024, 10);
    ASSERT_EQ(extents.size(), 3u);
    EXPECT_EQ(extents[0].length, 8192u);
    EXPECT_FALSE(extents[0].allocated);
    EXPECT_TRUE(extents[0].zero);
    EXPECT_TRUE(extents[1].allocated);
    EXPECT_EQ(extents[1].length, 8192u);
    EXPECT_EQ(extents[2].length, 16384u);
    EXPECT_EQ(status_now(device, 4096, 32 * 1024, 1)->front().length, 4096u);
    EXPECT_EQ(device.known_zero(0, 1 << 20), 8192u);
    EXPECT_EQ(device.known_zero(0, 100), 100u);
    EXPECT_EQ(device.known_zero(8192, 100), 0u);
    ASSERT_TRUE(discard_now(device, 8192, 8192));
    EXPECT_EQ(device.allocated_pages(), 0u);
}

}  // namespace
}  // namespace lamella
