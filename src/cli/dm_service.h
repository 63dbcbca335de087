// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "mapper/mapper.h"
#include "serve/nbd/server.h"
#include "serve/reactor.h"
#include "volumes/control.h"

namespace lamella::cli {

struct MapperServiceOptions {
    std::string socket;    // control; empty: the default, see dm_control.h
    unsigned threads = 0;  // reactors; 0: one a core, up to 4
    // Without any socket, address or passed socket: the control socket's path with ".nbd" behind it.
    nbd::ServerOptions nbd;
    std::vector<std::string> table_files;
};

// A device mapper that clients reach: its control socket, and its devices over NBD, each as an export of its name.
class MapperService {
  public:
    // Everything is up, and the tables of the files are live, when it returns.
    static Result<std::unique_ptr<MapperService>> start(MapperServiceOptions options);
    // As stop(), errors unseen.
    ~MapperService();

    const std::string& socket() const { return options_.socket; }
    const std::vector<std::string>& uris() const { return server_->uris(); }
    // Lets what is held go on, waits for requests in flight, ends connections and devices. The error is the first one of a flush.
    Result<void> stop();

  private:
    explicit MapperService(MapperServiceOptions options) : options_(std::move(options)) {}
    Result<void> start_here();
    Result<void> load_files();

    MapperServiceOptions options_;
    mapper::Mapper mapper_;
    std::optional<ReactorGroup> reactors_;
    std::unique_ptr<ExportSource> source_;
    std::unique_ptr<nbd::Server> server_;
    std::unique_ptr<ControlServer> control_;
};

}  // namespace lamella::cli
