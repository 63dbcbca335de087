// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "serve/export_source.h"
#include "serve/nbd/tls.h"
#include "serve/reactor.h"

namespace lamella::nbd {

// Bounds on what clients can make the server do. They are per server or per connection; a client that reaches one isn't read
// any further until its earlier requests have been answered and their replies taken.
struct ServerLimits {
    unsigned connections = 2048;                    // further ones are closed at once
    unsigned requests_per_connection = 256;         // requests taken and not yet answered
    std::uint64_t bytes_per_connection = 32 << 20;  // memory of those requests; one request alone may always reach 32 MiB
    std::uint64_t bytes_per_reactor = 128 << 20;    // memory of all requests on one reactor; at least 64 MiB
    Duration handshake = std::chrono::seconds(10);  // from accept to the transmission phase
    // A connection that holds memory and has neither taken nor sent a byte for this long is closed if others wait for memory.
    Duration stall = std::chrono::seconds(10);
    // How long stop() waits for clients to take their last replies.
    Duration drain = std::chrono::seconds(5);
};

struct ServerOptions {
    // Paths of unix sockets to listen on. A socket that nobody answers on is replaced; a live one, and any other file, is left
    // alone and refused.
    std::vector<std::string> unix_sockets;
    unsigned unix_socket_mode = 0600;
    // "ADDRESS:PORT", "[ADDRESS]:PORT"; a name is resolved; port 0 lets the kernel choose.
    std::vector<std::string> tcp_addresses;
    // Also listen on the sockets that systemd, or a program that acts like it, passed (sd_listen_fds).
    bool socket_activation = false;

    TlsOptions tls;
    // Allows clients on other hosts without forced TLS. Otherwise an address beyond loopback is refused then.
    bool allow_insecure_tcp = false;

    bool read_only = false;
    ServerLimits limits;
};

// Counters since the server started. Bytes are the clients': holes in reads count, what read-modify-write adds does not.
struct ExportStatistics {
    std::string name;
    unsigned connections = 0;  // now
    std::uint64_t reads = 0;
    std::uint64_t read_bytes = 0;
    std::uint64_t writes = 0;  // WRITE_ZEROES among them
    std::uint64_t written_bytes = 0;
    std::uint64_t flushes = 0;
    std::uint64_t trims = 0;
    std::uint64_t trimmed_bytes = 0;
    std::uint64_t others = 0;  // BLOCK_STATUS and CACHE
    std::uint64_t errors = 0;  // requests answered with an error
};

// An NBD server: fixed newstyle handshake, simple, structured and extended replies, TLS. See README.md for what it speaks.
//
// Threads: start(), stop() and the destructor from one thread; the rest from any. None of them from a reactor.
class Server {
  public:
    // Listens when it returns; without any socket only connect() reaches it. `reactors` and `source` outlive the server. With an export's name empty a client gets the only
    // export that there is; with several, none.
    static Result<std::unique_ptr<Server>> start(ReactorGroup& reactors, ExportSource& source, const ServerOptions& options);
    // stop(), its error lost.
    ~Server();

    // Stops listening, lets requests in flight finish and their replies go out, closes every connection, flushes what was open for
    // writing and closes it. The error is the first one of a flush. Nothing happens the second time.
    Result<void> stop();

    // The other end of a new connection, a blocking unix socket that is the caller's. No TLS unless the client asks for it. Not after
    // stop(). Errors: refused when there are as many connections as there may be.
    Result<int> connect();

    // Where clients find the server, as NBD URIs without an export name: "nbd+unix:///?socket=/run/x", "nbds://[::1]:10809".
    const std::vector<std::string>& uris() const;

    // Ends all connections to an export, as stop() does, and waits until it is closed. New connections may open it again as soon
    // as the source offers it. Nothing happens when it isn't open.
    Result<void> disconnect(std::string_view export_name);

    // Of every export that was ever opened, by name.
    std::vector<ExportStatistics> statistics() const;
    // Connections now, in any phase.
    unsigned connections() const;

  private:
    class Implementation;
    explicit Server(std::unique_ptr<Implementation> implementation);
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace lamella::nbd
