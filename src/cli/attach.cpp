// SPDX-License-Identifier: Apache-2.0
//
// attach and detach: a volume as a block device or a file of this host.
//
//   kernel                    lamella process that serves the group
//   /dev/nbdN   ------------> sockets that nobody else has           -> volume
//
// or, where the kernel has no NBD client and for who asks for a file,
//
//   /dev/loopN  ------------> RUNTIME/mnt/GROUP/VOLUME/VOLUME (FUSE) -> volume
//
// A group that nobody serves yet is served by a background process, which ends with the last volume that is detached from it.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cli/attachment.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/environment.h"
#include "cli/serving.h"
#include "serve/fuse/fuse_export.h"
#include "volumes/control.h"
#include "volumes/kernel_group.h"

namespace lamella::cli {

namespace {

// The background process: serves until it isn't needed. Never returns.
[[noreturn]] void serve_in_background(const ServingOptions& options, int ready) {
    auto say = [](const std::string& text) { (void)!::write(STDERR_FILENO, (text + "\n").data(), text.size() + 1); };
    auto tell = [&](const Json& answer) {
        std::string line = print_json(answer).value_or("{}");
        (void)!::write(ready, line.data(), line.size());
        ::close(ready);
    };
    Result<std::unique_ptr<Serving>> serving = Serving::start(options);
    if (!serving) {
        tell(error_to_json(serving.error()));
        ::_exit(1);
    }
    for (const std::string& recovered : (*serving)->opened().recovered)
        say("lamella: group " + (*serving)->group_name() + ": " + recovered);
    tell(Json::object());
    (*serving)->wait();
    Result<void> stopped = (*serving)->stop();
    if (!stopped)
        say("lamella: group " + (*serving)->group_name() + ": " + stopped.error().message());
    ::_exit(stopped ? 0 : 1);
}

// Returns when the group is served.
Result<void> start_background(const std::vector<std::string>& paths, const EngineOptions& engine) {
    std::string directory = TRY(make_runtime_directory());
    std::string name = TRY(control_socket_name(paths.front()));
    std::string stem = fmt::format("{}/{}", directory, name.substr(0, name.rfind('.')));
    std::string log_path = stem + ".log";
    int log = ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log < 0)
        return fail_errno(log_path);
    int pipe[2];
    if (::pipe2(pipe, O_CLOEXEC) != 0) {
        ::close(log);
        return fail_errno("pipe");
    }
    // Forked twice: the process that serves has a session of its own and no parent that it could become a zombie of. This
    // process has one thread, so that all of the library works in the child.
    pid_t child = ::fork();
    if (child == 0) {
        ::setsid();
        if (::fork() != 0)
            ::_exit(0);
        (void)!::chdir("/");
        int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
        ::dup2(null, STDIN_FILENO);
        ::dup2(log, STDOUT_FILENO);
        ::dup2(log, STDERR_FILENO);
        ::dup2(pipe[1], 3);
        ::close_range(4, ~0u, 0);
        ::fcntl(3, F_SETFD, FD_CLOEXEC);
        ServingOptions options;
        options.paths = paths;
        options.engine = engine;
        options.automatic = true;
        // Not by the group's name: another group of that name may be attached too.
        options.nbd.unix_sockets = {stem + ".nbd.sock"};
        serve_in_background(options, 3);
    }
    int error = errno;
    ::close(log);
    ::close(pipe[1]);
    std::string answer;
    char buffer[4096];
    for (ssize_t count; child > 0 && ((count = ::read(pipe[0], buffer, sizeof buffer)) > 0 || (count < 0 && errno == EINTR));)
        answer.append(buffer, static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    ::close(pipe[0]);
    if (child < 0)
        return fail_errno("starting a process", error);
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {}
    Result<Json> json = parse_json(answer);
    if (!json)
        return fail(ErrorKind::failed, "the background process ended unexpectedly; {} may say why", log_path);
    if (json->contains("kind"))
        return std::unexpected(error_from_json(*json));
    return {};
}

// Paths that stay right in another folder.
Result<std::vector<std::string>> absolute(const std::vector<std::string>& paths) {
    std::vector<std::string> result;
    for (const std::string& path : paths) {
        std::unique_ptr<char, decltype(&::free)> real(::realpath(path.c_str(), nullptr), ::free);
        if (!real)
            return fail_errno(path);
        result.emplace_back(real.get());
    }
    return result;
}

// The physical volumes of a group, by which a process that serves it is found.
Result<std::vector<std::string>> paths_of(const GroupAddress& group) {
    return group.paths.empty() ? TRY(open_kernel_group(group.name))->disks() : absolute(group.paths);
}

// Ends a background process that attach started for nothing.
void let_go(ControlClient& client, const std::string& volume) { (void)client.call("detach", {{"volume", volume}}); }

Result<void> attach(Context& context, const VolumeAddress& volume, bool read_only, bool only_file, bool user_space) {
    const std::vector<std::string> paths = TRY(paths_of(volume.group));
    std::unique_ptr<ControlClient> client = TRY(ControlClient::connect(paths));
    const bool started = !client;
    if (started) {
        EngineOptions engine;
        engine.read_only = read_only;
        TRY(paths_to_serve(volume.group, user_space, engine));
        TRY(start_background(paths, engine));
        client = TRY(ControlClient::connect(paths));
        if (!client)
            return fail(ErrorKind::failed, "the background process for {} ended at once", volume.group.text());
    }
    const bool device_wanted = !only_file && ::geteuid() == 0;
    Result<Json> attached = client->call("attach", {{"volume", volume.volume}, {"read_only", read_only}, {"device", device_wanted}});
    if (!attached) {
        if (started)
            let_go(*client, volume.volume);
        return std::unexpected(attached.error());
    }
    read_only = TRY(member<bool>(*attached, "read_only", "answer"));
    std::string file, device;
    if (attached->contains("device") && !attached->at("device").is_null())
        device = TRY(member<std::string>(*attached, "device", "answer"));
    else
        file = TRY(member<std::string>(*attached, "path", "answer"));

    if (device_wanted && device.empty()) {
        if (std::vector<std::string> devices = loop_devices_of(file); !devices.empty()) {
            device = devices.front();
        } else if (Result<std::string> made = make_loop_device(file, read_only)) {
            device = *made;
        } else if (made.error().kind() == ErrorKind::unsupported) {
            context.note(fmt::format("{}; the volume is attached as a file", made.error().message()));
        } else {
            if (started)
                let_go(*client, volume.volume);
            return std::unexpected(made.error());
        }
    }
    auto known = [](const std::string& path) { return path.empty() ? Json() : Json(path); };
    return context.answer((device.empty() ? file : device) + "\n", {{"volume", volume.volume},
                                                                    {"device", known(device)},
                                                                    {"file", known(file)},
                                                                    {"read_only", read_only},
                                                                    {"process", client->server_process()}});
}

Result<void> detach(Context& context, const VolumeAddress& volume) {
    const std::vector<std::string> paths = TRY(paths_of(volume.group));
    std::unique_ptr<ControlClient> client = TRY(ControlClient::connect(paths));
    const std::vector<std::string> nbd_devices = TRY(nbd_devices_of(paths, volume.volume));
    std::string group;
    bool attached = false;
    bool dead_file = false;
    if (client) {
        Json serving = TRY(client->call("serving", Json::object()));
        group = TRY(member<std::string>(serving, "group", "answer"));
        for (const std::string& name : TRY(member<std::vector<std::string>>(serving, "attached", "answer")))
            attached = attached || name == volume.volume;
    } else {
        group = TRY(TRY(context.open(volume.group, Access::read))->info()).name;
        dead_file = mount_state(mount_point_of(group, volume.volume)) == MountState::dead;
    }
    if (!attached && !dead_file && nbd_devices.empty())
        return fail(ErrorKind::not_found, "volume {}: not attached", volume.text());
    std::string mount_point = mount_point_of(group, volume.volume);
    std::string file = mount_point + "/" + volume.volume;

    context.suggest("unmount it and close what uses it, then the same command again");
    std::string what = fmt::format("volume {}", volume.text());
    for (const std::string& device : nbd_devices)
        TRY_WITHIN(what, refuse_if_used(device));
    for (const std::string& device : loop_devices_of(file)) {
        TRY_WITHIN(what, refuse_if_used(device));
        if (!context.dry_run)
            TRY(remove_loop_device(device));
    }
    if (context.dry_run && client && nbd_devices.empty())
        TRY_WITHIN(what, refuse_if_used(file));
    bool ending = false;
    if (!context.dry_run && attached) {
        Result<Json> detached = client->call("detach", {{"volume", volume.volume}});
        if (!detached && detached.error().kind() == ErrorKind::refused && nbd_devices.empty())
            TRY_WITHIN(what, refuse_if_used(file));
        ending = TRY(member<bool>(TRY(std::move(detached)), "ending", "answer"));
        if (ending)
            wait_for_end_of(client->server_process());
    } else if (!context.dry_run) {
        context.note(fmt::format("the process that served {} is gone; cleaning up after it", group));
        for (const std::string& device : nbd_devices)
            TRY_WITHIN(what, remove_nbd_device(device));
        if (dead_file) {
            TRY(fuse::unmount_dead(mount_point));
            remove_mount_point(mount_point);
        }
    }
    return context.answer(fmt::format("volume {}: {}\n", volume.text(), context.done("detached")),
                          {{"dry_run", context.dry_run}, {"volume", volume.volume}, {"stopped_serving", ending}});
}

}  // namespace

void define_attach(CommandLine& line) {
    struct Arguments {
        VolumeAddress volume;
        bool read_only = false;
        bool file = false;
        bool user_space = false;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Make a volume a block device or a file of this host",
        "Prints the path of the block device, for root, or of the file. The device is one of the kernel's NBD client, or where there "
        "is none a loop device. A group that nobody serves is served by a process in the background, which ends with the last "
        "volume that is detached.");
    line.example("attach ./vms.img:web", "prints /dev/nbd0, or /dev/loop0, to be formatted and mounted");
    line.argument("VOLUME", arguments->volume, "the volume");
    line.flag("--read-only", arguments->read_only, "for reading only");
    line.flag("--file", arguments->file, "a file, no block device");
    line.flag("--user-space", arguments->user_space, "of a group of this host's LVM: as serve --user-space");
    line.runs([arguments](Context& context) {
        return attach(context, arguments->volume, arguments->read_only, arguments->file, arguments->user_space);
    });
}

void define_detach(CommandLine& line) {
    auto volume = std::make_shared<VolumeAddress>();
    line.describe("Undo attach", "Refused while the device or file is in use; the answer says by whom.");
    line.argument("VOLUME", *volume, "the volume");
    line.changes();
    line.runs([volume](Context& context) { return detach(context, *volume); });
}

}  // namespace lamella::cli
