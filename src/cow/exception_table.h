// SPDX-License-Identifier: Apache-2.0
//
// Which chunks of an origin a store holds, and where. Internal to the cow floor.
//
// A bucket is 256 chunks of the origin that follow each other, and has one word in a directory. The word is a run of chunks that follow
// each other in the origin and in the store, packed into 8 bytes; or the address of a block of such runs, sorted. So one exception alone
// in its bucket takes no memory of its own, and two or more at most 16 bytes each, the block's head and malloc's share included (blocks
// grow by steps of at most a half). Neighbours become one run, as in the kernel's table, of at most 256.
//
// Buckets are spread over shards with a lock each, held for a lookup or a change in memory. Under the same lock stand the holds: ranges of
// chunks that an I/O has looked up and is still using, so that whoever changes what the lookup said can wait for it; and those whose
// exceptions are in the table but not yet durable.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/strong.h"
#include "cow/exception_store.h"

namespace lamella::cow {

// Threads: any, where nothing else is said.
class ExceptionTable {
  public:
    // Chunks of a store's device are below this.
    static constexpr std::uint64_t most_store_chunks = 1ull << 47;
    static constexpr std::uint64_t bucket_chunks = 256;

    explicit ExceptionTable(std::uint64_t origin_chunks);
    ~ExceptionTable();
    ExceptionTable(const ExceptionTable&) = delete;

    std::uint64_t origin_chunks() const { return origin_chunks_; }

    // Chunks from `first` on that are of one kind: in the store, one after the other from `where` on; or not there. At least 1, at most
    // `limit` and not beyond the bucket.
    struct Run {
        std::optional<StoreChunk> where;
        std::uint64_t count = 0;
    };
    Run find(OriginChunk first, std::uint64_t limit) const;

    // The same, and the run is held if it is in the store (`present`), or if it is not, until release(). `hold(run)` may refuse, under
    // the lock.
    enum class Holds { absent, present };
    Run find_and_hold(OriginChunk first, std::uint64_t limit, Holds which) {
        return find_and_hold(first, limit, which, [](const Run&) { return true; });
    }
    template <typename Allowed>
    Run find_and_hold(OriginChunk first, std::uint64_t limit, Holds which, Allowed allowed) {
        Shard& shard = shard_of(first);
        std::lock_guard lock(shard.mutex);
        const Run run = find_locked(first, limit);
        if (run.where.has_value() == (which == Holds::present) && allowed(run))
            shard.holds.push_back({first.value(), run.count});
        return run;
    }
    // Held until release(), whatever is found there: of chunks whose exceptions aren't durable yet.
    void hold(OriginChunk first, std::uint64_t count);
    // What was held with one call. True: somebody waits for holds to end, and must be told.
    bool release(OriginChunk first, std::uint64_t count);

    // Every chunk is in the store.
    bool present(OriginChunk first, std::uint64_t count) const;
    // Likewise, and none is held.
    bool settled(OriginChunk first, std::uint64_t count) const;
    bool held(OriginChunk first, std::uint64_t count) const;
    // From now on, or no longer, release() answers true.
    void watch_releases(bool watch) { watched_.store(watch); }

    // False, and nothing changed in the bucket concerned: a chunk is there already. One thread.
    bool insert(OriginChunk first, StoreChunk where, std::uint64_t count);
    // False: it isn't there. One thread.
    bool erase(OriginChunk chunk);

    // Chunks in the store.
    std::uint64_t size() const { return size_.load(std::memory_order_relaxed); }
    // Of the runs' blocks; the directory apart. For tests; no changes meanwhile.
    std::uint64_t block_bytes() const;

  private:
    // A run in a bucket: bit 0 is set, the first chunk (8 bits), the count less 1 (8 bits), the first chunk in the store (47 bits).
    using Word = std::uint64_t;
    struct Block {
        std::uint16_t count;
        std::uint16_t capacity;
        Word* runs() { return reinterpret_cast<Word*>(this + 1); }
        const Word* runs() const { return reinterpret_cast<const Word*>(this + 1); }
        std::uint32_t unused;
    };
    struct Hold {
        std::uint64_t first;
        std::uint64_t count;
    };
    struct alignas(64) Shard {
        mutable std::mutex mutex;
        std::vector<Hold> holds;
    };
    static constexpr std::size_t shard_count = 64;
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };

    static Word pack(std::uint64_t low, std::uint64_t count, std::uint64_t where) { return where << 17 | (count - 1) << 9 | low << 1 | 1; }
    static std::uint64_t low_of(Word word) { return word >> 1 & 255; }
    static std::uint64_t count_of(Word word) { return (word >> 9 & 255) + 1; }
    static std::uint64_t where_of(Word word) { return word >> 17; }
    static std::uint64_t end_of(Word word) { return low_of(word) + count_of(word); }

    Shard& shard_of(OriginChunk chunk) { return shards_[chunk.value() / bucket_chunks % shard_count]; }
    const Shard& shard_of(OriginChunk chunk) const { return shards_[chunk.value() / bucket_chunks % shard_count]; }
    static std::uint64_t in_bucket(OriginChunk first, std::uint64_t count) {
        return std::min(count, bucket_chunks - first.value() % bucket_chunks);
    }
    static bool overlaps(const Shard& shard, std::uint64_t first, std::uint64_t count);

    std::span<const Word> runs_of(std::uint64_t bucket) const;
    void set_runs(std::uint64_t bucket, std::span<const Word> runs);
    Run find_locked(OriginChunk first, std::uint64_t limit) const;
    bool insert_in_bucket(OriginChunk first, StoreChunk where, std::uint64_t count);

    const std::uint64_t origin_chunks_;
    std::unique_ptr<Word[], Free> directory_;  // calloc: what nobody touches takes no memory
    std::array<Shard, shard_count> shards_;
    std::atomic<std::uint64_t> size_{0};
    std::atomic<bool> watched_{false};
};

}  // namespace lamella::cow
