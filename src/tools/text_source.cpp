// SPDX-License-Identifier: Apache-2.0
#include "tools/text_source.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <system_error>
#include <utility>

namespace lamella::tools {

namespace {
constexpr std::size_t piece_bytes = std::size_t{1} << 20;
}

Result<std::unique_ptr<FileSource>> FileSource::open(const std::string& path) {
    std::unique_ptr<FileSource> source(new FileSource);
    source->name_ = path;
    source->fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (source->fd_ < 0)
        return fail_errno("open " + path);
    struct stat status;
    if (::fstat(source->fd_, &status) != 0)
        return fail_errno("stat " + path);
    if (S_ISDIR(status.st_mode))
        return fail_errno("read " + path, EISDIR);
    if (S_ISREG(status.st_mode)) {
        source->size_ = static_cast<std::uint64_t>(status.st_size);
        ::posix_fadvise(source->fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
    }
    source->stop_fd_ = ::eventfd(0, EFD_CLOEXEC);
    if (source->stop_fd_ < 0)
        return fail_errno("eventfd");
    for (Piece& piece : source->pieces_)
        piece.bytes = std::make_unique_for_overwrite<char[]>(piece_bytes);
    try {
        source->thread_ = std::thread([&reader = *source] { reader.read_ahead(); });
    } catch (const std::system_error& error) {
        return fail_errno("start a thread", error.code().value());
    }
    return source;
}

FileSource::~FileSource() {
    if (thread_.joinable()) {
        {
            std::lock_guard lock(mutex_);
            stop_ = true;
        }
        changed_.notify_all();
        std::uint64_t one = 1;
        while (::write(stop_fd_, &one, sizeof one) < 0 && errno == EINTR) {}
        thread_.join();
    }
    if (stop_fd_ >= 0)
        ::close(stop_fd_);
    if (fd_ >= 0)
        ::close(fd_);
}

Result<std::string_view> FileSource::next() {
    std::unique_lock lock(mutex_);
    if (given_ != nullptr) {
        std::exchange(given_, nullptr)->full = false;
        changed_.notify_all();
    }
    Piece& piece = pieces_[next_];
    changed_.wait(lock, [&] { return piece.full; });
    if (piece.size == 0) {
        TRY(outcome_);
        return std::string_view();
    }
    given_ = &piece;
    next_ = (next_ + 1) % pieces_.size();
    return std::string_view(piece.bytes.get(), piece.size);
}

void FileSource::read_ahead() {
    for (std::size_t index = 0;; index = (index + 1) % pieces_.size()) {
        Piece& piece = pieces_[index];
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return stop_ || !piece.full; });
            if (stop_)
                return;
        }
        Result<std::size_t> size = read(piece.bytes.get());
        std::lock_guard lock(mutex_);
        if (!size)
            outcome_ = std::unexpected(std::move(size).error());
        piece.size = size.value_or(0);
        piece.full = true;
        changed_.notify_all();
        if (piece.size == 0)
            return;
    }
}

// Fills a piece as far as there is something; 0 at the end, or when told to stop.
Result<std::size_t> FileSource::read(char* bytes) {
    std::size_t size = 0;
    while (size < piece_bytes) {
        if (!size_) {
            pollfd ready[2] = {{fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
            if (::poll(ready, 2, -1) < 0 && errno != EINTR)
                return fail_errno("wait for " + name_);
            if (ready[1].revents != 0)
                return 0;
        }
        ssize_t got = ::read(fd_, bytes + size, piece_bytes - size);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got < 0)
            return fail_errno("read " + name_);
        size += static_cast<std::size_t>(got);
        // What a pipe has goes on at once.
        if (got == 0 || !size_)
            break;
    }
    return size;
}

}  // namespace lamella::tools
