// SPDX-License-Identifier: Apache-2.0
//
// The metadata of one thin pool, as dm-thin keeps it: which virtual block of which thin device lies in which data block, who
// shares what, what is free. Everything between two commits is one transaction: after a crash the pool is as the last commit
// left it, or, when it struck inside commit(), maybe as that one did.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"
#include "pdata/block_set.h"

namespace lamella::thin {

// Where a virtual block is mapped, and the pool's time when the mapping was made.
struct BlockTime {
    DataBlock block{};       // below 2^40
    std::uint32_t time = 0;  // below 2^24

    // The value on disk: block << 24 | time.
    std::uint64_t packed() const { return block.value() << 24 | time; }
    static BlockTime unpack(std::uint64_t packed) { return {DataBlock(packed >> 24), static_cast<std::uint32_t>(packed & 0xffffff)}; }
    bool operator==(const BlockTime&) const = default;
};

struct Mapping {
    VirtualBlock virtual_block{};
    BlockTime where;
    bool operator==(const Mapping&) const = default;
};

// A mapping of a device is to be treated as shared if the device's snapshotted_time is later than the mapping's time.
struct DeviceDetails {
    std::uint64_t mapped_blocks = 0;
    std::uint64_t transaction_id = 0;    // of the pool, when the device was made
    std::uint32_t creation_time = 0;     // the pool's
    std::uint32_t snapshotted_time = 0;  // when it last was origin or snapshot in a create_snapshot(); the pool's
    bool operator==(const DeviceDetails&) const = default;
};

struct DeviceEntry {
    ThinId id{};
    DeviceDetails details;
};

struct BlockCounts {
    std::uint64_t total = 0;
    std::uint64_t free = 0;
    std::uint64_t used() const { return total - free; }
};

// How far a piece of long work came.
struct RemoveProgress {
    std::uint64_t unmapped = 0;  // mappings removed by this call
    VirtualBlock next{};         // where to go on
    bool done = false;
};

// Errors. Kinds: not_found (device or mapping), exists (device id, metadata snapshot), no_space (data or metadata), damaged,
// refused (read-only, needs_check set, transaction must be aborted), usage (arguments out of range), failed (I/O).
// When a call that changes something fails for want of space found beforehand, or for its arguments, nothing has changed. When
// it fails half way (damage, I/O), must_abort() is true from then on and every further change and commit() is refused until
// abort().
//
// Threads: none of its own; all calls on one thread at a time. Reads block the caller (a cached block costs no I/O).
class ThinMetadata {
  public:
    struct Format {
        std::uint32_t data_block_sectors = 128;
        std::uint64_t data_blocks = 0;
        std::size_t cache_bytes = default_cache_bytes;
    };
    struct Options {
        bool read_only = false;
        std::size_t cache_bytes = default_cache_bytes;  // of metadata blocks kept in memory, clean and dirty
    };
    static constexpr std::size_t default_cache_bytes = std::size_t{32} << 20;
    // 255 bitmaps of 16320 blocks; what a device has beyond is not used. (Linux: DM_SM_METADATA_MAX_BLOCKS.)
    static constexpr std::uint64_t max_metadata_blocks = 255 * 16320;

    // Formats the device, which it overwrites, and commits (durably: with a flush of its own). The device outlives the metadata.
    static Result<std::unique_ptr<ThinMetadata>> create(BlockDevice& device, const Format& format);
    // Reads the superblock and the roots of the space maps, nothing more. Fails with not_found if block 0 is all zeros
    // (unformatted), damaged if it isn't what it should be, unsupported for unknown features.
    static Result<std::unique_ptr<ThinMetadata>> open(BlockDevice& device, const Options& options);

    ~ThinMetadata();
    ThinMetadata(const ThinMetadata&) = delete;
    ThinMetadata& operator=(const ThinMetadata&) = delete;

    // --- The pool ---
    std::uint32_t data_block_sectors() const;
    std::uint64_t transaction_id() const;
    // Refused if the id isn't `old_id`.
    Result<void> set_transaction_id(std::uint64_t old_id, std::uint64_t new_id);
    // Steps with every snapshot.
    std::uint32_t time() const;
    bool read_only() const;
    // Nothing is uncommitted. Making it writable reads what opening it for reading alone may have passed over; it stays as it is if that
    // fails. Errors: unsupported features; damaged space maps.
    Result<void> set_read_only(bool read_only);
    bool needs_check() const;

    // --- Devices ---
    // A new device without mappings.
    Result<void> create_thin(ThinId id);
    // A new device with the mappings of `origin` as they are now. Refused when the pool's time has reached its 24-bit limit.
    Result<void> create_snapshot(ThinId id, ThinId origin);
    // Removes mappings of the device and, when what's left is small enough, the device itself (then `done`). `budget`: about how
    // many nodes (4 KiB of metadata each) this call may visit; 0: no limit. Until done the device exists with fewer mappings, so
    // a commit in between is sound; nobody should use the device meanwhile.
    Result<RemoveProgress> remove_device(ThinId id, std::uint64_t budget = 0);
    Result<DeviceDetails> details(ThinId id);
    // Devices with ids from `first` on in ascending order, at most `max` of them; none when there are no more. Fewer than `max`
    // doesn't mean that there are no more.
    Result<std::vector<DeviceEntry>> devices(ThinId first, std::size_t max);

    // --- Mappings ---
    Result<std::optional<BlockTime>> lookup(ThinId id, VirtualBlock block);
    // Appends the mappings in [first, end) in ascending order, at most `max` of them, reading each leaf once. Returns the block
    // up to which the answer is complete: `end`, or earlier when `max` was reached or a bad node follows; then the next
    // call goes on from there (and fails if it is the bad node). Never returns `first` without an error unless max is 0 or
    // first >= end.
    Result<VirtualBlock> lookup_range(ThinId id, VirtualBlock first, VirtualBlock end, std::size_t max, std::vector<Mapping>& mappings);
    // The first mapping at or after `block`.
    Result<std::optional<Mapping>> next_mapped(ThinId id, VirtualBlock block);
    Result<std::optional<VirtualBlock>> highest_mapped(ThinId id);

    // Sets a free data block aside for an insert() to come; until then it counts as used here, but a crash or a commit in between
    // leaks nothing. Goes on from the block handed out last (next fit). Never a block that the last commit still has in use,
    // nor one in quarantine. no_space: none; see pending_free() and quarantined().
    Result<DataBlock> allocate_data_block();
    // Gives back what allocate_data_block() handed out and nothing was inserted for.
    void release_data_block(DataBlock block);
    // Maps `block` of device `id` to `data_block`, stamped with the pool's time, and drops the mapping that was there.
    // `data_block` comes from allocate_data_block(), or is what the block is mapped to already (which keeps its count and gets
    // the new stamp); anything else is a usage error.
    Result<BlockTime> insert(ThinId id, VirtualBlock block, DataBlock data_block);
    // Whether nothing but this mapping refers to its data block, neither now nor in the last commit: what others have unmapped since
    // is theirs again after a crash. When true it is exact (the shared part of the path is copied first), and a write may go to the
    // block in place, after insert() of the same block for its stamp. While mappings have been removed since the last commit the
    // answer is false for every block. not_found: not mapped.
    Result<bool> data_block_is_exclusive(ThinId id, VirtualBlock block);
    // Unmaps what is mapped in [first, end). Cost follows the mapped leaves. `budget`: how many leaves at most; 0: no limit.
    Result<RemoveProgress> remove_range(ThinId id, VirtualBlock first, VirtualBlock end, std::uint64_t budget = 0);
    // How many mappings refer to a data block, counting a leaf that several trees share once.
    Result<std::uint32_t> data_block_references(DataBlock block);

    // --- The metadata snapshot ---
    // Keeps the trees as they are now, for user-space readers. Commits nothing by itself. exists: there is one already.
    Result<void> reserve_metadata_snapshot();
    Result<void> release_metadata_snapshot();
    // Block 0: none.
    MetadataBlock held_root() const;

    // --- Room ---
    // Cheap. Data: blocks in quarantine or freed by the open transaction are free here; blocks that
    // allocate_data_block() set aside are used. Metadata: what the open transaction freed counts as free after its commit only.
    BlockCounts data_counts() const;
    BlockCounts metadata_counts() const;
    // Blocks that could be allocated right now.
    std::uint64_t allocatable() const;
    // Data blocks that can be allocated only after the next commit (and their quarantine).
    std::uint64_t pending_free() const;
    // Data blocks freed by commits and not yet handed to make_reusable().
    std::uint64_t quarantined() const;
    // Metadata blocks the pool keeps back for commits and removals: min(4096, total / 10). (Linux: dm-thin-metadata.c)
    std::uint64_t metadata_reserve() const;
    // An event is due when fewer metadata blocks are free: min(1024, total / 4). (Linux: dm-thin.c)
    std::uint64_t metadata_low_watermark() const;

    // To that many data blocks; fewer than now is a usage error.
    Result<void> grow_data(std::uint64_t data_blocks);
    // Takes the room that the metadata device has gained. Returns the new number of blocks; the same when there is none.
    Result<std::uint64_t> grow_metadata();

    // --- Transactions ---
    // Something is waiting for a commit.
    bool changed() const;
    // Makes the open transaction durable: writes the metadata through `queue`, flushes every leaf of the metadata device and all
    // of `data_leaves`, each once, then writes the superblock durably. With nothing changed only the flush is done.
    // Runs the queue until done, so not from inside a callback of that queue. After an error the transaction is lost:
    // must_abort().
    Result<void> commit(IoQueue& queue, std::span<BlockDevice* const> data_leaves);
    // As above on a queue of its own.
    Result<void> commit(std::span<BlockDevice* const> data_leaves = {});
    bool must_abort() const;
    // Back to the last committed state. Blocks set aside by allocate_data_block() stay so. If it fails nothing can be changed
    // any more; it may be tried again.
    Result<void> abort();
    // Writes the flag, and nothing else, into the superblock. With a transaction open: refused. From then on changes are refused.
    Result<void> set_needs_check();

    // Data blocks whose last reference was dropped by commits since the last call. They are in quarantine: free, but not
    // allocated again until make_reusable(). Give back every block once I/O that may still be under way to it has ended.
    pdata::BlockSet take_freed();
    // Puts up to `most` free blocks from `from` on into quarantine too, and adds them to `blocks`. Returns where to go on; the number of data
    // blocks at the end.
    Result<DataBlock> quarantine_free(DataBlock from, std::uint64_t most, pdata::BlockSet& blocks);
    void make_reusable(const pdata::BlockSet& blocks);

  private:
    struct Core;
    explicit ThinMetadata(std::unique_ptr<Core> core);
    std::unique_ptr<Core> core_;
};

}  // namespace lamella::thin
