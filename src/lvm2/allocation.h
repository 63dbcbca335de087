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

// Segments for `extents` more extents of a volume, numbered from `start_extent` on. `extents` is a multiple of the number of
// stripes. `extends`: the volume's present segments; the last one has as many stripes. Where it can go on in place it does, and
// join_segments() makes one of both.
//
// One run after the other is taken, on as many distinct physical volumes as there are stripes, never two stripes on one:
// in place behind the last segment; on physical volumes of the others; else on the first volumes that hold everything in one run,
// each in its tightest; else in the largest runs there are, and on from there. What LVM 2.03.16 chooses, but for a few extensions in badly
// fragmented groups.
// Errors: no_space, with the number of extents that are missing; usage.
Result<std::vector<Segment>> allocate(const VolumeGroup& group, const Placement& placement, std::uint32_t start_extent,
                                      std::uint32_t extents, std::span<const Segment> extends = {});

// Joins neighbours that are one run on every stripe.
void join_segments(std::vector<Segment>& segments);

}  // namespace lamella::lvm2
