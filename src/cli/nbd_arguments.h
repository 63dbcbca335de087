// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cli/command_line.h"
#include "serve/nbd/server.h"

namespace lamella::cli {

// The options of commands that serve over NBD: addresses, TLS.
struct NbdArguments {
    std::vector<std::string> addresses;
    std::string tls = "require";
    std::string certificates, psk;
    bool any_client = false;
    bool insecure = false;

    // The arguments live as long as what the line runs.
    void define(CommandLine& line);
    // Sockets that systemd passed are listened on, too.
    void apply(nbd::ServerOptions& options) const;

    // What to suggest when an address was refused.
    static constexpr const char* when_refused =
        "--tls-certificates DIR or --tls-psk FILE; or --insecure, where nobody else can reach the address";
};

// Holds the process id while it lives; removed on every way out.
class PidFile {
  public:
    // An empty path: none is wanted.
    explicit PidFile(std::string path) : path_(std::move(path)) {}
    PidFile(const PidFile&) = delete;
    ~PidFile();
    Result<void> write();

  private:
    std::string path_;
    bool written_ = false;
};

}  // namespace lamella::cli
