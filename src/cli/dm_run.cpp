// SPDX-License-Identifier: Apache-2.0
#include "cli/dm_run.h"

#include <systemd/sd-daemon.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "cli/context.h"
#include "cli/dm_service.h"
#include "cli/end_signals.h"
#include "cli/nbd_arguments.h"

namespace lamella::cli {

namespace {

struct Arguments {
    MapperServiceOptions options;
    std::string nbd_socket;
    std::uint32_t threads = 0;
    NbdArguments nbd;
    std::string pid_file;
};

Result<void> run(Context& context, Arguments& arguments) {
    MapperServiceOptions& options = arguments.options;
    options.threads = arguments.threads;
    if (!arguments.nbd_socket.empty())
        options.nbd.unix_sockets.push_back(arguments.nbd_socket);
    arguments.nbd.apply(options.nbd);
    EndSignals signals;
    TRY(signals.block());
    const std::unique_ptr<MapperService> service = TRY(MapperService::start(options));
    PidFile pid_file(arguments.pid_file);
    TRY(pid_file.write());
    TRY(context.answer(fmt::format("device mapper at {}, devices at {}\n", service->socket(), fmt::join(service->uris(), " ")),
                       {{"socket", service->socket()}, {"process", ::getpid()}, {"uris", service->uris()}}));
    context.flush();
    ::sd_notify(0, "READY=1\nSTATUS=serving mapped devices\n");
    signals.wait();
    ::sd_notify(0, "STOPPING=1");
    return service->stop();
}

}  // namespace

void define_dm_run(CommandLine line) {
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Run a device mapper and serve its devices over NBD",
        "Each device is an export of its name. A FILE is a table, for a device of the file's name without its ending, or tables of "
        "several devices as dm table prints them, each line with \"NAME: \" before it. Runs until SIGTERM or SIGINT; then requests "
        "that wait for suspended devices go on, and everything is made durable.\n\n"
        "When it is ready it prints one line with its addresses, and tells systemd if that started it.");
    line.example("dm run ./disk.table", "one device, disk");
    line.example("dm run --socket ./dm.sock", "none yet: lamella dm create --socket ./dm.sock makes them");
    line.optional_arguments("FILE", arguments->options.table_files, "tables to begin with");
    line.option("--socket", "PATH", arguments->options.socket, "the control socket (default: dm.sock in the runtime directory)");
    line.option("--nbd-socket", "PATH", arguments->nbd_socket,
                "unix socket to serve NBD on (default: the control socket's path with .nbd behind it)");
    arguments->nbd.define(line);
    line.option("--threads", "N", arguments->threads, "threads for clients (default: one a core, up to 4)");
    line.option("--pid-file", "FILE", arguments->pid_file, "write the process id there while serving");
    line.runs([arguments](Context& context) -> Result<void> {
        Result<void> served = run(context, *arguments);
        if (!served && served.error().kind() == ErrorKind::refused && !arguments->nbd.addresses.empty())
            context.suggest(NbdArguments::when_refused);
        return served;
    });
}

}  // namespace lamella::cli
