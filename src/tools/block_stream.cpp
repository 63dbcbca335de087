// SPDX-License-Identifier: Apache-2.0
#include "tools/block_stream.h"

#include <cstring>

namespace lamella::tools {

using pdata::block_bytes;
using pdata::BlockKind;

Result<std::unique_ptr<BlockStream>> BlockStream::start(BlockDevice& device, MetadataBlock first, MetadataBlock end) {
    std::unique_ptr<BlockStream> stream(new BlockStream(device, first, end));
    for (Piece& piece : stream->ring_.pieces())
        piece.memory = AlignedBuffer(blocks_per_piece * block_bytes);
    TRY(stream->ring_.start([&writer = *stream](Piece& piece) { return writer.write(piece); }));
    return stream;
}

Result<BlockStream::Place> BlockStream::next(BlockKind kind) {
    if (position_ == end_)
        return fail(ErrorKind::no_space, "{} is too small: its {} blocks are not enough", device_.name(), end_);
    Piece& piece = ring_.filling();
    if (piece.blocks == blocks_per_piece) {
        TRY(ring_.hand_over());
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

Result<void> BlockStream::wait_until_written(MetadataBlock location) {
    if (const Piece& piece = ring_.filling(); piece.blocks > 0 && location >= piece.first)
        TRY(ring_.hand_over());
    return ring_.wait_until_done([&](const Piece& piece) { return location >= piece.first && location < piece.first + piece.blocks; });
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
    if (ring_.filling().blocks > 0)
        TRY(ring_.hand_over());
    return ring_.wait_until_done([](const Piece&) { return true; });
}

Result<void> BlockStream::write(Piece& piece) {
    for (std::size_t index = 0; index < piece.blocks; ++index)
        pdata::seal_block({piece.memory.data() + index * block_bytes, block_bytes}, piece.kinds[index], piece.first + index);
    const Result<void> written = write_now(device_, piece.first.value() * block_bytes, {piece.memory.data(), piece.blocks * block_bytes});
    std::memset(piece.memory.data(), 0, piece.blocks * block_bytes);
    return written;
}

}  // namespace lamella::tools
