// SPDX-License-Identifier: Apache-2.0
#include "cli/dump_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

namespace lamella::cli {

namespace {

constexpr std::size_t piece_bytes = std::size_t{1} << 20;
constexpr std::size_t unit = 4096;  // that O_DIRECT takes everywhere

}  // namespace

Result<std::unique_ptr<DumpFile>> DumpFile::start(int fd, std::string name) {
    std::unique_ptr<DumpFile> file(new DumpFile(fd, std::move(name)));
    const int flags = ::fcntl(fd, F_GETFL);
    file->direct_ = flags >= 0 && ::fcntl(fd, F_SETFL, flags | O_DIRECT) == 0;
    for (Piece& piece : file->ring_.pieces())
        piece.memory = AlignedBuffer(piece_bytes);
    TRY(file->ring_.start([&writer = *file](Piece& piece) { return writer.write(piece); }));
    return file;
}

Result<void> DumpFile::write(std::string_view text) {
    while (!text.empty()) {
        Piece& piece = ring_.filling();
        const std::size_t length = std::min(text.size(), piece_bytes - piece.size);
        std::memcpy(piece.memory.data() + piece.size, text.data(), length);
        piece.size += length;
        size_ += length;
        text.remove_prefix(length);
        if (piece.size == piece_bytes)
            TRY(ring_.hand_over());
    }
    return {};
}

Result<void> DumpFile::finish() {
    if (ring_.filling().size > 0)
        TRY(ring_.hand_over());
    TRY(ring_.wait_until_done([](const Piece&) { return true; }));
    // The last piece was written in whole units.
    if (::ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0 || ::fdatasync(fd_.get()) != 0)
        return fail_errno("flush " + name_);
    return {};
}

Result<void> DumpFile::write(const Piece& piece) {
    const std::size_t length = direct_ ? (piece.size + unit - 1) / unit * unit : piece.size;
    for (std::size_t done = 0; done < length;) {
        const ssize_t count = ::pwrite(fd_.get(), piece.memory.data() + done, length - done, static_cast<off_t>(written_));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return fail_errno("write " + name_);
        done += static_cast<std::size_t>(count);
        written_ += static_cast<std::uint64_t>(count);
    }
    return {};
}

}  // namespace lamella::cli
