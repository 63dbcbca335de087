// SPDX-License-Identifier: Apache-2.0
//
// A space map as it lies on disk, held against what was counted.
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "pdata/bitmap.h"
#include "tools/block_table.h"
#include "tools/control.h"
#include "tools/data_block_counts.h"
#include "tools/findings.h"
#include "tools/metadata_reader.h"

namespace lamella::tools {

struct SpaceMapComparison {
    bool readable = false;        // every bitmap, entry and tree of it
    std::uint64_t used = 0;       // blocks that its bitmaps say are in use
    std::uint64_t leaked = 0;     // counted once, referred to by nobody
    std::uint64_t too_high = 0;   // counted more often than referred to, in another way
    std::uint64_t too_low = 0;    // referred to more often than counted
    bool totals_wrong = false;    // its sums aren't those of its bitmaps
    bool overflow_wrong = false;  // its tree of counts of 3 and more lacks some, or has some too many

    bool sound() const { return readable && leaked + too_high + too_low == 0 && !totals_wrong && !overflow_wrong; }
};

// Both take the map's own blocks down in the table, and findings. `complete`: all references could be counted; if not, counts that are
// too high are summed up only, for what couldn't be read may account for them. Fail only when stopped.
Result<SpaceMapComparison> compare_data_space_map(MetadataReader& reader, BlockTable& table, const pdata::SpaceMapRoot& root,
                                                  const DataBlockCounts& counts, bool complete, Findings& findings, const Control& control);
// The last of all walks: it compares the references in the table.
Result<SpaceMapComparison> compare_metadata_space_map(MetadataReader& reader, BlockTable& table, const pdata::SpaceMapRoot& root,
                                                      bool complete, Findings& findings, const Control& control);

// The counts of 32 metadata blocks as a bitmap has them; `index` counts words from the first block on.
std::uint64_t bitmap_word(const BlockTable& table, std::uint64_t index);
std::uint64_t bitmap_word(const DataBlockCounts& counts, std::uint64_t index);

}  // namespace lamella::tools
