// SPDX-License-Identifier: Apache-2.0
#include "cli/metadata_input.h"
#include "cli/peer/peer_command.h"
#include "tools/restore.h"

namespace lamella::cli {

void define_thin_restore(PeerCommand& command) {
    struct Arguments {
        std::string input;
        std::string output;
        tools::HeaderOverrides overrides;
    };
    auto arguments = std::make_shared<Arguments>();
    command.describe("Make a pool's metadata from a dump in XML",
                     "What the output held before is lost. It is valid metadata only once the command has succeeded.");
    command.option("-i,--input", "FILE", arguments->input, "the XML that thin_dump wrote");
    command.require("--input");
    command.option("-o,--output", "DEVICE", arguments->output, "the device or file to write to, which must be there");
    command.require("--output");
    command.option("--transaction-id", "NUMBER", arguments->overrides.transaction_id, "the pool's transaction id, if it is higher");
    command.option("--data-block-size", "SECTORS", arguments->overrides.data_block_sectors, "the size of a data block");
    command.option("--nr-data-blocks", "NUMBER", arguments->overrides.data_blocks, "how many data blocks the pool has, if more");
    command.quiet();
    command.runs([arguments](PeerContext& context) -> Result<int> {
        if (same_file(arguments->input, arguments->output))
            return fail(ErrorKind::usage, "{} and {} are the same file", arguments->input, arguments->output);
        auto xml = TRY(tools::FileSource::open(arguments->input));
        auto metadata = TRY(MetadataInput::open(context.environment(), arguments->output, Access::write));
        TRY(tools::restore(*xml, metadata->device(), arguments->overrides, context.control()));
        return 0;
    });
}

}  // namespace lamella::cli
