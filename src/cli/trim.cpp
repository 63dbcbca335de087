// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "base/sizes.h"
#include "cli/checked_pool.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/metadata_input.h"
#include "device/file_device.h"
#include "tools/trim.h"

namespace lamella::cli {

void define_trim(CommandLine& line) {
    struct Arguments {
        std::string metadata;
        std::string data;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Discard all free data blocks of a pool that nobody uses",
        "The metadata is checked first, and nothing is discarded unless it is sound. What is discarded may be lost for good: DATA "
        "must be the data of that very pool.");
    line.example("trim /dev/vg0/pool_tmeta /dev/vg0/pool_tdata --yes", "of a pool that is not active");
    line.argument("METADATA", arguments->metadata, "a device or file with the pool's metadata");
    line.argument("DATA", arguments->data, "the device or file with its data");
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        TRY(refuse_if_claimed(arguments->metadata));
        auto metadata = TRY(MetadataInput::open(arguments->metadata, Access::read));
        auto data = TRY(FileDevice::open(arguments->data));
        TRY(context.confirm(fmt::format("{}: discard what {} doesn't map?", arguments->data, arguments->metadata)));
        const tools::TrimReport report = TRY(tools::trim(metadata->device(), *data, context.control()));
        const std::uint64_t bytes = report.blocks * report.data_block_sectors * sector_bytes;
        return context.answer(fmt::format("{}: {} discarded, in {} ranges\n", arguments->data, print_size(bytes), report.ranges),
                              {{"discarded_bytes", bytes}, {"ranges", report.ranges}});
    });
}

}  // namespace lamella::cli
