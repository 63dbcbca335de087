// SPDX-License-Identifier: Apache-2.0
//
// lamella dm VERB: dmsetup's verbs on devices that `lamella dm run` serves.
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/dm_control.h"
#include "cli/dm_output.h"
#include "cli/dm_run.h"
#include "cli/numbers.h"

namespace lamella::cli {

using mapper::TargetLine;

namespace {

// The rest of standard input, or of a file.
Result<std::string> read_table(const std::string& path) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(path == "-" ? ::fdopen(::dup(0), "r") : std::fopen(path.c_str(), "re"),
                                                               std::fclose);
    if (!file)
        return fail_errno(path);
    std::string text(mapper::max_table_text + 1, '\0');
    text.resize(std::fread(text.data(), 1, text.size(), file.get()));
    if (std::ferror(file.get()))
        return fail_errno(path);
    return text;
}

// What every verb takes: where the mapper is, and which devices are meant.
struct Verb {
    std::string socket;
    std::vector<std::string> names;

    Result<MapperClient> connect(Context& context) const {
        auto client = MapperClient::connect(socket);
        if (!client && client.error().kind() == ErrorKind::not_found)
            context.suggest(socket.empty() ? "lamella dm run" : "lamella dm run --socket " + socket);
        return client;
    }
};

template <typename Arguments>
std::shared_ptr<Arguments> begin(CommandLine& line) {
    auto arguments = std::make_shared<Arguments>();
    line.option("--socket", "PATH", arguments->socket, "the control socket of lamella dm run (default: dm.sock in the runtime directory)");
    return arguments;
}

// A table from --table, a file or standard input.
struct TableArguments : Verb {
    std::string name;
    std::string file;
    std::string table;
    bool read_only = false;

    void define(CommandLine& line) {
        line.argument("NAME", name, "the device");
        line.optional_argument("FILE", file, "file with the table (default: standard input)");
        line.option("--table", "TABLE", table, "the table itself: a line");
        line.flag("-r,--readonly", read_only, "the device takes no writes with this table");
        line.exclude("--table", "FILE");
    }
    Result<std::string> text() const { return !table.empty() ? table : read_table(file.empty() ? "-" : file); }
    // The server opens what relative paths mean here.
    std::string directory() const {
        std::error_code error;
        return std::filesystem::current_path(error).string();
    }
};

void define_create(CommandLine line) {
    struct Arguments : TableArguments {
        std::string uuid;
        bool no_table = false;
    };
    auto arguments = begin<Arguments>(line);
    line.describe("Make a device, and its table live");
    line.example("dm create disk --table '0 2097152 linear ./disk.img 2048'", "all of an image but its first mebibyte");
    arguments->define(line);
    line.option("-u,--uuid", "UUID", arguments->uuid, "another name, which never changes");
    line.flag("-n,--notable", arguments->no_table, "no table yet");
    line.exclude("--notable", "--table");
    line.runs([arguments](Context& context) -> Result<void> {
        MapperClient client = TRY(arguments->connect(context));
        Json params = {{"name", arguments->name},
                       {"uuid", arguments->uuid},
                       {"table", Json()},
                       {"directory", arguments->directory()},
                       {"read_only", arguments->read_only}};
        if (!arguments->no_table)
            params["table"] = TRY(arguments->text());
        TRY(client.call("create", params));
        return context.answer({}, {{"name", arguments->name}});
    });
}

void define_load(CommandLine line) {
    auto arguments = begin<TableArguments>(line);
    line.describe("Bring a table into the inactive slot of a device", "dm resume makes it live.");
    arguments->define(line);
    line.runs([arguments](Context& context) -> Result<void> {
        MapperClient client = TRY(arguments->connect(context));
        const auto table = TRY(arguments->text());
        TRY(client.call(
            "load",
            {{"name", arguments->name}, {"table", table}, {"directory", arguments->directory()}, {"read_only", arguments->read_only}}));
        return context.answer({}, {{"name", arguments->name}});
    });
}

// A verb that does one thing to each device that is named.
template <typename Act>
void define_for_each(CommandLine& line, const std::shared_ptr<Verb>& verb, Act act) {
    line.arguments("NAME", verb->names, "the devices");
    line.runs([verb, act](Context& context) -> Result<void> {
        MapperClient client = TRY(verb->connect(context));
        for (const std::string& name : verb->names)
            TRY(act(client, name));
        return context.answer({}, {{"names", verb->names}});
    });
}

void define_clear(CommandLine line) {
    auto verb = begin<Verb>(line);
    line.describe("Forget the inactive table of a device");
    define_for_each(line, verb, [](MapperClient& client, const std::string& name) -> Result<void> {
        TRY(client.call("clear", {{"name", name}}));
        return {};
    });
}

void define_suspend(CommandLine line) {
    struct Arguments : Verb {
        bool no_flush = false, no_lock_fs = false;
    };
    auto arguments = begin<Arguments>(line);
    line.describe("Suspend a device",
                  "Waits until I/O in flight has ended, then lets requests wait until the device is resumed. Interrupted, it leaves the "
                  "device taking no requests: resume it, or suspend it again.");
    line.flag("--noflush", arguments->no_flush, "what waits within a target may go on waiting");
    line.flag("--nolockfs", arguments->no_lock_fs, "for scripts: there are no file systems to lock here");
    define_for_each(line, arguments, [arguments](MapperClient& client, const std::string& name) {
        return client.finish("suspend", {{"name", name}, {"no_flush", arguments->no_flush}});
    });
}

void define_resume(CommandLine line) {
    struct Arguments : Verb {
        bool no_flush = false, no_lock_fs = false;
    };
    auto arguments = begin<Arguments>(line);
    line.describe("Resume a device; make a table that was loaded live", "Requests that waited go to the new table. None is lost.");
    line.flag("--noflush", arguments->no_flush, "for scripts: nothing else is done");
    line.flag("--nolockfs", arguments->no_lock_fs, "likewise");
    define_for_each(line, arguments, [](MapperClient& client, const std::string& name) {
        return client.finish("resume", {{"name", name}});
    });
}

struct RemoveArguments : Verb {
    bool force = false, deferred = false;

    void define(CommandLine& line) {
        line.flag("-f,--force", force, "put a table of errors in place of what is in use; it stays in use");
        line.flag("--deferred", deferred, "what is in use goes when nobody uses it any more");
    }
    Result<void> remove(MapperClient& client, const std::string& name) const {
        return client.finish("remove", {{"name", name}, {"force", force}, {"deferred", deferred}});
    }
};

void define_remove_verb(CommandLine line) {
    auto arguments = begin<RemoveArguments>(line);
    line.describe("Remove a device", "Its tables are forgotten; what they stand on stays as it is.");
    arguments->define(line);
    define_for_each(line, arguments,
                    [arguments](MapperClient& client, const std::string& name) { return arguments->remove(client, name); });
}

void define_remove_all(CommandLine line) {
    auto arguments = begin<RemoveArguments>(line);
    line.describe("Remove every device that nobody uses");
    arguments->define(line);
    line.runs([arguments](Context& context) -> Result<void> {
        MapperClient client = TRY(arguments->connect(context));
        std::vector<std::string> removed;
        // What others stand on can go once those have gone.
        for (bool again = true; again;) {
            again = false;
            for (const MappedDeviceView& device : TRY(client.devices())) {
                if (device.info.open_count > 0 && !arguments->force && !arguments->deferred)
                    continue;
                if (arguments->remove(client, device.info.name) && device.info.open_count == 0) {
                    removed.push_back(device.info.name);
                    again = true;
                }
            }
        }
        return context.answer({}, {{"names", removed}});
    });
}

void define_rename_verb(CommandLine line) {
    struct Arguments : Verb {
        std::string name, new_name, uuid;
    };
    auto arguments = begin<Arguments>(line);
    line.describe("Give a device another name, or a uuid if it has none");
    line.argument("NAME", arguments->name, "the device");
    line.optional_argument("NEW-NAME", arguments->new_name, "its new name");
    line.option("--setuuid", "UUID", arguments->uuid, "its uuid");
    line.exclude("--setuuid", "NEW-NAME");
    line.runs([arguments](Context& context) -> Result<void> {
        if (arguments->new_name.empty() && arguments->uuid.empty())
            return fail(ErrorKind::usage, "NEW-NAME or --setuuid");
        MapperClient client = TRY(arguments->connect(context));
        if (!arguments->uuid.empty())
            TRY(client.call("set_uuid", {{"name", arguments->name}, {"uuid", arguments->uuid}}));
        else
            TRY(client.call("rename", {{"name", arguments->name}, {"new_name", arguments->new_name}}));
        return context.answer({}, {{"name", arguments->new_name.empty() ? arguments->name : arguments->new_name}});
    });
}

void define_message_verb(CommandLine line) {
    struct Arguments : Verb {
        std::string name, sector;
        std::vector<std::string> words;
    };
    auto arguments = begin<Arguments>(line);
    line.describe("Send a message to a target");
    line.example("dm message pool 0 create_thin 1", "a new volume of a thin pool");
    line.argument("NAME", arguments->name, "the device");
    line.argument("SECTOR", arguments->sector, "a sector of the target; 0 if there is only one");
    line.arguments("WORD", arguments->words, "the message");
    line.runs([arguments](Context& context) -> Result<void> {
        const auto sector = TRY_WITHIN("SECTOR", parse_number<std::uint64_t>(arguments->sector));
        MapperClient client = TRY(arguments->connect(context));
        const Json answer = TRY(client.call(
            "message", {{"name", arguments->name}, {"sector", sector}, {"message", fmt::format("{}", fmt::join(arguments->words, " "))}}));
        const auto text = TRY(member<std::string>(answer, "answer", "answer"));
        return context.answer(text.empty() ? "" : text + "\n", {{"answer", text}});
    });
}

// status and table: a line a target; with the name before it unless one device is asked for by name.
void define_lines(CommandLine line, const std::string& method) {
    struct Arguments : Verb {
        std::string type;
        bool no_flush = false, inactive = false;
    };
    auto arguments = begin<Arguments>(line);
    const bool status = method == "status";
    line.describe(status ? "Print the status of each target" : "Print tables, as load takes them");
    line.optional_arguments("NAME", arguments->names, "the devices (default: all)");
    line.option("--target", "TYPE", arguments->type, "targets of this type only");
    line.flag("--inactive", arguments->inactive, "of the inactive table");
    if (status)
        line.flag("--noflush", arguments->no_flush, "thin pools need not commit before they tell");
    line.runs([arguments, method](Context& context) -> Result<void> {
        MapperClient client = TRY(arguments->connect(context));
        std::string text;
        Json all = Json::object();
        const auto devices = TRY(client.devices(arguments->names));
        for (const MappedDeviceView& device : devices) {
            const std::string& name = device.info.name;
            auto lines = client.lines(method, name, !arguments->no_flush, arguments->inactive);
            if (!lines && arguments->names.empty() && lines.error().kind() == ErrorKind::not_found)
                continue;  // removed meanwhile
            if (!lines)
                return std::unexpected(lines.error());
            // One that was asked for by name and has no table is an empty line.
            if (lines->empty() && arguments->names.size() == 1)
                text += "\n";
            if (!arguments->type.empty())
                std::erase_if(*lines, [&](const TargetLine& one) { return one.type != arguments->type; });
            for (const TargetLine& one : *lines)
                text += fmt::format("{}{}{} {} {} {}\n", arguments->names.size() == 1 ? "" : name, arguments->names.size() == 1 ? "" : ": ",
                                    one.start, one.length, one.type, one.text);
            all[name] = to_json(*lines);
        }
        return context.answer(devices.empty() ? "No devices found\n" : text, {{"devices", all}});
    });
}

void define_info(CommandLine line) {
    struct Arguments : Verb {
        bool columns = false, no_headings = false;
        DeviceColumns layout;
    };
    auto arguments = begin<Arguments>(line);
    line.describe("Print what is known of devices");
    line.optional_arguments("NAME", arguments->names, "the devices (default: all)");
    line.flag("-c,-C,--columns", arguments->columns, "in columns");
    line.flag("--noheadings", arguments->no_headings, "no headings; fields stand together");
    line.option("-o,--options", "FIELDS", arguments->layout.fields,
                "of name, major, minor, attr, open, segments, events, uuid; with + in front, beside the default");
    line.option("--separator", "TEXT", arguments->layout.separator, "between fields without headings (default :)");
    line.runs([arguments](Context& context) -> Result<void> {
        MapperClient client = TRY(arguments->connect(context));
        const auto devices = TRY(client.devices(arguments->names));
        arguments->layout.headings = !arguments->no_headings;
        std::string text;
        Json all = Json::array();
        for (const MappedDeviceView& device : devices)
            all.push_back(device.json());
        if (arguments->columns)
            text = TRY(device_columns(devices, arguments->layout));
        else
            for (const MappedDeviceView& device : devices)
                text += describe_device(device.info);
        return context.answer(devices.empty() ? "No devices found\n" : text, {{"devices", all}});
    });
}

void define_deps(CommandLine line) {
    struct Arguments : Verb {
        std::string word;
    };
    auto arguments = begin<Arguments>(line);
    line.describe("Print what live tables stand on");
    line.optional_arguments("NAME", arguments->names, "the devices (default: all)");
    line.option("-o,--options", "WORD", arguments->word, "devno (default), blkdevname or devname");
    line.runs([arguments](Context& context) -> Result<void> {
        const DeviceWord word = TRY_WITHIN("-o", parse_device_word(arguments->word));
        MapperClient client = TRY(arguments->connect(context));
        const auto devices = TRY(client.devices(arguments->names));
        std::string text;
        Json all = Json::array();
        for (const MappedDeviceView& device : devices) {
            text += dependency_line(device, word, arguments->names.size() != 1);
            all.push_back(device.json());
        }
        return context.answer(devices.empty() ? "No devices found\n" : text, {{"devices", all}});
    });
}

void define_ls_verb(CommandLine line) {
    struct Arguments : Verb {
        std::string type, options;
        bool tree = false;
    };
    auto arguments = begin<Arguments>(line);
    line.describe("List devices");
    line.option("--target", "TYPE", arguments->type, "devices with a target of this type only");
    line.flag("--tree", arguments->tree, "with what they stand on, as a tree");
    line.option("-o,--options", "WORDS", arguments->options,
                "devno, blkdevname or devname; of a tree: nodevice, blkdevname, active, open, rw, uuid, ascii, utf, inverted");
    line.runs([arguments](Context& context) -> Result<void> {
        MapperClient client = TRY(arguments->connect(context));
        auto devices = TRY(client.devices());
        if (!arguments->type.empty()) {
            std::erase_if(devices, [&](const MappedDeviceView& device) {
                const auto lines = client.lines("table", device.info.name, false, false);
                return !lines || std::ranges::find(*lines, arguments->type, &TargetLine::type) == lines->end();
            });
        }
        std::string text;
        Json all = Json::array();
        for (const MappedDeviceView& device : devices)
            all.push_back(device.json());
        if (arguments->tree) {
            text = TRY_WITHIN("-o", device_tree(devices, arguments->options));
        } else {
            const DeviceWord word = TRY_WITHIN("-o", parse_device_word(arguments->options));
            for (const MappedDeviceView& device : devices)
                text += list_line(device.info, word, arguments->type.empty() ? ":" : ", ");
        }
        return context.answer(devices.empty() ? "No devices found\n" : text, {{"devices", all}});
    });
}

void define_targets(CommandLine line) {
    auto verb = begin<Verb>(line);  // as the other verbs take it; there is nothing to ask a server for
    line.describe("Print the types of targets that there are", "With the versions of the kernel's targets whose words they take.");
    line.runs([verb](Context& context) -> Result<void> {
        std::string text;
        Json all = Json::array();
        for (const mapper::TargetType* type : mapper::target_types()) {
            const std::string version = fmt::format("{}", fmt::join(type->version, "."));
            text += fmt::format("{:<16} v{}\n", type->name, version);
            all.push_back({{"name", std::string(type->name)}, {"version", version}});
        }
        return context.answer(text, {{"targets", all}});
    });
}

void define_wait(CommandLine line) {
    struct Arguments : Verb {
        std::string name, event = "0";
        bool no_flush = false;
    };
    auto arguments = begin<Arguments>(line);
    line.describe("Wait for an event of a device",
                  "Until its event number differs from EVENT, the number that was seen last. Its removal is an event, too.");
    line.argument("NAME", arguments->name, "the device");
    line.optional_argument("EVENT", arguments->event, "the event number that info printed (default 0)");
    line.flag("--noflush", arguments->no_flush, "for scripts: nothing is flushed in any case");
    line.runs([arguments](Context& context) -> Result<void> {
        MapperClient client = TRY(arguments->connect(context));
        const auto seen = TRY_WITHIN("EVENT", parse_number<std::uint32_t>(arguments->event));
        const Json answer = TRY(client.call("wait", {{"name", arguments->name}, {"event", seen}}));
        return context.answer({}, {{"event_number", TRY(member<std::uint64_t>(answer, "event_number", "answer"))}});
    });
}

}  // namespace

void define_dm(CommandLine& line) {
    line.describe("Device mapper in user space",
                  "Devices made of tables of targets, in device mapper's own words, served over NBD by lamella dm run; the other verbs "
                  "are those of dmsetup. They need no root and no kernel module.");
    define_dm_run(line.subcommand("run"));
    define_create(line.subcommand("create"));
    define_remove_verb(line.subcommand("remove"));
    define_remove_all(line.subcommand("remove_all"));
    define_load(line.subcommand("load"));
    define_load(line.subcommand("reload"));
    define_clear(line.subcommand("clear"));
    define_suspend(line.subcommand("suspend"));
    define_resume(line.subcommand("resume"));
    define_rename_verb(line.subcommand("rename"));
    define_message_verb(line.subcommand("message"));
    define_lines(line.subcommand("status"), "status");
    define_lines(line.subcommand("table"), "table");
    define_info(line.subcommand("info"));
    define_deps(line.subcommand("deps"));
    define_ls_verb(line.subcommand("ls"));
    define_targets(line.subcommand("targets"));
    define_wait(line.subcommand("wait"));
}

}  // namespace lamella::cli
