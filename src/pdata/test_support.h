// SPDX-License-Identifier: Apache-2.0
//
// For the tests of this floor: trees on a device in memory, without a superblock.
#pragma once

#include <map>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "base/test_support.h"
#include "device/memory_device.h"
#include "pdata/block.h"
#include "pdata/btree.h"
#include "pdata/metadata_space_map.h"
#include "pdata/transaction.h"

namespace lamella::pdata {

using lamella::test::value_of;

class Store {
  public:
    explicit Store(std::uint64_t blocks, std::size_t cache_bytes = std::size_t{1} << 20)
        : device(blocks * block_bytes), cache(device, cache_bytes), map(cache), manager(cache, map), queue(value_of(make_plain_queue())) {
        value_of(map.start(blocks));
        EXPECT_EQ(value_of(map.allocate()), MetadataBlock(0));  // as a superblock has it
    }

    // Writes everything out; what is in memory then starts from what the device holds.
    void commit() {
        root = value_of(map.fold(manager));
        value_of(cache.write_dirty(*queue));
        map.committed();
    }
    void reopen() {
        cache.clear();
        value_of(map.load(root));
    }

    MemoryDevice device;
    BlockCache cache;
    MetadataSpaceMap map;
    TransactionManager manager;
    std::unique_ptr<IoQueue> queue;
    SpaceMapRoot root;
};

// How often each block below `root` is referred to, adding to `references`; checks the form of every node.
inline void count_references(Store& store, MetadataBlock root, std::map<std::uint64_t, std::uint32_t>& references, bool is_root = true) {
    if (++references[root.value()] > 1)
        return;
    BlockRef block = value_of(store.cache.read(root, BlockKind::node));
    value_of(verify_node(block.bytes()));
    Node node(block.bytes());
    if (!is_root) {
        EXPECT_GE(node.entries(), node.max_entries() / 3) << "block " << root.value();
    }
    EXPECT_EQ(node.max_entries(), max_node_entries(node.value_size()));
    if (node.is_leaf())
        return;
    for (std::uint32_t index = 0; index < node.entries(); ++index) {
        BlockRef child = value_of(store.cache.read(node.child(index), BlockKind::node));
        EXPECT_LE(node.key(index), Node(child.bytes()).key(0));
        count_references(store, node.child(index), references, false);
    }
}

}  // namespace lamella::pdata
