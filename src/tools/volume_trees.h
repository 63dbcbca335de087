// SPDX-License-Identifier: Apache-2.0
//
// The trees of volumes and of their details; and all of a pool's mappings, for readers who have no use for damage.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "base/result.h"
#include "base/strong.h"
#include "thin/metadata.h"
#include "thin/superblock.h"
#include "tools/block_table.h"
#include "tools/control.h"
#include "tools/findings.h"
#include "tools/mapping_forest.h"
#include "tools/metadata_reader.h"

namespace lamella::tools {

// The pool's, or the copy of it that a metadata snapshot has; checked. Errors: damaged, unsupported, failed; they name the device.
Result<thin::Superblock> read_superblock(BlockDevice& metadata, MetadataBlock location = MetadataBlock(0));

// Whether metadata of so many blocks can have a space map of so many data blocks.
bool can_count(std::uint64_t metadata_blocks, std::uint64_t data_blocks);

// What the two trees know of one volume.
struct VolumeEntry {
    std::optional<MetadataBlock> root{};
    bool root_counted = false;  // the entry that holds the root was counted as its parent before
    std::optional<thin::DeviceDetails> details{};
};
// By id, which may be greater than any that there should be.
using VolumeEntries = std::map<std::uint64_t, VolumeEntry>;

// Reads both trees. False: not all could be read; the findings say what. Fails only when stopped.
Result<bool> read_volumes(MetadataReader& reader, BlockTable& table, const thin::Superblock& superblock, bool in_metadata_snapshot,
                          Findings& findings, const Control& control, VolumeEntries& volumes);

// A pool's metadata, opened to look at its mappings. What is damaged is an error here, which names the first place.
class PoolMetadata {
  public:
    // `metadata_snapshot`: of the pool as its metadata snapshot has it. Errors: damaged, unsupported, not_found (no metadata snapshot).
    static Result<std::unique_ptr<PoolMetadata>> open(BlockDevice& device, bool metadata_snapshot, unsigned threads,
                                                      const Control& control);

    // The pool's own, whichever is looked at.
    const thin::Superblock& superblock() const { return superblock_; }
    std::uint64_t data_blocks() const { return data_blocks_; }
    // Each with its root and its details.
    const VolumeEntries& volumes() const { return volumes_; }
    Result<const VolumeEntry*> volume(ThinId id) const;

    MetadataReader& reader() { return *reader_; }
    BlockTable& table() { return *table_; }
    MappingForest& forest() { return *forest_; }
    // The volumes that the metadata snapshot has, beside those looked at.
    Result<VolumeEntries> held_volumes(const Control& control);

    // damaged, if anything that was read so far is.
    Result<void> sound() const;

  private:
    PoolMetadata() = default;
    Result<thin::Superblock> held_superblock() const;

    thin::Superblock superblock_;
    std::uint64_t data_blocks_ = 0;
    std::unique_ptr<MetadataReader> reader_;
    std::unique_ptr<BlockTable> table_;
    std::unique_ptr<MappingForest> forest_;
    Findings findings_;
    VolumeEntries volumes_;
};

}  // namespace lamella::tools
