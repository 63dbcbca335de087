// SPDX-License-Identifier: Apache-2.0
#include "cow/origin_thread.h"

#include <algorithm>
#include <cassert>
#include <cerrno>

#include "cow/merge.h"

namespace lamella::cow {

// --- Snapshots ------------------------------------------------------------------------------------------------------------

SnapshotState::SnapshotState(BlockDevice& store_device, const SnapshotOptions& options, std::uint64_t its_size, ExceptionLog::Opened opened)
    : device(store_device),
      log(std::move(opened.log)),
      table(std::move(opened.table)),
      chunk_bytes(log->geometry().chunk_bytes()),
      size(its_size),
      name(options.name.empty() ? store_device.name() : options.name),
      persistent(options.store.persistent),
      may_overflow(options.store.overflow),
      discard_zeroes_cow(options.discard_zeroes_cow),
      discard_passdown_origin(options.discard_passdown_origin),
      valid(opened.valid) {
    invalid_waiter.snapshot = this;
    invalid_waiter.done = [](ExceptionLog::Waiter& waiter, int error) {
        InvalidWaiter& self = static_cast<InvalidWaiter&>(waiter);
        self.thread->marked_invalid(*self.snapshot, error);
    };
}

void SnapshotState::raise_event() {
    std::lock_guard lock(handler_mutex);
    for (const auto& [whose, handler] : handlers)
        handler();
}

bool SnapshotState::in_step(OriginChunk first, std::uint64_t count) {
    if (!step_under_way.load())
        return false;
    std::lock_guard lock(step_mutex);
    const auto found = std::lower_bound(step_chunks.begin(), step_chunks.end(), first.value());
    return found != step_chunks.end() && *found < first.value() + count;
}

// --- The thread -----------------------------------------------------------------------------------------------------------

OriginThread::OriginThread(BlockDevice& device, const OriginOptions& options, std::unique_ptr<IoQueue> own_queue, IoQueue& queue)
    : device_(device),
      name_(options.name.empty() ? device.name() : options.name),
      own_queue_(std::move(own_queue)),
      queue_(queue),
      grace_(queue),
      view_owner_(std::make_unique<View>()),
      view_(*view_owner_),
      copier_(queue, options.copy_buffer_bytes),
      merge_step_chunks_(std::max<std::uint64_t>(1, options.merge_step_chunks)) {
    release_task_.thread = this;
    release_task_.run = [](Task& task) {
        OriginThread& thread = *static_cast<ReleaseTask&>(task).thread;
        thread.release_posted_.store(false);
        thread.look_at_drains();
    };
}

void OriginThread::run_thread() {
    while (!stopping_.load())
        queue_.run_once(true);
}

OriginThread::~OriginThread() {
    // Nothing is open any more; tasks that were posted may still be on their way.
    const auto busy = [this] {
        return under_way_ != 0 || !grace_.idle() || release_posted_.load() ||
               std::any_of(committers_.begin(), committers_.end(), [](const auto& committer) { return committer->busy(); });
    };
    if (thread_.joinable()) {
        struct Last : Task {
            OriginThread* thread;
            std::function<bool()> busy;
        } last;
        last.thread = this;
        last.busy = busy;
        last.run = [](Task& task) {
            Last& self = static_cast<Last&>(task);
            if (self.busy())
                self.thread->queue_.post(task);
            else
                self.thread->stopping_.store(true);
        };
        queue_.post(last);
        thread_.join();
    } else {
        queue_.run_until([&] { return !busy(); });
    }
}

struct OriginThread::Grace : GracePeriod::Waiter {
    OriginThread* thread;
    std::function<void()> then;
};

void OriginThread::after_grace(std::function<void()> then) {
    auto* grace = new Grace;
    grace->thread = this;
    grace->then = std::move(then);
    grace->done = [](GracePeriod::Waiter& waiter) {
        std::unique_ptr<Grace> over(static_cast<Grace*>(&waiter));
        --over->thread->under_way_;
        over->then();
    };
    ++under_way_;
    grace_.wait(*grace);
}

void OriginThread::set_view(View view) {
    auto next = std::make_unique<const View>(std::move(view));
    view_.publish(*next);
    // Whoever looked at the old one may still do so.
    after_grace([old = std::shared_ptr<const View>(std::move(view_owner_))] {});
    view_owner_ = std::move(next);
}

void OriginThread::set_frozen(bool frozen) {
    View view = *view_owner_;
    view.frozen = frozen;
    set_view(std::move(view));
}

void OriginThread::let_writes_go_on() {
    if (beginning_ > 0 || view_owner_->writes_wait())
        return;
    std::vector<CowIo*> blocked;
    blocked.swap(waiting_for_begin_);
    for (CowIo* io : blocked)
        deal_here(*io);
}

void OriginThread::released() {
    if (!release_posted_.exchange(true))
        queue_.post(release_task_);
}

void OriginThread::resume(CowIo& io, IoQueue& here) {
    io.task.run = [](Task& task) {
        CowIo& resumed = *static_cast<CowIo::IoTask&>(task).io;
        resumed.thread.deal_here(resumed);
    };
    here.hand_over(queue_, io.task);
}

// --- The data path; any thread --------------------------------------------------------------------------------------------

bool OriginThread::settled(const View& view, std::uint64_t start, std::uint64_t end, const SnapshotState* but) {
    if (view.snapshots.empty() || (view.settled != nullptr && view.settled->settled(start, end)))
        return true;
    std::uint64_t nothing_known_before = 0;
    for (const SnapshotState* snapshot : view.snapshots) {
        if (snapshot == but || !snapshot->valid.load())
            continue;
        if (start >= snapshot->size) {
            nothing_known_before = std::max(nothing_known_before, snapshot->end_chunk(snapshot->size) * snapshot->chunk_bytes);
            continue;
        }
        const OriginChunk first(start / snapshot->chunk_bytes);
        if (!snapshot->table->settled(first, snapshot->end_chunk(std::min(end, snapshot->size)) - first.value()))
            return false;
    }
    if (but == nullptr && view.settled != nullptr)
        view.settled->note(start, end, nothing_known_before);
    return true;
}

bool OriginThread::deal_origin(CowIo& io, IoQueue& here) {
    io.token = grace_.enter();
    const View& view = view_.get();
    const SnapshotState* but = io.passed_down ? io.snapshot : nullptr;
    const std::uint64_t end = io.start + io.length;
    if (io.writes() && view.writes_wait()) {
        io.leave_grace();
        return false;
    }
    if (view.merging == nullptr) {
        if (io.writes() && !settled(view, io.start, end, but)) {
            io.leave_grace();
            return false;
        }
        io.start_part(here, {.device = &device_, .offset = 0, .size = io.length, .device_offset = io.start});
        return true;
    }
    if (io.operation == IoOperation::discard)
        return true;  // without effect while a snapshot merges, as in the kernel
    SnapshotState& merging = *view.merging;
    std::vector<CowIo::Place> places;
    bool refused = false;
    for (std::uint64_t at = io.start; at < end && !refused;) {
        CowIo::Place place{.device = &device_, .offset = at - io.start, .size = end - at, .device_offset = at};
        if (at < merging.size) {
            const OriginChunk chunk(at / merging.chunk_bytes);
            const std::uint64_t inside = at % merging.chunk_bytes;
            const std::uint64_t limit = merging.end_chunk(std::min(end, merging.size)) - chunk.value();
            const auto allowed = [&](const ExceptionTable::Run& run) {
                refused = merging.in_step(chunk, run.count);
                return !refused;
            };
            const auto run = io.writes() ? merging.table->find_and_hold(chunk, limit, ExceptionTable::Holds::present, allowed)
                                         : merging.table->find(chunk, limit);
            if (refused)
                break;
            place.size = std::min(end - at, run.count * merging.chunk_bytes - inside);
            if (run.where) {
                place.device = &merging.device;
                place.device_offset = run.where->value() * merging.chunk_bytes + inside;
                if (io.writes()) {
                    place.held_by = &merging;
                    place.first = chunk;
                    place.count = run.count;
                }
            }
        }
        if (place.device == &device_) {
            if (io.writes() && !settled(view, at, at + place.size, but)) {
                refused = true;
                break;
            }
            if (!places.empty() && places.back().device == &device_) {
                places.back().size += place.size;
                at += place.size;
                continue;
            }
        }
        places.push_back(place);
        at += place.size;
    }
    if (refused) {
        for (const CowIo::Place& place : places)
            if (place.held_by != nullptr && merging.table->release(place.first, place.count))
                released();
        io.leave_grace();
        return false;
    }
    for (const CowIo::Place& place : places)
        io.start_part(here, place);
    return true;
}

void OriginThread::flush_merging(CowIo& io, IoQueue& here) {
    io.token = grace_.enter();
    const View& view = view_.get();
    io.start_part(here, {.device = &device_});
    if (view.merging != nullptr)
        io.start_part(here, {.device = &view.merging->device});
}

bool OriginThread::deal_snapshot(CowIo& io, IoQueue& here) {
    SnapshotState& snapshot = *io.snapshot;
    if (io.operation == IoOperation::discard)
        return false;
    if (io.writes())
        io.token = grace_.enter();
    if (!snapshot.answers() || (io.writes() && snapshot.overflowed.load())) {
        io.note_error(EIO);
        return true;
    }
    const std::uint64_t end = io.start + io.length;
    std::vector<CowIo::Place> places;
    for (std::uint64_t at = io.start; at < end;) {
        const OriginChunk chunk(at / snapshot.chunk_bytes);
        const std::uint64_t inside = at % snapshot.chunk_bytes;
        const std::uint64_t limit = snapshot.end_chunk(end) - chunk.value();
        const auto run =
            io.writes() ? snapshot.table->find(chunk, limit) : snapshot.table->find_and_hold(chunk, limit, ExceptionTable::Holds::absent);
        CowIo::Place place{.device = &device_, .offset = at - io.start, .device_offset = at};
        place.size = std::min(end - at, run.count * snapshot.chunk_bytes - inside);
        at += place.size;
        if (run.where) {
            place.device = &snapshot.device;
            place.device_offset = run.where->value() * snapshot.chunk_bytes + inside;
            if (!places.empty() && places.back().device == &snapshot.device &&
                places.back().device_offset + places.back().size == place.device_offset) {
                places.back().size += place.size;
                continue;
            }
        } else if (io.writes()) {
            io.leave_grace();
            return false;
        } else {
            place.held_by = &snapshot;
            place.first = chunk;
            place.count = run.count;
        }
        places.push_back(place);
    }
    // After the look at the table: what is found there is counted.
    if (io.writes() && io.request.durable && (snapshot.uncommitted.load() != 0 || snapshot.lost_writes.load())) {
        io.leave_grace();
        return false;
    }
    for (const CowIo::Place& place : places)
        io.start_part(here, place);
    return true;
}

// --- Requests that come here ----------------------------------------------------------------------------------------------

void OriginThread::deal_here(CowIo& io) {
    if (io.snapshot == nullptr || io.passed_down)
        block_origin(io);
    else if (io.operation == IoOperation::flush)
        deal_snapshot_flush(io);
    else if (io.operation == IoOperation::discard)
        deal_snapshot_discard(io);
    else
        deal_snapshot_write(io);
}

// A write to the origin waits for whatever is in its way, and begins again where it came from.
void OriginThread::block_origin(CowIo& io) {
    if (beginning_ > 0 || view_owner_->writes_wait()) {
        waiting_for_begin_.push_back(&io);
        return;
    }
    io.blocked.waits = 1;
    io.blocked.ready = [](Blocked& blocked) {
        CowIo& ready = *static_cast<CowIo::IoBlocked&>(blocked).io;
        ready.task.run = [](Task& task) {
            CowIo& again = *static_cast<CowIo::IoTask&>(task).io;
            if (again.error.load() != 0 || again.thread.deal_origin(again, again.home))
                again.finish_part(again.home);
            else
                again.thread.resume(again, again.home);
        };
        ready.thread.queue_.hand_over(ready.home, ready.task);
    };
    const std::uint64_t end = io.start + io.length;
    const SnapshotState* but = io.passed_down ? io.snapshot : nullptr;
    if (SnapshotState* merging = view_owner_->merging) {
        for (std::uint64_t at = io.start; at < end;) {
            if (at >= merging->size) {
                preserve(at, end, but, io.blocked);
                break;
            }
            const OriginChunk chunk(at / merging->chunk_bytes);
            const auto run = merging->table->find(chunk, merging->end_chunk(std::min(end, merging->size)) - chunk.value());
            const std::uint64_t until = std::min(end, (chunk.value() + run.count) * merging->chunk_bytes);
            if (!run.where)
                preserve(at, until, but, io.blocked);
            else if (merging->in_step(chunk, run.count) && !merge_->wait_for_step(io.blocked))
                io.note_error(EIO);
            at = until;
        }
    } else {
        preserve(io.start, end, but, io.blocked);
    }
    io.blocked.unblock();
}

// The exceptions that cover a chunk soon; or null, and `free_until` is no further than where the next ones begin.
Pending* OriginThread::pending_at(SnapshotState& snapshot, std::uint64_t chunk, std::uint64_t& free_until) {
    const auto next = snapshot.pending.upper_bound(chunk);
    if (next != snapshot.pending.begin()) {
        Pending* before = std::prev(next)->second;
        if (before->end() > chunk)
            return before;
    }
    if (next != snapshot.pending.end())
        free_until = std::min(free_until, next->first);
    return nullptr;
}

Pending* OriginThread::make_pending(SnapshotState& snapshot, std::uint64_t first, std::uint64_t count, bool for_origin) {
    auto pending = std::make_unique<Pending>();
    pending->old = OriginChunk(first);
    pending->count = count;
    pending->thread = this;
    pending->snapshot = &snapshot;
    pending->for_origin = for_origin;
    pending->NewExceptions::committed = [](NewExceptions& exceptions, int error) {
        Pending& self = static_cast<Pending&>(exceptions);
        self.thread->committed(self, error);
    };
    if (!snapshot.log->allocate(*pending))
        return nullptr;
    snapshot.pending.emplace(first, pending.get());
    return pending.release();
}

// Sees to it that every snapshot holds the chunks of [start, end), and nobody reads them from the origin in its name.
void OriginThread::preserve(std::uint64_t start, std::uint64_t end, const SnapshotState* but, Blocked& blocked) {
    std::vector<Pending*> fresh;
    for (SnapshotState* snapshot : view_owner_->snapshots) {
        if (start >= snapshot->size || !snapshot->valid.load())
            continue;
        const std::uint64_t end_chunk = snapshot->end_chunk(std::min(end, snapshot->size));
        for (std::uint64_t chunk = start / snapshot->chunk_bytes; chunk < end_chunk;) {
            const auto run = snapshot->table->find(OriginChunk(chunk), end_chunk - chunk);
            if (run.where) {
                if (snapshot != but)
                    drain(*snapshot, OriginChunk(chunk), run.count, blocked);
                chunk += run.count;
                continue;
            }
            std::uint64_t free_until = chunk + run.count;
            Pending* pending = pending_at(*snapshot, chunk, free_until);
            if (pending == nullptr && snapshot == but) {
                chunk = free_until;
                continue;
            }
            if (snapshot->invalidating) {
                invalidate(*snapshot, &blocked);
                break;
            }
            if (pending == nullptr) {
                const std::uint64_t store_size = snapshot->log->usage().total;
                pending = make_pending(*snapshot, chunk, free_until - chunk, true);
                if (pending == nullptr && ask_for_room(*snapshot, store_size)) {
                    ++blocked.waits;
                    snapshot->origin_writes_without_room.push_back(&blocked);
                    break;
                }
                if (pending == nullptr) {
                    invalidate(*snapshot, &blocked);
                    break;
                }
                fresh.push_back(pending);
            }
            ++blocked.waits;
            pending->origin_writes.push_back(&blocked);
            chunk = pending->end();
        }
    }
    start_copies(fresh);
}

struct OriginThread::CopyJob : Copy {
    OriginThread* thread;
};

// What overlaps or touches is read once, unless a store's device couldn't take its part as it lies in the buffer.
void OriginThread::start_copies(std::vector<Pending*>& fresh) {
    const auto start_of = [](const Pending* pending) { return pending->first() * pending->snapshot->chunk_bytes; };
    const auto end_of = [&](const Pending* pending) { return std::min(pending->end() * pending->snapshot->chunk_bytes, device_.size()); };
    std::sort(fresh.begin(), fresh.end(), [&](const Pending* left, const Pending* right) { return start_of(left) < start_of(right); });
    for (std::size_t next = 0; next < fresh.size();) {
        auto* job = new CopyJob;
        job->thread = this;
        job->from = &device_;
        job->offset = start_of(fresh[next]);
        std::uint64_t end = job->offset;
        for (; next < fresh.size() && start_of(fresh[next]) <= end; ++next) {
            Pending& pending = *fresh[next];
            if (job->offset % pending.snapshot->device.traits().alignment != 0)
                break;
            job->targets.push_back({.device = &pending.snapshot->device,
                                    .start = start_of(&pending) - job->offset,
                                    .length = end_of(&pending) - start_of(&pending),
                                    .offset = pending.where.value() * pending.snapshot->chunk_bytes,
                                    .log = pending.snapshot->persistent ? pending.snapshot->log.get() : nullptr,
                                    .owner = &pending});
            end = std::max(end, end_of(&pending));
        }
        job->length = end - job->offset;
        job->completed = [](Copy& copy) {
            std::unique_ptr<CopyJob> done(static_cast<CopyJob*>(&copy));
            --done->thread->under_way_;
            for (const Copy::Target& target : done->targets)
                done->thread->data_written(*static_cast<Pending*>(target.owner), target.error);
        };
        ++under_way_;
        copier_.start(*job);
    }
}

void OriginThread::data_written(Pending& pending, int error) {
    SnapshotState& snapshot = *pending.snapshot;
    if (error == 0) {
        show(pending);
        snapshot.log->written(pending);
        return;
    }
    snapshot.log->dropped(pending);
    snapshot.pending.erase(pending.first());
    let_snapshot_writes_go_on(pending, error);
    if (pending.for_origin)
        invalidate(snapshot, nullptr);
    // Where the snapshot goes on they find the chunk missing, and ask for it themselves.
    for (Blocked* blocked : pending.origin_writes) {
        if (pending.for_origin)
            invalidate(snapshot, blocked);
        blocked->unblock();
    }
    delete &pending;
    look_if_idle(snapshot);
}

void OriginThread::committed(Pending& pending, int error) {
    SnapshotState& snapshot = *pending.snapshot;
    snapshot.pending.erase(pending.first());
    if (error != 0) {
        invalidate(snapshot, nullptr);
    } else if (!pending.shown) {
        [[maybe_unused]] const bool inserted = snapshot.table->insert(pending.old, pending.where, pending.count);
        assert(inserted);
    }
    let_snapshot_writes_go_on(pending, error);
    if (pending.shown) {
        if (error != 0)
            snapshot.lost_writes.store(true);
        if (snapshot.uncommitted.fetch_sub(1) == 1) {
            std::lock_guard lock(snapshot.handler_mutex);
            snapshot.all_committed.notify_all();
        }
        // What isn't durable and never will be keeps the origin's writes off until nobody can take the snapshot for a good one.
        if (error != 0 && snapshot.valid.load())
            snapshot.held_until_invalid.push_back({pending.old, pending.count});
        else if (snapshot.table->release(pending.old, pending.count))
            released();
        for (CowIo* io : pending.want_it_durable) {
            io->note_error(error);
            io->finish_part(queue_);
        }
    }
    for (Blocked* blocked : pending.origin_writes) {
        if (error == 0)
            drain(snapshot, pending.old, pending.count, *blocked);
        else
            invalidate(snapshot, blocked);
        blocked->unblock();
    }
    delete &pending;
    look_if_idle(snapshot);
}

void OriginThread::drain(SnapshotState& snapshot, OriginChunk first, std::uint64_t count, Blocked& blocked) {
    // In this order: who releases after the look finds somebody watching.
    snapshot.table->watch_releases(true);
    if (snapshot.table->held(first, count)) {
        ++blocked.waits;
        snapshot.draining.push_back({{first, count}, &blocked});
    } else if (snapshot.draining.empty()) {
        snapshot.table->watch_releases(false);
    }
}

void OriginThread::look_at_drains() {
    std::vector<Blocked*> ready;
    const auto look = [&](SnapshotState& snapshot) {
        std::erase_if(snapshot.draining, [&](const SnapshotState::Drain& waiting) {
            if (snapshot.table->held(waiting.first, waiting.count))
                return false;
            ready.push_back(waiting.blocked);
            return true;
        });
        if (snapshot.draining.empty())
            snapshot.table->watch_releases(false);
    };
    for (SnapshotState* snapshot : open_)
        look(*snapshot);
    for (Blocked* blocked : ready)
        blocked->unblock();
}

// The origin's writes wait until nobody can take the snapshot for a good one again.
void OriginThread::invalidate(SnapshotState& snapshot, Blocked* blocked) {
    if (!snapshot.valid.load())
        return;
    if (blocked != nullptr) {
        ++blocked->waits;
        snapshot.waiting_for_invalid.push_back(blocked);
    }
    if (snapshot.invalidating)
        return;
    snapshot.invalidating = true;
    snapshot.invalid_waiter.thread = this;
    snapshot.log->mark_invalid(snapshot.invalid_waiter);
}

void OriginThread::marked_invalid(SnapshotState& snapshot, int error) {
    snapshot.mark_failed = error != 0;
    snapshot.invalidating = false;
    if (snapshot.valid.exchange(false))
        snapshot.raise_event();
    for (const SnapshotState::Range& range : std::exchange(snapshot.held_until_invalid, {}))
        if (snapshot.table->release(range.first, range.count))
            released();
    std::vector<Blocked*> waiting;
    waiting.swap(snapshot.waiting_for_invalid);
    for (Blocked* blocked : waiting)
        blocked->unblock();
    let_writes_without_room_go_on(snapshot, true);
    look_if_idle(snapshot);
}

// Not from here: what calls this may still use what ends with the snapshot.
void OriginThread::look_if_idle(SnapshotState& snapshot) {
    if (!snapshot.when_idle || !snapshot.pending.empty() || snapshot.invalidating || !snapshot.log->idle())
        return;
    struct Idle : Task {
        OriginThread* thread;
        std::function<void()> then;
    };
    auto* idle = new Idle;
    idle->thread = this;
    idle->then = std::exchange(snapshot.when_idle, nullptr);
    idle->run = [](Task& task) {
        const std::unique_ptr<Idle> self(static_cast<Idle*>(&task));
        --self->thread->under_way_;
        self->then();
    };
    ++under_way_;
    queue_.post(*idle);
}

void OriginThread::when_idle(SnapshotState& snapshot, std::function<void()> then) {
    snapshot.when_idle = std::move(then);
    look_if_idle(snapshot);
}

}  // namespace lamella::cow
