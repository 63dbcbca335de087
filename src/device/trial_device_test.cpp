// SPDX-License-Identifier: Apache-2.0
#include "device/trial_device.h"

#include "device/fault_device.h"
#include "device/memory_device.h"
#include "device/test_support.h"

namespace lamella {
namespace {

using test::pattern;

constexpr std::uint64_t size = 64 * 1024 + 512;  // the last page isn't whole

TEST(TrialDevice, ReadsWhatWasWrittenAndLeavesTheLowerDeviceAlone) {
    MemoryDevice memory(size);
    const auto before = pattern(size, 1);
    ASSERT_TRUE(write_now(memory, 0, before));
    FaultDevice lower(memory);
    TrialDevice trial(lower);

    auto expected = before;
    const auto change = [&](std::uint64_t offset, std::uint64_t length, int seed) {
        const auto bytes = pattern(length, seed);
        ASSERT_TRUE(write_now(trial, offset, bytes));
        std::ranges::copy(bytes, expected.begin() + static_cast<std::ptrdiff_t>(offset));
    };
    change(512, 1024, 2);
    change(4096 - 512, 8192, 3);
    change(size - 512, 512, 4);
    ASSERT_TRUE(write_zeroes_now(trial, 20480, 6144));
    std::fill_n(expected.begin() + 20480, 6144, std::byte{0});
    ASSERT_TRUE(flush_now(trial));

    std::vector<std::byte> read(size);
    ASSERT_TRUE(read_now(trial, 0, read));
    EXPECT_EQ(read, expected);
    ASSERT_TRUE(read_now(memory, 0, read));
    EXPECT_EQ(read, before);
    for (const IoOperation operation : {IoOperation::write, IoOperation::write_zeroes, IoOperation::discard, IoOperation::flush})
        EXPECT_EQ(lower.count(operation), 0u);
}

TEST(TrialDevice, FailsWhereTheLowerDeviceDoes) {
    MemoryDevice memory(size);
    FaultDevice lower(memory);
    lower.add({.operation = IoOperation::read, .offset = 8192, .length = 4096});
    TrialDevice trial(lower);
    std::vector<std::byte> bytes(4096);
    EXPECT_TRUE(read_now(trial, 0, bytes));
    EXPECT_FALSE(read_now(trial, 8192, bytes));
    EXPECT_FALSE(write_now(trial, 8192, std::span(bytes).first(512)));
}

}  // namespace
}  // namespace lamella
