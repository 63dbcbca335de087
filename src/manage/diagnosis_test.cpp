// SPDX-License-Identifier: Apache-2.0
#include "manage/diagnosis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "volumes/fake_group.h"

namespace lamella::manage {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t gib = 1 << 30;

class Doctor : public testing::Test {
  protected:
    // A sound group: a pool half full, a volume in it, a spare, a thick volume with a snapshot.
    Doctor() {
        seen.address.paths = {"./vms.img"};
        seen.group.name = "vms";
        seen.group.extent_size = 4 * mib;
        seen.group.size = 40 * gib;
        seen.group.free = 8 * gib;
        seen.group.physical_volumes = {{.name = "pv0", .id = "abc", .device = "./vms.img"}};
        VolumeInfo pool = FakeGroup::made("pool", VolumeKind::thin_pool, "thin-pool", 16 * gib);
        pool.chunk_size = 64 * 1024;
        pool.data_used = 8 * gib;
        pool.metadata_size = 64 * mib;
        pool.metadata_used = 8 * mib;
        pool.transaction_id = 3;
        pool.pool_mode = "rw";
        pool.discards = "passdown";
        VolumeInfo web = FakeGroup::made("web", VolumeKind::thin, "thin", 10 * gib);
        web.pool = "pool";
        web.device_id = 1;
        VolumeInfo spare = FakeGroup::made("lvol0_pmspare", VolumeKind::spare, "linear", 64 * mib);
        VolumeInfo thick = FakeGroup::made("thick", VolumeKind::linear, "linear", 4 * gib);
        VolumeInfo snap = FakeGroup::made("snap", VolumeKind::snapshot, "snapshot", 4 * gib);
        snap.origin = "thick";
        snap.chunk_size = 4096;
        snap.store_size = 800 * mib;
        snap.store_used = 80 * mib;
        snap.snapshot_state = "active";
        seen.volumes = {pool, web, spare, thick, snap};
        seen.contents["pool"] = {.transaction_id = 3, .device_ids = {1}};
    }

    VolumeInfo& volume(const std::string& name) { return *std::ranges::find(seen.volumes, name, &VolumeInfo::name); }
    std::vector<std::string> kinds(const DiagnosisOptions& options = {}) const {
        std::vector<std::string> words;
        for (const Finding& finding : diagnose(seen, options)) {
            words.push_back(finding.kind);
            EXPECT_FALSE(finding.evidence.empty()) << finding.kind;
            EXPECT_FALSE(finding.risk.empty()) << finding.kind;
            EXPECT_NE(finding.remedy.has_value(), !finding.why_not.empty())
                << finding.kind << ": either it is mended, or it is said why not";
        }
        return words;
    }
    Finding only() const {
        const std::vector<Finding> findings = diagnose(seen);
        EXPECT_EQ(findings.size(), 1u);
        return findings.empty() ? Finding() : findings.front();
    }
    void as_the_hosts() {
        seen.address = {.name = "vg0"};
        seen.group.name = "vg0";
        for (VolumeInfo& one : seen.volumes)
            one.active = true;
        volume("pool").monitored = true;
        volume("pool").profile = "grow";
    }

    Examination seen;
};

TEST_F(Doctor, FindsNothingWrongWithWhatIsSound) {
    EXPECT_THAT(kinds(), IsEmpty());
    as_the_hosts();
    EXPECT_THAT(kinds(), IsEmpty());
}

TEST_F(Doctor, APoolThatFills) {
    volume("pool").data_used = 16 * gib * 4 / 5 + 1;
    EXPECT_THAT(kinds(), ElementsAre("pool-near-full"));
    EXPECT_THAT(only().commands, ElementsAre("lamella extend ./vms.img:pool --size +3280M"));
    EXPECT_EQ(only().remedy, (Remedy{Remedy::Kind::extend_data, "pool", 3280 * mib}));
    volume("pool").data_used = 16 * gib * 4 / 5;
    EXPECT_THAT(kinds(), IsEmpty());
    EXPECT_THAT(kinds({.near_full = 50'00}), ElementsAre("pool-near-full"));
    // Nothing is concluded from what isn't known.
    volume("pool").data_used.reset();
    EXPECT_THAT(kinds({.near_full = 0}), testing::Not(testing::Contains("pool-near-full")));
}

TEST_F(Doctor, RoomThatTheGroupHasNotIsNotPromised) {
    volume("pool").data_used = 15 * gib;
    seen.group.free = 3276 * mib;
    const Finding finding = only();
    EXPECT_EQ(finding.kind, "pool-near-full");
    EXPECT_FALSE(finding.remedy);
    EXPECT_THAT(finding.why_not, HasSubstr("3.20 GiB left"));
    seen.group.free = 0;
    EXPECT_THAT(kinds(), ElementsAre("pool-near-full", "group-full"));
}

TEST_F(Doctor, APoolWithoutRoom) {
    volume("pool").pool_mode = "out_of_data_space";
    volume("pool").data_used = 16 * gib;
    EXPECT_THAT(kinds(), ElementsAre("pool-out-of-data"));
    EXPECT_EQ(only().urgency, Urgency::critical);
    EXPECT_THAT(only().risk, HasSubstr("wait"));
    volume("pool").error_when_full = true;
    EXPECT_THAT(only().risk, HasSubstr("need a new chunk fail"));
}

TEST_F(Doctor, APoolsMetadata) {
    volume("pool").metadata_used = 60 * mib;
    EXPECT_THAT(kinds(), ElementsAre("pool-metadata-near-full"));
    EXPECT_THAT(only().commands, ElementsAre("lamella extend ./vms.img:pool --metadata --size +16M"));
    volume("pool").pool_mode = "ro";
    volume("pool").metadata_used = 64 * mib;
    EXPECT_THAT(kinds(), ElementsAre("pool-read-only"));
    EXPECT_EQ(only().remedy->kind, Remedy::Kind::extend_metadata);
    // Read-only for another reason: more room doesn't help.
    volume("pool").metadata_used = 8 * mib;
    EXPECT_THAT(kinds(), ElementsAre("pool-read-only"));
    EXPECT_FALSE(only().remedy);
    volume("pool").pool_mode = "Fail";
    EXPECT_THAT(kinds(), ElementsAre("pool-failed"));
}

TEST_F(Doctor, SmallMetadataIsNearlyFullSooner) {
    volume("pool").size = volume("pool").data_used.emplace(0) + 2 * gib;
    volume("web").size = gib;
    volume("pool").metadata_size = 4 * mib;
    volume("pool").metadata_used = 3 * mib - 4096;
    EXPECT_THAT(kinds(), IsEmpty());
    volume("pool").metadata_used = 3 * mib;
    EXPECT_THAT(kinds(), ElementsAre("pool-metadata-near-full"));
}

TEST_F(Doctor, MetadataTooSmallForTheData) {
    volume("pool").size = 160 * gib;  // 2621440 chunks: 80 MiB
    seen.group.free = 200 * gib;
    EXPECT_THAT(kinds(), ElementsAre("pool-metadata-small"));
    EXPECT_EQ(only().remedy, (Remedy{Remedy::Kind::extend_metadata, "pool", 16 * mib}));
    volume("pool").size = 128 * gib;
    EXPECT_THAT(kinds(), IsEmpty());
}

TEST_F(Doctor, NeedsCheck) {
    volume("pool").needs_check = true;
    volume("pool").pool_mode = "ro";  // that comes with it
    EXPECT_THAT(only().commands, testing::Contains(HasSubstr("lamella repair")));
    seen.contents["pool"].check = PoolCheck{.grade = "clean"};
    EXPECT_THAT(kinds(), ElementsAre("pool-needs-check"));
    EXPECT_THAT(only().commands, testing::Contains("lamella check ./vms.img:pool --auto-repair --clear-needs-check-flag"));
    EXPECT_FALSE(only().remedy);
    seen.contents["pool"].check = PoolCheck{.grade = "needs-repair", .findings = {"a node"}, .finding_count = 1};
    EXPECT_THAT(kinds(), ElementsAre("pool-needs-check", "pool-metadata-damaged"));
}

TEST_F(Doctor, WhatTheCheckOfAnIdlePoolFinds) {
    seen.contents["pool"].check = PoolCheck{.grade = "leak", .findings = {"a sum"}, .finding_count = 1};
    EXPECT_THAT(kinds(), ElementsAre("pool-leak"));
    EXPECT_EQ(only().evidence, "a sum");
    seen.contents["pool"].check->leaked_data_blocks = 7;
    EXPECT_EQ(only().evidence, "7 data blocks and 0 metadata blocks are counted as used and aren't");
    seen.contents["pool"].check->grade = "data-at-risk";
    EXPECT_THAT(kinds(), ElementsAre("pool-data-at-risk"));
    seen.contents.erase("pool");
    seen.unreadable["pool"] = "superblock: checksum";
    EXPECT_THAT(kinds(), ElementsAre("pool-metadata-damaged"));
}

TEST_F(Doctor, GroupAndPoolThatCameApart) {
    seen.contents["pool"].transaction_id = 2;
    EXPECT_THAT(kinds(), ElementsAre("transaction-mismatch"));
    EXPECT_THAT(only().why_not, HasSubstr("pool's metadata is older"));
    seen.contents["pool"].changing = true;  // the pool hasn't carried out its messages yet
    EXPECT_THAT(kinds(), IsEmpty());
    seen.contents["pool"].changing = false;
    seen.contents["pool"].transaction_id = 4;
    EXPECT_THAT(only().why_not, HasSubstr("text is older than the pool"));

    seen.contents["pool"] = {.transaction_id = 3, .device_ids = {}};
    EXPECT_THAT(kinds(), ElementsAre("thin-id-missing"));
    EXPECT_EQ(only().volume, "web");
    seen.contents["pool"].device_ids = {1, 7, 9};
    EXPECT_THAT(kinds(), ElementsAre("thin-id-leaked", "thin-id-leaked"));
    EXPECT_THAT(diagnose(seen)[1].commands, testing::Contains("lamella message ./vms.img:pool 'delete 9'"));
    EXPECT_FALSE(diagnose(seen)[0].remedy) << "somebody's data";
}

TEST_F(Doctor, APoolThatSomethingElseFills) {
    std::erase_if(seen.volumes, [](const VolumeInfo& one) { return one.name == "web"; });
    volume("pool").transaction_id = 0;
    seen.contents["pool"] = {.transaction_id = 12, .device_ids = {1, 2, 3}};
    EXPECT_THAT(kinds(), ElementsAre("pool-foreign"));
    EXPECT_EQ(only().urgency, Urgency::advice);
    EXPECT_THAT(only().commands, IsEmpty());
}

TEST_F(Doctor, ClassicSnapshots) {
    volume("snap").store_used = 700 * mib;
    EXPECT_THAT(kinds(), ElementsAre("snapshot-near-full"));
    EXPECT_EQ(only().remedy, (Remedy{Remedy::Kind::extend_store, "snap", 160 * mib}));
    volume("snap").store_used = 800 * mib;
    EXPECT_THAT(kinds(), ElementsAre("snapshot-full"));
    // As large as it can ever need to be: it never fills.
    volume("snap").store_size = 4 * gib + 64 * mib;
    volume("snap").store_used = 4 * gib + 16 * mib;
    EXPECT_THAT(kinds(), IsEmpty());
    // More room is never said to rescue it.
    volume("snap").snapshot_state = "Invalid";
    volume("snap").store_used.reset();
    EXPECT_THAT(kinds(), ElementsAre("snapshot-invalid"));
    EXPECT_FALSE(only().remedy);
    for (const std::string& command : only().commands)
        EXPECT_THAT(command, testing::Not(HasSubstr("extend")));
    volume("snap").snapshot_state = "Overflow";
    EXPECT_THAT(kinds(), ElementsAre("snapshot-overflow"));
    volume("snap").snapshot_state = "Merge failed";
    EXPECT_THAT(kinds(), ElementsAre("merge-failed"));
    volume("snap").snapshot_state = "merging";
    EXPECT_THAT(kinds(), ElementsAre("merge-waiting"));
    seen.group.served = true;
    EXPECT_THAT(kinds(), IsEmpty());
    volume("snap").snapshot_state = "";
    EXPECT_THAT(kinds(), IsEmpty());
}

TEST_F(Doctor, TheSpare) {
    volume("lvol0_pmspare").size = 60 * mib;
    EXPECT_THAT(kinds(), ElementsAre("spare-small"));
    EXPECT_EQ(only().remedy, (Remedy{Remedy::Kind::make_spare, "", 4 * mib}));
    std::erase_if(seen.volumes, [](const VolumeInfo& one) { return one.kind == VolumeKind::spare; });
    EXPECT_THAT(kinds(), ElementsAre("spare-missing"));
    seen.group.free = 60 * mib;
    EXPECT_FALSE(only().remedy);
    std::erase_if(seen.volumes, [](const VolumeInfo& one) { return one.name == "pool" || one.name == "web"; });
    EXPECT_THAT(kinds(), IsEmpty());
}

TEST_F(Doctor, WhatIsPromised) {
    volume("web").size = 20 * gib;
    EXPECT_THAT(kinds(), ElementsAre("over-allocated"));
    EXPECT_THAT(only().evidence, HasSubstr("1.25 times the pool, 0.83 times the pool with"));
    EXPECT_THAT(only().risk, HasSubstr("extended in time"));
    volume("web").size = 30 * gib;
    EXPECT_THAT(only().risk, HasSubstr("couldn't be extended enough"));
    volume("web").size = UINT64_MAX;
    EXPECT_THAT(kinds(), ElementsAre("over-allocated"));
}

TEST_F(Doctor, TheGroup) {
    seen.group.findings = {"segment 2 of web: beyond the end"};
    seen.group.physical_volumes[0].missing = true;
    EXPECT_THAT(kinds(), ElementsAre("group-metadata", "physical-volume-missing"));
    seen.group.findings.clear();
    seen.group.physical_volumes[0].missing = false;
    seen.group.physical_volumes[0].duplicate = true;
    EXPECT_THAT(kinds(), ElementsAre("physical-volume-duplicate"));
}

// What the group says of a pool or a disk, the findings about these have already.
TEST_F(Doctor, TellsAThingOnce) {
    volume("pool").needs_check = true;
    seen.group.physical_volumes[0].missing = true;
    seen.group.findings = {"pool: the pool's metadata needs a check", "physical volume abc is missing", "web: odd"};
    EXPECT_THAT(kinds(), ElementsAre("group-metadata", "physical-volume-missing", "pool-needs-check"));
    EXPECT_THAT(diagnose(seen).front().evidence, "web: odd");
}

TEST_F(Doctor, WhatOnlyAHostsGroupHas) {
    as_the_hosts();
    volume("pool").monitored = false;
    EXPECT_THAT(kinds(), ElementsAre("monitoring-off"));
    EXPECT_THAT(only().commands, ElementsAre("lvchange --monitor y vg0/pool"));
    volume("pool").monitored.reset();
    volume("pool").profile.clear();
    EXPECT_THAT(kinds(), ElementsAre("profile-missing"));
    volume("pool").profile = "grow";
    volume("pool").effective_discards = "nopassdown";
    EXPECT_THAT(kinds(), ElementsAre("discards-not-passed-down"));
    volume("pool").discards = "ignore";
    EXPECT_THAT(kinds(), ElementsAre("discards-ignored"));
    volume("pool").discards = volume("pool").effective_discards;
    seen.group.physical_volumes[0].device_hint = "/dev/sdq";
    EXPECT_THAT(kinds(), ElementsAre("device-hint-stale"));
    EXPECT_THAT(only().evidence, HasSubstr("/dev/sdq"));
}

// Its commands are there to be copied into a shell.
TEST_F(Doctor, NamesInCommandsAreWordsOfAShell) {
    seen.address.paths = {"/srv/my disks/a'b.img"};
    volume("snap").store_used = 700 * mib;
    volume("snap").name = "$(reboot)";
    EXPECT_THAT(only().commands, ElementsAre("lamella extend '/srv/my disks/a'\\''b.img:$(reboot)' --size +160M"));
}

TEST_F(Doctor, TheWorstComesFirst) {
    volume("web").size = 20 * gib;              // advice
    volume("pool").data_used = 15 * gib;        // warning
    volume("snap").snapshot_state = "Invalid";  // critical
    EXPECT_THAT(kinds(), ElementsAre("snapshot-invalid", "pool-near-full", "over-allocated"));
}

TEST_F(Doctor, RemediesReachTheGroup) {
    FakeGroup group;
    ASSERT_TRUE(apply(group, {Remedy::Kind::extend_data, "pool", 4 * mib}, {}));
    ASSERT_TRUE(apply(group, {Remedy::Kind::extend_metadata, "pool", 8 * mib}, {}));
    ASSERT_TRUE(apply(group, {Remedy::Kind::make_spare, "", 1}, {.dry_run = true}));
    EXPECT_EQ(group.list[0].size, 16 * gib + 4 * mib);
    EXPECT_EQ(group.list[0].metadata_size, 72 * mib);
    EXPECT_THAT(group.changes, ElementsAre("change pool", "change pool", "dry run: add lvol0_pmspare"));
}

TEST_F(Doctor, ExaminesEachPool) {
    FakeGroup group;
    group.contents["pool"] = {.transaction_id = 9, .device_ids = {5}};
    auto found = examine(group, seen.address, true);
    ASSERT_TRUE(found) << found.error().message();
    EXPECT_EQ(found->contents.at("pool").transaction_id, 9u);
    EXPECT_EQ(found->volumes.size(), 3u);
}

TEST_F(Doctor, WhatKilledProcessesLeft) {
    const std::string set = "lamella.unfinished=set.2.x";
    volume("web").tags = {"mine", set};
    seen.group.broken_off = {{"web", set}};
    const Finding finding = only();
    EXPECT_EQ(finding.kind, "change-broken-off");
    EXPECT_THAT(finding.commands, ElementsAre("lamella tag ./vms.img:web --remove " + set));
    EXPECT_EQ(finding.remedy, (Remedy{.kind = Remedy::Kind::drop_tag, .volume = "web", .tag = set}));
    FakeGroup group;
    group.list = seen.volumes;
    EXPECT_TRUE(apply(group, *finding.remedy, {}));
    // Of hosts that share a group, another may be at it.
    seen.group.lock_type = "sanlock";
    EXPECT_FALSE(only().remedy);
    seen.group.lock_type.clear();
    // A tag of the group is no volume's.
    seen.group.broken_off = {{"", "lamella.unfinished=pool.a.b"}};
    EXPECT_THAT(only().commands.back(), HasSubstr("vgchange --deltag lamella.unfinished=pool.a.b"));
    seen.group.broken_off = {{"pool", "lamella.unfinished=removal"}};
    EXPECT_THAT(only().commands, ElementsAre("lamella pool remove ./vms.img:pool --force-children"));
    seen.group.broken_off = {{"pool", ""}};
    EXPECT_EQ(only().kind, "metadata-snapshot-left");
    EXPECT_THAT(kinds(), ElementsAre("metadata-snapshot-left"));
}

}  // namespace
}  // namespace lamella::manage
