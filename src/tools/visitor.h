// SPDX-License-Identifier: Apache-2.0
//
// The contents of a pool as a stream of calls: what a dump prints, what a restore builds from, what a repair has found. A source makes the
// calls, a sink carries them out; neither holds more than a part of the stream at a time.
//
//   superblock_begin
//     definition_begin  map...  definition_end         any number of them, each before its first reference
//     device_begin  (map | reference)...  device_end   ids ascending
//   superblock_end
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "base/strong.h"

namespace lamella::tools {

struct PoolHeader {
    std::string uuid;  // 32 hexadecimal digits; empty when it is all zeros, as the kernel leaves it
    std::uint32_t time = 0;
    std::uint64_t transaction_id = 0;
    std::uint32_t flags = 0;  // thin::Superblock::flags
    std::uint32_t version = 0;
    std::uint32_t data_block_sectors = 0;
    std::uint64_t data_blocks = 0;
};

// What a user knows better than the source.
struct HeaderOverrides {
    std::optional<std::uint64_t> transaction_id{};  // if it is higher
    std::optional<std::uint32_t> data_block_sectors{};
    std::optional<std::uint64_t> data_blocks{};  // if there are more

    void apply(PoolHeader& header) const {
        header.transaction_id = std::max(header.transaction_id, transaction_id.value_or(0));
        header.data_block_sectors = data_block_sectors.value_or(header.data_block_sectors);
        header.data_blocks = std::max(header.data_blocks, data_blocks.value_or(0));
    }
};

struct DeviceHeader {
    ThinId id{};
    std::uint64_t mapped_blocks = 0;
    std::uint64_t transaction_id = 0;
    std::uint32_t creation_time = 0;
    std::uint32_t snapshotted_time = 0;
};

// `length` virtual blocks in a row that lie in as many data blocks in a row, all mapped at the same time.
struct Mapping {
    VirtualBlock virtual_begin{};
    DataBlock data_begin{};
    std::uint64_t length = 0;
    std::uint32_t time = 0;

    bool operator==(const Mapping&) const = default;
};

// A part of several devices' mappings that is stored once.
using DefinitionId = Strong<struct DefinitionIdTag>;

// A sink. Called by one thread in the order above; the first error ends the stream. A source may have checked nothing but the order of the
// calls: a sink that can't do with something refuses it.
class PoolVisitor {
  public:
    virtual ~PoolVisitor() = default;

    virtual Result<void> superblock_begin(const PoolHeader& header) = 0;
    virtual Result<void> superblock_end() = 0;

    // Ids are unique within the pool.
    virtual Result<void> definition_begin(DefinitionId id) = 0;
    virtual Result<void> definition_end() = 0;

    virtual Result<void> device_begin(const DeviceHeader& header) = 0;
    virtual Result<void> device_end() = 0;

    // Some more of the open definition's or device's mappings, in ascending order; at least one. Runs may touch: neighbours aren't
    // always merged.
    virtual Result<void> map(std::span<const Mapping> mappings) = 0;
    // The device's next mappings are those of a definition that was made before.
    virtual Result<void> reference(DefinitionId id) = 0;
};

}  // namespace lamella::tools
