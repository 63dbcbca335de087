// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/listener.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/file_descriptor.h"

namespace lamella::nbd {

namespace {

constexpr int backlog = 1024;
constexpr int first_activated_fd = 3;  // SD_LISTEN_FDS_START of sd_listen_fds(3)

// Removes a socket's file that nobody listens on.
Result<void> make_way(const std::string& path, const sockaddr_un& address, socklen_t length) {
    struct stat status;
    if (::lstat(path.c_str(), &status) != 0)
        return errno == ENOENT ? Result<void>() : fail_errno(path);
    if (!S_ISSOCK(status.st_mode))
        return fail(ErrorKind::exists, "{}: exists and is no socket", path);
    const FileDescriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!probe.valid())
        return fail_errno("socket");
    if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0 || errno == EAGAIN)
        return fail(ErrorKind::refused, "{}: another process is listening there", path);
    if (errno != ECONNREFUSED)
        return fail_errno(path);
    if (::unlink(path.c_str()) != 0)
        return fail_errno(path);
    return {};
}

}  // namespace

Listener::Listener(Listener&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      unix_(other.unix_),
      path_(std::exchange(other.path_, {})),
      device_(other.device_),
      inode_(other.inode_) {}

Listener& Listener::operator=(Listener&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(unix_, other.unix_);
    std::swap(path_, other.path_);
    std::swap(device_, other.device_);
    std::swap(inode_, other.inode_);
    return *this;
}

Listener::~Listener() {
    if (fd_ < 0)
        return;
    struct stat status;
    if (!path_.empty() && ::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ && status.st_ino == inode_)
        ::unlink(path_.c_str());
    ::close(fd_);
}

Result<Listener> Listener::on_unix(const std::string& path, unsigned mode) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path)
        return fail(ErrorKind::usage, "{}: a socket's path has 1 to {} bytes", path, sizeof address.sun_path - 1);
    std::memcpy(address.sun_path, path.data(), path.size());
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);

    // Two that start at once would each find the other's socket bound but not yet listening, and remove it.
    const auto slash = path.rfind('/');
    const std::string folder = slash == path.npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
    const FileDescriptor lock(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!lock.valid())
        return fail_errno(folder);
    while (::flock(lock.get(), LOCK_EX) != 0)
        if (errno != EINTR)
            return fail_errno(folder);
    TRY(make_way(path, address, length));

    FileDescriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid())
        return fail_errno("socket");
    // bind() gives the file the mode of the socket: at no time anybody else can connect.
    if (::fchmod(fd.get(), mode) != 0 || ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0)
        return fail_errno(path);
    struct stat status;
    if (::chmod(path.c_str(), mode) != 0 || ::stat(path.c_str(), &status) != 0 || ::listen(fd.get(), backlog) != 0) {
        const int error = errno;
        ::unlink(path.c_str());
        return fail_errno(path, error);
    }
    Listener listener(fd.release());
    listener.unix_ = true;
    listener.path_ = path;
    listener.device_ = status.st_dev;
    listener.inode_ = status.st_ino;
    return listener;
}

Result<std::vector<Listener>> Listener::on_tcp(const std::string& address) {
    const auto colon = address.rfind(':');
    std::string host = address.substr(0, colon == address.npos ? 0 : colon);
    const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
    if (bracketed)
        host = host.substr(1, host.size() - 2);
    const std::string port = colon == address.npos ? "" : address.substr(colon + 1);
    unsigned number = 0;
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
    if (host.empty() || (!bracketed && host.find(':') != host.npos) || error != std::errc() || end != port.data() + port.size() ||
        number > 65535)
        return fail(ErrorKind::usage, "{}: an address to listen on is ADDRESS:PORT or [ADDRESS]:PORT", address);

    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    if (const int code = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found); code != 0)
        return fail(ErrorKind::not_found, "{}: {}", address, ::gai_strerror(code));
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> all(found, ::freeaddrinfo);
    std::vector<Listener> listeners;
    for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
        FileDescriptor fd(::socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (!fd.valid())
            return fail_errno("socket");
        const int on = 1;
        ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (one->ai_family == AF_INET6)
            ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
        if (::bind(fd.get(), one->ai_addr, one->ai_addrlen) != 0 || ::listen(fd.get(), backlog) != 0)
            return fail_errno(address);
        listeners.push_back(Listener(fd.release()));
    }
    return listeners;
}

Result<std::vector<Listener>> Listener::activated() {
    const auto number = [](const char* name) {
        const char* text = std::getenv(name);
        unsigned value = 0;
        if (text != nullptr)
            std::from_chars(text, text + std::strlen(text), value);
        return value;
    };
    const unsigned count = number("LISTEN_FDS");
    const bool ours = number("LISTEN_PID") == static_cast<unsigned>(::getpid());
    std::vector<std::string> names;
    if (const char* text = std::getenv("LISTEN_FDNAMES"); text != nullptr)
        for (std::string_view left = text; names.size() < count;) {
            const auto colon = left.find(':');
            names.emplace_back(left.substr(0, colon));
            if (colon == left.npos)
                break;
            left.remove_prefix(colon + 1);
        }
    std::vector<Listener> listeners;
    if (!ours || count == 0)
        return listeners;
    for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"})
        ::unsetenv(name);
    names.resize(count);
    const bool named = std::find(names.begin(), names.end(), "nbd") != names.end();
    for (unsigned i = 0; i < count; ++i)
        if (!named || names[i] == "nbd")
            listeners.push_back(TRY_WITHIN("socket activation", adopt(first_activated_fd + static_cast<int>(i))));
    return listeners;
}

Result<Listener> Listener::adopt(int fd) {
    int value = 0;
    socklen_t length = sizeof value;
    if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) != 0)
        return fail_errno(fmt::format("file descriptor {}", fd));
    if (value == 0)
        return fail(ErrorKind::usage, "file descriptor {} isn't listening", fd);
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) != 0)
        return fail_errno(fmt::format("file descriptor {}", fd));
    Listener listener(fd);
    length = sizeof value;
    listener.unix_ = ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &length) == 0 && value == AF_UNIX;
    return listener;
}

bool Listener::beyond_this_host() const {
    if (unix_)
        return false;
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    if (::getsockname(fd_, reinterpret_cast<sockaddr*>(&storage), &length) != 0)
        return true;
    if (storage.ss_family == AF_INET)
        return ntohl(reinterpret_cast<const sockaddr_in&>(storage).sin_addr.s_addr) >> 24 != 127;
    if (storage.ss_family == AF_INET6)
        return !IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6&>(storage).sin6_addr);
    return storage.ss_family != AF_VSOCK;
}

std::string Listener::address() const {
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    if (::getsockname(fd_, reinterpret_cast<sockaddr*>(&storage), &length) != 0)
        return "?";
    char text[INET6_ADDRSTRLEN] = "?";
    if (storage.ss_family == AF_UNIX) {
        const auto& address = reinterpret_cast<const sockaddr_un&>(storage);
        return std::string(address.sun_path, ::strnlen(address.sun_path, length - offsetof(sockaddr_un, sun_path)));
    }
    if (storage.ss_family == AF_INET) {
        const auto& address = reinterpret_cast<const sockaddr_in&>(storage);
        ::inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
        return fmt::format("{}:{}", text, ntohs(address.sin_port));
    }
    if (storage.ss_family == AF_INET6) {
        const auto& address = reinterpret_cast<const sockaddr_in6&>(storage);
        ::inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof text);
        return fmt::format("[{}]:{}", text, ntohs(address.sin6_port));
    }
    return "?";
}

}  // namespace lamella::nbd
