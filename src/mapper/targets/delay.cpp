// SPDX-License-Identifier: Apache-2.0
//
// delay DEVICE START MS [DEVICE START MS [DEVICE START MS]]: requests wait before they go on. The first place is for reads; the second,
// if given, for all that changes something; the third for flushes, which otherwise go as writes do.
#include <atomic>
#include <list>
#include <mutex>

#include "base/strong.h"
#include "mapper/target.h"

namespace lamella::mapper {

namespace {

class DelayDevice final : public BlockDevice {
  public:
    struct Class {
        LowerDevice lower;
        std::uint64_t start = 0;  // bytes
        std::chrono::milliseconds delay{};
        std::unique_ptr<BlockDevice> piece;
        std::atomic<std::uint32_t> waiting{0};
    };
    enum { reads, writes, flushes };

    std::uint64_t size() const override { return classes[reads].piece->size(); }
    DeviceTraits traits() const override {
        DeviceTraits traits = classes[writes].piece->traits();
        for (const Class& one : classes)
            traits.alignment = std::max(traits.alignment, one.piece->traits().alignment);
        return traits;
    }
    std::string name() const override { return "delay"; }
    std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) override { return classes[reads].piece->known_zero(offset, limit); }
    void status(IoQueue& queue, StatusRequest& request) override { classes[reads].piece->status(queue, request); }

    void submit(IoQueue& queue, IoRequest& request) override {
        Class& one = classes[request.operation == IoOperation::read ? reads : request.operation == IoOperation::flush ? flushes : writes];
        if (one.delay.count() == 0) {
            one.piece->submit(queue, request);
            return;
        }
        {
            std::lock_guard lock(mutex_);
            if (may_delay_) {
                delayed_.emplace_back(*this, one, queue, request);
                delayed_.back().self = std::prev(delayed_.end());
                queue.arm(delayed_.back().timer, queue.clock().monotonic() + one.delay);
                one.waiting.fetch_add(1);
                return;
            }
        }
        one.piece->submit(queue, request);
    }

    // Nothing waits any more from now on, and what does goes on at once.
    void release() {
        std::lock_guard lock(mutex_);
        may_delay_ = false;
        for (Delayed& delayed : delayed_) {
            if (delayed.released)
                continue;
            delayed.released = true;
            delayed.queue.post(delayed.task);  // its timer is its queue's
        }
    }
    void delay_again() {
        std::lock_guard lock(mutex_);
        may_delay_ = true;
    }

    std::array<Class, 3> classes;

  private:
    struct Delayed;
    struct DelayTimer : Timer {
        Delayed* delayed = nullptr;
    };
    struct DelayTask : Task {
        Delayed* delayed = nullptr;
    };
    struct Delayed {
        Delayed(DelayDevice& its_device, Class& its_class, IoQueue& its_queue, IoRequest& its_request)
            : device(its_device), one(its_class), queue(its_queue), request(its_request) {
            timer.delayed = task.delayed = this;
            timer.fired = [](Timer& fired) { static_cast<DelayTimer&>(fired).delayed->time_is_over(); };
            task.run = [](Task& run) { static_cast<DelayTask&>(run).delayed->go(); };
        }

        void time_is_over() {
            {
                std::lock_guard lock(device.mutex_);
                if (released)
                    return;  // the task is on its way
                released = true;
            }
            go();
        }
        void go() {
            queue.disarm(timer);
            one.waiting.fetch_sub(1);
            BlockDevice& piece = *one.piece;
            IoQueue& its_queue = queue;
            IoRequest& its_request = request;
            {
                std::lock_guard lock(device.mutex_);
                device.delayed_.erase(self);
            }
            piece.submit(its_queue, its_request);
        }

        DelayDevice& device;
        Class& one;
        IoQueue& queue;
        IoRequest& request;
        DelayTimer timer;
        DelayTask task;
        bool released = false;
        std::list<Delayed>::iterator self;
    };

    std::mutex mutex_;
    bool may_delay_ = true;
    std::list<Delayed> delayed_;
};

class Delay final : public Target {
  public:
    static Result<std::unique_ptr<Target>> create(TargetContext& context) {
        auto target = std::make_unique<Delay>();
        Words& words = context.words();
        target->given_ = words.left() / 3;
        if (words.left() % 3 != 0 || target->given_ < 1 || target->given_ > 3)
            return fail(ErrorKind::usage, "{} words, not 3, 6 or 9", words.left());
        for (std::size_t index = 0; index < target->given_; ++index) {
            DelayDevice::Class& one = target->device_.classes[index];
            one.lower = TRY(context.open(TRY(words.take("the device"))));
            one.start = TRY(words.take_sectors("the start on the device"));
            one.delay = std::chrono::milliseconds(TRY(words.take_number("the delay in milliseconds", 0, UINT32_MAX)));
        }
        for (std::size_t index = 0; index < 3; ++index) {
            DelayDevice::Class& one = target->device_.classes[index];
            if (index >= target->given_) {
                const DelayDevice::Class& before = target->device_.classes[index - 1];
                one.lower = before.lower;
                one.start = before.start;
                one.delay = before.delay;
            }
            one.piece = TRY(slice_of(one.lower, one.start, context.length()));
        }
        return target;
    }

    BlockDevice& device() override { return device_; }
    // How many reads, writes and flushes wait.
    std::string status(bool flush) override {
        (void)flush;
        const auto& classes = device_.classes;
        return fmt::format("{} {} {}", classes[0].waiting.load(), classes[1].waiting.load(), classes[2].waiting.load());
    }
    std::string table() const override {
        std::string line;
        for (std::size_t index = 0; index < given_; ++index) {
            const DelayDevice::Class& one = device_.classes[index];
            line += fmt::format("{}{} {} {}", index > 0 ? " " : "", one.lower.word, one.start / sector_bytes, one.delay.count());
        }
        return line;
    }
    void presuspend(const SuspendOptions&) override { device_.release(); }
    void presuspend_undo() override { device_.delay_again(); }
    void resume() override { device_.delay_again(); }

  private:
    std::size_t given_ = 0;
    DelayDevice device_;
};

}  // namespace

extern const TargetType delay_target;
const TargetType delay_target = {.name = "delay", .version = {1, 3, 0}, .create = Delay::create};

}  // namespace lamella::mapper
