// SPDX-License-Identifier: Apache-2.0
#include "tools/metadata_size.h"

#include <algorithm>

#include "pdata/block.h"
#include "pdata/btree.h"
#include "pdata/metadata_space_map.h"
#include "thin/superblock.h"

namespace lamella::tools {

Result<std::uint64_t> metadata_size(std::uint64_t pool_bytes, std::uint64_t data_block_bytes, std::uint64_t thin_devices) {
    constexpr std::uint64_t unit = thin::min_data_block_sectors * sector_bytes;
    if (data_block_bytes == 0 || data_block_bytes % unit != 0)
        return fail(ErrorKind::usage, "block size must be a multiple of 64 KiB");
    if (data_block_bytes > thin::max_data_block_sectors * sector_bytes)
        return fail(ErrorKind::usage, "maximum block size is 1 GiB");
    if (pool_bytes < data_block_bytes)
        return fail(ErrorKind::usage, "pool size must be larger than block size");
    constexpr std::uint64_t half_leaf = pdata::max_node_entries(8) / 2;
    std::uint64_t leaves = (pool_bytes / data_block_bytes + half_leaf - 1) / half_leaf;
    std::uint64_t limit = pdata::MetadataSpaceMap::max_blocks;
    return std::min(1 + leaves + std::min(thin_devices, limit), limit) * pdata::block_bytes;
}

}  // namespace lamella::tools
