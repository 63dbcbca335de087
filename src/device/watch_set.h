// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <optional>

#include <sys/epoll.h>

#include "base/clock.h"
#include "base/result.h"
#include "device/io_queue.h"

namespace lamella {

// The watchers of a queue, and what wakes it: an epoll descriptor with an eventfd in it. Neither is made before it is needed, so
// that a queue for one synchronous call costs no system call.
//
// Threads: the owner's only, but for wake().
class WatchSet {
  public:
    WatchSet() = default;
    ~WatchSet();
    WatchSet(const WatchSet&) = delete;
    WatchSet& operator=(const WatchSet&) = delete;

    // Makes the descriptors unless they are there.
    Result<void> open();
    // -1 before open().
    int epoll_fd() const { return epoll_fd_; }

    // Any thread. The current poll(), or the next that would sleep, returns at once.
    void wake();
    Result<void> watch(Watcher& watcher);
    void unwatch(Watcher& watcher);

    // Waits up to `wait` (nullopt: without limit) and calls what is ready. True: a watcher was called.
    bool poll(std::optional<Duration> wait);
    // The same once open, in milliseconds (-1: without limit), with no look at wakes that came before open().
    bool dispatch(int milliseconds);

  private:
    void take_events(int milliseconds);
    bool look_out();
    bool call_ready();

    std::atomic<bool> wake_wanted_{false};
    std::atomic<int> event_fd_{-1};
    int epoll_fd_ = -1;
    std::size_t watching_ = 0;
    // The events of the running poll(), so that unwatch() can strike out what is to come.
    std::array<epoll_event, 64> events_;
    int event_count_ = 0;
    // See look_out().
    unsigned in_vain_ = 0;
    unsigned left_out_ = 0;
};

}  // namespace lamella
