// SPDX-License-Identifier: Apache-2.0
//
// Running another program: the seam behind which all of LVM's commands stand.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lamella::host {

struct Command {
    std::vector<std::string> words;  // words[0]: the program's absolute path

    // A command that changes something may hold devices suspended, or be half way through a commit: it is never ended from here, however
    // long it takes or much it prints. One that only reads is ended when it takes or prints too much.
    bool changes = false;
    std::chrono::milliseconds patience{60'000};  // until a reader is ended, or a changer called slow
    std::size_t max_output = 64 << 20;           // bytes of either stream that are kept; a changer's rest is dropped
};

struct CommandResult {
    int exit_code = 0;
    int signal = 0;  // that ended it; 0: it ended by itself
    std::string output;
    std::string errors;
};

// Threads: any, several at once.
class CommandRunner {
  public:
    virtual ~CommandRunner() = default;
    // Waits for the end of the command. An exit code other than 0 is a result, not an error.
    // Errors: not_found (no such program), refused (may not be run), failed (a reader was ended: too slow, or too much output).
    virtual Result<CommandResult> run(const Command& command) = 0;
};

// Processes of this host. Standard input is /dev/null: a question gets its default answer. The environment is PATH, LC_ALL=C and what
// keeps LVM's commands from speaking of inherited descriptors; no descriptor but the three is inherited. The process has a group of its
// own, so that an interrupt at the terminal doesn't reach it, and no SIGPIPE, so that it outlives its reader.
class ProcessRunner final : public CommandRunner {
  public:
    // `slow` is told, once a command, that a changer runs longer than its patience; it may be empty.
    explicit ProcessRunner(std::function<void(std::string_view)> slow = {}) : slow_(std::move(slow)) {}
    Result<CommandResult> run(const Command& command) override;

  private:
    std::function<void(std::string_view)> slow_;
};

}  // namespace lamella::host
