// SPDX-License-Identifier: Apache-2.0
#include "tools/json_parser.h"

#include <gtest/gtest.h>

#include "device/memory_device.h"
#include "tools/builder.h"
#include "tools/dump.h"
#include "tools/generate.h"
#include "tools/pool_test_support.h"
#include "tools/printer.h"
#include "tools/restore.h"

namespace lamella::tools {
namespace {

using test::value_of;

const std::string superblock =
    "{\"superblock\":{\"uuid\":\"\",\"time\":3,\"transaction\":5,\"flags\":0,\"version\":2,\"data_block_size\":128,\"nr_data_blocks\":1000}"
    "}\n";
const std::string device = "{\"device\":{\"dev_id\":1,\"mapped_blocks\":4,\"transaction\":0,\"creation_time\":0,\"snap_time\":1}}\n";
const std::string mapping = "{\"map\":[0,10,4,1]}\n";
const std::string end = "{\"end\":true}\n";

std::string dumped(BlockDevice& metadata, DumpFormat format) {
    StringSink sink;
    value_of(dump(metadata, {.definitions = true}, *make_printer(format, sink)));
    return sink.text;
}

// What is wrong with it; empty: nothing.
std::string refused(const std::string& text, std::size_t piece = 4096) {
    StringSource source(text, piece, "dump");
    StringSink sink;
    const auto parsed = parse_pool_json(source, {}, *make_printer(DumpFormat::json, sink));
    return parsed ? "" : parsed.error().message();
}

TEST(JsonParser, WhatIsDumpedComesBack) {
    for (bool random : {false, true}) {
        MemoryDevice original(1024 * pdata::block_bytes, "original");
        value_of(generate(*value_of(MetadataBuilder::start(original)),
                          {.volumes = 3, .mappings = 3000, .snapshots = 4, .own_mappings = 50, .random = random}));
        const std::string json = dumped(original, DumpFormat::json);
        MemoryDevice restored(1024 * pdata::block_bytes, "restored");
        StringSource source(json, 1000);
        EXPECT_EQ(value_of(restore(source, restored, {})).devices, 7u);
        EXPECT_EQ(dumped(restored, DumpFormat::xml), dumped(original, DumpFormat::xml));
        const test::Ran checked = test::run_on(restored, "thin_check @");
        EXPECT_EQ(checked.status, 0) << checked.output;
    }
}

TEST(JsonParser, TakesMembersInAnyOrderAndBlanks) {
    EXPECT_EQ(refused(superblock + device + mapping + end), "");
    EXPECT_EQ(refused(superblock + device + mapping + end, 1), "");
    EXPECT_EQ(refused(superblock +
                      "\n { \"device\" : {\"mapped_blocks\": 4, \"dev_id\": 1, \"snap_time\":1 ,\"transaction\":0, "
                      "\"creation_time\":0 } } \r\n" +
                      mapping + end),
              "");
}

TEST(JsonParser, RefusesWhatIsNoDumpWithItsLine) {
    const auto all = superblock + device + mapping + end;
    for (std::size_t cut = 0; cut + 1 < all.size(); ++cut)
        EXPECT_NE(refused(all.substr(0, cut)), "") << cut;
    struct Case {
        std::string text;
        std::string line;
    };
    const Case cases[] = {
        {device + mapping + end, "dump:1:"},
        {superblock + superblock, "dump:2:"},
        {superblock + mapping + end, "dump:2:"},
        {superblock + device + "{\"map\":[0,10,5,1]}\n" + end, "dump:4:"},   // more than the device says
        {superblock + device + "{\"map\":[0,998,4,1]}\n" + end, "dump:3:"},  // beyond the pool
        {superblock + device + "{\"map\":[0,10,4,9]}\n" + end, "dump:3:"},   // later than the pool
        {superblock + device + "{\"map\":[0,10,4,-1]}\n" + end, "dump:3:"},
        {superblock + device + "{\"map\":[0,10,4]}\n" + end, "dump:3:"},
        {superblock + device + "{\"map\":[0,10,99999999999999999999,1]}\n" + end, "dump:3:"},
        {superblock + device + "{\"map\":[0,10,4,1]} x\n" + end, "dump:3:"},
        {superblock + device + "{\"reference\":7}\n" + end, "dump:3:"},
        {superblock + device + mapping + device + mapping + end, "dump:4:"},  // the same device twice
        {superblock + "{\"device\":{\"dev_id\":1,\"dev_id\":1,\"transaction\":0,\"creation_time\":0,\"snap_time\":1}}\n", "dump:2:"},
        {superblock + "{\"what\":1}\n", "dump:2:"},
        {superblock + "{\"end\":false}\n", "dump:2:"},
        {all + device, "dump:5:"},
        {superblock + std::string(10'000, ' ') + "\n" + end, "dump:2:"},
    };
    for (const Case& one : cases)
        EXPECT_TRUE(refused(one.text).starts_with(one.line)) << one.text << refused(one.text);
}

}  // namespace
}  // namespace lamella::tools
