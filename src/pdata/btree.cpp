// SPDX-License-Identifier: Apache-2.0
//
// Changes work from the root down. Every node on the path is shadowed before its child is, so that counts are exact on the way:
// when a shared node is copied, its children get a referrer more, are seen to be shared in turn, and are copied too.
//
// Insertion makes room on the way down: a full child is split, or gives some of its entries to a neighbour, while its parent is
// known to have room; so nothing ever has to go back up. A run of ascending keys first fills the left neighbour and then splits
// off a third, which leaves nearly full nodes behind.
//
// Removal takes a leaf at a time. It may leave nodes on the path with less than a third of their entries; these are mended from
// the root down, by merging with a neighbour or taking from it, until the path is sound.
#include "pdata/btree.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

#include "base/endian.h"

namespace lamella::pdata {

namespace {

constexpr std::uint32_t internal_value_bytes = 8;

class NodeEdit : public Node {
  public:
    explicit NodeEdit(const BlockRef& block) : Node(block.writable()), block_(block.writable()) {}

    void initialize(bool leaf, std::uint32_t value_size) {
        store_little<std::uint32_t>(block_ + 4, leaf ? leaf_flag : internal_flag);
        set_entries(0);
        store_little<std::uint32_t>(block_ + 20, max_node_entries(value_size));
        store_little<std::uint32_t>(block_ + 24, value_size);
        store_little<std::uint32_t>(block_ + 28, 0);
    }

    void set_key(std::uint32_t index, std::uint64_t key) { store_little<std::uint64_t>(block_ + key_offset(index), key); }
    std::byte* value_place(std::uint32_t index) { return block_ + value_offset(index); }
    void set_value(std::uint32_t index, const std::byte* value) { std::memcpy(value_place(index), value, value_size()); }
    void set_child(std::uint32_t index, MetadataBlock child) { store_little<std::uint64_t>(block_ + value_offset(index), child.value()); }

    void insert(std::uint32_t index, std::uint64_t key, const std::byte* value) {
        open_gap(index, 1);
        set_key(index, key);
        set_value(index, value);
    }

    void insert_child(std::uint32_t index, std::uint64_t key, MetadataBlock child) {
        std::array<std::byte, internal_value_bytes> value;
        store_little<std::uint64_t>(value.data(), child.value());
        insert(index, key, value.data());
    }

    // Copies entries [from, from + count) of a node with values of the same size to `index`.
    void insert_from(const Node& source, std::uint32_t from, std::uint32_t count, std::uint32_t index) {
        open_gap(index, count);
        for (std::uint32_t entry = 0; entry < count; ++entry)
            set_key(index + entry, source.key(from + entry));
        std::memcpy(value_place(index), source.value(from), std::size_t{count} * value_size());
    }

    void erase(std::uint32_t index, std::uint32_t count) {
        std::uint32_t tail = entries() - index - count;
        std::memmove(block_ + key_offset(index), block_ + key_offset(index + count), std::size_t{tail} * 8);
        std::memmove(value_place(index), value_place(index + count), std::size_t{tail} * value_size());
        set_entries(index + tail);
    }

  private:
    void set_entries(std::uint32_t count) { store_little<std::uint32_t>(block_ + 16, count); }

    void open_gap(std::uint32_t index, std::uint32_t count) {
        assert(entries() + count <= max_entries());
        std::uint32_t tail = entries() - index;
        std::memmove(block_ + key_offset(index + count), block_ + key_offset(index), std::size_t{tail} * 8);
        std::memmove(value_place(index + count), value_place(index), std::size_t{tail} * value_size());
        set_entries(entries() + count);
    }

    std::byte* block_;
};

std::uint32_t min_entries(const Node& node) { return node.max_entries() / 3; }

bool has_room_for(const Node& node, std::uint64_t key) {
    if (node.entries() < node.max_entries())
        return true;
    if (!node.is_leaf())
        return false;
    std::uint32_t index = node.lower_bound(key);
    return index < node.entries() && node.key(index) == key;  // will be overwritten
}

}  // namespace

Result<void> verify_node(const std::byte* block) {
    Node node(block);
    auto flags = load_little<std::uint32_t>(block + 4);
    if (flags != Node::internal_flag && flags != Node::leaf_flag)
        return fail(ErrorKind::damaged, "B-tree node: flags {:#x}", flags);
    std::uint64_t max_entries = node.max_entries();
    std::uint64_t value_size = node.value_size();
    if (value_size > block_bytes || max_entries < 3 || max_entries > block_bytes ||
        Node::header_bytes + max_entries * (8 + value_size) > block_bytes)
        return fail(ErrorKind::damaged, "B-tree node: {} entries of {} bytes don't fit in a block", max_entries, value_size);
    if (node.entries() > max_entries)
        return fail(ErrorKind::damaged, "B-tree node: {} entries of at most {}", node.entries(), max_entries);
    if (!node.is_leaf() && (value_size != internal_value_bytes || node.entries() == 0))
        return fail(ErrorKind::damaged, "B-tree node: internal, with {} entries of {} bytes", node.entries(), value_size);
    for (std::uint32_t index = 1; index < node.entries(); ++index)
        if (node.key(index - 1) >= node.key(index))
            return fail(ErrorKind::damaged, "B-tree node: keys {} and {} are not in order", index - 1, index);
    return {};
}

Btree::Btree(BlockCache& cache, std::uint32_t value_size, std::string name, ValueReferences* references)
    : cache_(cache), value_size_(value_size), name_(std::move(name)), references_(references) {
    assert(value_size <= max_value_bytes);
}

std::unexpected<Error> Btree::damage(MetadataBlock location, std::string_view what) const {
    return fail(ErrorKind::damaged, "{}: {}: {}", name_, cache_.describe(location), what);
}

Result<BlockRef> Btree::read_node(MetadataBlock location, const Bounds& bounds) const {
    BlockRef block = TRY_WITHIN(name_, cache_.read(location, BlockKind::node));
    TRY(check_node(block, bounds));
    return block;
}

Result<void> Btree::check_node(BlockRef& block, const Bounds& bounds) const {
    if (!block.structure_checked()) {
        if (auto sound = verify_node(block.bytes()); !sound)
            return damage(block.location(), sound.error().message());
        block.set_structure_checked();
    }
    Node node(block.bytes());
    if (node.is_leaf() && node.value_size() != value_size_)
        return damage(block.location(), fmt::format("values of {} bytes, expected {}", node.value_size(), value_size_));
    if (node.entries() > 0) {
        if (node.key(0) < bounds.lower)
            return damage(block.location(), fmt::format("its first key {} is below its parent's {}", node.key(0), bounds.lower));
        if (bounds.upper && node.key(node.entries() - 1) >= *bounds.upper)
            return damage(block.location(),
                          fmt::format("its last key {} belongs to its neighbour from {} on", node.key(node.entries() - 1), *bounds.upper));
    }
    return {};
}

namespace {

template <typename Bounds>
Bounds child_bounds(const Node& node, std::uint32_t index, const Bounds& bounds) {
    return {node.key(index), index + 1 < node.entries() ? std::optional(node.key(index + 1)) : bounds.upper};
}

}  // namespace

Result<Btree::Leaf> Btree::find_leaf(MetadataBlock root, std::uint64_t key) const {
    MetadataBlock location = root;
    Bounds bounds;
    for (unsigned depth = 0; depth < max_depth; ++depth) {
        BlockRef block = TRY(read_node(location, bounds));
        Node node(block.bytes());
        if (node.is_leaf())
            return Leaf{std::move(block), bounds};
        std::uint32_t index = node.child_for(key);
        bounds = child_bounds(node, index, bounds);
        location = node.child(index);
    }
    return damage(location, "the tree is too deep");
}

Result<bool> Btree::lookup(MetadataBlock root, std::uint64_t key, std::byte* value) const {
    Leaf leaf = TRY(find_leaf(root, key));
    Node node(leaf.block.bytes());
    std::uint32_t index = node.lower_bound(key);
    if (index == node.entries() || node.key(index) != key)
        return false;
    std::memcpy(value, node.value(index), value_size_);
    return true;
}

Result<std::optional<std::uint64_t>> Btree::next(MetadataBlock root, std::uint64_t key, std::byte* value) const {
    for (std::uint64_t at = key;;) {
        Leaf leaf = TRY(find_leaf(root, at));
        Node node(leaf.block.bytes());
        if (std::uint32_t index = node.lower_bound(at); index < node.entries()) {
            std::memcpy(value, node.value(index), value_size_);
            return node.key(index);
        }
        if (!leaf.bounds.upper)
            return std::nullopt;
        at = *leaf.bounds.upper;
    }
}

Result<std::optional<std::uint64_t>> Btree::last(MetadataBlock root, std::byte* value) const {
    Leaf leaf = TRY(find_leaf(root, no_limit));
    Node node(leaf.block.bytes());
    if (node.entries() == 0)
        return std::nullopt;
    std::memcpy(value, node.value(node.entries() - 1), value_size_);
    return node.key(node.entries() - 1);
}

Result<MetadataBlock> Btree::create(TransactionManager& manager) const {
    BlockRef root = TRY(manager.create(BlockKind::node));
    NodeEdit(root).initialize(true, value_size_);
    return root.location();
}

Result<bool> Btree::insert(TransactionManager& manager, MetadataBlock& root, std::uint64_t key, const std::byte* value) const {
    BlockRef block = TRY(shadow_node(manager, root, {}));
    root = block.location();
    if (!has_room_for(Node(block.bytes()), key)) {
        TRY(grow_root(manager, block));
        root = block.location();
    }
    Bounds bounds;
    for (unsigned depth = 0; depth < max_depth; ++depth) {
        NodeEdit node(block);
        if (node.is_leaf()) {
            std::uint32_t index = node.lower_bound(key);
            if (index < node.entries() && node.key(index) == key) {
                std::array<std::byte, max_value_bytes> old_value;
                std::memcpy(old_value.data(), node.value(index), value_size_);
                node.set_value(index, value);
                if (references_ != nullptr)
                    TRY_WITHIN(name_, references_->decrement(manager, old_value.data(), 1));
                return false;
            }
            node.insert(index, key, value);
            return true;
        }
        std::uint32_t index = node.child_for(key);
        if (key < node.key(index))
            node.set_key(index, key);
        BlockRef child = TRY(shadow_child(manager, block, index, bounds));
        if (!has_room_for(Node(child.bytes()), key)) {
            child = BlockRef();
            TRY(make_room(manager, block, index, key, bounds));
            index = node.child_for(key);
            child = TRY(shadow_child(manager, block, index, bounds));
        }
        bounds = child_bounds(node, index, bounds);
        block = std::move(child);
    }
    return damage(root, "the tree is too deep");
}

Result<bool> Btree::update(TransactionManager& manager, MetadataBlock& root, std::uint64_t key,
                           const std::function<void(std::byte*)>& change) const {
    BlockRef block = TRY(shadow_node(manager, root, {}));
    root = block.location();
    Bounds bounds;
    for (unsigned depth = 0; depth < max_depth; ++depth) {
        NodeEdit node(block);
        if (node.is_leaf()) {
            std::uint32_t index = node.lower_bound(key);
            if (index == node.entries() || node.key(index) != key)
                return false;
            change(node.value_place(index));
            return true;
        }
        std::uint32_t index = node.child_for(key);
        BlockRef child = TRY(shadow_child(manager, block, index, bounds));
        bounds = child_bounds(node, index, bounds);
        block = std::move(child);
    }
    return damage(root, "the tree is too deep");
}

Result<BlockRef> Btree::shadow_node(TransactionManager& manager, MetadataBlock location, const Bounds& bounds) const {
    auto [block, was_shared] = TRY_WITHIN(name_, manager.shadow(location, BlockKind::node));
    TRY(check_node(block, bounds));
    if (!was_shared)
        return std::move(block);
    Node node(block.bytes());
    if (!node.is_leaf()) {
        for (std::uint32_t index = 0; index < node.entries(); ++index)
            TRY_WITHIN(name_, manager.increment(node.child(index)));
    } else if (references_ != nullptr && node.entries() > 0) {
        TRY_WITHIN(name_, references_->increment(manager, node.value(0), node.entries()));
    }
    return std::move(block);
}

// `parent` is writable; it refers to the child's new place when this returns. `bounds` are the parent's.
Result<BlockRef> Btree::shadow_child(TransactionManager& manager, BlockRef& parent, std::uint32_t index, const Bounds& bounds) const {
    NodeEdit node(parent);
    BlockRef child = TRY(shadow_node(manager, node.child(index), child_bounds(node, index, bounds)));
    node.set_child(index, child.location());
    return child;
}

// Puts a new root above a full one.
Result<void> Btree::grow_root(TransactionManager& manager, BlockRef& root) const {
    BlockRef parent = TRY(manager.create(BlockKind::node));
    NodeEdit node(parent);
    node.initialize(false, internal_value_bytes);
    node.insert_child(0, Node(root.bytes()).key(0), root.location());
    root = std::move(parent);
    return {};
}

// Lets the full child `index` of `parent`, which has room, or the one that becomes responsible for `key`, take another entry.
Result<void> Btree::make_room(TransactionManager& manager, BlockRef& parent, std::uint32_t index, std::uint64_t key,
                              const Bounds& bounds) const {
    NodeEdit node(parent);
    BlockRef child_block = TRY(shadow_child(manager, parent, index, bounds));
    NodeEdit child(child_block);
    const std::uint32_t full = child.entries();
    const bool ascending = key > child.key(full - 1);
    const bool descending = key < child.key(0) || (index == 0 && key == node.key(0));

    // A neighbour helps if it has room worth the trouble, and nobody else refers to it: copying a shared one costs more than a
    // new node does.
    auto room_in = [&](std::uint32_t sibling_index) -> Result<std::uint32_t> {
        BlockRef block = TRY(read_node(node.child(sibling_index), child_bounds(node, sibling_index, bounds)));
        Node sibling(block.bytes());
        if (sibling.is_leaf() != child.is_leaf())
            return damage(block.location(), "leaf and internal node side by side");
        std::uint32_t room = sibling.max_entries() - sibling.entries();
        if (room < full / 8 || TRY(manager.count(block.location())) != 1)
            return 0;
        return room;
    };
    const std::uint32_t most = full - std::max(min_entries(child), 1u);  // what the child can give away
    if (index > 0) {
        if (std::uint32_t room = TRY(room_in(index - 1)); room > 0) {
            std::uint32_t moved = std::min(ascending ? room : (room + 1) / 2, most);
            BlockRef left_block = TRY(shadow_child(manager, parent, index - 1, bounds));
            NodeEdit left(left_block);
            left.insert_from(child, 0, moved, left.entries());
            child.erase(0, moved);
            node.set_key(index, child.key(0));
            return {};
        }
    }
    if (index + 1 < node.entries() && !ascending) {
        if (std::uint32_t room = TRY(room_in(index + 1)); room > 0) {
            std::uint32_t moved = std::min(descending ? room : (room + 1) / 2, most);
            BlockRef right_block = TRY(shadow_child(manager, parent, index + 1, bounds));
            NodeEdit right(right_block);
            right.insert_from(child, full - moved, moved, 0);
            child.erase(full - moved, moved);
            node.set_key(index + 1, right.key(0));
            return {};
        }
    }
    BlockRef right_block = TRY(manager.create(BlockKind::node));
    NodeEdit right(right_block);
    right.initialize(child.is_leaf(), child.value_size());
    std::uint32_t third = full / 3;
    std::uint32_t moved = ascending ? third : descending ? full - third : full / 2;
    right.insert_from(child, full - moved, moved, 0);
    child.erase(full - moved, moved);
    node.insert_child(index + 1, right.key(0), right_block.location());
    return {};
}

Result<Btree::Removal> Btree::remove_range(TransactionManager& manager, MetadataBlock& root, std::uint64_t first, std::uint64_t end,
                                           std::uint64_t budget) const {
    Removal removal{.next = first};
    std::array<std::byte, max_value_bytes> value;
    for (std::uint64_t leaves = 0;; ++leaves) {
        std::optional<std::uint64_t> key;
        if (removal.next < end)
            key = TRY(next(root, removal.next, value.data()));
        if (!key || *key >= end) {
            removal.next = end;
            removal.done = true;
            return removal;
        }
        removal.next = *key;
        if (leaves == budget)
            return removal;
        removal.removed += TRY(remove_from_leaf(manager, root, *key, end));
        // Every pass that changes something leaves fewer or better filled nodes; a damaged tree may need to be stopped.
        for (unsigned passes = 0; passes < 2 * max_depth && TRY(mend_path(manager, root, *key)); ++passes) {}
    }
}

Result<bool> Btree::remove(TransactionManager& manager, MetadataBlock& root, std::uint64_t key) const {
    std::array<std::byte, max_value_bytes> value;
    if (!TRY(lookup(root, key, value.data())))
        return false;
    TRY(remove_from_leaf(manager, root, key, key + 1));
    for (unsigned passes = 0; passes < 2 * max_depth && TRY(mend_path(manager, root, key)); ++passes) {}
    return true;
}

// Removes the keys in [key, end) from the leaf that holds `key`.
Result<std::uint64_t> Btree::remove_from_leaf(TransactionManager& manager, MetadataBlock& root, std::uint64_t key,
                                              std::uint64_t end) const {
    BlockRef block = TRY(shadow_node(manager, root, {}));
    root = block.location();
    LeafRemoval removal = TRY(remove_below(manager, block, key, end, {}, 0));
    if (removal.emptied)
        NodeEdit(block).initialize(true, value_size_);
    return removal.removed;
}

Result<Btree::LeafRemoval> Btree::remove_below(TransactionManager& manager, BlockRef& block, std::uint64_t key, std::uint64_t end,
                                               const Bounds& bounds, unsigned depth) const {
    if (depth == max_depth)
        return damage(block.location(), "the tree is too deep");
    NodeEdit node(block);
    if (node.is_leaf()) {
        std::uint32_t from = node.lower_bound(key);
        std::uint32_t count = node.lower_bound(end) - from;
        if (references_ != nullptr && count > 0)
            TRY_WITHIN(name_, references_->decrement(manager, node.value(from), count));
        node.erase(from, count);
        return LeafRemoval{count, node.entries() == 0};
    }
    std::uint32_t index = node.child_for(key);
    {
        BlockRef child_block = TRY(read_node(node.child(index), child_bounds(node, index, bounds)));
        Node child(child_block.bytes());
        std::uint32_t entries = child.entries();
        if (child.is_leaf() && entries > 0 && child.key(0) >= key && child.key(entries - 1) < end) {
            // All of it goes. If others refer to it, what it refers to isn't touched.
            TRY(drop_below(manager, child_block.location(), depth + 1));
            node.erase(index, 1);
            return LeafRemoval{entries, node.entries() == 0};
        }
    }
    BlockRef child_block = TRY(shadow_child(manager, block, index, bounds));
    LeafRemoval removal = TRY(remove_below(manager, child_block, key, end, child_bounds(node, index, bounds), depth + 1));
    if (removal.emptied) {
        MetadataBlock location = child_block.location();
        child_block = BlockRef();
        TRY(manager.decrement(location));
        node.erase(index, 1);
    }
    return LeafRemoval{removal.removed, node.entries() == 0};
}

// Mends the highest node on the path to `key` that needs it. True: something was changed.
Result<bool> Btree::mend_path(TransactionManager& manager, MetadataBlock& root, std::uint64_t key) const {
    unsigned steps = 0;  // down to the parent of the node to be mended
    {
        BlockRef block = TRY(read_node(root, {}));
        Bounds bounds;
        for (;; ++steps) {
            Node node(block.bytes());
            if (node.is_leaf())
                return false;
            if (steps == 0 && node.entries() == 1) {
                // A root with a single child: the child takes its place, and its one reference.
                MetadataBlock child = node.child(0);
                bool shared = TRY(manager.count(root)) > 1;
                if (shared)
                    TRY(manager.increment(child));
                block = BlockRef();
                TRY(manager.decrement(root));
                root = child;
                return true;
            }
            std::uint32_t index = node.child_for(key);
            BlockRef child_block = TRY(read_node(node.child(index), child_bounds(node, index, bounds)));
            Node child(child_block.bytes());
            if (child.entries() < min_entries(child) && node.entries() > 1)
                break;
            if (steps == max_depth)
                return damage(block.location(), "the tree is too deep");
            bounds = child_bounds(node, index, bounds);
            block = std::move(child_block);
        }
    }
    BlockRef block = TRY(shadow_node(manager, root, {}));
    root = block.location();
    Bounds bounds;
    for (; steps > 0; --steps) {
        Node node(block.bytes());
        std::uint32_t index = node.child_for(key);
        BlockRef child = TRY(shadow_child(manager, block, index, bounds));
        bounds = child_bounds(node, index, bounds);
        block = std::move(child);
    }
    return mend_child(manager, block, Node(block.bytes()).child_for(key), bounds);
}

// Merges a child with a neighbour, or shares their entries evenly if they are too many for that.
Result<bool> Btree::mend_child(TransactionManager& manager, BlockRef& parent, std::uint32_t index, const Bounds& bounds) const {
    NodeEdit node(parent);
    std::uint32_t left_index = index > 0 ? index - 1 : index;
    BlockRef left_block = TRY(shadow_child(manager, parent, left_index, bounds));
    BlockRef right_block = TRY(shadow_child(manager, parent, left_index + 1, bounds));
    NodeEdit left(left_block);
    NodeEdit right(right_block);
    if (left.is_leaf() != right.is_leaf())
        return damage(left_block.location(), "leaf and internal node side by side");
    std::uint32_t total = left.entries() + right.entries();
    if (total <= std::min(2 * min_entries(left) + 1, left.max_entries())) {
        left.insert_from(right, 0, right.entries(), left.entries());
        MetadataBlock location = right_block.location();
        right_block = BlockRef();
        TRY(manager.decrement(location));
        node.erase(left_index + 1, 1);
        return true;
    }
    std::uint32_t wanted = std::min(total / 2, left.max_entries());
    if (left.entries() < wanted) {
        std::uint32_t moved = wanted - left.entries();
        left.insert_from(right, 0, moved, left.entries());
        right.erase(0, moved);
    } else {
        std::uint32_t moved = std::min(left.entries() - wanted, right.max_entries() - right.entries());
        right.insert_from(left, left.entries() - moved, moved, 0);
        left.erase(left.entries() - moved, moved);
    }
    node.set_key(left_index + 1, right.key(0));
    return true;
}

Result<void> Btree::drop(TransactionManager& manager, MetadataBlock root) const { return drop_below(manager, root, 0); }

Result<void> Btree::drop_below(TransactionManager& manager, MetadataBlock location, unsigned depth) const {
    if (depth == max_depth)
        return damage(location, "the tree is too deep");
    if (TRY_WITHIN(name_, manager.count(location)) == 1) {
        BlockRef block = TRY(read_node(location, {}));
        Node node(block.bytes());
        if (!node.is_leaf()) {
            for (std::uint32_t index = 0; index < node.entries(); ++index)
                TRY(drop_below(manager, node.child(index), depth + 1));
        } else if (references_ != nullptr && node.entries() > 0) {
            TRY_WITHIN(name_, references_->decrement(manager, node.value(0), node.entries()));
        }
    }
    TRY_WITHIN(name_, manager.decrement(location));
    return {};
}

Result<std::uint64_t> Btree::exclusive_nodes(TransactionManager& manager, MetadataBlock root, std::uint64_t limit) const {
    std::uint64_t count = 0;
    TRY(count_exclusive(manager, root, limit, count, 0));
    return count;
}

Result<void> Btree::count_exclusive(TransactionManager& manager, MetadataBlock location, std::uint64_t limit, std::uint64_t& count,
                                    unsigned depth) const {
    if (depth == max_depth)
        return damage(location, "the tree is too deep");
    if (count >= limit || TRY_WITHIN(name_, manager.count(location)) > 1)
        return {};
    ++count;
    BlockRef block = TRY(read_node(location, {}));
    Node node(block.bytes());
    if (node.is_leaf())
        return {};
    for (std::uint32_t index = 0; index < node.entries() && count < limit; ++index)
        TRY(count_exclusive(manager, node.child(index), limit, count, depth + 1));
    return {};
}

Result<Btree::Path> Btree::path(TransactionManager& manager, MetadataBlock root, std::uint64_t key) const {
    MetadataBlock location = root;
    Bounds bounds;
    bool shared = false;
    for (unsigned depth = 0; depth < max_depth; ++depth) {
        shared = shared || TRY_WITHIN(name_, manager.count(location)) > 1;
        BlockRef block = TRY(read_node(location, bounds));
        Node node(block.bytes());
        if (node.is_leaf())
            return Path{shared, std::move(block)};
        std::uint32_t index = node.child_for(key);
        bounds = child_bounds(node, index, bounds);
        location = node.child(index);
    }
    return damage(location, "the tree is too deep");
}

}  // namespace lamella::pdata
