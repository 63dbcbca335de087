// SPDX-License-Identifier: Apache-2.0
#include "volumes/control.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <list>
#include <thread>

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/file_descriptor.h"
#include "serve/nbd/listener.h"

namespace lamella {

namespace {

constexpr std::size_t max_clients = 16;  // without those whose answer comes later
constexpr std::size_t max_waiting = 1024;
constexpr auto progress_pause = std::chrono::milliseconds(100);

// A folder that only `owner` can have put anything into.
Result<void> check_private_directory(const std::string& path, uid_t owner) {
    struct stat status;
    if (::lstat(path.c_str(), &status) != 0)
        return fail_errno(path);
    if (!S_ISDIR(status.st_mode) || status.st_uid != owner || (status.st_mode & 077) != 0)
        return fail(ErrorKind::refused, "runtime directory {}: must be a folder that belongs to user {} with mode 0700", path, owner);
    return {};
}

// Where the serving process of a physical volume may have put its socket. The user's session, a cron job and a service can
// disagree about $XDG_RUNTIME_DIR; and root reaches what the owner of an image serves.
std::vector<std::pair<std::string, uid_t>> places_to_look(uid_t file_owner) {
    uid_t self = ::geteuid();
    std::vector<std::pair<std::string, uid_t>> places{{runtime_directory(), self}};
    uid_t user = self == 0 ? file_owner : self;
    if (self == 0)
        places.emplace_back("/run/lamella", 0);
    places.emplace_back(fmt::format("/run/user/{}/lamella", user), user);
    places.emplace_back(fmt::format("/tmp/lamella-{}", user), user);
    return places;
}

Result<sockaddr_un> socket_address(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
        return fail(ErrorKind::usage, "socket path {}: longer than {} characters", path, sizeof address.sun_path - 1);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

// nullopt: nobody listens there.
Result<std::optional<FileDescriptor>> connect_socket(const std::string& path) {
    sockaddr_un address = TRY(socket_address(path));
    FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (socket.get() < 0)
        return fail_errno("control socket");
    while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        if (errno == EINTR)
            continue;
        if (errno == ENOENT || errno == ECONNREFUSED)
            return std::nullopt;
        return fail_errno(fmt::format("control socket {}", path));
    }
    return socket;
}

Result<ucred> peer_of(int socket) {
    ucred peer{};
    socklen_t length = sizeof peer;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
        return fail_errno("control socket: credentials of the peer");
    return peer;
}

std::string print_answer(std::string_view key, Json content) {
    Json answer = Json::object();
    answer["version"] = control_version;
    answer[std::string(key)] = std::move(content);
    Result<std::string> line = print_json(answer);
    if (line && line->size() <= max_control_answer)
        return *std::move(line);
    Error error = line ? Error(ErrorKind::failed, "the answer is too long for the control socket") : line.error();
    return print_answer("error", error_to_json(error));
}

}  // namespace

std::string runtime_directory() {
    if (const char* directory = std::getenv("LAMELLA_RUNTIME_DIR"); directory && *directory)
        return directory;
    uid_t self = ::geteuid();
    if (self == 0)
        return "/run/lamella";
    if (const char* directory = std::getenv("XDG_RUNTIME_DIR"); directory && *directory)
        return std::string(directory) + "/lamella";
    return fmt::format("/tmp/lamella-{}", self);
}

Result<std::string> make_runtime_directory() {
    std::string directory = runtime_directory();
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
        return fail_errno(fmt::format("cannot make runtime directory {}", directory));
    TRY(check_private_directory(directory, ::geteuid()));
    return directory;
}

Result<std::string> control_socket_name(const std::string& physical_volume) {
    struct stat status;
    if (::stat(physical_volume.c_str(), &status) != 0)
        return fail_errno(physical_volume);
    if (S_ISBLK(status.st_mode))
        return fmt::format("block-{}-{}.control", major(status.st_rdev), minor(status.st_rdev));
    return fmt::format("file-{}-{}-{}.control", major(status.st_dev), minor(status.st_dev), status.st_ino);
}

ControlHandlers group_handlers(VolumeGroup& group) {
    auto options = [](const Json& params, const ReportProgress& progress = {}) -> Result<ChangeOptions> {
        ChangeOptions change = TRY(member<ChangeOptions>(params, "options", "params"));
        change.progress = progress;
        return change;
    };
    // What is taken from `params` gets a name first: g++ doesn't destroy the temporaries of an expression that TRY leaves.
    auto name = [](const Json& params, std::string_view key = "name") { return member<std::string>(params, key, "params"); };
    auto done = [] { return Json::object(); };
    ControlHandlers handlers;
    handlers["info"] = [&group](const Json&, const ReportProgress&) -> Result<Json> {
        GroupInfo info = TRY(group.info());
        info.served = true;
        return to_json(info);
    };
    handlers["inspect_disks"] = [&group](const Json&, const ReportProgress&) -> Result<Json> {
        return to_json(TRY(group.inspect_disks()));
    };
    handlers["volumes"] = [&group](const Json& params, const ReportProgress&) -> Result<Json> {
        const bool brief = params.contains("brief") && TRY(member<bool>(params, "brief", "params"));
        const std::vector<VolumeInfo> volumes = TRY(group.volumes());
        return brief ? to_json_brief(volumes) : to_json(volumes);
    };
    handlers["volume"] = [&group, name](const Json& params, const ReportProgress&) -> Result<Json> {
        return to_json(TRY(group.volume(TRY(name(params)))));
    };
    handlers["create_pool"] = [&group, options](const Json& params, const ReportProgress&) -> Result<Json> {
        const auto request = TRY(member<CreatePool>(params, "request", "params"));
        return to_json(TRY(group.create_pool(request, TRY(options(params)))));
    };
    handlers["create_volume"] = [&group, options](const Json& params, const ReportProgress&) -> Result<Json> {
        const auto request = TRY(member<CreateVolume>(params, "request", "params"));
        return to_json(TRY(group.create_volume(request, TRY(options(params)))));
    };
    handlers["create_snapshots"] = [&group, options](const Json& params, const ReportProgress&) -> Result<Json> {
        auto requests = TRY(member<std::vector<CreateSnapshot>>(params, "requests", "params"));
        return to_json(TRY(group.create_snapshots(requests, TRY(options(params)))));
    };
    handlers["resize"] = [&group, options](const Json& params, const ReportProgress& progress) -> Result<Json> {
        const auto request = TRY(member<ResizeVolume>(params, "request", "params"));
        return to_json(TRY(group.resize(request, TRY(options(params, progress)))));
    };
    handlers["rename"] = [&group, name, options](const Json& params, const ReportProgress&) -> Result<Json> {
        const std::string old_name = TRY(name(params));
        const std::string new_name = TRY(name(params, "new_name"));
        return to_json(TRY(group.rename(old_name, new_name, TRY(options(params)))));
    };
    handlers["change_tags"] = [&group, name, options](const Json& params, const ReportProgress&) -> Result<Json> {
        auto add = TRY(member<std::vector<std::string>>(params, "add", "params"));
        auto remove = TRY(member<std::vector<std::string>>(params, "remove", "params"));
        const std::string volume = TRY(name(params));
        return to_json(TRY(group.change_tags(volume, add, remove, TRY(options(params)))));
    };
    handlers["remove"] = [&group, options, done](const Json& params, const ReportProgress& progress) -> Result<Json> {
        auto names = TRY(member<std::vector<std::string>>(params, "names", "params"));
        TRY(group.remove(names, TRY(member<bool>(params, "with_contents", "params")), TRY(options(params, progress))));
        return done();
    };
    handlers["convert_to_pool"] = [&group, options](const Json& params, const ReportProgress&) -> Result<Json> {
        const auto request = TRY(member<ConvertToPool>(params, "request", "params"));
        return to_json(TRY(group.convert_to_pool(request, TRY(options(params)))));
    };
    handlers["swap_metadata"] = [&group, name, options](const Json& params, const ReportProgress&) -> Result<Json> {
        const std::string pool = TRY(name(params, "pool"));
        const std::string volume = TRY(name(params, "volume"));
        return to_json(TRY(group.swap_metadata(pool, volume, TRY(options(params)))));
    };
    handlers["change_pool"] = [&group, options](const Json& params, const ReportProgress&) -> Result<Json> {
        const auto request = TRY(member<ChangePool>(params, "request", "params"));
        return to_json(TRY(group.change_pool(request, TRY(options(params)))));
    };
    handlers["automatic_extension"] = [&group, name](const Json& params, const ReportProgress&) -> Result<Json> {
        return to_json(TRY(group.automatic_extension(TRY(name(params, "pool")))));
    };
    handlers["set_active"] = [&group, options](const Json& params, const ReportProgress&) -> Result<Json> {
        const auto request = TRY(member<SetActive>(params, "request", "params"));
        return to_json(TRY(group.set_active(request, TRY(options(params)))));
    };
    handlers["pool_dependents"] = [&group, name](const Json& params, const ReportProgress&) -> Result<Json> {
        return to_json(TRY(group.pool_dependents(TRY(name(params, "pool")))));
    };
    handlers["remove_foreign"] = [&group, name, options, done](const Json& params, const ReportProgress&) -> Result<Json> {
        auto dependents = TRY(member<std::vector<PoolDependent>>(params, "dependents", "params"));
        const std::string pool = TRY(name(params, "pool"));
        TRY(group.remove_foreign(pool, dependents, TRY(options(params))));
        return done();
    };
    handlers["rollback"] = [&group, name, options](const Json& params, const ReportProgress& progress) -> Result<Json> {
        const std::string volume = TRY(name(params));
        const std::string snapshot = TRY(name(params, "snapshot"));
        return to_json(TRY(group.rollback(volume, snapshot, TRY(options(params, progress)))));
    };
    handlers["reserve_metadata_snapshot"] = [&group, name, options](const Json& params, const ReportProgress&) -> Result<Json> {
        const std::string pool = TRY(name(params, "pool"));
        return to_json(TRY(group.reserve_metadata_snapshot(pool, TRY(options(params)))));
    };
    handlers["release_metadata_snapshot"] = [&group, name, options, done](const Json& params, const ReportProgress&) -> Result<Json> {
        const std::string pool = TRY(name(params, "pool"));
        TRY(group.release_metadata_snapshot(pool, TRY(options(params))));
        return done();
    };
    handlers["trim"] = [&group, name, options](const Json& params, const ReportProgress& progress) -> Result<Json> {
        const std::string pool = TRY(name(params, "pool"));
        return to_json(TRY(group.trim(pool, TRY(options(params, progress)))));
    };
    handlers["pool_contents"] = [&group, name](const Json& params, const ReportProgress&) -> Result<Json> {
        const std::string pool = TRY(name(params, "pool"));
        return to_json(TRY(group.pool_contents(pool, TRY(member<bool>(params, "check", "params")))));
    };
    handlers["pool_usage"] = [&group, name](const Json& params, const ReportProgress&) -> Result<Json> {
        return to_json(TRY(group.pool_usage(TRY(name(params, "pool")))));
    };
    handlers["pack_metadata"] = [&group, name](const Json& params, const ReportProgress&) -> Result<Json> {
        const std::string pool = TRY(name(params, "pool"));
        const std::string file = TRY(name(params, "file"));
        if (!file.starts_with('/'))
            return fail(ErrorKind::usage, "params.file: not an absolute path");
        return to_json(TRY(group.pack_metadata(pool, file)));
    };
    handlers["make_spare"] = [&group, options](const Json& params, const ReportProgress&) -> Result<Json> {
        return to_json(TRY(group.make_spare(TRY(options(params)))));
    };
    handlers["status_line"] = [&group, name](const Json& params, const ReportProgress&) -> Result<Json> {
        return to_json(TRY(group.status_line(TRY(name(params)))));
    };
    handlers["table_line"] = [&group, name](const Json& params, const ReportProgress&) -> Result<Json> {
        return to_json(TRY(group.table_line(TRY(name(params)))));
    };
    handlers["send_message"] = [&group, name, done](const Json& params, const ReportProgress&) -> Result<Json> {
        const std::string pool = TRY(name(params, "pool"));
        TRY(group.send_message(pool, TRY(name(params, "message"))));
        return done();
    };
    // Not to_json: the text has to arrive as it is, or not at all.
    handlers["backup_text"] = [&group](const Json&, const ReportProgress&) -> Result<Json> { return Json(TRY(group.backup_text())); };
    handlers["restore_text"] = [&group, name, options, done](const Json& params, const ReportProgress&) -> Result<Json> {
        const std::string text = TRY(name(params, "text"));
        const bool force = TRY(member<bool>(params, "force", "params"));
        TRY(group.restore_text(text, force, TRY(options(params))));
        return done();
    };
    return handlers;
}

namespace {

struct Request {
    std::string method;
    Json params = Json::object();
    bool progress = false;
};

Result<Request> parse_request(std::string_view line) {
    Request request;
    Json json = TRY_WITHIN("request", parse_json(line));
    auto version = TRY(member<std::uint64_t>(json, "version", "request"));
    if (version != control_version)
        return fail(ErrorKind::unsupported,
                    "the serving process speaks version {} of the control protocol, the command version {}: "
                    "use the same release of lamella for both",
                    control_version, version);
    request.method = TRY(member<std::string>(json, "method", "request"));
    if (auto params = json.find("params"); params != json.end())
        request.params = std::move(*params);
    request.progress = json.contains("progress") && TRY(member<bool>(json, "progress", "request"));
    return request;
}

std::string print_result(Result<Json> answer) {
    return answer ? print_answer("result", *std::move(answer)) : print_answer("error", error_to_json(answer.error()));
}

std::string answer(const ControlHandlers& handlers, const Request& request, const std::function<bool(std::string)>& send_progress) {
    const auto handler = handlers.find(request.method);
    if (handler == handlers.end())
        return print_result(fail(ErrorKind::unsupported, "the serving process has no method of the name asked for"));
    // A report is cheap, a line isn't; the last one is always told.
    ReportProgress report = [&send_progress, go_on = true,
                             next = std::chrono::steady_clock::time_point()](const Progress& progress) mutable {
        if (auto now = std::chrono::steady_clock::now(); now >= next || progress.done == progress.total) {
            next = now + progress_pause;
            go_on = send_progress(print_answer("progress", to_json(progress))) && go_on;
        }
        return go_on;
    };
    return print_result(handler->second(request.params, request.progress && send_progress ? report : ReportProgress()));
}

}  // namespace

std::string answer_control_request(const ControlHandlers& handlers, std::string_view line,
                                   const std::function<bool(std::string)>& send_progress) {
    const Result<Request> request = parse_request(line);
    return request ? answer(handlers, *request, send_progress) : print_result(std::unexpected(request.error()));
}

// One thread that polls listeners and clients. A client is being read, or waits for its answer, or that is being sent: what it sends ahead
// waits in its socket, so that no client can make the process hold more than one request and one answer.
class ControlServer::Loop {
  public:
    Loop(ControlHandlers handlers, WaitingHandlers waiting) : handlers_(std::move(handlers)), waiting_handlers_(std::move(waiting)) {}
    ~Loop();

    Result<void> listen_for(const std::vector<std::string>& physical_volumes);
    Result<void> listen_at(const std::string& socket);
    Result<void> run_thread();
    void wake();

  private:
    struct Client {
        FileDescriptor socket;
        std::string input;
        std::string output;
        LaterAnswer later;  // what its request waits for, if it does
        std::size_t sent = 0;
        std::size_t scanned = 0;  // of input: holds no line end
        bool close_when_sent = false;
    };

    void run();
    std::size_t waiting() const;
    void accept_from(int listener);
    // False: the connection is over.
    bool serve(Client& client);
    bool read_from(Client& client);
    bool answer_lines(Client& client);
    void answer_line(Client& client, std::string_view line);
    bool ask_later(Client& client);
    bool send_output(Client& client);

    ControlHandlers handlers_;
    WaitingHandlers waiting_handlers_;
    std::vector<FileDescriptor> listeners_;
    std::vector<std::string> paths_;
    std::optional<nbd::Listener> own_listener_;  // instead of those
    FileDescriptor wake_;
    std::atomic<bool> stopping_{false};
    std::list<Client> clients_;
    std::thread thread_;
};

ControlServer::Loop::~Loop() {
    if (thread_.joinable()) {
        stopping_.store(true);
        wake();
        thread_.join();
    }
    for (const std::string& path : paths_)
        ::unlink(path.c_str());
}

Result<void> ControlServer::Loop::listen_for(const std::vector<std::string>& physical_volumes) {
    std::string directory = TRY(make_runtime_directory());
    // Held while a dead process's socket is told from a living one's and replaced.
    std::string lock_path = directory + "/control.lock";
    FileDescriptor lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (lock.get() < 0)
        return fail_errno(lock_path);
    while (::flock(lock.get(), LOCK_EX) != 0)
        if (errno != EINTR)
            return fail_errno(lock_path);

    for (const std::string& volume : physical_volumes) {
        std::string path = directory + "/" + TRY(control_socket_name(volume));
        if (auto other = TRY(connect_socket(path)))
            return fail(ErrorKind::refused, "{}: process {} serves it already", volume, TRY(peer_of(other->get())).pid);
        if (::unlink(path.c_str()) != 0 && errno != ENOENT)
            return fail_errno(path);
        FileDescriptor listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (listener.get() < 0)
            return fail_errno("control socket");
        sockaddr_un address = TRY(socket_address(path));
        if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
            return fail_errno(path);
        paths_.push_back(path);
        // The folder lets nobody else in meanwhile.
        if (::chmod(path.c_str(), 0600) != 0 || ::listen(listener.get(), 16) != 0)
            return fail_errno(path);
        listeners_.push_back(std::move(listener));
    }
    return {};
}

Result<void> ControlServer::Loop::listen_at(const std::string& socket) {
    own_listener_ = TRY(nbd::Listener::on_unix(socket, 0600));
    return {};
}

void ControlServer::Loop::wake() {
    const std::uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
}

Result<void> ControlServer::Loop::run_thread() {
    wake_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (wake_.get() < 0)
        return fail_errno("eventfd");
    thread_ = std::thread([this] { run(); });
    return {};
}

void ControlServer::Loop::run() {
    std::vector<pollfd> polled;
    for (;;) {
        polled.clear();
        polled.push_back({wake_.get(), POLLIN, 0});
        const short wanted = clients_.size() - waiting() < max_clients ? POLLIN : 0;
        for (const FileDescriptor& listener : listeners_)
            polled.push_back({listener.get(), wanted, 0});
        if (own_listener_)
            polled.push_back({own_listener_->fd(), wanted, 0});
        std::size_t first_client = polled.size();
        for (const Client& client : clients_)
            polled.push_back({client.socket.get(), static_cast<short>(client.later ? 0 : client.output.empty() ? POLLIN : POLLOUT), 0});
        if (::poll(polled.data(), polled.size(), -1) < 0)
            continue;
        const bool woken = polled[0].revents != 0;
        if (woken) {
            std::uint64_t times;
            (void)!::read(wake_.get(), &times, sizeof times);
        }
        if (stopping_.load())
            return;
        std::size_t at = first_client;
        for (auto client = clients_.begin(); client != clients_.end();) {
            const bool has_events = polled[at++].revents != 0;
            bool lives = true;
            if (client->later)
                lives = !has_events && (!woken || (ask_later(*client) && answer_lines(*client)));  // nothing but its end is polled for
            else if (has_events)
                lives = client->output.empty() ? read_from(*client) : send_output(*client) && answer_lines(*client);
            client = lives ? std::next(client) : clients_.erase(client);
        }
        for (std::size_t i = 1; i < first_client; ++i)
            if (polled[i].revents & POLLIN)
                accept_from(polled[i].fd);
    }
}

void ControlServer::Loop::accept_from(int listener) {
    FileDescriptor socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.get() < 0)
        return;
    Result<ucred> peer = peer_of(socket.get());
    if (!peer || (peer->uid != ::geteuid() && peer->uid != 0))
        return;
    clients_.emplace_back().socket = std::move(socket);
}

bool ControlServer::Loop::read_from(Client& client) {
    std::array<char, 64 * 1024> buffer;
    ssize_t count = ::recv(client.socket.get(), buffer.data(), buffer.size(), 0);
    if (count < 0)
        return errno == EINTR || errno == EAGAIN;
    if (count == 0)
        return false;
    client.input.append(buffer.data(), static_cast<std::size_t>(count));
    return answer_lines(client);
}

bool ControlServer::Loop::answer_lines(Client& client) {
    while (client.output.empty() && !client.later) {
        std::size_t end = client.input.find('\n', client.scanned);
        if (std::min(end, client.input.size()) > max_control_request) {
            client.output =
                print_answer("error",
                             error_to_json(Error(ErrorKind::usage, fmt::format("request: longer than {} bytes", max_control_request)))) +
                "\n";
            client.close_when_sent = true;
            client.input = {};
        } else if (end == std::string::npos) {
            client.scanned = client.input.size();
            return true;
        } else {
            answer_line(client, std::string_view(client.input).substr(0, end));
            client.input.erase(0, end + 1);
            client.scanned = 0;
        }
        if (!(client.later ? ask_later(client) : send_output(client)))
            return false;
    }
    return true;
}

void ControlServer::Loop::answer_line(Client& client, std::string_view line) {
    const Result<Request> request = parse_request(line);
    if (!request) {
        client.output = print_result(std::unexpected(request.error())) + "\n";
        return;
    }
    if (const auto handler = waiting_handlers_.find(request->method); handler != waiting_handlers_.end()) {
        Result<LaterAnswer> later =
            waiting() < max_waiting ? handler->second(request->params) : fail(ErrorKind::refused, "{} requests wait already", max_waiting);
        if (later)
            client.later = *std::move(later);
        else
            client.output = print_result(std::unexpected(later.error())) + "\n";
        return;
    }
    // Progress is sent at once, from the thread that reports it while this one waits; what doesn't fit is no loss, but for the rest of a
    // line that was begun.
    std::string rest;
    const auto send_progress = [&](std::string report) {
        if (rest.empty()) {
            report += '\n';
            ssize_t count = ::send(client.socket.get(), report.data(), report.size(), MSG_NOSIGNAL);
            if (count > 0)
                rest = report.substr(static_cast<std::size_t>(count));
        }
        char next;
        const ssize_t waiting = ::recv(client.socket.get(), &next, 1, MSG_PEEK);
        return waiting > 0 || (waiting < 0 && (errno == EAGAIN || errno == EINTR));
    };
    const std::string answered = answer(handlers_, *request, send_progress);
    client.output = std::move(rest);
    client.output += answered;
    client.output += '\n';
}

std::size_t ControlServer::Loop::waiting() const {
    return static_cast<std::size_t>(std::ranges::count_if(clients_, [](const Client& client) { return bool(client.later); }));
}

bool ControlServer::Loop::ask_later(Client& client) {
    std::optional<Json> answer = client.later();
    if (!answer)
        return true;
    client.later = nullptr;
    client.output = print_result(*std::move(answer)) + "\n";
    return send_output(client);
}

bool ControlServer::Loop::send_output(Client& client) {
    while (client.sent < client.output.size()) {
        ssize_t count = ::send(client.socket.get(), client.output.data() + client.sent, client.output.size() - client.sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return errno == EAGAIN;
        client.sent += static_cast<std::size_t>(count);
    }
    client.output = {};
    client.sent = 0;
    return !client.close_when_sent;
}

ControlServer::ControlServer(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
ControlServer::~ControlServer() = default;

Result<std::unique_ptr<ControlServer>> ControlServer::start(const std::vector<std::string>& physical_volumes, ControlHandlers handlers) {
    auto loop = std::make_unique<Loop>(std::move(handlers), WaitingHandlers{});
    TRY(loop->listen_for(physical_volumes));
    TRY(loop->run_thread());
    return std::unique_ptr<ControlServer>(new ControlServer(std::move(loop)));
}

void ControlServer::wake() { loop_->wake(); }

Result<std::unique_ptr<ControlServer>> ControlServer::start_at(const std::string& socket, ControlHandlers handlers,
                                                               WaitingHandlers waiting) {
    auto loop = std::make_unique<Loop>(std::move(handlers), std::move(waiting));
    TRY(loop->listen_at(socket));
    TRY(loop->run_thread());
    return std::unique_ptr<ControlServer>(new ControlServer(std::move(loop)));
}

Result<std::unique_ptr<ControlClient>> ControlClient::connect_to(const std::string& path) {
    auto socket = TRY(connect_socket(path));
    if (!socket)
        return fail(ErrorKind::not_found, "control socket {}: nobody listens there", path);
    const ucred peer = TRY(peer_of(socket->get()));
    if (peer.uid != ::geteuid() && peer.uid != 0)
        return fail(ErrorKind::refused, "control socket {}: it is held by user {}", path, peer.uid);
    return std::unique_ptr<ControlClient>(new ControlClient(socket->release(), peer.pid));
}

Result<std::unique_ptr<ControlClient>> ControlClient::connect(const std::vector<std::string>& physical_volumes) {
    for (const std::string& volume : physical_volumes) {
        struct stat status;
        if (::stat(volume.c_str(), &status) != 0)
            continue;  // opening the group will say so
        std::string name = TRY(control_socket_name(volume));
        for (const auto& [directory, owner] : places_to_look(status.st_uid)) {
            if (::access((directory + "/" + name).c_str(), F_OK) != 0)
                continue;
            TRY(check_private_directory(directory, owner));
            auto socket = TRY(connect_socket(directory + "/" + name));
            if (!socket)
                continue;
            ucred peer = TRY(peer_of(socket->get()));
            if (peer.uid != ::geteuid() && peer.uid != owner && peer.uid != 0)
                return fail(ErrorKind::refused, "{}: its control socket is held by user {}", volume, peer.uid);
            return std::unique_ptr<ControlClient>(new ControlClient(socket->release(), peer.pid));
        }
    }
    return nullptr;
}

ControlClient::~ControlClient() { ::close(socket_); }

Result<Json> ControlClient::call(std::string_view method, const Json& params, const ReportProgress& progress) {
    Json request = Json::object();
    request["version"] = control_version;
    request["method"] = std::string(method);
    request["params"] = params;
    if (progress)
        request["progress"] = true;
    std::string line = TRY(print_json(request)) + "\n";
    if (line.size() > max_control_request)
        return fail(ErrorKind::usage, "the request is longer than {} bytes", max_control_request);

    auto broken = [&](int error_number) {
        return Error(ErrorKind::failed,
                     fmt::format("the connection to serving process {} broke{}{}: whether \"{}\" was done is not known", server_process_,
                                 error_number ? ": " : "", error_number ? std::strerror(error_number) : "", method));
    };
    for (std::size_t sent = 0; sent < line.size();) {
        ssize_t count = ::send(socket_, line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
        if (count < 0 && errno != EINTR)
            return std::unexpected(broken(errno));
        sent += count > 0 ? static_cast<std::size_t>(count) : 0;
    }
    for (std::string received;;) {
        std::size_t end = 0;
        for (std::size_t scanned = 0; (end = received.find('\n', scanned)) == std::string::npos;) {
            scanned = received.size();
            std::array<char, 64 * 1024> buffer;
            ssize_t count = ::recv(socket_, buffer.data(), buffer.size(), 0);
            if (count < 0 && errno == EINTR)
                continue;
            if (count <= 0)
                return std::unexpected(broken(count < 0 ? errno : 0));
            received.append(buffer.data(), static_cast<std::size_t>(count));
            if (received.size() > max_control_answer + buffer.size())
                return fail(ErrorKind::failed, "the answer of serving process {} is longer than {} bytes", server_process_,
                            max_control_answer);
        }
        Json json = TRY_WITHIN("answer of the serving process", parse_json(std::string_view(received).substr(0, end)));
        received.erase(0, end + 1);
        if (auto told = json.find("progress"); told != json.end() && progress) {
            if (!progress(TRY(from_json<Progress>(*told, "progress"))))
                ::shutdown(socket_, SHUT_WR);
            continue;
        }
        if (auto error = json.find("error"); error != json.end())
            return std::unexpected(error_from_json(*error));
        if (auto result = json.find("result"); result != json.end())
            return std::move(*result);
        break;
    }
    return fail(ErrorKind::failed, "the answer of serving process {} holds neither a result nor an error", server_process_);
}

}  // namespace lamella
