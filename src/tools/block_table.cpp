// SPDX-License-Identifier: Apache-2.0
#include "tools/block_table.h"

namespace lamella::tools {

std::string_view to_string(BlockUse use) {
    switch (use) {
    case BlockUse::none: return "nothing";
    case BlockUse::superblock: return "the superblock";
    case BlockUse::device_tree: return "the tree of volumes";
    case BlockUse::details_tree: return "the tree of volumes' details";
    case BlockUse::mapping_tree: return "the volumes' mappings";
    case BlockUse::space_map: return "a space map";
    }
    __builtin_unreachable();
}

Result<std::unique_ptr<BlockTable>> BlockTable::create(std::uint64_t blocks) {
    std::unique_ptr<BlockTable> table(new BlockTable);
    table->records_ = TRY_WITHIN("records of metadata blocks", ZeroedArray<BlockRecord>::create(blocks));
    return table;
}

BlockUse BlockTable::claim(MetadataBlock block, BlockUse use) {
    BlockUse before = BlockUse::none;
    if (std::atomic_ref((*this)[block].use).compare_exchange_strong(before, use, std::memory_order_relaxed))
        return use;
    return before;
}

void BlockTable::add_fault(MetadataBlock block, Fault fault) {
    std::lock_guard lock(mutex_);
    ++(*this)[block].faults;
    auto found = faults_.find(block.value());
    if (found == faults_.end()) {
        if (faults_.size() >= most_faulty)
            return;
        found = faults_.try_emplace(block.value()).first;
    }
    if (found->second.size() < most_faults_of_a_block)
        found->second.push_back(std::move(fault));
}

std::vector<BlockTable::Fault> BlockTable::faults(MetadataBlock block) const {
    std::lock_guard lock(mutex_);
    auto found = faults_.find(block.value());
    return found == faults_.end() ? std::vector<Fault>() : found->second;
}

std::optional<std::string> BlockTable::first_fault() const {
    std::lock_guard lock(mutex_);
    if (faults_.empty())
        return std::nullopt;
    return fmt::format("metadata block {}: {}", faults_.begin()->first, faults_.begin()->second.front().text);
}

}  // namespace lamella::tools
