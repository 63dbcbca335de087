// SPDX-License-Identifier: Apache-2.0
//
// Every command on a group that exists in memory only: what is parsed, asked of the group, printed, and returned.
#include "cli/program.h"

#include <chrono>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/pages.h"
#include "device/test_support.h"
#include "volumes/fake_group.h"
#include "volumes/json.h"

namespace lamella::cli {
namespace {

using namespace std::string_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// Passes calls on to a group that outlives the command.
class Commands : public testing::Test {
  protected:
    struct Borrowed final : VolumeGroup {
        explicit Borrowed(FakeGroup& group) : group_(group) {}
        Result<GroupInfo> info() override { return group_.info(); }
        Result<std::vector<PhysicalVolumeInfo>> inspect_disks() override { return group_.inspect_disks(); }
        Result<VolumeInfo> convert_to_pool(const ConvertToPool& request, ChangeOptions options) override {
            return group_.convert_to_pool(request, options);
        }
        Result<VolumeInfo> swap_metadata(const std::string& pool, const std::string& volume, ChangeOptions options) override {
            return group_.swap_metadata(pool, volume, options);
        }
        Result<VolumeInfo> change_pool(const ChangePool& r, ChangeOptions o) override { return group_.change_pool(r, o); }
        Result<AutomaticExtension> automatic_extension(const std::string& p) override { return group_.automatic_extension(p); }
        Result<std::vector<VolumeInfo>> set_active(const SetActive& request, ChangeOptions options) override {
            return group_.set_active(request, options);
        }
        Result<std::vector<VolumeInfo>> volumes() override { return group_.volumes(); }
        Result<VolumeInfo> volume(const std::string& name) override { return group_.volume(name); }
        Result<VolumeInfo> create_pool(const CreatePool& r, ChangeOptions o) override { return group_.create_pool(r, o); }
        Result<VolumeInfo> create_volume(const CreateVolume& r, ChangeOptions o) override { return group_.create_volume(r, o); }
        Result<std::vector<VolumeInfo>> create_snapshots(const std::vector<CreateSnapshot>& r, ChangeOptions o) override {
            return group_.create_snapshots(r, o);
        }
        Result<VolumeInfo> resize(const ResizeVolume& r, ChangeOptions o) override { return group_.resize(r, o); }
        Result<VolumeInfo> rename(const std::string& a, const std::string& b, ChangeOptions o) override { return group_.rename(a, b, o); }
        Result<VolumeInfo> change_tags(const std::string& n, const std::vector<std::string>& a, const std::vector<std::string>& r,
                                       ChangeOptions o) override {
            return group_.change_tags(n, a, r, o);
        }
        Result<void> remove(const std::vector<std::string>& n, bool c, ChangeOptions o) override { return group_.remove(n, c, o); }
        Result<VolumeInfo> rollback(const std::string& n, const std::string& s, ChangeOptions o) override {
            return group_.rollback(n, s, o);
        }
        Result<std::uint64_t> reserve_metadata_snapshot(const std::string& p, ChangeOptions o) override {
            return group_.reserve_metadata_snapshot(p, o);
        }
        Result<void> release_metadata_snapshot(const std::string& p, ChangeOptions o) override {
            return group_.release_metadata_snapshot(p, o);
        }
        Result<std::uint64_t> trim(const std::string& p, ChangeOptions o) override { return group_.trim(p, o); }
        Result<std::vector<PoolDependent>> pool_dependents(const std::string& p) override { return group_.pool_dependents(p); }
        Result<void> remove_foreign(const std::string& p, const std::vector<PoolDependent>& d, ChangeOptions o) override {
            return group_.remove_foreign(p, d, o);
        }
        Result<PoolContents> pool_contents(const std::string& p, bool c) override { return group_.pool_contents(p, c); }
        Result<std::vector<ThinUsage>> pool_usage(const std::string& p) override { return group_.pool_usage(p); }
        Result<PackedMetadata> pack_metadata(const std::string& p, const std::string& f) override { return group_.pack_metadata(p, f); }
        Result<VolumeInfo> make_spare(ChangeOptions o) override { return group_.make_spare(o); }
        Result<std::string> status_line(const std::string& n) override { return group_.status_line(n); }
        Result<std::string> table_line(const std::string& n) override { return group_.table_line(n); }
        Result<void> send_message(const std::string& p, const std::string& m) override { return group_.send_message(p, m); }
        Result<std::string> backup_text() override { return group_.backup_text(); }
        Result<void> restore_text(const std::string& t, bool f, ChangeOptions o) override { return group_.restore_text(t, f, o); }

      private:
        FakeGroup& group_;
    };

    Commands() {
        environment.out = [this](std::string_view text) { out += text; };
        environment.err = [this](std::string_view text) { err += text; };
        environment.flush = [] {};
        environment.stream = [this](std::string_view text) -> Result<void> {
            out += text;
            return {};
        };
        environment.open_group = [this](const GroupAddress& address, Access how) -> Result<std::unique_ptr<VolumeGroup>> {
            opened = address.text();
            access = how;
            return std::make_unique<Borrowed>(group);
        };
    }

    int run(const std::vector<std::string>& words) {
        out.clear();
        err.clear();
        return static_cast<int>(run_program(words, environment));
    }
    Json json() { return parse_json(out).value_or(Json()); }

    FakeGroup group;
    Environment environment;
    std::string out, err, opened;
    std::optional<Access> access;
};

TEST_F(Commands, ActivateVolumesOfOneGroup) {
    EXPECT_EQ(run({"activate", "./vms.img"}), 4);
    group.group.capabilities = {Capability::activation};
    EXPECT_EQ(run({"activate", "vg0/web", "--json"}), 0);
    EXPECT_EQ(opened, "vg0");
    EXPECT_EQ(json()["volumes"].size(), 1u);
    EXPECT_EQ(run({"activate", "vg0/web"}), 0);
    EXPECT_THAT(out, HasSubstr("nothing to be activated"));
    group.group.capabilities.push_back(Capability::automatic_extension);
    EXPECT_EQ(run({"show", "vg0"}), 0);
    EXPECT_THAT(out, HasSubstr("Can also         activation, automatic extension\n"));
    EXPECT_EQ(run({"deactivate", "vg0", "--dry-run"}), 0);
    EXPECT_THAT(out, HasSubstr("volume web: would be deactivated"));
    EXPECT_EQ(run({"activate", "vg0/web", "vg1/web"}), 2);
    EXPECT_EQ(run({"activate", "vg0", "vg0/web"}), 2);
}

TEST_F(Commands, MakePoolsOfVolumes) {
    EXPECT_EQ(run({"pool", "convert", "vg0/web"}), 4) << "not without asking";
    EXPECT_EQ(run({"pool", "convert", "vg0/web", "--metadata", "vg0/pool", "--chunk-size", "512K", "--yes", "--json"}), 0);
    EXPECT_EQ(json()["volume"]["chunk_size"], 512 * 1024);
    EXPECT_EQ(run({"pool", "convert", "vg0/web", "--metadata", "vg1/m", "--yes"}), 2);
    EXPECT_EQ(run({"pool", "convert", "vg0/web", "--metadata", "m", "--metadata-size", "4M", "--yes"}), 2);
    EXPECT_EQ(run({"pool", "swap-metadata", "vg0/pool", "web"}), 4);
    EXPECT_EQ(run({"pool", "swap-metadata", "vg0/pool", "web", "--yes"}), 0);
    EXPECT_EQ(group.changes.back(), "swap metadata of pool with web");
}

TEST_F(Commands, DoctorLooksAtAllGroupsOfTheHost) {
    environment.host_groups = [] { return std::vector<std::string>{"vg0", "gone"}; };
    environment.open_group = [this](const GroupAddress& address, Access) -> Result<std::unique_ptr<VolumeGroup>> {
        if (address.name == "gone")
            return fail(ErrorKind::refused, "it is another host's");
        return std::make_unique<Borrowed>(group);
    };
    EXPECT_EQ(run({"doctor"}), 0);
    EXPECT_THAT(out, HasSubstr("group vg0\n"));
    EXPECT_THAT(out, HasSubstr("group gone\nnot looked at: it is another host's\n"));
    EXPECT_EQ(run({"doctor", "--json"}), 0);
    EXPECT_EQ(json()["groups"].size(), 1u);
    EXPECT_EQ(json()["failed"][0]["group"], "gone");
}

TEST_F(Commands, WrongUsageIsTwo) {
    const std::vector<std::vector<std::string>> wrong{
        {},
        {"explode"},
        {"--explode"},
        {"init"},
        {"init", "./a.img", "--size", "large"},
        {"init", "./a.img", "--size", "1G", "--discards", "maybe"},
        {"init", "./a.img", "--size", "1G", "--no-pool", "--chunk-size", "64K"},
        {"create"},
        {"create", "./a.img:v"},
        {"create", "./a.img", "--size", "1G"},
        {"create", "./a.img:v", "--size", "1X"},
        {"create", "./a.img:v", "--size", "+1G"},
        {"create", "./a.img:v", "--size", "10%LV"},
        {"create", "./a.img:v", "--size", "1G", "--linear", "--pool", "p"},
        {"create", "./a.img:v", "--size", "1G", "--linear", "--thin-pool"},
        {"create", "./a.img:v", "--size", "1G", "--chunk-size", "128K"},
        {"create", "./a.img:v", "--size", "1G", "--stripes", "2"},
        {"create", "./a.img:v", "--size", "1G", "--stripes", "two", "--linear"},
        {"create", "./a.img:v", "./a.img:w", "--size", "1G"},
        {"snapshot"},
        {"snapshot", "./a.img"},
        {"snapshot", "./a.img:v", "./b.img:v"},
        {"snapshot", "./a.img:v", "./a.img:w", "--name", "one"},
        {"list"},
        {"list", ""},
        {"show"},
        {"resize", "./a.img:v"},
        {"extend", "./a.img:v"},
        {"extend", "./a.img:v", "--size", "-1G"},
        {"rename", "./a.img:v"},
        {"tag", "./a.img:v"},
        {"remove"},
        {"rollback", "./a.img:v"},
        {"serve"},
        {"serve", "./a.img", "--tls-psk", "f", "--tls-certificates", "d"},
        {"serve", "./a.img", "--tls", "perhaps"},
        {"serve", "./a.img", "--threads", "-1"},
        {"serve", "./a.img", "--snapshot-autoextend-threshold", "49"},
        {"serve", "./a.img", "--snapshot-autoextend-percent", "0"},
        {"serve", "./a.img", "--snapshot-autoextend-percent", "1001"},
        {"attach"},
        {"attach", "./a.img"},
        {"detach"},
        {"metadata-snapshot", "./a.img:pool"},
        {"metadata-snapshot", "./a.img:pool", "hold"},
        {"group"},
        {"group", "explode", "./a.img"},
        {"group", "backup"},
        {"group", "restore", "./a.img"},
        {"status"},
        {"message", "./a.img:pool"},
        {"completion"},
        {"completion", "tcsh"},
        {"version", "now"},
        {"man"},
    };
    for (const auto& words : wrong) {
        EXPECT_EQ(run(words), 2) << fmt::format("{}", fmt::join(words, " ")) << "\n" << err;
        EXPECT_THAT(err, HasSubstr("try: ")) << fmt::format("{}", fmt::join(words, " "));
        EXPECT_EQ(out, "");
    }
    EXPECT_TRUE(group.changes.empty());
}

TEST_F(Commands, EveryCommandHasHelpAndJson) {
    std::vector<std::string> names;
    for (const CommandPage& page : command_pages()) {
        std::vector<std::string> words = page.words;
        words.push_back("--help");
        EXPECT_EQ(run(words), 0);
        EXPECT_THAT(out, HasSubstr("Usage: lamella" + (page.words.empty() ? "" : " " + page.joined(' '))));
        EXPECT_FALSE(page.summary.empty()) << page.joined(' ');
        bool has_json = std::ranges::any_of(page.options, [](const OptionPage& option) { return option.names.back() == "--json"; });
        EXPECT_EQ(has_json, page.subcommands.empty()) << page.joined(' ');
        names.push_back(page.joined(' '));
    }
    for (const char* name : {"init",         "create",        "snapshot",    "list",   "show",
                             "resize",       "extend",        "rename",      "tag",    "remove",
                             "rollback",     "serve",         "attach",      "detach", "metadata-snapshot",
                             "group backup", "group restore", "group check", "status", "message",
                             "version",      "completion"})
        EXPECT_THAT(names, testing::Contains(name));
}

TEST_F(Commands, ErrorsSayWhatAndWhatNext) {
    EXPECT_EQ(run({"show", "./vms.img:nothing"}), 3);
    EXPECT_EQ(err, "lamella show: volume nothing: group vms has none of that name\ntry: lamella list ./vms.img --all\n");
    EXPECT_EQ(run({"show", "./vms.img:nothing", "--json"}), 3);
    EXPECT_EQ(json()["error"]["kind"], "not_found");
    EXPECT_EQ(json()["error"]["try"], "lamella list ./vms.img --all");
    EXPECT_EQ(run({"resize", "./vms.img:web", "--json"}), 2);
    EXPECT_EQ(json()["error"]["kind"], "usage");
}

TEST_F(Commands, ExitCodesByKind) {
    const std::pair<ErrorKind, int> codes[] = {{ErrorKind::failed, 1},  {ErrorKind::usage, 2},   {ErrorKind::not_found, 3},
                                               {ErrorKind::exists, 4},  {ErrorKind::refused, 4}, {ErrorKind::unsupported, 4},
                                               {ErrorKind::damaged, 5}, {ErrorKind::no_space, 6}};
    for (auto [kind, code] : codes) {
        group.refuse = Error(kind, "why");
        EXPECT_EQ(run({"create", "./vms.img:new", "--size", "1G"}), code);
        EXPECT_THAT(err, HasSubstr("lamella create: why\n"));
    }
}

TEST_F(Commands, Create) {
    EXPECT_EQ(run({"create", "./vms.img:db", "--size", "10G", "--tag", "a", "--tag", "b", "--read-only"}), 0);
    EXPECT_EQ(out, "thin volume db, 10.00 GiB: created\n");
    EXPECT_EQ(opened, "./vms.img");
    EXPECT_EQ(access, Access::write);
    VolumeInfo made = *group.volume("db");
    EXPECT_EQ(made.size, 10ull << 30);
    EXPECT_THAT(made.tags, ElementsAre("a", "b"));
    EXPECT_TRUE(made.read_only);

    EXPECT_EQ(run({"create", "./vms.img:log", "--size", "1G", "--linear"}), 0);
    EXPECT_EQ(group.volume("log")->kind, VolumeKind::linear);
    EXPECT_EQ(run({"create", "./vms.img:p2", "--size", "1G", "--thin-pool", "--chunk-size", "192K"}), 0);
    EXPECT_EQ(group.volume("p2")->kind, VolumeKind::thin_pool);
    EXPECT_EQ(run({"create", "./vms.img:db", "--size", "1G"}), 4);

    group.changes.clear();
    EXPECT_EQ(run({"create", "./vms.img:dry", "--size", "1G", "--dry-run", "--json"}), 0);
    EXPECT_EQ(json()["dry_run"], true);
    EXPECT_EQ(json()["volume"]["size"], 1 << 30);
    EXPECT_THAT(group.changes, ElementsAre("dry run: add dry"));
    EXPECT_FALSE(group.volume("dry"));
}

TEST_F(Commands, Snapshot) {
    EXPECT_EQ(run({"snapshot", "./vms.img:web"}), 0);
    EXPECT_EQ(out, "snapshot web-s1 of web: created\n");
    ASSERT_EQ(run({"create", "./vms.img:db", "--size", "1G"}), 0);
    EXPECT_EQ(run({"snapshot", "./vms.img:web", "./vms.img:db", "--name", "w", "--name", "d", "--tag", "t", "--json"}), 0);
    ASSERT_EQ(json()["volumes"].size(), 2u);
    EXPECT_EQ(json()["volumes"][0]["name"], "w");
    EXPECT_EQ(json()["volumes"][1]["origin"], "db");
    EXPECT_EQ(run({"snapshot", "./vms.img:nothing"}), 3);
}

// A fifth of the origin and its exceptions, or what is left, or an error.
TEST_F(Commands, SnapshotOfAutomaticSize) {
    constexpr std::uint64_t mib = 1 << 20;
    ASSERT_EQ(run({"create", "./vms.img:boot", "--size", "500M", "--linear"}), 0);
    const auto sizes = [&] {
        std::vector<std::uint64_t> found;
        const Json answer = json();
        for (const Json& volume : answer["volumes"])
            found.push_back(volume["store_size"].get<std::uint64_t>());
        return found;
    };
    ASSERT_EQ(run({"snapshot", "./vms.img:boot", "--size", "auto", "--json"}), 0) << err;
    EXPECT_THAT(sizes(), ElementsAre(100 * mib + 25600 * 16 + 4 * 4096));
    group.group.free = 160 * mib;
    ASSERT_EQ(run({"snapshot", "./vms.img:boot", "./vms.img:boot", "--name", "a", "--name", "b", "--size", "auto", "--json"}), 0) << err;
    EXPECT_THAT(sizes(), ElementsAre(100 * mib + 25600 * 16 + 4 * 4096, 56 * mib)) << "104 of 160 MiB are the first one's";
    group.group.free = 24 * mib;
    EXPECT_EQ(run({"snapshot", "./vms.img:boot", "--name", "c", "--size", "auto"}), 6);
    EXPECT_THAT(err, HasSubstr("24.00 MiB are free"));
    EXPECT_EQ(run({"snapshot", "./vms.img:boot", "--name", "c", "--size", "automatic"}), 2);
    EXPECT_EQ(run({"snapshot", "./vms.img:boot", "--name", "c", "--size", "+1G"}), 2);
}

TEST_F(Commands, List) {
    ASSERT_EQ(run({"list", "./vms.img"}), 0);
    EXPECT_EQ(access, Access::read);
    EXPECT_EQ(out,
              "LV    Kind            Size  Data%  Meta%  Pool  Origin  Access      Created  Tags\n"
              "pool  thin-pool  16.00 GiB  25.00   1.56  -     -       read-write  -        -\n"
              "web   thin       10.00 GiB  50.00      -  pool  -       read-write  -        prod\n");
    ASSERT_EQ(run({"list", "./vms.img", "--all"}), 0);
    EXPECT_THAT(out, HasSubstr("[pool_tdata]"));
    ASSERT_EQ(run({"list", "./vms.img", "--json"}), 0);
    EXPECT_EQ(json()["group"]["name"], "vms");
    EXPECT_EQ(json()["volumes"].size(), 2u);
    EXPECT_EQ(json()["volumes"][1]["mapped"], 5ull << 30);
    group.group.findings = {"metadata area of pv0: checksum wrong"};
    ASSERT_EQ(run({"list", "./vms.img", "--json"}), 0);
    EXPECT_THAT(err, HasSubstr("checksum wrong"));
    EXPECT_EQ(json()["volumes"].size(), 2u);
}

TEST_F(Commands, SnapshotWarnsOfAPoolThatIsNearlyFull) {
    ASSERT_EQ(run({"snapshot", "./vms.img:web"}), 0);
    EXPECT_EQ(err, "");
    group.list[0].data_used = group.list[0].size / 100 * 93;
    group.list[0].metadata_used = 60ull << 20;
    ASSERT_EQ(run({"snapshot", "./vms.img:web", "--name", "second"}), 0);
    EXPECT_THAT(err, HasSubstr("pool: 93.00 % of its data"));
    EXPECT_THAT(err, HasSubstr("of its metadata is in use"));
    group.list[0].data_used = group.list[0].metadata_used = std::nullopt;
    ASSERT_EQ(run({"snapshot", "./vms.img:web", "--name", "third"}), 0);
    EXPECT_EQ(err, "") << "what isn't known warns of nothing";
}

TEST_F(Commands, ListOfSnapshots) {
    const auto add = [&](const char* name, VolumeKind kind) -> VolumeInfo& {
        VolumeInfo& volume = group.list.emplace_back(FakeGroup::made(name, kind, "", 10ull << 30));
        volume.state = "valid";
        volume.creation_time = Clock::system().wall_seconds() - 3 * 86400;
        return volume;
    };
    VolumeInfo& thin = add("before", VolumeKind::thin);
    thin.pool = "pool";
    thin.origin = "web";
    thin.device_id = 2;
    thin.mapped = 4ull << 30;
    VolumeInfo& sibling = add("older", VolumeKind::thin);
    sibling.former_origin = "web";
    sibling.pool = "pool";
    sibling.device_id = 3;
    sibling.state = "inactive";
    sibling.creation_time = Clock::system().wall_seconds() + 86400;  // by a clock that was wrong
    VolumeInfo& classic = add("upgrade", VolumeKind::snapshot);
    classic.origin = "boot";
    classic.store_size = 1ull << 30;
    classic.state = "invalid";
    VolumeInfo& merging = add("going", VolumeKind::thin);
    merging.visible = false;
    merging.state = "merging";
    VolumeInfo& stopped = add("stuck", VolumeKind::snapshot);
    stopped.visible = false;
    stopped.state = "merge failed";
    ASSERT_EQ(run({"list", "./vms.img", "--snapshots", "--exclusive"}), 0);
    EXPECT_EQ(out,
              "Snapshot  Kind     State              Size      Used  Used%  Exclusive  Origin  Age  Tags\n"
              "before    thin     valid         10.00 GiB  4.00 GiB  40.00   1.00 GiB  web     3 d  -\n"
              "older     thin     inactive      10.00 GiB       0 B   0.00        0 B  (web)     -  -\n"
              "upgrade   classic  invalid       10.00 GiB         -      -          -  boot    3 d  -\n"
              "[going]   thin     merging       10.00 GiB         -      -          -  -       3 d  -\n"
              "[stuck]   classic  merge failed  10.00 GiB         -      -          -  -       3 d  -\n");
    ASSERT_EQ(run({"list", "./vms.img", "--snapshots", "--json"}), 0);
    EXPECT_EQ(json()["volumes"].size(), 5u);
    EXPECT_TRUE(json()["volumes"][0]["exclusive"].is_null()) << "nobody asked for the walk";
    EXPECT_GE(json()["volumes"][0]["age"], 3 * 86400);
    ASSERT_EQ(run({"list", "./vms.img"}), 0);
    EXPECT_THAT(out, Not(HasSubstr("going")));
}

TEST_F(Commands, ListOfTenThousand) {
    for (int i = 0; i < 10'000; ++i)
        group.list.push_back(FakeGroup::made(fmt::format("volume-{}", i), VolumeKind::thin, "thin", 1 << 30));
    ASSERT_EQ(run({"list", "./vms.img"}), 0);
    EXPECT_EQ(std::ranges::count(out, '\n'), 10'003);
    ASSERT_EQ(run({"list", "./vms.img", "--json"}), 0);
    EXPECT_EQ(json()["volumes"].size(), 10'002u);
}

TEST_F(Commands, Show) {
    ASSERT_EQ(run({"show", "./vms.img:web"}), 0);
    EXPECT_THAT(out, HasSubstr("Mapped     5.00 GiB, 50.00 %"));
    EXPECT_THAT(out, Not(HasSubstr("Chunk size")));
    ASSERT_EQ(run({"show", "./vms.img:pool"}), 0);
    EXPECT_THAT(out, HasSubstr("Data used          4.00 GiB, 25.00 %"));
    EXPECT_THAT(out, HasSubstr("Mode               unknown"));
    group.list[0].data_used.reset();
    ASSERT_EQ(run({"show", "./vms.img:pool"}), 0);
    EXPECT_THAT(out, HasSubstr("Data used          unknown"));
    group.group.physical_volumes.push_back({.name = "pv0", .device = "./vms.img", .size = 20ull << 30, .allocated = 4 << 20, .extents = 5});
    ASSERT_EQ(run({"show", "./vms.img"}), 0);
    EXPECT_THAT(out, HasSubstr("VG"));
    EXPECT_THAT(out, HasSubstr("pv0  ./vms.img  20.00 GiB  16.00 MiB"));
    ASSERT_EQ(run({"show", "./vms.img", "--json"}), 0);
    EXPECT_EQ(json()["group"]["physical_volumes"][0]["device"], "./vms.img");
}

TEST_F(Commands, ResizeAndExtend) {
    EXPECT_EQ(run({"resize", "./vms.img:web", "--size", "+5G"}), 0);
    EXPECT_EQ(out, "volume web: resized to 15.00 GiB\n");
    EXPECT_EQ(run({"resize", "./vms.img:web", "--size", "-5G"}), 4);
    EXPECT_THAT(err, HasSubstr("--shrink"));
    EXPECT_EQ(run({"resize", "./vms.img:web", "--size", "5G"}), 4);
    EXPECT_EQ(run({"resize", "./vms.img:web", "--size", "-5G", "--shrink"}), 4);  // no terminal to ask at
    EXPECT_EQ(group.volume("web")->size, 15ull << 30);
    EXPECT_EQ(run({"resize", "./vms.img:web", "--size", "-5G", "--shrink", "--yes"}), 0);
    EXPECT_EQ(group.volume("web")->size, 10ull << 30);
    EXPECT_EQ(run({"resize", "./vms.img:web", "--size", "+50%LV"}), 0);
    EXPECT_EQ(group.volume("web")->size, 15ull << 30);
    EXPECT_EQ(run({"extend", "./vms.img:pool", "--size", "+1G"}), 0);
    EXPECT_EQ(group.volume("pool")->size, 17ull << 30);
    EXPECT_EQ(run({"extend", "./vms.img:pool", "--metadata", "--size", "+64M"}), 0);
    EXPECT_EQ(out, "volume pool: extended to metadata 128.00 MiB; the spare takes 128.00 MiB more, if there is room\n");
    EXPECT_EQ(run({"extend", "./vms.img:pool", "--size", "+128G", "--json"}), 0);
    EXPECT_EQ(json()["metadata_growth"], 20 << 20) << "for 145 GiB 145 MiB, in whole extents 148";
    EXPECT_EQ(json()["spare_growth"], 148 << 20);
    group.list[0].size = 17ull << 30;
    EXPECT_EQ(run({"extend", "./vms.img:pool", "--size", "+128G", "--dry-run"}), 0);
    EXPECT_EQ(out,
              "volume pool: would be extended to 145.00 GiB; its metadata takes 20.00 MiB more, and the spare 148.00 MiB, if there is "
              "room\n");
    EXPECT_EQ(run({"extend", "./vms.img:pool", "--metadata", "--size", "+960M"}), 0);
    EXPECT_THAT(err, HasSubstr("enough for the pool, but not for the spare, which would have to grow by 1.06 GiB"));
    EXPECT_EQ(run({"extend", "./vms.img:pool", "--size", "1G"}), 4);  // would be smaller
}

TEST_F(Commands, RenameAndTag) {
    EXPECT_EQ(run({"rename", "./vms.img:web", "www"}), 0);
    EXPECT_EQ(out, "volume web: renamed to www\n");
    EXPECT_EQ(run({"rename", "./vms.img:www", "pool"}), 4);
    EXPECT_EQ(run({"tag", "./vms.img:www", "--add", "new", "--remove", "prod"}), 0);
    EXPECT_EQ(out, "volume www: tags changed to new\n");
}

TEST_F(Commands, RemoveAsks) {
    EXPECT_EQ(run({"remove", "./vms.img:web"}), 4);
    EXPECT_THAT(err, HasSubstr("--yes"));
    EXPECT_TRUE(group.volume("web"));

    std::string question, reply = "n";
    environment.ask = [&](std::string_view text) {
        question = text;
        return reply;
    };
    EXPECT_EQ(run({"remove", "./vms.img:web"}), 4);
    EXPECT_EQ(question, "Remove web of ./vms.img, and lose what is on it? [y/n] ");
    EXPECT_TRUE(group.volume("web"));
    EXPECT_EQ(run({"remove", "./vms.img:web", "--dry-run"}), 0);
    EXPECT_EQ(out, "volume web: would be removed\n");
    EXPECT_TRUE(group.volume("web"));
    reply = "y";
    EXPECT_EQ(run({"remove", "./vms.img:web"}), 0);
    EXPECT_FALSE(group.volume("web"));

    question.clear();
    EXPECT_EQ(run({"remove", "./vms.img:nothing"}), 3);  // not asked about what isn't there
    EXPECT_EQ(run({"remove", "./vms.img:pool"}), 4);
    EXPECT_EQ(question, "");
    EXPECT_EQ(run({"remove", "./vms.img:pool", "--with-contents", "--yes", "--json"}), 0);
    EXPECT_EQ(json()["removed"][0], "pool");
}

TEST_F(Commands, Rollback) {
    ASSERT_EQ(run({"snapshot", "./vms.img:web"}), 0);
    EXPECT_EQ(run({"rollback", "./vms.img:web", "--to", "web-s1"}), 4);
    EXPECT_TRUE(group.volume("web-s1"));
    EXPECT_EQ(run({"rollback", "./vms.img:web", "--to", "web-s1", "--yes"}), 0);
    EXPECT_EQ(out, "volume web: rolled back to web-s1\n");
    EXPECT_FALSE(group.volume("web-s1"));
}

// However soon a merge fails: before anybody saw it going on.
TEST_F(Commands, RollbackThatFails) {
    VolumeInfo& snapshot = group.list.emplace_back(FakeGroup::made("before", VolumeKind::snapshot, "", 10ull << 30));
    snapshot.origin = "web";
    snapshot.snapshot_state = "Merge failed";
    EXPECT_EQ(run({"rollback", "./vms.img:web", "--to", "before", "--yes"}), 1);
    EXPECT_THAT(err, HasSubstr("before: Merge failed"));
    EXPECT_EQ(out, "");
}

TEST_F(Commands, PoolsAndLines) {
    EXPECT_EQ(run({"metadata-snapshot", "./vms.img:pool", "reserve"}), 0);
    EXPECT_EQ(out, "pool pool: metadata snapshot reserved at block 77\n");
    EXPECT_EQ(run({"metadata-snapshot", "./vms.img:pool", "release", "--json"}), 0);
    EXPECT_TRUE(json()["metadata_snapshot"].is_null());
    EXPECT_EQ(run({"status", "./vms.img:pool"}), 0);
    EXPECT_EQ(out, *group.status_line("pool") + "\n");
    EXPECT_EQ(run({"status", "./vms.img:pool", "--table", "--json"}), 0);
    EXPECT_EQ(json()["table"], *group.table_line("pool"));
    group.changes.clear();
    EXPECT_EQ(run({"message", "./vms.img:pool", "create_snap", "2", "1"}), 0);
    EXPECT_THAT(group.changes, ElementsAre("message create_snap 2 1"));
}

TEST_F(Commands, Doctor) {
    test::TemporaryFolder folder;
    ASSERT_EQ(::setenv("LAMELLA_STATE_DIR", folder.file("state").c_str(), 1), 0);
    EXPECT_EQ(run({"doctor", "./vms.img"}), 0);
    EXPECT_THAT(out, HasSubstr("spare-missing"));
    EXPECT_THAT(out, HasSubstr("  --fix does it\n"));
    EXPECT_EQ(run({"doctor", "./vms.img", "--fix", "--dry-run"}), 0);
    EXPECT_THAT(out, HasSubstr("spare metadata volume: would be made, 64.00 MiB more"));
    EXPECT_FALSE(std::filesystem::exists(folder.file("state")));
    EXPECT_EQ(run({"doctor", "./vms.img", "--fix", "--json"}), 0);
    const Json json = parse_json(out).value();
    EXPECT_EQ(json["fixed"].size(), 1u);
    EXPECT_EQ(json["findings"].size(), 0u);
    EXPECT_TRUE(std::filesystem::exists(json["backup"].get<std::string>() + "/pool.pack"));
    // What is left to be decided is not done, and tells by the exit status that it is critical.
    group.contents["pool"] = {.transaction_id = 9, .device_ids = {1}};
    EXPECT_EQ(run({"doctor", "./vms.img", "--fix"}), 5);
    EXPECT_THAT(out, HasSubstr("critical: transaction-mismatch (pool)"));
    EXPECT_THAT(out, HasSubstr("--fix leaves it"));
    ASSERT_EQ(::unsetenv("LAMELLA_STATE_DIR"), 0);
}

// One remedy that fails keeps no other from being tried, and no finding from being told.
TEST_F(Commands, DoctorGoesOnAfterARemedyThatFails) {
    test::TemporaryFolder folder;
    ASSERT_EQ(::setenv("LAMELLA_STATE_DIR", folder.file("state").c_str(), 1), 0);
    group.group.free = 8ull << 30;
    group.list[0].data_used = group.list[0].size / 100 * 84;
    group.refuse = Error(ErrorKind::no_space, "203 free extents; 205 are needed");
    group.refused_change = "change pool";
    EXPECT_EQ(run({"doctor", "./vms.img", "--fix"}), 6);
    EXPECT_THAT(group.changes, ElementsAre("add lvol0_pmspare"));
    EXPECT_THAT(err, HasSubstr("pool-near-full: 203 free extents; 205 are needed\n"));
    EXPECT_THAT(out, HasSubstr("spare metadata volume: made"));
    EXPECT_THAT(out, HasSubstr("warning: pool-near-full (pool)"));
    EXPECT_THAT(out, HasSubstr("--fix leaves it: it was tried: 203 free extents; 205 are needed\n"));
    EXPECT_THAT(out, Not(HasSubstr("--fix does it")));
    EXPECT_EQ(run({"doctor", "./vms.img", "--fix", "--json"}), 6);
    EXPECT_EQ(json()["failed"][0]["kind"], "pool-near-full");
    EXPECT_EQ(json()["failed"][0]["error"]["kind"], "no_space");
    EXPECT_EQ(json()["findings"][0]["fixable"], false);
    // What is critical goes before it, and what the engine can't do at all is no failure.
    group.contents["pool"] = {.transaction_id = 9, .device_ids = {1}};
    EXPECT_EQ(run({"doctor", "./vms.img", "--fix"}), 5);
    group.contents.clear();
    group.refuse = Error(ErrorKind::unsupported, "not this engine");
    EXPECT_EQ(run({"doctor", "./vms.img", "--fix"}), 0);
    EXPECT_THAT(out, HasSubstr("it was tried: not this engine"));
    ASSERT_EQ(::unsetenv("LAMELLA_STATE_DIR"), 0);
}

TEST_F(Commands, PoolCreate) {
    group.group.free = 10ull << 30;
    EXPECT_EQ(run({"pool", "create", "./vms.img:docker", "--for", "docker", "--json"}), 0);
    EXPECT_THAT(json()["configuration"].get<std::string>(), HasSubstr("/dev/mapper/vms-docker\""));
    const std::uint64_t size = json()["volume"]["size"].get<std::uint64_t>();
    EXPECT_LT(size, 8ull << 30);
    EXPECT_GE(json()["reserve"].get<std::uint64_t>(), size * 2 / 5);
    EXPECT_EQ(json()["volume"]["chunk_size"], 512 * 1024);
    group.group.name = "my-vg";
    EXPECT_EQ(run({"pool", "create", "./vms.img:thin-pool", "--for", "containerd", "--json"}), 0);
    EXPECT_EQ(json()["volume"]["chunk_size"], 64 * 1024);
    EXPECT_EQ(json()["configuration"],
              "/etc/containerd/config.toml:\n"
              "  [plugins.\"io.containerd.snapshotter.v1.devmapper\"]\n"
              "    pool_name = \"my--vg-thin--pool\"\n"
              "    root_path = \"/var/lib/containerd/devmapper\"\n"
              "    base_image_size = \"10GB\"\n"
              "    discard_blocks = true\n");
    group.group.name = "vms";
    EXPECT_EQ(run({"pool", "create", "./vms.img:p2", "--size", "50%FREE", "--extensions", "0"}), 0);
    EXPECT_THAT(out, HasSubstr("thin-pool volume p2, 5.00 GiB: created\n  data      5.00 GiB, 81920 chunks of 64.00 KiB\n"));
    EXPECT_EQ(run({"pool", "create", "./vms.img:p4", "--size", "1G", "--extensions", "1"}), 0);
    EXPECT_THAT(out, HasSubstr(" of it for 1 extension by 20 percent\n"));
    // The guides' arithmetic, which leaves no room to extend.
    EXPECT_EQ(run({"pool", "create", "./vms.img:p3", "--size", "95%FREE"}), 6);
    EXPECT_THAT(err, HasSubstr("for 2 extensions by 20 percent are"));
    EXPECT_EQ(run({"pool", "create", "./vms.img:p3", "--size", "+1G"}), 2);
    EXPECT_EQ(run({"pool", "create", "./vms.img:p3", "--autoextend-threshold", "20"}), 2);
}

TEST_F(Commands, PoolRemove) {
    group.dependents = {{.name = "web", .device_id = 1}, {.name = "docker-base", .id = "x", .device_id = 7, .foreign = true}};
    EXPECT_EQ(run({"pool", "remove", "./vms.img:pool", "--yes"}), 4);
    EXPECT_THAT(err, HasSubstr("--force-children"));
    group.changes.clear();
    EXPECT_EQ(run({"pool", "remove", "./vms.img:pool", "--force-children"}), 4) << "nobody to ask";
    EXPECT_THAT(err, HasSubstr("records name devices of this pool"));
    EXPECT_THAT(err, HasSubstr("\n  docker: /var/lib/docker\n"));
    EXPECT_THAT(err, HasSubstr("\n  containerd: /var/lib/containerd/devmapper (what root_path names)\n"));
    EXPECT_THAT(err, HasSubstr("\n  containerd: /var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db\n"));
    EXPECT_THAT(group.changes, testing::IsEmpty());
    EXPECT_EQ(run({"pool", "remove", "./vms.img:pool", "--force-children", "--dry-run"}), 0);
    EXPECT_THAT(out, HasSubstr("docker-base (thin id 7), not of the group: would be removed"));
    EXPECT_THAT(group.changes, ElementsAre("dry run: remove foreign devices of pool"));
    EXPECT_THAT(out, HasSubstr("\n  docker: /var/lib/docker\n"));
    EXPECT_EQ(run({"pool", "remove", "./vms.img:pool", "--force-children", "--dry-run", "--json"}), 0);
    EXPECT_EQ(json()["engine_records"].size(), 3u);
    EXPECT_EQ(json()["engine_records"][0], (Json{{"engine", "docker"}, {"path", "/var/lib/docker"}}));
    EXPECT_EQ(json()["engine_records"][2]["engine"], "containerd");
    group.dependents[1].used_by = "mounted on /srv";
    EXPECT_EQ(run({"pool", "remove", "./vms.img:pool", "--force-children", "--yes"}), 4);
    EXPECT_THAT(err, HasSubstr("mounted on /srv"));
    group.dependents[1].used_by.clear();
    group.changes.clear();
    EXPECT_EQ(run({"pool", "remove", "./vms.img:pool", "--force-children", "--yes"}), 0);
    EXPECT_THAT(group.changes, ElementsAre("remove foreign devices of pool", "remove"));
    EXPECT_THAT(out, HasSubstr("the pool itself: removed"));
    EXPECT_THAT(out, HasSubstr("\n  docker: /var/lib/docker\n"));
    // Nobody's records name the group's own volumes.
    group.list.push_back(FakeGroup::made("own", VolumeKind::thin_pool, "thin-pool", 1ull << 30));
    group.dependents.pop_back();
    EXPECT_EQ(run({"pool", "remove", "./vms.img:own", "--force-children", "--yes", "--json"}), 0);
    EXPECT_EQ(json()["engine_records"], Json::array());
    EXPECT_EQ(run({"pool", "remove", "./vms.img:web", "--force-children", "--yes"}), 2);
    EXPECT_EQ(run({"pool", "remove", "./vms.img:web", "--yes"}), 2);
}

TEST_F(Commands, NothingGoesThatCameWhileTheQuestionStood) {
    group.list.push_back(FakeGroup::made("own", VolumeKind::thin_pool, "thin-pool", 1ull << 30));
    group.changes.clear();
    unsigned asked = 0;
    environment.ask = [&](std::string_view) {
        VolumeInfo& late = group.list.emplace_back(FakeGroup::made(fmt::format("late{}", ++asked), VolumeKind::thin, "thin", 1ull << 30));
        late.pool = "own";
        return "y"s;
    };
    EXPECT_EQ(run({"pool", "remove", "./vms.img:own"}), 4);
    EXPECT_THAT(err, HasSubstr("late1 came while the question stood"));
    EXPECT_EQ(run({"remove", "./vms.img:own", "--with-contents"}), 4);
    EXPECT_THAT(err, HasSubstr("late2 came while the question stood"));
    EXPECT_EQ(asked, 2u);
    // Another of the same name.
    environment.ask = [&](std::string_view) {
        for (VolumeInfo& volume : group.list)
            if (volume.name == "web")
                volume.id = "another";
        return "y"s;
    };
    EXPECT_EQ(run({"remove", "./vms.img:web"}), 4);
    EXPECT_THAT(err, HasSubstr("web came while the question stood"));
    EXPECT_THAT(group.changes, testing::Not(testing::Contains("remove")));
    EXPECT_EQ(run({"remove", "./vms.img:web"}), 0);
}

TEST_F(Commands, MetadataBackup) {
    test::TemporaryFolder folder;
    EXPECT_EQ(run({"metadata-backup", "./vms.img", "--folder", folder.file("kept"), "--json"}), 0);
    const Json json = parse_json(out).value();
    EXPECT_EQ(json["pools"][0]["pool"], "pool");
    EXPECT_TRUE(std::filesystem::exists(json["folder"].get<std::string>() + "/group.txt.gz"));
    EXPECT_EQ(run({"metadata-backup", "./vms.img", "--keep", "0"}), 2);
}

TEST_F(Commands, GroupText) {
    char name[] = "/tmp/lamella-cli-XXXXXX";
    std::string folder = ::mkdtemp(name);
    std::string file = folder + "/backup";
    EXPECT_EQ(run({"group", "backup", "./vms.img"}), 0);
    EXPECT_EQ(out, "# a group\n");
    EXPECT_EQ(run({"group", "backup", "./vms.img", "--file", file}), 0);
    std::string text(std::istreambuf_iterator<char>(std::ifstream(file).rdbuf()), {});
    EXPECT_EQ(text, "# a group\n");
    EXPECT_EQ(run({"group", "backup", "./vms.img", "--file", folder + "/missing/backup"}), 3);
    std::ofstream(file) << "# another\n";
    EXPECT_EQ(run({"group", "restore", "./vms.img", "--file", file}), 4);
    EXPECT_EQ(run({"group", "restore", "./vms.img", "--file", file, "--dry-run"}), 0);
    EXPECT_EQ(group.text, "# a group\n");
    EXPECT_EQ(run({"group", "restore", "./vms.img", "--file", file, "--yes", "--force"}), 0);
    EXPECT_EQ(group.text, "# another\n");
    EXPECT_EQ(run({"group", "restore", "./vms.img", "--file", folder + "/missing", "--yes"}), 3);
    // printf '# packed\n' | gzip -n
    const std::string packed =
        "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x53\x56\x28\x48\x4c\xce\x4e\x4d\xe1\x02\x00\xa3\xf7\x2e\x16\x09\x00\x00\x00"s;
    std::ofstream(file) << packed;
    EXPECT_EQ(run({"group", "restore", "./vms.img", "--file", file, "--yes", "--force"}), 0);
    EXPECT_EQ(group.text, "# packed\n");
    std::ofstream(file) << packed.substr(0, packed.size() - 1);
    EXPECT_EQ(run({"group", "restore", "./vms.img", "--file", file, "--yes", "--force"}), 5);
    std::filesystem::remove_all(folder);

    EXPECT_EQ(run({"group", "check", "./vms.img"}), 0);
    EXPECT_EQ(out, "group vms: sound\n");
    group.group.findings = {"one", "two"};
    EXPECT_EQ(run({"group", "check", "./vms.img"}), 5);
    EXPECT_EQ(out, "one\ntwo\n");
    EXPECT_EQ(run({"group", "check", "./vms.img", "--json"}), 5);
    EXPECT_EQ(json()["findings"].size(), 2u);  // one document, the error beside it
}

TEST_F(Commands, Version) {
    EXPECT_EQ(run({"version"}), 0);
    EXPECT_EQ(out, fmt::format("lamella {}\n", program_version));
    EXPECT_EQ(run({"--version"}), 0);
    EXPECT_EQ(run({"version", "--json"}), 0);
    EXPECT_EQ(json()["version"], program_version);
}

TEST_F(Commands, ManualPages) {
    char name[] = "/tmp/lamella-cli-XXXXXX";
    std::string folder = ::mkdtemp(name);
    ASSERT_EQ(run({"man", "--output", folder}), 0) << err;
    EXPECT_TRUE(std::filesystem::exists(folder + "/lamella.1"));
    EXPECT_TRUE(std::filesystem::exists(folder + "/lamella-group-backup.1"));
    EXPECT_FALSE(std::filesystem::exists(folder + "/lamella-man.1"));
    std::string page(std::istreambuf_iterator<char>(std::ifstream(folder + "/lamella-create.1").rdbuf()), {});
    EXPECT_THAT(page, HasSubstr(".TH LAMELLA-CREATE 1"));
    EXPECT_THAT(page, HasSubstr("\\fB\\-\\-chunk\\-size\\fR \\fISIZE\\fR"));
    std::filesystem::remove_all(folder);
}

TEST_F(Commands, Completion) {
    for (const char* shell : {"bash", "zsh", "fish"}) {
        ASSERT_EQ(run({"completion", shell}), 0);
        EXPECT_THAT(out, HasSubstr("metadata-snapshot"));
        EXPECT_THAT(out, HasSubstr("chunk-size"));
        EXPECT_THAT(out, Not(HasSubstr("'man'")));
    }
}

TEST_F(Commands, HostGroupsAreServedOnlyWhereTheUserSaysSo) {
    EXPECT_NE(run({"attach", "vg0/web"}), 0);
    EXPECT_EQ(run({"serve", "vg0"}), 4);
    EXPECT_THAT(err, HasSubstr("--user-space"));
    EXPECT_EQ(run({"serve", "./vms.img", "--user-space"}), 2);
}

}  // namespace
}  // namespace lamella::cli
