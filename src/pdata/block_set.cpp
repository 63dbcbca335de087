// SPDX-License-Identifier: Apache-2.0
#include "pdata/block_set.h"

#include <algorithm>
#include <utility>

namespace lamella::pdata {

bool BlockSet::insert(std::uint64_t block) {
    Page& page = pages_[block >> page_bits];
    auto offset = static_cast<std::uint16_t>(block);
    if (page.words.empty()) {
        auto place = page.offsets.end();
        if (!page.offsets.empty() && page.offsets.back() >= offset)  // mostly they come in ascending order
            place = std::lower_bound(page.offsets.begin(), page.offsets.end(), offset);
        if (place != page.offsets.end() && *place == offset)
            return false;
        if (page.offsets.size() < most_offsets) {
            page.offsets.insert(place, offset);
            ++page.count;
            ++count_;
            return true;
        }
        page.words.resize(page_words);
        for (std::uint16_t member : page.offsets)
            page.words[member / 64] |= std::uint64_t{1} << (member % 64);
        page.offsets = {};
    }
    std::uint64_t& word = page.words[offset / 64];
    std::uint64_t bit = std::uint64_t{1} << (offset % 64);
    if ((word & bit) != 0)
        return false;
    word |= bit;
    ++page.count;
    ++count_;
    return true;
}

bool BlockSet::erase(std::uint64_t block) {
    auto found = pages_.find(block >> page_bits);
    if (found == pages_.end())
        return false;
    Page& page = found->second;
    auto offset = static_cast<std::uint16_t>(block);
    if (page.words.empty()) {
        auto place = std::lower_bound(page.offsets.begin(), page.offsets.end(), offset);
        if (place == page.offsets.end() || *place != offset)
            return false;
        page.offsets.erase(place);
    } else {
        std::uint64_t& word = page.words[offset / 64];
        std::uint64_t bit = std::uint64_t{1} << (offset % 64);
        if ((word & bit) == 0)
            return false;
        word &= ~bit;
    }
    --count_;
    if (--page.count == 0)
        pages_.erase(found);
    return true;
}

bool BlockSet::contains(std::uint64_t block) const {
    auto found = pages_.find(block >> page_bits);
    if (found == pages_.end())
        return false;
    const Page& page = found->second;
    auto offset = static_cast<std::uint16_t>(block);
    if (page.words.empty())
        return std::binary_search(page.offsets.begin(), page.offsets.end(), offset);
    return (page.words[offset / 64] >> (offset % 64) & 1) != 0;
}

void BlockSet::insert(const BlockSet& other) {
    other.for_each([this](std::uint64_t block) { insert(block); });
}

void BlockSet::erase(const BlockSet& other) {
    other.for_each([this](std::uint64_t block) { erase(block); });
}

void BlockSet::clear() {
    pages_.clear();
    count_ = 0;
}

}  // namespace lamella::pdata
