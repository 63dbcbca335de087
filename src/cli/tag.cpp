// SPDX-License-Identifier: Apache-2.0
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"

namespace lamella::cli {

void define_tag(CommandLine& line) {
    struct Arguments {
        VolumeAddress volume;
        std::vector<std::string> add, remove;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Add tags to a volume, or take them away");
    line.example("tag ./vms.img:web --add prod --remove test", "both at once");
    line.argument("VOLUME", arguments->volume, "the volume");
    line.option("--add", "TAG", arguments->add, "a tag to add; may be given several times");
    line.option("--remove", "TAG", arguments->remove, "a tag to take away; may be given several times");
    line.changes();
    line.runs([arguments](Context& context) -> Result<void> {
        if (arguments->add.empty() && arguments->remove.empty())
            return fail(ErrorKind::usage, "neither --add nor --remove is given");
        VolumeGroup& group = *TRY(context.open(arguments->volume.group, Access::write));
        VolumeInfo volume = TRY(group.change_tags(arguments->volume.volume, arguments->add, arguments->remove, context.change()));
        return answer_volume(context, fmt::format("volume {}: tags {} to {}", volume.name, context.done("changed"), joined(volume.tags)),
                             volume);
    });
}

}  // namespace lamella::cli
