// SPDX-License-Identifier: Apache-2.0
//
// How commands say what they take and do. A command is one file with one function, and one line in commands.inc:
//
//   void define_rename(CommandLine& line) {
//       struct Arguments { VolumeAddress volume; std::string new_name; };
//       auto arguments = std::make_shared<Arguments>();
//       line.describe("Rename a volume", "...");
//       line.argument("VOLUME", arguments->volume, "the volume");
//       line.argument("NAME", arguments->new_name, "its new name");
//       line.changes();
//       line.runs([arguments](Context& context) -> Result<void> { ... });
//   }
//
// Parsing, help, man pages and shell completion are all made from the same definitions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/sizes.h"
#include "volumes/names.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace lamella::cli {

class Context;
struct Program;
using Run = std::function<Result<void>(Context&)>;

// One command being defined. The variables that arguments and options are bound to must live as long as the program: keep them in
// what runs() captures. A value that can't be understood is a usage error that names its option.
class CommandLine {
  public:
    CommandLine(Program& program, CLI::App& app) : program_(&program), app_(&app) {}

    // A line, and paragraphs separated by empty lines.
    void describe(std::string_view summary, std::string_view description = {});
    // The words after "lamella".
    void example(std::string_view words, std::string_view meaning);
    // Leaves the command out of help.
    void hide();

    // Positional and required, in the order of the calls.
    void argument(const std::string& name, std::string& value, const std::string& help);
    void argument(const std::string& name, GroupAddress& value, const std::string& help);
    void argument(const std::string& name, VolumeAddress& value, const std::string& help);
    void argument(const std::string& name, Address& value, const std::string& help);
    void argument_choice(const std::string& name, std::string& value, const std::vector<std::string>& words, const std::string& help);
    // One or more of them.
    void arguments(const std::string& name, std::vector<std::string>& values, const std::string& help);
    void arguments(const std::string& name, std::vector<VolumeAddress>& values, const std::string& help);
    // Any number, none too.
    void optional_arguments(const std::string& name, std::vector<std::string>& values, const std::string& help);
    // One, or none.
    void optional_argument(const std::string& name, std::string& value, const std::string& help);

    // `names`: "--size" or "-L,--size". `placeholder`: what help calls the value.
    void flag(const std::string& names, bool& value, const std::string& help);
    void option(const std::string& names, const std::string& placeholder, std::string& value, const std::string& help);
    void option(const std::string& names, const std::string& placeholder, std::uint32_t& value, const std::string& help);
    void option(const std::string& names, const std::string& placeholder, std::optional<std::uint32_t>& value, const std::string& help);
    void option(const std::string& names, const std::string& placeholder, std::optional<std::uint64_t>& value, const std::string& help);
    // May be given several times.
    void option(const std::string& names, const std::string& placeholder, std::vector<std::string>& values, const std::string& help);
    void option_choice(const std::string& names, std::string& value, const std::vector<std::string>& words, const std::string& help);
    // Bytes, in LVM's units.
    void option_size(const std::string& names, std::uint64_t& value, const std::string& help);
    // Bytes, or "auto".
    void option_size(const std::string& names, std::optional<std::uint64_t>& value, const std::string& help);
    // Bytes or a percentage, absolute or by how much.
    void option_size(const std::string& names, SizeArgument& value, const std::string& help);

    void require(const std::string& option);
    void exclude(const std::string& option, const std::string& other);
    // `option` makes sense only with `other`.
    void need(const std::string& option, const std::string& other);

    // Adds --dry-run.
    void changes();
    // Adds --yes: what the command does can't be undone.
    void destroys();

    CommandLine subcommand(const std::string& name);
    // The command does something itself. Adds --json.
    void runs(Run run);

  private:
    using Take = std::function<Result<void>(const std::string&)>;
    CLI::Option* add(const std::string& names, const std::string& placeholder, const std::string& help, Take take);
    CLI::Option* add_positional(const std::string& name, const std::string& help, bool several, Take take, bool required = true);

    Program* program_;
    CLI::App* app_;
};

}  // namespace lamella::cli
