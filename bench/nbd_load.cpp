// SPDX-License-Identifier: Apache-2.0
//
// bench_nbd_load: an NBD client that gets out of the server's way. One connection, simple replies, all requests that are due in one send,
// all replies that are there in one receive, payloads left where they fall. Stock clients spend more time on a request than a good
// server does, and so measure themselves.
//
// It prints one JSON object; with --latencies each request's start and duration go to a file as pairs of native 64-bit integers,
// nanoseconds of CLOCK_MONOTONIC, so that whoever knows when something happened can look at the requests of that time.
// SIGTERM ends a run early, in order.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/endian.h"

namespace {

using namespace lamella;

constexpr std::uint64_t greeting_magic = 0x4e42444d41474943;
constexpr std::uint64_t option_magic = 0x49484156454f5054;
constexpr std::uint64_t option_reply_magic = 0x0003e889045565a9;
constexpr std::uint32_t request_magic = 0x25609513;
constexpr std::uint32_t simple_reply_magic = 0x67446698;
constexpr std::uint32_t option_go = 7;
constexpr std::uint32_t option_reply_ack = 1;
constexpr std::uint32_t option_reply_info = 3;
constexpr std::size_t request_bytes = 28;
constexpr std::size_t reply_bytes = 16;
constexpr std::size_t vectors_per_send = 1024;  // IOV_MAX

volatile std::sig_atomic_t stop_wanted = 0;

[[noreturn]] void die(const std::string& message) {
    std::fprintf(stderr, "bench_nbd_load: %s\n", message.c_str());
    std::exit(1);
}
[[noreturn]] void die_errno(const std::string& what) { die(what + ": " + std::strerror(errno)); }

std::uint64_t now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(time.tv_nsec);
}

struct Options {
    std::string socket;
    std::string export_name;
    bool write = false;
    enum class Pattern { random, sequential } pattern = Pattern::random;
    std::uint64_t block = 4096;  // bytes in a request
    std::uint64_t stride = 0;    // bytes from one possible offset to the next; 0: as `block`
    std::uint64_t offset = 0;    // where the range begins
    std::uint64_t span = 0;      // bytes in the range; 0: to the end
    unsigned depth = 1;
    double seconds = 0;  // 0: until `requests` are done
    std::uint64_t requests = ~std::uint64_t{0};
    std::uint64_t seed = 1;
    std::string latencies;
};

void write_all(int fd, const std::vector<std::byte>& bytes) {
    for (std::size_t done = 0; done < bytes.size();) {
        const ssize_t count = ::write(fd, bytes.data() + done, bytes.size() - done);
        if (count <= 0)
            die_errno("write");
        done += static_cast<std::size_t>(count);
    }
}

std::vector<std::byte> read_exactly(int fd, std::size_t size) {
    std::vector<std::byte> bytes(size);
    for (std::size_t done = 0; done < size;) {
        const ssize_t count = ::read(fd, bytes.data() + done, size - done);
        if (count < 0)
            die_errno("read");
        if (count == 0)
            die("the server closed the connection");
        done += static_cast<std::size_t>(count);
    }
    return bytes;
}

int connect_to(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
        die(path + ": too long for a socket's path");
    std::memcpy(address.sun_path, path.c_str(), path.size());
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die_errno("socket");
    const int buffer = 4 << 20;
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
        die_errno(path);
    return fd;
}

// Fixed newstyle, NBD_OPT_GO, no structured replies. Returns the export's size.
std::uint64_t shake_hands(int fd, const std::string& export_name) {
    const std::vector<std::byte> greeting = read_exactly(fd, 18);
    if (load_big<std::uint64_t>(&greeting[0]) != greeting_magic || load_big<std::uint64_t>(&greeting[8]) != option_magic)
        die("not a newstyle NBD server");
    const std::uint16_t handshake_flags = load_big<std::uint16_t>(&greeting[16]) & 3;  // fixed newstyle, no zeroes

    const std::uint32_t name_bytes = static_cast<std::uint32_t>(export_name.size());
    std::vector<std::byte> option(4 + 16 + 4 + name_bytes + 2);
    store_big<std::uint32_t>(&option[0], handshake_flags);
    store_big<std::uint64_t>(&option[4], option_magic);
    store_big<std::uint32_t>(&option[12], option_go);
    store_big<std::uint32_t>(&option[16], 4 + name_bytes + 2);
    store_big<std::uint32_t>(&option[20], name_bytes);
    std::memcpy(&option[24], export_name.data(), name_bytes);
    write_all(fd, option);

    std::uint64_t size = 0;
    while (true) {
        const std::vector<std::byte> header = read_exactly(fd, 20);
        if (load_big<std::uint64_t>(&header[0]) != option_reply_magic)
            die("bad option reply");
        const std::uint32_t kind = load_big<std::uint32_t>(&header[12]);
        const std::uint32_t length = load_big<std::uint32_t>(&header[16]);
        if (length > 65536)
            die("an option reply without measure");
        const std::vector<std::byte> payload = read_exactly(fd, length);
        if (kind == option_reply_ack)
            return size;
        if (kind & 0x80000000)
            die("the server refuses export '" + export_name + "': " + std::string(reinterpret_cast<const char*>(payload.data()), length));
        if (kind == option_reply_info && length >= 12 && load_big<std::uint16_t>(&payload[0]) == 0)
            size = load_big<std::uint64_t>(&payload[2]);
    }
}

struct Latency {
    std::uint64_t start;     // ns
    std::uint64_t duration;  // ns
};

class Load {
  public:
    Load(int fd, const Options& options)
        : fd_(fd),
          options_(options),
          places_((options.span - options.block) / options.stride + 1),
          random_(options.seed),
          headers_(options.depth * request_bytes),
          starts_(options.depth),
          payload_(options.write ? options.block : 0),
          received_(std::max<std::size_t>(1 << 20, 2 * (reply_bytes + options.block))) {
        for (std::byte& byte : payload_)
            byte = static_cast<std::byte>(random_() | 1);  // never zeros: a server may spare itself writing those
        for (std::uint32_t slot = options.depth; slot-- > 0;)
            free_.push_back(slot);
    }

    void run() {
        begin_ = now();
        deadline_ = options_.seconds > 0 ? begin_ + static_cast<std::uint64_t>(options_.seconds * 1e9) : ~std::uint64_t{0};
        add_due();
        while (free_.size() < options_.depth) {
            send_some();
            receive();
            add_due();
        }
        end_ = now();
    }

    void report() const {
        const double seconds = static_cast<double>(end_ - begin_) / 1e9;
        std::printf(
            "{\"requests\": %llu, \"seconds\": %.6f, \"iops\": %.1f, \"bytes_per_second\": %.0f, \"sends\": %llu, "
            "\"receives\": %llu, \"longest_us\": %.1f}\n",
            static_cast<unsigned long long>(done_), seconds, static_cast<double>(done_) / seconds,
            static_cast<double>(done_ * options_.block) / seconds, static_cast<unsigned long long>(sends_),
            static_cast<unsigned long long>(receives_), static_cast<double>(longest_) / 1e3);
        if (options_.latencies.empty())
            return;
        std::FILE* file = std::fopen(options_.latencies.c_str(), "wb");
        if (file == nullptr || std::fwrite(latencies_.data(), sizeof(Latency), latencies_.size(), file) != latencies_.size() ||
            std::fclose(file) != 0)
            die_errno(options_.latencies);
    }

  private:
    // Puts a request into every free slot, as long as the run lasts.
    void add_due() {
        if (free_.empty() || started_ == options_.requests || stop_wanted)
            return;
        const std::uint64_t time = now();
        if (time >= deadline_)
            return;
        while (!free_.empty() && started_ < options_.requests) {
            const std::uint32_t slot = free_.back();
            free_.pop_back();
            const std::uint64_t place = options_.pattern == Options::Pattern::random ? random_() % places_ : started_ % places_;
            ++started_;
            starts_[slot] = time;
            std::byte* header = &headers_[slot * request_bytes];
            store_big<std::uint32_t>(header, request_magic);
            store_big<std::uint16_t>(header + 4, 0);
            store_big<std::uint16_t>(header + 6, options_.write ? 1 : 0);
            store_big<std::uint64_t>(header + 8, slot);
            store_big<std::uint64_t>(header + 16, options_.offset + place * options_.stride);
            store_big<std::uint32_t>(header + 24, static_cast<std::uint32_t>(options_.block));
            unsent_.push_back({header, request_bytes});
            if (options_.write)
                unsent_.push_back({payload_.data(), payload_.size()});
        }
    }

    void send_some() {
        while (first_unsent_ < unsent_.size()) {
            msghdr message{};
            message.msg_iov = &unsent_[first_unsent_];
            message.msg_iovlen = std::min(unsent_.size() - first_unsent_, vectors_per_send);
            const ssize_t count = ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (count < 0 && errno == EINTR)
                continue;
            if (count < 0 && errno == EAGAIN)
                return;
            if (count < 0)
                die_errno("send");
            ++sends_;
            for (std::size_t left = static_cast<std::size_t>(count); left > 0;) {
                iovec& vector = unsent_[first_unsent_];
                const std::size_t piece = std::min(left, vector.iov_len);
                vector.iov_base = static_cast<std::byte*>(vector.iov_base) + piece;
                vector.iov_len -= piece;
                left -= piece;
                if (vector.iov_len == 0)
                    ++first_unsent_;
            }
        }
        unsent_.clear();
        first_unsent_ = 0;
    }

    // Waits for replies, or, with requests still to be sent, for room to send them.
    void receive() {
        if (!unsent_.empty()) {
            pollfd ready{.fd = fd_, .events = POLLIN | POLLOUT, .revents = 0};
            if (::poll(&ready, 1, -1) < 0 && errno != EINTR)
                die_errno("poll");
            if (!(ready.revents & (POLLIN | POLLHUP | POLLERR)))
                return;
        }
        const ssize_t count = ::recv(fd_, &received_[have_], received_.size() - have_, 0);
        if (count < 0 && errno == EINTR)
            return;
        if (count < 0)
            die_errno("receive");
        if (count == 0)
            die("the server closed the connection");
        ++receives_;
        have_ += static_cast<std::size_t>(count);
        take_replies();
    }

    void take_replies() {
        const std::size_t payload = options_.write ? 0 : options_.block;
        const std::uint64_t time = now();
        std::size_t at = 0;
        while (have_ - at >= reply_bytes) {
            const std::byte* reply = &received_[at];
            if (load_big<std::uint32_t>(reply) != simple_reply_magic)
                die("bad reply");
            if (const std::uint32_t error = load_big<std::uint32_t>(reply + 4))
                die("a request failed: " + std::string(std::strerror(static_cast<int>(error))));
            if (have_ - at < reply_bytes + payload)
                break;
            const std::uint64_t slot = load_big<std::uint64_t>(reply + 8);
            if (slot >= options_.depth)
                die("a reply to nothing");
            const std::uint64_t duration = time - starts_[slot];
            longest_ = std::max(longest_, duration);
            if (!options_.latencies.empty())
                latencies_.push_back({starts_[slot], duration});
            free_.push_back(static_cast<std::uint32_t>(slot));
            ++done_;
            at += reply_bytes + payload;
        }
        have_ -= at;
        std::memmove(received_.data(), received_.data() + at, have_);
    }

    int fd_;
    const Options& options_;
    const std::uint64_t places_;
    std::mt19937_64 random_;
    std::vector<std::byte> headers_;  // of each slot; the slot's number is the request's cookie
    std::vector<std::uint64_t> starts_;
    std::vector<std::uint32_t> free_;
    std::vector<std::byte> payload_;
    std::vector<iovec> unsent_;
    std::size_t first_unsent_ = 0;
    std::vector<std::byte> received_;
    std::size_t have_ = 0;
    std::uint64_t begin_ = 0, end_ = 0, deadline_ = 0;
    std::uint64_t started_ = 0, done_ = 0, sends_ = 0, receives_ = 0, longest_ = 0;
    std::vector<Latency> latencies_;
};

std::uint64_t number(const std::string& text) {
    char* end = nullptr;
    errno = 0;
    const std::uint64_t value = std::strtoull(text.c_str(), &end, 10);
    if (errno != 0 || *end != '\0' || text.empty() || text[0] == '-')
        die("not a number: " + text);
    return value;
}

Options parse(int argc, char** argv) {
    std::map<std::string, std::string> given;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc || std::strncmp(argv[i], "--", 2) != 0)
            die("usage: --socket PATH --export NAME [--op read|write] [--pattern random|sequential] [--block BYTES] [--stride BYTES] "
                "[--offset BYTES] [--span BYTES] [--depth N] [--seconds S] [--requests N] [--seed N] [--latencies FILE]");
        given[argv[i] + 2] = argv[i + 1];
    }
    Options options;
    const auto take = [&](const char* name, auto use) {
        if (auto found = given.extract(name))
            use(found.mapped());
    };
    take("socket", [&](const std::string& value) { options.socket = value; });
    take("export", [&](const std::string& value) { options.export_name = value; });
    take("op", [&](const std::string& value) { options.write = value == "write"; });
    take("pattern", [&](const std::string& value) {
        options.pattern = value == "sequential" ? Options::Pattern::sequential : Options::Pattern::random;
    });
    take("block", [&](const std::string& value) { options.block = number(value); });
    take("stride", [&](const std::string& value) { options.stride = number(value); });
    take("offset", [&](const std::string& value) { options.offset = number(value); });
    take("span", [&](const std::string& value) { options.span = number(value); });
    take("depth", [&](const std::string& value) { options.depth = static_cast<unsigned>(number(value)); });
    take("seconds", [&](const std::string& value) { options.seconds = std::atof(value.c_str()); });
    take("requests", [&](const std::string& value) { options.requests = number(value); });
    take("seed", [&](const std::string& value) { options.seed = number(value); });
    take("latencies", [&](const std::string& value) { options.latencies = value; });
    if (!given.empty())
        die("no such option: --" + given.begin()->first);
    if (options.stride == 0)
        options.stride = options.block;
    if (options.block == 0 || options.block > 32 << 20 || options.depth == 0 || options.depth > 65536)
        die("--block is 1 .. 32 MiB, --depth 1 .. 65536");
    if (options.seconds <= 0 && options.requests == ~std::uint64_t{0})
        die("--seconds or --requests");
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    Options options = parse(argc, argv);
    struct sigaction action {};
    action.sa_handler = [](int) { stop_wanted = 1; };
    sigaction(SIGTERM, &action, nullptr);

    const int fd = connect_to(options.socket);
    const std::uint64_t size = shake_hands(fd, options.export_name);
    if (options.offset >= size)
        die("--offset lies beyond the export");
    options.span = options.span == 0 ? size - options.offset : std::min(options.span, size - options.offset);
    if (options.span < options.block)
        die("the range is smaller than a request");
    Load load(fd, options);
    load.run();
    std::vector<std::byte> disconnect(request_bytes);
    store_big<std::uint32_t>(&disconnect[0], request_magic);
    store_big<std::uint16_t>(&disconnect[6], 2);
    write_all(fd, disconnect);
    ::close(fd);
    load.report();
    return 0;
}
