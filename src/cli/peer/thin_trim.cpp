// SPDX-License-Identifier: Apache-2.0
#include "cli/checked_pool.h"
#include "cli/metadata_input.h"
#include "cli/peer/peer_command.h"
#include "device/file_device.h"
#include "tools/trim.h"

namespace lamella::cli {

void define_thin_trim(PeerCommand& command) {
    struct Arguments {
        std::string metadata;
        std::string data;
    };
    auto arguments = std::make_shared<Arguments>();
    command.describe("Discard all free data blocks of a pool that is not active",
                     "The metadata is checked first; nothing is discarded unless it is sound, which the status 65 tells.");
    command.option("--metadata-dev", "DEVICE", arguments->metadata, "the pool's metadata");
    command.require("--metadata-dev");
    command.option("--data-dev", "DEVICE", arguments->data, "the pool's data");
    command.require("--data-dev");
    command.quiet();
    command.runs([arguments](PeerContext& context) -> Result<int> {
        constexpr int damaged = 65;
        TRY(refuse_if_claimed(arguments->metadata));
        auto metadata = TRY(MetadataInput::open(context.environment(), arguments->metadata, Access::read));
        auto data = TRY(FileDevice::open(arguments->data));
        auto report = tools::trim(metadata->device(), *data, false, context.control(), [&] { return metadata->still_whole(); });
        if (!report && report.error().kind() == ErrorKind::damaged) {
            context.err(report.error().message() + "\n");
            return damaged;
        }
        TRY(std::move(report));
        return 0;
    });
}

}  // namespace lamella::cli
