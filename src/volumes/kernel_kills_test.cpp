// SPDX-License-Identifier: Apache-2.0
//
// The process that makes a change is killed before and after each of LVM's commands, whatever the change: the next one finds the group as
// it was before or as it was to be, or makes it so and says it; and what isn't the change's is as it was.
#include <sys/resource.h>
#include <sys/stat.h>
#include <csignal>
#include <thread>

#include <gmock/gmock.h>

#include "volumes/little_lvm.h"

namespace lamella {
namespace {

using testing::AnyOf;
using testing::Contains;
using testing::Eq;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

using Prepare = std::function<void(LittleLvm&)>;
using Change = std::function<Result<void>(KernelGroup&)>;

// All of a group that somebody could miss, but for the ids of what is made anew.
std::string picture_of(const LittleLvm& lvm) {
    std::vector<std::string> lines;
    for (const LittleLvm::Volume& volume : lvm.volumes) {
        // Where what is made lies doesn't matter. What is there before has the extents up to 10.
        const bool made = volume.type == "thin-pool" || std::stoi(volume.range.substr(volume.range.find(':') + 1)) > 10;
        lines.push_back(fmt::format("{} {} of {} in {} {} bytes {}{}{} [{}] {} {} {} {}{}\n", volume.name, volume.type, volume.origin,
                                    volume.pool, volume.size, volume.active, volume.hidden, volume.classic, fmt::join(volume.tags, ","),
                                    made ? "" : volume.range, volume.profile, volume.discards, volume.when_full, volume.monitored));
    }
    std::ranges::sort(lines);
    return fmt::format("{}[{}]", fmt::join(lines, ""), fmt::join(lvm.tags, ","));
}

class Killed : public LittleLvmTest {
  protected:
    Killed() { pools_are_active = true; }

    static LittleLvm::Volume& thin(LittleLvm& lvm, const std::string& name, const std::string& origin = {}) {
        LittleLvm::Volume& volume = lvm.make(name, "thin");
        volume.pool = "pool";
        volume.origin = origin;
        volume.active = origin.empty();
        volume.skipped = !origin.empty();
        return volume;
    }
    static void prepare(LittleLvm& lvm) {
        for (const char* part : {"pool_tmeta", "pool_tdata"})
            lvm.make(part, "linear").hidden = true;
        LittleLvm::Volume& pool = lvm.make("pool", "thin-pool");
        pool.metadata = "pool_tmeta";
        pool.data = "pool_tdata";
        for (const char* name : {"web", "db"})
            thin(lvm, name);
        for (const char* name : {"web-s8", "web-s9"})
            thin(lvm, name, "web");
        lvm.make("boot", "linear").tags = {"mine"};
        lvm.make("root", "linear");
        lvm.make("old", "linear");
        LittleLvm::Volume& classic = lvm.make("old-s", "linear");
        classic.origin = "old";
        classic.classic = true;
    }
    // What a change that is killed may leave, when that is neither what was before nor what was to be: it is said, and the picture is one of
    // its own commands'.
    enum class Between { settled, said };

    void kill_at_each(const std::string& what, unsigned commands, const Change& change, Between between = Between::settled,
                      const Prepare& also = {}) {
        const auto prepared = [&] {
            LittleLvm lvm;
            prepare(lvm);
            if (also)
                also(lvm);
            return lvm;
        };
        LittleLvm whole = prepared();
        const std::string before = picture_of(whole);
        std::filesystem::remove_all(folder);
        std::filesystem::create_directory(folder);
        unsigned ran = 0;
        whole.before_change = [&](const host::Command&) { ++ran; };
        test::value_of(change(*open(whole)));
        const std::string after = picture_of(whole);
        EXPECT_EQ(ran, commands) << what;
        EXPECT_EQ(after.find("lamella.unfinished"), after.npos) << what << after;

        for (const bool first : {true, false})
            for (unsigned number = 0; number < commands; ++number) {
                SCOPED_TRACE(fmt::format("{}: killed {} command {}", what, first ? "before" : "after", number));
                LittleLvm lvm = prepared();
                const auto volumes = lvm.volumes;
                lvm.kill_before = first;
                ASSERT_TRUE(kill(lvm, number, [&](KernelGroup& group) { test::value_of(change(group)); }));
                const std::string at_kill = picture_of(lvm);
                {
                    const auto looks = open(lvm);
                    test::value_of(looks->info());
                    EXPECT_EQ(picture_of(lvm), at_kill) << "who only looks changes nothing";
                }
                const auto next = open(lvm);
                test::value_of(next->recover());
                const GroupInfo info = test::value_of(next->info());
                EXPECT_THAT(info.broken_off, IsEmpty());
                const std::string now = picture_of(lvm);
                if (between == Between::settled) {
                    EXPECT_THAT(now, AnyOf(Eq(before), Eq(after)));
                } else {
                    EXPECT_EQ(now, at_kill);
                }
                if (at_kill == before) {
                    EXPECT_THAT(info.recovered, IsEmpty()) << "there is nothing to say";
                } else if (at_kill != after) {
                    EXPECT_EQ(info.recovered.size(), 1u) << "it is said";
                }
                EXPECT_TRUE(std::ranges::all_of(lvm.volumes, &LittleLvm::Volume::loaded)) << "the kernel has heard of it";
                if (at_kill != before && at_kill != after && now == after) {
                    EXPECT_THAT(info.recovered, Contains(HasSubstr("broken off when all was done but its end")));
                }
                // What was there and is there afterwards is the same all the time.
                for (const LittleLvm::Volume& volume : volumes)
                    if (std::ranges::any_of(whole.volumes, [&](const auto& other) { return other.name == volume.name; }) &&
                        !volume.hidden && what != "conversion" && what != "metadata that change places") {
                        EXPECT_EQ(lvm.at(volume.name).id, volume.id);
                    }
                const auto again = open(lvm);
                test::value_of(again->recover());
                EXPECT_THAT(test::value_of(again->info()).recovered, IsEmpty()) << "it is said once";
                // The same once more: what is there already is refused, and what was undone is made.
                if (now == before) {
                    test::value_of(change(*again));
                    EXPECT_EQ(picture_of(lvm), after);
                }
            }
    }
};

template <typename T>
Result<void> done(Result<T> result) {
    TRY(std::move(result));
    return {};
}

CreatePool pool_of(std::vector<std::string> metadata_on) {
    CreatePool request;
    request.name = "new";
    request.size.value = 8 * MiB;
    request.tags = {"fast"};
    request.autoextend_threshold = 70;
    request.autoextend_percent = 20;
    if (!metadata_on.empty())
        request.data_on = {"/dev/slow"};
    request.metadata_on = std::move(metadata_on);
    return request;
}

TEST_F(Killed, MakingPools) {
    kill_at_each("a pool", 3, [](KernelGroup& group) { return done(group.create_pool(pool_of({}), {})); });
    kill_at_each("a pool in parts", 10, [](KernelGroup& group) { return done(group.create_pool(pool_of({"/dev/quick"}), {})); });
    CreatePool plain = pool_of({});
    plain.autoextend_threshold = plain.autoextend_percent = 0;
    kill_at_each("a pool that nobody extends", 1, [&](KernelGroup& group) { return done(group.create_pool(plain, {})); });
}

TEST_F(Killed, ConvertingVolumes) {
    for (const char* metadata : {"", "boot"})
        kill_at_each(
            "conversion", 4,
            [&](KernelGroup& group) {
                ConvertToPool request{.name = "root", .metadata = metadata};
                request.autoextend_threshold = 70;
                request.autoextend_percent = 20;
                return done(group.convert_to_pool(request, {}));
            },
            Between::settled, [](LittleLvm& lvm) { lvm.at("boot").tags.clear(); });
}

TEST_F(Killed, TakingSnapshots) {
    kill_at_each("a set", 3, [](KernelGroup& group) { return done(group.create_snapshots({{.origin = "web"}, {.origin = "db"}}, {})); });
    const SizeRequest size{.value = 4 * MiB};
    kill_at_each("classic ones", 3, [&](KernelGroup& group) {
        return done(group.create_snapshots(
            {{.origin = "boot", .tags = {"t"}, .size = size, .chunk_size = 4096}, {.origin = "root", .size = size, .chunk_size = 4096}},
            {}));
    });
    kill_at_each("one of each", 3, [&](KernelGroup& group) {
        return done(group.create_snapshots({{.origin = "boot", .size = size, .chunk_size = 4096}, {.origin = "web"}}, {}));
    });
    kill_at_each("a classic one", 1, [&](KernelGroup& group) {
        return done(group.create_snapshots({{.origin = "boot", .size = size, .chunk_size = 4096}}, {}));
    });
}

TEST_F(Killed, ChangingWhatIsThere) {
    kill_at_each("a pool's settings", 3, [](KernelGroup& group) {
        return done(group.change_pool(
            {.name = "pool", .discards = "nopassdown", .error_when_full = true, .autoextend_threshold = 70, .autoextend_percent = 20}, {}));
    });
    kill_at_each("a profile", 3, [](KernelGroup& group) { return done(group.change_pool({.name = "pool", .profile = "grow"}, {})); });
    kill_at_each("a volume's size", 1, [](KernelGroup& group) {
        return done(group.resize({.name = "root", .size = {.relation = SizeRequest::Relation::grow, .value = 4 * MiB}}, {}));
    });
    kill_at_each("a pool's metadata", 1, [](KernelGroup& group) {
        return done(
            group.resize({.name = "pool", .size = {.relation = SizeRequest::Relation::grow, .value = 4 * MiB}, .metadata = true}, {}));
    });
    kill_at_each("a name", 1, [](KernelGroup& group) { return done(group.rename("db", "data", {})); });
    kill_at_each("tags", 1, [](KernelGroup& group) { return done(group.change_tags("boot", {"a", "b"}, {"mine"}, {})); });
    kill_at_each("a rollback", 2, [](KernelGroup& group) { return done(group.rollback("web", "web-s8", {})); });
    pools_are_active = false;
    kill_at_each(
        "metadata that change places", 1, [](KernelGroup& group) { return done(group.swap_metadata("pool", "root", {})); },
        Between::settled, [](LittleLvm& lvm) { lvm.at("pool").active = false; });
}

TEST_F(Killed, Removing) {
    kill_at_each(
        "volumes and snapshots", 2,
        [](KernelGroup& group) {
            return group.remove({"old", "old-s", "db", "root"}, false, {});
        },
        Between::said);
    kill_at_each(
        "all", 3,
        [](KernelGroup& group) {
            return group.remove({"old", "old-s", "db", "root", "boot", "pool", "web", "web-s8", "web-s9"}, true, {});
        },
        Between::said);
    kill_at_each("a pool with what is in it", 1, [](KernelGroup& group) { return group.remove({"pool"}, true, {}); });
    LittleLvm lvm;
    prepare(lvm);
    ASSERT_TRUE(kill(lvm, 0, [](KernelGroup& group) { test::value_of(group.remove({"old", "old-s", "db", "root"}, false, {})); }));
    const auto next = open(lvm);
    test::value_of(next->recover());
    EXPECT_THAT(next->recovered(), Contains("db, root, old: still there, as a removal of 4 volumes was broken off"));
}

// What LVM's commands in one word have no room for goes in several.
TEST_F(Killed, RemovingThousands) {
    LittleLvm lvm;
    std::vector<std::string> names;
    for (unsigned i = 0; i < 4500; ++i) {
        names.push_back(fmt::format("v{}", i));
        lvm.make(names.back(), "linear");
    }
    std::size_t longest = 0;
    unsigned commands = 0;
    lvm.before_change = [&](const host::Command& command) {
        ++commands;
        for (const std::string& word : command.words)
            longest = std::max(longest, word.size());
    };
    ASSERT_TRUE(kill(lvm, 1, [&](KernelGroup& group) { test::value_of(group.remove(names, false, {})); }));
    EXPECT_EQ(lvm.volumes.size(), 500u);
    const auto next = open(lvm);
    test::value_of(next->recover());
    EXPECT_THAT(next->recovered(), Contains(HasSubstr("v4009 and 490 more: still there, as a removal of 4500 volumes was broken off")));
    test::value_of(next->remove({names.begin() + 4000, names.end()}, false, {}));
    EXPECT_THAT(lvm.volumes, IsEmpty());
    EXPECT_EQ(commands, 3u);
    EXPECT_LT(longest, 128u * 1024);
}

// Devices that a container engine made in it go before a pool, and it is known from then on that it is going.
TEST_F(Killed, RemovingAPoolWithSomebodyElsesDevices) {
    const auto add_foreign = [this] {
        host::KernelDevice device{.name = "docker-1", .uuid = "", .number = {254, 99}};
        device.status.push_back({0, 1000, "thin", "0 -"});
        mapper->all.push_back(device);
        mapper->below["docker-1"] = {mapper->all.front().number};
        mapper->tables["docker-1"] = {{0, 1000, "thin", "254:0 1"}};
    };
    const auto remove = [&](KernelGroup& group) {
        std::vector<PoolDependent> foreign = test::value_of(group.pool_dependents("pool"));
        std::erase_if(foreign, [](const PoolDependent& one) { return !one.foreign; });
        if (!foreign.empty())
            test::value_of(group.remove_foreign("pool", foreign, {}));
        test::value_of(group.remove({"pool"}, true, {}));
    };
    for (const bool first : {true, false})
        for (unsigned number = 0; number < 2; ++number) {
            SCOPED_TRACE(fmt::format("{} {}", first, number));
            LittleLvm lvm;
            prepare(lvm);
            lvm.kill_before = first;
            ASSERT_TRUE(kill(lvm, number, [&](KernelGroup& group) {
                add_foreign();
                remove(group);
            }));
            const bool removed = number == 1 && !first;
            const bool told = !removed && (number == 1 || !first);
            EXPECT_EQ(recover(lvm), told ? std::vector<std::string>{"pool"} : std::vector<std::string>());
            if (removed)
                continue;
            const auto next = open(lvm);
            if (number == 0)
                add_foreign();
            remove(*next);
            EXPECT_THAT(lvm.names(), Not(Contains(HasSubstr("pool"))));
        }
}

// dmeventd isn't there: the pool is whole, and that is all.
TEST_F(Killed, APoolThatNobodyWatchesIsSaidToBe) {
    for (const bool after_kill : {false, true}) {
        LittleLvm lvm;
        const auto make = [](KernelGroup& group) { return group.create_pool(pool_of({}), {}); };
        if (after_kill) {
            ASSERT_TRUE(kill(lvm, 0, [&](KernelGroup& group) { (void)make(group); }));
        }
        lvm.monitors = false;
        const auto next = open(lvm);
        std::string said;
        if (after_kill) {
            test::value_of(next->recover());
            ASSERT_EQ(next->recovered().size(), 1u);
            said = next->recovered().front();
        } else {
            const auto made = make(*next);
            ASSERT_FALSE(made);
            said = made.error().message();
        }
        EXPECT_THAT(said, HasSubstr("isn't extended automatically: dmeventd doesn't watch it"));
        EXPECT_THAT(lvm.names(), testing::ElementsAre("new@fast"));
        EXPECT_THAT(recover(lvm), IsEmpty());
    }
}

const auto take_two = [](KernelGroup& group) {
    return group.create_snapshots({{.origin = "web", .name = "s1"}, {.origin = "db", .name = "s2"}}, {});
};

// Between the proof and the removal somebody may have put another in its place.
TEST_F(Killed, WhatHasTheNameByThenIsKept) {
    for (unsigned reports = 0; reports < 6; ++reports) {
        SCOPED_TRACE(reports);
        LittleLvm lvm;
        prepare(lvm);
        ASSERT_TRUE(kill(lvm, 0, [](KernelGroup& group) { test::value_of(take_two(group)); }));
        unsigned until_made_anew = reports;
        bool made_anew = false;
        lvm.before_report = [&] {
            if (until_made_anew-- != 0 || std::ranges::find(lvm.volumes, "s1", &LittleLvm::Volume::name) == lvm.volumes.end())
                return;
            std::erase_if(lvm.volumes, [](const LittleLvm::Volume& volume) { return volume.name == "s1"; });
            thin(lvm, "s1").active = true;
            ++lvm.sequence_number;
            made_anew = true;
        };
        const auto next = open(lvm);
        test::value_of(next->recover());
        EXPECT_EQ(std::ranges::count(lvm.names(), "s1"), made_anew ? 1 : 0);
        EXPECT_TRUE(made_anew || reports > 2) << "else this shows nothing";
    }
}

// udev's programs look into what is made, for a moment.
TEST_F(Killed, WhatIsOpenForAMomentIsUndone) {
    LittleLvm lvm;
    prepare(lvm);
    ASSERT_TRUE(kill(lvm, 0, [](KernelGroup& group) { test::value_of(take_two(group)); }));
    const auto next = open(lvm);
    host::KernelDevice device{.name = lvm2::dm_name("my-vg", "s1"), .number = {254, 50}};
    device.uuid = lvm2::dm_uuid(*LvmId::parse("FTM2AD-Md9x-9Pyd-AcDP-m8QK-xGzn-4hs1m3"), *LvmId::parse(lvm.at("s1").id), "");
    device.open_count = 1;
    mapper->all.push_back(device);
    unsigned looks = 0;
    mapper->on_pass = [&] {
        if (++looks == 5)
            mapper->all.pop_back();
    };
    test::value_of(next->recover());
    EXPECT_THAT(next->recovered(), Contains(HasSubstr("removed again")));
    EXPECT_THAT(lvm.names(), Not(Contains(HasSubstr("s1"))));
    EXPECT_GE(looks, 5u);
}

// LVM's command goes on when the process that waits for it is killed: what it makes is waited for.
// Somebody took the tags away to keep what is there, by LVM or by us.
TEST_F(Killed, WhatLostItsTagsIsKept) {
    const auto make = [](KernelGroup& group) { test::value_of(group.create_pool(pool_of({"/dev/quick"}), {})); };
    unsigned kept = 0;
    for (unsigned after = 0; after < 8; ++after)
        for (const bool by_us : {false, true}) {
            SCOPED_TRACE(fmt::format("after {}, {}", after, by_us));
            LittleLvm lvm;
            prepare(lvm);
            const std::size_t before = lvm.volumes.size();
            ASSERT_TRUE(kill(lvm, after, make));
            const bool tagged =
                std::ranges::any_of(lvm.volumes, [](const auto& volume) { return !unfinished::tag_of(volume.tags).empty(); });
            if (lvm.volumes.size() == before || (by_us && !tagged) ||
                std::ranges::find(lvm.volumes, "new_tdata", &LittleLvm::Volume::name) != lvm.volumes.end())
                continue;
            ++kept;
            for (LittleLvm::Volume& volume : lvm.volumes)
                if (const std::string tag = unfinished::tag_of(volume.tags); !tag.empty()) {
                    if (by_us)
                        test::value_of(open(lvm)->change_tags(volume.name, {}, {tag}, {}));
                    else
                        std::erase(volume.tags, tag);
                }
            if (!by_us)
                lvm.tags.clear();
            const std::vector<std::string> names = lvm.names();
            recover(lvm);
            EXPECT_EQ(lvm.names(), names);
        }
    EXPECT_GE(kept, 4u);
}

// Of a pool and of an origin LVM removes what it finds on them by then.
TEST_F(Killed, NothingGoesThatCameDuringARemoval) {
    const auto expect_kept = [&](const std::vector<std::string>& names, bool with_contents, const std::function<void(LittleLvm&)>& come) {
        LittleLvm lvm;
        prepare(lvm);
        const auto group = open(lvm);
        bool came = false;
        lvm.before_change = [&](const host::Command&) {
            if (!std::exchange(came, true))
                come(lvm);
        };
        const auto removed = group->remove(names, with_contents, {});
        ASSERT_FALSE(removed);
        EXPECT_EQ(removed.error().kind(), ErrorKind::refused);
        EXPECT_THAT(removed.error().message(), HasSubstr("late was made of"));
        EXPECT_THAT(lvm.names(), Contains("late"));
    };
    const auto in_pool = [](LittleLvm& lvm) { thin(lvm, "late"); };
    expect_kept({"web", "web-s8", "web-s9", "db", "pool"}, false, in_pool);
    expect_kept({"root", "pool"}, true, in_pool);
    expect_kept({"old-s", "old"}, false, [](LittleLvm& lvm) {
        LittleLvm::Volume& snapshot = lvm.make("late", "linear");
        snapshot.origin = "old";
        snapshot.classic = true;
    });
}

// Its snapshots would be of several moments.
TEST_F(Killed, ASetOfWhichAVolumeIsOpenedMeanwhileIsUndone) {
    LittleLvm lvm;
    prepare(lvm);
    const auto group = open(lvm);
    host::KernelDevice device;
    device.name = lvm2::dm_name("my-vg", "web");
    device.uuid = lvm2::dm_uuid(*LvmId::parse("FTM2AD-Md9x-9Pyd-AcDP-m8QK-xGzn-4hs1m3"), *LvmId::parse(lvm.at("web").id));
    device.open_count = 1;
    lvm.before_change = [&](const host::Command& command) {
        if (command.words[1] == "lvcreate" && std::ranges::find(mapper->all, device.name, &host::KernelDevice::name) == mapper->all.end())
            mapper->all.push_back(device);
        mapper->on_pass = [this] { clock.advance(std::chrono::seconds(1)); };
    };
    const std::vector<std::string> names = lvm.names();
    const auto made = group->create_snapshots({{.origin = "web"}, {.origin = "db"}}, {});
    ASSERT_FALSE(made);
    EXPECT_THAT(made.error().message(), HasSubstr("web is in use"));
    EXPECT_EQ(lvm.names(), names);
    // One that is looked into for a moment only, as by udev, is none.
    mapper->all.pop_back();
    unsigned passes = 0;
    lvm.before_change = [&](const host::Command& command) {
        if (command.words[1] != "lvcreate" || std::exchange(passes, 1) != 0)
            return;
        mapper->all.push_back(device);
        mapper->on_pass = [&] {
            if (++passes == 8)
                mapper->all.pop_back();
        };
    };
    test::value_of(group->create_snapshots({{.origin = "web"}, {.origin = "db"}}, {}));
    EXPECT_GE(passes, 8u);
}

TEST_F(Killed, LvmAtWorkIsWaitedFor) {
    LittleLvm lvm;
    prepare(lvm);
    lvm.kill_before = true;
    ASSERT_TRUE(kill(lvm, 1, [](KernelGroup& group) { test::value_of(take_two(group)); }));
    const std::string process = folder + "/processes/77";
    std::filesystem::create_directories(process);
    ASSERT_EQ(::mkfifo((process + "/cmdline").c_str(), 0600), 0);
    std::jthread at_work([&] {
        std::ofstream words(process + "/cmdline", std::ios::binary);  // waits for a reader
        lvm.carry_out_begun();
        std::filesystem::remove_all(process);
        words << "/usr/sbin/lvm" << '\0' << "lvcreate" << '\0' << "my-vg/db";
    });
    const auto next = open(lvm);
    test::value_of(next->recover());
    EXPECT_THAT(next->recovered(), Contains(HasSubstr("broken off when all was done but its end")));
    EXPECT_THAT(lvm.names(), Contains("s1"));
    EXPECT_THAT(lvm.names(), Contains("s2"));
}

TEST_F(Killed, ASetThatIsThereThoughLvmFailedIsToldOf) {
    LittleLvm lvm;
    prepare(lvm);
    lvm.until_failure = 1;
    lvm.fails_after_all = true;
    const auto made = take_two(*open(lvm));
    ASSERT_FALSE(made);
    EXPECT_THAT(made.error().message(), HasSubstr("s1, s2 is there all the same"));
    EXPECT_THAT(lvm.names(), Contains("s1"));
    EXPECT_THAT(lvm.names(), Contains("s2"));
    EXPECT_THAT(recover(lvm), IsEmpty());
}

TEST_F(Killed, ARemovalThatFailsSaysWhatIsLeft) {
    LittleLvm lvm;
    prepare(lvm);
    lvm.until_failure = 1;
    const auto removed = open(lvm)->remove({"old", "old-s", "db"}, false, {});
    ASSERT_FALSE(removed);
    EXPECT_THAT(removed.error().message(), HasSubstr("db, old: still there, as a removal of 3 volumes was broken off"));
    const auto next = open(lvm);
    test::value_of(next->recover());
    EXPECT_THAT(next->recovered(), IsEmpty()) << "it is said once";
    lvm.until_failure = 0;
    EXPECT_THAT(open(lvm)->remove({"db", "root"}, false, {}).error().message(), Not(HasSubstr("still there")));
}

// What was to be undone and is gone is no proof that somebody was at the rest.
TEST_F(Killed, AnUndoingThatFailsHalfWayGoesOn) {
    const auto change = [](KernelGroup& group) {
        return group.create_snapshots({{.origin = "boot", .name = "s1", .size = SizeRequest{.value = 4 * MiB}, .chunk_size = 4096},
                                       {.origin = "web", .name = "s2"},
                                       {.origin = "db", .name = "s3"}},
                                      {});
    };
    for (const bool by_kill : {false, true}) {
        LittleLvm lvm;
        prepare(lvm);
        ASSERT_TRUE(kill(lvm, 1, [&](KernelGroup& group) { test::value_of(change(group)); }));
        const auto undo = [&] {
            const auto group = open(lvm);
            test::value_of(group->recover());
            return test::value_of(group->info());
        };
        if (by_kill) {
            ASSERT_TRUE(kill(lvm, 0, [](KernelGroup& group) { test::value_of(group.recover()); }));
        } else {
            lvm.until_failure = 1;
            lvm.fails_for_good = true;
            EXPECT_THAT(undo().recovered, Contains(HasSubstr("can't be undone now")));
            // Nor does a change that needs a record begin one in its place.
            EXPECT_THAT(open(lvm)->remove({"old", "old-s"}, false, {}).error().message(), HasSubstr("can't be undone now"));
            lvm.until_failure = 1000;
        }
        EXPECT_THAT(lvm.names(), Not(Contains(HasSubstr("s1@"))));
        EXPECT_THAT(lvm.names(), Contains(HasSubstr("s2@")));
        const GroupInfo info = undo();
        EXPECT_THAT(info.recovered, Contains(HasSubstr("s2: made by a change that was broken off, removed again")));
        EXPECT_THAT(info.broken_off, IsEmpty());
        EXPECT_THAT(lvm.names(), Not(Contains(HasSubstr("s2"))));
    }
}

// A record that can't be replaced stays as it was.
TEST_F(Killed, ARecordIsReplacedAsAWhole) {
    ChangeLock lock = test::value_of(ChangeLock::take(folder + "/change"));
    ChangeRecord record{.tag = unfinished::set_tag(2), .volumes = {{.name = "s1"}, {.name = "s2"}}};
    test::value_of(lock.write(record));
    EXPECT_TRUE(ChangeLock::has_record(folder + "/change"));
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    const rlimit small{.rlim_cur = 100, .rlim_max = before.rlim_max};
    const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    record.volumes.front().id = LvmId::generate().dashed();
    const auto written = lock.write(record);
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    ::signal(SIGXFSZ, old_handler);
    EXPECT_FALSE(written);
    ASSERT_TRUE(lock.read());
    EXPECT_EQ(lock.read()->volumes.size(), 2u);
    EXPECT_EQ(lock.read()->volumes.front().id, "");
    test::value_of(lock.clear());
    EXPECT_FALSE(ChangeLock::has_record(folder + "/change"));
    EXPECT_FALSE(lock.read());
    test::value_of(lock.clear());
}

}  // namespace
}  // namespace lamella
