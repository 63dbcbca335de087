// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <set>
#include <string_view>
#include <unordered_set>

#include <gtest/gtest.h>

#include "base/checksum.h"
#include "base/clock.h"
#include "base/endian.h"
#include "base/strong.h"
#include "base/uuid.h"

namespace lamella {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(Checksum, MatchesPublishedValues) {
    // The check values of CRC-32C and CRC-32 (both with inversion before and after) in the catalogues of CRCs; RFC 3720 B.4.
    EXPECT_EQ(~crc32c(0xffffffff, bytes_of("123456789")), 0xe3069283u);
    const std::array<std::byte, 32> zeros{};
    EXPECT_EQ(~crc32c(0xffffffff, zeros), 0x8a9136aau);
    std::array<std::byte, 32> ones;
    ones.fill(std::byte{0xff});
    EXPECT_EQ(~crc32c(0xffffffff, ones), 0x62a8ab43u);
    EXPECT_EQ(~crc32_lvm(0xffffffff, bytes_of("123456789")), 0xcbf43926u);
    EXPECT_EQ(crc32_lvm(lvm_crc_initial, {}), lvm_crc_initial);
}

TEST(Checksum, GoesOnFromWhereItStopped) {
    const auto all = bytes_of("the quick brown fox jumps over the lazy dog");
    for (std::size_t cut = 0; cut <= all.size(); ++cut) {
        EXPECT_EQ(crc32c(crc32c(1, all.first(cut)), all.subspan(cut)), crc32c(1, all));
        EXPECT_EQ(crc32_lvm(crc32_lvm(1, all.first(cut)), all.subspan(cut)), crc32_lvm(1, all));
    }
}

TEST(Endian, LaysBytesDownInOrder) {
    std::array<std::byte, 9> bytes{};
    store_little<std::uint64_t>(bytes.data() + 1, 0x0102030405060708ULL);
    EXPECT_EQ(bytes[1], std::byte{8});
    EXPECT_EQ(bytes[8], std::byte{1});
    EXPECT_EQ(load_little<std::uint64_t>(bytes.data() + 1), 0x0102030405060708ULL);
    EXPECT_EQ(load_big<std::uint64_t>(bytes.data() + 1), 0x0807060504030201ULL);
    store_big<std::uint16_t>(bytes.data(), 0x0102);
    EXPECT_EQ(bytes[0], std::byte{1});
    EXPECT_EQ(load_little<std::uint16_t>(bytes.data()), 0x0201);
    EXPECT_EQ(load_big<std::uint32_t>(bytes.data()), 0x01020706u);
}

TEST(Strong, CountsLikeAnIntegerOfItsOwnKind) {
    DataBlock block(5);
    EXPECT_EQ((block + 3).value(), 8u);
    EXPECT_EQ((block - 3).value(), 2u);
    EXPECT_EQ(block + 3 - block, 3u);
    EXPECT_LT(block, DataBlock(6));
    EXPECT_EQ(fmt::format("{:>4}", block), "   5");
    EXPECT_EQ(std::unordered_set<DataBlock>({block, DataBlock(5)}).size(), 1u);
    static_assert(!std::is_constructible_v<DataBlock, MetadataBlock>);
    static_assert(!std::is_convertible_v<std::uint64_t, DataBlock>);
}

TEST(Clock, StepsWhenTold) {
    ManualClock clock;
    const auto before = clock.wall_seconds();
    clock.advance(std::chrono::seconds(90));
    EXPECT_EQ(clock.monotonic(), std::chrono::seconds(90));
    EXPECT_EQ(clock.wall_seconds() - before, 90);
    const auto first = Clock::system().monotonic();
    EXPECT_LE(first, Clock::system().monotonic());
    EXPECT_GT(Clock::system().wall_seconds(), 1'600'000'000);
}

TEST(LvmId, GoesThroughBothOfItsForms) {
    const auto id = *LvmId::parse("abcdef-ghij-klmn-opqr-stuv-wxyz-012345");
    EXPECT_EQ(id.plain(), "abcdefghijklmnopqrstuvwxyz012345");
    EXPECT_EQ(id.dashed(), "abcdef-ghij-klmn-opqr-stuv-wxyz-012345");
    EXPECT_EQ(*LvmId::parse(id.plain()), id);
    EXPECT_TRUE(LvmId::parse("ABCDEF!#IJKLMNOPQRSTUVWXYZ012345"));
    for (const char* text :
         {"", "abc", "abcdefghijklmnopqrstuvwxyz0123456", "abcdefghijklmnopqrstuvwxyz01234_", "abcdefghijklmnopqrstuvwxyz01234 "})
        EXPECT_EQ(LvmId::parse(text).error().kind(), ErrorKind::damaged) << text;
}

TEST(LvmId, GeneratesDifferentOnesOfLettersAndDigits) {
    std::set<LvmId> ids;
    std::set<char> characters;
    for (int round = 0; round < 200; ++round) {
        const LvmId id = LvmId::generate();
        EXPECT_EQ(*LvmId::parse(id.dashed()), id);
        ids.insert(id);
        characters.insert(id.plain().begin(), id.plain().end());
    }
    EXPECT_EQ(ids.size(), 200u);
    EXPECT_EQ(characters.size(), 62u);
    EXPECT_FALSE(characters.contains('!'));
}

}  // namespace
}  // namespace lamella
