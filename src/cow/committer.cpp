// SPDX-License-Identifier: Apache-2.0
#include "cow/committer.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "cow/exception_log.h"

namespace lamella::cow {

// --- Rounds ---------------------------------------------------------------------------------------------------------------

Committer::Committer(IoQueue& queue, std::vector<BlockDevice*> leaves) : queue_(queue), leaves_(std::move(leaves)) {
    task_.committer = this;
    task_.run = [](Task& task) { static_cast<RoundTask&>(task).committer->begin_round(); };
}

// Later, so that whatever ends in the same step of the queue comes into the same round.
void Committer::wake() {
    again_ = true;
    if (busy_)
        return;
    busy_ = true;
    queue_.post(task_);
}

void Committer::arrived() {
    --expected_;
    if (awaited_ > 0 && --awaited_ == 0)
        write();
}

void Committer::begin_round() {
    awaited_ = expected_;
    if (awaited_ == 0)
        write();
}

void Committer::write() {
    again_ = false;
    begun();
    for (ExceptionLog* log : logs_)
        log->write_round();
    ended();
}

void Committer::flush() {
    bool needed = false;
    std::vector<BlockDevice*> leaves;  // as they are now: a store may have grown
    for (ExceptionLog* log : logs_) {
        if (!log->flush_begins())
            continue;
        needed = true;
        log->device().add_leaves(leaves);
    }
    if (!needed) {
        busy_ = false;
        if (again_)
            wake();
        return;
    }
    under_way_ = static_cast<unsigned>(leaves.size());
    flushes_.resize(leaves.size());
    if (leaves.empty())
        return flushed();
    for (std::size_t index = 0; index < leaves.size(); ++index) {
        Flush& flush = flushes_[index];
        static_cast<IoRequest&>(flush) = IoRequest{.operation = IoOperation::flush};
        flush.committer = this;
        flush.leaf = leaves[index];
        flush.error = 0;
        flush.completed = [](IoRequest& request, int error) {
            Committer& self = *static_cast<Flush&>(request).committer;
            static_cast<Flush&>(request).error = error;
            if (--self.under_way_ == 0)
                self.flushed();
        };
        leaves[index]->submit(queue_, flush);
    }
}

void Committer::flushed() {
    for (ExceptionLog* log : logs_) {
        // A disk that fails costs the stores that lie on it.
        std::vector<BlockDevice*> leaves;
        log->device().add_leaves(leaves);
        int error = 0;
        for (const Flush& flush : flushes_)
            if (flush.error != 0 && std::find(leaves.begin(), leaves.end(), flush.leaf) != leaves.end())
                error = flush.error;
        log->flush_ended(error);
    }
    begin_round();
}

// --- Writes ---------------------------------------------------------------------------------------------------------------

struct GatheredWrites::Run {
    static constexpr std::uint64_t most_bytes = 1 << 20;

    Committer& committer;
    BlockDevice& device;
    IoQueue& queue;
    std::vector<IoRequest*> members{};
    std::vector<iovec> vectors{};
    IoRequest request{};

    void submit() {
        request = IoRequest{.operation = IoOperation::write, .offset = members.front()->offset};
        vectors.clear();
        for (const IoRequest* member : members) {
            request.length += member->length;
            vectors.insert(vectors.end(), member->vectors.begin(), member->vectors.end());
        }
        request.vectors = vectors;
        request.context = this;
        request.completed = [](IoRequest& done, int error) { static_cast<Run*>(done.context)->completed(error); };
        committer.begun();
        device.submit(queue, request);
    }

    void completed(int error) {
        const std::unique_ptr<Run> self(this);
        // A sector that can't be written costs only whom it is meant for.
        if (error != 0 && members.size() > 1) {
            for (IoRequest* member : members)
                (new Run{committer, device, queue, {member}})->submit();
        } else {
            for (IoRequest* member : members)
                member->completed(*member, error);
        }
        committer.ended();
    }
};

void GatheredWrites::send(IoQueue& queue, Committer& committer) {
    std::sort(waiting_.begin(), waiting_.end(), [](const IoRequest* left, const IoRequest* right) { return left->offset < right->offset; });
    std::vector<IoRequest*> waiting;
    waiting.swap(waiting_);
    for (std::size_t next = 0; next < waiting.size();) {
        auto* run = new Run{committer, device_, queue};
        std::uint64_t end = waiting[next]->offset;
        std::uint64_t bytes = 0;
        for (; next < waiting.size() && waiting[next]->offset == end && (bytes == 0 || bytes + waiting[next]->length <= Run::most_bytes);
             ++next) {
            run->members.push_back(waiting[next]);
            bytes += waiting[next]->length;
            end += waiting[next]->length;
        }
        run->submit();
    }
}

}  // namespace lamella::cow
