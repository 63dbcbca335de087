// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "base/strong.h"
#include "device/grace_period.h"

namespace lamella::thin {

// Where a virtual block lies and at which time of the pool it was mapped; or that it isn't mapped. One word, so that the data
// path reads it without a lock.
class CachedMapping {
  public:
    constexpr CachedMapping() = default;
    // `block` < 2^39, `time` < 2^24.
    constexpr CachedMapping(DataBlock block, std::uint32_t time) : word_(((block.value() + 1) << 24) | time) {}
    static constexpr CachedMapping from_word(std::uint64_t word) {
        CachedMapping mapping;
        mapping.word_ = word;
        return mapping;
    }

    constexpr bool mapped() const { return word_ != 0; }
    constexpr DataBlock block() const { return DataBlock((word_ >> 24) - 1); }
    constexpr std::uint32_t time() const { return static_cast<std::uint32_t>(word_ & 0xffffff); }
    constexpr std::uint64_t word() const { return word_; }

  private:
    std::uint64_t word_ = 0;
};

class MappingCache;

// Counts the pages of all caches of a pool, and evicts the ones not used lately when there are too many. Pool's thread only.
class MappingBudget {
  public:
    // `limit`: bytes that the pages may take in all; at least one page is kept.
    MappingBudget(GracePeriod& grace, std::uint64_t limit);
    ~MappingBudget();

    std::uint64_t bytes() const { return pages_ * page_bytes; }

    static constexpr std::uint64_t page_bytes = 4096 + 64;

  private:
    friend class MappingCache;
    struct Place {
        MappingCache* cache;
        std::uint64_t page;
    };
    struct Retired;

    void added(MappingCache& cache, std::uint64_t page);
    void forget(MappingCache& cache);
    void retire(std::shared_ptr<void> garbage);

    GracePeriod& grace_;
    std::uint64_t limit_pages_;
    std::uint64_t pages_ = 0;
    std::deque<Place> clock_;
    Retired* pending_ = nullptr;
};

// The mappings of one thin volume that are in memory: pages of 512 neighbouring virtual blocks. A page that is present tells
// all about its blocks; one that is absent tells nothing.
//
// Threads: find() on any thread, inside a grace section; everything else on the pool's thread.
class MappingCache {
  public:
    static constexpr std::uint64_t page_entries = 512;

    struct Page {
        std::array<std::atomic<std::uint64_t>, page_entries> words{};
        mutable std::atomic<bool> used{true};

        CachedMapping at(std::uint64_t block) const { return CachedMapping::from_word(words[block % page_entries].load()); }
    };

    MappingCache(MappingBudget& budget, std::uint64_t blocks);
    ~MappingCache();

    // Null: not in memory.
    const Page* find(std::uint64_t block) const {
        const Directory* directory = directory_.load();
        const std::uint64_t table = block / page_entries / table_pages;
        if (table >= directory->tables.size())
            return nullptr;
        const Table* pages = directory->tables[table].load();
        if (pages == nullptr)
            return nullptr;
        const Page* page = pages->pages[block / page_entries % table_pages].load();
        if (page != nullptr && !page->used.load(std::memory_order_relaxed))
            page->used.store(true, std::memory_order_relaxed);
        return page;
    }

    // Puts in the page that begins at `first_block`; may evict others, of any cache of the budget, but not this one.
    void insert(std::uint64_t first_block, std::unique_ptr<Page> page);
    // Changes a mapping, if its page is present.
    void set(VirtualBlock block, CachedMapping mapping);
    // Unmaps first .. end-1 in the pages that are present.
    void clear(VirtualBlock first, VirtualBlock end);
    // Drops every page: after an aborted transaction.
    void drop_all();
    // The volume has grown.
    void grow(std::uint64_t blocks);

  private:
    friend class MappingBudget;
    static constexpr std::uint64_t table_pages = 4096;

    struct Table {
        std::array<std::atomic<Page*>, table_pages> pages{};
    };
    struct Directory {
        explicit Directory(std::uint64_t count) : tables(count) {}
        std::vector<std::atomic<Table*>> tables;
    };

    static std::uint64_t tables_for(std::uint64_t blocks) {
        return (blocks + page_entries * table_pages - 1) / (page_entries * table_pages);
    }
    std::atomic<Page*>* slot(std::uint64_t page_index);
    // True: it was there, and not used lately (or `force`).
    enum class Evicted { gone, used, evicted };
    Evicted evict(std::uint64_t page_index, bool force);

    MappingBudget& budget_;
    std::atomic<Directory*> directory_;
};

}  // namespace lamella::thin
