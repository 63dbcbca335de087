// SPDX-License-Identifier: Apache-2.0
#include "manage/diagnosis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/test_support.h"
#include "manage/sound_group.h"

namespace lamella::manage {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Doctor : public testing::Test {
  protected:
    Doctor() {
        seen.address.paths = {"./vms.img"};
        seen.group.name = "vms";
        seen.group.physical_volumes = {{.name = "pv0", .id = "abc", .device = "./vms.img"}};
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
        seen.extension.insert_or_assign("pool", AutomaticExtension{80, 20});
    }

    Examination seen = sound_group();
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
    EXPECT_THAT(only().commands, ElementsAre("lamella extend ./vms.img:pool --metadata --size +20M"));
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
    EXPECT_EQ(only().remedy, (Remedy{Remedy::Kind::extend_metadata, "pool", 20 * mib})) << "16 MiB, and what these use themselves";
    volume("pool").size = 128 * gib;
    EXPECT_THAT(kinds(), IsEmpty());
}

TEST_F(Doctor, MetadataHasALargestSize) {
    constexpr std::uint64_t most = 15 * gib + 896 * mib;  // in whole extents
    as_the_hosts();
    seen.group.free = 100ull << 40;
    volume("lvol0_pmspare").size = most;
    volume("pool").size = 40ull << 40;  // 20 GiB of metadata
    volume("pool").metadata_size = 8 * gib;
    EXPECT_THAT(kinds(), ElementsAre("pool-metadata-small"));
    EXPECT_EQ(only().remedy, (Remedy{Remedy::Kind::extend_metadata, "pool", most - 8 * gib}));
    EXPECT_THAT(only().evidence, HasSubstr("may need 20.00 GiB; 15.88 GiB is the most that metadata can be"));
    for (std::uint64_t size : {most, 15 * gib + 900 * mib}) {
        volume("pool").metadata_size = volume("lvol0_pmspare").size = size;
        EXPECT_THAT(kinds(), ElementsAre("pool-metadata-small"));
        EXPECT_THAT(only().commands, IsEmpty());
        EXPECT_THAT(only().why_not, HasSubstr("can't be larger than 15.88 GiB"));
    }
    // Nearly full, and little is left to what it can be.
    volume("pool").size = 16 * gib;
    volume("pool").metadata_size = most - 4 * mib;
    volume("pool").metadata_used = 15 * gib;
    EXPECT_THAT(kinds(), ElementsAre("pool-metadata-near-full"));
    EXPECT_EQ(only().remedy, (Remedy{Remedy::Kind::extend_metadata, "pool", 4 * mib}));
    volume("pool").pool_mode = "ro";
    volume("pool").metadata_size = volume("pool").metadata_used = most;
    EXPECT_THAT(kinds(), ElementsAre("pool-read-only"));
    EXPECT_FALSE(only().remedy);
}

// The new metadata use a tenth of what they are for themselves, and are not nearly full right after that.
TEST_F(Doctor, MetadataThatGrewIsNoLongerNearlyFull) {
    VolumeInfo& pool = volume("pool");
    pool.size = volume("web").size = gib;
    pool.data_used = 0;
    for (std::uint64_t size = 4 * mib; size <= 256 * mib; size += 4 * mib)
        for (std::uint64_t used : {size * 3 / 4, size * 4 / 5, size - 4096, size}) {
            pool.metadata_size = size;
            pool.metadata_used = used;
            volume("lvol0_pmspare").size = size;
            const std::vector<Finding> findings = diagnose(seen);
            if (findings.empty())
                continue;
            ASSERT_EQ(findings[0].kind, "pool-metadata-near-full");
            const std::uint64_t more = findings[0].remedy.value().bytes;
            pool.metadata_size = volume("lvol0_pmspare").size = size + more;
            pool.metadata_used = used + (more + 9) / 10;
            EXPECT_THAT(kinds(), IsEmpty()) << size << ", " << used;
        }
}

TEST_F(Doctor, NeedsCheck) {
    volume("pool").needs_check = true;
    volume("pool").pool_mode = "ro";  // that comes with it
    EXPECT_THAT(only().commands, ElementsAre("lamella doctor ./vms.img")) << "what is needed, a check tells";
    seen.group.served = true;
    EXPECT_THAT(only().commands, ElementsAre("# end what serves ./vms.img", "lamella doctor ./vms.img"));
    seen.group.served = false;
    seen.contents["pool"].check = PoolCheck{.grade = "clean"};
    EXPECT_THAT(kinds(), ElementsAre("pool-needs-check"));
    EXPECT_THAT(only().commands, testing::Contains("lamella check ./vms.img:pool --auto-repair --clear-needs-check-flag"));
    EXPECT_FALSE(only().remedy);
    seen.contents["pool"].check = PoolCheck{.grade = "needs-repair", .findings = {"a node"}, .finding_count = 1};
    EXPECT_THAT(kinds(), ElementsAre("pool-needs-check", "pool-metadata-damaged"));
    EXPECT_THAT(diagnose(seen)[1].commands,
                ElementsAre("lamella pack ./vms.img:pool pool-damaged.pack", "lamella repair ./vms.img:pool --dry-run",
                            "truncate -s 67108864 repaired.bin", "lamella repair ./vms.img:pool --output repaired.bin",
                            "lamella dump repaired.bin --output repaired.xml", "lamella restore repaired.xml ./vms.img:pool"));
    as_the_hosts();
    volume("pool").needs_check = false;
    volume("pool").active = false;
    volume("pool").pool_mode.clear();
    EXPECT_THAT(only().commands, ElementsAre("lamella deactivate vg0/pool --with-contents", "lamella pack vg0/pool pool-damaged.pack",
                                             "lamella repair vg0/pool --dry-run", "lamella repair vg0/pool --output vg0/pool",
                                             "lamella activate vg0/pool --with-contents"));
    seen.group.free = 60 * mib;
    EXPECT_THAT(diagnose(seen)[0].commands, testing::Contains("lvconvert --repair vg0/pool"));
    EXPECT_THAT(diagnose(seen)[0].why_not, HasSubstr("no longer share"));
    std::erase_if(seen.volumes, [](const VolumeInfo& one) { return one.kind == VolumeKind::spare; });
    const auto found = diagnose(seen);
    const auto damaged = std::ranges::find(found, "pool-metadata-damaged", &Finding::kind);
    EXPECT_THAT(damaged->commands, testing::Not(testing::Contains("lvconvert --repair vg0/pool")));
    EXPECT_THAT(damaged->why_not, HasSubstr("nor in its spare: 4.00 MiB more are needed"));
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
    EXPECT_THAT(kinds(), ElementsAre("messages-queued"));
    seen.contents["pool"].changing = false;
    seen.contents["pool"].transaction_id = 4;
    EXPECT_THAT(only().why_not, HasSubstr("text is older than the pool"));

    seen.contents["pool"] = {.transaction_id = 3, .device_ids = {}};
    EXPECT_THAT(kinds(), ElementsAre("thin-id-missing"));
    EXPECT_EQ(only().volume, "web");
    seen.contents["pool"].device_ids = {1, 7, 9};
    EXPECT_THAT(kinds(), ElementsAre("thin-id-leaked", "thin-id-leaked"));
    EXPECT_THAT(diagnose(seen)[1].commands, testing::Contains("lamella message ./vms.img:pool delete 9"));
    EXPECT_FALSE(diagnose(seen)[0].remedy) << "somebody's data";
}

TEST_F(Doctor, AChangeOfLvmsThatWasBrokenOff) {
    as_the_hosts();
    seen.contents["pool"] = {.transaction_id = 2, .changing = true, .device_ids = {}};
    seen.group.findings = {"pool: the pool is at transaction 2, LVM's metadata at 3"};
    EXPECT_THAT(kinds(), ElementsAre("messages-queued")) << "it is said once";
    EXPECT_THAT(only().why_not, HasSubstr("LVM sends them"));
}

TEST_F(Doctor, APoolOfWhichNothingIsKnown) {
    as_the_hosts();
    volume("pool").pool_mode.clear();
    EXPECT_THAT(kinds(), ElementsAre("pool-status-unknown"));
    EXPECT_THAT(only().commands, ElementsAre("lamella status vg0/pool"));
    volume("pool").active = false;
    EXPECT_THAT(kinds(), testing::Not(testing::Contains("pool-status-unknown")));
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
    volume("snap").store_size = gib;
    EXPECT_FALSE(only().remedy) << "it takes more than room";
    EXPECT_THAT(only().commands, ElementsAre("lamella extend ./vms.img:snap --size +344M", "lamella deactivate ./vms.img:thick",
                                             "lamella activate ./vms.img:thick"));
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
    // What lies on it is told with it.
    const std::string name = seen.group.physical_volumes[0].name;
    EXPECT_THAT(only().evidence, testing::Not(HasSubstr("; on ")));
    for (const char* one : {"pool", "web"})
        volume(one).physical_volumes = {"other", name};
    EXPECT_THAT(only().evidence, testing::EndsWith("; on it: pool, web"));
    seen.group.physical_volumes.push_back(seen.group.physical_volumes[0]);
    EXPECT_THAT(diagnose(seen)[0].evidence, testing::EndsWith("; on those that are missing: pool, web"));
    seen.group.physical_volumes.pop_back();
    for (int i = 0; i < 20; ++i) {
        seen.volumes.push_back(FakeGroup::made(fmt::format("v{}", i), VolumeKind::linear, "linear", gib));
        seen.volumes.back().physical_volumes = {name};
    }
    EXPECT_THAT(only().evidence, testing::EndsWith(", v7 and 12 more"));
    seen.volumes.resize(seen.volumes.size() - 20);
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

// It is no damage, and no backup mends it.
TEST_F(Doctor, AGroupThatIsExported) {
    as_the_hosts();
    seen.group.findings = {"the group is exported: vgimport makes it usable"};
    EXPECT_THAT(kinds(), ElementsAre("group-exported"));
    EXPECT_EQ(only().urgency, Urgency::advice);
    EXPECT_THAT(only().commands, ElementsAre("vgimport vg0"));
}

TEST_F(Doctor, WhatOnlyAHostsGroupHas) {
    as_the_hosts();
    // LVM goes on with a merge when the origin is activated, and may have ended it by then: there is nothing to roll back to any more.
    volume("snap").snapshot_state = "Merge failed";
    EXPECT_THAT(only().commands, ElementsAre(HasSubstr("lamella deactivate vg0/"), HasSubstr("lamella activate vg0/")));
    EXPECT_THAT(only().why_not, HasSubstr("by itself"));
    volume("snap").snapshot_state = "active";
    volume("snap").store_used = 700 * mib;
    EXPECT_THAT(only().risk, testing::Not(HasSubstr("dmeventd"))) << "nobody knows";
    volume("snap").monitored = true;
    EXPECT_THAT(only().risk, testing::Not(HasSubstr("dmeventd")));
    volume("snap").monitored = false;
    EXPECT_THAT(only().risk, HasSubstr("; dmeventd doesn't watch it, so nobody extends it before"));
    volume("snap").snapshot_state = "";
    volume("snap").store_used = 0;
    volume("pool").monitored = false;
    EXPECT_THAT(kinds(), ElementsAre("monitoring-off"));
    EXPECT_THAT(only().commands, ElementsAre("lvchange --monitor y vg0/pool"));
    volume("pool").monitored.reset();
    EXPECT_THAT(kinds(), ElementsAre("monitoring-unknown"));
    volume("pool").monitored = true;
    volume("pool").profile.clear();
    EXPECT_THAT(kinds(), IsEmpty()) << "lvm.conf has a rule for all pools";
    seen.extension.insert_or_assign("pool", AutomaticExtension{100, 20});
    EXPECT_THAT(kinds(), ElementsAre("profile-missing"));
    EXPECT_THAT(only().risk, HasSubstr("log"));
    volume("pool").profile = "grow";
    EXPECT_THAT(kinds(), ElementsAre("extension-off"));
    EXPECT_THAT(only().commands, ElementsAre("lamella pool change vg0/pool --autoextend-threshold 80 --autoextend-percent 20"));
    seen.extension.insert_or_assign("pool", fail(ErrorKind::failed, "grow.profile: no such file"));
    EXPECT_THAT(kinds(), ElementsAre("profile-unreadable"));
    seen.extension.insert_or_assign("pool", AutomaticExtension{80, 60});
    EXPECT_THAT(kinds(), ElementsAre("extension-without-room"));
    seen.extension.insert_or_assign("pool", AutomaticExtension{80, 20});
    volume("pool").effective_discards = "nopassdown";
    EXPECT_THAT(kinds(), ElementsAre("discards-not-passed-down"));
    volume("pool").discards = "ignore";
    EXPECT_THAT(kinds(), ElementsAre("discards-ignored"));
    volume("pool").discards = volume("pool").effective_discards;
    seen.group.physical_volumes[0].device_hint = "/dev/sdq";
    EXPECT_THAT(kinds(), ElementsAre("device-hint-stale"));
    EXPECT_THAT(only().evidence, HasSubstr("/dev/sdq"));
}

TEST_F(Doctor, LeavesAPoolToWhoExtendsIt) {
    as_the_hosts();
    volume("pool").data_used = 16 * gib / 100 * 84;
    EXPECT_THAT(kinds(), ElementsAre("pool-near-full"));
    EXPECT_FALSE(only().remedy);
    EXPECT_THAT(only().why_not, HasSubstr("extends it by 20 percent from 80"));
    // It should have been extended a while ago.
    volume("pool").data_used = 16 * gib / 100 * 86;
    EXPECT_TRUE(only().remedy);
    // Watched, and never extended; extended, if anybody watched; nobody knows.
    volume("pool").data_used = 16 * gib / 100 * 84;
    seen.extension.insert_or_assign("pool", AutomaticExtension{100, 20});
    EXPECT_TRUE(diagnose(seen)[0].remedy);
    seen.extension.insert_or_assign("pool", AutomaticExtension{80, 20});
    volume("pool").monitored = false;
    EXPECT_TRUE(diagnose(seen)[0].remedy);
    volume("pool").monitored.reset();
    EXPECT_TRUE(diagnose(seen)[0].remedy);
}

TEST_F(Doctor, ExtendsAsMuchAsIsNeeded) {
    volume("pool").pool_mode = "out_of_data_space";
    volume("pool").data_used = 16 * gib;
    const std::uint64_t more = only().remedy->bytes;
    EXPECT_GE((16 * gib + more) / 100 * 76, 16 * gib) << "a fifth would leave it nearly full";
    // The spare grows along.
    volume("pool").pool_mode = "rw";
    volume("pool").data_used = gib;
    volume("pool").metadata_used = 60 * mib;
    seen.group.free = 28 * mib;
    EXPECT_FALSE(only().remedy);
    EXPECT_THAT(only().why_not, HasSubstr("40.00 MiB are needed, with the spare, which grows along"));
    seen.group.free = 40 * mib;
    EXPECT_EQ(diagnose(seen)[0].remedy, (Remedy{Remedy::Kind::extend_metadata, "pool", 20 * mib}));
}

// Not a fifth, where there is no room for that, but what makes the metadata no longer nearly full.
TEST_F(Doctor, ExtendsMetadataByWhatFits) {
    volume("pool").metadata_used = 52 * mib;  // of 64
    seen.group.free = 32 * mib;
    EXPECT_EQ(only().remedy, (Remedy{Remedy::Kind::extend_metadata, "pool", 16 * mib}));
    for (std::uint64_t free : {31 * mib, 24 * mib}) {
        seen.group.free = free;
        EXPECT_EQ(only().remedy, (Remedy{Remedy::Kind::extend_metadata, "pool", 12 * mib})) << free;
    }
    seen.group.free = 16 * mib;
    EXPECT_EQ(only().remedy, (Remedy{Remedy::Kind::extend_metadata, "pool", 8 * mib})) << "with which 52.8 MiB of 72 are in use";
    seen.group.free = 15 * mib;
    EXPECT_FALSE(only().remedy);
    EXPECT_THAT(only().why_not, HasSubstr("15.00 MiB left, and 16.00 MiB are needed, with the spare"));
}

// 4 MiB of metadata are what a pool of 4 GiB has; one that is a fifth larger gets 4 MiB more, and the spare too.
TEST_F(Doctor, CountsWhatGrowsAlongWithData) {
    VolumeInfo& pool = volume("pool");
    pool.size = volume("web").size = 4 * gib;
    pool.data_used = 4 * gib / 100 * 82;
    pool.metadata_size = volume("lvol0_pmspare").size = 4 * mib;
    pool.metadata_used = mib;
    seen.group.free = 820 * mib;
    EXPECT_THAT(kinds(), ElementsAre("pool-near-full"));
    EXPECT_FALSE(only().remedy);
    EXPECT_THAT(only().commands, IsEmpty());
    EXPECT_THAT(only().why_not, HasSubstr("820.00 MiB left, and 828.00 MiB are needed, with metadata and spare, which grow along"));
    seen.group.free = 828 * mib - 1;
    EXPECT_FALSE(only().remedy);
    seen.group.free = 828 * mib;
    EXPECT_EQ(only().remedy, (Remedy{Remedy::Kind::extend_data, "pool", 820 * mib}));
    // Nor does LVM find the room by itself.
    as_the_hosts();
    pool.data_used = 0;
    seen.group.free = 824 * mib;
    EXPECT_THAT(kinds(), ElementsAre("extension-without-room"));
    seen.group.free = 828 * mib;
    EXPECT_THAT(kinds(), IsEmpty());
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
    EXPECT_FALSE(found->volumes[0].needs_check);
    // LVM knows of the flag while the pool is active only.
    group.contents["pool"].needs_check = true;
    EXPECT_TRUE(test::value_of(examine(group, seen.address, true)).volumes[0].needs_check);
}

// LVM made a volume between the two looks.
TEST_F(Doctor, LooksAgainWhereTextAndPoolDiffer) {
    struct Changing final : FakeGroup {
        Result<PoolContents> pool_contents(const std::string& pool, bool check) override {
            if (changes_left == 0 || changes_left-- == 0)
                return FakeGroup::pool_contents(pool, check);
            ++*std::ranges::find(list, pool, &VolumeInfo::name)->transaction_id;
            return FakeGroup::pool_contents(pool, check);
        }
        unsigned changes_left = 1;
    } group;
    group.list = seen.volumes;
    volume("pool").transaction_id = 7;
    group.list = seen.volumes;
    const Examination found = test::value_of(examine(group, seen.address, true));
    EXPECT_EQ(found.contents.at("pool").transaction_id, 8u);
    EXPECT_EQ(std::ranges::find(found.volumes, "pool", &VolumeInfo::name)->transaction_id, 8u);
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
