// SPDX-License-Identifier: Apache-2.0
#include "tools/pack.h"

#include <fcntl.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "base/compression.h"
#include "base/endian.h"
#include "tools/metadata_reader.h"
#include "tools/pack_code.h"

namespace lamella::tools {

using pdata::block_bytes;

namespace {

constexpr std::uint64_t pack_version = 3;
constexpr std::size_t header_bytes = 32;
constexpr std::size_t blocks_per_piece = 1024;
// No instructions of ours, nor any sensible ones, take more for a block than this.
constexpr std::size_t max_code_bytes = 2 * block_bytes;
constexpr std::size_t max_piece_bytes = blocks_per_piece * max_code_bytes;
// The largest device that LVM makes for metadata, and more.
constexpr std::uint64_t max_blocks = std::uint64_t{1} << 23;

constexpr std::string_view under_way =
    "This is not the metadata of a thin pool: the unpacking onto it began, and did not end. Unpack once more.\n";

// Gathers blocks on the reader's threads.
class Packer {
  public:
    Packer(const WriteAt& write, unsigned threads) : write_(write), pieces_(threads) {}

    void add(unsigned thread, const ReadBlock& block) {
        if (block.error != 0 || failed_.load(std::memory_order_relaxed))
            return;
        std::optional<pdata::BlockKind> kind = pdata::kind_by_checksum(block.bytes);
        if (!kind)
            return;
        Piece& piece = pieces_[thread];
        std::byte number[8];
        store_little<std::uint64_t>(number, block.location.value());
        piece.code.insert(piece.code.end(), number, number + sizeof number);
        encode_block(block.bytes, *kind, piece.code);
        if (++piece.blocks == blocks_per_piece)
            finish(piece);
    }

    Result<PackReport> finish() {
        for (Piece& piece : pieces_)
            if (piece.blocks > 0)
                finish(piece);
        TRY(outcome_);
        return PackReport{blocks_, end_};
    }

  private:
    struct Piece {
        std::vector<std::byte> code;
        std::size_t blocks = 0;
    };

    void finish(Piece& piece) {
        Result<std::vector<std::byte>> compressed = compress(Compression::zlib, piece.code);
        std::lock_guard lock(mutex_);
        if (compressed && outcome_) {
            std::byte length[8];
            store_little<std::uint64_t>(length, compressed->size());
            outcome_ = write_(end_, length);
            if (outcome_)
                outcome_ = write_(end_ + sizeof length, *compressed);
            end_ += sizeof length + compressed->size();
            blocks_ += piece.blocks;
        } else if (outcome_) {
            outcome_ = std::unexpected(compressed.error());
        }
        failed_ = !outcome_;
        piece.code.clear();
        piece.blocks = 0;
    }

    const WriteAt& write_;
    std::vector<Piece> pieces_;
    std::mutex mutex_;
    Result<void> outcome_;
    std::atomic<bool> failed_ = false;
    std::uint64_t end_ = header_bytes;
    std::uint64_t blocks_ = 0;
};

}  // namespace

Result<PackReport> pack(BlockDevice& metadata, const WriteAt& write, const std::function<Result<void>()>& flush, const Control& control) {
    std::uint64_t blocks = metadata.size() / block_bytes;
    if (blocks == 0 || blocks > max_blocks)
        return fail(ErrorKind::unsupported, "{} has {} blocks, not 1 to {}", metadata.name(), blocks, max_blocks);
    std::byte header[header_bytes] = {};
    TRY(write(0, header));
    std::unique_ptr<MetadataReader> reader = TRY(MetadataReader::start(metadata, {}));
    Packer packer(write, reader->threads());
    MetadataBlockSet all(reader->blocks());
    all.insert_all();
    TRY(reader->read_set(
        all, [&](unsigned thread, const ReadBlock& block) { packer.add(thread, block); }, control));
    PackReport report = TRY(packer.finish());
    TRY(flush());
    store_little<std::uint64_t>(header, pack_magic);
    store_little<std::uint64_t>(header + 8, pack_version);
    store_little<std::uint64_t>(header + 16, block_bytes);
    store_little<std::uint64_t>(header + 24, blocks);
    TRY(write(0, header));
    TRY(flush());
    return report;
}

Result<PackReport> pack_into_file(BlockDevice& metadata, const std::string& file, const Control& control) {
    int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return fail_errno("open " + file);
    const auto write = [&](std::uint64_t offset, std::span<const std::byte> bytes) -> Result<void> {
        while (!bytes.empty()) {
            ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
            if (written < 0 && errno == EINTR)
                continue;
            if (written < 0)
                return fail_errno("write " + file);
            bytes = bytes.subspan(static_cast<std::size_t>(written));
            offset += static_cast<std::uint64_t>(written);
        }
        return {};
    };
    const auto flush = [&]() -> Result<void> {
        if (::fdatasync(fd) != 0)
            return fail_errno("flush " + file);
        return {};
    };
    auto report = pack(metadata, write, flush, control);
    ::close(fd);
    return report;
}

Result<bool> PackReader::take(std::span<std::byte> bytes) {
    for (std::size_t have = 0; have < bytes.size();) {
        if (piece_.empty())
            piece_ = TRY(pack_->next());
        if (piece_.empty() && have == 0)
            return false;
        if (piece_.empty())
            return fail(ErrorKind::damaged, "{}: cut short at byte {}", pack_->name(), at_);
        std::size_t size = std::min(piece_.size(), bytes.size() - have);
        std::memcpy(bytes.data() + have, piece_.data(), size);
        piece_.remove_prefix(size);
        have += size;
        at_ += size;
    }
    return true;
}

Result<PackReader> PackReader::open(TextSource& pack) {
    PackReader reader(pack);
    std::byte header[header_bytes] = {};
    if (!TRY(reader.take({header, 8})) || load_little<std::uint64_t>(header) != pack_magic)
        return fail(ErrorKind::damaged, "{}: Not a pack file", pack.name());
    if (!TRY(reader.take({header + 8, header_bytes - 8})))
        return fail(ErrorKind::damaged, "{}: cut short", pack.name());
    if (auto version = load_little<std::uint64_t>(header + 8); version != pack_version)
        return fail(ErrorKind::unsupported, "{}: packed metadata of version {}, known is {}", pack.name(), version, pack_version);
    if (auto size = load_little<std::uint64_t>(header + 16); size != block_bytes)
        return fail(ErrorKind::damaged, "{}: packed blocks of {} bytes, expected {}", pack.name(), size, block_bytes);
    reader.blocks_ = load_little<std::uint64_t>(header + 24);
    if (reader.blocks_ == 0 || reader.blocks_ > max_blocks)
        return fail(ErrorKind::damaged, "{}: {} packed blocks, not 1 to {}", pack.name(), reader.blocks_, max_blocks);
    return reader;
}

Result<void> PackReader::unpack(BlockDevice& metadata, const Control& control) {
    if (metadata.size() / block_bytes < blocks_)
        return fail(ErrorKind::no_space, "{} has {} blocks, {} are needed", metadata.name(), metadata.size() / block_bytes, blocks_);
    // What was there is no metadata from here on.
    std::vector<std::byte> block(block_bytes);
    std::memcpy(block.data(), under_way.data(), under_way.size());
    TRY(write_now(metadata, 0, block));
    TRY(flush_now(metadata));
    TRY(write_zeroes_now(metadata, block_bytes, (blocks_ - 1) * block_bytes));

    std::vector<std::byte> superblock;
    std::vector<std::byte> compressed;
    for (;;) {
        if (control.stopped())
            return Control::interrupted();
        if (control.progress)
            control.progress(at_, std::max(at_, pack_->size().value_or(at_)));
        std::string where = fmt::format("{}, piece at byte {}", pack_->name(), at_);
        std::byte length_bytes[8];
        if (!TRY(take(length_bytes)))
            break;
        auto length = load_little<std::uint64_t>(length_bytes);
        if (length > max_piece_bytes)
            return fail(ErrorKind::damaged, "{}: of {} bytes, at most {} make sense", where, length, max_piece_bytes);
        compressed.resize(length);
        if (!TRY(take(compressed)) && length > 0)
            return fail(ErrorKind::damaged, "{}: cut short", where);
        std::vector<std::byte> piece = TRY_WITHIN(where, decompress(Compression::zlib, compressed, max_piece_bytes));
        for (std::span<const std::byte> code = piece; !code.empty();) {
            if (code.size() < 8)
                return fail(ErrorKind::damaged, "{}: cut short", where);
            auto number = load_little<std::uint64_t>(code.data());
            code = code.subspan(8);
            if (number >= blocks_)
                return fail(ErrorKind::damaged, "{}: block {} of {}", where, number, blocks_);
            TRY_WITHIN(where, decode_block(code, block));
            if (!pdata::kind_by_checksum(block))
                return fail(ErrorKind::damaged, "{}: block {} has a wrong checksum", where, number);
            if (number == 0)
                superblock = block;
            else
                TRY(write_now(metadata, number * block_bytes, block));
        }
    }
    TRY(flush_now(metadata));
    // Damaged metadata may come without; the note then keeps a kernel from formatting it.
    if (superblock.empty())
        return {};
    TRY(write_now(metadata, 0, superblock));
    return flush_now(metadata);
}

}  // namespace lamella::tools
