// SPDX-License-Identifier: Apache-2.0
//
// Requests of any alignment on a device of whole units
//
//   READ           reads the units that it touches, and sends its part of them.
//   WRITE,         aligned: enters the gate shared, and is one request to the device.
//   WRITE_ZEROES   otherwise enters it alone, reads the first and the last unit where it covers them in part, and writes them back with
//                  its own bytes in them. A WRITE does that in one request. WRITE_ZEROES lets the device zero the units between.
//   TRIM           is a hint: it leaves out the units that it covers in part.
//   BLOCK_STATUS   asks for whole units, and cuts the answer.
#include "serve/nbd/operation.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

namespace lamella::nbd {

namespace {

std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) { return value / unit * unit; }
std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) { return round_down(value + unit - 1, unit); }

const char* error_text(WireError error) {
    switch (error) {
    case WireError::no_space: return "no space left for new data";
    case WireError::not_supported: return "no faster than writing zeros";
    case WireError::io: return "the device failed";
    default: return "refused by the device";
    }
}

}  // namespace

std::size_t Operation::buffer_bytes(const Request& request, const OpenExport& target) {
    if (request.command != Command::read && request.command != Command::write)
        return 0;
    return round_up(request.offset + request.length, target.alignment) - round_down(request.offset, target.alignment);
}

void Operation::begin(const Request& request, ReplyStyle style, OpenExport* target, AlignedBuffer&& buffer) {
    request_ = request;
    to_ = {style, request.cookie, request.offset};
    target_ = target;
    buffer_ = std::move(buffer);
    holes_.count = 0;
    io_.holes = nullptr;
    status_.extents.clear();
    shared_ = alone_ = false;
    if (failed())
        return;  // its numbers may be anything
    start_ = round_down(request.offset, target->alignment);
    end_ = round_up(request.offset + request.length, target->alignment);
    skew_ = request.offset - start_;
}

void Operation::perform(IoQueue& queue, unsigned reactor, void (*finished)(Operation&)) {
    queue_ = &queue;
    reactor_ = reactor;
    finished_ = finished;
    if (request_.length == 0 && request_.command != Command::flush)
        return done(0);
    switch (request_.command) {
    case Command::read:
        io_.holes = to_.style != ReplyStyle::simple && !request_.has(command_flag::do_not_fragment) ? &holes_ : nullptr;
        return submit(Step::only, IoOperation::read, start_, end_ - start_, buffer_.data());
    case Command::flush: return submit(Step::only, IoOperation::flush, 0, 0, nullptr);
    case Command::cache: return done(0);  // a hint; what the device keeps is its own affair
    case Command::block_status:
        status_.offset = start_;
        status_.length = end_ - start_;
        status_.max_extents = request_.has(command_flag::request_one) ? 1 : limits::status_extents;
        status_.context = this;
        status_.completed = [](StatusRequest& status, int error) {
            auto& operation = *static_cast<Operation*>(status.context);
            if (error == 0)
                operation.take_status();
            operation.done(error);
        };
        return target_->device.status(queue, status_);
    case Command::trim:
        start_ = round_up(request_.offset, target_->alignment);
        end_ = round_down(request_.offset + request_.length, target_->alignment);
        return start_ < end_ ? enter_gate(false) : done(0);
    case Command::write:
    case Command::write_zeroes: {
        const bool aligned = start_ == request_.offset && end_ == request_.offset + request_.length;
        if (!aligned && request_.has(command_flag::fast_zero))
            return done(EOPNOTSUPP);
        return enter_gate(!aligned);
    }
    case Command::disconnect: break;
    }
    assert(!"a command that the session lets through");
    done(EINVAL);
}

void Operation::submit(Step step, IoOperation operation, std::uint64_t offset, std::uint64_t length, std::byte* memory) {
    step_ = step;
    io_.operation = operation;
    io_.durable = operation != IoOperation::read && request_.has(command_flag::fua);
    io_.keep_allocated = request_.has(command_flag::no_hole);
    io_.fast_only = request_.has(command_flag::fast_zero);
    io_.offset = offset;
    io_.length = length;
    vector_ = {memory, length};
    io_.vectors = memory == nullptr ? std::span<const iovec>() : std::span<const iovec>(&vector_, 1);
    io_.context = this;
    io_.completed = [](IoRequest& io, int error) {
        auto& self = *static_cast<Operation*>(io.context);
        // A hint that the device can't follow is no error.
        if (error == EOPNOTSUPP && self.request_.command == Command::trim)
            error = 0;
        if (error != 0)
            self.done(error);
        else
            self.continue_after(self.step_);
    };
    target_->device.submit(*queue_, io_);
}

void Operation::enter_gate(bool alone) {
    waiter_.operation = this;
    waiter_.queue = queue_;
    waiter_.reactor = reactor_;
    waiter_.run = [](Task& task) { static_cast<GateWaiter&>(task).operation->begin_update(); };
    shared_ = !alone;
    alone_ = alone;
    if (alone ? target_->gate.enter_alone(waiter_) : target_->gate.enter_shared(waiter_))
        begin_update();
}

void Operation::begin_update() {
    if (shared_) {
        const IoOperation operation = request_.command == Command::write  ? IoOperation::write
                                      : request_.command == Command::trim ? IoOperation::discard
                                                                          : IoOperation::write_zeroes;
        return submit(Step::only, operation, start_, end_ - start_, request_.command == Command::write ? buffer_.data() : nullptr);
    }
    const std::uint64_t unit = target_->alignment;
    const std::uint64_t client_end = request_.offset + request_.length;
    first_partial_ = start_ != request_.offset || client_end < start_ + unit;
    last_partial_ = end_ != client_end && end_ - unit != start_;
    if (edges_.size() < 2 * unit)
        edges_ = AlignedBuffer(2 * unit);
    step_ = Step::enter;
    continue_unaligned();
}

void Operation::continue_after(Step step) {
    if (step == Step::only && request_.command == Command::trim && request_.has(command_flag::fua))
        return submit(Step::flush, IoOperation::flush, 0, 0, nullptr);
    if (alone_ && step != Step::write && step != Step::zero_middle)
        return continue_unaligned();
    done(0);
}

// Goes to the next step that this request needs.
void Operation::continue_unaligned() {
    const std::uint64_t unit = target_->alignment;
    std::byte* const first = edges_.data();
    std::byte* const last = edges_.data() + unit;
    switch (step_) {
    case Step::enter:
        if (first_partial_)
            return submit(Step::read_first, IoOperation::read, start_, unit, first);
        [[fallthrough]];
    case Step::read_first:
        if (last_partial_)
            return submit(Step::read_last, IoOperation::read, end_ - unit, unit, last);
        [[fallthrough]];
    case Step::read_last:
        complete_units();
        if (request_.command == Command::write)
            return submit(Step::write, IoOperation::write, start_, end_ - start_, buffer_.data());
        if (first_partial_)
            return submit(Step::zero_first, IoOperation::write, start_, unit, first);
        [[fallthrough]];
    case Step::zero_first:
        if (last_partial_)
            return submit(Step::zero_last, IoOperation::write, end_ - unit, unit, last);
        [[fallthrough]];
    default: {
        const std::uint64_t from = start_ + (first_partial_ ? unit : 0);
        const std::uint64_t to = end_ - (last_partial_ ? unit : 0);
        if (from < to)
            return submit(Step::zero_middle, IoOperation::write_zeroes, from, to - from, nullptr);
        return done(0);
    }
    }
}

// Puts the bytes that the client left alone round a WRITE's, or the client's zeros into the units that were read.
void Operation::complete_units() {
    const std::uint64_t unit = target_->alignment;
    const std::uint64_t client_end = request_.offset + request_.length;
    std::byte* const first = edges_.data();
    std::byte* const last = edges_.data() + unit;
    // In the first unit the client's bytes are [skew_, first_end), in the last one, if that is another, [0, last_end).
    const std::size_t first_end = std::min(client_end - start_, unit);
    const std::size_t last_end = client_end - (end_ - unit);
    if (request_.command == Command::write) {
        if (first_partial_) {
            std::memcpy(buffer_.data(), first, skew_);
            std::memcpy(buffer_.data() + first_end, first + first_end, unit - first_end);
        }
        if (last_partial_)
            std::memcpy(buffer_.data() + (end_ - unit - start_) + last_end, last + last_end, unit - last_end);
        return;
    }
    if (first_partial_)
        std::memset(first + skew_, 0, first_end - skew_);
    if (last_partial_)
        std::memset(last, 0, last_end);
}

void Operation::done(int error) {
    if (shared_)
        target_->gate.leave_shared(reactor_);
    if (alone_)
        target_->gate.leave_alone();
    shared_ = alone_ = false;
    if (error != 0) {
        request_.error = wire_error(error);
        // ENOTSUP is only for FAST_ZERO; clients take it for a promise that plain zeroing works.
        if (request_.error == WireError::not_supported && !request_.has(command_flag::fast_zero))
            request_.error = WireError::io;
        request_.error_text = error_text(request_.error);
    }
    ExportCounters& counters = target_->counters[reactor_];
    const auto count = [&](std::atomic<std::uint64_t>& counter, std::uint64_t by) { ExportCounters::add(counter, by); };
    if (error == 0) {
        switch (request_.command) {
        case Command::read:
            count(counters.reads, 1);
            count(counters.read_bytes, request_.length);
            break;
        case Command::write:
        case Command::write_zeroes:
            count(counters.writes, 1);
            count(counters.written_bytes, request_.length);
            break;
        case Command::trim:
            count(counters.trims, 1);
            count(counters.trimmed_bytes, request_.length);
            break;
        case Command::flush: count(counters.flushes, 1); break;
        default: count(counters.others, 1); break;
        }
    } else {
        count(counters.errors, 1);
    }
    finished_(*this);
}

// Cuts the extents to what the client asked for.
void Operation::take_status() {
    std::vector<StatusExtent>& extents = status_.extents;
    std::uint64_t before = skew_;
    std::uint64_t left = request_.length;
    std::size_t kept = 0;
    for (const StatusExtent& extent : extents) {
        const std::uint64_t dropped = std::min(before, extent.length);
        before -= dropped;
        const std::uint64_t length = std::min(extent.length - dropped, left);
        left -= length;
        if (length > 0 && kept < limits::status_extents) {
            extents[kept] = extent;
            extents[kept++].length = length;
        }
    }
    extents.resize(kept);
    if (extents.empty())  // nothing is known
        extents.push_back({.length = request_.length, .allocated = true, .zero = false, .depth = 1});
}

bool Operation::fits(const Gather& gather) const {
    if (failed())
        return gather.has_room(error_bytes, 1);
    if (request_.command == Command::read) {
        const std::size_t chunks = 2 * holes_.count + 1;
        return gather.has_room(chunks * hole_bytes, 2 * chunks);
    }
    if (request_.command == Command::block_status)
        return gather.has_room(context::count * status_bytes, 1);
    return gather.has_room(chunk_header_bytes, 1);
}

void Operation::encode(Gather& gather) const {
    if (failed()) {
        if (request_.has_error_offset)
            return gather.add_header(put_error_at(gather.header(), to_, request_.error, request_.error_text, request_.error_offset));
        return gather.add_header(put_error(gather.header(), to_, request_.error, request_.error_text));
    }
    if (request_.command == Command::read && request_.length > 0)
        return encode_read(gather);
    if (request_.command == Command::block_status) {
        std::uint8_t left = request_.contexts;
        for (std::uint8_t bit = 1; left != 0; bit = static_cast<std::uint8_t>(bit << 1)) {
            if (!(left & bit))
                continue;
            left = static_cast<std::uint8_t>(left & ~bit);
            gather.add_header(put_status(gather.header(), to_, bit, status_.extents, left == 0));
        }
        return;
    }
    gather.add_header(put_success(gather.header(), to_, request_.command == Command::read));
}

void Operation::encode_read(Gather& gather) const {
    // The holes in order, cut to what the client asked for. Positions count from the first byte of the request.
    std::array<HoleList::Hole, HoleList::capacity> holes;
    std::copy_n(holes_.holes.begin(), holes_.count, holes.begin());
    std::sort(holes.begin(), holes.begin() + holes_.count, [](const auto& left, const auto& right) { return left.offset < right.offset; });

    const auto data = [&](std::uint64_t from, std::uint64_t to) {
        const auto length = static_cast<std::uint32_t>(to - from);
        gather.add_header(put_data(gather.header(), to_, request_.offset + from, length, to == request_.length));
        gather.add_data(buffer_.data() + skew_ + from, length);
    };
    std::uint64_t position = 0;
    for (std::size_t i = 0; i < holes_.count; ++i) {
        const std::uint64_t from = std::max(position, holes[i].offset - std::min<std::uint64_t>(holes[i].offset, skew_));
        const std::uint64_t hole_end = holes[i].offset + holes[i].length;
        const std::uint64_t to = std::min(request_.length, hole_end - std::min<std::uint64_t>(hole_end, skew_));
        if (from >= to)
            continue;
        if (position < from)
            data(position, from);
        gather.add_header(
            put_hole(gather.header(), to_, request_.offset + from, static_cast<std::uint32_t>(to - from), to == request_.length));
        position = to;
    }
    if (position < request_.length)
        data(position, request_.length);
}

}  // namespace lamella::nbd
