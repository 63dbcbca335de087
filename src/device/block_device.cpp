// SPDX-License-Identifier: Apache-2.0
#include "device/block_device.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <new>

#include "device/vectors.h"

namespace lamella {

AlignedBuffer::AlignedBuffer(std::size_t size) : size_(size) {
    if (size == 0)
        return;
    constexpr std::size_t alignment = 4096;
    const std::size_t room = (size + alignment - 1) / alignment * alignment;
    data_ = static_cast<std::byte*>(std::aligned_alloc(alignment, room));
    if (data_ == nullptr)
        throw std::bad_alloc();
    std::memset(data_, 0, room);
}

AlignedBuffer::~AlignedBuffer() { std::free(data_); }

void BlockDevice::status(IoQueue& queue, StatusRequest& request) {
    const std::uint64_t end = size();
    if (request.offset >= end) {
        queue.complete_later(request, EINVAL);
        return;
    }
    request.extents.clear();
    request.add({.length = std::min(request.length, end - request.offset), .allocated = true, .zero = false, .depth = 1});
    queue.complete_later(request, 0);
}

void BlockDevice::add_leaves(std::vector<BlockDevice*>& leaves) {
    if (std::find(leaves.begin(), leaves.end(), this) == leaves.end())
        leaves.push_back(this);
}

int check_request(const IoRequest& request, std::uint64_t size, std::uint32_t alignment) {
    if (request.operation == IoOperation::flush)
        return 0;
    const bool transfers = request.operation == IoOperation::read || request.operation == IoOperation::write;
    const bool writes = request.operation == IoOperation::write || request.operation == IoOperation::write_zeroes;
    if (transfers) {
        assert(length_of(request.vectors) == request.length);
        if (((request.offset | request.length) & (alignment - 1)) != 0)
            return EINVAL;
    }
    if (request.offset > size || request.length > size - request.offset)
        return writes ? ENOSPC : EINVAL;
    return 0;
}

namespace {

constexpr std::uint64_t bounce_bytes = 1024 * 1024;

std::string describe(const IoRequest& request, const BlockDevice& device) {
    constexpr std::array<std::string_view, 5> verbs = {"reading", "writing", "flushing", "discarding", "zeroing"};
    const std::string_view verb = verbs[static_cast<std::size_t>(request.operation)];
    if (request.operation == IoOperation::flush)
        return fmt::format("{} {}", verb, device.name());
    return fmt::format("{} {} bytes at {} of {}", verb, request.length, request.offset, device.name());
}

struct Outcome {
    bool done = false;
    int error = 0;
};

template <typename Request>
void note_outcome(Request& request, int error) {
    *static_cast<Outcome*>(request.context) = {.done = true, .error = error};
}

// One device and a queue of its own, for requests one after the other.
class SynchronousCalls {
  public:
    static Result<SynchronousCalls> open(BlockDevice& device) { return SynchronousCalls(device, TRY(make_plain_queue())); }

    std::uint64_t alignment() const { return alignment_; }

    Result<void> run(IoRequest& request) {
        if (request.length == 0 && request.operation != IoOperation::flush)
            return {};
        const std::string what = describe(request, device_);  // the device may change the request
        Outcome outcome;
        request.context = &outcome;
        request.completed = note_outcome<IoRequest>;
        device_.submit(*queue_, request);
        queue_->run_until([&] { return outcome.done; });
        if (outcome.error != 0)
            return fail_errno(what, outcome.error);
        return {};
    }

    Result<void> read(std::uint64_t offset, std::span<std::byte> bytes) {
        const iovec vector{bytes.data(), bytes.size()};
        IoRequest request{.operation = IoOperation::read, .offset = offset, .length = bytes.size(), .vectors = {&vector, 1}};
        return run(request);
    }

    Result<void> write(std::uint64_t offset, std::span<const std::byte> bytes) {
        const iovec vector{const_cast<std::byte*>(bytes.data()), bytes.size()};
        IoRequest request{.operation = IoOperation::write, .offset = offset, .length = bytes.size(), .vectors = {&vector, 1}};
        return run(request);
    }

    // Writes part of one aligned unit. No bytes: zeros.
    Result<void> rewrite(std::uint64_t offset, std::uint64_t length, std::span<const std::byte> bytes) {
        AlignedBuffer unit(alignment_);
        const std::uint64_t start = offset / alignment_ * alignment_;
        TRY(read(start, unit.bytes()));
        std::byte* place = unit.data() + (offset - start);
        if (bytes.empty())
            std::memset(place, 0, length);
        else
            std::memcpy(place, bytes.data(), length);
        return write(start, unit.bytes());
    }

    // Cuts [offset, offset + length) into part of a unit, whole units, and part of a unit; any may be empty.
    struct Cut {
        std::uint64_t head;
        std::uint64_t middle;
        std::uint64_t tail;
    };
    Cut cut(std::uint64_t offset, std::uint64_t length) const {
        const std::uint64_t head = std::min(length, (alignment_ - offset % alignment_) % alignment_);
        const std::uint64_t middle = (length - head) / alignment_ * alignment_;
        return {head, middle, length - head - middle};
    }

  private:
    SynchronousCalls(BlockDevice& device, std::unique_ptr<IoQueue> queue)
        : device_(device), queue_(std::move(queue)), alignment_(device.traits().alignment) {}

    BlockDevice& device_;
    std::unique_ptr<IoQueue> queue_;
    std::uint64_t alignment_;
};

}  // namespace

Result<void> read_now(BlockDevice& device, std::uint64_t offset, std::span<std::byte> bytes) {
    SynchronousCalls calls = TRY(SynchronousCalls::open(device));
    const std::uint64_t unit = calls.alignment();
    if ((offset | bytes.size()) % unit == 0)
        return calls.read(offset, bytes);
    AlignedBuffer bounce;
    while (!bytes.empty()) {
        const std::uint64_t start = offset / unit * unit;
        const std::uint64_t skipped = offset - start;
        const std::uint64_t wanted = std::min<std::uint64_t>(bytes.size(), bounce_bytes - skipped);
        const std::uint64_t span = (skipped + wanted + unit - 1) / unit * unit;
        if (bounce.size() != span)
            bounce = AlignedBuffer(span);
        TRY(calls.read(start, bounce.bytes()));
        std::memcpy(bytes.data(), bounce.data() + skipped, wanted);
        bytes = bytes.subspan(wanted);
        offset += wanted;
    }
    return {};
}

Result<void> write_now(BlockDevice& device, std::uint64_t offset, std::span<const std::byte> bytes) {
    SynchronousCalls calls = TRY(SynchronousCalls::open(device));
    const auto [head, middle, tail] = calls.cut(offset, bytes.size());
    if (head > 0)
        TRY(calls.rewrite(offset, head, bytes.first(head)));
    TRY(calls.write(offset + head, bytes.subspan(head, middle)));
    if (tail > 0)
        TRY(calls.rewrite(offset + head + middle, tail, bytes.last(tail)));
    return {};
}

Result<void> flush_now(BlockDevice& device) {
    SynchronousCalls calls = TRY(SynchronousCalls::open(device));
    IoRequest request{.operation = IoOperation::flush};
    return calls.run(request);
}

Result<void> discard_now(BlockDevice& device, std::uint64_t offset, std::uint64_t length) {
    SynchronousCalls calls = TRY(SynchronousCalls::open(device));
    const auto [head, middle, tail] = calls.cut(offset, length);
    IoRequest request{.operation = IoOperation::discard, .offset = offset + head, .length = middle};
    return calls.run(request);
}

Result<void> write_zeroes_now(BlockDevice& device, std::uint64_t offset, std::uint64_t length) {
    SynchronousCalls calls = TRY(SynchronousCalls::open(device));
    const auto [head, middle, tail] = calls.cut(offset, length);
    if (head > 0)
        TRY(calls.rewrite(offset, head, {}));
    IoRequest request{.operation = IoOperation::write_zeroes, .offset = offset + head, .length = middle};
    TRY(calls.run(request));
    if (tail > 0)
        TRY(calls.rewrite(offset + head + middle, tail, {}));
    return {};
}

Result<std::vector<StatusExtent>> status_now(BlockDevice& device, std::uint64_t offset, std::uint64_t length, std::size_t max_extents) {
    std::unique_ptr<IoQueue> queue = TRY(make_plain_queue());
    Outcome outcome;
    StatusRequest request;
    request.offset = offset;
    request.length = length;
    request.max_extents = max_extents;
    request.context = &outcome;
    request.completed = note_outcome<StatusRequest>;
    device.status(*queue, request);
    queue->run_until([&] { return outcome.done; });
    if (outcome.error != 0)
        return fail_errno(fmt::format("asking for the status of {} bytes at {} of {}", length, offset, device.name()), outcome.error);
    return std::move(request.extents);
}

}  // namespace lamella
