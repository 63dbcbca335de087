// SPDX-License-Identifier: Apache-2.0
#include "device/file_operation.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace lamella {

namespace {
constexpr std::size_t max_vectors = 1024;  // IOV_MAX of Linux
constexpr int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int zero_range = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

alignas(4096) constexpr std::byte zeros[64 * 1024] = {};
}  // namespace

void FileOperation::start(int fd, bool is_block_device, IoRequest& request) {
    request_ = &request;
    fd_ = fd;
    is_block_device_ = is_block_device;
    done_ = 0;
    vector_ = 0;
    within_ = 0;
    step_ = Step{};
    switch (request.operation) {
    case IoOperation::read:
    case IoOperation::write: prepare_transfer(); break;
    case IoOperation::flush: step_.call = Call::sync; break;
    case IoOperation::discard:
        if (is_block_device) {
            step_ = Step{.call = Call::discard, .offset = request.offset, .length = request.length};
        } else {
            allocate(punch);
        }
        break;
    case IoOperation::write_zeroes:
        // On a block device PUNCH_HOLE is the kernel's "zero it by command, unmapping or not, or say no", while ZERO_RANGE keeps
        // the range allocated and writes zeros if it must.
        allocate(request.keep_allocated ? zero_range : punch);
        break;
    }
}

void FileOperation::prepare_transfer() {
    const bool reading = request_->operation == IoOperation::read;
    step_ = Step{.call = reading ? Call::read : Call::write,
                 .flags = !reading && request_->durable ? RWF_DSYNC : 0,
                 .offset = request_->offset + done_};
    std::span<const iovec> left = request_->vectors.subspan(vector_);
    left = left.first(std::min(left.size(), max_vectors));
    if (within_ == 0) {
        step_.vectors = left.data();
    } else {
        rest_.assign(left.begin(), left.end());
        rest_.front().iov_base = static_cast<std::byte*>(rest_.front().iov_base) + within_;
        rest_.front().iov_len -= within_;
        step_.vectors = rest_.data();
    }
    step_.vector_count = static_cast<unsigned>(left.size());
}

void FileOperation::prepare_zeros() {
    std::uint64_t left = request_->length - done_;
    rest_.clear();
    while (left > 0 && rest_.size() < 16) {
        const std::size_t piece = static_cast<std::size_t>(std::min<std::uint64_t>(left, sizeof zeros));
        rest_.push_back({const_cast<std::byte*>(zeros), piece});
        left -= piece;
    }
    step_ = Step{.call = Call::write,
                 .vectors = rest_.data(),
                 .vector_count = static_cast<unsigned>(rest_.size()),
                 .offset = request_->offset + done_};
}

void FileOperation::allocate(int mode) {
    step_ = Step{.call = Call::allocate, .flags = mode, .offset = request_->offset, .length = request_->length};
}

std::optional<int> FileOperation::advance(long result) {
    if (result == -EINTR || result == -EAGAIN)
        return std::nullopt;
    switch (step_.call) {
    case Call::sync:
    case Call::discard: return static_cast<int>(-result);
    case Call::allocate:
        if (request_->operation == IoOperation::discard)
            return static_cast<int>(-result);
        if (result == -EOPNOTSUPP)
            return zeroes_refused();
        return result < 0 ? std::optional(static_cast<int>(-result)) : finish_zeroes();
    case Call::read:
    case Call::write: break;
    }
    if (result < 0)
        return static_cast<int>(-result);
    // Nothing at all: the file ends before the device does, somebody has cut it.
    if (result == 0)
        return EIO;
    done_ += static_cast<std::uint64_t>(result);
    if (request_->operation == IoOperation::write_zeroes) {
        if (done_ == request_->length)
            return finish_zeroes();
        prepare_zeros();
        return std::nullopt;
    }
    if (done_ == request_->length)
        return 0;
    within_ += static_cast<std::size_t>(result);
    while (vector_ < request_->vectors.size() && within_ >= request_->vectors[vector_].iov_len) {
        within_ -= request_->vectors[vector_].iov_len;
        ++vector_;
    }
    prepare_transfer();
    return std::nullopt;
}

std::optional<int> FileOperation::zeroes_refused() {
    if (step_.flags == punch && !(is_block_device_ && request_->fast_only)) {
        allocate(zero_range);
        return std::nullopt;
    }
    if (request_->fast_only)
        return EOPNOTSUPP;
    prepare_zeros();
    return std::nullopt;
}

std::optional<int> FileOperation::finish_zeroes() {
    if (!request_->durable)
        return 0;
    step_ = Step{.call = Call::sync};
    return std::nullopt;
}

long FileOperation::perform() const {
    long result = 0;
    switch (step_.call) {
    case Call::read:
        result = ::preadv2(fd_, step_.vectors, static_cast<int>(step_.vector_count), static_cast<off_t>(step_.offset), step_.flags);
        break;
    case Call::write:
        result = ::pwritev2(fd_, step_.vectors, static_cast<int>(step_.vector_count), static_cast<off_t>(step_.offset), step_.flags);
        break;
    case Call::sync: result = ::fdatasync(fd_); break;
    case Call::allocate: result = ::fallocate(fd_, step_.flags, static_cast<off_t>(step_.offset), static_cast<off_t>(step_.length)); break;
    case Call::discard: {
        std::uint64_t range[2] = {step_.offset, step_.length};
        result = ::ioctl(fd_, BLKDISCARD, range);
        break;
    }
    }
    return result < 0 ? -errno : result;
}

}  // namespace lamella
