// SPDX-License-Identifier: Apache-2.0
//
// The thread that owns a pool's metadata. Internal to the thin floor: ThinPool is the way in.
//
// What goes through here: provisioning, breaking of sharing, discards, everything that needs a mapping which isn't in memory,
// commits, changes of devices. What doesn't: reads and writes of blocks whose mapping is in memory and not shared.
//
// One virtual block, one owner. A block that is being provisioned or copied has a Cell; whoever else wants to write to it waits
// there. A discard owns its range in the same way. Whatever waits holds no grace token, so that a snapshot's grace period
// depends only on I/O that the data device has in hand.
//
// Order of a write to a new block: allocate; write the data (with zeros or old content around it) to the block that nobody
// knows; insert the mapping; publish it to the readers; complete. A commit in between leaks nothing: the block isn't referred to.
//
// Order of a snapshot: raise the origin's snapshot time, so that new writes divert to this thread, where they wait; let a grace
// period pass, so that no write to a block about to be shared is under way; change the metadata; commit; let the writes go on.
//
// Life of a block after its last reference: the commit that dropped it; a grace period, so that no read or write that looked
// it up earlier is under way; passed down as a discard; allocatable again. Only then, so that nobody reads or writes another's
// data, and so that a block known to be zero is.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <unordered_map>

#include "device/answer.h"
#include "device/grace_period.h"
#include "thin/pool.h"
#include "thin/thin_io.h"
#include "thin/volume.h"

namespace lamella::thin {

class PoolThread {
  public:
    PoolThread(BlockDevice& data, const ThinPoolOptions& options, std::unique_ptr<ThinMetadata> metadata,
               std::unique_ptr<IoQueue> own_queue, std::unique_ptr<IoQueue> commit_queue, IoQueue& queue);
    ~PoolThread();
    void start();
    Result<void> stop();

    // --- The data path; any thread ---
    GracePeriod& grace() { return grace_; }
    BlockDevice& data() { return data_; }
    std::uint64_t block_bytes() const { return block_bytes_; }
    bool takes_discards() const { return takes_discards_; }
    bool failed() const { return mode_.load(std::memory_order_relaxed) == PoolMode::fail; }
    // Something isn't committed.
    bool dirty() const { return dirty_.load(); }
    // The rest of the request is for this thread.
    void resume(ThinIo& io);
    // Completes the request after a commit that covers everything that has been acknowledged.
    void join_commit(ThinIo& io);
    void answer_status(ThinVolume& volume, IoQueue& home, StatusRequest& request);

    // --- Calls from other threads ---
    // Runs `body(answer)` on the pool's thread, and waits until somebody gives the answer.
    template <typename T, typename Body>
    Result<T> ask(Body body);
    void forget(ThinVolume& volume);
    void resize(ThinVolume& volume, std::uint64_t size);

    // --- On the pool's thread ---
    ThinMetadata& metadata() { return *metadata_; }
    Result<std::shared_ptr<ThinVolume>> open_volume(ThinId id, std::uint64_t size, std::string name, BlockDevice* external_origin);
    // `progress` lives until the answer is given.
    void transact(std::vector<PoolChange> changes, std::uint64_t old_transaction, std::uint64_t new_transaction,
                  const ThinPool::Progress& progress, Answer<void>& answer);
    void freeze(const std::vector<ThinId>& origins, Answer<void>& answer);
    void thaw(const std::vector<ThinId>& origins);
    void trim(DataBlock from, Answer<ThinPool::Trimmed>& answer);
    Result<PoolStatus> status();
    Result<void> commit();
    Result<void> writable() const;
    Result<void> grow_data();
    Result<void> grow_metadata();
    Result<void> change_options(const ThinPoolOptions& options);
    Result<void> set_read_only(bool read_only);
    void give_back_waiting();
    // A change of the metadata has been made outside the data path.
    void changed();
    void metadata_error(const Error& error);

    const ThinPoolOptions& options() const { return options_; }
    std::function<void()> event_handler;

  private:
    // A write to one block, or a discard of a range of whole blocks, on its way through this thread.
    struct Work;
    struct WorkList {
        Work* first = nullptr;
        Work* last = nullptr;
        void push(Work& work);
        Work* take_all();
    };
    struct Work {
        enum class Kind { write, discard };

        Work(Kind its_kind, ThinIo& its_io, VirtualBlock its_first, VirtualBlock its_end)
            : kind(its_kind), io(&its_io), first(its_first), end(its_end) {}

        ThinVolume& volume() const { return io->volume; }
        bool writes_zeroes() const { return io->operation == IoOperation::write_zeroes; }
        bool overlaps(const Work& other) const { return first < other.end && other.first < end; }

        Kind kind;
        ThinIo* io;
        VirtualBlock first;              // write: the block
        VirtualBlock end;                // write: first + 1
        std::uint64_t io_offset = 0;     // write: where in the request its bytes are
        std::uint32_t block_offset = 0;  // write: bytes, within the block
        std::uint64_t length = 0;        // write: bytes
        WorkList waiting;                // discard: whoever wants blocks of its range
        Work* next = nullptr;
    };
    struct CellKey {
        const ThinVolume* volume;
        std::uint64_t block;
        bool operator==(const CellKey&) const = default;
    };
    struct CellHash {
        std::size_t operator()(const CellKey& key) const {
            return std::hash<std::uint64_t>()((reinterpret_cast<std::uintptr_t>(key.volume) >> 4) * 0x9e3779b97f4a7c15ull ^ key.block);
        }
    };
    struct Cell {
        WorkList waiting;
    };
    struct VolumeState {
        ThinVolume* volume = nullptr;
        std::weak_ptr<ThinVolume> handle;
        bool frozen = false;
        WorkList waiting_for_thaw;
        std::vector<Work*> discards;  // that own their range
        std::uint64_t cells = 0;
    };
    // Metadata nodes that a step of long work may visit before others get a turn.
    static constexpr std::uint64_t step_budget = 64;

    struct BlockWrite;
    struct Change;
    struct StatusTask;
    struct Passdown;
    struct Settling;

    void run_thread();

    void resume_here(ThinIo& io);
    void deal_writes(ThinIo& io);
    void deal_zeroes(ThinIo& io);
    void deal_discard(ThinIo& io);
    void add_write(ThinIo& io, std::uint64_t offset, std::uint64_t length);
    void add_discard(ThinIo& io, VirtualBlock first, VirtualBlock end);
    void read_without_page(ThinIo& io);

    void start(Work& work);
    void restart(WorkList& list);
    void finish(Work& work, int error);
    void start_write(Work& work, VolumeState& state);
    void start_discard(Work& work, VolumeState& state);
    void continue_discard(Work& work);
    void wait_for_space(Work& work);
    int refuse_allocation() const;

    void begin_block_write(Work& work, DataBlock target, std::optional<DataBlock> copy_from);
    void continue_block_write(BlockWrite& write);
    void block_written(BlockWrite& write, int error);

    Result<const MappingCache::Page*> page_for(ThinVolume& volume, std::uint64_t block);
    Result<CachedMapping> mapping_of(ThinVolume& volume, VirtualBlock block);
    Result<void> insert(ThinVolume& volume, VirtualBlock block, DataBlock data_block);
    Result<std::optional<DataBlock>> allocate();
    bool known_zero(DataBlock block);
    void forget_zeroes();

    void mark_dirty();
    void schedule_commit();
    void gather_joiners();
    void run_commit();
    void after_commit();
    void released(Passdown& passdown);
    void enter_mode(PoolMode mode);
    void out_of_data_space();
    void space_timeout();
    void retry_space_waiters();
    void fail_space_waiters(int error);
    void check_data_mark();
    void check_metadata_mark();
    void raise_event();

    void advance_change(Change& change);
    std::vector<ThinId> hold_writes(const std::vector<ThinId>& origins);
    Result<void> apply_creations(Change& change);

    void answer_status_here(StatusTask& task);

    ThinPoolOptions options_;
    const bool takes_discards_;
    const std::uint64_t block_bytes_;
    BlockDevice& data_;
    std::vector<BlockDevice*> data_leaves_;
    std::unique_ptr<IoQueue> own_queue_;     // null: somebody else steps queue_
    std::unique_ptr<IoQueue> commit_queue_;  // for commits, which wait
    IoQueue& queue_;
    std::thread thread_;
    std::atomic<bool> stopping_{false};

    std::atomic<PoolMode> mode_{PoolMode::write};
    std::atomic<bool> dirty_{false};
    bool error_if_no_space_;

    GracePeriod grace_;
    MappingBudget budget_;
    std::unique_ptr<ThinMetadata> metadata_;
    std::unordered_map<ThinId, VolumeState> volumes_;
    std::unordered_map<CellKey, Cell, CellHash> cells_;
    Change* change_ = nullptr;

    WorkList space_waiters_;
    std::vector<AlignedBuffer> copy_buffers_;
    std::uint64_t copy_buffers_made_ = 0;
    WorkList copy_waiters_;

    // Data blocks known to read as zeros: a stretch of the data device asked for at once.
    std::uint64_t zero_begin_ = 0, zero_end_ = 0;

    struct CommitTask : Task {
        PoolThread* pool;
    };
    struct PoolTimer : Timer {
        PoolThread* pool;
    };
    CommitTask commit_task_;
    bool commit_posted_ = false;
    PoolTimer commit_timer_;
    PoolTimer space_timer_;
    std::vector<ThinIo*> commit_joiners_;
    // How many joined the last two commits, how long the last one took, and until when the next one waits for as many.
    std::size_t last_joiners_ = 0, joiners_before_ = 0;
    Duration last_commit_took_{};
    PoolTimer gather_timer_;
    std::uint64_t passdowns_ = 0;
    std::uint64_t settling_ = 0;  // commits after which somebody may still use mappings that they replaced
    bool low_water_triggered_ = false;
    bool metadata_low_ = false;
};

template <typename T, typename Body>
Result<T> PoolThread::ask(Body body) {
    return lamella::ask<T>(queue_, own_queue_ == nullptr, std::move(body));
}

}  // namespace lamella::thin
