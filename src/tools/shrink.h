// SPDX-License-Identifier: Apache-2.0
//
// Makes a pool's data smaller: data blocks beyond the new end are copied to free ones before it, and new metadata is written that maps
// them there, for every volume that shares them.
//
// The old metadata is never changed, and data is copied only to blocks that it has free: until the new metadata is taken into use instead of
// the old, at one moment that is the caller's, the old state is the true one, whatever happens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/result.h"
#include "device/block_device.h"
#include "tools/control.h"
#include "tools/data_moves.h"
#include "tools/repair.h"
#include "tools/text_source.h"
#include "tools/visitor.h"

namespace lamella::tools {

struct ShrinkReport {
    std::uint64_t old_data_blocks = 0;
    std::uint64_t data_blocks = 0;
    std::uint64_t data_block_sectors = 0;
    std::uint64_t moved_blocks = 0;
    std::uint64_t runs = 0;                  // in which they lie
    bool metadata_snapshot_dropped = false;  // the new metadata has none
};

class Shrink {
  public:
    // Reads and checks the metadata of a pool that nobody uses, and decides. `data_blocks`: what the pool is to have. Errors: damaged
    // (there is anything wrong but leaks), no_space (more blocks are in use than it is to have), usage (it has no more as it is, or
    // none). Memory: as check() and Repair, and 40 bytes a run of blocks. The device outlives this.
    static Result<std::unique_ptr<Shrink>> plan(BlockDevice& metadata, std::uint64_t data_blocks, const Control& control = {});

    const ShrinkReport& report() const { return report_; }

    // What write() would say first: no_space (the output is too small), usage (the data device is smaller than the pool).
    Result<void> check(const BlockDevice& data, const BlockDevice& output) const;
    // Copies data, durably. Then writes metadata onto `output`, another device than the input: what that holds is valid only when this has
    // succeeded. Without `data` nothing is copied: somebody else does it. Errors: as check(), before anything is changed; failed.
    Result<void> write(BlockDevice* data, BlockDevice& output, const Control& control = {});

  private:
    Shrink() = default;

    DataMoves moves_;
    std::unique_ptr<Repair> source_;
    ShrinkReport report_;
};

// The same from a dump to a dump, as thin_shrink without --binary. The XML is read twice. What it doesn't say is free. Without `data`
// nothing is copied.
using OpenText = std::function<Result<std::unique_ptr<TextSource>>()>;
Result<ShrinkReport> shrink_xml(const OpenText& input, std::uint64_t data_blocks, BlockDevice* data, PoolVisitor& output,
                                const Control& control = {});

}  // namespace lamella::tools
