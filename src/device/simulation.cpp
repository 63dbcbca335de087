// SPDX-License-Identifier: Apache-2.0
#include "device/simulation.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "device/file_operation.h"

namespace lamella {

class Simulation::Queue final : public IoQueue {
  public:
    explicit Queue(Simulation& simulation) : IoQueue(simulation.clock_), simulation_(simulation) {
        simulation.queues_.push_back(this);
        gathers_ = simulation.queues_.size() % 2 == 0;
    }
    ~Queue() override { std::erase(simulation_.queues_, this); }

    void submit_file(int fd, bool is_block_device, IoRequest& request) override {
        FileOperation operation;
        operation.start(fd, is_block_device, request);
        std::optional<int> error;
        while (!error)
            error = operation.advance(operation.perform());
        complete_later(request, *error);
    }
    void complete_later(IoRequest& request, int error) override { completions_.emplace_back(&request, error); }
    void complete_later(StatusRequest& request, int error) override { answers_.emplace_back(&request, error); }
    void wake() override {}
    Result<void> watch(Watcher&) override { return fail(ErrorKind::unsupported, "a simulated queue can't watch descriptors"); }
    void unwatch(Watcher&) override {}

    bool has_work() const {
        return !running_ && (!completions_.empty() || !answers_.empty() || has_posted_tasks() || has_handed_over() || timer_is_due());
    }
    std::optional<Duration> deadline() const { return next_deadline(); }

  protected:
    bool poll_kernel(std::optional<Duration> wait) override {
        const std::size_t count = completions_.size() + answers_.size();
        if (count == 0) {
            if (!wait || *wait > Duration::zero())
                wait_for_others();
            return false;
        }
        // One a step, so that tasks and other queues come between.
        const std::uint64_t chosen = simulation_.draw(count);
        if (chosen < completions_.size())
            run(completions_, chosen);
        else
            run(answers_, chosen - completions_.size());
        return true;
    }

  private:
    template <typename Request>
    void run(std::vector<std::pair<Request*, int>>& list, std::uint64_t index) {
        const auto [request, error] = list[index];
        list.erase(list.begin() + static_cast<std::ptrdiff_t>(index));
        request->completed(*request, error);
    }

    bool timer_is_due() const { return next_deadline() && *next_deadline() <= clock().monotonic(); }

    void wait_for_others() {
        running_ = true;
        if (Queue* other = simulation_.choose()) {
            other->run_once(false);
        } else if (!simulation_.advance_clock()) {
            std::fprintf(stderr, "simulation with seed %llu: every queue waits and no timer is armed\n",
                         static_cast<unsigned long long>(simulation_.seed_));
            std::abort();
        }
        running_ = false;
    }

    Simulation& simulation_;
    bool running_ = false;  // further up the stack
    std::vector<std::pair<IoRequest*, int>> completions_;
    std::vector<std::pair<StatusRequest*, int>> answers_;
};

std::unique_ptr<IoQueue> Simulation::make_queue() { return std::make_unique<Queue>(*this); }

Simulation::Queue* Simulation::choose() {
    const auto count = std::count_if(queues_.begin(), queues_.end(), [](const Queue* queue) { return queue->has_work(); });
    if (count == 0)
        return nullptr;
    std::uint64_t chosen = draw(static_cast<std::uint64_t>(count));
    for (Queue* queue : queues_) {
        if (queue->has_work() && chosen-- == 0)
            return queue;
    }
    return nullptr;
}

bool Simulation::advance_clock() {
    std::optional<Duration> next;
    for (const Queue* queue : queues_) {
        if (const std::optional<Duration> deadline = queue->deadline(); deadline && (!next || *deadline < *next))
            next = deadline;
    }
    if (!next)
        return false;
    if (*next > clock_.monotonic())
        clock_.advance(*next - clock_.monotonic());
    return true;
}

bool Simulation::step() {
    if (Queue* queue = choose()) {
        queue->run_once(false);
        return true;
    }
    return advance_clock();
}

void Simulation::settle() {
    while (Queue* queue = choose())
        queue->run_once(false);
}

}  // namespace lamella
