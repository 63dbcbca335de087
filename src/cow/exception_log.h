// SPDX-License-Identifier: Apache-2.0
//
// The exceptions of a store on its device, and the allocation of its chunks. Internal to the cow floor: Origin is the way in.
//
// Format (dm-snap-persistent.c): chunk 0 begins with a header of little-endian u32: magic "SnAp", valid, version 1, chunk size in sectors.
// Area k is chunk 1 + k * (n + 1), n = chunk size / 16 exceptions of two little-endian u64: old chunk, new chunk; new chunk 0 ends the list.
// All other chunks are data. There are no checksums.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "cow/committer.h"
#include "cow/exception_store.h"
#include "cow/exception_table.h"
#include "device/block_device.h"
#include "device/io_queue.h"

namespace lamella::cow {

constexpr std::uint32_t most_chunk_sectors = 1u << 21;  // dm-exception-store.c: 2^31 - 1 bytes
constexpr std::uint64_t exception_bytes = 16;

struct StoreGeometry {
    std::uint32_t chunk_sectors;

    std::uint64_t chunk_bytes() const { return chunk_sectors * sector_bytes; }
    std::uint64_t exceptions_per_area() const { return chunk_bytes() / exception_bytes; }
    std::uint64_t area_chunk(std::uint64_t area) const { return 1 + area * (exceptions_per_area() + 1); }
    bool is_data(std::uint64_t chunk) const { return chunk != 0 && chunk % (exceptions_per_area() + 1) != 1; }
};

// Chunks of the origin that follow each other and get room in the store, from allocation to commit. Owned by whoever allocates, until
// `committed` is called or dropped() is.
struct NewExceptions {
    OriginChunk old{};
    StoreChunk where{};
    std::uint64_t count = 0;
    // The exceptions are durable, with the data that was there when written() was called; or, `error` not 0, they may or may not be.
    // Called on the log's thread, never from inside allocate() or written().
    void (*committed)(NewExceptions& exceptions, int error) = nullptr;
};

// One thread, that of the queue, but for the opening and usage().
class ExceptionLog {
  public:
    struct Opened {
        std::unique_ptr<ExceptionLog> log;
        std::unique_ptr<ExceptionTable> table;
        bool fresh = false;
        bool valid = true;
    };
    enum class Access {
        use,      // begin a new store where there is none; put right what a torn write left
        inspect,  // write nothing; a fresh or invalid store has no log
    };
    // Blocks. The errors of Origin::open_snapshot().
    static Result<Opened> open(BlockDevice& device, const StoreOptions& options, std::uint64_t origin_bytes, std::uint32_t origin_alignment,
                               Access access);

    const StoreGeometry& geometry() const { return geometry_; }
    bool persistent() const { return persistent_; }
    // Any thread.
    StoreUsage usage() const;
    // Whether as many chunks find room for sure, together or one by one.
    bool has_room(std::uint64_t count) const;
    // Nothing is allocated any more, however much room there is.
    bool failed() const { return failed_ != 0; }

    BlockDevice& device() { return device_; }

    // Before anything below. The committer is that of the store's disks; a persistent store's log is one of its logs from now on.
    // `idle_again` is called from inside a completion, which may not end the log.
    void use(IoQueue& queue, Committer& committer, std::function<void()> idle_again);
    // No request of a round is under way. A round may outlast the exceptions that it was for, if they are dropped.
    bool idle() const { return in_round_ == 0; }

    // Room for chunks from `exceptions.old` on: at least 1, at most `exceptions.count`, which becomes as many as there are, in chunks that
    // follow each other. False: the store is full.
    bool allocate(NewExceptions& exceptions);
    // Persistent stores: that data of new exceptions is being read; that it is written, together with what is next to it, when the next
    // round begins; and, behind that or for lack of data, that it has come.
    void expect_data() { committer_->expect(); }
    void write_data(IoRequest& request);
    void data_arrived() { committer_->arrived(); }
    // The data is written. Commits are made in the order of allocation, several in one where they come together.
    void written(NewExceptions& exceptions);
    // There is no data: `committed` won't be called. The room is lost.
    void dropped(NewExceptions& exceptions);

    // --- A round of the committer, which waits for what the log has begun() ---
    // Writes data, the zeros of an area that will be needed, and the next exceptions whose data is flushed, as many as share a block.
    void write_round();
    // True: something needs the flush that begins now.
    bool flush_begins();
    // Every flush that began, if any did, has ended.
    void flush_ended(int error);

    // Marks the store invalid, durably, then calls `done` from the queue.
    struct Waiter {
        void (*done)(Waiter& waiter, int error) = nullptr;
    };
    void mark_invalid(Waiter& waiter);

    // --- Merging: nothing is allocated any more ---
    struct Exception {
        OriginChunk old;
        StoreChunk where;
    };
    // The last exceptions, at most `most`, last first. Empty: no exception is left. Valid until the next call.
    void read_tail(std::uint64_t most, Waiter& waiter);
    const std::vector<Exception>& tail() const { return tail_; }
    // Takes the tail away, durably. What was merged from it is durable already. After an error it isn't known what is left of it.
    void clear_tail(Waiter& waiter);

  private:
    ExceptionLog(BlockDevice& device, StoreGeometry geometry, bool persistent);
    Result<void> load(ExceptionTable& table, Access access);
    Result<void> begin();
    std::vector<std::byte> header(bool valid) const;

    struct Entry {
        NewExceptions* exceptions;
        StoreChunk where;
        std::uint64_t left;  // chunks, from the end, that are not committed
        enum class State { writing, written, flushing, flushed, dropped } state;
    };

    // Where the tail lies in an area, in whole units of the device; the last area first.
    struct TailPart {
        std::uint64_t area = 0;
        std::uint64_t first = 0;  // exception of the area; those before it in its unit stay
        std::uint64_t end = 0;
        AlignedBuffer units{};
        IoRequest request{};
        iovec vector{};
    };

    std::deque<Entry>::iterator entry_of(const NewExceptions& exceptions);
    std::uint64_t chunks() const;
    std::uint64_t unit_offset(std::uint64_t index) const;
    void skip_area();
    void write_exceptions();
    void zero_next_area();
    void fail_written();
    void transient_commits();
    void submit_in_round(IoRequest& request, IoOperation operation, std::uint64_t offset, std::span<iovec> vectors, std::uint64_t length);
    void submit(IoRequest& request, IoOperation operation, std::uint64_t offset, std::span<iovec> vectors, std::uint64_t length,
                void (*completed)(IoRequest& request, int error));
    std::uint64_t start_of(const TailPart& part) const;
    void submit_tail(IoOperation operation, void (ExceptionLog::*then)());
    void tail_read();
    void count_as_merging();
    void tail_written();
    void tail_done(int error);

    BlockDevice& device_;
    const StoreGeometry geometry_;
    const bool persistent_;
    const std::uint64_t unit_bytes_;  // what is written at once
    IoQueue* queue_ = nullptr;

    std::atomic<std::uint64_t> next_free_;
    std::atomic<std::uint64_t> area_{0};
    std::uint64_t in_area_ = 0;  // exceptions committed in the current area
    std::uint64_t queued_ = 0;   // chunks in log_ that are neither committed nor dropped
    AlignedBuffer unit_;         // the unit of the current area that the next exception goes to, as it is on the device
    std::deque<Entry> log_;

    Committer* committer_ = nullptr;
    GatheredWrites data_;
    std::uint64_t batch_ = 0;   // exceptions written in this round
    std::uint64_t zeroed_ = 0;  // the last area that is zero, durably, or in use
    bool zeroing_ = false;      // the one behind it, in this round
    int failed_ = 0;            // an error of a commit: nothing is committed after it
    std::size_t in_round_ = 0;  // requests
    std::function<void()> idle_again_;
    IoRequest zero_, write_;
    iovec write_vector_{};
    AlignedBuffer zeros_;
    std::vector<iovec> zero_vectors_;
    struct CommitTask : Task {
        ExceptionLog* log;
        bool posted = false;
    } commit_task_;

    Waiter* waiter_ = nullptr;  // of read_tail, clear_tail
    std::vector<Exception> tail_;
    std::vector<TailPart> tail_parts_;
    void (ExceptionLog::*after_tail_)() = nullptr;
    std::size_t tail_under_way_ = 0;
    int tail_error_ = 0;
    IoRequest tail_request_;

    Waiter* invalid_waiter_ = nullptr;
    AlignedBuffer header_;
    IoRequest header_request_;
    iovec header_vector_{};
};

}  // namespace lamella::cow
