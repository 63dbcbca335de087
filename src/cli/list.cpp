// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"

namespace lamella::cli {

void define_list(CommandLine& line) {
    struct Arguments {
        GroupAddress group;
        bool all = false;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("List the volumes of a group", "What isn't known is shown as \"-\".");
    line.argument("GROUP", arguments->group,
                  "paths of its physical volumes, separated by commas; or the name of a group that this host's LVM runs");
    line.flag("-a,--all", arguments->all, "hidden volumes too, in brackets");
    line.runs([arguments](Context& context) -> Result<void> {
        VolumeGroup& group = *TRY(context.open(arguments->group, Access::read));
        GroupInfo info = TRY(group.info());
        std::vector<VolumeInfo> volumes = TRY(group.volumes());
        if (!arguments->all)
            std::erase_if(volumes, [](const VolumeInfo& volume) { return !volume.visible; });
        note_findings(context, info);
        if (context.json)
            return context.answer({}, {{"group", to_json(info)}, {"volumes", to_json(volumes)}});
        return context.answer(volume_table(volumes), {});
    });
}

}  // namespace lamella::cli
