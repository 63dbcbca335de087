// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "device/io_queue.h"

namespace lamella {

// Any number of queues on one thread and one manual clock: what runs next is chosen by a seed, so that a run can be repeated exactly.
// Stands in for threads in tests of code that talks through queues only.
//
// A queue's completions run in any order; its tasks in the order posted. Whichever queue is told to wait (run_until) lets the others
// run, and when none has work the clock steps to the next timer of any. When there is no timer either, nothing could ever happen:
// that is a deadlock of the code under test, and the program is aborted with the seed on stderr.
//
// Queues do file I/O inside submit_file() and can't watch descriptors (ErrorKind::unsupported). They are destroyed before the simulation.
class Simulation {
  public:
    explicit Simulation(std::uint64_t seed) : seed_(seed), random_(seed) {}
    Simulation(const Simulation&) = delete;
    Simulation& operator=(const Simulation&) = delete;

    ManualClock& clock() { return clock_; }
    std::unique_ptr<IoQueue> make_queue();

    // Lets one queue that has work, chosen by the seed, take a step; without work, the clock steps to the next timer. False: there is
    // neither.
    bool step();
    // Until there is no work left. Timers don't count as work.
    void settle();

  private:
    class Queue;
    // A queue with work, by the seed; null: there is none.
    Queue* choose();
    bool advance_clock();
    std::uint64_t draw(std::uint64_t count) { return random_() % count; }

    const std::uint64_t seed_;
    std::mt19937_64 random_;
    ManualClock clock_;
    std::vector<Queue*> queues_;
};

}  // namespace lamella
