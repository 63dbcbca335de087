// SPDX-License-Identifier: Apache-2.0
//
// Merging
//
// From the moment a merge begins, the origin shows the snapshot: a chunk with an exception is read and written in the store, every other
// on the real device. A step takes the last exceptions of the store, as many as make a few MiB; lets no write to their chunks begin and
// waits for those under way; has the chunks' old content copied to the other snapshots; copies the chunks to the origin; flushes the
// origin; takes the exceptions away on the disk; then in memory, so that the chunks are the origin's again. A crash before the exceptions
// are gone finds them, and what they name, and does the step again; after, it finds the origin's chunks, which were flushed.
//
// The kernel takes one run of consecutive chunks at a time. What it finds on the disk after any step of ours is what it could have left
// itself: the exceptions of a store, some of the last of them gone.
#include "cow/merge.h"

#include <algorithm>
#include <cassert>
#include <cerrno>

namespace lamella::cow {

namespace {
constexpr std::uint64_t step_bytes = 4 << 20;
}  // namespace

OriginThread::Merge::Merge(OriginThread& its_thread, SnapshotState& its_snapshot) : thread(its_thread), snapshot(its_snapshot) {
    blocked.merge = this;
    blocked.ready = [](Blocked& ready) {
        Merge& merge = *static_cast<StepBlocked&>(ready).merge;
        merge.thread.preserve_step();
    };
    read_waiter.merge = clear_waiter.merge = this;
    read_waiter.done = [](ExceptionLog::Waiter& waiter, int failure) { static_cast<LogWaiter&>(waiter).merge->thread.tail_read(failure); };
    clear_waiter.done = [](ExceptionLog::Waiter& waiter, int failure) {
        static_cast<LogWaiter&>(waiter).merge->thread.step_cleared(failure);
    };
    step_task.merge = this;
    step_task.run = [](Task& task) { static_cast<StepTask&>(task).merge->thread.merge_step(); };
}

bool OriginThread::Merge::wait_for_step(Blocked& waiter) {
    if (!running)
        return false;
    ++waiter.waits;
    waiting.push_back(&waiter);
    return true;
}

void OriginThread::Merge::let_waiting_go() {
    std::vector<Blocked*> let_go;
    let_go.swap(waiting);
    for (Blocked* waiter : let_go)
        waiter->unblock();
}

void OriginThread::Merge::has_stopped() {
    running = false;
    stop = false;
    // Some may have come after the last step's end.
    let_waiting_go();
    if (const auto told = std::exchange(stopped, nullptr))
        told();
}

void OriginThread::merge_step() {
    Merge& merge = *merge_;
    if (merge.stop)
        return merge.has_stopped();
    merge.error = 0;
    merge.snapshot.log->read_tail(std::clamp<std::uint64_t>(step_bytes / merge.snapshot.chunk_bytes, 1, merge_step_chunks_),
                                  merge.read_waiter);
}

void OriginThread::tail_read(int error) {
    Merge& merge = *merge_;
    SnapshotState& snapshot = merge.snapshot;
    if (merge.stop && error == 0)
        return end_step(0);
    const auto& tail = snapshot.log->tail();
    // Nobody else writes to the store: it says what it said when it was opened, or it can't be relied on.
    for (const ExceptionLog::Exception& exception : tail)
        if (error == 0 && snapshot.table->find(exception.old, 1).where != exception.where)
            error = EIO;
    if (error != 0)
        return end_step(error);
    if (tail.empty()) {
        View view = *view_owner_;
        view.merging = nullptr;
        set_view(std::move(view));
        snapshot.raise_event();
        return merge.has_stopped();
    }
    std::vector<std::uint64_t> chunks;
    for (const ExceptionLog::Exception& exception : tail)
        chunks.push_back(exception.old.value());
    std::sort(chunks.begin(), chunks.end());
    {
        std::lock_guard lock(snapshot.step_mutex);
        snapshot.step_chunks = chunks;
    }
    snapshot.step_under_way.store(true);
    preserve_step();
}

// Again and again, until the other snapshots have what the step overwrites: what was waited for may not have come.
void OriginThread::preserve_step() {
    Merge& merge = *merge_;
    SnapshotState& snapshot = merge.snapshot;
    if (merge.stop)
        return end_step(0);
    const std::vector<std::uint64_t>& chunks = snapshot.step_chunks;  // changed by this thread alone
    merge.blocked.waits = 1;
    for (std::size_t next = 0; next < chunks.size();) {
        std::size_t after = next + 1;
        while (after < chunks.size() && chunks[after] == chunks[after - 1] + 1)
            ++after;
        drain(snapshot, OriginChunk(chunks[next]), after - next, merge.blocked);
        preserve(chunks[next] * snapshot.chunk_bytes, std::min((chunks[after - 1] + 1) * snapshot.chunk_bytes, snapshot.size), nullptr,
                 merge.blocked);
        next = after;
    }
    if (merge.blocked.waits == 1)
        copy_step();
    else
        merge.blocked.unblock();
}

void OriginThread::copy_step() {
    Merge& merge = *merge_;
    SnapshotState& snapshot = merge.snapshot;
    std::vector<ExceptionLog::Exception> exceptions = snapshot.log->tail();
    // Chunks lie in the store in the order in which they came: what follows each other there is read at once, wherever it goes.
    std::sort(exceptions.begin(), exceptions.end(), [](const auto& left, const auto& right) { return left.where < right.where; });
    merge.copies.clear();
    const std::uint64_t end_of_origin = std::min(snapshot.size, device_.size());
    for (std::size_t next = 0; next < exceptions.size();) {
        Merge::StepCopy& copy = merge.copies.emplace_back();
        copy.merge = &merge;
        copy.from = &snapshot.device;
        copy.offset = exceptions[next].where.value() * snapshot.chunk_bytes;
        do {
            std::size_t after = next + 1;
            while (after < exceptions.size() && exceptions[after].old == exceptions[after - 1].old + 1 &&
                   exceptions[after].where == exceptions[after - 1].where + 1)
                ++after;
            const std::uint64_t start = exceptions[next].old.value() * snapshot.chunk_bytes;
            const std::uint64_t length = std::min((after - next) * snapshot.chunk_bytes, end_of_origin - start);
            copy.targets.push_back({.device = &device_, .start = copy.length, .length = length, .offset = start});
            copy.length += (after - next) * snapshot.chunk_bytes;
            next = after;
        } while (next < exceptions.size() && exceptions[next].where == exceptions[next - 1].where + 1);
        copy.completed = [](Copy& completed) {
            Merge& owner = *static_cast<Merge::StepCopy&>(completed).merge;
            for (const Copy::Target& target : completed.targets)
                if (target.error != 0)
                    owner.error = target.error;
            if (--owner.copying == 0)
                owner.thread.step_copied();
        };
    }
    merge.copying = merge.copies.size();
    // From here on the list stays as it is.
    for (Merge::StepCopy& copy : merge.copies)
        copier_.start(copy);
}

void OriginThread::step_copied() {
    Merge& merge = *merge_;
    if (merge.error != 0)
        return end_step(merge.error);
    merge.flush = IoRequest{.operation = IoOperation::flush};
    merge.flush.context = &merge;
    merge.flush.completed = [](IoRequest& request, int error) { static_cast<Merge*>(request.context)->thread.step_flushed(error); };
    device_.submit(queue_, merge.flush);
}

void OriginThread::step_flushed(int error) {
    if (error != 0)
        return end_step(error);
    merge_->snapshot.log->clear_tail(merge_->clear_waiter);
}

void OriginThread::step_cleared(int error) {
    SnapshotState& snapshot = merge_->snapshot;
    if (error == 0) {
        merge_->clear_unknown = false;
        for (const ExceptionLog::Exception& exception : snapshot.log->tail()) {
            [[maybe_unused]] const bool erased = snapshot.table->erase(exception.old);
            assert(erased);
        }
        return end_step(0);
    }
    // Whether they are gone on the disk isn't known. Their chunks are read from either place alike, but can't be written in one: they stay
    // as they are, until the store is opened again.
    merge_->clear_unknown = true;
    end_step(error);
}

void OriginThread::end_step(int error) {
    Merge& merge = *merge_;
    SnapshotState& snapshot = merge.snapshot;
    snapshot.step_under_way.store(merge.clear_unknown);
    if (error != 0) {
        merge.running = false;
        snapshot.merge_failed.store(true);
        snapshot.raise_event();
    }
    merge.let_waiting_go();
    if (error == 0)
        queue_.post(merge.step_task);
    else
        merge.has_stopped();
}

Result<void> OriginThread::start_merge(SnapshotState& snapshot) {
    return call([&](Answer<void>& answer) {
        const auto go_on = [this, &answer] {
            merge_->running = true;
            merge_->snapshot.merge_failed.store(false);
            queue_.post(merge_->step_task);
            answer.give({});
        };
        if (merge_ != nullptr) {
            if (!merge_->running && view_owner_->merging != nullptr)
                return go_on();
            // One that was asked to stop and hasn't yet goes on.
            assert(merge_->stopped == nullptr);
            merge_->stop = false;
            return answer.give({});
        }
        merge_ = std::make_unique<Merge>(*this, snapshot);
        // What is on its way into the snapshot arrives there, and is durable, before writes to the origin find its chunks where the
        // snapshot has them.
        snapshot.given_up.store(true);
        View waiting = *view_owner_;
        waiting.merge_begins = true;
        set_view(std::move(waiting));
        let_writes_without_room_go_on(snapshot, true);
        after_grace([this, &answer, go_on] {
            when_idle(merge_->snapshot, [this, &answer, go_on] {
                View view = *view_owner_;
                view.merge_begins = false;
                std::erase(view.snapshots, &merge_->snapshot);
                const bool valid = merge_->snapshot.valid.load();
                if (valid)
                    view.merging = &merge_->snapshot;
                set_view(std::move(view));
                let_writes_go_on();
                if (valid)
                    return go_on();
                // Invalid by now: as if it had been before.
                answer.give({});
            });
        });
    });
}

bool OriginThread::stop_merge(std::optional<Duration> patience) {
    struct Late : Timer {
        OriginThread* thread;
        Answer<void>* answer;
    };
    const auto asked = call([&](Answer<void>& answer) {
        if (merge_ == nullptr || !merge_->running)
            return answer.give({});
        assert(merge_->stopped == nullptr);
        merge_->stop = true;
        auto late = std::make_shared<Late>();
        merge_->stopped = [this, late, &answer] {
            queue_.disarm(*late);
            answer.give({});
        };
        if (patience) {
            late->thread = this;
            late->answer = &answer;
            late->fired = [](Timer& timer) {
                auto& passed = static_cast<Late&>(timer);
                Answer<void>& waiting = *passed.answer;
                passed.thread->merge_->stopped = nullptr;  // and with it the timer
                waiting.give(fail(ErrorKind::refused, "a chunk is being merged"));
            };
            queue_.arm(*late, queue_.clock().monotonic() + *patience);
        }
        // A step that waits for another snapshot's room isn't begun: nobody may be left who makes some.
        stop_waiting_for_room(merge_->blocked);
    });
    return asked.has_value();
}

void OriginThread::end_merge() {
    stop_merge({});
    const auto ended = call([&](Answer<void>& answer) {
        View view = *view_owner_;
        view.merging = nullptr;
        set_view(std::move(view));
        after_grace([this, &answer] {
            merge_.reset();
            answer.give({});
        });
    });
    assert(ended);
}

}  // namespace lamella::cow
