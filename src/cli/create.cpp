// SPDX-License-Identifier: Apache-2.0
#include <filesystem>

#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"
#include "cli/sizes.h"

namespace lamella::cli {

void define_create(CommandLine& line) {
    struct Arguments {
        VolumeAddress volume;
        CreateVolume request;
        SizeArgument size;
        CreatePool pool;
        bool thin_pool = false;
        std::string zero = "y";
        std::string when_full = "queue";
    };
    auto arguments = std::make_shared<Arguments>();
    CreateVolume& request = arguments->request;
    CreatePool& pool = arguments->pool;
    line.describe("Make a volume: thin, linear or striped, or another thin pool",
                  "Without --linear or --thin-pool the volume is thin: it takes room in its pool only for what is written to it. Sizes are "
                  "rounded up to whole extents.");
    line.example("create ./vms.img:web --size 10G", "a thin volume in the group's only pool");
    line.example("create ./vms.img:log --size 50%FREE --linear", "a thick volume of half of the group's free space");
    line.example("create ./vms.img:web --origin ./debian.raw", "a thin volume that begins as a copy of an image, which stays as it is");
    line.argument("VOLUME", arguments->volume, "the volume to make: GROUP:NAME");
    line.option_size("-L,--size", arguments->size, "its size: bytes with a unit, or N%VG, N%FREE, N%PVS");
    line.option("--pool", "POOL", request.pool, "the pool of a thin volume (default: the group's only one)");
    line.option("--external-origin", "LV", request.external_origin, "a read-only volume whose content shows where nothing was written");
    line.option("--origin", "FILE", request.origin_file, "a raw image outside of the group, whose content shows where nothing was written");
    line.flag("--linear", request.linear, "a thick volume: all of its room is allocated now");
    line.flag("--thin-pool", arguments->thin_pool, "a thin pool");
    line.option("-i,--stripes", "N", request.stripes, "stripes of a thick volume or of a pool's data");
    line.option_size("-I,--stripe-size", request.stripe_size, "bytes in a stripe before the next one begins (default 64K)");
    line.option_size("-c,--chunk-size", pool.chunk_size, "a pool's unit of allocation (default 64K)");
    line.option_size("--metadata-size", pool.metadata_size, "a pool's room for metadata (default: as LVM reckons it)");
    line.option_choice("--zero", arguments->zero, {"y", "n"}, "whether a pool zeroes new chunks (default y)");
    line.option_choice("--discards", pool.discards, {"passdown", "nopassdown", "ignore"}, "what a pool does with discards");
    line.option_choice("--when-full", arguments->when_full, {"queue", "error"}, "what writes to a full pool do (default queue)");
    line.option("--tag", "TAG", request.tags, "a tag; may be given several times");
    line.flag("--read-only", request.read_only, "refuse writes to it");
    line.exclude("--thin-pool", "--linear");
    line.exclude("--pool", "--linear");
    line.exclude("--pool", "--thin-pool");
    line.exclude("--external-origin", "--linear");
    line.exclude("--external-origin", "--thin-pool");
    for (const char* option : {"--linear", "--thin-pool", "--external-origin"})
        line.exclude("--origin", option);
    line.exclude("--read-only", "--thin-pool");
    for (const char* option : {"--chunk-size", "--metadata-size", "--zero", "--discards", "--when-full"})
        line.need(option, "--thin-pool");
    line.changes();
    line.runs([arguments](Context& context) -> Result<void> {
        CreateVolume& volume = arguments->request;
        volume.name = arguments->volume.volume;
        if (!volume.origin_file.empty()) {
            // Whoever serves the group may run in another folder.
            std::error_code error;
            volume.origin_file = std::filesystem::absolute(volume.origin_file, error);
            if (error)
                return fail_errno(volume.origin_file, error.value());
        }
        const SizeArgument& size = arguments->size;
        const bool sized = size.bytes != 0 || size.percentage;
        if (!sized && volume.origin_file.empty())
            return fail(ErrorKind::usage, "--size is required");
        if (sized)
            volume.size = TRY(size_request(size, std::nullopt));
        if (volume.size.relation != SizeRequest::Relation::absolute)
            return fail(ErrorKind::usage, "--size: a new volume has no size yet that could grow or shrink");
        if (volume.stripes > 1 && !volume.linear && !arguments->thin_pool)
            return fail(ErrorKind::usage, "--stripes: a thin volume has none of its own; use it with --linear or --thin-pool");
        VolumeGroup& group = *TRY(context.open(arguments->volume.group, Access::write));
        VolumeInfo made;
        if (arguments->thin_pool) {
            CreatePool& thin_pool = arguments->pool;
            thin_pool.name = volume.name;
            thin_pool.size = volume.size;
            thin_pool.stripes = volume.stripes;
            thin_pool.stripe_size = volume.stripe_size;
            thin_pool.tags = volume.tags;
            thin_pool.zero_new_blocks = arguments->zero == "y";
            thin_pool.error_when_full = arguments->when_full == "error";
            made = TRY(group.create_pool(thin_pool, context.change()));
        } else {
            if (!volume.linear) {
                std::set<std::string> pools{volume.pool};
                if (volume.pool.empty())
                    for (const VolumeInfo& other : TRY(group.volumes()))
                        if (other.kind == VolumeKind::thin_pool)
                            pools.insert(other.name);
                warn_of_full_pools(context, group, pools);
            }
            made = TRY(group.create_volume(volume, context.change()));
        }
        return answer_volume(
            context, fmt::format("{} volume {}, {}: {}", kind_word(made), made.name, print_size(made.size), context.done("created")), made);
    });
}

}  // namespace lamella::cli
