// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"

namespace lamella::cli {

void define_metadata_snapshot(CommandLine& line) {
    struct Arguments {
        VolumeAddress pool;
        std::string action;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Hold a pool's metadata as it is now, for tools that read it while the pool is in use, or let go of it",
                  "A pool has at most one. While it is held, chunks that it maps are not given away.");
    line.argument("POOL", arguments->pool, "the pool: GROUP:NAME");
    line.argument_choice("ACTION", arguments->action, {"reserve", "release"}, "reserve or release");
    line.changes();
    line.runs([arguments](Context& context) -> Result<void> {
        VolumeGroup& group = *TRY(context.open(arguments->pool.group, Access::tell_device));
        const std::string& pool = arguments->pool.volume;
        if (arguments->action == "release") {
            TRY(group.release_metadata_snapshot(pool, context.change()));
            return context.answer(fmt::format("pool {}: metadata snapshot {}\n", pool, context.done("released")),
                                  {{"dry_run", context.dry_run}, {"metadata_snapshot", nullptr}});
        }
        std::uint64_t block = TRY(group.reserve_metadata_snapshot(pool, context.change()));
        return context.answer(fmt::format("pool {}: metadata snapshot {} at block {}\n", pool, context.done("reserved"), block),
                              {{"dry_run", context.dry_run}, {"metadata_snapshot", block}});
    });
}

}  // namespace lamella::cli
