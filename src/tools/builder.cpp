// SPDX-License-Identifier: Apache-2.0
//
// Sharing and fullness pull in different directions: a leaf of a definition can be shared only as it is, and every leaf but a tree's only
// one must be at least a third full, or the peer's check calls the tree damaged. So a device's own entries wait until there are enough
// of them for a full leaf and a third of another. Where they end at a reference or at the end of the device with less than a third,
// the leaf of the definition beside them is not shared but copied, and so is a definition of less than a third of a leaf.
#include "tools/builder.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

#include "base/endian.h"
#include "pdata/btree.h"
#include "pdata/metadata_space_map.h"
#include "thin/superblock.h"
#include "tools/fresh_metadata.h"

namespace lamella::tools {

using pdata::block_bytes;
using pdata::BlockKind;
using pdata::MetadataSpaceMap;

namespace {

constexpr std::uint32_t mapping_bytes = 8;
constexpr std::size_t leaf_entries = pdata::max_node_entries(mapping_bytes);
constexpr std::size_t least_entries = leaf_entries / 3;
constexpr std::size_t most_waiting = leaf_entries + least_entries;

// PoolHeader::uuid as the superblock has it.
Result<std::array<std::byte, 16>> parse_uuid(std::string_view text) {
    std::array<std::byte, 16> uuid{};
    if (text.empty())
        return uuid;
    for (std::size_t index = 0; index < uuid.size(); ++index) {
        std::uint8_t byte = 0;
        std::string_view digits = text.substr(std::min(text.size(), index * 2), 2);
        auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), byte, 16);
        if (text.size() != 2 * uuid.size() || error != std::errc() || end != digits.data() + digits.size())
            return fail(ErrorKind::damaged, "uuid \"{}\" is not 32 hexadecimal digits", text);
        uuid[index] = std::byte{byte};
    }
    return uuid;
}

}  // namespace

Result<std::unique_ptr<MetadataBuilder>> MetadataBuilder::start(BlockDevice& device) {
    if (device.size() < min_device_bytes)
        return fail(ErrorKind::no_space, "{} is too small: {} bytes, at least {} are needed", device.name(), device.size(),
                    min_device_bytes);
    std::uint64_t blocks = std::min(device.size() / block_bytes, MetadataSpaceMap::max_blocks);
    return std::unique_ptr<MetadataBuilder>(new MetadataBuilder(device, blocks));
}

MetadataBuilder::~MetadataBuilder() = default;

std::uint64_t MetadataBuilder::used_blocks() const { return stream_ ? stream_->position().value() : 0; }

std::uint32_t& MetadataBuilder::count(MetadataBlock block) {
    if (block.value() >= counts_.size())
        counts_.resize(std::max<std::uint64_t>(block.value() + 1, stream_->position().value()), 1);
    return counts_[block.value()];
}

Result<void> MetadataBuilder::superblock_begin(const PoolHeader& header) {
    header_ = header;
    TRY(begin_fresh_metadata(device_));
    stream_ = TRY(BlockStream::start(device_, MetadataBlock(1), MetadataBlock(blocks_)));
    data_counts_ = TRY_WITHIN(device_.name(), DataCounts::start(*stream_, header.data_blocks, blocks_));
    keys_.reserve(2 * leaf_entries);
    values_.reserve(2 * leaf_entries);
    inner_.emplace(*stream_);
    return {};
}

Result<void> MetadataBuilder::definition_begin(DefinitionId id) {
    auto [place, is_new] = definitions_.try_emplace(id);
    if (!is_new)
        return fail(ErrorKind::damaged, "definition {} twice", id);
    open_definition_ = &place->second;
    open_definition_->first = definition_leaves_.size();
    next_virtual_block_ = 0;
    return {};
}

Result<void> MetadataBuilder::definition_end() {
    TRY(write_waiting());
    open_definition_->leaves = definition_leaves_.size() - open_definition_->first;
    open_definition_ = nullptr;
    return {};
}

Result<void> MetadataBuilder::device_begin(const DeviceHeader& header) {
    devices_.push_back({header, {}});
    next_virtual_block_ = 0;
    return {};
}

Result<void> MetadataBuilder::device_end() {
    devices_.back().root = TRY(device_root());
    last_shared_.reset();
    only_reference_ = nullptr;
    return {};
}

Result<void> MetadataBuilder::map(std::span<const Mapping> mappings) {
    TRY(expand_only_reference());
    for (const Mapping& mapping : mappings) {
        std::uint64_t key = mapping.virtual_begin.value();
        if (key < next_virtual_block_ || mapping.length > ~std::uint64_t{0} - key || mapping.time > thin::max_time ||
            mapping.data_begin.value() >= header_.data_blocks || mapping.length > header_.data_blocks - mapping.data_begin.value())
            return fail(ErrorKind::damaged, "{} blocks from virtual block {} on, mapped to data block {} at time {}: out of order or range",
                        mapping.length, mapping.virtual_begin, mapping.data_begin, mapping.time);
        std::uint64_t packed = mapping.data_begin.value() << 24 | mapping.time;
        next_virtual_block_ = key + mapping.length;
        for (; key != next_virtual_block_; packed += std::uint64_t{1} << 24) {
            keys_.push_back(key++);
            values_.push_back(packed);
            if (keys_.size() == most_waiting)
                TRY(write_full_leaves());
        }
    }
    return {};
}

Result<void> MetadataBuilder::reference(DefinitionId id) {
    auto found = definitions_.find(id);
    if (found == definitions_.end())
        return fail(ErrorKind::damaged, "a reference to definition {}, which there is not", id);
    Definition& definition = found->second;
    if (definition.leaves == 0)
        return {};
    bool first = keys_.empty() && inner_->empty() && only_reference_ == nullptr;
    TRY(expand_only_reference());
    if (definition_leaves_[definition.first].key < next_virtual_block_)
        return fail(ErrorKind::damaged, "definition {} where its blocks are mapped already", id);
    if (first)
        only_reference_ = &definition;
    else
        for (std::size_t index = 0; index < definition.leaves; ++index)
            TRY(add_shared(definition_leaves_[definition.first + index]));
    const Leaf& last = definition_leaves_[definition.first + definition.leaves - 1];
    next_virtual_block_ = std::max(next_virtual_block_, last.last_key + 1);
    return {};
}

// The device turns out to be more than the one reference.
Result<void> MetadataBuilder::expand_only_reference() {
    if (only_reference_ == nullptr)
        return {};
    Definition* definition = std::exchange(only_reference_, nullptr);
    for (std::size_t index = 0; index < definition->leaves; ++index)
        TRY(add_shared(definition_leaves_[definition->first + index]));
    return {};
}

// As long as what waits is enough for a full leaf and for one more.
Result<void> MetadataBuilder::write_full_leaves() {
    while (keys_.size() >= most_waiting)
        TRY(write_leaf(leaf_entries));
    return {};
}

// All that waits, as one leaf or as two halves.
Result<void> MetadataBuilder::write_waiting() {
    TRY(write_full_leaves());
    if (keys_.size() > leaf_entries)
        TRY(write_leaf(keys_.size() / 2));
    if (!keys_.empty())
        TRY(write_leaf(keys_.size()));
    return {};
}

// The first of the entries that wait.
Result<void> MetadataBuilder::write_leaf(std::size_t entries) {
    std::array<std::byte, leaf_entries * mapping_bytes> packed;
    for (std::size_t index = 0; index < entries; ++index)
        store_little<std::uint64_t>(packed.data() + index * mapping_bytes, values_[index]);
    MetadataBlock location = TRY(write_node(*stream_, true, mapping_bytes, {keys_.data(), entries}, packed.data()));
    TRY(data_counts_->increment({values_.data(), entries}));
    if (open_definition_ != nullptr) {
        definition_leaves_.push_back(
            {keys_.front(), keys_[entries - 1], static_cast<std::uint32_t>(location.value()), static_cast<std::uint32_t>(entries)});
        count(location) = 0;
    } else {
        TRY(inner_->add(keys_.front(), location));
        last_shared_.reset();
    }
    keys_.erase(keys_.begin(), keys_.begin() + static_cast<std::ptrdiff_t>(entries));
    values_.erase(values_.begin(), values_.begin() + static_cast<std::ptrdiff_t>(entries));
    return {};
}

// A definition's leaf becomes the device's next one, or its entries join those that wait.
Result<void> MetadataBuilder::add_shared(const Leaf& leaf) {
    if (leaf.entries < least_entries || (!keys_.empty() && keys_.size() < least_entries)) {
        TRY(absorb(leaf, false));
        return write_full_leaves();
    }
    TRY(write_waiting());
    TRY(inner_->add(leaf.key, MetadataBlock(leaf.location)));
    ++count(MetadataBlock(leaf.location));
    last_shared_ = leaf;
    return {};
}

// Puts a copy of a leaf's entries before or after those that wait.
Result<void> MetadataBuilder::absorb(const Leaf& leaf, bool before) {
    AlignedBuffer block(block_bytes);
    TRY(stream_->read(MetadataBlock(leaf.location), BlockKind::node, block.bytes()));
    pdata::Node node(block.data());
    std::vector<std::uint64_t> keys(leaf.entries);
    std::vector<std::uint64_t> values(leaf.entries);
    for (std::uint32_t index = 0; index < leaf.entries; ++index) {
        keys[index] = node.key(index);
        values[index] = load_little<std::uint64_t>(node.value(index));
    }
    keys_.insert(before ? keys_.begin() : keys_.end(), keys.begin(), keys.end());
    values_.insert(before ? values_.begin() : values_.end(), values.begin(), values.end());
    return {};
}

Result<MetadataBlock> MetadataBuilder::device_root() {
    if (only_reference_ != nullptr) {
        MetadataBlock root = TRY(tree_of(*only_reference_));
        ++count(root);
        return root;
    }
    if (!keys_.empty() && keys_.size() < least_entries && last_shared_) {
        --count(inner_->take_back());
        TRY(absorb(*last_shared_, true));
    }
    TRY(write_waiting());
    if (inner_->empty())
        return write_node(*stream_, true, mapping_bytes, {}, nullptr);
    return inner_->finish();
}

// The tree of a definition's leaves alone, made when it is first asked for.
Result<MetadataBlock> MetadataBuilder::tree_of(Definition& definition) {
    if (definition.root.value() != 0)
        return definition.root;
    if (definition.leaves == 1) {
        definition.root = MetadataBlock(definition_leaves_[definition.first].location);
        return definition.root;
    }
    InnerLevels inner(*stream_);
    for (std::size_t index = 0; index < definition.leaves; ++index) {
        const Leaf& leaf = definition_leaves_[definition.first + index];
        TRY(inner.add(leaf.key, MetadataBlock(leaf.location)));
        ++count(MetadataBlock(leaf.location));
    }
    definition.root = TRY(inner.finish());
    count(definition.root) = 0;
    return definition.root;
}

Result<void> MetadataBuilder::superblock_end() {
    TRY(forget_unused_leaves());
    thin::Superblock superblock;
    superblock.time = header_.time;
    superblock.transaction_id = header_.transaction_id;
    superblock.data_block_sectors = header_.data_block_sectors;
    superblock.metadata_blocks_at_creation = blocks_;
    superblock.uuid = TRY(parse_uuid(header_.uuid));

    std::ranges::sort(devices_, {}, [](const Device& device) { return device.header.id; });
    std::vector<FreshDevice> devices;
    for (const auto& [header, root] : devices_) {
        if (header.id.value() > thin::max_thin_id || (!devices.empty() && devices.back().id == header.id))
            return fail(ErrorKind::damaged, "device {} twice, or not a possible id", header.id);
        devices.push_back({header.id,
                           root,
                           {.mapped_blocks = header.mapped_blocks,
                            .transaction_id = header.transaction_id,
                            .creation_time = header.creation_time,
                            .snapshotted_time = header.snapshotted_time}});
    }
    TRY(write_device_trees(*stream_, devices, superblock));
    TRY(data_counts_->finish()).pack(superblock.data_space_map_root.data());
    TRY(write_metadata_space_map(*stream_, counts_, blocks_)).pack(superblock.metadata_space_map_root.data());
    return end_fresh_metadata(device_, *stream_, superblock);
}

// Leaves of definitions that no device has, or only as copies, are free; their entries were counted when they were written.
Result<void> MetadataBuilder::forget_unused_leaves() {
    AlignedBuffer block(block_bytes);
    std::vector<std::uint64_t> values;
    for (const Leaf& leaf : definition_leaves_) {
        if (count(MetadataBlock(leaf.location)) != 0)
            continue;
        TRY(stream_->read(MetadataBlock(leaf.location), BlockKind::node, block.bytes()));
        pdata::Node node(block.data());
        values.clear();
        for (std::uint32_t index = 0; index < leaf.entries; ++index)
            values.push_back(load_little<std::uint64_t>(node.value(index)));
        TRY(data_counts_->decrement(values));
    }
    return {};
}

}  // namespace lamella::tools
