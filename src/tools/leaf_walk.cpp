// SPDX-License-Identifier: Apache-2.0
#include "tools/leaf_walk.h"

#include "pdata/block.h"

namespace lamella::tools {

using pdata::block_bytes;
using pdata::BlockKind;
using pdata::Node;

Result<void> verify_mapping_node(const std::byte* block, unsigned height, const KeyBounds& bounds) {
    TRY(pdata::verify_node(block));
    Node node(block);
    if (node.is_leaf() != (height == 0))
        return fail(ErrorKind::damaged, "B-tree node: {} where {} is expected", node.is_leaf() ? "a leaf" : "an inner node",
                    height == 0 ? "a leaf" : "an inner node");
    if (node.is_leaf() && node.value_size() != sizeof(std::uint64_t))
        return fail(ErrorKind::damaged, "B-tree node: values of {} bytes, expected {}", node.value_size(), sizeof(std::uint64_t));
    if (node.entries() > 0 && node.key(0) < bounds.lower)
        return fail(ErrorKind::damaged, "B-tree node: key {} below {}, where its parent has it begin", node.key(0), bounds.lower);
    if (node.entries() > 0 && bounds.upper && node.key(node.entries() - 1) >= *bounds.upper)
        return fail(ErrorKind::damaged, "B-tree node: key {} at or above {}, where its parent has the next one begin",
                    node.key(node.entries() - 1), *bounds.upper);
    return {};
}

Result<std::shared_ptr<const std::byte[]>> NodeReader::load(MetadataBlock location) {
    Slot& slot = slots_[location.value() % slots];
    if (slot.bytes && slot.location == location)
        return slot.bytes;
    auto bytes = std::make_shared<std::byte[]>(block_bytes);
    TRY(reader_.read_block(location, BlockKind::node, {bytes.get(), block_bytes}));
    slot = {location, bytes};
    return slot.bytes;
}

Result<std::shared_ptr<const std::byte[]>> NodeReader::read(MetadataBlock location, unsigned height, const KeyBounds& bounds) {
    auto bytes = TRY(load(location));
    TRY_WITHIN(reader_.describe(location), verify_mapping_node(bytes.get(), height, bounds));
    return bytes;
}

Result<unsigned> NodeReader::height(MetadataBlock root) {
    MetadataBlock at = root;
    for (unsigned height = 0; height < pdata::Btree::max_depth; ++height) {
        auto bytes = TRY(load(at));
        TRY_WITHIN(reader_.describe(at), pdata::verify_node(bytes.get()));
        Node node(bytes.get());
        if (node.is_leaf())
            return height;
        at = node.child(0);
    }
    return fail(ErrorKind::damaged, "{}: the root of a tree of more than {} levels", reader_.describe(root), pdata::Btree::max_depth);
}

Result<void> walk_leaves(NodeReader& nodes, MetadataBlock root, unsigned height, const KeyBounds& bounds, const KeyBounds& wanted,
                         LeafVisitor& visitor) {
    if (height == 0)
        return visitor.leaf(root, bounds);
    if (!TRY(visitor.inner(root, height, bounds)))
        return {};
    auto bytes = TRY(nodes.read(root, height, bounds));
    Node node(bytes.get());
    for (std::uint32_t index = 0; index < node.entries(); ++index) {
        KeyBounds below{node.key(index), bounds.upper};
        if (index + 1 < node.entries())
            below.upper = node.key(index + 1);
        if (below.upper && *below.upper <= wanted.lower)
            continue;
        if (wanted.upper && below.lower >= *wanted.upper)
            break;
        TRY(walk_leaves(nodes, node.child(index), height - 1, below, wanted, visitor));
    }
    return {};
}

}  // namespace lamella::tools
