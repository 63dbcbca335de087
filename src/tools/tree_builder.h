// SPDX-License-Identifier: Apache-2.0
//
// B-trees made from the bottom up, out of entries in ascending order: every node full but the last two of a level, and none but the root
// less than a third full.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "pdata/btree.h"
#include "tools/block_stream.h"

namespace lamella::tools {

// How many nodes a level of a tree has, and the whole tree, that is written anew with full nodes.
constexpr std::uint64_t level_nodes(std::uint64_t entries, std::uint32_t value_size) {
    const std::uint64_t full = pdata::max_node_entries(value_size);
    return std::max<std::uint64_t>(1, entries / full + (entries % full != 0));
}
constexpr std::uint64_t tree_nodes(std::uint64_t entries, std::uint32_t value_size) {
    constexpr std::uint32_t child_bytes = 8;
    std::uint64_t level = level_nodes(entries, value_size);
    std::uint64_t nodes = level;
    while (level > 1) {
        level = level_nodes(level, child_bytes);
        nodes += level;
    }
    return nodes;
}

// Writes one node with those entries; values lie one after the other, value_size bytes each.
Result<MetadataBlock> write_node(BlockStream& stream, bool leaf, std::uint32_t value_size, std::span<const std::uint64_t> keys,
                                 const std::byte* values);

// The levels above nodes that exist already.
class InnerLevels {
  public:
    explicit InnerLevels(BlockStream& stream) : stream_(stream) {}

    // A node, by its first key.
    Result<void> add(std::uint64_t key, MetadataBlock node) { return add(0, key, node); }
    bool empty() const { return levels_.empty(); }
    // The node that was added last is no child any more. Not twice without an add() in between.
    MetadataBlock take_back();
    // The root: the only node, if one was added. Empty from then on. At least one was added.
    Result<MetadataBlock> finish();

  private:
    struct Level {
        std::vector<std::uint64_t> keys;
        std::vector<std::uint64_t> nodes;
        bool wrote = false;
    };
    Result<void> add(std::size_t level, std::uint64_t key, MetadataBlock node);
    Result<void> write_front(std::size_t level, std::size_t entries);

    BlockStream& stream_;
    std::vector<Level> levels_;
};

// A whole tree.
class TreeBuilder {
  public:
    TreeBuilder(BlockStream& stream, std::uint32_t value_size) : stream_(stream), value_size_(value_size), inner_(stream) {}

    // `value` has value_size bytes.
    Result<void> add(std::uint64_t key, const std::byte* value);
    // The root; an empty leaf, if nothing was added.
    Result<MetadataBlock> finish();

  private:
    Result<void> write_front(std::size_t entries);

    BlockStream& stream_;
    std::uint32_t value_size_;
    std::vector<std::uint64_t> keys_;
    std::vector<std::byte> values_;
    InnerLevels inner_;
};

}  // namespace lamella::tools
