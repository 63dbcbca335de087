// SPDX-License-Identifier: Apache-2.0
#include "tools/damage.h"

#include <algorithm>

#include "base/endian.h"
#include "pdata/bitmap.h"
#include "pdata/btree.h"
#include "thin/superblock.h"

namespace lamella::tools {

using pdata::block_bytes;
using pdata::BlockKind;
using pdata::Node;

namespace {

constexpr std::size_t index_block_header_bytes = 16;

Result<std::vector<std::byte>> read_block(BlockDevice& device, MetadataBlock location) {
    std::vector<std::byte> bytes(block_bytes);
    TRY_WITHIN(fmt::format("metadata block {}", location), read_now(device, location.value() * block_bytes, bytes));
    return bytes;
}

Result<std::vector<std::byte>> read_verified(BlockDevice& device, MetadataBlock location, BlockKind kind) {
    auto bytes = TRY(read_block(device, location));
    TRY_WITHIN(fmt::format("metadata block {}", location), pdata::verify_block(bytes, kind, location));
    if (kind == BlockKind::node)
        TRY_WITHIN(fmt::format("metadata block {}", location), pdata::verify_node(bytes.data()));
    return bytes;
}

// What a superblock leads to.
class Surveyor {
  public:
    explicit Surveyor(BlockDevice& device) : device_(device) {}

    Result<void> superblock(MetadataBlock location) {
        auto bytes = TRY(read_block(device_, location));
        const thin::Superblock superblock = TRY(thin::Superblock::unpack(bytes, false, location));
        const bool held = location != MetadataBlock(0);
        roles_.emplace(location, held ? BlockRole::held_superblock : BlockRole::superblock);
        TRY(tree(superblock.data_mapping_root, BlockRole::device_node, BlockRole::device_node, [&](const std::byte* value) {
            return tree(MetadataBlock(load_little<std::uint64_t>(value)), BlockRole::mapping_inner, BlockRole::mapping_leaf,
                        [](const std::byte*) -> Result<void> { return {}; });
        }));
        const auto nothing = [](const std::byte*) -> Result<void> { return {}; };
        TRY(tree(superblock.device_details_root, BlockRole::details_node, BlockRole::details_node, nothing));
        if (held)
            return {};
        const auto data = pdata::SpaceMapRoot::unpack(superblock.data_space_map_root.data());
        TRY(tree(MetadataBlock(data.bitmap_root), BlockRole::data_index_node, BlockRole::data_index_node,
                 [&](const std::byte* value) -> Result<void> {
                     roles_.emplace(pdata::IndexEntry::unpack(value).location, BlockRole::data_bitmap);
                     return {};
                 }));
        TRY(tree(MetadataBlock(data.overflow_root), BlockRole::data_overflow_node, BlockRole::data_overflow_node, nothing));
        const auto metadata = pdata::SpaceMapRoot::unpack(superblock.metadata_space_map_root.data());
        auto index = TRY(read_verified(device_, MetadataBlock(metadata.bitmap_root), BlockKind::index));
        roles_.emplace(metadata.bitmap_root, BlockRole::metadata_index);
        const std::uint64_t bitmaps = (metadata.blocks + pdata::entries_per_bitmap - 1) / pdata::entries_per_bitmap;
        for (std::uint64_t entry = 0; entry < bitmaps; ++entry)
            roles_.emplace(
                pdata::IndexEntry::unpack(index.data() + index_block_header_bytes + entry * pdata::IndexEntry::disk_bytes).location,
                BlockRole::metadata_bitmap);
        TRY(tree(MetadataBlock(metadata.overflow_root), BlockRole::metadata_overflow_node, BlockRole::metadata_overflow_node, nothing));
        if (superblock.held_root != MetadataBlock(0))
            TRY(this->superblock(superblock.held_root));
        return {};
    }

    std::vector<SurveyedBlock> found() const {
        std::vector<SurveyedBlock> blocks;
        for (const auto& [location, role] : roles_)
            blocks.push_back({location, role});
        return blocks;
    }

  private:
    template <typename VisitValue>
    Result<void> tree(MetadataBlock location, BlockRole inner, BlockRole leaf, VisitValue visit, unsigned depth = 0) {
        if (roles_.contains(location))
            return {};
        if (depth > pdata::Btree::max_depth)
            return fail(ErrorKind::damaged, "metadata block {}: the tree is too deep", location);
        const auto bytes = TRY(read_verified(device_, location, BlockKind::node));
        const Node node(bytes.data());
        roles_.emplace(location, node.is_leaf() ? leaf : inner);
        for (std::uint32_t index = 0; index < node.entries(); ++index) {
            if (node.is_leaf())
                TRY(visit(node.value(index)));
            else
                TRY(tree(node.child(index), inner, leaf, visit, depth + 1));
        }
        return {};
    }

    BlockDevice& device_;
    std::map<MetadataBlock, BlockRole> roles_;
};

}  // namespace

std::string_view to_string(BlockRole role) {
    switch (role) {
    case BlockRole::superblock: return "superblock";
    case BlockRole::held_superblock: return "superblock of the metadata snapshot";
    case BlockRole::device_node: return "node of the tree of devices";
    case BlockRole::details_node: return "node of the details tree";
    case BlockRole::mapping_inner: return "inner node of a device's mappings";
    case BlockRole::mapping_leaf: return "leaf of a device's mappings";
    case BlockRole::data_index_node: return "index node of the data space map";
    case BlockRole::data_bitmap: return "bitmap of the data space map";
    case BlockRole::data_overflow_node: return "overflow node of the data space map";
    case BlockRole::metadata_index: return "index of the metadata space map";
    case BlockRole::metadata_bitmap: return "bitmap of the metadata space map";
    case BlockRole::metadata_overflow_node: return "overflow node of the metadata space map";
    }
    __builtin_unreachable();
}

Result<std::vector<SurveyedBlock>> survey(BlockDevice& metadata) {
    Surveyor surveyor(metadata);
    TRY(surveyor.superblock(MetadataBlock(0)));
    return surveyor.found();
}

Result<Damage::Block> Damage::read(MetadataBlock location) { return read_block(metadata_, location); }

Result<void> Damage::write(MetadataBlock location, std::span<const std::byte> bytes) {
    if (!before_.contains(location))
        before_.emplace(location, TRY(read(location)));
    return write_now(metadata_, location.value() * block_bytes, bytes);
}

Result<void> Damage::zero(MetadataBlock location) { return write(location, Block(block_bytes)); }

Result<void> Damage::flip(MetadataBlock location, unsigned bits, std::mt19937_64& random) {
    Block bytes = TRY(read(location));
    std::map<std::size_t, bool> chosen;
    while (chosen.size() < bits)
        chosen[random() % (block_bytes * 8)] = true;
    for (const auto& [bit, flipped] : chosen)
        bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    return write(location, bytes);
}

Result<void> Damage::scramble(MetadataBlock location, std::mt19937_64& random) {
    Block bytes(block_bytes);
    for (std::byte& byte : bytes)
        byte = static_cast<std::byte>(random());
    return write(location, bytes);
}

Result<void> Damage::swap(MetadataBlock one, MetadataBlock other) {
    const Block first = TRY(read(one));
    const Block second = TRY(read(other));
    TRY(write(one, second));
    return write(other, first);
}

Result<void> Damage::replace(MetadataBlock location, std::span<const std::byte> bytes) { return write(location, bytes); }

Result<void> Damage::link(MetadataBlock parent, std::uint32_t index, MetadataBlock child) {
    Block bytes = TRY(read(parent));
    TRY(pdata::verify_node(bytes.data()));
    const Node node(bytes.data());
    if (index >= node.entries() || node.value_size() != sizeof(std::uint64_t))
        return fail(ErrorKind::usage, "metadata block {} has no entry {} that leads to a block", parent, index);
    store_little<std::uint64_t>(bytes.data() + (node.value(index) - bytes.data()), child.value());
    pdata::seal_block(bytes, BlockKind::node, parent);
    return write(parent, bytes);
}

Result<void> Damage::set_count(SpaceMapKind map, std::uint64_t block, std::uint32_t count) {
    const Block superblock_bytes = TRY(read(MetadataBlock(0)));
    const thin::Superblock superblock = TRY(thin::Superblock::unpack(superblock_bytes, false));
    const auto root = pdata::SpaceMapRoot::unpack(map == SpaceMapKind::data ? superblock.data_space_map_root.data()
                                                                            : superblock.metadata_space_map_root.data());
    if (block >= root.blocks || count >= pdata::bitmap_overflow)
        return fail(ErrorKind::usage, "a count of {} for block {} of {} can't be set", count, block, root.blocks);
    const std::uint64_t bitmap = block / pdata::entries_per_bitmap;
    MetadataBlock location;
    if (map == SpaceMapKind::data) {
        pdata::BlockCache cache(metadata_, 0);
        const pdata::Btree index(cache, pdata::IndexEntry::disk_bytes, "index of the data space map");
        std::array<std::byte, pdata::IndexEntry::disk_bytes> value;
        if (!TRY(index.lookup(MetadataBlock(root.bitmap_root), bitmap, value.data())))
            return fail(ErrorKind::damaged, "data block {} has no bitmap", block);
        location = MetadataBlock(pdata::IndexEntry::unpack(value.data()).location);
    } else {
        const auto index = TRY(read_verified(metadata_, MetadataBlock(root.bitmap_root), BlockKind::index));
        location = MetadataBlock(
            pdata::IndexEntry::unpack(index.data() + index_block_header_bytes + bitmap * pdata::IndexEntry::disk_bytes).location);
    }
    Block bytes = TRY(read(location));
    pdata::set_bitmap_count(bytes.data(), block % pdata::entries_per_bitmap, count);
    pdata::seal_block(bytes, BlockKind::bitmap, location);
    return write(location, bytes);
}

template <typename Change>
Result<void> Damage::change_superblock(Change change) {
    Block bytes = TRY(read(MetadataBlock(0)));
    thin::Superblock superblock = TRY(thin::Superblock::unpack(bytes, false));
    change(superblock);
    superblock.pack(bytes);
    return write(MetadataBlock(0), bytes);
}

Result<void> Damage::set_needs_check() {
    return change_superblock([](thin::Superblock& superblock) { superblock.flags |= thin::Superblock::needs_check_flag; });
}
Result<void> Damage::set_mapping_root(MetadataBlock root) {
    return change_superblock([&](thin::Superblock& superblock) { superblock.data_mapping_root = root; });
}
Result<void> Damage::set_details_root(MetadataBlock root) {
    return change_superblock([&](thin::Superblock& superblock) { superblock.device_details_root = root; });
}
Result<void> Damage::set_held_root(MetadataBlock root) {
    return change_superblock([&](thin::Superblock& superblock) { superblock.held_root = root; });
}

std::vector<MetadataBlock> Damage::changed() const {
    std::vector<MetadataBlock> locations;
    for (const auto& [location, bytes] : before_)
        locations.push_back(location);
    return locations;
}

Result<void> Damage::undo() {
    for (const auto& [location, bytes] : before_)
        TRY(write_now(metadata_, location.value() * block_bytes, bytes));
    before_.clear();
    return {};
}

}  // namespace lamella::tools
