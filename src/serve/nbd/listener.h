// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "base/result.h"

namespace lamella::nbd {

// A socket that is listened on. Closed, and its file removed if it is still the same, on destruction.
class Listener {
  public:
    // Takes the place of a socket that nobody answers on; refuses to touch anything else.
    static Result<Listener> on_unix(const std::string& path, unsigned mode);
    // "ADDRESS:PORT" or "[ADDRESS]:PORT": one listener for each address that it resolves to.
    static Result<std::vector<Listener>> on_tcp(const std::string& address);
    // Those that systemd passed (environment LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, which are removed): the ones named "nbd", or all
    // if none is. None when nothing was passed to this process.
    static Result<std::vector<Listener>> activated();

    Listener(Listener&& other) noexcept;
    Listener& operator=(Listener&& other) noexcept;
    ~Listener();

    int fd() const { return fd_; }
    bool is_unix() const { return unix_; }
    // Clients of other hosts can reach it.
    bool beyond_this_host() const;
    // "/run/x", "127.0.0.1:10809", "[::1]:10809".
    std::string address() const;

  private:
    explicit Listener(int fd) : fd_(fd) {}
    static Result<Listener> adopt(int fd);

    int fd_ = -1;
    bool unix_ = false;
    // To remove at the end; empty for an activated socket.
    std::string path_;
    dev_t device_ = 0;
    ino_t inode_ = 0;
};

}  // namespace lamella::nbd
