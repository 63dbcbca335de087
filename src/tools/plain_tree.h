// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "base/strong.h"
#include "pdata/btree.h"
#include "tools/block_table.h"
#include "tools/control.h"
#include "tools/findings.h"
#include "tools/metadata_reader.h"

namespace lamella::tools {

// What is wrong with a block that should be a node of a B-tree with such values; empty: nothing. The keys that it may have are those of
// its record.
std::string node_fault(const ReadBlock& block, const BlockRecord& record, bool leaf, std::uint32_t value_size);

// A B-tree of which each node has one parent: the trees of volumes and of their details, those of the space maps.
// (A metadata snapshot may share the first two with the pool: then the parents of what is shared are counted once.)
struct PlainTree {
    std::string_view name;  // "tree of volumes"
    BlockUse use = BlockUse::none;
    std::uint32_t value_size = 0;
    MetadataBlock root{};
    bool in_metadata_snapshot = false;
};

// Reads it level by level, on all threads; counts references and takes down findings. `visit` gets every sound leaf, several at
// once and in no order; `first_visit` says that nothing that was walked before led to it. Returns whether all of the tree could be
// read. Fails only when stopped.
using VisitPlainLeaf = std::function<void(MetadataBlock location, const pdata::Node& leaf, bool first_visit)>;
Result<bool> walk_plain_tree(MetadataReader& reader, BlockTable& table, const PlainTree& tree, Findings& findings,
                             const VisitPlainLeaf& visit, const Control& control = {});

}  // namespace lamella::tools
