// SPDX-License-Identifier: Apache-2.0
#include "tools/xml_parser.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "device/test_support.h"
#include "tools/printer.h"

namespace lamella::tools {
namespace {

using testing::HasSubstr;

Result<std::string> printed(TextSource& source, DumpFormat format = DumpFormat::xml, const HeaderOverrides& overrides = {}) {
    StringSink sink;
    auto printer = make_printer(format, sink);
    TRY(parse_pool_xml(source, overrides, *printer));
    return sink.text;
}

std::string error_of(std::string_view xml) {
    StringSource source(xml, 1 << 20, "dump.xml");
    auto result = printed(source);
    return result ? "" : result.error().message();
}

const std::string canonical =
    R"(<superblock uuid="" time="7" transaction="3" flags="0" version="2" data_block_size="128" nr_data_blocks="1000">
  <def name="1">
    <range_mapping origin_begin="0" data_begin="10" length="600" time="0"/>
  </def>
  <device dev_id="1" mapped_blocks="601" transaction="0" creation_time="0" snap_time="7">
    <ref name="1"/>
    <single_mapping origin_block="1000" data_block="5" time="1"/>
  </device>
  <device dev_id="16777215" mapped_blocks="0" transaction="3" creation_time="0" snap_time="0">
  </device>
</superblock>
)";

TEST(XmlParser, PrintsWhatItRead) {
    for (std::size_t piece : {1u, 2u, 3u, 7u, 64u, 1u << 20}) {
        StringSource source(canonical, piece);
        auto text = printed(source);
        ASSERT_TRUE(text) << text.error().message();
        EXPECT_EQ(*text, canonical);
    }
}

TEST(XmlParser, KnowsMoreOfXmlThanThePrinter) {
    std::string_view loose = R"(<?xml version='1.0'?>
<!-- a comment with <tags> and
     several lines -->
<superblock time='7' uuid="" transaction="3" data_block_size = "128" nr_data_blocks="1000" metadata_snap="5">
<def name="a &lt;&amp;&quot; name"><range_mapping length="600" data_begin="10" time="0" origin_begin="0"></range_mapping></def>
<device dev_id="1" mapped_blocks="601" transaction="0" creation_time="0" snap_time="7"><ref name='a &lt;&amp;&quot; name'
/><single_mapping  origin_block="1000" data_block="5" time="1"/></device><!---->
<device dev_id="16777215" mapped_blocks="0" transaction="3" creation_time="0" snap_time="0"/>
</superblock>)";
    StringSource source(loose, 5);
    auto text = printed(source);
    ASSERT_TRUE(text) << text.error().message();
    std::string expected = canonical;
    for (std::string_view name : {"def name=\"1\"", "ref name=\"1\""})
        expected.replace(expected.find(name), name.size(), std::string(name.substr(0, 10)) + "9223372036854775808\"");
    EXPECT_EQ(*text, expected);
}

TEST(XmlParser, OtherForms) {
    StringSource source(canonical, 100);
    EXPECT_EQ(*printed(source, DumpFormat::human), R"(begin superblock: "", 7, 3, 0, 2, 128, 1000
def: 1
    (0..599) -> (10..609), 0

device: 1
mapped_blocks: 601
transaction: 0
creation time: 0
snap time: 7
    ref: 1
    1000 -> 5, 1

device: 16777215
mapped_blocks: 0
transaction: 3
creation time: 0
snap time: 0

end superblock
)");
    StringSource again(canonical, 100);
    EXPECT_THAT(*printed(again, DumpFormat::json), HasSubstr("{\"map\":[1000,5,1,1]}\n{\"device\":{\"dev_id\":16777215,"));
}

TEST(XmlParser, OverridesOnlyRaise) {
    StringSource source(canonical, 100);
    std::string text = *printed(source, DumpFormat::xml, {.transaction_id = 2, .data_block_sectors = 256, .data_blocks = 2000});
    EXPECT_THAT(text, HasSubstr(R"(transaction="3" flags="0" version="2" data_block_size="256" nr_data_blocks="2000")"));
}

// `from` in the canonical text becomes `to`.
std::string changed(std::string_view from, std::string_view to) {
    std::string text = canonical;
    std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(XmlParser, RefusesWhatCannotBeRight) {
    struct Case {
        std::string_view from, to, error;
    };
    const Case cases[] = {
        // numbers
        {"mapped_blocks=\"601\"", "mapped_blocks=\"602\"", "dump.xml:8: device 1 has 601 mapped blocks, but says 602"},
        {"mapped_blocks=\"0\"", "mapped_blocks=\"1\"", "dump.xml:10: device 16777215 has 0 mapped blocks, but says 1"},
        {"dev_id=\"16777215\"", "dev_id=\"16777216\"", "dump.xml:9: device 16777216, at most 16777215 is possible"},
        {"dev_id=\"16777215\"", "dev_id=\"1\"", "dump.xml:9: device 1 was there before"},
        {"dev_id=\"16777215\"", "dev_id=\"4294967296\"", "dump.xml:9: <device>: dev_id is 4294967296, at most 4294967295 is possible"},
        {"data_block=\"5\"", "data_block=\"1000\"", "dump.xml:7: data blocks 1000 to 1000, but the pool has 1000"},
        {"data_begin=\"10\"", "data_begin=\"401\"", "dump.xml:3: data blocks 401 to 1000, but the pool has 1000"},
        {"length=\"600\"", "length=\"0\"", "dump.xml:3: a mapping of no blocks"},
        {"length=\"600\"", "length=\"18446744073709551615\"", "dump.xml:3: data blocks 10 to "},
        {"origin_begin=\"0\"", "origin_begin=\"18446744073709551000\"", "dump.xml:7: virtual block 1000 is mapped out of order"},
        {"origin_begin=\"0\"", "origin_begin=\"18446744073709551100\"", "dump.xml:3: 600 blocks from virtual block"},
        {"origin_block=\"1000\"", "origin_block=\"599\"", "dump.xml:7: virtual block 599 is mapped out of order, or twice"},
        {"time=\"1\"/>", "time=\"8\"/>", "dump.xml:7: mapped at time 8, later than the pool's 7"},
        {"time=\"1\"/>", "time=\"16777216\"/>", "dump.xml:7: mapped at time 16777216"},
        {"snap_time=\"7\"", "snap_time=\"8\"", "dump.xml:5: device 1 was snapshotted at time 8"},
        {"creation_time=\"0\"", "creation_time=\"8\"", "dump.xml:5: device 1 was created at time 8"},
        {"transaction=\"0\"", "transaction=\"4\"", "dump.xml:5: device 1 was made in transaction 4"},
        {"time=\"7\"", "time=\"16777216\"", "dump.xml:1: time 16777216, at most 16777215"},
        {"version=\"2\"", "version=\"3\"", "dump.xml:1: metadata version 3"},
        {"data_block_size=\"128\"", "data_block_size=\"100\"", "dump.xml:1: data block size of 100 sectors"},
        {"nr_data_blocks=\"1000\"", "nr_data_blocks=\"1099511627777\"", "dump.xml:1: 1099511627777 data blocks"},
        {"nr_data_blocks=\"1000\"", "nr_data_blocks=\"0\"", "--nr-data-blocks"},
        {"uuid=\"\"", "uuid=\"xyz\"", "dump.xml:1: <superblock>: uuid"},
        // names
        {"<ref name=\"1\"/>", "<ref name=\"2\"/>", "dump.xml:6: <ref>: no definition of that name"},
        {"<ref name=\"1\"/>", "<ref name=\"x\"/>", "dump.xml:6: <ref>: no definition of that name"},
        {"<ref name=\"1\"/>", "<ref name=\"1\"/><ref name=\"1\"/>", "dump.xml:6: <ref>: the definition begins at virtual block 0"},
        {"  <device dev_id=\"1\"", "<def name=\"1\"/><device dev_id=\"1\"", "dump.xml:5: <def>: a definition of that name"},
        // structure
        {"<superblock", "<pool", "dump.xml:1: <pool> where <superblock> is expected"},
        {"</superblock>\n", "", "the text ends within <superblock>"},
        {"</superblock>\n", "</superblock><superblock/>", "<superblock> where <superblock> is expected to have ended"},
        {"</superblock>\n", "</superblock>x", "text where a tag is expected"},
        {"</def>", "</device>", "dump.xml:4: </device> where </def> is expected"},
        {"<ref name=\"1\"/>", "hello", "dump.xml:6: text where a tag is expected"},
        {"<ref name=\"1\"/>", "<device/>", "dump.xml:6: <device> within <device>"},
        {"time=\"1\"/>", "time=\"1\" colour=\"red\"/>", "dump.xml:7: <single_mapping>: unknown attribute colour"},
        {"time=\"1\"/>", "/>", "dump.xml:7: <single_mapping> without time"},
        {"time=\"1\"/>", "time=\"1\" time=\"1\"/>", "dump.xml:7: <single_mapping>: attribute time twice"},
        {"time=\"1\"/>", "time=\"\"/>", "dump.xml:7: <single_mapping>: time is \"\", not a whole number"},
        {"time=\"1\"/>", "time=\"-1\"/>", "dump.xml:7: <single_mapping>: time is \"-1\", not a whole number"},
        {"time=\"1\"/>", "time=\"0x1\"/>", "dump.xml:7: <single_mapping>: time is \"0x1\", not a whole number"},
        {"time=\"1\"/>", "time=1/>", "dump.xml:7: <single_mapping>: attribute time without a value in quotes"},
        {"time=\"1\"/>", "time=\"1\"", "a '<' within a tag"},
        {"data_block=\"5\"", "data_block=\"99999999999999999999\"", "dump.xml:7: <single_mapping>: data_block is 99999999999999999999"},
        {"<superblock", "<!DOCTYPE x><superblock", "dump.xml:1: a declaration"},
        {"<superblock", "<!-- <superblock", "a comment or instruction without an end"},
        {"name=\"1\"", "name=\"&#49;\"", "dump.xml:2: an entity that isn't known"},
    };
    for (const Case& one : cases)
        EXPECT_THAT(error_of(changed(one.from, one.to)), HasSubstr(one.error)) << one.from << " -> " << one.to;
    EXPECT_THAT(error_of(""), HasSubstr("no <superblock>"));
    EXPECT_THAT(error_of(std::string(1 << 20, '<')), HasSubstr("a '<' within a tag"));
    EXPECT_THAT(error_of("<" + std::string(1 << 20, 'a')), HasSubstr("a tag of more than 65536 bytes"));
    EXPECT_THAT(error_of("<!--" + std::string(5 << 20, 'a') + "-->"), HasSubstr("no <superblock>"));
    EXPECT_THAT(error_of(std::string("\0\1\2", 3)), HasSubstr("text where a tag is expected"));
}

// Every beginning of a dump is refused: a file cut short can't pass for a whole one.
TEST(XmlParser, RefusesEveryPartOfADump) {
    std::size_t whole = canonical.find("</superblock>") + std::string_view("</superblock>").size();
    for (std::size_t length = 0; length < whole; ++length)
        EXPECT_NE(error_of(std::string_view(canonical).substr(0, length)), "") << length;
    EXPECT_EQ(error_of(std::string_view(canonical).substr(0, whole)), "");
}

// Long enough for several windows; blanks and line ends that only the general way takes are mixed in.
TEST(XmlParser, BothWaysThroughTheTextAgree) {
    std::string text = R"(<superblock uuid="" time="0" transaction="0" data_block_size="128" nr_data_blocks="100000000">)";
    text += "\n<device dev_id=\"0\" mapped_blocks=\"100000\" transaction=\"0\" creation_time=\"0\" snap_time=\"0\">\n";
    std::string expected;
    for (unsigned index = 0; index < 100000; ++index) {
        std::string mapping = fmt::format("<single_mapping origin_block=\"{}\" data_block=\"{}\" time=\"0\"/>\n", index * 3, index * 7);
        expected += "    " + mapping;
        if (index % 7 == 0)
            mapping.insert(15, index % 3, ' ');
        if (index % 11 == 0)
            mapping.insert(0, index % 200, '\n');
        text += mapping;
    }
    text += "</device></superblock>";
    StringSource source(text, 4093);
    auto result = printed(source);
    ASSERT_TRUE(result) << result.error().message();
    EXPECT_THAT(*result, HasSubstr(expected));
}

TEST(XmlParser, StopsWhenTold) {
    std::atomic<bool> stop = true;
    StringSource source(canonical, 10);
    StringSink sink;
    auto printer = make_printer(DumpFormat::xml, sink);
    auto result = parse_pool_xml(source, {}, *printer, {.progress = {}, .stop = &stop});
    ASSERT_FALSE(result);
    EXPECT_THAT(result.error().message(), HasSubstr("interrupted"));
}

TEST(FileSource, ReadsFilesAndPipes) {
    test::TemporaryFolder folder;
    std::string path = folder.file("dump.xml");
    std::string text;
    for (unsigned index = 0; index < 400'000; ++index)
        text += fmt::format("line {}\n", index);
    std::ofstream(path) << text;
    auto file = FileSource::open(path);
    ASSERT_TRUE(file) << file.error().message();
    EXPECT_EQ((*file)->size(), text.size());
    std::string got;
    for (;;) {
        auto piece = (*file)->next();
        ASSERT_TRUE(piece);
        if (piece->empty())
            break;
        got += *piece;
    }
    EXPECT_TRUE(got == text);
    EXPECT_EQ(*(*file)->next(), "") << "the end stays the end";

    EXPECT_EQ(FileSource::open(folder.file("none")).error().kind(), ErrorKind::not_found);
    EXPECT_FALSE(FileSource::open(folder.file("")));

    // A pipe's first words come before its end, and nobody waits for the rest who doesn't want it.
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    ASSERT_EQ(::write(ends[1], "first", 5), 5);
    auto pipe = FileSource::open(fmt::format("/proc/self/fd/{}", ends[0]));
    ASSERT_TRUE(pipe) << pipe.error().message();
    EXPECT_EQ(*(*pipe)->next(), "first");
    pipe->reset();
    ::close(ends[0]);
    ::close(ends[1]);
}

}  // namespace
}  // namespace lamella::tools
