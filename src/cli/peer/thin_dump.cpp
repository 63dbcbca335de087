// SPDX-License-Identifier: Apache-2.0
#include "cli/dump_output.h"
#include "cli/metadata_input.h"
#include "cli/numbers.h"
#include "cli/peer/peer_command.h"
#include "tools/dump.h"
#include "tools/printer.h"

namespace lamella::cli {

void define_thin_dump(PeerCommand& command) {
    struct Arguments {
        std::string input;
        std::string output;
        std::string format = "xml";
        std::vector<std::string> devices;
        bool skip_mappings = false;
        bool repair = false;
        std::optional<std::uint64_t> snapshot_location;
        tools::DumpOptions options;
    };
    auto arguments = std::make_shared<Arguments>();
    command.describe("Print a pool's metadata as XML",
                     "The XML is that of version 0.9.0, byte for byte: each device with all of its mappings. With --definitions mappings "
                     "that several devices share are printed once, as versions from 1.0 on do, whose thin_restore reads that too.");
    command.argument("METADATA", arguments->input, "the pool's metadata");
    command.option_choice("-f,--format", arguments->format, {"xml", "human_readable"}, "the form of the output");
    command.option("-o,--output", "FILE", arguments->output, "write to a file instead of standard output");
    command.flag_or_option("-m,--metadata-snap", "BLOCK", arguments->options.metadata_snapshot, arguments->snapshot_location,
                           "read the metadata snapshot, as of a pool in use");
    command.flag("-r,--repair", arguments->repair, "print what thin_repair would make of the metadata");
    command.exclude("--repair", "--metadata-snap");
    command.option("--dev-id", "ID", arguments->devices, "only this device");
    command.flag("--skip-mappings", arguments->skip_mappings, "leave out the mappings");
    command.flag("--definitions", arguments->options.definitions, "print shared mappings once");
    command.option("--transaction-id", "NUMBER", arguments->options.overrides.transaction_id, "the pool's transaction id, if it is higher");
    command.option("--data-block-size", "SECTORS", arguments->options.overrides.data_block_sectors, "the size of a data block");
    command.option("--nr-data-blocks", "NUMBER", arguments->options.overrides.data_blocks, "how many data blocks the pool has, if more");
    command.quiet();
    command.runs([arguments](PeerContext& context) -> Result<int> {
        tools::DumpOptions& options = arguments->options;
        options.mappings = !arguments->skip_mappings;
        if (arguments->snapshot_location)
            options.snapshot_location = MetadataBlock(*arguments->snapshot_location);
        for (const std::string& word : arguments->devices)
            options.devices.push_back(ThinId(TRY_WITHIN("--dev-id", parse_number<std::uint32_t>(word))));
        if (!arguments->output.empty() && same_file(arguments->input, arguments->output))
            return fail(ErrorKind::usage, "{} and {} are the same file", arguments->input, arguments->output);
        auto metadata = TRY(MetadataInput::open(context.environment(), arguments->input, Access::read));
        BlockDevice* device = &metadata->device();
        std::unique_ptr<BlockDevice> repaired;
        if (arguments->repair) {
            repaired = TRY(repaired_copy(*device, options.overrides, context.control()));
            device = repaired.get();
        }
        DumpOutput output(arguments->output, context.environment().stream);
        auto printer = make_printer(arguments->format == "xml" ? tools::DumpFormat::xml : tools::DumpFormat::human, output);
        TRY(tools::dump(*device, options, *printer, context.control()));
        TRY(metadata->still_whole());
        TRY(output.finish());
        return 0;
    });
}

}  // namespace lamella::cli
