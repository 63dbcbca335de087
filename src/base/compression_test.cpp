// SPDX-License-Identifier: Apache-2.0
#include "base/compression.h"

#include <gtest/gtest.h>

namespace lamella {
namespace {

using namespace std::string_view_literals;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string text_of(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

class BothFormats : public testing::TestWithParam<Compression> {};
INSTANTIATE_TEST_SUITE_P(, BothFormats, testing::Values(Compression::zlib, Compression::gzip));

TEST_P(BothFormats, GiveBackWhatWentIn) {
    std::string text = "vms { id = \"AAAAAA\" }\n";
    for (int doubling = 0; doubling < 12; ++doubling) {
        const auto compressed = compress(GetParam(), bytes_of(text));
        ASSERT_TRUE(compressed);
        const auto back = decompress(GetParam(), *compressed, text.size());
        ASSERT_TRUE(back) << back.error().message();
        EXPECT_EQ(text_of(*back), text);
        EXPECT_FALSE(decompress(GetParam(), *compressed, text.size() - 1)) << "one byte more than allowed";
        text += text;
    }
}

TEST_P(BothFormats, RefuseWhatIsNotWhole) {
    const std::string text(5000, 'x');
    const auto compressed = compress(GetParam(), bytes_of(text));
    ASSERT_TRUE(compressed);
    for (std::size_t length = 0; length < compressed->size(); ++length)
        EXPECT_FALSE(decompress(GetParam(), std::span(*compressed).first(length), 10'000)) << length;
    std::vector<std::byte> longer = *compressed;
    longer.push_back({});
    EXPECT_FALSE(decompress(GetParam(), longer, 10'000));
    std::vector<std::byte> other = *compressed;
    other[other.size() - 6] ^= std::byte{1};  // in the checksum or the data's end
    EXPECT_FALSE(decompress(GetParam(), other, 10'000));
}

TEST(Gzip, OfTheRealTool) {
    // printf 'vms {\n}\n' | gzip -n
    constexpr auto made =
        "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x2b\xcb\x2d\x56\xa8\xe6\xaa\xe5\x02\x00\xde\x76\xe6\x62\x08\x00\x00\x00"sv;
    EXPECT_TRUE(is_gzip(made));
    const auto text = decompress(Compression::gzip, bytes_of(made), 100);
    ASSERT_TRUE(text) << text.error().message();
    EXPECT_EQ(text_of(*text), "vms {\n}\n");
    EXPECT_FALSE(is_gzip("vms {\n"));
    EXPECT_FALSE(is_gzip("\x1f"));
}

}  // namespace
}  // namespace lamella
