// SPDX-License-Identifier: Apache-2.0
#include <systemd/sd-daemon.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/nbd_arguments.h"
#include "cli/output.h"
#include "cli/serving.h"
#include "cli/sizes.h"

namespace lamella::cli {

namespace {

struct Arguments {
    GroupAddress group;
    ServingOptions options;
    std::string socket;
    bool read_only = false;
    bool user_space = false;
    NbdArguments nbd;
    std::uint32_t threads = 0;
    std::uint32_t no_space_timeout = 60;
    std::uint32_t autoextend_threshold = 100;
    std::uint32_t autoextend_percent = 20;
    std::string pid_file;
};

Result<void> serve(Context& context, Arguments& arguments) {
    ServingOptions& options = arguments.options;
    options.engine.read_only = arguments.read_only;
    options.paths = TRY(paths_to_serve(arguments.group, arguments.user_space, options.engine));
    options.engine.no_space_timeout = arguments.no_space_timeout;
    if (arguments.autoextend_threshold < 50 || arguments.autoextend_threshold > 100 || arguments.autoextend_percent == 0 ||
        arguments.autoextend_percent > 1000)
        return fail(ErrorKind::usage, "--snapshot-autoextend-threshold is 50 to 100, --snapshot-autoextend-percent 1 to 1000");
    options.engine.snapshot_autoextend_threshold = arguments.autoextend_threshold;
    options.engine.snapshot_autoextend_percent = arguments.autoextend_percent;
    options.threads = arguments.threads;
    if (!arguments.socket.empty())
        options.nbd.unix_sockets.push_back(arguments.socket);
    arguments.nbd.apply(options.nbd);

    std::unique_ptr<Serving> serving = TRY(Serving::start(options));
    note_findings(context, serving->opened());
    PidFile pid_file(arguments.pid_file);
    TRY(pid_file.write());
    TRY(context.answer(fmt::format("serving {} at {}\n", serving->group_name(), fmt::join(serving->uris(), " ")),
                       {{"group", serving->group_name()}, {"process", ::getpid()}, {"uris", serving->uris()}}));
    context.flush();
    ::sd_notify(0, fmt::format("READY=1\nSTATUS=serving {}\n", serving->group_name()).c_str());
    serving->wait();
    ::sd_notify(0, "STOPPING=1");
    return serving->stop();
}

}  // namespace

void define_serve(CommandLine& line) {
    auto arguments = std::make_shared<Arguments>();
    ServingOptions& options = arguments->options;
    line.describe(
        "Serve the volumes of a group over NBD",
        "Each volume is an export of its name. Runs until SIGTERM or SIGINT; then requests in flight are finished and everything is "
        "made durable. While it runs, every other command on the same group is carried out by it, without stopping I/O.\n\n"
        "When it is ready it prints one line with the addresses, and tells systemd if that started it. Sockets that systemd passes "
        "are served too.\n\n"
        "--read-only opens damaged and foreign groups as far as they are sound.");
    line.example("serve ./vms.img", "at a socket in the runtime directory; its name is printed");
    line.example("serve ./vms.img --socket ./vms.sock", "nbdinfo --list 'nbd+unix:///?socket=./vms.sock' shows the volumes");
    line.example("serve ./vms.img --listen 0.0.0.0:10809 --tls-certificates /etc/pki/lamella", "to other hosts, by TLS");
    line.example("serve vg0 --user-space", "a group of this host's LVM, which has it inactive");
    line.argument("GROUP", arguments->group,
                  "paths of its physical volumes, separated by commas; with --user-space the name of a group of this host's LVM");
    line.option("--socket", "PATH", arguments->socket, "unix socket to listen on (default: GROUP.nbd.sock in the runtime directory)");
    arguments->nbd.define(line);
    line.flag("--read-only", arguments->read_only, "open and serve for reading only");
    line.flag(
        "--user-space", arguments->user_space,
        "open the disks of a group of this host's LVM here; refused while anything of it is active, and LVM can't activate it meanwhile");
    line.option("--export", "LV", options.exports, "serve this volume only; may be given several times");
    line.option("--threads", "N", arguments->threads, "threads for clients (default: one a core, up to 4)");
    line.option_size("--cache-size", options.engine.mapping_cache_bytes, "most memory for mappings (default 512M)");
    line.option_size("--metadata-cache", options.engine.metadata_cache_bytes, "most memory for metadata blocks (default 32M)");
    line.option("--no-space-timeout", "SECONDS", arguments->no_space_timeout,
                "how long writes wait in a full pool (default 60; 0: for ever)");
    line.option("--snapshot-autoextend-threshold", "PERCENT", arguments->autoextend_threshold,
                "when classic snapshots are fuller than this they get more room (default 100: never)");
    line.option("--snapshot-autoextend-percent", "PERCENT", arguments->autoextend_percent, "how much more, of what they have (default 20)");
    line.option("--pid-file", "FILE", arguments->pid_file, "write the process id there while serving");
    line.runs([arguments](Context& context) -> Result<void> {
        Result<void> served = serve(context, *arguments);
        if (!served && served.error().kind() == ErrorKind::not_found && !arguments->options.exports.empty())
            context.suggest(fmt::format("lamella list {}", arguments->group.text()));
        if (!served && served.error().kind() == ErrorKind::refused && !arguments->nbd.addresses.empty())
            context.suggest(NbdArguments::when_refused);
        return served;
    });
}

}  // namespace lamella::cli
