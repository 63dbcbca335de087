// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"
#include "cli/sizes.h"
#include "volumes/engine_group.h"

namespace lamella::cli {

void define_init(CommandLine& line) {
    struct Arguments {
        GroupAddress group;
        CreateGroup request;
        CreatePool pool;
        SizeArgument pool_size{.percentage = Percentage{60, PercentOf::free}};
        bool no_pool = false;
        bool no_zero = false;
        std::string when_full = "queue";
        std::uint32_t metadata_areas = 1;
    };
    auto arguments = std::make_shared<Arguments>();
    CreateGroup& request = arguments->request;
    CreatePool& pool = arguments->pool;
    pool.name = "pool";
    line.describe(
        "Make a volume group, with a thin pool in it, on image files or block devices",
        "The result is an ordinary LVM2 volume group, which any Linux host can activate. An image file that isn't there yet is made, "
        "sparse, in the size given. What is there already is not overwritten unless --overwrite is given.");
    line.example("init ./vms.img --size 20G", "group vms in a new image file, with pool \"pool\" in it");
    line.example("init /dev/sdb1,/dev/sdc1 --stripes 2", "a group on two devices, the pool's data striped over both");
    line.argument("PATHS", arguments->group, "the physical volumes, separated by commas");
    line.option_size("-L,--size", request.size, "the size of each image file that has to be made");
    line.option("--vg", "NAME", request.name, "the group's name (default: the first file's, up to its first dot)");
    line.option("--pool", "NAME", pool.name, "the pool's name (default: pool)");
    line.flag("--no-pool", arguments->no_pool, "no pool yet: lamella create --thin-pool makes one later");
    line.option_size("--pool-size", arguments->pool_size,
                     "the pool's size: bytes, N%VG, N%FREE (default 60%FREE: the rest is for thick volumes and for the pool to grow)");
    line.option_size("-c,--chunk-size", pool.chunk_size, "the pool's unit of allocation, a multiple of 64K up to 1G (default 64K)");
    line.option_size("--metadata-size", pool.metadata_size, "the pool's room for metadata, or auto (default: as LVM reckons it)");
    line.option_size("-s,--extent-size", request.extent_size, "the group's unit of allocation, a power of two (default 4M)");
    line.option("-i,--stripes", "N", pool.stripes, "stripes of the pool's data (default 1)");
    line.option_size("-I,--stripe-size", pool.stripe_size, "bytes in a stripe before the next one begins (default 64K)");
    line.flag("--no-zero", arguments->no_zero, "don't zero new chunks: a partly written one then shows old content in the rest");
    line.option_choice("--discards", pool.discards, {"passdown", "nopassdown", "ignore"}, "what the pool does with discards");
    line.option_choice("--when-full", arguments->when_full, {"queue", "error"}, "what writes to a full pool do (default queue)");
    line.option("--metadata-areas", "N", arguments->metadata_areas, "copies of the group's text on each physical volume: 0, 1 or 2");
    line.option("--tag", "TAG", request.tags, "a tag of the group; may be given several times");
    line.flag("--overwrite", request.overwrite, "also physical volumes that hold something already; it is lost");
    for (const char* option : {"--pool", "--pool-size", "--chunk-size", "--metadata-size", "--stripes", "--stripe-size", "--no-zero",
                               "--discards", "--when-full"})
        line.exclude(option, "--no-pool");
    line.changes();
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        CreateGroup& group = arguments->request;
        // A file that is to be made doesn't exist yet, so that its name alone doesn't look like a path.
        group.paths = arguments->group.paths;
        if (group.paths.empty())
            group.paths.push_back(arguments->group.name);
        group.metadata_areas = arguments->metadata_areas;
        if (!arguments->no_pool) {
            group.pool = arguments->pool;
            group.pool->size = TRY(size_request(arguments->pool_size, std::nullopt));
            group.pool->zero_new_blocks = !arguments->no_zero;
            group.pool->error_when_full = arguments->when_full == "error";
        }
        if (group.overwrite)
            TRY(context.confirm(fmt::format("Overwrite what is on {}?", fmt::join(group.paths, ", "))));
        Result<GroupInfo> created = EngineGroup::create(group, context.change());
        if (!created && created.error().kind() == ErrorKind::exists)
            context.suggest("--overwrite, to lose what is there");
        GroupInfo info = TRY(std::move(created));
        return context.answer(fmt::format("group {}, {} on {}: {}\n", info.name, print_size(info.size), fmt::join(group.paths, ", "),
                                          context.done("created")),
                              {{"dry_run", context.dry_run}, {"group", to_json(info)}});
    });
}

}  // namespace lamella::cli
