// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/server.h"

#include <algorithm>
#include <cassert>
#include <cerrno>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/nbd/exports.h"
#include "serve/nbd/listener.h"
#include "serve/nbd/worker.h"

namespace lamella::nbd {

namespace {

// Room for a few requests of usual length in each direction; the default of 208 KiB stalls at two of 128 KiB.
constexpr int socket_buffer_bytes = 2 << 20;

void tune(int fd, bool is_unix) {
    const int on = 1;
    if (!is_unix) {
        // TCP sizes its buffers itself.
        ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        return;
    }
    for (const auto& [forced, plain] : {std::pair(SO_SNDBUFFORCE, SO_SNDBUF), std::pair(SO_RCVBUFFORCE, SO_RCVBUF)})
        if (::setsockopt(fd, SOL_SOCKET, forced, &socket_buffer_bytes, sizeof socket_buffer_bytes) != 0)
            ::setsockopt(fd, SOL_SOCKET, plain, &socket_buffer_bytes, sizeof socket_buffer_bytes);
}

// NBD's uri.md: what may not stand in a query is percent-encoded.
std::string encode_path(std::string_view path) {
    std::string encoded;
    for (const char c : path) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                           std::string_view("/-._~").find(c) != std::string_view::npos;
        if (plain)
            encoded += c;
        else
            encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
    return encoded;
}

}  // namespace

// The listeners live on the first reactor, which hands each connection to the one that has the fewest.
class Server::Implementation {
  public:
    Implementation(ReactorGroup& reactors, ExportSource& source, const ServerOptions& options,
                   std::shared_ptr<const TlsCredentials> credentials, std::vector<Listener> listeners)
        : reactors_(reactors),
          exports_(source, options.read_only, reactors.size()),
          shared_{exports_, options.limits, options.tls.mode, std::move(credentials), {}} {
        const bool tls = options.tls.mode == TlsMode::forced;
        for (Listener& listener : listeners) {
            if (listener.is_unix())
                uris_.push_back(fmt::format("nbd{}+unix:///?socket={}", tls ? "s" : "", encode_path(listener.address())));
            else
                uris_.push_back(fmt::format("nbd{}://{}", tls ? "s" : "", listener.address()));
            watchers_.push_back(std::make_unique<ListenWatcher>(*this, std::move(listener)));
        }
        retry_.server = this;
        retry_.fired = [](Timer& timer) {
            Implementation& server = *static_cast<Retry&>(timer).server;
            if (!server.watch_listeners())
                server.pause();
        };
    }

    ~Implementation() { (void)stop(); }

    Result<void> listen() {
        workers_.resize(reactors_.size());
        for (unsigned i = 0; i < reactors_.size(); ++i)
            reactors_[i].run_and_wait([&] { workers_[i] = std::make_unique<Worker>(reactors_[i], shared_); });
        Result<void> watching;
        reactors_[0].run_and_wait([&] { watching = watch_listeners(); });
        return watching;
    }

    Result<int> connect() {
        int ends[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
            return fail_errno("NBD connection");
        if (::fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0 || !shared_.population.enter(shared_.limits.connections)) {
            ::close(ends[0]);
            ::close(ends[1]);
            return fail(ErrorKind::refused, "the NBD server has {} connections already", shared_.limits.connections);
        }
        tune(ends[0], true);
        tune(ends[1], true);
        reactors_[0].run_and_wait([&] { hand_out(ends[0]); });
        return ends[1];
    }

    Result<void> stop() {
        if (std::exchange(stopped_, true))
            return {};
        reactors_[0].run_and_wait([this] {
            reactors_[0].queue().disarm(retry_);
            for (auto& watcher : watchers_)
                reactors_[0].queue().unwatch(*watcher);
            watchers_.clear();
        });
        for (unsigned i = 0; i < workers_.size(); ++i)
            reactors_[i].run_and_wait([&] { workers_[i]->stop(); });
        shared_.population.wait_until_empty();
        const Result<void> flushed = exports_.wait_all_closed();
        for (unsigned i = 0; i < workers_.size(); ++i)
            reactors_[i].run_and_wait([&] { workers_[i].reset(); });
        return flushed;
    }

    Result<void> disconnect(std::string_view name) {
        if (!exports_.begin_close(name))
            return {};
        for (unsigned i = 0; i < workers_.size(); ++i)
            reactors_[i].run_and_wait([&] { workers_[i]->end_connections_of(name); });
        return exports_.wait_closed(name);
    }

    const std::vector<std::string>& uris() const { return uris_; }
    std::vector<ExportStatistics> statistics() const { return exports_.statistics(); }
    unsigned connections() const { return shared_.population.count(); }

  private:
    struct ListenWatcher : Watcher {
        ListenWatcher(Implementation& owner, Listener&& taken) : server(owner), listener(std::move(taken)) {
            fd = listener.fd();
            events = EPOLLIN;
            ready = [](Watcher& watcher, std::uint32_t) {
                auto& self = static_cast<ListenWatcher&>(watcher);
                self.server.accept(self.listener);
            };
        }
        Implementation& server;
        Listener listener;
    };
    struct Retry : Timer {
        Implementation* server = nullptr;
    };

    Result<void> watch_listeners() {
        for (auto& watcher : watchers_)
            TRY(reactors_[0].queue().watch(*watcher));
        return {};
    }

    void accept(const Listener& listener) {
        // A few at a time; the rest is announced again.
        for (int count = 0; count < 16; ++count) {
            const int fd = ::accept4(listener.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd < 0) {
                if (errno == ECONNABORTED || errno == EINTR)
                    continue;
                if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                    pause();
                return;
            }
            if (!shared_.population.enter(shared_.limits.connections)) {
                ::close(fd);
                continue;
            }
            tune(fd, listener.is_unix());
            hand_out(fd);
        }
    }

    // To the reactor that has the fewest. The connection is among the population already.
    void hand_out(int fd) {
        Worker& worker = **std::min_element(workers_.begin(), workers_.end(), [](const auto& left, const auto& right) {
            return left->load().load(std::memory_order_relaxed) < right->load().load(std::memory_order_relaxed);
        });
        worker.load().fetch_add(1, std::memory_order_relaxed);
        worker.reactor().run([&worker, fd] { worker.adopt(fd); });
    }

    // Nothing to make a connection of. The waiting client would be announced without end: look again a little later.
    void pause() {
        IoQueue& queue = reactors_[0].queue();
        for (auto& watcher : watchers_)
            queue.unwatch(*watcher);
        queue.arm(retry_, queue.clock().monotonic() + std::chrono::milliseconds(100));
    }

    ReactorGroup& reactors_;
    Exports exports_;
    Shared shared_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<std::unique_ptr<ListenWatcher>> watchers_;
    Retry retry_;
    std::vector<std::string> uris_;
    bool stopped_ = false;
};

Server::Server(std::unique_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::start(ReactorGroup& reactors, ExportSource& source, const ServerOptions& options) {
    std::shared_ptr<const TlsCredentials> credentials;
    if (options.tls.mode != TlsMode::none)
        credentials = TRY(TlsCredentials::load(options.tls));
    std::vector<Listener> listeners;
    for (const std::string& path : options.unix_sockets)
        listeners.push_back(TRY(Listener::on_unix(path, options.unix_socket_mode)));
    for (const std::string& address : options.tcp_addresses)
        for (Listener& listener : TRY(Listener::on_tcp(address)))
            listeners.push_back(std::move(listener));
    if (options.socket_activation)
        for (Listener& listener : TRY(Listener::activated()))
            listeners.push_back(std::move(listener));
    if (listeners.empty() && options.socket_activation)
        return fail(ErrorKind::usage, "no socket to listen on: none was passed to this process");
    for (const Listener& listener : listeners)
        if (listener.beyond_this_host() && options.tls.mode != TlsMode::forced && !options.allow_insecure_tcp)
            return fail(ErrorKind::refused, "{}: other hosts could read and change everything; require TLS or allow insecure TCP",
                        listener.address());
    auto implementation = std::make_unique<Implementation>(reactors, source, options, std::move(credentials), std::move(listeners));
    TRY(implementation->listen());
    return std::unique_ptr<Server>(new Server(std::move(implementation)));
}

Result<void> Server::stop() { return implementation_->stop(); }
Result<int> Server::connect() { return implementation_->connect(); }
const std::vector<std::string>& Server::uris() const { return implementation_->uris(); }
Result<void> Server::disconnect(std::string_view export_name) { return implementation_->disconnect(export_name); }
std::vector<ExportStatistics> Server::statistics() const { return implementation_->statistics(); }
unsigned Server::connections() const { return implementation_->connections(); }

}  // namespace lamella::nbd
