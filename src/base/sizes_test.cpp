// SPDX-License-Identifier: Apache-2.0
#include "base/sizes.h"

#include <gtest/gtest.h>

namespace lamella {
namespace {

TEST(ParseSize, TakesLvmSuffixesInEitherCase) {
    EXPECT_EQ(parse_size("10"), 10ULL << 20);  // MiB
    EXPECT_EQ(parse_size("512b"), 512u);
    EXPECT_EQ(parse_size("512B"), 512u);
    EXPECT_EQ(parse_size("3s"), 1536u);
    EXPECT_EQ(parse_size("3S"), 1536u);
    const std::string_view letters = "kmgtpe";
    for (std::size_t index = 0; index < letters.size(); ++index) {
        const std::uint64_t unit = 1ULL << (10 * (index + 1));
        EXPECT_EQ(parse_size(std::string("2") + letters[index]), 2 * unit);
        EXPECT_EQ(parse_size(std::string("2") + static_cast<char>(letters[index] - 32)), 2 * unit);
    }
    EXPECT_EQ(parse_size("0"), 0u);
    EXPECT_EQ(parse_size("00064K"), 65536u);
}

TEST(ParseSize, TakesFractionsExactly) {
    EXPECT_EQ(parse_size("1.5G"), 3ULL << 29);
    EXPECT_EQ(parse_size(".5k"), 512u);
    EXPECT_EQ(parse_size("0.1k"), 102u);  // 102.4
    EXPECT_EQ(parse_size("1.25"), 1310720u);
    EXPECT_EQ(parse_size("7.999999999999999999999999999999E"), 9223372036854775806ULL);
    EXPECT_EQ(parse_size("1.9b"), 1u);
}

TEST(ParseSize, ChecksForOverflow) {
    EXPECT_EQ(parse_size("9223372036854775807b"), 9223372036854775807ULL);
    for (const char* text : {"8E", "9223372036854775808b", "18446744073709551616b", "99999999999999999999999999", "9007199254740992k"})
        EXPECT_EQ(parse_size(text).error().kind(), ErrorKind::usage) << text;
}

TEST(ParseSize, RefusesWhatIsNoSize) {
    for (const char* text :
         {"", "k", ".", "5.", "5.G", "-5", "+5", "5 G", " 5", "5GG", "5x", "1e3", "1.2.3", "0x10", "5%", "1,5G", "10GiB"})
        EXPECT_EQ(parse_size(text).error().kind(), ErrorKind::usage) << text;
}

TEST(ParseSizeArgument, TakesSignsAndPercentages) {
    auto argument = *parse_size_argument("+5G");
    EXPECT_EQ(argument.sign, SizeArgument::Sign::plus);
    EXPECT_EQ(argument.bytes, 5ULL << 30);
    EXPECT_FALSE(argument.percentage);
    argument = *parse_size_argument("-64m");
    EXPECT_EQ(argument.sign, SizeArgument::Sign::minus);
    argument = *parse_size_argument("50%FREE");
    EXPECT_EQ(argument.sign, SizeArgument::Sign::none);
    ASSERT_TRUE(argument.percentage);
    EXPECT_EQ(argument.percentage->percent, 50u);
    EXPECT_EQ(argument.percentage->of, PercentOf::free);
    EXPECT_EQ(parse_size_argument("20%Origin")->percentage->of, PercentOf::origin);
    EXPECT_EQ(parse_size_argument("100%pvs")->percentage->of, PercentOf::physical_volumes);
    EXPECT_EQ(parse_size_argument("1%VG")->percentage->of, PercentOf::group);
    EXPECT_EQ(parse_size_argument("+150%LV")->percentage->percent, 150u);
    for (const char* text :
         {"", "+", "+-5", "50%", "%FREE", "0%FREE", "101%FREE", "1.5%VG", "50%FREEE", "50%%FREE", "4294967346%FREE", "10001%LV", "-1%%"})
        EXPECT_EQ(parse_size_argument(text).error().kind(), ErrorKind::usage) << text;
}

TEST(PrintSize, UsesTheLargestUnitThatFits) {
    EXPECT_EQ(print_size(0), "0 B");
    EXPECT_EQ(print_size(1023), "1023 B");
    EXPECT_EQ(print_size(1024), "1.00 KiB");
    EXPECT_EQ(print_size(10ULL << 30), "10.00 GiB");
    EXPECT_EQ(print_size(1536ULL << 20), "1.50 GiB");
    EXPECT_EQ(print_size((1ULL << 30) - 1), "1.00 GiB");  // not 1024.00 MiB
    EXPECT_EQ(print_size(65536), "64.00 KiB");
    EXPECT_EQ(print_size(UINT64_MAX), "16.00 EiB");
}

}  // namespace
}  // namespace lamella
