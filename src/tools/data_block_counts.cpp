// SPDX-License-Identifier: Apache-2.0
#include "tools/data_block_counts.h"

#include <algorithm>

namespace lamella::tools {

Result<std::unique_ptr<DataBlockCounts>> DataBlockCounts::create(std::uint64_t blocks) {
    std::unique_ptr<DataBlockCounts> counts(new DataBlockCounts);
    counts->blocks_ = blocks;
    // Whole regions, so that nobody has to look for the end.
    std::uint64_t regions = blocks / blocks_per_region + 1;
    counts->words_ =
        TRY_WITHIN("counts of data blocks", ZeroedArray<std::uint64_t>::create(regions * (blocks_per_region / blocks_per_word)));
    counts->regions_ = TRY_WITHIN("counts of data blocks", ZeroedArray<Region*>::create(regions));
    return counts;
}

DataBlockCounts::~DataBlockCounts() {
    for (std::uint64_t index = 0; has_shared() && index < regions_.size(); ++index)
        delete regions_[index];
}

void DataBlockCounts::add_further(DataBlock block) {
    std::atomic_ref slot(regions_[block.value() / blocks_per_region]);
    Region* region = slot.load(std::memory_order_acquire);
    if (region == nullptr) {
        auto made = std::make_unique<Region>();
        if (slot.compare_exchange_strong(region, made.get(), std::memory_order_acq_rel))
            region = made.release();
        has_shared_.store(true, std::memory_order_relaxed);
    }
    std::lock_guard lock(region->mutex);
    if (region->bytes != nullptr) {
        add_to_byte(*region, block, 1);
        return;
    }
    auto offset = static_cast<std::uint32_t>(block.value() % blocks_per_region);
    auto place = std::ranges::lower_bound(region->few, offset, {}, &Few::offset);
    if (place != region->few.end() && place->offset == offset) {
        ++place->count;
        return;
    }
    region->few.insert(place, {offset, 1});
    if (region->few.size() <= most_few)
        return;
    region->bytes = std::make_unique<std::uint8_t[]>(blocks_per_region);
    DataBlock first(block.value() - offset);
    for (const Few& entry : region->few)
        add_to_byte(*region, first + entry.offset, entry.count);
    region->few = {};
}

void DataBlockCounts::add_to_byte(Region& region, DataBlock block, std::uint64_t more) {
    std::uint8_t& byte = region.bytes[block.value() % blocks_per_region];
    std::uint64_t fits = std::min<std::uint64_t>(more, full_byte - byte);
    byte = static_cast<std::uint8_t>(byte + fits);
    if (fits == more)
        return;
    std::lock_guard lock(overflow_mutex_);
    overflow_[block.value()] += more - fits;
}

std::uint64_t DataBlockCounts::further(DataBlock block) const {
    const Region* region = regions_[block.value() / blocks_per_region];
    if (region == nullptr)
        return 0;
    std::uint64_t offset = block.value() % blocks_per_region;
    if (region->bytes == nullptr) {
        auto place = std::ranges::lower_bound(region->few, offset, {}, &Few::offset);
        return place != region->few.end() && place->offset == offset ? place->count : 0;
    }
    std::uint8_t byte = region->bytes[offset];
    if (byte < full_byte)
        return byte;
    auto rest = overflow_.find(block.value());
    return byte + (rest == overflow_.end() ? 0 : rest->second);
}

std::uint64_t DataBlockCounts::used() const {
    std::uint64_t used = 0;
    for (std::uint64_t index = 0; index * blocks_per_word < blocks_; ++index)
        used += static_cast<unsigned>(__builtin_popcountll(word_of_ones(index)));
    return used;
}

}  // namespace lamella::tools
