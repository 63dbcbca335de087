// SPDX-License-Identifier: Apache-2.0
#include "device/sparse_bytes.h"

#include <algorithm>
#include <cstring>

#include "device/vectors.h"

namespace lamella {

namespace {

// Calls function(page number, offset within the page, length, bytes done before).
template <typename Function>
void for_each_page(std::uint64_t offset, std::uint64_t length, Function function) {
    constexpr std::uint64_t page_bytes = SparseBytes::page_bytes;
    for (std::uint64_t done = 0; done < length;) {
        const std::uint64_t within = (offset + done) % page_bytes;
        const std::uint64_t piece = std::min(page_bytes - within, length - done);
        function((offset + done) / page_bytes, within, piece, done);
        done += piece;
    }
}

}  // namespace

SparseBytes SparseBytes::copy() const {
    SparseBytes result;
    for (const auto& [number, content] : pages_)
        std::memcpy(result.page(number).data(), content.data(), page_bytes);
    return result;
}

AlignedBuffer& SparseBytes::page(std::uint64_t number) {
    auto found = pages_.find(number);
    if (found == pages_.end())
        found = pages_.emplace(number, AlignedBuffer(page_bytes)).first;
    return found->second;
}

void SparseBytes::read(std::uint64_t offset, std::uint64_t length, std::span<const iovec> vectors, std::uint64_t at,
                       HoleList* holes) const {
    for_each_page(offset, length, [&](std::uint64_t number, std::uint64_t within, std::uint64_t piece, std::uint64_t done) {
        const auto found = pages_.find(number);
        if (found != pages_.end())
            copy_to_vectors(vectors, at + done, found->second.bytes().subspan(within, piece));
        else if (holes == nullptr || !holes->add(at + done, piece))
            zero_vectors(vectors, at + done, piece);
    });
}

void SparseBytes::write(std::uint64_t offset, std::span<const std::byte> bytes) {
    for_each_page(offset, bytes.size(), [&](std::uint64_t number, std::uint64_t within, std::uint64_t piece, std::uint64_t done) {
        std::memcpy(page(number).data() + within, bytes.data() + done, piece);
    });
}

void SparseBytes::write(std::uint64_t offset, std::uint64_t length, std::span<const iovec> vectors, std::uint64_t at) {
    for_each_page(offset, length, [&](std::uint64_t number, std::uint64_t within, std::uint64_t piece, std::uint64_t done) {
        copy_from_vectors(vectors, at + done, page(number).bytes().subspan(within, piece));
    });
}

void SparseBytes::zero(std::uint64_t offset, std::uint64_t length, bool keep_allocated) {
    for_each_page(offset, length, [&](std::uint64_t number, std::uint64_t within, std::uint64_t piece, std::uint64_t) {
        const auto found = pages_.find(number);
        if (keep_allocated)
            std::memset(page(number).data() + within, 0, piece);
        else if (found != pages_.end() && piece == page_bytes)
            pages_.erase(found);
        else if (found != pages_.end())
            std::memset(found->second.data() + within, 0, piece);
    });
}

std::uint64_t SparseBytes::known_zero(std::uint64_t offset, std::uint64_t limit) const {
    const std::uint64_t end = offset + limit;
    std::uint64_t place = offset;
    while (place < end && !holds(place))
        place = std::min(end, (place / page_bytes + 1) * page_bytes);
    return place - offset;
}

void SparseBytes::status(StatusRequest& request, std::uint64_t end) const {
    for (std::uint64_t place = request.offset; place < end;) {
        const std::uint64_t length = std::min(page_bytes - place % page_bytes, end - place);
        const bool allocated = holds(place);
        const std::uint8_t depth = allocated ? 1 : 0;
        if (!request.add({.length = length, .allocated = allocated, .zero = !allocated, .depth = depth}))
            break;
        place += length;
    }
}

}  // namespace lamella
