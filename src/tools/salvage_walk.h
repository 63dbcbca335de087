// SPDX-License-Identifier: Apache-2.0
//
// Walks the small trees of a damaged pool (devices, details, space maps' indexes) and steps over what is lost.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "base/endian.h"
#include "base/strong.h"
#include "pdata/block.h"
#include "pdata/btree.h"
#include "tools/node_catalog.h"

namespace lamella::tools {

// The keys from `begin` on, before `end`; an end of no_end stands for all the rest.
struct KeyRange {
    static constexpr std::uint64_t no_end = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t begin = 0;
    std::uint64_t end = no_end;

    bool contains(std::uint64_t key) const { return key >= begin && (end == no_end || key < end); }
    bool operator==(const KeyRange&) const = default;
};

// Calls entry(key, value) for what the leaves hold, node(block) for every block that the tree refers to, sound or not (false: don't look
// into it), and lost(range, block) for a child that isn't what its place in the tree demands. Reads the blocks as it goes: for trees of
// few nodes.
template <typename Entry, typename NodeSeen, typename Lost>
class SalvageWalk {
  public:
    SalvageWalk(NodeCatalog& catalog, std::uint32_t value_size, Entry entry, NodeSeen node, Lost lost)
        : reader_(catalog.reader()), value_size_(value_size), entry_(entry), node_(node), lost_(lost), seen_(catalog.blocks()) {}

    void walk(MetadataBlock block, KeyRange range = {}, unsigned depth = 0) {
        if (!node_(block))
            return;
        std::array<std::byte, pdata::block_bytes> bytes;
        // A block that is met twice is in a wrong place at least once: trees of one kind don't share nodes here.
        if (depth > pdata::Btree::max_depth || block.value() >= seen_.blocks() || !seen_.insert(block) ||
            !reader_.read_block(block, pdata::BlockKind::node, bytes) || !pdata::verify_node(bytes.data()) || !fits(bytes.data(), range)) {
            lost_(range, block);
            return;
        }
        const pdata::Node node(bytes.data());
        for (std::uint32_t index = 0; index < node.entries(); ++index) {
            if (node.is_leaf())
                entry_(node.key(index), node.value(index));
            else
                walk(node.child(index), {node.key(index), index + 1 < node.entries() ? node.key(index + 1) : range.end}, depth + 1);
        }
    }

  private:
    bool fits(const std::byte* bytes, KeyRange range) const {
        const pdata::Node node(bytes);
        if (node.is_leaf() && node.value_size() != value_size_)
            return false;
        return node.entries() == 0 || (node.key(0) >= range.begin && range.contains(node.key(node.entries() - 1)));
    }

    MetadataReader& reader_;
    std::uint32_t value_size_;
    Entry entry_;
    NodeSeen node_;
    Lost lost_;
    MetadataBlockSet seen_;
};

}  // namespace lamella::tools
