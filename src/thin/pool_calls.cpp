// SPDX-License-Identifier: Apache-2.0
//
// The pool's thread answering other threads: volumes, devices, snapshots, growth.
#include <algorithm>
#include <cerrno>

#include "thin/pool_thread.h"

namespace lamella::thin {

Result<void> PoolThread::writable() const {
    switch (mode_.load()) {
    case PoolMode::write:
    case PoolMode::out_of_data_space: return {};
    case PoolMode::out_of_metadata_space: return fail(ErrorKind::no_space, "the pool is out of metadata space");
    case PoolMode::read_only:
        if (metadata_->needs_check())
            return fail(ErrorKind::refused, "the pool's metadata needs a check");
        return fail(ErrorKind::refused, "the pool is read-only");
    case PoolMode::fail: break;
    }
    return fail(ErrorKind::failed, "the pool has failed");
}

Result<std::shared_ptr<ThinVolume>> PoolThread::open_volume(ThinId id, std::uint64_t size, std::string name, BlockDevice* external_origin) {
    if (auto known = volumes_.find(id); known != volumes_.end()) {
        if (auto volume = known->second.handle.lock())
            return volume;
        return fail(ErrorKind::refused, "{}: still being closed", name);
    }
    const DeviceDetails details = TRY_WITHIN(name, metadata_->details(id));
    auto volume = std::make_shared<ThinVolume>(*this, id, size, std::move(name), details.snapshotted_time, external_origin, budget_);
    VolumeState& state = volumes_[id];
    state.volume = volume.get();
    state.handle = volume;
    return volume;
}

void PoolThread::forget(ThinVolume& volume) {
    (void)ask<void>([&](Answer<void>& answer) {
        volume.mappings_.drop_all();
        volumes_.erase(volume.id());
        answer.give({});
    });
}

void PoolThread::resize(ThinVolume& volume, std::uint64_t size) {
    (void)ask<void>([&](Answer<void>& answer) {
        volume.mappings_.grow((size + block_bytes_ - 1) / block_bytes_);
        volume.size_.store(size);
        answer.give({});
    });
}

// Changes of devices, on their way.
struct PoolThread::Change : GracePeriod::Waiter {
    enum class Stage { create, remove, finish } stage = Stage::create;
    PoolThread* pool;
    std::vector<PoolChange> changes;
    std::uint64_t old_transaction;
    std::uint64_t new_transaction;
    const ThinPool::Progress* progress;
    Answer<void>* answer;
    std::vector<ThinId> frozen;
    std::size_t removing = 0;
    std::uint64_t mappings = 0;  // of all devices to be removed
    std::uint64_t removed_mappings = 0;
    struct StepTask : Task {
        Change* change;
    } step_task;
};

void PoolThread::transact(std::vector<PoolChange> changes, std::uint64_t old_transaction, std::uint64_t new_transaction,
                          const ThinPool::Progress& progress, Answer<void>& answer) {
    std::uint64_t mappings = 0;
    const auto check = [&]() -> Result<void> {
        TRY(writable());
        if (change_ != nullptr)
            return fail(ErrorKind::refused, "another change of the pool is under way");
        if (metadata_->transaction_id() != old_transaction)
            return fail(ErrorKind::refused, "the pool's transaction id is {}, not {}", metadata_->transaction_id(), old_transaction);
        for (const PoolChange& change : changes) {
            if (change.kind != PoolChange::Kind::remove)
                continue;
            if (volumes_.contains(change.id))
                return fail(ErrorKind::refused, "thin device {} is in use", change.id);
            // Removals come last, when it is too late to find that one isn't there.
            mappings += TRY(metadata_->details(change.id)).mapped_blocks;
        }
        return {};
    };
    if (auto sound = check(); !sound)
        return answer.give(std::move(sound));

    auto* change = new Change{};
    change->pool = this;
    change->changes = std::move(changes);
    change->old_transaction = old_transaction;
    change->new_transaction = new_transaction;
    change->progress = &progress;
    change->answer = &answer;
    change->mappings = mappings;
    change->step_task.change = change;
    change->step_task.run = [](Task& task) {
        Change& stepped = *static_cast<Change::StepTask&>(task).change;
        stepped.pool->advance_change(stepped);
    };
    change->done = [](GracePeriod::Waiter& waiter) {
        Change& waited = static_cast<Change&>(waiter);
        waited.pool->advance_change(waited);
    };
    change_ = change;
    std::vector<ThinId> origins;
    for (const PoolChange& creation : change->changes)
        if (creation.kind == PoolChange::Kind::create_snapshot)
            origins.push_back(creation.origin);
    change->frozen = hold_writes(origins);
    if (change->frozen.empty())
        advance_change(*change);
    else
        grace_.wait(*change);
}

// Lets new writes to these volumes wait for thaw(); those under way go on. Returns the ones that weren't frozen before.
std::vector<ThinId> PoolThread::hold_writes(const std::vector<ThinId>& origins) {
    std::vector<ThinId> frozen;
    for (ThinId id : origins) {
        auto found = volumes_.find(id);
        if (found == volumes_.end() || found->second.frozen)
            continue;
        found->second.frozen = true;
        found->second.volume->snapshot_time_.store(UINT32_MAX);
        frozen.push_back(id);
    }
    return frozen;
}

void PoolThread::freeze(const std::vector<ThinId>& origins, Answer<void>& answer) {
    if (auto possible = writable(); !possible)
        return answer.give(std::move(possible));
    hold_writes(origins);
    struct Frozen : GracePeriod::Waiter {
        Answer<void>* answer;
    };
    auto* waiter = new Frozen{};
    waiter->answer = &answer;
    waiter->done = [](GracePeriod::Waiter& over) {
        Answer<void>& waiting = *static_cast<Frozen&>(over).answer;
        delete static_cast<Frozen*>(&over);
        waiting.give({});
    };
    grace_.wait(*waiter);
}

// All of them, or none.
Result<void> PoolThread::apply_creations(Change& change) {
    std::size_t made = 0;
    Result<void> result;
    for (; made < change.changes.size() && result; ++made) {
        const PoolChange& creation = change.changes[made];
        if (creation.kind == PoolChange::Kind::create_thin)
            result = metadata_->create_thin(creation.id);
        else if (creation.kind == PoolChange::Kind::create_snapshot)
            result = metadata_->create_snapshot(creation.id, creation.origin);
    }
    if (result)
        return result;
    // The last one made nothing; those before it are still as they were made.
    for (--made; made > 0 && !metadata_->must_abort(); --made) {
        const PoolChange& creation = change.changes[made - 1];
        if (creation.kind == PoolChange::Kind::remove)
            continue;
        if (auto removed = metadata_->remove_device(creation.id); !removed)
            metadata_error(removed.error());
    }
    if (metadata_->must_abort())
        metadata_error(result.error());
    else if (metadata_->changed())
        mark_dirty();
    return result;
}

void PoolThread::thaw(const std::vector<ThinId>& origins) {
    for (ThinId id : origins) {
        auto found = volumes_.find(id);
        if (found == volumes_.end())
            continue;
        VolumeState& state = found->second;
        // Should the details be unreadable, every write goes on being taken for one to a shared block, which is safe.
        if (auto details = metadata_->details(id))
            state.volume->snapshot_time_.store(details->snapshotted_time);
        state.frozen = false;
        restart(state.waiting_for_thaw);
    }
}

void PoolThread::advance_change(Change& change) {
    Result<void> result;
    if (change.stage == Change::Stage::create) {
        result = apply_creations(change);
        if (metadata_->changed())
            mark_dirty();
        thaw(change.frozen);
        change.stage = Change::Stage::remove;
    }
    if (result && change.stage == Change::Stage::remove) {
        while (change.removing < change.changes.size() && result) {
            const PoolChange& removal = change.changes[change.removing];
            if (removal.kind == PoolChange::Kind::remove) {
                auto progress = metadata_->remove_device(removal.id, step_budget);
                if (!progress) {
                    metadata_error(progress.error());
                    result = std::unexpected(progress.error());
                    break;
                }
                mark_dirty();
                change.removed_mappings += progress->unmapped;
                if (*change.progress)
                    (*change.progress)(change.removed_mappings, change.mappings);
                if (!progress->done) {
                    queue_.post(change.step_task);
                    return;
                }
            }
            ++change.removing;
        }
    }
    if (result && change.old_transaction != change.new_transaction) {
        result = metadata_->set_transaction_id(change.old_transaction, change.new_transaction);
        mark_dirty();
    }
    if (result)
        result = commit();
    Answer<void>& answer = *change.answer;
    change_ = nullptr;
    delete &change;
    answer.give(std::move(result));
}

Result<PoolStatus> PoolThread::status() {
    PoolStatus status = status_of(*metadata_);
    status.mode = mode_.load();
    status.error_if_no_space = error_if_no_space_;
    return status;
}

Result<void> PoolThread::grow_data() {
    TRY(writable());
    const std::uint64_t blocks = data_.size() / block_bytes_;
    if (blocks > metadata_->data_counts().total) {
        data_leaves_.clear();
        data_.add_leaves(data_leaves_);
        TRY(metadata_->grow_data(blocks));
        mark_dirty();
        TRY(commit());
    }
    low_water_triggered_ = false;
    retry_space_waiters();
    return {};
}

Result<void> PoolThread::grow_metadata() {
    if (mode_.load() == PoolMode::out_of_metadata_space)
        mode_.store(PoolMode::write);
    TRY(writable());
    const std::uint64_t had = metadata_->metadata_counts().total;
    if (TRY(metadata_->grow_metadata()) != had) {
        mark_dirty();
        TRY(commit());
        raise_event();
    }
    return {};
}

void PoolThread::give_back_waiting() { fail_space_waiters(ERESTART); }

// As dm-thin's set_pool_mode().
Result<void> PoolThread::set_read_only(bool read_only) {
    options_.read_only = read_only;
    if (mode_.load() == PoolMode::fail || (mode_.load() == PoolMode::read_only) == read_only)
        return {};
    if (read_only) {
        TRY(commit());
        TRY(metadata_->set_read_only(true));
        enter_mode(PoolMode::read_only);
        fail_space_waiters(EIO);
    } else if (!metadata_->needs_check()) {
        TRY(metadata_->set_read_only(false));
        enter_mode(PoolMode::write);
    }
    return {};
}

Result<void> PoolThread::change_options(const ThinPoolOptions& options) {
    TRY(set_read_only(options.read_only));
    options_.low_water_blocks = options.low_water_blocks;
    options_.zero_new_blocks = options.zero_new_blocks;
    if (takes_discards_ && options.discards != DiscardPolicy::ignore)
        options_.discards = options.discards;
    options_.error_if_no_space = error_if_no_space_ = options.error_if_no_space;
    low_water_triggered_ = false;
    queue_.disarm(space_timer_);
    if (error_if_no_space_)
        fail_space_waiters(ENOSPC);
    else if (mode_.load() == PoolMode::out_of_data_space && options_.no_space_timeout != Duration::zero())
        queue_.arm(space_timer_, queue_.clock().monotonic() + options_.no_space_timeout);
    return {};
}

}  // namespace lamella::thin
