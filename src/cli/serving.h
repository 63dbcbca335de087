// SPDX-License-Identifier: Apache-2.0
//
// A process that serves a group: the group itself, its control socket, an NBD server, and files of volumes that are attached.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "serve/nbd/server.h"
#include "volumes/engine_group.h"
#include "volumes/names.h"

namespace lamella::cli {

struct ServingOptions {
    std::vector<std::string> paths;  // physical volumes
    EngineOptions engine;
    std::vector<std::string> exports;  // volumes for NBD; empty: all
    unsigned threads = 0;              // reactors; 0: one a core, up to 4
    // Without any socket, address or passed socket: RUNTIME/GROUP.nbd.sock.
    nbd::ServerOptions nbd;
    // Started by `attach`: ends when the last attached volume is detached and no client is left.
    bool automatic = false;
};

// The physical volumes to open for serving a group. One that the host's LVM runs is opened here only where the user says so and nothing of it
// is active; `engine` is told what that takes. Errors: unsupported, usage, refused.
Result<std::vector<std::string>> paths_to_serve(const GroupAddress& group, bool user_space, EngineOptions& engine);

// Beside VolumeGroup's methods (volumes/control.h) the control socket answers
//   serving  {}                        {"group", "process", "automatic", "uris": [...], "attached": [volumes]}
//   attach   {"volume", "read_only",   {"volume", "path", "device", "read_only"}; the same again for a volume that is attached already.
//             "device"}                With "device" true a device of the kernel's nbd client where there is one. Else, and without it, a
//                                      file, "path". The other one is null.
//   detach   {"volume"}                {"ending": true if the process ends now}
class Serving {
  public:
    // Everything is up when it returns. Blocks SIGTERM and SIGINT for this thread and those that it starts: call it before other
    // threads exist.
    static Result<std::unique_ptr<Serving>> start(ServingOptions options);
    // As stop(), errors unseen.
    ~Serving();

    const std::string& group_name() const;
    const std::vector<std::string>& uris() const;
    // What opening the group put right, and what is wrong with it.
    const GroupInfo& opened() const;

    // Until SIGTERM, SIGINT, or the end of an automatic one.
    void wait();
    // Lets requests in flight finish, commits and closes everything, removes sockets and mounts.
    Result<void> stop();

  private:
    class Implementation;
    explicit Serving(std::unique_ptr<Implementation> implementation);
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace lamella::cli
