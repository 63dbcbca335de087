// SPDX-License-Identifier: Apache-2.0
#include "cli/context.h"

#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress_line.h"

namespace lamella::cli {

Result<VolumeGroup*> Context::open(const GroupAddress& address, Access access) {
    wants_group_ = true;
    const bool changes = access == Access::write;
    group_ = TRY(environment_.open_group(address, changes && dry_run ? Access::trial : access));
    address_ = address;
    // Commands that only look say it with what they find.
    if (changes)
        if (const auto info = group_->info())
            note_broken_off(*this, *info);
    return group_.get();
}

ChangeOptions Context::change() const {
    ChangeOptions options{.dry_run = dry_run};
    if (!json && !dry_run && environment_.columns > 0)
        options.progress =
            [line = std::make_shared<ProgressLine>(environment_.err, *environment_.clock, environment_.columns)](const Progress& progress) {
                line->show(progress);
                return true;
            };
    return options;
}

ChangeOptions Context::stoppable_change() const {
    ChangeOptions options = change();
    options.progress = [show = std::move(options.progress), &stop = interrupted()](const Progress& progress) {
        return (!show || show(progress)) && !stop;
    };
    return options;
}

tools::Control Context::control() const {
    tools::Control control{.progress = {}, .stop = &interrupted()};
    if (!json && environment_.columns > 0)
        control.progress = [line = std::make_shared<ProgressLine>(environment_.err, *environment_.clock, environment_.columns)](
                               std::uint64_t done, std::uint64_t total) {
            line->show({done, total});
        };
    return control;
}

Result<void> Context::answer(std::string_view text, const Json& value) {
    answered_ = true;
    if (json)
        environment_.out(TRY(print_json_indented(value)));
    else
        environment_.out(text);
    return {};
}

void Context::note(std::string_view text) { environment_.err(fmt::format("lamella: {}\n", text)); }

std::string Context::done(std::string_view participle) const { return fmt::format("{}{}", dry_run ? "would be " : "", participle); }

Result<void> Context::confirm(std::string_view question) {
    if (yes || dry_run)
        return {};
    if (!environment_.ask) {
        suggestion_ = "the same command with --yes, or with --dry-run to see what it would do";
        return fail(ErrorKind::refused, "this can't be undone, and there is no terminal to ask at: {}", question);
    }
    std::string answer = environment_.ask(fmt::format("{} [y/n] ", question));
    if (answer == "y" || answer == "Y" || answer == "yes")
        return {};
    suggestion_ = "the same command with --dry-run, to see what it would do";
    return fail(ErrorKind::refused, "not confirmed: nothing was changed");
}

namespace {

// By name and id.
using Going = std::set<std::pair<std::string, std::string>>;

Result<Going> what_goes(VolumeGroup& group, const std::vector<std::string>& names) {
    const std::set<std::string_view> named(names.begin(), names.end());
    Going going;
    for (const VolumeInfo& volume : TRY(group.volumes()))
        if (named.contains(volume.name) || named.contains(volume.pool))
            going.emplace(volume.name, volume.id);
    return going;
}

}  // namespace

Result<void> Context::confirm_loss(VolumeGroup& group, const std::vector<std::string>& names, std::string_view question) {
    const Going asked_about = TRY(what_goes(group, names));
    TRY(confirm(question));
    const Going going = TRY(what_goes(group, names));
    if (going == asked_about)
        return {};
    std::vector<std::string> others;
    for (const auto& [name, id] : going)
        if (!asked_about.contains({name, id}))
            others.push_back(name);
    return others.empty() ? fail(ErrorKind::refused, "something of what was asked about is gone meanwhile: nothing was changed")
                          : fail(ErrorKind::refused, "{} came while the question stood, and would go too: nothing was changed",
                                 fmt::join(others, ", "));
}

std::string Context::suggestion(const Error& error) const {
    if (!suggestion_.empty())
        return suggestion_;
    std::string group = address_.text();
    if (group.empty())  // it could not be opened
        return wants_group_ && error.kind() == ErrorKind::not_found ? "lamella init, to make a new group" : "";
    switch (error.kind()) {
    case ErrorKind::not_found: return fmt::format("lamella list {} --all", group);
    case ErrorKind::exists: return fmt::format("another name; lamella list {} --all shows those in use", group);
    case ErrorKind::no_space: return fmt::format("lamella show {} for what is free, lamella extend to make a pool larger", group);
    case ErrorKind::damaged: return fmt::format("lamella group check {}", group);
    case ErrorKind::refused: return fmt::format("lamella show {}", group);
    case ErrorKind::usage:
    case ErrorKind::unsupported:
    case ErrorKind::failed: break;
    }
    return {};
}

}  // namespace lamella::cli
