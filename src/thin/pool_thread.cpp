// SPDX-License-Identifier: Apache-2.0
#include "thin/pool_thread.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <sys/mman.h>

namespace lamella::thin {

namespace {

constexpr Duration commit_period = std::chrono::seconds(1);  // dm-thin.c: COMMIT_PERIOD
constexpr std::uint64_t copy_segment_bytes = 1 << 20;        // larger blocks are copied, and zeroed, piece by piece
constexpr std::uint64_t zero_window_bytes = 64 << 20;        // how much of the data device is asked about at once
constexpr std::uint64_t step_budget = 64;                    // metadata nodes that long work may visit before others get a turn
constexpr std::size_t most_status_mappings = 65536;
constexpr unsigned most_passdowns_in_flight = 8;

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

// --- Work -----------------------------------------------------------------------------------------------------------------

struct PoolThread::Work {
    enum class Kind { write, discard } kind;
    ThinIo* io;
    VirtualBlock first;  // write: the block
    VirtualBlock end;    // write: first + 1
    std::uint64_t io_offset = 0;     // write: where in the request its bytes are
    std::uint32_t block_offset = 0;  // write: bytes, within the block
    std::uint64_t length = 0;        // write: bytes
    WorkList waiting;                // discard: whoever wants blocks of its range
    Work* next = nullptr;

    ThinVolume& volume() const { return io->volume; }
    bool writes_zeroes() const { return io->operation == IoOperation::write_zeroes; }
    bool overlaps(const Work& other) const { return first < other.end && other.first < end; }
};

void PoolThread::WorkList::push(Work& work) {
    work.next = nullptr;
    (last != nullptr ? last->next : first) = &work;
    last = &work;
}

PoolThread::Work* PoolThread::WorkList::take_all() {
    last = nullptr;
    return std::exchange(first, nullptr);
}

// --- The thread -----------------------------------------------------------------------------------------------------------

PoolThread::PoolThread(BlockDevice& /*metadata_device*/, BlockDevice& data, const ThinPoolOptions& options,
                       std::unique_ptr<ThinMetadata> metadata, std::unique_ptr<IoQueue> own_queue, std::unique_ptr<IoQueue> commit_queue,
                       IoQueue& queue)
    : options_(options), block_bytes_(std::uint64_t{options.data_block_sectors} * sector_bytes), data_(data), own_queue_(std::move(own_queue)),
      commit_queue_(std::move(commit_queue)), queue_(queue), error_if_no_space_(options.error_if_no_space), grace_(queue),
      budget_(grace_, options.mapping_cache_bytes), metadata_(std::move(metadata)) {
    data_.add_leaves(data_leaves_);
    commit_task_.pool = this;
    commit_task_.run = [](Task& task) {
        PoolThread& pool = *static_cast<CommitTask&>(task).pool;
        pool.commit_posted_ = false;
        pool.run_commit();
    };
    commit_timer_.pool = this;
    commit_timer_.fired = [](Timer& timer) { static_cast<PoolTimer&>(timer).pool->schedule_commit(); };
    space_timer_.pool = this;
    space_timer_.fired = [](Timer& timer) { static_cast<PoolTimer&>(timer).pool->space_timeout(); };
    if (metadata_->read_only() || metadata_->needs_check())
        mode_ = PoolMode::read_only;
}

PoolThread::~PoolThread() {
    assert(!thread_.joinable());
}

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
    Work* work = new Work{Work::Kind::write, &io, VirtualBlock(at / block_bytes_), VirtualBlock(at / block_bytes_ + 1)};
    work->io_offset = offset;
    work->block_offset = static_cast<std::uint32_t>(at % block_bytes_);
    work->length = length;
    io.parts.fetch_add(1);
    start(*work);
}

void PoolThread::add_discard(ThinIo& io, VirtualBlock first, VirtualBlock end) {
    Work* work = new Work{Work::Kind::discard, &io, first, end};
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
    volume.mappings_.set(block, CachedMapping(inserted->block, inserted->time));
    return {};
}

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
    check_watermarks();
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

void PoolThread::check_watermarks() {
    // One event each time the level is crossed downwards, as dm-thin's data event.
    const std::uint64_t free = metadata_->data_counts().free;
    if (free > options_.low_water_blocks) {
        low_water_triggered_ = false;
    } else if (!low_water_triggered_ && options_.low_water_blocks > 0) {
        low_water_triggered_ = true;
        raise_event();
    }
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
        // place, with a new stamp: whoever asks what has changed since that time must find it.
        auto exclusive = metadata_->data_block_is_exclusive(volume.id(), work.first);
        if (!exclusive) {
            metadata_error(exclusive.error());
            return finish(work, exclusive.error().error_number());
        }
        mark_dirty();
        if (*exclusive) {
            if (auto restamped = insert(volume, work.first, mapping->block()); !restamped)
                return finish(work, restamped.error().error_number());
            return write_in_place(mapping->block());
        }
    }

    const bool covers_block = work.length == block_bytes_;
    const bool copies = !covers_block && (mapping->mapped() ||
        (volume.external_origin_ != nullptr && work.first.value() * block_bytes_ < volume.external_origin_->size()));
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

void PoolThread::join_commit(ThinIo& io, IoQueue& here) {
    (void)here;
    io.task.run = [](Task& task) {
        ThinIo& joining = *static_cast<ThinIo::IoTask&>(task).io;
        PoolThread& pool = joining.volume.pool();
        pool.commit_joiners_.push_back(&joining);
        pool.schedule_commit();
    };
    queue_.post(io.task);
}

void PoolThread::run_commit() {
    std::vector<ThinIo*> joiners;
    joiners.swap(commit_joiners_);
    auto committed = commit();
    for (ThinIo* io : joiners) {
        if (!committed)
            io->note_error(committed.error().error_number());
        io->finish_part(queue_);
    }
}

Result<void> PoolThread::commit() {
    if (mode_.load() == PoolMode::fail)
        return fail(ErrorKind::failed, "the pool has failed");
    if (metadata_->read_only() || mode_.load() == PoolMode::read_only) {
        for (BlockDevice* leaf : data_leaves_)
            TRY(flush_now(*leaf));
        return {};
    }
    auto committed = metadata_->commit(*commit_queue_, data_leaves_);
    if (!committed) {
        metadata_error(committed.error());
        return committed;
    }
    queue_.disarm(commit_timer_);
    dirty_.store(false);
    after_commit();
    return {};
}

// The way of freed blocks to being allocatable again.
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

    void pass_down() {
        while (next_run < runs.size() && in_flight < most_passdowns_in_flight) {
            auto* discard = new Discard{this, {}};
            discard->request.operation = IoOperation::discard;
            discard->request.offset = runs[next_run].first * pool->block_bytes_;
            discard->request.length = runs[next_run].second * pool->block_bytes_;
            discard->request.context = discard;
            discard->request.completed = [](IoRequest& request, int) {
                // An error is of no consequence: the room stays taken below.
                auto* finished = static_cast<Discard*>(request.context);
                Passdown* passdown = finished->passdown;
                delete finished;
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
            over.blocks.for_each_run([&](std::uint64_t first, std::uint64_t length) { over.runs.emplace_back(first, length); });
        over.pass_down();
    };
    ++passdowns_;
    grace_.wait(*passdown);
}

void PoolThread::released(Passdown& passdown) {
    metadata_->make_reusable(passdown.blocks);
    delete &passdown;
    --passdowns_;
    // What was known of them is out of date.
    forget_zeroes();
    retry_space_waiters();
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
    dirty_.store(false);
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
        if (origin != nullptr && at < origin->size())
            if (!add(std::min(until, origin->size()), false, false, 2))
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

// --- Calls from other threads ---------------------------------------------------------------------------------------------

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
    Answer<void>* answer;
    std::vector<ThinId> frozen;
    std::size_t removing = 0;
    struct StepTask : Task {
        Change* change;
    } step_task;
};

void PoolThread::transact(std::vector<PoolChange> changes, std::uint64_t old_transaction, std::uint64_t new_transaction, Answer<void>& answer) {
    const auto check = [&]() -> Result<void> {
        TRY(writable());
        if (change_ != nullptr)
            return fail(ErrorKind::refused, "another change of the pool is under way");
        if (metadata_->transaction_id() != old_transaction)
            return fail(ErrorKind::refused, "the pool's transaction id is {}, not {}", metadata_->transaction_id(), old_transaction);
        for (const PoolChange& change : changes)
            if (change.kind == PoolChange::Kind::remove && volumes_.contains(change.id))
                return fail(ErrorKind::refused, "thin device {} is in use", change.id);
        return {};
    };
    if (auto sound = check(); !sound)
        return answer.give(std::move(sound));

    auto* change = new Change{};
    change->pool = this;
    change->changes = std::move(changes);
    change->old_transaction = old_transaction;
    change->new_transaction = new_transaction;
    change->answer = &answer;
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
    for (const PoolChange& creation : change->changes) {
        auto state = volumes_.find(creation.origin);
        if (creation.kind != PoolChange::Kind::create_snapshot || state == volumes_.end() || state->second.frozen)
            continue;
        state->second.frozen = true;
        state->second.volume->snapshot_time_.store(UINT32_MAX);
        change->frozen.push_back(creation.origin);
    }
    if (change->frozen.empty())
        advance_change(*change);
    else
        grace_.wait(*change);
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
    PoolStatus status;
    status.mode = mode_.load();
    status.transaction_id = metadata_->transaction_id();
    const BlockCounts metadata = metadata_->metadata_counts();
    const BlockCounts data = metadata_->data_counts();
    status.used_metadata_blocks = metadata.used();
    status.metadata_blocks = metadata.total;
    status.used_data_blocks = data.used();
    status.data_blocks = data.total;
    if (metadata_->held_root().value() != 0)
        status.held_root = metadata_->held_root();
    status.needs_check = metadata_->needs_check();
    status.error_if_no_space = error_if_no_space_;
    status.metadata_low_watermark = metadata_->metadata_low_watermark();
    status.data_block_sectors = options_.data_block_sectors;
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
    TRY(metadata_->grow_metadata());
    mark_dirty();
    TRY(commit());
    raise_event();
    return {};
}

}  // namespace lamella::thin
