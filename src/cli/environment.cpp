// SPDX-License-Identifier: Apache-2.0
#include "cli/environment.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <sys/ioctl.h>
#include <unistd.h>

#include "tools/text_sink.h"
#include "volumes/control.h"
#include "volumes/engine_group.h"
#include "volumes/kernel_group.h"
#include "volumes/remote_group.h"

namespace lamella::cli {

namespace {

unsigned terminal_columns() {
    const char* kind = std::getenv("TERM");
    if (!::isatty(STDERR_FILENO) || kind == nullptr || std::string_view(kind) == "dumb")
        return 0;
    winsize size{};
    return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

Environment system_environment() {
    Environment environment;
    environment.out = [](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); };
    environment.err = [](std::string_view text) {
        std::fflush(stdout);
        std::fwrite(text.data(), 1, text.size(), stderr);
    };
    environment.flush = [] { std::fflush(stdout); };
    environment.stream = [](std::string_view text) -> Result<void> {
        std::fflush(stdout);
        return tools::FileSink(STDOUT_FILENO, "standard output").write(text);
    };
    if (::isatty(STDIN_FILENO) && ::isatty(STDERR_FILENO))
        environment.ask = [](std::string_view question) {
            std::fflush(stdout);
            std::fwrite(question.data(), 1, question.size(), stderr);
            char answer[16] = {};
            if (!std::fgets(answer, sizeof answer, stdin))
                return std::string();
            std::string_view line(answer);
            return std::string(line.substr(0, line.find('\n')));
        };
    environment.columns = terminal_columns();
    environment.open_group = open_group;
    environment.open_kernel_group = open_kernel_group;
    environment.host_groups = host_groups;
    return environment;
}

Result<std::unique_ptr<KernelGroup>> open_kernel_group(const std::string& name) {
    if (::geteuid() != 0)
        return fail(ErrorKind::refused, "{0}: there is no such file here, and a group that this host's LVM runs is for root alone", name);
    KernelHost host;
    host.lvm = TRY_WITHIN(fmt::format("group {}", name), host::Lvm::find_program());
    host.runner = std::make_unique<host::ProcessRunner>([](std::string_view text) { fmt::print(stderr, "lamella: {}\n", text); });
    host.mapper = host::KernelMapper::of_host();
    host.state_directory = TRY(make_runtime_directory());
    return KernelGroup::open(name, std::move(host));
}

Result<std::filesystem::path> lvm_locks(std::span<const std::string> paths) {
    const auto is_device = [](const std::string& path) {
        std::error_code ignored;  // who opens it says what is wrong with it
        return std::filesystem::is_block_file(path, ignored);
    };
    if (::geteuid() != 0 || !std::ranges::any_of(paths, is_device))
        return {};
    const auto program = host::Lvm::find_program();
    if (!program)
        return {};
    // As LVM's own commands, which do nothing without their configuration.
    host::ProcessRunner runner;
    return TRY_WITHIN(fmt::format("{}: LVM sees devices too, and has to be kept from them meanwhile; where its locks are isn't known "
                                  "(see what `lvmconfig --validate` says of /etc/lvm/lvm.conf)",
                                  fmt::join(paths, ",")),
                      host::Lvm(runner, *program).locking_directory());
}

Result<std::vector<std::string>> host_groups() {
    if (::geteuid() != 0)
        return fail(ErrorKind::refused, "the groups that this host's LVM runs are for root alone; others are named by their paths");
    host::ProcessRunner runner;
    std::vector<std::string> names;
    for (const host::LvmGroupName& group : TRY(host::Lvm(runner, TRY(host::Lvm::find_program())).groups()))
        names.push_back(group.name);
    return names;
}

Result<std::unique_ptr<VolumeGroup>> open_group(const GroupAddress& address, Access access) {
    if (address.paths.empty()) {
        std::unique_ptr<KernelGroup> kernel = TRY(open_kernel_group(address.name));
        const bool of_device = access == Access::ask_device || access == Access::tell_device;
        if (of_device && kernel->is_active()) {
            for (const std::string& recovered : kernel->recovered())
                fmt::print(stderr, "lamella: group {}: {}\n", address.name, recovered);
            return kernel;
        }
        // While LVM has it inactive, a process of ours may serve it.
        if (std::unique_ptr<ControlClient> client = TRY(ControlClient::connect(TRY(kernel->disks()))))
            return std::make_unique<RemoteGroup>(std::move(client));
        if (access == Access::write)
            TRY_WITHIN(fmt::format("group {}", address.name), kernel->recover());
        return kernel;
    }
    if (std::unique_ptr<ControlClient> client = TRY(ControlClient::connect(address.paths)))
        return std::make_unique<RemoteGroup>(std::move(client));
    EngineOptions options{.read_only = access == Access::read || access == Access::ask_device};
    if (!options.read_only)
        options.lvm_locks = TRY(lvm_locks(address.paths));
    return TRY(EngineGroup::open(address.paths, options));
}

}  // namespace lamella::cli
