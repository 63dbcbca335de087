// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <csignal>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/file_descriptor.h"
#include "host/command_runner.h"

namespace lamella::host {

namespace {

using std::chrono::milliseconds;

// How long a reader that was asked to end may take until it is ended for good.
constexpr milliseconds last_grace(2'000);

struct Pipe {
    FileDescriptor read, write;
};

Result<Pipe> make_pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return fail_errno("pipe");
    Pipe pipe{FileDescriptor(ends[0]), FileDescriptor(ends[1])};
    ::fcntl(pipe.read.get(), F_SETFL, O_NONBLOCK);
    return pipe;
}

// posix_spawn's two objects, destroyed on every way out.
struct SpawnSettings {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;

    SpawnSettings() {
        ::posix_spawn_file_actions_init(&files);
        ::posix_spawnattr_init(&attributes);
    }
    ~SpawnSettings() {
        ::posix_spawn_file_actions_destroy(&files);
        ::posix_spawnattr_destroy(&attributes);
    }
    SpawnSettings(const SpawnSettings&) = delete;
    SpawnSettings& operator=(const SpawnSettings&) = delete;
};

Result<pid_t> spawn(const std::vector<std::string>& words, int output, int errors) {
    SpawnSettings settings;
    ::posix_spawn_file_actions_addopen(&settings.files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&settings.files, output, STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&settings.files, errors, STDERR_FILENO);
    // What somebody opened without O_CLOEXEC stays here, too.
    ::posix_spawn_file_actions_addclosefrom_np(&settings.files, STDERR_FILENO + 1);
    sigset_t blocked, ordinary;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGPIPE);
    sigfillset(&ordinary);
    ::posix_spawnattr_setsigmask(&settings.attributes, &blocked);
    ::posix_spawnattr_setsigdefault(&settings.attributes, &ordinary);
    ::posix_spawnattr_setpgroup(&settings.attributes, 0);
    ::posix_spawnattr_setflags(&settings.attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);

    std::vector<char*> arguments;
    for (const std::string& word : words)
        arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    std::array<const char*, 5> environment{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1",
                                           "LVM_SUPPRESS_SYSLOG=1", nullptr};
    pid_t process = 0;
    const int error = ::posix_spawn(&process, words[0].c_str(), &settings.files, &settings.attributes, arguments.data(),
                                    const_cast<char**>(environment.data()));
    if (error == EACCES || error == EPERM)
        return fail(ErrorKind::refused, "{}: may not be run", words[0]);
    if (error != 0)
        return std::unexpected(Error::from_errno(words[0], error));
    return process;
}

// One stream of a command that runs.
struct Stream {
    FileDescriptor pipe;
    std::string text{};
    bool too_much = false;

    // What is there now. At the end the pipe is closed.
    void drain(std::size_t limit) {
        std::array<char, 64 * 1024> buffer;
        while (pipe.valid()) {
            const ssize_t got = ::read(pipe.get(), buffer.data(), buffer.size());
            if (got < 0 && errno == EINTR)
                continue;
            if (got < 0 && errno == EAGAIN)
                return;
            if (got <= 0)
                return pipe.close();
            const std::size_t kept = std::min(static_cast<std::size_t>(got), limit - text.size());
            text.append(buffer.data(), kept);
            too_much |= kept < static_cast<std::size_t>(got);
            if (too_much && static_cast<std::size_t>(got) == buffer.size())
                return;  // the caller decides whether there is any sense in reading on
        }
    }
};

}  // namespace

Result<CommandResult> ProcessRunner::run(const Command& command) {
    Pipe output_pipe = TRY(make_pipe());
    Pipe errors_pipe = TRY(make_pipe());
    const pid_t process = TRY(spawn(command.words, output_pipe.write.get(), errors_pipe.write.get()));
    output_pipe.write.close();
    errors_pipe.write.close();
    Stream output{std::move(output_pipe.read)};
    Stream errors{std::move(errors_pipe.read)};
    // A process that the command leaves behind may keep the pipes open: the end of the command itself is what counts.
    FileDescriptor ended(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));

    Clock& clock = Clock::system();
    std::optional<Error> cut_short;  // why a reader was asked to end
    bool called_slow = false;
    Duration until = clock.monotonic() + command.patience;
    const auto end_reader = [&](ErrorKind kind, std::string reason) {
        cut_short = Error(kind, std::move(reason));
        ::kill(-process, SIGTERM);
        until = clock.monotonic() + last_grace;
    };
    int status = 0;
    while (::waitpid(process, &status, WNOHANG) == 0) {
        const Duration left = until - clock.monotonic();
        int wait_for = static_cast<int>(std::chrono::ceil<milliseconds>(std::max(left, Duration(0))).count());
        if (called_slow)
            wait_for = -1;
        std::array<pollfd, 3> waiting{pollfd{output.pipe.get(), POLLIN, 0}, {errors.pipe.get(), POLLIN, 0}, {ended.get(), POLLIN, 0}};
        if (!ended.valid())
            wait_for = 10;  // a kernel without pidfds: ask again
        ::poll(waiting.data(), waiting.size(), wait_for);
        output.drain(command.max_output);
        errors.drain(command.max_output);
        if (!command.changes && !cut_short && (output.too_much || errors.too_much))
            end_reader(ErrorKind::failed, fmt::format("{} printed more than {} bytes", command.words[0], command.max_output));
        if (clock.monotonic() < until || called_slow)
            continue;
        if (command.changes) {
            called_slow = true;
            if (slow_)
                slow_(fmt::format("{} takes longer than {} s; it is waited for: to end it could leave devices suspended",
                                  fmt::join(command.words, " "), command.patience.count() / 1000));
        } else if (!cut_short) {
            end_reader(ErrorKind::failed, fmt::format("{} gave no answer within {} ms and was ended", fmt::join(command.words, " "),
                                                      command.patience.count()));
        } else {
            ::kill(-process, SIGKILL);
            until = clock.monotonic() + last_grace;
        }
    }
    output.drain(command.max_output);
    errors.drain(command.max_output);
    if (cut_short)
        return std::unexpected(*cut_short);
    if (!command.changes && (output.too_much || errors.too_much))
        return fail(ErrorKind::failed, "{} printed more than {} bytes", command.words[0], command.max_output);
    return CommandResult{WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0, std::move(output.text),
                         std::move(errors.text)};
}

}  // namespace lamella::host
