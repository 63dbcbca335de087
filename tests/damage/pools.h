// SPDX-License-Identifier: Apache-2.0
//
// Pools with known content, made by the engine through many transactions, so that their metadata devices hold what those of real pools
// do: shared subtrees, and old copies of nodes in free blocks.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "device/memory_device.h"
#include "thin/metadata.h"
#include "thin/superblock.h"

namespace lamella::damage {

// One leaf of one device, with the way to it.
struct LeafPath {
    std::vector<MetadataBlock> path;  // nodes of the tree of devices, inner nodes; the superblock is not named
    MetadataBlock leaf{};
    std::vector<thin::Mapping> mappings;
};

struct Volume {
    thin::DeviceDetails details;
    std::vector<MetadataBlock> details_path;  // nodes of the details tree
    std::vector<LeafPath> leaves;
};

struct Pool {
    std::string name;
    std::unique_ptr<MemoryDevice> metadata;
    thin::Superblock superblock;
    std::map<ThinId, Volume> volumes;
    // What blocks held in earlier transactions, where that was a sound block and other than now.
    std::map<MetadataBlock, std::vector<std::vector<std::byte>>> earlier;
};

// A few volumes of single leaves or two levels, with snapshots.
Pool make_small_pool(std::uint64_t seed);
// Trees of three levels, with snapshots that have diverged.
Pool make_deep_pool(std::uint64_t seed);
// Many snapshots of one volume, and a metadata snapshot.
Pool make_shared_pool(std::uint64_t seed);

}  // namespace lamella::damage
