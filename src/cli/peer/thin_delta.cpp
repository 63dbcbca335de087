// SPDX-License-Identifier: Apache-2.0
#include "cli/diff_output.h"
#include "cli/metadata_input.h"
#include "cli/peer/peer_command.h"

namespace lamella::cli {

void define_thin_delta(PeerCommand& command) {
    struct Side {
        std::optional<std::uint32_t> thin;
        std::optional<std::uint32_t> snap;
        std::optional<std::uint64_t> root;
    };
    struct Arguments {
        std::string input;
        Side sides[2];
        bool metadata_snapshot = false;
        std::optional<std::uint64_t> snapshot_location;
        bool verbose = false;
        bool changes_only = false;
    };
    auto arguments = std::make_shared<Arguments>();
    command.describe("Print in what two devices of a pool differ, as XML",
                     "Mappings are the same if they lead to the same data blocks. What the two share is not read, unless it is printed.");
    command.argument("METADATA", arguments->input, "the pool's metadata");
    for (int side = 0; side < 2; ++side) {
        const std::string number = std::to_string(side + 1);
        const std::string which = side == 0 ? "the left" : "the right";
        command.option("--thin" + number, "ID", arguments->sides[side].thin, which + " device");
        command.option("--snap" + number, "ID", arguments->sides[side].snap, "the same");
        command.option("--root" + number, "BLOCK", arguments->sides[side].root,
                       which + " tree of mappings, by the metadata block of its root");
    }
    command.flag_or_option("-m,--metadata-snap", "BLOCK", arguments->metadata_snapshot, arguments->snapshot_location,
                           "both devices as the metadata snapshot has them, of a pool in use");
    command.flag("--verbose", arguments->verbose, "with the data blocks");
    command.flag("--changes-only", arguments->changes_only, "leave out what is the same, which then costs nothing");
    command.runs([arguments](PeerContext& context) -> Result<int> {
        tools::DiffSide sides[2];
        std::int64_t ids[2] = {-1, -1};
        for (int number = 0; number < 2; ++number) {
            const Side& side = arguments->sides[number];
            if (side.thin.has_value() + side.snap.has_value() + side.root.has_value() != 1)
                return fail(ErrorKind::usage, "one of --thin{0}, --snap{0} and --root{0} is needed", number + 1);
            if (side.root) {
                sides[number] = MetadataBlock(*side.root);
                continue;
            }
            const std::uint32_t id = side.thin ? *side.thin : *side.snap;
            sides[number] = ThinId(id);
            ids[number] = id;
        }
        auto metadata = TRY(MetadataInput::open(context.environment(), arguments->input, Access::read));
        thin::Superblock superblock = TRY(tools::read_superblock(metadata->device()));
        if (arguments->snapshot_location && superblock.held_root != MetadataBlock(*arguments->snapshot_location))
            return fail(ErrorKind::usage, "the metadata snapshot lies at block {}, not {}", superblock.held_root,
                        *arguments->snapshot_location);
        if (arguments->metadata_snapshot && superblock.held_root != MetadataBlock(0)) {
            // The copy has all but the number of data blocks.
            const auto data_space_map = superblock.data_space_map_root;
            superblock = TRY(tools::read_superblock(metadata->device(), superblock.held_root));
            superblock.data_space_map_root = data_space_map;
        }
        DiffOutput output({.form = DiffOutput::Form::xml, .verbose = arguments->verbose, .same = !arguments->changes_only},
                          context.environment().stream);
        TRY(output.begin(superblock, ids[0], ids[1]));
        TRY(tools::diff(metadata->device(),
                        {.left = sides[0],
                         .right = sides[1],
                         .left_in_snapshot = arguments->metadata_snapshot,
                         .right_in_snapshot = arguments->metadata_snapshot,
                         .same = !arguments->changes_only,
                         .control = context.control()},
                        [&](const tools::DiffRun& run) { return output.add(run); }));
        TRY(metadata->still_whole());
        TRY(output.end());
        return 0;
    });
}

}  // namespace lamella::cli
