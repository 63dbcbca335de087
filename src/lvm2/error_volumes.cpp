// SPDX-License-Identifier: Apache-2.0
//
// Volumes of type "error": they take no room, and whatever is read from them fails.
#include <algorithm>

#include "lvm2/change_parts.h"

namespace lamella::lvm2 {

bool is_error_segment(const Segment& segment) { return segment.type == "error" && segment.as<Opaque>() != nullptr && segment.kept.empty(); }

bool is_error_volume(const LogicalVolume& volume) {
    return !volume.segments.empty() && std::ranges::all_of(volume.segments, is_error_segment);
}

Result<void> create_error_volume(VolumeGroup& group, const NewVolume& request, std::uint32_t extents) {
    TRY(check_new(group, request));
    if (extents == 0)
        return fail(ErrorKind::usage, "{}/{}: a volume of no size", group.name, request.name);
    LogicalVolume volume = make_volume(request);
    volume.segments.push_back(whole_segment("error", extents, Opaque{}));
    group.logical_volumes.push_back(std::move(volume));
    return {};
}

}  // namespace lamella::lvm2
