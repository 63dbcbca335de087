// SPDX-License-Identifier: Apache-2.0
//
// lamella dm's verbs against a device mapper in this process, through its control socket.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/dm_output.h"
#include "cli/dm_service.h"
#include "cli/program.h"

namespace lamella::cli {
namespace {

using testing::HasSubstr;

class DeviceMapper : public testing::Test {
  protected:
    DeviceMapper() {
        environment.out = [this](std::string_view text) { out += text; };
        environment.err = [this](std::string_view text) { err += text; };
        environment.flush = [] {};
    }
    void SetUp() override {
        std::string name = "/tmp/lamella-dm-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder = name;
        for (const char* image : {"a.img", "b.img"}) {
            std::ofstream(path(image)) << "";
            std::filesystem::resize_file(path(image), 4 << 20);
        }
    }
    void TearDown() override {
        service.reset();
        std::filesystem::remove_all(folder);
    }

    void start(std::vector<std::string> files = {}) {
        auto started = MapperService::start({.socket = path("dm.sock"), .threads = 1, .nbd = {}, .table_files = std::move(files)});
        ASSERT_TRUE(started) << started.error().message();
        service = *std::move(started);
    }
    ExitCode dm(std::vector<std::string> words) {
        words.insert(words.begin(), "dm");
        words.insert(words.begin() + 2, {"--socket", path("dm.sock")});
        out.clear();
        err.clear();
        return run_program(words, environment);
    }
    std::string printed(const std::vector<std::string>& words) {
        EXPECT_EQ(dm(words), ExitCode::done) << err;
        return out;
    }
    std::string path(const std::string& name) const { return folder + "/" + name; }
    std::string linear(const std::string& image, int sectors = 1024, int start = 0) const {
        return fmt::format("0 {} linear {} {}", sectors, path(image), start);
    }

    std::string folder;
    Environment environment;
    std::string out, err;
    std::unique_ptr<MapperService> service;
};

TEST_F(DeviceMapper, MakesShowsAndRemovesDevices) {
    start();
    EXPECT_EQ(printed({"ls"}), "No devices found\n");
    EXPECT_EQ(printed({"create", "disk", "--table", linear("a.img")}), "");
    EXPECT_EQ(printed({"create", "upper", "--uuid", "U1", "--readonly", "--table", "0 512 linear disk 8"}), "");
    EXPECT_EQ(printed({"ls"}), "disk\t(253:0)\nupper\t(253:1)\n");
    EXPECT_EQ(printed({"table", "upper"}), "0 512 linear 253:0 8\n");
    EXPECT_EQ(printed({"table", "U1"}), "0 512 linear 253:0 8\n");
    EXPECT_EQ(printed({"table"}), fmt::format("disk: 0 1024 linear {} 0\nupper: 0 512 linear 253:0 8\n", path("a.img")));
    EXPECT_EQ(printed({"status"}), "disk: 0 1024 linear \nupper: 0 512 linear \n");
    EXPECT_EQ(printed({"info", "upper"}),
              "Name:              upper\nState:             ACTIVE (READ-ONLY)\nTables present:    LIVE\nOpen count:        0\n"
              "Event number:      0\nMajor, minor:      253, 1\nNumber of targets: 1\nUUID: U1\n\n");
    EXPECT_EQ(printed({"info", "-c", "--noheadings", "-o", "name,open,attr"}), "disk:1:L--w\nupper:0:L--r\n");
    EXPECT_EQ(printed({"deps", "upper"}), "1 dependencies\t: (253, 0)\n");
    EXPECT_EQ(printed({"ls", "--tree"}), fmt::format("upper (253:1)\n └─disk (253:0)\n    └─ ({})\n", path("a.img")));
    EXPECT_EQ(printed({"ls", "--tree", "-o", "inverted,nodevice,ascii"}), "\n `-disk\n    `-upper\n");
    EXPECT_THAT(printed({"targets"}), HasSubstr("thin-pool        v1.22.0\n"));
    EXPECT_EQ(dm({"remove", "disk"}), ExitCode::refused);
    EXPECT_THAT(err, HasSubstr("device disk: in use, open count 1"));
    EXPECT_EQ(dm({"create", "disk", "--notable"}), ExitCode::refused);
    EXPECT_EQ(dm({"info", "nothing"}), ExitCode::not_found);
    EXPECT_EQ(dm({"create", "bad", "--table", "0 8 linear"}), ExitCode::usage);
    EXPECT_EQ(dm({"info", "bad"}), ExitCode::not_found);  // it isn't left behind
    EXPECT_EQ(printed({"remove_all"}), "");
    EXPECT_EQ(printed({"ls"}), "No devices found\n");
}

TEST_F(DeviceMapper, ChangesDevices) {
    start();
    EXPECT_EQ(dm({"create", "disk", "--table", linear("a.img")}), ExitCode::done);
    EXPECT_EQ(dm({"suspend", "disk", "--noflush"}), ExitCode::done);
    EXPECT_THAT(printed({"info", "disk"}), HasSubstr("SUSPENDED\n"));
    std::ofstream(path("table")) << "# longer\n0 1024 linear " << path("a.img") << " 0\n1024 8 zero\n";
    EXPECT_EQ(dm({"load", "disk", path("table")}), ExitCode::done);
    EXPECT_THAT(printed({"info", "disk"}), HasSubstr("LIVE & INACTIVE\n"));
    EXPECT_EQ(printed({"table", "--inactive", "--target", "zero", "disk"}), "1024 8 zero \n");
    EXPECT_EQ(dm({"resume", "disk"}), ExitCode::done);
    EXPECT_EQ(printed({"info", "-c", "--noheadings", "-o", "segments", "disk"}), "2\n");
    EXPECT_EQ(dm({"load", "disk", "--table", "0 8 zero"}), ExitCode::done);
    EXPECT_EQ(dm({"clear", "disk"}), ExitCode::done);
    EXPECT_EQ(printed({"table", "--inactive", "disk"}), "\n");
    EXPECT_EQ(dm({"rename", "disk", "other"}), ExitCode::done);
    EXPECT_EQ(dm({"rename", "other", "--setuuid", "U"}), ExitCode::done);
    EXPECT_EQ(dm({"rename", "other"}), ExitCode::usage);
    EXPECT_EQ(dm({"message", "other", "0", "hello"}), ExitCode::refused);
    EXPECT_EQ(dm({"message", "other", "x", "hello"}), ExitCode::usage);
    EXPECT_EQ(dm({"wait", "other", "5"}), ExitCode::done);  // its number isn't 5
    EXPECT_EQ(dm({"wait", "other", "x"}), ExitCode::usage);
    const Json json = Json::parse(printed({"info", "--json"}));
    EXPECT_EQ(json["devices"][0]["uuid"], "U");
    // What others use gets a table of errors.
    EXPECT_EQ(dm({"create", "above", "--table", "0 8 linear other 0"}), ExitCode::done);
    EXPECT_EQ(dm({"remove", "--force", "other"}), ExitCode::refused);
    EXPECT_EQ(printed({"table", "other"}), "0 1032 error \n");
    EXPECT_EQ(dm({"remove", "--deferred", "other"}), ExitCode::done);
    EXPECT_THAT(printed({"info", "other"}), HasSubstr("ACTIVE (DEFERRED REMOVE)\n"));
    EXPECT_EQ(dm({"remove", "above"}), ExitCode::done);
    EXPECT_EQ(printed({"ls"}), "No devices found\n");
}

TEST_F(DeviceMapper, WaitsForEvents) {
    start();
    ASSERT_EQ(dm({"create", "disk", "--uuid", "U", "--table", linear("a.img")}), ExitCode::done);
    // The server takes requests in the order in which they come: this one waits before the next is read.
    const auto start_waiting = [&](const std::string& name, int event) {
        const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        std::strcpy(address.sun_path, path("dm.sock").c_str());
        EXPECT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        const std::string line = Json{{"version", 1}, {"method", "wait"}, {"params", {{"name", name}, {"event", event}}}}.dump() + "\n";
        EXPECT_EQ(::send(socket, line.data(), line.size(), 0), static_cast<ssize_t>(line.size()));
        return socket;
    };
    const auto answer = [](int socket) {
        std::string line;
        for (char c; ::recv(socket, &c, 1, 0) == 1 && c != '\n';)
            line += c;
        ::close(socket);
        return line;
    };
    const int first = start_waiting("disk", 0);
    const int second = start_waiting("U", 0);
    EXPECT_EQ(dm({"suspend", "disk"}), ExitCode::done);  // no event
    EXPECT_EQ(dm({"resume", "disk"}), ExitCode::done);
    for (const int socket : {first, second}) {
        char none;
        EXPECT_LT(::recv(socket, &none, 1, MSG_DONTWAIT), 0);
    }
    EXPECT_EQ(dm({"rename", "disk", "other"}), ExitCode::done);
    EXPECT_EQ(answer(first), R"({"version":1,"result":{"event_number":1}})");
    EXPECT_EQ(answer(second), R"({"version":1,"result":{"event_number":1}})");
    EXPECT_EQ(Json::parse(printed({"wait", "other", "--json"}))["event_number"], 1) << "without a number: from 0";

    std::atomic<bool> returned = false;
    std::thread waiting([&] {
        Environment own;
        own.out = own.err = [](std::string_view) {};
        own.flush = [] {};
        EXPECT_EQ(run_program({"dm", "wait", "--socket", path("dm.sock"), "U", "1"}, own), ExitCode::done);
        returned = true;
    });
    for (bool there = true; !returned; there = !there)
        EXPECT_EQ(dm({"rename", "U", there ? "there" : "back"}), ExitCode::done);
    waiting.join();

    const std::string event = printed({"info", "U", "-c", "--noheadings", "-o", "events"});
    const int last = start_waiting("U", std::stoi(event));
    EXPECT_EQ(dm({"remove", "U"}), ExitCode::done);
    EXPECT_EQ(Json::parse(answer(last))["result"]["event_number"], std::stoi(event) + 1);
    EXPECT_EQ(dm({"wait", "U"}), ExitCode::not_found);
    // One that goes on waiting doesn't keep the service from ending.
    ASSERT_EQ(dm({"create", "disk", "--notable"}), ExitCode::done);
    const int never = start_waiting("disk", 0);
    EXPECT_EQ(printed({"ls"}), "disk\t(253:0)\n");
    service.reset();
    EXPECT_EQ(answer(never), "");
}

TEST_F(DeviceMapper, BeginsWithTableFiles) {
    std::ofstream(path("one.table")) << linear("a.img") << "\n";
    // In any order: one stands on what comes later.
    std::ofstream(path("more")) << "upper: 0 8 linear lower 0\nupper: 8 8 error\n\nlower: " << linear("b.img", 16) << "\n";
    start({path("one.table"), path("more")});
    EXPECT_EQ(printed({"ls"}), "lower\t(253:2)\none\t(253:0)\nupper\t(253:1)\n");
    EXPECT_EQ(printed({"table", "upper"}), "0 8 linear 253:2 0\n8 8 error \n");
    service.reset();
    std::ofstream(path("bad")) << "0 8 zero\n9 8 zero\n";
    auto started = MapperService::start({.socket = path("dm.sock"), .nbd = {}, .table_files = {path("bad")}});
    ASSERT_FALSE(started);
    EXPECT_THAT(started.error().message(), HasSubstr("bad: bad: table: line 2: begins at sector 9"));
}

TEST_F(DeviceMapper, NobodyElseGetsIn) {
    start();
    EXPECT_EQ(std::filesystem::status(path("dm.sock")).permissions(), std::filesystem::perms(0600));
    EXPECT_EQ(std::filesystem::status(path("dm.sock.nbd")).permissions(), std::filesystem::perms(0600));
    auto second = MapperService::start({.socket = path("dm.sock"), .nbd = {}, .table_files = {}});
    EXPECT_FALSE(second);
    service.reset();
    EXPECT_FALSE(std::filesystem::exists(path("dm.sock")));
    EXPECT_EQ(dm({"ls"}), ExitCode::not_found);
    EXPECT_THAT(err, HasSubstr("try: lamella dm run --socket"));
}

// Requests of a stranger: whatever their parameters are, there is an answer, and nothing else happens.
TEST_F(DeviceMapper, BadRequestsAreAnswered) {
    mapper::Mapper devices;
    const ControlHandlers handlers = mapper_handlers(devices);
    for (const auto& [method, handler] : handlers) {
        for (const Json& params : {Json(), Json::array(), Json::object(), Json{{"name", 5}}, Json{{"name", "x"}},
                                   Json{{"name", "x"}, {"table", 5}, {"uuid", ""}, {"directory", "/"}, {"read_only", false}},
                                   Json{{"name", std::string(100000, 'x')}, {"uuid", ""}, {"table", nullptr}}}) {
            const Result<Json> answer = handler(params, {});
            EXPECT_EQ(answer.has_value(), method == "devices") << method << " " << params.dump().substr(0, 200);
        }
    }
    EXPECT_TRUE(devices.devices().empty());
}

}  // namespace
}  // namespace lamella::cli
