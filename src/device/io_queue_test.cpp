// SPDX-License-Identifier: Apache-2.0
#include "device/io_queue.h"

#include <array>
#include <thread>

#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "device/test_support.h"

namespace lamella {
namespace {

using test::QueueKind;

class IoQueueTest : public test::OnBothQueues {};
INSTANTIATE_TEST_SUITE_P(Queues, IoQueueTest, testing::Values(QueueKind::plain, QueueKind::uring), test::name_of);

struct Numbered : Task {
    std::vector<int>* log = nullptr;
    int number = 0;
};

void append_number(Task& task) {
    auto& numbered = static_cast<Numbered&>(task);
    numbered.log->push_back(numbered.number);
}

TEST_P(IoQueueTest, RunsTasksInTheOrderPosted) {
    std::vector<int> log;
    std::array<Numbered, 5> tasks;
    for (int index = 0; index < 5; ++index) {
        auto& task = tasks[static_cast<std::size_t>(index)];
        task.run = append_number;
        task.log = &log;
        task.number = index;
        queue->post(task);
    }
    EXPECT_TRUE(log.empty());
    queue->run_once(true);
    EXPECT_EQ(log, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST_P(IoQueueTest, PostsFromManyThreadsKeepEachPostersOrder) {
    constexpr int posters = 4;
    constexpr int each = 5000;
    struct Ordered : Task {
        int poster = 0;
        int number = 0;
        std::array<int, posters>* next_of = nullptr;
        int* total = nullptr;
    };
    std::array<int, posters> next_of{};
    int total = 0;
    std::vector<std::vector<Ordered>> tasks(posters, std::vector<Ordered>(each));
    std::vector<std::thread> threads;
    for (int poster = 0; poster < posters; ++poster) {
        threads.emplace_back([&, poster] {
            for (int number = 0; number < each; ++number) {
                Ordered& task = tasks[static_cast<std::size_t>(poster)][static_cast<std::size_t>(number)];
                task.poster = poster;
                task.number = number;
                task.next_of = &next_of;
                task.total = &total;
                task.run = [](Task& ran) {
                    auto& ordered = static_cast<Ordered&>(ran);
                    EXPECT_EQ((*ordered.next_of)[static_cast<std::size_t>(ordered.poster)]++, ordered.number);
                    ++*ordered.total;
                };
                queue->post(task);
            }
        });
    }
    queue->run_until([&] { return total == posters * each; });
    for (std::thread& thread : threads)
        thread.join();
}

TEST_P(IoQueueTest, HandsOverAtTheEndOfAStepOnOneProcessor) {
    cpu_set_t before, one;
    ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
    CPU_ZERO(&one);
    CPU_SET(::sched_getcpu(), &one);
    ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
    queue = *test::make_queue(GetParam());
    const auto other = *make_plain_queue();
    EXPECT_EQ(::sched_setaffinity(0, sizeof before, &before), 0);
    struct Handing : Numbered {
        IoQueue* from = nullptr;
        IoQueue* to = nullptr;
        std::array<Numbered, 3> more;
    } task;
    std::vector<int> log;
    task.log = &log;
    task.from = queue.get();
    task.to = other.get();
    task.run = [](Task& ran) {
        auto& handing = static_cast<Handing&>(ran);
        for (int number = 0; Numbered & one : handing.more) {
            one.run = append_number;
            one.log = handing.log;
            one.number = number++;
            handing.from->hand_over(*handing.to, one);
        }
        EXPECT_FALSE(handing.to->run_once(false)) << "not yet";
    };
    queue->post(task);
    queue->run_once(true);
    EXPECT_TRUE(log.empty());
    EXPECT_TRUE(other->run_once(false));
    EXPECT_EQ(log, (std::vector<int>{0, 1, 2}));

    // From outside of a step, and to itself.
    log.clear();
    queue->hand_over(*other, task.more[0]);
    queue->hand_over(*queue, task.more[1]);
    EXPECT_FALSE(other->run_once(false));
    queue->run_once(false);
    EXPECT_EQ(log, std::vector{1});
    other->run_once(false);
    EXPECT_EQ(log, (std::vector{1, 0}));
}

// Each side answers the other's task with one; a single lost wake-up would hang it.
TEST_P(IoQueueTest, LosesNoWakeUp) {
    constexpr int rounds = 20000;
    auto other = *test::make_queue(GetParam());
    struct Ball : Task {
        IoQueue* other_side = nullptr;
        Ball* answer = nullptr;
        int hits = 0;
    };
    Ball ping;
    Ball pong;
    const auto hit = [](Task& task) {
        auto& ball = static_cast<Ball&>(task);
        ++ball.hits;
        ball.other_side->post(*ball.answer);
    };
    ping.run = hit;
    pong.run = hit;
    ping.other_side = other.get();  // ping runs on `queue` and answers to `other`
    ping.answer = &pong;
    pong.other_side = queue.get();
    pong.answer = &ping;
    std::thread thread([&] { other->run_until([&] { return pong.hits == rounds; }); });
    queue->post(ping);
    queue->run_until([&] { return ping.hits == rounds; });
    thread.join();
    EXPECT_EQ(pong.hits, rounds);
}

TEST_P(IoQueueTest, MayGoWhenTheLastTaskHasRun) {
    // Sanitizers see it when the poster still touches the queue.
    for (int round = 0; round < 300; ++round) {
        auto brief = *test::make_queue(GetParam());
        struct Last : Task {
            bool ran = false;
        } last;
        last.run = [](Task& task) { static_cast<Last&>(task).ran = true; };
        std::thread poster([&target = *brief, &last] { target.post(last); });
        brief->run_until([&] { return last.ran; });
        brief.reset();
        poster.join();
    }
}

TEST_P(IoQueueTest, WakeLetsASleepingQueueReturn) {
    queue->wake();
    queue->run_once(true);  // a wake before the sleep counts
    std::thread thread([&] { queue->wake(); });
    queue->run_once(true);
    thread.join();
}

struct Bell : Timer {
    std::vector<int>* log = nullptr;
    int number = 0;
    IoQueue* queue = nullptr;
    Timer* to_disarm = nullptr;
};

TEST_P(IoQueueTest, FiresTimersInTheOrderOfTheirDeadlines) {
    ManualClock clock;
    auto stepped = *test::make_queue(GetParam(), clock);
    std::vector<int> log;
    std::array<Bell, 4> bells;
    for (int index = 0; index < 4; ++index) {
        Bell& bell = bells[static_cast<std::size_t>(index)];
        bell.log = &log;
        bell.number = index;
        bell.queue = stepped.get();
        bell.fired = [](Timer& timer) {
            auto& self = static_cast<Bell&>(timer);
            EXPECT_FALSE(self.armed);
            self.log->push_back(self.number);
            if (self.to_disarm != nullptr)
                self.queue->disarm(*self.to_disarm);
        };
    }
    using namespace std::chrono_literals;
    stepped->arm(bells[0], 30ms);
    stepped->arm(bells[1], 10ms);
    stepped->arm(bells[2], 20ms);
    stepped->arm(bells[3], 21ms);
    bells[2].to_disarm = &bells[3];
    stepped->run_once(false);
    EXPECT_TRUE(log.empty());
    clock.advance(25ms);
    stepped->run_once(false);
    EXPECT_EQ(log, (std::vector<int>{1, 2}));
    stepped->arm(bells[0], 100ms);  // moved
    clock.advance(25ms);
    stepped->run_once(false);
    EXPECT_EQ(log.size(), 2u);
    clock.advance(50ms);
    stepped->run_once(true);
    EXPECT_EQ(log, (std::vector<int>{1, 2, 0}));
}

TEST_P(IoQueueTest, SleepsUntilATimer) {
    bool fired = false;
    struct Flag : Timer {
        bool* target = nullptr;
    } timer;
    timer.target = &fired;
    timer.fired = [](Timer& self) { *static_cast<Flag&>(self).target = true; };
    const Duration deadline = queue->clock().monotonic() + std::chrono::milliseconds(15);
    queue->arm(timer, deadline);
    queue->run_until([&] { return fired; });
    EXPECT_GE(queue->clock().monotonic(), deadline);
}

struct Listener : Watcher {
    int calls = 0;
    std::uint32_t last = 0;
};

class SocketPair {
  public:
    SocketPair() { EXPECT_EQ(0, ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds.data())); }
    ~SocketPair() {
        ::close(fds[0]);
        ::close(fds[1]);
    }
    std::array<int, 2> fds{};
};

TEST_P(IoQueueTest, WatchesDescriptorsByLevel) {
    SocketPair pair;
    Listener listener;
    listener.fd = pair.fds[0];
    listener.events = EPOLLIN;
    listener.ready = [](Watcher& watcher, std::uint32_t events) {
        auto& self = static_cast<Listener&>(watcher);
        ++self.calls;
        self.last = events;
    };
    ASSERT_TRUE(queue->watch(listener));
    for (int round = 0; round < 5; ++round)
        queue->run_once(false);
    EXPECT_EQ(listener.calls, 0);
    ASSERT_EQ(1, ::write(pair.fds[1], "x", 1));
    // Nobody reads: it is reported again and again.
    queue->run_until([&] { return listener.calls >= 3; });
    EXPECT_EQ(listener.last, static_cast<std::uint32_t>(EPOLLIN));
    char byte;
    ASSERT_EQ(1, ::read(pair.fds[0], &byte, 1));
    listener.calls = 0;
    for (int round = 0; round < 5; ++round)
        queue->run_once(false);
    EXPECT_EQ(listener.calls, 0);
    // Other events of the same watcher.
    listener.events = EPOLLIN | EPOLLOUT;
    ASSERT_TRUE(queue->watch(listener));
    queue->run_until([&] { return listener.calls > 0; });
    EXPECT_EQ(listener.last, static_cast<std::uint32_t>(EPOLLOUT));
    queue->unwatch(listener);
    listener.calls = 0;
    for (int round = 0; round < 5; ++round)
        queue->run_once(false);
    EXPECT_EQ(listener.calls, 0);
    Watcher nothing;
    EXPECT_FALSE(queue->watch(nothing));
}

TEST_P(IoQueueTest, AWatcherTakenAwayByACallbackIsNotCalled) {
    SocketPair first;
    SocketPair second;
    struct Rival : Watcher {
        IoQueue* queue = nullptr;
        Rival* rival = nullptr;
        int calls = 0;
    };
    std::array<Rival, 2> rivals;
    for (std::size_t index = 0; index < 2; ++index) {
        Rival& rival = rivals[index];
        rival.fd = index == 0 ? first.fds[0] : second.fds[0];
        rival.events = EPOLLIN;
        rival.queue = queue.get();
        rival.rival = &rivals[1 - index];
        rival.ready = [](Watcher& watcher, std::uint32_t) {
            auto& self = static_cast<Rival&>(watcher);
            ++self.calls;
            self.queue->unwatch(*self.rival);
        };
    }
    ASSERT_EQ(1, ::write(first.fds[1], "x", 1));
    ASSERT_EQ(1, ::write(second.fds[1], "x", 1));
    for (Rival& rival : rivals)
        ASSERT_TRUE(queue->watch(rival));
    queue->run_until([&] { return rivals[0].calls + rivals[1].calls >= 3; });
    EXPECT_TRUE(rivals[0].calls == 0 || rivals[1].calls == 0);
    for (Rival& rival : rivals)
        queue->unwatch(rival);
}

TEST_P(IoQueueTest, AWatchedSocketWakesASleeper) {
    SocketPair pair;
    Listener listener;
    listener.fd = pair.fds[0];
    listener.events = EPOLLIN;
    listener.ready = [](Watcher& watcher, std::uint32_t) {
        auto& self = static_cast<Listener&>(watcher);
        char bytes[16];
        self.calls += static_cast<int>(std::max<ssize_t>(0, ::read(self.fd, bytes, sizeof bytes)));
    };
    ASSERT_TRUE(queue->watch(listener));
    std::thread thread([&] {
        for (int round = 0; round < 1000; ++round) {
            while (::write(pair.fds[1], "x", 1) != 1)
                std::this_thread::yield();
        }
    });
    queue->run_until([&] { return listener.calls == 1000; });
    thread.join();
    queue->unwatch(listener);
}

TEST(MakeIoQueue, TakesPlainSystemCallsWhenAsked) {
    ASSERT_EQ(0, ::setenv("LAMELLA_IO", "plain", 1));
    auto queue = make_io_queue();
    ::unsetenv("LAMELLA_IO");
    ASSERT_TRUE(queue);
    EXPECT_TRUE(make_io_queue());
    EXPECT_EQ(make_uring_queue(0).error().kind(), ErrorKind::usage);
}

}  // namespace
}  // namespace lamella
