// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "cow/snapshot.h"
#include "device/block_device.h"

namespace lamella::cow {

struct OriginOptions {
    // Bound on the memory of copies under way, in bytes; at least one piece of 256 KiB. A copy of 4 KiB takes 9 KiB.
    std::uint64_t copy_buffer_bytes = 16ull << 20;
    // A step of a merge takes so many chunks at most, and no more than 4 MiB of them. What a crash interrupts is done again.
    std::uint64_t merge_step_chunks = 1024;
    // For messages. Empty: the device's name.
    std::string name;
};

// A device with snapshots, in use: dm-snapshot's target "snapshot-origin", and while a snapshot merges, "snapshot-merge". One object
// a real device, shared by whatever stands on that device: the tables of its snapshots, its own, a merge's. Nobody else writes to the
// device while a snapshot of it is open.
//
// A write (a discard, a write of zeros) to a chunk that some snapshot doesn't hold yet first has it copied: read once, written to the
// stores of all snapshots that lack it in parallel, each exception committed; then the write goes on. A second write to the chunk costs
// a look at each snapshot's table.
//
// Threads: as BlockDevice. Reads, and writes that need no copy, go down on the caller's queue: they take a lock of a part of a table for
// some instructions, never one that I/O or slow work holds. Everything else is done by one thread, the origin's own. The other methods are
// called from any thread but that one and a reactor's; each waits for its answer; one caller at a time. The thread starts with the first
// snapshot: without any, an origin costs a write two uncontended atomic operations and a small allocation, a read nothing.
class Origin final : public BlockDevice {
  public:
    // The device is borrowed and outlives the origin. `queue`: run the origin on a queue that the caller steps (simulations), instead of
    // on a thread of its own.
    static Result<std::shared_ptr<Origin>> open(BlockDevice& device, const OriginOptions& options = {}, IoQueue* queue = nullptr);
    // Waits until nothing is under way. Every snapshot holds on to what it needs: it may be closed after this.
    ~Origin() override;

    // --- The device: the origin as its user sees it; while a snapshot merges, as it will be ---
    std::uint64_t size() const override;
    DeviceTraits traits() const override;
    std::string name() const override;
    void submit(IoQueue& queue, IoRequest& request) override;
    void status(IoQueue& queue, StatusRequest& request) override;
    std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) override;
    void add_leaves(std::vector<BlockDevice*>& leaves) override;

    // Opens the snapshot whose store is `store_device`: loads the exceptions of a persistent store, begins a new one where the device
    // starts with zeros. A new snapshot's moment is within this call: every write to the origin acknowledged before is in it, none that is
    // submitted after is; it is durable on return. A store that is marked invalid opens as an invalid snapshot.
    //
    // A snapshot over this store device that is open already is returned itself, with the features and the overflow of these options, so
    // that a table may be replaced by another while both are there.
    //
    // The store is borrowed and outlives the snapshot. It may grow at any time. ErrorKind::usage: chunk size or options; refused: a merge
    // is under way, whose origin shows what isn't on the real device yet; damaged: not a store, a version that isn't 1, chunks out of
    // range or used twice, exceptions without an end.
    Result<std::shared_ptr<Snapshot>> open_snapshot(BlockDevice& store_device, const SnapshotOptions& options);

    // For one moment of several origins: holds the writes to this one back, once those under way have ended, until thaw(). Snapshots that
    // are opened meanwhile are of that moment. ErrorKind::refused: they haven't ended within `patience` (the device waits for room); the
    // writes go on then.
    Result<void> freeze(Duration patience);
    void thaw();

    // Open ones, in no order.
    std::vector<std::shared_ptr<Snapshot>> snapshots() const;

    // --- Merging: the snapshot's exceptions go back to the origin, last first; crash at any moment and begin again ---

    // From now on the origin shows the snapshot's content, and the snapshot itself answers EIO; chunks are merged in the background. Goes
    // on where stop_merge() stopped, or an error did. An invalid snapshot leaves the origin as it is: the call does nothing then.
    // ErrorKind::unsupported: a transient store; refused: another snapshot merges.
    Result<void> start_merge(std::shared_ptr<Snapshot> snapshot);
    // Returns when no chunk is being merged. The origin still shows the snapshot's content.
    void stop_merge();
    // The same, but it waits no longer than this. False: the disk is still at a chunk; the merge stops after it, unless start_merge() is
    // called before.
    bool stop_merge(Duration patience);
    // Stops, and forgets the snapshot: the origin shows the real device, also where the merge isn't done.
    Result<void> end_merge();
    // Null: no merge.
    std::shared_ptr<Snapshot> merging() const;

  private:
    explicit Origin(std::shared_ptr<OriginThread> thread);
    std::shared_ptr<OriginThread> thread_;
    mutable std::mutex mutex_;  // of what follows
    std::vector<std::weak_ptr<Snapshot>> snapshots_;
    std::shared_ptr<Snapshot> merging_;
};

}  // namespace lamella::cow
