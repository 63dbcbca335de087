// SPDX-License-Identifier: Apache-2.0
//
// Pools of any shape, as a stream of their contents: into a MetadataBuilder for metadata, into a printer for XML. For tests and
// measurements.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "tools/visitor.h"

namespace lamella::tools {

struct PoolShape {
    std::uint32_t volumes = 1;
    std::uint64_t mappings = 1000;   // of each volume
    std::uint32_t snapshots = 0;     // of the first volume, which share all of its mappings
    std::uint64_t own_mappings = 0;  // that each snapshot has beside them
    bool random = false;             // data blocks in no order, as after long use; else in one run a volume
    std::uint32_t data_block_sectors = 128;
    std::uint64_t seed = 1;
};

// Data blocks that the pool has: as many as are mapped.
std::uint64_t data_blocks(const PoolShape& shape);

// The same shape gives the same pool. Volumes have the ids from 1 on, snapshots those after them. Some 30 ns a mapping, beside the sink's.
Result<void> generate(PoolVisitor& sink, const PoolShape& shape);

}  // namespace lamella::tools
