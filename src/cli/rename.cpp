// SPDX-License-Identifier: Apache-2.0
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"

namespace lamella::cli {

void define_rename(CommandLine& line) {
    struct Arguments {
        VolumeAddress volume;
        std::string name;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Give a volume another name");
    line.example("rename ./vms.img:web www", "web is called www from now on");
    line.argument("VOLUME", arguments->volume, "the volume");
    line.argument("NAME", arguments->name, "its new name, without the group");
    line.changes();
    line.runs([arguments](Context& context) -> Result<void> {
        VolumeGroup& group = *TRY(context.open(arguments->volume.group, Access::write));
        VolumeInfo volume = TRY(group.rename(arguments->volume.volume, arguments->name, context.change()));
        return answer_volume(context, fmt::format("volume {}: {} to {}", arguments->volume.volume, context.done("renamed"), volume.name),
                             volume);
    });
}

}  // namespace lamella::cli
