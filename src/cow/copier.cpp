// SPDX-License-Identifier: Apache-2.0
#include "cow/copier.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>
#include <utility>

#include "cow/exception_log.h"

namespace lamella::cow {

struct Copier::Piece {
    struct Write {
        Piece* piece;
        Copy::Target* target;
        IoRequest request;
        iovec vector;
    };

    Copier* copier = nullptr;
    Copy* copy = nullptr;
    std::uint64_t at = 0;  // from the start of the copy
    std::uint64_t length = 0;
    AlignedBuffer buffer;
    IoRequest read;
    iovec vector{};
    std::vector<Write> writes;
    std::vector<ExceptionLog*> logs;  // that expect what is read
    std::size_t writing = 0;

    // Whether a part of what this piece reads is for the target.
    bool has(const Copy::Target& target) const {
        return std::max(at, target.start) < std::min({at + length, target.start + target.length, copy->length});
    }

    void start(IoQueue& queue) {
        logs.clear();
        for (const Copy::Target& target : copy->targets)
            if (target.log != nullptr && has(target))
                logs.push_back(target.log);
        for (ExceptionLog* log : logs)
            log->expect_data();
        vector = {buffer.data(), length};
        read = IoRequest{.operation = IoOperation::read, .offset = copy->offset + at, .length = length, .vectors = {&vector, 1}};
        read.context = this;
        read.completed = [](IoRequest& request, int error) { static_cast<Piece*>(request.context)->was_read(error); };
        copy->from->submit(queue, read);
    }

    void was_read(int error) {
        // By now others may have the piece.
        const std::vector<ExceptionLog*> served = std::exchange(logs, {});
        write(error);
        for (ExceptionLog* log : served)
            log->data_arrived();
    }

    void write(int error) {
        writes.clear();
        for (Copy::Target& target : copy->targets) {
            if (!has(target))
                continue;
            const std::uint64_t start = std::max(at, target.start);
            const std::uint64_t end = std::min({at + length, target.start + target.length, copy->length});
            if (error != 0) {
                target.error = error;
                continue;
            }
            // At the end of an origin that isn't a multiple of what the store's device writes at once.
            const std::uint64_t alignment = target.device->traits().alignment;
            const std::uint64_t bytes = (end - start + alignment - 1) / alignment * alignment;
            if (bytes > end - start)
                std::memset(buffer.data() + (end - at), 0, bytes - (end - start));
            Write& write = writes.emplace_back();
            write.piece = this;
            write.target = &target;
            write.vector = {buffer.data() + (start - at), bytes};
            write.request = IoRequest{.operation = IoOperation::write, .offset = target.offset + (start - target.start), .length = bytes};
        }
        writing = writes.size();
        if (writing == 0)
            return copier->release(*this);
        // From here on the list stays as it is.
        for (Write& write : writes) {
            write.request.vectors = {&write.vector, 1};
            write.request.context = &write;
            write.request.completed = [](IoRequest& request, int failure) {
                Write& written = *static_cast<Write*>(request.context);
                if (failure != 0)
                    written.target->error = failure;
                Piece& piece = *written.piece;
                if (--piece.writing == 0)
                    piece.copier->release(piece);
            };
            if (write.target->log != nullptr)
                write.target->log->write_data(write.request);
            else
                write.target->device->submit(copier->queue_, write.request);
        }
    }
};

Copier::Copier(IoQueue& queue, std::uint64_t buffer_bytes) : queue_(queue), buffer_bytes_(buffer_bytes) {
    static_assert(most_buffer_bytes == least_buffer_bytes << (std::tuple_size_v<decltype(free_)> - 1));
}

Copier::~Copier() = default;

void Copier::start(Copy& copy) {
    copy.next = 0;
    copy.pieces = 0;
    waiting_.push_back(&copy);
    go_on();
}

Copier::Pieces& Copier::free_with(std::uint64_t buffer_bytes) { return free_[std::bit_width(buffer_bytes / least_buffer_bytes) - 1]; }

// Null: there is no room until others have ended.
std::unique_ptr<Copier::Piece> Copier::take_piece(std::uint64_t length) {
    const std::uint64_t bytes = std::max(std::bit_ceil(length), least_buffer_bytes);
    if (Pieces& free = free_with(bytes); !free.empty()) {
        std::unique_ptr<Piece> piece = std::move(free.back());
        free.pop_back();
        return piece;
    }
    const std::uint64_t more = bytes + piece_overhead;
    for (Pieces& free : free_) {
        while (!free.empty() && made_bytes_ + more > buffer_bytes_) {
            made_bytes_ -= free.back()->buffer.size() + piece_overhead;
            free.pop_back();
        }
    }
    if (made_bytes_ > 0 && made_bytes_ + more > buffer_bytes_)
        return nullptr;
    auto piece = std::make_unique<Piece>();
    piece->copier = this;
    piece->buffer = AlignedBuffer(bytes);
    made_bytes_ += more;
    return piece;
}

void Copier::go_on() {
    while (!waiting_.empty()) {
        Copy& copy = *waiting_.front();
        const std::uint64_t length = std::min(most_buffer_bytes, copy.length - copy.next);
        std::unique_ptr<Piece> taken = take_piece(length);
        if (taken == nullptr)
            return;
        Piece& piece = *taken.release();  // until it is released
        piece.copy = &copy;
        piece.at = copy.next;
        piece.length = length;
        copy.next += length;
        ++copy.pieces;
        if (copy.next == copy.length)
            waiting_.pop_front();
        piece.start(queue_);
    }
}

void Copier::release(Piece& piece) {
    Copy& copy = *piece.copy;
    free_with(piece.buffer.size()).emplace_back(&piece);
    --copy.pieces;
    if (copy.pieces == 0 && copy.next == copy.length)
        copy.completed(copy);
    go_on();
}

}  // namespace lamella::cow
