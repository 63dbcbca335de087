// SPDX-License-Identifier: Apache-2.0
#include "cow/snapshot.h"

#include <algorithm>
#include <cerrno>

#include "cow/origin_thread.h"

namespace lamella::cow {

std::string SnapshotStatus::line() const {
    switch (condition) {
    case SnapshotCondition::invalid: return "Invalid";
    case SnapshotCondition::merge_failed: return "Merge failed";
    case SnapshotCondition::overflow: return "Overflow";
    case SnapshotCondition::active: break;
    }
    return fmt::format("{}/{} {}", usage.allocated, usage.total, usage.metadata);
}

Snapshot::Snapshot(std::shared_ptr<OriginThread> thread, std::shared_ptr<SnapshotState> state)
    : thread_(std::move(thread)), state_(std::move(state)) {}

Snapshot::~Snapshot() { thread_->remove_snapshot(*state_); }

std::uint64_t Snapshot::size() const { return state_->size; }

DeviceTraits Snapshot::traits() const {
    const DeviceTraits origin = thread_->device().traits();
    const DeviceTraits store = state_->device.traits();
    return {.alignment = std::max(origin.alignment, store.alignment),
            .preferred_io = state_->chunk_bytes,
            .discards = state_->discard_zeroes_cow.load(),
            .discard_zeroes = false,
            .discard_granularity = state_->chunk_bytes,
            .rotational = origin.rotational || store.rotational,
            .read_only = store.read_only};
}

std::string Snapshot::name() const { return state_->name; }

void Snapshot::submit(IoQueue& queue, IoRequest& request) {
    // What went to the origin's device isn't this snapshot's to flush.
    if (request.operation == IoOperation::flush) {
        if (state_->uncommitted.load() == 0 && !state_->lost_writes.load())
            return state_->device.submit(queue, request);
        return thread_->resume(*new CowIo(*thread_, queue, request, state_.get()), queue);
    }
    const int error = check_request(request, size(), traits().alignment);
    if (error != 0 || request.length == 0)
        return queue.complete_later(request, error);
    if (request.operation == IoOperation::discard && !state_->discard_zeroes_cow.load())
        return queue.complete_later(request, EOPNOTSUPP);
    auto* io = new CowIo(*thread_, queue, request, state_.get());
    if (thread_->deal_snapshot(*io, queue))
        io->finish_part(queue, true);
    else
        thread_->resume(*io, queue);
}

void Snapshot::status(IoQueue& queue, StatusRequest& request) {
    if (request.offset >= size() || request.length == 0)
        return queue.complete_later(request, EINVAL);
    if (!state_->answers())
        return queue.complete_later(request, EIO);
    request.extents.clear();
    const std::uint64_t end = request.offset + std::min(request.length, size() - request.offset);
    const std::uint64_t chunk_bytes = state_->chunk_bytes;
    for (std::uint64_t at = request.offset; at < end;) {
        const OriginChunk chunk(at / chunk_bytes);
        const auto run = state_->table->find(chunk, state_->end_chunk(end) - chunk.value());
        const std::uint64_t until = std::min(end, (chunk.value() + run.count) * chunk_bytes);
        if (!request.add({.length = until - at, .allocated = true, .zero = false, .depth = static_cast<std::uint8_t>(run.where ? 1 : 2)}))
            break;
        at = until;
    }
    queue.complete_later(request, 0);
}

bool Snapshot::wait_until_committed(Duration patience) const {
    std::unique_lock lock(state_->handler_mutex);
    return state_->all_committed.wait_for(lock, patience, [this] { return state_->uncommitted.load() == 0; });
}

SnapshotStatus Snapshot::snapshot_status() const {
    SnapshotStatus status;
    status.usage = state_->log->usage();
    status.merging = state_->given_up.load();
    // In the kernel's order.
    if (!state_->valid.load())
        status.condition = SnapshotCondition::invalid;
    else if (state_->merge_failed.load())
        status.condition = SnapshotCondition::merge_failed;
    else if (state_->overflowed.load())
        status.condition = SnapshotCondition::overflow;
    return status;
}

SnapshotOptions Snapshot::options() const {
    return {.store = {.persistent = state_->persistent,
                      .overflow = state_->may_overflow.load(),
                      .chunk_sectors = state_->log->geometry().chunk_sectors},
            .discard_zeroes_cow = state_->discard_zeroes_cow.load(),
            .discard_passdown_origin = state_->discard_passdown_origin.load(),
            .size = state_->size,
            .name = state_->name};
}

BlockDevice& Snapshot::store_device() const { return state_->device; }

void Snapshot::set_event_handler(std::function<void()> handler, const void* whose) {
    std::lock_guard lock(state_->handler_mutex);
    state_->handlers[whose] = std::move(handler);
}

void Snapshot::drop_event_handler(const void* whose) {
    std::lock_guard lock(state_->handler_mutex);
    state_->handlers.erase(whose);
}

void Snapshot::set_room_handler(std::function<void()> handler) {
    std::lock_guard lock(state_->handler_mutex);
    state_->room_handler = std::move(handler);
}

bool Snapshot::needs_room() const { return state_->needs_room.load(); }

void Snapshot::room_seen_to() { thread_->room_seen_to(*state_); }

}  // namespace lamella::cow
