// SPDX-License-Identifier: Apache-2.0
//
// Which physical extents a logical volume gets: what lvm2 2.03.16 would choose, to the extent (allocation.cpp tells how). Pure
// functions over the model of a group.
//
// The rule in short. A volume goes on in place; then on the physical volumes of its first segment; then anywhere. A new one goes to
// the first physical volumes that hold all of it in one run, each time the tightest such run; else to those with the
// largest runs, and stays on them as long as they last. No two stripes share a physical volume. Physical volumes that are named
// are tried in the order of their names' list. Not followed: what a host's lvm.conf may say (cling_tag_list, maximise_cling,
// *_require_separate_pvs), of which Debian's says nothing, and the policy `anywhere`, which is taken for `normal`.
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

// The group's policy, or the volume's own: what their `allocation_policy` says.
AllocationPolicy allocation_policy(const VolumeGroup& group, const LogicalVolume* volume = nullptr);

// Segments for `extents` more extents of a volume, numbered from `start_extent` on. `extents` is a multiple of the number of
// stripes. `extends`: the volume's present segments; the last one has as many stripes. Where it can go on in place it does, and
// join_segments() makes one of both.
// Errors: no_space, with the number of extents that are missing; usage.
Result<std::vector<Segment>> allocate(const VolumeGroup& group, const Placement& placement, std::uint32_t start_extent,
                                      std::uint32_t extents, std::span<const Segment> extends = {});

// For a new thin pool: the data, and the metadata as one run, away from the data where there are physical volumes enough. Finds room
// in some cases in which LVM fails.
struct PoolSegments {
    std::vector<Segment> data;
    Segment metadata;
};
Result<PoolSegments> allocate_pool(const VolumeGroup& group, const Placement& placement, std::uint32_t data_extents,
                                   std::uint32_t metadata_extents);

// Joins neighbours that are one run on every stripe.
void join_segments(std::vector<Segment>& segments);

}  // namespace lamella::lvm2
