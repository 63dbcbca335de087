// SPDX-License-Identifier: Apache-2.0
//
// Sleeping without losing a wake-up
//
// A poster pushes its task and then looks at sleeping_; the owner sets sleeping_ and then looks for tasks. All four are
// sequentially consistent, so at least one of the two sees the other: either the owner finds the task and doesn't sleep, or the
// poster finds the owner sleeping and wakes it. wake() itself is remembered by the kernel (an eventfd), so that it doesn't matter
// whether the owner sleeps already. A poster clears sleeping_ as it wakes, so that others don't pay for the same wake-up.
#include "device/io_queue.h"

#include <algorithm>
#include <thread>

#include <sched.h>

namespace lamella {

namespace {

bool has_one_processor() {
    cpu_set_t processors;
    return ::sched_getaffinity(0, sizeof processors, &processors) == 0 && CPU_COUNT(&processors) == 1;
}

}  // namespace

IoQueue::IoQueue(Clock& clock) : gathers_(has_one_processor()), clock_(clock) {}

IoQueue::~IoQueue() = default;

void IoQueue::complete_later(IoRequest& request, int error) {
    request.scratch = static_cast<std::uint64_t>(error);
    request.next = nullptr;
    *ready_tail_ = &request;
    ready_tail_ = &request.next;
}

void IoQueue::complete_later(StatusRequest& request, int error) {
    request.scratch = static_cast<std::uint64_t>(error);
    request.next = nullptr;
    *ready_status_tail_ = &request;
    ready_status_tail_ = &request.next;
}

// A poster is inside post() for some instructions after its task has run; a queue that is destroyed then must wait for it.
void IoQueue::wait_for_posters() const {
    while (posting_.load(std::memory_order_acquire) != 0)
        std::this_thread::yield();
}

void IoQueue::post(Task& task) { push(task, task); }

void IoQueue::push(Task& newest, Task& oldest) {
    posting_.fetch_add(1, std::memory_order_relaxed);
    Task* head = posted_.load(std::memory_order_relaxed);
    do {
        oldest.next = head;
    } while (!posted_.compare_exchange_weak(head, &newest, std::memory_order_seq_cst, std::memory_order_relaxed));
    // Only now the tasks may run, and be gone: they aren't touched any more.
    if (sleeping_.load(std::memory_order_seq_cst) && sleeping_.exchange(false, std::memory_order_seq_cst))
        wake();
    posting_.fetch_sub(1, std::memory_order_release);
}

void IoQueue::hand_over(IoQueue& to, Task& task) {
    if (&to == this || !gathers_)
        return to.post(task);
    for (HandedOver& others : handed_over_)
        if (others.to == &to) {
            task.next = others.newest;
            others.newest = &task;
            return;
        }
    handed_over_.push_back({&to, &task, &task});
}

void IoQueue::send_handed_over() {
    for (const HandedOver& tasks : handed_over_)
        tasks.to->push(*tasks.newest, *tasks.oldest);
    handed_over_.clear();
}

void IoQueue::arm(Timer& timer, Duration deadline) {
    disarm(timer);
    timer.deadline = deadline;
    timer.armed = true;
    timers_.insert(&timer);
}

void IoQueue::disarm(Timer& timer) {
    if (!timer.armed)
        return;
    timers_.erase(&timer);
    timer.armed = false;
}

bool IoQueue::run_once(bool may_wait) {
    bool ran = run_ready();
    ran |= run_tasks();
    ran |= run_timers();
    // What ran may have made replies: they go out, at the end of the step, before the next request is looked for. Not twice in a row,
    // so that nothing keeps descriptors waiting.
    left_kernel_out_ = ran && may_wait && !left_kernel_out_ && only_watches();
    if (left_kernel_out_) {
        send_handed_over();
        return true;
    }
    if (ran || !may_wait || ready_head_ != nullptr || ready_status_head_ != nullptr) {
        ran |= poll_kernel(Duration::zero());
        send_handed_over();
        return ran;
    }

    send_handed_over();
    std::optional<Duration> wait;
    if (!timers_.empty())
        wait = std::max(Duration::zero(), (*timers_.begin())->deadline - clock_.monotonic());
    sleeping_.store(true, std::memory_order_seq_cst);
    if (posted_.load(std::memory_order_seq_cst) != nullptr)
        wait = Duration::zero();
    ran = poll_kernel(wait);
    sleeping_.store(false, std::memory_order_relaxed);
    send_handed_over();
    return ran;
}

bool IoQueue::run_ready() {
    IoRequest* request = ready_head_;
    StatusRequest* status = ready_status_head_;
    ready_head_ = nullptr;
    ready_tail_ = &ready_head_;
    ready_status_head_ = nullptr;
    ready_status_tail_ = &ready_status_head_;
    const bool any = request != nullptr || status != nullptr;
    // What the callbacks complete in turn goes to the new lists, so that they can't keep this loop to themselves.
    while (request != nullptr) {
        IoRequest* next = request->next;
        request->completed(*request, static_cast<int>(request->scratch));
        request = next;
    }
    while (status != nullptr) {
        StatusRequest* next = status->next;
        status->completed(*status, static_cast<int>(status->scratch));
        status = next;
    }
    return any;
}

bool IoQueue::run_tasks() {
    if (posted_.load(std::memory_order_relaxed) == nullptr)
        return false;
    // The last posted comes first: turn them round.
    Task* newest = posted_.exchange(nullptr, std::memory_order_seq_cst);
    Task* oldest = nullptr;
    while (newest != nullptr) {
        Task* next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    const bool any = oldest != nullptr;
    while (oldest != nullptr) {
        Task* next = oldest->next;
        oldest->run(*oldest);
        oldest = next;
    }
    return any;
}

bool IoQueue::run_timers() {
    if (timers_.empty())
        return false;
    const Duration now = clock_.monotonic();
    bool any = false;
    // A timer that rearms itself in the past fires once a step, not for ever.
    for (std::size_t count = timers_.size(); count > 0 && !timers_.empty(); --count) {
        Timer* timer = *timers_.begin();
        if (timer->deadline > now)
            break;
        disarm(*timer);
        timer->fired(*timer);
        any = true;
    }
    return any;
}

}  // namespace lamella
