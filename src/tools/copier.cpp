// SPDX-License-Identifier: Apache-2.0
#include "tools/copier.h"

#include <algorithm>

namespace lamella::tools {

Copier::Copier(BlockDevice& from, BlockDevice& to, std::uint64_t total, const Control& control)
    : from_(from), to_(to), total_(total), alignment_(std::max(from.traits().alignment, to.traits().alignment)), control_(control) {}

Result<std::unique_ptr<Copier>> Copier::start(BlockDevice& from, BlockDevice& to, std::uint64_t memory, std::uint64_t total,
                                              const Control& control) {
    constexpr std::uint64_t unit = 4096;  // suits any device's alignment
    std::unique_ptr<Copier> copier(new Copier(from, to, total, control));
    copier->queue_ = TRY(make_io_queue());
    const std::uint64_t size = std::max(memory / most_pieces / unit * unit, unit);
    copier->pieces_.resize(std::clamp<std::uint64_t>(memory / size, 1, most_pieces));
    for (Piece& piece : copier->pieces_) {
        piece.copier = copier.get();
        piece.memory = AlignedBuffer(size);
        copier->free_.push_back(&piece);
    }
    return copier;
}

Copier::~Copier() { wait_for_all(); }

void Copier::wait_for_all() {
    queue_->run_until([this] { return free_.size() == pieces_.size(); });
}

Result<void> Copier::copy(std::uint64_t from, std::uint64_t to, std::uint64_t length) {
    while (length > 0) {
        if (control_.stopped())
            return Control::interrupted();
        queue_->run_until([this] { return !free_.empty(); });
        TRY(outcome_);
        Piece& piece = *free_.back();
        const std::uint64_t part = std::min<std::uint64_t>(length, piece.memory.size());
        if (((from | to | part) & (alignment_ - 1)) != 0) {
            TRY(copy_unaligned(from, to, part));
        } else {
            free_.pop_back();
            piece.from = from;
            piece.to = to;
            piece.length = part;
            submit(piece, IoOperation::read);
        }
        from += part;
        to += part;
        length -= part;
    }
    return {};
}

void Copier::submit(Piece& piece, IoOperation operation) {
    const bool reads = operation == IoOperation::read;
    piece.vector = {piece.memory.data(), piece.length};
    piece.request = {
        .operation = operation, .offset = reads ? piece.from : piece.to, .length = piece.length, .vectors = {&piece.vector, 1}};
    piece.request.context = &piece;
    piece.request.completed = [](IoRequest& request, int error) {
        auto& self = *static_cast<Piece*>(request.context);
        self.copier->completed(self, error);
    };
    (reads ? from_ : to_).submit(*queue_, piece.request);
}

void Copier::completed(Piece& piece, int error) {
    const bool was_read = piece.request.operation == IoOperation::read;
    if (error == 0 && was_read && outcome_) {
        submit(piece, IoOperation::write);
        return;
    }
    if (error != 0 && outcome_)
        outcome_ = fail_errno(was_read ? fmt::format("reading {} bytes at {} of {}", piece.length, piece.from, from_.name())
                                       : fmt::format("writing {} bytes at {} of {}", piece.length, piece.to, to_.name()),
                              error);
    else if (error == 0 && !was_read)
        note_copied(piece.length);
    free_.push_back(&piece);
}

// At the edges others' bytes are read and written again.
Result<void> Copier::copy_unaligned(std::uint64_t from, std::uint64_t to, std::uint64_t length) {
    TRY(finish());
    const auto bytes = free_.back()->memory.bytes().first(length);
    outcome_ = read_now(from_, from, bytes);
    if (outcome_)
        outcome_ = write_now(to_, to, bytes);
    TRY(outcome_);
    note_copied(length);
    return {};
}

void Copier::note_copied(std::uint64_t length) {
    copied_ += length;
    if (control_.progress)
        control_.progress(copied_, total_);
}

Result<void> Copier::finish() {
    wait_for_all();
    return outcome_;
}

}  // namespace lamella::tools
