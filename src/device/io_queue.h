// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "device/io_request.h"

namespace lamella {

// Work for the thread of a queue. Owned by whoever posts it until run; may be posted again once it runs.
struct Task {
    void (*run)(Task& task) = nullptr;
    Task* next = nullptr;
};

// Owned by whoever arms it; disarmed or fired before it is destroyed.
struct Timer {
    void (*fired)(Timer& timer) = nullptr;
    Duration deadline{};  // on the queue's clock
    bool armed = false;
};

// Interest in a file descriptor (a socket, an eventfd). Owned by whoever watches; unwatched before it is destroyed and before the
// descriptor is closed. One watcher a descriptor.
struct Watcher {
    int fd = -1;
    std::uint32_t events = 0;  // EPOLLIN | EPOLLOUT as asked; level-triggered. EPOLLHUP and EPOLLERR are reported unasked.
    void (*ready)(Watcher& watcher, std::uint32_t events) = nullptr;
};

// One thread's loop: file I/O, completions, tasks from other threads, timers and watched descriptors.
//
// Threads: everything but post() and wake() is called on the owning thread only. Callbacks run inside run_once(), on that
// thread, and may call anything here except run_once().
class IoQueue {
  public:
    explicit IoQueue(Clock& clock);
    virtual ~IoQueue();
    IoQueue(const IoQueue&) = delete;
    IoQueue& operator=(const IoQueue&) = delete;

    Clock& clock() const { return clock_; }

    // For leaf devices. Performs a read, write (durable or not), flush (fdatasync), discard (hole punch or BLKDISCARD) or
    // write_zeroes on an open file; the request's offset is the file's. Memory and offsets already suit the file.
    virtual void submit_file(int fd, bool is_block_device, IoRequest& request) = 0;

    // For leaf devices that have finished already: calls request.completed from a later step of run_once(). Until then `next`
    // and `scratch` of the request belong to the queue.
    virtual void complete_later(IoRequest& request, int error);
    virtual void complete_later(StatusRequest& request, int error);

    // Any thread. Tasks of one poster run in the order posted. The queue may be destroyed, on its own thread, as soon as the task has
    // run; a call that comes after that is an error.
    void post(Task& task);
    // As to.post(task), on this queue's thread. Where the process has one processor only, when the step has ended (or, outside of one, when
    // the next one begins): what is wakened takes the place of who wakes it there, and would find one task at a time. In the order handed
    // over.
    void hand_over(IoQueue& to, Task& task);
    // Any thread: lets a waiting run_once() return.
    virtual void wake() = 0;

    void arm(Timer& timer, Duration deadline);
    void disarm(Timer& timer);

    // Starts watching, or changes what is watched for.
    virtual Result<void> watch(Watcher& watcher) = 0;
    // No callback comes after this.
    virtual void unwatch(Watcher& watcher) = 0;

    // Runs what is ready. When nothing is and `may_wait`, sleeps until something is. True: something ran.
    bool run_once(bool may_wait);

    // Runs until `done()`.
    template <typename Predicate>
    void run_until(Predicate done) {
        while (!done())
            run_once(true);
    }

  protected:
    // Submits what is gathered, reaps what the kernel finished; sleeps up to `wait` (nullopt: without limit; 0: not at all).
    virtual bool poll_kernel(std::optional<Duration> wait) = 0;

    // No file I/O is under way or waits to be submitted: poll_kernel() would look at watched descriptors and nothing else.
    virtual bool only_watches() const { return false; }

    bool has_handed_over() const { return !handed_over_.empty(); }
    bool has_posted_tasks() const { return posted_.load(std::memory_order_relaxed) != nullptr; }
    std::optional<Duration> next_deadline() const { return timers_.empty() ? std::nullopt : std::optional((*timers_.begin())->deadline); }

    // For destructors of what implements wake(): returns when no poster is inside post() any more.
    void wait_for_posters() const;

    // True while poll_kernel() may sleep: a poster must wake() then.
    std::atomic<bool> sleeping_{false};
    // hand_over() waits for the end of the step.
    bool gathers_;

  private:
    void push(Task& newest, Task& oldest);
    void send_handed_over();
    bool run_ready();
    bool run_tasks();
    bool run_timers();

    struct EarlierTimer {
        bool operator()(const Timer* left, const Timer* right) const {
            return left->deadline != right->deadline ? left->deadline < right->deadline : left < right;
        }
    };

    Clock& clock_;
    bool left_kernel_out_ = false;  // in the last step
    std::atomic<Task*> posted_{nullptr};
    std::atomic<unsigned> posting_{0};
    struct HandedOver {
        IoQueue* to;
        Task* newest;
        Task* oldest;
    };
    std::vector<HandedOver> handed_over_;
    IoRequest* ready_head_ = nullptr;
    IoRequest** ready_tail_ = &ready_head_;
    StatusRequest* ready_status_head_ = nullptr;
    StatusRequest** ready_status_tail_ = &ready_status_head_;
    std::set<Timer*, EarlierTimer> timers_;
};

// A queue over io_uring, or over plain system calls where the kernel refuses io_uring or `LAMELLA_IO=plain` is set.
Result<std::unique_ptr<IoQueue>> make_io_queue(Clock& clock = Clock::system());

// File I/O is done inside submit_file() with preadv and pwritev. Needs no kernel support; also the engine of synchronous calls.
// A slow disk holds up everything else on the queue while it works: acceptable where io_uring is refused, not a choice to make.
// Takes no descriptor until it watches one or sleeps.
Result<std::unique_ptr<IoQueue>> make_plain_queue(Clock& clock = Clock::system());
// Fails where the kernel has no io_uring (5.11 or later) or forbids it. `depth`: submissions gathered before the kernel is entered;
// up to twice as many requests are in flight, more wait in a list. Owned by the thread that first calls run_once(): the kernel binds
// the ring to it, so that no other thread may run the queue from then on.
Result<std::unique_ptr<IoQueue>> make_uring_queue(unsigned depth = 256, Clock& clock = Clock::system());

}  // namespace lamella
