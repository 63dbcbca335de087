// SPDX-License-Identifier: Apache-2.0
//
// A call to the thread of a queue, and its answer.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>

#include "base/result.h"
#include "device/io_queue.h"

namespace lamella {

// The answer to a call from another thread.
template <typename T>
class Answer {
  public:
    void give(Result<T> value) {
        // Notified under the lock: the waiter destroys this as soon as it can see the value.
        std::lock_guard lock(mutex_);
        value_.emplace(std::move(value));
        given_.notify_one();
    }
    bool ready() {
        std::lock_guard lock(mutex_);
        return value_.has_value();
    }
    void wait() {
        std::unique_lock lock(mutex_);
        given_.wait(lock, [&] { return value_.has_value(); });
    }
    Result<T> take() { return std::move(*value_); }

  private:
    std::mutex mutex_;
    std::condition_variable given_;
    std::optional<Result<T>> value_;
};

// Runs `body(answer)` on the thread of `queue`, and waits until somebody gives the answer. Any other thread. `step`: nobody runs the
// queue, so that the caller does while it waits (simulations).
template <typename T, typename Body>
Result<T> ask(IoQueue& queue, bool step, Body body) {
    Answer<T> answer;
    struct AskTask : Task {
        Body* body;
        Answer<T>* answer;
    } task;
    task.body = &body;
    task.answer = &answer;
    task.run = [](Task& posted) {
        auto& asked = static_cast<AskTask&>(posted);
        (*asked.body)(*asked.answer);
    };
    queue.post(task);
    if (step)
        queue.run_until([&] { return answer.ready(); });
    else
        answer.wait();
    return answer.take();
}

}  // namespace lamella
