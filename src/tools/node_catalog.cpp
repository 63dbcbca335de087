// SPDX-License-Identifier: Apache-2.0
#include "tools/node_catalog.h"

#include <algorithm>
#include <cstring>

#include "base/endian.h"
#include "pdata/bitmap.h"
#include "pdata/btree.h"
#include "thin/superblock.h"

namespace lamella::tools {

using pdata::block_bytes;
using pdata::BlockKind;
using pdata::Node;

namespace {

constexpr std::uint32_t mapping_value_bytes = 8;
constexpr std::uint32_t details_value_bytes = 24;
constexpr std::uint64_t time_mask = (std::uint64_t{1} << 24) - 1;

}  // namespace

NodeCatalog::NodeCatalog(MetadataReader& reader, std::size_t inner_bytes)
    : reader_(reader),
      entries_(reader.blocks()),
      inner_capacity_(inner_bytes / block_bytes),
      inner_place_(reader.blocks()),
      reread_(block_bytes) {}

CatalogEntry NodeCatalog::classify(const ReadBlock& block) {
    CatalogEntry entry{.block_class = BlockClass::other};
    if (block.error != 0)
        return entry;
    if (!block.verify(BlockKind::node)) {
        if (thin::Superblock::unpack(block.bytes, false, block.location))
            entry.block_class = BlockClass::superblock;
        else if (block.verify(BlockKind::bitmap) || block.verify(BlockKind::index))
            entry.block_class = BlockClass::space_map;
        return entry;
    }
    if (!pdata::verify_node(block.bytes.data()))
        return entry;
    const Node node(block.bytes.data());
    entry.entries = static_cast<std::uint16_t>(node.entries());
    if (node.entries() > 0) {
        entry.first_key = node.key(0);
        entry.last_key = node.key(node.entries() - 1);
    }
    if (!node.is_leaf()) {
        entry.block_class = BlockClass::inner;
    } else if (node.value_size() == mapping_value_bytes) {
        entry.block_class = BlockClass::leaf;
        for (std::uint32_t index = 0; index < node.entries(); ++index) {
            const auto value = load_little<std::uint64_t>(node.value(index));
            entry.max_value = std::max(entry.max_value, value);
            entry.max_time = std::max(entry.max_time, static_cast<std::uint32_t>(value & time_mask));
        }
    } else if (node.value_size() == details_value_bytes) {
        entry.block_class = BlockClass::details_leaf;
    } else {
        entry.block_class = BlockClass::space_map;
    }
    return entry;
}

Result<void> NodeCatalog::scan(const MetadataBlockSet& blocks, const Control& control) {
    MetadataBlockSet wanted(entries_.size());
    for (auto block = blocks.next(MetadataBlock(0)); block; block = blocks.next(*block + 1))
        if ((*this)[*block].block_class == BlockClass::unread)
            wanted.insert(*block);
    return reader_.read_set(
        wanted, [&](unsigned, const ReadBlock& block) { take(block); }, control);
}

Result<void> NodeCatalog::look_at(MetadataBlock block) {
    if ((*this)[block].block_class != BlockClass::unread)
        return {};
    return reader_.read_list({&block, 1}, [&](unsigned, const ReadBlock& read) { take(read); });
}

void NodeCatalog::take(const ReadBlock& block) {
    CatalogEntry& entry = entries_[block.location.value()];
    entry = classify(block);
    if (entry.block_class != BlockClass::inner)
        return;
    const std::lock_guard lock(mutex_);
    if (inner_content_.size() == inner_capacity_)
        return;
    auto& content = inner_content_.emplace_back(new std::byte[block_bytes]);
    std::memcpy(content.get(), block.bytes.data(), block_bytes);
    inner_place_[block.location.value()] = static_cast<std::uint32_t>(inner_content_.size());
}

Result<std::span<const std::byte>> NodeCatalog::inner(MetadataBlock block) {
    if ((*this)[block].block_class != BlockClass::inner)
        return fail(ErrorKind::damaged, "{} isn't an inner node", reader_.describe(block));
    if (const std::uint32_t place = inner_place_[block.value()]; place != 0)
        return std::span<const std::byte>(inner_content_[place - 1].get(), block_bytes);
    TRY(reader_.read_block(block, BlockKind::node, reread_));
    TRY_WITHIN(reader_.describe(block), pdata::verify_node(reread_.data()));
    return std::span<const std::byte>(reread_);
}

}  // namespace lamella::tools
