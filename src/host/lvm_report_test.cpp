// SPDX-License-Identifier: Apache-2.0
//
// testdata/group.json was printed by LVM 2.03.16 in user-mode Linux for lvm_report_arguments() and a group of two disks with a pool, a
// volume with two snapshots, one of them waiting to be merged, a linear volume of three segments and a striped one, each with a classic
// snapshot, the second one overrun. testdata/group-std.json was printed by LVM 2.03.39 in user-mode Linux for the same arguments, but with
// json_std, and a group made in the same way: counts, ids and flags are bare numbers in it or null, sizes and times strings, lists arrays.
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>

#include "base/test_support.h"
#include "host/lvm_report.h"

namespace lamella::host {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string file(const std::string& name) {
    std::ifstream stream(std::string(HOST_TESTDATA "/") + name);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
}

class Dialect : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        LvmReport report = test::value_of(parse_lvm_report(file(GetParam())));
        ASSERT_EQ(report.groups.size(), 1u);
        group = std::move(report.groups.front());
    }
    const LvmVolume& volume(const char* name) { return *group.volume(name); }
    LvmGroup group;
};

INSTANTIATE_TEST_SUITE_P(LvmReport, Dialect, testing::Values("group.json", "group-std.json"),
                         [](const auto& parameter) { return parameter.index == 0 ? "json" : "json_std"; });

TEST_P(Dialect, TellsOfTheGroup) {
    EXPECT_EQ(group.name, "my-vg");
    EXPECT_EQ(group.id.size(), 38u);
    EXPECT_EQ(group.extent_size, 4u << 20);
    EXPECT_EQ(group.extents, 62u);
    EXPECT_THAT(group.tags, ElementsAre("rack4"));
    EXPECT_FALSE(group.exported);
    EXPECT_FALSE(group.partial);
    EXPECT_TRUE(group.writable);
    ASSERT_EQ(group.physical_volumes.size(), 2u);
    EXPECT_EQ(group.physical_volumes[1].device, "/dev/ubdb");
    EXPECT_EQ(group.physical_volumes[0].extents, 31u);
    EXPECT_FALSE(group.physical_volumes[0].missing);
}

TEST_P(Dialect, TellsOfAPool) {
    const LvmVolume& pool = volume("pool");
    ASSERT_EQ(pool.segments.size(), 1u);
    EXPECT_EQ(pool.segments[0].type, "thin-pool");
    EXPECT_EQ(pool.segments[0].chunk_size, 64u << 10);
    EXPECT_EQ(pool.segments[0].zero, true);
    EXPECT_EQ(pool.segments[0].discards, "passdown");
    // What is configured and what the kernel makes of it are two things.
    EXPECT_EQ(pool.kernel_discards, "nopassdown");
    EXPECT_EQ(pool.when_full, "queue");
    // LVM's field for it, which isn't zero.
    EXPECT_EQ(pool.metadata_size, 4u << 20);
    EXPECT_EQ(pool.data, "pool_tdata");
    EXPECT_EQ(pool.metadata, "pool_tmeta");
    EXPECT_TRUE(volume("pool_tmeta").hidden);
    EXPECT_FALSE(pool.hidden);
    EXPECT_EQ(pool.check_needed, false);
}

// By LVM's own fields for it, not by letters that stand for something else in another column.
TEST_P(Dialect, TellsSnapshotsFromOrigins) {
    EXPECT_TRUE(volume("web-s2").has_role("thinsnapshot"));
    EXPECT_FALSE(volume("web").has_role("thinsnapshot"));
    EXPECT_TRUE(volume("web").has_role("thinorigin"));
    EXPECT_TRUE(volume("boot-s").has_role("thicksnapshot"));
    // An origin's attributes have an 's' in them, too.
    EXPECT_THAT(volume("boot").attributes, HasSubstr("s"));
    EXPECT_FALSE(volume("boot").has_role("thicksnapshot"));
    EXPECT_EQ(volume("boot-s").origin, "boot");
    EXPECT_EQ(volume("boot-s").origin_size, 48u << 20);
    EXPECT_EQ(volume("boot-s").segments.at(0).chunk_size, 4096u);
}

TEST_P(Dialect, TellsOfMergingAndInvalidSnapshots) {
    EXPECT_EQ(volume("web-s1").merging, true);
    EXPECT_EQ(volume("web-s2").merging, false);
    EXPECT_EQ(volume("str-s").snapshot_invalid, true);
    EXPECT_EQ(volume("boot-s").snapshot_invalid, false);
    // Not applicable is neither yes nor no.
    EXPECT_EQ(volume("web").snapshot_invalid, std::nullopt);
}

TEST_P(Dialect, ReadsActivityAndPermissionFromTheirColumns) {
    EXPECT_TRUE(volume("web").active());
    EXPECT_FALSE(volume("web-s2").active());
    EXPECT_TRUE(volume("web-s2").read_only());
    EXPECT_FALSE(volume("web").read_only());
    EXPECT_TRUE(volume("str-s").active()) << "an invalid snapshot is active: " << volume("str-s").attributes;
}

TEST_P(Dialect, HasAVolumeOnceHoweverManySegments) {
    ASSERT_EQ(volume("boot").segments.size(), 3u);
    EXPECT_EQ(volume("boot").size, 48u << 20);
    EXPECT_LT(volume("boot").segments[0].start, volume("boot").segments[1].start);
    EXPECT_EQ(std::ranges::count(group.volumes, "boot", &LvmVolume::name), 1);
}

TEST_P(Dialect, ReadsIdsTimesAndTags) {
    EXPECT_EQ(volume("web").segments.at(0).thin_id, 1u);
    EXPECT_EQ(volume("web").segments.at(0).transaction_id, 0u);
    EXPECT_EQ(volume("boot").segments.at(0).thin_id, std::nullopt);
    EXPECT_THAT(volume("web").tags, ElementsAre("prod", "tier=1"));
    EXPECT_GT(volume("web").creation_time.value_or(0), 1'700'000'000);
    EXPECT_THAT(volume("str").segments.at(0).pe_ranges, testing::SizeIs(2));
}

TEST(LvmReport, TakesErrorsFromTheLog) {
    const LvmReport report = test::value_of(parse_lvm_report(
        R"({"report":[],"log":[{"log_seq_num":"1","log_type":"status","log_message":"fine"},{"log_seq_num":"2","log_type":"error","log_message":"Volume group \"vg\" not found"}]})"));
    EXPECT_TRUE(report.groups.empty());
    EXPECT_THAT(report.errors, ElementsAre("Volume group \"vg\" not found"));
}

// The report's own words with something wrong in them.
std::string changed(const std::string& from, const std::string& to) {
    std::string text = file("group.json");
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
}

void refused(const std::string& text, const std::string& reason) {
    const auto report = parse_lvm_report(text);
    ASSERT_FALSE(report) << reason;
    EXPECT_EQ(report.error().kind(), ErrorKind::damaged);
    EXPECT_THAT(report.error().message(), HasSubstr(reason));
}

TEST(LvmReport, RefusesWhatItCannotUnderstand) {
    refused("", "not JSON");
    refused("  Volume group \"none\" not found\n", "not JSON");
    refused("[]", "no object");
    refused("{}", "no \"report\"");
    refused(file("group.json").substr(0, 9000), "not JSON");
    refused(std::string(100, '[') + std::string(100, ']'), "nests too deep");
    // For people: a human size must not be read as a number, and never as 0.
    refused(changed("\"vg_extent_size\": \"4194304\"", "\"vg_extent_size\": \"<4.00m\""),
            "vg_extent_size of a row of vg is no whole number");
    refused(changed("\"vg_seqno\"", "\"vg_other\""), "has no vg_seqno");
    refused(changed("\"vg_extent_size\": \"4194304\"", "\"vg_extent_size\": \"0\""), "extents of the group can't be");
    refused(changed("\"lv_size\": \"50331648\"", "\"lv_size\": \"-1\""), "lv_size");
    refused(changed("\"lv_size\": \"50331648\"", "\"lv_size\": \"99999999999999999999999\""), "lv_size");
    refused(R"({"report":[{"vg":[1]}]})", "no row");
    refused(R"({"report":[{"vg":{}}]})", "no list");
}

TEST(LvmReport, LeavesUnknownWhatIsNotThere) {
    const LvmReport report = test::value_of(parse_lvm_report(
        R"({"report":[{"vg":[{"vg_name":"v","vg_uuid":"u","vg_seqno":"1","vg_extent_size":"4194304","vg_extent_count":"9","vg_free_count":"9"}],
            "lv":[{"lv_uuid":"a","lv_name":"w","lv_size":"4194304","lv_time":"","origin_size":""}]}]})"));
    const LvmVolume& volume = report.groups.at(0).volumes.at(0);
    EXPECT_EQ(volume.creation_time, std::nullopt);
    EXPECT_EQ(volume.origin_size, std::nullopt);
    EXPECT_EQ(volume.merging, std::nullopt);
    EXPECT_FALSE(volume.active());
}

// By LVM 2.03.16, and what json_std makes of it.
TEST(LvmReport, NamesAllGroups) {
    const auto groups = parse_lvm_groups(
        R"({"report":[{"vg":[{"vg_name":"vg0","vg_uuid":"a","vg_systemid":""},{"vg_name":"vgc","vg_uuid":"b","vg_systemid":"elsewhere"}]}]})");
    ASSERT_TRUE(groups) << groups.error().message();
    ASSERT_EQ(groups->size(), 2u);
    EXPECT_EQ((*groups)[1].name, "vgc");
    EXPECT_EQ((*groups)[1].system_id, "elsewhere");
    EXPECT_TRUE(parse_lvm_groups(R"({"report":[{"vg":[]}],"log":[]})")->empty());
    for (const char* bad : {"", "[]", "{}", R"({"report":[3]})", R"({"report":[{"vg":3}]})", R"({"report":[{"vg":[{"vg_uuid":"a"}]}]})"})
        EXPECT_EQ(parse_lvm_groups(bad).error().kind(), ErrorKind::damaged) << bad;
}

TEST(LvmReport, NamesPhysicalVolumesThatAreThereTwice) {
    for (const char* text : {R"({"report":[{"pv":[{"pv_uuid":"a","pv_duplicate":"0"},{"pv_uuid":"b","pv_duplicate":"1"}]}]})",
                             R"({"report":[{"pv":[{"pv_uuid":"a","pv_duplicate":0},{"pv_uuid":"b","pv_duplicate":1}]}]})",
                             R"({"report":[{"pv":[{"pv_uuid":"a","pv_duplicate":""},{"pv_uuid":"b","pv_duplicate":"duplicate"}]}]})"})
        EXPECT_EQ(parse_lvm_duplicates(text).value(), std::vector<std::string>{"b"}) << text;
    // A device without any, as --all lists them.
    EXPECT_TRUE(parse_lvm_duplicates(R"({"report":[{"pv":[{"pv_uuid":"","pv_duplicate":"0"}]}]})")->empty());
    EXPECT_EQ(parse_lvm_duplicates(R"({"report":[{"pv":[{"pv_duplicate":"1"}]}]})").error().kind(), ErrorKind::damaged);
}

}  // namespace
}  // namespace lamella::host
