// SPDX-License-Identifier: Apache-2.0
//
// The io_uring queue
//
// submit_file() only fills submission entries; run_once() enters the kernel once to submit them all, and in the same call sleeps
// for completions. A request in flight has one of a fixed number of slots, with the completion ring larger than all slots together,
// so that it can't overflow; requests beyond that wait in a list linked through themselves.
//
// Watched descriptors and wake-ups stand in an epoll set whose own descriptor the ring polls, one shot at a time, rearmed after the
// set was read. That keeps watching level-triggered and makes unwatch() final at once: a poll of the ring on the descriptor
// itself would hold its file open, and could still report it, until its cancellation has come back. The price, measured on 6.18, is
// half a microsecond an event with a single descriptor ready, and nothing from four ready descriptors on.
//
// BLKDISCARD has no submission entry in the kernels that this runs on, and can take seconds: a thread of its own does it.
#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include <liburing.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "device/file_operation.h"
#include "device/io_queue.h"
#include "device/watch_set.h"

namespace lamella {

namespace {

class UringQueue;

// A request in flight. As a task it is what the blocking thread posts with the result.
struct Slot : Task {
    FileOperation operation;
    Slot* next_slot = nullptr;  // in the list of free, of unsubmitted or of blocking slots
    UringQueue* queue = nullptr;
    long result = 0;
};

// Runs the calls that the ring can't, one after the other, on a thread that is started by the first.
class BlockingCalls {
  public:
    ~BlockingCalls() {
        {
            std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        changed_.notify_one();
        if (thread_.joinable())
            thread_.join();
    }

    void run(Slot& slot, IoQueue& queue) {
        slot.next_slot = nullptr;
        std::unique_lock lock(mutex_);
        if (!thread_.joinable()) {
            try {
                thread_ = std::thread([this, &queue] { loop(queue); });
            } catch (const std::system_error&) {
                lock.unlock();
                slot.result = slot.operation.perform();
                queue.post(slot);
                return;
            }
        }
        *tail_ = &slot;
        tail_ = &slot.next_slot;
        changed_.notify_one();
    }

  private:
    void loop(IoQueue& queue) {
        std::unique_lock lock(mutex_);
        while (true) {
            changed_.wait(lock, [this] { return head_ != nullptr || stopping_; });
            if (head_ == nullptr)
                return;
            Slot* slot = head_;
            head_ = slot->next_slot;
            if (head_ == nullptr)
                tail_ = &head_;
            lock.unlock();
            slot->result = slot->operation.perform();
            queue.post(*slot);
            lock.lock();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    Slot* head_ = nullptr;
    Slot** tail_ = &head_;
    bool stopping_ = false;
    std::thread thread_;
};

class UringQueue final : public IoQueue {
  public:
    UringQueue(Clock& clock, unsigned depth) : IoQueue(clock), depth_(depth), slots_(2 * std::size_t{depth}) {
        for (Slot& slot : slots_) {
            slot.queue = this;
            slot.run = blocking_call_finished;
            slot.next_slot = free_;
            free_ = &slot;
        }
    }

    ~UringQueue() override {
        wait_for_posters();
        if (ring_open_)
            io_uring_queue_exit(&ring_);
    }

    Result<void> open() {
        TRY(watches_.open());
        // From the best to the least: no interruptions of this thread (6.1), fewer of them (5.19), any kernel.
        constexpr unsigned flag_sets[] = {
            IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
            IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
            0,
        };
        int result = 0;
        io_uring_params parameters;
        for (const unsigned flags : flag_sets) {
            parameters = {};
            // Disabled at first: the thread that enables it is the one it belongs to.
            parameters.flags = flags | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
            parameters.cq_entries = 4 * depth_;
            result = io_uring_queue_init_params(depth_, &ring_, &parameters);
            if (result != -EINVAL)
                break;
        }
        if (result < 0)
            return fail_errno("io_uring_setup", -result);
        ring_open_ = true;
        constexpr unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
        if ((parameters.features & needed) != needed || parameters.cq_entries < slots_.size() + 1)
            return fail(ErrorKind::unsupported, "this kernel's io_uring is too old");
        return {};
    }

    void submit_file(int fd, bool is_block_device, IoRequest& request) override {
        if (free_ == nullptr) {
            request.scratch = static_cast<std::uint64_t>(fd) << 1 | (is_block_device ? 1 : 0);
            request.next = nullptr;
            *waiting_tail_ = &request;
            waiting_tail_ = &request.next;
            return;
        }
        start(fd, is_block_device, request);
    }

    void wake() override { watches_.wake(); }
    Result<void> watch(Watcher& watcher) override { return watches_.watch(watcher); }
    void unwatch(Watcher& watcher) override { watches_.unwatch(watcher); }

  protected:
    bool poll_kernel(std::optional<Duration> wait) override {
        // With no file I/O under way there is nothing that only the ring would tell, and waking a thread from epoll itself takes the
        // kernel fewer steps than through the ring's poll of it.
        if (only_watches())
            return watches_.poll(wait);
        if (!enabled_) {
            // By system call: some builds of liburing 2.3 don't export io_uring_enable_rings().
            const long result = ::syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
            check(result < 0 ? -errno : 0);
            enabled_ = true;
        }
        fill_submissions();
        if (!poll_armed_ || (wait && *wait <= Duration::zero())) {
            const bool work_deferred = (io_uring_smp_load_acquire(ring_.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
            if (io_uring_sq_ready(&ring_) != 0 || work_deferred)
                check(io_uring_submit_and_get_events(&ring_));
        } else {
            io_uring_cqe* completion = nullptr;
            __kernel_timespec limit{};
            if (wait) {
                const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(*wait);
                limit = {.tv_sec = seconds.count(), .tv_nsec = (*wait - seconds).count()};
            }
            check(io_uring_submit_and_wait_timeout(&ring_, &completion, 1, wait ? &limit : nullptr, nullptr));
        }
        return reap();
    }

    bool only_watches() const override { return in_ring_ == 0 && unsubmitted_head_ == nullptr; }

  private:
    static constexpr std::uint64_t watches_ready = 1;  // no slot's address

    static void blocking_call_finished(Task& task) {
        Slot& slot = static_cast<Slot&>(task);
        slot.queue->finish_step(slot, slot.result);
    }

    // What the kernel answers when the program itself is wrong, as when a second thread runs this queue: nothing could go on.
    static void check(int result) {
        if (result >= 0 || result == -EINTR || result == -ETIME || result == -EAGAIN || result == -EBUSY || result == -ENOMEM)
            return;
        std::fprintf(stderr, "io_uring: %s\n", std::strerror(-result));
        std::abort();
    }

    void start(int fd, bool is_block_device, IoRequest& request) {
        Slot& slot = *free_;
        free_ = slot.next_slot;
        slot.operation.start(fd, is_block_device, request);
        start_step(slot);
    }

    void start_step(Slot& slot) {
        if (slot.operation.step().call == FileOperation::Call::discard) {
            blocking_.run(slot, *this);
        } else if (unsubmitted_head_ != nullptr || !prepare(slot)) {
            slot.next_slot = nullptr;
            *unsubmitted_tail_ = &slot;
            unsubmitted_tail_ = &slot.next_slot;
        }
    }

    // False: the submission ring is full.
    bool prepare(Slot& slot) {
        io_uring_sqe* entry = io_uring_get_sqe(&ring_);
        if (entry == nullptr)
            return false;
        const FileOperation::Step& step = slot.operation.step();
        const int fd = slot.operation.fd();
        // One buffer needs no vector. The kernel takes about 2 GiB at most: FileOperation goes on with what is left.
        const auto length = [&] { return static_cast<unsigned>(std::min<std::size_t>(step.vectors->iov_len, 1U << 30)); };
        switch (step.call) {
        case FileOperation::Call::read:
            if (step.vector_count == 1)
                io_uring_prep_read(entry, fd, step.vectors->iov_base, length(), step.offset);
            else
                io_uring_prep_readv(entry, fd, step.vectors, step.vector_count, step.offset);
            break;
        case FileOperation::Call::write:
            if (step.vector_count == 1)
                io_uring_prep_write(entry, fd, step.vectors->iov_base, length(), step.offset);
            else
                io_uring_prep_writev(entry, fd, step.vectors, step.vector_count, step.offset);
            entry->rw_flags = step.flags;
            break;
        case FileOperation::Call::sync: io_uring_prep_fsync(entry, fd, IORING_FSYNC_DATASYNC); break;
        case FileOperation::Call::allocate:
            io_uring_prep_fallocate(entry, fd, step.flags, static_cast<off_t>(step.offset), static_cast<off_t>(step.length));
            break;
        case FileOperation::Call::discard: break;  // not here: start_step()
        }
        io_uring_sqe_set_data(entry, &slot);
        ++in_ring_;
        return true;
    }

    void fill_submissions() {
        if (!poll_armed_) {
            if (io_uring_sqe* entry = next_entry(); entry != nullptr) {
                io_uring_prep_poll_add(entry, watches_.epoll_fd(), POLLIN);
                io_uring_sqe_set_data64(entry, watches_ready);
                poll_armed_ = true;
            }
        }
        while (unsubmitted_head_ != nullptr) {
            if (!prepare(*unsubmitted_head_)) {
                const int submitted = io_uring_submit(&ring_);
                check(submitted);
                if (submitted <= 0)
                    return;
                continue;
            }
            unsubmitted_head_ = unsubmitted_head_->next_slot;
            if (unsubmitted_head_ == nullptr)
                unsubmitted_tail_ = &unsubmitted_head_;
        }
    }

    io_uring_sqe* next_entry() {
        io_uring_sqe* entry = io_uring_get_sqe(&ring_);
        if (entry != nullptr)
            return entry;
        check(io_uring_submit(&ring_));
        return io_uring_get_sqe(&ring_);
    }

    bool reap() {
        bool any = false;
        bool watches = false;
        // No more than are there now, so that completions of what callbacks submit wait for the next step.
        for (unsigned count = io_uring_cq_ready(&ring_); count > 0; --count) {
            io_uring_cqe* completion = nullptr;
            if (io_uring_peek_cqe(&ring_, &completion) != 0)
                break;
            const std::uint64_t data = completion->user_data;
            const int result = completion->res;
            io_uring_cqe_seen(&ring_, completion);
            if (data == watches_ready) {
                watches = true;
            } else if (data != LIBURING_UDATA_TIMEOUT) {
                --in_ring_;
                finish_step(*reinterpret_cast<Slot*>(data), result);
                any = true;
            }
        }
        if (watches) {
            poll_armed_ = false;
            any |= watches_.dispatch(0);
        }
        return any;
    }

    void finish_step(Slot& slot, long result) {
        const std::optional<int> error = slot.operation.advance(result);
        if (!error) {
            start_step(slot);
            return;
        }
        IoRequest& request = slot.operation.request();
        slot.next_slot = free_;
        free_ = &slot;
        if (waiting_head_ != nullptr) {
            IoRequest& waiting = *waiting_head_;
            waiting_head_ = waiting.next;
            if (waiting_head_ == nullptr)
                waiting_tail_ = &waiting_head_;
            start(static_cast<int>(waiting.scratch >> 1), (waiting.scratch & 1) != 0, waiting);
        }
        request.completed(request, *error);
    }

    const unsigned depth_;
    io_uring ring_{};
    bool ring_open_ = false;
    bool enabled_ = false;
    bool poll_armed_ = false;
    unsigned in_ring_ = 0;  // operations that the kernel has or is about to get
    WatchSet watches_;
    std::vector<Slot> slots_;
    Slot* free_ = nullptr;
    // Steps that found the submission ring full.
    Slot* unsubmitted_head_ = nullptr;
    Slot** unsubmitted_tail_ = &unsubmitted_head_;
    // Requests that found no slot; `scratch` holds their file.
    IoRequest* waiting_head_ = nullptr;
    IoRequest** waiting_tail_ = &waiting_head_;
    BlockingCalls blocking_;
};

}  // namespace

Result<std::unique_ptr<IoQueue>> make_uring_queue(unsigned depth, Clock& clock) {
    if (depth == 0 || depth > 4096)
        return fail(ErrorKind::usage, "a queue depth of {} is not between 1 and 4096", depth);
    auto queue = std::make_unique<UringQueue>(clock, depth);
    TRY(queue->open());
    return queue;
}

}  // namespace lamella
