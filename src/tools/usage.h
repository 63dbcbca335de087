// SPDX-License-Identifier: Apache-2.0
//
// Who uses how much of a pool, and has how much of it to himself.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"
#include "thin/metadata.h"
#include "tools/control.h"

namespace lamella::tools {

struct VolumeUsage {
    ThinId id{};
    thin::DeviceDetails details;
    std::uint64_t exclusive_blocks = 0;  // mapped by no other volume; the others of its mapped blocks are shared
    std::optional<VirtualBlock> highest_mapped{};
};

struct UsageOptions {
    bool metadata_snapshot = false;  // the pool as its metadata snapshot has it
    bool exclusive = true;           // find out exclusive_blocks; else they are 0, and no mappings are read
    bool highest = true;
    // What would become free if these were deleted? Blocks that only they map, together. Each exists, or not_found.
    std::vector<ThinId> deleted{};
    unsigned threads = 0;
    Control control{};
};

struct Usage {
    std::uint32_t data_block_sectors = 0;
    std::vector<VolumeUsage> volumes;  // in ascending order of their ids
    // By deleting those that were given. What the metadata snapshot holds stays in use.
    std::uint64_t freed_blocks = 0;
};

// Each node is read once however many volumes share it, leaves once more if volumes that share blocks have leaves of their own. Errors:
// damaged (check tells more), not_found, unsupported, failed. Memory as check().
Result<Usage> usage(BlockDevice& metadata, const UsageOptions& options);

}  // namespace lamella::tools
