// SPDX-License-Identifier: Apache-2.0
#include "cow/cow_io.h"

#include <cerrno>
#include <utility>

#include "cow/origin_thread.h"
#include "device/vectors.h"

namespace lamella::cow {

namespace {

// A request on a lower device. Kept in a list of the thread for the next one, up to a bound.
struct Part {
    IoRequest request;
    CowIo* io = nullptr;
    IoQueue* queue = nullptr;
    CowIo::Place place;
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
    CowIo* io = part->io;
    IoQueue& here = *part->queue;
    const CowIo::Place place = part->place;
    spare_parts.give(part);
    OriginThread& thread = io->thread;
    if (place.held_by != nullptr && place.held_by->table->release(place.first, place.count))
        thread.released();
    if (place.pending != nullptr)
        return thread.data_written(*place.pending, error);
    io->note_error(error);
    io->finish_part(here);
}

}  // namespace

CowIo::CowIo(OriginThread& its_thread, IoQueue& queue, IoRequest& its_request, SnapshotState* its_snapshot)
    : thread(its_thread),
      home(queue),
      request(its_request),
      snapshot(its_snapshot),
      operation(its_request.operation),
      start(its_request.offset),
      length(its_request.length) {
    task.io = this;
    blocked.io = this;
}

void CowIo::leave_grace() {
    if (token) {
        thread.grace().leave(*token);
        token.reset();
    }
}

void CowIo::finish_part(IoQueue& here, bool from_submit) {
    if (parts.fetch_sub(1) == 1)
        complete(here, from_submit);
}

void CowIo::complete(IoQueue& here, bool from_submit) {
    leave_grace();
    if (snapshot != nullptr) {
        // What was read from the origin may be newer than the snapshot's end.
        if (operation == IoOperation::read && !snapshot->answers())
            note_error(EIO);
        if (operation == IoOperation::discard && snapshot->discard_passdown_origin.load() && !passed_down && error.load() == 0) {
            passed_down = true;
            parts.store(1);
            return thread.resume(*this, here);
        }
        // A device that doesn't discard keeps what it has, which a discard allows.
        if (passed_down && error.load() == EOPNOTSUPP)
            error.store(0);
    }
    IoRequest& done = request;
    const int result = error.load();
    if (from_submit) {
        IoQueue& queue = home;
        delete this;
        return queue.complete_later(done, result);
    }
    if (&here == &home) {
        delete this;
        return done.completed(done, result);
    }
    task.run = [](Task& posted) {
        CowIo* io = static_cast<IoTask&>(posted).io;
        IoRequest& finished = io->request;
        const int outcome = io->error.load();
        delete io;
        finished.completed(finished, outcome);
    };
    here.hand_over(home, task);
}

void CowIo::start_part(IoQueue& here, const Place& place) {
    Part* part = spare_parts.take();
    part->io = this;
    part->queue = &here;
    part->place = place;
    part->request = IoRequest{};
    part->request.operation = operation;
    part->request.offset = place.device_offset;
    part->request.length = place.size;
    part->request.completed = part_completed;
    part->request.context = part;
    const bool whole = place.offset == 0 && place.size == length;
    switch (operation) {
    case IoOperation::write_zeroes:
        part->request.keep_allocated = request.keep_allocated;
        part->request.fast_only = request.fast_only;
        part->request.durable = request.durable;
        break;
    case IoOperation::write: part->request.durable = request.durable; [[fallthrough]];
    case IoOperation::read:
        if (whole) {
            part->request.vectors = request.vectors;
            part->request.holes = request.holes;
        } else {
            slice_vectors(request.vectors, place.offset, place.size, part->vectors);
            part->request.vectors = part->vectors;
        }
        break;
    case IoOperation::discard:
        // On a snapshot: zeros in its store.
        if (snapshot != nullptr && !passed_down)
            part->request.operation = IoOperation::write_zeroes;
        break;
    case IoOperation::flush: break;
    }
    parts.fetch_add(1);
    place.device->submit(here, part->request);
}

}  // namespace lamella::cow
