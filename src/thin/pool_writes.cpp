// SPDX-License-Identifier: Apache-2.0
//
// The pool's thread at work on clients' writes: provisioning, breaking of sharing, discards, and what happens without room.
#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include <sys/mman.h>

#include "device/vectors.h"
#include "thin/pool_thread.h"

namespace lamella::thin {

namespace {

constexpr std::uint64_t copy_segment_bytes = 1 << 20;  // larger blocks are copied, and zeroed, piece by piece
constexpr std::uint64_t zero_window_bytes = 64 << 20;  // how much of the data device is asked about at once

// Zeros to write from; never written to, so all of it is one page of the kernel's.
iovec zeros(std::uint64_t length) {
    static void* const area = [] {
        void* mapped = ::mmap(nullptr, copy_segment_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return mapped == MAP_FAILED ? nullptr : mapped;
    }();
    assert(area != nullptr && length <= copy_segment_bytes);
    return {area, length};
}

}  // namespace

// --- Room -----------------------------------------------------------------------------------------------------------------

// Why a new block can't be mapped in this mode: an errno, or 0.
int PoolThread::refuse_allocation() const {
    switch (mode_.load()) {
    case PoolMode::write:
    case PoolMode::out_of_data_space: return 0;
    case PoolMode::out_of_metadata_space:
    case PoolMode::read_only:
    case PoolMode::fail: break;
    }
    return EIO;
}

// No value: there is no room now.
Result<std::optional<DataBlock>> PoolThread::allocate() {
    check_data_mark();
    const auto room = [&] { return metadata_->metadata_counts().free > metadata_->metadata_reserve(); };
    if (!room()) {
        // A commit frees what this transaction has replaced.
        TRY(commit());
        if (!room()) {
            enter_mode(PoolMode::out_of_metadata_space);
            return fail(ErrorKind::failed, "the pool is out of metadata space");
        }
    }
    auto block = metadata_->allocate_data_block();
    if (!block) {
        if (block.error().kind() == ErrorKind::no_space)
            return std::optional<DataBlock>();
        metadata_error(block.error());
        return std::unexpected(block.error());
    }
    return std::optional<DataBlock>(*block);
}

bool PoolThread::known_zero(DataBlock block) {
    const std::uint64_t begin = block.value() * block_bytes_;
    const std::uint64_t end = begin + block_bytes_;
    if (begin < zero_begin_ || end > zero_end_) {
        // New blocks are handed out in ascending order: one question answers for many of them.
        const std::uint64_t limit = std::max(zero_window_bytes, block_bytes_);
        zero_begin_ = begin;
        zero_end_ = begin + data_.known_zero(begin, std::min(limit, data_.size() - begin));
    }
    return end <= zero_end_;
}

void PoolThread::forget_zeroes() { zero_begin_ = zero_end_ = 0; }

void PoolThread::wait_for_space(Work& work) {
    if (metadata_->pending_free() > 0) {
        space_waiters_.push(work);
        schedule_commit();
        return;
    }
    if (passdowns_ > 0 || metadata_->quarantined() > 0) {
        space_waiters_.push(work);
        return;
    }
    out_of_data_space();
    if (error_if_no_space_)
        return finish(work, ENOSPC);
    space_waiters_.push(work);
}

void PoolThread::out_of_data_space() {
    if (mode_.load() != PoolMode::write)
        return;
    enter_mode(PoolMode::out_of_data_space);
    if (!error_if_no_space_ && options_.no_space_timeout != Duration::zero())
        queue_.arm(space_timer_, queue_.clock().monotonic() + options_.no_space_timeout);
}

void PoolThread::space_timeout() {
    if (mode_.load() != PoolMode::out_of_data_space)
        return;
    error_if_no_space_ = true;
    fail_space_waiters(ENOSPC);
    raise_event();
}

void PoolThread::fail_space_waiters(int error) {
    Work* work = space_waiters_.take_all();
    while (work != nullptr) {
        Work* next = work->next;
        finish(*work, error);
        work = next;
    }
}

void PoolThread::retry_space_waiters() {
    if (metadata_->allocatable() > 0 && mode_.load() == PoolMode::out_of_data_space) {
        queue_.disarm(space_timer_);
        error_if_no_space_ = options_.error_if_no_space;
        enter_mode(PoolMode::write);
    }
    restart(space_waiters_);
}

void PoolThread::enter_mode(PoolMode mode) {
    if (mode_.load() == mode)
        return;
    mode_.store(mode);
    raise_event();
}

// As dm-thin: looked at before a block is taken, and told of once until the pool is looked after (resumed, in the kernel).
void PoolThread::check_data_mark() {
    if (low_water_triggered_ || mode_.load() != PoolMode::write || metadata_->data_counts().free > options_.low_water_blocks)
        return;
    low_water_triggered_ = true;
    raise_event();
}

// Each time that the level is crossed downwards: a commit may bring it back up.
void PoolThread::check_metadata_mark() {
    const bool low = metadata_->metadata_counts().free <= metadata_->metadata_low_watermark();
    if (low && !metadata_low_)
        raise_event();
    metadata_low_ = low;
}

// --- Writes ---------------------------------------------------------------------------------------------------------------

// The data of a new block being written: zeros or old content around the client's bytes.
struct PoolThread::BlockWrite {
    struct Step {
        enum class Kind { payload, zeroes, framed, copy } kind;
        std::uint64_t offset;  // bytes, within the block
        std::uint64_t length;
    };

    PoolThread* pool;
    Work* work;
    DataBlock target;
    BlockDevice* source = nullptr;  // of what is copied
    std::uint64_t source_offset = 0;
    std::optional<GracePeriod::Token> token;
    AlignedBuffer buffer;
    std::vector<Step> steps;
    std::size_t step = 0;
    bool copy_read = false;  // the running copy step has been read
    std::vector<iovec> vectors;
    IoRequest request;
};

void PoolThread::start_write(Work& work, VolumeState& state) {
    ThinVolume& volume = work.volume();
    if (auto cell = cells_.find({&volume, work.first.value()}); cell != cells_.end())
        return cell->second.waiting.push(work);

    auto mapping = mapping_of(volume, work.first);
    if (!mapping) {
        metadata_error(mapping.error());
        return finish(work, mapping.error().error_number());
    }
    const auto write_in_place = [&](DataBlock block) {
        work.io->start_part(queue_, data_, work.io_offset, work.length, block.value() * block_bytes_ + work.block_offset, grace_.enter());
        finish(work, 0);
    };
    if (mapping->mapped() && mapping->time() >= volume.snapshot_time_.load())
        return write_in_place(mapping->block());

    // Zeros for a block that reads as zeros.
    if (!mapping->mapped() && work.writes_zeroes() && !work.io->request.keep_allocated && volume.external_origin_ == nullptr)
        return finish(work, 0);

    if (int refused = refuse_allocation(); refused != 0)
        return finish(work, refused);

    if (mapping->mapped()) {
        // Older than the last snapshot; but that snapshot, or its copy of the block, may be gone. Then the block is written in
        // place, with a new stamp: whoever asks what has changed since that time must find it. Not, though, while the other's
        // mapping would come back in a crash (the metadata knows that), or while somebody may still be reading by it.
        auto exclusive = metadata_->data_block_is_exclusive(volume.id(), work.first);
        if (!exclusive) {
            metadata_error(exclusive.error());
            return finish(work, exclusive.error().error_number());
        }
        mark_dirty();
        if (*exclusive && settling_ == 0) {
            if (auto restamped = insert(volume, work.first, mapping->block()); !restamped)
                return finish(work, restamped.error().error_number());
            return write_in_place(mapping->block());
        }
    }

    const bool covers_block = work.length == block_bytes_;
    const bool copies =
        !covers_block &&
        (mapping->mapped() || (volume.external_origin_ != nullptr && work.first.value() * block_bytes_ < volume.external_origin_->size()));
    if (copies && copy_buffers_.empty()) {
        const std::uint64_t size = std::min(block_bytes_, copy_segment_bytes);
        if (copy_buffers_made_ > 0 && (copy_buffers_made_ + 1) * size > options_.copy_buffer_bytes)
            return copy_waiters_.push(work);
        copy_buffers_.emplace_back(size);
        ++copy_buffers_made_;
    }
    auto target = allocate();
    if (!target)
        return finish(work, target.error().error_number());
    if (!*target)
        return wait_for_space(work);

    auto* write = new BlockWrite{};
    write->pool = this;
    write->work = &work;
    write->target = **target;
    write->request.context = write;
    write->request.completed = [](IoRequest& request, int error) {
        BlockWrite& completed = *static_cast<BlockWrite*>(request.context);
        if (error != 0)
            completed.pool->block_written(completed, error);
        else
            completed.pool->continue_block_write(completed);
    };
    cells_.emplace(CellKey{&volume, work.first.value()}, Cell{});
    ++state.cells;

    using Step = BlockWrite::Step;
    const std::uint64_t head = work.block_offset;
    const std::uint64_t tail = head + work.length;
    const Step payload{work.writes_zeroes() ? Step::Kind::zeroes : Step::Kind::payload, head, work.length};
    if (copies) {
        // The source stays as it is while the copy runs: the block is shared, and a grace token keeps it from being reused.
        write->token = grace_.enter();
        write->source = mapping->mapped() ? &data_ : volume.external_origin_;
        write->source_offset = mapping->mapped() ? mapping->block().value() * block_bytes_ : work.first.value() * block_bytes_;
        write->buffer = std::move(copy_buffers_.back());
        copy_buffers_.pop_back();
        for (std::uint64_t offset = 0; offset < block_bytes_; offset += write->buffer.size())
            write->steps.push_back({Step::Kind::copy, offset, std::min<std::uint64_t>(write->buffer.size(), block_bytes_ - offset)});
    } else if (covers_block || !options_.zero_new_blocks || known_zero(**target)) {
        if (!work.writes_zeroes() || covers_block || !options_.zero_new_blocks)
            write->steps.push_back(payload);
    } else if (work.writes_zeroes()) {
        write->steps.push_back({Step::Kind::zeroes, 0, block_bytes_});
    } else if (block_bytes_ <= copy_segment_bytes) {
        write->steps.push_back({Step::Kind::framed, 0, block_bytes_});
    } else {
        if (head > 0)
            write->steps.push_back({Step::Kind::zeroes, 0, head});
        if (tail < block_bytes_)
            write->steps.push_back({Step::Kind::zeroes, tail, block_bytes_ - tail});
        write->steps.push_back(payload);
    }
    continue_block_write(*write);
}

void PoolThread::continue_block_write(BlockWrite& write) {
    using Kind = BlockWrite::Step::Kind;
    if (write.step == write.steps.size())
        return block_written(write, 0);
    const BlockWrite::Step step = write.steps[write.step];
    const Work& work = *write.work;
    const std::span<const iovec> payload = work.io->request.vectors;
    const std::uint64_t head = work.block_offset;
    const std::uint64_t tail = head + work.length;

    write.vectors.clear();
    write.request.operation = IoOperation::write;
    write.request.offset = write.target.value() * block_bytes_ + step.offset;
    write.request.length = step.length;
    BlockDevice* device = &data_;
    switch (step.kind) {
    case Kind::payload: slice_vectors(payload, work.io_offset, work.length, write.vectors); break;
    case Kind::zeroes: write.request.operation = IoOperation::write_zeroes; break;
    case Kind::framed:
        if (head > 0)
            write.vectors.push_back(zeros(head));
        slice_vectors(payload, work.io_offset, work.length, write.vectors);
        if (tail < block_bytes_)
            write.vectors.push_back(zeros(block_bytes_ - tail));
        break;
    case Kind::copy: {
        const std::uint64_t begin = step.offset;
        const std::uint64_t end = begin + step.length;
        const bool covered = head <= begin && end <= tail;
        if (!write.copy_read && !covered) {
            // An external origin may end within the block, or before this piece of it: zeros follow.
            const std::uint64_t from = write.source_offset + begin;
            const std::uint64_t there = from < write.source->size() ? std::min(step.length, write.source->size() - from) : 0;
            std::memset(write.buffer.data() + there, 0, step.length - there);
            write.copy_read = true;
            if (there > 0) {
                write.vectors.push_back({write.buffer.data(), there});
                write.request.operation = IoOperation::read;
                write.request.offset = from;
                write.request.length = there;
                device = write.source;
                write.request.vectors = write.vectors;
                device->submit(queue_, write.request);
                return;
            }
        }
        write.copy_read = false;
        const std::uint64_t new_begin = std::max(begin, head);
        const std::uint64_t new_end = std::min(end, tail);
        if (new_begin >= new_end) {
            write.vectors.push_back({write.buffer.data(), step.length});
            break;
        }
        if (begin < new_begin)
            write.vectors.push_back({write.buffer.data(), new_begin - begin});
        if (work.writes_zeroes())
            write.vectors.push_back(zeros(new_end - new_begin));
        else
            slice_vectors(payload, work.io_offset + (new_begin - head), new_end - new_begin, write.vectors);
        if (new_end < end)
            write.vectors.push_back({write.buffer.data() + (new_end - begin), end - new_end});
        break;
    }
    }
    ++write.step;
    write.request.vectors = write.vectors;
    device->submit(queue_, write.request);
}

void PoolThread::block_written(BlockWrite& write, int error) {
    Work& work = *write.work;
    const DataBlock target = write.target;
    if (write.token)
        grace_.leave(*write.token);
    const bool copied = write.buffer.size() > 0;
    if (copied)
        copy_buffers_.push_back(std::move(write.buffer));
    delete &write;

    bool mapped = false;
    if (error == 0 && refuse_allocation() == 0) {
        auto inserted = insert(work.volume(), work.first, target);
        mapped = inserted.has_value();
        if (!inserted)
            error = inserted.error().error_number();
    } else if (error == 0) {
        error = EIO;
    }
    if (!mapped) {
        metadata_->release_data_block(target);
        forget_zeroes();  // it may have been written to
    } else if (work.io->request.durable) {
        work.io->must_commit = true;
    }

    const CellKey key{&work.volume(), work.first.value()};
    VolumeState& state = volumes_.at(work.volume().id());
    auto cell = cells_.find(key);
    WorkList waiting = cell->second.waiting;
    cells_.erase(cell);
    --state.cells;
    finish(work, error);
    restart(waiting);
    if (copied)
        restart(copy_waiters_);
    if (cells_.empty())
        gather_joiners();
}

// --- Discards -------------------------------------------------------------------------------------------------------------

void PoolThread::start_discard(Work& work, VolumeState& state) {
    if (mode_.load() == PoolMode::read_only || mode_.load() == PoolMode::out_of_metadata_space)
        // dm-thin answers so. Zeroes, however, are a promise.
        return finish(work, work.writes_zeroes() ? EIO : 0);
    // Writes to new blocks of the range finish first.
    if (state.cells > 0) {
        const auto find_cell = [&]() -> Cell* {
            if (work.end - work.first <= cells_.size()) {
                for (VirtualBlock block = work.first; block < work.end; ++block)
                    if (auto cell = cells_.find({&work.volume(), block.value()}); cell != cells_.end())
                        return &cell->second;
            } else {
                for (auto& [key, cell] : cells_)
                    if (key.volume == &work.volume() && VirtualBlock(key.block) >= work.first && VirtualBlock(key.block) < work.end)
                        return &cell;
            }
            return nullptr;
        };
        if (Cell* cell = find_cell())
            return cell->waiting.push(work);
    }
    state.discards.push_back(&work);
    continue_discard(work);
}

void PoolThread::continue_discard(Work& work) {
    ThinVolume& volume = work.volume();
    const VirtualBlock first = work.first;
    // Long ranges are unmapped in steps, others get their turn in between.
    auto progress = metadata_->remove_range(volume.id(), first, work.end, step_budget);
    int error = 0;
    if (!progress) {
        error = progress.error().error_number();
        metadata_error(progress.error());
    } else {
        if (progress->unmapped > 0)
            mark_dirty();
        volume.mappings_.clear(first, progress->done ? work.end : progress->next);
        if (!progress->done) {
            struct NextStep : Task {
                PoolThread* pool;
                Work* work;
            };
            auto* step = new NextStep{};
            step->pool = this;
            step->work = &work;
            step->run = [](Task& task) {
                auto& self = static_cast<NextStep&>(task);
                PoolThread& pool = *self.pool;
                Work& continued = *self.work;
                delete &self;
                pool.continue_discard(continued);
            };
            work.first = progress->next;
            queue_.post(*step);
            return;
        }
    }
    VolumeState& state = volumes_.at(volume.id());
    std::erase(state.discards, &work);
    WorkList waiting = work.waiting;
    finish(work, error);
    restart(waiting);
}

}  // namespace lamella::thin
