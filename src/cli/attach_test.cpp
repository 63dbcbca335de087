// SPDX-License-Identifier: Apache-2.0
//
// attach and detach for real: a group in an image file, a background process, a file that FUSE shows.
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "cli/attachment.h"
#include "cli/program.h"
#include "volumes/json.h"

namespace lamella::cli {
namespace {

class Attach : public testing::Test {
  protected:
    void SetUp() override {
        if (::access("/dev/fuse", R_OK | W_OK) != 0)
            GTEST_SKIP() << "no /dev/fuse here";
        char name[] = "/tmp/lamella-attach-XXXXXX";
        folder = ::mkdtemp(name);
        ::setenv("LAMELLA_RUNTIME_DIR", (folder + "/run").c_str(), 1);
        ::setenv("LAMELLA_STATE_DIR", (folder + "/state").c_str(), 1);
        volume = folder + "/vms.img:web";
        environment = system_environment();
        environment.out = [this](std::string_view text) { out += text; };
        environment.err = [this](std::string_view text) { err += text; };
        environment.ask = nullptr;
        ASSERT_EQ(run({"init", folder + "/vms.img", "--size", "256M"}), 0) << err;
        ASSERT_EQ(run({"create", volume, "--size", "64M"}), 0) << err;
    }
    void TearDown() override {
        if (folder.empty())
            return;
        run({"detach", volume});
        std::error_code error;
        std::filesystem::remove_all(folder, error);
        ::unsetenv("LAMELLA_RUNTIME_DIR");
        ::unsetenv("LAMELLA_STATE_DIR");
    }

    int run(const std::vector<std::string>& words) {
        out.clear();
        err.clear();
        return static_cast<int>(run_program(words, environment));
    }
    Json attach() {
        EXPECT_EQ(run({"attach", volume, "--file", "--json"}), 0) << err;
        return parse_json(out).value_or(Json());
    }

    std::string folder, volume, out, err;
    Environment environment;
};

TEST_F(Attach, WhatIsWrittenStays) {
    std::string path = attach()["file"];
    EXPECT_EQ(path, folder + "/run/mnt/vms/web/web");
    EXPECT_EQ(std::filesystem::file_size(path), 64u << 20);
    EXPECT_EQ(attach()["file"], path);  // once more is the same
    EXPECT_EQ(run({"attach", volume, "--file", "--read-only"}), 4);
    EXPECT_EQ(mount_state(folder + "/run/mnt/vms/web"), MountState::live);  // what was refused undoes nothing
    int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    EXPECT_EQ(::pwrite(fd, "content", 7, 1'000'001), 7);
    EXPECT_EQ(run({"detach", volume}), 4);  // open here
    EXPECT_EQ(run({"snapshot", volume}), 0) << err;
    EXPECT_EQ(run({"remove", volume, "--yes"}), 4);
    ::close(fd);
    EXPECT_EQ(run({"detach", volume, "--dry-run"}), 0) << err;
    EXPECT_EQ(run({"detach", volume, "--json"}), 0) << err;
    EXPECT_EQ(parse_json(out)->at("stopped_serving"), true);
    EXPECT_EQ(mount_state(folder + "/run/mnt/vms/web"), MountState::none);
    EXPECT_EQ(run({"detach", volume}), 3);

    ASSERT_EQ(run({"attach", folder + "/vms.img:web-s1", "--file", "--read-only"}), 0) << err;
    fd = ::open((folder + "/run/mnt/vms/web-s1/web-s1").c_str(), O_RDONLY | O_CLOEXEC);
    char bytes[8] = {};
    EXPECT_EQ(::pread(fd, bytes, 7, 1'000'001), 7);
    EXPECT_STREQ(bytes, "content");
    ::close(fd);
    EXPECT_EQ(run({"detach", folder + "/vms.img:web-s1"}), 0) << err;
}

TEST_F(Attach, ABlockDeviceGrowsWithItsVolume) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root";
    ASSERT_EQ(run({"attach", volume, "--json"}), 0) << err;
    const Json device = parse_json(out).value_or(Json()).at("device");
    if (!device.is_string())
        GTEST_SKIP() << "no block devices here";
    const auto size = [&] {
        const int fd = ::open(device.get<std::string>().c_str(), O_RDONLY | O_CLOEXEC);
        const off_t end = ::lseek(fd, 0, SEEK_END);
        ::close(fd);
        return end;
    };
    EXPECT_EQ(size(), 64 << 20);
    EXPECT_EQ(run({"resize", volume, "--size", "+16M", "--dry-run"}), 0) << err;
    EXPECT_EQ(size(), 64 << 20);
    EXPECT_EQ(run({"resize", volume, "--size", "+16M"}), 0) << err;
    EXPECT_EQ(size(), 80 << 20);
    EXPECT_EQ(run({"extend", volume, "--size", "96M"}), 0) << err;
    EXPECT_EQ(err, "");
    EXPECT_EQ(size(), 96 << 20);
    EXPECT_EQ(run({"detach", volume}), 0) << err;
}

TEST_F(Attach, AfterTheServingProcessWasKilled) {
    for (bool attach_again : {true, false}) {
        int process = attach()["process"];
        ASSERT_EQ(::kill(process, SIGKILL), 0);
        wait_for_end_of(process);
        EXPECT_EQ(mount_state(folder + "/run/mnt/vms/web"), MountState::dead);
        if (attach_again) {
            EXPECT_NE(attach()["process"], process);
        }
        EXPECT_EQ(run({"detach", volume}), 0) << err;
        EXPECT_EQ(mount_state(folder + "/run/mnt/vms/web"), MountState::none);
    }
    EXPECT_EQ(run({"list", folder + "/vms.img"}), 0) << err;
}

}  // namespace
}  // namespace lamella::cli
