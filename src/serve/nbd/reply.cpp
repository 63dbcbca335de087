// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/reply.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "base/endian.h"

namespace lamella::nbd {

namespace {

constexpr std::size_t structured_header_bytes = 20;

std::size_t header_bytes(const ReplyTo& to) { return to.style == ReplyStyle::extended ? chunk_header_bytes : structured_header_bytes; }

std::size_t put_simple(std::byte* out, const ReplyTo& to, WireError error) {
    store_big<std::uint32_t>(out, simple_reply_magic);
    store_big<std::uint32_t>(out + 4, static_cast<std::uint32_t>(error));
    store_big<std::uint64_t>(out + 8, to.cookie);
    return 16;
}

// `payload`: bytes of the chunk after this header.
std::size_t put_chunk(std::byte* out, const ReplyTo& to, Chunk type, std::uint64_t payload, bool last) {
    assert(to.style != ReplyStyle::simple);
    const bool extended = to.style == ReplyStyle::extended;
    store_big<std::uint32_t>(out, extended ? extended_reply_magic : structured_reply_magic);
    store_big<std::uint16_t>(out + 4, last ? reply_flag_done : 0);
    store_big<std::uint16_t>(out + 6, static_cast<std::uint16_t>(type));
    store_big<std::uint64_t>(out + 8, to.cookie);
    if (extended) {
        store_big<std::uint64_t>(out + 16, to.offset);
        store_big<std::uint64_t>(out + 24, payload);
    } else {
        store_big<std::uint32_t>(out + 16, static_cast<std::uint32_t>(payload));
    }
    return header_bytes(to);
}

std::size_t put_error_chunk(std::byte* out, const ReplyTo& to, Chunk type, WireError error, std::string_view text,
                            std::size_t fields_after) {
    text = text.substr(0, error_text_bytes);
    std::byte* at = out + put_chunk(out, to, type, 6 + text.size() + fields_after, true);
    store_big<std::uint32_t>(at, static_cast<std::uint32_t>(error));
    store_big<std::uint16_t>(at + 4, static_cast<std::uint16_t>(text.size()));
    std::memcpy(at + 6, text.data(), text.size());
    return static_cast<std::size_t>(at - out) + 6 + text.size();
}

std::uint32_t status_value(std::uint8_t context_bit, const StatusExtent& extent) {
    if (context_bit == context::allocation_depth)
        return extent.depth;
    return (extent.allocated ? 0 : state_flag::hole) | (extent.zero ? state_flag::zero : 0);
}

}  // namespace

std::size_t put_success(std::byte* out, const ReplyTo& to, bool read) {
    // Once structured replies are agreed a READ must be answered by one. Everything else still may have the shorter simple reply.
    if (to.style == ReplyStyle::extended || (to.style == ReplyStyle::structured && read))
        return put_chunk(out, to, Chunk::none, 0, true);
    return put_simple(out, to, WireError::none);
}

std::size_t put_error(std::byte* out, const ReplyTo& to, WireError error, std::string_view text) {
    assert(error != WireError::none);
    if (to.style == ReplyStyle::simple)
        return put_simple(out, to, error);
    return put_error_chunk(out, to, Chunk::error, error, text, 0);
}

std::size_t put_error_at(std::byte* out, const ReplyTo& to, WireError error, std::string_view text, std::uint64_t offset) {
    assert(error != WireError::none);
    if (to.style == ReplyStyle::simple)
        return put_simple(out, to, error);
    const std::size_t size = put_error_chunk(out, to, Chunk::error_offset, error, text, 8);
    store_big<std::uint64_t>(out + size, offset);
    return size + 8;
}

std::size_t put_data(std::byte* out, const ReplyTo& to, std::uint64_t offset, std::uint32_t length, bool last) {
    if (to.style == ReplyStyle::simple)
        return put_simple(out, to, WireError::none);
    const std::size_t size = put_chunk(out, to, Chunk::offset_data, 8 + std::uint64_t{length}, last);
    store_big<std::uint64_t>(out + size, offset);
    return size + 8;
}

std::size_t put_hole(std::byte* out, const ReplyTo& to, std::uint64_t offset, std::uint32_t length, bool last) {
    const std::size_t size = put_chunk(out, to, Chunk::offset_hole, 12, last);
    store_big<std::uint64_t>(out + size, offset);
    store_big<std::uint32_t>(out + size + 8, length);
    return size + 12;
}

std::size_t put_status(std::byte* out, const ReplyTo& to, std::uint8_t context_bit, std::span<const StatusExtent> extents, bool last) {
    assert(!extents.empty() && extents.size() <= limits::status_extents);
    const bool extended = to.style == ReplyStyle::extended;
    std::byte* const payload = out + header_bytes(to);
    std::byte* const descriptors = payload + (extended ? 8 : 4);
    std::byte* at = descriptors;
    std::uint32_t count = 0;
    // Extents that differ for one context may be alike for another.
    for (std::size_t i = 0; i < extents.size();) {
        const std::uint32_t value = status_value(context_bit, extents[i]);
        std::uint64_t length = 0;
        for (; i < extents.size() && status_value(context_bit, extents[i]) == value; ++i)
            length += extents[i].length;
        ++count;
        if (extended) {
            store_big<std::uint64_t>(at, length);
            store_big<std::uint64_t>(at + 8, value);
            at += 16;
        } else {
            store_big<std::uint32_t>(at, static_cast<std::uint32_t>(length));
            store_big<std::uint32_t>(at + 4, value);
            at += 8;
        }
    }
    store_big<std::uint32_t>(payload, context_bit);
    if (extended)
        store_big<std::uint32_t>(payload + 4, count);
    put_chunk(out, to, extended ? Chunk::block_status_extended : Chunk::block_status, static_cast<std::uint64_t>(at - payload), last);
    return static_cast<std::size_t>(at - out);
}

WireError wire_error(int error_number) {
    switch (error_number) {
    case 0: return WireError::none;
    case EPERM:
    case EACCES:
    case EROFS: return WireError::not_permitted;
    case ENOMEM: return WireError::no_memory;
    case EINVAL: return WireError::invalid;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return WireError::no_space;
    case EOPNOTSUPP: return WireError::not_supported;
    case ESHUTDOWN: return WireError::shutdown;
    default: return WireError::io;
    }
}

}  // namespace lamella::nbd
