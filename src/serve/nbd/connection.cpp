// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/connection.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include <sys/epoll.h>
#include <unistd.h>

namespace lamella::nbd {

namespace {

// What one call may receive beside the rest of a payload. After a WRITE of at least `large_payload` only little more is taken, so that
// the next payload too is received where it belongs instead of being copied there.
constexpr std::size_t window_bytes = 256 << 10;
constexpr std::size_t small_window_bytes = 4 << 10;
constexpr std::size_t large_payload = 32 << 10;
// Receptions in a row before other connections have their turn.
constexpr int rounds = 4;

}  // namespace

Connection::Connection(Worker& worker, int fd)
    : worker_(worker), fd_(fd), transport_(make_socket_transport(fd)), session_(worker.shared().tls_mode) {
    watcher_.fd = fd;
    watcher_.connection = this;
    watcher_.ready = [](Watcher& watcher, std::uint32_t events) { static_cast<SocketWatcher&>(watcher).connection->ready(events); };
    deadline_.connection = this;
    deadline_.fired = [](Timer& timer) { static_cast<Deadline&>(timer).connection->die(); };
}

Connection::~Connection() {
    assert(dead_ && in_flight_ == 0);
    if (counted_)
        export_->counters[worker_.reactor().number()].connections.fetch_sub(1, std::memory_order_relaxed);
    worker_.load().fetch_sub(1, std::memory_order_relaxed);
    export_ = {};
    worker_.shared().population.leave();
}

void Connection::start() {
    last_progress_ = worker_.now();
    arm(worker_.shared().limits.handshake);
    worker_.wants_to_send(*this);  // the greeting
    worker_.wants_to_pump(*this);
}

void Connection::arm(Duration after) { worker_.reactor().queue().arm(deadline_, worker_.now() + after); }

void Connection::ready(std::uint32_t events) {
    if (tls_ == Tls::handshake)
        return continue_tls();
    if (events & EPOLLOUT)
        worker_.wants_to_send(*this);
    if (events & ~std::uint32_t{EPOLLOUT})
        pump();
}

// ---- Input ----------------------------------------------------------------------------------------------------------------------

bool Connection::may_receive() const {
    return !dead_ && !ending_ && !end_of_input_ && !awaiting_ && !request_waits_ && tls_ == Tls::none && (kept_.empty() || need_more_) &&
           (session_.in_transmission() || !output_pending());
}

void Connection::pump() {
    if (dead_)
        return;
    starved_ = false;
    for (int round = 0; round < rounds; ++round) {
        if (request_waits_ || (!kept_.empty() && !need_more_)) {
            std::vector<std::byte> input;
            input.swap(kept_);
            consume(input);
        }
        if (!may_receive() || !receive())
            return update_watch();
    }
    worker_.wants_to_pump(*this);
    update_watch();
}

// False: nothing more to have at the moment.
bool Connection::receive() {
    const std::span<std::byte> buffer = worker_.receive_buffer();
    iovec vectors[2];
    std::size_t count = 0;
    std::size_t payload_room = 0;
    if (receiving_ != nullptr) {
        payload_room = receiving_->request().payload - received_;
        vectors[count++] = {receiving_->payload() + received_, payload_room};
    }
    const std::size_t window = std::min(large_payloads_ ? small_window_bytes : window_bytes, buffer.size() - kept_.size());
    vectors[count++] = {buffer.data() + kept_.size(), window};

    const ssize_t result = transport_->receive({vectors, count});
    if (result == -EAGAIN)
        return false;
    if (result < 0) {
        die();
        return false;
    }
    if (result == 0) {
        end_of_input_ = true;
        drop_receiving();
        worker_.wants_to_send(*this);  // and then to close
        return false;
    }
    last_progress_ = worker_.now();
    if (session_.in_transmission())
        session_.set_export_size(export_->size());
    const auto received = static_cast<std::size_t>(result);
    const std::size_t to_payload = std::min(received, payload_room);
    if (receiving_ != nullptr) {
        received_ += to_payload;
        session_.payload_taken(to_payload);
        if (received_ == receiving_->request().payload)
            perform(*std::exchange(receiving_, nullptr));
    }
    if (const std::size_t rest = received - to_payload; rest > 0) {
        if (!kept_.empty())
            std::memcpy(buffer.data(), kept_.data(), kept_.size());
        const std::size_t length = kept_.size() + rest;
        kept_.clear();
        consume(buffer.first(length));
    }
    return received == payload_room + window || transport_->holds_bytes_back();
}

void Connection::consume(std::span<const std::byte> input) {
    need_more_ = false;
    while (!dead_ && !ending_) {
        if (skip_ > 0) {
            const auto part = std::min<std::uint64_t>(skip_, input.size());
            session_.payload_taken(part);
            input = input.subspan(part);
            skip_ -= part;
            if (skip_ > 0)
                return;
        }
        if (receiving_ != nullptr) {
            const std::size_t part = std::min(receiving_->request().payload - received_, input.size());
            std::memcpy(receiving_->payload() + received_, input.data(), part);
            session_.payload_taken(part);
            input = input.subspan(part);
            received_ += part;
            if (received_ < receiving_->request().payload)
                return;
            perform(*std::exchange(receiving_, nullptr));
        }
        if (request_waits_) {
            if (!start_request()) {
                starved_ = true;
                return keep(input);
            }
            request_waits_ = false;
            continue;
        }
        if (input.empty())
            return;
        // In the handshake the client gets each answer before its next option is looked at.
        if (awaiting_ || tls_ != Tls::none || (!session_.in_transmission() && output_pending()))
            return keep(input);
        switch (session_.step(input)) {
        case Session::Event::need_input:
            need_more_ = true;
            keep(input);
            if (!session_.in_transmission())
                worker_.wants_to_send(*this);
            return;
        case Session::Event::list_exports: ask_exports(); break;
        case Session::Event::find_export: ask_export(); break;
        case Session::Event::start_tls:
            tls_ = Tls::due;
            worker_.wants_to_send(*this);
            break;
        case Session::Event::request: request_waits_ = true; break;
        case Session::Event::close: end(); return;
        }
    }
}

// False: not before something has been released.
bool Connection::start_request() {
    const Request& request = session_.request();
    OpenExport& target = *export_.get();
    const bool refused = request.error != WireError::none;
    AlignedBuffer buffer;
    Operation* operation = worker_.take_operation(*this, refused ? 0 : Operation::buffer_bytes(request, target), buffer);
    if (operation == nullptr)
        return false;
    ++in_flight_;
    bytes_ += buffer.size();
    operation->owner = this;
    operation->begin(request, session_.style(), &target, std::move(buffer));
    if (refused) {
        ExportCounters::add<std::uint64_t>(target.counters[worker_.reactor().number()].errors, 1);
        skip_ = request.payload;
        ++at_device_;
        finished(*operation);
    } else if (request.payload > 0) {
        large_payloads_ = request.payload >= large_payload;
        receiving_ = operation;
        received_ = 0;
    } else {
        perform(*operation);
    }
    return true;
}

void Connection::drop_receiving() {
    if (receiving_ != nullptr)
        release(*std::exchange(receiving_, nullptr));
}

// ---- Requests -------------------------------------------------------------------------------------------------------------------

void Connection::perform(Operation& operation) {
    ++at_device_;
    operation.perform(worker_.reactor().queue(), worker_.reactor().number(),
                      [](Operation& done) { static_cast<Connection*>(done.owner)->finished(done); });
}

void Connection::finished(Operation& operation) {
    --at_device_;
    if (dead_) {
        release(operation);
        if (at_device_ == 0 && !awaiting_)
            worker_.bury(*this);
        return;
    }
    operation.next = nullptr;
    if (replies_head_ == nullptr)
        replies_head_ = &operation;
    else
        replies_tail_->next = &operation;
    replies_tail_ = &operation;
    worker_.wants_to_send(*this);
}

void Connection::release(Operation& operation) {
    --in_flight_;
    const AlignedBuffer& buffer = operation.buffer();
    bytes_ -= buffer.size();
    worker_.give_operation(operation);
    if (starved_)
        worker_.wants_to_pump(*this);
}

// ---- Output ---------------------------------------------------------------------------------------------------------------------

void Connection::send() {
    while (!dead_ && tls_ != Tls::handshake && (output_pending() || replies_head_ != nullptr)) {
        Gather& gather = worker_.gather();
        gather.clear();
        if (output_pending())
            gather.add_data(session_.output().data() + output_sent_, session_.output().size() - output_sent_);
        for (Operation* operation = replies_head_; operation != nullptr && operation->fits(gather); operation = operation->next) {
            const std::size_t before = gather.bytes();
            operation->encode(gather);
            operation->reply_bytes = gather.bytes() - before;
        }
        const ssize_t sent = transport_->send(gather.without(reply_sent_));
        if (sent == -EAGAIN) {
            cannot_send_ = true;
            return update_watch();
        }
        if (sent < 0)
            return die();
        last_progress_ = worker_.now();
        account_sent(static_cast<std::size_t>(sent));
    }
    if (dead_)
        return;
    cannot_send_ = false;
    after_sending();
    if (!dead_)
        update_watch();
}

void Connection::account_sent(std::size_t sent) {
    if (output_pending()) {
        const std::size_t part = std::min(sent, session_.output().size() - output_sent_);
        output_sent_ += part;
        sent -= part;
        if (!output_pending()) {
            session_.output().clear();
            output_sent_ = 0;
        }
    }
    while (sent > 0) {
        Operation* operation = replies_head_;
        const std::size_t part = std::min(sent, operation->reply_bytes - reply_sent_);
        sent -= part;
        reply_sent_ += part;
        if (reply_sent_ < operation->reply_bytes)
            return;
        reply_sent_ = 0;
        replies_head_ = operation->next;
        release(*operation);
    }
}

// Everything so far is sent.
void Connection::after_sending() {
    if (tls_ == Tls::due)
        return start_tls();
    if (ending_ || end_of_input_) {
        if (in_flight_ == 0 && !awaiting_) {
            transport_->finish();
            die();
        }
        return;
    }
    if (!session_.in_transmission())
        worker_.wants_to_pump(*this);
}

void Connection::update_watch() {
    if (dead_)
        return;
    std::uint32_t events = 0;
    if (tls_ == Tls::handshake)
        events = tls_wants_to_send_ ? EPOLLOUT : EPOLLIN;
    else
        events = (may_receive() ? EPOLLIN : 0u) | (cannot_send_ ? EPOLLOUT : 0u);
    if (events == watched_)
        return;
    IoQueue& queue = worker_.reactor().queue();
    watched_ = events;
    watcher_.events = events;
    // Not watched at all rather than for nothing: a client that has hung up would be reported again and again.
    if (events == 0)
        queue.unwatch(watcher_);
    else if (!queue.watch(watcher_))
        die();
}

// ---- Handshake ------------------------------------------------------------------------------------------------------------------

void Connection::ask_exports() {
    awaiting_ = true;
    worker_.shared().exports.list(worker_.reactor(), [this](std::vector<ExportInfo> list) {
        awaiting_ = false;
        if (dead_ || ending_)
            return answered();
        session_.answer_exports(list);
        answered();
    });
}

void Connection::ask_export() {
    awaiting_ = true;
    worker_.shared().exports.open(session_.wanted(), worker_.reactor(), [this](Result<Exports::Handle> opened) {
        awaiting_ = false;
        if (dead_ || ending_)
            return answered();
        if (opened && (*opened)->closing)
            opened = fail(ErrorKind::refused, "the export is being closed");
        // Kept also when the client only asked about it: most ask to use it next.
        export_ = {};
        if (!opened) {
            session_.answer_export(std::unexpected(opened.error()));
            return answered();
        }
        export_ = std::move(*opened);
        session_.answer_export(export_->facts());
        if (session_.in_transmission()) {
            counted_ = true;
            export_->counters[worker_.reactor().number()].connections.fetch_add(1, std::memory_order_relaxed);
            worker_.reactor().queue().disarm(deadline_);
        }
        answered();
    });
}

void Connection::answered() {
    if (dead_) {
        if (at_device_ == 0)
            worker_.bury(*this);
        return;
    }
    if (session_.closed())
        end();
    worker_.wants_to_send(*this);
    worker_.wants_to_pump(*this);
}

void Connection::start_tls() {
    auto transport = make_tls_transport(fd_, worker_.shared().credentials);
    if (!transport)
        return die();
    transport_ = std::move(*transport);
    tls_ = Tls::handshake;
    continue_tls();
}

void Connection::continue_tls() {
    const int result = transport_->handshake(tls_wants_to_send_);
    if (result == -EAGAIN)
        return update_watch();
    if (result < 0)
        return die();
    tls_ = Tls::none;
    session_.tls_started();
    worker_.wants_to_pump(*this);
}

// ---- End ------------------------------------------------------------------------------------------------------------------------

bool Connection::uses(std::string_view export_name) const { return export_ && export_->name == export_name; }

bool Connection::stalled_since(Duration before) const {
    return !dead_ && bytes_ > 0 && last_progress_ < before && (cannot_send_ || receiving_ != nullptr);
}

void Connection::end() {
    if (dead_ || ending_)
        return;
    ending_ = true;
    kept_.clear();
    drop_receiving();
    worker_.leave_line(*this);
    arm(worker_.shared().limits.drain);
    worker_.wants_to_send(*this);
}

void Connection::die() {
    if (dead_)
        return;
    dead_ = true;
    IoQueue& queue = worker_.reactor().queue();
    if (watched_ != 0)
        queue.unwatch(watcher_);
    queue.disarm(deadline_);
    worker_.leave_line(*this);
    drop_receiving();
    while (replies_head_ != nullptr)
        release(*std::exchange(replies_head_, replies_head_->next));
    transport_.reset();
    ::close(fd_);
    if (at_device_ == 0 && !awaiting_)
        worker_.bury(*this);
}

}  // namespace lamella::nbd
