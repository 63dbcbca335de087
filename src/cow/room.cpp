// SPDX-License-Identifier: Apache-2.0
//
// Room in a store that grows while it is in use
//
// Whoever extends stores may be slower than writes fill them. Where somebody has said that he does, a write that finds no room waits: it
// isn't in a grace period, and holds nothing that another request needs. He is told, and says when he has done what he can. The writes
// begin again then if the store has grown, and may find that it wasn't enough.
//
// They begin again, too, as soon as the snapshot no longer concerns them: it is invalid, closed, or being merged.
#include <cassert>

#include "cow/origin_thread.h"

namespace lamella::cow {

// `full_at`: the size of the store, in sectors, before there was found to be no room: it may have grown since. False: nobody makes room, or
// it isn't room that is wanting.
bool OriginThread::ask_for_room(SnapshotState& snapshot, std::uint64_t full_at) {
    if (!snapshot.answers() || snapshot.log->failed())
        return false;
    std::lock_guard lock(snapshot.handler_mutex);
    if (!snapshot.room_handler)
        return false;
    if (!snapshot.needs_room.exchange(true)) {
        snapshot.full_at = full_at;
        snapshot.room_handler();
    }
    return true;
}

void OriginThread::let_writes_without_room_go_on(SnapshotState& snapshot, bool may_wait) {
    snapshot.needs_room.store(false);
    std::vector<Blocked*> origin_writes;
    std::vector<CowIo*> writes;
    origin_writes.swap(snapshot.origin_writes_without_room);
    writes.swap(snapshot.writes_without_room);
    for (Blocked* blocked : origin_writes) {
        if (!may_wait)
            invalidate(snapshot, blocked);
        blocked->unblock();
    }
    for (CowIo* io : writes)
        deal_snapshot_write(*io, may_wait);
}

void OriginThread::room_seen_to(SnapshotState& snapshot) {
    [[maybe_unused]] const auto told = call([&](Answer<void>& answer) {
        let_writes_without_room_go_on(snapshot, snapshot.log->usage().total > snapshot.full_at);
        answer.give({});
    });
    assert(told);
}

void OriginThread::stop_waiting_for_room(Blocked& blocked) {
    for (SnapshotState* snapshot : open_)
        for (auto count = std::erase(snapshot->origin_writes_without_room, &blocked); count > 0; --count)
            blocked.unblock();
}

}  // namespace lamella::cow
