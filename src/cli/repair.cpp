// SPDX-License-Identifier: Apache-2.0
#include "tools/repair.h"

#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/metadata_input.h"
#include "cli/repair_report.h"

namespace lamella::cli {

void define_repair(CommandLine& line) {
    struct Arguments {
        std::string input;
        std::string output;
        bool list_roots = false;
        std::optional<std::uint64_t> root;
        tools::RepairOptions options;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Save what can be saved of a pool's metadata",
        "Writes what can be saved of METADATA to OUTPUT, as sound metadata. METADATA is only read; where both are the same pool of the "
        "host's LVM, which isn't active, what is repaired takes the place of the old, which stays as a volume of its own.\n\n"
        "A damaged leaf costs its own range. What hung below a damaged inner node is looked for, and put back where counts, keys, "
        "times and the volumes' details prove where it belongs; what can't be proven is told, not guessed. Volumes go on sharing "
        "what they shared. The answer says for each volume what is whole, what was put back, and which ranges are lost. With "
        "--dry-run nothing is written.\n\n"
        "If the superblock is lost, --data-block-size must be given, unless a metadata snapshot has it; the trees that rank first "
        "in --list-roots are taken, unless --root names others.");
    line.example("repair /dev/vg0/pool_tmeta --output /dev/vg0/lvol0_pmspare --yes", "onto another device");
    line.example("repair vg0/pool --output vg0/pool", "a pool of the host's LVM that isn't active; the old metadata is kept");
    line.example("repair ./vms.img:pool --list-roots", "where the pool's trees may begin");
    line.argument("METADATA", arguments->input, "a device or file, or the pool of a group: GROUP:POOL or vg0/POOL");
    line.option("-o,--output", "OUTPUT", arguments->output, "the device or file to write to, which must be there");
    line.flag("--list-roots", arguments->list_roots, "say where the pool's trees may begin, the likeliest first, and do nothing else");
    line.option("--root", "NUMBER", arguments->root, "the trees with that number in --list-roots");
    line.option("--transaction-id", "NUMBER", arguments->options.transaction_id, "the pool's transaction id, if it is higher");
    line.option("--data-block-size", "SECTORS", arguments->options.data_block_sectors,
                "the size of a data block, if the superblock is lost");
    line.option("--nr-data-blocks", "NUMBER", arguments->options.data_blocks, "how many data blocks the pool has, if more");
    line.exclude("--list-roots", "--root");
    line.exclude("--list-roots", "--output");
    line.destroys();
    line.changes();
    line.runs([arguments](Context& context) -> Result<void> {
        auto input = TRY(MetadataInput::open(context.environment(), arguments->input, Access::read));
        tools::RepairOptions options = arguments->options;
        if (arguments->list_roots || arguments->root) {
            const auto candidates = TRY(tools::find_roots(input->device(), context.control()));
            TRY(input->still_whole());
            if (arguments->list_roots)
                return context.answer(roots_text(candidates), roots_json(candidates));
            if (*arguments->root == 0 || *arguments->root > candidates.size())
                return fail(ErrorKind::usage, "--root {}: there are {}", *arguments->root, candidates.size());
            options.roots = candidates[*arguments->root - 1].roots;
        }
        if (arguments->output.empty() && !context.dry_run)
            return fail(ErrorKind::usage, "--output is missing: where the repaired metadata is to be written");
        if (!arguments->output.empty() && same_file(arguments->input, arguments->output))
            return fail(ErrorKind::usage, "{} and {} are the same file", arguments->input, arguments->output);
        auto repair = TRY(tools::Repair::plan(input->device(), options, context.control()));
        TRY(input->still_whole());
        std::string kept;
        if (!context.dry_run) {
            TRY(context.confirm(fmt::format("{}: replace what is there?", arguments->output)));
            TRY(input->still_whole());
            auto output = TRY(MetadataInput::open_to_replace(context.environment(), arguments->output, false, input.get()));
            TRY(repair->write(output->device(), context.control()));
            TRY(input->still_whole());
            kept = TRY(output->take());
        }
        Json json = repair_json(repair->report());
        json["kept"] = kept;
        return context.answer(repair_text(arguments->input, repair->report()) + kept_text(kept), json);
    });
}

}  // namespace lamella::cli
