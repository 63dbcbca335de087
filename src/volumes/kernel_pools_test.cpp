// SPDX-License-Identifier: Apache-2.0
//
// Activation, pools made of volumes, and changes of several commands that are broken off after each of them.
#include <gmock/gmock.h>

#include "volumes/little_lvm.h"

namespace lamella {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;
using testing::UnorderedElementsAre;

std::vector<std::string> names_of(const std::vector<VolumeInfo>& volumes) {
    std::vector<std::string> names;
    for (const VolumeInfo& volume : volumes)
        names.push_back(volume.name);
    return names;
}

// --- Activation -------------------------------------------------------------------------------------------------------------

class Activation : public Kernel {
  protected:
    void set_attributes(const char* volume, const char* from, const char* to) { edit_volume(volume, from, to); }
};

TEST_F(Activation, LeavesOutWhatIsToBeSkipped) {
    set_attributes("tail", "-wi-a-----", "-wi-------");
    auto group = open();
    EXPECT_THAT(names_of(test::value_of(group->set_active({}, {.dry_run = true}))), ElementsAre("tail"));
    EXPECT_THAT(names_of(test::value_of(group->set_active({.ignore_skip = true}, {.dry_run = true}))), ElementsAre("tail", "web-s2"));
    expect_error(group->set_active({.names = {"web-s2"}}, {}), ErrorKind::refused, "--ignore-skip");
    EXPECT_THAT(changes(), ElementsAre("lvchange --test --activate y -- my-vg/tail",
                                       "lvchange --test --activate y --ignoreactivationskip -- my-vg/tail my-vg/web-s2"));
}

TEST_F(Activation, LooksAfterwards) {
    set_attributes("tail", "-wi-a-----", "-wi-------");
    auto group = open();
    expect_error(group->set_active({.names = {"tail"}}, {}), ErrorKind::failed, "still inactive");
    on_change = [&](const host::Command&) {
        set_attributes("tail", "-wi-------", "-wi-a-----");
        return host::CommandResult{};
    };
    const std::vector<VolumeInfo> changed = test::value_of(group->set_active({.names = {"tail"}}, {}));
    ASSERT_EQ(changed.size(), 1u);
    EXPECT_EQ(changed[0].active, true);
    // What is active already needs nothing.
    EXPECT_THAT(test::value_of(group->set_active({.names = {"tail"}}, {})), IsEmpty());
}

TEST_F(Activation, GoesWithItsOrigin) {
    auto group = open();
    const auto changed = test::value_of(group->set_active({.names = {"boot-s", "boot", "str-s"}, .active = false}, {.dry_run = true}));
    EXPECT_THAT(names_of(changed), ElementsAre("boot", "str"));
}

TEST_F(Activation, EndsPoolsLast) {
    auto group = open();
    const auto names = names_of(test::value_of(group->set_active({.active = false}, {.dry_run = true})));
    ASSERT_FALSE(names.empty());
    EXPECT_EQ(names.back(), "pool");
    expect_error(group->set_active({.names = {"pool"}, .active = false}, {}), ErrorKind::refused, "active, which stands on it");
}

TEST_F(Activation, TakesAPoolWithItsVolumes) {
    auto group = open();
    EXPECT_THAT(names_of(test::value_of(group->set_active({.names = {"pool"}, .active = false, .with_contents = true}, {.dry_run = true}))),
                ElementsAre("ro", "web", "pool"));
}

TEST_F(Activation, EndsNothingThatIsInUse) {
    device("my--vg-web").open_count = 1;
    expect_error(open()->set_active({.active = false}, {}), ErrorKind::refused, "web is in use");
    device("my--vg-web").open_count = 0;
    device("my--vg-boot--s").open_count = 1;
    expect_error(open()->set_active({.names = {"boot"}, .active = false}, {}), ErrorKind::refused, "boot-s is in use");
    EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Activation, EndsNoPoolUnderSomebodyElsesDevices) {
    host::KernelDevice foreign{.name = "docker-1", .uuid = "", .number = {254, 99}};
    foreign.status.push_back({0, 1000, "linear", ""});
    devices.push_back(foreign);
    auto group = open();
    mapper->below["docker-1"] = {device("my--vg-pool-tpool").number};
    expect_error(group->set_active({.active = false}, {}), ErrorKind::refused, "docker-1");
    EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Activation, IsForGroupsThatAreThisHosts) {
    edit("\"vg_exported\": \"0\"", "\"vg_exported\": \"1\"");
    expect_error(open()->set_active({}, {}), ErrorKind::refused, "exported");
    EXPECT_THAT(changes(), IsEmpty());
}

// --- Groups that hosts share ------------------------------------------------------------------------------------------------

// lvmlockd's locks are LVM's to take; who holds one, LVM says.
TEST_F(Kernel, LeavesLocksOfSharedGroupsToLvm) {
    share();
    auto group = open();
    test::value_of(group->rename("tail", "tail3", {.dry_run = true}));
    EXPECT_THAT(changes(), IsEmpty()) << "LVM makes no trials there";
    on_change = [](const host::Command&) { return host::CommandResult{5, 0, "", "  LV locked by other host: my-vg/tail\n"}; };
    expect_error(group->rename("tail", "tail3", {}), ErrorKind::refused, "sanlock 1.0.0:lvmlock");
    expect_error(group->rename("tail", "tail3", {}), ErrorKind::refused, "locked by other host");
}

// lvcreate -s and lvextend of 2.03.16 refuse, and then activate the pool here, while another host has it active.
TEST_F(Kernel, AsksLvmForNothingOfAPoolThatAnotherHostHas) {
    share();
    hold("tail");
    device("my--vg-pool-tpool").uuid = "";
    auto group = open();
    expect_error(group->create_snapshots({{.origin = "web", .name = "s"}}, {}), ErrorKind::refused, "free or another host's");
    expect_error(group->create_volume({.name = "x", .size = {.value = MiB}, .pool = "pool"}, {}), ErrorKind::refused, "lamella activate");
    expect_error(group->resize({.name = "pool", .size = {.value = 900 * MiB}}, {}), ErrorKind::refused, "lock of pool pool");
    expect_error(group->resize({.name = "web", .size = {.value = 900 * MiB}}, {}), ErrorKind::refused, "lock of pool pool");
    expect_error(group->rename("web", "web2", {}), ErrorKind::refused, "lock of pool pool");
    expect_error(group->remove({"web"}, false, {}), ErrorKind::refused, "lock of pool pool");
    expect_error(group->change_pool({.name = "pool", .discards = "nopassdown"}, {}), ErrorKind::refused, "lock of pool pool");
    expect_error(group->rollback("web", "web-s2", {}), ErrorKind::refused, "lock of pool pool");
    edit("\"lv_name\": \"[lvol0_pmspare]\"", "\"lv_name\": \"other\"");
    edit_volume("lvol0_pmspare", "private,pool,spare", "public");
    for (const bool dry_run : {true, false})
        expect_error(group->make_spare({.dry_run = dry_run}), ErrorKind::refused, "lock of pool pool");
    EXPECT_THAT(changes(), IsEmpty());

    expect_error(group->restore_text("", true, {}), ErrorKind::refused, "another one has active");
    hold("pool");
    test::value_of(group->create_snapshots({{.origin = "web", .name = "s"}}, {.dry_run = true}));
}

TEST_F(Kernel, TellsWhoHasThePoolOfASharedGroup) {
    share();
    leases = fmt::format("00000000 lvm_my-vg host-one 0000000161 0001 0001\n70254592 lvm_my-vg {} 0000000012 0001 0001 1\n",
                         ids.at("pool").dashed());
    edit_volume("tail2", "\"lv_name\": \"tail2\"", "\"lv_name\": \"[lvmlock]\"");
    device("my--vg-pool-tpool").uuid = "";
    auto group = open();
    expect_error(group->create_snapshots({{.origin = "web", .name = "s"}}, {}), ErrorKind::refused,
                 "the lock of pool pool is that of host-one (host id 1)");
    EXPECT_THAT(runner->line(runner->commands.size() - 1), testing::StartsWith("direct dump /dev/mapper/my--vg-lvmlock:0:"));
    on_change = [](const host::Command&) { return host::CommandResult{5, 0, "", "  LV locked by other host: my-vg/pool\n"}; };
    expect_error(group->set_active({.names = {"web-s2"}, .ignore_skip = true}, {}), ErrorKind::refused, "it is host-one (host id 1)");
}

TEST_F(Kernel, TellsWhoMayHaveThePoolOfAGroupSharedByDlm) {
    share_by_dlm(2);
    device("my--vg-pool-tpool").uuid = "";
    auto group = open();
    on_change = [](const host::Command&) { return host::CommandResult{5, 0, "", "  LV locked by other host: my-vg/pool\n"}; };
    const auto snapshot_refused = [&](const char* words) {
        expect_error(group->create_snapshots({{.origin = "web", .name = "s"}}, {}), ErrorKind::refused, words);
    };
    const auto activation_refused = [&](const char* words) {
        expect_error(group->set_active({.names = {"web-s2"}, .ignore_skip = true}, {}), ErrorKind::refused, words);
    };
    snapshot_refused("the lock of pool pool is free or that of 10.0.0.2 (node id 2): lamella activate my-vg/pool takes it");
    activation_refused("LV locked by other host: my-vg/pool; it is 10.0.0.2 (node id 2)");

    const std::string id = ids.at("pool").dashed();
    const auto lock = [&](int node, int mode) { return fmt::format("5 {} 2 156 0 85 10001 2 {} -1 1 0 38 \"{}\"\n", node, mode, id); };
    add_kernel_file("debug/dlm/lvm_my-vg_locks", lock(0, 0) + lock(3, 5));
    snapshot_refused("the lock of pool pool is that of node id 3");
    activation_refused("it is node id 3");
    add_kernel_file("debug/dlm/lvm_my-vg_locks", lock(0, 0) + lock(3, 3) + lock(2, 3));
    activation_refused("it is 10.0.0.2 (node id 2) and node id 3");
    add_kernel_file("debug/dlm/lvm_my-vg_locks", lock(0, 0));
    snapshot_refused("the lock of pool pool is no other host's: lamella activate my-vg/pool takes it");
}

TEST_F(Kernel, ClaimsNoMoreThanOneOfSeveralByDlm) {
    share_by_dlm(3);
    device("my--vg-pool-tpool").uuid = "";
    auto group = open();
    on_change = [](const host::Command&) { return host::CommandResult{5, 0, "", "  LV locked by other host: my-vg/pool\n"}; };
    expect_error(group->rename("web", "web2", {}), ErrorKind::refused,
                 "is free or that of one of 10.0.0.2 (node id 2), 10.0.0.3 (node id 3): lamella activate my-vg/pool takes it");
    expect_error(group->set_active({.names = {"web-s2"}, .ignore_skip = true}, {}), ErrorKind::refused,
                 "it is one of 10.0.0.2 (node id 2), 10.0.0.3 (node id 3)");
}

// lvremove, lvrename and lvconvert --merge of 2.03.16 take no lock for a classic snapshot; and lvremove of an origin refuses, and then has
// made its snapshots plain volumes.
TEST_F(Kernel, AsksLvmForNothingOfAClassicSnapshotThatAnotherHostHas) {
    share_by_dlm(2);
    auto group = open();
    expect_error(
        group->remove({"str-s"}, false, {}), ErrorKind::refused,
        "str is active here without its lock for this host alone, which is free or that of 10.0.0.2 (node id 2): lamella deactivate "
        "my-vg/str, and activate");
    device("my--vg-str").uuid = "";
    group = open();
    const char* text = "the lock of str is free or that of 10.0.0.2 (node id 2): lamella activate my-vg/str takes it";
    expect_error(group->remove({"str-s"}, false, {}), ErrorKind::refused, text);
    expect_error(group->remove({"str-s", "str"}, false, {}), ErrorKind::refused, text);
    expect_error(group->remove({"str", "str-s"}, false, {}), ErrorKind::refused, text);
    expect_error(group->rename("str-s", "other", {}), ErrorKind::refused, text);
    EXPECT_THAT(changes(), IsEmpty());
    hold("str");
    test::value_of(group->rename("str-s", "other", {.dry_run = true}));
    test::value_of(group->rename("str", "other", {.dry_run = true}));
}

// LVM takes an origin's lock for lvcreate alone: without it what was made of a set couldn't be removed again.
TEST_F(Kernel, MakesASetOfClassicSnapshotsWithTheLocksToUndoIt) {
    share_by_dlm(2);
    auto group = open();
    const CreateSnapshot one{.origin = "str", .name = "one", .classic = true, .size = {.value = 8 * MiB}};
    const CreateSnapshot two{.origin = "tail", .name = "two", .classic = true, .size = {.value = 8 * MiB}};
    hold("str");
    expect_error(group->create_snapshots({one, two}, {}), ErrorKind::refused, "the lock of tail is free or that of 10.0.0.2");
    EXPECT_THAT(changes(), IsEmpty());
    hold("tail");
    const auto tried = group->create_snapshots({one, two}, {.dry_run = true});
    EXPECT_TRUE(tried) << tried.error().message();
}

TEST_F(Kernel, SwapsNoMetadataInASharedGroup) {
    share();
    hold("pool");
    device("my--vg-pool-tpool").uuid = "";
    expect_error(open()->swap_metadata("pool", "tail", {}), ErrorKind::refused, "nothing keeps another one from activating pool pool");
    EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Kernel, RemovesNoClassicSnapshotWithThePoolOfItsOrigin) {
    edit("\"origin\": \"boot\"", "\"origin\": \"web\"", report.find("\"lv_name\": \"boot-s\""));
    expect_error(open()->remove({"pool"}, true, {}), ErrorKind::refused,
                 "web has the classic snapshot boot-s, which isn't in the pool and would be lost with it: remove both");
    EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Kernel, TellsWhichLocksOfASharedGroupItHolds) {
    using Known = std::optional<bool>;
    EXPECT_EQ(test::value_of(open()->volume("pool")).lock_held, Known()) << "of one host's";
    share();
    auto group = open();
    const auto held = [&](const std::string& name) { return test::value_of(group->volume(name)).lock_held; };
    for (const char* name : {"pool", "web", "web-s2", "tail", "str", "str-s"})
        EXPECT_EQ(held(name), Known(false)) << name;
    hold("pool");
    hold("str");
    for (const char* name : {"pool", "web", "web-s2", "str", "str-s"})
        EXPECT_EQ(held(name), Known(true)) << name;
    EXPECT_EQ(held("tail"), Known(false));
    lvmlockd = "";
    EXPECT_EQ(held("pool"), Known(false)) << "locks that aren't started are held by nobody here";
    lvmlockd.reset();
    EXPECT_EQ(held("pool"), Known()) << "nobody says";
}

// As LVM's own commands may leave it.
TEST_F(Kernel, TouchesNoActivePoolWithoutItsLock) {
    share();
    devices.push_back({.name = "my--vg-lvmlock", .uuid = "", .number = {254, 90}});
    auto group = open();
    const std::string text = "active here without its lock";
    expect_error(group->reserve_metadata_snapshot("pool", {}), ErrorKind::refused, text.c_str());
    expect_error(group->read_metadata("pool"), ErrorKind::refused, text.c_str());
    expect_error(group->send_message("pool", "delete 7"), ErrorKind::refused, text.c_str());
    EXPECT_THAT(mapper->messages, IsEmpty());
    EXPECT_THAT(test::value_of(group->info()).findings, testing::Contains(testing::HasSubstr("doesn't hold its lock")));
    hold("pool");
    EXPECT_THAT(test::value_of(group->info()).findings, testing::Not(testing::Contains(testing::HasSubstr("doesn't hold its lock"))));
}

// There no device tells that hosts share the group.
TEST_F(Kernel, TouchesNoActivePoolWithoutItsLockOfDlm) {
    edit("\"vg_lock_type\": \"\"", "\"vg_lock_type\": \"dlm\"");
    lvmlockd = fmt::format("\nVG my-vg lock_type=dlm {}\nLS dlm lvm_my-vg\nLK VG un ver 8\n", group_id.dashed());
    add_process("lvmlockd");
    auto group = open();
    expect_error(group->reserve_metadata_snapshot("pool", {}), ErrorKind::refused, "active here without its lock");
    expect_error(group->release_metadata_snapshot("pool", {}), ErrorKind::refused, "active here without its lock");
    EXPECT_THAT(mapper->messages, IsEmpty());
    hold("pool");
    test::value_of(group->reserve_metadata_snapshot("pool", {.dry_run = true}));
}

// Nobody is told to end what may be sound.
TEST_F(Kernel, ClaimsNothingOfLocksWhenLvmlockdDoesNotAnswer) {
    share();
    hold("pool");
    lvmlockd.reset();
    auto group = open();
    const Error error = group->read_metadata("pool").error();
    EXPECT_EQ(error.kind(), ErrorKind::refused);
    EXPECT_THAT(error.message(), testing::HasSubstr("isn't known"));
    EXPECT_THAT(error.message(), testing::Not(testing::HasSubstr("deactivate")));
    const auto findings = test::value_of(group->info()).findings;
    EXPECT_THAT(findings,
                testing::Contains(testing::HasSubstr("pool: the pool is active here, and whether this host holds its lock isn't known")));
    EXPECT_THAT(findings, testing::Not(testing::Contains(testing::HasSubstr("deactivate"))));
}

TEST_F(Kernel, ChangesNoSharedGroupWhoseLocksAreNotStarted) {
    share();
    auto group = open();
    lvmlockd = "";
    expect_error(group->rename("tail", "tail3", {}), ErrorKind::refused, "vgchange --lockstart my-vg");
    expect_error(group->set_active({}, {}), ErrorKind::refused, "aren't started on this host");
    lvmlockd.reset();
    expect_error(group->rename("tail", "tail3", {}), ErrorKind::refused, "doesn't answer on this host");
    expect_error(group->inactive_disks(), ErrorKind::refused, "whose locks the user-space engine doesn't take");
    EXPECT_THAT(changes(), IsEmpty());
}

// Another host may have the pool, and change what would be read.
TEST_F(Kernel, ReadsNoInactivePoolOfASharedGroup) {
    edit("\"vg_lock_type\": \"\"", "\"vg_lock_type\": \"dlm\"");
    device("my--vg-pool-tpool").uuid = "";
    expect_error(open()->pool_contents("pool", false), ErrorKind::refused, "another host may have it");
}

// --- Settings of a pool -----------------------------------------------------------------------------------------------------

TEST_F(Kernel, ChangesSettingsOfAPool) {
    auto group = open();
    test::value_of(group->change_pool({.name = "pool", .discards = "nopassdown", .error_when_full = true}, {.dry_run = true}));
    EXPECT_THAT(changes(), ElementsAre("lvchange --test --discards nopassdown --errorwhenfull y -- my-vg/pool")) << "all of them, or none";
    expect_error(group->change_pool({.name = "pool", .discards = "ignore"}, {}), ErrorKind::refused, "active");
    expect_error(group->change_pool({.name = "pool", .discards = "some"}, {}), ErrorKind::usage, "some");
    expect_error(group->change_pool({.name = "web", .discards = "ignore"}, {}), ErrorKind::usage, "not a thin pool");
    // LVM's word alone is no success.
    expect_error(group->change_pool({.name = "pool", .error_when_full = true}, {}), ErrorKind::failed, "writes to it wait");
}

// LVM fails where a setting is what its text has already.
TEST_F(Kernel, ChangesNoSettingThatIsAsWanted) {
    auto group = open();
    test::value_of(group->change_pool({.name = "pool", .discards = "passdown", .error_when_full = false}, {}));
    EXPECT_THAT(changes(), IsEmpty());
    // A full pool that has waited for long enough: the kernel alone has turned to errors.
    host::KernelTarget& status = device("my--vg-pool-tpool").status[0];
    status.parameters = "4 113/1024 1024/1024 - out_of_data_space no_discard_passdown error_if_no_space - 256";
    group = open();
    test::value_of(group->change_pool({.name = "pool", .discards = "nopassdown", .error_when_full = false}, {.dry_run = true}));
    EXPECT_THAT(changes(), ElementsAre("lvchange --test --discards nopassdown -- my-vg/pool", "lvchange --test --refresh -- my-vg/pool"));
    on_change = [&](const host::Command&) {
        mapper->all.front().status[0].parameters = "4 113/1024 1024/1024 - out_of_data_space no_discard_passdown queue_if_no_space - 256";
        return host::CommandResult{};
    };
    EXPECT_FALSE(test::value_of(group->change_pool({.name = "pool", .error_when_full = false}, {})).error_when_full);
    // And the other way round: the text changes.
    group = open();
    test::value_of(group->change_pool({.name = "pool", .error_when_full = true}, {.dry_run = true}));
    EXPECT_THAT(changes(), ElementsAre("lvchange --test --errorwhenfull y -- my-vg/pool"));
}

TEST_F(Kernel, GivesAPoolAProfileThatIsThere) {
    auto group = open();
    expect_error(group->change_pool({.name = "pool", .autoextend_threshold = 80, .profile = "grow"}, {}), ErrorKind::usage, "of its own");
    const auto answer = runner->answer;
    runner->answer = [&](const host::Command& command) -> Result<host::CommandResult> {
        if (command.words[1] != "lvmconfig")
            return answer(command);
        if (std::ranges::find(command.words, "grow") == command.words.end())
            return host::CommandResult{5, 0, "", "  Failed to load config file /etc/lvm/profile/none.profile\n"};
        return host::CommandResult{0, 0, "thin_pool_autoextend_threshold=70\nthin_pool_autoextend_percent=20\n", ""};
    };
    expect_error(group->change_pool({.name = "pool", .profile = "none"}, {}), ErrorKind::failed, "profile none");
    EXPECT_THAT(changes(), IsEmpty());
    test::value_of(group->change_pool({.name = "pool", .profile = "grow"}, {.dry_run = true}));
    EXPECT_THAT(changes(), ElementsAre("lvchange --test --metadataprofile grow -- my-vg/pool", "lvchange --test --refresh -- my-vg/pool"));
    // LVM's word alone is no success.
    on_change = [&](const host::Command&) {
        edit("\"vg_seqno\": \"", "\"vg_seqno\": \"1");
        return host::CommandResult{};
    };
    expect_error(group->change_pool({.name = "pool", .profile = "grow"}, {}), ErrorKind::failed, "the profile of pool pool is ''");
}

TEST_F(Kernel, TellsWhoExtendsAPool) {
    auto group = open();
    runner->answer = [&](const host::Command& command) -> Result<host::CommandResult> {
        if (command.words[1] == "lvmconfig")
            return host::CommandResult{0, 0, "thin_pool_autoextend_threshold=70\nthin_pool_autoextend_percent=20\n", ""};
        return host::CommandResult{0, 0, report, ""};
    };
    EXPECT_EQ(test::value_of(group->automatic_extension("pool")).threshold, 70u);
    expect_error(group->automatic_extension("web"), ErrorKind::usage, "not a thin pool");
}

// New metadata are written beside the old.
TEST_F(Kernel, ReplacesNoMetadataOfAPoolInUse) {
    expect_error(open()->new_metadata("pool", false), ErrorKind::refused, "--with-contents");
    expect_error(open()->new_metadata("web", false), ErrorKind::usage, "not a thin pool");
    share();
    expect_error(open()->new_metadata("pool", false), ErrorKind::refused, "another one may have");
    EXPECT_THAT(changes(), IsEmpty());
}

// Where lvm.conf turns monitoring off, LVM doesn't ask dmeventd: 2.03.16 says nothing then, 2.03.39 "not enabled".
TEST_F(Kernel, DoesNotTakeMonitoringThatIsOffInLvmConfForAnAnswer) {
    const auto told = [&](const char* from, const char* to) {
        edit(from, to, report.find("\"segtype\": \"thin-pool\""));
        return test::value_of(open()->volume("pool")).monitored;
    };
    EXPECT_EQ(told("\"seg_monitor\": \"\"", "\"seg_monitor\": \"not enabled\""), std::nullopt);
    EXPECT_EQ(told("not enabled", "not monitored"), false);
    EXPECT_EQ(told("not monitored", "monitored"), true);
}

// --- Pools of volumes -------------------------------------------------------------------------------------------------------

TEST_F(Kernel, MakesPoolsOfVolumes) {
    // LVM's own trial fails for a volume that is active: it isn't asked.
    test::value_of(open()->convert_to_pool({.name = "tail", .metadata = ""}, {.dry_run = true}));
    EXPECT_THAT(changes(), IsEmpty());
    edit_volume("tail", "-wi-a-----", "-wi-------");
    auto group = open();
    test::value_of(group->convert_to_pool({.name = "tail", .metadata = "tail2", .error_when_full = true}, {.dry_run = true}));
    test::value_of(
        group->convert_to_pool({.name = "tail", .metadata = "", .metadata_size = 4 * MiB, .chunk_size = 512 * 1024}, {.dry_run = true}));
    EXPECT_THAT(
        changes(),
        ElementsAre("lvconvert --test --type thin-pool --yes --poolmetadata my-vg/tail2 --chunksize 128s --zero y --discards passdown "
                    "--errorwhenfull y -- my-vg/tail",
                    "lvconvert --test --type thin-pool --yes --poolmetadatasize 8192s --chunksize 1024s --zero y --discards "
                    "passdown --errorwhenfull n -- my-vg/tail"));
    expect_error(group->convert_to_pool({.name = "tail", .metadata = "tail"}, {}), ErrorKind::usage, "both");
    expect_error(group->convert_to_pool({.name = "web", .metadata = ""}, {}), ErrorKind::unsupported, "linear");
    expect_error(group->convert_to_pool({.name = "boot", .metadata = ""}, {}), ErrorKind::refused, "boot-s");
    expect_error(group->convert_to_pool({.name = "rolin", .metadata = ""}, {}), ErrorKind::refused, "read-only");
    expect_error(group->convert_to_pool({.name = "tail", .metadata = "pool_tmeta"}, {}), ErrorKind::refused, "hidden");
    expect_error(group->convert_to_pool({.name = "tail", .metadata = "none"}, {}), ErrorKind::not_found, "none");
    // LVM's word alone is no success.
    expect_error(group->convert_to_pool({.name = "tail", .metadata = ""}, {}), ErrorKind::failed, "something else");
    add("tail", "", "linear", "");
    device("my--vg-tail").open_count = 1;
    expect_error(open()->convert_to_pool({.name = "tail", .metadata = ""}, {}), ErrorKind::refused, "in use");
}

TEST_F(Kernel, SwapsMetadataOfPoolsThatAreNotActive) {
    expect_error(open()->swap_metadata("pool", "tail", {}), ErrorKind::refused, "is active");
    EXPECT_THAT(changes(), IsEmpty());
    std::erase_if(devices, [](const host::KernelDevice& device) { return device.name == "my--vg-pool-tpool"; });
    auto group = open();
    test::value_of(group->swap_metadata("pool", "tail", {.dry_run = true}));
    EXPECT_THAT(changes(), ElementsAre("lvconvert --test --yes --swapmetadata --poolmetadata my-vg/tail -- my-vg/pool"));
    expect_error(group->swap_metadata("tail", "tail2", {}), ErrorKind::usage, "not a thin pool");
    expect_error(group->swap_metadata("pool", "tail", {}), ErrorKind::failed, "isn't the metadata");
    on_change = [&](const host::Command&) {
        edit("\"lv_name\": \"[pool_tmeta]\"", "\"lv_name\": \"was\"");
        edit("\"lv_name\": \"tail\"", "\"lv_name\": \"[pool_tmeta]\"");
        edit("\"lv_name\": \"was\"", "\"lv_name\": \"tail\"");
        return host::CommandResult{};
    };
    EXPECT_EQ(test::value_of(group->swap_metadata("pool", "tail", {})).name, "pool");
    // From 2.03.24 on each id goes with its name, and only the extents have changed places.
    on_change = [&](const host::Command&) {
        edit("\"seg_pe_ranges\": \"/dev/ubdb:0-0\"", "\"seg_pe_ranges\": \"was\"");
        edit("\"seg_pe_ranges\": \"/dev/ubda:26-27\"", "\"seg_pe_ranges\": \"/dev/ubdb:0-0\"");
        edit("\"seg_pe_ranges\": \"was\"", "\"seg_pe_ranges\": \"/dev/ubda:26-27\"");
        return host::CommandResult{};
    };
    EXPECT_EQ(test::value_of(group->swap_metadata("pool", "tail", {})).name, "pool");
}

TEST_F(Kernel, MakesTheSpareByExtendingMetadata) {
    auto group = open();
    EXPECT_EQ(test::value_of(group->make_spare({})).name, "lvol0_pmspare");
    EXPECT_THAT(changes(), IsEmpty()) << "it is large enough";
    edit("\"lv_name\": \"[lvol0_pmspare]\"", "\"lv_name\": \"other\"");
    edit_volume("lvol0_pmspare", "private,pool,spare", "public");
    EXPECT_EQ(test::value_of(group->make_spare({.dry_run = true})).size, 8 * MiB);
    EXPECT_THAT(changes(), ElementsAre("lvextend --test --poolmetadatasize +8192s -- my-vg/pool"));
    // LVM doesn't say when there was no room for it.
    expect_error(group->make_spare({}), ErrorKind::failed, "no spare");
    edit("\"vg_free_count\": \"12\"", "\"vg_free_count\": \"2\"");
    expect_error(group->make_spare({}), ErrorKind::no_space, "8388608 bytes free");
}

// --- Broken off after each command --------------------------------------------------------------------------------------------

class BrokenOff : public LittleLvmTest {
  protected:
    static CreatePool pool_of_parts() {
        CreatePool request;
        request.name = "pool";
        request.size.value = 8 * MiB;
        request.tags = {"fast"};
        request.data_on = {"/dev/slow"};
        request.metadata_on = {"/dev/quick"};
        return request;
    }
    // Killed after each command of `change` in turn: `expect` sees what the next process made of it, and how often it was killed.
    void kill_at_each(const std::function<void(LittleLvm&)>& prepare, const std::function<void(KernelGroup&)>& change,
                      const std::function<void(LittleLvm&, const GroupInfo&, bool)>& expect, unsigned kills) {
        unsigned killed = 0;
        for (bool last = false; !last;) {
            SCOPED_TRACE(fmt::format("killed after command {}", killed));
            LittleLvm lvm;
            prepare(lvm);
            last = !kill(lvm, killed, change);
            killed += last ? 0 : 1;
            const bool ended = last || lvm.complete();
            // Who only looks changes nothing.
            const std::string before = lvm.report();
            const auto next = open(lvm);
            const bool left = before.find("lamella.unfinished") != before.npos;
            EXPECT_EQ(!test::value_of(next->info()).broken_off.empty(), left);
            EXPECT_EQ(lvm.report(), before);
            test::value_of(next->recover());
            EXPECT_THAT(test::value_of(next->info()).broken_off, IsEmpty());
            expect(lvm, test::value_of(next->info()), ended);
        }
        EXPECT_EQ(killed, kills);
    }
    static void prepare_set(LittleLvm& lvm) {
        lvm.make("pool", "thin-pool");
        for (const char* name : {"web", "db", "log"})
            lvm.make(name, "thin").pool = "pool";
    }
    static void take_three(KernelGroup& group) {
        test::value_of(group.create_snapshots({{.origin = "web"}, {.origin = "db", .tags = {"t"}}, {.origin = "log"}}, {}));
    }
};

TEST_F(BrokenOff, MakingAPoolOfPartsIsUndone) {
    kill_at_each([](LittleLvm&) {}, [](KernelGroup& group) { test::value_of(group.create_pool(pool_of_parts(), {})); },
                 [&](LittleLvm& lvm, const GroupInfo& info, bool ended) {
                     EXPECT_THAT(lvm.tags, IsEmpty());
                     if (ended) {
                         EXPECT_THAT(lvm.names(), ElementsAre("pool@fast"));
                         EXPECT_THAT(info.recovered, IsEmpty());
                     } else if (lvm.names().empty()) {
                         EXPECT_THAT(info.recovered, ElementsAre(HasSubstr("removed again")));
                     } else {
                         EXPECT_THAT(lvm.names(), ElementsAre("pool@fast"));
                         EXPECT_THAT(info.recovered, ElementsAre(HasSubstr("all was done but its end")));
                     }
                 },
                 7);
}

TEST_F(BrokenOff, ASetIsWholeOrNotThere) {
    std::vector<std::size_t> left;
    kill_at_each(
        prepare_set, take_three,
        [&](LittleLvm& lvm, const GroupInfo& info, bool) {
            left.push_back(lvm.names().size());
            if (left.back() == 7) {
                EXPECT_THAT(lvm.names(), ElementsAre("pool", "web", "db", "log", "web-s1", "db-s1@t", "log-s1"));
                EXPECT_EQ(info.recovered.size(), left.size() == 3 ? 1u : 0u);
            } else {
                EXPECT_THAT(lvm.names(), ElementsAre("pool", "web", "db", "log"));
                EXPECT_THAT(info.recovered, ElementsAre(StartsWith("web-s1")));
            }
        },
        4);
    EXPECT_THAT(left, ElementsAre(4, 4, 7, 7, 7));
}

// What the record has by then differs: the command before has ended.
TEST_F(BrokenOff, KilledBeforeEachCommandAllIsThereOrNothing) {
    const auto make_pool = [](KernelGroup& group) { test::value_of(group.create_pool(pool_of_parts(), {})); };
    const auto nothing = [](LittleLvm&) {};
    const std::vector<std::string> four = {"pool", "web", "db", "log"}, seven = {"pool", "web", "db", "log", "web-s1", "db-s1@t", "log-s1"};
    for (const auto& [prepare, change, none, all] :
         {std::tuple(std::function<void(LittleLvm&)>(nothing), std::function<void(KernelGroup&)>(make_pool), std::vector<std::string>(),
                     std::vector<std::string>{"pool@fast"}),
          std::tuple(std::function<void(LittleLvm&)>(prepare_set), std::function<void(KernelGroup&)>(take_three), four, seven)}) {
        unsigned kills = 0;
        for (bool killed = true; killed; ++kills) {
            SCOPED_TRACE(kills);
            LittleLvm lvm;
            prepare(lvm);
            lvm.kill_before = true;
            killed = kill(lvm, kills, change);
            const bool left = lvm.report().find("lamella.unfinished") != std::string::npos;
            const auto next = open(lvm);
            test::value_of(next->recover());
            const GroupInfo info = test::value_of(next->info());
            EXPECT_EQ(info.recovered.size(), left ? 1u : 0u) << "it is said";
            EXPECT_THAT(info.broken_off, IsEmpty());
            EXPECT_THAT(lvm.report(), testing::Not(HasSubstr("lamella.unfinished")));
            EXPECT_THAT(lvm.names(), testing::AnyOf(none, all));
            EXPECT_TRUE(killed || lvm.names() == all);
        }
        EXPECT_EQ(kills, all.size() == 1 ? 8u : 5u);
    }
}

// Somebody may have found all three there, and gone on with what is left.
TEST_F(BrokenOff, WhatWasWholeOnceIsKept) {
    for (const char* removed : {"web-s1", "db-s1", "log-s1"}) {
        LittleLvm lvm;
        prepare_set(lvm);
        ASSERT_TRUE(kill(lvm, 2, take_three));
        std::erase_if(lvm.volumes, [&](const LittleLvm::Volume& volume) { return volume.name == removed; });
        ++lvm.sequence_number;
        EXPECT_EQ(recover(lvm).size(), 2u) << removed;
        EXPECT_EQ(lvm.names().size(), 6u) << removed;
    }
}

TEST_F(BrokenOff, WhatSomebodyWasAtIsKept) {
    const std::vector<std::function<void(LittleLvm&)>> touches = {
        [](LittleLvm& lvm) { lvm.at("web-s1").active = true; },
        [](LittleLvm& lvm) { lvm.at("web-s1").skipped = false; },
        [](LittleLvm& lvm) { lvm.at("web-s1").name = "backup"; },
        [](LittleLvm& lvm) { lvm.at("web-s1").tags.push_back("mine"); },
        [](LittleLvm& lvm) { lvm.at("web-s1").tags.clear(); },
        [](LittleLvm& lvm) { lvm.at("web-s1").id = LvmId::generate().dashed(); },
        [](LittleLvm& lvm) { lvm.make("more", "thin").origin = "db-s1"; },
    };
    for (std::size_t i = 0; i < touches.size(); ++i) {
        SCOPED_TRACE(i);
        LittleLvm lvm;
        prepare_set(lvm);
        ASSERT_TRUE(kill(lvm, 1, take_three));
        touches[i](lvm);
        const std::size_t before = lvm.names().size();
        EXPECT_THAT(recover(lvm), testing::Contains("db-s1"));
        EXPECT_EQ(lvm.names().size(), before);
        // Nor when it looks again as it was made.
        if (i == 0) {
            lvm.at("web-s1").active = false;
            EXPECT_THAT(recover(lvm), ElementsAre("web-s1", "db-s1"));
            EXPECT_EQ(lvm.names().size(), before);
        }
    }
}

// A text from a backup, or a disk from another host, or this host started anew: tags prove nothing.
TEST_F(BrokenOff, WithoutARecordNothingIsRemoved) {
    const auto file = [&] { return folder + "/change-FTM2AD-Md9x-9Pyd-AcDP-m8QK-xGzn-4hs1m3.record"; };
    for (unsigned after = 0; after < 6; ++after)
        for (const bool cut_short : {false, true}) {
            LittleLvm lvm;
            ASSERT_TRUE(kill(lvm, after, [](KernelGroup& group) { test::value_of(group.create_pool(pool_of_parts(), {})); }));
            std::filesystem::resize_file(file(), cut_short ? std::filesystem::file_size(file()) - 1 : 0);
            const std::vector<std::string> before = lvm.names();
            EXPECT_THAT(recover(lvm), testing::Not(IsEmpty()));
            EXPECT_EQ(lvm.names(), before) << after;
        }
    LittleLvm lvm;
    prepare_set(lvm);
    ASSERT_TRUE(kill(lvm, 0, take_three));
    std::filesystem::remove(file());
    EXPECT_THAT(recover(lvm), ElementsAre("web-s1"));
    // What settles it.
    const auto group = open(lvm);
    const std::string tag = test::value_of(group->info()).broken_off.at(0).tag;
    test::value_of(group->change_tags("web-s1", {}, {tag}, {}));
    EXPECT_THAT(lvm.names(), testing::Contains("web-s1"));
    EXPECT_THAT(recover(lvm), IsEmpty());
}

// A living process knows which of its commands failed.
TEST_F(BrokenOff, ASetThatFailsLeavesNothing) {
    for (unsigned at = 0; at < 3; ++at) {
        LittleLvm lvm;
        prepare_set(lvm);
        lvm.until_failure = at;
        EXPECT_EQ(open(lvm)->create_snapshots({{.origin = "web"}, {.origin = "db"}, {.origin = "log"}}, {}).error().kind(),
                  ErrorKind::no_space);
        EXPECT_THAT(lvm.names(), ElementsAre("pool", "web", "db", "log")) << at;
        EXPECT_THAT(recover(lvm), IsEmpty());
    }
}

// However far it came: nothing of it is there, or all of it, and what it says is so.
TEST_F(BrokenOff, AChangeThatFailsLeavesNothing) {
    unsigned at = 0;
    for (;; ++at) {
        SCOPED_TRACE(at);
        LittleLvm lvm;
        lvm.make("other", "linear");
        lvm.until_failure = at;
        const auto made = open(lvm)->create_pool(pool_of_parts(), {});
        if (made)
            break;
        EXPECT_EQ(made.error().kind(), ErrorKind::no_space);
        const bool whole = lvm.names() == std::vector<std::string>{"other", "pool@fast"};
        EXPECT_EQ(made.error().message().find("pool is there all the same") != std::string::npos, whole) << made.error().message();
        if (!whole) {
            EXPECT_THAT(lvm.names(), ElementsAre("other"));
        }
        EXPECT_THAT(lvm.tags, IsEmpty());
        EXPECT_THAT(recover(lvm), IsEmpty());
    }
    EXPECT_EQ(at, 7u);
}

// LVM refuses all from then on: what is left is told of, and put right as soon as LVM lets it be.
TEST_F(BrokenOff, WhatCannotBeUndoneNowIsUndoneLater) {
    for (unsigned at = 1; at < 7; ++at) {
        SCOPED_TRACE(at);
        LittleLvm lvm;
        lvm.until_failure = at;
        lvm.fails_for_good = true;
        const auto made = open(lvm)->create_pool(pool_of_parts(), {});
        ASSERT_FALSE(made);
        EXPECT_THAT(made.error().message(), HasSubstr("couldn't be removed again"));
        EXPECT_THAT(lvm.report(), HasSubstr("lamella.unfinished"));
        lvm.until_failure = 1000;
        EXPECT_THAT(recover(lvm), IsEmpty());
        EXPECT_THAT(lvm.report(), testing::Not(HasSubstr("lamella.unfinished")));
        EXPECT_THAT(lvm.names(), testing::AnyOf(IsEmpty(), ElementsAre("pool@fast")));
    }
}

// Snapshots first, then volumes, then pools, each by one command: what is left of a removal that was broken off is whole.
TEST_F(BrokenOff, ARemovalLeavesWholeVolumes) {
    std::vector<std::vector<std::string>> left;
    for (const bool before : {true, false})
        for (unsigned after = 0; after < 4; ++after) {
            LittleLvm lvm;
            prepare_set(lvm);
            lvm.make("boot", "linear");
            lvm.make("boot-s", "linear").origin = "boot";
            lvm.at("boot-s").classic = true;
            lvm.kill_before = before;
            const bool killed = kill(lvm, after, [](KernelGroup& group) {
                test::value_of(group.remove({"pool", "boot", "boot-s", "web", "db", "log"}, true, {}));
            });
            EXPECT_EQ(killed, after < 3);
            EXPECT_THAT(recover(lvm), IsEmpty());
            left.push_back(lvm.names());
        }
    EXPECT_THAT(left, ElementsAre(ElementsAre("pool", "web", "db", "log", "boot", "boot-s"),
                                  ElementsAre("pool", "web", "db", "log", "boot"), ElementsAre("pool"), IsEmpty(),
                                  ElementsAre("pool", "web", "db", "log", "boot"), ElementsAre("pool"), IsEmpty(), IsEmpty()));
}

// Between the tag that remembers the origin and the merge: nothing is merged, and the same command does it.
TEST_F(BrokenOff, ARollbackGoesOnWhereItWasBrokenOff) {
    for (const bool before : {true, false})
        for (unsigned after = 0; after < 3; ++after) {
            SCOPED_TRACE(fmt::format("{} {}", before, after));
            LittleLvm lvm;
            prepare_set(lvm);
            for (const char* name : {"web-s1", "web-s2"}) {
                LittleLvm::Volume& snapshot = lvm.make(name, "thin");
                snapshot.pool = "pool";
                snapshot.origin = "web";
                snapshot.active = false;
            }
            const auto roll_back = [](KernelGroup& group) { test::value_of(group.rollback("web", "web-s1", {})); };
            lvm.kill_before = before;
            EXPECT_EQ(kill(lvm, after, roll_back), after < 2);
            EXPECT_THAT(recover(lvm), IsEmpty());
            const bool merged = std::ranges::count(lvm.names(), std::string("web-s1")) == 0;
            EXPECT_EQ(merged, after == 2 || (after == 1 && !before));
            if (!merged)
                roll_back(*open(lvm));
            EXPECT_THAT(lvm.names(), ElementsAre("pool", "web", "db", "log", "web-s2@lamella.origin=web"));
        }
}

// Who is at work isn't disturbed.
TEST_F(BrokenOff, AnotherProcessAtWorkIsLeftAlone) {
    LittleLvm lvm;
    lvm.make("x", "linear").tags = {"lamella.unfinished=part.1"};
    {
        const ChangeLock lock = test::value_of(ChangeLock::take(folder + "/change-FTM2AD-Md9x-9Pyd-AcDP-m8QK-xGzn-4hs1m3"));
        EXPECT_THAT(recover(lvm), IsEmpty());
        EXPECT_EQ(open(lvm)->create_pool(pool_of_parts(), {}).error().kind(), ErrorKind::refused);
    }
    EXPECT_THAT(recover(lvm), ElementsAre("x"));
    EXPECT_EQ(lvm.names().size(), 1u);
}

TEST_F(BrokenOff, ARemovalIsToldOfAndGoesOn) {
    LittleLvm lvm;
    lvm.make("pool", "thin-pool").tags = {"lamella.unfinished=removal"};
    EXPECT_THAT(recover(lvm), ElementsAre("pool"));
    EXPECT_EQ(lvm.names().size(), 1u);
    test::value_of(open(lvm)->remove({"pool"}, true, {}));
    EXPECT_THAT(lvm.names(), IsEmpty());
}

}  // namespace
}  // namespace lamella
