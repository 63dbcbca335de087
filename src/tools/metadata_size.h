// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/result.h"

namespace lamella::tools {

// Bytes of metadata that are enough for a pool: its leaves half full, a tree for each thin device. The estimate of thin_metadata_size 1.x;
// never more than the format allows. usage: a data block size that the format doesn't have, or a pool smaller than one.
Result<std::uint64_t> metadata_size(std::uint64_t pool_bytes, std::uint64_t data_block_bytes, std::uint64_t thin_devices);

}  // namespace lamella::tools
