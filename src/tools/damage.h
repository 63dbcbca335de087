// SPDX-License-Identifier: Apache-2.0
//
// Damage to a pool's metadata, made on purpose: for tests of what checks it and what repairs it. What was there can be put back.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"
#include "pdata/block.h"

namespace lamella::tools {

// What a block of sound metadata is there for.
enum class BlockRole : std::uint8_t {
    superblock,
    held_superblock,  // of the metadata snapshot
    device_node,      // of the tree of devices: device id -> root of its mappings
    details_node,     // of the tree of devices' details
    mapping_inner,    // of a device's tree of mappings
    mapping_leaf,
    data_index_node,  // of the data space map
    data_bitmap,
    data_overflow_node,
    metadata_index,  // of the metadata space map
    metadata_bitmap,
    metadata_overflow_node,
};

std::string_view to_string(BlockRole role);

struct SurveyedBlock {
    MetadataBlock location{};
    BlockRole role = BlockRole::superblock;
};

// Every block that the superblock leads to, each once, in ascending order. Fails on damage.
Result<std::vector<SurveyedBlock>> survey(BlockDevice& metadata);

// Which of a pool's two space maps.
enum class SpaceMapKind : std::uint8_t { data, metadata };

// Damages one device, and remembers what was there first. Nothing is put back unless undo() is called. One thread.
class Damage {
  public:
    // The device outlives it.
    explicit Damage(BlockDevice& metadata) : metadata_(metadata) {}

    // --- A block no longer holds what was written: its checksum or block number is wrong, unless the old content had them right ---
    Result<void> zero(MetadataBlock location);
    // `bits` bits, drawn from `random`.
    Result<void> flip(MetadataBlock location, unsigned bits, std::mt19937_64& random);
    // Bytes of no meaning.
    Result<void> scramble(MetadataBlock location, std::mt19937_64& random);
    // Each now holds what the other held.
    Result<void> swap(MetadataBlock one, MetadataBlock other);
    // `bytes` (4096) as they are: a write that was lost, when they are what the block held before.
    Result<void> replace(MetadataBlock location, std::span<const std::byte> bytes);

    // --- The content is wrong, the checksum right ---
    // Entry `index` of an inner node leads to `child`.
    Result<void> link(MetadataBlock parent, std::uint32_t index, MetadataBlock child);
    // What a bitmap says of a block: 0, 1, 2 (3 is kept elsewhere). The totals stay as they are. A count higher than the references
    // is a leak.
    Result<void> set_count(SpaceMapKind map, std::uint64_t block, std::uint32_t count);
    Result<void> set_needs_check();
    Result<void> set_mapping_root(MetadataBlock root);
    Result<void> set_details_root(MetadataBlock root);
    Result<void> set_held_root(MetadataBlock root);

    // Blocks that were changed, in ascending order.
    std::vector<MetadataBlock> changed() const;
    // Puts back what was there.
    Result<void> undo();

  private:
    using Block = std::vector<std::byte>;
    Result<Block> read(MetadataBlock location);
    Result<void> write(MetadataBlock location, std::span<const std::byte> bytes);
    template <typename Change>
    Result<void> change_superblock(Change change);

    BlockDevice& metadata_;
    std::map<MetadataBlock, Block> before_;
};

}  // namespace lamella::tools
