// SPDX-License-Identifier: Apache-2.0
//
// Both ends of the control socket of `lamella dm run` (volumes/control.h has the protocol). Methods and their parameters:
//
//   create        name, uuid, table (null: none), directory, read_only
//   load          name, table, directory, read_only      clear         name
//   suspend       name, no_flush    -> done              resume        name    -> done
//   rename        name, new_name                         set_uuid      name, uuid
//   remove        name, force, deferred    -> done       message       name, sector, message    -> answer
//   devices       (null)    -> devices                   device        name    -> the same for one
//   wait          name, event    -> event_number, when it isn't `event`
//   status        name, flush, inactive    -> targets    table         name, inactive    -> targets
//
// Where `done` is false, I/O is in flight still: the client asks again.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "mapper/mapper.h"
#include "volumes/control.h"

namespace lamella::cli {

ControlHandlers mapper_handlers(mapper::Mapper& mapper);
WaitingHandlers mapper_waiting_handlers(mapper::Mapper& mapper);

// RUNTIME/dm.sock
std::string default_mapper_socket();

struct MappedDeviceView {
    mapper::DeviceInfo info;
    std::vector<mapper::Dependency> dependencies;
    Json json() const;
};

class MapperClient {
  public:
    // An empty path: the default. Errors: not_found when no mapper runs there.
    static Result<MapperClient> connect(std::string socket);

    Result<Json> call(std::string_view method, const Json& params);
    // Asks again until it is done.
    Result<void> finish(std::string_view method, const Json& params);

    // By name.
    Result<std::vector<MappedDeviceView>> devices();
    // By name or uuid, in this order.
    Result<std::vector<MappedDeviceView>> devices(const std::vector<std::string>& names);
    // `method`: status or table.
    Result<std::vector<mapper::TargetLine>> lines(std::string_view method, const std::string& name, bool flush, bool inactive);

  private:
    explicit MapperClient(std::unique_ptr<ControlClient> client) : client_(std::move(client)) {}
    std::unique_ptr<ControlClient> client_;
};

Json to_json(const std::vector<mapper::TargetLine>& lines);

}  // namespace lamella::cli
