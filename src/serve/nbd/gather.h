// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cassert>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include <sys/uio.h>

namespace lamella::nbd {

// What one send takes: headers, which are built here, and data that stays where it is. Neighbouring headers share a vector.
class Gather {
  public:
    static constexpr std::size_t header_bytes = 256 << 10;
    static constexpr std::size_t vectors = 1024;  // IOV_MAX
    static constexpr std::size_t bytes_wanted = 4 << 20;

    Gather() : headers_(new std::byte[header_bytes]) { list_.reserve(vectors); }

    void clear() {
        list_.clear();
        used_ = 0;
        bytes_ = 0;
    }

    // Whether so many bytes of headers and so many vectors can be added, and more is wanted at all.
    bool has_room(std::size_t headers, std::size_t more_vectors) const {
        return used_ + headers <= header_bytes && list_.size() + more_vectors <= vectors && bytes_ < bytes_wanted;
    }

    // Where the next header goes; then added with its length.
    std::byte* header() { return headers_.get() + used_; }
    void add_header(std::size_t length) {
        std::byte* const at = header();
        assert(used_ + length <= header_bytes);
        used_ += length;
        bytes_ += length;
        if (!list_.empty() && static_cast<std::byte*>(list_.back().iov_base) + list_.back().iov_len == at)
            list_.back().iov_len += length;
        else
            list_.push_back({at, length});
    }
    void add_data(const std::byte* data, std::size_t length) {
        bytes_ += length;
        list_.push_back({const_cast<std::byte*>(data), length});
    }

    std::size_t bytes() const { return bytes_; }

    // What is gathered but for the first `sent` bytes.
    std::span<const iovec> without(std::size_t sent) {
        bytes_ -= sent;
        std::size_t first = 0;
        for (; sent > 0 && sent >= list_[first].iov_len; ++first)
            sent -= list_[first].iov_len;
        if (sent > 0) {
            list_[first].iov_base = static_cast<std::byte*>(list_[first].iov_base) + sent;
            list_[first].iov_len -= sent;
        }
        return std::span(list_).subspan(first);
    }

  private:
    std::unique_ptr<std::byte[]> headers_;
    std::vector<iovec> list_;
    std::size_t used_ = 0;
    std::size_t bytes_ = 0;
};

}  // namespace lamella::nbd
