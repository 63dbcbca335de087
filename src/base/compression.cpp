// SPDX-License-Identifier: Apache-2.0
#include "base/compression.h"

#include <isa-l/igzip_lib.h>

namespace lamella {

namespace {

std::uint8_t* input(std::span<const std::byte> bytes) {
    return reinterpret_cast<std::uint8_t*>(const_cast<std::byte*>(bytes.data()));  // isa-l only reads it
}

}  // namespace

Result<std::vector<std::byte>> compress(Compression format, std::span<const std::byte> bytes) {
    std::vector<std::byte> level_memory(ISAL_DEF_LVL1_DEFAULT);
    std::vector<std::byte> compressed(bytes.size() + bytes.size() / 8 + 1024);
    isal_zstream stream;
    isal_deflate_init(&stream);
    stream.level = 1;
    stream.level_buf = reinterpret_cast<std::uint8_t*>(level_memory.data());
    stream.level_buf_size = static_cast<std::uint32_t>(level_memory.size());
    stream.gzip_flag = format == Compression::gzip ? IGZIP_GZIP : IGZIP_ZLIB;
    stream.end_of_stream = 1;
    stream.flush = NO_FLUSH;
    stream.next_in = input(bytes);
    stream.avail_in = static_cast<std::uint32_t>(bytes.size());
    stream.next_out = reinterpret_cast<std::uint8_t*>(compressed.data());
    stream.avail_out = static_cast<std::uint32_t>(compressed.size());
    if (isal_deflate(&stream) != COMP_OK || stream.internal_state.state != ZSTATE_END)
        return fail(ErrorKind::failed, "compression failed");
    compressed.resize(stream.total_out);
    return compressed;
}

Result<std::vector<std::byte>> decompress(Compression format, std::span<const std::byte> compressed, std::size_t most_bytes) {
    std::vector<std::byte> bytes(most_bytes);
    inflate_state state;
    isal_inflate_init(&state);
    state.crc_flag = format == Compression::gzip ? IGZIP_GZIP : IGZIP_ZLIB;
    state.next_in = input(compressed);
    state.avail_in = static_cast<std::uint32_t>(compressed.size());
    state.next_out = reinterpret_cast<std::uint8_t*>(bytes.data());
    state.avail_out = static_cast<std::uint32_t>(bytes.size());
    const int result = isal_inflate(&state);
    // Bits that were taken and not used are of bytes behind the end.
    if (result != ISAL_DECOMP_OK || state.block_state != ISAL_BLOCK_FINISH || state.avail_in != 0 || state.read_in_length >= 8)
        return fail(ErrorKind::damaged, "not {}'s format, cut short, or of more than {} bytes",
                    format == Compression::gzip ? "gzip" : "zlib", most_bytes);
    bytes.resize(state.total_out);
    return bytes;
}

bool is_gzip(std::string_view bytes) { return bytes.starts_with("\x1f\x8b"); }

}  // namespace lamella
