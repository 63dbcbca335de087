// SPDX-License-Identifier: Apache-2.0
#include "tools/plain_tree.h"

#include <atomic>

namespace lamella::tools {

using pdata::Node;

namespace {

constexpr unsigned max_depth = pdata::Btree::max_depth;

}  // namespace

std::string node_fault(const ReadBlock& block, const BlockRecord& record, bool leaf, std::uint32_t value_size) {
    if (auto sealed = block.verify(pdata::BlockKind::node); !sealed)
        return sealed.error().message();
    if (auto sound = pdata::verify_node(block.bytes.data()); !sound)
        return sound.error().message();
    Node node(block.bytes.data());
    if (node.is_leaf() != leaf)
        return leaf ? "an inner node where a leaf should be" : "a leaf where an inner node should be";
    if (node.value_size() != value_size)
        return fmt::format("values of {} bytes, expected {}", node.value_size(), value_size);
    if (node.entries() == 0)
        return "";
    if (record.has_end() && record.past_keys() <= record.lowest_key)
        return fmt::format("it is reached as the place of different keys, from {} on and up to {}", record.lowest_key, record.past_keys());
    if (node.key(0) < record.lowest_key)
        return fmt::format("its first key {} is below {}, its place in the tree", node.key(0), record.lowest_key);
    if (std::uint64_t last = node.key(node.entries() - 1); record.has_end() && last >= record.past_keys())
        return fmt::format("its last key {} belongs to its neighbour, which begins with {}", last, record.past_keys());
    return "";
}

Result<bool> walk_plain_tree(MetadataReader& reader, BlockTable& table, const PlainTree& tree, Findings& findings,
                             const VisitPlainLeaf& visit, const Control& control) {
    std::atomic<bool> whole = true;
    auto report = [&](MetadataBlock location, std::string text) {
        const BlockRecord* record = location.value() < table.blocks() ? &table[location] : nullptr;
        whole.store(false, std::memory_order_relaxed);
        if (record != nullptr && record->has_end())
            text += fmt::format("; entries from {} to {} are lost", record->lowest_key, record->past_keys() - 1);
        else if (record != nullptr && record->lowest_key != 0)
            text += fmt::format("; entries from {} on are lost", record->lowest_key);
        else
            text += "; all entries are lost";
        findings.add({.severity = Severity::needs_repair,
                      .text = fmt::format("{}: {}", tree.name, text),
                      .in_metadata_snapshot = tree.in_metadata_snapshot,
                      .block = location});
    };

    MetadataBlockSet seen(table.blocks());
    MetadataBlockSet level(table.blocks());
    // Takes a node into the next level.
    auto expect = [&](MetadataBlockSet& next, MetadataBlock child, MetadataBlock parent, bool count) {
        if (child.value() == 0 || child.value() >= table.blocks()) {
            report(parent, fmt::format("it leads to metadata block {}, which there isn't", child));
            return;
        }
        if (count)
            table.refer(child);
        if (BlockUse use = table.claim(child, tree.use); use != tree.use)
            report(child, fmt::format("it is used for {} as well", to_string(use)));
        else if (!seen.insert(child))
            report(child, "the tree leads here twice");
        else
            next.insert(child);
    };
    if (tree.root.value() == 0 || tree.root.value() >= table.blocks()) {
        findings.add({.severity = Severity::needs_repair,
                      .text = fmt::format("{}: its root would be metadata block {}", tree.name, tree.root),
                      .in_metadata_snapshot = tree.in_metadata_snapshot});
        return false;
    }
    expect(level, tree.root, tree.root, true);

    for (unsigned depth = 0; !level.empty(); ++depth) {
        MetadataBlockSet next(table.blocks());
        // The first node that is a leaf says that all of its level are.
        std::atomic<int> leaves = -1;
        TRY(reader.read_set(level,
                            [&](unsigned, const ReadBlock& block) {
                                bool leaf = block.error == 0 && Node(block.bytes.data()).is_leaf();
                                std::string fault =
                                    node_fault(block, table[block.location], leaf, leaf ? tree.value_size : sizeof(std::uint64_t));
                                int level_of = -1;
                                if (fault.empty() && !leaves.compare_exchange_strong(level_of, leaf) && level_of != int{leaf})
                                    fault = "a leaf among inner nodes";
                                if (fault.empty() && !leaf && depth + 1 >= max_depth)
                                    fault = "deeper than a tree can be";
                                if (!fault.empty()) {
                                    report(block.location, fault);
                                    return;
                                }
                                Node node(block.bytes.data());
                                bool first_visit = table.mark(block.location, BlockRecord::queued);
                                if (leaf) {
                                    visit(block.location, node, first_visit);
                                    return;
                                }
                                const BlockRecord& record = table[block.location];
                                for (std::uint32_t index = 0; index < node.entries(); ++index) {
                                    MetadataBlock child = node.child(index);
                                    bool last = index + 1 == node.entries();
                                    if (child.value() < table.blocks())
                                        table.bound(child, node.key(index), last ? record.has_end() : true,
                                                    last ? record.past_keys() : node.key(index + 1));
                                    expect(next, child, block.location, first_visit);
                                }
                            },
                            {.stop = control.stop}));
        level = std::move(next);
    }
    return whole.load();
}

}  // namespace lamella::tools
