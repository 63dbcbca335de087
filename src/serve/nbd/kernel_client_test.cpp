// SPDX-License-Identifier: Apache-2.0
//
// The client's side of the handshake: with the server of this process, and with servers that break the protocol. What the kernel does
// with the sockets is tested where there is a kernel for it: tests/kernel/31-attach.sh.
#include "serve/nbd/kernel_client.h"

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "device/memory_device.h"
#include "serve/nbd/wire.h"

namespace lamella::nbd {
namespace {

using testing::HasSubstr;

class OneExport final : public ExportSource {
  public:
    std::vector<ExportInfo> list() override { return {{"disk", "", device_.size()}}; }
    Result<std::unique_ptr<Export>> open(std::string_view name, bool read_only) override {
        if (name != "disk")
            return fail(ErrorKind::not_found, "no export of that name");
        return std::make_unique<Opened>(device_, read_only);
    }

  private:
    struct Opened final : Export {
        Opened(BlockDevice& device, bool read_only) : device_(device), read_only_(read_only) {}
        BlockDevice& device() override { return device_; }
        bool read_only() const override { return read_only_; }
        BlockDevice& device_;
        bool read_only_;
    };
    MemoryDevice device_{8 << 20};
};

TEST(NbdKernelClient, ShakesHandsWithTheServer) {
    ReactorGroup reactors = ReactorGroup::start(2).value();
    OneExport source;
    auto server = Server::start(reactors, source, {}).value();
    EXPECT_TRUE(server->uris().empty());
    for (const char* name : {"disk", ""}) {
        const int socket = server->connect().value();
        const auto parameters = client_handshake(socket, name);
        ASSERT_TRUE(parameters) << parameters.error().message();
        EXPECT_EQ(parameters->size, 8u << 20);
        EXPECT_TRUE(parameters->flags & transmission_flag::can_multi_conn);
        EXPECT_FALSE(parameters->flags & transmission_flag::read_only);
        EXPECT_EQ(server->connections(), 1u);
        // The transmission phase has begun: a read is answered.
        std::array<std::byte, request_bytes> request{};
        store_big(request.data(), request_magic);
        store_big(request.data() + 24, std::uint32_t{512});
        ASSERT_EQ(::send(socket, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
        std::array<std::byte, 16 + 512> reply;
        ASSERT_EQ(::recv(socket, reply.data(), reply.size(), MSG_WAITALL), static_cast<ssize_t>(reply.size()));
        EXPECT_EQ(load_big<std::uint32_t>(reply.data()), simple_reply_magic);
        EXPECT_EQ(load_big<std::uint32_t>(reply.data() + 4), 0u);
        ::close(socket);
        ASSERT_TRUE(server->disconnect("disk"));
        while (server->connections() > 0)
            std::this_thread::yield();
    }
    const int socket = server->connect().value();
    const auto refused = client_handshake(socket, "nothing");
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::not_found);
    ::close(socket);
    EXPECT_TRUE(server->stop());
}

TEST(NbdKernelClient, ReadOnlyServerSaysSo) {
    ReactorGroup reactors = ReactorGroup::start(1).value();
    OneExport source;
    ServerOptions options;
    options.read_only = true;
    options.limits.connections = 1;
    auto server = Server::start(reactors, source, options).value();
    const int socket = server->connect().value();
    EXPECT_TRUE(client_handshake(socket, "disk").value().flags & transmission_flag::read_only);
    EXPECT_EQ(server->connect().error().kind(), ErrorKind::refused);
    ::close(socket);
}

std::string big(std::uint64_t value, int bytes) {
    std::string text;
    while (bytes-- > 0)
        text += static_cast<char>(value >> (8 * bytes));
    return text;
}

std::string greeting(std::uint16_t flags = handshake_flag::fixed_newstyle) {
    return big(greeting_magic, 8) + big(option_magic, 8) + big(flags, 2);
}

std::string reply(std::uint32_t type, const std::string& content, std::uint32_t length_more = 0) {
    return big(option_reply_magic, 8) + big(7, 4) + big(type, 4) + big(content.size() + length_more, 4) + content;
}

// What the client says to a server that sends these bytes and ends.
Result<ExportParameters> against(const std::string& bytes) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    std::thread server([&] {
        (void)!::send(ends[0], bytes.data(), bytes.size(), MSG_NOSIGNAL);
        ::shutdown(ends[0], SHUT_WR);
        // Taken until the client ends, so that it can't block or be broken off.
        char taken[256];
        while (::recv(ends[0], taken, sizeof taken, 0) > 0) {}
    });
    Result<ExportParameters> outcome = client_handshake(ends[1], "disk");
    ::close(ends[1]);
    server.join();
    ::close(ends[0]);
    return outcome;
}

TEST(NbdKernelClient, BelievesNoServerThatBreaksTheProtocol) {
    const std::string info = reply(3, big(0, 2) + big(1 << 20, 8) + big(1, 2));
    const std::string sound = greeting() + reply(3, big(3, 2) + std::string(12, 0)) + info + reply(1, "");
    const auto parameters = against(sound);
    ASSERT_TRUE(parameters) << parameters.error().message();
    EXPECT_EQ(parameters->size, 1u << 20);
    EXPECT_EQ(parameters->flags, 1u);

    for (std::size_t length = 0; length < sound.size(); ++length)
        EXPECT_FALSE(against(sound.substr(0, length))) << length;

    std::string many = greeting();
    for (int i = 0; i < 100; ++i)
        many += info;
    const std::pair<std::string, const char*> broken[] = {
        {big(greeting_magic, 8) + big(0x00420281861253, 8) + big(1, 2), "newstyle"},
        {greeting(0), "fixed newstyle"},
        {greeting() + big(option_magic, 8) + std::string(12, 0), "isn't one"},
        {greeting() + big(option_reply_magic, 8) + big(6, 4) + big(1, 4) + big(0, 4), "isn't one"},
        {greeting() + reply(1, ""), "never told"},
        {greeting() + reply(3, ""), "type 0x3"},
        {greeting() + reply(2, "name"), "type 0x2"},
        {greeting() + reply(3, big(0, 2) + big(1, 8)), "10 bytes"},
        {greeting() + reply(3, "ab", 0xffff'0000), "bytes"},
        {many + reply(1, ""), "more than"},
        {greeting() + reply(0x8000'0002, "not for you"), "not for you"},
        {greeting() + reply(0x8000'0008, ""), "refused"},
    };
    for (const auto& [bytes, words] : broken) {
        const auto outcome = against(bytes);
        ASSERT_FALSE(outcome) << words;
        EXPECT_THAT(outcome.error().message(), HasSubstr(words));
    }
}

TEST(NbdKernelClient, NoDeviceOfAnUnknownIdentifier) {
    EXPECT_TRUE(kernel_devices("lamella/there is none").empty());
    EXPECT_FALSE(disconnect_kernel_device("/dev/null"));
}

}  // namespace
}  // namespace lamella::nbd
