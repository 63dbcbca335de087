// SPDX-License-Identifier: Apache-2.0
//
// B-trees of 64-bit keys and values of a fixed size, in shadowed blocks. Layout: Linux
// drivers/md/persistent-data/dm-btree-internal.h and dm-btree.c (calc_max_entries).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/strong.h"
#include "pdata/transaction.h"

namespace lamella::pdata {

// How many entries a node holds whose values have that size.
constexpr std::uint32_t max_node_entries(std::uint32_t value_size) { return (block_bytes - 32) / (8 + value_size) / 3 * 3; }

// Checks that a sealed block is a node as the format has it: flags, sizes, keys in ascending order.
Result<void> verify_node(const std::byte* block);

// What the values of a tree refer to. Called with a node's values, `count` of them one after the other.
class ValueReferences {
  public:
    virtual ~ValueReferences() = default;
    // Another leaf refers to the same.
    virtual Result<void> increment(TransactionManager& manager, const std::byte* values, std::size_t count) = 0;
    // The entries that held these values are gone.
    virtual Result<void> decrement(TransactionManager& manager, const std::byte* values, std::size_t count) = 0;
};

// One kind of tree. It has no state of its own: a tree is known by its root, which every change may move.
// Calls that change a tree take the root by reference; if they fail half way the transaction must be aborted.
// Errors name the tree, the block and the device.
class Btree {
  public:
    static constexpr std::size_t max_value_bytes = 24;
    // More levels than any sound tree has.
    static constexpr unsigned max_depth = 16;
    static constexpr std::uint64_t no_limit = std::numeric_limits<std::uint64_t>::max();

    // `name` is for messages. `references` may be null: the values refer to nothing. The cache and references outlive the tree.
    Btree(BlockCache& cache, std::uint32_t value_size, std::string name, ValueReferences* references = nullptr);

    // --- Reading. `value` has room for one. ---
    Result<bool> lookup(MetadataBlock root, std::uint64_t key, std::byte* value) const;
    // The first entry with a key at or after `key`.
    Result<std::optional<std::uint64_t>> next(MetadataBlock root, std::uint64_t key, std::byte* value) const;
    // The entry with the highest key.
    Result<std::optional<std::uint64_t>> last(MetadataBlock root, std::byte* value) const;

    // Calls visit(key, value) for the entries from `first` on in ascending order until it returns false.
    // Returns the key after the last one visited, or no_limit when all were; after an error in a later node, where that starts.
    // The error is returned only if nothing at all could be visited or skipped.
    template <typename Visit>
    Result<std::uint64_t> walk(MetadataBlock root, std::uint64_t first, Visit visit) const;

    // --- Changing ---
    Result<MetadataBlock> create(TransactionManager& manager) const;
    // Takes the caller's reference over; an old value of that key is decremented. True: the key is new.
    Result<bool> insert(TransactionManager& manager, MetadataBlock& root, std::uint64_t key, const std::byte* value) const;
    // Makes the path to an existing key this transaction's own and calls change(value) with the value in place. No reference
    // is counted for what `change` does. False: no such key (the path may have been copied).
    Result<bool> update(TransactionManager& manager, MetadataBlock& root, std::uint64_t key,
                        const std::function<void(std::byte* value)>& change) const;

    struct Removal {
        std::uint64_t removed = 0;
        std::uint64_t next = 0;  // all in [first, next) is gone
        bool done = false;
    };
    // Removes the keys in [first, end); visits at most `budget` leaves. Nodes are kept at least a third full.
    Result<Removal> remove_range(TransactionManager& manager, MetadataBlock& root, std::uint64_t first, std::uint64_t end,
                                 std::uint64_t budget = no_limit) const;
    Result<bool> remove(TransactionManager& manager, MetadataBlock& root, std::uint64_t key) const;
    // Drops one reference to a tree, and with the last one all that only it referred to.
    Result<void> drop(TransactionManager& manager, MetadataBlock root) const;
    // How many nodes nothing but this tree refers to, counted up to `limit`.
    Result<std::uint64_t> exclusive_nodes(TransactionManager& manager, MetadataBlock root, std::uint64_t limit) const;
    struct Path {
        bool shared = false;  // one of its nodes has another referrer
        BlockRef leaf;
    };
    // The path that leads to `key`.
    Result<Path> path(TransactionManager& manager, MetadataBlock root, std::uint64_t key) const;

  private:
    struct Bounds {
        std::uint64_t lower = 0;
        std::optional<std::uint64_t> upper;  // exclusive; none: no bound
    };
    struct Leaf {
        BlockRef block;
        Bounds bounds;
    };

    std::unexpected<Error> damage(MetadataBlock location, std::string_view what) const;
    Result<BlockRef> read_node(MetadataBlock location, const Bounds& bounds) const;
    Result<void> check_node(BlockRef& block, const Bounds& bounds) const;
    Result<Leaf> find_leaf(MetadataBlock root, std::uint64_t key) const;

    // Shadows a node, and counts the new referrer of what it refers to.
    Result<BlockRef> shadow_node(TransactionManager& manager, MetadataBlock location, const Bounds& bounds) const;
    Result<BlockRef> shadow_child(TransactionManager& manager, BlockRef& parent, std::uint32_t index, const Bounds& bounds) const;
    Result<void> grow_root(TransactionManager& manager, BlockRef& root) const;
    Result<void> make_room(TransactionManager& manager, BlockRef& parent, std::uint32_t index, std::uint64_t key,
                           const Bounds& bounds) const;
    Result<std::uint64_t> remove_from_leaf(TransactionManager& manager, MetadataBlock& root, std::uint64_t key, std::uint64_t end) const;
    struct LeafRemoval {
        std::uint64_t removed;
        bool emptied;
    };
    Result<LeafRemoval> remove_below(TransactionManager& manager, BlockRef& node, std::uint64_t key, std::uint64_t end,
                                     const Bounds& bounds, unsigned depth) const;
    Result<bool> mend_path(TransactionManager& manager, MetadataBlock& root, std::uint64_t key) const;
    Result<bool> mend_child(TransactionManager& manager, BlockRef& parent, std::uint32_t index, const Bounds& bounds) const;
    Result<void> drop_below(TransactionManager& manager, MetadataBlock location, unsigned depth) const;
    Result<void> count_exclusive(TransactionManager& manager, MetadataBlock location, std::uint64_t limit, std::uint64_t& count,
                                 unsigned depth) const;

    BlockCache& cache_;
    std::uint32_t value_size_;
    std::string name_;
    ValueReferences* references_;
};

// --- Implementation of walk() ---

// A node within its block. Nothing here checks: the block went through verify_node().
class Node {
  public:
    static constexpr std::size_t header_bytes = 32;
    static constexpr std::uint32_t internal_flag = 1;
    static constexpr std::uint32_t leaf_flag = 2;

    explicit Node(const std::byte* block) : block_(block) {}

    bool is_leaf() const { return (load_little<std::uint32_t>(block_ + 4) & leaf_flag) != 0; }
    std::uint32_t entries() const { return load_little<std::uint32_t>(block_ + 16); }
    std::uint32_t max_entries() const { return load_little<std::uint32_t>(block_ + 20); }
    std::uint32_t value_size() const { return load_little<std::uint32_t>(block_ + 24); }
    std::uint64_t key(std::uint32_t index) const { return load_little<std::uint64_t>(block_ + key_offset(index)); }
    const std::byte* value(std::uint32_t index) const { return block_ + value_offset(index); }
    MetadataBlock child(std::uint32_t index) const { return MetadataBlock(load_little<std::uint64_t>(value(index))); }

    // The first index with a key at or after `key`; entries() if there is none.
    std::uint32_t lower_bound(std::uint64_t key) const {
        std::uint32_t low = 0;
        std::uint32_t count = entries();
        while (count > 0) {
            std::uint32_t half = count / 2;
            if (this->key(low + half) < key) {
                low += half + 1;
                count -= half + 1;
            } else {
                count = half;
            }
        }
        return low;
    }

    // Internal nodes: the child whose keys may include `key`. The first one if `key` is below them all.
    std::uint32_t child_for(std::uint64_t key) const {
        std::uint32_t index = lower_bound(key);
        if (index < entries() && this->key(index) == key)
            return index;
        return index == 0 ? 0 : index - 1;
    }

  protected:
    static std::size_t key_offset(std::uint32_t index) { return header_bytes + std::size_t{index} * 8; }
    std::size_t value_offset(std::uint32_t index) const {
        return header_bytes + std::size_t{max_entries()} * 8 + std::size_t{index} * value_size();
    }

  private:
    const std::byte* block_;
};

template <typename Visit>
Result<std::uint64_t> Btree::walk(MetadataBlock root, std::uint64_t first, Visit visit) const {
    std::uint64_t at = first;
    for (;;) {
        auto leaf = find_leaf(root, at);
        if (!leaf) {
            if (at == first)
                return std::unexpected(std::move(leaf).error());
            return at;
        }
        Node node(leaf->block.bytes());
        for (std::uint32_t index = node.lower_bound(at); index < node.entries(); ++index)
            if (!visit(node.key(index), node.value(index)))
                return node.key(index) == no_limit ? no_limit : node.key(index) + 1;
        if (!leaf->bounds.upper)
            return no_limit;
        at = *leaf->bounds.upper;
    }
}

}  // namespace lamella::pdata
