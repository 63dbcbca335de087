// SPDX-License-Identifier: Apache-2.0
#include "tools/metadata_size.h"

#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"

namespace lamella::cli {

void define_metadata_size(CommandLine& line) {
    struct Arguments {
        std::uint64_t pool_bytes = 0;
        std::uint64_t chunk_bytes = 64 * 1024;
        std::uint32_t volumes = 1;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Estimate how much metadata a pool needs",
                  "Enough for so many volumes and snapshots that between them map all of the pool's chunks once, with leaves half full. "
                  "Snapshots that are written to map chunks of their own and need more: about 16 bytes for each mapping. "
                  "The format's limit is 15.88 GiB, whatever the pool.");
    line.example("metadata-size --size 1T --volumes 100", "for a pool of 1 TiB with chunks of 64 KiB");
    line.option_size("-L,--size", arguments->pool_bytes, "the size of the pool's data");
    line.require("--size");
    line.option_size("-c,--chunk-size", arguments->chunk_bytes, "the pool's unit of allocation, a multiple of 64K up to 1G (default 64K)");
    line.option("--volumes", "NUMBER", arguments->volumes, "how many thin volumes and snapshots there will be (default 1)");
    line.runs([arguments](Context& context) -> Result<void> {
        const std::uint64_t bytes = TRY(tools::metadata_size(arguments->pool_bytes, arguments->chunk_bytes, arguments->volumes));
        return context.answer(print_size(bytes) + "\n", {{"metadata_bytes", bytes}});
    });
}

}  // namespace lamella::cli
