// SPDX-License-Identifier: Apache-2.0
//
// Where an origin's writes have nothing to wait for, as far as it is known. Internal to the cow floor.
//
// A write to an origin looks at the table of each of its snapshots. What all of them hold they hold as long as they are the origin's
// snapshots, so that it needs to be found out once: one bit for a unit of the origin, 4 KiB or a chunk of the snapshots' smallest.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace lamella::cow {

// Threads: any.
class SettledMap {
  public:
    // Bytes. The chunks of every snapshot are a power of two, `smallest_chunk` at least. Takes a bit for each unit of the origin; memory
    // that nobody has written to isn't taken. Null: there is none.
    static std::shared_ptr<SettledMap> make(std::uint64_t origin_bytes, std::uint64_t smallest_chunk) {
        const std::shared_ptr<SettledMap> made(new SettledMap(origin_bytes, smallest_chunk));
        return made->words_ != nullptr ? made : nullptr;
    }

    // Bytes [start, end), not empty. What is behind the end, as the origin may have grown, isn't known.
    bool settled(std::uint64_t start, std::uint64_t end) const {
        for (std::uint64_t unit = start / unit_bytes_; unit <= (end - 1) / unit_bytes_; ++unit)
            if (unit >= units_ || (word(unit).load(std::memory_order_acquire) & bit(unit)) == 0)
                return false;
        return true;
    }
    // Every snapshot holds each chunk that is in [start, end) in part, and nobody reads it from the origin in its name. Snapshots that end
    // before `start` weren't asked: of what lies before `known_from`, where the last chunk of the longest of them ends, nothing is said.
    void note(std::uint64_t start, std::uint64_t end, std::uint64_t known_from = 0) {
        start = (std::max(known_from, start / chunk_bytes_ * chunk_bytes_) + unit_bytes_ - 1) / unit_bytes_;
        end = std::min(units_, (end + chunk_bytes_ - 1) / chunk_bytes_ * chunk_bytes_ / unit_bytes_);
        for (std::uint64_t unit = start; unit < end; ++unit)
            word(unit).fetch_or(bit(unit), std::memory_order_release);
    }

  private:
    static constexpr std::uint64_t least_unit = 4096;

    SettledMap(std::uint64_t origin_bytes, std::uint64_t smallest_chunk)
        : chunk_bytes_(smallest_chunk),
          unit_bytes_(std::max(smallest_chunk, least_unit)),
          units_((origin_bytes + unit_bytes_ - 1) / unit_bytes_),
          words_(static_cast<std::uint64_t*>(std::calloc(units_ / 64 + 1, sizeof(std::uint64_t)))) {}
    struct Free {
        void operator()(std::uint64_t* memory) const { std::free(memory); }
    };

    std::atomic_ref<std::uint64_t> word(std::uint64_t unit) const { return std::atomic_ref(words_[unit / 64]); }
    static std::uint64_t bit(std::uint64_t unit) { return std::uint64_t{1} << unit % 64; }

    const std::uint64_t chunk_bytes_;
    const std::uint64_t unit_bytes_;
    const std::uint64_t units_;
    const std::unique_ptr<std::uint64_t[], Free> words_;
};

}  // namespace lamella::cow
