// SPDX-License-Identifier: Apache-2.0
//
// Which physical extents a logical volume gets: LVM's `normal` policy. Pure functions over the model of a group.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "lvm2/group.h"

namespace lamella::lvm2 {

// Extents of one physical volume, next to each other.
struct ExtentRun {
    std::uint32_t first = 0;
    std::uint32_t count = 0;
    bool operator==(const ExtentRun&) const = default;
};

// The free extents of the physical volume with this name ("pv0"), ascending. Extents that segments of unknown types may use count
// as used.
std::vector<ExtentRun> free_runs(const VolumeGroup& group, std::string_view physical_volume);
// Free extents in total, on physical volumes that may be allocated from. `allowed` as in Placement.
std::uint64_t free_extents(const VolumeGroup& group, std::span<const std::string> allowed = {});

// Segments for `extents` more extents of a volume, numbered from `start_extent` on; the first one may continue `extends`' last
// segment, in which case it stands right after it on the same physical volumes and has the same shape: join_segments() makes
// one of both. `extents` is a multiple of the number of stripes.
//
// With one stripe: where the last segment can go on in place it does; else the largest free run of an allowed physical volume
// that holds everything (the first volume that has one); else pieces over as many runs and volumes as it takes.
// With more: as many distinct physical volumes as stripes, in pieces if it must be.
// Errors: no_space, with the number of extents that are missing; usage.
Result<std::vector<Segment>> allocate(const VolumeGroup& group, const Placement& placement, std::uint32_t start_extent,
                                      std::uint32_t extents, const LogicalVolume* extends = nullptr);

// Joins neighbours that are one run on every stripe.
void join_segments(std::vector<Segment>& segments);

}  // namespace lamella::lvm2
