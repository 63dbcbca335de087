// SPDX-License-Identifier: Apache-2.0
#include "volumes/size_request.h"

#include "lvm2/allocation.h"

namespace lamella {

Result<std::uint32_t> checked_extents(std::uint64_t extents) {
    if (extents == 0)
        return fail(ErrorKind::usage, "a size of nothing");
    if (extents > UINT32_MAX)
        return fail(ErrorKind::usage, "a size of {} extents is more than LVM2 can count", extents);
    return static_cast<std::uint32_t>(extents);
}

Result<std::uint64_t> resolve_size(const lvm2::VolumeGroup& group, const SizeRequest& request, std::uint64_t current, bool is_thin) {
    std::uint64_t extents = 0;
    using Base = SizeRequest::Base;
    std::uint64_t whole = 0;
    switch (request.base) {
    case Base::bytes: extents = group.extents_for(request.value); break;
    case Base::percent_of_origin: whole = current; break;
    case Base::percent_of_free:
    case Base::percent_of_group:
    case Base::percent_of_physical_volumes:
        if (is_thin)
            return fail(ErrorKind::usage, "a thin volume's size isn't a part of the group; give bytes");
        if (request.base == Base::percent_of_free)
            whole = lvm2::free_extents(group);
        else
            for (const lvm2::PhysicalVolume& physical : group.physical_volumes)
                whole += physical.extent_count;
        break;
    }
    if (request.base != Base::bytes)
        extents = static_cast<std::uint64_t>(static_cast<unsigned __int128>(whole) * request.value / 10000);
    switch (request.relation) {
    case SizeRequest::Relation::absolute: return extents;
    case SizeRequest::Relation::grow: return current + extents;
    case SizeRequest::Relation::shrink: break;
    }
    if (extents >= current)
        return fail(ErrorKind::usage, "nothing would be left");
    return current - extents;
}

}  // namespace lamella
