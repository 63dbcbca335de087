// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/attachment.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"
#include "cli/sizes.h"
#include "manage/pool_plan.h"

namespace lamella::cli {

namespace {

// What grows along when a pool is extended, in bytes: metadata with data, and with metadata the spare, as far as there is room; without it
// a repair has nothing to write to.
struct Along {
    std::uint64_t metadata = 0;
    std::uint64_t spare = 0;

    std::string text() const {
        if (metadata > 0)
            return fmt::format("; its metadata takes {} more{}", print_size(metadata),
                               spare == 0 ? "" : fmt::format(", and the spare {}, if there is room", print_size(spare)));
        return spare == 0 ? "" : fmt::format("; the spare takes {} more, if there is room", print_size(spare));
    }
};

Result<Along> look_along(Context& context, VolumeGroup& group, const VolumeInfo& pool, const ResizeVolume& request) {
    const VolumeInfo after = TRY(group.resize(request, {.dry_run = true}));
    const GroupInfo info = TRY(group.info());
    const auto growth = [](std::uint64_t before, std::uint64_t then) { return std::max(before, then) - before; };
    Along along;
    std::uint64_t more = 0, metadata = 0;  // what was asked for, and what metadata grows by
    if (request.metadata) {
        more = metadata = growth(pool.metadata_size.value_or(0), after.metadata_size.value_or(0));
    } else {
        const std::uint64_t data = growth(pool.size, after.size);
        along.metadata = metadata = data == 0 ? 0 : manage::metadata_growth(pool, data, info.extent_size);
        more = data + metadata;
    }
    if (metadata > 0)
        along.spare = manage::spare_growth(TRY(group.volumes()), pool.name, metadata);
    if (more <= info.free && along.spare > info.free - more)
        context.note(fmt::format("the group has {} free: enough for the pool, but not for the spare, which would have to grow by {}",
                                 print_size(info.free), print_size(along.spare)));
    return along;
}

}  // namespace

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
        const bool is_pool = before.kind == VolumeKind::thin_pool;
        const Along along = is_pool ? TRY(look_along(context, group, before, request)) : Along();
        VolumeInfo volume = TRY(group.resize(request, context.change()));
        grow_attached(context, arguments->volume, group, volume);
        std::string size = request.metadata    ? "metadata " + shown_size(volume.metadata_size)
                           : volume.store_size ? "store " + print_size(*volume.store_size)
                                               : print_size(volume.size);
        return context.answer(fmt::format("volume {}: {} to {}{}\n", volume.name, context.done("extended"), size, along.text()),
                              {{"dry_run", context.dry_run},
                               {"volume", to_json(volume)},
                               {"metadata_growth", along.metadata},
                               {"spare_growth", along.spare}});
    });
}

}  // namespace lamella::cli
