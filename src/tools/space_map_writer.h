// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/result.h"
#include "device/block_device.h"
#include "pdata/bitmap.h"
#include "tools/block_table.h"
#include "tools/data_block_counts.h"

namespace lamella::tools {

struct SpaceMapRoots {
    pdata::SpaceMapRoot data;
    pdata::SpaceMapRoot metadata;
};

// Writes both space maps of a pool anew, from what was counted, into metadata blocks that nothing refers to: nothing that the
// superblock leads to is touched, so that the change is made by the superblock that gets these roots, and a crash before it changes
// nothing. Doesn't flush. In `table` the blocks of the old maps lose their references, those of the new maps have one.
//
// The table knows every reference, or blocks that are in use would be overwritten. Errors: no_space (nothing was written), failed.
Result<SpaceMapRoots> write_space_maps(BlockDevice& device, BlockTable& table, const DataBlockCounts& counts,
                                       std::uint64_t metadata_blocks);

}  // namespace lamella::tools
