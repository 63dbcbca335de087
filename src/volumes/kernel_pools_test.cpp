// SPDX-License-Identifier: Apache-2.0
//
// Activation, pools made of volumes, and changes of several commands that are broken off after each of them.
#include <gmock/gmock.h>

#include "volumes/kernel_fixture.h"

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
    edit("\"vg_lock_type\": \"\"", "\"vg_lock_type\": \"sanlock\", \"vg_lock_args\": \"1.0.0:lvmlock\"");
    auto group = open();
    test::value_of(group->rename("tail", "tail3", {.dry_run = true}));
    on_change = [](const host::Command&) { return host::CommandResult{5, 0, "", "  LV locked by other host: my-vg/tail\n"}; };
    expect_error(group->rename("tail", "tail3", {}), ErrorKind::refused, "sanlock 1.0.0:lvmlock");
    expect_error(group->rename("tail", "tail3", {}), ErrorKind::refused, "locked by other host");
}

// Another host may have the pool, and change what would be read.
TEST_F(Kernel, ReadsNoInactivePoolOfASharedGroup) {
    edit("\"vg_lock_type\": \"\"", "\"vg_lock_type\": \"dlm\"");
    device("my--vg-pool-tpool").uuid = "";
    expect_error(open()->pool_contents("pool", false), ErrorKind::refused, "another host may have it");
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

// An LVM that carries out what these changes ask of it, as far as they look at it; after so many of them the process that asks is killed.
class LittleLvm {
  public:
    struct Killed {};
    struct Volume {
        std::string id, name, type = "linear", origin, pool, metadata, data;
        std::vector<std::string> tags;
        bool hidden = false;
        bool active = true;
        bool skipped = false;
    };
    std::vector<Volume> volumes;
    std::vector<std::string> tags;  // of the group
    std::uint64_t sequence_number = 1;
    unsigned until_killed = 1000;
    unsigned until_failure = 1000;

    Result<host::CommandResult> run(const host::Command& command) {
        if (command.words[1] == "fullreport")
            return host::CommandResult{0, 0, report(), ""};
        if (until_failure-- == 0)
            return host::CommandResult{5, 0, "", "  Insufficient free space: 9 extents needed, but only 2 available\n"};
        change(command.words);
        ++sequence_number;
        if (until_killed-- == 0)
            throw Killed();
        return host::CommandResult{};
    }
    std::vector<std::string> names() const {
        std::vector<std::string> all;
        for (const Volume& volume : volumes)
            if (!volume.hidden)
                all.push_back(volume.name + (volume.tags.empty() ? "" : fmt::format("@{}", fmt::join(volume.tags, ","))));
        return all;
    }
    Volume& at(const std::string& name) {
        const auto found = std::ranges::find(volumes, name, &Volume::name);
        EXPECT_NE(found, volumes.end()) << name;
        return *found;
    }
    // All of the change was done when it was broken off.
    bool complete() const { return names() == std::vector<std::string>{"pool@fast"} && tags.empty(); }
    Volume& make(const std::string& name, const std::string& type) {
        volumes.push_back({.id = LvmId::generate().dashed(), .name = name, .type = type});
        return volumes.back();
    }

    std::string report() const {
        std::string lv, seg;
        for (const Volume& volume : volumes) {
            const bool pool = volume.type == "thin-pool";
            lv += fmt::format(
                R"({}{{"lv_uuid":"{}","lv_name":"{}","lv_size":"8388608","lv_attr":"{}","lv_skip_activation":"{}","lv_role":"{}","lv_tags":"{}","origin":"{}","pool_lv":"{}","data_lv":"{}","metadata_lv":"{}","lv_metadata_size":"{}"}})",
                lv.empty() ? "" : ",", volume.id, volume.hidden ? "[" + volume.name + "]" : volume.name,
                volume.active ? "-wi-a-----" : "Vwi---tz-k", volume.skipped ? "1" : "0",
                volume.hidden ? "private,thin,pool,metadata" : "public", fmt::join(volume.tags, ","), volume.origin, volume.pool,
                volume.data, volume.metadata, pool ? "4194304" : "");
            seg += fmt::format(R"({}{{"lv_uuid":"{}","segtype":"{}","seg_start":"0","seg_size":"8388608"}})", seg.empty() ? "" : ",",
                               volume.id, volume.type);
        }
        return fmt::format(
            R"({{"report":[{{"vg":[{{"vg_name":"my-vg","vg_uuid":"{}","vg_seqno":"{}","vg_extent_size":"4194304","vg_extent_count":"62","vg_free_count":"30","vg_tags":"{}"}}],"pv":[{{"pv_name":"/dev/slow","pv_uuid":"QcLKg5-A609-8m5q-iMXx-764M-LE8W-91kFJu"}}],"lv":[{}],"pvseg":[],"seg":[{}]}}]}})",
            "FTM2AD-Md9x-9Pyd-AcDP-m8QK-xGzn-4hs1m3", sequence_number, fmt::join(tags, ","), lv, seg);
    }

  private:
    void change(const std::vector<std::string>& words) {
        const auto value = [&](const char* option) {
            const auto found = std::ranges::find(words, option);
            return found == words.end() || found + 1 == words.end() ? std::string() : *(found + 1);
        };
        const auto behind_group = [](const std::string& name) { return name.substr(name.find('/') + 1); };
        const auto names_begin = std::ranges::find(words, "--");
        ASSERT_NE(names_begin, words.end());
        const std::string target = behind_group(*(names_begin + 1));
        if (words[1] == "lvcreate") {
            Volume& made = make(value("--name"), value("--type").empty() ? "thin" : value("--type"));
            for (std::size_t i = 0; i < words.size(); ++i)
                if (words[i] == "--addtag")
                    made.tags.push_back(words[i + 1]);
            if (std::ranges::find(words, "--snapshot") != words.end()) {
                made.origin = target;
                made.pool = at(target).pool;
                made.active = false;
                made.skipped = true;
            }
        } else if (words[1] == "lvchange") {
            for (auto name = names_begin + 1; name != words.end(); ++name) {
                if (const std::string tag = value("--deltag"); !tag.empty()) {
                    EXPECT_EQ(std::erase(at(behind_group(*name)).tags, tag), 1u);
                }
                if (const std::string tag = value("--addtag"); !tag.empty())
                    at(behind_group(*name)).tags.push_back(tag);
            }
        } else if (words[1] == "vgchange") {
            if (const std::string tag = value("--deltag"); !tag.empty()) {
                EXPECT_EQ(std::erase(tags, tag), 1u);
            }
            if (const std::string tag = value("--addtag"); !tag.empty())
                tags.push_back(tag);
        } else if (words[1] == "lvconvert") {
            // As 2.03.16: the pool is a new volume.
            for (const auto& [part, name] :
                 {std::pair(behind_group(value("--poolmetadata")), "pool_tmeta"), std::pair(target, "pool_tdata")}) {
                EXPECT_THAT(at(part).tags, IsEmpty()) << "a hidden volume keeps its tags for ever";
                at(part).hidden = true;
                at(part).name = name;
            }
            Volume& pool = make("pool", "thin-pool");
            pool.metadata = "pool_tmeta";
            pool.data = "pool_tdata";
        } else if (words[1] == "lvremove") {
            const std::string select = value("--select");
            const bool pool_too = std::ranges::any_of(
                volumes, [&](const Volume& volume) { return volume.type == "thin-pool" && select.find(volume.id) != std::string::npos; });
            std::erase_if(volumes,
                          [&](const Volume& volume) { return select.find(volume.id) != std::string::npos || (pool_too && volume.hidden); });
        } else {
            ADD_FAILURE() << words[1];
        }
    }
};

class BrokenOff : public testing::Test {
  protected:
    BrokenOff() {
        folder = testing::TempDir() + "lamella-broken-XXXXXX";
        EXPECT_NE(::mkdtemp(folder.data()), nullptr);
    }
    ~BrokenOff() override { std::filesystem::remove_all(folder); }

    std::unique_ptr<KernelGroup> open(LittleLvm& lvm) {
        auto runner = std::make_unique<host::FakeRunner>();
        runner->answer = [&lvm](const host::Command& command) { return lvm.run(command); };
        return test::value_of(
            KernelGroup::open("my-vg", {std::move(runner), std::make_unique<host::FakeMapper>(), "/usr/sbin/lvm", folder, &clock}));
    }
    static CreatePool pool_of_parts() {
        CreatePool request;
        request.name = "pool";
        request.size.value = 8 * MiB;
        request.tags = {"fast"};
        request.data_on = {"/dev/slow"};
        request.metadata_on = {"/dev/quick"};
        return request;
    }
    // Ends with the process killed after so many commands of `change`; false: it came to its end before.
    bool kill(LittleLvm& lvm, unsigned after, const std::function<void(KernelGroup&)>& change) {
        lvm.until_killed = after;
        bool killed = false;
        try {
            change(*open(lvm));
        } catch (const LittleLvm::Killed&) {
            killed = true;
        }
        lvm.until_killed = 1000;
        return killed;
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
    // A new process that is about to change something. Returns the volumes that tags tell of afterwards.
    std::vector<std::string> recover(LittleLvm& lvm) {
        const auto group = open(lvm);
        test::value_of(group->recover());
        std::vector<std::string> left;
        for (const auto& one : test::value_of(group->info()).broken_off)
            left.push_back(one.volume);
        return left;
    }

    std::string folder;
    ManualClock clock;
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
    const auto file = [&] { return folder + "/change-FTM2AD-Md9x-9Pyd-AcDP-m8QK-xGzn-4hs1m3"; };
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

TEST_F(BrokenOff, AChangeThatFailsLeavesNothing) {
    for (unsigned at = 0; at < 4; ++at) {
        LittleLvm lvm;
        lvm.make("other", "linear");
        lvm.until_failure = at;
        const auto made = open(lvm)->create_pool(pool_of_parts(), {});
        ASSERT_FALSE(made) << at;
        EXPECT_EQ(made.error().kind(), ErrorKind::no_space);
        EXPECT_THAT(lvm.names(), ElementsAre("other")) << at;
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
