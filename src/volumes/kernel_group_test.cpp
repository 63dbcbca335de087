// SPDX-License-Identifier: Apache-2.0
//
// The kernel engine on an LVM and a kernel that exist in memory only: what it asks of them, what it makes of their answers, and what it
// does when they fail. The report is a real one (src/host/lvm_report_test.cpp tells of what). The real ones: tests/kernel.
#include "volumes/kernel_group.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include <nlohmann/json.hpp>

#include "volumes/kernel_fixture.h"

namespace {
std::atomic<std::uint64_t> allocations;
}

// Counted, and else as it is. (All other forms come down to these; under a sanitizer the one that doesn't throw has a place of its own.)
[[gnu::noinline]] void* operator new(std::size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size))
        return memory;
    throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    ++allocations;
    return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace lamella {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

// A report with so many snapshots more, each tenth of them active.
void Kernel::add_snapshots(unsigned count) {
    nlohmann::json whole = nlohmann::json::parse(report);
    nlohmann::json& group_report = whole["report"][0];
    const auto row_of = [&](const char* section, const LvmId& id) {
        for (const nlohmann::json& row : group_report[section])
            if (row.value("lv_uuid", "") == id.dashed())
                return row;
        return nlohmann::json();
    };
    nlohmann::json volume = row_of("lv", ids.at("web-s2")), segment = row_of("seg", ids.at("web-s2"));
    host::KernelDevice active = device("my--vg-web");
    for (unsigned i = 0; i < count; ++i) {
        const LvmId id = LvmId::generate();
        volume["lv_uuid"] = segment["lv_uuid"] = id.dashed();
        volume["lv_name"] = fmt::format("s{}", i);
        group_report["lv"].push_back(volume);
        group_report["seg"].push_back(segment);
        active.name = lvm2::dm_name("my-vg", fmt::format("s{}", i));
        active.uuid = lvm2::dm_uuid(group_id, id);
        if (i % 10 == 0)
            devices.push_back(active);
    }
    report = whole.dump();
}

namespace {

// --- Looking ----------------------------------------------------------------------------------------------------------------

TEST_F(Kernel, ListsAllByOneCommand) {
    auto group = open();
    const GroupInfo info = test::value_of(group->info());
    EXPECT_EQ(test::value_of(group->volumes()).size(), 15u);
    EXPECT_EQ(runner->commands.size(), 1u);
    EXPECT_EQ(info.name, "my-vg");
    EXPECT_EQ(info.size, 62 * 4 * MiB);
    EXPECT_THAT(info.findings, IsEmpty());
}

TEST_F(Kernel, TakesUsageFromTheKernel) {
    auto group = open();
    const VolumeInfo pool = test::value_of(group->volume("pool"));
    EXPECT_EQ(pool.data_used, 5 * 65536u);
    EXPECT_EQ(pool.metadata_used, 113 * 4096u);
    EXPECT_EQ(pool.metadata_size, 4 * MiB);
    EXPECT_EQ(pool.pool_mode, "rw");
    EXPECT_FALSE(pool.error_when_full);
    // What the kernel does with discards isn't what was asked for.
    EXPECT_EQ(pool.discards, "passdown");
    EXPECT_EQ(pool.effective_discards, "nopassdown");
    EXPECT_EQ(test::value_of(group->volume("web")).mapped, 640 * 512u);
    const VolumeInfo snapshot = test::value_of(group->volume("boot-s"));
    EXPECT_EQ(snapshot.kind, VolumeKind::snapshot);
    EXPECT_EQ(snapshot.size, 48 * MiB);
    EXPECT_EQ(snapshot.store_size, 28 * MiB);
    EXPECT_EQ(snapshot.store_used, 16 * 512u);
    EXPECT_EQ(snapshot.snapshot_state, "active");
    EXPECT_EQ(snapshot.origin, "boot");
    // A pool that waited long enough for room waits no longer, though LVM's text says so.
    device("my--vg-pool-tpool").status[0].parameters =
        "4 113/1024 1024/1024 - out_of_data_space no_discard_passdown error_if_no_space - 256";
    EXPECT_TRUE(test::value_of(open()->volume("pool")).error_when_full);
}

TEST_F(Kernel, KnowsWhetherASnapshotIsWatched) {
    EXPECT_EQ(test::value_of(open()->volume("boot-s")).monitored, std::nullopt) << "LVM says nothing";
    const std::size_t segment = report.rfind("\"lv_uuid\": \"" + ids.at("boot-s").dashed());
    edit("\"seg_monitor\": \"\"", "\"seg_monitor\": \"not monitored\"", segment);
    EXPECT_EQ(test::value_of(open()->volume("boot-s")).monitored, false);
    edit("\"seg_monitor\": \"not monitored\"", "\"seg_monitor\": \"monitored\"", segment);
    EXPECT_EQ(test::value_of(open()->volume("boot-s")).monitored, true);
    EXPECT_EQ(test::value_of(open()->volume("boot")).monitored, std::nullopt);
}

// Unknown is not 0, and invalid is not full.
TEST_F(Kernel, LeavesUnknownWhatNobodyTells) {
    auto group = open();
    const VolumeInfo inactive = test::value_of(group->volume("web-s2"));
    EXPECT_EQ(inactive.active, false);
    EXPECT_EQ(inactive.mapped, std::nullopt);
    EXPECT_TRUE(inactive.read_only);
    const VolumeInfo invalid = test::value_of(group->volume("str-s"));
    EXPECT_EQ(invalid.snapshot_state, "Invalid");
    EXPECT_EQ(invalid.store_used, std::nullopt);
    EXPECT_EQ(invalid.active, true);
}

TEST_F(Kernel, GoesOnWithoutAKernelToAsk) {
    refuse_mapper = Error(ErrorKind::unsupported, "no device mapper");
    auto group = open();
    EXPECT_EQ(test::value_of(group->volume("pool")).data_used, std::nullopt);
    EXPECT_EQ(test::value_of(group->volume("pool")).pool_mode, "");
    // LVM's own word is left.
    EXPECT_EQ(test::value_of(group->volume("str-s")).snapshot_state, "Invalid");
    EXPECT_THAT(test::value_of(group->info()).findings, ElementsAre(HasSubstr("no device mapper")));
}

TEST_F(Kernel, FindsOutWhatIsWrongWithAPool) {
    const auto findings = [&](const char* status) {
        device("my--vg-pool-tpool").status[0].parameters = status;
        return test::value_of(open()->info()).findings;
    };
    EXPECT_THAT(findings("Fail"), ElementsAre(HasSubstr("has failed")));
    EXPECT_THAT(findings("4 113/1024 5/1024 - ro no_discard_passdown queue_if_no_space needs_check 256"),
                ElementsAre(HasSubstr("needs a check"), HasSubstr("read-only")));
    EXPECT_THAT(findings("5 113/1024 5/1024 - rw no_discard_passdown queue_if_no_space - 256"),
                ElementsAre(HasSubstr("at transaction 5, LVM's metadata at 4")));
    EXPECT_THAT(findings("nonsense"), IsEmpty());
    EXPECT_EQ(test::value_of(open()->volume("pool")).data_used, std::nullopt);
}

// A name says nothing about who made a device: a container engine's may look like a volume's.
TEST_F(Kernel, KnowsDevicesByTheirUuid) {
    device("my--vg-web").uuid = "";
    EXPECT_EQ(test::value_of(open()->volume("web")).mapped, std::nullopt);
}

TEST_F(Kernel, TellsOfMissingPhysicalVolumesAndRefusesChanges) {
    edit("\"vg_partial\": \"0\"", "\"vg_partial\": \"1\"");
    edit("\"pv_missing\": \"0\"", "\"pv_missing\": \"1\"");
    auto group = open();
    EXPECT_THAT(test::value_of(group->info()).findings, ElementsAre(HasSubstr("is missing")));
    EXPECT_FALSE(test::value_of(group->info()).writable);
    expect_error(group->rename("web", "www", {}), ErrorKind::refused, "missing");
    EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Kernel, LeavesExportedGroupsAlone) {
    edit("\"vg_exported\": \"0\"", "\"vg_exported\": \"1\"");
    expect_error(open()->rename("web", "www", {}), ErrorKind::refused, "exported");
    EXPECT_THAT(test::value_of(open()->info()).findings, testing::Contains(testing::StartsWith("the group is exported")));
    EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Kernel, SaysWhyTheGroupIsNotThere) {
    report = "  Volume group \"my-vg\" not found\n";
    expect_error(open()->info(), ErrorKind::damaged, "not JSON");
    report = "{\"report\":[]}";
    expect_error(open()->info(), ErrorKind::not_found, "my-vg");
}

// The user-space engine gets the disks of a group of which nothing is active, by whatever name.
TEST_F(Kernel, GivesItsDisksAwayOnlyWhileNothingIsActive) {
    auto group = open();
    expect_error(group->inactive_disks(), ErrorKind::refused, "my--vg-pool-tpool");
    const std::vector<std::string> disks = test::value_of(group->disks());
    devices.clear();
    const HostDisks given = test::value_of(open()->inactive_disks());
    EXPECT_EQ(given.paths, disks);
    EXPECT_EQ(given.lock_directory, "/run/lock/lvm");
    EXPECT_FALSE(disks.empty());
    refuse_mapper = Error(ErrorKind::refused, "not root");
    expect_error(open()->inactive_disks(), ErrorKind::refused, "not root");
    refuse_mapper.reset();
    edit("\"vg_exported\": \"0\"", "\"vg_exported\": \"1\"");
    expect_error(open()->inactive_disks(), ErrorKind::refused, "exported");
}

// A change elsewhere is seen, if not in the same second.
TEST_F(Kernel, AsksAgainAfterASecondAndAfterEachChange) {
    auto group = open();
    test::value_of(group->volume("web"));
    clock.advance(std::chrono::milliseconds(1001));
    test::value_of(group->volume("web"));
    EXPECT_EQ(reports(), 2u);
    test::value_of(group->change_tags("web", {"new"}, {"prod"}, {}));
    EXPECT_THAT(changes(), ElementsAre("lvchange --deltag prod --addtag new -- my-vg/web"));
    EXPECT_EQ(reports(), 4u) << "before the change and after it";
}

// --- Changes ----------------------------------------------------------------------------------------------------------------

TEST_F(Kernel, MakesPoolsAndVolumes) {
    auto group = open();
    CreatePool pool;
    pool.name = "pool2";
    pool.size = {SizeRequest::Base::percent_of_free, SizeRequest::Relation::absolute, 5000};
    pool.zero_new_blocks = false;
    test::value_of(group->create_pool(pool, {.dry_run = true}));
    CreateVolume thin;
    thin.name = "db";
    thin.size.value = 10 * MiB + 1;
    thin.tags = {"x"};
    EXPECT_EQ(test::value_of(group->create_volume(thin, {.dry_run = true})).size, 12 * MiB);
    CreateVolume thick;
    thick.name = "log";
    thick.linear = true;
    thick.stripes = 2;
    thick.size.value = 8 * MiB;
    test::value_of(group->create_volume(thick, {.dry_run = true}));
    EXPECT_THAT(
        changes(),
        ElementsAre(
            "lvcreate --test --type thin-pool --yes --name pool2 --extents 50%FREE --chunksize 128s --zero n "
            "--discards passdown --config activation { error_when_full=0 } -- my-vg",
            "lvcreate --test --yes --name db --type thin --virtualsize 24576s --thinpool pool --permission rw --addtag x -- my-vg",
            "lvcreate --test --yes --name log --type striped --size 16384s --stripes 2 --stripesize 128s --permission rw -- my-vg"));
}

// A size would make it a classic snapshot of a thin volume; without one LVM refuses a classic snapshot.
TEST_F(Kernel, GivesThinSnapshotsNoSizeAndClassicOnesAlways) {
    auto group = open();
    test::value_of(group->create_snapshots({{.origin = "web", .name = "", .tags = {"p=daily"}}}, {.dry_run = true}));
    test::value_of(group->create_snapshots({{.origin = "tail", .name = "t"}}, {.dry_run = true}));
    test::value_of(
        group->create_snapshots({{.origin = "web", .name = "c", .classic = true, .size = {.value = 8 * MiB}}}, {.dry_run = true}));
    EXPECT_THAT(changes(),
                ElementsAre("lvcreate --test --snapshot --yes --name web-s3 --permission rw --addtag p=daily -- my-vg/web",
                            "lvcreate --test --snapshot --yes --name t --permission rw --chunksize 8s --extents 20%ORIGIN -- my-vg/tail",
                            "lvcreate --test --snapshot --yes --name c --permission rw --chunksize 8s --size 16384s -- my-vg/web"));
}

TEST_F(Kernel, RefusesNamesThatAreLvmsOwn) {
    auto group = open();
    for (const char* name : {"snapshot1", "pvmove", "x_tmeta", "-x", "a b"})
        EXPECT_EQ(group->create_snapshots({{.origin = "web", .name = name}}, {}).error().kind(), ErrorKind::usage) << name;
    EXPECT_EQ(group->rename("web", "boot", {}).error().kind(), ErrorKind::exists);
    EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Kernel, TakesSeveralSnapshotsOnlyWhereNobodyWritesBetweenThem) {
    device("my--vg-web").open_count = 1;
    auto group = open();
    expect_error(group->create_snapshots({{.origin = "web"}, {.origin = "ro"}}, {}), ErrorKind::unsupported,
                 "one snapshot after the other");
    EXPECT_THAT(changes(), IsEmpty());
}

// LVM's lvcreate ends with 0 then, and its text has a snapshot that the pool hasn't.
TEST_F(Kernel, TakesNoSnapshotOfWhatIsSuspended) {
    device("my--vg-web").suspended = true;
    expect_error(open()->create_snapshots({{.origin = "web"}}, {}), ErrorKind::refused, "suspended");
    device("my--vg-web").suspended = false;
    device("my--vg-pool-tpool").suspended = true;
    expect_error(open()->create_snapshots({{.origin = "web"}}, {}), ErrorKind::refused, "pool is suspended");
    CreateVolume thin;
    thin.name = "x";
    thin.size.value = 4 * MiB;
    expect_error(open()->create_volume(thin, {}), ErrorKind::refused, "suspended");
    EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Kernel, LooksForRoomFirst) {
    edit("\"vg_free_count\": \"", "\"vg_free_count\": \"00000");
    const std::size_t at = report.find("\"vg_free_count\": \"00000") + 18;
    report.replace(at, report.find('"', at) - at, "3");
    const auto take = [&](const char* origin, std::uint64_t bytes) {
        CreateSnapshot request;
        request.origin = origin;
        request.size.value = bytes;
        request.size.base = SizeRequest::Base::bytes;
        return request;
    };
    auto group = open();
    expect_error(group->create_snapshots({take("boot", 16 * MiB)}, {}), ErrorKind::no_space, "has 12582912 free");
    expect_error(group->create_snapshots({take("boot", 4 * MiB), take("boot", 12 * MiB)}, {}), ErrorKind::no_space, "snapshot of boot");
    EXPECT_THAT(changes(), IsEmpty());
    test::value_of(group->create_snapshots({take("boot", 12 * MiB)}, {.dry_run = true}));
    device("my--vg-pool-tpool").status[0].parameters = "4 1024/1024 5/1024 - rw no_discard_passdown queue_if_no_space - 256";
    expect_error(open()->create_snapshots({{.origin = "web"}}, {}), ErrorKind::no_space, "metadata is full");
}

// However many volumes there are: one command, one pass over the kernel's devices, and nothing asked for each of them.
TEST_F(Kernel, ListsTenThousandByOneCommandAndOnePass) {
    constexpr unsigned count = 10'000;
    add_snapshots(count);
    // LVM takes its time for as many; it isn't asked again for that.
    report_takes = std::chrono::seconds(5);
    // With all that `lamella list` asks.
    auto group = open();
    ASSERT_TRUE(group->disks());
    const std::vector<VolumeInfo> all = test::value_of(group->listing()).volumes;
    EXPECT_EQ(all.size(), count + 15u);
    EXPECT_EQ(std::ranges::count(all, std::optional<std::uint64_t>(640 * 512), &VolumeInfo::mapped), count / 10 + 1);
    EXPECT_EQ(runner->commands.size(), 1u);
    EXPECT_EQ(mapper->passes, 1u);
}

// Each object that is made on the way is a step: four times the volumes take four times the steps, and not sixteen.
TEST_F(Kernel, TakesStepsInProportionToWhatThereIs) {
    const auto steps = [&, sole = report, of_kernel = devices](unsigned count) {
        report = sole;
        devices = of_kernel;
        add_snapshots(count);
        std::vector<std::string> names;
        for (unsigned i = 0; i < count; ++i)
            names.push_back(fmt::format("s{}", i));
        auto group = open();
        const std::uint64_t before = allocations;
        test::value_of(group->listing());
        const std::uint64_t listed = allocations;
        test::value_of(group->remove(names, false, {.dry_run = true}));
        return std::pair(listed - before, allocations - listed);
    };
    const auto few = steps(250);
    const auto many = steps(1000);
    EXPECT_LT(many.first, few.first * 5);
    EXPECT_LT(many.second, few.second * 5);
}

// Who a snapshot is of is remembered where LVM forgets it.
TEST_F(Kernel, RemembersTheOriginOfTheOthersBeforeAMerge) {
    edit_volume("web-s1", "\"lv_merging\": \"1\"", "\"lv_merging\": \"0\"");
    edit_volume("web-s1", "\"lv_name\": \"[web-s1]\"", "\"lv_name\": \"web-s1\"");
    auto group = open();
    expect_error(group->rollback("web", "web-s2", {}), ErrorKind::refused, "when it is activated next");
    EXPECT_THAT(changes(), ElementsAre("lvchange --addtag lamella.origin=web -- my-vg/web-s1", "lvconvert --yes --merge -- my-vg/web-s2"));
    edit_volume("web-s1", "\"lv_tags\": \"\"", "\"lv_tags\": \"lamella.origin=web\"");
    edit_volume("web-s1", "\"origin\": \"web\"", "\"origin\": \"\"");
    const VolumeInfo orphan = test::value_of(open()->volume("web-s1"));
    EXPECT_EQ(orphan.origin, "");
    EXPECT_EQ(orphan.former_origin, "web");
    EXPECT_EQ(orphan.state, "inactive");
}

TEST_F(Kernel, DoesNotCallAnInvalidSnapshotRescued) {
    auto group = open();
    ResizeVolume request;
    request.name = "str-s";
    request.size = {SizeRequest::Base::bytes, SizeRequest::Relation::grow, 4 * MiB};
    expect_error(group->resize(request, {}), ErrorKind::refused, "Invalid");
    expect_error(group->rollback("str", "str-s", {}), ErrorKind::refused, "Invalid");
    EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Kernel, ExtendsNoSnapshotBeyondWhatItsOriginCanNeed) {
    auto group = open();
    ResizeVolume request;
    request.name = "boot-s";
    request.size = {SizeRequest::Base::bytes, SizeRequest::Relation::grow, 1000 * MiB};
    EXPECT_EQ(test::value_of(group->resize(request, {.dry_run = true})).store_size, 52 * MiB);
}

TEST_F(Kernel, Resizes) {
    auto group = open();
    const auto resize = [&](const char* name, SizeRequest size, bool metadata = false, bool shrink = false) {
        return group->resize({name, size, metadata, shrink}, {.dry_run = true});
    };
    test::value_of(resize("pool", {SizeRequest::Base::bytes, SizeRequest::Relation::grow, 16 * MiB}));
    test::value_of(resize("pool", {SizeRequest::Base::bytes, SizeRequest::Relation::grow, 4 * MiB}, true));
    test::value_of(resize("tail", {SizeRequest::Base::percent_of_free, SizeRequest::Relation::grow, 10000}));
    test::value_of(resize("web", {SizeRequest::Base::bytes, SizeRequest::Relation::absolute, 20 * MiB}, false, true));
    EXPECT_THAT(
        changes(),
        ElementsAre("lvextend --test --size 163840s -- my-vg/pool", "lvextend --test --poolmetadatasize +8192s -- my-vg/pool",
                    "lvextend --test --extents +100%FREE -- my-vg/tail", "lvreduce --test --force --yes --size 40960s -- my-vg/web"));
    expect_error(resize("web", {SizeRequest::Base::bytes, SizeRequest::Relation::absolute, 20 * MiB}), ErrorKind::refused, "would be lost");
    expect_error(resize("pool", {SizeRequest::Base::bytes, SizeRequest::Relation::absolute, 20 * MiB}, false, true), ErrorKind::unsupported,
                 "smaller");
    expect_error(resize("web", {SizeRequest::Base::bytes, SizeRequest::Relation::grow, UINT64_MAX - 5 * MiB}), ErrorKind::usage,
                 "more than");
}

TEST_F(Kernel, RemovesByIdAndLooksAfterwards) {
    auto group = open();
    expect_error(group->remove({"tail", "boot-s"}, false, {}), ErrorKind::failed, "still there");
    EXPECT_THAT(changes(), ElementsAre("lvremove --yes --select lv_uuid=" + ids.at("boot-s").dashed() + " -- my-vg",
                                       "lvremove --yes --select lv_uuid=" + ids.at("tail").dashed() + " -- my-vg"));
}

TEST_F(Kernel, RemovesNothingByAccident) {
    auto group = open();
    expect_error(group->remove({"boot"}, false, {}), ErrorKind::refused, "boot-s");
    expect_error(group->remove({"pool"}, false, {}), ErrorKind::refused, "holds volumes");
    expect_error(group->remove({"pool_tmeta"}, false, {}), ErrorKind::refused, "hidden");
    expect_error(group->remove({"web-s1"}, false, {}), ErrorKind::refused, "being merged");
    expect_error(group->remove({"tail", "none"}, false, {}), ErrorKind::not_found, "none");
    device("my--vg-web").open_count = 2;
    group = open();
    expect_error(group->remove({"web"}, false, {}), ErrorKind::refused, "in use");
    expect_error(group->remove({"pool"}, true, {}), ErrorKind::refused, "in use");
    EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Kernel, FindsVolumesThatSomebodyElseMadeInAPool) {
    host::KernelDevice foreign{.name = "docker-1", .uuid = "", .number = {254, 99}};
    foreign.status.push_back({0, 1000, "thin", "0 -"});
    devices.push_back(foreign);
    auto group = open();
    mapper->below["docker-1"] = {device("my--vg-pool-tpool").number};
    mapper->below["my--vg-web"] = mapper->below["docker-1"];
    expect_error(group->remove({"pool"}, true, {.dry_run = true}), ErrorKind::refused, "docker-1");
    mapper->below["docker-1"] = {{254, 98}};
    test::value_of(group->remove({"pool"}, true, {.dry_run = true}));
}

TEST_F(Kernel, MergesOnlyWhatIsNotInUse) {
    edit_volume("web-s1", "\"lv_merging\": \"1\"", "\"lv_merging\": \"0\"");
    auto group = open();
    test::value_of(group->rollback("web", "web-s2", {.dry_run = true}));
    test::value_of(group->rollback("boot", "boot-s", {.dry_run = true}));
    EXPECT_THAT(changes(), ElementsAre("lvconvert --test --yes --merge -- my-vg/web-s2",
                                       "lvconvert --test --yes --background --interval 1 --merge -- my-vg/boot-s"));
    expect_error(group->rollback("web", "boot-s", {}), ErrorKind::usage, "not a snapshot of");
    device("my--vg-web").open_count = 1;
    group = open();
    expect_error(group->rollback("web", "web-s2", {}), ErrorKind::refused, "in use");
    EXPECT_THAT(changes(), IsEmpty());
}

TEST_F(Kernel, TellsHowFarAMergeIs) {
    edit_volume("boot-s", "\"lv_merging\": \"0\"", "\"lv_merging\": \"1\"");
    device("my--vg-boot").status[0] = {0, 1000, "snapshot-merge", "4000/57344 16"};
    const VolumeInfo snapshot = test::value_of(open()->volume("boot-s"));
    EXPECT_EQ(snapshot.snapshot_state, "merging");
    EXPECT_EQ(snapshot.store_used, 4000 * 512u);
    EXPECT_EQ(snapshot.store_metadata, 16 * 512u);
}

TEST_F(Kernel, PutsNothingIntoAPoolThatCannotTakeIt) {
    CreateVolume request;
    request.name = "x";
    request.size.value = 4 * MiB;
    device("my--vg-pool-tpool").status[0].parameters =
        "4 113/1024 1024/1024 - out_of_data_space no_discard_passdown queue_if_no_space - 256";
    expect_error(open()->create_volume(request, {}), ErrorKind::no_space, "full");
    // Full, and no write has met that yet.
    device("my--vg-pool-tpool").status[0].parameters = "4 113/1024 1024/1024 - rw no_discard_passdown queue_if_no_space - 256";
    for (bool dry_run : {false, true}) {
        expect_error(open()->create_snapshots({{.origin = "web"}}, {.dry_run = dry_run}), ErrorKind::no_space, "no chunk is free");
        expect_error(open()->create_volume(request, {.dry_run = dry_run}), ErrorKind::no_space, "no chunk is free");
    }
    device("my--vg-pool-tpool").status[0].parameters = "4 113/1024 1023/1024 - rw no_discard_passdown queue_if_no_space - 256";
    test::value_of(open()->create_snapshots({{.origin = "web"}}, {.dry_run = true}));
    device("my--vg-pool-tpool").status[0].parameters = "4 1024/1024 5/1024 - ro no_discard_passdown queue_if_no_space - 256";
    expect_error(open()->create_snapshots({{.origin = "web"}}, {}), ErrorKind::refused, "read-only");
    for (const std::string& line : changes())
        EXPECT_THAT(line, HasSubstr("--test"));
}

TEST_F(Kernel, SaysWhatItCannotDo) {
    auto group = open();
    expect_error(group->trim("pool", {}), ErrorKind::unsupported, "fstrim");
    expect_error(group->create_volume({.name = "new", .size = {.value = MiB}, .origin_file = "/image"}, {}), ErrorKind::unsupported,
                 "image");
}

TEST_F(Kernel, PassesOnWhatLvmRefuses) {
    on_change = [](const host::Command&) {
        return host::CommandResult{5, 0, "", "  Insufficient free space: 9 extents needed, but only 2 available\n"};
    };
    auto group = open();
    expect_error(group->resize({"pool", {SizeRequest::Base::bytes, SizeRequest::Relation::grow, 4 * MiB}, false, false}, {}),
                 ErrorKind::no_space, "9 extents needed");
}

// --- Metadata snapshots -----------------------------------------------------------------------------------------------------

TEST_F(Kernel, KeepsMessagesBehindLvmsBackAway) {
    auto group = open();
    for (const char* message : {"delete 1", "create_thin 99", "create_snap 99 1", "set_transaction_id 4 5"})
        expect_error(group->send_message("pool", message), ErrorKind::refused, "behind the group's back");
    // What no volume of LVM's is.
    test::value_of(group->send_message("pool", "delete 99"));
    EXPECT_THAT(mapper->messages, ElementsAre("my--vg-pool-tpool: delete 99"));
    expect_error(group->send_message("web", "x"), ErrorKind::usage, "not a thin pool");
    device("my--vg-pool-tpool").status[0].parameters = "3 113/1024 5/1024 - rw no_discard_passdown queue_if_no_space - 256";
    expect_error(open()->send_message("pool", "delete 99"), ErrorKind::refused, "behind the group's back");
}

// Where device mapper knows, LVM isn't asked: its report of a large group takes long.
TEST_F(Kernel, AsksActiveDevicesWithoutLvm) {
    device("my--vg-pool-tpool").status[0].parameters = "4 113/1024 5/1024 77 rw no_discard_passdown queue_if_no_space - 256";
    auto group = open();
    mapper->tables["my--vg-boot--s"] = {{0, 1000, "snapshot", "254:1 254:2 P 8"}};
    EXPECT_TRUE(group->is_active());
    EXPECT_THAT(test::value_of(group->status_line("pool")), HasSubstr(" thin-pool 4 113/1024"));
    EXPECT_EQ(test::value_of(group->status_line("web")), "0 1000 thin 640 639");
    EXPECT_EQ(test::value_of(group->table_line("boot-s")), "0 1000 snapshot 254:1 254:2 P 8");
    expect_error(group->send_message("pool", "reserve_metadata_snap"), ErrorKind::exists, "already");
    test::value_of(group->send_message("pool", "release_metadata_snap"));
    expect_error(group->reserve_metadata_snapshot("pool", {.dry_run = true}), ErrorKind::exists, "already");
    EXPECT_THAT(runner->commands, IsEmpty());
    EXPECT_EQ(mapper->passes, 0u);
    // Of anything else only LVM can tell: what isn't active, what isn't there, what isn't a pool.
    expect_error(group->status_line("web-s2"), ErrorKind::refused, "isn't active");
    expect_error(group->status_line("pool_tmeta"), ErrorKind::refused, "isn't active");
    expect_error(group->status_line("none"), ErrorKind::not_found, "no volume none");
    expect_error(group->reserve_metadata_snapshot("web", {}), ErrorKind::usage, "not a thin pool");
}

// A name proves nothing: a container engine's device may have it.
TEST_F(Kernel, BelievesNoDeviceWithoutLvmsUuid) {
    for (const std::string& uuid : {std::string(), "CRYPT-" + device("my--vg-web").uuid, device("my--vg-web").uuid + "-cow"}) {
        device("my--vg-web").uuid = uuid;
        expect_error(open()->status_line("web"), ErrorKind::refused, "isn't active");
        EXPECT_EQ(runner->commands.size(), 1u);
    }
    EXPECT_TRUE(open()->is_active());
    const std::vector<host::KernelDevice> of_this = devices;
    for (host::KernelDevice& one : devices)
        one.name.replace(0, 7, "my--vg--x-");
    EXPECT_FALSE(open()->is_active()) << "those are of a group my-vg-x";
    devices = of_this;
    for (host::KernelDevice& one : devices)
        one.uuid = "";
    EXPECT_FALSE(open()->is_active());
    refuse_mapper = Error(ErrorKind::refused, "not root");
    EXPECT_FALSE(open()->is_active());
    expect_error(open()->status_line("pool"), ErrorKind::refused, "not root");
}

TEST_F(Kernel, ReservesAndReleasesMetadataSnapshots) {
    auto group = open();
    expect_error(group->release_metadata_snapshot("pool", {}), ErrorKind::not_found, "no metadata snapshot");
    // The kernel's answer is looked at, not believed.
    expect_error(group->reserve_metadata_snapshot("pool", {}), ErrorKind::failed, "holds no metadata snapshot");
    device("my--vg-pool-tpool").status[0].parameters = "4 113/1024 5/1024 77 rw no_discard_passdown queue_if_no_space - 256";
    group = open();
    EXPECT_EQ(test::value_of(group->volume("pool")).metadata_snapshot, 77u);
    expect_error(group->reserve_metadata_snapshot("pool", {}), ErrorKind::exists, "already");
    test::value_of(group->release_metadata_snapshot("pool", {}));
    EXPECT_THAT(mapper->messages, ElementsAre("my--vg-pool-tpool: release_metadata_snap"));
}

TEST_F(Kernel, ReleasesWhatAKilledProcessLeft) {
    device("my--vg-pool-tpool").status[0].parameters = "4 113/1024 5/1024 77 rw no_discard_passdown queue_if_no_space - 256";
    std::ofstream(mark()) << "77";
    auto group = open();
    EXPECT_THAT(mapper->messages, ElementsAre("my--vg-pool-tpool: release_metadata_snap"));
    EXPECT_THAT(test::value_of(group->info()).recovered, ElementsAre(HasSubstr("left behind")));
    open();
    EXPECT_THAT(mapper->messages, IsEmpty()) << "once";
    // Killed before its number was known: it may be that of somebody who has the metadata open.
    std::ofstream(mark()) << "?";
    host::KernelDevice& metadata = devices.emplace_back();
    metadata.name = "my--vg-pool_tmeta";
    metadata.uuid = lvm2::dm_uuid(group_id, ids.at("pool_tmeta"), "tmeta");
    for (const std::uint32_t opened_by : {2, 3}) {
        metadata.open_count = opened_by;
        group = open();
        EXPECT_THAT(mapper->messages, IsEmpty());
        EXPECT_EQ(test::value_of(group->info()).broken_off.at(0).volume, "pool");
    }
    metadata.open_count = 1;  // the pool's own
    group = open();
    EXPECT_THAT(mapper->messages, ElementsAre("my--vg-pool-tpool: release_metadata_snap"));
    EXPECT_THAT(test::value_of(group->info()).broken_off, IsEmpty());
    // Somebody else's, taken since.
    std::ofstream(mark()) << "76";
    open();
    EXPECT_THAT(mapper->messages, IsEmpty());
}

// Nothing of a pool that can't be asked now is forgotten, and a pool that takes no messages can be looked at.
TEST_F(Kernel, RemembersWhatAKilledProcessLeft) {
    const auto marked = [&] {
        std::ifstream stream(mark());
        return std::string(std::istreambuf_iterator<char>(stream), {});
    };
    host::KernelDevice& pool = device("my--vg-pool-tpool");
    const std::string uuid = std::exchange(pool.uuid, "");
    for (const char* left : {"77", "?"}) {
        std::ofstream(mark()) << left;
        test::value_of(open()->info());
        EXPECT_EQ(marked(), left) << "not active";
    }
    pool.uuid = uuid;
    std::ofstream(mark()) << "77";
    for (const char* status : {"Fail", "4 1024/1024 5/1024 77 ro no_discard_passdown queue_if_no_space - 256"}) {
        pool.status[0].parameters = status;
        refuse_messages = Error(ErrorKind::failed, "Operation not supported");
        test::value_of(open()->info());
        EXPECT_EQ(marked(), "77") << status;
    }
    refuse_messages.reset();
    pool.status[0].parameters = "4 113/1024 5/1024 77 rw no_discard_passdown queue_if_no_space - 256";
    open();
    EXPECT_THAT(mapper->messages, ElementsAre("my--vg-pool-tpool: release_metadata_snap"));
    EXPECT_EQ(marked(), "");
    std::ofstream(mark()) << "?";
    pool.status[0].parameters = "4 113/1024 5/1024 - rw no_discard_passdown queue_if_no_space - 256";
    open();
    EXPECT_EQ(marked(), "") << "there is none";
}

TEST_F(Kernel, ReleasesNoMetadataSnapshotThatIsBeingRead) {
    device("my--vg-pool-tpool").status[0].parameters = "4 113/1024 5/1024 77 rw no_discard_passdown queue_if_no_space - 256";
    auto group = open();
    const FileDescriptor reader(::open(mark().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::flock(reader.get(), LOCK_EX), 0);
    expect_error(group->release_metadata_snapshot("pool", {}), ErrorKind::refused, "another process reads");
    EXPECT_THAT(mapper->messages, IsEmpty());
    ASSERT_EQ(::flock(reader.get(), LOCK_UN), 0);
    test::value_of(group->release_metadata_snapshot("pool", {}));
}

// Folders for LVM's files, which a killed process left.
TEST_F(Kernel, RemovesTheFoldersOfKilledProcesses) {
    const std::filesystem::path dead = folder + "/backup-AAAAAA", living = folder + "/backup-BBBBBB", other = folder + "/other-CCCCCC";
    for (const auto& path : {dead, living, other}) {
        std::filesystem::create_directory(path);
        std::ofstream(path / "metadata") << "x";
    }
    const int holder = ::open(living.c_str(), O_RDONLY | O_DIRECTORY);
    ASSERT_EQ(::flock(holder, LOCK_EX), 0);
    open();
    EXPECT_FALSE(std::filesystem::exists(dead));
    EXPECT_TRUE(std::filesystem::exists(living / "metadata"));
    EXPECT_TRUE(std::filesystem::exists(other / "metadata"));
    ::close(holder);
}

TEST_F(Kernel, LeavesAloneWhatALivingProcessHolds) {
    device("my--vg-pool-tpool").status[0].parameters = "4 113/1024 5/1024 77 rw no_discard_passdown queue_if_no_space - 256";
    std::ofstream(mark()) << "77";
    const int other = ::open(mark().c_str(), O_RDWR);
    ASSERT_EQ(::flock(other, LOCK_EX), 0);
    auto group = open();
    EXPECT_THAT(mapper->messages, IsEmpty());
    expect_error(group->read_metadata("pool"), ErrorKind::refused, "another process");
    ::close(other);
}

// Where the metadata can't be opened after all, nothing stays held.
TEST_F(Kernel, ReleasesOnEveryWayOut) {
    auto group = open();
    EXPECT_FALSE(group->read_metadata("pool"));
    EXPECT_THAT(mapper->messages, ElementsAre(HasSubstr("reserve_metadata_snap"), HasSubstr("release_metadata_snap")));
    EXPECT_EQ(std::filesystem::file_size(mark()), 0u);
}

// It would refuse the message, and changes nothing on its disks.
TEST_F(Kernel, AsksNothingOfAPoolThatTakesNoMessages) {
    for (const char* status : {"4 1024/1024 5/1024 - ro no_discard_passdown queue_if_no_space - 256", "Fail"}) {
        device("my--vg-pool-tpool").status[0].parameters = status;
        auto group = open();
        expect_error(group->read_metadata("pool"), ErrorKind::not_found, "/dev/mapper/my--vg-pool_tmeta");
        EXPECT_THAT(mapper->messages, IsEmpty());
    }
}

// --- The group's text -------------------------------------------------------------------------------------------------------

TEST_F(Kernel, BacksUpThroughAFileOfItsOwn) {
    on_change = [](const host::Command& command) {
        std::ofstream(command.words.at(3)) << "the text";
        return host::CommandResult{};
    };
    auto group = open();
    EXPECT_EQ(test::value_of(group->backup_text()), "the text");
    EXPECT_THAT(changes(), ElementsAre(StartsWith("vgcfgbackup --file " + folder)));
    EXPECT_FALSE(std::filesystem::exists(runner->commands.back().words.at(3)));
    on_change = nullptr;
    expect_error(group->backup_text(), ErrorKind::failed, "no backup");
    expect_error(group->restore_text("nonsense", true, {}), ErrorKind::damaged, "the backup");
}

// --- What a container engine made in a pool -----------------------------------------------------------------------------------

class ForeignDevices : public Kernel {
  protected:
    void SetUp() override {
        Kernel::SetUp();
        // Named as if it were a volume of the group.
        add_foreign("my--vg-base", "", "thin", 100, 0);
        add_foreign("crypt", "CRYPT-LUKS2-x", "crypt", 101, 0);
        add_foreign("other", "", "linear", 102, 0);
    }
    void add_foreign(const char* name, const char* uuid, const char* type, std::uint32_t minor, std::uint32_t open_count) {
        host::KernelDevice device;
        device.name = name;
        device.uuid = uuid;
        device.number = {254, minor};
        device.open_count = open_count;
        device.status.push_back({0, 1000, type, ""});
        devices.push_back(device);
    }
    KernelGroup* open_with_foreign() {
        KernelGroup* group = open();
        for (const host::KernelDevice& device : devices)
            mapper->below[device.name] = {};
        mapper->below["my--vg-base"] = {device("my--vg-pool-tpool").number};
        mapper->below["crypt"] = {{254, 100}};
        mapper->tables["my--vg-base"] = {{0, 1000, "thin", "254:0 7"}};
        return group;
    }
};

TEST_F(ForeignDevices, AreFoundByWhatTheyStandOn) {
    device("my--vg-base").open_count = 1;  // by the device on top
    auto group = open_with_foreign();
    const std::vector<PoolDependent> dependents = test::value_of(group->pool_dependents("pool"));
    ASSERT_GE(dependents.size(), 3u);
    // Who stands on another comes before it; LVM's own come last.
    EXPECT_EQ(dependents[0].name, "crypt");
    EXPECT_EQ(dependents[0].device_id, std::nullopt);
    EXPECT_EQ(dependents[1].name, "my--vg-base");
    EXPECT_EQ(dependents[1].device_id, 7u);
    EXPECT_TRUE(dependents[1].foreign);
    EXPECT_EQ(dependents[1].used_by, "");
    for (std::size_t i = 2; i < dependents.size(); ++i)
        EXPECT_FALSE(dependents[i].foreign) << dependents[i].name;
    EXPECT_TRUE(std::ranges::none_of(dependents, [](const PoolDependent& one) { return one.name == "other"; }));

    ASSERT_TRUE(group->remove_foreign("pool", {dependents[1], dependents[0]}, {.dry_run = true}));
    EXPECT_THAT(mapper->messages, IsEmpty());
    ASSERT_TRUE(group->remove_foreign("pool", {dependents[1], dependents[0]}, {}));
    EXPECT_THAT(mapper->messages, ElementsAre("crypt: removed", "my--vg-base: removed"));
    expect_error(group->remove_foreign("pool", {dependents[0]}, {}), ErrorKind::refused, "no longer");
}

TEST_F(ForeignDevices, InUseOrOfTheGroupStay) {
    device("crypt").open_count = 2;
    auto group = open_with_foreign();
    std::vector<PoolDependent> dependents = test::value_of(group->pool_dependents("pool"));
    EXPECT_EQ(dependents[0].used_by, "open");
    expect_error(group->remove_foreign("pool", {dependents[1], dependents[0]}, {}), ErrorKind::refused, "in use");
    PoolDependent of_lvm = dependents.back();
    of_lvm.foreign = true;
    expect_error(group->remove_foreign("pool", {of_lvm}, {}), ErrorKind::refused, "no longer");
    EXPECT_THAT(mapper->messages, IsEmpty());
}

}  // namespace
}  // namespace lamella
