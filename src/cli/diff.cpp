// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/diff_output.h"
#include "cli/metadata_input.h"
#include "cli/numbers.h"

namespace lamella::cli {

namespace {

struct Side {
    tools::DiffSide what;
    bool in_snapshot = false;
    std::int64_t id = -1;
};

// "7", "snapshot:7" or "root:123".
Result<Side> parse_side(std::string_view word) {
    Side side;
    if (word.starts_with("root:")) {
        side.what = MetadataBlock(TRY(parse_number<std::uint64_t>(word.substr(5))));
        return side;
    }
    if (word.starts_with("snapshot:")) {
        side.in_snapshot = true;
        word.remove_prefix(9);
    }
    const auto id = TRY(parse_number<std::uint32_t>(word));
    side.what = ThinId(id);
    side.id = id;
    return side;
}

}  // namespace

void define_diff(CommandLine& line) {
    struct Arguments {
        std::string input;
        std::string left;
        std::string right;
        std::optional<std::uint32_t> since;
        std::string format = "plain";
        bool same = false;
        bool verbose = false;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Tell in what two thin volumes of a pool differ",
                  "LEFT and RIGHT are ids of thin devices; snapshot:ID is a device as the metadata snapshot has it, root:BLOCK a tree of "
                  "mappings by the metadata block of its root. What both share is passed over unread, so the cost follows the "
                  "difference. Blocks are of the pool's chunk size, ends aren't included.\n\n"
                  "--since-time tells what a volume has changed since the pool's time was that, as after a snapshot of it; LEFT is "
                  "then left out.");
    line.example("diff ./vms.img:pool --left 1 --right 4", "what changed between a snapshot and its volume");
    line.example("diff ./vms.img:pool --right 1 --since-time 12", "what was written since the pool's time was 12");
    line.argument("METADATA", arguments->input, "a device or file, or the pool of a group: GROUP:POOL or vg0/POOL");
    line.option("--left", "SIDE", arguments->left, "the one volume");
    line.option("--right", "SIDE", arguments->right, "the other");
    line.require("--right");
    line.option("--since-time", "TIME", arguments->since, "blocks of RIGHT that were mapped at that time of the pool or later");
    line.exclude("--since-time", "--left");
    line.option_choice("--format", arguments->format, {"plain", "xml", "json"}, "the form of the output (--json means json)");
    line.flag("--same", arguments->same, "tell what is the same as well");
    line.flag("--verbose", arguments->verbose, "with the data blocks");
    line.runs([arguments](Context& context) -> Result<void> {
        if (arguments->left.empty() && !arguments->since)
            return fail(ErrorKind::usage, "--left or --since-time is needed");
        Side right = TRY_WITHIN("--right", parse_side(arguments->right));
        Side left = arguments->since ? Side{} : TRY_WITHIN("--left", parse_side(arguments->left));
        auto metadata = TRY(MetadataInput::open(context.environment(), arguments->input, Access::read, MetadataInput::Active::snapshot));
        left.in_snapshot |= metadata->in_snapshot() && left.id >= 0;
        right.in_snapshot |= metadata->in_snapshot() && right.id >= 0;
        using Form = DiffOutput::Form;
        const Form form = context.json || arguments->format == "json" ? Form::json : arguments->format == "xml" ? Form::xml : Form::plain;
        DiffOutput output({.form = form, .verbose = arguments->verbose, .same = arguments->same},
                          [&](std::string_view text) { return context.stream(text); });
        TRY(output.begin(TRY(tools::read_superblock(metadata->device())), left.id, right.id));
        auto add = [&](const tools::DiffRun& run) { return output.add(run); };
        if (arguments->since)
            TRY(tools::diff_since(metadata->device(), right.what, right.in_snapshot, *arguments->since, context.control(), add));
        else
            TRY(tools::diff(metadata->device(),
                            {.left = left.what,
                             .right = right.what,
                             .left_in_snapshot = left.in_snapshot,
                             .right_in_snapshot = right.in_snapshot,
                             .same = arguments->same,
                             .control = context.control()},
                            add));
        TRY(metadata->still_whole());
        return output.end();
    });
}

}  // namespace lamella::cli
