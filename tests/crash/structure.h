// SPDX-License-Identifier: Apache-2.0
//
// Whether a pool's metadata is sound: by walking it here, and by thin_check.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "device/block_device.h"

namespace lamella::crash {

// Every mapping of every device against the reference counts, the counts of used blocks, and the rule that sharers are stamped as
// such. The error says what is wrong.
Result<void> check_structure(BlockDevice& metadata);

// Debian's thin_check on a copy of the metadata.
Result<void> run_thin_check(BlockDevice& metadata);

}  // namespace lamella::crash
