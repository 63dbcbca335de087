// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <set>

#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"

namespace lamella::cli {

// One walk over each pool's mappings. It also tells what a volume has that isn't active.
static Result<void> find_exclusive(VolumeGroup& group, std::vector<VolumeInfo>& volumes) {
    std::map<std::pair<std::string, std::uint32_t>, ThinUsage> found;
    std::set<std::string> pools;
    for (const VolumeInfo& volume : volumes)
        if (!volume.pool.empty() && pools.insert(volume.pool).second)
            for (const ThinUsage& usage : TRY(group.pool_usage(volume.pool)))
                found[{volume.pool, usage.device_id}] = usage;
    for (VolumeInfo& volume : volumes) {
        const auto usage = volume.device_id ? found.find({volume.pool, *volume.device_id}) : found.end();
        if (usage == found.end())
            continue;
        volume.exclusive = usage->second.exclusive;
        if (!volume.mapped)
            volume.mapped = usage->second.mapped;
    }
    return {};
}

void find_ages(const Clock& clock, std::vector<VolumeInfo>& volumes) {
    const std::int64_t now = clock.wall_seconds();
    for (VolumeInfo& volume : volumes)
        // A clock that was put back since tells nothing.
        if (volume.creation_time && *volume.creation_time <= now)
            volume.age = now - *volume.creation_time;
}

void define_list(CommandLine& line) {
    struct Arguments {
        GroupAddress group;
        bool all = false;
        bool snapshots = false;
        bool exclusive = false;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("List the volumes of a group", "What isn't known is shown as \"-\".");
    line.example("list ./vms.img --snapshots --exclusive", "which snapshots there are, and what each alone keeps in use");
    line.argument("GROUP", arguments->group,
                  "paths of its physical volumes, separated by commas; or the name of a group that this host's LVM runs");
    line.flag("-a,--all", arguments->all, "hidden volumes too, in brackets");
    line.flag("--snapshots", arguments->snapshots, "snapshots alone, with their state, age and how full they are");
    line.flag("--exclusive", arguments->exclusive, "what each thin volume has to itself: reads all of its pool's mappings");
    line.runs([arguments](Context& context) -> Result<void> {
        VolumeGroup& group = *TRY(context.open(arguments->group, Access::read));
        auto [info, volumes] = TRY(group.listing());
        if (!arguments->all)
            // A snapshot that is being merged is hidden, and among the snapshots what one wants to see.
            std::erase_if(volumes, [&](const VolumeInfo& volume) {
                return !volume.visible && !(arguments->snapshots && volume.state.starts_with("merg"));
            });
        if (arguments->snapshots)
            std::erase_if(volumes, [](const VolumeInfo& volume) { return volume.state.empty(); });
        if (arguments->exclusive)
            TRY(find_exclusive(group, volumes));
        find_ages(context.clock(), volumes);
        note_findings(context, info);
        if (context.json)
            return context.answer({}, {{"group", to_json(info)}, {"volumes", to_json(volumes)}});
        return context.answer(arguments->snapshots ? snapshot_table(volumes) : volume_table(volumes), {});
    });
}

}  // namespace lamella::cli
