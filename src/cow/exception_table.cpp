// SPDX-License-Identifier: Apache-2.0
#include "cow/exception_table.h"

#include <algorithm>
#include <bit>
#include <new>

namespace lamella::cow {

ExceptionTable::ExceptionTable(std::uint64_t origin_chunks)
    : origin_chunks_(origin_chunks), directory_(static_cast<Word*>(std::calloc(origin_chunks / bucket_chunks + 1, sizeof(Word)))) {
    if (directory_ == nullptr)
        throw std::bad_alloc();
}

ExceptionTable::~ExceptionTable() {
    if (size() == 0)
        return;
    for (std::uint64_t bucket = 0; bucket <= origin_chunks_ / bucket_chunks; ++bucket)
        set_runs(bucket, {});
}

std::span<const ExceptionTable::Word> ExceptionTable::runs_of(std::uint64_t bucket) const {
    const Word& slot = directory_[bucket];
    if (slot == 0)
        return {};
    if (slot & 1)
        return {&slot, 1};
    const auto* block = reinterpret_cast<const Block*>(slot);
    return {block->runs(), block->count};
}

void ExceptionTable::set_runs(std::uint64_t bucket, std::span<const Word> runs) {
    Word& slot = directory_[bucket];
    Block* old = slot != 0 && (slot & 1) == 0 ? reinterpret_cast<Block*>(slot) : nullptr;
    if (runs.size() <= 1) {
        slot = runs.empty() ? 0 : runs[0];
        std::free(old);
        return;
    }
    // 2, 3, 4, 6, 8, 12, 16, 24, ...
    std::size_t capacity = 2;
    while (capacity < runs.size())
        capacity += std::has_single_bit(capacity) ? std::max<std::size_t>(1, capacity / 2) : capacity / 3;
    Block* block = old;
    if (old == nullptr || old->capacity != capacity) {
        block = static_cast<Block*>(std::malloc(sizeof(Block) + capacity * sizeof(Word)));
        if (block == nullptr)
            throw std::bad_alloc();
        block->capacity = static_cast<std::uint16_t>(capacity);
    }
    block->count = static_cast<std::uint16_t>(runs.size());
    std::copy(runs.begin(), runs.end(), block->runs());
    slot = reinterpret_cast<Word>(block);
    if (old != block)
        std::free(old);
}

ExceptionTable::Run ExceptionTable::find_locked(OriginChunk first, std::uint64_t limit) const {
    const std::uint64_t low = first.value() % bucket_chunks;
    limit = std::min(limit, bucket_chunks - low);
    if (first.value() >= origin_chunks_)
        return {std::nullopt, limit};
    const std::span<const Word> runs = runs_of(first.value() / bucket_chunks);
    const auto after = std::partition_point(runs.begin(), runs.end(), [&](Word word) { return end_of(word) <= low; });
    if (after == runs.end())
        return {std::nullopt, limit};
    if (low_of(*after) > low)
        return {std::nullopt, std::min(limit, low_of(*after) - low)};
    return {StoreChunk(where_of(*after) + (low - low_of(*after))), std::min(limit, end_of(*after) - low)};
}

ExceptionTable::Run ExceptionTable::find(OriginChunk first, std::uint64_t limit) const {
    const Shard& shard = shard_of(first);
    std::lock_guard lock(shard.mutex);
    return find_locked(first, limit);
}

bool ExceptionTable::overlaps(const Shard& shard, std::uint64_t first, std::uint64_t count) {
    return std::any_of(shard.holds.begin(), shard.holds.end(),
                       [&](const Hold& hold) { return hold.first < first + count && first < hold.first + hold.count; });
}

void ExceptionTable::hold(OriginChunk first, std::uint64_t count) {
    for (std::uint64_t here = 0; count > 0; first += here, count -= here) {
        here = in_bucket(first, count);
        Shard& shard = shard_of(first);
        std::lock_guard lock(shard.mutex);
        shard.holds.push_back({first.value(), here});
    }
}

bool ExceptionTable::release(OriginChunk first, std::uint64_t count) {
    for (std::uint64_t here = 0; count > 0; first += here, count -= here) {
        here = in_bucket(first, count);
        Shard& shard = shard_of(first);
        std::lock_guard lock(shard.mutex);
        const auto found = std::find_if(shard.holds.begin(), shard.holds.end(),
                                        [&](const Hold& hold) { return hold.first == first.value() && hold.count == here; });
        *found = shard.holds.back();
        shard.holds.pop_back();
    }
    return watched_.load();
}

bool ExceptionTable::present(OriginChunk first, std::uint64_t count) const {
    for (Run run; count > 0; first += run.count, count -= run.count) {
        run = find(first, count);
        if (!run.where)
            return false;
    }
    return true;
}

bool ExceptionTable::settled(OriginChunk first, std::uint64_t count) const {
    while (count > 0) {
        const Shard& shard = shard_of(first);
        std::lock_guard lock(shard.mutex);
        const Run run = find_locked(first, count);
        if (!run.where || overlaps(shard, first.value(), run.count))
            return false;
        first += run.count;
        count -= run.count;
    }
    return true;
}

bool ExceptionTable::held(OriginChunk first, std::uint64_t count) const {
    for (std::uint64_t here = 0; count > 0; first += here, count -= here) {
        here = in_bucket(first, count);
        const Shard& shard = shard_of(first);
        std::lock_guard lock(shard.mutex);
        if (overlaps(shard, first.value(), here))
            return true;
    }
    return false;
}

bool ExceptionTable::insert(OriginChunk first, StoreChunk where, std::uint64_t count) {
    for (std::uint64_t here = 0; count > 0; first += here, where += here, count -= here) {
        here = in_bucket(first, count);
        if (!insert_in_bucket(first, where, here))
            return false;
    }
    return true;
}

bool ExceptionTable::insert_in_bucket(OriginChunk first, StoreChunk where, std::uint64_t count) {
    const std::uint64_t low = first.value() % bucket_chunks;
    std::lock_guard lock(shard_of(first).mutex);
    const std::span<const Word> runs = runs_of(first.value() / bucket_chunks);
    std::array<Word, bucket_chunks> changed;
    const auto place = std::partition_point(runs.begin(), runs.end(), [&](Word word) { return end_of(word) <= low; });
    if (place != runs.end() && low_of(*place) < low + count)
        return false;
    Word word = pack(low, count, where.value());
    auto before = place;
    auto after = place;
    if (before != runs.begin()) {
        const Word left = *(before - 1);
        if (end_of(left) == low && where_of(left) + count_of(left) == where.value()) {
            word = pack(low_of(left), count_of(left) + count, where_of(left));
            --before;
        }
    }
    if (after != runs.end() && low_of(*after) == end_of(word) && where_of(*after) == where_of(word) + count_of(word)) {
        word = pack(low_of(word), count_of(word) + count_of(*after), where_of(word));
        ++after;
    }
    auto end = std::copy(runs.begin(), before, changed.begin());
    *end++ = word;
    end = std::copy(after, runs.end(), end);
    set_runs(first.value() / bucket_chunks, {changed.begin(), end});
    size_.fetch_add(count, std::memory_order_relaxed);
    return true;
}

bool ExceptionTable::erase(OriginChunk chunk) {
    if (chunk.value() >= origin_chunks_)
        return false;
    const std::uint64_t low = chunk.value() % bucket_chunks;
    std::lock_guard lock(shard_of(chunk).mutex);
    const std::span<const Word> runs = runs_of(chunk.value() / bucket_chunks);
    const auto place = std::partition_point(runs.begin(), runs.end(), [&](Word word) { return end_of(word) <= low; });
    if (place == runs.end() || low_of(*place) > low)
        return false;
    std::array<Word, bucket_chunks> changed;
    auto end = std::copy(runs.begin(), place, changed.begin());
    if (low_of(*place) < low)
        *end++ = pack(low_of(*place), low - low_of(*place), where_of(*place));
    if (low + 1 < end_of(*place))
        *end++ = pack(low + 1, end_of(*place) - low - 1, where_of(*place) + (low + 1 - low_of(*place)));
    end = std::copy(place + 1, runs.end(), end);
    set_runs(chunk.value() / bucket_chunks, {changed.begin(), end});
    size_.fetch_sub(1, std::memory_order_relaxed);
    return true;
}

std::uint64_t ExceptionTable::block_bytes() const {
    std::uint64_t bytes = 0;
    for (std::uint64_t bucket = 0; bucket <= origin_chunks_ / bucket_chunks; ++bucket) {
        const Word slot = directory_[bucket];
        if (slot != 0 && (slot & 1) == 0)  // malloc: 8 bytes of its own, in steps of 16
            bytes += (8 + sizeof(Block) + reinterpret_cast<const Block*>(slot)->capacity * sizeof(Word) + 15) / 16 * 16;
    }
    return bytes;
}

}  // namespace lamella::cow
