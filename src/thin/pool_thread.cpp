// SPDX-License-Identifier: Apache-2.0
#include "thin/pool_thread.h"

#include <cassert>

namespace lamella::thin {

namespace {
constexpr Duration commit_period = std::chrono::seconds(1);  // dm-thin.c: COMMIT_PERIOD
constexpr Duration longest_gathering = std::chrono::milliseconds(10);
constexpr std::size_t most_status_mappings = 65536;
constexpr unsigned most_passdowns_in_flight = 8;
// Of free blocks at once, so that writes find others.
constexpr std::uint64_t most_trimmed_bytes = std::uint64_t{256} << 20;
}  // namespace

// --- The thread -----------------------------------------------------------------------------------------------------------

PoolThread::PoolThread(BlockDevice& data, const ThinPoolOptions& options, std::unique_ptr<ThinMetadata> metadata,
                       std::unique_ptr<IoQueue> own_queue, std::unique_ptr<IoQueue> commit_queue, IoQueue& queue)
    : options_(options),
      takes_discards_(options.discards != DiscardPolicy::ignore),
      block_bytes_(std::uint64_t{options.data_block_sectors} * sector_bytes),
      data_(data),
      own_queue_(std::move(own_queue)),
      commit_queue_(std::move(commit_queue)),
      queue_(queue),
      error_if_no_space_(options.error_if_no_space),
      grace_(queue),
      budget_(grace_, options.mapping_cache_bytes),
      metadata_(std::move(metadata)) {
    data_.add_leaves(data_leaves_);
    commit_task_.pool = this;
    commit_task_.run = [](Task& task) {
        PoolThread& pool = *static_cast<CommitTask&>(task).pool;
        pool.commit_posted_ = false;
        pool.run_commit();
    };
    commit_timer_.pool = this;
    commit_timer_.fired = [](Timer& timer) { static_cast<PoolTimer&>(timer).pool->schedule_commit(); };
    gather_timer_.pool = this;
    gather_timer_.fired = [](Timer& timer) { static_cast<PoolTimer&>(timer).pool->schedule_commit(); };
    space_timer_.pool = this;
    space_timer_.fired = [](Timer& timer) { static_cast<PoolTimer&>(timer).pool->space_timeout(); };
    if (metadata_->read_only() || metadata_->needs_check())
        mode_ = PoolMode::read_only;
}

PoolThread::~PoolThread() { assert(!thread_.joinable()); }

void PoolThread::start() {
    if (own_queue_ != nullptr)
        thread_ = std::thread([this] { run_thread(); });
}

void PoolThread::run_thread() {
    while (!stopping_.load())
        queue_.run_once(true);
}

Result<void> PoolThread::stop() {
    auto result = ask<void>([&](Answer<void>& answer) { answer.give(commit()); });
    // Blocks on their way to being reusable hold memory that belongs to this object.
    const auto busy = [&] { return passdowns_ != 0 || !grace_.idle() || commit_posted_; };
    if (own_queue_ != nullptr) {
        struct Last : Task {
            PoolThread* pool;
            std::function<bool()> busy;
        } last;
        last.pool = this;
        last.busy = busy;
        last.run = [](Task& task) {
            Last& self = static_cast<Last&>(task);
            if (self.busy())
                self.pool->queue_.post(task);
            else
                self.pool->stopping_.store(true);
        };
        queue_.post(last);
        thread_.join();
    } else {
        queue_.run_until([&] { return !busy(); });
    }
    queue_.disarm(commit_timer_);
    queue_.disarm(gather_timer_);
    queue_.disarm(space_timer_);
    return result;
}

void PoolThread::raise_event() {
    if (event_handler)
        event_handler();
}

// --- Entry points of the data path ---------------------------------------------------------------------------------------

void PoolThread::resume(ThinIo& io) {
    io.task.run = [](Task& task) {
        ThinIo& resumed = *static_cast<ThinIo::IoTask&>(task).io;
        resumed.volume.pool().resume_here(resumed);
    };
    queue_.post(io.task);
}

void PoolThread::resume_here(ThinIo& io) {
    if (failed()) {
        io.note_error(EIO);
        io.finish_part(queue_);
        return;
    }
    switch (io.operation) {
    case IoOperation::read: {
        // With its pages in memory the request can go on where it came from.
        const std::uint64_t first = (io.start + io.position) / block_bytes_;
        const std::uint64_t last = (io.start + io.request.length - 1) / block_bytes_;
        for (std::uint64_t block = first; block <= last; block += MappingCache::page_entries - block % MappingCache::page_entries) {
            if (!page_for(io.volume, block)) {
                read_without_page(io);
                io.finish_part(queue_);
                return;
            }
        }
        io.task.run = [](Task& task) {
            ThinIo& resumed = *static_cast<ThinIo::IoTask&>(task).io;
            if (resumed.deal(resumed.home))
                resumed.finish_part(resumed.home);
            else
                resumed.volume.pool().resume(resumed);  // evicted meanwhile
        };
        io.home.post(io.task);
        return;
    }
    case IoOperation::write: deal_writes(io); break;
    case IoOperation::write_zeroes: deal_zeroes(io); break;
    case IoOperation::discard: deal_discard(io); break;
    case IoOperation::flush: break;
    }
    io.finish_part(queue_);
}

// Part of the page lies under damaged metadata: what can be looked up is read, the rest is an error of the request.
void PoolThread::read_without_page(ThinIo& io) {
    while (io.position < io.request.length) {
        const std::uint64_t at = io.start + io.position;
        const std::uint64_t length = std::min(block_bytes_ - at % block_bytes_, io.request.length - io.position);
        const std::uint64_t offset = io.position;
        io.position += length;
        const GracePeriod::Token token = grace_.enter();
        auto found = metadata_->lookup(io.volume.id(), VirtualBlock(at / block_bytes_));
        if (found && *found) {
            io.start_part(queue_, data_, offset, length, (*found)->block.value() * block_bytes_ + at % block_bytes_, token);
            continue;
        }
        grace_.leave(token);
        if (!found) {
            io.note_error(found.error().error_number());
            return;
        }
        io.read_unmapped(queue_, offset, length);
    }
}

void PoolThread::deal_writes(ThinIo& io) {
    while (io.position < io.request.length) {
        const std::uint64_t at = io.start + io.position;
        const std::uint64_t length = std::min(block_bytes_ - at % block_bytes_, io.request.length - io.position);
        add_write(io, io.position, length);
        io.position += length;
    }
}

void PoolThread::deal_zeroes(ThinIo& io) {
    const std::uint64_t end = io.start + io.request.length;
    const bool to_the_end = end == io.volume.size();
    const std::uint64_t first_whole = (io.start + block_bytes_ - 1) / block_bytes_;
    const std::uint64_t end_whole = to_the_end ? (end + block_bytes_ - 1) / block_bytes_ : end / block_bytes_;
    // Unmapping reads as zeros, unless there is an origin to show through.
    const bool unmap = !io.request.keep_allocated && options_.discards != DiscardPolicy::ignore && io.volume.external_origin_ == nullptr &&
                       first_whole < end_whole;
    const std::uint64_t unmap_begin = unmap ? first_whole * block_bytes_ : end;
    const std::uint64_t unmap_end = unmap ? std::min(end, end_whole * block_bytes_) : end;
    if (io.request.fast_only && (io.start < unmap_begin || unmap_end < end)) {
        io.note_error(EOPNOTSUPP);
        return;
    }
    if (io.request.durable)
        io.must_commit = true;
    while (io.start + io.position < end) {
        const std::uint64_t at = io.start + io.position;
        if (at == unmap_begin && unmap_begin < unmap_end) {
            add_discard(io, VirtualBlock(first_whole), VirtualBlock(end_whole));
            io.position = unmap_end - io.start;
            continue;
        }
        const std::uint64_t limit = at < unmap_begin ? unmap_begin : end;
        const std::uint64_t length = std::min(block_bytes_ - at % block_bytes_, limit - at);
        add_write(io, io.position, length);
        io.position += length;
    }
}

void PoolThread::deal_discard(ThinIo& io) {
    if (options_.discards == DiscardPolicy::ignore) {
        io.note_error(EOPNOTSUPP);
        return;
    }
    const std::uint64_t end = io.start + io.request.length;
    const std::uint64_t first_whole = (io.start + block_bytes_ - 1) / block_bytes_;
    const std::uint64_t end_whole = end == io.volume.size() ? (end + block_bytes_ - 1) / block_bytes_ : end / block_bytes_;
    io.position = io.request.length;
    if (io.request.durable)
        io.must_commit = true;
    if (first_whole < end_whole)
        add_discard(io, VirtualBlock(first_whole), VirtualBlock(end_whole));
}

void PoolThread::add_write(ThinIo& io, std::uint64_t offset, std::uint64_t length) {
    const std::uint64_t at = io.start + offset;
    Work* work = new Work(Work::Kind::write, io, VirtualBlock(at / block_bytes_), VirtualBlock(at / block_bytes_ + 1));
    work->io_offset = offset;
    work->block_offset = static_cast<std::uint32_t>(at % block_bytes_);
    work->length = length;
    io.parts.fetch_add(1);
    start(*work);
}

void PoolThread::add_discard(ThinIo& io, VirtualBlock first, VirtualBlock end) {
    Work* work = new Work(Work::Kind::discard, io, first, end);
    io.parts.fetch_add(1);
    start(*work);
}

void PoolThread::finish(Work& work, int error) {
    ThinIo& io = *work.io;
    delete &work;
    io.note_error(error);
    io.finish_part(queue_);
}

// Each looks again at what stands in its way.
void PoolThread::restart(WorkList& list) {
    Work* work = list.take_all();
    while (work != nullptr) {
        Work* next = work->next;
        start(*work);
        work = next;
    }
}

void PoolThread::start(Work& work) {
    VolumeState& state = volumes_.at(work.volume().id());
    if (failed())
        return finish(work, EIO);
    if (state.frozen)
        return state.waiting_for_thaw.push(work);
    for (Work* discard : state.discards)
        if (discard->overlaps(work))
            return discard->waiting.push(work);
    if (work.kind == Work::Kind::write)
        start_write(work, state);
    else
        start_discard(work, state);
}

void PoolThread::WorkList::push(Work& work) {
    work.next = nullptr;
    (last != nullptr ? last->next : first) = &work;
    last = &work;
}

PoolThread::Work* PoolThread::WorkList::take_all() {
    last = nullptr;
    return std::exchange(first, nullptr);
}

// --- Mappings -------------------------------------------------------------------------------------------------------------

Result<const MappingCache::Page*> PoolThread::page_for(ThinVolume& volume, std::uint64_t block) {
    if (const MappingCache::Page* page = volume.mappings_.find(block))
        return page;
    const std::uint64_t first = block - block % MappingCache::page_entries;
    std::vector<Mapping> found;
    found.reserve(MappingCache::page_entries);
    VirtualBlock next(first);
    const VirtualBlock end(first + MappingCache::page_entries);
    while (next < end)
        next = TRY(metadata_->lookup_range(volume.id(), next, end, MappingCache::page_entries, found));
    auto page = std::make_unique<MappingCache::Page>();
    for (const Mapping& mapping : found)
        page->words[mapping.virtual_block.value() - first].store(CachedMapping(mapping.where.block, mapping.where.time).word(),
                                                                 std::memory_order_relaxed);
    volume.mappings_.insert(first, std::move(page));
    return volume.mappings_.find(block);
}

Result<CachedMapping> PoolThread::mapping_of(ThinVolume& volume, VirtualBlock block) {
    auto page = page_for(volume, block.value());
    if (page)
        return (*page)->at(block.value());
    auto found = TRY(metadata_->lookup(volume.id(), block));
    return found ? CachedMapping(found->block, found->time) : CachedMapping();
}

// Inserts, then lets the data path see it.
Result<void> PoolThread::insert(ThinVolume& volume, VirtualBlock block, DataBlock data_block) {
    auto inserted = metadata_->insert(volume.id(), block, data_block);
    if (!inserted) {
        metadata_error(inserted.error());
        return std::unexpected(inserted.error());
    }
    mark_dirty();
    check_metadata_mark();
    volume.mappings_.set(block, CachedMapping(inserted->block, inserted->time));
    return {};
}

// --- Commits --------------------------------------------------------------------------------------------------------------

void PoolThread::mark_dirty() {
    if (dirty_.load(std::memory_order_relaxed))
        return;
    // Before anything that depends on it is acknowledged, or seen by the data path.
    dirty_.store(true);
    if (!commit_timer_.armed)
        queue_.arm(commit_timer_, queue_.clock().monotonic() + commit_period);
}

void PoolThread::changed() { mark_dirty(); }

// From the queue, after what is ready now: flushes that come together share a commit.
void PoolThread::schedule_commit() {
    if (commit_posted_)
        return;
    commit_posted_ = true;
    queue_.post(commit_task_);
}

void PoolThread::join_commit(ThinIo& io) {
    io.task.run = [](Task& task) {
        ThinIo& joining = *static_cast<ThinIo::IoTask&>(task).io;
        PoolThread& pool = joining.volume.pool();
        pool.commit_joiners_.push_back(&joining);
        pool.gather_joiners();
    };
    queue_.post(io.task);
}

// A commit takes two disk flushes however many join it, and first writes of blocks wait until it is over. Where several joined lately,
// it is therefore held back until as many have come again and the writes under way, whose clients may be about to flush, have ended;
// for as long as the last commit took, at most. One writer that flushes alone never waits.
void PoolThread::gather_joiners() {
    if (commit_posted_ || commit_joiners_.empty())
        return;
    const std::size_t lately = std::max(last_joiners_, joiners_before_);
    if (lately <= 1 || (cells_.empty() && commit_joiners_.size() >= lately))
        return schedule_commit();
    if (!gather_timer_.armed)
        queue_.arm(gather_timer_, queue_.clock().monotonic() + last_commit_took_);
}

void PoolThread::run_commit() {
    queue_.disarm(gather_timer_);
    std::vector<ThinIo*> joiners;
    joiners.swap(commit_joiners_);
    joiners_before_ = std::exchange(last_joiners_, joiners.size());
    const Duration began = queue_.clock().monotonic();
    auto committed = commit();
    last_commit_took_ = std::min(queue_.clock().monotonic() - began, longest_gathering);
    for (ThinIo* io : joiners) {
        if (!committed)
            io->note_error(committed.error().error_number());
        io->finish_part(queue_);
    }
}

// Whoever looked a mapping up before it was replaced may still be reading its block.
struct PoolThread::Settling : GracePeriod::Waiter {
    PoolThread* pool;
};

Result<void> PoolThread::commit() {
    if (mode_.load() == PoolMode::fail)
        return fail(ErrorKind::failed, "the pool has failed");
    if (metadata_->read_only() || mode_.load() == PoolMode::read_only) {
        if (dirty_.load())
            return fail(ErrorKind::failed, "the pool went back to its last commit: writes acknowledged since then are lost");
        for (BlockDevice* leaf : data_leaves_)
            TRY(flush_now(*leaf));
        return {};
    }
    const bool changed = metadata_->changed();
    if (changed)
        check_metadata_mark();
    auto committed = metadata_->commit(*commit_queue_, data_leaves_);
    if (!committed) {
        metadata_error(committed.error());
        return committed;
    }
    queue_.disarm(commit_timer_);
    dirty_.store(false);
    if (changed) {
        auto* settling = new Settling{};
        settling->pool = this;
        settling->done = [](GracePeriod::Waiter& waiter) {
            auto* over = static_cast<Settling*>(&waiter);
            --over->pool->settling_;
            delete over;
        };
        ++settling_;
        grace_.wait(*settling);
    }
    after_commit();
    return {};
}

// The way of freed blocks to being allocatable again. Free blocks that are to be discarded go the same way.
struct PoolThread::Passdown : GracePeriod::Waiter {
    struct Discard {
        Passdown* passdown;
        IoRequest request;
    };
    PoolThread* pool;
    pdata::BlockSet blocks;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> runs;  // blocks
    std::size_t next_run = 0;
    unsigned in_flight = 0;
    int error = 0;  // the first
    Answer<ThinPool::Trimmed>* answer = nullptr;
    ThinPool::Trimmed trimmed{};

    void plan() {
        blocks.for_each_run([&](std::uint64_t first, std::uint64_t length) { runs.emplace_back(first, length); });
    }

    void pass_down() {
        while (next_run < runs.size() && in_flight < most_passdowns_in_flight) {
            auto* discard = new Discard{this, {}};
            discard->request.operation = IoOperation::discard;
            discard->request.offset = runs[next_run].first * pool->block_bytes_;
            discard->request.length = runs[next_run].second * pool->block_bytes_;
            discard->request.context = discard;
            discard->request.completed = [](IoRequest& request, int its_error) {
                auto* finished = static_cast<Discard*>(request.context);
                Passdown* passdown = finished->passdown;
                delete finished;
                if (passdown->error == 0)
                    passdown->error = its_error;
                --passdown->in_flight;
                passdown->pass_down();
            };
            ++next_run;
            ++in_flight;
            pool->data_.submit(pool->queue_, discard->request);
        }
        if (in_flight == 0)
            pool->released(*this);
    }
};

void PoolThread::after_commit() {
    pdata::BlockSet freed = metadata_->take_freed();
    if (freed.empty())
        return;
    auto* passdown = new Passdown{};
    passdown->pool = this;
    passdown->blocks = std::move(freed);
    passdown->done = [](GracePeriod::Waiter& waiter) {
        auto& over = static_cast<Passdown&>(waiter);
        if (over.pool->options_.discards == DiscardPolicy::passdown && over.pool->data_.traits().discards)
            over.plan();
        over.pass_down();
    };
    ++passdowns_;
    grace_.wait(*passdown);
}

void PoolThread::released(Passdown& passdown) {
    metadata_->make_reusable(passdown.blocks);
    // Of blocks that were freed an error is of no consequence: the room stays taken below.
    if (passdown.answer != nullptr) {
        if (passdown.error != 0)
            passdown.answer->give(fail_errno("discard " + data_.name(), passdown.error));
        else
            passdown.answer->give(passdown.trimmed);
    }
    delete &passdown;
    --passdowns_;
    // What was known of them is out of date.
    forget_zeroes();
    retry_space_waiters();
}

// Nobody has used these blocks since they became free: no grace period is needed.
void PoolThread::trim(DataBlock from, Answer<ThinPool::Trimmed>& answer) {
    pdata::BlockSet blocks;
    const auto take = [&]() -> Result<DataBlock> {
        TRY(writable());
        if (!data_.traits().discards)
            return fail(ErrorKind::unsupported, "{} can't discard", data_.name());
        return metadata_->quarantine_free(from, std::max<std::uint64_t>(1, most_trimmed_bytes / block_bytes_), blocks);
    };
    auto next = take();
    if (!next) {
        metadata_->make_reusable(blocks);
        return answer.give(std::unexpected(next.error()));
    }
    auto* passdown = new Passdown{};
    passdown->pool = this;
    passdown->trimmed = {*next, *next >= DataBlock(metadata_->data_counts().total), blocks.count()};
    passdown->answer = &answer;
    passdown->blocks = std::move(blocks);
    passdown->plan();
    ++passdowns_;
    passdown->pass_down();
}

void PoolThread::metadata_error(const Error& error) {
    if (!metadata_->must_abort()) {
        if (error.kind() == ErrorKind::no_space)
            enter_mode(PoolMode::out_of_metadata_space);
        return;
    }
    // As dm-thin: back to the last commit, and no change until somebody has checked.
    bool sound = metadata_->abort().has_value();
    if (sound)
        sound = metadata_->set_needs_check().has_value();
    // If the pool was dirty it stays so: mappings of acknowledged writes are gone, and no flush may say otherwise from now on.
    queue_.disarm(commit_timer_);
    enter_mode(sound ? PoolMode::read_only : PoolMode::fail);
    for (auto& [id, state] : volumes_) {
        state.volume->mappings_.drop_all();
        if (auto details = metadata_->details(id); details && !state.frozen)
            state.volume->snapshot_time_.store(details->snapshotted_time);
    }
    fail_space_waiters(EIO);
}

// --- Status of ranges -----------------------------------------------------------------------------------------------------

struct PoolThread::StatusTask : Task {
    ThinVolume* volume;
    IoQueue* home;
    StatusRequest* request;
    int error = 0;
};

void PoolThread::answer_status(ThinVolume& volume, IoQueue& home, StatusRequest& request) {
    auto* task = new StatusTask{};
    task->volume = &volume;
    task->home = &home;
    task->request = &request;
    task->run = [](Task& posted) {
        auto& self = static_cast<StatusTask&>(posted);
        self.volume->pool().answer_status_here(self);
    };
    queue_.post(*task);
}

void PoolThread::answer_status_here(StatusTask& task) {
    ThinVolume& volume = *task.volume;
    StatusRequest& request = *task.request;
    const std::uint64_t begin = request.offset;
    const std::uint64_t end = begin + std::min(request.length, volume.size() - begin);
    const VirtualBlock first(begin / block_bytes_);
    const VirtualBlock last_end((end + block_bytes_ - 1) / block_bytes_);
    std::vector<Mapping> found;
    auto next = metadata_->lookup_range(volume.id(), first, last_end, most_status_mappings, found);
    request.extents.clear();
    std::uint64_t at = begin;
    const auto add = [&](std::uint64_t until, bool allocated, bool zero, std::uint8_t depth) {
        until = std::min(until, end);
        if (until <= at)
            return true;
        if (!request.extents.empty()) {
            StatusExtent& last = request.extents.back();
            if (last.allocated == allocated && last.zero == zero && last.depth == depth) {
                last.length += until - at;
                at = until;
                return true;
            }
            if (request.extents.size() == request.max_extents)
                return false;
        }
        request.extents.push_back({until - at, allocated, zero, depth});
        at = until;
        return true;
    };
    BlockDevice* origin = volume.external_origin_;
    const auto add_unmapped = [&](std::uint64_t until) {
        // A hole is skipped by who copies a volume: what the origin has is none.
        if (origin != nullptr && at < origin->size())
            if (!add(std::min(until, origin->size()), true, false, 2))
                return false;
        return add(until, false, true, 0);
    };
    if (!next) {
        task.error = next.error().error_number();
    } else {
        const std::uint32_t snapshot_time = volume.snapshot_time_.load();
        bool room = true;
        for (const Mapping& mapping : found) {
            const std::uint64_t mapped_begin = mapping.virtual_block.value() * block_bytes_;
            room = add_unmapped(mapped_begin) && add(mapped_begin + block_bytes_, true, false, mapping.where.time < snapshot_time ? 2 : 1);
            if (!room)
                break;
        }
        if (room)
            add_unmapped(next->value() * block_bytes_);
    }
    task.run = [](Task& posted) {
        auto& self = static_cast<StatusTask&>(posted);
        StatusRequest& answered = *self.request;
        const int error = self.error;
        delete &self;
        answered.completed(answered, error);
    };
    task.home->post(task);
}

}  // namespace lamella::thin
