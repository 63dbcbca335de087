// SPDX-License-Identifier: Apache-2.0
#include "device/fault_device.h"

#include <utility>

namespace lamella {

void FaultDevice::add(const Rule& rule) {
    std::lock_guard lock(mutex_);
    rules_.push_back(rule);
}

void FaultDevice::clear() {
    std::lock_guard lock(mutex_);
    rules_.clear();
}

void FaultDevice::release() {
    std::vector<Held*> released;
    {
        std::lock_guard lock(mutex_);
        released = std::exchange(held_, {});
    }
    for (Held* held : released)
        held->queue->post(*held);
}

std::size_t FaultDevice::held() const {
    std::lock_guard lock(mutex_);
    return held_.size();
}

std::uint64_t FaultDevice::count(IoOperation operation) const {
    std::lock_guard lock(mutex_);
    return counts_[static_cast<std::size_t>(operation)];
}

std::optional<FaultDevice::Rule> FaultDevice::pick(const IoRequest& request) {
    ++counts_[static_cast<std::size_t>(request.operation)];
    for (Rule& rule : rules_) {
        if (rule.operation && *rule.operation != request.operation)
            continue;
        const bool before = request.offset + request.length <= rule.offset;
        const bool after = request.offset >= rule.offset && request.offset - rule.offset >= rule.length;
        if (request.operation != IoOperation::flush && (before || after))
            continue;
        if (rule.skip > 0) {
            --rule.skip;
            continue;
        }
        if (rule.count == 0)
            continue;
        --rule.count;
        return rule;
    }
    return std::nullopt;
}

void FaultDevice::submit(IoQueue& queue, IoRequest& request) {
    std::optional<Rule> rule;
    {
        std::lock_guard lock(mutex_);
        rule = pick(request);
        if (rule && rule->hold) {
            auto* held = new Held;
            held->lower = &lower_;
            held->queue = &queue;
            held->request = &request;
            held->run = [](Task& task) {
                auto& self = static_cast<Held&>(task);
                self.lower->submit(*self.queue, *self.request);
                delete &self;
            };
            held_.push_back(held);
            return;
        }
    }
    if (rule)
        queue.complete_later(request, rule->error);
    else
        lower_.submit(queue, request);
}

}  // namespace lamella
