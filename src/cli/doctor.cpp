// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"
#include "manage/diagnosis.h"
#include "manage/metadata_backup.h"

namespace lamella::cli {

namespace {

using manage::Finding;
using manage::Remedy;
using manage::Urgency;

std::string finding_text(const Finding& finding) {
    std::string text = fmt::format("{}: {}{}\n  {}\n", to_string(finding.urgency), finding.kind,
                                   finding.volume.empty() ? "" : " (" + finding.volume + ")", finding.evidence);
    text += fmt::format("  risk: {}\n", finding.risk);
    for (const std::string& command : finding.commands)
        text += fmt::format("  $ {}\n", command);
    if (finding.remedy)
        text += "  --fix does it\n";
    else if (!finding.why_not.empty())
        text += fmt::format("  --fix leaves it: {}\n", finding.why_not);
    return text;
}

Json finding_json(const Finding& finding) {
    return {{"urgency", to_string(finding.urgency)}, {"kind", finding.kind},      {"volume", finding.volume},
            {"evidence", finding.evidence},          {"risk", finding.risk},      {"commands", finding.commands},
            {"fixable", finding.remedy.has_value()}, {"why_not", finding.why_not}};
}

std::string remedy_text(const Context& context, const Remedy& remedy) {
    switch (remedy.kind) {
    case Remedy::Kind::extend_store:
        return fmt::format("{}: store {} by {}\n", remedy.volume, context.done("extended"), print_size(remedy.bytes));
    case Remedy::Kind::extend_data:
        return fmt::format("{}: data {} by {}\n", remedy.volume, context.done("extended"), print_size(remedy.bytes));
    case Remedy::Kind::extend_metadata:
        return fmt::format("{}: metadata {} by {}\n", remedy.volume, context.done("extended"), print_size(remedy.bytes));
    case Remedy::Kind::make_spare:
        return fmt::format("spare metadata volume: {}, {} more\n", context.done("made"), print_size(remedy.bytes));
    case Remedy::Kind::drop_tag: return fmt::format("{}: kept, its tag {}\n", remedy.volume, context.done("taken away"));
    }
    return {};
}

struct Fixed {
    std::string text;
    Json remedies = Json::array();
    Json failed = Json::array();
    std::optional<ErrorKind> error;  // the first of those that failed
};

bool is_for(const Finding& finding, const Remedy& remedy) {
    return finding.remedy && finding.remedy->kind == remedy.kind && finding.remedy->volume == remedy.volume;
}

// One remedy at a time, and a new look after each: extending one thing takes the room of another, or mends two findings at once. One that
// fails keeps no other from being tried.
Result<Fixed> fix(Context& context, VolumeGroup& group, manage::Examination& seen, std::vector<Finding>& findings, bool check) {
    Fixed fixed;
    std::set<std::pair<Remedy::Kind, std::string>> tried;
    std::vector<std::pair<Remedy, std::string>> left;  // to the user, with the commands that the finding tells
    const auto next = [&] {
        return std::ranges::find_if(findings, [&](const Finding& finding) {
            return finding.remedy && !tried.contains({finding.remedy->kind, finding.remedy->volume});
        });
    };
    for (auto found = next(); found != findings.end(); found = next()) {
        const Remedy remedy = *found->remedy;
        tried.emplace(remedy.kind, remedy.volume);
        const Result<void> applied = manage::apply(group, remedy, context.change());
        if (applied) {
            fixed.text += remedy_text(context, remedy);
            fixed.remedies.push_back({{"kind", found->kind}, {"volume", remedy.volume}, {"bytes", remedy.bytes}});
        } else {
            const Error error = applied.error().within(found->kind);
            context.note(error.message());
            left.emplace_back(remedy, applied.error().message());
            // What this engine can't do at all is no failure.
            if (error.kind() != ErrorKind::unsupported) {
                fixed.failed.push_back({{"kind", found->kind}, {"volume", remedy.volume}, {"error", error_to_json(error)}});
                fixed.error = fixed.error.value_or(error.kind());
            }
        }
        if (context.dry_run)
            continue;
        seen = TRY(manage::examine(group, seen.address, check));
        findings = manage::diagnose(seen);
    }
    for (const auto& [remedy, why] : left)
        for (Finding& finding : findings)
            if (is_for(finding, remedy)) {
                finding.remedy.reset();
                finding.why_not = "it was tried: " + why;
            }
    return fixed;
}

struct Arguments {
    std::string group;
    bool fix = false;
    bool quick = false;
};

// Of one group: its text, and its part of the answer.
struct Report {
    std::string text;
    Json json;
    bool critical = false;
    std::optional<ErrorKind> failed;  // the first remedy that did
};

Result<Report> look_at(Context& context, const GroupAddress& address, const Arguments& arguments) {
    VolumeGroup& group = *TRY(context.open(address, arguments.fix ? Access::write : Access::read));
    manage::Examination seen = TRY(manage::examine(group, address, !arguments.quick));
    std::vector<Finding> findings = manage::diagnose(seen);
    Report report{.json = {{"group", seen.group.name}}};
    if (arguments.fix && std::ranges::any_of(findings, [](const Finding& finding) { return finding.remedy.has_value(); })) {
        bool kept = true;
        if (!context.dry_run) {
            const manage::MetadataBackup backup = TRY(manage::back_up_metadata(group, {}));
            context.note(fmt::format("metadata kept in {}", backup.folder.native()));
            report.json["backup"] = backup.folder.native();
            kept = backup.failed.empty();
            if (!kept)
                context.note(fmt::format("nothing is mended, as not all metadata could be kept: {}", fmt::join(backup.failed, "; ")));
        }
        const Fixed fixed = kept ? TRY(fix(context, group, seen, findings, !arguments.quick)) : Fixed();
        report.text += fixed.text;
        report.json["fixed"] = fixed.remedies;
        report.json["failed"] = fixed.failed;
        report.failed = fixed.error;
    }
    for (const Finding& finding : findings)
        report.text += finding_text(finding);
    if (findings.empty())
        report.text += fmt::format("group {}: nothing is wrong\n", seen.group.name);
    report.json["findings"] = Json::array();
    for (const Finding& finding : findings)
        report.json["findings"].push_back(finding_json(finding));
    report.critical = !findings.empty() && findings.front().urgency == Urgency::critical;
    return report;
}

// Each group that LVM sees. One that can't be looked at keeps no other from it.
Result<Report> look_at_all(Context& context, const Arguments& arguments) {
    Report all{.json = {{"groups", Json::array()}, {"failed", Json::array()}}};
    const std::vector<std::string> names = TRY(context.host_groups());
    if (names.empty())
        all.text = "LVM sees no group on this host\n";
    for (const std::string& name : names) {
        Result<Report> one = look_at(context, {.name = name}, arguments);
        all.text += fmt::format("{}group {}\n", all.text.empty() ? "" : "\n", name);
        if (one) {
            all.text += one->text;
            all.json["groups"].push_back(one->json);
            all.critical |= one->critical;
            all.failed = all.failed ? all.failed : one->failed;
        } else {
            all.text += fmt::format("not looked at: {}\n", one.error().message());
            all.json["failed"].push_back({{"group", name}, {"error", error_to_json(one.error())}});
        }
    }
    return all;
}

}  // namespace

void define_doctor(CommandLine& line) {
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Say what is wrong with a group or soon will be, and how to mend it",
        "Looks at the group's text, its physical volumes, pools and snapshots: what is full or nearly, invalid, read-only or damaged; "
        "where "
        "group and pool have come apart; what would be missing when it is needed. Of each finding it tells what shows it, what it "
        "threatens, and the commands that mend it. Without GROUP it looks at all groups of this host's LVM. The exit status is 5 when a "
        "finding is critical; else, with --fix, that of the first remedy that failed.\n\n"
        "With --fix it carries out what can do no harm: it extends what is nearly full by a fifth or till a quarter is free, and makes or "
        "enlarges the spare "
        "metadata volume, as far as the group has room; the group's text and its pools' metadata are kept aside before (lamella "
        "metadata-backup). Everything else it leaves to you, and says why.");
    line.example("doctor ./vms.img", "look");
    line.example("doctor ./vms.img --fix", "and mend what can be mended safely");
    line.example("doctor", "look at all groups of this host's LVM");
    line.optional_argument("GROUP", arguments->group, "the group (default: all that this host's LVM sees)");
    line.flag("--fix", arguments->fix, "carry out what is safe");
    line.flag("--quick", arguments->quick, "don't read the metadata of pools that nobody uses");
    line.changes();
    line.runs([arguments](Context& context) -> Result<void> {
        const Report report = TRY(arguments->group.empty() ? look_at_all(context, *arguments)
                                                           : look_at(context, TRY(parse_group_address(arguments->group)), *arguments));
        Json json = {{"dry_run", context.dry_run}};
        json.update(report.json);
        TRY(context.answer(report.text, json));
        if (report.critical)
            context.exit_with(ExitCode::damaged);
        else if (report.failed)
            context.exit_with(exit_code(*report.failed));
        return {};
    });
}

}  // namespace lamella::cli
