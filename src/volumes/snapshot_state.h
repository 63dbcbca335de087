// SPDX-License-Identifier: Apache-2.0
//
// What the lists of both engines say of snapshots.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "volumes/volume_group.h"

namespace lamella {

// VolumeInfo::state, from what else is known. Empty: it is no snapshot.
std::string snapshot_state_of(const VolumeInfo& volume);

// When a snapshot is merged into its origin, LVM forgets that the origin's other snapshots are of it. A rollback leaves with each of them
// a tag that says so. The tag has the origin's name at that time.
std::string lineage_tag(std::string_view origin);
// Whether the tags have one, of whatever origin.
bool has_lineage_tag(const std::vector<std::string>& tags);
// The name in the tag; empty: there is none.
std::string origin_by_tag(const std::vector<std::string>& tags);

}  // namespace lamella
