// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace lamella::cli {

// The commands as manuals and completion show them, read from their definitions.
struct OptionPage {
    std::vector<std::string> names;  // "-L", "--size"; of an argument: "VOLUME"
    std::string placeholder;         // empty: a flag
    std::string help;
    bool required = false;
    bool repeats = false;
    std::vector<std::string> choices;
};

struct CommandPage {
    std::vector<std::string> words;  // {"group", "backup"}; empty for the program itself
    std::string summary;
    std::string description;
    std::vector<OptionPage> arguments;
    std::vector<OptionPage> options;
    std::vector<std::pair<std::string, std::string>> examples;  // words after "lamella", meaning
    std::vector<std::string> subcommands;

    // "group-backup", as in lamella-group-backup(1).
    std::string joined(char separator) const;
};

// In the order of help, subcommands after their command; hidden ones aren't there.
std::vector<CommandPage> command_pages();

}  // namespace lamella::cli
