// SPDX-License-Identifier: Apache-2.0
//
// The thread that makes the copies of an origin and its snapshots. Internal to the cow floor: Origin and Snapshot are the way in.
//
// What goes through here: writes to the origin that some snapshot lacks the chunk of, writes to chunks that a snapshot doesn't have yet,
// discards on snapshots, merging, opening and closing. What doesn't: reads, and writes to what is copied.
//
// A write to the origin looks at every snapshot's table. When all hold its chunks, and nobody is reading those from the origin in a
// snapshot's name, it goes down. Otherwise it comes here, makes the exceptions that are missing pending, and begins again where it came
// from once they are committed and those reads have ended.
//
// Reads in a snapshot's name hold their chunks in its table (exception_table.h) while they read the origin. An exception is committed,
// then put into the table, so that new reads go to the store; then the old reads are waited for; then the origin may be written. A read
// that was overtaken by the snapshot's end (invalid, or merging) finds that out when it completes, and fails.
//
// A write to a chunk that its snapshot doesn't have waits for the chunk's data, not for the exception: it may be lost as long as nobody
// flushes. The exception stands in the table meanwhile, held, so that writes to the origin wait for its commit; so do flushes of the
// snapshot, and writes that are durable themselves. If the commit fails, the snapshot ends, and its flushes fail.
//
// A snapshot begins when it stands in the view. The writes that looked at the view before are waited for (a grace period) before the first
// copy is made for the new snapshot; writes that come later wait for that.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "cow/copier.h"
#include "cow/cow_io.h"
#include "cow/exception_log.h"
#include "cow/exception_table.h"
#include "cow/origin.h"
#include "cow/settled_map.h"
#include "device/answer.h"

namespace lamella::cow {

struct Pending;

// Part of a write to a snapshot that waits for its chunk's exception.
struct WaitingPart {
    CowIo* io;
    std::uint64_t offset;  // bytes, of the request
    std::uint64_t size;
};

// What is known of a snapshot. The first half is read by any thread, the second by the origin's only.
struct SnapshotState {
    SnapshotState(BlockDevice& store_device, const SnapshotOptions& options, std::uint64_t its_size, ExceptionLog::Opened opened);

    std::uint64_t end_chunk(std::uint64_t end_byte) const { return (end_byte + chunk_bytes - 1) / chunk_bytes; }
    bool answers() const { return valid.load() && !given_up.load(); }
    void raise_event();

    BlockDevice& device;
    const std::unique_ptr<ExceptionLog> log;
    const std::unique_ptr<ExceptionTable> table;
    const std::uint64_t chunk_bytes;
    const std::uint64_t size;  // bytes
    const std::string name;
    const bool persistent;
    std::atomic<bool> may_overflow;
    std::atomic<bool> discard_zeroes_cow;
    std::atomic<bool> discard_passdown_origin;
    std::atomic<bool> valid;
    std::atomic<bool> overflowed{false};
    std::atomic<bool> given_up{false};  // to the origin, by a merge
    std::atomic<bool> merge_failed{false};
    // Exceptions in the table that aren't durable yet; and whether some never became so.
    std::atomic<unsigned> uncommitted{0};
    std::atomic<bool> lost_writes{false};
    std::condition_variable all_committed;  // with handler_mutex
    std::mutex handler_mutex;
    std::map<const void*, std::function<void()>> handlers;
    std::function<void()> room_handler;
    std::atomic<bool> needs_room{false};
    // Chunks that a step of a merge is writing to the origin, sorted.
    std::atomic<bool> step_under_way{false};
    std::mutex step_mutex;
    std::vector<std::uint64_t> step_chunks;
    bool in_step(OriginChunk first, std::uint64_t count);

    std::map<std::uint64_t, Pending*> pending;  // by the first chunk
    struct Range {
        OriginChunk first;
        std::uint64_t count;
    };
    struct Drain : Range {
        Blocked* blocked;
    };
    std::vector<Drain> draining;
    std::vector<Range> held_until_invalid;  // in the table, though they never became durable
    bool invalidating = false;
    bool mark_failed = false;  // the store isn't marked invalid, though it is
    struct InvalidWaiter : ExceptionLog::Waiter {
        OriginThread* thread;
        SnapshotState* snapshot;
    } invalid_waiter;
    std::vector<Blocked*> waiting_for_invalid;
    std::uint64_t full_at = 0;  // the size of the store, in sectors, when the first of these found no room
    std::vector<Blocked*> origin_writes_without_room;
    std::vector<CowIo*> writes_without_room;
    std::function<void()> when_idle;  // nothing pending, nothing being marked, nothing being written to the log
};

// Exceptions on their way into one snapshot.
struct Pending : NewExceptions {
    OriginThread* thread;
    SnapshotState* snapshot;
    bool for_origin;          // a write to the origin asked for it: if it fails, the snapshot is invalid
    CowIo* writer = nullptr;  // it brings the data itself
    bool shown = false;       // in the table before it is durable, and held there
    std::vector<Blocked*> origin_writes;
    std::vector<WaitingPart> snapshot_writes;
    std::vector<CowIo*> want_it_durable;  // of those that are shown

    std::uint64_t first() const { return old.value(); }
    std::uint64_t end() const { return old.value() + count; }
};

class OriginThread : public std::enable_shared_from_this<OriginThread> {
  public:
    OriginThread(BlockDevice& device, const OriginOptions& options, std::unique_ptr<IoQueue> own_queue, IoQueue& queue);
    ~OriginThread();

    // --- The data path; any thread ---
    BlockDevice& device() { return device_; }
    const std::string& name() const { return name_; }
    GracePeriod& grace() { return grace_; }
    // Outside of a grace period, too. Never false after a write that went to the merging store has completed, until the merge is over.
    bool merges() const { return view_.merges(); }
    // True: parts are under way, and the caller has its own to finish. False: for this thread.
    bool deal_origin(CowIo& io, IoQueue& here);
    bool deal_snapshot(CowIo& io, IoQueue& here);
    void flush_merging(CowIo& io, IoQueue& here);
    // From the thread of `here`.
    void resume(CowIo& io, IoQueue& here);
    // A hold that somebody waits for has been released.
    void released();

    // --- Calls from other threads ---
    // `fresh`: it hasn't been used before.
    Result<void> add_snapshot(SnapshotState& snapshot, bool fresh);
    void remove_snapshot(SnapshotState& snapshot);
    void room_seen_to(SnapshotState& snapshot);
    Result<void> freeze(Duration patience);
    void thaw();
    Result<void> start_merge(SnapshotState& snapshot);
    // False: it hasn't stopped within `patience`, if there is any; it will.
    bool stop_merge(std::optional<Duration> patience);
    void end_merge();

    // --- This thread ---
    IoQueue& queue() { return queue_; }
    void data_written(Pending& pending, int error);
    void committed(Pending& pending, int error);
    void marked_invalid(SnapshotState& snapshot, int error);

  private:
    struct View {
        std::vector<SnapshotState*> snapshots;
        // Of these, or of more. Begun anew with each that begins. Null: there was no memory for it.
        std::shared_ptr<SettledMap> settled{};
        SnapshotState* merging = nullptr;
        // Writes to the origin wait.
        bool frozen = false;
        bool merge_begins = false;
        bool writes_wait() const { return frozen || merge_begins; }
    };
    // The view that requests go by, and in the same word whether a snapshot merges in it. Reads and flushes look at that alone: if it were
    // published by itself, and after the view, a write could go to the store, and a read or flush that follows to the origin's device.
    class PublishedView {
      public:
        explicit PublishedView(const View& view) : word_(word_of(view)) {}
        void publish(const View& view) { word_.store(word_of(view)); }
        bool merges() const { return mark(word_.load()) != 0; }
        // In a grace period.
        const View& get() const {
            const std::byte* word = word_.load();
            return *reinterpret_cast<const View*>(word - mark(word));
        }

      private:
        // Of a byte of the view: no view begins at an odd address.
        static_assert(alignof(View) > 1);
        static std::uintptr_t mark(const std::byte* word) { return reinterpret_cast<std::uintptr_t>(word) & 1; }
        static const std::byte* word_of(const View& view) {
            return reinterpret_cast<const std::byte*>(&view) + (view.merging != nullptr ? 1 : 0);
        }
        std::atomic<const std::byte*> word_;
    };
    struct Beginning;
    struct Freezing;
    struct CopyJob;
    struct Grace;
    struct Merge;

    // A call from another thread: body(answer) on this one.
    template <typename Body>
    Result<void> call(Body body) {
        if (own_queue_ != nullptr && !thread_.joinable())
            thread_ = std::thread([this] { run_thread(); });
        return ask<void>(queue_, own_queue_ == nullptr, body);
    }
    void run_thread();
    void set_view(View view);
    void set_frozen(bool frozen);
    // Writes that waited for snapshots to begin, or for the thaw.
    void let_writes_go_on();
    void after_grace(std::function<void()> then);
    Committer& committer_of(BlockDevice& store);
    void leave_committer(SnapshotState& snapshot);

    static bool settled(const View& view, std::uint64_t start, std::uint64_t end, const SnapshotState* but);
    void deal_here(CowIo& io);
    void block_origin(CowIo& io);
    void deal_snapshot_write(CowIo& io, bool may_wait = true);
    void fail_when_invalid(CowIo& io);
    void deal_snapshot_discard(CowIo& io);
    void deal_snapshot_flush(CowIo& io);
    void write_when_there(Pending& pending, CowIo& io, std::uint64_t at, std::uint64_t end);
    void wait_for_commits(CowIo& io);
    void show(Pending& pending);
    void let_snapshot_writes_go_on(Pending& pending, int error);
    Pending* pending_at(SnapshotState& snapshot, std::uint64_t chunk, std::uint64_t& free_until);
    Pending* make_pending(SnapshotState& snapshot, std::uint64_t first, std::uint64_t count, bool for_origin);
    void preserve(std::uint64_t start, std::uint64_t end, const SnapshotState* but, Blocked& blocked);
    void start_copies(std::vector<Pending*>& fresh);
    void drain(SnapshotState& snapshot, OriginChunk first, std::uint64_t count, Blocked& blocked);
    void look_at_drains();
    void invalidate(SnapshotState& snapshot, Blocked* blocked);
    void look_if_idle(SnapshotState& snapshot);
    void when_idle(SnapshotState& snapshot, std::function<void()> then);

    // room.cpp
    bool ask_for_room(SnapshotState& snapshot, std::uint64_t full_at);
    void let_writes_without_room_go_on(SnapshotState& snapshot, bool may_wait);
    void stop_waiting_for_room(Blocked& blocked);

    // merge.cpp
    void merge_step();
    void tail_read(int error);
    void preserve_step();
    void copy_step();
    void step_copied();
    void step_flushed(int error);
    void step_cleared(int error);
    void end_step(int error);

    BlockDevice& device_;
    const std::string name_;
    std::unique_ptr<IoQueue> own_queue_;  // null: somebody else steps queue_
    IoQueue& queue_;
    std::thread thread_;
    std::atomic<bool> stopping_{false};

    GracePeriod grace_;
    std::unique_ptr<const View> view_owner_;
    PublishedView view_;
    Copier copier_;
    const std::uint64_t merge_step_chunks_;
    std::vector<std::unique_ptr<Committer>> committers_;
    std::vector<SnapshotState*> open_;  // merging ones too
    unsigned under_way_ = 0;            // copies, grace periods
    unsigned beginning_ = 0;            // snapshots whose first grace period isn't over
    std::vector<CowIo*> waiting_for_begin_;

    struct ReleaseTask : Task {
        OriginThread* thread;
    } release_task_;
    std::atomic<bool> release_posted_{false};

    std::unique_ptr<Merge> merge_;
};

}  // namespace lamella::cow
