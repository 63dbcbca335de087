// SPDX-License-Identifier: Apache-2.0
//
// Every 4096 bytes of the input are a B-tree node, sealed as block 1, 2, ...; block 1 is the root of a tree of mappings. The
// blocks are counted once each, whatever the nodes say.
#include <algorithm>
#include <array>
#include <cstring>

#include "device/memory_device.h"
#include "pdata/block.h"
#include "pdata/btree.h"
#include "pdata/metadata_space_map.h"
#include "pdata/transaction.h"

using namespace lamella;
using namespace lamella::pdata;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr std::uint64_t device_blocks = 256;
    const std::uint64_t nodes = std::clamp<std::uint64_t>((size + block_bytes - 1) / block_bytes, 1, 16);
    MemoryDevice device(device_blocks * block_bytes);
    BlockCache cache(device, 0);
    MetadataSpaceMap map(cache);
    TransactionManager manager(cache, map);
    if (!map.start(device_blocks) || !map.allocate())
        return 0;
    for (std::uint64_t node = 0; node < nodes; ++node) {
        std::array<std::byte, block_bytes> block{};
        if (std::size_t at = node * block_bytes; at < size)
            std::memcpy(block.data(), data + at, std::min(block_bytes, size - at));
        (void)verify_node(block.data());
        seal_block(block, BlockKind::node, MetadataBlock(node + 1));
        if (!map.allocate() || !write_now(device, (node + 1) * block_bytes, block))
            return 0;
    }

    Btree tree(cache, 8, "tree");
    MetadataBlock root(1);
    std::array<std::byte, Btree::max_value_bytes> value{};
    std::uint64_t visited = 0;
    for (std::uint64_t key : {0ull, 7ull, 1ull << 40, ~0ull}) {
        (void)tree.lookup(root, key, value.data());
        (void)tree.next(root, key, value.data());
    }
    (void)tree.last(root, value.data());
    (void)tree.walk(root, 0, [&](std::uint64_t, const std::byte*) { return ++visited < 10000; });
    (void)tree.exclusive_nodes(manager, root, 1000);
    bool sound = true;
    for (std::uint64_t key : {7ull, 0ull, 100ull, ~0ull})
        sound = sound && tree.insert(manager, root, key, value.data());
    sound = sound && tree.remove(manager, root, 7) && tree.remove_range(manager, root, 50, 1ull << 50, 100);
    if (sound)
        (void)tree.drop(manager, root);
    return 0;
}
