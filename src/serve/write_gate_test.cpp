// SPDX-License-Identifier: Apache-2.0
#include "serve/write_gate.h"

#include <atomic>
#include <thread>

#include <gtest/gtest.h>

namespace lamella {
namespace {

struct Entrant : WriteGate::Waiter {
    bool entered = false;
    static void mark(Task& task) { static_cast<Entrant&>(task).entered = true; }
    explicit Entrant(IoQueue& own, unsigned number = 0) {
        queue = &own;
        reactor = number;
        run = mark;
    }
};

TEST(WriteGate, WritersShare) {
    const auto queue = make_plain_queue().value();
    WriteGate gate(2);
    Entrant first(*queue, 0), second(*queue, 1);
    EXPECT_TRUE(gate.enter_shared(first));
    EXPECT_TRUE(gate.enter_shared(second));
    gate.leave_shared(0);
    gate.leave_shared(1);
}

TEST(WriteGate, FirstComeFirstServed) {
    const auto queue = make_plain_queue().value();
    WriteGate gate(2);
    Entrant inside(*queue, 1), alone(*queue, 0), late(*queue, 1), another(*queue, 0), last(*queue, 0);
    EXPECT_TRUE(gate.enter_shared(inside));
    EXPECT_FALSE(gate.enter_alone(alone));
    EXPECT_FALSE(gate.enter_shared(late));
    EXPECT_FALSE(gate.enter_shared(another));
    EXPECT_FALSE(gate.enter_alone(last));
    queue->run_once(false);
    EXPECT_FALSE(alone.entered);

    gate.leave_shared(1);
    queue->run_once(false);
    EXPECT_TRUE(alone.entered);
    EXPECT_FALSE(late.entered);

    gate.leave_alone();
    queue->run_once(false);
    EXPECT_TRUE(late.entered);
    EXPECT_TRUE(another.entered);
    EXPECT_FALSE(last.entered);

    gate.leave_shared(1);
    gate.leave_shared(0);
    queue->run_once(false);
    EXPECT_TRUE(last.entered);
    gate.leave_alone();
    EXPECT_TRUE(gate.enter_shared(inside));
}

// Threads that enter and leave as fast as they can; whoever is alone must find nobody else.
TEST(WriteGate, NobodyIsInsideWithWhoIsAlone) {
    constexpr unsigned threads = 3;
    constexpr int turns = 20'000;
    WriteGate gate(threads);
    std::atomic<int> shared{0}, alone{0}, mistakes{0};
    std::vector<std::unique_ptr<IoQueue>> queues;  // which outlive every post to them
    for (unsigned number = 0; number < threads; ++number)
        queues.push_back(make_plain_queue().value());
    std::vector<std::thread> running;
    for (unsigned number = 0; number < threads; ++number)
        running.emplace_back([&, number, queue = queues[number].get()] {
            for (int turn = 0; turn < turns; ++turn) {
                Entrant entrant(*queue, number);
                const bool wants_alone = turn % 7 == static_cast<int>(number);
                if (!(wants_alone ? gate.enter_alone(entrant) : gate.enter_shared(entrant)))
                    queue->run_until([&] { return entrant.entered; });
                if (wants_alone) {
                    mistakes += alone.fetch_add(1) != 0 || shared.load() != 0;
                    alone.fetch_sub(1);
                    gate.leave_alone();
                } else {
                    shared.fetch_add(1);
                    mistakes += alone.load() != 0;
                    shared.fetch_sub(1);
                    gate.leave_shared(number);
                }
            }
        });
    for (std::thread& thread : running)
        thread.join();
    EXPECT_EQ(mistakes, 0);
}

}  // namespace
}  // namespace lamella
