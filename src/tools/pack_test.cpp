// SPDX-License-Identifier: Apache-2.0
#include "tools/pack.h"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/checksum.h"
#include "base/endian.h"
#include "device/memory_device.h"
#include "device/test_support.h"
#include "pdata/btree.h"
#include "thin/superblock.h"
#include "tools/metadata_size.h"
#include "tools/pack_code.h"

namespace lamella::tools {
namespace {

using pdata::block_bytes;
using pdata::BlockKind;
using testing::HasSubstr;

using Block = std::vector<std::byte>;

// A node with a checksum, sound or not.
Block node(std::uint32_t flags, std::uint32_t max_entries, std::uint32_t value_size, std::uint64_t location, std::mt19937_64& random) {
    Block block(block_bytes);
    store_little<std::uint32_t>(block.data() + 4, flags);
    store_little<std::uint32_t>(block.data() + 16, max_entries);
    store_little<std::uint32_t>(block.data() + 20, max_entries);
    store_little<std::uint32_t>(block.data() + 24, value_size);
    std::uint64_t value = random() % 1000;
    for (std::size_t at = 32; at < block_bytes; at += 8) {
        switch (random() % 8) {
        case 0: value = random(); break;
        case 1: value -= random() % 100; break;
        case 2: value += random() >> (random() % 64); break;
        case 3: break;
        default: value += 1; break;
        }
        for (std::uint64_t run = random() % 4 == 0 ? random() % 300 : 1; run > 0 && at < block_bytes; --run, at += 8)
            store_little<std::uint64_t>(block.data() + at, value += random() % 64 == 0);
        at -= 8;
    }
    pdata::seal_block(block, BlockKind::node, MetadataBlock(location));
    return block;
}

TEST(PackCode, BlocksComeBack) {
    std::uint64_t seed = std::random_device()();
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    for (unsigned round = 0; round < 2000; ++round) {
        static constexpr std::uint32_t entries[] = {0, 1, 3, 84, 126, 168, 252, 253, 254, 255, 336, 400, 507, 508, 4096, 0xffffffff};
        static constexpr std::uint32_t sizes[] = {4, 8, 8, 16, 24, 0, 0xffffffff};
        Block block = node(random() % 4, entries[random() % std::size(entries)], sizes[random() % std::size(sizes)], round, random);
        Block code;
        encode_block(block, BlockKind::node, code);
        code.push_back(std::byte{0xff});
        std::span<const std::byte> rest = code;
        Block back(block_bytes);
        auto result = decode_block(rest, back);
        ASSERT_TRUE(result) << result.error().message();
        ASSERT_EQ(rest.size(), 1u) << "no more is taken than belongs to it";
        ASSERT_TRUE(back == block);
    }
}

// A leaf as a pool has it takes a small part of its bytes.
TEST(PackCode, IsSmall) {
    Block block(block_bytes);
    store_little<std::uint32_t>(block.data() + 4, pdata::Node::leaf_flag);
    store_little<std::uint32_t>(block.data() + 20, 252);
    store_little<std::uint32_t>(block.data() + 24, 8);
    for (std::uint64_t index = 0; index < 252; ++index) {
        store_little<std::uint64_t>(block.data() + 32 + index * 8, 1000 + index);
        store_little<std::uint64_t>(block.data() + 32 + 2016 + index * 8, (5000 + index) << 24 | 7);
    }
    Block code;
    encode_block(block, BlockKind::node, code);
    EXPECT_LT(code.size(), 100u);
}

TEST(PackCode, BadInstructions) {
    auto decode = [](std::initializer_list<unsigned> bytes) {
        Block code;
        for (unsigned byte : bytes)
            code.push_back(static_cast<std::byte>(byte));
        std::span<const std::byte> rest = code;
        Block back(block_bytes);
        auto result = decode_block(rest, back);
        return result ? std::string() : result.error().message();
    };
    EXPECT_THAT(decode({}), HasSubstr("end too early"));
    EXPECT_THAT(decode({0x01}), HasSubstr("end too early"));
    EXPECT_THAT(decode({0x03, 1, 2, 3}), HasSubstr("impossible width"));
    EXPECT_THAT(decode({0x62, 0x01}), HasSubstr("more than 4096"));        // 513 values
    EXPECT_EQ(decode({0x62, 0x00}), "");                                   // 512
    EXPECT_THAT(decode({0xa2, 0x01, 0x10}), HasSubstr("more than 4096"));  // 4097 bytes
    EXPECT_THAT(decode({0x91, 0, 0x62, 0x00}), HasSubstr("more than 4096"));
    EXPECT_THAT(decode({0x72, 0x72, 0x11}), HasSubstr("can't be counted"));
    EXPECT_THAT(decode({0x82, 0x01, 0x11}), HasSubstr("more than 4096"));
    EXPECT_THAT(decode({0xb2, 0x01}), HasSubstr("more than 4096"));
    EXPECT_THAT(decode({0xb0, 0x02, 0xb0, 0x01}), HasSubstr("more than 4096"));
    EXPECT_THAT(decode({0xc0}), HasSubstr("unknown instruction"));
}

struct Packed {
    explicit Packed(BlockDevice& device) {
        auto write = [this](std::uint64_t offset, std::span<const std::byte> piece) -> Result<void> {
            bytes.resize(std::max<std::size_t>(bytes.size(), offset + piece.size()));
            std::ranges::copy(piece, bytes.begin() + static_cast<std::ptrdiff_t>(offset));
            return {};
        };
        report = pack(device, write, [this]() -> Result<void> {
            flushed.push_back(load_little<std::uint64_t>(bytes.data()));
            return {};
        });
    }
    Block bytes;
    std::vector<std::uint64_t> flushed;  // the magic at each flush
    Result<PackReport> report;
};

Result<void> unpacked(const Block& bytes, BlockDevice& target) {
    StringSource source({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, 1000, "file.pack");
    PackReader reader = TRY(PackReader::open(source));
    return reader.unpack(target);
}

TEST(Pack, KeepsWhatHasAChecksum) {
    std::mt19937_64 random(1);
    MemoryDevice device(3000 * block_bytes);
    for (std::uint64_t location : {1u, 2u, 5u, 700u, 2999u}) {
        // The last one lies where it wasn't written to.
        Block block = node(2, 252, 8, location == 2999 ? 7 : location, random);
        ASSERT_TRUE(write_now(device, location * block_bytes, block));
    }
    ASSERT_TRUE(write_now(device, 100 * block_bytes, test::pattern(block_bytes, 1)));
    Block superblock(block_bytes);
    pdata::seal_block(superblock, BlockKind::superblock, MetadataBlock(0));
    ASSERT_TRUE(write_now(device, 0, superblock));

    Packed packed(device);
    ASSERT_TRUE(packed.report) << packed.report.error().message();
    EXPECT_EQ(packed.report->blocks, 6u);
    EXPECT_EQ(packed.report->bytes, packed.bytes.size());
    EXPECT_THAT(packed.flushed, testing::ElementsAre(0, pack_magic));

    MemoryDevice target(3000 * block_bytes);
    ASSERT_TRUE(write_now(target, 0, test::pattern(block_bytes * 20, 2)));
    auto result = unpacked(packed.bytes, target);
    ASSERT_TRUE(result) << result.error().message();
    ASSERT_TRUE(write_now(device, 100 * block_bytes, Block(block_bytes)));
    Block expected(3000 * block_bytes), got(3000 * block_bytes);
    ASSERT_TRUE(read_now(device, 0, expected));
    ASSERT_TRUE(read_now(target, 0, got));
    EXPECT_TRUE(expected == got);

    MemoryDevice small(2999 * block_bytes);
    EXPECT_EQ(unpacked(packed.bytes, small).error().kind(), ErrorKind::no_space);
    EXPECT_EQ(small.allocated_pages(), 0u);
}

// Whatever is missing or changed: an error, and nothing that looks like metadata.
TEST(Pack, DamagedPacks) {
    std::mt19937_64 random(2);
    MemoryDevice device(50 * block_bytes);
    Block superblock(block_bytes);
    pdata::seal_block(superblock, BlockKind::superblock, MetadataBlock(0));
    ASSERT_TRUE(write_now(device, 0, superblock));
    for (std::uint64_t location = 1; location < 5; ++location)
        ASSERT_TRUE(write_now(device, location * block_bytes, node(2, 252, 8, location, random)));
    Packed packed(device);
    ASSERT_TRUE(packed.report);
    auto try_bytes = [](const Block& bytes) {
        MemoryDevice target(50 * block_bytes);
        auto result = unpacked(bytes, target);
        Block first(block_bytes);
        EXPECT_TRUE(read_now(target, 0, first));
        if (!result) {
            EXPECT_FALSE(pdata::kind_by_checksum(first));
        }
        if (bytes.size() > 32) {
            EXPECT_FALSE(thin::is_unformatted(first) && target.allocated_pages() > 0) << "a kernel would format it";
        }
        return result ? std::string() : result.error().message();
    };
    EXPECT_EQ(try_bytes(packed.bytes), "");
    for (std::size_t length = 0; length < packed.bytes.size(); length += length < 64 ? 1 : 97)
        EXPECT_EQ(try_bytes(Block(packed.bytes.begin(), packed.bytes.begin() + static_cast<std::ptrdiff_t>(length))) == "",
                  length == 32)  // a pack of nothing
            << length;
    for (unsigned round = 0; round < 300; ++round) {
        Block bytes = packed.bytes;
        bytes[8 + random() % (bytes.size() - 8)] ^= static_cast<std::byte>(1 + random() % 255);
        EXPECT_NE(try_bytes(bytes), "");
    }
}

TEST(MetadataSize, AsThePeerEstimates) {
    EXPECT_EQ(*metadata_size(1ull << 30, 65536, 1), 1064ull * 512);
    EXPECT_EQ(*metadata_size(20ull << 40, 65536, 1000), 21312416ull * 512);
    EXPECT_EQ(*metadata_size(1ull << 60, 65536, 1), 4161600ull * 4096);
    EXPECT_FALSE(metadata_size(1ull << 30, 0, 1));
    EXPECT_FALSE(metadata_size(1ull << 30, 65536 + 512, 1));
    EXPECT_FALSE(metadata_size(1ull << 40, 2ull << 30, 1));
    EXPECT_FALSE(metadata_size(1024, 65536, 1));
}

}  // namespace
}  // namespace lamella::tools
