// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/attachment.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"
#include "cli/sizes.h"

namespace lamella::cli {

void define_extend(CommandLine& line) {
    struct Arguments {
        VolumeAddress volume;
        SizeArgument size;
        ResizeVolume request;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Make a pool or a volume larger",
                  "A pool that ran out of room goes back to normal as soon as it has some. Nothing ever becomes smaller by this command.");
    line.example("extend ./vms.img:pool --size +5G", "more room for data");
    line.example("extend ./vms.img:pool --metadata --size +64M", "more room for metadata");
    line.argument("VOLUME", arguments->volume, "the pool or volume");
    line.option_size("-L,--size", arguments->size, "its new size; with + before it, the difference");
    line.require("--size");
    line.flag("--metadata", arguments->request.metadata, "the pool's metadata instead of its data");
    line.changes();
    line.runs([arguments](Context& context) -> Result<void> {
        ResizeVolume& request = arguments->request;
        request.name = arguments->volume.volume;
        if (arguments->size.sign == SizeArgument::Sign::minus)
            return fail(ErrorKind::usage, "--size: extend makes larger only; lamella resize makes smaller");
        VolumeGroup& group = *TRY(context.open(arguments->volume.group, Access::write));
        VolumeInfo before = TRY(group.volume(request.name));
        request.size = TRY(size_request(arguments->size, request.metadata    ? before.metadata_size
                                                         : before.store_size ? *before.store_size
                                                                             : before.size));
        VolumeInfo volume = TRY(group.resize(request, context.change()));
        grow_attached(context, arguments->volume, group, volume);
        std::string size = request.metadata    ? "metadata " + shown_size(volume.metadata_size)
                           : volume.store_size ? "store " + print_size(*volume.store_size)
                                               : print_size(volume.size);
        return answer_volume(context, fmt::format("volume {}: {} to {}", volume.name, context.done("extended"), size), volume);
    });
}

}  // namespace lamella::cli
