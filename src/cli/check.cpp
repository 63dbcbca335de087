// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include <nlohmann/json.hpp>

#include "cli/checked_pool.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/metadata_input.h"

namespace lamella::cli {

namespace {

using tools::CheckReport;
using tools::Finding;
using tools::Severity;

std::string_view grade_word(Severity grade) { return grade == Severity::note ? "clean" : to_string(grade); }

ExitCode code_of(Severity grade) {
    switch (grade) {
    case Severity::note: return ExitCode::done;
    case Severity::leak: return ExitCode::leak;
    case Severity::needs_repair: return ExitCode::damaged;
    case Severity::data_at_risk: return ExitCode::at_risk;
    }
    return ExitCode::failed;
}

std::string name_of(const std::optional<PoolText>& text, std::optional<ThinId> id) {
    if (!text || !id)
        return "";
    auto found = text->names.find(id->value());
    return found == text->names.end() ? "" : found->second;
}

Json finding_json(const Finding& finding, const std::optional<PoolText>& text) {
    Json json = Json::object();
    json["severity"] = to_string(finding.severity);
    json["text"] = finding.text;
    json["in_metadata_snapshot"] = finding.in_metadata_snapshot;
    json["volume_id"] = finding.volume ? Json(finding.volume->value()) : Json();
    const std::string name = name_of(text, finding.volume);
    json["volume"] = name.empty() ? Json() : Json(name);
    json["virtual_begin"] = finding.range ? Json(finding.range->begin.value()) : Json();
    json["virtual_end"] = finding.range && finding.range->end ? Json(finding.range->end->value()) : Json();
    json["data_begin"] = finding.data ? Json(finding.data->begin.value()) : Json();
    json["data_end"] = finding.data ? Json(finding.data->end.value()) : Json();
    json["metadata_block"] = finding.block ? Json(finding.block->value()) : Json();
    return json;
}

Json report_json(const CheckReport& report, const std::optional<PoolText>& text) {
    Json json = Json::object();
    json["grade"] = grade_word(report.grade);
    json["transaction_id"] = report.transaction_id;
    json["needs_check"] = report.needs_check;
    json["metadata_blocks"] = report.metadata_blocks;
    json["metadata_free_blocks"] = report.metadata_free;
    json["data_blocks"] = report.data_blocks;
    json["data_free_blocks"] = report.data_free;
    json["leaked_data_blocks"] = report.leaked_data_blocks;
    json["leaked_metadata_blocks"] = report.leaked_metadata_blocks;
    json["space_maps_written"] = report.space_maps_written;
    json["needs_check_cleared"] = report.needs_check_cleared;
    json["volumes"] = Json::array();
    for (const tools::FaultyVolume& volume : report.volumes) {
        const std::string name = name_of(text, volume.id);
        json["volumes"].push_back({{"volume_id", volume.id.value()},
                                   {"volume", name.empty() ? Json() : Json(name)},
                                   {"in_metadata_snapshot", volume.in_metadata_snapshot},
                                   {"faults", volume.faults},
                                   {"mapped_blocks", volume.mapped_blocks},
                                   {"expected_blocks", volume.expected_blocks}});
    }
    json["finding_count"] = report.finding_count;
    json["findings"] = Json::array();
    for (const Finding& finding : report.findings)
        json["findings"].push_back(finding_json(finding, text));
    return json;
}

std::string report_text(const std::string& address, const CheckReport& report, const std::optional<PoolText>& text) {
    std::string shown;
    for (const Finding& finding : report.findings) {
        const std::string name = name_of(text, finding.volume);
        shown += fmt::format("{}: {}{}\n", to_string(finding.severity), name.empty() ? "" : name + ": ", finding.to_text());
    }
    if (std::uint64_t left_out = report.finding_count - report.findings.size(); left_out != 0)
        shown += fmt::format("and {} more\n", left_out);
    for (const tools::FaultyVolume& volume : report.volumes) {
        const std::string name = name_of(text, volume.id);
        shown += fmt::format("volume {}{}{}: {} of {} mapped blocks can be read\n", volume.id, name.empty() ? "" : " (" + name + ")",
                             volume.in_metadata_snapshot ? " of the metadata snapshot" : "", volume.mapped_blocks, volume.expected_blocks);
    }
    if (report.space_maps_written)
        shown += "the space maps were written anew\n";
    if (report.needs_check_cleared)
        shown += "needs_check was cleared\n";
    return shown + fmt::format("{}: {}\n", address, grade_word(report.grade_after));
}

}  // namespace

void define_check(CommandLine& line) {
    struct Arguments {
        std::string input;
        bool auto_repair = false;
        bool rebuild = false;
        bool clear = false;
        bool snapshot = false;
        bool superblock_only = false;
        bool skip_mappings = false;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Check a pool's metadata",
        "Looks at all that the kernel relies on: every field, node, reference and sum, and whether data that is in use more "
        "than once would be overwritten by one of its users. What is found is graded, and the exit status tells the worst: 0 "
        "clean; 7 leak: room is counted as used and isn't; 5 needs-repair: something can't be read or isn't as it must be; 8 "
        "data-at-risk: using the pool would overwrite data. Of the pool of a group its volumes are named, and its ids are "
        "held against the group's text.\n\n"
        "Nothing is written unless an option says so. What is written is written aside and takes effect all at once; of a pool of the "
        "host's LVM, which must not be active then, the old metadata stays as a volume of its own.");
    line.example("check ./vms.img:pool", "the pool of a group that nobody uses");
    line.example("check /dev/vg0/pool_tmeta --metadata-snapshot", "a pool that is active");
    line.argument("METADATA", arguments->input, "a device or file, or the pool of a group: GROUP:POOL or vg0/POOL");
    line.flag("--auto-repair", arguments->auto_repair, "give back leaked blocks and set sums right, if nothing worse was found");
    line.flag("--rebuild-space-maps", arguments->rebuild,
              "count all blocks anew, whatever the space maps say; all volumes must be readable");
    line.flag("--clear-needs-check-flag", arguments->clear, "let the pool be written again, if nothing is wrong but leaks");
    line.flag("-m,--metadata-snapshot", arguments->snapshot, "check the metadata snapshot and nothing else: the pool may be active");
    line.flag("--superblock-only", arguments->superblock_only, "check the superblock and nothing else");
    line.flag("--skip-mappings", arguments->skip_mappings, "check no mappings and no space maps");
    for (const char* change : {"--auto-repair", "--rebuild-space-maps"})
        for (const char* other : {"--metadata-snapshot", "--superblock-only", "--skip-mappings"})
            line.exclude(change, other);
    line.exclude("--clear-needs-check-flag", "--metadata-snapshot");
    line.runs([arguments](Context& context) -> Result<void> {
        const bool writes = arguments->auto_repair || arguments->rebuild || arguments->clear;
        std::optional<PoolText> text = TRY(read_pool_text(arguments->input));
        if (!writes && !arguments->snapshot)
            TRY(refuse_if_claimed(arguments->input));
        auto metadata =
            TRY(writes ? MetadataInput::open_to_replace(context.environment(), arguments->input, true)
                       : MetadataInput::open(context.environment(), arguments->input, Access::read, MetadataInput::Active::snapshot));
        if (auto mistake = mistaken_for_metadata(metadata->device()))
            return fail(ErrorKind::damaged, "{}: {}", arguments->input, *mistake);
        const bool snapshot = arguments->snapshot || metadata->in_snapshot();
        if (metadata->in_snapshot() && !arguments->snapshot)
            context.note(fmt::format("{} is active: its metadata snapshot is checked", arguments->input));
        using Scope = tools::CheckOptions::Scope;
        CheckReport report = TRY(tools::check(metadata->device(), {.scope = arguments->superblock_only ? Scope::superblock
                                                                            : arguments->skip_mappings ? Scope::volumes
                                                                                                       : Scope::everything,
                                                                   .metadata_snapshot = snapshot,
                                                                   .return_leaks = arguments->auto_repair,
                                                                   .rebuild_space_maps = arguments->rebuild,
                                                                   .clear_needs_check = arguments->clear,
                                                                   .control = context.control()}));
        TRY(metadata->still_whole());
        if (text && !arguments->superblock_only && !snapshot)
            compare_with_text(report, *text);
        std::string kept;
        if (report.space_maps_written || report.needs_check_cleared) {
            auto taken = metadata->take();
            if (!taken) {
                // The pool is as it was; what is wrong with it is told all the same.
                report.space_maps_written = report.needs_check_cleared = false;
                report.grade_after = report.grade;
                context.note(report_text(arguments->input, report, text));
                return std::unexpected(taken.error());
            }
            kept = *std::move(taken);
        }
        Json json = report_json(report, text);
        json["kept"] = kept;
        TRY(context.answer(report_text(arguments->input, report, text) + kept_text(kept), json));
        context.exit_with(code_of(report.grade_after));
        return {};
    });
}

}  // namespace lamella::cli
