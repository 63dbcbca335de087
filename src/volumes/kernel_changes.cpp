// SPDX-License-Identifier: Apache-2.0
//
// Changes of a group that the host's LVM runs. Each looks first, refuses what the user-space engine refuses, lets LVM do it, and looks
// again: an exit code of 0 alone is no success. (LVM extends an invalid snapshot and calls that a success; it makes a classic snapshot of
// a thin volume where a size is given.)
#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <set>

#include "base/uuid.h"
#include "cow/exception_store.h"
#include "lvm2/group.h"
#include "volumes/kernel_group.h"
#include "volumes/kernel_parts.h"
#include "volumes/snapshot_state.h"

namespace lamella {

namespace {

using host::LvmWords;

constexpr std::uint64_t least_snapshot_chunk = std::uint64_t{lvm2::min_snapshot_chunk_sectors} * sector_bytes;
// Ids in one word of a command, which the kernel takes up to 128 KiB.
constexpr std::size_t most_selected = 2000;

constexpr std::uint64_t most_snapshot_chunk = std::uint64_t{lvm2::max_snapshot_chunk_sectors} * sector_bytes;

// LVM sends a pool its messages as it suspends a volume. One that is suspended already it leaves alone, sends nothing, and calls that a
// success: its text then has a snapshot that the pool hasn't, and their transaction ids part (lvcreate of 2.03.16).
Result<void> refuse_suspended(const KernelView& view, const host::LvmVolume& volume) {
    for (const host::KernelDevice* device : {view.device(volume), view.device(volume, "real"), view.pool_device(volume)})
        if (device != nullptr && device->suspended)
            return fail(ErrorKind::refused, "{} is suspended (dmsetup resume {}), and LVM would take no snapshot though it says so",
                        volume.name, device->name);
    return {};
}

// LVM would go on with a pool that can't take anything, as far as it gets.
Result<void> refuse_bad_pool(const KernelView& view, const host::LvmVolume& pool) {
    TRY(refuse_suspended(view, pool));
    const VolumeInfo info = view.describe(pool);
    if (info.needs_check || info.pool_mode == "Fail" || info.pool_mode == "ro")
        return fail(ErrorKind::refused, "pool {} is {}", pool.name,
                    info.needs_check         ? "in need of a check"
                    : info.pool_mode == "ro" ? "read-only"
                                             : "failed");
    // The kernel says so only after a write has found no room, and a part of a chunk at the end is of no use.
    const std::uint64_t chunk = std::max<std::uint64_t>(1, info.chunk_size.value_or(1));
    if (info.pool_mode == "out_of_data_space" || info.data_used.value_or(0) >= info.size / chunk * chunk)
        return fail(ErrorKind::no_space, "pool {} is full: no chunk is free", pool.name);
    if (info.metadata_used && info.metadata_size && *info.metadata_used >= *info.metadata_size)
        return fail(ErrorKind::no_space, "pool {}: its metadata is full", pool.name);
    return {};
}

// Of a part of the group LVM takes what there is.
Result<void> check_room(const KernelView& view, const std::vector<CreateSnapshot>& requests) {
    const std::uint64_t extent = view.lvm().extent_size;
    std::uint64_t room = view.lvm().free_extents * extent;
    for (const CreateSnapshot& request : requests) {
        const VolumeInfo origin = view.describe(*TRY(view.find(request.origin)));
        if ((origin.kind == VolumeKind::thin && !request.classic) ||
            (request.size.base != SizeRequest::Base::bytes && request.size.base != SizeRequest::Base::percent_of_origin))
            continue;
        const auto chunk_sectors = static_cast<std::uint32_t>(request.chunk_size / sector_bytes);
        const auto wanted = request.size.base == SizeRequest::Base::bytes
                                ? static_cast<unsigned __int128>(request.size.value)
                                : static_cast<unsigned __int128>(origin.size) * request.size.value / 10000;
        const std::uint64_t most = cow::largest_useful_store(origin.size, chunk_sectors);
        const std::uint64_t store = rounded_up(wanted < most ? static_cast<std::uint64_t>(wanted) : most, extent);
        if (store > room)
            return fail(ErrorKind::no_space, "a classic snapshot of {} takes {} bytes, and group {} has {} free for it", request.origin,
                        store, view.lvm().name, room);
        room -= store;
    }
    return {};
}

std::string plain_name(const std::string& origin, const KernelView& view, const std::vector<std::string>& taken) {
    for (unsigned number = 1;; ++number) {
        std::string name = fmt::format("{}-s{}", origin, number);
        if (!view.find(name) && std::ranges::find(taken, name) == taken.end())
            return name;
    }
}

}  // namespace

Result<void> KernelGroup::change(const LvmWords& words, bool trial) {
    // LVM makes no trials in groups that hosts share.
    if (trial && !shared_by_.empty())
        return {};
    report_.reset();
    Result<void> done = lvm_.change(words, trial);
    if (done || shared_by_.empty() || done.error().kind() != ErrorKind::refused)
        return done;
    Error error = done.error().within(fmt::format("group {} is shared between hosts by lvmlockd ({})", name_, shared_by_));
    // Newer versions of LVM tell the id of the host.
    const std::string message = error.message(), told = fmt::format("LV locked by other host: {}/", name_);
    if (const std::size_t at = message.find(told); at != message.npos)
        if (const auto view = look()) {
            std::string name = message.substr(at + told.size());
            name.resize(std::min(name.find_first_of("; "), name.size()));
            const auto volume = view->find(name);
            if (const LockHolder holder = volume ? lock_holder(*view, **volume) : LockHolder(); !holder.who.empty())
                return fail(ErrorKind::refused, "{}; it is {}", message, holder.who);
        }
    return std::unexpected(std::move(error));
}

Result<void> KernelGroup::refuse_without_locking(const KernelView& view) const {
    if (!view.locks() || view.locks()->state == host::HostLocks::State::started)
        return {};
    return fail(ErrorKind::refused, "group {0} is shared between hosts by lvmlockd ({1}), {2}: vgchange --lockstart {0}", name_, shared_by_,
                view.locks()->state == host::HostLocks::State::not_started
                    ? "and its locks aren't started on this host"
                    : "which doesn't answer on this host; start it, and then the group's locks");
}

KernelGroup::LockHolder KernelGroup::lock_holder(const KernelView& view, const host::LvmVolume& volume) {
    const host::LvmGroup& group = view.lvm();
    if (group.lock_type == "dlm") {
        const auto [certain, hosts] = host::dlm_holders(host_.kernel_directory, name_, volume.id);
        const bool one = hosts.size() < 2;
        return {certain, certain || one ? fmt::format("{}", fmt::join(hosts, " and ")) : fmt::format("one of {}", fmt::join(hosts, ", "))};
    }
    if (group.lock_type != "sanlock")
        return {};
    // "1.0.0:lvmlock": the volume with the leases.
    const std::string name = group.lock_arguments.substr(group.lock_arguments.find(':') + 1);
    const auto leases = view.find(name);
    const auto holder = leases
                            ? lvm_.lease_holder((host_.device_directory / lvm2::dm_name(name_, name)).native(), (*leases)->size, volume.id)
                            : std::nullopt;
    return {holder.has_value(), holder.value_or("")};
}

Result<void> KernelGroup::refuse_without_lock(const KernelView& view, const host::LvmVolume& volume) {
    const host::LvmVolume* owner = view.lock_of(volume);
    return owner != nullptr ? refuse_without_lock_of(view, *owner) : Result<void>();
}

Result<void> KernelGroup::refuse_without_lock_of(const KernelView& view, const host::LvmVolume& owner) {
    if (!view.lacks_lock(owner))
        return {};
    const bool is_pool = view.find_pool(owner.name).has_value();
    const std::string what = (is_pool ? "pool " : "") + owner.name;
    if (view.locks_unknown())
        return fail(ErrorKind::refused,
                    "group {} is shared between hosts by lvmlockd, which doesn't answer: who holds the lock of {} "
                    "isn't known",
                    name_, what);
    const LockHolder holder = lock_holder(view, owner);
    const bool another = holder.certain && !holder.who.empty();
    const std::string whose = another              ? "is that of " + holder.who
                              : holder.certain     ? "is no other host's"
                              : holder.who.empty() ? "is free or another host's"
                                                   : "is free or that of " + holder.who;
    if (is_pool && view.pool_device(owner) != nullptr)
        return fail(
            ErrorKind::refused,
            "pool {0} is active here without its lock, which {2}: two hosts that write to it destroy it; lamella deactivate {1}/{0} "
            "--with-contents, at once",
            owner.name, name_, whose);
    // To activate it takes no lock then.
    if (!is_pool && view.device(owner) != nullptr)
        return fail(ErrorKind::refused,
                    "{0} is active here without its lock for this host alone, which {2}: lamella deactivate {1}/{0}, and activate",
                    owner.name, name_, whose);
    return fail(ErrorKind::refused, "group {1} is shared between hosts by lvmlockd, and the lock of {0} {2}{3}", what, name_, whose,
                another ? "" : fmt::format(": lamella activate {}/{} takes it", name_, owner.name));
}

Result<VolumeInfo> KernelGroup::changed(const LvmWords& words, const std::string& name, VolumeInfo expected, const ChangeOptions& options) {
    TRY(change(words, options.dry_run));
    if (options.dry_run)
        return expected;
    return TRY_WITHIN("LVM says that it is done", volume(name));
}

// --- Creating ---------------------------------------------------------------------------------------------------------------

Result<VolumeInfo> KernelGroup::create_volume(const CreateVolume& request, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    TRY(check_new_name(view, request.name));
    LvmWords words("lvcreate");
    words.option("--yes").new_name("--name", name_, request.name);
    const std::uint64_t size = TRY(resolve(view.lvm(), request.size, 0));
    VolumeInfo info = expected(request.name, VolumeKind::linear, "linear", size);
    if (request.linear) {
        words.option("--type", request.stripes > 1 ? "striped" : "linear");
        add_new_size(words, request.size);
        if (request.stripes > 1) {
            words.option("--stripes", fmt::to_string(request.stripes)).size("--stripesize", request.stripe_size);
            info.kind = VolumeKind::striped;
            info.segment_type = "striped";
            info.stripes = request.stripes;
            info.stripe_size = request.stripe_size;
        }
    } else {
        if (request.size.base != SizeRequest::Base::bytes)
            return fail(ErrorKind::usage, "a thin volume's size isn't a part of the group; give bytes");
        if (!request.origin_file.empty())
            return fail(ErrorKind::unsupported,
                        "a thin volume over an image outside of the group: the kernel knows no such; copy the image");
        if (!request.external_origin.empty())
            return fail(ErrorKind::unsupported, "a thin volume on an external origin: LVM makes it of the origin's size; use lvcreate -s");
        std::string pool = request.pool;
        for (const host::LvmVolume& candidate : view.lvm().volumes) {
            if (!request.pool.empty() || !view.find_pool(candidate.name))
                continue;
            if (!pool.empty())
                return fail(ErrorKind::usage, "group {} has several thin pools ({}, {}, ...): name one", name_, pool, candidate.name);
            pool = candidate.name;
        }
        if (pool.empty())
            return fail(ErrorKind::not_found, "group {} has no thin pool", name_);
        TRY(refuse_without_lock(view, *TRY(view.find_pool(pool))));
        TRY(refuse_bad_pool(view, *TRY(view.find_pool(pool))));
        words.option("--type", "thin").size("--virtualsize", size).option("--thinpool", pool);
        info.kind = VolumeKind::thin;
        info.segment_type = "thin";
        info.pool = pool;
    }
    words.option("--permission", request.read_only ? "r" : "rw");
    add_tags(words, request.tags);
    info.tags = request.tags;
    info.read_only = request.read_only;
    return changed(words.group(name_), request.name, std::move(info), options);
}

Result<LvmWords> KernelGroup::snapshot_words(const KernelView& view, const CreateSnapshot& request) const {
    const host::LvmVolume& origin = *TRY(view.find(request.origin));
    LvmWords words("lvcreate");
    words.option("--snapshot").option("--yes").new_name("--name", name_, request.name);
    words.option("--permission", request.read_only ? "r" : "rw");
    add_tags(words, request.tags);
    if (view.describe(origin).kind == VolumeKind::thin && !request.classic) {
        TRY(refuse_bad_pool(view, *TRY(view.find_pool(origin.pool))));
        // A size would make it a classic one.
        return words.volume(name_, request.origin);
    }
    if (request.chunk_size < least_snapshot_chunk || request.chunk_size > most_snapshot_chunk || !std::has_single_bit(request.chunk_size))
        return fail(ErrorKind::usage, "a classic snapshot's chunk size is a power of two from 4 KiB to 512 KiB, not {} bytes",
                    request.chunk_size);
    words.size("--chunksize", request.chunk_size);
    add_new_size(words, request.size);
    return words.volume(name_, request.origin);
}

Result<void> KernelGroup::refuse_open_in_set(const KernelView& view, const host::LvmVolume& origin) {
    if (view.open_count(origin) == 0)
        return {};
    return fail(ErrorKind::unsupported,
                "{} is in use: LVM takes one snapshot after the other, so those of several volumes are of one moment only while none is",
                origin.name);
}

// udev's programs look into each of them after its snapshot was taken, for a moment.
Result<void> KernelGroup::still_closed(const KernelView& before, const std::vector<CreateSnapshot>& requests) {
    Result<void> closed;
    TRY(wait_for_udev([&](const KernelView& view) {
        closed = {};
        for (const host::LvmVolume& volume : view.lvm().volumes)
            for (const CreateSnapshot& request : requests)
                if (closed && volume.name == request.origin && volume.id == (*before.find(request.origin))->id)
                    closed = refuse_open_in_set(view, volume);
        return closed.has_value();
    }));
    return closed;
}

Result<std::vector<VolumeInfo>> KernelGroup::create_snapshots(const std::vector<CreateSnapshot>& requests, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    if (requests.empty())
        return fail(ErrorKind::usage, "no origin named");
    std::vector<CreateSnapshot> named = requests;
    std::vector<std::string> names;
    for (CreateSnapshot& request : named) {
        const host::LvmVolume* origin = TRY(view.find(request.origin));
        if (origin->hidden)
            return fail(ErrorKind::refused, "{} is a hidden part of something else", request.origin);
        // LVM takes one after the other: their moments are the same only when nobody writes between them. To suspend them all before is no
        // way out: see below.
        if (requests.size() > 1) {
            if (!view.kernel())
                return std::unexpected(view.kernel().error());
            TRY(refuse_open_in_set(view, *origin));
        }
        TRY(refuse_without_lock(view, *origin));
        // LVM takes an origin's lock for lvcreate alone; to undo a set that is broken off needs it, too.
        if (requests.size() > 1 && view.lock_of(*origin) == nullptr)
            TRY(refuse_without_lock_of(view, *origin));
        TRY(refuse_suspended(view, *origin));
        if (request.name.empty())
            request.name = plain_name(request.origin, view, names);
        TRY(check_new_name(view, request.name));
        names.push_back(request.name);
    }
    // All or none, also where this process is killed between two of them: see kernel_recovery.cpp.
    const bool tagged = named.size() > 1 && !options.dry_run;
    ChangeRecord record{.tag = unfinished::set_tag(named.size()), .sequence_number = view.lvm().sequence_number};
    std::vector<LvmWords> commands;
    for (CreateSnapshot request : named) {
        record.volumes.push_back({.name = request.name, .id = {}, .tags = request.tags});
        if (tagged)
            request.tags.push_back(record.tag);
        commands.push_back(TRY(snapshot_words(view, request)));
    }
    TRY(check_room(view, named));

    std::optional<ChangeLock> lock;
    if (tagged) {
        lock.emplace(TRY(lock_changes()));
        TRY(lock->write(record));
    }
    std::vector<VolumeInfo> made;
    for (std::size_t i = 0; i < commands.size(); ++i) {
        const host::LvmVolume& origin = *TRY(view.find(named[i].origin));
        const VolumeInfo of = view.describe(origin);
        const bool thin = of.kind == VolumeKind::thin && !named[i].classic;
        VolumeInfo info = expected(names[i], thin ? VolumeKind::thin : VolumeKind::snapshot, thin ? "thin" : "snapshot",
                                   of.store_size ? *of.store_size : of.size);
        info.origin = named[i].origin;
        info.tags = named[i].tags;
        info.read_only = named[i].read_only;
        info.skip_activation = thin;
        if (thin)
            info.pool = of.pool;
        else
            info.chunk_size = named[i].chunk_size;
        Result<VolumeInfo> one = changed(commands[i], names[i], std::move(info), options);
        if (one && one->kind != (thin ? VolumeKind::thin : VolumeKind::snapshot)) {
            record.undoing = true;
            one = fail(ErrorKind::failed, "LVM made {} something else than asked for", names[i]);
        }
        if (one && tagged)
            if (auto remembered = made_next(*lock, record); !remembered)
                one = std::unexpected(remembered.error());
        if (!one)
            return std::unexpected(tagged ? undone(*lock, record, one.error()) : one.error());
        std::erase(one->tags, record.tag);
        made.push_back(*std::move(one));
    }
    if (tagged) {
        if (const auto closed = still_closed(view, named); !closed) {
            record.undoing = true;  // all are there, and not what was asked for
            return std::unexpected(undone(*lock, record, closed.error()));
        }
        LvmWords words("lvchange");
        words.tag("--deltag", record.tag);
        for (const std::string& name : names)
            words.volume(name_, name);
        TRY_WITHIN(fmt::format("{} are made, all of them; their tags", fmt::join(names, ", ")), change(words, false));
        TRY(lock->clear());
    }
    return made;
}

// --- Changing ---------------------------------------------------------------------------------------------------------------

Result<VolumeInfo> KernelGroup::resize(const ResizeVolume& request, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    const host::LvmVolume& volume = *TRY(view.find(request.name));
    VolumeInfo info = view.describe(volume);
    const bool is_pool = info.kind == VolumeKind::thin_pool;
    const bool is_store = info.kind == VolumeKind::snapshot;
    if (request.metadata && !is_pool)
        return fail(ErrorKind::usage, "{} is not a thin pool: it has no metadata to resize", request.name);
    if (volume.hidden)
        return fail(ErrorKind::refused, "{} is a hidden part of something else", request.name);
    TRY(refuse_without_lock(view, volume));
    const bool in_percent = request.size.base != SizeRequest::Base::bytes;
    if (info.kind == VolumeKind::thin && in_percent)
        return fail(ErrorKind::usage, "a thin volume's size isn't a part of the group; give bytes");
    const std::uint64_t current = request.metadata ? info.metadata_size.value_or(0) : volume.size;
    std::uint64_t wanted = 0;
    if (is_store && request.size.base == SizeRequest::Base::percent_of_origin) {
        if (request.size.relation != SizeRequest::Relation::absolute)
            return fail(ErrorKind::usage, "a percentage of the origin is the whole size of a snapshot's store, not a difference");
        wanted = TRY(resolve(view.lvm(), request.size, info.size));
    } else {
        wanted = TRY(resolve(view.lvm(), request.size, current));
    }
    if (is_store) {
        if (info.snapshot_state == "Invalid")
            return fail(ErrorKind::refused, "{} is Invalid: more room doesn't bring back what it lost; remove it", request.name);
        if (wanted < current)
            return fail(ErrorKind::unsupported, "{}: a snapshot's store doesn't become smaller", request.name);
        // More than the origin can ever need is of no use.
        const auto chunk_sectors =
            static_cast<std::uint32_t>(std::min<std::uint64_t>(info.chunk_size.value_or(0) / sector_bytes, UINT32_MAX));
        if (chunk_sectors != 0)
            wanted = std::min(wanted,
                              std::max(current, rounded_up(cow::largest_useful_store(info.size, chunk_sectors), view.lvm().extent_size)));
    }
    if (wanted == current)
        return info;
    const std::string name = request.metadata ? fmt::format("{}'s metadata", request.name) : request.name;
    LvmWords words(wanted < current ? "lvreduce" : "lvextend");
    if (wanted < current) {
        if (is_pool)
            return fail(ErrorKind::unsupported, "{}: LVM doesn't make a thin pool smaller", name);
        if (!request.shrink_allowed)
            return fail(ErrorKind::refused, "{}: what lies beyond {} bytes would be lost", request.name, wanted);
        TRY(refuse_in_use(view, volume));
        words.option("--force").option("--yes").size("--size", wanted);
    } else if (request.metadata) {
        words.size("--poolmetadatasize", wanted - current, "+");
    } else if (in_percent && !is_store) {
        // An upper limit, of which LVM takes as much as it finds in the right shape.
        words.percent(request.size.value, percent_of(request.size.base), request.size.relation == SizeRequest::Relation::grow ? "+" : "");
    } else {
        words.size("--size", wanted);
    }
    if (request.metadata)
        info.metadata_size = wanted;
    else if (is_store)
        info.store_size = wanted;
    else
        info.size = wanted;
    return changed(words.volume(name_, request.name), request.name, std::move(info), options);
}

Result<VolumeInfo> KernelGroup::rename(const std::string& name, const std::string& new_name, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    const host::LvmVolume& volume = *TRY(view.find(name));
    if (volume.hidden)
        return fail(ErrorKind::refused, "{} is a hidden part of something else", name);
    TRY(check_new_name(view, new_name));
    VolumeInfo info = view.describe(volume);
    TRY(refuse_without_lock(view, volume));
    if (info.kind == VolumeKind::thin_pool)
        TRY(lvm2::check_pool_name(name_, new_name));
    info.name = new_name;
    return changed(LvmWords("lvrename").volume(name_, name).new_volume(name_, new_name), new_name, std::move(info), options);
}

Result<VolumeInfo> KernelGroup::change_tags(const std::string& name, const std::vector<std::string>& add,
                                            const std::vector<std::string>& remove, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    VolumeInfo info = view.describe(*TRY(view.find(name)));
    LvmWords words("lvchange");
    for (const std::string& tag : remove) {
        if (std::erase(info.tags, tag) == 0)
            return fail(ErrorKind::not_found, "{}/{} carries no tag {}", name_, name, tag);
        words.tag("--deltag", tag);
    }
    for (const std::string& tag : add) {
        if (std::ranges::find(info.tags, tag) != info.tags.end())
            return fail(ErrorKind::exists, "{}/{} carries the tag {} already", name_, name, tag);
        info.tags.push_back(tag);
        words.tag("--addtag", tag);
    }
    if (add.empty() && remove.empty())
        return info;
    // Whoever takes such a tag away has decided what becomes of the volume: no record undoes it then.
    std::optional<ChangeLock> lock;
    if (!options.dry_run && !unfinished::tag_of(remove).empty()) {
        lock.emplace(TRY(ChangeLock::take(TRY(change_path(view.lvm())))));
        if (const auto record = lock->read(); record && std::ranges::find(remove, record->tag) != remove.end())
            TRY(lock->clear());
    }
    return changed(words.volume(name_, name), name, std::move(info), options);
}

// --- Removing and rolling back ----------------------------------------------------------------------------------------------

Result<void> KernelGroup::refuse_foreign_children(const KernelView& view, const host::LvmVolume& pool) {
    const host::KernelDevice* device = view.pool_device(pool);
    if (device == nullptr)
        return {};
    const std::string ours = "LVM-" + std::string(TRY(LvmId::parse(view.lvm().id)).plain());
    for (const host::KernelDevice& other : TRY(host_.mapper->devices({}))) {
        if (other.uuid.starts_with(ours) || other.status.empty() || other.status.front().type != "thin")
            continue;
        const auto below = TRY(host_.mapper->dependencies(other.name));
        if (std::ranges::find(below, device->number) != below.end())
            return fail(ErrorKind::refused, "device {} stands on pool {}, and LVM doesn't know it: whoever made it has to remove it first",
                        other.name, pool.name);
    }
    return {};
}

Result<void> KernelGroup::remove(const std::vector<std::string>& names, bool with_contents, ChangeOptions options) {
    return remove_volumes(names, with_contents, options, Recorded::yes);
}

// `ids`: of the volumes that are meant, when that is known already; else they are those that have the names now.
Result<void> KernelGroup::remove_volumes(const std::vector<std::string>& names, bool with_contents, ChangeOptions options,
                                         Recorded recorded, const std::set<std::string>* ids_meant) {
    const KernelView view = TRY(look_to_change());
    // What stands on what, of all that stays: looked up, as both may be thousands.
    const std::set<std::string_view> named(names.begin(), names.end());
    std::map<std::string, const host::LvmVolume*> snapshot_of, image_of;
    for (const host::LvmVolume& other : view.lvm().volumes)
        if (!named.contains(other.name)) {
            if (other.has_role("thicksnapshot"))
                snapshot_of.emplace(other.origin, &other);
            if (const std::string origin = view.describe(other).external_origin; !origin.empty())
                image_of.emplace(origin, &other);
        }
    // Snapshots go before their origins, and pools last: LVM takes what hangs on a volume along, and then doesn't find it any more.
    enum Turn { snapshots, volumes, pools, turns };
    std::array<std::vector<std::string>, turns> ids;
    for (const std::string& name : names) {
        const host::LvmVolume& volume = *TRY(view.find(name));
        const VolumeInfo info = view.describe(volume);
        if (ids_meant != nullptr && !ids_meant->contains(volume.id))
            return fail(ErrorKind::refused, "{} is another volume by now", name);
        TRY(refuse_without_lock(view, volume));
        TRY(refuse_in_use(view, volume));
        if (volume.merging.value_or(false))
            return fail(ErrorKind::refused, "{} is being merged into {}", name, volume.origin);
        if (volume.hidden)
            return fail(ErrorKind::refused, "{} is a hidden part of something else", name);
        if (const auto found = snapshot_of.find(name); found != snapshot_of.end())
            return fail(ErrorKind::refused, "{} has the classic snapshot {}, which would be lost with it: remove both", name,
                        found->second->name);
        if (const auto found = image_of.find(name); found != image_of.end())
            return fail(ErrorKind::refused, "{} is the external origin of {}", name, found->second->name);
        if (info.kind == VolumeKind::thin_pool) {
            for (const host::LvmVolume& other : view.lvm().volumes)
                if (other.pool == name && !named.contains(other.name)) {
                    if (!with_contents)
                        return fail(ErrorKind::refused, "pool {} holds volumes, {} among them", name, other.name);
                    if (const auto found = snapshot_of.find(other.name); found != snapshot_of.end())
                        return fail(ErrorKind::refused,
                                    "{} has the classic snapshot {}, which isn't in the pool and would be lost with it: "
                                    "remove both",
                                    other.name, found->second->name);
                    TRY(refuse_in_use(view, other));
                }
            TRY(refuse_foreign_children(view, volume));
        }
        // By id: a name may be another volume's by now.
        const std::string id = TRY(LvmId::parse(volume.id)).dashed();
        ids[info.kind == VolumeKind::snapshot    ? snapshots
            : info.kind == VolumeKind::thin_pool ? pools
                                                 : volumes]
            .push_back("lv_uuid=" + id);
    }
    std::vector<LvmWords> commands;
    for (const std::vector<std::string>& turn : ids) {
        // A trial of LVM's doesn't deactivate an active pool, and then has an internal error for finding it active.
        if (options.dry_run && &turn == &ids[pools])
            continue;
        for (std::size_t i = 0; i < turn.size(); i += most_selected)
            commands.push_back(LvmWords("lvremove")
                                   .option("--yes")
                                   .option("--select", fmt::format("{}", fmt::join(turn.begin() + static_cast<std::ptrdiff_t>(i),
                                                                                   turn.begin() + static_cast<std::ptrdiff_t>(std::min(
                                                                                                      turn.size(), i + most_selected)),
                                                                                   "||")))
                                   .group(name_));
    }
    std::optional<ChangeLock> lock;
    if (recorded == Recorded::yes && commands.size() > 1 && !options.dry_run) {
        ChangeRecord record{.kind = ChangeRecord::Kind::removal, .sequence_number = view.lvm().sequence_number};
        for (const std::string& name : names)
            record.volumes.push_back({.name = name, .id = (*view.find(name))->id});
        lock.emplace(TRY(lock_changes()));
        TRY(lock->write(record));
    }
    // The commands before may have taken long, and LVM takes along what hangs on a volume.
    const auto nothing_came = [&]() -> Result<void> {
        std::set<std::string_view> known;
        for (const host::LvmVolume& volume : view.lvm().volumes)
            known.insert(volume.id);
        const KernelView now = TRY(look_to_change());
        for (const host::LvmVolume& volume : now.lvm().volumes)
            if (!known.contains(volume.id) &&
                (named.contains(volume.pool) || (volume.has_role("thicksnapshot") && named.contains(volume.origin))))
                return fail(ErrorKind::refused, "{} was made of {} meanwhile, and would go with it", volume.name,
                            named.contains(volume.pool) ? volume.pool : volume.origin);
        return {};
    };
    Result<void> done;
    for (std::size_t i = 0; i < commands.size() && done; ++i) {
        if (i > 0 && !options.dry_run)
            done = nothing_came();
        if (done)
            done = change(commands[i], options.dry_run);
    }
    if (!done && lock) {
        const auto settled = settle(*lock, Maker::at_work);
        return settled && !settled->said.empty() ? fail(done.error().kind(), "{}; {}", done.error().message(), settled->said)
                                                 : std::unexpected(done.error());
    }
    TRY(done);
    if (lock)
        TRY(lock->clear());
    if (options.dry_run)
        return {};
    const KernelView after = TRY(look());
    for (const std::string& name : names)
        if (const auto left = after.find(name); left && (*left)->id == (*view.find(name))->id)
            return fail(ErrorKind::failed, "{} is still there, though LVM calls it removed", name);
    return {};
}

// LVM forgets of whom the other snapshots of the origin are.
Result<void> KernelGroup::remember_origin(const KernelView& view, const host::LvmVolume& origin, const host::LvmVolume& merged,
                                          std::optional<ChangeLock>& lock) {
    LvmWords words("lvchange");
    words.tag("--addtag", lineage_tag(origin.name));
    bool any = false;
    for (const host::LvmVolume& other : view.lvm().volumes)
        if (other.origin == origin.name && other.pool == origin.pool && !other.pool.empty() && other.id != merged.id && !other.hidden &&
            !has_lineage_tag(other.tags)) {
            words.volume(name_, other.name);
            any = true;
        }
    if (!any)
        return {};
    lock.emplace(TRY(lock_changes()));
    TRY(lock->write({.kind = ChangeRecord::Kind::rollback,
                     .sequence_number = view.lvm().sequence_number,
                     .volumes = {{.name = origin.name, .id = origin.id}, {.name = merged.name, .id = merged.id}}}));
    return change(words, false);
}

Result<VolumeInfo> KernelGroup::rollback(const std::string& name, const std::string& snapshot_name, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    const host::LvmVolume& volume = *TRY(view.find(name));
    const host::LvmVolume& snapshot = *TRY(view.find(snapshot_name));
    const VolumeInfo info = view.describe(snapshot);
    const bool classic = info.kind == VolumeKind::snapshot;
    if (info.origin != name || !(classic || info.kind == VolumeKind::thin))
        return fail(ErrorKind::usage, "{} is not a snapshot of {}", snapshot_name, name);
    if (classic && !volume.active())
        return fail(ErrorKind::refused, "{} isn't active, so nothing is merged into it: lamella activate {}/{}", name, name_, name);
    if (info.snapshot_state == "merging") {
        // Begun already; LVM goes on with it by itself while the origin is active.
        if (classic)
            return view.describe(volume);
        return fail(ErrorKind::refused, "{} waits for its merge into {}, which is in use: it happens when that is activated next",
                    snapshot_name, name);
    }
    if (info.snapshot_state == "Merge failed")
        return fail(ErrorKind::refused,
                    "merging {} into {} met an error, and goes on when {} is made a device anew: lamella deactivate {}/{}, and activate",
                    snapshot_name, name, name, name_, name);
    TRY(refuse_without_lock(view, snapshot));
    TRY(refuse_in_use(view, volume));
    TRY(refuse_in_use(view, snapshot));
    if (classic && !info.snapshot_state.empty() && info.snapshot_state != "active")
        return fail(ErrorKind::refused, "{} is {}: what it held of {} is lost", snapshot_name, info.snapshot_state, name);
    std::optional<ChangeLock> lock;
    if (!classic && !options.dry_run)
        TRY(remember_origin(view, volume, snapshot, lock));
    LvmWords words("lvconvert");
    words.option("--yes");
    if (classic)
        words.option("--background").option("--interval", "1");
    words.option("--merge");
    auto merged = changed(words.volume(name_, snapshot_name), name, view.describe(volume), options);
    if (lock)
        TRY_WITHIN(merged ? "it is rolled back" : merged.error().message(), settle(*lock, Maker::at_work));
    const VolumeInfo result = TRY(std::move(merged));
    if (!classic && !options.dry_run) {
        const KernelView now = TRY(look());
        if (const auto left = now.find(snapshot_name); left && (*left)->id == snapshot.id)
            return fail(ErrorKind::refused, "{} came into use meanwhile: {} is merged into it when it is activated next", name,
                        snapshot_name);
    }
    return result;
}

// --- What the kernel engine doesn't do ----------------------------------------------------------------------------------------

Result<std::uint64_t> KernelGroup::trim(const std::string& pool, ChangeOptions) {
    TRY(TRY(look()).find_pool(pool));
    return fail(ErrorKind::unsupported,
                "pool {}: the kernel passes on what file systems discard, and has no way to discard what is free already: use fstrim",
                pool);
}

}  // namespace lamella
