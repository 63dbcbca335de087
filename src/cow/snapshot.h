// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cow/exception_store.h"
#include "device/block_device.h"

namespace lamella::cow {

class OriginThread;
struct SnapshotState;

struct SnapshotOptions {
    StoreOptions store{};
    // A discard of a whole chunk that lies in the store zeroes it there. Without this feature the snapshot has no discards.
    bool discard_zeroes_cow = false;
    // ... and is passed down to the origin too, from where this snapshot no longer has it; other snapshots keep what they showed.
    // Only with discard_zeroes_cow, as in the kernel: ErrorKind::usage otherwise.
    bool discard_passdown_origin = false;
    // Bytes; 0: the origin's size. At most that: ErrorKind::usage.
    std::uint64_t size = 0;
    // For messages.
    std::string name;
};

enum class SnapshotCondition {
    active,
    // For good: reads and writes fail with EIO. The origin goes on.
    invalid,
    // The merge stopped at an error. The origin goes on; what isn't merged is still read from the store.
    merge_failed,
    // Writes fail with EIO, reads go on. Until the snapshot is closed, also when the store grows meanwhile, as in the kernel.
    overflow,
};

struct SnapshotStatus {
    SnapshotCondition condition = SnapshotCondition::active;
    StoreUsage usage{};
    bool merging = false;  // takes the place of the origin; done when usage.allocated == usage.metadata

    // dm-snapshot's words: "397896/2097152 1560", "Invalid", "Merge failed", "Overflow".
    std::string line() const;
};

// A snapshot of an origin, in use: dm-snapshot's target "snapshot". Reads what its store holds from there, the rest from the origin;
// writes go to the store, after the chunk's other bytes have been copied there; a write of a whole chunk needs no copy.
// Made by Origin::open_snapshot().
//
// What is durable: an exception is, with the data that it names, before the write that needed it completes. A write to a chunk that is
// in the store already is durable after a flush, or at once with IoRequest::durable.
//
// Where a copy fails: for a write to the origin, the snapshot becomes invalid and the origin goes on; for a write to the snapshot
// alone, that write fails with EIO and nothing else happens.
//
// Memory: at most 16 bytes for each chunk in the store, chunks that follow each other in the origin and in the store taking no more
// than one (up to 256 of them), and 8 bytes for every 256 chunks of the origin.
//
// Threads: as BlockDevice; the other methods from any thread but the origin's own. Closed (the last reference gone) on a thread that is
// not the origin's, with nothing in flight.
class Snapshot final : public BlockDevice {
  public:
    Snapshot(std::shared_ptr<OriginThread> thread, std::shared_ptr<SnapshotState> state);
    ~Snapshot() override;

    std::uint64_t size() const override;
    DeviceTraits traits() const override;
    std::string name() const override;
    void submit(IoQueue& queue, IoRequest& request) override;
    // Depth 1: in the store; depth 2: shown through from the origin.
    void status(IoQueue& queue, StatusRequest& request) override;

    // Nobody writes to the snapshot meanwhile: returns when its store is at rest, true, or when patience is at an end. What was written
    // is in the store then; a flush makes it durable.
    bool wait_until_committed(Duration patience) const;

    SnapshotStatus snapshot_status() const;
    // As in force: the chunk size of the store, not the one asked for.
    SnapshotOptions options() const;
    BlockDevice& store_device() const;

    // Called on the origin's thread when the snapshot becomes invalid (dm-snapshot's event), and when a merge ends or fails;
    // must not block. Until the snapshot is closed, and while it is being closed. One for each `whose`.
    void set_event_handler(std::function<void()> handler, const void* whose = nullptr);
    // It isn't called any more when this has returned.
    void drop_event_handler(const void* whose);

    // From now on a write that finds the store full, so that the snapshot would become invalid or overflow, waits for room_seen_to().
    // `handler` is called on the origin's thread as soon as one waits; must not block.
    void set_room_handler(std::function<void()> handler);
    // A write waits.
    bool needs_room() const;
    // Lets go on what waits. If the store hasn't grown since, what doesn't fit ends the snapshot as if nobody had been asked.
    void room_seen_to();

  private:
    friend class Origin;
    std::shared_ptr<OriginThread> thread_;
    std::shared_ptr<SnapshotState> state_;
};

}  // namespace lamella::cow
