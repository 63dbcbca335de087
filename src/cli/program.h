// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/command_line.h"
#include "cli/environment.h"
#include "cli/exit_code.h"

namespace lamella::cli {

// What a command's definition holds beside what CLI11 keeps.
struct CommandNotes {
    std::string description;
    std::vector<std::pair<std::string, std::string>> examples;  // words, meaning
    std::map<std::string, std::vector<std::string>> choices;    // option or argument: its words
    bool json = false;
    bool dry_run = false;
    bool yes = false;
    bool hidden = false;
    Run run;
};

// All commands, defined and ready to parse a command line.
struct Program {
    Program();
    ~Program();

    std::unique_ptr<CLI::App> app;
    std::map<const CLI::App*, CommandNotes> notes;
};

// The program's whole life: `words` are those after "lamella". Errors and help are written, the rest is in the exit code.
ExitCode run_program(const std::vector<std::string>& words, Environment& environment);

constexpr const char* program_version = LAMELLA_VERSION;

}  // namespace lamella::cli
