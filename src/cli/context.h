// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/environment.h"
#include "cli/exit_code.h"
#include "tools/control.h"
#include "volumes/json.h"

namespace lamella::cli {

// What a running command knows of how it was called, and how it speaks. One command, one context.
class Context {
  public:
    explicit Context(Environment& environment) : environment_(environment) {}

    bool json = false;
    bool dry_run = false;
    bool yes = false;

    // For one change: at a terminal it shows how far the change has come, until the options are gone.
    ChangeOptions change() const;
    // For one that can be stopped on its way: an interrupt does.
    ChangeOptions stoppable_change() const;

    // For one run of a tool: at a terminal it shows how far it has come, until the control is gone; an interrupt stops it.
    tools::Control control() const;

    Clock& clock() const { return *environment_.clock; }
    const Environment& environment() const { return environment_; }

    // The group stays open until the command ends.
    Result<VolumeGroup*> open(const GroupAddress& address, Access access);

    Result<std::vector<std::string>> host_groups() { return environment_.host_groups(); }

    // For an answer too long to be held: instead of answer(). An error when nobody reads it any more.
    Result<void> stream(std::string_view text) {
        answered_ = true;
        return environment_.stream(text);
    }

    // The command's whole answer: `text` for people or `json` for programs. Called once.
    Result<void> answer(std::string_view text, const Json& json);
    // Lets what was printed reach its reader now: before a wait.
    void flush() { environment_.flush(); }
    // For people, on standard error, with --json too: warnings, and what takes long.
    void note(std::string_view text);

    // done("created") is "created", or "would be created" in a dry run.
    std::string done(std::string_view participle) const;

    // Before something that can't be undone: goes on with --yes or in a dry run, asks at a terminal, else refuses.
    Result<void> confirm(std::string_view question);
    // The same before volumes, and what is in the pools among them, are lost: nothing else may have come in their place while the question
    // stood.
    Result<void> confirm_loss(VolumeGroup& group, const std::vector<std::string>& names, std::string_view question);

    // What a command that did what it should tells by its exit status.
    void exit_with(ExitCode code) { code_ = code; }
    ExitCode code() const { return code_; }

    // What to do next if the command fails from here on; without it the kind of error decides.
    void suggest(std::string text) { suggestion_ = std::move(text); }
    std::string suggestion(const Error& error) const;

    // An answer went out: with --json, what fails after it is told on standard error alone.
    bool answered() const { return answered_; }

  private:
    Environment& environment_;
    std::unique_ptr<VolumeGroup> group_;
    GroupAddress address_;
    bool wants_group_ = false;
    std::string suggestion_;
    bool answered_ = false;
    ExitCode code_ = ExitCode::done;
};

}  // namespace lamella::cli
