// SPDX-License-Identifier: Apache-2.0
//
// For the tests of this floor: a small pool made by the engine, edits of single blocks, Debian's tools as witnesses.
#pragma once

#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/test_support.h"
#include "device/file_device.h"
#include "device/memory_device.h"
#include "device/test_support.h"
#include "pdata/btree.h"
#include "thin/metadata.h"
#include "thin/superblock.h"
#include "tools/damage.h"

namespace lamella::tools::test {

using lamella::test::value_of;

// A pool's metadata in memory. Everything is committed when a call returns.
class TestPool {
  public:
    explicit TestPool(std::uint64_t data_blocks = 20'000, std::uint64_t metadata_blocks = 2048)
        : device(metadata_blocks * pdata::block_bytes, "pool_tmeta"),
          engine_(value_of(thin::ThinMetadata::create(device, {.data_blocks = data_blocks}))) {}

    void thin(std::uint32_t id) { commit(engine_->create_thin(ThinId(id))); }
    void snapshot(std::uint32_t id, std::uint32_t origin) { commit(engine_->create_snapshot(ThinId(id), ThinId(origin))); }
    // Gives every `step`th of these blocks a data block of its own.
    void write(std::uint32_t id, std::uint64_t first, std::uint64_t count, std::uint64_t step = 1) {
        for (std::uint64_t block = first; block < first + count * step; block += step)
            value_of(engine_->insert(ThinId(id), VirtualBlock(block), value_of(engine_->allocate_data_block())));
        value_of(engine_->commit());
    }
    void discard(std::uint32_t id, std::uint64_t first, std::uint64_t end) {
        value_of(engine_->remove_range(ThinId(id), VirtualBlock(first), VirtualBlock(end)));
        value_of(engine_->commit());
    }
    void remove(std::uint32_t id) { commit(engine_->remove_device(ThinId(id))); }
    void metadata_snapshot() { commit(engine_->reserve_metadata_snapshot()); }
    DataBlock data_block(std::uint32_t id, std::uint64_t block) {
        return value_of(engine_->lookup(ThinId(id), VirtualBlock(block)))->block;
    }
    thin::ThinMetadata& engine() { return *engine_; }

    thin::Superblock superblock() {
        std::vector<std::byte> bytes(pdata::block_bytes);
        value_of(read_now(device, 0, bytes));
        return thin::Superblock::read_fields(bytes);
    }
    // Changes the bytes of a block, and makes its checksum right.
    void edit(std::uint64_t location, pdata::BlockKind kind, const std::function<void(std::byte*)>& change) {
        std::vector<std::byte> bytes(pdata::block_bytes);
        value_of(read_now(device, location * pdata::block_bytes, bytes));
        std::vector<std::byte> before = bytes;
        change(bytes.data());
        ASSERT_NE(bytes, before) << "the edit changes nothing";
        auto number = load_little<std::uint64_t>(bytes.data() + 8);
        pdata::seal_block(bytes, kind, MetadataBlock(number));
        value_of(write_now(device, location * pdata::block_bytes, bytes));
    }
    void edit_superblock(const std::function<void(std::byte*)>& change) { edit(0, pdata::BlockKind::superblock, change); }

    // Blocks that are there for that.
    std::vector<std::uint64_t> blocks_of(BlockRole role) {
        std::vector<std::uint64_t> found;
        for (const SurveyedBlock& block : value_of(survey(device)))
            if (block.role == role)
                found.push_back(block.location.value());
        return found;
    }
    // The leaf that maps a block of a volume.
    std::uint64_t leaf_of(std::uint32_t id, std::uint64_t block) {
        MetadataBlock at = root_of(id);
        for (;;) {
            std::vector<std::byte> bytes(pdata::block_bytes);
            value_of(read_now(device, at.value() * pdata::block_bytes, bytes));
            pdata::Node node(bytes.data());
            if (node.is_leaf())
                return at.value();
            at = node.child(node.child_for(block));
        }
    }
    MetadataBlock root_of(std::uint32_t id) {
        std::vector<std::byte> bytes(pdata::block_bytes);
        value_of(read_now(device, superblock().data_mapping_root.value() * pdata::block_bytes, bytes));
        pdata::Node node(bytes.data());
        return node.child(node.lower_bound(id));
    }

    MemoryDevice device;

  private:
    template <typename T>
    void commit(Result<T> result) {
        value_of(std::move(result));
        value_of(engine_->commit());
    }

    std::unique_ptr<thin::ThinMetadata> engine_;
};

// The place of entry `index` in a node's block.
inline std::byte* key_place(std::byte* node, std::uint32_t index) { return node + 32 + std::size_t{index} * 8; }
inline std::byte* value_place(std::byte* node, std::uint32_t index) {
    pdata::Node view(node);
    return node + 32 + std::size_t{view.max_entries()} * 8 + std::size_t{index} * view.value_size();
}

using lamella::test::Ran;

// Runs a program with what a device holds in a file, whose path takes the place of "@". What it leaves there comes back into the device.
inline Ran run_on(BlockDevice& device, std::string command) {
    lamella::test::TemporaryFolder folder;
    std::string path = folder.file("metadata");
    std::vector<std::byte> bytes(device.size());
    value_of(read_now(device, 0, bytes));
    FILE* file = std::fopen(path.c_str(), "wb");
    EXPECT_EQ(std::fwrite(bytes.data(), 1, bytes.size(), file), bytes.size());
    std::fclose(file);
    command.replace(command.find('@'), 1, path);
    Ran ran = lamella::test::run(command);
    file = std::fopen(path.c_str(), "rb");
    std::vector<std::byte> after(bytes.size());
    EXPECT_EQ(std::fread(after.data(), 1, after.size(), file), after.size());
    std::fclose(file);
    if (after != bytes)
        value_of(write_now(device, 0, after));
    return ran;
}

}  // namespace lamella::tools::test
