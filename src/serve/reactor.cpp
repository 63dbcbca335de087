// SPDX-License-Identifier: Apache-2.0
#include "serve/reactor.h"

#include <algorithm>
#include <latch>
#include <system_error>

namespace lamella {

namespace {

struct Work : Task {
    std::move_only_function<void()> call;
};

}  // namespace

Result<std::unique_ptr<Reactor>> Reactor::start(unsigned number, Clock& clock) {
    auto queue = TRY_WITHIN("reactor", make_io_queue(clock));
    std::unique_ptr<Reactor> reactor(new Reactor(number, std::move(queue)));
    try {
        reactor->thread_ = std::thread([&reactor = *reactor] { reactor.loop(); });
    } catch (const std::system_error& error) {
        return fail_errno("starting a reactor's thread", error.code().value());
    }
    return reactor;
}

void Reactor::stop() {
    if (!thread_.joinable())
        return;
    run([this] { stopping_ = true; });
    thread_.join();
}

void Reactor::run(std::move_only_function<void()> work) {
    auto* posted = new Work{{}, std::move(work)};
    posted->run = [](Task& task) {
        std::unique_ptr<Work> own(static_cast<Work*>(&task));
        own->call();
    };
    queue_->post(*posted);
}

void Reactor::run_and_wait(std::move_only_function<void()> work) {
    std::latch done(1);
    run([&] {
        work();
        done.count_down();
    });
    done.wait();
}

void Reactor::remove_step_end(StepEnd& step_end) { std::erase(step_ends_, &step_end); }

void Reactor::loop() {
    while (!stopping_) {
        queue_->run_once(true);
        for (StepEnd* step_end : step_ends_)
            step_end->run(*step_end);
    }
}

Result<ReactorGroup> ReactorGroup::start(unsigned count, Clock& clock) {
    if (count == 0)
        count = std::clamp(std::thread::hardware_concurrency(), 1u, 4u);
    ReactorGroup group;
    for (unsigned number = 0; number < count; ++number)
        group.reactors_.push_back(TRY(Reactor::start(number, clock)));
    return group;
}

// All threads end before the first queue goes: one may be posting to another's.
ReactorGroup::~ReactorGroup() {
    for (auto& reactor : reactors_)
        reactor->stop();
}

}  // namespace lamella
