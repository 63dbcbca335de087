// SPDX-License-Identifier: Apache-2.0
//
// Packed metadata: the blocks of a metadata device that hold something, compressed, to be sent to somebody or kept. The format is that of
// thin_metadata_pack 1.x, version 3: magic, version, block size and number of blocks (u64 each), then pieces of a length (u64) and so
// many bytes of zlib; a piece holds blocks, each its number (u64) and instructions that yield its 4096 bytes.
#pragma once

#include <functional>
#include <span>

#include "device/block_device.h"
#include "tools/control.h"
#include "tools/text_source.h"

namespace lamella::tools {

constexpr std::uint64_t pack_magic = 0xa537a0aa6309ef77;

// Writes into the pack at an offset; called by one thread at a time.
using WriteAt = std::function<Result<void>(std::uint64_t offset, std::span<const std::byte> bytes)>;

struct PackReport {
    std::uint64_t blocks = 0;  // packed
    std::uint64_t bytes = 0;   // of the pack
};

// Packs every block whose checksum is that of some kind of block, wherever it lies; damaged metadata can be packed. A block that can't be
// read is left out. The first 32 bytes of the pack are written last, so that what is cut short is no pack. Memory: 10 MiB a thread.
// Making the pack durable is the caller's business, before and after that last write: `flush` is called there.
Result<PackReport> pack(BlockDevice& metadata, const WriteAt& write, const std::function<Result<void>()>& flush,
                        const Control& control = {});

// The same into a file, which is made or replaced, and is durable afterwards.
Result<PackReport> pack_into_file(BlockDevice& metadata, const std::string& file, const Control& control = {});

// Reads a pack. One thread at a time.
class PackReader {
  public:
    // Takes the pack's header from the source, which outlives the reader. damaged: not a pack.
    static Result<PackReader> open(TextSource& pack);

    // How many blocks the packed device had.
    std::uint64_t blocks() const { return blocks_; }

    // Puts the blocks onto a device of at least blocks(); all else on it up to there becomes zeros. Block 0 comes last, when the rest
    // is durable: what is cut short is no metadata, nor is it blank. Once. Errors: damaged, naming the place in the pack; no_space.
    Result<void> unpack(BlockDevice& metadata, const Control& control = {});

  private:
    explicit PackReader(TextSource& pack) : pack_(&pack) {}
    // False: the pack ends here. damaged: it ends within the bytes.
    Result<bool> take(std::span<std::byte> bytes);

    TextSource* pack_;
    std::string_view piece_;
    std::uint64_t at_ = 0;
    std::uint64_t blocks_ = 0;
};

}  // namespace lamella::tools
