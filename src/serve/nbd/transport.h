// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include <sys/types.h>
#include <sys/uio.h>

#include "serve/nbd/tls.h"

namespace lamella::nbd {

// A seam: the stream of bytes to one client. Nothing blocks.
class Transport {
  public:
    virtual ~Transport() = default;

    // Bytes received, 0 at the end of the stream, or a negative errno: -EAGAIN when nothing has come.
    virtual ssize_t receive(std::span<const iovec> into) = 0;
    // Bytes sent, or a negative errno: -EAGAIN when the client must take something first. What was not sent comes first, the same
    // bytes from wherever, in the next call.
    virtual ssize_t send(std::span<const iovec> from) = 0;
    // A receive() that got less than it had room for may still leave bytes that the descriptor won't announce.
    virtual bool holds_bytes_back() const { return false; }
    // 0 when the stream is ready for use, or a negative errno: -EAGAIN to be called again when the descriptor is ready for
    // `wants_to_send`.
    virtual int handshake(bool& wants_to_send) {
        (void)wants_to_send;
        return 0;
    }
    // Says goodbye, if the stream has a word for it. The descriptor isn't closed.
    virtual void finish() = 0;
};

// Both leave `fd`, a non-blocking socket, to its owner.
std::unique_ptr<Transport> make_socket_transport(int fd);
Result<std::unique_ptr<Transport>> make_tls_transport(int fd, std::shared_ptr<const TlsCredentials> credentials);

}  // namespace lamella::nbd
