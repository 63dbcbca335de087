// SPDX-License-Identifier: Apache-2.0
//
// The frame around metadata that is written anew: the device holds nothing valid from begin to end.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "device/block_device.h"
#include "pdata/bitmap.h"
#include "thin/metadata.h"
#include "thin/superblock.h"
#include "tools/block_stream.h"

namespace lamella::tools {

// Puts words into block 0 that neither the kernel nor a tool takes for a superblock, nor the kernel for an unformatted device; durable.
Result<void> begin_fresh_metadata(BlockDevice& device);

struct FreshDevice {
    ThinId id{};
    MetadataBlock root{};  // of its mappings
    thin::DeviceDetails details;
};

// The tree of devices and that of their details, in ascending order of their ids; the superblock gets their roots.
Result<void> write_device_trees(BlockStream& stream, std::span<const FreshDevice> devices, thin::Superblock& superblock);

// The metadata space map, after everything else is written: `counts` has the references to each block from 0 on that isn't referred to
// once, and is used up. `blocks`: of the device.
Result<pdata::SpaceMapRoot> write_metadata_space_map(BlockStream& stream, std::vector<std::uint32_t>& counts, std::uint64_t blocks);

// Ends the stream, and makes all durable; then writes the superblock, durably.
Result<void> end_fresh_metadata(BlockDevice& device, BlockStream& stream, const thin::Superblock& superblock);

}  // namespace lamella::tools
