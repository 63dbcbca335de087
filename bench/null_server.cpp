// SPDX-License-Identifier: Apache-2.0
//
// bench_null_server SOCKET [BYTES [THREADS]]: Lamella's NBD server over a device that does nothing, until SIGTERM. What a request costs
// here is protocol, sockets and threads alone. Reads are zeros that are sent as data, as `nbdkit null` does: a hole would spare their way
// through the socket and so measure something else.
#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "device/zero_device.h"
#include "serve/nbd/server.h"
#include "serve/reactor.h"

namespace {

using namespace lamella;

class NullDevice final : public BlockDevice {
  public:
    explicit NullDevice(std::uint64_t size) : zeros_(size, "null") {}
    std::uint64_t size() const override { return zeros_.size(); }
    DeviceTraits traits() const override { return zeros_.traits(); }
    std::string name() const override { return zeros_.name(); }
    void submit(IoQueue& queue, IoRequest& request) override {
        request.holes = nullptr;
        zeros_.submit(queue, request);
    }

  private:
    ZeroDevice zeros_;
};

class NullExport final : public Export {
  public:
    explicit NullExport(std::uint64_t size) : device_(size) {}
    BlockDevice& device() override { return device_; }
    bool read_only() const override { return false; }

  private:
    NullDevice device_;
};

class NullSource final : public ExportSource {
  public:
    explicit NullSource(std::uint64_t size) : size_(size) {}
    std::vector<ExportInfo> list() override { return {{.name = "null", .description = "discards what is written", .size = size_}}; }
    Result<std::unique_ptr<Export>> open(std::string_view name, bool) override {
        if (name != "null")
            return fail(ErrorKind::not_found, "no export {}", name);
        return std::make_unique<NullExport>(size_);
    }

  private:
    std::uint64_t size_;
};

Result<void> serve_until_signal(const char* socket, std::uint64_t size, unsigned threads, const sigset_t& signals) {
    ReactorGroup reactors = TRY(ReactorGroup::start(threads));
    NullSource source(size);
    nbd::ServerOptions options;
    options.unix_sockets = {socket};
    std::unique_ptr<nbd::Server> server = TRY(nbd::Server::start(reactors, source, options));
    int signal = 0;
    sigwait(&signals, &signal);
    return server->stop();
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2 || argc > 4) {
        std::fprintf(stderr, "usage: bench_null_server SOCKET [BYTES [THREADS]]\n");
        return 2;
    }
    const std::uint64_t size = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1ull << 30;
    const unsigned threads = argc > 3 ? static_cast<unsigned>(std::strtoul(argv[3], nullptr, 10)) : 0;
    // Blocked before the first thread starts, so that every thread inherits it and only sigwait() takes them.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    if (auto served = serve_until_signal(argv[1], size, threads, signals); !served) {
        std::fprintf(stderr, "bench_null_server: %s\n", served.error().message().c_str());
        return 1;
    }
    return 0;
}
