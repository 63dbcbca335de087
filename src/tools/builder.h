// SPDX-License-Identifier: Apache-2.0
//
// Fresh metadata for a pool, out of the stream of its contents.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "tools/block_stream.h"
#include "tools/control.h"
#include "tools/data_counts.h"
#include "tools/tree_builder.h"
#include "tools/visitor.h"

namespace lamella::tools {

// Nodes are written full, one after the other from the device's beginning. Definitions are stored once and shared by reference count; a
// device that is nothing but one reference shares the whole tree with all others that are.
//
// From superblock_begin() on the device holds no valid metadata: block 0 says that a restore is under way, in words that neither the kernel
// nor a tool takes for a superblock, nor the kernel for an unformatted device. Only superblock_end() writes a superblock, after all else
// is durable; once it returns all of it is.
//
// The caller keeps to what StreamRules demand; what breaks the format itself (order, numbers that don't fit) is refused with kind
// damaged all the same. no_space: the device is too small. Memory: 4 MiB for writing, 2 bits a data block up to 64 MiB (DataCounts), 4
// bytes a metadata block, 24 bytes a leaf of a definition, 48 bytes a device. One thread at a time; writes and checksums run on another.
class MetadataBuilder final : public PoolVisitor {
  public:
    // Ten blocks: less can't hold a pool (the peer's limit).
    static constexpr std::uint64_t min_device_bytes = 40960;

    // The device outlives the builder, and nobody else uses it. What is beyond the format's largest metadata stays unused.
    static Result<std::unique_ptr<MetadataBuilder>> start(BlockDevice& device);
    ~MetadataBuilder() override;

    Result<void> superblock_begin(const PoolHeader& header) override;
    Result<void> superblock_end() override;
    Result<void> definition_begin(DefinitionId id) override;
    Result<void> definition_end() override;
    Result<void> device_begin(const DeviceHeader& header) override;
    Result<void> device_end() override;
    Result<void> map(std::span<const Mapping> mappings) override;
    Result<void> reference(DefinitionId id) override;

    // Metadata blocks in use so far.
    std::uint64_t used_blocks() const;

  private:
    // A leaf that may be shared.
    struct Leaf {
        std::uint64_t key = 0;
        std::uint64_t last_key = 0;
        std::uint32_t location = 0;
        std::uint32_t entries = 0;
    };
    struct Definition {
        std::size_t first = 0;  // among definition_leaves_
        std::size_t leaves = 0;
        MetadataBlock root{};  // of a tree of just these; 0: not made yet
    };
    struct Device {
        DeviceHeader header;
        MetadataBlock root{};
    };

    MetadataBuilder(BlockDevice& device, std::uint64_t blocks) : device_(device), blocks_(blocks) {}

    Result<void> write_full_leaves();
    Result<void> write_waiting();
    Result<void> write_leaf(std::size_t entries);
    Result<void> add_shared(const Leaf& leaf);
    Result<void> absorb(const Leaf& leaf, bool before);
    Result<void> expand_only_reference();
    Result<MetadataBlock> tree_of(Definition& definition);
    Result<MetadataBlock> device_root();

    Result<void> forget_unused_leaves();
    std::uint32_t& count(MetadataBlock block);

    BlockDevice& device_;
    std::uint64_t blocks_;
    PoolHeader header_;
    std::unique_ptr<BlockStream> stream_;
    std::optional<DataCounts> data_counts_;
    std::vector<std::uint32_t> counts_;  // references to each block, as far as they were asked for; 1 from there on
    std::vector<Leaf> definition_leaves_;
    std::unordered_map<DefinitionId, Definition> definitions_;
    std::vector<Device> devices_;

    // Of the open definition or device: entries that wait for their leaf, and what is above the leaves that were written.
    Definition* open_definition_ = nullptr;
    std::vector<std::uint64_t> keys_;
    std::vector<std::uint64_t> values_;
    std::uint64_t next_virtual_block_ = 0;
    std::optional<InnerLevels> inner_;
    std::optional<Leaf> last_shared_;       // the device's last leaf, if a definition has it too
    Definition* only_reference_ = nullptr;  // the device is this and nothing else so far
};

}  // namespace lamella::tools
