// SPDX-License-Identifier: Apache-2.0
#include "volumes/json.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "volumes/volume_group.h"

namespace lamella {
namespace {

// A value of every type, no two fields alike, so that a mix-up shows. Texts are compared: their form is what users rely on.
SizeRequest some_size() { return {SizeRequest::Base::percent_of_free, SizeRequest::Relation::grow, 12345}; }

template <typename T>
void expect_round_trip(const T& value, std::string_view text) {
    std::string printed = *print_json(to_json(value));
    EXPECT_EQ(printed, text);
    auto back = from_json<T>(*parse_json(printed), "value");
    ASSERT_TRUE(back) << back.error().message();
    EXPECT_EQ(*print_json(to_json(*back)), text);
}

TEST(Json, Requests) {
    expect_round_trip(some_size(), R"({"base":"percent_of_free","relation":"grow","value":12345})");
    expect_round_trip(CreateVolume{"n", some_size(), "p", true, 2, 3, "e", "f", {"a", "b"}, true},
                      R"({"name":"n","size":{"base":"percent_of_free","relation":"grow","value":12345},"pool":"p","linear":true,)"
                      R"("stripes":2,"stripe_size":3,"external_origin":"e","origin_file":"f","tags":["a","b"],"read_only":true})");
    expect_round_trip(
        CreatePool{"n", some_size(), 1, 2, 3, 4, false, true, "ignore", {"t"}, {"d"}, {"m"}, 5, 6},
        R"({"name":"n","size":{"base":"percent_of_free","relation":"grow","value":12345},"chunk_size":1,"metadata_size":2,)"
        R"("stripes":3,"stripe_size":4,"zero_new_blocks":false,"error_when_full":true,"discards":"ignore","tags":["t"],"data_on":["d"],"metadata_on":["m"],"autoextend_threshold":5,"autoextend_percent":6})");
    expect_round_trip(
        CreateSnapshot{"o", "n", true, {}, true, some_size(), 17},
        R"({"origin":"o","name":"n","read_only":true,"tags":[],"classic":true,"size":{"base":"percent_of_free","relation":"grow","value":12345},"chunk_size":17})");
    expect_round_trip(
        ResizeVolume{"n", some_size(), true, true},
        R"({"name":"n","size":{"base":"percent_of_free","relation":"grow","value":12345},"metadata":true,"shrink_allowed":true})");
    expect_round_trip(
        ConvertToPool{"n", "m", 1, 2, false, true, "ignore", 80, 20},
        R"({"name":"n","metadata":"m","metadata_size":1,"chunk_size":2,"zero_new_blocks":false,"error_when_full":true,"discards":"ignore","autoextend_threshold":80,"autoextend_percent":20})");
    expect_round_trip(
        ChangePool{"n", "ignore", true, 80, 20, "grow"},
        R"({"name":"n","discards":"ignore","error_when_full":true,"autoextend_threshold":80,"autoextend_percent":20,"profile":"grow"})");
    expect_round_trip(AutomaticExtension{80, 20}, R"({"threshold":80,"percent":20})");
    expect_round_trip(SetActive{{"n"}, false, true, true}, R"({"names":["n"],"active":false,"ignore_skip":true,"with_contents":true})");
    expect_round_trip(ChangeOptions{true}, R"({"dry_run":true})");
}

TEST(Json, VolumeInfo) {
    VolumeInfo volume{"n",   "i",  VolumeKind::thin_pool,
                      "s",   1,    false,
                      true,  true, {"t"},
                      -2,    "h",  17,
                      3,     4,    {"pv0"},
                      "p",   "o",  "fo",
                      "e",   "f",  5,
                      6,     18,   7,
                      8,     9,    10,
                      11,    12,   "d",
                      false, true, "ed",
                      "m",   true, 14,
                      15,    16,   "x",
                      "y",   true, false,
                      "pf",  true, 13,
                      "r"};
    expect_round_trip(
        volume,
        R"({"name":"n","id":"i","kind":"thin_pool","segment_type":"s","size":1,"visible":false,"read_only":true,)"
        R"("skip_activation":true,"tags":["t"],"creation_time":-2,"creation_host":"h","age":17,"stripes":3,"stripe_size":4,)"
        R"("physical_volumes":["pv0"],"pool":"p","origin":"o","former_origin":"fo","external_origin":"e","origin_file":"f","device_id":5,"mapped":6,"exclusive":18,)"
        R"("transaction_id":7,"chunk_size":8,"data_used":9,"metadata_size":10,"metadata_used":11,"metadata_snapshot":12,)"
        R"("discards":"d","zero_new_blocks":false,"error_when_full":true,"effective_discards":"ed","pool_mode":"m",)"
        R"("needs_check":true,"store_size":14,"store_used":15,"store_metadata":16,"snapshot_state":"x","state":"y",)"
        R"("active":true,"monitored":false,"profile":"pf","lock_held":true,)"
        R"("open_count":13,"refused":"r"})");
}

TEST(Json, UnknownIsNull) {
    Json json = to_json(VolumeInfo{});
    for (const char* key : {"creation_time", "device_id", "mapped", "transaction_id", "chunk_size", "data_used", "metadata_size",
                            "metadata_used", "metadata_snapshot", "active", "monitored", "lock_held"})
        EXPECT_TRUE(json.at(key).is_null()) << key;
    EXPECT_FALSE(from_json<VolumeInfo>(json, "value")->mapped.has_value());
}

// What is left out is what a reader has anyway.
TEST(Json, Brief) {
    std::vector<VolumeInfo> volumes(3);
    volumes[1].name = "n";
    volumes[1].kind = VolumeKind::thin;
    volumes[1].tags = {"t"};
    volumes[1].stripes = VolumeInfo{}.stripes + 1;
    volumes[1].mapped = 0;
    volumes[1].active = false;
    volumes[1].zero_new_blocks = false;
    volumes[1].open_count = 1;
    const std::string brief = *print_json(to_json_brief(volumes));
    EXPECT_EQ(brief, fmt::format(R"([{{}},{{"name":"n","kind":"thin","tags":["t"],"stripes":{},"mapped":0,)"
                                 R"("zero_new_blocks":false,"active":false,"open_count":1}},{{}}])",
                                 volumes[1].stripes));
    EXPECT_EQ(to_json(*from_json<std::vector<VolumeInfo>>(*parse_json(brief), "v")), to_json(volumes));
}

TEST(Json, MembersInAnyOrder) {
    const auto read = from_json<VolumeInfo>(*parse_json(R"({"refused":"r","later":1,"name":"n","size":2,"id":"i","size":3})"), "v");
    ASSERT_TRUE(read) << read.error().message();
    EXPECT_EQ(read->refused + read->name + read->id, "rni");
    EXPECT_EQ(read->size, 3u);
}

TEST(Json, GroupInfo) {
    GroupInfo group{"n",
                    "i",
                    1,
                    2,
                    3,
                    4,
                    "s",
                    "l",
                    {"t"},
                    {{"pv0", "j", "/d", 5, 6, 7, true, true, "hint", {"u"}}},
                    {"f"},
                    {"r"},
                    {{"v", "lamella.unfinished=x"}},
                    false,
                    true,
                    {Capability::activation, Capability::trim}};
    expect_round_trip(
        group,
        R"({"name":"n","id":"i","sequence_number":1,"extent_size":2,"size":3,"free":4,"system_id":"s","lock_type":"l",)"
        R"("tags":["t"],"physical_volumes":[{"name":"pv0","id":"j","device":"/d","size":5,"allocated":6,"extents":7,)"
        R"("missing":true,"duplicate":true,"device_hint":"hint","tags":["u"]}],"findings":["f"],"recovered":["r"],"broken_off":[{"volume":"v","tag":"lamella.unfinished=x"}],"writable":false,"served":true,"capabilities":["activation","trim"]})");
}

TEST(Json, Pools) {
    expect_round_trip(std::vector{PoolDependent{"n", "i", 1, true, "u"}},
                      R"([{"name":"n","id":"i","device_id":1,"foreign":true,"used_by":"u"}])");
    expect_round_trip(
        PoolContents{7, true, {1, 3}, true, PoolCheck{"leak", {"f"}, 4, 5, 6}},
        R"({"transaction_id":7,"changing":true,"device_ids":[1,3],"needs_check":true,"check":{"grade":"leak","findings":["f"],"finding_count":4,"leaked_data_blocks":5,"leaked_metadata_blocks":6}})");
    expect_round_trip(PoolContents{7, false, {}, false, {}},
                      R"({"transaction_id":7,"changing":false,"device_ids":[],"needs_check":false,"check":null})");
    expect_round_trip(PackedMetadata{5, 6, true}, R"({"bytes":5,"transaction_id":6,"of_metadata_snapshot":true})");
}

TEST(Json, EveryWord) {
    for (int kind = 0; kind <= static_cast<int>(VolumeKind::other); ++kind) {
        VolumeInfo volume;
        volume.kind = static_cast<VolumeKind>(kind);
        EXPECT_EQ(from_json<VolumeInfo>(to_json(volume), "v")->kind, volume.kind);
    }
    for (int base = 0; base <= static_cast<int>(SizeRequest::Base::percent_of_origin); ++base)
        for (int relation = 0; relation <= static_cast<int>(SizeRequest::Relation::shrink); ++relation) {
            SizeRequest size{static_cast<SizeRequest::Base>(base), static_cast<SizeRequest::Relation>(relation), 1};
            SizeRequest back = *from_json<SizeRequest>(to_json(size), "v");
            EXPECT_EQ(back.base, size.base);
            EXPECT_EQ(back.relation, size.relation);
        }
    for (int one = 0; one <= static_cast<int>(Capability::trim); ++one) {
        GroupInfo group;
        group.capabilities = {static_cast<Capability>(one)};
        EXPECT_EQ(from_json<GroupInfo>(to_json(group), "g")->capabilities, group.capabilities);
    }
}

TEST(Json, ErrorsNameThePlace) {
    auto message = [](std::string_view text) {
        auto result = from_json<std::vector<CreateSnapshot>>(*parse_json(text), "params.requests");
        return result ? "accepted" : result.error().message();
    };
    EXPECT_EQ(message(R"({})"), "params.requests: expected an array");
    EXPECT_EQ(message(R"([{}, 3])"), "params.requests[1]: expected an object");
    EXPECT_EQ(message(R"([{"origin":3}])"), "params.requests[0].origin: expected a string");
    EXPECT_EQ(message(R"([{"tags":["a",{}]}])"), "params.requests[0].tags[1]: expected a string");
    EXPECT_EQ(message(R"([{"read_only":1}])"), "params.requests[0].read_only: expected true or false");
    EXPECT_EQ(message(R"([{"later":"version"}])"), "accepted");
}

TEST(Json, NumbersInRange) {
    auto stripes = [](std::string_view number) {
        return from_json<CreateVolume>(*parse_json(fmt::format(R"({{"stripes":{}}})", number)), "v");
    };
    EXPECT_EQ(stripes("4294967295")->stripes, 4294967295u);
    for (std::string_view number : {"4294967296", "-1", "1.0", "1e3", "\"1\"", "null", "1e400", "99999999999999999999999"})
        EXPECT_FALSE(parse_json(fmt::format(R"({{"stripes":{}}})", number)) && stripes(number)) << number;
    EXPECT_EQ(from_json<SizeRequest>(*parse_json(R"({"value":18446744073709551615})"), "v")->value, UINT64_MAX);
    EXPECT_FALSE(from_json<SizeRequest>(*parse_json(R"({"base":"furlongs"})"), "v"));
}

TEST(Json, Limits) {
    EXPECT_TRUE(parse_json(std::string(16, '[') + std::string(16, ']')));
    EXPECT_FALSE(parse_json(std::string(17, '[') + std::string(17, ']')));
    EXPECT_FALSE(parse_json(std::string(1'000'000, '[')));
    std::string many = "{";
    for (int i = 0; i < 256; ++i)
        many += fmt::format(R"({}"k{}":{{"a":1}})", i ? "," : "", i);
    EXPECT_TRUE(parse_json(many + "}"));
    EXPECT_FALSE(parse_json(many + R"(,"k256":1})"));
    // What stands in a string doesn't count, wherever that ends.
    EXPECT_TRUE(parse_json("\"" + std::string(1000, '[') + std::string(1000, ':') + "\""));
    EXPECT_TRUE(parse_json(R"(["\"[[[[[[[[[[[[[[[[[","]]]"])"));
    EXPECT_FALSE(parse_json(R"(["\\",)" + std::string(16, '[') + std::string(16, ']') + "]"));
    for (std::string_view text : {"", "{", "}", "]{", "\"\\", "nul", "{}{}", "{\"a\":1,}", "\"\xff\""})
        EXPECT_EQ(parse_json(text).error().kind(), ErrorKind::usage) << text;
}

TEST(Json, BytesThatAreNotUtf8) {
    GroupInfo group;
    group.system_id = "a\xff\xc3\xa4\xed\xa0\x80\xf0\x9f\x98\x80\xe2\x82";
    Result<std::string> printed = print_json(to_json(group));
    ASSERT_TRUE(printed);
    EXPECT_EQ(from_json<GroupInfo>(*parse_json(*printed), "v")->system_id, "a?\xc3\xa4???\xf0\x9f\x98\x80??");
    EXPECT_FALSE(print_json(Json("\xff")));
}

TEST(Json, Errors) {
    for (ErrorKind kind : {ErrorKind::failed, ErrorKind::usage, ErrorKind::not_found, ErrorKind::exists, ErrorKind::refused,
                           ErrorKind::damaged, ErrorKind::no_space, ErrorKind::unsupported}) {
        Error back = error_from_json(error_to_json(Error(kind, "why", 5)));
        EXPECT_EQ(back.kind(), kind);
        EXPECT_EQ(back.message(), "why");
        EXPECT_EQ(back.error_number(), 5);
    }
    EXPECT_EQ(error_from_json(*parse_json("[]")).kind(), ErrorKind::failed);
    EXPECT_EQ(error_from_json(*parse_json(R"({"kind":"odd","message":"m"})")).kind(), ErrorKind::failed);
}

}  // namespace
}  // namespace lamella
