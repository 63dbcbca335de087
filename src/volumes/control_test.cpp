// SPDX-License-Identifier: Apache-2.0
#include "volumes/control.h"

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "volumes/fake_group.h"
#include "volumes/remote_group.h"

namespace lamella {
namespace {

class Control : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/lamella-test-XXXXXX";
        folder = ::mkdtemp(name);
        ::setenv("LAMELLA_RUNTIME_DIR", (folder + "/run").c_str(), 1);
        image = folder + "/vms.img";
        std::ofstream(image) << "x";
    }
    void TearDown() override {
        ::unsetenv("LAMELLA_RUNTIME_DIR");
        std::filesystem::remove_all(folder);
    }

    std::unique_ptr<ControlServer> serve() {
        auto server = ControlServer::start({image}, group_handlers(group));
        EXPECT_TRUE(server) << server.error().message();
        return std::move(*server);
    }
    std::unique_ptr<RemoteGroup> remote() {
        auto client = ControlClient::connect({image});
        EXPECT_TRUE(client) << client.error().message();
        return client && *client ? std::make_unique<RemoteGroup>(std::move(*client)) : nullptr;
    }
    std::string socket_path() { return folder + "/run/" + *control_socket_name(image); }
    int raw_connection() {
        int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, socket_path().c_str());
        EXPECT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        return socket;
    }
    static std::string read_line(int socket) {
        std::string line;
        for (char c; ::recv(socket, &c, 1, 0) == 1 && c != '\n';)
            line += c;
        return line;
    }

    FakeGroup group;
    std::string folder, image;
};

TEST_F(Control, NobodyServes) {
    auto client = ControlClient::connect({image, folder + "/missing"});
    ASSERT_TRUE(client);
    EXPECT_EQ(*client, nullptr);
}

TEST_F(Control, EveryMethod) {
    auto server = serve();
    auto far = remote();
    ASSERT_NE(far, nullptr);
    EXPECT_EQ(far->client().server_process(), ::getpid());

    EXPECT_EQ(far->info()->name, "vms");
    EXPECT_TRUE(far->info()->served);
    EXPECT_EQ(far->volumes()->size(), 3u);
    EXPECT_EQ(far->volume("web")->mapped, 5ull << 30);
    EXPECT_EQ(far->create_pool({.name = "p2", .size = {.value = 1 << 20}}, {})->name, "p2");
    EXPECT_EQ(far->create_volume({.name = "db", .size = {.value = 1 << 20}, .tags = {"t"}}, {})->tags, std::vector<std::string>{"t"});
    auto snapshots = far->create_snapshots({{.origin = "web"}, {.origin = "db", .name = "snap"}}, {});
    ASSERT_TRUE(snapshots);
    EXPECT_EQ((*snapshots)[1].name, "snap");
    EXPECT_EQ(far->resize({.name = "db", .size = {.relation = SizeRequest::Relation::grow, .value = 512}}, {})->size, (1u << 20) + 512);
    EXPECT_EQ(far->rename("db", "data", {})->name, "data");
    EXPECT_EQ(far->change_tags("data", {"u"}, {"t"}, {})->tags, std::vector<std::string>{"u"});
    EXPECT_EQ(far->convert_to_pool({.name = "p2", .metadata = "", .chunk_size = 128 * 1024}, {})->chunk_size, 128u * 1024);
    EXPECT_EQ(far->swap_metadata("pool", "data", {})->name, "pool");
    EXPECT_EQ(group.changes.back(), "swap metadata of pool with data");
    EXPECT_EQ(far->set_active({}, {}).error().kind(), ErrorKind::unsupported);
    group.group.capabilities = {Capability::activation};
    EXPECT_EQ(far->set_active({.names = {"web"}}, {})->size(), 1u);
    group.group.physical_volumes = {{.name = "pv0", .duplicate = true}};
    EXPECT_TRUE(far->inspect_disks()->front().duplicate);
    EXPECT_EQ(far->rollback("web", "web-s1", {})->name, "web");
    EXPECT_EQ(*far->reserve_metadata_snapshot("pool", {}), 77u);
    EXPECT_TRUE(far->release_metadata_snapshot("pool", {}));
    EXPECT_EQ(*far->trim("pool", {}), *group.trim("pool", {}));
    EXPECT_EQ(*far->status_line("pool"), *group.status_line("pool"));
    EXPECT_EQ(*far->table_line("pool"), *group.table_line("pool"));
    EXPECT_TRUE(far->send_message("pool", "create_thin 5"));
    EXPECT_EQ(*far->backup_text(), group.text);
    EXPECT_TRUE(far->restore_text("new \"text\"\n\ttab", true, {}));
    EXPECT_EQ(group.text, "new \"text\"\n\ttab");
    EXPECT_TRUE(far->remove({"data", "snap"}, false, {.dry_run = true}));
    EXPECT_TRUE(far->volume("data"));
    EXPECT_TRUE(far->remove({"data", "snap"}, false, {}));
    EXPECT_FALSE(far->volume("data"));
}

TEST_F(Control, ErrorsKeepTheirKind) {
    auto server = serve();
    auto far = remote();
    auto missing = far->volume("nothing");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().kind(), ErrorKind::not_found);
    EXPECT_EQ(missing.error().message(), group.volume("nothing").error().message());
    group.refuse = Error(ErrorKind::no_space, "no room", ENOSPC);
    auto full = far->create_volume({.name = "big"}, {});
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().kind(), ErrorKind::no_space);
    EXPECT_EQ(full.error().error_number(), ENOSPC);
    EXPECT_TRUE(far->info());
    // Bytes that JSON can't carry are refused before anything is sent.
    EXPECT_FALSE(far->restore_text("\xff", false, {}));
    EXPECT_TRUE(far->info());
}

TEST_F(Control, AnyPathToTheFile) {
    auto server = serve();
    std::filesystem::create_symlink(image, folder + "/link");
    std::filesystem::create_hard_link(image, folder + "/hard");
    for (const char* name : {"/link", "/hard", "/../"}) {
        std::string path = std::string(name) == "/../" ? folder + "/run/../vms.img" : folder + name;
        auto client = ControlClient::connect({path});
        ASSERT_TRUE(client);
        EXPECT_NE(*client, nullptr) << path;
    }
}

TEST_F(Control, TwoServersOfOneVolume) {
    auto server = serve();
    auto second = ControlServer::start({image}, {});
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().kind(), ErrorKind::refused);
    EXPECT_NE(second.error().message().find(std::to_string(::getpid())), std::string::npos);
    EXPECT_TRUE(remote()->info());  // the first one's socket is untouched
}

TEST_F(Control, SocketIsPrivateAndRemoved) {
    auto server = serve();
    struct stat status;
    ASSERT_EQ(::stat(socket_path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
    ASSERT_EQ(::stat((folder + "/run").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0700u);
    server.reset();
    EXPECT_FALSE(std::filesystem::exists(socket_path()));
}

TEST_F(Control, OpenRuntimeDirectoryIsRefused) {
    std::filesystem::create_directory(folder + "/run");
    ::chmod((folder + "/run").c_str(), 0755);
    auto server = ControlServer::start({image}, {});
    ASSERT_FALSE(server);
    EXPECT_EQ(server.error().kind(), ErrorKind::refused);
}

TEST_F(Control, SocketOfADeadProcess) {
    // A process that ends without cleaning up: its socket file stays, nobody listens.
    pid_t child = ::fork();
    if (child == 0) {
        auto server = ControlServer::start({image}, {});
        ::_exit(server ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
    ASSERT_TRUE(std::filesystem::exists(socket_path()));
    auto client = ControlClient::connect({image});
    ASSERT_TRUE(client);
    EXPECT_EQ(*client, nullptr);
    auto server = serve();
    EXPECT_TRUE(remote()->info());
}

TEST_F(Control, SeveralClients) {
    auto server = serve();
    std::vector<std::thread> threads;
    std::atomic<int> good = 0;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            auto far = remote();
            for (int i = 0; i < 20; ++i)
                if (far->create_volume({.name = fmt::format("v{}-{}", t, i)}, {}) && far->volumes())
                    ++good;
        });
    for (std::thread& thread : threads)
        thread.join();
    EXPECT_EQ(good, 80);
    EXPECT_EQ(group.list.size(), 83u);
}

TEST_F(Control, PipelinedRequestsAreAnsweredInOrder) {
    auto server = serve();
    int socket = raw_connection();
    std::string lines;
    for (int i = 0; i < 2000; ++i)
        lines += i % 2 ? R"({"version":1,"method":"backup_text"})"
                         "\n"
                       : R"({"version":1,"method":"volume","params":{"name":"web"}})"
                         "\n";
    std::thread sender([&] { EXPECT_EQ(::send(socket, lines.data(), lines.size(), 0), static_cast<ssize_t>(lines.size())); });
    for (int i = 0; i < 2000; ++i) {
        std::string line = read_line(socket);
        EXPECT_EQ(line.find("# a group") != std::string::npos, i % 2 == 1) << i;
    }
    sender.join();
    ::close(socket);
}

TEST_F(Control, ProgressIsToldToWhoAsks) {
    auto server = serve();
    // The server thins out what it sends, but for the first and the last.
    constexpr std::uint64_t total = 1000;
    group.work = [&](const ReportProgress& report) {
        for (std::uint64_t done = 1; report && done <= total; ++done)
            report({done, total});
    };
    std::vector<Progress> told;
    ASSERT_TRUE(remote()->remove({"web"}, false, {.progress = [&](const Progress& progress) {
                                     told.push_back(progress);
                                     return true;
                                 }}));
    ASSERT_GE(told.size(), 2u);
    EXPECT_LT(told.size(), total / 2);
    EXPECT_EQ(told.front().done, 1u);
    EXPECT_EQ(told.front().total, total);
    EXPECT_EQ(told.back().done, total);

    // On the wire: lines before the answer, and none for a request that doesn't ask.
    int socket = raw_connection();
    for (const char* asks : {R"("progress":true,)", R"("progress":false,)", ""}) {
        std::string request = std::string(R"({"version":1,)") + asks +
                              R"("method":"remove","params":{"names":[],"with_contents":false,"options":{"dry_run":false}}})"
                              "\n";
        ASSERT_EQ(::send(socket, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
        std::string line = read_line(socket);
        if (std::string(asks).find("true") != std::string::npos) {
            EXPECT_EQ(line, R"({"version":1,"progress":{"done":1,"total":1000}})");
            while (line.find("\"progress\"") != std::string::npos)
                line = read_line(socket);
        }
        EXPECT_EQ(line.find(R"({"version":1,"result":)"), 0u) << line;
    }
    std::string wrong = R"({"version":1,"progress":"yes","method":"info"})"
                        "\n";
    ASSERT_EQ(::send(socket, wrong.data(), wrong.size(), 0), static_cast<ssize_t>(wrong.size()));
    EXPECT_NE(read_line(socket).find("usage"), std::string::npos);
    ::close(socket);
}

// Who wants no more, or has gone, is told from who waits.
TEST_F(Control, StopsForWhoWantsNoMore) {
    auto server = serve();
    std::atomic<unsigned> stopped = 0;
    group.work = [&](const ReportProgress& report) {
        // Until the server asks to stop; a client that asked for no progress is never asked.
        while (report && report({1, 2})) {}
        stopped += report != nullptr;
    };
    auto client = remote();
    unsigned calls = 0;
    ASSERT_TRUE(client->remove({"web"}, false, {.progress = [&](const Progress&) { return ++calls < 3; }}));
    EXPECT_EQ(stopped, 1u);
    EXPECT_GE(calls, 3u);

    const std::string request =
        R"({"version":1,"progress":true,"method":"remove","params":{"names":[],"with_contents":false,"options":{"dry_run":false}}})"
        "\n";
    int socket = raw_connection();
    ASSERT_EQ(::send(socket, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
    EXPECT_NE(read_line(socket).find("progress"), std::string::npos);
    ::close(socket);
    // The server answers one at a time: it has come to this one.
    ASSERT_TRUE(remote()->info());
    EXPECT_EQ(stopped, 2u);
}

// A client that asks and doesn't read gets whole lines and its answer all the same.
TEST_F(Control, ProgressWaitsForNobody) {
    auto server = serve();
    group.work = [&](const ReportProgress& report) {
        for (int i = 0; report && i < 100'000; ++i)
            report({1, 2});
    };
    int socket = raw_connection();
    const std::string one =
        R"({"version":1,"progress":true,"method":"remove","params":{"names":[],"with_contents":false,"options":{"dry_run":false}}})"
        "\n";
    std::string requests;
    for (int i = 0; i < 100; ++i)
        requests += one;
    ASSERT_EQ(::send(socket, requests.data(), requests.size(), 0), static_cast<ssize_t>(requests.size()));
    for (int answers = 0; answers < 100;) {
        const std::string line = read_line(socket);
        ASSERT_TRUE(parse_json(line)) << line;
        answers += line.find("\"result\"") != std::string::npos;
    }
    ::close(socket);
}

// Requests whose answer comes later, at a socket of their own.
class Waiting : public Control {
  protected:
    void SetUp() override {
        Control::SetUp();
        ControlHandlers handlers;
        handlers["count"] = [this](const Json&, const ReportProgress&) -> Result<Json> { return Json{{"asked", asked}}; };
        WaitingHandlers waiting;
        waiting["wait"] = [this](const Json& params) -> Result<LaterAnswer> {
            const auto number = TRY(member<std::uint64_t>(params, "number", "params"));
            return [this, number]() -> std::optional<Json> {
                ++asked;
                return happened.load() >= number ? std::optional(Json{{"number", number}}) : std::nullopt;
            };
        };
        auto started = ControlServer::start_at(path(), std::move(handlers), std::move(waiting));
        ASSERT_TRUE(started) << started.error().message();
        server = std::move(*started);
    }
    std::string path() const { return folder + "/control.sock"; }
    std::unique_ptr<ControlClient> client() { return *ControlClient::connect_to(path()); }
    // Which the server has asked once, at least.
    int start_waiting(int number) {
        int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, path().c_str());
        EXPECT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        send_wait(socket, number);
        return socket;
    }
    static void send_wait(int socket, int number) {
        const std::string line = fmt::format("{{\"version\":1,\"method\":\"wait\",\"params\":{{\"number\":{}}}}}\n", number);
        EXPECT_EQ(::send(socket, line.data(), line.size(), 0), static_cast<ssize_t>(line.size()));
    }
    std::uint64_t count() {
        const Json answer = *client()->call("count", Json::object());
        return *member<std::uint64_t>(answer, "asked", "answer");
    }
    void happen(std::uint64_t number) {
        happened.store(number);
        server->wake();
    }

    std::atomic<std::uint64_t> happened{0};
    std::uint64_t asked = 0;  // the server's thread
    std::unique_ptr<ControlServer> server;
};

TEST_F(Waiting, AnswersComeWhenWhatIsWaitedForHasHappened) {
    // More than there may be clients otherwise.
    std::vector<int> sockets;
    for (int number = 1; number <= 40; ++number)
        sockets.push_back(start_waiting(number % 2 + 1));
    while (count() < 40) {}    // others are answered meanwhile
    send_wait(sockets[0], 1);  // behind the request that waits
    happen(1);
    for (std::size_t index = 1; index < sockets.size(); index += 2)  // those that wait for 1
        EXPECT_EQ(read_line(sockets[index]), R"({"version":1,"result":{"number":1}})");
    happen(2);
    EXPECT_EQ(read_line(sockets[0]), R"({"version":1,"result":{"number":2}})");
    EXPECT_EQ(read_line(sockets[0]), R"({"version":1,"result":{"number":1}})");
    for (int socket : sockets)
        ::close(socket);
    EXPECT_EQ(client()->call("wait", {{"number", "x"}}).error().kind(), ErrorKind::usage);
    EXPECT_EQ(*client()->call("wait", {{"number", 2}}), (Json{{"number", 2}}));
}

TEST_F(Waiting, WhoGoesAwayIsForgotten) {
    for (int round = 0; round < 3000; ++round)  // more than may wait
        ::close(start_waiting(1));
    const std::uint64_t before = [&] {
        // A client that waits is asked again at each wake; those that are gone aren't.
        int socket = start_waiting(2);
        std::uint64_t seen = count();
        for (bool settled = false; !settled;) {
            server->wake();
            const std::uint64_t now = count();
            settled = now == seen + 1;
            seen = now;
        }
        ::close(socket);
        return seen;
    }();
    EXPECT_GT(before, 0u);
}

TEST_F(Waiting, TheServerEndsWithoutThem) {
    int socket = start_waiting(1);
    while (count() == 0) {}
    server.reset();
    EXPECT_EQ(read_line(socket), "");
    ::close(socket);
}

// Who asks as documented is told everything; what RemoteGroup asks leaves out what it knows without.
TEST_F(Control, VolumesInBriefForWhoAsks) {
    const ControlHandlers handlers = group_handlers(group);
    const auto ask = [&](std::string_view params) {
        return *parse_json(answer_control_request(handlers, fmt::format(R"({{"version":1,"method":"volumes","params":{}}})", params)));
    };
    const Json all = ask("{}");
    EXPECT_EQ(all["result"], to_json(group.list));
    EXPECT_EQ(ask(R"({"brief":false})"), all);
    const Json brief = ask(R"({"brief":true})");
    EXPECT_LT(brief.dump().size(), all.dump().size() / 2);
    EXPECT_EQ(to_json(*from_json<std::vector<VolumeInfo>>(brief["result"], "v")), all["result"]);
    EXPECT_EQ(ask(R"({"brief":1})")["error"]["kind"], "usage");
}

TEST_F(Control, Garbage) {
    auto server = serve();
    int socket = raw_connection();
    for (std::string_view line :
         {"", "garbage", "{}", "[]", R"({"version":2,"method":"info"})", R"({"version":1,"method":"explode"})",
          R"({"version":1,"method":3})", R"({"version":1,"method":"rename","params":{"name":"web"}})",
          R"({"version":1,"method":"rename","params":[]})", R"({"version":1,"method":"volume","params":{"name":{}}})"}) {
        std::string text = std::string(line) + "\n";
        ASSERT_EQ(::send(socket, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
        EXPECT_NE(read_line(socket).find("\"error\""), std::string::npos) << line;
    }
    // The connection still works.
    std::string text = R"({"version":1,"method":"info"})"
                       "\n";
    ASSERT_EQ(::send(socket, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    EXPECT_NE(read_line(socket).find("\"result\""), std::string::npos);
    ::close(socket);
    EXPECT_TRUE(group.changes.empty());
}

TEST_F(Control, OverlongLine) {
    auto server = serve();
    int socket = raw_connection();
    std::string part(1 << 20, 'x');
    std::size_t sent = 0;
    for (; sent <= max_control_request + part.size(); sent += part.size())
        if (::send(socket, part.data(), part.size(), MSG_NOSIGNAL) < 0)
            break;  // the server has closed its end already
    EXPECT_GE(sent, max_control_request);
    std::string answer = read_line(socket);
    EXPECT_NE(answer.find("longer than"), std::string::npos) << answer;
    ::close(socket);
    EXPECT_TRUE(remote()->info());
}

TEST_F(Control, ServerThatDiesIsNoticed) {
    auto server = serve();
    auto far = remote();
    EXPECT_TRUE(far->info());
    server.reset();
    auto after = far->info();
    ASSERT_FALSE(after);
    EXPECT_EQ(after.error().kind(), ErrorKind::failed);
}

}  // namespace
}  // namespace lamella
