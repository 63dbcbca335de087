// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "device/io_queue.h"

namespace lamella {

// Keeps writes apart from read-modify-writes of one device: any number of writers may be inside together, or one of those that
// must be alone. Nobody blocks: who can't enter is called later, on the thread of its own queue. First come, first served.
//
// A request that is a whole number of the device's units enters shared. One that isn't reads its first and last unit, changes its
// part of them, and writes them back; a write in between would be lost, so it enters alone.
//
// Threads: any; a caller enters and leaves with the number of its reactor. Entering shared while nobody waits to be alone touches
// one counter, which only that reactor writes.
class WriteGate {
  public:
    explicit WriteGate(unsigned reactors) : inside_(reactors) {}
    WriteGate(const WriteGate&) = delete;
    WriteGate& operator=(const WriteGate&) = delete;

    // Owned by who waits, until it is run on its queue.
    struct Waiter : Task {
        IoQueue* queue = nullptr;
        unsigned reactor = 0;
        bool alone = false;
    };

    // True: inside. False: `waiter` will be run once it is inside.
    bool enter_shared(Waiter& waiter);
    bool enter_alone(Waiter& waiter);
    void leave_shared(unsigned reactor);
    void leave_alone();

  private:
    // Admits from the front of the line who may enter. Returns whether `own`, if it is among them, has entered: it isn't called then.
    bool admit(const Waiter* own);
    void append(Waiter& waiter);

    struct alignas(64) Counter {
        std::atomic<std::uint64_t> count{0};
    };
    std::vector<Counter> inside_;  // by reactor
    // Somebody waits or is alone inside: newcomers join the line.
    std::atomic<bool> closed_{false};

    std::mutex mutex_;
    bool alone_ = false;
    Waiter* head_ = nullptr;
    Waiter* tail_ = nullptr;
};

}  // namespace lamella
