// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>

#include "device/block_device.h"
#include "pdata/block.h"
#include "tools/piece_ring.h"

namespace lamella::tools {

// Writes a device's blocks from one place on, one after the other. A thread of its own seals and writes them, 1 MiB at a time, while
// the caller fills the next; 4 MiB of memory. Nothing is flushed. One caller at a time. An error stays: every later call returns it.
class BlockStream {
  public:
    // Blocks from `first` up to `end`, which the device has. The device outlives the stream.
    static Result<std::unique_ptr<BlockStream>> start(BlockDevice& device, MetadataBlock first, MetadataBlock end);
    // Without finish(), what isn't written yet may never be.
    ~BlockStream() = default;
    BlockStream(const BlockStream&) = delete;
    BlockStream& operator=(const BlockStream&) = delete;

    struct Place {
        MetadataBlock location{};
        std::byte* bytes = nullptr;  // 4096 zeros, to be filled before the next call; header and checksum are the stream's
    };
    // no_space: the last block was taken before.
    Result<Place> next(pdata::BlockKind kind);
    // Where next() goes on.
    MetadataBlock position() const { return position_; }

    // For blocks that next() handed out before: waits until they are written.
    Result<void> read(MetadataBlock location, pdata::BlockKind kind, std::span<std::byte> bytes);
    Result<void> rewrite(MetadataBlock location, pdata::BlockKind kind, std::span<std::byte> bytes);

    // Returns when all is written.
    Result<void> finish();

  private:
    static constexpr std::size_t blocks_per_piece = 256;
    struct Piece {
        AlignedBuffer memory;
        std::array<pdata::BlockKind, blocks_per_piece> kinds{};
        MetadataBlock first{};
        std::size_t blocks = 0;
        void clear() { blocks = 0; }
    };

    BlockStream(BlockDevice& device, MetadataBlock first, MetadataBlock end) : device_(device), position_(first), end_(end) {}
    Result<void> write(Piece& piece);
    Result<void> wait_until_written(MetadataBlock location);

    BlockDevice& device_;
    MetadataBlock position_;
    MetadataBlock end_;
    PieceRing<Piece> ring_;  // last: its thread uses the rest
};

}  // namespace lamella::tools
