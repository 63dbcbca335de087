// SPDX-License-Identifier: Apache-2.0
//
// The kernel engine on an LVM in memory that does what it is told, for tests of what is broken off between its commands.
#pragma once

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "volumes/kernel_fixture.h"

namespace lamella {

// An LVM that carries out what changes of several commands ask of it, as far as they look at it; after so many of them the process that asks
// is killed.
class LittleLvm {
  public:
    struct Killed {};
    struct Volume {
        std::string id, name, type = "linear", origin, pool, metadata, data;
        std::vector<std::string> tags;
        bool hidden = false;
        bool active = true;
        bool skipped = false;
        bool classic = false;
        std::string range;  // of extents
        std::uint64_t size = 8 * MiB;
        std::string profile, discards = "passdown", when_full = "queue";  // of a pool
        bool monitored = false;
        bool loaded = true;  // the kernel has its settings
    };
    std::vector<Volume> volumes;
    std::vector<std::string> tags;  // of the group
    std::uint64_t sequence_number = 1;
    unsigned until_killed = 1000;
    bool kill_before = false;  // the last command isn't carried out any more
    unsigned until_failure = 1000;
    bool fails_for_good = false;
    bool fails_after_all = false;    // the command that fails is carried out
    bool ids_change_places = false;  // as from 2.03.24 on, where metadata do
    std::function<void(const host::Command&)> before_change;
    std::function<void()> before_report;
    std::vector<std::string> begun;  // the command before which the process was killed
    std::string disk = "/dev/slow";
    std::string device_directory;  // where a volume that is made gets a file; empty: none
    std::uint64_t transaction_id = 0;
    bool monitors = true;
    host::FakeMapper* kernel = nullptr;  // where active pools are devices; none: nothing is

    Result<host::CommandResult> run(const host::Command& command) {
        if (dead_)
            return fail(ErrorKind::failed, "the process is gone");
        if (command.words[1] == "fullreport") {
            if (before_report)
                before_report();
            return host::CommandResult{0, 0, report(), ""};
        }
        if (command.words[1] == "lvmconfig")
            return host::CommandResult{0, 0, "thin_pool_autoextend_threshold=70\nthin_pool_autoextend_percent=20\n", ""};
        if (before_change)
            before_change(command);
        if (until_killed == 0 && kill_before) {
            begun = command.words;
            kill();
        }
        if (until_failure == 0 || until_failure-- == 0) {
            until_failure = fails_for_good ? 0 : 1000;
            if (fails_after_all)
                change(command.words);
            return host::CommandResult{5, 0, "", "  Insufficient free space: 9 extents needed, but only 2 available\n"};
        }
        change(command.words);
        ++sequence_number;
        if (until_killed-- == 0)
            kill();
        return host::CommandResult{};
    }
    // LVM carries out what it was asked for also when nobody waits for it any more.
    void carry_out_begun() {
        change(begun);
        ++sequence_number;
    }
    // Another process.
    void revive() {
        dead_ = false;
        until_killed = 1000;
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
        const unsigned extent = made_++;
        volumes.push_back(
            {.id = LvmId::generate().dashed(), .name = name, .type = type, .range = fmt::format("{}:{}-{}", disk, extent, extent)});
        return volumes.back();
    }

    std::string report() const {
        std::string lv, seg;
        for (const Volume& volume : volumes) {
            const bool pool = volume.type == "thin-pool";
            lv += fmt::format(
                R"({}{{"lv_uuid":"{}","lv_name":"{}","lv_size":"{}","lv_attr":"{}","lv_skip_activation":"{}","lv_role":"{}","lv_tags":"{}","origin":"{}","pool_lv":"{}","data_lv":"{}","metadata_lv":"{}","lv_metadata_size":"{}","lv_profile":"{}","lv_when_full":"{}"}})",
                lv.empty() ? "" : ",", volume.id, volume.hidden ? "[" + volume.name + "]" : volume.name, volume.size,
                volume.active ? "-wi-a-----" : "Vwi---tz-k", volume.skipped ? "1" : "0",
                volume.hidden    ? "private,thin,pool,metadata"
                : volume.classic ? "public,snapshot,thicksnapshot"
                                 : "public",
                fmt::join(volume.tags, ","), volume.origin, volume.pool, volume.data, volume.metadata, pool ? "4194304" : "",
                volume.profile, pool ? volume.when_full : "");
            seg += fmt::format(
                R"({}{{"lv_uuid":"{}","segtype":"{}","seg_start":"0","seg_size":"8388608","discards":"{}","chunk_size":"{}","transaction_id":"{}","seg_pe_ranges":"{}","seg_monitor":"{}"}})",
                seg.empty() ? "" : ",", volume.id, volume.type, pool ? volume.discards : "", pool ? "65536" : "0",
                pool ? fmt::to_string(transaction_id) : "", volume.range,
                !pool              ? ""
                : volume.monitored ? "monitored"
                                   : "not monitored");
        }
        return fmt::format(
            R"({{"report":[{{"vg":[{{"vg_name":"my-vg","vg_uuid":"{}","vg_seqno":"{}","vg_extent_size":"4194304","vg_extent_count":"62","vg_free_count":"30","vg_tags":"{}"}}],"pv":[{{"pv_name":"{}","pv_uuid":"QcLKg5-A609-8m5q-iMXx-764M-LE8W-91kFJu"}}],"lv":[{}],"pvseg":[],"seg":[{}]}}]}})",
            "FTM2AD-Md9x-9Pyd-AcDP-m8QK-xGzn-4hs1m3", sequence_number, fmt::join(tags, ","), disk, lv, seg);
    }

    void add_devices() {
        for (const Volume& volume : volumes)
            if (kernel != nullptr && volume.type == "thin-pool" && volume.active)
                add_device(volume);
    }

  private:
    void add_device(const Volume& pool) {
        host::KernelDevice device;
        device.name = lvm2::dm_name("my-vg", pool.name, "tpool");
        device.uuid = lvm2::dm_uuid(*LvmId::parse("FTM2AD-Md9x-9Pyd-AcDP-m8QK-xGzn-4hs1m3"), *LvmId::parse(pool.id), "tpool");
        device.number = {254, static_cast<std::uint32_t>(kernel->all.size())};
        device.status.push_back(
            {0, 1000, "thin-pool", "0 113/1024 5/1024 - rw no_discard_passdown " + pool.when_full + "_if_no_space - 256"});
        kernel->all.push_back(device);
    }
    // A pool and its parts.
    void make_pool(const std::string& name) {
        for (const char* part : {"_tmeta", "_tdata"})
            make(name + part, "linear").hidden = true;
        Volume& pool = make(name, "thin-pool");
        pool.metadata = name + "_tmeta";
        pool.data = name + "_tdata";
        if (kernel != nullptr)
            add_device(pool);
    }
    // What else the process would do, as its objects go, it doesn't.
    [[noreturn]] void kill() {
        dead_ = true;
        throw Killed();
    }
    void change(const std::vector<std::string>& words) {
        const auto value = [&](const char* option) {
            const auto found = std::ranges::find(words, option);
            return found == words.end() || found + 1 == words.end() ? std::string() : *(found + 1);
        };
        const auto behind_group = [](const std::string& name) { return name.substr(name.find('/') + 1); };
        const auto names_begin = std::ranges::find(words, "--");
        ASSERT_NE(names_begin, words.end());
        const std::string target = behind_group(*(names_begin + 1));
        const auto has = [&](const char* option) { return std::ranges::find(words, option) != words.end(); };
        const auto bytes = [](const std::string& sectors) { return std::stoull(sectors.substr(sectors.starts_with('+') ? 1 : 0)) * 512; };
        if (words[1] == "lvcreate") {
            if (value("--type") == "thin-pool")
                make_pool(value("--name"));
            else
                make(value("--name"), has("--type") ? value("--type") : has("--chunksize") ? "linear" : "thin");
            Volume& made = at(value("--name"));
            made.profile = value("--metadataprofile");
            if (has("--thinpool"))
                made.pool = value("--thinpool");
            for (std::size_t i = 0; i < words.size(); ++i)
                if (words[i] == "--addtag")
                    made.tags.push_back(words[i + 1]);
            if (!device_directory.empty()) {
                const std::string file = device_directory + "/" + lvm2::dm_name("my-vg", made.name);
                std::ofstream(file).close();
                std::filesystem::resize_file(file, 4 * MiB);
            }
            if (has("--snapshot")) {
                made.origin = target;
                made.classic = has("--chunksize");
                made.pool = made.classic ? "" : at(target).pool;
                made.active = made.classic;
                made.skipped = !made.classic;
            }
        } else if (words[1] == "lvchange") {
            for (auto name = names_begin + 1; name != words.end(); ++name) {
                if (const std::string tag = value("--deltag"); !tag.empty()) {
                    EXPECT_EQ(std::erase(at(behind_group(*name)).tags, tag), 1u);
                }
                Volume& volume = at(behind_group(*name));
                if (const std::string tag = value("--addtag"); !tag.empty())
                    volume.tags.push_back(tag);
                for (const auto& [option, setting] : {std::pair("--metadataprofile", &Volume::profile), {"--discards", &Volume::discards}})
                    if (has(option)) {
                        EXPECT_NE(volume.*setting, value(option)) << "LVM fails then";
                        volume.*setting = value(option);
                        volume.loaded = false;
                    }
                if (has("--errorwhenfull")) {
                    volume.when_full = value("--errorwhenfull") == "y" ? "error" : "queue";
                    if (kernel != nullptr)
                        std::erase_if(kernel->all, [](const auto& device) { return device.uuid.ends_with("tpool"); });
                    add_devices();
                }
                if (has("--monitor"))
                    volume.monitored = monitors && value("--monitor") == "y";
                volume.loaded |= has("--refresh");
            }
        } else if (words[1] == "lvrename") {
            at(target).name = behind_group(*(names_begin + 2));
        } else if (words[1] == "lvextend" || words[1] == "lvreduce") {
            at(has("--poolmetadatasize") ? at(target).metadata : target).size =
                bytes(value(has("--size") ? "--size" : "--poolmetadatasize"));
        } else if (words[1] == "vgchange") {
            if (const std::string tag = value("--deltag"); !tag.empty()) {
                EXPECT_EQ(std::erase(tags, tag), 1u);
            }
            if (const std::string tag = value("--addtag"); !tag.empty())
                tags.push_back(tag);
        } else if (words[1] == "lvconvert" && std::ranges::find(words, "--merge") != words.end()) {
            const std::string origin = at(target).origin;
            std::erase_if(volumes, [&](const Volume& volume) { return volume.name == target; });
            for (Volume& volume : volumes)
                if (volume.origin == origin)
                    volume.origin.clear();
        } else if (words[1] == "lvconvert" && std::ranges::find(words, "--swapmetadata") != words.end()) {
            Volume& volume = at(behind_group(value("--poolmetadata")));
            Volume& metadata = at(at(target).metadata);
            EXPECT_THAT(volume.tags, testing::IsEmpty()) << "a hidden volume keeps its tags for ever";
            std::swap(volume.range, metadata.range);
            if (!ids_change_places)
                std::swap(volume.id, metadata.id);
        } else if (words[1] == "lvconvert") {
            // As 2.03.16: the pool is a new volume, and has no profile.
            std::string metadata = behind_group(value("--poolmetadata"));
            if (metadata.empty())
                metadata = make("made", "linear").name;
            for (const auto& [part, name] : {std::pair(metadata, target + "_tmeta"), std::pair(target, target + "_tdata")}) {
                EXPECT_THAT(at(part).tags, testing::IsEmpty()) << "a hidden volume keeps its tags for ever";
                at(part).hidden = true;
                at(part).name = name;
            }
            Volume& pool = make(target, "thin-pool");
            pool.metadata = target + "_tmeta";
            pool.data = target + "_tdata";
            if (has("--errorwhenfull"))
                pool.when_full = value("--errorwhenfull") == "y" ? "error" : "queue";
            if (kernel != nullptr)
                add_device(pool);
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

    bool dead_ = false;
    unsigned made_ = 0;
};

class LittleLvmTest : public testing::Test {
  protected:
    LittleLvmTest() {
        folder = testing::TempDir() + "lamella-broken-XXXXXX";
        EXPECT_NE(::mkdtemp(folder.data()), nullptr);
    }
    ~LittleLvmTest() override { std::filesystem::remove_all(folder); }

    std::unique_ptr<KernelGroup> open(LittleLvm& lvm) {
        auto runner = std::make_unique<host::FakeRunner>();
        runner->answer = [&lvm](const host::Command& command) { return lvm.run(command); };
        auto fake_mapper = std::make_unique<host::FakeMapper>();
        mapper = fake_mapper.get();
        if (pools_are_active) {
            lvm.kernel = mapper;
            lvm.add_devices();
        }
        KernelHost host{std::move(runner), std::move(fake_mapper), "/usr/sbin/lvm", folder, &clock};
        host.device_directory = folder;
        host.profile_directory = folder + "/profile";
        host.process_directory = folder + "/processes";
        return test::value_of(KernelGroup::open("my-vg", std::move(host)));
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
        lvm.revive();
        return killed;
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
    bool pools_are_active = false;
    host::FakeMapper* mapper = nullptr;  // of the group opened last
};

}  // namespace lamella
