// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/dump_output.h"
#include "cli/metadata_input.h"
#include "cli/numbers.h"
#include "tools/dump.h"
#include "tools/printer.h"

namespace lamella::cli {

namespace {

// "BEGIN..END", the end not included; either may be missing.
Result<void> parse_range(std::string_view word, tools::DumpOptions& options) {
    std::size_t dots = word.find("..");
    if (dots == std::string_view::npos)
        return fail(ErrorKind::usage, "\"{}\" is not BEGIN..END in blocks", word);
    std::string_view begin = word.substr(0, dots);
    std::string_view end = word.substr(dots + 2);
    if (!begin.empty())
        options.begin = VirtualBlock(TRY(parse_number<std::uint64_t>(begin)));
    if (!end.empty())
        options.end = VirtualBlock(TRY(parse_number<std::uint64_t>(end)));
    if (options.begin && options.end && *options.begin >= *options.end)
        return fail(ErrorKind::usage, "\"{}\" is empty", word);
    return {};
}

}  // namespace

void define_dump(CommandLine& line) {
    struct Arguments {
        std::string input;
        std::string output;
        std::string format = "xml";
        std::string range;
        std::vector<std::string> devices;
        bool skip_mappings = false;
        bool plain = false;
        bool repair = false;
        tools::DumpOptions options;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Write down a pool's metadata as text",
        "XML as thin_dump writes it, one JSON object a line, or a form for people. Mappings that volumes share are written once, as "
        "definitions that volumes refer to; lamella restore and thin_restore from version 1.0 on share them again.\n\n"
        "Metadata that is in use is read through its metadata snapshot: lamella metadata-snapshot POOL reserve, then lamella dump "
        "--metadata-snapshot. Such a dump can be restored as it is.");
    line.example("dump ./vms.img:pool --output dump.xml", "the pool of a group that nobody uses");
    line.example("dump /dev/vg0/pool_tmeta --volume 7 --range 0..1000", "some of one thin device's mappings");
    line.argument("METADATA", arguments->input, "a device or file, or the pool of a group: GROUP:POOL or vg0/POOL");
    line.option_choice("--format", arguments->format, {"xml", "json", "human"}, "the form of the output (--json means json)");
    line.flag("--repair", arguments->repair, "what lamella repair would save of damaged metadata");
    line.option("--data-block-size", "SECTORS", arguments->options.overrides.data_block_sectors,
                "the size of a data block, if the superblock that knew it is lost");
    line.need("--data-block-size", "--repair");
    line.option("-o,--output", "FILE", arguments->output, "write to a file instead of standard output, and make it durable");
    line.flag("-m,--metadata-snapshot", arguments->options.metadata_snapshot, "the pool as its metadata snapshot has it");
    line.option("--volume", "ID", arguments->devices, "only the thin device with this id");
    line.option("--range", "BEGIN..END", arguments->range, "only mappings of these virtual blocks, END not included");
    line.exclude("--repair", "--metadata-snapshot");
    line.flag("--skip-mappings", arguments->skip_mappings, "only the pool and its devices");
    line.flag("--plain", arguments->plain, "each device with all of its mappings: what thin_restore 0.9 can read");
    line.runs([arguments](Context& context) -> Result<void> {
        tools::DumpOptions& options = arguments->options;
        options.mappings = !arguments->skip_mappings;
        options.definitions = !arguments->plain;
        if (!arguments->range.empty())
            TRY_WITHIN("--range", parse_range(arguments->range, options));
        options.devices_must_exist = true;
        for (const std::string& word : arguments->devices)
            options.devices.push_back(ThinId(TRY_WITHIN("--volume", parse_number<std::uint32_t>(word))));
        if (!arguments->output.empty() && same_file(arguments->input, arguments->output))
            return fail(ErrorKind::usage, "{} and {} are the same file", arguments->input, arguments->output);
        auto metadata = TRY(MetadataInput::open(context.environment(), arguments->input, Access::read, MetadataInput::Active::snapshot));
        options.metadata_snapshot |= metadata->in_snapshot();
        if (metadata->in_snapshot() && arguments->repair)
            return fail(ErrorKind::refused, "{} is in use: only metadata at rest is repaired", arguments->input);
        DumpOutput output(arguments->output, [&context](std::string_view text) { return context.stream(text); });
        tools::DumpFormat format = context.json || arguments->format == "json" ? tools::DumpFormat::json
                                   : arguments->format == "xml"                ? tools::DumpFormat::xml
                                                                               : tools::DumpFormat::human;
        auto printer = make_printer(format, output);
        std::unique_ptr<BlockDevice> repaired;
        if (arguments->repair)
            repaired = TRY(repaired_copy(metadata->device(), options.overrides, context.control()));
        TRY(tools::dump(repaired ? *repaired : metadata->device(), options, *printer, context.control()));
        TRY(metadata->still_whole());
        return output.finish();
    });
}

}  // namespace lamella::cli
