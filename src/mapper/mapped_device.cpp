// SPDX-License-Identifier: Apache-2.0
#include "mapper/mapped_device.h"

#include <cerrno>
#include <utility>

#include "mapper/mapper.h"

namespace lamella::mapper {

// A request on the live table, in place of the client's. Kept in a list of the thread for the next one, up to a bound.
struct MappedDevice::Io {
    IoRequest request;
    IoRequest* parent = nullptr;
    MappedDevice* device = nullptr;
    IoQueue* queue = nullptr;
    GracePeriod::Token token{};
    Io* next = nullptr;

    static Io* take();
    void give();
    static void completed(IoRequest& request, int error);

    class Spare;
    static thread_local Spare spare;
};

class MappedDevice::Io::Spare {
  public:
    ~Spare() {
        while (first_ != nullptr)
            delete std::exchange(first_, first_->next);
    }
    Io* take() {
        if (first_ == nullptr)
            return new Io;
        --count_;
        return std::exchange(first_, first_->next);
    }
    void give(Io* io) {
        if (count_ == 256) {
            delete io;
            return;
        }
        io->next = std::exchange(first_, io);
        ++count_;
    }

  private:
    Io* first_ = nullptr;
    std::size_t count_ = 0;
};

thread_local MappedDevice::Io::Spare MappedDevice::Io::spare;

void MappedDevice::Io::completed(IoRequest& request, int error) {
    Io* io = static_cast<Io*>(request.context);
    IoRequest& parent = *io->parent;
    MappedDevice& device = *io->device;
    IoQueue& queue = *io->queue;
    const GracePeriod::Token token = io->token;
    spare.give(io);
    if (error == ERESTART) {
        // A target gave it back (Target::give_back()): as if it came now.
        device.grace_.leave(token);
        return device.hold(queue, parent);
    }
    // Left before the client hears of it: when a client has let go of the device, nobody is inside any more.
    device.grace_.leave(token);
    parent.completed(parent, error);
}

// A request that came while the device was suspended.
struct MappedDevice::Held : Task {
    MappedDevice* device = nullptr;
    IoQueue* queue = nullptr;
    IoRequest* request = nullptr;
};

struct MappedDevice::Waiter : GracePeriod::Waiter {
    bool over = false;
};

MappedDevice::MappedDevice(std::uint32_t minor, std::string name, std::shared_ptr<EventBell> bell, std::unique_ptr<IoQueue> queue)
    : minor_(minor), bell_(std::move(bell)), queue_(std::move(queue)), grace_(*queue_), name_(std::move(name)) {}

MappedDevice::~MappedDevice() = default;

Result<std::shared_ptr<MappedDevice>> MappedDevice::create(std::uint32_t minor, std::string name, std::shared_ptr<EventBell> bell) {
    return std::shared_ptr<MappedDevice>(new MappedDevice(minor, std::move(name), std::move(bell), TRY(make_plain_queue())));
}

DeviceTraits MappedDevice::traits() const {
    std::lock_guard lock(mutex_);
    return traits_;
}

std::string MappedDevice::name() const {
    std::lock_guard lock(mutex_);
    return name_;
}

void MappedDevice::rename(std::string name) {
    std::lock_guard lock(mutex_);
    name_ = std::move(name);
}

std::string MappedDevice::number() const { return fmt::format("{}:{}", device_major, minor_); }

void MappedDevice::submit(IoQueue& queue, IoRequest& request) {
    const GracePeriod::Token token = grace_.enter();
    BlockDevice* table = live_.load();
    if (table == nullptr) {
        grace_.leave(token);
        hold(queue, request);
        return;
    }
    const bool changes = request.operation != IoOperation::read && request.operation != IoOperation::flush;
    if (changes && read_only_.load(std::memory_order_relaxed)) {
        grace_.leave(token);
        queue.complete_later(request, EROFS);
        return;
    }
    Io* io = Io::spare.take();
    io->request = request;
    io->request.context = io;
    io->request.completed = Io::completed;
    io->parent = &request;
    io->device = this;
    io->queue = &queue;
    io->token = token;
    table->submit(queue, io->request);
}

void MappedDevice::hold(IoQueue& queue, IoRequest& request) {
    {
        std::lock_guard lock(mutex_);
        if (blocked_ || blocked_from_below_) {
            auto* held = new Held;
            held->device = this;
            held->queue = &queue;
            held->request = &request;
            held->run = [](Task& task) {
                auto& self = static_cast<Held&>(task);
                self.device->submit(*self.queue, *self.request);
                delete &self;
            };
            held_.push_back(held);
            return;
        }
        if (live_.load() == nullptr) {
            queue.complete_later(request, EIO);
            return;
        }
    }
    submit(queue, request);  // resumed meanwhile
}

void MappedDevice::status(IoQueue& queue, StatusRequest& request) {
    const GracePeriod::Token token = grace_.enter();
    BlockDevice* table = live_.load();
    if (table == nullptr) {
        grace_.leave(token);
        BlockDevice::status(queue, request);
        return;
    }
    struct Ask : StatusRequest {
        StatusRequest* parent;
        GracePeriod* grace;
        GracePeriod::Token token;
    };
    auto* ask = new Ask;
    ask->offset = request.offset;
    ask->length = request.length;
    ask->max_extents = request.max_extents;
    ask->parent = &request;
    ask->grace = &grace_;
    ask->token = token;
    ask->completed = [](StatusRequest& finished, int error) {
        auto& self = static_cast<Ask&>(finished);
        StatusRequest& parent = *self.parent;
        parent.extents = std::move(self.extents);
        self.grace->leave(self.token);
        delete &self;
        parent.completed(parent, error);
    };
    table->status(queue, *ask);
}

std::uint64_t MappedDevice::known_zero(std::uint64_t offset, std::uint64_t limit) {
    const GracePeriod::Token token = grace_.enter();
    BlockDevice* table = live_.load();
    const std::uint64_t zeros = table != nullptr ? table->known_zero(offset, limit) : 0;
    grace_.leave(token);
    return zeros;
}

void MappedDevice::block() {
    {
        std::lock_guard lock(mutex_);
        blocked_ = true;
        live_.store(nullptr);
    }
    wait_for_those_inside();
}

void MappedDevice::block_from_below() {
    {
        std::lock_guard lock(mutex_);
        blocked_from_below_ = true;
        live_.store(nullptr);
    }
    wait_for_those_inside();
}

void MappedDevice::wait_for_those_inside() {
    Waiter& waiter = waiters_.emplace_back();
    waiter.done = [](GracePeriod::Waiter& self) { static_cast<Waiter&>(self).over = true; };
    grace_.wait(waiter);
}

bool MappedDevice::drained(Duration patience) {
    struct Deadline : Timer {
        bool passed = false;
    } deadline;
    deadline.fired = [](Timer& timer) { static_cast<Deadline&>(timer).passed = true; };
    const auto over = [this] {
        waiters_.remove_if([](const Waiter& waiter) { return waiter.over; });
        return waiters_.empty();
    };
    while (queue_->run_once(false)) {}
    if (!over()) {
        queue_->arm(deadline, queue_->clock().monotonic() + patience);
        queue_->run_until([&] { return over() || deadline.passed; });
        queue_->disarm(deadline);
    }
    return waiters_.empty();
}

void MappedDevice::unblock(BlockDevice* table, bool read_only) {
    std::vector<Held*> held;
    {
        std::lock_guard lock(mutex_);
        blocked_ = false;
        traits_ = table != nullptr ? table->traits() : DeviceTraits{};
        traits_.read_only = traits_.read_only || read_only;
        read_only_.store(traits_.read_only);
        size_.store(table != nullptr ? table->size() : 0);
        table_ = table;
        if (blocked_from_below_)
            return;
        live_.store(table);
        held.swap(held_);
    }
    for (Held* one : held)
        one->queue->post(*one);
}

void MappedDevice::unblock_from_below() {
    std::vector<Held*> held;
    {
        std::lock_guard lock(mutex_);
        if (!std::exchange(blocked_from_below_, false) || blocked_)
            return;
        live_.store(table_);
        held.swap(held_);
    }
    for (Held* one : held)
        one->queue->post(*one);
}

}  // namespace lamella::mapper
