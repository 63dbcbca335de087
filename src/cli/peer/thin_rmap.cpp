// SPDX-License-Identifier: Apache-2.0
#include "cli/metadata_input.h"
#include "cli/peer/peer_command.h"
#include "cli/region.h"
#include "tools/rmap.h"

namespace lamella::cli {

void define_thin_rmap(PeerCommand& command) {
    struct Arguments {
        std::string input;
        std::vector<std::string> regions;
    };
    auto arguments = std::make_shared<Arguments>();
    command.describe("Print which devices use given data blocks of a pool", "Every device that shares a block is named.");
    command.argument("METADATA", arguments->input, "the pool's metadata");
    command.option("--region", "BEGIN..END", arguments->regions, "data blocks, END not included");
    command.require("--region");
    command.runs([arguments](PeerContext& context) -> Result<int> {
        std::vector<tools::DataRange> ranges;
        for (const std::string& word : arguments->regions)
            ranges.push_back(TRY_WITHIN("--region", parse_region(word)));
        auto metadata = TRY(MetadataInput::open(context.environment(), arguments->input, Access::read));
        const auto runs = TRY(tools::reverse_map(metadata->device(), ranges, context.control()));
        TRY(metadata->still_whole());
        for (const tools::ReverseMapping& run : runs)
            TRY(context.environment().stream(fmt::format("data {}..{} -> thin({}) {}..{}\n", run.data.begin, run.data.end, run.volume,
                                                         run.virtual_begin, run.virtual_begin + (run.data.end - run.data.begin))));
        return 0;
    });
}

}  // namespace lamella::cli
