// SPDX-License-Identifier: Apache-2.0
//
// What of a snapshot's own requests comes to the origin's thread: writes to chunks that the store doesn't have yet, and discards.
#include <algorithm>
#include <cassert>
#include <cerrno>
#include <utility>

#include "cow/origin_thread.h"

namespace lamella::cow {

namespace {
constexpr unsigned most_uncommitted = 256;  // of a snapshot: more wait for the commit of theirs
}

void OriginThread::write_when_there(Pending& pending, CowIo& io, std::uint64_t at, std::uint64_t end) {
    io.parts.fetch_add(1);
    pending.snapshot_writes.push_back({&io, at - io.start, end - at});
}

// Its data is in the store: who writes to the snapshot needs to wait no longer.
void OriginThread::show(Pending& pending) {
    SnapshotState& snapshot = *pending.snapshot;
    const auto durable = [](const WaitingPart& part) { return part.io->request.durable; };
    const bool wanted = pending.writer != nullptr || !pending.snapshot_writes.empty();
    if (!wanted || !snapshot.persistent || snapshot.uncommitted.load() >= most_uncommitted ||
        (pending.writer != nullptr && pending.writer->request.durable) ||
        std::any_of(pending.snapshot_writes.begin(), pending.snapshot_writes.end(), durable))
        return;
    pending.shown = true;
    // Counted and held before it can be found.
    snapshot.uncommitted.fetch_add(1);
    snapshot.table->hold(pending.old, pending.count);
    [[maybe_unused]] const bool inserted = snapshot.table->insert(pending.old, pending.where, pending.count);
    assert(inserted);
    let_snapshot_writes_go_on(pending, 0);
}

void OriginThread::let_snapshot_writes_go_on(Pending& pending, int error) {
    if (CowIo* writer = std::exchange(pending.writer, nullptr)) {
        writer->note_error(error);
        writer->finish_part(queue_);
    }
    const SnapshotState& snapshot = *pending.snapshot;
    for (const WaitingPart& part : std::exchange(pending.snapshot_writes, {})) {
        const std::uint64_t at = part.io->start + part.offset;
        if (error == 0)
            part.io->start_part(
                queue_, {.device = &pending.snapshot->device,
                         .offset = part.offset,
                         .size = part.size,
                         .device_offset = pending.where.value() * snapshot.chunk_bytes + (at - pending.first() * snapshot.chunk_bytes)});
        part.io->note_error(error);
        part.io->finish_part(queue_);
    }
}

// Until what is shown now is durable.
void OriginThread::wait_for_commits(CowIo& io) {
    for (const auto& [first, pending] : io.snapshot->pending) {
        if (!pending->shown)
            continue;
        io.parts.fetch_add(1);
        pending->want_it_durable.push_back(&io);
    }
}

void OriginThread::deal_snapshot_flush(CowIo& io) {
    if (io.snapshot->lost_writes.load())
        io.note_error(EIO);
    io.start_part(queue_, {.device = &io.snapshot->device});
    wait_for_commits(io);
    io.finish_part(queue_);
}

// The snapshot says that it is invalid when the write fails.
void OriginThread::fail_when_invalid(CowIo& io) {
    io.parts.fetch_add(1);
    io.blocked.waits = 1;
    io.blocked.ready = [](Blocked& blocked) {
        CowIo& failed = *static_cast<CowIo::IoBlocked&>(blocked).io;
        failed.finish_part(failed.thread.queue());
    };
    invalidate(*io.snapshot, &io.blocked);
    io.blocked.unblock();
}

void OriginThread::deal_snapshot_write(CowIo& io, bool may_wait) {
    SnapshotState& snapshot = *io.snapshot;
    const std::uint64_t chunk_bytes = snapshot.chunk_bytes;
    assert(io.writes());
    const std::uint64_t chunks = snapshot.end_chunk(io.start + io.length) - io.start / chunk_bytes;
    // What is durable itself may come here only to wait for others.
    const bool there = snapshot.table->present(OriginChunk(io.start / chunk_bytes), chunks);
    const std::uint64_t store_size = snapshot.log->usage().total;
    // Before anything of it is under way, and outside of a grace period: who makes room may wait for one.
    if (may_wait && !there && !io.request.fast_only && !snapshot.overflowed.load() && !snapshot.log->has_room(chunks) &&
        ask_for_room(snapshot, store_size)) {
        snapshot.writes_without_room.push_back(&io);
        return;
    }
    // The wait for exceptions is for disks only, so that it may be inside a grace period.
    io.token = grace_.enter();
    if (io.request.durable)
        wait_for_commits(io);
    int refused = !snapshot.answers() || snapshot.overflowed.load() ? EIO : 0;
    if (io.request.durable && snapshot.lost_writes.load())
        refused = EIO;
    if (io.request.fast_only && !there && refused == 0)
        refused = EOPNOTSUPP;  // it comes here because something must be copied or committed
    const std::uint64_t end = refused == 0 ? io.start + io.length : io.start;
    io.note_error(refused);
    std::vector<Pending*> fresh;
    for (std::uint64_t at = io.start; at < end;) {
        const std::uint64_t chunk = at / chunk_bytes;
        const std::uint64_t end_chunk = snapshot.end_chunk(end);
        const auto run = snapshot.table->find(OriginChunk(chunk), end_chunk - chunk);
        std::uint64_t until = std::min(end, (chunk + run.count) * chunk_bytes);
        if (run.where) {
            io.start_part(queue_, {.device = &snapshot.device,
                                   .offset = at - io.start,
                                   .size = until - at,
                                   .device_offset = run.where->value() * chunk_bytes + at % chunk_bytes});
            at = until;
            continue;
        }
        std::uint64_t free_until = chunk + run.count;
        Pending* pending = pending_at(snapshot, chunk, free_until);
        if (pending == nullptr) {
            // Chunks that are written as a whole need no copy; the last one ends where the snapshot does.
            const std::uint64_t whole_until = end == snapshot.size ? end_chunk : end / chunk_bytes;
            const bool whole = at % chunk_bytes == 0 && chunk < whole_until;
            if (!snapshot.invalidating)
                pending = make_pending(snapshot, chunk, whole ? std::min(free_until, whole_until) - chunk : 1, false);
            if (pending == nullptr) {
                io.note_error(EIO);
                if (snapshot.may_overflow.load() && !snapshot.invalidating)
                    snapshot.overflowed.store(true);
                else
                    fail_when_invalid(io);
                break;
            }
            until = std::min(end, pending->end() * chunk_bytes);
            if (whole) {
                pending->writer = &io;
                io.start_part(queue_, {.device = &snapshot.device,
                                       .offset = at - io.start,
                                       .size = until - at,
                                       .device_offset = pending->where.value() * chunk_bytes,
                                       .pending = pending});
                at = until;
                continue;
            }
            fresh.push_back(pending);
        }
        until = std::min(end, pending->end() * chunk_bytes);
        write_when_there(*pending, io, at, until);
        at = until;
    }
    start_copies(fresh);
    io.finish_part(queue_);
}

// Whole chunks in the store become zeros there; what isn't there stays as it is.
void OriginThread::deal_snapshot_discard(CowIo& io) {
    SnapshotState& snapshot = *io.snapshot;
    io.token = grace_.enter();
    const std::uint64_t end = io.start + io.length;
    const std::uint64_t end_chunk = end == snapshot.size ? snapshot.end_chunk(end) : end / snapshot.chunk_bytes;
    if (!snapshot.discard_zeroes_cow.load())
        io.note_error(EOPNOTSUPP);
    else if (!snapshot.answers() || snapshot.overflowed.load())
        io.note_error(EIO);
    else
        for (std::uint64_t chunk = snapshot.end_chunk(io.start); chunk < end_chunk;) {
            const auto run = snapshot.table->find(OriginChunk(chunk), end_chunk - chunk);
            if (run.where)
                io.start_part(queue_, {.device = &snapshot.device,
                                       .size = run.count * snapshot.chunk_bytes,
                                       .device_offset = run.where->value() * snapshot.chunk_bytes});
            chunk += run.count;
        }
    io.finish_part(queue_);
}

}  // namespace lamella::cow
