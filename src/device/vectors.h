// SPDX-License-Identifier: Apache-2.0
//
// Scattered memory (the iovecs of a request) as one array of bytes: copies, fills and sub-ranges by offset.
// Ranges lie within the vectors; the caller has seen to that.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <sys/uio.h>

namespace lamella {

// Calls function(std::byte* memory, std::size_t length) for each piece of bytes [offset, offset + length).
template <typename Function>
void for_each_piece(std::span<const iovec> vectors, std::uint64_t offset, std::uint64_t length, Function function) {
    for (const iovec& vector : vectors) {
        if (length == 0)
            return;
        if (offset >= vector.iov_len) {
            offset -= vector.iov_len;
            continue;
        }
        const std::size_t piece = static_cast<std::size_t>(std::min<std::uint64_t>(vector.iov_len - offset, length));
        function(static_cast<std::byte*>(vector.iov_base) + offset, piece);
        offset = 0;
        length -= piece;
    }
}

inline void copy_to_vectors(std::span<const iovec> vectors, std::uint64_t offset, std::span<const std::byte> bytes) {
    for_each_piece(vectors, offset, bytes.size(), [&](std::byte* memory, std::size_t length) {
        std::memcpy(memory, bytes.data(), length);
        bytes = bytes.subspan(length);
    });
}

inline void copy_from_vectors(std::span<const iovec> vectors, std::uint64_t offset, std::span<std::byte> bytes) {
    for_each_piece(vectors, offset, bytes.size(), [&](const std::byte* memory, std::size_t length) {
        std::memcpy(bytes.data(), memory, length);
        bytes = bytes.subspan(length);
    });
}

inline void zero_vectors(std::span<const iovec> vectors, std::uint64_t offset, std::uint64_t length) {
    for_each_piece(vectors, offset, length, [](std::byte* memory, std::size_t piece) { std::memset(memory, 0, piece); });
}

// Appends the vectors of bytes [offset, offset + length) to `slice`.
inline void slice_vectors(std::span<const iovec> vectors, std::uint64_t offset, std::uint64_t length, std::vector<iovec>& slice) {
    for_each_piece(vectors, offset, length, [&](std::byte* memory, std::size_t piece) { slice.push_back({memory, piece}); });
}

inline std::uint64_t length_of(std::span<const iovec> vectors) {
    std::uint64_t length = 0;
    for (const iovec& vector : vectors)
        length += vector.iov_len;
    return length;
}

}  // namespace lamella
