// SPDX-License-Identifier: Apache-2.0
//
// What a SizeRequest means in a group. For the engine's own files.
#pragma once

#include <cstdint>

#include "lvm2/group.h"
#include "volumes/volume_group.h"

namespace lamella {

// Errors: usage, for nothing or more than LVM2 can count.
Result<std::uint32_t> checked_extents(std::uint64_t extents);

// The extents that a request means. `current`: of the volume, where it exists.
Result<std::uint64_t> resolve_size(const lvm2::VolumeGroup& group, const SizeRequest& request, std::uint64_t current, bool is_thin);

}  // namespace lamella
