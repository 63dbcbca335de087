// SPDX-License-Identifier: Apache-2.0
#include "device/grace_period.h"

#include <utility>

namespace lamella {

GracePeriod::GracePeriod(IoQueue& owner) : owner_(owner) {
    notify_task_.period = this;
    notify_task_.run = [](Task& task) {
        GracePeriod& period = *static_cast<NotifyTask&>(task).period;
        period.notify_posted_.store(false);
        period.advance();
    };
}

unsigned GracePeriod::thread_slot() {
    static std::atomic<unsigned> next{0};
    thread_local const unsigned slot = next.fetch_add(1, std::memory_order_relaxed);
    return slot;
}

void GracePeriod::notify() {
    if (!notify_posted_.exchange(true))
        owner_.post(notify_task_);
}

bool GracePeriod::drained(unsigned side) const {
    for (const Slot& slot : slots_)
        if (slot.inside[side].load() != 0)
            return false;
    return true;
}

void GracePeriod::wait(Waiter& waiter) {
    waiter.next = arriving_;
    arriving_ = &waiter;
    waiting_.store(true);
    notify();
}

void GracePeriod::advance() {
    for (;;) {
        if (current_ == nullptr) {
            if (arriving_ == nullptr) {
                waiting_.store(false);
                return;
            }
            current_ = std::exchange(arriving_, nullptr);
            turns_left_ = 2;
            turn_.fetch_add(1);
        }
        while (turns_left_ > 0) {
            if (!drained((turn_.load() & 1) ^ 1))
                return;  // the last one out notifies
            if (--turns_left_ > 0)
                turn_.fetch_add(1);
        }
        Waiter* waiter = std::exchange(current_, nullptr);
        while (waiter != nullptr) {
            Waiter* next = waiter->next;
            waiter->done(*waiter);
            waiter = next;
        }
    }
}

}  // namespace lamella
