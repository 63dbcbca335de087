// SPDX-License-Identifier: Apache-2.0
//
// Entering shared without a lock
//
// A writer counts itself in and then looks at closed_. Who wants to be alone sets closed_ and then adds up the counters. Both in
// sequentially consistent order, so that at least one sees the other: either the writer finds the gate closed, takes its count back
// and joins the line, or the other finds it counted and waits. In the same way a leaving writer counts itself out and then looks at
// closed_; if it is set, it takes the lock and admits who waited for it.
#include "serve/write_gate.h"

namespace lamella {

void WriteGate::append(Waiter& waiter) {
    waiter.next = nullptr;
    if (head_ == nullptr)
        head_ = &waiter;
    else
        tail_->next = &waiter;
    tail_ = &waiter;
}

bool WriteGate::enter_shared(Waiter& waiter) {
    waiter.alone = false;
    std::atomic<std::uint64_t>& count = inside_[waiter.reactor].count;
    count.fetch_add(1, std::memory_order_seq_cst);
    if (!closed_.load(std::memory_order_seq_cst)) [[likely]]
        return true;
    std::lock_guard lock(mutex_);
    count.fetch_sub(1, std::memory_order_seq_cst);
    append(waiter);
    return admit(&waiter);
}

bool WriteGate::enter_alone(Waiter& waiter) {
    waiter.alone = true;
    std::lock_guard lock(mutex_);
    append(waiter);
    closed_.store(true, std::memory_order_seq_cst);
    return admit(&waiter);
}

void WriteGate::leave_shared(unsigned reactor) {
    inside_[reactor].count.fetch_sub(1, std::memory_order_seq_cst);
    if (!closed_.load(std::memory_order_seq_cst)) [[likely]]
        return;
    std::lock_guard lock(mutex_);
    admit(nullptr);
}

void WriteGate::leave_alone() {
    std::lock_guard lock(mutex_);
    alone_ = false;
    admit(nullptr);
}

bool WriteGate::admit(const Waiter* own) {
    bool own_entered = false;
    while (head_ != nullptr && !alone_) {
        Waiter* waiter = head_;
        if (waiter->alone) {
            std::uint64_t inside = 0;
            for (const Counter& counter : inside_)
                inside += counter.count.load(std::memory_order_seq_cst);
            if (inside > 0)
                break;
            alone_ = true;
        } else {
            inside_[waiter->reactor].count.fetch_add(1, std::memory_order_seq_cst);
        }
        head_ = static_cast<Waiter*>(waiter->next);
        if (waiter == own)
            own_entered = true;
        else
            waiter->queue->post(*waiter);
    }
    if (head_ == nullptr && !alone_)
        closed_.store(false, std::memory_order_seq_cst);
    return own_entered;
}

}  // namespace lamella
