// SPDX-License-Identifier: Apache-2.0
#include <thread>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/interrupt.h"
#include "cli/output.h"

namespace lamella::cli {

// A merge goes on in the background of whoever has the group open. This waits for its end.
static Result<void> wait_for_merge(Context& context, VolumeGroup& group, const std::string& snapshot) {
    const ChangeOptions change = context.change();
    std::optional<std::uint64_t> total;
    for (;; std::this_thread::sleep_for(std::chrono::milliseconds(100))) {
        const Result<VolumeInfo> left = group.volume(snapshot);
        if (!left)
            return left.error().kind() == ErrorKind::not_found ? Result<void>() : std::unexpected(left.error());
        if (left->snapshot_state != "merging")
            return fail(ErrorKind::failed, "{}: {}; nothing is lost, lamella doctor says how the merge goes on", snapshot,
                        left->snapshot_state);
        const std::uint64_t to_go = left->store_used.value_or(0) - std::min(left->store_used.value_or(0), left->store_metadata.value_or(0));
        if (!total)
            total = to_go;
        if (change.progress)
            change.progress({*total - std::min(*total, to_go), *total});
        if (interrupted())
            return fail(ErrorKind::failed, "interrupted; the merge goes on while the group is in use, or by the same command");
    }
}

void define_rollback(CommandLine& line) {
    struct Arguments {
        VolumeAddress volume;
        std::string snapshot;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Put a volume back to one of its snapshots",
        "The snapshot's content becomes the volume's, and the snapshot is gone, as after LVM's merge. What was written to the volume "
        "since is lost: take another snapshot first to keep it.\n\n"
        "A classic snapshot is merged chunk by chunk; while the group is served, the volume can be used meanwhile, and shows the "
        "snapshot's content from the start. A merge that was broken off goes on by the same command, or when the group is served.");
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
        if (!context.dry_run)
            if (const Result<VolumeInfo> left = group.volume(arguments->snapshot); left && left->kind == VolumeKind::snapshot)
                TRY(wait_for_merge(context, group, arguments->snapshot));
        return answer_volume(context, fmt::format("volume {}: {} to {}", name, context.done("rolled back"), arguments->snapshot), volume);
    });
}

}  // namespace lamella::cli
