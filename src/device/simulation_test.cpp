// SPDX-License-Identifier: Apache-2.0
#include "device/simulation.h"

#include <array>
#include <set>

#include "device/memory_device.h"
#include "device/test_support.h"

namespace lamella {
namespace {

using namespace std::chrono_literals;

struct Note : Task {
    std::vector<int>* log = nullptr;
    int number = 0;
};

std::vector<int> run_completions(std::uint64_t seed) {
    Simulation simulation(seed);
    auto queue = simulation.make_queue();
    MemoryDevice device(64 * 1024);
    struct Ordered : test::Request {
        using Request::Request;
        std::vector<int>* log = nullptr;
        int number = 0;
    };
    std::vector<int> log;
    std::vector<std::byte> bytes(4096);
    std::vector<std::unique_ptr<Ordered>> requests;
    for (int index = 0; index < 6; ++index) {
        requests.push_back(std::make_unique<Ordered>(IoOperation::write, 0, 4096, bytes.data()));
        requests.back()->log = &log;
        requests.back()->number = index;
        requests.back()->completed = [](IoRequest& request, int) {
            auto& self = static_cast<Ordered&>(request);
            self.log->push_back(self.number);
        };
        device.submit(*queue, *requests.back());
    }
    queue->run_until([&] { return log.size() == 6; });
    return log;
}

TEST(Simulation, ChoosesTheOrderOfCompletionsByTheSeed) {
    std::set<std::vector<int>> orders;
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
        const auto order = run_completions(seed);
        EXPECT_EQ(order, run_completions(seed));
        orders.insert(order);
    }
    EXPECT_GT(orders.size(), 30u);
}

TEST(Simulation, InterleavesQueuesButKeepsTheOrderOfTasks) {
    std::set<std::vector<int>> orders;
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
        Simulation simulation(seed);
        std::array<std::unique_ptr<IoQueue>, 3> queues;
        std::vector<int> log;
        std::array<Note, 9> notes;
        for (std::size_t index = 0; index < 9; ++index) {
            auto& queue = queues[index / 3];
            if (queue == nullptr)
                queue = simulation.make_queue();
            notes[index].log = &log;
            notes[index].number = static_cast<int>(index);
            notes[index].run = [](Task& task) {
                auto& note = static_cast<Note&>(task);
                note.log->push_back(note.number);
            };
            queue->post(notes[index]);
        }
        simulation.settle();
        ASSERT_EQ(log.size(), 9u);
        for (int queue = 0; queue < 3; ++queue) {
            std::vector<int> own;
            for (int number : log) {
                if (number / 3 == queue)
                    own.push_back(number % 3);
            }
            EXPECT_EQ(own, (std::vector<int>{0, 1, 2}));
        }
        orders.insert(log);
    }
    EXPECT_EQ(orders.size(), 6u) << "every order of the three queues";
}

TEST(Simulation, AWaitingQueueLetsOthersRunAndTimePass) {
    Simulation simulation(3);
    auto first = simulation.make_queue();
    auto second = simulation.make_queue();
    struct Alarm : Timer {
        IoQueue* target = nullptr;
        Task* task = nullptr;
    } alarm;
    bool ran = false;
    struct Flag : Task {
        bool* target = nullptr;
    } flag;
    flag.target = &ran;
    flag.run = [](Task& task) { *static_cast<Flag&>(task).target = true; };
    alarm.target = first.get();
    alarm.task = &flag;
    alarm.fired = [](Timer& timer) {
        auto& self = static_cast<Alarm&>(timer);
        self.target->post(*self.task);
    };
    second->arm(alarm, 10s);
    first->run_until([&] { return ran; });  // the other queue's timer, ten seconds away
    EXPECT_EQ(simulation.clock().monotonic(), 10s);
    EXPECT_FALSE(simulation.step());
}

TEST(SimulationDeathTest, ADeadlockIsReportedWithItsSeed) {
    EXPECT_DEATH(
        {
            Simulation simulation(42);
            auto queue = simulation.make_queue();
            queue->run_once(true);
        },
        "seed 42");
}

}  // namespace
}  // namespace lamella
