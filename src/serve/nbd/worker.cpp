// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/worker.h"

#include <algorithm>

#include "serve/nbd/connection.h"

namespace lamella::nbd {

bool Population::enter(unsigned limit) {
    std::lock_guard lock(mutex_);
    if (count_ >= limit)
        return false;
    ++count_;
    return true;
}

void Population::leave() {
    std::lock_guard lock(mutex_);
    if (--count_ == 0)
        empty_.notify_all();
}

unsigned Population::count() const {
    std::lock_guard lock(mutex_);
    return count_;
}

void Population::wait_until_empty() {
    std::unique_lock lock(mutex_);
    empty_.wait(lock, [this] { return count_ == 0; });
}

Worker::Worker(Reactor& reactor, Shared& shared)
    : reactor_(reactor),
      shared_(shared),
      receive_buffer_(new std::byte[receive_bytes]),
      buffers_(std::max<std::uint64_t>(shared.limits.bytes_per_reactor, 64 << 20)) {
    step_end_.worker = this;
    step_end_.run = [](Reactor::StepEnd& self) { static_cast<StepEnd&>(self).worker->step_end(); };
    again_.worker = this;
    again_.run = [](Task& self) { static_cast<Again&>(self).posted = false; };  // the step that it makes is all
    stall_timer_.worker = this;
    stall_timer_.fired = [](Timer& self) { static_cast<StallTimer&>(self).worker->close_stalled(); };
    reactor_.add_step_end(step_end_);
}

Worker::~Worker() {
    reactor_.queue().disarm(stall_timer_);
    reactor_.remove_step_end(step_end_);
}

void Worker::adopt(int fd) {
    auto connection = std::make_unique<Connection>(*this, fd);
    Connection& adopted = *connection;
    connections_.emplace(&adopted, std::move(connection));
    if (stopping_)
        adopted.die();
    else
        adopted.start();
}

void Worker::stop() {
    stopping_ = true;
    for (auto& [connection, owned] : connections_)
        connection->end();
}

void Worker::end_connections_of(std::string_view export_name) {
    for (auto& [connection, owned] : connections_)
        if (connection->uses(export_name))
            connection->end();
}

Operation* Worker::take_operation(Connection& connection, std::size_t bytes, AlignedBuffer& buffer) {
    // A connection can always have one operation; beyond that it shares. Its own releases resume it.
    const unsigned free = operations_in_use_ < operations_shared ? operations_shared - operations_in_use_ : 0;
    if (connection.requests() > 0 && connection.requests() >= std::min(shared_.limits.requests_per_connection, free / 2))
        return nullptr;
    if (bytes > 0) {
        const std::uint64_t limit = std::max<std::uint64_t>(shared_.limits.bytes_per_reactor, 64 << 20);
        const std::uint64_t free_bytes = limit - buffers_.in_use();
        const std::uint64_t room = BufferPool::room(bytes);
        if (connection.bytes() > 0 && connection.bytes() + room > std::min(shared_.limits.bytes_per_connection, free_bytes / 2)) {
            leave_line(connection);
            return nullptr;
        }
        const bool is_long = room > long_request;
        const bool others_first = is_long && !waiting_[1].empty() && waiting_[1].front() != &connection;
        if (others_first || room + (is_long ? limit / 8 : 0) > free_bytes) {
            wait_for_memory(connection, is_long);
            return nullptr;
        }
        buffer = buffers_.take(bytes);
        leave_line(connection);
    }
    ++operations_in_use_;
    if (free_operations_ == nullptr) {
        operations_.push_back(std::make_unique<Operation>());
        return operations_.back().get();
    }
    Operation* operation = free_operations_;
    free_operations_ = operation->next;
    return operation;
}

void Worker::give_operation(Operation& operation) {
    if (AlignedBuffer buffer = operation.take_buffer(); buffer.size() > 0) {
        buffers_.give(std::move(buffer));
        resume_waiting();
    }
    operation.next = free_operations_;
    free_operations_ = &operation;
    --operations_in_use_;
}

void Worker::wait_for_memory(Connection& connection, bool is_long) {
    if (connection.waits_for_memory)
        return;
    connection.waits_for_memory = true;
    waiting_[is_long].push_back(&connection);
    if (!stall_timer_.armed)
        reactor_.queue().arm(stall_timer_, now() + std::chrono::seconds(1));
}

void Worker::resume_waiting() {
    for (auto& line : waiting_)
        if (!line.empty())
            wants_to_pump(*line.front());
}

void Worker::leave_line(Connection& connection) {
    if (!connection.waits_for_memory)
        return;
    connection.waits_for_memory = false;
    for (auto& line : waiting_)
        std::erase(line, &connection);
    resume_waiting();  // the next one's turn
}

void Worker::close_stalled() {
    const Duration before = now() - shared_.limits.stall;
    for (auto& [connection, owned] : connections_)
        if (connection->stalled_since(before))
            connection->die();
    if (!waiting_[0].empty() || !waiting_[1].empty())
        reactor_.queue().arm(stall_timer_, now() + std::chrono::seconds(1));
}

void Worker::wants_to_send(Connection& connection) {
    if (connection.send_wanted)
        return;
    connection.send_wanted = true;
    to_send_.push_back(&connection);
}

void Worker::wants_to_pump(Connection& connection) {
    if (connection.pump_wanted)
        return;
    connection.pump_wanted = true;
    to_pump_.push_back(&connection);
}

void Worker::bury(Connection& connection) { to_bury_.push_back(&connection); }

void Worker::step_end() {
    // A few rounds, so that what one connection's replies set free goes on at once; then the others' events are looked at.
    for (int round = 0; round < 4 && !(to_pump_.empty() && to_send_.empty()); ++round) {
        batch_.swap(to_pump_);
        for (Connection* connection : batch_) {
            connection->pump_wanted = false;
            connection->pump();
        }
        batch_.clear();
        batch_.swap(to_send_);
        for (Connection* connection : batch_) {
            connection->send_wanted = false;
            connection->send();
        }
        batch_.clear();
    }
    if (!to_bury_.empty()) {
        for (Connection* connection : to_bury_) {
            std::erase(to_pump_, connection);
            std::erase(to_send_, connection);
            connections_.erase(connection);
        }
        to_bury_.clear();
    }
    if (!(to_pump_.empty() && to_send_.empty()) && !again_.posted) {
        again_.posted = true;
        reactor_.queue().post(again_);
    }
}

}  // namespace lamella::nbd
