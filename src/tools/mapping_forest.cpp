// SPDX-License-Identifier: Apache-2.0
#include "tools/mapping_forest.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "tools/plain_tree.h"

namespace lamella::tools {

using pdata::Node;

namespace {

constexpr std::uint8_t max_height = pdata::Btree::max_depth;
constexpr std::uint32_t value_bytes = 8;

}  // namespace

MappingForest::MappingForest(MetadataReader& reader, BlockTable& table) : reader_(reader), table_(table), leaves_(table.blocks()) {
    for (unsigned height = 0; height <= max_height; ++height) {
        inner_.emplace_back(0);
        pending_.emplace_back(0);
    }
}

// A root's height is that of its first child and one more. All roots' first children are read together, then theirs, and so on.
Result<void> MappingForest::find_heights(std::span<const ForestRoot> roots, const Control& control) {
    std::unordered_map<std::uint64_t, std::uint64_t> first_children;
    std::mutex mutex;
    MetadataBlockSet wanted(table_.blocks());
    auto known = [&](MetadataBlock location) { return table_[location].height != 0 || first_children.contains(location.value()); };
    for (const ForestRoot& root : roots)
        if (root.root.value() < table_.blocks() && !known(root.root))
            wanted.insert(root.root);
    while (!wanted.empty()) {
        MetadataBlockSet next(table_.blocks());
        std::vector<MetadataBlock> children;
        TRY(reader_.read_set(wanted,
                             [&](unsigned, const ReadBlock& block) {
                                 // Keys are looked at when the node's turn comes.
                                 if (!block.verify(pdata::BlockKind::node) || !pdata::verify_node(block.bytes.data()))
                                     return;
                                 Node node(block.bytes.data());
                                 std::lock_guard lock(mutex);
                                 if (node.is_leaf()) {
                                     table_[block.location].height = leaf_height;
                                     return;
                                 }
                                 first_children[block.location.value()] = node.child(0).value();
                                 children.push_back(node.child(0));
                             },
                             {.stop = control.stop}));
        for (MetadataBlock child : children)
            if (child.value() < table_.blocks() && !known(child))
                next.insert(child);
        wanted = std::move(next);
    }

    std::vector<MetadataBlock> path;
    for (const ForestRoot& root : roots) {
        if (root.root.value() >= table_.blocks())
            continue;
        path.clear();
        MetadataBlock at = root.root;
        while (at.value() < table_.blocks() && table_[at].height == 0 && path.size() < max_height) {
            path.push_back(at);
            auto child = first_children.find(at.value());
            if (child == first_children.end())
                break;
            at = MetadataBlock(child->second);
        }
        std::uint8_t height = at.value() < table_.blocks() ? table_[at].height : std::uint8_t{0};
        for (auto node = path.rbegin(); node != path.rend(); ++node) {
            // Where the first child doesn't tell, another may.
            if (height == 0 || height >= max_height)
                height = probe_height(*node, 0);
            else
                ++height;
            table_[*node].height = height;
        }
        // Nothing can be read below it, or not even the root itself.
        if (table_[root.root].height == 0)
            table_[root.root].height = first_children.contains(root.root.value()) ? leaf_height + 1 : leaf_height;
    }
    return {};
}

std::uint8_t MappingForest::probe_height(MetadataBlock location, unsigned depth) {
    if (depth >= max_height || location.value() == 0 || location.value() >= table_.blocks())
        return 0;
    BlockRecord& record = table_[location];
    if (record.height != 0)
        return record.height;
    if (!probed_.insert(location.value()).second)
        return 0;  // was tried in vain, or is being tried
    AlignedBuffer bytes(pdata::block_bytes);
    if (!reader_.read_block(location, pdata::BlockKind::node, bytes.bytes()) || !pdata::verify_node(bytes.data()))
        return 0;
    Node node(bytes.data());
    std::uint8_t height = node.is_leaf() ? leaf_height : std::uint8_t{0};
    for (std::uint32_t index = 0; height == 0 && index < node.entries(); ++index)
        if (std::uint8_t below = probe_height(node.child(index), depth + 1); below != 0 && below < max_height)
            height = static_cast<std::uint8_t>(below + 1);
    record.height = height;
    return height;
}

Result<void> MappingForest::descend(std::span<const ForestRoot> roots, const Control& control) {
    TRY(find_heights(roots, control));
    leaves_ = MetadataBlockSet(table_.blocks());
    for (unsigned height = 0; height <= max_height; ++height)
        pending_[height] = MetadataBlockSet(0);
    auto set_of = [&](std::vector<MetadataBlockSet>& sets, std::uint8_t height) -> MetadataBlockSet& {
        if (sets[height].blocks() == 0)
            sets[height] = MetadataBlockSet(table_.blocks());
        return sets[height];
    };

    std::uint8_t highest = leaf_height;
    for (const ForestRoot& root : roots) {
        if (root.root.value() == 0 || root.root.value() >= table_.blocks())
            continue;
        if (root.count_reference)
            table_.refer(root.root);
        BlockRecord& record = table_[root.root];
        if (BlockUse use = table_.claim(root.root, BlockUse::mapping_tree); use != BlockUse::mapping_tree) {
            table_.add_fault(root.root, {.text = fmt::format("it is used for {} as well", to_string(use))});
            continue;
        }
        raise(record.snapshotted_complement, ~root.snapshotted_time);
        if (root.owner != 0)
            record.owner = record.owner == 0 || record.owner == root.owner ? root.owner : BlockRecord::many_owners;
        table_.mark(root.root, root.marks);
        if (!table_.mark(root.root, BlockRecord::queued))
            continue;
        highest = std::max(highest, record.height);
        if (record.height == leaf_height)
            leaves_.insert(root.root);
        else
            set_of(pending_, record.height).insert(root.root);
    }

    for (std::uint8_t height = highest; height > leaf_height; --height) {
        if (height > leaf_height + 1)
            set_of(pending_, static_cast<std::uint8_t>(height - 1));
        MetadataBlockSet& level = set_of(pending_, height);
        TRY(reader_.read_set(level,
                             [&](unsigned, const ReadBlock& block) {
                                 std::string fault = node_fault(block, table_[block.location], false, value_bytes);
                                 if (fault.empty())
                                     pass_on(block.location, Node(block.bytes.data()), height);
                                 else {
                                     table_.mark(block.location, BlockRecord::unreadable);
                                     table_.add_fault(block.location, {.text = std::move(fault)});
                                 }
                             },
                             {.stop = control.stop}));
        for (auto block = level.next(MetadataBlock(0)); block; block = level.next(*block + 1))
            set_of(inner_, height).insert(*block);
    }
    return {};
}

// Tells the children of a node, whose own record is complete, what they are told by it.
void MappingForest::pass_on(MetadataBlock location, const Node& node, std::uint8_t height) {
    const BlockRecord record = table_[location];
    auto child_height = static_cast<std::uint8_t>(height - 1);
    constexpr std::uint8_t inherited = BlockRecord::live | BlockRecord::kept;
    for (std::uint32_t index = 0; index < node.entries(); ++index) {
        MetadataBlock child = node.child(index);
        if (child.value() != 0 && child.value() < table_.blocks()) {
            table_.refer(child);
            std::uint8_t unknown = 0;
            if (table_.claim(child, BlockUse::mapping_tree) == BlockUse::mapping_tree)
                std::atomic_ref(table_[child].height).compare_exchange_strong(unknown, child_height, std::memory_order_relaxed);
        }
        if (std::string fault = edge_fault(child, height); !fault.empty()) {
            table_.add_fault(location, {.text = std::move(fault), .keys = {{node.key(index), node.key(index)}}});
            continue;
        }
        BlockRecord& below = table_[child];
        bool last = index + 1 == node.entries();
        table_.bound(child, node.key(index), last ? record.has_end() : true, last ? record.past_keys() : node.key(index + 1));
        raise(below.snapshotted_complement, record.snapshotted_complement);
        std::uint32_t owner = 0;
        if (record.owner != 0 && !std::atomic_ref(below.owner).compare_exchange_strong(owner, record.owner, std::memory_order_relaxed) &&
            owner != record.owner)
            std::atomic_ref(below.owner).store(BlockRecord::many_owners, std::memory_order_relaxed);
        auto marks = static_cast<std::uint8_t>((record.marks & inherited) | BlockRecord::queued);
        std::uint8_t before = std::atomic_ref(below.marks).load(std::memory_order_relaxed);
        if ((before & marks) != marks)
            before = std::atomic_ref(below.marks).fetch_or(marks, std::memory_order_relaxed);
        if ((before & BlockRecord::queued) != 0)
            continue;
        if (child_height == leaf_height)
            leaves_.insert(child);
        else
            pending_[child_height].insert(child);
    }
}

// What is wrong with a node's leading to `child`. Empty: nothing.
std::string MappingForest::edge_fault(MetadataBlock child, std::uint8_t parent_height) const {
    if (child.value() == 0 || child.value() >= table_.blocks())
        return fmt::format("it leads to metadata block {}, which there isn't", child);
    BlockRecord& record = table_[child];
    if (BlockUse use = std::atomic_ref(record.use).load(std::memory_order_relaxed); use != BlockUse::mapping_tree)
        return fmt::format("it leads to metadata block {}, which is used for {}", child, to_string(use));
    if (std::atomic_ref(record.height).load(std::memory_order_relaxed) != parent_height - 1)
        return fmt::format("it leads to metadata block {}, which is part of a tree at another height", child);
    return "";
}

Result<void> MappingForest::visit_leaves(const MetadataBlockSet& leaves, const VisitLeaf& visit, const Control& control) {
    return reader_.read_set(
        leaves,
        [&](unsigned thread, const ReadBlock& block) {
            std::string fault = node_fault(block, table_[block.location], true, value_bytes);
            if (fault.empty()) {
                visit(thread, block.location, Node(block.bytes.data()));
            } else if (table_.mark(block.location, BlockRecord::unreadable)) {
                table_.add_fault(block.location, {.text = std::move(fault)});
            }
        },
        control);
}

Result<void> MappingForest::add_up(const Control& control) {
    for (std::uint8_t height = leaf_height + 1; height <= max_height; ++height) {
        if (inner_[height].blocks() == 0)
            continue;
        TRY(reader_.read_set(inner_[height],
                             [&](unsigned, const ReadBlock& block) {
                                 BlockRecord& record = table_[block.location];
                                 // It may have been changed since, in a pool that is in use.
                                 if ((record.marks & BlockRecord::unreadable) != 0 || block.error != 0 ||
                                     !pdata::verify_node(block.bytes.data()))
                                     return;
                                 Node node(block.bytes.data());
                                 if (node.is_leaf())
                                     return;
                                 std::uint64_t mapped = 0;
                                 std::uint64_t faults = record.faults;
                                 for (std::uint32_t index = 0; index < node.entries(); ++index) {
                                     if (!edge_fault(node.child(index), height).empty())
                                         continue;
                                     mapped += table_[node.child(index)].mapped;
                                     faults += table_[node.child(index)].faults;
                                 }
                                 record.mapped = static_cast<std::uint32_t>(std::min<std::uint64_t>(mapped, UINT32_MAX));
                                 record.faults = static_cast<std::uint32_t>(std::min<std::uint64_t>(faults, UINT32_MAX));
                             },
                             {.stop = control.stop}));
    }
    return {};
}

void MappingForest::trace_faults(MetadataBlock root, const std::function<bool(TreeFault)>& visit) const {
    if (root.value() == 0 || root.value() >= table_.blocks())
        visit({.text = fmt::format("its mappings would begin at metadata block {}, which there isn't", root)});
    else
        trace(root, {}, visit);
}

Result<void> MappingForest::visit_counted_leaves(MetadataBlock root, const std::function<void(const Node&)>& visit) const {
    if (table_[root].mapped == 0)
        return {};
    AlignedBuffer bytes(pdata::block_bytes);
    TRY(reader_.read_block(root, pdata::BlockKind::node, bytes.bytes()));
    TRY_WITHIN(reader_.describe(root), pdata::verify_node(bytes.data()));
    Node node(bytes.data());
    if (node.is_leaf() != (table_[root].height == leaf_height))
        return fail(ErrorKind::damaged, "{}: it has changed meanwhile", reader_.describe(root));
    if (node.is_leaf()) {
        visit(node);
        return {};
    }
    for (std::uint32_t index = 0; index < node.entries(); ++index)
        if (edge_fault(node.child(index), table_[root].height).empty())
            TRY(visit_counted_leaves(node.child(index), visit));
    return {};
}

bool MappingForest::trace(MetadataBlock location, const VirtualRange& range, const std::function<bool(TreeFault)>& visit) const {
    const BlockRecord& record = table_[location];
    if (record.faults == 0)
        return true;
    const bool leaf = record.height <= leaf_height;
    for (BlockTable::Fault& fault : table_.faults(location)) {
        TreeFault found{.range = range, .block = location, .severity = fault.severity, .text = std::move(fault.text)};
        if (fault.keys)
            found.range = {VirtualBlock(fault.keys->first), VirtualBlock(fault.keys->last) + 1};
        // Those of an inner node's entries are found anew below, with their ranges.
        if ((leaf || !fault.keys) && !visit(std::move(found)))
            return false;
    }
    if (leaf || (record.marks & BlockRecord::unreadable) != 0)
        return true;
    AlignedBuffer bytes(pdata::block_bytes);
    auto read = reader_.read_block(location, pdata::BlockKind::node, bytes.bytes());
    if (read)
        read = pdata::verify_node(bytes.data());
    if (!read)
        return visit({.range = range, .block = location, .text = read.error().message()});
    Node node(bytes.data());
    if (node.is_leaf())
        return true;
    for (std::uint32_t index = 0; index < node.entries(); ++index) {
        bool last = index + 1 == node.entries();
        VirtualRange below{VirtualBlock(node.key(index)), last ? range.end : std::optional(VirtualBlock(node.key(index + 1)))};
        std::string fault = edge_fault(node.child(index), record.height);
        if (!(fault.empty() ? trace(node.child(index), below, visit)
                            : visit({.range = below, .block = location, .text = std::move(fault)})))
            return false;
    }
    return true;
}

}  // namespace lamella::tools
