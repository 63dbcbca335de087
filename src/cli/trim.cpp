// SPDX-License-Identifier: Apache-2.0
#include "tools/trim.h"

#include <nlohmann/json.hpp>

#include "cli/checked_pool.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/metadata_input.h"
#include "device/file_device.h"

namespace lamella::cli {

namespace {

// The pool of a group, which may be served and in use.
Result<void> trim_pool(Context& context, const VolumeAddress& address) {
    VolumeGroup& group = *TRY(context.open(address.group, Access::write));
    const std::uint64_t bytes = TRY(group.trim(address.volume, context.stoppable_change()));
    return context.answer(fmt::format("pool {}: {} {}\n", address.volume, print_size(bytes), context.done("discarded")),
                          {{"dry_run", context.dry_run}, {"discarded_bytes", bytes}});
}

Result<void> trim_devices(Context& context, const std::string& metadata_path, const std::string& data_path) {
    TRY(refuse_if_claimed(metadata_path));
    auto metadata = TRY(MetadataInput::open(context.environment(), metadata_path, Access::read));
    auto data = TRY(FileDevice::open(data_path));
    TRY(context.confirm(fmt::format("{}: discard what {} doesn't map?", data_path, metadata_path)));
    const tools::TrimReport report =
        TRY(tools::trim(metadata->device(), *data, context.dry_run, context.control(), [&] { return metadata->still_whole(); }));
    const std::uint64_t bytes = report.blocks * report.data_block_sectors * sector_bytes;
    return context.answer(fmt::format("{}: {} {}, in {} ranges\n", data_path, print_size(bytes), context.done("discarded"), report.ranges),
                          {{"dry_run", context.dry_run}, {"discarded_bytes", bytes}, {"ranges", report.ranges}});
}

}  // namespace

void define_trim(CommandLine& line) {
    auto words = std::make_shared<std::vector<std::string>>();
    line.describe(
        "Discard all free data chunks of a pool",
        "Of a pool in a group (GROUP:POOL), also while its volumes are served and written to: chunks that are being discarded are "
        "not handed out, and a few at a time are. If no volume is in use the metadata is checked first, and nothing is "
        "discarded unless it is sound. An interrupt (Ctrl-C) stops it after the chunks that are being discarded.\n\n"
        "Outside a group, METADATA and DATA are named, and nobody may use them. What is discarded may be lost for good: DATA must "
        "be the data of that very pool.");
    line.example("trim ./vms.img:pool", "of a group, served or not");
    line.example("trim /dev/vg0/pool_tmeta /dev/vg0/pool_tdata --yes", "of a pool that is not active");
    line.arguments("POOL", *words, "the pool of a group: GROUP:POOL; or two devices or files: METADATA and DATA");
    line.changes();
    line.destroys();
    line.runs([words](Context& context) -> Result<void> {
        if (words->size() == 1)
            for (const auto& pool : {TRY(pool_address(words->front())), TRY(kernel_pool_address(words->front()))})
                if (pool)
                    return trim_pool(context, *pool);
        if (words->size() != 2)
            return fail(ErrorKind::usage, "GROUP:POOL, or METADATA and DATA are needed");
        return trim_devices(context, words->front(), words->back());
    });
}

}  // namespace lamella::cli
