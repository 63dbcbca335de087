// SPDX-License-Identifier: Apache-2.0
//
// The commands of thin-provisioning-tools under their own names, so that LVM's configuration and people's scripts can run lamella
// instead: as `thin_check ...` when the program is called by that name, and as `lamella thin_check ...`. Options are those of 0.9.0
// and of 1.x together, read as getopt_long(3) reads them; messages go to standard error as they are; the exit status is 0 or 1, as
// 0.9.0 has it, unless a command says otherwise. One file a command, with one function:
//
//   void define_thin_restore(PeerCommand& command) {
//       struct Arguments { std::string input; ... };
//       auto arguments = std::make_shared<Arguments>();
//       command.describe("Make a pool's metadata from XML");
//       command.option("-i,--input", "FILE", arguments->input, "the XML");
//       command.require("--input");
//       command.runs([arguments](PeerContext& context) -> Result<int> { ... });
//   }
//
// and one line in peer/commands.inc. Help and manual pages are made from the same definitions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/environment.h"
#include "cli/pages.h"
#include "tools/control.h"

namespace lamella::cli {

// What a running command knows of the world.
class PeerContext {
  public:
    explicit PeerContext(Environment& environment) : environment_(environment) {}

    bool quiet = false;

    Environment& environment() const { return environment_; }
    void out(std::string_view text) { environment_.out(text); }
    // Nothing if quiet.
    void err(std::string_view text) {
        if (!quiet)
            environment_.err(text);
    }
    // Interrupts stop it; the peer shows no progress.
    tools::Control control() const;

  private:
    Environment& environment_;
};

// The exit status. An error's message is printed, unless quiet, and the status is 1.
using PeerRun = std::function<Result<int>(PeerContext&)>;

class PeerCommand {
  public:
    explicit PeerCommand(std::string name) : name_(std::move(name)) {}

    const std::string& name() const { return name_; }

    // A line, and paragraphs separated by empty lines.
    void describe(std::string_view summary, std::string_view description = {});
    // The one positional argument, required. Without one empty words are passed over: LVM gives one to thin_repair and thin_restore.
    void argument(const std::string& name, std::string& value, const std::string& help);

    // `names`: "-o,--output" or "--dev-id". The variables live as long as what runs() captures.
    void flag(const std::string& names, bool& value, const std::string& help);
    void option(const std::string& names, const std::string& placeholder, std::string& value, const std::string& help);
    void option(const std::string& names, const std::string& placeholder, std::optional<std::uint64_t>& value, const std::string& help);
    void option(const std::string& names, const std::string& placeholder, std::optional<std::uint32_t>& value, const std::string& help);
    // Any number of times.
    void option(const std::string& names, const std::string& placeholder, std::vector<std::string>& values, const std::string& help);
    // With or without a value, which then follows in the same word: -m17, --metadata-snap=17.
    void flag_or_option(const std::string& names, const std::string& placeholder, bool& given, std::optional<std::uint64_t>& value,
                        const std::string& help);
    void flag_or_option(const std::string& names, const std::string& placeholder, bool& given, std::string& value, const std::string& help);
    void option_choice(const std::string& names, std::string& value, const std::vector<std::string>& words, const std::string& help);
    // -q, which sets PeerContext::quiet.
    void quiet();

    void require(const std::string& option);
    // The two don't go together.
    void exclude(const std::string& option, const std::string& other);

    void runs(PeerRun run) { run_ = std::move(run); }

    // --- For the frame ---
    // Words after the command's name.
    int run(const std::vector<std::string>& words, Environment& environment);
    CommandPage page() const;

  private:
    using Take = std::function<Result<void>(const std::string& word)>;
    enum class Value { none, optional, required };
    struct Option {
        char letter = 0;   // 0: none
        std::string name;  // without dashes
        Value value = Value::none;
        std::string placeholder;
        std::string help;
        std::vector<std::string> choices;
        bool repeats = false;
        bool required = false;
        std::vector<std::string> excludes;
        Take take;
    };

    Option& add(const std::string& names, Value value, const std::string& placeholder, const std::string& help, Take take);
    Option& find(const std::string& option);
    std::string usage() const;
    Result<bool> parse(const std::vector<std::string>& words, Environment& environment);

    std::string name_;
    std::string summary_;
    std::string description_;
    std::vector<Option> options_;
    std::string argument_name_;
    std::string argument_help_;
    std::string* argument_ = nullptr;
    bool quiet_ = false;
    PeerRun run_;
};

// What such a command says its version is: the peer's that it stands in for, then ours.
std::string peer_version();

bool is_peer_command(std::string_view name);
// One of the names that is_peer_command() knows.
int run_peer_command(std::string_view name, const std::vector<std::string>& words, Environment& environment);
// For manuals, in the order of peer/commands.inc; `words` is the name alone.
std::vector<CommandPage> peer_command_pages();

}  // namespace lamella::cli
