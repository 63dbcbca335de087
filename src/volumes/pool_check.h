// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/block_device.h"
#include "volumes/volume_group.h"

namespace lamella {

// Of metadata that nobody changes meanwhile: all of it is read. For the engines' own files.
Result<PoolCheck> check_metadata(BlockDevice& metadata);
// For VolumeGroup::pool_usage().
Result<std::vector<ThinUsage>> thin_usage(BlockDevice& metadata, bool in_metadata_snapshot);

}  // namespace lamella
