// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/strong.h"
#include "pdata/bitmap.h"
#include "tools/node_catalog.h"

namespace lamella::tools {

// The reference counts that a metadata space map holds, as far as it can be read: evidence of which blocks the last commit used. Four bytes a
// block of the device.
class MetadataCounts {
  public:
    static constexpr std::uint32_t unknown = ~std::uint32_t{0};

    // Nothing is known.
    explicit MetadataCounts(std::uint64_t blocks) : counts_(blocks, unknown) {}
    // Damage costs the counts that it holds, and no more. Errors: only those of the reader being stopped.
    static MetadataCounts read(NodeCatalog& catalog, const pdata::SpaceMapRoot& root);

    std::uint64_t blocks() const { return counts_.size(); }
    // `unknown` also where the count is 3 or more and the tree that says how many is damaged.
    std::uint32_t operator[](MetadataBlock block) const { return block.value() < counts_.size() ? counts_[block.value()] : 0; }
    bool known(MetadataBlock block) const { return (*this)[block] != unknown; }
    // Every count is known.
    bool complete() const { return complete_; }
    // The blocks that the space map itself lies in, as far as they are known; readable or not.
    const std::vector<MetadataBlock>& own_blocks() const { return own_; }

  private:
    std::vector<std::uint32_t> counts_;
    std::vector<MetadataBlock> own_;
    bool complete_ = false;
};

}  // namespace lamella::tools
