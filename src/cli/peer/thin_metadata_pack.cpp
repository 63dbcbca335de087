// SPDX-License-Identifier: Apache-2.0
#include "cli/metadata_input.h"
#include "cli/pack_file.h"
#include "cli/peer/peer_command.h"

namespace lamella::cli {

void define_thin_metadata_pack(PeerCommand& command) {
    struct Arguments {
        std::string input;
        std::string output;
        bool force = false;
    };
    auto arguments = std::make_shared<Arguments>();
    command.describe("Pack a pool's metadata into a small file",
                     "What no metadata block is isn't packed. Damaged metadata can be packed too.");
    command.option("-i,--input", "DEVICE", arguments->input, "the metadata");
    command.require("--input");
    command.option("-o,--output", "FILE", arguments->output, "the file to write");
    command.require("--output");
    command.flag("-f,--force", arguments->force, "also over what is metadata of a pool itself");
    command.runs([arguments](PeerContext& context) -> Result<int> {
        if (!arguments->force)
            TRY(refuse_metadata(arguments->output));
        TRY(pack_into(context.environment(), arguments->input, arguments->output, context.control()));
        return 0;
    });
}

void define_thin_metadata_unpack(PeerCommand& command) {
    struct Arguments {
        std::string input;
        std::string output;
        bool force = false;
    };
    auto arguments = std::make_shared<Arguments>();
    command.describe("Unpack what thin_metadata_pack has packed");
    command.option("-i,--input", "FILE", arguments->input, "the packed metadata");
    command.require("--input");
    command.option("-o,--output", "DEVICE", arguments->output, "the device to write to, or a file, which is made if it isn't there");
    command.require("--output");
    command.flag("-f,--force", arguments->force, "also over what is metadata of a pool itself");
    command.runs([arguments](PeerContext& context) -> Result<int> {
        if (!arguments->force)
            TRY(refuse_metadata(arguments->output));
        TRY(unpack_onto(arguments->input, arguments->output, context.control()));
        return 0;
    });
}

}  // namespace lamella::cli
