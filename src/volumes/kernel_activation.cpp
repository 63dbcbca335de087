// SPDX-License-Identifier: Apache-2.0
//
// Volumes of a group that the host's LVM runs as devices of this host, or no longer.
#include <algorithm>
#include <set>
#include <unordered_set>

#include "volumes/kernel_group.h"
#include "volumes/kernel_parts.h"

namespace lamella {

namespace {

using host::LvmVolume;
using host::LvmWords;

// With a classic snapshot its origin is meant, as by LVM: neither is a device without the other.
const LvmVolume& as_one(const KernelView& view, const LvmVolume& volume) {
    if (view.describe(volume).kind == VolumeKind::snapshot)
        if (const auto origin = view.find(volume.origin))
            return **origin;
    return volume;
}

// What would become active or inactive, in the order in which it can.
Result<std::vector<const LvmVolume*>> meant(const KernelView& view, const SetActive& request) {
    std::vector<const LvmVolume*> volumes, pools;
    std::unordered_set<const LvmVolume*> seen;
    const auto add = [&](const LvmVolume& volume) {
        if (volume.active() != request.active && seen.insert(&volume).second)
            (view.find_pool(volume.name) ? pools : volumes).push_back(&volume);
    };
    for (const std::string& name : request.names) {
        const LvmVolume& volume = as_one(view, *TRY(view.find(name)));
        if (volume.hidden)
            return fail(ErrorKind::refused, "{} is a hidden part of something else", name);
        if (request.active && !request.ignore_skip && volume.skip_activation.value_or(false))
            return fail(ErrorKind::refused, "{} is marked to be skipped, as thin snapshots are: with --ignore-skip it is activated", name);
        add(volume);
        if (request.with_contents)
            for (const LvmVolume& other : view.lvm().volumes)
                if (other.pool == name && !other.hidden &&
                    (!request.active || request.ignore_skip || !other.skip_activation.value_or(false)))
                    add(other);
    }
    if (request.names.empty())
        for (const LvmVolume& volume : view.lvm().volumes)
            if (!volume.hidden && (!request.active || request.ignore_skip || !volume.skip_activation.value_or(false)))
                add(as_one(view, volume));
    // A pool's device goes after those of its volumes.
    volumes.insert(volumes.end(), pools.begin(), pools.end());
    return volumes;
}

}  // namespace

Result<void> KernelGroup::refuse_used_by_others(const KernelView& view, const std::vector<const LvmVolume*>& leaving) {
    std::set<std::string_view> names;
    for (const LvmVolume* volume : leaving) {
        TRY(refuse_in_use(view, *volume));
        names.insert(volume->name);
    }
    for (const LvmVolume& other : view.lvm().volumes) {
        if (names.contains(other.name))
            continue;
        if (other.has_role("thicksnapshot") && names.contains(other.origin))
            TRY(refuse_in_use(view, other));
        if (names.contains(other.pool) && other.active())
            return fail(ErrorKind::refused, "pool {} has {} active, which stands on it", other.pool, other.name);
    }
    for (const LvmVolume* volume : leaving) {
        if (!view.find_pool(volume->name))
            continue;
        for (const PoolDependent& dependent : TRY(pool_dependents(volume->name)))
            if (dependent.foreign)
                return fail(ErrorKind::refused,
                            "device {} stands on pool {}, and LVM doesn't know it: whoever made it has to remove it first", dependent.name,
                            volume->name);
    }
    return {};
}

Result<std::vector<VolumeInfo>> KernelGroup::set_active(const SetActive& request, ChangeOptions options) {
    const KernelView view = TRY(look_to(Purpose::activate));
    const std::vector<const LvmVolume*> volumes = TRY(meant(view, request));
    if (request.active)
        TRY(refuse_without_locking(view));
    else
        TRY(refuse_used_by_others(view, volumes));
    std::vector<VolumeInfo> result;
    LvmWords words("lvchange");
    words.option("--activate", request.active ? "y" : "n");
    if (request.active && request.ignore_skip)
        words.option("--ignoreactivationskip");
    for (const LvmVolume* volume : volumes) {
        VolumeInfo info = view.describe(*volume);
        if (request.active && volume->attribute(8) == 'p')
            return fail(ErrorKind::refused, "{}: {}; name the others", volume->name, info.refused);
        info.active = request.active;
        result.push_back(std::move(info));
        words.volume(name_, volume->name);
    }
    if (volumes.empty())
        return result;
    TRY(change(words, options.dry_run));
    if (options.dry_run)
        return result;
    const KernelView after = TRY(look());
    for (VolumeInfo& info : result) {
        const LvmVolume* now = TRY(after.find(info.name));
        if (now->active() != request.active)
            return fail(ErrorKind::failed, "{} is still {}, though LVM says that it is done", info.name,
                        request.active ? "inactive" : "active");
        info = after.describe(*now);
    }
    return result;
}

}  // namespace lamella
