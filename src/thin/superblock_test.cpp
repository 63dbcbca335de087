// SPDX-License-Identifier: Apache-2.0
#include "thin/superblock.h"

#include <array>
#include <functional>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "pdata/block.h"

namespace lamella::thin {
namespace {

using Block = std::array<std::byte, metadata_block_bytes>;

Superblock sample() {
    Superblock superblock;
    superblock.flags = Superblock::needs_check_flag;
    superblock.uuid[3] = std::byte{7};
    superblock.time = 5;
    superblock.transaction_id = 6;
    superblock.held_root = MetadataBlock(77);
    superblock.data_space_map_root[0] = std::byte{1};
    superblock.metadata_space_map_root[1] = std::byte{2};
    superblock.data_mapping_root = MetadataBlock(8);
    superblock.device_details_root = MetadataBlock(9);
    superblock.data_block_sectors = 384;
    superblock.metadata_blocks_at_creation = 1024;
    superblock.compatible_flags = 3;
    return superblock;
}

Block packed(const Superblock& superblock) {
    Block block{};
    superblock.pack(block);
    return block;
}

TEST(Superblock, ComesBackAsItWas) {
    const Superblock superblock = sample();
    Superblock again = Superblock::unpack(packed(superblock), true).value();
    EXPECT_EQ(packed(again), packed(superblock));
    EXPECT_TRUE(again.needs_check());
    EXPECT_EQ(again.time, 5u);
    EXPECT_EQ(again.held_root, MetadataBlock(77));
    EXPECT_EQ(again.data_block_sectors, 384u);
}

TEST(Superblock, LiesAsTheKernelReadsIt) {
    const Block block = packed(sample());
    EXPECT_EQ(load_little<std::uint32_t>(block.data() + 4), 1u);
    EXPECT_EQ(load_little<std::uint64_t>(block.data() + 8), 0u);
    EXPECT_EQ(load_little<std::uint64_t>(block.data() + 32), 27022010u);
    EXPECT_EQ(load_little<std::uint32_t>(block.data() + 40), 2u);
    EXPECT_EQ(load_little<std::uint32_t>(block.data() + 44), 5u);
    EXPECT_EQ(load_little<std::uint64_t>(block.data() + 48), 6u);
    EXPECT_EQ(load_little<std::uint64_t>(block.data() + 56), 77u);
    EXPECT_EQ(block[64], std::byte{1});
    EXPECT_EQ(block[193], std::byte{2});
    EXPECT_EQ(load_little<std::uint64_t>(block.data() + 320), 8u);
    EXPECT_EQ(load_little<std::uint64_t>(block.data() + 328), 9u);
    EXPECT_EQ(load_little<std::uint32_t>(block.data() + 336), 384u);
    EXPECT_EQ(load_little<std::uint32_t>(block.data() + 340), 8u);
    EXPECT_EQ(load_little<std::uint64_t>(block.data() + 344), 1024u);
}

TEST(Superblock, ErrorsNameTheField) {
    struct Case {
        std::string_view field;
        ErrorKind kind;
        std::function<void(std::byte*)> change;
    };
    const Case cases[] = {
        {"magic", ErrorKind::damaged, [](std::byte* block) { store_little<std::uint64_t>(block + 32, 1); }},
        {"version", ErrorKind::unsupported, [](std::byte* block) { store_little<std::uint32_t>(block + 40, 3); }},
        {"version", ErrorKind::unsupported, [](std::byte* block) { store_little<std::uint32_t>(block + 40, 0); }},
        {"time", ErrorKind::damaged, [](std::byte* block) { store_little<std::uint32_t>(block + 44, 1u << 24); }},
        {"held root", ErrorKind::damaged, [](std::byte* block) { store_little<std::uint64_t>(block + 56, 4161600); }},
        {"data mapping root", ErrorKind::damaged, [](std::byte* block) { store_little<std::uint64_t>(block + 320, 0); }},
        {"device details root", ErrorKind::damaged, [](std::byte* block) { store_little<std::uint64_t>(block + 328, ~0ull); }},
        {"data block size", ErrorKind::damaged, [](std::byte* block) { store_little<std::uint32_t>(block + 336, 100); }},
        {"data block size", ErrorKind::damaged, [](std::byte* block) { store_little<std::uint32_t>(block + 336, 4194304); }},
        {"data block size", ErrorKind::damaged, [](std::byte* block) { store_little<std::uint32_t>(block + 336, 0); }},
        {"metadata block size", ErrorKind::damaged, [](std::byte* block) { store_little<std::uint32_t>(block + 340, 16); }},
        {"incompatible", ErrorKind::unsupported, [](std::byte* block) { store_little<std::uint32_t>(block + 360, 1); }},
        {"reading only", ErrorKind::unsupported, [](std::byte* block) { store_little<std::uint32_t>(block + 356, 1); }},
    };
    for (const Case& one : cases) {
        Block block = packed(sample());
        one.change(block.data());
        pdata::seal_block(block, pdata::BlockKind::superblock, MetadataBlock(0));
        auto result = Superblock::unpack(block, true);
        ASSERT_FALSE(result) << one.field;
        EXPECT_EQ(result.error().kind(), one.kind) << one.field;
        EXPECT_NE(result.error().message().find(one.field), std::string::npos) << result.error().message();
    }
}

TEST(Superblock, FeaturesThatAllowReadingDo) {
    Superblock superblock = sample();
    superblock.compatible_read_only_flags = 4;
    EXPECT_TRUE(Superblock::unpack(packed(superblock), false));
    EXPECT_FALSE(Superblock::unpack(packed(superblock), true));
}

TEST(Superblock, EveryFlippedBitIsSeen) {
    const Block sound = packed(sample());
    for (std::size_t bit = 0; bit < 512 * 8; ++bit) {
        Block block = sound;
        block[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
        EXPECT_FALSE(Superblock::unpack(block, false)) << "bit " << bit;
    }
}

TEST(Superblock, KnowsItsPlace) {
    Block block{};
    sample().pack(block, MetadataBlock(12));
    EXPECT_TRUE(Superblock::unpack(block, true, MetadataBlock(12)));
    auto moved = Superblock::unpack(block, true);
    ASSERT_FALSE(moved);
    EXPECT_NE(moved.error().message().find("block 12"), std::string::npos);
    EXPECT_FALSE(is_unformatted(block));
    EXPECT_TRUE(is_unformatted(Block{}));
}

}  // namespace
}  // namespace lamella::thin
