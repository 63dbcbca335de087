// SPDX-License-Identifier: Apache-2.0
//
// Each command that the doctor prints, of each kind of finding, on both engines: taken apart as a shell does, and parsed by the real
// command line. tests/kernel/77-doctor-and-backup.sh carries them out.
#include <fstream>
#include <functional>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <CLI/CLI.hpp>

#include "cli/program.h"
#include "manage/sound_group.h"

namespace lamella::cli {
namespace {

using manage::gib;
using manage::mib;

std::vector<std::string> words_of(const std::string& command) {
    std::vector<std::string> words(1);
    bool quoted = false;
    for (std::size_t i = 0; i < command.size(); ++i) {
        if (command[i] == '\'')
            quoted = !quoted;
        else if (command[i] == '\\' && !quoted)
            words.back() += command[++i];
        else if (command[i] == ' ' && !quoted)
            words.emplace_back();
        else
            words.back() += command[i];
    }
    EXPECT_FALSE(quoted) << command;
    return words;
}

// The kinds of the table in docs/doctor.md.
std::set<std::string> documented() {
    std::ifstream file(DOCTOR_PAGE);
    std::set<std::string> kinds;
    for (std::string line; std::getline(file, line);) {
        if (!line.starts_with("| `"))
            continue;
        std::istringstream cell(line.substr(0, line.find('|', 1)));
        for (std::string word; std::getline(cell, word, '`');)
            if (std::getline(cell, word, '`'))
                kinds.insert(word);
    }
    return kinds;
}

manage::Examination sound(bool by_host) {
    manage::Examination seen = manage::sound_group();
    if (by_host)
        seen.address.name = "vg0";
    else
        seen.address.paths = {"./my disk.img"};
    seen.group.name = "vg0";
    seen.group.physical_volumes = {{.name = "pv0", .id = "abc", .device = "/dev/sda"}};
    if (by_host) {
        for (VolumeInfo& volume : seen.volumes)
            volume.active = true;
        seen.volumes[0].monitored = true;
        seen.extension.emplace("pool", AutomaticExtension{80, 20});
    }
    return seen;
}

enum At { pool_at, web_at, spare_at, thick_at, snap_at };
using Wrong = std::function<void(manage::Examination&)>;

std::vector<Wrong> all_that_can_be_wrong() {
    using Seen = manage::Examination;
    const auto pool = [](auto change) { return [change](Seen& seen) { change(seen.volumes[pool_at]); }; };
    const auto snap = [](const char* state) { return [state](Seen& seen) { seen.volumes[snap_at].snapshot_state = state; }; };
    const auto checked = [](const char* grade, bool needs_check) {
        return [grade, needs_check](Seen& seen) {
            seen.volumes[pool_at].needs_check = needs_check;
            seen.contents["pool"].check = PoolCheck{.grade = grade, .findings = {"a node"}, .finding_count = 1};
        };
    };
    return {
        [](Seen& seen) { seen.group.findings = {"odd"}; },
        [](Seen& seen) { seen.group.findings = {"the group is exported: vgimport makes it usable"}; },
        [](Seen& seen) { seen.group.physical_volumes[0].missing = true; },
        [](Seen& seen) { seen.group.physical_volumes[0].duplicate = true; },
        [](Seen& seen) { seen.group.physical_volumes[0].device_hint = "/dev/sdq"; },
        [](Seen& seen) { seen.unreadable["pool"] = "superblock"; },
        [](Seen& seen) {
            seen.unreadable["pool"] = "superblock";
            seen.group.free = 4 * mib;
        },
        checked("clean", true),
        checked("leak", true),
        checked("leak", false),
        checked("needs-repair", true),
        checked("data-at-risk", false),
        pool([](VolumeInfo& one) { one.needs_check = true; }),
        pool([](VolumeInfo& one) { one.pool_mode = "Fail"; }),
        pool([](VolumeInfo& one) { one.pool_mode = "ro"; }),
        pool([](VolumeInfo& one) {
            one.pool_mode = "ro";
            one.metadata_used = one.metadata_size;
        }),
        pool([](VolumeInfo& one) {
            one.pool_mode = "out_of_data_space";
            one.data_used = one.size;
        }),
        pool([](VolumeInfo& one) { one.data_used = one.size / 100 * 99; }),
        pool([](VolumeInfo& one) { one.metadata_used = *one.metadata_size / 100 * 99; }),
        [](Seen& seen) {
            seen.volumes[pool_at].size = 160 * gib;
            seen.group.free = 200 * gib;
        },
        [](Seen& seen) { seen.contents["pool"].transaction_id = 2; },
        [](Seen& seen) { seen.contents["pool"] = {.transaction_id = 2, .changing = true, .device_ids = {}}; },
        pool([](VolumeInfo& one) { one.pool_mode.clear(); }),
        [](Seen& seen) { seen.contents["pool"].device_ids = {}; },
        [](Seen& seen) {
            seen.contents["pool"].device_ids = {1, 7};
        },
        [](Seen& seen) {
            seen.contents["pool"] = {.transaction_id = 5, .device_ids = {1, 7}};
        },
        [](Seen& seen) {
            seen.volumes.erase(seen.volumes.begin() + web_at);
            seen.volumes[pool_at].transaction_id = 0;
        },
        snap("Invalid"),
        snap("Overflow"),
        snap("Merge failed"),
        snap("merging"),
        [](Seen& seen) { seen.volumes[snap_at].store_used = 700 * mib; },
        [](Seen& seen) { seen.volumes[snap_at].store_used = 800 * mib; },
        [](Seen& seen) { seen.volumes[spare_at].size = 4 * mib; },
        [](Seen& seen) { seen.volumes.erase(seen.volumes.begin() + spare_at); },
        [](Seen& seen) { seen.volumes[web_at].size = 20 * gib; },
        [](Seen& seen) { seen.group.free = 0; },
        pool([](VolumeInfo& one) { one.discards = "ignore"; }),
        pool([](VolumeInfo& one) { one.effective_discards = "nopassdown"; }),
        pool([](VolumeInfo& one) { one.monitored = false; }),
        pool([](VolumeInfo& one) { one.monitored.reset(); }),
        [](Seen& seen) {
            seen.extension.insert_or_assign("pool", AutomaticExtension{100, 20});
        },
        [](Seen& seen) {
            seen.volumes[pool_at].profile = "none";
            seen.extension.insert_or_assign("pool", AutomaticExtension{100, 20});
        },
        [](Seen& seen) { seen.extension.insert_or_assign("pool", fail(ErrorKind::failed, "no such file")); },
        [](Seen& seen) {
            seen.group.broken_off = {{"web", "lamella.unfinished=set.2.x"}};
        },
        [](Seen& seen) {
            seen.group.broken_off = {{"", "lamella.unfinished=pool.a.b"}};
        },
        [](Seen& seen) {
            seen.group.broken_off = {{"pool", "lamella.unfinished=removal"}};
        },
        [](Seen& seen) {
            seen.group.broken_off = {{"pool", ""}};
        },
    };
}

// What it comes to on the host's LVM: nothing that is refused there, and nothing that writes to the metadata of a pool in use.
void expect_possible(const std::vector<std::string>& words, bool idle) {
    static const std::set<std::string> never{"trim", "shrink", "serve", "attach", "unpack"};
    EXPECT_FALSE(never.contains(words[1]));
    if (words[1] == "message") {
        EXPECT_EQ(words[3], "delete");
    }
    const auto has = [&](const char* word) { return std::ranges::find(words, word) != words.end(); };
    if (words[1] == "repair" || words[1] == "restore" || words[1] == "pack" || has("--auto-repair")) {
        EXPECT_TRUE(idle) << "the pool has to be inactive";
    }
    for (const std::string& word : words)
        EXPECT_FALSE(word.starts_with("vg0:")) << word;
}

TEST(DoctorsCommands, CanBeRun) {
    static const std::set<std::string> others{"lvchange", "lvconvert", "vgchange", "vgimport", "lvs", "pvs", "ls", "truncate"};
    std::set<std::string> kinds;
    for (bool by_host : {false, true})
        for (bool other : {false, true})  // served, or without room in the group
            for (const Wrong& wrong : all_that_can_be_wrong()) {
                manage::Examination seen = sound(by_host);
                seen.group.served = other && !by_host;
                wrong(seen);
                if (other && by_host)
                    seen.group.free = 0;
                for (const manage::Finding& finding : manage::diagnose(seen)) {
                    kinds.insert(finding.kind);
                    bool idle = !by_host && !seen.group.served;
                    for (const std::string& command : finding.commands) {
                        SCOPED_TRACE(fmt::format("{}: {}", finding.kind, command));
                        const std::vector<std::string> words = words_of(command);
                        if (words[0] == "#" || (words.size() > 2 && words[1] == "deactivate" && words.back() == "--with-contents")) {
                            idle = true;
                            continue;
                        }
                        if (words[0] != "lamella") {
                            EXPECT_TRUE(others.contains(words[0]));
                            continue;
                        }
                        // New metadata of the host's pools are written beside the old.
                        if (other && by_host) {
                            EXPECT_EQ(std::ranges::find(words, "--auto-repair"), words.end());
                            EXPECT_FALSE(words[1] == "repair" && std::ranges::find(words, "--output") != words.end());
                        }
                        Program program;
                        EXPECT_NO_THROW(program.app->parse(std::vector<std::string>(words.rbegin(), words.rend() - 1)));
                        if (by_host)
                            expect_possible(words, idle);
                    }
                }
            }
    EXPECT_EQ(kinds, documented());
}

}  // namespace
}  // namespace lamella::cli
