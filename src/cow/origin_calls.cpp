// SPDX-License-Identifier: Apache-2.0
//
// What other threads ask of the origin's: snapshots that begin and end, and moments without writes.
#include <algorithm>
#include <cassert>

#include "cow/origin_thread.h"

namespace lamella::cow {

// A new snapshot shows, from now on, what the origin's writes before it left: durable before its first copy is, so that a crash doesn't
// take from it what it takes from the origin.
struct OriginThread::Beginning {
    OriginThread* thread;
    Answer<void>* answer;
    IoRequest flush{};

    void end(int error) {
        OriginThread& over = *thread;
        Answer<void>& waiting = *answer;
        const std::string what = fmt::format("flushing {}", over.device_.name());
        delete this;
        --over.beginning_;
        over.let_writes_go_on();
        waiting.give(error == 0 ? Result<void>() : fail_errno(what, error));
    }
};

Committer& OriginThread::committer_of(BlockDevice& store) {
    std::vector<BlockDevice*> leaves;
    store.add_leaves(leaves);
    const auto found = std::find_if(committers_.begin(), committers_.end(), [&](const auto& one) { return one->leaves() == leaves; });
    if (found != committers_.end())
        return **found;
    return *committers_.emplace_back(std::make_unique<Committer>(queue_, std::move(leaves)));
}

void OriginThread::leave_committer(SnapshotState& snapshot) {
    for (const auto& committer : committers_)
        committer->remove(*snapshot.log);
    std::erase_if(committers_, [](const auto& committer) { return committer->unused(); });
}

Result<void> OriginThread::add_snapshot(SnapshotState& snapshot, bool fresh) {
    return call([&](Answer<void>& answer) {
        open_.push_back(&snapshot);
        snapshot.log->use(queue_, committer_of(snapshot.device), [this, &snapshot] { look_if_idle(snapshot); });
        View view = *view_owner_;
        view.snapshots.push_back(&snapshot);
        const auto smaller = [](const SnapshotState* left, const SnapshotState* right) { return left->chunk_bytes < right->chunk_bytes; };
        view.settled =
            SettledMap::make(device_.size(), (*std::min_element(view.snapshots.begin(), view.snapshots.end(), smaller))->chunk_bytes);
        set_view(std::move(view));
        ++beginning_;
        after_grace([this, fresh, &answer] {
            auto* beginning = new Beginning{.thread = this, .answer = &answer};
            if (!fresh)
                return beginning->end(0);
            beginning->flush.operation = IoOperation::flush;
            beginning->flush.context = beginning;
            beginning->flush.completed = [](IoRequest& request, int error) { static_cast<Beginning*>(request.context)->end(error); };
            device_.submit(queue_, beginning->flush);
        });
    });
}

// Ends when the grace period has: the answer may have been given by then.
struct OriginThread::Freezing : Timer {
    OriginThread* thread;
    Answer<void>* answer;
};

Result<void> OriginThread::freeze(Duration patience) {
    return call([&](Answer<void>& answer) {
        set_frozen(true);
        auto freezing = std::make_shared<Freezing>();
        freezing->thread = this;
        freezing->answer = &answer;
        freezing->fired = [](Timer& timer) {
            auto& late = static_cast<Freezing&>(timer);
            late.thread->set_frozen(false);
            late.thread->let_writes_go_on();
            std::exchange(late.answer, nullptr)
                ->give(
                    fail(ErrorKind::refused, "{}: writes to it don't end: there is no moment to take a snapshot at", late.thread->name_));
        };
        queue_.arm(*freezing, queue_.clock().monotonic() + patience);
        after_grace([this, freezing] {
            if (freezing->answer == nullptr)
                return;
            queue_.disarm(*freezing);
            freezing->answer->give({});
        });
    });
}

void OriginThread::thaw() {
    [[maybe_unused]] const auto thawed = call([this](Answer<void>& answer) {
        set_frozen(false);
        let_writes_go_on();
        answer.give({});
    });
    assert(thawed);
}

void OriginThread::remove_snapshot(SnapshotState& snapshot) {
    const auto removed = call([&](Answer<void>& answer) {
        View view = *view_owner_;
        std::erase(view.snapshots, &snapshot);
        set_view(std::move(view));
        let_writes_without_room_go_on(snapshot, true);
        after_grace([this, &snapshot, &answer] {
            when_idle(snapshot, [this, &snapshot, &answer] {
                const auto gone = [this, &snapshot, &answer] {
                    look_at_drains();
                    std::erase(open_, &snapshot);
                    leave_committer(snapshot);
                    answer.give({});
                };
                if (!snapshot.mark_failed)
                    return gone();
                snapshot.mark_failed = false;
                snapshot.invalidating = true;
                snapshot.log->mark_invalid(snapshot.invalid_waiter);
                when_idle(snapshot, gone);
            });
        });
    });
    assert(removed);
}

}  // namespace lamella::cow
