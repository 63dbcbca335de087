// SPDX-License-Identifier: Apache-2.0
//
// Replies of the transmission phase as bytes. Every function writes at `out`, which has room for as much as the constants here say,
// and returns how many bytes it wrote. Data of a READ isn't copied: it follows the header that put_data() wrote.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "device/io_request.h"
#include "serve/nbd/limits.h"
#include "serve/nbd/wire.h"

namespace lamella::nbd {

enum class ReplyStyle : std::uint8_t { simple, structured, extended };

// To which request a reply belongs.
struct ReplyTo {
    ReplyStyle style;
    std::uint64_t cookie;
    std::uint64_t offset;  // of the request; extended replies repeat it
};

constexpr std::size_t chunk_header_bytes = 32;
constexpr std::size_t data_header_bytes = chunk_header_bytes + 8;
constexpr std::size_t hole_bytes = chunk_header_bytes + 12;
constexpr std::size_t error_text_bytes = 256;  // longer texts are cut
constexpr std::size_t error_bytes = chunk_header_bytes + 14 + error_text_bytes;
constexpr std::size_t status_bytes = chunk_header_bytes + 8 + 16 * limits::status_extents;

// Success without data: every command but a READ of more than nothing and BLOCK_STATUS.
std::size_t put_success(std::byte* out, const ReplyTo& to, bool read);

// `text` is for people; simple replies have no room for it.
std::size_t put_error(std::byte* out, const ReplyTo& to, WireError error, std::string_view text);
// As put_error(), and says at which byte of the export. Simple replies have no room for that either.
std::size_t put_error_at(std::byte* out, const ReplyTo& to, WireError error, std::string_view text, std::uint64_t offset);

// The header of `length` bytes from `offset` on. In simple style these are all that was asked for.
std::size_t put_data(std::byte* out, const ReplyTo& to, std::uint64_t offset, std::uint32_t length, bool last);
// Not in simple style.
std::size_t put_hole(std::byte* out, const ReplyTo& to, std::uint64_t offset, std::uint32_t length, bool last);

// One context's answer to BLOCK_STATUS (not in simple style): at least one extent, at most limits::status_extents; together no
// longer than the request.
std::size_t put_status(std::byte* out, const ReplyTo& to, std::uint8_t context_bit, std::span<const StatusExtent> extents, bool last);

// What a client may be told about an errno.
WireError wire_error(int error_number);

}  // namespace lamella::nbd
