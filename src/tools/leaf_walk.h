// SPDX-License-Identifier: Apache-2.0
//
// The leaves of trees of mappings in the order of their keys, found through the inner nodes alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "pdata/btree.h"
#include "tools/metadata_reader.h"

namespace lamella::tools {

// The keys that a node may have.
struct KeyBounds {
    std::uint64_t lower = 0;
    std::optional<std::uint64_t> upper{};  // exclusive; none: no bound
};

// Checks that a block is a node of a tree of mappings, at that height above the leaves, with keys within its bounds.
Result<void> verify_mapping_node(const std::byte* block, unsigned height, const KeyBounds& bounds);

// Keeps the inner nodes read lately: 8 MiB. One thread.
class NodeReader {
  public:
    explicit NodeReader(const MetadataReader& reader) : reader_(reader), slots_(slots) {}

    // An inner node, checked as verify_mapping_node() does; its bytes stay the caller's.
    Result<std::shared_ptr<const std::byte[]>> read(MetadataBlock location, unsigned height, const KeyBounds& bounds);
    // Of the tree with that root: 0 if it is a leaf.
    Result<unsigned> height(MetadataBlock root);

  private:
    static constexpr std::size_t slots = 2048;
    struct Slot {
        MetadataBlock location{};
        std::shared_ptr<const std::byte[]> bytes;
    };
    Result<std::shared_ptr<const std::byte[]>> load(MetadataBlock location);

    const MetadataReader& reader_;
    std::vector<Slot> slots_;
};

// What a walk meets, in the order of keys.
class LeafVisitor {
  public:
    virtual ~LeafVisitor() = default;
    // An inner node, before what is below it. False: pass over it.
    virtual Result<bool> inner(MetadataBlock location, unsigned height, const KeyBounds& bounds) = 0;
    virtual Result<void> leaf(MetadataBlock location, const KeyBounds& bounds) = 0;
};

// Walks a tree or a subtree of that height, as far as it may have keys within `wanted`.
Result<void> walk_leaves(NodeReader& nodes, MetadataBlock root, unsigned height, const KeyBounds& bounds, const KeyBounds& wanted,
                         LeafVisitor& visitor);

}  // namespace lamella::tools
