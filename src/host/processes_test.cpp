// SPDX-License-Identifier: Apache-2.0
#include "host/processes.h"

#include <unistd.h>
#include <algorithm>
#include <fstream>

#include <gtest/gtest.h>

namespace lamella::host {
namespace {

using namespace std::string_literals;

class Processes : public testing::Test {
  protected:
    Processes() {
        std::string path = testing::TempDir() + "lamella-processes-XXXXXX";
        EXPECT_NE(::mkdtemp(path.data()), nullptr);
        folder = path;
    }
    ~Processes() override { std::filesystem::remove_all(folder); }

    std::filesystem::path add(const std::string& id, const std::string& command_line) {
        const std::filesystem::path process = folder / id;
        std::filesystem::create_directory(process);
        std::ofstream(process / "cmdline", std::ios::binary) << command_line;
        return process;
    }
    std::filesystem::path folder;
};

TEST_F(Processes, FindsLvmAtWorkOnAGroup) {
    add("self", "/usr/sbin/lvm\0lvcreate\0--\0vg0\0"s);
    add("1", "");
    add("2", "/usr/sbin/lvm\0lvs\0--\0vg0\0"s);
    add("3", "lvcreate\0vg0\0"s);
    add("4", "/usr/sbin/lvm\0lvcreate\0--\0vg00\0"s);
    add("5", "/usr/sbin/lvm\0lvpoll\0vg0/web\0"s);
    add("6", "(lvm2copyd)\0lvconvert\0vg0/web\0"s);
    add("7", "/usr/sbin/lvm\0vg0"s);
    std::filesystem::create_directory(folder / "8");  // one that vanished
    EXPECT_EQ(lvm_at_work(folder, "vg0"), std::nullopt);
    for (const std::string& line : {"/usr/sbin/lvm\0lvcreate\0--name\0web\0--\0vg0\0"s, "/usr/sbin/lvm\0lvconvert\0--merge\0--\0vg0/web"s,
                                    "/sbin/lvm\0lvremove\0--select\0"s + std::string(100'000, 'x') + "\0--\0vg0\0"s}) {
        const auto process = add("99", line);
        EXPECT_EQ(lvm_at_work(folder, "vg0"), "99");
        EXPECT_EQ(lvm_at_work(folder, "vg"), std::nullopt);
        if (::geteuid() == 0) {
            ASSERT_EQ(::chown(process.c_str(), 65534, 65534), 0);
            EXPECT_EQ(lvm_at_work(folder, "vg0"), std::nullopt) << "somebody else's keeps nobody from anything";
        }
        std::filesystem::remove_all(process);
    }
    EXPECT_EQ(lvm_at_work(folder / "absent", "vg0"), std::nullopt);
}

TEST_F(Processes, FindsARunningProgram) {
    std::ofstream(add("7", "/usr/sbin/lvmlockd\0-D\0"s) / "comm") << "lvmlockctl\n";
    add("8", "lvmlockd\0"s);  // one that vanished
    EXPECT_FALSE(is_running(folder, "lvmlockd"));
    std::ofstream(add("9", "") / "comm") << "lvmlockd\n";
    EXPECT_TRUE(is_running(folder, "lvmlockd"));
    EXPECT_FALSE(is_running(folder / "absent", "lvmlockd"));
}

TEST(AllProcesses, AreThere) {
    const auto all = processes(all_processes);
    EXPECT_NE(std::ranges::find(all, std::filesystem::path(all_processes) / std::to_string(::getpid())), all.end());
    EXPECT_EQ(lvm_at_work(all_processes, "lamella-no-such-group"), std::nullopt);
}

}  // namespace
}  // namespace lamella::host
