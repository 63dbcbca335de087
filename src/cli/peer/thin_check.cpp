// SPDX-License-Identifier: Apache-2.0
//
// The peer tells fatal errors from others, by which it means leaked blocks: they fail the check as well, unless told otherwise. Sums
// of a space map that are wrong it doesn't see; thin_restore 0.9.0 itself leaves some, and so does its repair of leaks: they are
// told, and mended along with leaks, but where no pool is hurt by them they don't fail the check.
#include "cli/checked_pool.h"
#include "cli/metadata_input.h"
#include "cli/peer/peer_command.h"

namespace lamella::cli {

namespace {

struct Arguments {
    std::string input;
    bool auto_repair = false;
    bool clear_needs_check = false;
    bool ignore_non_fatal = false;
    bool metadata_snapshot = false;
    bool superblock_only = false;
    bool skip_mappings = false;
    std::optional<std::uint64_t> mapping_root;
    std::optional<std::uint64_t> details_root;

    bool writes() const { return auto_repair || clear_needs_check; }
};

tools::CheckOptions options_of(const Arguments& arguments) {
    tools::CheckOptions options;
    using Scope = tools::CheckOptions::Scope;
    options.scope = arguments.superblock_only ? Scope::superblock : arguments.skip_mappings ? Scope::volumes : Scope::everything;
    options.metadata_snapshot = arguments.metadata_snapshot;
    if (arguments.mapping_root)
        options.mapping_root = MetadataBlock(*arguments.mapping_root);
    if (arguments.details_root)
        options.details_root = MetadataBlock(*arguments.details_root);
    // As since 1.0.9: who clears the flag gets leaks mended too.
    options.return_leaks = arguments.writes() && !arguments.ignore_non_fatal;
    options.clear_needs_check = arguments.writes();
    return options;
}

// 0, or 1 for what fails the check.
int status_of(const tools::CheckReport& report, const Arguments& arguments) {
    if (report.grade == tools::Severity::note)
        return 0;
    if (!report.accounting_only)
        return 1;
    const bool leaks = report.leaked_data_blocks + report.leaked_metadata_blocks + report.overcounted_blocks > 0;
    const bool harmless = !leaks && report.grade == tools::Severity::leak;
    return report.space_maps_written || harmless || arguments.ignore_non_fatal ? 0 : 1;
}

void print(PeerContext& context, const tools::CheckReport& report, const Arguments& arguments) {
    for (const tools::Finding& finding : report.findings)
        context.err(finding.to_text() + "\n");
    if (std::uint64_t left_out = report.finding_count - report.findings.size(); left_out != 0)
        context.err(fmt::format("and {} more\n", left_out));
    for (const tools::FaultyVolume& volume : report.volumes) {
        const std::uint64_t missing = volume.expected_blocks - std::min(volume.mapped_blocks, volume.expected_blocks);
        context.err(fmt::format("Thin device {} has {} errors and is missing {} mappings, while expected {}\n", volume.id, volume.faults,
                                missing, volume.expected_blocks));
    }
    auto leaked = [&](std::uint64_t blocks, std::string_view kind) {
        if (blocks != 0)
            context.err(fmt::format("{} {} blocks have leaked.\n", blocks, kind));
    };
    leaked(report.leaked_data_blocks, "data");
    leaked(report.leaked_metadata_blocks, "metadata");
    if (report.space_maps_written)
        context.err("Repaired the space maps.\n");
    else if (report.accounting_only && report.leaked_data_blocks + report.leaked_metadata_blocks != 0 && !arguments.writes())
        context.err("perhaps you wanted to run with --auto-repair\n");
    if (report.needs_check_cleared)
        context.err("Cleared needs_check flag\n");
}

Result<int> run_check(PeerContext& context, const Arguments& arguments) {
    if (!arguments.writes() && !arguments.metadata_snapshot)
        TRY(refuse_if_claimed(arguments.input));
    auto metadata = TRY(MetadataInput::open(context.environment(), arguments.input, arguments.writes() ? Access::write : Access::read));
    if (auto mistake = mistaken_for_metadata(metadata->device())) {
        context.err(*mistake + "\n");
        return 1;
    }
    tools::CheckOptions options = options_of(arguments);
    options.control = context.control();
    auto checked = tools::check(metadata->device(), options);
    if (!checked && checked.error().kind() == ErrorKind::no_space && !arguments.auto_repair) {
        // A pool whose metadata is full must not stay down for want of room to mend leaks in.
        context.err(checked.error().message() + "\n");
        options.return_leaks = false;
        checked = tools::check(metadata->device(), options);
        if (checked && checked->accounting_only) {
            TRY(metadata->still_whole());
            print(context, *checked, arguments);
            return 0;
        }
    }
    tools::CheckReport report = TRY(std::move(checked));
    TRY(metadata->still_whole());
    print(context, report, arguments);
    const int status = status_of(report, arguments);
    if (!context.quiet && (status == 0 || !arguments.metadata_snapshot)) {
        context.out(fmt::format("TRANSACTION_ID={}\n", report.transaction_id));
        context.out(fmt::format("METADATA_FREE_BLOCKS={}\n", report.metadata_free));
    }
    return status;
}

}  // namespace

void define_thin_check(PeerCommand& command) {
    auto arguments = std::make_shared<Arguments>();
    command.describe("Check a pool's metadata",
                     "The status is 0 if it is sound, else 1. Leaked blocks harm nobody, but fail the check too, unless "
                     "--ignore-non-fatal-errors is given or they are mended.\n\n"
                     "Nothing is written without --auto-repair or --clear-needs-check-flag.");
    command.argument("METADATA", arguments->input, "a device or file, or the pool of a group: GROUP:POOL");
    command.flag("--auto-repair", arguments->auto_repair, "give back leaked blocks, and clear the needs_check flag if all is well then");
    command.flag("--clear-needs-check-flag", arguments->clear_needs_check, "the same, for pools whose flag is set");
    command.flag("--ignore-non-fatal-errors", arguments->ignore_non_fatal, "leaked blocks don't fail the check");
    command.flag("-m,--metadata-snap", arguments->metadata_snapshot, "check the metadata snapshot, of a pool that may be active");
    command.flag("--super-block-only", arguments->superblock_only, "check the superblock and nothing else");
    command.flag("--skip-mappings", arguments->skip_mappings, "check no mappings and no space maps");
    command.option("--override-mapping-root", "BLOCK", arguments->mapping_root, "the metadata block where the tree of volumes begins");
    command.option("--override-details-root", "BLOCK", arguments->details_root, "the metadata block where their details begin");
    command.quiet();
    for (const char* other : {"--ignore-non-fatal-errors", "--metadata-snap", "--override-mapping-root", "--override-details-root",
                              "--super-block-only", "--skip-mappings"})
        command.exclude("--auto-repair", other);
    for (const char* other : {"--metadata-snap", "--override-mapping-root", "--override-details-root"})
        command.exclude("--clear-needs-check-flag", other);
    command.runs([arguments](PeerContext& context) { return run_check(context, *arguments); });
}

}  // namespace lamella::cli
