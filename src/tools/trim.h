// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "device/block_device.h"
#include "tools/check.h"

namespace lamella::tools {

struct TrimReport {
    std::uint64_t blocks = 0;  // free ones that were discarded
    std::uint64_t ranges = 0;
    std::uint32_t data_block_sectors = 0;
};

// Discards every data block of a pool that nothing refers to, the metadata snapshot included. The whole metadata is checked first, and
// nothing is discarded unless it is sound but for leaks: damaged. With `dry_run` nothing is discarded at all. The pool is in nobody's use;
// `still_whole` is asked when the metadata are read and nothing is discarded yet, and what it fails with is the end. Other errors:
// unsupported (the data device can't discard), usage (it is smaller than the pool).
Result<TrimReport> trim(BlockDevice& metadata, BlockDevice& data, bool dry_run = false, const Control& control = {},
                        const std::function<Result<void>()>& still_whole = {});

}  // namespace lamella::tools
