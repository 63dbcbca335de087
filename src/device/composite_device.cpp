// SPDX-License-Identifier: Apache-2.0
#include "device/composite_device.h"

#include <algorithm>
#include <cerrno>
#include <deque>

#include "device/vectors.h"

namespace lamella {

namespace {

using Piece = CompositeDevice::Piece;

// A request in parts. Made by submit(), gone when the last part has completed.
class Split {
  public:
    explicit Split(IoRequest& parent) : parent_(parent) {}

    // A part without data.
    void add_run(const Piece& run) {
        Part& part = parts_.emplace_back(*this, parent_);
        part.device = run.device;
        part.request.offset = run.offset;
        part.request.length = run.length;
    }

    // The part of a read or write that lies at `piece`, `at` bytes into the parent. Pieces that continue each other below are one part,
    // so that a long transfer over stripes is one request a stripe; but not when holes are asked for, whose places would be lost.
    void add_transfer(const Piece& piece, std::uint64_t at) {
        Part* part = nullptr;
        if (parent_.holes == nullptr) {
            for (auto candidate = parts_.rbegin(); candidate != parts_.rend() && candidate - parts_.rbegin() < 32; ++candidate) {
                if (candidate->device == piece.device && candidate->request.offset + candidate->request.length == piece.offset) {
                    part = &*candidate;
                    break;
                }
            }
        }
        if (part == nullptr) {
            add_run({piece.device, piece.offset, 0});
            part = &parts_.back();
            part->at = at;
        }
        slice_vectors(parent_.vectors, at, piece.length, part->vectors);
        part->request.length += piece.length;
    }

    void submit(IoQueue& queue) {
        left_ = parts_.size();
        for (Part& part : parts_) {
            part.request.vectors = part.vectors;
            if (parent_.holes != nullptr)
                part.request.holes = &part.holes;
            part.device->submit(queue, part.request);
        }
    }

  private:
    struct Part {
        Part(Split& owner, const IoRequest& parent) : split(owner) {
            request.operation = parent.operation;
            request.durable = parent.durable;
            request.keep_allocated = parent.keep_allocated;
            request.fast_only = parent.fast_only;
            request.context = this;
            request.completed = [](IoRequest& finished, int error) {
                Part& part = *static_cast<Part*>(finished.context);
                part.split.part_completed(part, error);
            };
        }
        Split& split;
        BlockDevice* device = nullptr;
        std::uint64_t at = 0;  // bytes into the parent
        std::vector<iovec> vectors;
        HoleList holes{};
        IoRequest request;
    };

    void part_completed(Part& part, int error) {
        if (error == 0 && parent_.holes != nullptr) {
            for (std::size_t index = 0; index < part.holes.count; ++index) {
                const auto [offset, length] = part.holes.holes[index];
                if (!parent_.holes->add(part.at + offset, length))
                    zero_vectors(parent_.vectors, part.at + offset, length);
            }
        }
        if (error_ == 0)
            error_ = error;
        if (--left_ > 0)
            return;
        IoRequest& parent = parent_;
        const int result = error_;
        delete this;
        parent.completed(parent, result);
    }

    IoRequest& parent_;
    std::deque<Part> parts_;  // parts don't move
    std::size_t left_ = 0;
    int error_ = 0;
};

// Asks piece after piece until the request has all it wants.
struct StatusWalk {
    const CompositeDevice& device;
    IoQueue& queue;
    StatusRequest& parent;
    std::uint64_t place;
    std::uint64_t end;
    StatusRequest child{};

    void next() {
        const Piece piece = device.piece_at(place, end - place);
        child.offset = piece.offset;
        child.length = piece.length;
        child.max_extents = parent.max_extents - parent.extents.size() + 1;  // the first may merge with what is there
        child.context = this;
        child.completed = [](StatusRequest& finished, int error) { static_cast<StatusWalk*>(finished.context)->answered(error); };
        piece.device->status(queue, child);
    }

    void answered(int error) {
        bool full = error != 0;
        for (const StatusExtent& extent : child.extents) {
            full = full || !parent.add(extent);
            if (!full)
                place += extent.length;
        }
        // A device that answers nothing must not be asked for ever.
        if (!full && !child.extents.empty() && place < end) {
            next();
            return;
        }
        StatusRequest& request = parent;
        // What was learnt before an error is a good answer; the next question will meet the error first.
        const int result = request.extents.empty() ? (error != 0 ? error : EIO) : 0;
        delete this;
        request.completed(request, result);
    }
};

}  // namespace

void CompositeDevice::submit(IoQueue& queue, IoRequest& request) {
    if (request.operation == IoOperation::flush) {
        std::vector<BlockDevice*> leaves;
        add_leaves(leaves);
        if (leaves.empty()) {
            queue.complete_later(request, 0);
        } else if (leaves.size() == 1) {
            leaves.front()->submit(queue, request);
        } else {
            auto* split = new Split(request);
            for (BlockDevice* leaf : leaves)
                split->add_run({leaf, 0, 0});
            split->submit(queue);
        }
        return;
    }
    int error = check_request(request, size(), 1);
    if (error == 0 && request.length > 0) {
        const Piece piece = piece_at(request.offset, request.length);
        if (piece.length == request.length) {
            request.offset = piece.offset;
            piece.device->submit(queue, request);
            return;
        }
        // Before the first part has gone: no part of a misaligned write may be done.
        const bool transfers = request.operation == IoOperation::read || request.operation == IoOperation::write;
        if (transfers && ((request.offset | request.length) & (traits().alignment - 1)) != 0)
            error = EINVAL;
    }
    if (error != 0 || request.length == 0) {
        queue.complete_later(request, error);
        return;
    }
    auto* split = new Split(request);
    if (request.operation == IoOperation::read || request.operation == IoOperation::write) {
        for (std::uint64_t at = 0; at < request.length;) {
            const Piece piece = piece_at(request.offset + at, request.length - at);
            split->add_transfer(piece, at);
            at += piece.length;
        }
    } else {
        std::vector<Piece> runs;
        add_runs(request.offset, request.length, runs);
        for (const Piece& run : runs)
            split->add_run(run);
    }
    split->submit(queue);
}

void CompositeDevice::status(IoQueue& queue, StatusRequest& request) {
    const std::uint64_t end = size();
    request.extents.clear();
    if (request.offset >= end || request.length == 0) {
        queue.complete_later(request, EINVAL);
        return;
    }
    auto* walk = new StatusWalk{.device = *this,
                                .queue = queue,
                                .parent = request,
                                .place = request.offset,
                                .end = request.offset + std::min(request.length, end - request.offset)};
    walk->next();
}

std::uint64_t CompositeDevice::known_zero(std::uint64_t offset, std::uint64_t limit) {
    const std::uint64_t end_of_device = size();
    if (offset >= end_of_device)
        return 0;
    const std::uint64_t end = offset + std::min(limit, end_of_device - offset);
    std::uint64_t place = offset;
    for (int pieces = 0; place < end && pieces < 1024; ++pieces) {
        const Piece piece = piece_at(place, end - place);
        const std::uint64_t zeros = piece.device->known_zero(piece.offset, piece.length);
        place += zeros;
        if (zeros < piece.length)
            break;
    }
    return place - offset;
}

void CompositeDevice::add_runs(std::uint64_t offset, std::uint64_t length, std::vector<Piece>& runs) const {
    for (std::uint64_t end = offset + length; offset < end;) {
        runs.push_back(piece_at(offset, end - offset));
        offset += runs.back().length;
    }
}

std::uint32_t CompositeDevice::block_at(std::uint32_t physical_block, std::uint64_t place) {
    const std::uint64_t largest = place & (~place + 1);
    return place == 0 ? physical_block : static_cast<std::uint32_t>(std::min<std::uint64_t>(physical_block, largest));
}

DeviceTraits CompositeDevice::combine(const DeviceTraits& left, const DeviceTraits& right) {
    return {
        .alignment = std::max(left.alignment, right.alignment),
        .physical_block = std::min(left.physical_block, right.physical_block),
        .preferred_io = std::max(left.preferred_io, right.preferred_io),
        .discards = left.discards && right.discards,
        .discard_zeroes = left.discard_zeroes && right.discard_zeroes,
        .discard_granularity = std::max(left.discard_granularity, right.discard_granularity),
        .rotational = left.rotational || right.rotational,
        .read_only = left.read_only || right.read_only,
    };
}

}  // namespace lamella
