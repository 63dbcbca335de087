// SPDX-License-Identifier: Apache-2.0
//
// All volumes' trees of mappings at once, each node read once however many volumes share it.
//
// Nodes are worked through by their height above the leaves, the highest first, each height in disk order: a node's parents, in
// whatever trees, are all higher than it is, so that everything they have to say of it (how often it is referred to, which keys it may
// have, whose it is) is known when its turn comes. The height of a root is found by going down its first children. Nothing is kept
// of a node but its record, so memory doesn't grow with the number of volumes that share it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "pdata/btree.h"
#include "tools/block_table.h"
#include "tools/control.h"
#include "tools/metadata_reader.h"

namespace lamella::tools {

// A volume's tree.
struct ForestRoot {
    MetadataBlock root{};
    std::uint32_t owner = 0;             // as BlockRecord::owner; 0: don't tell
    std::uint32_t snapshotted_time = 0;  // of the volume
    std::uint8_t marks = 0;              // BlockRecord::live, kept: for all that it leads to
    bool count_reference = true;         // the entry that holds the root hasn't been counted as its parent yet
};

// Threads: one caller at a time; visits come on the reader's threads.
class MappingForest {
  public:
    // Both outlive it.
    MappingForest(MetadataReader& reader, BlockTable& table);

    // Works through the inner nodes below these roots. What is wrong with them is noted in the table. May be called again for the
    // metadata snapshot's roots: only nodes that weren't reached before are read. Fails only when stopped.
    Result<void> descend(std::span<const ForestRoot> roots, const Control& control = {});

    // Leaves reached by the last descend() and not by one before.
    const MetadataBlockSet& leaves() const { return leaves_; }

    // Visits the sound leaves of a set; notes what is wrong with the others. `thread` is below the reader's threads(). Fails only when
    // stopped.
    using VisitLeaf = std::function<void(unsigned thread, MetadataBlock location, const pdata::Node& leaf)>;
    Result<void> visit_leaves(const MetadataBlockSet& leaves, const VisitLeaf& visit, const Control& control = {});

    // Adds up `mapped` and `faults` of all nodes from the leaves to the roots; the leaves' are there. Reads the inner nodes again.
    // Fails only when stopped.
    Result<void> add_up(const Control& control = {});

    // What is wrong in the tree of one volume: follows the faults only. Until `visit` returns false.
    struct TreeFault {
        VirtualRange range;
        MetadataBlock block{};
        Severity severity = Severity::needs_repair;
        std::string text{};
    };
    void trace_faults(MetadataBlock root, const std::function<bool(TreeFault)>& visit) const;

    // The leaves of one volume of which `mapped` isn't 0, in ascending order of their keys, after add_up(). Errors: damaged, failed.
    Result<void> visit_counted_leaves(MetadataBlock root, const std::function<void(const pdata::Node&)>& visit) const;

  private:
    Result<void> find_heights(std::span<const ForestRoot> roots, const Control& control);
    std::uint8_t probe_height(MetadataBlock location, unsigned depth);
    void pass_on(MetadataBlock location, const pdata::Node& node, std::uint8_t height);
    std::string edge_fault(MetadataBlock child, std::uint8_t parent_height) const;
    bool trace(MetadataBlock location, const VirtualRange& range, const std::function<bool(TreeFault)>& visit) const;

    static constexpr std::uint8_t leaf_height = 1;

    MetadataReader& reader_;
    BlockTable& table_;
    MetadataBlockSet leaves_;
    std::vector<MetadataBlockSet> inner_;    // by height; of all calls of descend()
    std::vector<MetadataBlockSet> pending_;  // of this one
    std::unordered_set<std::uint64_t> probed_;
};

}  // namespace lamella::tools
