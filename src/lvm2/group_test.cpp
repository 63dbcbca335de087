// SPDX-License-Identifier: Apache-2.0
//
// The model against texts that lvm2 2.03.16 wrote (testdata/README.md): parsed and printed again, they are the same; and each
// change, made here, gives the text that LVM's command gave.
#include "lvm2/group.h"

#include <chrono>
#include <fstream>
#include <functional>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lvm2/allocation.h"

namespace lamella::lvm2 {
namespace {

std::string golden(const std::string& name) {
    std::ifstream file(std::string(LVM2_TESTDATA) + "/" + name);
    EXPECT_TRUE(file) << name;
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

VolumeGroup load(const std::string& name) {
    auto parsed = parse_group(golden(name));
    if (!parsed) {
        ADD_FAILURE() << name << ": " << parsed.error().message();
        return {};
    }
    for (const Finding& finding : parsed->findings)
        ADD_FAILURE() << name << ": " << to_string(finding);
    return std::move(parsed->group);
}

// Without the comments on who wrote it, which can't be the same.
std::string comparable(const std::string& text) {
    std::string result;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("# Generated"))
            line = "# Generated";
        if (line.starts_with("creation_"))
            line = line.substr(0, line.find("\t#"));
        result += line + "\n";
    }
    return result;
}

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, IsPrintedAsLvmWroteIt) {
    ::setenv("TZ", "UTC", 1);
    const std::string name = GetParam();
    const VolumeGroup group = load(name);
    const TextStyle style = name.ends_with(".vg") ? TextStyle::human : TextStyle::on_disk;
    EXPECT_EQ(comparable(print_group(group, style)), comparable(golden(name)));
}

INSTANTIATE_TEST_SUITE_P(Texts, Golden,
                         testing::Values("01pool.vg", "02web.vg", "03db.vg", "04snap.vg", "04snap.ondisk", "05snap2.vg", "07extend.vg",
                                         "08meta.vg", "09rename.vg", "10remove.vg", "11merge.vg", "12remove.vg", "13resize.vg",
                                         "15rmpool.vg", "16raid.vg", "16raid.ondisk", "message.ondisk", "options.vg", "20thick.vg",
                                         "21snap.vg", "22snap2.vg", "23extend.vg", "24rename.vg", "25origin.vg", "26merge.vg",
                                         "27remove.vg", "28merged.vg", "30parts.vg", "31converted.vg", "32made.vg", "33swapped.vg"));

// Applies `change` to the group of the first text; the group of the second must come out, up to the ids and times of what is new.
void expect_change(const std::string& before, const std::string& after, const std::function<void(VolumeGroup&)>& change) {
    SCOPED_TRACE(before + " -> " + after);
    ::setenv("TZ", "UTC", 1);
    VolumeGroup group = load(before);
    const VolumeGroup wanted = load(after);
    change(group);
    EXPECT_TRUE(check(group).empty());
    for (LogicalVolume& volume : group.logical_volumes)
        if (const LogicalVolume* same = wanted.logical_volume(volume.name); same && volume.creation_host == "test") {
            volume.id = same->id;
            volume.creation_time = same->creation_time;
            volume.creation_host = same->creation_host;
        }
    group.seqno = wanted.seqno;
    group.description = wanted.description;
    group.creation_time = wanted.creation_time;
    EXPECT_EQ(comparable(print_group(group, TextStyle::human)), comparable(print_group(wanted, TextStyle::human)));
}

template <typename T>
void expect_done(const Result<T>& result) {
    EXPECT_TRUE(result) << (result ? "" : result.error().message());
}

NewVolume named(std::string name) { return {std::move(name), {}, false, {1, "test"}}; }

TEST(Changes, AreWhatLvmWrites) {
    expect_change("15rmpool.vg", "01pool.vg", [](VolumeGroup& group) {
        NewThinPool pool{.volume = named("pool"), .data_extents = 64};
        pool.data.stripes = 2;
        expect_done(create_thin_pool(group, pool));
    });
    expect_change("01pool.vg", "02web.vg", [](VolumeGroup& group) {
        expect_done(create_thin(group, named("web"), "pool", 256));
        EXPECT_EQ(group.logical_volume("pool")->sole<ThinPool>()->messages, (std::vector<ThinMessage>{{"web", {}}}));
        expect_done(forget_messages(group, "pool"));
    });
    expect_change("02web.vg", "03db.vg", [](VolumeGroup& group) {
        NewVolume volume = named("db");
        volume.tags = {"prod"};
        expect_done(create_thin(group, volume, "pool", 256));
        expect_done(forget_messages(group, "pool"));
    });
    expect_change("03db.vg", "04snap.vg", [](VolumeGroup& group) {
        expect_done(create_thin_snapshot(group, named("web-s1"), "web"));
        expect_done(forget_messages(group, "pool"));
    });
    expect_change("04snap.vg", "05snap2.vg", [](VolumeGroup& group) {
        NewVolume volume = named("web-s2");
        volume.read_only = true;
        expect_done(create_thin_snapshot(group, volume, "web-s1", false));
        expect_done(forget_messages(group, "pool"));
    });
    expect_change("05snap2.vg", "07extend.vg", [](VolumeGroup& group) { expect_done(extend_volume(group, "pool", 16, {})); });
    expect_change("07extend.vg", "08meta.vg", [](VolumeGroup& group) { expect_done(extend_metadata(group, "pool", 2, {})); });
    expect_change("08meta.vg", "09rename.vg", [](VolumeGroup& group) { expect_done(rename_volume(group, "pool", "tank")); });
    expect_change("09rename.vg", "10remove.vg", [](VolumeGroup& group) {
        expect_done(remove_volume(group, "db"));
        EXPECT_EQ(group.logical_volume("tank")->sole<ThinPool>()->messages, (std::vector<ThinMessage>{{"", ThinId(2)}}));
        expect_done(forget_messages(group, "tank"));
    });
    expect_change("10remove.vg", "11merge.vg", [](VolumeGroup& group) {
        expect_done(merge_thin_snapshot(group, "web-s1"));
        expect_done(forget_messages(group, "tank"));
    });
    expect_change("11merge.vg", "12remove.vg", [](VolumeGroup& group) {
        expect_done(remove_volume(group, "web"));
        expect_done(forget_messages(group, "tank"));
    });
    expect_change("12remove.vg", "13resize.vg", [](VolumeGroup& group) { expect_done(resize_thin(group, "web-s2", 512)); });
    expect_change("13resize.vg", "15rmpool.vg", [](VolumeGroup& group) {
        expect_done(remove_volume(group, "web-s2"));
        expect_done(remove_volume(group, "tank"));
    });
}

TEST(Changes, OfClassicSnapshotsAreWhatLvmWrites) {
    const auto snapshot = [](std::string name, std::uint32_t extents, std::uint32_t chunk_sectors) {
        return NewClassicSnapshot{.volume = named(std::move(name)), .origin = "thick", .extents = extents, .chunk_sectors = chunk_sectors};
    };
    // 20 % of the origin are 5 extents; LVM gives one more for the store's own needs.
    expect_change("20thick.vg", "21snap.vg",
                  [&](VolumeGroup& group) { expect_done(create_classic_snapshot(group, snapshot("s1", 6, 8))); });
    expect_change("21snap.vg", "22snap2.vg", [&](VolumeGroup& group) {
        NewClassicSnapshot second = snapshot("s2", 2, 128);
        second.volume.tags = {"keep"};
        second.volume.read_only = true;
        expect_done(create_classic_snapshot(group, second));
    });
    expect_change("22snap2.vg", "23extend.vg", [](VolumeGroup& group) { expect_done(extend_store(group, "s1", 2, {})); });
    expect_change("23extend.vg", "24rename.vg", [](VolumeGroup& group) { expect_done(rename_volume(group, "s1", "first")); });
    expect_change("24rename.vg", "25origin.vg", [](VolumeGroup& group) { expect_done(rename_volume(group, "thick", "base")); });
    expect_change("25origin.vg", "26merge.vg", [](VolumeGroup& group) { expect_done(begin_merge(group, "first")); });
    expect_change("26merge.vg", "27remove.vg", [](VolumeGroup& group) { expect_done(remove_classic_snapshot(group, "s2")); });
    expect_change("27remove.vg", "28merged.vg", [](VolumeGroup& group) { expect_done(remove_classic_snapshot(group, "first")); });
}

TEST(Changes, KeepClassicSnapshotsWhole) {
    VolumeGroup group = load("26merge.vg");
    const std::string before = print_group(group, TextStyle::on_disk);
    const auto refused = [&](std::string origin) {
        NewClassicSnapshot snapshot{.volume = named("new"), .origin = std::move(origin), .extents = 1};
        return create_classic_snapshot(group, snapshot).error().kind();
    };
    EXPECT_EQ(refused("base"), ErrorKind::refused);  // first is being merged into it
    EXPECT_EQ(refused("s2"), ErrorKind::refused);
    EXPECT_EQ(refused("snapshot0"), ErrorKind::unsupported);
    EXPECT_EQ(refused("nowhere"), ErrorKind::not_found);
    EXPECT_EQ(remove_volume(group, "base").error().kind(), ErrorKind::refused);
    EXPECT_EQ(remove_volume(group, "s2").error().kind(), ErrorKind::refused);
    EXPECT_EQ(reduce_volume(group, "base", 1).error().kind(), ErrorKind::refused);
    EXPECT_EQ(begin_merge(group, "s2").error().kind(), ErrorKind::refused);
    EXPECT_EQ(begin_merge(group, "base").error().kind(), ErrorKind::usage);
    EXPECT_EQ(extend_store(group, "base", 1, {}).error().kind(), ErrorKind::usage);
    EXPECT_EQ(extend_store(group, "s2", 1000, {}).error().kind(), ErrorKind::no_space);

    VolumeGroup thick = load("20thick.vg");
    for (const std::uint32_t sectors : {0u, 4u, 12u, 2048u}) {
        NewClassicSnapshot snapshot{.volume = named("new"), .origin = "thick", .extents = 1, .chunk_sectors = sectors};
        EXPECT_EQ(create_classic_snapshot(thick, snapshot).error().kind(), ErrorKind::usage) << sectors;
    }
    EXPECT_EQ(print_group(group, TextStyle::on_disk), before);

    const ClassicSnapshots found(group);
    ASSERT_NE(found.of_store("first"), nullptr);
    EXPECT_TRUE(found.of_store("first")->merging);
    EXPECT_EQ(found.of_store("base"), nullptr);
    ASSERT_NE(found.of_origin("base"), nullptr);
    EXPECT_EQ(found.of_origin("base")->size(), 2u);
    EXPECT_EQ(found.of_origin("s2"), nullptr);
}

TEST(Changes, MakeAPoolWithOptions) {
    expect_change("options.vg", "options.vg", [](VolumeGroup& group) {
        group.logical_volumes.clear();
        NewThinPool pool{.volume = named("small"), .data_extents = 16, .chunk_sectors = 512};
        pool.discards = Discards::nopassdown;
        pool.zero_new_blocks = false;
        pool.error_when_full = true;
        expect_done(create_thin_pool(group, pool));
    });
}

TEST(Changes, MakePoolsOfVolumesAsLvmDoes) {
    expect_change("30parts.vg", "31converted.vg", [](VolumeGroup& group) {
        expect_done(convert_to_pool(group, {.data = "data",
                                            .metadata = "meta",
                                            .chunk_sectors = 256,
                                            .discards = Discards::nopassdown,
                                            .zero_new_blocks = false,
                                            .error_when_full = true,
                                            .created = {1, "test"}}));
    });
    expect_change("31converted.vg", "32made.vg", [](VolumeGroup& group) {
        expect_done(convert_to_pool(group, {.data = "single", .metadata = "", .chunk_sectors = 128, .created = {1, "test"}}));
    });
    expect_change("32made.vg", "33swapped.vg", [](VolumeGroup& group) { expect_done(swap_metadata(group, "data", "other")); });
}

TEST(Changes, MakeNoPoolsOfWhatIsUsed) {
    VolumeGroup group = load("32made.vg");
    const std::string before = print_group(group, TextStyle::on_disk);
    const auto convert = [&](const char* data, const char* metadata, std::uint32_t chunk_sectors = 128) {
        return convert_to_pool(group, {.data = data, .metadata = metadata, .chunk_sectors = chunk_sectors}).error().kind();
    };
    EXPECT_EQ(convert("data", ""), ErrorKind::unsupported);
    EXPECT_EQ(convert("data_tdata", ""), ErrorKind::refused);
    EXPECT_EQ(convert("other", "other"), ErrorKind::usage);
    EXPECT_EQ(convert("other", "data_tmeta"), ErrorKind::refused);
    EXPECT_EQ(convert("other", "none"), ErrorKind::not_found);
    EXPECT_EQ(convert("other", "", 129), ErrorKind::usage);
    EXPECT_EQ(swap_metadata(group, "data", "single").error().kind(), ErrorKind::unsupported);
    EXPECT_EQ(swap_metadata(group, "other", "data").error().kind(), ErrorKind::usage);
    group.logical_volume("data")->sole<ThinPool>()->messages.push_back({"", ThinId(1)});
    EXPECT_EQ(swap_metadata(group, "data", "other").error().kind(), ErrorKind::refused);
    group.logical_volume("data")->sole<ThinPool>()->messages.clear();
    EXPECT_EQ(print_group(group, TextStyle::on_disk), before);
}

TEST(Changes, LeaveTheGroupAsItWasWhenTheyFail) {
    VolumeGroup group = load("05snap2.vg");
    const std::string before = print_group(group, TextStyle::on_disk);
    EXPECT_EQ(create_thin(group, named("web"), "pool", 1).error().kind(), ErrorKind::exists);
    EXPECT_EQ(create_thin(group, named("x"), "web", 1).error().kind(), ErrorKind::usage);
    EXPECT_EQ(create_thin(group, named("x"), "nowhere", 1).error().kind(), ErrorKind::not_found);
    EXPECT_EQ(create_thin(group, named("x_tdata"), "pool", 1).error().kind(), ErrorKind::usage);
    EXPECT_EQ(remove_volume(group, "pool").error().kind(), ErrorKind::refused);
    EXPECT_EQ(remove_volume(group, "pool_tdata").error().kind(), ErrorKind::refused);
    EXPECT_EQ(rename_volume(group, "pool_tmeta", "x").error().kind(), ErrorKind::refused);
    EXPECT_EQ(merge_thin_snapshot(group, "web").error().kind(), ErrorKind::usage);
    EXPECT_EQ(extend_volume(group, "pool", 1000, {}).error().kind(), ErrorKind::no_space);
    EXPECT_THAT(extend_volume(group, "pool", 1000, {}).error().message(), testing::HasSubstr("are missing"));
    NewThinPool pool{.volume = named("other"), .data_extents = 300};
    EXPECT_EQ(create_thin_pool(group, pool).error().kind(), ErrorKind::no_space);
    pool = {.volume = named("other"), .data_extents = 8, .chunk_sectors = 129};
    EXPECT_EQ(create_thin_pool(group, pool).error().kind(), ErrorKind::usage);
    EXPECT_EQ(add_tag(group, "web", "no space").error().kind(), ErrorKind::usage);
    EXPECT_EQ(remove_tag(group, "web", "none").error().kind(), ErrorKind::not_found);
    EXPECT_EQ(print_group(group, TextStyle::on_disk), before);
}

TEST(Changes, SeveralSnapshotsRaiseTheTransactionOnce) {
    VolumeGroup group = load("05snap2.vg");
    const std::uint64_t transaction = group.logical_volume("pool")->sole<ThinPool>()->transaction_id;
    const VolumeGroup before = group;
    ASSERT_TRUE(create_thin_snapshot(group, named("w"), "web"));
    ASSERT_TRUE(create_thin_snapshot(group, named("d"), "db"));
    EXPECT_EQ(group.logical_volume("pool")->sole<ThinPool>()->transaction_id, transaction + 1);
    EXPECT_EQ(group.logical_volume("d")->sole<Thin>()->transaction_id, transaction);
    EXPECT_EQ(remove_volume(group, "d").error().kind(), ErrorKind::refused);
    ASSERT_TRUE(withdraw_messages(group, "pool"));
    EXPECT_EQ(print_group(group, TextStyle::on_disk), print_group(before, TextStyle::on_disk));
}

TEST(Changes, TouchNoOpaqueVolume) {
    VolumeGroup group = load("16raid.vg");
    for (std::string_view name : {"mir", "mir_rimage_0"}) {
        EXPECT_EQ(remove_volume(group, name).error().kind(), ErrorKind::unsupported) << name;
        EXPECT_EQ(rename_volume(group, name, "x").error().kind(), ErrorKind::unsupported) << name;
        EXPECT_EQ(extend_volume(group, name, 1, {}).error().kind(), ErrorKind::unsupported) << name;
    }
    EXPECT_EQ(remove_volume(group, "snapshot0").error().kind(), ErrorKind::unsupported);
}

TEST(Text, KeepsWhatItDoesNotKnow) {
    std::string text = golden("04snap.ondisk");
    const auto insert_behind = [&](std::string_view line, std::string_view added) {
        const std::size_t place = text.find(line);
        ASSERT_NE(place, std::string::npos) << line;
        text.insert(place + line.size(), added);
    };
    insert_behind("max_pv = 0\n", "future = [\"a\", 1, -2]\n");
    insert_behind("pe_start = 2048\n", "ba_start = 64\nba_size = 8\n");
    insert_behind("flags = [\"ACTIVATION_SKIP\"]\n", "strange {\ninner = 1.50\n}\n");
    insert_behind("chunk_size = 128\n", "oddity = \"a \\\"quoted\\\" \\\\ string\"\n");
    insert_behind("version = 1\n", "another = 0\n");
    auto parsed = parse_group(text);
    ASSERT_TRUE(parsed) << parsed.error().message();
    EXPECT_TRUE(parsed->findings.empty());
    EXPECT_EQ(comparable(print_group(parsed->group, TextStyle::on_disk)), comparable(text));
}

TEST(Text, RefusesToWriteWhatItDoesNotKnow) {
    VolumeGroup group = load("04snap.vg");
    ASSERT_TRUE(check_may_write(group, ""));
    const auto refused = [&](auto&& change) {
        VolumeGroup copy = group;
        change(copy);
        const auto result = check_may_write(copy, "here");
        return !result && result.error().kind() == ErrorKind::refused;
    };
    EXPECT_TRUE(refused([](VolumeGroup& one) { one.status.push_back("EXPORTED"); }));
    EXPECT_TRUE(refused([](VolumeGroup& one) { one.status.push_back("NEW"); }));
    EXPECT_TRUE(refused([](VolumeGroup& one) { one.flags.push_back("NEW"); }));
    EXPECT_TRUE(refused([](VolumeGroup& one) { one.system_id = "there"; }));
    EXPECT_TRUE(refused([](VolumeGroup& one) { one.lock_type = "sanlock"; }));
    EXPECT_TRUE(refused([](VolumeGroup& one) { one.logical_volumes[0].status.push_back("NEW"); }));
    EXPECT_TRUE(refused([](VolumeGroup& one) { one.physical_volumes[0].flags.push_back("NEW"); }));
    EXPECT_FALSE(refused([](VolumeGroup& one) { one.system_id = "here"; }));
    EXPECT_TRUE(refused([](VolumeGroup& one) { one.status = {"RESIZEABLE", "READ"}; }));
    // As LVM 2.03.16 writes a group with a system id.
    EXPECT_FALSE(refused([](VolumeGroup& one) {
        one.status = {"RESIZEABLE", "READ"};
        one.flags = {"WRITE_LOCKED"};
        one.system_id = "here";
    }));
}

TEST(Check, FindsWhatCannotBe) {
    const std::string text = golden("04snap.vg");
    const auto findings_with = [&](std::string_view from, std::string_view to) {
        std::string changed = text;
        const std::size_t place = changed.find(from);
        EXPECT_NE(place, std::string::npos) << from;
        changed.replace(place, from.size(), to);
        auto parsed = parse_group(changed);
        EXPECT_TRUE(parsed) << from;
        return parsed ? parsed->findings.size() : 0;
    };
    EXPECT_EQ(findings_with("pe_count = 149", "pe_count = 149"), 0u);
    for (const auto& [from, to] :
         std::vector<std::pair<std::string, std::string>>{{"pe_count = 149", "pe_count = 150"},
                                                          {"pe_count = 149", "pe_count = -1"},
                                                          {"\"pv1\", 32", "\"pv1\", 31"},
                                                          {"\"pv1\", 32", "\"pv1\", 149"},
                                                          {"\"pv1\", 32", "\"pv2\", 32"},
                                                          {"seqno = ", "seqno = 99999999999 #"},
                                                          {"device_id = 2", "device_id = 1"},
                                                          {"device_id = 2", "device_id = 16777216"},
                                                          {"thin_pool = \"pool\"", "thin_pool = \"x\""},
                                                          {"origin = \"web\"", "origin = \"x\""},
                                                          {"origin = \"web\"", "origin = 5"},
                                                          {"chunk_size = 128", "chunk_size = 127"},
                                                          {"metadata = \"pool_tmeta\"", "metadata = \"pool_tdata\""},
                                                          {"segment_count = 1", "segment_count = 2"},
                                                          {"start_extent = 0", "start_extent = 1"},
                                                          {"discards = \"passdown\"", "discards = \"x\""},
                                                          {"stripe_count = 2", "stripe_count = 3"},
                                                          {"stripe_size = 128", "stripe_size = 100"},
                                                          {"extent_size = 8192", "extent_size = 0"},
                                                          {"web-s1 {", "we/b {"},
                                                          {"db {", "web {"},
                                                          {"tags = [\"prod\"]", "tags = [\"p d\"]"},
                                                          {"transaction_id = 3", "transaction = 3"},
                                                          {"format = \"lvm2\"", "format = \"lvm3\""}})
        EXPECT_GT(findings_with(from, to), 0u) << from << " -> " << to;
}

TEST(Check, NamesAndTags) {
    for (const char* name : {"a", "web.1_x+y-z", "_x"})
        EXPECT_TRUE(check_volume_name("vg", name)) << name;
    for (const char* name : {"", "-a", ".", "..", "a b", "a/b", "snapshot1", "pvmove0", "x_tdata", "x_tmeta", "a_mlog_b", "x_pmspare", "ä"})
        EXPECT_FALSE(check_volume_name("vg", name)) << name;
    EXPECT_TRUE(check_volume_name("vg", std::string(122, 'x')));
    EXPECT_FALSE(check_volume_name("vg", std::string(123, 'x')));
    EXPECT_FALSE(check_volume_name("v", std::string(70, '-').replace(0, 1, "a")));
    // A pool's hidden volumes count: pool_tdata.
    EXPECT_TRUE(check_pool_name("vg", std::string(116, 'x')));
    EXPECT_FALSE(check_pool_name("vg", std::string(117, 'x')));
    EXPECT_TRUE(check_volume_name("v-g", std::string(60, '-').replace(0, 1, "a")));
    EXPECT_FALSE(check_pool_name("v-g", std::string(60, '-').replace(0, 1, "a")));
    EXPECT_TRUE(check_tag("a/b=c:d&e#f!"));
    EXPECT_FALSE(check_tag("a b"));
    EXPECT_FALSE(check_tag("-a"));
    EXPECT_EQ(dm_name("my-vg", "a-b", "tpool"), "my--vg-a--b-tpool");
}

TEST(Defaults, OfMetadataAreLvms) {
    constexpr std::uint64_t GiB = std::uint64_t(1) << 30;
    EXPECT_EQ(default_chunk_sectors(100 * GiB), 128u);
    EXPECT_EQ(default_chunk_sectors(128 * GiB), 128u);
    EXPECT_EQ(default_chunk_sectors(129 * GiB), 256u);
    EXPECT_EQ(default_metadata_bytes(GiB, 128), std::uint64_t(2) << 20);
    EXPECT_EQ(default_metadata_bytes(100 * GiB, 128), std::uint64_t(100) << 20);
}

TEST(Text, TenThousandVolumesAreFast) {
    VolumeGroup group = load("02web.vg");
    const LogicalVolume model = *group.logical_volume("web");
    for (std::uint32_t i = 0; i < 10'000; ++i) {
        LogicalVolume volume = model;
        volume.name = fmt::format("volume{}", i);
        volume.id = LvmId::generate();
        volume.segments[0].as<Thin>()->device_id = ThinId(i + 2);
        group.logical_volumes.push_back(std::move(volume));
    }
    const auto start = std::chrono::steady_clock::now();
    const std::string text = print_group(group, TextStyle::on_disk);
    const auto printed = std::chrono::steady_clock::now();
    auto parsed = parse_group(text);
    const auto end = std::chrono::steady_clock::now();
    ASSERT_TRUE(parsed);
    EXPECT_TRUE(parsed->findings.empty());
    EXPECT_EQ(parsed->group.logical_volumes.size(), 10'001 + 3u + 1u);
    const auto milliseconds = [](auto duration) {
        return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
    };
    RecordProperty("print_ms", milliseconds(printed - start));
    RecordProperty("parse_ms", milliseconds(end - printed));
    fmt::print("{} bytes: printed in {} ms, parsed and checked in {} ms\n", text.size(), milliseconds(printed - start),
               milliseconds(end - printed));
}

}  // namespace
}  // namespace lamella::lvm2
