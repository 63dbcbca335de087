// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"
#include "tools/control.h"
#include "tools/findings.h"

namespace lamella::tools {

// `data` is where a volume's blocks from `virtual_begin` on lie.
struct ReverseMapping {
    DataRange data;
    ThinId volume{};
    VirtualBlock virtual_begin{};
    bool operator==(const ReverseMapping&) const = default;
};

// Which volumes use the data blocks of these ranges, and for what: every one of them, also where they share leaves. In ascending order
// of data blocks, then of volumes; runs as long as they can be. Errors: damaged, usage (an empty range), failed. Memory: as check(),
// and 40 bytes a run.
Result<std::vector<ReverseMapping>> reverse_map(BlockDevice& metadata, std::span<const DataRange> ranges, const Control& control = {});

}  // namespace lamella::tools
