// SPDX-License-Identifier: Apache-2.0
//
// Numbers of the NBD protocol, all big-endian on the wire. Source: doc/proto.md of github.com/NetworkBlockDevice/nbd, branch
// extension-ext-header (which adds extended headers to the text of the master branch).
#pragma once

#include <cstddef>
#include <cstdint>

namespace lamella::nbd {

// Handshake: greeting and options.
constexpr std::uint64_t greeting_magic = 0x4e42444d41474943;  // "NBDMAGIC"
constexpr std::uint64_t option_magic = 0x49484156454f5054;    // "IHAVEOPT"
constexpr std::uint64_t option_reply_magic = 0x0003e889045565a9;

namespace handshake_flag {
constexpr std::uint16_t fixed_newstyle = 1 << 0;
constexpr std::uint16_t no_zeroes = 1 << 1;
}  // namespace handshake_flag

enum class Option : std::uint32_t {
    export_name = 1,
    abort = 2,
    list = 3,
    starttls = 5,
    info = 6,
    go = 7,
    structured_reply = 8,
    list_meta_context = 9,
    set_meta_context = 10,
    extended_headers = 11,
};

enum class OptionReply : std::uint32_t {
    ack = 1,
    server = 2,
    info = 3,
    meta_context = 4,
    error_unsupported = 0x8000'0001,
    error_policy = 0x8000'0002,
    error_invalid = 0x8000'0003,
    error_platform = 0x8000'0004,
    error_tls_required = 0x8000'0005,
    error_unknown = 0x8000'0006,
    error_shutdown = 0x8000'0007,
    error_block_size_required = 0x8000'0008,
    error_too_big = 0x8000'0009,
    error_extended_header_required = 0x8000'000a,
};

enum class Info : std::uint16_t { export_ = 0, name = 1, description = 2, block_size = 3 };

namespace transmission_flag {
constexpr std::uint16_t has_flags = 1 << 0;
constexpr std::uint16_t read_only = 1 << 1;
constexpr std::uint16_t send_flush = 1 << 2;
constexpr std::uint16_t send_fua = 1 << 3;
constexpr std::uint16_t rotational = 1 << 4;
constexpr std::uint16_t send_trim = 1 << 5;
constexpr std::uint16_t send_write_zeroes = 1 << 6;
constexpr std::uint16_t send_df = 1 << 7;
constexpr std::uint16_t can_multi_conn = 1 << 8;
constexpr std::uint16_t send_cache = 1 << 10;
constexpr std::uint16_t send_fast_zero = 1 << 11;
constexpr std::uint16_t block_status_payload = 1 << 12;
}  // namespace transmission_flag

// Transmission: requests.
constexpr std::uint32_t request_magic = 0x25609513;
constexpr std::uint32_t extended_request_magic = 0x21e41c71;
constexpr std::size_t request_bytes = 28;
constexpr std::size_t extended_request_bytes = 32;

enum class Command : std::uint16_t {
    read = 0,
    write = 1,
    disconnect = 2,
    flush = 3,
    trim = 4,
    cache = 5,
    write_zeroes = 6,
    block_status = 7,
};

namespace command_flag {
constexpr std::uint16_t fua = 1 << 0;
constexpr std::uint16_t no_hole = 1 << 1;
constexpr std::uint16_t do_not_fragment = 1 << 2;
constexpr std::uint16_t request_one = 1 << 3;
constexpr std::uint16_t fast_zero = 1 << 4;
constexpr std::uint16_t payload_length = 1 << 5;
}  // namespace command_flag

// Transmission: replies.
constexpr std::uint32_t simple_reply_magic = 0x67446698;
constexpr std::uint32_t structured_reply_magic = 0x668e33ef;
constexpr std::uint32_t extended_reply_magic = 0x6e8a278c;
constexpr std::uint16_t reply_flag_done = 1 << 0;

enum class Chunk : std::uint16_t {
    none = 0,
    offset_data = 1,
    offset_hole = 2,
    block_status = 5,
    block_status_extended = 6,
    error = 0x8001,
    error_offset = 0x8002,
};

// The only errors that may be on the wire; their numbers are Linux's.
enum class WireError : std::uint32_t {
    none = 0,
    not_permitted = 1,
    io = 5,
    no_memory = 12,
    invalid = 22,
    no_space = 28,
    overflow = 75,
    not_supported = 95,
    shutdown = 108,
};

// Metadata contexts, as bits of a set.
namespace context {
constexpr std::uint8_t allocation = 1 << 0;        // base:allocation
constexpr std::uint8_t allocation_depth = 1 << 1;  // qemu:allocation-depth, from qemu's docs/interop/nbd.txt
constexpr std::size_t count = 2;
}  // namespace context

namespace state_flag {
constexpr std::uint32_t hole = 1 << 0;
constexpr std::uint32_t zero = 1 << 1;
}  // namespace state_flag

}  // namespace lamella::nbd
