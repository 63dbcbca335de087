// SPDX-License-Identifier: Apache-2.0
//
// Copies the content of a thin volume out of a pool that nobody runs, from the pool's two devices to another device.
#pragma once

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "device/block_device.h"
#include "tools/transfer_map.h"

namespace lamella::tools {

struct TransferSize {
    std::uint64_t copied = 0;  // bytes of whole data blocks
    std::uint64_t end =
        0;  // of the last data block that is copied or gone, in bytes: the volume is at least so large, or has become smaller
};
// What a transfer would do. Reads the mappings as transfer_map() does.
Result<TransferSize> measure_transfer(BlockDevice& metadata, const TransferOptions& options);

struct TransferReport {
    std::uint64_t copied = 0;  // bytes
    std::uint64_t zeroed = 0;
    std::uint64_t left = 0;  // of the volume, but neither copied nor made zeros; 0 with a base
};

struct TransferTarget {
    BlockDevice& device;
    std::uint64_t size = 0;    // of the volume in bytes; what is mapped beyond it isn't copied. At most the device's
    bool zero_rest = false;    // make zeros of what the volume doesn't map; not with a base, where that is what the base has
    std::uint64_t memory = 0;  // bytes for what is under way between the devices, at least 4096
};

// Copies what the volume maps, or has changed since the base, which the target must hold then: what is mapped there only becomes zeros.
// Durable when it returns. Stops when told. Errors: as transfer_map(), and those of the devices.
Result<TransferReport> transfer(BlockDevice& metadata, BlockDevice& data, const TransferTarget& target, const TransferOptions& options);

}  // namespace lamella::tools
