// SPDX-License-Identifier: Apache-2.0
#include "thin/thin_io.h"

#include <algorithm>
#include <utility>

#include "device/vectors.h"
#include "thin/pool_thread.h"

namespace lamella::thin {

namespace {

// A request on the data device or the external origin. Kept in a list of the thread for the next one, up to a bound.
struct Part {
    IoRequest request;
    ThinIo* io = nullptr;
    IoQueue* queue = nullptr;
    GracePeriod::Token token{};
    bool reports_holes = false;
    std::uint64_t io_offset = 0;
    HoleList holes;
    std::vector<iovec> vectors;
    Part* next = nullptr;
};

class PartList {
  public:
    ~PartList() {
        while (first_ != nullptr)
            delete std::exchange(first_, first_->next);
    }
    Part* take() {
        if (first_ == nullptr)
            return new Part;
        --count_;
        return std::exchange(first_, first_->next);
    }
    void give(Part* part) {
        if (count_ == most_kept) {
            delete part;
            return;
        }
        part->vectors.clear();
        part->next = first_;
        first_ = part;
        ++count_;
    }

  private:
    static constexpr std::size_t most_kept = 256;
    Part* first_ = nullptr;
    std::size_t count_ = 0;
};

thread_local PartList spare_parts;

void part_completed(IoRequest& request, int error) {
    Part* part = static_cast<Part*>(request.context);
    ThinIo* io = part->io;
    IoQueue& here = *part->queue;
    io->volume.pool().grace().leave(part->token);
    io->note_error(error);
    spare_parts.give(part);
    io->finish_part(here);
}

}  // namespace

void ThinIo::finish_part(IoQueue& here, bool from_submit) {
    if (parts.fetch_sub(1) == 1)
        complete(here, from_submit);
}

void ThinIo::complete(IoQueue& here, bool from_submit) {
    if (must_commit && error.load() == 0) {
        must_commit = false;
        parts.store(1);
        volume.pool().join_commit(*this);
        return;
    }
    if (from_submit) {
        IoQueue& queue = home;
        IoRequest& done = request;
        const int result = error.load();
        delete this;
        queue.complete_later(done, result);
        return;
    }
    if (&here == &home) {
        IoRequest& done = request;
        const int result = error.load();
        delete this;
        done.completed(done, result);
        return;
    }
    task.run = [](Task& posted) {
        ThinIo* io = static_cast<IoTask&>(posted).io;
        IoRequest& done = io->request;
        const int result = io->error.load();
        delete io;
        done.completed(done, result);
    };
    home.post(task);
}

void ThinIo::start_part(IoQueue& here, BlockDevice& device, std::uint64_t offset, std::uint64_t length, std::uint64_t device_offset,
                        GracePeriod::Token token) {
    Part* part = spare_parts.take();
    part->io = this;
    part->queue = &here;
    part->token = token;
    part->request = IoRequest{};
    part->request.operation = operation;
    part->request.offset = device_offset;
    part->request.length = length;
    part->request.completed = part_completed;
    part->request.context = part;
    if (operation == IoOperation::write_zeroes) {
        // The block stays mapped; whether the data device keeps the room for it is its own affair.
        part->request.keep_allocated = request.keep_allocated;
    } else if (offset == 0 && length == request.length) {
        part->request.vectors = request.vectors;
    } else {
        slice_vectors(request.vectors, offset, length, part->vectors);
        part->request.vectors = part->vectors;
    }
    if (operation != IoOperation::read && request.durable) {
        // Looked at after the mapping was: a mapping that is in use while the pool is clean is committed.
        if (volume.pool().dirty())
            must_commit = true;
        else
            part->request.durable = true;
    }
    parts.fetch_add(1);
    device.submit(here, part->request);
}

void ThinIo::read_hole(std::uint64_t offset, std::uint64_t length) {
    if (request.holes != nullptr && request.holes->add(offset, length))
        return;
    zero_vectors(request.vectors, offset, length);
}

void ThinIo::read_unmapped(IoQueue& here, std::uint64_t offset, std::uint64_t length) {
    if (BlockDevice* origin = volume.external_origin_; origin != nullptr) {
        const std::uint64_t at = start + offset;
        const std::uint64_t there = at < origin->size() ? std::min(length, origin->size() - at) : 0;
        if (there > 0)
            start_part(here, *origin, offset, there, at, volume.pool().grace().enter());
        offset += there;
        length -= there;
    }
    if (length > 0)
        read_hole(offset, length);
}

bool ThinIo::deal(IoQueue& here) {
    PoolThread& pool = volume.pool();
    const std::uint64_t block_bytes = pool.block_bytes();
    GracePeriod& grace = pool.grace();
    while (position < request.length) {
        if (pool.failed()) {
            note_error(EIO);
            return true;
        }
        const GracePeriod::Token token = grace.enter();
        const std::uint64_t at = start + position;
        std::uint64_t block = at / block_bytes;
        const MappingCache::Page* page = volume.mappings_.find(block);
        if (page == nullptr) {
            grace.leave(token);
            return false;
        }
        const std::uint32_t snapshot_time = volume.snapshot_time_.load();
        const CachedMapping mapping = page->at(block);
        if (operation != IoOperation::read && (!mapping.mapped() || mapping.time() < snapshot_time)) {
            grace.leave(token);
            return false;
        }
        // As far as the blocks that follow lie next to this one, or are unmapped as this one, they are one part.
        std::uint64_t length = std::min(block_bytes - at % block_bytes, request.length - position);
        while (position + length < request.length) {
            ++block;
            if (block % MappingCache::page_entries == 0 && (page = volume.mappings_.find(block)) == nullptr)
                break;
            const CachedMapping following = page->at(block);
            const bool joins = mapping.mapped() ? following.mapped() && following.block() == mapping.block() + (block - at / block_bytes) &&
                                                      (operation == IoOperation::read || following.time() >= snapshot_time)
                                                : !following.mapped();
            if (!joins)
                break;
            length += std::min(block_bytes, request.length - position - length);
        }
        const std::uint64_t offset = position;
        position += length;
        if (mapping.mapped()) {
            start_part(here, pool.data(), offset, length, mapping.block().value() * block_bytes + at % block_bytes, token);
        } else {
            grace.leave(token);
            read_unmapped(here, offset, length);
        }
    }
    return true;
}

}  // namespace lamella::thin
