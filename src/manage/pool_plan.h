// SPDX-License-Identifier: Apache-2.0
//
// How large the parts of a new thin pool should be, so that it can still grow, and be repaired, when it fills.
#pragma once

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "volumes/volume_group.h"

namespace lamella::manage {

struct PoolNeeds {
    std::optional<std::uint64_t> data;      // bytes; nullopt: as much as the rest leaves room for
    std::optional<std::uint64_t> metadata;  // bytes; nullopt: by the chunks and volumes
    std::uint64_t chunk_size = 64 * 1024;   // bytes
    std::uint64_t volumes = 0;              // expected, snapshots too
    // Room that stays free in the group, for so many automatic extensions by so many percent.
    unsigned extensions = 2;
    unsigned percent = 20;
};

// Bytes, in whole extents.
struct PoolPlan {
    std::uint64_t data = 0;
    std::uint64_t metadata = 0;
    std::uint64_t spare = 0;    // what the group's spare metadata volume has to grow by
    std::uint64_t reserve = 0;  // for the extensions, of metadata and spare too
    std::uint64_t left = 0;     // free beyond all that
};

// Bytes of metadata for so many chunks and volumes: LVM's rule of thumb, or the estimate of thin_metadata_size if that is more.
Result<std::uint64_t> metadata_needed(std::uint64_t data, std::uint64_t chunk_size, std::uint64_t volumes);

// Bytes, in whole extents: the most metadata that LVM gives a pool, as the kernel uses no more.
std::uint64_t most_metadata(std::uint64_t extent);

// Bytes, in whole extents, by which a pool's metadata grows along when its data is extended by `more`: LVM, and the user-space engine too,
// give it what a new pool of that size would have.
std::uint64_t metadata_growth(const VolumeInfo& pool, std::uint64_t more, std::uint64_t extent);

// Bytes by which the group's spare grows along when a pool's metadata is extended by `more`, as far as there is room: as LVM does, so that
// it is as large as the largest pool's.
std::uint64_t spare_growth(const std::vector<VolumeInfo>& volumes, const std::string& pool, std::uint64_t more);

// `free`, `extent` and `spare` (what there is of it): bytes. no_space: says how much each part would take. Room on single physical
// volumes isn't looked at; making the pool does.
Result<PoolPlan> plan_pool(std::uint64_t free, std::uint64_t extent, std::uint64_t spare, const PoolNeeds& needs);

}  // namespace lamella::manage
