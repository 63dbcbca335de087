// SPDX-License-Identifier: Apache-2.0
//
// A server of one device, for tests that need it as a process of its own and for measuring what the server itself costs:
//
//   nbd_test_server null SIZE      reads give whatever the buffer held, writes go nowhere
//   nbd_test_server memory SIZE
//   nbd_test_server file PATH
//
// and then --unix PATH, --tcp ADDRESS:PORT, --threads N, --read-only. Without an address it listens on the sockets that it is
// passed. It ends at SIGTERM or SIGINT.
#include <charconv>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "device/file_device.h"
#include "device/memory_device.h"
#include "serve/nbd/server.h"

namespace {

using namespace lamella;

class NullDevice final : public BlockDevice {
  public:
    explicit NullDevice(std::uint64_t size) : size_(size) {}
    std::uint64_t size() const override { return size_; }
    DeviceTraits traits() const override { return {.discards = true}; }
    std::string name() const override { return "null"; }
    void submit(IoQueue& queue, IoRequest& request) override { queue.complete_later(request, 0); }

  private:
    std::uint64_t size_;
};

class OneExport final : public ExportSource {
  public:
    explicit OneExport(BlockDevice& device) : device_(device) {}

    std::vector<ExportInfo> list() override { return {{device_.name(), "", device_.size()}}; }
    Result<std::unique_ptr<Export>> open(std::string_view name, bool read_only) override {
        if (name != device_.name())
            return fail(ErrorKind::not_found, "no such export");
        return std::make_unique<Opened>(device_, read_only);
    }

  private:
    struct Opened final : Export {
        Opened(BlockDevice& opened, bool for_reading) : opened_device(opened), for_reading_only(for_reading) {}
        BlockDevice& device() override { return opened_device; }
        bool read_only() const override { return for_reading_only; }
        BlockDevice& opened_device;
        bool for_reading_only;
    };
    BlockDevice& device_;
};

Result<void> serve(const std::vector<std::string>& arguments) {
    if (arguments.size() < 2)
        return fail(ErrorKind::usage, "nbd_test_server null SIZE | memory SIZE | file PATH [option...]");
    nbd::ServerOptions options;
    unsigned threads = 0;
    for (std::size_t i = 2; i < arguments.size(); ++i) {
        const std::string& option = arguments[i];
        if (option == "--read-only")
            options.read_only = true;
        else if (i + 1 == arguments.size())
            return fail(ErrorKind::usage, "{} what?", option);
        else if (option == "--unix")
            options.unix_sockets.push_back(arguments[++i]);
        else if (option == "--tcp")
            options.tcp_addresses.push_back(arguments[++i]);
        else if (option == "--threads")
            threads = static_cast<unsigned>(std::stoul(arguments[++i]));
        else
            return fail(ErrorKind::usage, "{}?", option);
    }
    options.socket_activation = options.unix_sockets.empty() && options.tcp_addresses.empty();

    std::unique_ptr<BlockDevice> device;
    if (arguments[0] == "null")
        device = std::make_unique<NullDevice>(std::stoull(arguments[1]));
    else if (arguments[0] == "memory")
        device = std::make_unique<MemoryDevice>(std::stoull(arguments[1]));
    else
        device = TRY(FileDevice::open(arguments[1]));

    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, nullptr);  // before there are threads, which inherit it

    auto reactors = TRY(ReactorGroup::start(threads));
    OneExport source(*device);
    const auto server = TRY(nbd::Server::start(reactors, source, options));
    int signal = 0;
    sigwait(&signals, &signal);
    return server->stop();
}

}  // namespace

int main(int count, char** arguments) {
    const auto result = serve(std::vector<std::string>(arguments + 1, arguments + count));
    if (!result)
        std::fprintf(stderr, "nbd_test_server: %s\n", result.error().message().c_str());
    return result ? 0 : 1;
}
