// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "device/io_queue.h"

namespace lamella {

// A thread with an IoQueue of its own. Connections live on one reactor from beginning to end, so that their state needs no lock.
class Reactor {
  public:
    // Called on the reactor's thread after each step of its queue: the place to send what a batch of completions gathered.
    // Owned by whoever adds it.
    struct StepEnd {
        void (*run)(StepEnd& self) = nullptr;
    };

    static Result<std::unique_ptr<Reactor>> start(unsigned number, Clock& clock = Clock::system());
    ~Reactor() { stop(); }
    Reactor(const Reactor&) = delete;
    Reactor& operator=(const Reactor&) = delete;

    // 0, 1, ... within its group.
    unsigned number() const { return number_; }
    // For use on the reactor's thread (IoQueue::post and wake: any thread).
    IoQueue& queue() { return *queue_; }

    // Ends the thread. Nothing may be watched, armed or in flight on its queue any more.
    void stop();

    // Any thread: runs `work` on the reactor's thread, in the order of the calls. `work` must not throw.
    void run(std::move_only_function<void()> work);
    // Any thread but a reactor's: as run(), and waits until it has run.
    void run_and_wait(std::move_only_function<void()> work);

    // On the reactor's thread, but not from within a StepEnd.
    void add_step_end(StepEnd& step_end) { step_ends_.push_back(&step_end); }
    void remove_step_end(StepEnd& step_end);

  private:
    Reactor(unsigned number, std::unique_ptr<IoQueue> queue) : number_(number), queue_(std::move(queue)) {}
    void loop();

    unsigned number_;
    std::unique_ptr<IoQueue> queue_;
    std::vector<StepEnd*> step_ends_;
    bool stopping_ = false;  // on its thread
    std::thread thread_;
};

// The reactors that all front ends of a process share.
class ReactorGroup {
  public:
    // `count` 0: one a core, up to 4.
    static Result<ReactorGroup> start(unsigned count = 0, Clock& clock = Clock::system());
    ~ReactorGroup();
    ReactorGroup(ReactorGroup&&) = default;
    ReactorGroup& operator=(ReactorGroup&&) = delete;

    unsigned size() const { return static_cast<unsigned>(reactors_.size()); }
    Reactor& operator[](unsigned number) { return *reactors_[number]; }

  private:
    ReactorGroup() = default;

    std::vector<std::unique_ptr<Reactor>> reactors_;
};

}  // namespace lamella
