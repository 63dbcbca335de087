// SPDX-License-Identifier: Apache-2.0
#include "mapper/table_text.h"

#include <gtest/gtest.h>

#include "mapper/words.h"

namespace lamella::mapper {
namespace {

std::string error_of(std::string_view text) {
    auto parsed = parse_table(text);
    if (parsed)
        return "none";
    EXPECT_EQ(parsed.error().kind(), ErrorKind::usage);
    return parsed.error().message();
}

TEST(TableText, LinesCommentsAndBlanks) {
    auto lines = parse_table("# a comment\n\n  0 16 linear ./a.img 8\n\t16\t8 \t error \r\n   # another\n24 8 zero");
    ASSERT_TRUE(lines) << lines.error().message();
    ASSERT_EQ(lines->size(), 3u);
    EXPECT_EQ((*lines)[0].start, 0u);
    EXPECT_EQ((*lines)[0].length, 16u * 512);
    EXPECT_EQ((*lines)[0].type, "linear");
    EXPECT_EQ((*lines)[0].words, (std::vector<std::string>{"./a.img", "8"}));
    EXPECT_EQ((*lines)[0].number, 3u);
    EXPECT_EQ((*lines)[1].start, 16u * 512);
    EXPECT_EQ((*lines)[1].type, "error");
    EXPECT_TRUE((*lines)[1].words.empty());
    EXPECT_EQ((*lines)[2].place(), "line 6: zero");
}

TEST(TableText, ErrorsNameLineAndWord) {
    EXPECT_EQ(error_of(""), "table: no lines");
    EXPECT_EQ(error_of("# nothing\n"), "table: no lines");
    EXPECT_EQ(error_of("0 8 zero\n16 8 zero\n"), "table: line 2: begins at sector 16, beyond sector 8, where the line before it ends");
    EXPECT_EQ(error_of("0 8 zero\n4 8 zero\n"), "table: line 2: begins at sector 4, before sector 8, where the line before it ends");
    EXPECT_EQ(error_of("8 8 zero"), "table: line 1: begins at sector 8, beyond sector 0, where the line before it ends");
    EXPECT_EQ(error_of("0 0 zero"), "table: line 1: a length of 0");
    EXPECT_EQ(error_of("0 8"), "table: line 1: the type of the target is missing");
    EXPECT_EQ(error_of("0"), "table: line 1: the length is missing");
    for (const char* word : {"-1", "+8", "0x8", "8s", "1e3", "18446744073709551616", "\"8\""})
        EXPECT_EQ(error_of(std::string("0 ") + word + " zero"),
                  fmt::format("table: line 1: the length \"{}\" is not a whole number", word));
    EXPECT_NE(error_of("0 36028797018963968 zero"), "none");  // 2^64 bytes
    EXPECT_NE(error_of("0 18014398509481983 zero\n18014398509481983 1 zero"), "none");
    EXPECT_EQ(error_of("0 18014398509481983 zero"), "none");
    EXPECT_NE(error_of("0 8 zero \\"), "none");
    EXPECT_NE(error_of(std::string_view("0 8 zero\0", 9)), "none");
    EXPECT_NE(error_of(std::string(max_table_text + 1, '\n')), "none");
    std::string wide = "0 8 zero";
    for (std::size_t word = 0; word < max_words; ++word)
        wide += " x";
    EXPECT_NE(error_of(wide), "none");
    std::string tall;
    for (std::size_t line = 0; line <= max_table_lines; ++line)
        tall += fmt::format("{} 1 zero\n", line);
    EXPECT_NE(error_of(tall), "none");
}

TEST(TableText, WordsAreReadAsTheyWereEscaped) {
    for (const std::string word : {"plain", "with blank", "back\\slash", "tab\tand\nline", "\\ "}) {
        auto words = split_words("a " + escape_word(word) + "  b");
        ASSERT_TRUE(words);
        EXPECT_EQ(*words, (std::vector<std::string>{"a", word, "b"}));
    }
}

TEST(TableText, DeviceNumbers) {
    DeviceNumber number{};
    EXPECT_TRUE(parse_device_number("253:12", number));
    EXPECT_EQ(number.major, 253u);
    EXPECT_EQ(number.minor, 12u);
    for (const char* word : {"253", "253:", ":1", "253:1:2", "a:1", "253:4294967296", "-1:0", ""})
        EXPECT_FALSE(parse_device_number(word, number)) << word;
}

TEST(TableText, FilesOfOneTableOrMany) {
    auto one = split_table_file("# x\n0 8 zero\n8 8 error\n", "disk");
    ASSERT_TRUE(one) << one.error().message();
    ASSERT_EQ(one->size(), 1u);
    EXPECT_EQ((*one)[0].name, "disk");
    ASSERT_TRUE(parse_table((*one)[0].text));

    auto many = split_table_file("web: 0 8 zero\nweb: 8 8 zero \n\ndisk: 0 bad zero\n", "disk");
    ASSERT_TRUE(many) << many.error().message();
    ASSERT_EQ(many->size(), 2u);
    EXPECT_EQ((*many)[0].name, "web");
    EXPECT_EQ(parse_table((*many)[0].text)->size(), 2u);
    // Lines keep the numbers that they have in the file.
    EXPECT_EQ(parse_table((*many)[1].text).error().message(), "table: line 4: the length \"bad\" is not a whole number");

    for (const char* text : {"", "web: 0 8 zero\n0 8 zero\n", "0 8 zero\nweb: 0 8 zero\n", "a: 0 8 zero\nb: 0 8 zero\na: 8 8 zero\n"})
        EXPECT_FALSE(split_table_file(text, "disk")) << text;
}

}  // namespace
}  // namespace lamella::mapper
