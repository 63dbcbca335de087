// SPDX-License-Identifier: Apache-2.0
#include "thin/mapping_cache.h"

#include <algorithm>

namespace lamella::thin {

// Memory that a data-path thread may still be reading; freed after a grace period. Many retirements share one period.
struct MappingBudget::Retired : GracePeriod::Waiter {
    MappingBudget* budget;
    std::vector<std::shared_ptr<void>> garbage;
    Retired* newer = nullptr;
};

MappingBudget::MappingBudget(GracePeriod& grace, std::uint64_t limit)
    : grace_(grace), limit_pages_(std::max<std::uint64_t>(1, limit / page_bytes)) {}

// By now no data path is left, and no period that runs may call back: the pool has waited for the last one.
MappingBudget::~MappingBudget() { delete pending_; }

void MappingBudget::retire(std::shared_ptr<void> garbage) {
    if (pending_ == nullptr) {
        pending_ = new Retired;
        pending_->budget = this;
        pending_->done = [](GracePeriod::Waiter& waiter) { delete static_cast<Retired*>(&waiter); };
    }
    pending_->garbage.push_back(std::move(garbage));
    // Handed over in batches: a period for each page would keep the reactors' notifications busy.
    if (pending_->garbage.size() >= 64) {
        Retired* batch = pending_;
        pending_ = nullptr;
        grace_.wait(*batch);
    }
}

void MappingBudget::added(MappingCache& cache, std::uint64_t page) {
    clock_.push_back({&cache, page});
    ++pages_;
    // Each place is looked at twice at most: the first look may only take its mark away.
    for (std::size_t looks = 2 * clock_.size(); pages_ > limit_pages_ && clock_.size() > 1 && looks > 0; --looks) {
        const Place place = clock_.front();
        clock_.pop_front();
        if (place.cache == &cache && place.page == page) {
            clock_.push_back(place);
            continue;
        }
        switch (place.cache->evict(place.page, false)) {
        case MappingCache::Evicted::evicted: --pages_; break;
        case MappingCache::Evicted::used: clock_.push_back(place); break;
        case MappingCache::Evicted::gone: break;
        }
    }
}

void MappingBudget::forget(MappingCache& cache) {
    std::erase_if(clock_, [&](const Place& place) { return place.cache == &cache; });
}

MappingCache::MappingCache(MappingBudget& budget, std::uint64_t blocks) : budget_(budget), directory_(new Directory(tables_for(blocks))) {}

MappingCache::~MappingCache() {
    drop_all();
    Directory* directory = directory_.load();
    for (std::atomic<Table*>& table : directory->tables)
        delete table.load();
    delete directory;
}

std::atomic<MappingCache::Page*>* MappingCache::slot(std::uint64_t page_index) {
    Directory* directory = directory_.load();
    const std::uint64_t table = page_index / table_pages;
    if (table >= directory->tables.size())
        return nullptr;
    Table* pages = directory->tables[table].load();
    return pages != nullptr ? &pages->pages[page_index % table_pages] : nullptr;
}

void MappingCache::insert(std::uint64_t first_block, std::unique_ptr<Page> page) {
    const std::uint64_t page_index = first_block / page_entries;
    Directory* directory = directory_.load();
    std::atomic<Table*>& table = directory->tables.at(page_index / table_pages);
    if (table.load() == nullptr)
        table.store(new Table);
    std::atomic<Page*>& place = table.load()->pages[page_index % table_pages];
    Page* former = place.exchange(page.release());
    if (former != nullptr) {
        budget_.retire(std::shared_ptr<Page>(former));
        return;
    }
    budget_.added(*this, page_index);
}

void MappingCache::set(VirtualBlock block, CachedMapping mapping) {
    std::atomic<Page*>* place = slot(block.value() / page_entries);
    if (place == nullptr)
        return;
    if (Page* page = place->load(); page != nullptr)
        page->words[block.value() % page_entries].store(mapping.word());
}

void MappingCache::clear(VirtualBlock first, VirtualBlock end) {
    std::uint64_t block = first.value();
    while (block < end.value()) {
        const std::uint64_t page_index = block / page_entries;
        const std::uint64_t page_end = std::min(end.value(), (page_index + 1) * page_entries);
        std::atomic<Page*>* place = slot(page_index);
        if (place == nullptr) {
            // The whole table is absent.
            const std::uint64_t table_blocks = page_entries * table_pages;
            block = (block / table_blocks + 1) * table_blocks;
            continue;
        }
        if (Page* page = place->load(); page != nullptr)
            for (std::uint64_t entry = block; entry < page_end; ++entry)
                page->words[entry % page_entries].store(0);
        block = page_end;
    }
}

MappingCache::Evicted MappingCache::evict(std::uint64_t page_index, bool force) {
    std::atomic<Page*>* place = slot(page_index);
    Page* page = place != nullptr ? place->load() : nullptr;
    if (page == nullptr)
        return Evicted::gone;
    if (!force && page->used.exchange(false))
        return Evicted::used;
    place->store(nullptr);
    budget_.retire(std::shared_ptr<Page>(page));
    return Evicted::evicted;
}

void MappingCache::drop_all() {
    for (const MappingBudget::Place& place : budget_.clock_)
        if (place.cache == this && evict(place.page, true) == Evicted::evicted)
            --budget_.pages_;
    budget_.forget(*this);
}

void MappingCache::grow(std::uint64_t blocks) {
    Directory* former = directory_.load();
    const std::uint64_t tables = tables_for(blocks);
    if (tables <= former->tables.size())
        return;
    auto larger = std::make_unique<Directory>(tables);
    for (std::size_t index = 0; index < former->tables.size(); ++index)
        larger->tables[index].store(former->tables[index].load());
    directory_.store(larger.release());
    budget_.retire(std::shared_ptr<Directory>(former));
}

}  // namespace lamella::thin
