// SPDX-License-Identifier: Apache-2.0
//
// zlib's format (RFC 1950) and gzip's (RFC 1952), of what fits in memory.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lamella {

enum class Compression { zlib, gzip };

// One stream, or one member. Errors: failed.
Result<std::vector<std::byte>> compress(Compression format, std::span<const std::byte> bytes);

// Of foreign bytes. Memory: `most_bytes`, the most that may come out. Errors: damaged, also for more than that, for a wrong checksum, and
// for what follows the end.
Result<std::vector<std::byte>> decompress(Compression format, std::span<const std::byte> compressed, std::size_t most_bytes);

// Begins with gzip's two magic bytes, as no text does.
bool is_gzip(std::string_view bytes);

}  // namespace lamella
