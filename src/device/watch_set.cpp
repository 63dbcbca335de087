// SPDX-License-Identifier: Apache-2.0
#include "device/watch_set.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <ctime>

#include <sys/eventfd.h>
#include <unistd.h>

namespace lamella {

namespace {
constexpr auto look_out_time = std::chrono::microseconds(40);
constexpr unsigned most_in_vain = 12;
}  // namespace

WatchSet::~WatchSet() {
    if (epoll_fd_ >= 0)
        ::close(epoll_fd_);
    if (const int fd = event_fd_.load(std::memory_order_relaxed); fd >= 0)
        ::close(fd);
}

Result<void> WatchSet::open() {
    if (epoll_fd_ >= 0)
        return {};
    const int epoll_fd = ::epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        return fail_errno("epoll_create1");
    const int event_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    epoll_event event{.events = EPOLLIN, .data = {.ptr = nullptr}};
    if (event_fd < 0 || ::epoll_ctl(epoll_fd, EPOLL_CTL_ADD, event_fd, &event) != 0) {
        auto error = fail_errno("eventfd");
        if (event_fd >= 0)
            ::close(event_fd);
        ::close(epoll_fd);
        return error;
    }
    epoll_fd_ = epoll_fd;
    event_fd_.store(event_fd, std::memory_order_seq_cst);
    return {};
}

// The waker sets wake_wanted_ and then looks for the descriptor; the owner publishes the descriptor and then looks at wake_wanted_.
// So one of them sees the other while the descriptor is being made.
void WatchSet::wake() {
    wake_wanted_.store(true, std::memory_order_seq_cst);
    const int fd = event_fd_.load(std::memory_order_seq_cst);
    if (fd >= 0) {
        const std::uint64_t one = 1;
        [[maybe_unused]] const ssize_t written = ::write(fd, &one, sizeof one);  // fails only when the counter is set already
    }
}

Result<void> WatchSet::watch(Watcher& watcher) {
    TRY(open());
    epoll_event event{.events = watcher.events, .data = {.ptr = &watcher}};
    if (::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, watcher.fd, &event) == 0) {
        ++watching_;
        return {};
    }
    if (errno == EEXIST && ::epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, watcher.fd, &event) == 0)
        return {};
    return fail_errno("watching a descriptor");
}

void WatchSet::unwatch(Watcher& watcher) {
    if (epoll_fd_ < 0)
        return;
    epoll_event event{};
    if (::epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, watcher.fd, &event) == 0)
        --watching_;
    for (int index = 0; index < event_count_; ++index) {
        if (events_[static_cast<std::size_t>(index)].data.ptr == &watcher)
            events_[static_cast<std::size_t>(index)].data.ptr = nullptr;
    }
}

bool WatchSet::poll(std::optional<Duration> wait) {
    const bool sleeping = !wait || *wait > Duration::zero();
    if (!sleeping && watching_ == 0)
        return false;
    if (!open()) {
        // Out of descriptors: naps instead of sleep.
        const timespec nap{.tv_sec = 0, .tv_nsec = 1'000'000};
        if (sleeping && !wake_wanted_.exchange(false, std::memory_order_seq_cst))
            ::nanosleep(&nap, nullptr);
        return false;
    }
    if (wake_wanted_.exchange(false, std::memory_order_seq_cst))
        wait = Duration::zero();
    int timeout = -1;
    if (wait) {
        // Rounded up: a timer must not find itself awake before its time, again and again.
        const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(*wait).count();
        timeout = static_cast<int>(std::min<std::int64_t>(milliseconds, 3'600'000));
    }
    if (timeout != 0 && look_out())
        return call_ready();
    return dispatch(timeout);
}

// To wake a thread whose processor has gone idle takes tens of microseconds, and a client with one request at a time waits for that
// each time. So a thread that is about to sleep looks out for events a while first, as long as that pays: each time that it was in
// vain doubles the number of sleeps that go without, up to some thousands. True: there are events.
bool WatchSet::look_out() {
    if (left_out_ > 0) {
        --left_out_;
        return false;
    }
    const auto end = std::chrono::steady_clock::now() + look_out_time;
    do {
        take_events(0);
        if (event_count_ > 0) {
            in_vain_ = 0;
            return true;
        }
    } while (std::chrono::steady_clock::now() < end);
    in_vain_ = std::min(in_vain_ + 1, most_in_vain);
    left_out_ = 1U << in_vain_;
    return false;
}

bool WatchSet::dispatch(int milliseconds) {
    take_events(milliseconds);
    return call_ready();
}

void WatchSet::take_events(int milliseconds) {
    event_count_ = std::max(0, ::epoll_wait(epoll_fd_, events_.data(), static_cast<int>(events_.size()), milliseconds));
}

bool WatchSet::call_ready() {
    bool any = false;
    for (int index = 0; index < event_count_; ++index) {
        const epoll_event event = events_[static_cast<std::size_t>(index)];
        auto* watcher = static_cast<Watcher*>(event.data.ptr);
        if (watcher == nullptr) {
            // The eventfd, or a watcher that a callback before has taken away.
            std::uint64_t count;
            [[maybe_unused]] const ssize_t got = ::read(event_fd_.load(std::memory_order_relaxed), &count, sizeof count);
            wake_wanted_.store(false, std::memory_order_relaxed);
            continue;
        }
        watcher->ready(*watcher, event.events);
        any = true;
    }
    event_count_ = 0;
    return any;
}

}  // namespace lamella
