// SPDX-License-Identifier: Apache-2.0
//
// The kernel engine on an LVM and a kernel that exist in memory only. The report is a real one (src/host/lvm_report_test.cpp tells of
// what).
#pragma once

#include <cstdlib>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>

#include "base/test_support.h"
#include "base/uuid.h"
#include "host/fake_host.h"
#include "lvm2/group.h"
#include "volumes/kernel_group.h"

namespace lamella {

inline constexpr std::uint64_t MiB = 1 << 20;

class Kernel : public testing::Test {
  protected:
    void SetUp() override {
        std::ifstream stream(HOST_TESTDATA "/group.json");
        std::ostringstream text;
        text << stream.rdbuf();
        report = text.str();
        const host::LvmGroup group = test::value_of(host::parse_lvm_report(report)).groups.at(0);
        group_id = *LvmId::parse(group.id);
        for (const host::LvmVolume& volume : group.volumes)
            ids[volume.name] = *LvmId::parse(volume.id);
        folder = testing::TempDir() + "lamella-kernel-XXXXXX";
        ASSERT_NE(::mkdtemp(folder.data()), nullptr);
        add("pool", "tpool", "thin-pool", "4 113/1024 5/1024 - rw no_discard_passdown queue_if_no_space - 256");
        add("web", "", "thin", "640 639");
        add("boot", "", "snapshot-origin", "");
        add("boot-s", "", "snapshot", "16/57344 16");
        add("str", "", "snapshot-origin", "");
        add("str-s", "", "snapshot", "Invalid");
    }
    void TearDown() override { std::filesystem::remove_all(folder); }

    void add(const std::string& volume, const char* layer, const char* type, const char* parameters) {
        host::KernelDevice device;
        device.name = lvm2::dm_name("my-vg", volume, layer);
        device.uuid = lvm2::dm_uuid(group_id, ids.at(volume), layer);
        device.number = {254, static_cast<std::uint32_t>(devices.size())};
        device.status.push_back({0, 1000, type, parameters});
        devices.push_back(device);
    }
    host::KernelDevice& device(const char* name) { return *std::ranges::find(devices, name, &host::KernelDevice::name); }

    void add_snapshots(unsigned count);
    // Changes a word of the report.
    void edit(const std::string& from, const std::string& to, std::size_t begin = 0) {
        const std::size_t at = report.find(from, begin);
        ASSERT_NE(at, std::string::npos) << from;
        report.replace(at, from.size(), to);
    }
    // Within the row of a volume.
    void edit_volume(const std::string& name, const std::string& from, const std::string& to) {
        edit(from, to, report.find("\"lv_uuid\": \"" + ids.at(name).dashed()));
    }

    Result<std::unique_ptr<KernelGroup>> try_open() {
        auto fake_runner = std::make_unique<host::FakeRunner>();
        auto fake_mapper = std::make_unique<host::FakeMapper>();
        runner = fake_runner.get();
        mapper = fake_mapper.get();
        mapper->all = devices;
        mapper->refuse = refuse_mapper;
        mapper->refuse_messages = refuse_messages;
        runner->answer = [this](const host::Command& command) -> Result<host::CommandResult> {
            if (command.words[0] == "/usr/sbin/lvmlockctl")
                return host::CommandResult{lvmlockd ? 0 : 255, 0, lvmlockd.value_or(""), ""};
            if (command.words[0] == "/usr/sbin/sanlock")
                return host::CommandResult{leases.empty() ? 1 : 0, 0, leases, ""};
            if (command.words[1] == "fullreport") {
                clock.advance(report_takes);
                return host::CommandResult{0, 0, report, ""};
            }
            if (command.words[1] == "lvmconfig")
                return host::CommandResult{0, 0, "locking_dir=\"/run/lock/lvm\"\n", ""};
            return on_change ? on_change(command) : host::CommandResult{};
        };
        KernelHost host{std::move(fake_runner), std::move(fake_mapper), "/usr/sbin/lvm", folder, &clock};
        host.process_directory = folder + "/processes";
        host.kernel_directory = folder + "/kernel";
        return KernelGroup::open("my-vg", std::move(host));
    }
    // By sanlock; this host, whose locks are started, holds none. `hold`: a volume's lock is this host's.
    void share() {
        edit("\"vg_lock_type\": \"\"", "\"vg_lock_type\": \"sanlock\", \"vg_lock_args\": \"1.0.0:lvmlock\"");
        lvmlockd = fmt::format("\nVG my-vg lock_type=sanlock {}\nLS sanlock lvm_my-vg\nLK VG un ver 8\n", group_id.dashed());
    }
    // By dlm, among the nodes 1, which is this host, to the last.
    void share_by_dlm(unsigned last) {
        edit("\"vg_lock_type\": \"\"", "\"vg_lock_type\": \"dlm\", \"vg_lock_args\": \"1.0.0:two\"");
        lvmlockd = fmt::format("\nVG my-vg lock_type=dlm {}\nLS dlm lvm_my-vg\nLK VG un ver 8\n", group_id.dashed());
        const std::string cluster = "config/dlm/cluster";
        for (unsigned node = 1; node <= last; ++node) {
            add_kernel_file(fmt::format("{}/spaces/lvm_my-vg/nodes/{}/nodeid", cluster, node), fmt::format("{}\n", node));
            add_kernel_file(fmt::format("{}/comms/{}/nodeid", cluster, node), fmt::format("{}\n", node));
            add_kernel_file(fmt::format("{}/comms/{}/local", cluster, node), node == 1 ? "1\n" : "0\n");
            add_kernel_file(fmt::format("{}/comms/{}/addr_list", cluster, node), fmt::format("AF_INET\t10.0.0.{}\n", node));
        }
    }
    void add_kernel_file(const std::string& name, const std::string& text) const {
        const std::filesystem::path path = std::filesystem::path(folder) / "kernel" / name;
        std::filesystem::create_directories(path.parent_path());
        std::ofstream(path) << text;
    }
    // One that this host has.
    void add_process(const std::string& name) const {
        const std::filesystem::path process = std::filesystem::path(folder) / "processes/7";
        std::filesystem::create_directories(process);
        std::ofstream(process / "comm") << name << '\n';
    }
    void hold(const std::string& volume) { *lvmlockd += fmt::format("LK LV ex {}\n", ids.at(volume).dashed()); }
    // The group lives as long as the test: what it was asked is looked at afterwards.
    KernelGroup* open() { return opened.emplace_back(test::value_of(try_open())).get(); }

    std::vector<std::string> changes() const {
        std::vector<std::string> lines;
        for (std::size_t i = 0; i < runner->commands.size(); ++i)
            if (runner->commands[i].changes)
                lines.push_back(runner->line(i));
        return lines;
    }
    std::size_t reports() const { return runner->commands.size() - changes().size(); }
    template <typename T>
    static void expect_error(const Result<T>& result, ErrorKind kind, const char* text) {
        ASSERT_FALSE(result) << text;
        EXPECT_EQ(result.error().kind(), kind) << result.error().message();
        EXPECT_THAT(result.error().message(), testing::HasSubstr(text));
    }
    std::string mark() const { return folder + "/metadata-snapshot-" + ids.at("pool").dashed(); }

    std::string report;
    LvmId group_id;
    std::map<std::string, LvmId> ids;
    std::string folder;
    std::vector<host::KernelDevice> devices;
    std::optional<Error> refuse_mapper, refuse_messages;
    std::optional<std::string> lvmlockd;  // what lvmlockctl prints; none: the daemon doesn't run
    std::string leases;                   // what sanlock prints of the group's; empty: nothing
    std::function<Result<host::CommandResult>(const host::Command&)> on_change;
    ManualClock clock;
    Duration report_takes{};
    std::vector<std::unique_ptr<KernelGroup>> opened;
    host::FakeRunner* runner = nullptr;  // of the group opened last
    host::FakeMapper* mapper = nullptr;
};

}  // namespace lamella
