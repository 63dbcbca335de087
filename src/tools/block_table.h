// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "tools/findings.h"
#include "tools/zeroed_array.h"

namespace lamella::tools {

// What a metadata block belongs to; a block that two claim is damage.
enum class BlockUse : std::uint8_t { none, superblock, device_tree, details_tree, mapping_tree, space_map };

std::string_view to_string(BlockUse use);

// What a walk over a pool's trees knows of one block. Fields that several parents work on are raised, never lowered, so that any
// number of threads may do it at once; where the least is wanted, the complement is kept.
struct BlockRecord {
    std::uint64_t lowest_key = 0;              // the greatest of what its parents allow
    std::uint64_t past_keys_complement = 0;    // of the least end that its parents allow; 0: no end
    std::uint32_t references = 0;              // parents
    std::uint32_t snapshotted_complement = 0;  // of the least snapshotted time of the volumes that lead here; 0: none
    std::uint32_t owner = 0;                   // 0: none, 1 + the volume's index, or many_owners
    std::uint32_t mapped = 0;                  // mappings at and below
    std::uint32_t faults = 0;                  // of it and below
    std::uint8_t height = 0;                   // 1 + levels below; 0: not known
    BlockUse use = BlockUse::none;
    std::uint8_t marks = 0;

    static constexpr std::uint32_t many_owners = 0xffffffff;
    static constexpr std::uint8_t queued = 1;      // for its visit
    static constexpr std::uint8_t live = 2;        // reached from the pool, not only from its metadata snapshot
    static constexpr std::uint8_t kept = 4;        // reached from a volume that isn't to be deleted
    static constexpr std::uint8_t unreadable = 8;  // or not what it should be: nothing below it is known

    std::uint32_t least_snapshotted() const { return ~snapshotted_complement; }
    bool has_end() const { return past_keys_complement != 0; }
    std::uint64_t past_keys() const { return ~past_keys_complement; }
};

template <typename T>
void raise(T& field, T value) {
    std::atomic_ref reference(field);
    T now = reference.load(std::memory_order_relaxed);
    while (now < value && !reference.compare_exchange_weak(now, value, std::memory_order_relaxed)) {}
}

// A record for each block of a metadata device, and the texts of what is wrong with some.
// Memory: 40 bytes a block that trees use; texts for at most most_faulty blocks.
class BlockTable {
  public:
    struct Fault {
        std::string text;
        // The keys that it is about; none: the whole block.
        struct Keys {
            std::uint64_t first;
            std::uint64_t last;
        };
        std::optional<Keys> keys{};
        Severity severity = Severity::needs_repair;
    };
    static constexpr std::size_t most_faulty = 10'000;
    static constexpr std::size_t most_faults_of_a_block = 8;

    static Result<std::unique_ptr<BlockTable>> create(std::uint64_t blocks);

    std::uint64_t blocks() const { return records_.size(); }
    BlockRecord& operator[](MetadataBlock block) { return records_[block.value()]; }
    const BlockRecord& operator[](MetadataBlock block) const { return records_[block.value()]; }

    // One parent more.
    void refer(MetadataBlock block) { std::atomic_ref((*this)[block].references).fetch_add(1, std::memory_order_relaxed); }
    // The first claim holds; returns what it was claimed for.
    BlockUse claim(MetadataBlock block, BlockUse use);
    // True: the mark is new.
    bool mark(MetadataBlock block, std::uint8_t mark) {
        return (std::atomic_ref((*this)[block].marks).fetch_or(mark, std::memory_order_relaxed) & mark) == 0;
    }
    // Narrows the keys that a block may have.
    void bound(MetadataBlock block, std::uint64_t lowest_key, bool has_end, std::uint64_t past_keys) {
        raise((*this)[block].lowest_key, lowest_key);
        if (has_end)
            raise((*this)[block].past_keys_complement, ~past_keys);
    }

    // Counts a fault, and keeps its text if there is room.
    void add_fault(MetadataBlock block, Fault fault);
    std::vector<Fault> faults(MetadataBlock block) const;
    // "metadata block 7: ...", of one that has a fault.
    std::optional<std::string> first_fault() const;

  private:
    BlockTable() = default;

    ZeroedArray<BlockRecord> records_;
    mutable std::mutex mutex_;
    std::unordered_map<std::uint64_t, std::vector<Fault>> faults_;
};

}  // namespace lamella::tools
