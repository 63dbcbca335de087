// SPDX-License-Identifier: Apache-2.0
#include "volumes/kernel_parts.h"

#include "host/device_users.h"
#include "lvm2/group.h"

namespace lamella {

using host::LvmWords;

std::string_view percent_of(SizeRequest::Base base) {
    switch (base) {
    case SizeRequest::Base::percent_of_free: return "FREE";
    case SizeRequest::Base::percent_of_physical_volumes: return "PVS";
    case SizeRequest::Base::percent_of_origin: return "ORIGIN";
    case SizeRequest::Base::percent_of_group:
    case SizeRequest::Base::bytes: break;
    }
    return "VG";
}

void add_new_size(LvmWords& words, const SizeRequest& size) {
    if (size.base == SizeRequest::Base::bytes)
        words.size("--size", size.value);
    else
        words.percent(size.value, percent_of(size.base));
}

void add_tags(LvmWords& words, const std::vector<std::string>& tags) {
    for (const std::string& tag : tags)
        words.tag("--addtag", tag);
}

std::uint64_t rounded_up(std::uint64_t bytes, std::uint64_t unit) {
    return bytes > UINT64_MAX - unit ? bytes : (bytes + unit - 1) / unit * unit;
}

Result<std::uint64_t> resolve(const host::LvmGroup& group, const SizeRequest& request, std::uint64_t current) {
    std::uint64_t bytes = 0;
    if (request.base == SizeRequest::Base::bytes) {
        bytes = rounded_up(request.value, group.extent_size);
    } else {
        const std::uint64_t whole = request.base == SizeRequest::Base::percent_of_free     ? group.free_extents
                                    : request.base == SizeRequest::Base::percent_of_origin ? current / group.extent_size
                                                                                           : group.extents;
        bytes = static_cast<std::uint64_t>(static_cast<unsigned __int128>(whole) * request.value / 10000) * group.extent_size;
    }
    if (request.relation == SizeRequest::Relation::grow && bytes > UINT64_MAX - current)
        return fail(ErrorKind::usage, "a size of {} more bytes is more than LVM2 can count", bytes);
    if (request.relation == SizeRequest::Relation::shrink && bytes >= current)
        return fail(ErrorKind::usage, "nothing would be left");
    bytes = request.relation == SizeRequest::Relation::grow     ? current + bytes
            : request.relation == SizeRequest::Relation::shrink ? current - bytes
                                                                : bytes;
    if (bytes == 0)
        return fail(ErrorKind::usage, "a size of nothing");
    return bytes;
}

VolumeInfo expected(const std::string& name, VolumeKind kind, std::string segment_type, std::uint64_t size) {
    VolumeInfo info;
    info.name = name;
    info.kind = kind;
    info.segment_type = std::move(segment_type);
    info.size = size;
    return info;
}

Result<void> refuse_in_use(const KernelView& view, const host::LvmVolume& volume) {
    if (const std::uint32_t count = view.open_count(volume); count > 0) {
        const std::vector<std::string> users = host::users_of("/dev/mapper/" + view.device(volume)->name);
        if (users.empty())
            return fail(ErrorKind::refused, "volume {} is in use ({} times open)", volume.name, count);
        return fail(ErrorKind::refused, "volume {} is in use: {}", volume.name, fmt::join(users, ", "));
    }
    if (!view.kernel() && volume.attribute(5) == 'o')
        return fail(ErrorKind::refused, "volume {} is in use", volume.name);
    return {};
}

Result<void> check_new_name(const KernelView& view, const std::string& name) {
    TRY(lvm2::check_volume_name(view.lvm().name, name));
    if (view.find(name))
        return fail(ErrorKind::exists, "group {} has a volume {} already", view.lvm().name, name);
    return {};
}

Result<void> check_pool_settings(std::uint64_t chunk_size, const std::string& discards) {
    if (chunk_size < lvm2::min_chunk_bytes || chunk_size > lvm2::max_chunk_bytes || chunk_size % lvm2::min_chunk_bytes != 0)
        return fail(ErrorKind::usage, "chunk size {} is not a multiple of 64 KiB between 64 KiB and 1 GiB", chunk_size);
    if (discards != "passdown" && discards != "nopassdown" && discards != "ignore")
        return fail(ErrorKind::usage, "discards are passdown, nopassdown or ignore, not '{:.40}'", discards);
    return {};
}

}  // namespace lamella
