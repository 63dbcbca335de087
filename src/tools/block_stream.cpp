// SPDX-License-Identifier: Apache-2.0
#include "tools/block_stream.h"

#include <algorithm>
#include <cstring>
#include <system_error>

namespace lamella::tools {

using pdata::block_bytes;
using pdata::BlockKind;

Result<std::unique_ptr<BlockStream>> BlockStream::start(BlockDevice& device, MetadataBlock first, MetadataBlock end) {
    std::unique_ptr<BlockStream> stream(new BlockStream(device, first, end));
    for (Piece& piece : stream->pieces_)
        piece.memory = AlignedBuffer(blocks_per_piece * block_bytes);
    try {
        stream->thread_ = std::thread([&writer = *stream] { writer.write_pieces(); });
    } catch (const std::system_error& error) {
        return fail_errno("start a thread", error.code().value());
    }
    return stream;
}

BlockStream::~BlockStream() {
    if (!thread_.joinable())
        return;
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

Result<BlockStream::Place> BlockStream::next(BlockKind kind) {
    if (position_ == end_)
        return fail(ErrorKind::no_space, "{} is too small: its {} blocks are not enough", device_.name(), end_);
    Piece& piece = pieces_[filling_];
    if (piece.blocks == blocks_per_piece) {
        TRY(hand_over());
        return next(kind);
    }
    if (piece.blocks == 0)
        piece.first = position_;
    piece.kinds[piece.blocks] = kind;
    Place place{position_, piece.memory.data() + piece.blocks * block_bytes};
    ++piece.blocks;
    ++position_;
    return place;
}

// Lets the thread have the piece that was filled, and waits for the next one to be free.
Result<void> BlockStream::hand_over() {
    std::unique_lock lock(mutex_);
    pieces_[filling_].full = true;
    changed_.notify_all();
    filling_ = (filling_ + 1) % pieces_.size();
    changed_.wait(lock, [&] { return !pieces_[filling_].full; });
    return outcome_;
}

Result<void> BlockStream::wait_until_written(MetadataBlock location) {
    if (pieces_[filling_].blocks > 0 && location >= pieces_[filling_].first)
        TRY(hand_over());
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
        return std::ranges::none_of(
            pieces_, [&](const Piece& piece) { return piece.full && location >= piece.first && location < piece.first + piece.blocks; });
    });
    return outcome_;
}

Result<void> BlockStream::read(MetadataBlock location, BlockKind kind, std::span<std::byte> bytes) {
    TRY(wait_until_written(location));
    std::string where = fmt::format("metadata block {} of {}", location, device_.name());
    TRY_WITHIN(where, read_now(device_, location.value() * block_bytes, bytes));
    TRY_WITHIN(where, pdata::verify_block(bytes, kind, location));
    return {};
}

Result<void> BlockStream::rewrite(MetadataBlock location, BlockKind kind, std::span<std::byte> bytes) {
    TRY(wait_until_written(location));
    pdata::seal_block(bytes, kind, location);
    return write_now(device_, location.value() * block_bytes, bytes);
}

Result<void> BlockStream::finish() {
    if (pieces_[filling_].blocks > 0)
        TRY(hand_over());
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return std::ranges::none_of(pieces_, &Piece::full); });
    return outcome_;
}

void BlockStream::write_pieces() {
    for (std::size_t index = 0;; index = (index + 1) % pieces_.size()) {
        Piece& piece = pieces_[index];
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return stop_ || piece.full; });
            if (stop_)
                return;
        }
        Result<void> outcome = write(piece);
        std::memset(piece.memory.data(), 0, piece.blocks * block_bytes);
        std::lock_guard lock(mutex_);
        if (outcome_ && !outcome)
            outcome_ = std::move(outcome);
        piece.blocks = 0;
        piece.full = false;
        changed_.notify_all();
    }
}

Result<void> BlockStream::write(Piece& piece) {
    for (std::size_t index = 0; index < piece.blocks; ++index)
        pdata::seal_block({piece.memory.data() + index * block_bytes, block_bytes}, piece.kinds[index], piece.first + index);
    return write_now(device_, piece.first.value() * block_bytes, {piece.memory.data(), piece.blocks * block_bytes});
}

}  // namespace lamella::tools
