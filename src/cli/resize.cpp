// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/attachment.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"
#include "cli/sizes.h"

namespace lamella::cli {

void define_resize(CommandLine& line) {
    struct Arguments {
        VolumeAddress volume;
        SizeArgument size;
        ResizeVolume request;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Change the size of a volume",
        "A volume that is in use can grow at once, and the block device that it is attached as with it. To make it smaller, shrink what "
        "it holds first, then say --shrink: what lies beyond the new end is gone.");
    line.example("resize ./vms.img:web --size +5G", "5 GiB more");
    line.example("resize ./vms.img:web --size 8G --shrink", "cut off what lies beyond 8 GiB");
    line.argument("VOLUME", arguments->volume, "the volume");
    line.option_size("-L,--size", arguments->size, "its new size; with + or - before it, the difference");
    line.require("--size");
    line.flag("--shrink", arguments->request.shrink_allowed, "let it become smaller");
    line.changes();
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        ResizeVolume& request = arguments->request;
        request.name = arguments->volume.volume;
        if (arguments->size.sign == SizeArgument::Sign::minus && !request.shrink_allowed) {
            context.suggest("--shrink, once what the volume holds has been made smaller");
            return fail(ErrorKind::refused, "volume {}: would become smaller, and what lies beyond its new end would be gone",
                        request.name);
        }
        VolumeGroup& group = *TRY(context.open(arguments->volume.group, Access::write));
        VolumeInfo before = TRY(group.volume(request.name));
        request.size = TRY(size_request(arguments->size, before.store_size ? *before.store_size : before.size));
        if (request.shrink_allowed) {
            VolumeInfo after = TRY(group.resize(request, {.dry_run = true}));
            if (after.size < before.size)
                TRY(context.confirm(fmt::format("Shrink volume {} from {} to {}, and lose what lies beyond?", arguments->volume.text(),
                                                print_size(before.size), print_size(after.size))));
        }
        VolumeInfo volume = TRY(group.resize(request, context.change()));
        grow_attached(context, arguments->volume, group, volume);
        return answer_volume(context, fmt::format("volume {}: {} to {}", volume.name, context.done("resized"), print_size(volume.size)),
                             volume);
    });
}

}  // namespace lamella::cli
