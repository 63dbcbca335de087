// SPDX-License-Identifier: Apache-2.0
//
// Parts that changes of a group's model are made of. For the files that make changes; nobody else includes this.
#pragma once

#include <string>
#include <string_view>

#include "lvm2/group.h"

namespace lamella::lvm2 {

// Errors: not_found; refused, while its extents are being moved.
Result<LogicalVolume*> find(VolumeGroup& group, std::string_view name);

Result<LogicalVolume*> find_pool(VolumeGroup& group, std::string_view name);

// Errors: refused, when another volume stands on this one. The pool of a thin volume, and thin origins, are no such use; a classic
// snapshot is none when not `origins_too`.
Result<void> check_not_used(const VolumeGroup& group, const LogicalVolume& volume, bool origins_too = true);

// To a multiple of the stripes. Errors: usage: nothing, or more than LVM2 counts.
Result<std::uint32_t> round_up(std::uint32_t extents, std::uint32_t stripes);

// Null: there is none.
LogicalVolume* find_spare(VolumeGroup& group);

// Name and tags of a volume to be are valid and free, and the group takes one more.
Result<void> check_new(const VolumeGroup& group, const NewVolume& volume);

LogicalVolume make_volume(std::string name, const Stamp& created, bool visible, bool read_only = false);
// A visible one, as asked for.
LogicalVolume make_volume(const NewVolume& request);

template <typename Body>
Segment whole_segment(std::string type, std::uint32_t extents, Body body) {
    Segment segment;
    segment.extent_count = extents;
    segment.type = std::move(type);
    segment.body = std::move(body);
    return segment;
}

// Adds `extents` to a volume of stripes.
Result<void> extend_striped(VolumeGroup& group, LogicalVolume& volume, std::uint32_t extents, const Placement& placement);

// "lvolN" with the first number above those that are there.
std::string free_numbered_name(const VolumeGroup& group, std::string_view beginning);

void erase_volume(VolumeGroup& group, std::string_view name);

bool is_error_segment(const Segment& segment);

}  // namespace lamella::lvm2
