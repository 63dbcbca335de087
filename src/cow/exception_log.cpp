// SPDX-License-Identifier: Apache-2.0
//
// The order of writes
//
// A store is read until the first exception that is zero, so an exception counts as soon as it, and all before it, are on the disk. From
// that follows all that has to be ordered, on a disk that may lose, reorder and tear what no flush covers:
//
// - Data, flush, exception. Whoever finds the exception finds the data.
// - Exceptions become durable from the first to the last. Between two flushes only those are written that share a block which the device
//   never tears (its physical block). Else some could be there whose predecessors aren't: not
//   counted now, but counted again, over chunks that have been given to others, when the gap before them is filled.
// - The next area is zeroed, and flushed, before the last exception of an area is written: the reader goes on into it at that moment.
//   That is done with the first data whose exceptions need it, so that nobody waits for it.
// - A merge takes exceptions away from the end, when the origin has been flushed. All at once: some may be left behind an earlier end, but
//   what they name is merged, and nobody adds exceptions to a store that has begun to merge.
// - A new store: the first area is zeroed before there is a header.
// - Invalid is one durable write to the header.
//
// The kernel writes an area whole, so that a torn write of its own, or of ours on a device that promised more than it keeps, may leave
// exceptions behind the end. Opening a store zeroes what is behind the end of its last area.
//
// The committer's rounds (committer.h) make that order: what one round writes as data, its flush makes durable, and the next may name.
#include "cow/exception_log.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <utility>

#include "base/endian.h"

namespace lamella::cow {

namespace {

constexpr std::uint32_t magic = 0x70416e53;
constexpr std::uint32_t version = 1;
constexpr std::uint32_t default_chunk_sectors = 32;
constexpr std::uint64_t most_unit_bytes = 4096;  // as large as a device's alignment or physical block may be
constexpr std::uint64_t read_bytes = 1 << 20;
constexpr std::uint64_t zeros_bytes = 64 << 10;
constexpr std::uint64_t most_zeros_written = 1 << 20;

Result<void> check_chunk_size(std::uint32_t sectors, std::uint32_t store_alignment, std::uint32_t origin_alignment, ErrorKind kind,
                              const std::string& name) {
    if (!std::has_single_bit(sectors))
        return fail(kind, "{}: chunk size {} sectors is not a power of two", name, sectors);
    if (sectors > most_chunk_sectors)
        return fail(kind, "{}: chunk size {} sectors is more than {}", name, sectors, most_chunk_sectors);
    if (const std::uint32_t alignment = std::max(store_alignment, origin_alignment); sectors * sector_bytes % alignment != 0)
        return fail(kind, "{}: chunk size {} sectors is not a multiple of the devices' blocks of {} bytes", name, sectors, alignment);
    return {};
}

std::uint32_t chunk_size_asked_for(const StoreOptions& options, std::uint32_t store_alignment) {
    if (options.chunk_sectors != 0)
        return options.chunk_sectors;
    return std::max(default_chunk_sectors, store_alignment / static_cast<std::uint32_t>(sector_bytes));
}

bool all_zero(std::span<const std::byte> bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

Result<void> check_store_options(const StoreOptions& options, const BlockDevice& store, const BlockDevice& origin) {
    const std::uint32_t alignment = store.traits().alignment;
    return check_chunk_size(chunk_size_asked_for(options, alignment), alignment, origin.traits().alignment, ErrorKind::usage, store.name());
}

// --- Opening --------------------------------------------------------------------------------------------------------------

ExceptionLog::ExceptionLog(BlockDevice& device, StoreGeometry geometry, bool persistent)
    : device_(device),
      geometry_(geometry),
      persistent_(persistent),
      unit_bytes_(std::min(geometry.chunk_bytes(), most_unit_bytes)),
      next_free_(persistent ? 2 : 0),
      unit_(unit_bytes_),
      data_(device) {
    commit_task_.log = this;
    commit_task_.run = [](Task& task) {
        auto& self = static_cast<CommitTask&>(task);
        self.posted = false;
        self.log->transient_commits();
    };
}

std::uint64_t ExceptionLog::chunks() const { return std::min(device_.size() / geometry_.chunk_bytes(), ExceptionTable::most_store_chunks); }

Result<ExceptionLog::Opened> ExceptionLog::open(BlockDevice& device, const StoreOptions& options, std::uint64_t origin_bytes,
                                                std::uint32_t origin_alignment, Access access) {
    const std::uint32_t alignment = device.traits().alignment;
    std::uint32_t sectors = chunk_size_asked_for(options, alignment);
    if (access == Access::use)
        TRY(check_chunk_size(sectors, alignment, origin_alignment, ErrorKind::usage, device.name()));

    Opened opened;
    bool found = false;
    if (options.persistent) {
        AlignedBuffer bytes(std::max<std::uint64_t>(sector_bytes, alignment));
        if (device.size() < bytes.size())
            return fail(ErrorKind::usage, "{}: {} bytes are too few for an exception store", device.name(), device.size());
        TRY(read_now(device, 0, bytes.bytes()));
        const auto found_magic = load_little<std::uint32_t>(bytes.data());
        found = found_magic != 0;
        if (found) {
            if (found_magic != magic)
                return fail(ErrorKind::damaged, "{}: not an exception store (magic {:#010x})", device.name(), found_magic);
            opened.valid = load_little<std::uint32_t>(bytes.data() + 4) != 0;
            sectors = load_little<std::uint32_t>(bytes.data() + 12);
            TRY(check_chunk_size(sectors, alignment, origin_alignment, ErrorKind::damaged, device.name()));
            if (const auto found_version = load_little<std::uint32_t>(bytes.data() + 8); found_version != version)
                return fail(ErrorKind::damaged, "{}: exception store of version {}; known is {}", device.name(), found_version, version);
        }
    }
    opened.fresh = !found;
    const StoreGeometry geometry{sectors};
    if (access == Access::inspect && opened.fresh)
        return opened;
    opened.log.reset(new ExceptionLog(device, geometry, options.persistent));
    if (options.persistent && opened.log->chunks() < 2)
        return fail(found ? ErrorKind::damaged : ErrorKind::usage,
                    "{}: {} bytes are too few for an exception store with chunks of {} sectors", device.name(), device.size(), sectors);
    const std::uint64_t origin_chunks = (origin_bytes + geometry.chunk_bytes() - 1) / geometry.chunk_bytes();
    opened.table = std::make_unique<ExceptionTable>(opened.valid ? origin_chunks : 0);
    if (found && opened.valid)
        TRY(opened.log->load(*opened.table, access));
    else if (options.persistent && !found)
        TRY(opened.log->begin());
    return opened;
}

std::vector<std::byte> ExceptionLog::header(bool valid) const {
    std::vector<std::byte> bytes(unit_bytes_);
    store_little<std::uint32_t>(bytes.data(), magic);
    store_little<std::uint32_t>(bytes.data() + 4, valid ? 1 : 0);
    store_little<std::uint32_t>(bytes.data() + 8, version);
    store_little<std::uint32_t>(bytes.data() + 12, geometry_.chunk_sectors);
    return bytes;
}

Result<void> ExceptionLog::begin() {
    const std::uint64_t chunk = geometry_.chunk_bytes();
    TRY(write_zeroes_now(device_, unit_bytes_, chunk - unit_bytes_));  // the rest of the header's chunk, as the kernel leaves it
    TRY(write_zeroes_now(device_, geometry_.area_chunk(0) * chunk, chunk));
    TRY(flush_now(device_));
    TRY(write_now(device_, 0, header(true)));
    return flush_now(device_);
}

Result<void> ExceptionLog::load(ExceptionTable& table, Access access) {
    const std::uint64_t chunk_bytes = geometry_.chunk_bytes();
    const std::uint64_t store_chunks = chunks();
    struct Used {
        std::uint64_t first;
        std::uint64_t count;
    };
    std::vector<Used> used;  // runs of chunks in the store, in the order found
    std::uint64_t next_free = 2;
    std::uint64_t area = 0;
    AlignedBuffer piece(std::min(chunk_bytes, read_bytes));
    for (bool ended = false; !ended; ++area) {
        if (geometry_.area_chunk(area) >= store_chunks)
            return fail(ErrorKind::damaged, "{}: the exceptions go on behind the end of the device, in area {}", device_.name(), area);
        const std::uint64_t start = geometry_.area_chunk(area) * chunk_bytes;
        std::uint64_t dirt_from = UINT64_MAX;  // byte of the area
        for (std::uint64_t at = 0; at < chunk_bytes; at += piece.size()) {
            TRY_WITHIN(fmt::format("{}: area {}", device_.name(), area), read_now(device_, start + at, piece.bytes()));
            for (std::uint64_t inside = 0; inside < piece.size(); inside += exception_bytes) {
                const std::byte* bytes = piece.data() + inside;
                if (ended) {
                    if (!all_zero({bytes, exception_bytes}))
                        dirt_from = std::min(dirt_from, at + inside);
                    continue;
                }
                const auto old = load_little<std::uint64_t>(bytes);
                const auto where = load_little<std::uint64_t>(bytes + 8);
                if (where == 0) {
                    ended = true;
                    in_area_ = (at + inside) / exception_bytes;
                    if (old != 0)
                        dirt_from = at + inside;
                    const std::uint64_t unit = (at + inside) / unit_bytes_ * unit_bytes_;
                    std::memcpy(unit_.data(), piece.data() + (unit - at), at + inside - unit);
                    continue;
                }
                const auto describe = [&] {
                    return fmt::format("{}: exception {} of area {}", device_.name(), (at + inside) / exception_bytes, area);
                };
                if (where >= store_chunks || !geometry_.is_data(where))
                    return fail(ErrorKind::damaged, "{}: chunk {} is not one of the store's data", describe(), where);
                if (old >= table.origin_chunks())
                    return fail(ErrorKind::damaged, "{}: chunk {} is behind the end of the origin", describe(), old);
                if (!table.insert(OriginChunk(old), StoreChunk(where), 1))
                    return fail(ErrorKind::damaged, "{}: a second exception for chunk {} of the origin", describe(), old);
                if (!used.empty() && used.back().first + used.back().count == where)
                    ++used.back().count;
                else
                    used.push_back({where, 1});
                next_free = std::max(next_free, where + 1);
            }
        }
        if (ended && dirt_from != UINT64_MAX && access == Access::use) {
            // Left by a torn write. All of it is behind the end, so that it may go in any order.
            TRY(write_zeroes_now(device_, start + dirt_from, chunk_bytes - dirt_from));
            TRY(flush_now(device_));
        }
    }
    std::sort(used.begin(), used.end(), [](const Used& left, const Used& right) { return left.first < right.first; });
    for (std::size_t index = 1; index < used.size(); ++index) {
        if (used[index - 1].first + used[index - 1].count > used[index].first)
            return fail(ErrorKind::damaged, "{}: two exceptions name chunk {} of the store", device_.name(), used[index].first);
    }
    area_ = zeroed_ = area - 1;
    next_free_ = next_free;
    skip_area();
    return {};
}

// --- Allocation -----------------------------------------------------------------------------------------------------------

StoreUsage ExceptionLog::usage() const {
    return {.allocated = next_free_.load() * geometry_.chunk_sectors,
            .total = device_.size() / sector_bytes,
            .metadata = persistent_ ? (area_.load() + 2) * geometry_.chunk_sectors : 0};
}

bool ExceptionLog::has_room(std::uint64_t count) const {
    const std::uint64_t areas = persistent_ ? count / geometry_.exceptions_per_area() + 2 : 0;
    return next_free_.load() + count + areas <= chunks();
}

void ExceptionLog::skip_area() {
    if (next_free_.load() % (geometry_.exceptions_per_area() + 1) == 1)
        next_free_.fetch_add(1);
}

void ExceptionLog::use(IoQueue& queue, Committer& committer, std::function<void()> idle_again) {
    queue_ = &queue;
    committer_ = &committer;
    idle_again_ = std::move(idle_again);
    if (persistent_)
        committer.add(*this);
}

void ExceptionLog::write_data(IoRequest& request) {
    data_.add(request);
    committer_->wake();
}

bool ExceptionLog::allocate(NewExceptions& exceptions) {
    const std::uint64_t next = next_free_.load();
    const std::uint64_t end = chunks();
    if (failed_ != 0 || next >= end)
        return false;
    std::uint64_t most = std::min(exceptions.count, end - next);
    if (persistent_) {
        const std::uint64_t per_area = geometry_.exceptions_per_area();
        // Up to the next area, whose chunk is not for data.
        most = std::min(most, (per_area + 2 - next % (per_area + 1)) % (per_area + 1));
        // The exception that fills an area needs the one behind it.
        const std::uint64_t slot = in_area_ + queued_;
        const std::uint64_t last_area = area_.load() + slot / per_area;
        if (geometry_.area_chunk(last_area + 1) >= end)
            most = std::min(most, per_area - 1 - slot % per_area);
    }
    if (most == 0)
        return false;
    exceptions.where = StoreChunk(next);
    exceptions.count = most;
    next_free_.store(next + most);
    if (persistent_)
        skip_area();
    log_.push_back({&exceptions, exceptions.where, most, Entry::State::writing});
    queued_ += most;
    return true;
}

// What is allocated later lies behind.
std::deque<ExceptionLog::Entry>::iterator ExceptionLog::entry_of(const NewExceptions& exceptions) {
    return std::lower_bound(log_.begin(), log_.end(), exceptions.where,
                            [](const Entry& entry, StoreChunk where) { return entry.where < where; });
}

void ExceptionLog::written(NewExceptions& exceptions) {
    const auto entry = entry_of(exceptions);
    entry->state = Entry::State::written;
    if (persistent_) {
        committer_->wake();
    } else if (!commit_task_.posted) {
        commit_task_.posted = true;
        queue_->post(commit_task_);
    }
}

void ExceptionLog::dropped(NewExceptions& exceptions) {
    const auto entry = entry_of(exceptions);
    entry->state = Entry::State::dropped;
    entry->exceptions = nullptr;
    queued_ -= entry->left;
    if (persistent_)
        committer_->wake();
    else
        log_.erase(entry);
}

void ExceptionLog::transient_commits() {
    std::deque<Entry> waiting;
    std::vector<NewExceptions*> done;
    for (const Entry& entry : log_) {
        if (entry.state != Entry::State::written) {
            waiting.push_back(entry);
            continue;
        }
        queued_ -= entry.left;
        done.push_back(entry.exceptions);
    }
    log_.swap(waiting);
    for (NewExceptions* exceptions : done)
        exceptions->committed(*exceptions, 0);
}

// --- Commits --------------------------------------------------------------------------------------------------------------

void ExceptionLog::submit(IoRequest& request, IoOperation operation, std::uint64_t offset, std::span<iovec> vectors, std::uint64_t length,
                          void (*completed)(IoRequest& request, int error)) {
    request = IoRequest{};
    request.operation = operation;
    request.durable = operation == IoOperation::write;
    request.offset = offset;
    request.length = length;
    request.vectors = vectors;
    request.context = this;
    request.completed = completed;
    device_.submit(*queue_, request);
}

// Where on the device the unit of the current area lies that holds an exception.
std::uint64_t ExceptionLog::unit_offset(std::uint64_t index) const {
    return geometry_.area_chunk(area_.load()) * geometry_.chunk_bytes() + index * exception_bytes / unit_bytes_ * unit_bytes_;
}

void ExceptionLog::submit_in_round(IoRequest& request, IoOperation operation, std::uint64_t offset, std::span<iovec> vectors,
                                   std::uint64_t length) {
    request = IoRequest{.operation = operation, .offset = offset, .length = length, .vectors = vectors};
    request.context = this;
    request.completed = [](IoRequest& done, int error) {
        ExceptionLog& log = *static_cast<ExceptionLog*>(done.context);
        if (error != 0) {
            log.failed_ = error;
            log.committer_->wake();
        }
        if (--log.in_round_ == 0)
            log.idle_again_();
        log.committer_->ended();
    };
    ++in_round_;
    committer_->begun();
    device_.submit(*queue_, request);
}

void ExceptionLog::write_round() {
    data_.send(*queue_, *committer_);
    if (failed_ == 0 && queued_ > 0 && zeroed_ <= area_.load() + (in_area_ + queued_ - 1) / geometry_.exceptions_per_area())
        zero_next_area();
    while (!log_.empty() && log_.front().state == Entry::State::dropped)
        log_.pop_front();
    if (failed_ != 0)
        fail_written();
    else if (!log_.empty() && log_.front().state == Entry::State::flushed)
        write_exceptions();
}

void ExceptionLog::write_exceptions() {
    const std::uint64_t per_unit = unit_bytes_ / exception_bytes;
    // Asked each time: a store may have grown onto another disk.
    const std::uint64_t whole = std::min<std::uint64_t>(unit_bytes_, device_.traits().physical_block) / exception_bytes;
    std::uint64_t room = whole - in_area_ % whole;
    if (zeroed_ == area_.load())
        room = std::min(room, geometry_.exceptions_per_area() - 1 - in_area_);
    std::byte* place = unit_.data() + in_area_ % per_unit * exception_bytes;
    for (const Entry& entry : log_) {
        if (entry.state == Entry::State::dropped)
            continue;
        if (entry.state != Entry::State::flushed || batch_ == room)
            break;
        const std::uint64_t taken = std::min(entry.left, room - batch_);
        const std::uint64_t done = entry.exceptions->count - entry.left;
        for (std::uint64_t index = done; index < done + taken; ++index, place += exception_bytes) {
            store_little<std::uint64_t>(place, (entry.exceptions->old + index).value());
            store_little<std::uint64_t>(place + 8, (entry.exceptions->where + index).value());
        }
        batch_ += taken;
    }
    if (batch_ == 0)
        return;
    write_vector_ = {unit_.data(), unit_bytes_};
    submit_in_round(write_, IoOperation::write, unit_offset(in_area_), {&write_vector_, 1}, unit_bytes_);
}

// With zeros, where that isn't much: to unmap what is written again soon would change the extents of a file twice.
void ExceptionLog::zero_next_area() {
    const std::uint64_t chunk = geometry_.area_chunk(zeroed_ + 1);
    if (chunk >= chunks())
        return;  // allocate() leaves the last area its last exception until there is one
    zeroing_ = true;
    const std::uint64_t bytes = geometry_.chunk_bytes();
    if (bytes > most_zeros_written)
        return submit_in_round(zero_, IoOperation::write_zeroes, chunk * bytes, {}, bytes);
    if (zeros_.size() == 0) {
        zeros_ = AlignedBuffer(std::min(bytes, zeros_bytes));
        zero_vectors_.assign(bytes / zeros_.size(), {zeros_.data(), zeros_.size()});
    }
    submit_in_round(zero_, IoOperation::write, chunk * bytes, zero_vectors_, bytes);
}

bool ExceptionLog::flush_begins() {
    if (failed_ != 0)
        return false;
    bool needed = batch_ > 0 || zeroing_;
    for (Entry& entry : log_) {
        if (entry.state == Entry::State::written) {
            entry.state = Entry::State::flushing;
            needed = true;
        }
    }
    return needed;
}

void ExceptionLog::flush_ended(int error) {
    for (Entry& entry : log_)
        if (entry.state == Entry::State::flushing)
            entry.state = Entry::State::flushed;
    if (error != 0)
        failed_ = error;
    std::uint64_t batch = std::exchange(batch_, 0);
    if (std::exchange(zeroing_, false))
        ++zeroed_;
    if (failed_ != 0 || batch == 0)
        return;
    in_area_ += batch;
    queued_ -= batch;
    if (in_area_ == geometry_.exceptions_per_area()) {
        in_area_ = 0;
        area_.fetch_add(1);
    }
    if (in_area_ * exception_bytes % unit_bytes_ == 0)
        std::memset(unit_.data(), 0, unit_bytes_);
    std::vector<NewExceptions*> finished;
    while (batch > 0) {
        Entry& entry = log_.front();
        if (entry.state != Entry::State::dropped) {
            const std::uint64_t taken = std::min(entry.left, batch);
            entry.left -= taken;
            batch -= taken;
            if (entry.left > 0)
                break;
            finished.push_back(entry.exceptions);
        }
        log_.pop_front();
    }
    for (NewExceptions* exceptions : finished)
        exceptions->committed(*exceptions, 0);
}

// What isn't written yet meets the error when it is.
void ExceptionLog::fail_written() {
    std::vector<NewExceptions*> finished;
    while (!log_.empty() && log_.front().state != Entry::State::writing) {
        if (log_.front().state != Entry::State::dropped) {
            queued_ -= log_.front().left;
            finished.push_back(log_.front().exceptions);
        }
        log_.pop_front();
    }
    for (NewExceptions* exceptions : finished)
        exceptions->committed(*exceptions, failed_);
}

void ExceptionLog::mark_invalid(Waiter& waiter) {
    assert(invalid_waiter_ == nullptr);
    invalid_waiter_ = &waiter;
    const auto completed = [](IoRequest& request, int error) {
        ExceptionLog& log = *static_cast<ExceptionLog*>(request.context);
        Waiter& waiting = *std::exchange(log.invalid_waiter_, nullptr);
        waiting.done(waiting, error);
    };
    if (!persistent_) {
        header_request_.context = this;
        header_request_.completed = completed;
        queue_->complete_later(header_request_, 0);
        return;
    }
    header_ = AlignedBuffer(unit_bytes_);
    const std::vector<std::byte> bytes = header(false);
    std::copy(bytes.begin(), bytes.end(), header_.data());
    header_vector_ = {header_.data(), unit_bytes_};
    submit(header_request_, IoOperation::write, 0, {&header_vector_, 1}, unit_bytes_, completed);
}

// --- Merging --------------------------------------------------------------------------------------------------------------

void ExceptionLog::read_tail(std::uint64_t most, Waiter& waiter) {
    waiter_ = &waiter;
    tail_.clear();
    tail_parts_.clear();
    std::uint64_t area = area_.load();
    if (in_area_ == 0 && area > 0) {
        // As in the kernel, an empty area stops counting as soon as the full one before it is begun, before next_free_ follows.
        area_.store(--area);
        in_area_ = geometry_.exceptions_per_area();
    }
    for (std::uint64_t end = in_area_; most > 0; end = geometry_.exceptions_per_area()) {
        if (end > 0) {
            const std::uint64_t count = std::min(most, end);
            tail_parts_.push_back({.area = area, .first = end - count, .end = end});
            most -= count;
        }
        if (area == 0)
            break;
        --area;
    }
    for (TailPart& part : tail_parts_)
        part.units = AlignedBuffer((part.end * exception_bytes + unit_bytes_ - 1) / unit_bytes_ * unit_bytes_ - start_of(part));
    submit_tail(IoOperation::read, &ExceptionLog::tail_read);
}

// Where the first unit of a part begins, in bytes of its area.
std::uint64_t ExceptionLog::start_of(const TailPart& part) const { return part.first * exception_bytes / unit_bytes_ * unit_bytes_; }

void ExceptionLog::submit_tail(IoOperation operation, void (ExceptionLog::*then)()) {
    after_tail_ = then;
    tail_error_ = 0;
    tail_under_way_ = tail_parts_.size();
    if (tail_parts_.empty()) {
        tail_request_ = IoRequest{};
        tail_request_.context = this;
        tail_request_.completed = [](IoRequest& request, int) {
            ExceptionLog& log = *static_cast<ExceptionLog*>(request.context);
            (log.*log.after_tail_)();
        };
        return queue_->complete_later(tail_request_, 0);
    }
    for (TailPart& part : tail_parts_) {
        part.vector = {part.units.data(), part.units.size()};
        part.request = IoRequest{.operation = operation,
                                 .offset = geometry_.area_chunk(part.area) * geometry_.chunk_bytes() + start_of(part),
                                 .length = part.units.size(),
                                 .vectors = {&part.vector, 1}};
        part.request.context = this;
        part.request.completed = [](IoRequest& request, int error) {
            ExceptionLog& log = *static_cast<ExceptionLog*>(request.context);
            if (error != 0)
                log.tail_error_ = error;
            if (--log.tail_under_way_ == 0)
                (log.*log.after_tail_)();
        };
        device_.submit(*queue_, part.request);
    }
}

void ExceptionLog::tail_done(int error) {
    Waiter& waiting = *std::exchange(waiter_, nullptr);
    waiting.done(waiting, error);
}

void ExceptionLog::tail_read() {
    for (const TailPart& part : tail_parts_)
        for (std::uint64_t index = part.end; tail_error_ == 0 && index-- > part.first;) {
            const std::byte* bytes = part.units.data() + (index * exception_bytes - start_of(part));
            tail_.push_back({OriginChunk(load_little<std::uint64_t>(bytes)), StoreChunk(load_little<std::uint64_t>(bytes + 8))});
        }
    if (tail_parts_.empty())
        count_as_merging();
    tail_done(tail_error_);
}

// As the kernel counts in a merge: as if every chunk before had been committed in the order of allocation.
void ExceptionLog::count_as_merging() { next_free_.store(geometry_.area_chunk(area_.load()) + in_area_ + 1); }

void ExceptionLog::clear_tail(Waiter& waiter) {
    waiter_ = &waiter;
    for (TailPart& part : tail_parts_) {
        const std::uint64_t kept = part.first * exception_bytes - start_of(part);
        std::memset(part.units.data() + kept, 0, part.units.size() - kept);
    }
    submit_tail(IoOperation::write, &ExceptionLog::tail_written);
}

void ExceptionLog::tail_written() {
    if (tail_error_ != 0)
        return tail_done(tail_error_);
    tail_request_ = IoRequest{.operation = IoOperation::flush};
    tail_request_.context = this;
    tail_request_.completed = [](IoRequest& request, int error) {
        ExceptionLog& log = *static_cast<ExceptionLog*>(request.context);
        if (error == 0) {
            log.area_.store(log.tail_parts_.back().area);
            log.in_area_ = log.tail_parts_.back().first;
            log.count_as_merging();
        }
        log.tail_done(error);
    };
    device_.submit(*queue_, tail_request_);
}

}  // namespace lamella::cow
