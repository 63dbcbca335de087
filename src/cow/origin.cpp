// SPDX-License-Identifier: Apache-2.0
#include "cow/origin.h"

#include <algorithm>

#include "cow/origin_thread.h"

namespace lamella::cow {

Result<std::shared_ptr<Origin>> Origin::open(BlockDevice& device, const OriginOptions& options, IoQueue* queue) {
    std::unique_ptr<IoQueue> own_queue;
    if (queue == nullptr) {
        own_queue = TRY(make_io_queue());
        queue = own_queue.get();
    }
    auto thread = std::make_shared<OriginThread>(device, options, std::move(own_queue), *queue);
    return std::shared_ptr<Origin>(new Origin(std::move(thread)));
}

Origin::Origin(std::shared_ptr<OriginThread> thread) : thread_(std::move(thread)) {}

Origin::~Origin() {
    if (merging_ != nullptr)
        thread_->end_merge();
}

std::uint64_t Origin::size() const { return thread_->device().size(); }

DeviceTraits Origin::traits() const {
    DeviceTraits traits = thread_->device().traits();
    traits.physical_block = sector_bytes;  // what a write covers may be copied, or merged, in parts
    if (thread_->merges()) {
        traits.discards = traits.discard_zeroes = false;
        // A write may go to the store.
        std::lock_guard lock(mutex_);
        if (merging_ != nullptr)
            traits.alignment = std::max(traits.alignment, merging_->store_device().traits().alignment);
    }
    return traits;
}

std::string Origin::name() const { return thread_->name(); }

void Origin::submit(IoQueue& queue, IoRequest& request) {
    const bool merges = thread_->merges();
    if (request.operation == IoOperation::flush || request.operation == IoOperation::read) {
        if (!merges)
            return thread_->device().submit(queue, request);
        if (request.operation == IoOperation::flush) {
            auto* io = new CowIo(*thread_, queue, request, nullptr);
            thread_->flush_merging(*io, queue);
            return io->finish_part(queue, true);
        }
    }
    // Before anything is copied.
    const int error = check_request(request, size(), thread_->device().traits().alignment);
    if (error != 0 || request.length == 0)
        return queue.complete_later(request, error);
    auto* io = new CowIo(*thread_, queue, request, nullptr);
    if (thread_->deal_origin(*io, queue))
        io->finish_part(queue, true);
    else
        thread_->resume(*io, queue);
}

void Origin::status(IoQueue& queue, StatusRequest& request) {
    if (thread_->merges())
        BlockDevice::status(queue, request);
    else
        thread_->device().status(queue, request);
}

std::uint64_t Origin::known_zero(std::uint64_t offset, std::uint64_t limit) {
    return thread_->merges() ? 0 : thread_->device().known_zero(offset, limit);
}

void Origin::add_leaves(std::vector<BlockDevice*>& leaves) {
    thread_->device().add_leaves(leaves);
    std::lock_guard lock(mutex_);
    if (merging_ != nullptr)
        merging_->store_device().add_leaves(leaves);
}

Result<std::shared_ptr<Snapshot>> Origin::open_snapshot(BlockDevice& store_device, const SnapshotOptions& options) {
    if (options.discard_passdown_origin && !options.discard_zeroes_cow)
        return fail(ErrorKind::usage, "{}: discard_passdown_origin needs discard_zeroes_cow", store_device.name());
    const std::uint64_t size = options.size != 0 ? options.size : this->size();
    if (size > this->size())
        return fail(ErrorKind::usage, "{}: a snapshot of {} bytes of an origin of {} bytes", store_device.name(), size, this->size());
    for (const std::shared_ptr<Snapshot>& open : snapshots()) {
        if (&open->store_device() != &store_device)
            continue;
        SnapshotState& state = *open->state_;
        if (state.size != size || state.persistent != options.store.persistent)
            return fail(ErrorKind::refused, "{}: open as a snapshot of another size or kind", store_device.name());
        state.may_overflow = options.store.overflow;
        state.discard_zeroes_cow = options.discard_zeroes_cow;
        state.discard_passdown_origin = options.discard_passdown_origin;
        return open;
    }
    if (thread_->merges())
        return fail(ErrorKind::refused, "{}: a snapshot merges into it: a new one can't begin before that is done", name());
    auto opened =
        TRY(ExceptionLog::open(store_device, options.store, size, thread_->device().traits().alignment, ExceptionLog::Access::use));
    const bool fresh = opened.fresh;
    auto state = std::make_shared<SnapshotState>(store_device, options, size, std::move(opened));
    auto snapshot = std::make_shared<Snapshot>(thread_, state);
    TRY(thread_->add_snapshot(*state, fresh));
    std::lock_guard lock(mutex_);
    std::erase_if(snapshots_, [](const std::weak_ptr<Snapshot>& closed) { return closed.expired(); });
    snapshots_.push_back(snapshot);
    return snapshot;
}

Result<void> Origin::freeze(Duration patience) { return thread_->freeze(patience); }

void Origin::thaw() { thread_->thaw(); }

std::vector<std::shared_ptr<Snapshot>> Origin::snapshots() const {
    std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<Snapshot>> open;
    for (const std::weak_ptr<Snapshot>& snapshot : snapshots_)
        if (auto held = snapshot.lock())
            open.push_back(std::move(held));
    return open;
}

Result<void> Origin::start_merge(std::shared_ptr<Snapshot> snapshot) {
    SnapshotState& state = *snapshot->state_;
    if (!state.persistent)
        return fail(ErrorKind::unsupported, "{}: a transient store can't be merged", snapshot->name());
    if (!state.valid.load())
        return {};
    {
        std::lock_guard lock(mutex_);
        if (merging_ != nullptr && merging_ != snapshot)
            return fail(ErrorKind::refused, "{}: {} merges into it already", name(), merging_->name());
        merging_ = snapshot;
    }
    return thread_->start_merge(state);
}

void Origin::stop_merge() { thread_->stop_merge({}); }

bool Origin::stop_merge(Duration patience) { return thread_->stop_merge(patience); }

Result<void> Origin::end_merge() {
    std::shared_ptr<Snapshot> ended;
    if (merging() == nullptr)
        return {};
    thread_->end_merge();
    std::lock_guard lock(mutex_);
    ended = std::exchange(merging_, nullptr);
    return {};
}

std::shared_ptr<Snapshot> Origin::merging() const {
    std::lock_guard lock(mutex_);
    return merging_;
}

}  // namespace lamella::cow
