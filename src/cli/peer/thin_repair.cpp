// SPDX-License-Identifier: Apache-2.0
#include "cli/metadata_input.h"
#include "cli/peer/peer_command.h"
#include "cli/repair_report.h"
#include "tools/repair.h"

namespace lamella::cli {

void define_thin_repair(PeerCommand& command) {
    struct Arguments {
        std::string input;
        std::string output;
        tools::RepairOptions options;
    };
    auto arguments = std::make_shared<Arguments>();
    command.describe("Save what can be saved of a pool's metadata",
                     "The input is only read. What the output held before is lost; it is valid metadata only once the command has "
                     "succeeded. What doesn't come back is told on standard error.");
    command.option("-i,--input", "DEVICE", arguments->input, "the damaged metadata");
    command.require("--input");
    command.option("-o,--output", "DEVICE", arguments->output, "the device or file to write to, which must be there");
    command.require("--output");
    command.option("--transaction-id", "NUMBER", arguments->options.transaction_id, "the pool's transaction id, if it is higher");
    command.option("--data-block-size", "SECTORS", arguments->options.data_block_sectors,
                   "the size of a data block, if the superblock is lost");
    command.option("--nr-data-blocks", "NUMBER", arguments->options.data_blocks, "how many data blocks the pool has, if more");
    command.quiet();
    command.runs([arguments](PeerContext& context) -> Result<int> {
        if (same_file(arguments->input, arguments->output))
            return fail(ErrorKind::usage, "{} and {} are the same file", arguments->input, arguments->output);
        auto input = TRY(MetadataInput::open(context.environment(), arguments->input, Access::read));
        auto repair = TRY(tools::Repair::plan(input->device(), arguments->options, context.control()));
        TRY(input->still_whole());
        auto output = TRY(MetadataInput::open(context.environment(), arguments->output, Access::write));
        TRY(repair->write(output->device(), context.control()));
        TRY(input->still_whole());
        if (const tools::RepairReport& report = repair->report(); report.damaged)
            context.err(repair_text(arguments->input, report));
        return 0;
    });
}

}  // namespace lamella::cli
