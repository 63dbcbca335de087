// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/metadata_input.h"
#include "tools/restore.h"

namespace lamella::cli {

void define_restore(CommandLine& line) {
    struct Arguments {
        std::string input;
        std::string output;
        tools::HeaderOverrides overrides;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Make a pool's metadata from a dump",
        "Takes the XML of lamella dump and of every version of thin_dump, and the JSON of lamella dump. It is checked as it is "
        "read: counts, ids, times and "
        "ranges that can't be right are refused, with their line.\n\n"
        "What METADATA held before is lost; of a pool that the host's LVM runs, and that isn't active, it is kept as a volume of its own: "
        "the new is written beside it, checked, and takes its place. It is valid metadata only once the command has succeeded: what is "
        "left behind by a "
        "crash or an interrupt, no tool and no kernel takes for a pool.");
    line.example("restore dump.xml ./vms.img:pool --yes", "into the pool of a group that nobody uses");
    line.example("restore dump.xml vg0/pool --yes", "into a pool of the host's LVM");
    line.example("restore dump.xml /dev/vg0/new_tmeta --yes", "onto a device");
    line.argument("DUMP", arguments->input, "the dump; - is standard input");
    line.argument("METADATA", arguments->output, "a device or file, which must be there, or the pool of a group: GROUP:POOL or vg0/POOL");
    line.option("--transaction-id", "NUMBER", arguments->overrides.transaction_id, "the pool's transaction id, if it is higher");
    line.option("--data-block-size", "SECTORS", arguments->overrides.data_block_sectors, "the size of a data block");
    line.option("--nr-data-blocks", "NUMBER", arguments->overrides.data_blocks, "how many data blocks the pool has, if more");
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        std::string input = arguments->input == "-" ? "/dev/stdin" : arguments->input;
        if (same_file(input, arguments->output))
            return fail(ErrorKind::usage, "{} and {} are the same file", arguments->input, arguments->output);
        auto xml = TRY(tools::FileSource::open(input));
        TRY(context.confirm(fmt::format("{}: replace the metadata there?", arguments->output)));
        auto metadata = TRY(MetadataInput::open_to_replace(context.environment(), arguments->output));
        tools::RestoreReport report = TRY(tools::restore(*xml, metadata->device(), arguments->overrides, context.control()));
        const std::string kept = TRY(metadata->take());
        return context.answer(fmt::format("{}: {} volumes with {} blocks restored, in {} blocks of metadata\n{}", arguments->output,
                                          report.devices, report.mapped_blocks, report.metadata_blocks, kept_text(kept)),
                              {{"volumes", report.devices},
                               {"mapped_blocks", report.mapped_blocks},
                               {"metadata_blocks", report.metadata_blocks},
                               {"kept", kept}});
    });
}

}  // namespace lamella::cli
