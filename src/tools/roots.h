// SPDX-License-Identifier: Apache-2.0
//
// Where the trees of a pool may begin: what the superblock says, what a metadata snapshot says, and every pair of a tree of devices and a
// tree of their details that fit together, from whatever transaction. Blocks of older transactions stay readable until they are used
// again, so there is usually more than one.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "thin/superblock.h"
#include "tools/node_catalog.h"
#include "tools/salvage.h"

namespace lamella::tools {

enum class RootSource : std::uint8_t { superblock, metadata_snapshot, scan };

std::string_view to_string(RootSource source);

struct RootCandidate {
    RootSource source = RootSource::scan;
    TreeRoots roots;
    std::uint64_t devices = 0;
    std::uint64_t matching_devices = 0;            // with as many mappings as their details say, none behind a bad node
    std::uint64_t mappings = 0;                    // that can be reached, over all devices
    std::uint32_t time = 0;                        // the latest in the details and the mappings
    std::uint64_t transaction_id = 0;              // the latest in the details, or the superblock's
    std::optional<thin::Superblock> superblock{};  // what names the roots
};

// All candidates, the best first: the superblock's; then by how many devices don't match, by transaction id, time, and mappings, the
// greater the better. The last two orders are a likelihood, not a proof. At most `most_candidates`.
// The catalog is of all blocks.
constexpr std::size_t most_candidates = 1000;
Result<std::vector<RootCandidate>> find_roots(NodeCatalog& catalog);
// The same, of a device that is read for it.
Result<std::vector<RootCandidate>> find_roots(BlockDevice& metadata, const Control& control = {});

}  // namespace lamella::tools
