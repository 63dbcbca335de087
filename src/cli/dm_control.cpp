// SPDX-License-Identifier: Apache-2.0
#include "cli/dm_control.h"

#include <nlohmann/json.hpp>

#include "base/strong.h"

namespace lamella::cli {

using mapper::DeviceInfo;
using mapper::Mapper;
using mapper::TargetLine;

namespace {

Result<std::string> name_of(const Json& params) { return member<std::string>(params, "name", "params"); }

Result<bool> flag_of(const Json& params, std::string_view key) { return member<bool>(params, key, "params"); }

Result<std::uint32_t> small_number(const Json& object, std::string_view key, std::string_view place) {
    const auto number = TRY(member<std::uint64_t>(object, key, place));
    if (number > UINT32_MAX)
        return fail(ErrorKind::usage, "{}: {} is too large", place, key);
    return static_cast<std::uint32_t>(number);
}

Result<Json> view_of(Mapper& mapper, const DeviceInfo& info) {
    auto dependencies = TRY(mapper.dependencies(info.name));
    return MappedDeviceView{info, std::move(dependencies)}.json();
}

// What is taken from `params` gets a name first: see group_handlers().
Result<void> load(Mapper& mapper, const std::string& name, const Json& params) {
    const auto table = TRY(member<std::string>(params, "table", "params"));
    const auto directory = TRY(member<std::string>(params, "directory", "params"));
    return mapper.load(name, table, directory, TRY(flag_of(params, "read_only")));
}

// One that has just been made, or not at all.
Result<void> fill(Mapper& mapper, const std::string& name, const Json& params) {
    TRY(load(mapper, name, params));
    TRY(mapper.resume(name));  // nothing is in flight
    return {};
}

Result<Json> create(Mapper& mapper, const Json& params) {
    const std::string name = TRY(name_of(params));
    TRY(mapper.create(name, TRY(member<std::string>(params, "uuid", "params"))));
    if (params.contains("table") && !params["table"].is_null()) {
        if (Result<void> filled = fill(mapper, name, params); !filled) {
            (void)mapper.remove(name);
            return std::unexpected(filled.error());
        }
    }
    return Json::object();
}

// As dmsetup does it: a table of errors takes the place of what clients use, so that what is below is free.
Result<bool> fill_with_errors(Mapper& mapper, const std::string& name) {
    const DeviceInfo info = TRY(mapper.info(name));
    if (info.size == 0)
        return true;
    const std::vector<TargetLine> lines = TRY(mapper.table(name));
    if (lines.size() == 1 && lines[0].type == "error")
        return true;
    TRY(mapper.load(name, fmt::format("0 {} error", info.size / sector_bytes), "/", false));
    return mapper.resume(name);
}

Result<Json> remove(Mapper& mapper, const Json& params) {
    const std::string name = TRY(name_of(params));
    if (TRY(flag_of(params, "force")) && !TRY(fill_with_errors(mapper, name)))
        return Json{{"done", false}};
    const bool deferred = TRY(flag_of(params, "deferred"));
    const bool gone = TRY(mapper.remove(name, deferred));
    // Deferred is as good as done where it is in use.
    return Json{{"done", gone || (deferred && TRY(mapper.info(name)).deferred_remove)}};
}

Result<MappedDeviceView> view_from_json(const Json& json) {
    constexpr std::string_view place = "device";
    MappedDeviceView view;
    DeviceInfo& info = view.info;
    info.name = TRY(member<std::string>(json, "name", place));
    info.uuid = TRY(member<std::string>(json, "uuid", place));
    info.minor = TRY(small_number(json, "minor", place));
    info.suspended = TRY(member<bool>(json, "suspended", place));
    info.read_only = TRY(member<bool>(json, "read_only", place));
    info.live = TRY(member<bool>(json, "live", place));
    info.inactive = TRY(member<bool>(json, "inactive", place));
    info.deferred_remove = TRY(member<bool>(json, "deferred_remove", place));
    info.open_count = TRY(small_number(json, "open_count", place));
    info.event_number = TRY(small_number(json, "event_number", place));
    info.target_count = TRY(small_number(json, "target_count", place));
    info.size = TRY(member<std::uint64_t>(json, "size", place));
    if (!json.contains("dependencies") || !json["dependencies"].is_array())
        return fail(ErrorKind::failed, "device {}: no dependencies in the answer", info.name);
    for (const Json& one : json["dependencies"]) {
        mapper::Dependency& dependency = view.dependencies.emplace_back();
        dependency.word = TRY(member<std::string>(one, "word", "dependency"));
        dependency.name = TRY(member<std::string>(one, "name", "dependency"));
        if (one.contains("minor") && !one["minor"].is_null())
            dependency.minor = TRY(small_number(one, "minor", "dependency"));
    }
    return view;
}

}  // namespace

std::string default_mapper_socket() { return runtime_directory() + "/dm.sock"; }

Json MappedDeviceView::json() const {
    Json below = Json::array();
    for (const mapper::Dependency& one : dependencies)
        below.push_back({{"word", one.word}, {"minor", one.minor ? Json(*one.minor) : Json()}, {"name", one.name}});
    return {{"name", info.name},
            {"uuid", info.uuid},
            {"major", mapper::device_major},
            {"minor", info.minor},
            {"suspended", info.suspended},
            {"read_only", info.read_only},
            {"live", info.live},
            {"inactive", info.inactive},
            {"deferred_remove", info.deferred_remove},
            {"open_count", info.open_count},
            {"event_number", info.event_number},
            {"target_count", info.target_count},
            {"size", info.size},
            {"dependencies", std::move(below)}};
}

Json to_json(const std::vector<TargetLine>& lines) {
    Json all = Json::array();
    for (const TargetLine& line : lines)
        all.push_back({{"start", line.start}, {"length", line.length}, {"type", line.type}, {"text", line.text}});
    return all;
}

ControlHandlers mapper_handlers(Mapper& mapper) {
    ControlHandlers handlers;
    const auto add = [&handlers](const char* method, auto handler) {
        handlers[method] = [handler](const Json& params, const ReportProgress&) -> Result<Json> { return handler(params); };
    };
    add("create", [&mapper](const Json& params) { return create(mapper, params); });
    add("load", [&mapper](const Json& params) -> Result<Json> {
        const auto name = TRY(name_of(params));
        TRY(load(mapper, name, params));
        return Json::object();
    });
    add("clear", [&mapper](const Json& params) -> Result<Json> {
        TRY(mapper.clear(TRY(name_of(params))));
        return Json::object();
    });
    add("suspend", [&mapper](const Json& params) -> Result<Json> {
        const auto name = TRY(name_of(params));
        const bool no_flush = TRY(flag_of(params, "no_flush"));
        const bool done = TRY(mapper.suspend(name, {.no_flush = no_flush}));
        return Json{{"done", done}};
    });
    add("resume", [&mapper](const Json& params) -> Result<Json> {
        const bool done = TRY(mapper.resume(TRY(name_of(params))));
        return Json{{"done", done}};
    });
    add("rename", [&mapper](const Json& params) -> Result<Json> {
        const auto name = TRY(name_of(params));
        TRY(mapper.rename(name, TRY(member<std::string>(params, "new_name", "params"))));
        return Json::object();
    });
    add("set_uuid", [&mapper](const Json& params) -> Result<Json> {
        const auto name = TRY(name_of(params));
        TRY(mapper.set_uuid(name, TRY(member<std::string>(params, "uuid", "params"))));
        return Json::object();
    });
    add("remove", [&mapper](const Json& params) { return remove(mapper, params); });
    add("message", [&mapper](const Json& params) -> Result<Json> {
        const auto name = TRY(name_of(params));
        const auto sector = TRY(member<std::uint64_t>(params, "sector", "params"));
        const auto answer = TRY(mapper.message(name, sector, TRY(member<std::string>(params, "message", "params"))));
        return Json{{"answer", answer}};
    });
    add("devices", [&mapper](const Json&) -> Result<Json> {
        Json all = Json::array();
        for (const DeviceInfo& info : mapper.devices())
            if (Result<Json> view = view_of(mapper, info))  // unless it is gone
                all.push_back(*std::move(view));
        return Json{{"devices", std::move(all)}};
    });
    add("device", [&mapper](const Json& params) -> Result<Json> { return view_of(mapper, TRY(mapper.info(TRY(name_of(params))))); });
    add("status", [&mapper](const Json& params) -> Result<Json> {
        const auto name = TRY(name_of(params));
        const bool flush = TRY(flag_of(params, "flush"));
        const auto lines = TRY(mapper.status(name, flush, TRY(flag_of(params, "inactive"))));
        return Json{{"targets", to_json(lines)}};
    });
    add("table", [&mapper](const Json& params) -> Result<Json> {
        const auto name = TRY(name_of(params));
        const auto lines = TRY(mapper.table(name, TRY(flag_of(params, "inactive"))));
        return Json{{"targets", to_json(lines)}};
    });
    return handlers;
}

WaitingHandlers mapper_waiting_handlers(Mapper& mapper) {
    WaitingHandlers handlers;
    handlers["wait"] = [&mapper](const Json& params) -> Result<LaterAnswer> {
        const auto name = TRY(name_of(params));
        const auto seen = TRY(small_number(params, "event", "params"));
        return [seen, number = TRY(mapper.events(name))]() -> std::optional<Json> {
            const std::uint32_t now = number();
            return now != seen ? std::optional(Json{{"event_number", now}}) : std::nullopt;
        };
    };
    return handlers;
}

Result<MapperClient> MapperClient::connect(std::string socket) {
    if (socket.empty())
        socket = default_mapper_socket();
    return MapperClient(TRY(ControlClient::connect_to(socket)));
}

Result<Json> MapperClient::call(std::string_view method, const Json& params) { return client_->call(method, params); }

Result<void> MapperClient::finish(std::string_view method, const Json& params) {
    for (;;) {
        const Json answer = TRY(call(method, params));
        if (TRY(member<bool>(answer, "done", "answer")))
            return {};
    }
}

Result<std::vector<MappedDeviceView>> MapperClient::devices() {
    const Json answer = TRY(call("devices", Json::object()));
    std::vector<MappedDeviceView> all;
    if (answer.contains("devices"))
        for (const Json& one : answer["devices"])
            all.push_back(TRY(view_from_json(one)));
    return all;
}

Result<std::vector<MappedDeviceView>> MapperClient::devices(const std::vector<std::string>& names) {
    if (names.empty())
        return devices();
    std::vector<MappedDeviceView> all;
    for (const std::string& name : names)
        all.push_back(TRY(view_from_json(TRY(call("device", {{"name", name}})))));
    return all;
}

Result<std::vector<TargetLine>> MapperClient::lines(std::string_view method, const std::string& name, bool flush, bool inactive) {
    const Json answer = TRY(call(method, {{"name", name}, {"flush", flush}, {"inactive", inactive}}));
    std::vector<TargetLine> lines;
    if (!answer.contains("targets"))
        return lines;
    for (const Json& one : answer["targets"]) {
        TargetLine& line = lines.emplace_back();
        line.start = TRY(member<std::uint64_t>(one, "start", "target"));
        line.length = TRY(member<std::uint64_t>(one, "length", "target"));
        line.type = TRY(member<std::string>(one, "type", "target"));
        line.text = TRY(member<std::string>(one, "text", "target"));
    }
    return lines;
}

}  // namespace lamella::cli
