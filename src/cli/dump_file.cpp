// SPDX-License-Identifier: Apache-2.0
#include "cli/dump_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

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
    for (Piece& piece : file->pieces_)
        piece.memory = AlignedBuffer(piece_bytes);
    try {
        file->thread_ = std::thread([&writer = *file] { writer.write_pieces(); });
    } catch (const std::system_error& error) {
        return fail_errno("start a thread", error.code().value());
    }
    return file;
}

DumpFile::~DumpFile() {
    if (thread_.joinable()) {
        {
            std::lock_guard lock(mutex_);
            stop_ = true;
        }
        changed_.notify_all();
        thread_.join();
    }
    ::close(fd_);
}

Result<void> DumpFile::write(std::string_view text) {
    while (!text.empty()) {
        Piece& piece = pieces_[filling_];
        const std::size_t length = std::min(text.size(), piece_bytes - piece.size);
        std::memcpy(piece.memory.data() + piece.size, text.data(), length);
        piece.size += length;
        size_ += length;
        text.remove_prefix(length);
        if (piece.size == piece_bytes)
            TRY(hand_over());
    }
    return {};
}

// Lets the thread have the piece that was filled, and waits for the next one to be free.
Result<void> DumpFile::hand_over() {
    std::unique_lock lock(mutex_);
    pieces_[filling_].full = true;
    changed_.notify_all();
    filling_ = (filling_ + 1) % pieces_.size();
    changed_.wait(lock, [&] { return !pieces_[filling_].full; });
    return outcome_;
}

Result<void> DumpFile::finish() {
    if (pieces_[filling_].size > 0)
        TRY(hand_over());
    {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return std::ranges::none_of(pieces_, &Piece::full); });
        if (!outcome_)
            return outcome_;
    }
    // The last piece was written in whole units.
    if (::ftruncate(fd_, static_cast<off_t>(size_)) != 0 || ::fdatasync(fd_) != 0)
        return fail_errno("flush " + name_);
    return {};
}

void DumpFile::write_pieces() {
    for (std::size_t index = 0;; index = (index + 1) % pieces_.size()) {
        Piece& piece = pieces_[index];
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return stop_ || piece.full; });
            if (stop_)
                return;
        }
        Result<void> outcome = write(piece);
        std::lock_guard lock(mutex_);
        if (outcome_ && !outcome)
            outcome_ = std::move(outcome);
        piece.size = 0;
        piece.full = false;
        changed_.notify_all();
    }
}

Result<void> DumpFile::write(const Piece& piece) {
    const std::size_t length = direct_ ? (piece.size + unit - 1) / unit * unit : piece.size;
    for (std::size_t done = 0; done < length;) {
        const ssize_t count = ::pwrite(fd_, piece.memory.data() + done, length - done, static_cast<off_t>(written_));
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
