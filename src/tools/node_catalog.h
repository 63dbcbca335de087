// SPDX-License-Identifier: Apache-2.0
//
// What a scan of a metadata device found: every block that is a sound node of a B-tree, whoever refers to it, and what a repair needs to
// know of it to decide where it belongs.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "pdata/block.h"
#include "tools/control.h"
#include "tools/metadata_block_set.h"
#include "tools/metadata_reader.h"

namespace lamella::tools {

// A block whose checksum, block number and form are right is what its checksum says; anything else is `other`.
enum class BlockClass : std::uint8_t {
    unread,        // not asked for
    other,         // free, foreign or damaged
    superblock,    // the pool's, or that of a metadata snapshot
    inner,         // of any tree
    leaf,          // with values of 8 bytes: mappings, or the roots of devices
    details_leaf,  // with values of 24 bytes
    space_map,     // a bitmap, an index, or a leaf of a space map's trees
};

// 40 bytes for each block of the device.
struct CatalogEntry {
    std::uint64_t first_key = 0;
    std::uint64_t last_key = 0;
    std::uint64_t max_value = 0;  // leaf: the highest value as it is on disk
    std::uint32_t max_time = 0;   // leaf: the latest time, if the values are mappings
    std::uint16_t entries = 0;
    BlockClass block_class = BlockClass::unread;
};

class NodeCatalog {
  public:
    // `inner_bytes`: how much of the inner nodes' content is kept; what goes beyond is read again when it is asked for.
    static constexpr std::size_t default_inner_bytes = std::size_t{128} << 20;

    // The reader outlives the catalog.
    explicit NodeCatalog(MetadataReader& reader, std::size_t inner_bytes = default_inner_bytes);

    // Reads and classifies the blocks of the set that weren't read yet. May be called again with more.
    Result<void> scan(const MetadataBlockSet& blocks, const Control& control = {});

    // The same for one block.
    Result<void> look_at(MetadataBlock block);

    std::uint64_t blocks() const { return entries_.size(); }
    MetadataReader& reader() const { return reader_; }
    // Of any number: `other` for one beyond the device.
    const CatalogEntry& operator[](MetadataBlock block) const {
        return block.value() < entries_.size() ? entries_[block.value()] : beyond_;
    }

    // The content of an inner node that scan() found. Valid until the next call.
    Result<std::span<const std::byte>> inner(MetadataBlock block);

  private:
    static CatalogEntry classify(const ReadBlock& block);
    void take(const ReadBlock& block);

    MetadataReader& reader_;
    std::mutex mutex_;  // for the inner nodes' content, while blocks are read
    std::vector<CatalogEntry> entries_;
    CatalogEntry beyond_{.block_class = BlockClass::other};

    // Content of inner nodes: where each lies in the slabs, plus 1.
    std::size_t inner_capacity_;
    std::vector<std::uint32_t> inner_place_;
    std::vector<std::unique_ptr<std::byte[]>> inner_content_;
    std::vector<std::byte> reread_;
};

}  // namespace lamella::tools
