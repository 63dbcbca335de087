// SPDX-License-Identifier: Apache-2.0
//
// Thin pools on the host's LVM: made in one command, or of volumes where data and metadata lie on devices of their own; their metadata's
// change of places; the spare.
#include <algorithm>
#include <iterator>
#include <set>

#include "base/uuid.h"
#include "lvm2/group.h"
#include "volumes/kernel_group.h"
#include "volumes/kernel_parts.h"

namespace lamella {

namespace {

using host::LvmVolume;
using host::LvmWords;

void add_devices(LvmWords& words, const std::vector<std::string>& devices) {
    for (const std::string& device : devices)
        words.device(device);
}

void add_stripes(LvmWords& words, const CreatePool& request) {
    if (request.stripes > 1)
        words.option("--stripes", fmt::to_string(request.stripes)).size("--stripesize", request.stripe_size);
}

// What lvcreate and lvconvert both take.
void add_pool_settings(LvmWords& words, std::uint64_t chunk_size, bool zero, const std::string& discards, const std::string& profile) {
    words.size("--chunksize", chunk_size).option("--zero", zero ? "y" : "n").option("--discards", discards);
    if (!profile.empty())
        words.option("--metadataprofile", profile);
}

// A volume that can become a part of a pool. LVM has its own idea of which types it takes.
Result<const LvmVolume*> find_part(const KernelView& view, const std::string& name) {
    const LvmVolume* volume = TRY(view.find(name));
    if (volume->hidden)
        return fail(ErrorKind::refused, "{} is a hidden part of something else", name);
    const VolumeInfo info = view.describe(*volume);
    if (info.kind != VolumeKind::linear && info.kind != VolumeKind::striped && !info.segment_type.starts_with("raid"))
        return fail(ErrorKind::unsupported, "{}: only a linear, striped or raid volume becomes a part of a pool", name);
    if (info.read_only)
        return fail(ErrorKind::refused, "{} is read-only", name);
    for (const LvmVolume& other : view.lvm().volumes) {
        if (other.has_role("thicksnapshot") && other.origin == name)
            return fail(ErrorKind::refused, "{} has the classic snapshot {}", name, other.name);
        if (view.describe(other).external_origin == name)
            return fail(ErrorKind::refused, "{} is the external origin of {}", name, other.name);
    }
    TRY(refuse_in_use(view, *volume));
    return volume;
}

// Where a volume lies on the disks, by its parts where it has some.
std::vector<std::string> places_of(const KernelView& view, const LvmVolume& volume, unsigned depth = 0) {
    constexpr unsigned most_layers = 8;
    std::vector<std::string> places;
    for (const host::LvmSegment& segment : volume.segments)
        for (const std::string& range : segment.pe_ranges) {
            const auto part = view.find(range.substr(0, range.rfind(':')));
            if (!part || depth == most_layers)
                places.push_back(range);
            else
                std::ranges::copy(places_of(view, **part, depth + 1), std::back_inserter(places));
        }
    return places;
}

}  // namespace

// --- Making -----------------------------------------------------------------------------------------------------------------

Result<VolumeInfo> KernelGroup::create_pool(const CreatePool& request, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    TRY(check_new_name(view, request.name));
    TRY(lvm2::check_pool_name(name_, request.name));
    TRY(check_pool_settings(request.chunk_size, request.discards));
    VolumeInfo info = expected(request.name, VolumeKind::thin_pool, "thin-pool", TRY(resolve(view.lvm(), request.size, 0)));
    info.tags = request.tags;
    info.chunk_size = request.chunk_size;
    info.metadata_size = request.metadata_size;
    info.discards = request.discards;
    info.zero_new_blocks = request.zero_new_blocks;
    info.error_when_full = request.error_when_full;
    std::string profile;
    if (request.autoextend_threshold != 0 && !options.dry_run)
        profile = TRY(write_profile(request.autoextend_threshold, request.autoextend_percent));
    info.profile = profile;

    Result<void> watched;
    if (!request.metadata_on.empty() && request.metadata_on != request.data_on)
        info = TRY(create_pool_of_parts(view, request, std::move(info), options, watched));
    else {
        LvmWords words("lvcreate");
        words.option("--type", "thin-pool").option("--yes").new_name("--name", name_, request.name);
        add_new_size(words, request.size);
        if (request.metadata_size)
            words.size("--poolmetadatasize", *request.metadata_size);
        add_stripes(words, request);
        add_pool_settings(words, request.chunk_size, request.zero_new_blocks, request.discards, profile);
        // Its own option lvcreate of 2.03.16 refuses for any pool.
        words.option("--config", fmt::format("activation {{ error_when_full={} }}", request.error_when_full ? 1 : 0));
        add_tags(words, request.tags);
        std::optional<ChangeLock> lock;
        ChangeRecord record{.kind = ChangeRecord::Kind::pool,
                            .tag = unfinished::part_tag(),
                            .pool = request.name,
                            .profile = profile,
                            .sequence_number = view.lvm().sequence_number,
                            .volumes = {{.name = request.name, .id = {}, .tags = request.tags}}};
        if (!profile.empty()) {
            lock.emplace(TRY(lock_changes()));
            TRY(lock->write(record));
            words.tag("--addtag", record.tag);
        }
        words.group(name_);
        add_devices(words, request.data_on);
        auto made = changed(words, request.name, std::move(info), options);
        if (made && lock)
            watched = TRY_WITHIN(fmt::format("pool {} is made", request.name), settle(*lock, Maker::at_work)).watched;
        if (made && lock)
            made = volume(request.name);
        if (!made)
            return std::unexpected(lock ? undone(*lock, record, made.error()) : made.error());
        info = *std::move(made);
    }
    if (options.dry_run)
        return info;
    if (info.error_when_full != request.error_when_full)
        return fail(ErrorKind::failed, "pool {} is made, but writes to it {} when it is full", request.name,
                    info.error_when_full ? "fail" : "wait");
    if (info.discards != request.discards)
        return fail(ErrorKind::failed, "pool {} is made, but with discards={}", request.name, info.discards);
    TRY_WITHIN("the pool is made, but isn't extended automatically", std::move(watched));
    return info;
}

// LVM has no one command for it. Tags tell meanwhile what is being made: see kernel_recovery.cpp. Those of the volumes that become parts
// are gone before they do: a hidden volume keeps its tags.
Result<VolumeInfo> KernelGroup::create_pool_of_parts(const KernelView& view, const CreatePool& request, VolumeInfo info,
                                                     const ChangeOptions& options, Result<void>& watched) {
    if (request.size.base != SizeRequest::Base::bytes)
        return fail(ErrorKind::unsupported, "pool {}: where its metadata lies elsewhere, its size is given in bytes", request.name);
    const std::string metadata = request.name + "-metadata";
    TRY(check_new_name(view, metadata));
    const std::uint64_t metadata_size = request.metadata_size.value_or(
        lvm2::default_metadata_bytes(info.size, static_cast<std::uint32_t>(request.chunk_size / sector_bytes)));
    ChangeRecord record{.kind = ChangeRecord::Kind::parts,
                        .tag = unfinished::part_tag(),
                        .pool = request.name,
                        .pool_tags = request.tags,
                        .profile = info.profile,
                        .sequence_number = view.lvm().sequence_number,
                        .volumes = {{.name = metadata}, {.name = request.name}}};
    LvmWords make_metadata("lvcreate");
    make_metadata.option("--type", "linear").option("--yes").new_name("--name", name_, metadata).size("--size", metadata_size);
    make_metadata.tag("--addtag", record.tag).group(name_);
    add_devices(make_metadata, request.metadata_on);
    LvmWords make_data("lvcreate");
    make_data.option("--type", request.stripes > 1 ? "striped" : "linear").option("--yes").new_name("--name", name_, request.name);
    make_data.size("--size", info.size);
    add_stripes(make_data, request);
    make_data.tag("--addtag", record.tag).group(name_);
    add_devices(make_data, request.data_on);
    if (options.dry_run) {
        TRY(change(make_metadata, true));
        TRY(change(make_data, true));
        info.metadata_size = rounded_up(metadata_size, view.lvm().extent_size);
        return info;
    }

    ChangeLock lock = TRY(lock_changes());
    TRY(lock.write(record));
    const auto make = [&]() -> Result<void> {
        TRY(change(make_metadata, false));
        TRY(made_next(lock, record));
        TRY(change(make_data, false));
        TRY(made_next(lock, record));
        const std::string tag = unfinished::pool_tag(record.volumes[0].id, record.volumes[1].id);
        TRY(change(LvmWords("vgchange").tag("--addtag", tag).group(name_), false));
        TRY(change(LvmWords("lvchange").tag("--deltag", record.tag).volume(name_, metadata).volume(name_, request.name), false));
        LvmWords convert("lvconvert");
        convert.option("--type", "thin-pool").option("--yes").volume_option("--poolmetadata", name_, metadata);
        add_pool_settings(convert, request.chunk_size, request.zero_new_blocks, request.discards, info.profile);
        convert.option("--errorwhenfull", request.error_when_full ? "y" : "n").volume(name_, request.name);
        add_devices(convert, request.metadata_on);  // for the spare
        TRY(change(convert, false));
        const Settled settled = TRY(settle(lock, Maker::at_work));
        if (!settled.done)
            return fail(ErrorKind::failed, "LVM made {} something else than asked for", request.name);
        watched = settled.watched;
        return {};
    };
    if (const auto made = make(); !made)
        return std::unexpected(undone(lock, record, made.error()));
    return volume(request.name);
}

Result<VolumeInfo> KernelGroup::convert_to_pool(const ConvertToPool& request, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    TRY(lvm2::check_pool_name(name_, request.name));
    TRY(check_pool_settings(request.chunk_size, request.discards));
    if (!request.metadata.empty() && request.metadata_size)
        return fail(ErrorKind::usage, "{} has the size that it has", request.metadata);
    if (request.metadata == request.name)
        return fail(ErrorKind::usage, "{} can't be both data and metadata of a pool", request.name);
    const std::string id = TRY(find_part(view, request.name))->id;
    std::string metadata_id;
    LvmWords words("lvconvert");
    words.option("--type", "thin-pool").option("--yes");
    if (!request.metadata.empty()) {
        metadata_id = TRY(find_part(view, request.metadata))->id;
        words.volume_option("--poolmetadata", name_, request.metadata);
    } else if (request.metadata_size) {
        words.size("--poolmetadatasize", *request.metadata_size);
    }
    add_pool_settings(words, request.chunk_size, request.zero_new_blocks, request.discards, {});
    words.option("--errorwhenfull", request.error_when_full ? "y" : "n");
    VolumeInfo info = view.describe(*TRY(view.find(request.name)));
    info.kind = VolumeKind::thin_pool;
    info.segment_type = "thin-pool";
    info.chunk_size = request.chunk_size;
    info.metadata_size = request.metadata_size;
    info.discards = request.discards;
    info.zero_new_blocks = request.zero_new_blocks;
    info.error_when_full = request.error_when_full;
    std::string profile;
    if (request.autoextend_threshold != 0 && !options.dry_run)
        profile = TRY(write_profile(request.autoextend_threshold, request.autoextend_percent));
    // In a trial LVM doesn't deactivate the volume, and then fails because it is active.
    if (options.dry_run && TRY(view.find(request.name))->active())
        return info;
    std::optional<ChangeLock> lock;
    if (!profile.empty()) {
        lock.emplace(TRY(lock_changes()));
        TRY(lock->write({.kind = ChangeRecord::Kind::conversion,
                         .pool = request.name,
                         .profile = profile,
                         .sequence_number = view.lvm().sequence_number,
                         .volumes = {{.name = request.metadata, .id = metadata_id}, {.name = request.name, .id = id}}}));
    }
    auto converted = changed(words.volume(name_, request.name), request.name, std::move(info), options);
    Settled settled;
    if (lock)
        settled = TRY_WITHIN(converted ? fmt::format("{} is a pool now", request.name) : converted.error().message(),
                             settle(*lock, Maker::at_work));
    if (options.dry_run || !converted)
        return converted;
    const VolumeInfo made = TRY(volume(request.name));
    const KernelView after = TRY(look());
    const LvmVolume& pool = *TRY(after.find(request.name));
    const auto data = after.find(pool.data);
    const auto metadata = after.find(pool.metadata);
    // Which of pool and data keeps the volume's id is up to the version of LVM.
    if (made.kind != VolumeKind::thin_pool || (made.id != id && (!data || (*data)->id != id)) || !metadata ||
        (!metadata_id.empty() && (*metadata)->id != metadata_id))
        return fail(ErrorKind::failed, "LVM made {} something else than asked for", request.name);
    if (made.chunk_size != request.chunk_size || made.discards != request.discards || made.error_when_full != request.error_when_full)
        return fail(ErrorKind::failed, "{} is a pool now, but LVM gave it other settings than asked for", request.name);
    TRY_WITHIN("it is a pool now, but isn't extended automatically", std::move(settled.watched));
    return made;
}

// --- Metadata ---------------------------------------------------------------------------------------------------------------

Result<VolumeInfo> KernelGroup::swap_metadata(const std::string& name, const std::string& volume_name, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    const LvmVolume& pool = *TRY(view.find_pool(name));
    // LVM 2.03.22 takes no lock for it, other versions refuse.
    if (view.lvm().shared())
        return fail(ErrorKind::refused, "group {} is shared between hosts: nothing keeps another one from activating pool {} meanwhile",
                    name_, name);
    if (!view.kernel())
        return std::unexpected(view.kernel().error());
    if (view.pool_device(pool) != nullptr)
        return fail(ErrorKind::refused, "pool {} is active: lamella deactivate {}/{} and its volumes first", name, name_, name);
    const LvmVolume& volume = *TRY(find_part(view, volume_name));
    const auto present = view.find(pool.metadata);
    if (!present)
        return fail(ErrorKind::damaged, "LVM reports no metadata of pool {}", name);
    TRY(refuse_in_use(view, **present));
    LvmWords words("lvconvert");
    words.option("--yes").option("--swapmetadata").volume_option("--poolmetadata", name_, volume_name);
    VolumeInfo result = TRY(changed(words.volume(name_, name), name, view.describe(pool), options));
    if (options.dry_run)
        return result;
    const KernelView after = TRY(look());
    const auto metadata = after.find((*TRY(after.find(name))).metadata);
    const auto freed = after.find(volume_name);
    // From 2.03.24 on LVM has the ids change places too, and each goes with its name again: only the extents tell.
    const auto lies_where = [&](const Result<const LvmVolume*>& now, const LvmVolume& before) {
        const std::vector<std::string> places = places_of(view, before);
        return now && !places.empty() && places_of(after, **now) == places;
    };
    if (!lies_where(metadata, volume) || !lies_where(freed, **present) ||
        std::set{(*metadata)->id, (*freed)->id} != std::set{volume.id, (*present)->id})
        return fail(ErrorKind::failed, "LVM says that it is done, and {} isn't the metadata of {}", volume_name, name);
    return result;
}

Result<VolumeInfo> KernelGroup::make_spare(ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    const std::uint64_t extent = view.lvm().extent_size;
    const auto spare_of = [](const KernelView& seen) {
        VolumeInfo spare;
        for (const LvmVolume& volume : seen.lvm().volumes)
            if (VolumeInfo info = seen.describe(volume); info.kind == VolumeKind::spare)
                spare = std::move(info);
        return spare;
    };
    std::string pool;
    std::uint64_t largest = 0;
    for (const LvmVolume& volume : view.lvm().volumes)
        if (view.find_pool(volume.name) && volume.metadata_size.value_or(0) > largest) {
            largest = *volume.metadata_size;
            pool = volume.name;
        }
    if (largest == 0)
        return fail(ErrorKind::usage, "group {} has no thin pool that could need a spare", name_);
    const VolumeInfo present = spare_of(view);
    if (present.size >= largest)
        return present;
    TRY(refuse_without_lock(view, *TRY(view.find(pool))));
    // LVM has no command for it alone. It makes it, as large as the largest metadata, where a pool's metadata is extended; which it does
    // without a word when there is no room for it.
    const std::uint64_t room = view.lvm().free_extents * extent;
    if (room < extent || room - extent < largest + extent - present.size)
        return fail(ErrorKind::no_space, "the spare needs {} bytes more, and the metadata of {} an extent; group {} has {} bytes free",
                    largest + extent - present.size, pool, name_, room);
    TRY(change(LvmWords("lvextend").size("--poolmetadatasize", extent, "+").volume(name_, pool), options.dry_run));
    if (options.dry_run) {
        VolumeInfo spare = expected(present.name.empty() ? "lvol0_pmspare" : present.name, VolumeKind::spare, "linear", largest + extent);
        spare.visible = false;
        return spare;
    }
    VolumeInfo made = spare_of(TRY(look()));
    if (made.size < largest)
        return fail(ErrorKind::failed, "LVM extended the metadata of {}, and made no spare of that size", pool);
    return made;
}

}  // namespace lamella
