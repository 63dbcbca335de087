// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace lamella::tools {

// Counts by the entries of one bitmap, for the few or many that a bitmap has no room for: 8 bytes a slot, at least half of them in use.
class CountTable {
  public:
    // What is counted for an entry, 0 at first. Valid until the next call.
    std::uint32_t& operator[](std::uint32_t entry) {
        if (used_ * 4 >= slots_.size() * 3)
            grow();
        Slot& slot = find(entry);
        if (slot.key == 0) {
            slot.key = entry + 1;
            ++used_;
        }
        return slot.count;
    }
    bool empty() const { return used_ == 0; }
    // Entries and counts in ascending order.
    std::vector<std::pair<std::uint32_t, std::uint32_t>> sorted() const {
        std::vector<std::pair<std::uint32_t, std::uint32_t>> entries;
        entries.reserve(used_);
        for (const Slot& slot : slots_)
            if (slot.key != 0)
                entries.emplace_back(slot.key - 1, slot.count);
        std::ranges::sort(entries);
        return entries;
    }

  private:
    struct Slot {
        std::uint32_t key = 0;  // entry + 1; 0: free
        std::uint32_t count = 0;
    };

    Slot& find(std::uint32_t entry) {
        std::size_t mask = slots_.size() - 1;
        std::size_t at = entry * 2654435761u & mask;
        while (slots_[at].key != 0 && slots_[at].key != entry + 1)
            at = (at + 1) & mask;
        return slots_[at];
    }
    void grow() {
        std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(std::max<std::size_t>(8, slots_.size() * 2)));
        for (const Slot& slot : old)
            if (slot.key != 0)
                find(slot.key - 1) = slot;
    }

    std::vector<Slot> slots_;  // a power of two of them, or none
    std::size_t used_ = 0;
};

}  // namespace lamella::tools
