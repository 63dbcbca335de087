// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/kernel_client.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>

#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/file_descriptor.h"
#include "serve/nbd/wire.h"

extern char** environ;

namespace lamella::nbd {

namespace {

constexpr std::size_t max_name_bytes = 4096;       // as doc/proto.md limits strings
constexpr std::size_t max_reply_bytes = 64 << 10;  // of one option reply; the longest sensible one is an error in words
constexpr int max_replies = 64;                    // of the server to one option
constexpr std::size_t export_info_bytes = 12;
constexpr timeval handshake_timeout{10, 0};
constexpr timeval no_timeout{0, 0};
constexpr std::uint64_t sector_bytes = 512;
constexpr int connect_attempts = 16;
constexpr std::size_t netlink_buffer_bytes = 16 << 10;

// ---- The handshake --------------------------------------------------------------------------------------------------------------

Result<void> receive(int socket, std::span<std::byte> into) {
    while (!into.empty()) {
        const ssize_t count = ::recv(socket, into.data(), into.size(), 0);
        if (count < 0 && errno == EINTR)
            continue;
        if (count == 0)
            return fail(ErrorKind::failed, "NBD handshake: the server ended the connection");
        if (count < 0)
            return fail_errno("NBD handshake");
        into = into.subspan(static_cast<std::size_t>(count));
    }
    return {};
}

Result<void> send(int socket, std::span<const std::byte> from) {
    while (!from.empty()) {
        const ssize_t count = ::send(socket, from.data(), from.size(), MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return fail_errno("NBD handshake");
        from = from.subspan(static_cast<std::size_t>(count));
    }
    return {};
}

ErrorKind kind_of(OptionReply error) {
    switch (error) {
    case OptionReply::error_unknown: return ErrorKind::not_found;
    case OptionReply::error_unsupported: return ErrorKind::unsupported;
    default: return ErrorKind::refused;
    }
}

// ---- Generic netlink ------------------------------------------------------------------------------------------------------------

// A message being put together. Numbers are in the host's byte order, as netlink has them.
class Message {
  public:
    Message(std::uint16_t family, std::uint8_t command) {
        nlmsghdr header{};
        header.nlmsg_type = family;
        header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
        append(&header, sizeof header);
        genlmsghdr generic{};
        generic.cmd = command;
        generic.version = 1;  // CTRL's and NBD's
        append(&generic, sizeof generic);
    }

    template <std::unsigned_integral T>
    void number(std::uint16_t type, T value) {
        bytes(type, &value, sizeof value);
    }
    void text(std::uint16_t type, const std::string& value) { bytes(type, value.c_str(), value.size() + 1); }
    template <typename Content>
    void nest(std::uint16_t type, Content content) {
        const std::size_t start = data_.size();
        bytes(type | NLA_F_NESTED, nullptr, 0);
        content();
        const auto length = static_cast<std::uint16_t>(data_.size() - start);
        std::memcpy(data_.data() + start + offsetof(nlattr, nla_len), &length, sizeof length);
    }

    std::span<const std::byte> finish(std::uint32_t sequence) {
        const auto length = static_cast<std::uint32_t>(data_.size());
        std::memcpy(data_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof length);
        std::memcpy(data_.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof sequence);
        return data_;
    }

  private:
    void bytes(std::uint16_t type, const void* from, std::size_t count) {
        nlattr header{};
        header.nla_len = static_cast<std::uint16_t>(NLA_HDRLEN + count);
        header.nla_type = type;
        append(&header, sizeof header);
        append(from, count);
    }
    // With the padding that all parts end with.
    void append(const void* from, std::size_t count) {
        const auto* first = static_cast<const std::byte*>(from);
        data_.insert(data_.end(), first, first + count);
        data_.resize(NLMSG_ALIGN(data_.size()));
    }

    std::vector<std::byte> data_;
};

// The value of an attribute among those that follow each other in `attributes`.
template <std::unsigned_integral T>
std::optional<T> number_in(std::span<const std::byte> attributes, std::uint16_t type) {
    while (attributes.size() >= sizeof(nlattr)) {
        nlattr header;
        std::memcpy(&header, attributes.data(), sizeof header);
        if (header.nla_len < NLA_HDRLEN || header.nla_len > attributes.size())
            break;
        T value;
        if ((header.nla_type & NLA_TYPE_MASK) == type && header.nla_len == NLA_HDRLEN + sizeof value) {
            std::memcpy(&value, attributes.data() + NLA_HDRLEN, sizeof value);
            return value;
        }
        attributes = attributes.subspan(std::min<std::size_t>(NLA_ALIGN(header.nla_len), attributes.size()));
    }
    return std::nullopt;
}

class Netlink {
  public:
    static Result<Netlink> open() {
        FileDescriptor socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
        sockaddr_nl kernel{};
        kernel.nl_family = AF_NETLINK;
        if (socket.get() < 0 || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&kernel), sizeof kernel) != 0)
            return fail(ErrorKind::unsupported, "no generic netlink here: {}", std::strerror(errno));
        return Netlink(std::move(socket));
    }

    // The attributes of the kernel's answer, if it gives one beside its acknowledgement; its refusal as an errno.
    std::expected<std::vector<std::byte>, int> call(Message message) {
        const std::uint32_t sequence = ++sequence_;
        const auto request = message.finish(sequence);
        if (::send(socket_.get(), request.data(), request.size(), 0) < 0)
            return std::unexpected(errno);
        std::vector<std::byte> answer;
        for (;;) {
            alignas(nlmsghdr) std::array<std::byte, netlink_buffer_bytes> buffer;
            const ssize_t count = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_TRUNC);
            if (count < 0 && errno == EINTR)
                continue;
            if (count < 0)
                return std::unexpected(errno);
            if (static_cast<std::size_t>(count) > buffer.size())
                return std::unexpected(EMSGSIZE);
            auto left = std::span<const std::byte>(buffer).first(static_cast<std::size_t>(count));
            while (left.size() >= sizeof(nlmsghdr)) {
                nlmsghdr header;
                std::memcpy(&header, left.data(), sizeof header);
                if (header.nlmsg_len < sizeof header || header.nlmsg_len > left.size())
                    return std::unexpected(EBADMSG);
                const auto payload = left.first(header.nlmsg_len).subspan(NLMSG_HDRLEN);
                left = left.subspan(std::min<std::size_t>(NLMSG_ALIGN(header.nlmsg_len), left.size()));
                if (header.nlmsg_seq != sequence)
                    continue;
                if (header.nlmsg_type == NLMSG_ERROR) {
                    std::int32_t error = -EBADMSG;
                    if (payload.size() >= sizeof error)
                        std::memcpy(&error, payload.data(), sizeof error);
                    if (error != 0)
                        return std::unexpected(-error);
                    return answer;
                }
                if (payload.size() >= GENL_HDRLEN)
                    answer.assign(payload.begin() + GENL_HDRLEN, payload.end());
            }
        }
    }

    // Of the family that answers for nbd devices. Errors: ENOENT when there is none.
    std::expected<std::uint16_t, int> nbd_family() {
        Message message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
        message.text(CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME);
        auto answer = call(std::move(message));
        if (!answer)
            return std::unexpected(answer.error());
        const auto id = number_in<std::uint16_t>(*answer, CTRL_ATTR_FAMILY_ID);
        if (!id)
            return std::unexpected(EBADMSG);
        return *id;
    }

  private:
    explicit Netlink(FileDescriptor socket) : socket_(std::move(socket)) {}

    FileDescriptor socket_;
    std::uint32_t sequence_ = 0;
};

// ---- Devices --------------------------------------------------------------------------------------------------------------------

void load_module() {
    std::string program = "modprobe", quiet = "--quiet", module = "nbd";
    char* arguments[] = {program.data(), quiet.data(), module.data(), nullptr};
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    for (int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
        ::posix_spawn_file_actions_addopen(&actions, stream, "/dev/null", O_RDWR, 0);
    pid_t child = 0;
    if (::posix_spawnp(&child, arguments[0], &actions, nullptr, arguments, environ) == 0)
        while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {}
    ::posix_spawn_file_actions_destroy(&actions);
}

std::string first_line(const std::filesystem::path& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// In a container nobody may be there to make the node.
Result<void> make_node(const std::string& path, const std::string& name) {
    if (::access(path.c_str(), F_OK) == 0)
        return {};
    unsigned major = 0, minor = 0;
    if (std::sscanf(first_line("/sys/block/" + name + "/dev").c_str(), "%u:%u", &major, &minor) != 2)
        return fail(ErrorKind::unsupported, "{}: /sys knows no such device", path);
    if (::mknod(path.c_str(), S_IFBLK | 0600, makedev(major, minor)) != 0 && errno != EEXIST)
        return fail(ErrorKind::unsupported, "{}: {}", path, std::strerror(errno));
    return {};
}

// A command for one device. `add_attributes(message)` after its number.
template <typename AddAttributes>
Result<void> command(std::uint8_t number, unsigned index, AddAttributes add_attributes) {
    Netlink netlink = TRY(Netlink::open());
    auto family = netlink.nbd_family();
    if (!family)
        return fail_errno("nbd", family.error());
    Message message(*family, number);
    message.number(NBD_ATTR_INDEX, std::uint32_t{index});
    add_attributes(message);
    if (auto done = netlink.call(std::move(message)); !done)
        return fail_errno(fmt::format("/dev/nbd{}", index), done.error());
    return {};
}

Result<void> disconnect(unsigned index) {
    return command(NBD_CMD_DISCONNECT, index, [](Message&) {});
}

Result<unsigned> index_of(const std::string& path) {
    unsigned index = 0;
    if (std::sscanf(path.c_str(), "/dev/nbd%u", &index) != 1)
        return fail(ErrorKind::usage, "{}: no nbd device", path);
    return index;
}

}  // namespace

Result<ExportParameters> client_handshake(int socket, std::string_view export_name) {
    if (export_name.size() > max_name_bytes)
        return fail(ErrorKind::usage, "export name: longer than {} bytes", max_name_bytes);
    std::array<std::byte, 18> greeting;
    TRY(receive(socket, greeting));
    if (load_big<std::uint64_t>(greeting.data()) != greeting_magic || load_big<std::uint64_t>(greeting.data() + 8) != option_magic)
        return fail(ErrorKind::failed, "NBD handshake: the greeting isn't that of a newstyle server");
    const auto server_flags = load_big<std::uint16_t>(greeting.data() + 16);
    if (!(server_flags & handshake_flag::fixed_newstyle))
        return fail(ErrorKind::failed, "NBD handshake: the server isn't a fixed newstyle one");

    // Client flags, and the one option: GO with the export's name and no requests for information.
    std::vector<std::byte> request(4 + 16 + 4 + export_name.size() + 2);
    store_big(request.data(),
              std::uint32_t{static_cast<std::uint32_t>(server_flags & (handshake_flag::fixed_newstyle | handshake_flag::no_zeroes))});
    store_big(request.data() + 4, option_magic);
    store_big(request.data() + 12, static_cast<std::uint32_t>(Option::go));
    store_big(request.data() + 16, static_cast<std::uint32_t>(4 + export_name.size() + 2));
    store_big(request.data() + 20, static_cast<std::uint32_t>(export_name.size()));
    std::memcpy(request.data() + 24, export_name.data(), export_name.size());
    TRY(send(socket, request));

    std::optional<ExportParameters> parameters;
    for (int count = 0; count < max_replies; ++count) {
        std::array<std::byte, 20> header;
        TRY(receive(socket, header));
        const auto reply = static_cast<OptionReply>(load_big<std::uint32_t>(header.data() + 12));
        const auto length = load_big<std::uint32_t>(header.data() + 16);
        if (load_big<std::uint64_t>(header.data()) != option_reply_magic ||
            load_big<std::uint32_t>(header.data() + 8) != static_cast<std::uint32_t>(Option::go))
            return fail(ErrorKind::failed, "NBD handshake: the answer to GO isn't one");
        if (length > max_reply_bytes)
            return fail(ErrorKind::failed, "NBD handshake: an answer to GO of {} bytes", length);
        std::vector<std::byte> content(length);
        TRY(receive(socket, content));
        if (static_cast<std::uint32_t>(reply) & 0x8000'0000) {
            const std::string_view words(reinterpret_cast<const char*>(content.data()), content.size());
            return fail(kind_of(reply), "NBD server: {}", words.empty() ? "refused" : words);
        }
        if (reply == OptionReply::ack) {
            if (!parameters)
                return fail(ErrorKind::failed, "NBD handshake: GO is done and the export's size was never told");
            return *parameters;
        }
        if (reply != OptionReply::info || content.size() < 2)
            return fail(ErrorKind::failed, "NBD handshake: an answer to GO of type {:#x}, {} bytes", static_cast<std::uint32_t>(reply),
                        length);
        if (load_big<std::uint16_t>(content.data()) != static_cast<std::uint16_t>(Info::export_))
            continue;
        if (content.size() != export_info_bytes)
            return fail(ErrorKind::failed, "NBD handshake: information about the export of {} bytes", length);
        parameters = {load_big<std::uint64_t>(content.data() + 2), load_big<std::uint16_t>(content.data() + 10)};
    }
    return fail(ErrorKind::failed, "NBD handshake: more than {} answers to GO", max_replies);
}

Result<std::string> connect_kernel_device(Server& server, std::string_view export_name, const KernelDeviceOptions& options) {
    Netlink netlink = TRY(Netlink::open());
    auto family = netlink.nbd_family();
    if (!family && family.error() == ENOENT) {
        load_module();
        family = netlink.nbd_family();
    }
    if (!family)
        return fail(ErrorKind::unsupported, "no nbd devices here: {}",
                    family.error() == ENOENT ? "the kernel's module nbd can't be loaded" : std::strerror(family.error()));

    std::vector<FileDescriptor> sockets;
    ExportParameters parameters;
    for (unsigned count = std::max(options.connections, 1u); sockets.size() < count;) {
        const FileDescriptor& socket = sockets.emplace_back(TRY(server.connect()));
        ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &handshake_timeout, sizeof handshake_timeout);
        ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &handshake_timeout, sizeof handshake_timeout);
        const ExportParameters told = TRY(client_handshake(socket.get(), export_name));
        // The kernel waits as long as it takes: a timeout of the socket would end its device.
        if (::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &no_timeout, sizeof no_timeout) != 0 ||
            ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &no_timeout, sizeof no_timeout) != 0)
            return fail_errno("NBD connection");
        if (sockets.size() > 1 && (told.size != parameters.size || told.flags != parameters.flags))
            return fail(ErrorKind::failed, "NBD handshake: the export changed between two connections");
        parameters = told;
        if (!(parameters.flags & transmission_flag::can_multi_conn))
            count = 1;
    }
    if (options.read_only)
        parameters.flags |= transmission_flag::read_only;

    // Without an index the kernel takes a free device or makes one; another program may be as fast.
    std::expected<std::vector<std::byte>, int> answer;
    for (int attempt = 0; attempt < connect_attempts; ++attempt) {
        Message message(*family, NBD_CMD_CONNECT);
        message.number(NBD_ATTR_SIZE_BYTES, parameters.size / sector_bytes * sector_bytes);
        message.number(NBD_ATTR_BLOCK_SIZE_BYTES, sector_bytes);
        message.number(NBD_ATTR_SERVER_FLAGS, std::uint64_t{parameters.flags});
        message.number(NBD_ATTR_CLIENT_FLAGS, std::uint64_t{0});
        message.text(NBD_ATTR_BACKEND_IDENTIFIER, options.identifier);
        message.nest(NBD_ATTR_SOCKETS, [&] {
            for (const FileDescriptor& socket : sockets)
                message.nest(NBD_SOCK_ITEM, [&] { message.number(NBD_SOCK_FD, static_cast<std::uint32_t>(socket.get())); });
        });
        answer = netlink.call(std::move(message));
        if (answer || answer.error() != EBUSY)
            break;
    }
    if (!answer)
        return fail(ErrorKind::unsupported, "the kernel gives no nbd device: {}", std::strerror(answer.error()));
    const auto index = number_in<std::uint32_t>(*answer, NBD_ATTR_INDEX);
    if (!index)
        return fail(ErrorKind::failed, "the kernel doesn't say which nbd device it connected");
    const std::string name = fmt::format("nbd{}", *index);
    Result<void> usable = make_node("/dev/" + name, name);
    if (usable && first_line("/sys/block/" + name + "/backend") != options.identifier)
        usable = fail(ErrorKind::unsupported, "this kernel doesn't keep what an nbd device is connected to (Linux 5.14 does)");
    if (!usable) {
        (void)disconnect(*index);
        return std::unexpected(usable.error());
    }
    return "/dev/" + name;
}

std::vector<std::string> kernel_devices(std::string_view identifier) {
    std::vector<std::string> devices;
    std::error_code error;
    for (const auto& device : std::filesystem::directory_iterator("/sys/block", error)) {
        const std::string name = device.path().filename();
        if (name.starts_with("nbd") && first_line(device.path() / "backend") == identifier)
            devices.push_back("/dev/" + name);
    }
    std::ranges::sort(devices);
    return devices;
}

Result<void> resize_kernel_device(const std::string& path, std::uint64_t size) {
    const unsigned index = TRY(index_of(path));
    return command(NBD_CMD_RECONFIGURE, index, [&](Message& message) {
        message.number(NBD_ATTR_SIZE_BYTES, size / sector_bytes * sector_bytes);
        // Proves to the kernel that the device is the one that is meant.
        message.text(NBD_ATTR_BACKEND_IDENTIFIER, first_line(fmt::format("/sys/block/nbd{}/backend", index)));
    });
}

Result<void> disconnect_kernel_device(const std::string& path, InUse in_use) {
    const unsigned index = TRY(index_of(path));
    // While it is held like this, nobody can mount it.
    int fd = ::open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
    if (fd < 0 && errno == EBUSY && in_use == InUse::disconnect)
        fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const FileDescriptor device(fd);
    if (fd < 0)
        return fail_errno(path);
    if (::fsync(fd) != 0 && errno != EIO)
        return fail_errno(path);
    return disconnect(index);
}

}  // namespace lamella::nbd
