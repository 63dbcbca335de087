// SPDX-License-Identifier: Apache-2.0
//
// For targets whose input changes the image of a sound pool: every 8 bytes of it name a block, an offset and what to put there.
#pragma once

#include <array>
#include <cstring>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "device/memory_device.h"
#include "pdata/block.h"
#include "thin/metadata.h"

namespace lamella::fuzz {

constexpr std::uint64_t pool_blocks = 96;

struct PoolImage {
    std::vector<std::byte> bytes;
    std::array<pdata::BlockKind, pool_blocks> kinds{};
    std::array<bool, pool_blocks> used{};  // the block is of its kind

    std::span<std::byte> block(std::uint64_t number) { return std::span(bytes).subspan(number * pdata::block_bytes, pdata::block_bytes); }
    // Gives a block that was in use a right checksum.
    void seal(std::uint64_t number) {
        if (used[number])
            pdata::seal_block(block(number), kinds[number], MetadataBlock(number));
    }
};

// Two volumes of 700 blocks, three snapshots, a metadata snapshot. With a commit after each snapshot there are old nodes, too.
inline PoolImage make_pool_image(bool commit_each_snapshot) {
    MemoryDevice device(pool_blocks * pdata::block_bytes);
    auto metadata = thin::ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 20000}).value();
    for (std::uint32_t id = 0; id < 2; ++id) {
        (void)metadata->create_thin(ThinId(id));
        for (std::uint64_t block = 0; block < 700; ++block)
            (void)metadata->insert(ThinId(id), VirtualBlock(block * 2), metadata->allocate_data_block().value());
    }
    for (std::uint32_t id = 2; id < 5; ++id) {
        (void)metadata->create_snapshot(ThinId(id), ThinId(id % 2));
        (void)metadata->insert(ThinId(id), VirtualBlock(5), metadata->allocate_data_block().value());
        if (commit_each_snapshot)
            (void)metadata->commit();
    }
    (void)metadata->reserve_metadata_snapshot();
    (void)metadata->commit();
    PoolImage image;
    image.bytes.resize(device.size());
    (void)read_now(device, 0, image.bytes);
    for (std::uint64_t number = 0; number < pool_blocks; ++number)
        for (auto kind : {pdata::BlockKind::superblock, pdata::BlockKind::node, pdata::BlockKind::index, pdata::BlockKind::bitmap})
            if (pdata::verify_block(image.block(number), kind, MetadataBlock(number))) {
                image.kinds[number] = kind;
                image.used[number] = true;
            }
    return image;
}

// The pool with up to 64 blocks changed. Those whose number is a multiple of `sealed` get a right checksum, so that what lies behind is
// reached.
inline std::unique_ptr<MemoryDevice> changed_pool(PoolImage image, std::uint64_t sealed, const std::uint8_t* data, std::size_t size) {
    std::set<std::uint64_t> changed;
    for (std::size_t at = 0; at + 8 <= size && changed.size() < 64; at += 8) {
        const std::uint64_t number = data[at] % pool_blocks;
        const std::size_t offset = (data[at + 1] | std::size_t{data[at + 2]} << 8) % (pdata::block_bytes - 8);
        std::memcpy(image.block(number).data() + offset, data + at + 3, 5);
        changed.insert(number);
    }
    for (const std::uint64_t number : changed)
        if (number % sealed == 0)
            image.seal(number);
    auto device = std::make_unique<MemoryDevice>(image.bytes.size());
    (void)write_now(*device, 0, image.bytes);
    return device;
}

}  // namespace lamella::fuzz
