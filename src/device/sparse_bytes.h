// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "device/block_device.h"

namespace lamella {

// A sparse array of bytes in memory. Pages that hold nothing take no room and read as zeros. One thread at a time.
class SparseBytes {
  public:
    static constexpr std::size_t page_bytes = 4096;

    SparseBytes() = default;
    SparseBytes(SparseBytes&&) = default;
    SparseBytes& operator=(SparseBytes&&) = default;
    SparseBytes copy() const;

    // To and from the memory of a request, at `at` bytes into it. With `holes`, pages that hold nothing are reported instead of
    // filled in as long as the list has room.
    void read(std::uint64_t offset, std::uint64_t length, std::span<const iovec> vectors, std::uint64_t at,
              HoleList* holes = nullptr) const;
    void write(std::uint64_t offset, std::span<const std::byte> bytes);
    void write(std::uint64_t offset, std::uint64_t length, std::span<const iovec> vectors, std::uint64_t at);
    // Whole pages are given back unless they are to stay allocated.
    void zero(std::uint64_t offset, std::uint64_t length, bool keep_allocated = false);

    bool holds(std::uint64_t offset) const { return pages_.contains(offset / page_bytes); }
    // Bytes from `offset`, at most `limit`, on pages that hold nothing.
    std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) const;
    std::size_t pages() const { return pages_.size(); }

    // Fills in the extents of [request.offset, end).
    void status(StatusRequest& request, std::uint64_t end) const;

  private:
    AlignedBuffer& page(std::uint64_t number);

    std::unordered_map<std::uint64_t, AlignedBuffer> pages_;
};

}  // namespace lamella
