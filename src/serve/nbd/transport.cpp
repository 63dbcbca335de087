// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/transport.h"

#include <cerrno>

#include <sys/socket.h>

namespace lamella::nbd {

namespace {

class SocketTransport final : public Transport {
  public:
    explicit SocketTransport(int fd) : fd_(fd) {}

    ssize_t receive(std::span<const iovec> into) override {
        msghdr message{};
        message.msg_iov = const_cast<iovec*>(into.data());
        message.msg_iovlen = into.size();
        while (true) {
            const ssize_t received = ::recvmsg(fd_, &message, MSG_DONTWAIT);
            if (received >= 0 || errno != EINTR)
                return received >= 0 ? received : -errno;
        }
    }

    ssize_t send(std::span<const iovec> from) override {
        msghdr message{};
        message.msg_iov = const_cast<iovec*>(from.data());
        message.msg_iovlen = from.size();
        while (true) {
            const ssize_t sent = ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent >= 0 || errno != EINTR)
                return sent >= 0 ? sent : -errno;
        }
    }

    void finish() override { ::shutdown(fd_, SHUT_WR); }

  private:
    int fd_;
};

}  // namespace

std::unique_ptr<Transport> make_socket_transport(int fd) { return std::make_unique<SocketTransport>(fd); }

}  // namespace lamella::nbd
