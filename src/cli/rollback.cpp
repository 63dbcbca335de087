// SPDX-License-Identifier: Apache-2.0
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"

namespace lamella::cli {

void define_rollback(CommandLine& line) {
    struct Arguments {
        VolumeAddress volume;
        std::string snapshot;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Put a volume back to one of its snapshots",
        "The snapshot's content becomes the volume's, and the snapshot is gone, as after LVM's merge. What was written to the volume "
        "since is lost: take another snapshot first to keep it.");
    line.example("rollback ./vms.img:web --to web-s1", "web is as it was when web-s1 was taken");
    line.argument("VOLUME", arguments->volume, "the volume");
    line.option("--to", "SNAPSHOT", arguments->snapshot, "the snapshot's name, without the group");
    line.require("--to");
    line.changes();
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        VolumeGroup& group = *TRY(context.open(arguments->volume.group, Access::write));
        const std::string& name = arguments->volume.volume;
        TRY(group.rollback(name, arguments->snapshot, {.dry_run = true}));
        TRY(context.confirm(
            fmt::format("Put {} back to {}, and lose what was written to it since?", arguments->volume.text(), arguments->snapshot)));
        VolumeInfo volume = TRY(group.rollback(name, arguments->snapshot, context.change()));
        return answer_volume(context, fmt::format("volume {}: {} to {}", name, context.done("rolled back"), arguments->snapshot), volume);
    });
}

}  // namespace lamella::cli
