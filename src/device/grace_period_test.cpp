// SPDX-License-Identifier: Apache-2.0
#include "device/grace_period.h"

#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace lamella {
namespace {

struct Told : GracePeriod::Waiter {
    Told() {
        done = [](Waiter& waiter) {
            auto& self = static_cast<Told&>(waiter);
            EXPECT_FALSE(self.told) << "told twice";
            self.told = true;
        };
    }
    bool told = false;
};

class GracePeriodTest : public testing::Test {
  protected:
    void step() {
        while (queue->run_once(false)) {}
    }
    std::unique_ptr<IoQueue> queue = *make_plain_queue();
    GracePeriod grace{*queue};
};

TEST_F(GracePeriodTest, IsOverAtOnceWhenNobodyIsInside) {
    EXPECT_TRUE(grace.idle());
    Told waiter;
    grace.wait(waiter);
    EXPECT_FALSE(waiter.told) << "told inside wait()";
    EXPECT_FALSE(grace.idle());
    step();
    EXPECT_TRUE(waiter.told);
    EXPECT_TRUE(grace.idle());
}

TEST_F(GracePeriodTest, WaitsForEveryoneWhoWasInside) {
    const auto first = grace.enter();
    const auto second = grace.enter();
    Told waiter;
    grace.wait(waiter);
    step();
    EXPECT_FALSE(waiter.told);
    grace.leave(second);
    step();
    EXPECT_FALSE(waiter.told);
    grace.leave(first);
    EXPECT_FALSE(waiter.told) << "told on the thread that left";
    step();
    EXPECT_TRUE(waiter.told);
    EXPECT_TRUE(grace.idle());
}

TEST_F(GracePeriodTest, EndsAlthoughSomebodyIsAlwaysInside) {
    std::deque<GracePeriod::Token> inside{grace.enter()};
    Told waiter;
    grace.wait(waiter);
    for (int round = 0; round < 8; ++round) {
        inside.push_back(grace.enter());
        grace.leave(inside.front());
        inside.pop_front();
        step();
    }
    EXPECT_TRUE(waiter.told);
    grace.leave(inside.front());
}

TEST_F(GracePeriodTest, AWaiterWhoComesDuringAPeriodGetsOneOfItsOwn) {
    const auto before_both = grace.enter();
    Told first;
    grace.wait(first);
    step();
    const auto before_second = grace.enter();
    Told second;
    grace.wait(second);
    grace.leave(before_both);
    step();
    EXPECT_FALSE(second.told) << "somebody who entered before it is still inside";
    grace.leave(before_second);
    step();
    EXPECT_TRUE(first.told);
    EXPECT_TRUE(second.told);
}

TEST_F(GracePeriodTest, ManyWaitersShareAPeriodAndMayWaitAgainFromTheirCallback) {
    struct Chain : GracePeriod::Waiter {
        GracePeriod* grace = nullptr;
        int left = 3;
    };
    std::vector<Told> waiters(5);
    Chain chain;
    chain.grace = &grace;
    chain.done = [](GracePeriod::Waiter& waiter) {
        auto& self = static_cast<Chain&>(waiter);
        if (--self.left > 0)
            self.grace->wait(self);
    };
    const auto token = grace.enter();
    for (Told& waiter : waiters)
        grace.wait(waiter);
    grace.wait(chain);
    step();
    grace.leave(token);
    step();
    for (const Told& waiter : waiters)
        EXPECT_TRUE(waiter.told);
    EXPECT_EQ(chain.left, 0);
    EXPECT_TRUE(grace.idle());
}

// Readers follow a pointer; the owner replaces what it points to and, after a period, spoils the old. Whoever sees spoiled memory
// was let down. (With ThreadSanitizer the plain accesses to `value` are the test.)
TEST_F(GracePeriodTest, NobodyInsideSeesWhatIsTakenAway) {
    struct Object : GracePeriod::Waiter {
        std::uint64_t value = 0x600d;
        bool* free = nullptr;
    };
    std::atomic<Object*> current{new Object};
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> seen{0}, spoiled{0};
    std::vector<std::thread> readers;
    for (int reader = 0; reader < 4; ++reader)
        readers.emplace_back([&] {
            while (!stop.load(std::memory_order_relaxed)) {
                const auto token = grace.enter();
                const Object* object = current.load();
                for (int look = 0; look < 3; ++look)
                    if (object->value != 0x600d)
                        spoiled.fetch_add(1);
                grace.leave(token);
                seen.fetch_add(1, std::memory_order_relaxed);
            }
        });
    for (int round = 0; round < 2000 || seen.load() < 2000; ++round) {
        bool freed = false;
        Object* former = current.exchange(new Object);
        former->free = &freed;
        former->done = [](GracePeriod::Waiter& waiter) {
            auto* object = static_cast<Object*>(&waiter);
            object->value = 0xbad;
            *object->free = true;
            delete object;
        };
        grace.wait(*former);
        queue->run_until([&] { return freed; });
    }
    stop.store(true);
    for (std::thread& reader : readers)
        reader.join();
    step();
    EXPECT_EQ(spoiled.load(), 0u);
    EXPECT_TRUE(grace.idle());
    delete current.load();
}

}  // namespace
}  // namespace lamella
