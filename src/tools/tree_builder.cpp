// SPDX-License-Identifier: Apache-2.0
#include "tools/tree_builder.h"

#include <cstring>

#include "base/endian.h"
#include "pdata/btree.h"

namespace lamella::tools {

namespace {

constexpr std::uint32_t child_bytes = 8;
constexpr std::size_t inner_entries = pdata::max_node_entries(child_bytes);

// With so many entries waiting a full node can be written, and what is left is enough for another.
constexpr std::size_t enough(std::size_t node_entries) { return node_entries + node_entries / 3; }

// How many of the last entries go into the next node.
constexpr std::size_t last_share(std::size_t waiting, std::size_t node_entries) { return waiting > node_entries ? waiting / 2 : waiting; }

}  // namespace

Result<MetadataBlock> write_node(BlockStream& stream, bool leaf, std::uint32_t value_size, std::span<const std::uint64_t> keys,
                                 const std::byte* values) {
    BlockStream::Place place = TRY(stream.next(pdata::BlockKind::node));
    std::uint32_t max_entries = pdata::max_node_entries(value_size);
    std::byte* bytes = place.bytes;
    store_little<std::uint32_t>(bytes + 4, leaf ? pdata::Node::leaf_flag : pdata::Node::internal_flag);
    store_little<std::uint32_t>(bytes + 16, static_cast<std::uint32_t>(keys.size()));
    store_little<std::uint32_t>(bytes + 20, max_entries);
    store_little<std::uint32_t>(bytes + 24, value_size);
    bytes += pdata::Node::header_bytes;
    for (std::size_t index = 0; index < keys.size(); ++index)
        store_little<std::uint64_t>(bytes + index * 8, keys[index]);
    if (!keys.empty())
        std::memcpy(bytes + std::size_t{max_entries} * 8, values, keys.size() * value_size);
    return place.location;
}

Result<void> InnerLevels::add(std::size_t level, std::uint64_t key, MetadataBlock node) {
    if (level == levels_.size())
        levels_.emplace_back();
    levels_[level].keys.push_back(key);
    levels_[level].nodes.push_back(node.value());
    if (levels_[level].keys.size() >= enough(inner_entries))
        TRY(write_front(level, inner_entries));
    return {};
}

Result<void> InnerLevels::write_front(std::size_t level, std::size_t entries) {
    std::uint64_t key = levels_[level].keys.front();
    std::vector<std::byte> values(entries * child_bytes);
    for (std::size_t index = 0; index < entries; ++index)
        store_little<std::uint64_t>(values.data() + index * child_bytes, levels_[level].nodes[index]);
    MetadataBlock node = TRY(write_node(stream_, false, child_bytes, {levels_[level].keys.data(), entries}, values.data()));
    Level& written = levels_[level];
    written.keys.erase(written.keys.begin(), written.keys.begin() + static_cast<std::ptrdiff_t>(entries));
    written.nodes.erase(written.nodes.begin(), written.nodes.begin() + static_cast<std::ptrdiff_t>(entries));
    written.wrote = true;
    return add(level + 1, key, node);
}

MetadataBlock InnerLevels::take_back() {
    Level& bottom = levels_.front();
    MetadataBlock node(bottom.nodes.back());
    bottom.keys.pop_back();
    bottom.nodes.pop_back();
    if (bottom.nodes.empty())
        levels_.clear();
    return node;
}

Result<MetadataBlock> InnerLevels::finish() {
    for (std::size_t level = 0;; ++level) {
        if (!levels_[level].wrote && levels_[level].nodes.size() == 1) {
            MetadataBlock root(levels_[level].nodes.front());
            levels_.clear();
            return root;
        }
        while (!levels_[level].nodes.empty())
            TRY(write_front(level, last_share(levels_[level].nodes.size(), inner_entries)));
    }
}

Result<void> TreeBuilder::add(std::uint64_t key, const std::byte* value) {
    keys_.push_back(key);
    values_.insert(values_.end(), value, value + value_size_);
    std::size_t node_entries = pdata::max_node_entries(value_size_);
    if (keys_.size() >= enough(node_entries))
        TRY(write_front(node_entries));
    return {};
}

Result<void> TreeBuilder::write_front(std::size_t entries) {
    MetadataBlock leaf = TRY(write_node(stream_, true, value_size_, {keys_.data(), entries}, values_.data()));
    TRY(inner_.add(keys_.front(), leaf));
    keys_.erase(keys_.begin(), keys_.begin() + static_cast<std::ptrdiff_t>(entries));
    values_.erase(values_.begin(), values_.begin() + static_cast<std::ptrdiff_t>(entries * value_size_));
    return {};
}

Result<MetadataBlock> TreeBuilder::finish() {
    if (keys_.empty() && inner_.empty())
        return write_node(stream_, true, value_size_, {}, nullptr);
    while (!keys_.empty())
        TRY(write_front(last_share(keys_.size(), pdata::max_node_entries(value_size_))));
    return inner_.finish();
}

}  // namespace lamella::tools
