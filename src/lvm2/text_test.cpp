// SPDX-License-Identifier: Apache-2.0
#include "lvm2/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lamella::lvm2 {
namespace {

TEST(Text, HasNumbersStringsArraysAndSections) {
    auto text = parse_text(
        "a = 1 # one\nb=-9223372036854775808\nc = \"x \\\"y\\\" \\\\ \\n\"\n"
        "d = [\"p\", 2, 3.5,]\ne = []\ns { t { u = 010 }\n}\n\"odd #\" = 'q\"r'\n");
    ASSERT_TRUE(text) << text.error().message();
    EXPECT_EQ(*text->value("a")->integer(), 1);
    EXPECT_EQ(*text->value("b")->integer(), INT64_MIN);
    EXPECT_EQ(*text->value("c")->string(), "x \"y\" \\ \\n");
    ASSERT_EQ(text->value("d")->array()->size(), 3u);
    EXPECT_EQ(std::get<TextFloat>((*text->value("d")->array())[2].value).spelling, "3.5");
    EXPECT_TRUE(text->value("e")->array()->empty());
    EXPECT_EQ(*text->section("s")->section("t")->value("u")->integer(), 8);
    EXPECT_EQ(*text->value("odd #")->string(), "q\"r");

    TextWriter writer(TextStyle::on_disk);
    for (const TextEntry& entry : text->entries)
        writer.entry(entry);
    auto again = parse_text(writer.text());
    ASSERT_TRUE(again) << writer.text() << again.error().message();
    EXPECT_EQ(*again, *text);
}

TEST(Text, EndsAtANul) {
    EXPECT_TRUE(parse_text(std::string_view("a = 1\n\0\0", 8)));
    EXPECT_FALSE(parse_text(std::string_view("a = 1\n\0b", 8)));
}

TEST(Text, SaysWhereItIsWrong) {
    for (const auto& [text, place] : std::vector<std::pair<std::string, std::string>>{{"a = 1\nb = \"x\n", "line 2, column 5"},
                                                                                      {"a {\n b = 1\n", "line 3, column 1"},
                                                                                      {"a = 1\n }", "line 2, column 2"},
                                                                                      {"a = [1, [2]]", "line 1, column 9"},
                                                                                      {"a = 99999999999999999999", "line 1, column 5"},
                                                                                      {"a = 1x", "line 1, column 5"},
                                                                                      {"a = 1.2.3", "line 1, column 5"},
                                                                                      {"a", "line 1, column 2"},
                                                                                      {"= 1", "line 1, column 1"},
                                                                                      {"a = [1 2]", "line 1, column 8"},
                                                                                      {"a = 09", "line 1, column 5"},
                                                                                      {"a = bare", "line 1, column 5"},
                                                                                      {"a = -", "line 1, column 5"}}) {
        auto parsed = parse_text(text);
        ASSERT_FALSE(parsed) << text;
        EXPECT_EQ(parsed.error().kind(), ErrorKind::damaged);
        EXPECT_THAT(parsed.error().message(), testing::HasSubstr(place)) << text;
    }
}

TEST(Text, IsLimited) {
    std::string deep;
    for (int i = 0; i < 100'000; ++i)
        deep += "a{";
    EXPECT_THAT(parse_text(deep).error().message(), testing::HasSubstr("nested deeper"));
    EXPECT_THAT(parse_text("a=[1,2,3,4,5]", {.entries = 4}).error().message(), testing::HasSubstr("more than 4 entries"));
    EXPECT_FALSE(parse_text("a=1", {.bytes = 2}));
}

}  // namespace
}  // namespace lamella::lvm2
