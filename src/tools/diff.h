// SPDX-License-Identifier: Apache-2.0
//
// In what two volumes of a pool differ, or two trees of mappings anywhere in it. Both trees are walked side by side; a subtree that both
// share is passed over unread, so that the cost follows the difference, and memory is constant.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <variant>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"
#include "tools/control.h"

namespace lamella::tools {

// A run of blocks of which the same can be said. Where a side isn't mapped its data block is 0.
struct DiffRun {
    enum class Kind : std::uint8_t {
        same,       // both are mapped to the same data blocks
        different,  // both are mapped, to others
        left_only,  // only the left is mapped
        right_only,
    };
    Kind kind = Kind::same;
    VirtualBlock begin{};
    std::uint64_t length = 0;
    DataBlock left_begin{};  // consecutive from there on
    DataBlock right_begin{};
    bool operator==(const DiffRun&) const = default;
};

// What to compare: a volume, or the tree that begins at a metadata block.
using DiffSide = std::variant<ThinId, MetadataBlock>;

struct DiffOptions {
    DiffSide left;
    DiffSide right;
    // Volumes as the metadata snapshot has them, on both sides or on one.
    bool left_in_snapshot = false;
    bool right_in_snapshot = false;
    // Tell what is the same too: then shared subtrees are read after all, once.
    bool same = false;
    Control control{};
};

// Calls visit() with runs in ascending order, each as long as its data blocks are consecutive on both sides. Mappings are the same if
// their data blocks are; their times don't matter. Stops with what visit() returns, if that is an error. Other errors: damaged,
// not_found, unsupported, failed. Memory: about 4 MiB.
using VisitDiff = std::function<Result<void>(const DiffRun&)>;
Result<void> diff(BlockDevice& metadata, const DiffOptions& options, const VisitDiff& visit);

// The mappings of one volume that were made at `since` or later, as runs of right_only: what changed after a snapshot that was taken when
// the pool's time became `since`. All of the volume's leaves are read.
Result<void> diff_since(BlockDevice& metadata, DiffSide volume, bool in_snapshot, std::uint32_t since, const Control& control,
                        const VisitDiff& visit);

}  // namespace lamella::tools
