// SPDX-License-Identifier: Apache-2.0
//
// What stands on a pool of the host's LVM: its thin volumes, and devices that somebody else made in it, a container engine above all.
#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include "base/files.h"
#include "base/uuid.h"
#include "host/device_users.h"
#include "lvm2/group.h"
#include "volumes/kernel_group.h"
#include "volumes/kernel_parts.h"

namespace lamella {

namespace {

constexpr std::size_t most_devices = 100'000;

// Where a device is mounted first, as this process sees mounts.
std::string mounted_on(const host::DeviceNumber& number) {
    const std::string wanted = fmt::format("{}:{}", number.major, number.minor);
    for (const host::Mount& mount : host::mounts())
        if (mount.device == wanted)
            return mount.point;
    return {};
}

// "254:7 12": the pool's device, and the device in it.
std::optional<std::uint32_t> thin_id(const std::vector<host::KernelTarget>& table) {
    if (table.size() != 1 || table[0].type != "thin")
        return std::nullopt;
    std::istringstream words(table[0].parameters);
    std::string pool;
    std::uint32_t id = 0;
    return words >> pool >> id ? std::optional(id) : std::nullopt;
}

}  // namespace

Result<std::vector<PoolDependent>> KernelGroup::pool_dependents(const std::string& name) {
    const KernelView view = TRY(look());
    const host::LvmVolume& pool = *TRY(view.find_pool(name));
    std::vector<PoolDependent> dependents;
    for (const host::LvmVolume& volume : view.lvm().volumes)
        if (volume.pool == name && volume.segments.size() == 1)
            dependents.push_back(
                {.name = volume.name, .device_id = view.describe(volume).device_id, .used_by = view.open_count(volume) > 0 ? "open" : ""});
    const host::KernelDevice* device = view.pool_device(pool);
    if (device == nullptr) {
        if (!view.kernel())
            return std::unexpected(view.kernel().error());
        return dependents;
    }

    // Who stands on whom, by numbers: a name such as "vg-base" may be anybody's.
    const std::string ours = "LVM-" + std::string(TRY(LvmId::parse(view.lvm().id)).plain());
    const std::vector<host::KernelDevice> all = TRY(host_.mapper->devices({}));
    if (all.size() > most_devices)
        return fail(ErrorKind::unsupported, "{} devices are more than can be looked through", all.size());
    using Number = std::pair<std::uint32_t, std::uint32_t>;
    const auto number_of = [](const host::DeviceNumber& number) { return Number{number.major, number.minor}; };
    std::map<Number, std::vector<const host::KernelDevice*>> above;
    for (const host::KernelDevice& other : all)
        if (!other.uuid.starts_with(ours))
            for (const host::DeviceNumber& below : TRY(host_.mapper->dependencies(other.name)))
                above[number_of(below)].push_back(&other);
    // A device after all that stand on it.
    std::vector<const host::KernelDevice*> order;
    std::set<Number> seen;
    const auto visit = [&](const auto& self, const host::KernelDevice& one, unsigned depth) -> Result<void> {
        if (depth > 64)
            return fail(ErrorKind::unsupported, "devices stand on each other deeper than 64 on {}", one.name);
        for (const host::KernelDevice* upper : above[number_of(one.number)]) {
            if (!seen.insert(number_of(upper->number)).second)
                continue;
            TRY(self(self, *upper, depth + 1));
            order.push_back(upper);
        }
        return {};
    };
    TRY(visit(visit, *device, 0));
    if (const host::KernelDevice* plain = view.device(pool); plain != nullptr && plain != device)
        TRY(visit(visit, *plain, 0));

    std::vector<PoolDependent> foreign;
    for (const host::KernelDevice* one : order) {
        PoolDependent dependent{.name = one->name, .id = one->uuid, .device_id = thin_id(one->status), .foreign = true};
        // The status of a thin target doesn't have its id; the table does.
        if (one->status.size() == 1 && one->status[0].type == "thin")
            dependent.device_id = thin_id(TRY(host_.mapper->table(one->name)));
        if (const std::string place = mounted_on(one->number); !place.empty())
            dependent.used_by = "mounted on " + place;
        else if (one->open_count > above[number_of(one->number)].size())
            dependent.used_by = "open";
        foreign.push_back(std::move(dependent));
    }
    dependents.insert(dependents.begin(), foreign.begin(), foreign.end());
    return dependents;
}

Result<std::string> KernelGroup::write_profile(unsigned threshold, unsigned percent) {
    std::string profile = fmt::format("lamella-{}-{}", threshold, percent);
    const std::filesystem::path file = host_.profile_directory / (profile + ".profile");
    const std::string text = fmt::format(
        "# a thin pool with this profile grows by {1} percent when {0} percent of it are in use\n"
        "activation {{\n\tthin_pool_autoextend_threshold={0}\n\tthin_pool_autoextend_percent={1}\n}}\n",
        threshold, percent);
    TRY(make_directories(host_.profile_directory.native()));
    TRY(write_file_aside(file.native(), text, 0644));
    return profile;
}

Result<void> KernelGroup::watch(const std::string& pool, const std::string& profile, bool anew) {
    const KernelView view = TRY(look());
    const bool active = view.pool_device(*TRY(view.find_pool(pool))) != nullptr;
    // lvconvert of 2.03.16 takes a profile and forgets it.
    if (!profile.empty() && TRY(volume(pool)).profile != profile) {
        TRY(change(host::LvmWords("lvchange").option("--metadataprofile", profile).volume(name_, pool), false));
        anew = true;
    }
    // The kernel hears of the threshold when the table is loaded anew.
    if (active && anew)
        TRY(change(host::LvmWords("lvchange").option("--refresh").volume(name_, pool), false));
    if (profile.empty())
        return {};
    // LVM has it watched when it is activated.
    if (active)
        TRY(change(host::LvmWords("lvchange").option("--monitor", "y").volume(name_, pool), false));
    const VolumeInfo now = TRY(volume(pool));
    if (now.profile != profile)
        return fail(ErrorKind::failed, "LVM says that it is done, and the pool's profile is '{}'", now.profile);
    // Whether what LVM doesn't say is good enough, its caller decides.
    if (active && now.monitored && !*now.monitored)
        return fail(ErrorKind::failed, "dmeventd doesn't watch it: is dmeventd installed, and activation/monitoring on in lvm.conf?");
    return {};
}

Result<AutomaticExtension> KernelGroup::automatic_extension(const std::string& name) {
    const KernelView view = TRY(look());
    const host::ExtensionRule rule = TRY_WITHIN(name, lvm_.extension_rule(TRY(view.find_pool(name))->profile));
    return AutomaticExtension{rule.threshold, rule.percent};
}

Result<VolumeInfo> KernelGroup::change_pool(const ChangePool& request, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    const host::LvmVolume& pool = *TRY(view.find_pool(request.name));
    TRY(refuse_without_lock(view, pool));
    VolumeInfo info = view.describe(pool);
    const bool active = view.pool_device(pool) != nullptr;
    if (!request.profile.empty() && request.autoextend_threshold != 0)
        return fail(ErrorKind::usage, "a profile has a threshold and percentage of its own");
    // All settings in one command: they are changed, or they aren't.
    host::LvmWords words("lvchange");
    bool any = false, refresh = false;
    const auto set = [&](std::string_view option, std::string_view value) {
        words.option(option, value);
        any = true;
    };
    if (!request.discards.empty() && request.discards != info.discards) {
        TRY(check_pool_settings(lvm2::min_chunk_bytes, request.discards));
        if ((request.discards == "ignore" || info.discards == "ignore") && active)
            return fail(ErrorKind::refused,
                        "pool {0} is active, and whether its volumes take discards at all is settled by then: lamella deactivate {1}/{0} "
                        "--with-contents first",
                        request.name, name_);
        set("--discards", request.discards);
        info.discards = request.discards;
    }
    if (request.error_when_full) {
        // LVM fails where its text has it already. What the kernel does may be something else all the same: a pool in error since it was
        // full for long.
        if (*request.error_when_full != (pool.when_full == "error"))
            set("--errorwhenfull", *request.error_when_full ? "y" : "n");
        else
            refresh = *request.error_when_full != info.error_when_full;
        info.error_when_full = *request.error_when_full;
    }
    std::string profile = request.profile;
    if (!profile.empty())
        TRY_WITHIN(fmt::format("profile {}", profile), lvm_.extension_rule(profile));
    else if (request.autoextend_threshold != 0 && !options.dry_run)
        profile = TRY(write_profile(request.autoextend_threshold, request.autoextend_percent));
    if (!profile.empty() && profile != info.profile) {
        set("--metadataprofile", profile);
        refresh = active;
        info.profile = profile;
    }
    std::optional<ChangeLock> lock;
    if (!options.dry_run && (!profile.empty() || (any && refresh))) {
        lock.emplace(TRY(lock_changes()));
        TRY(lock->write({.kind = ChangeRecord::Kind::settings,
                         .pool = request.name,
                         .profile = profile,
                         .sequence_number = any ? view.lvm().sequence_number : 0,
                         .volumes = {{.name = request.name, .id = pool.id}}}));
    }
    const auto make = [&]() -> Result<void> {
        if (any)
            TRY(change(words.volume(name_, request.name), options.dry_run));
        if (refresh)
            TRY(change(host::LvmWords("lvchange").option("--refresh").volume(name_, request.name), options.dry_run));
        return {};
    };
    const auto made = make();
    Settled settled;
    if (lock)
        settled = TRY_WITHIN(made ? "the settings are changed" : made.error().message(), settle(*lock, Maker::at_work));
    TRY(made);
    if (options.dry_run)
        return info;
    TRY_WITHIN("it isn't extended automatically", std::move(settled.watched));
    const VolumeInfo now = TRY(volume(request.name));
    if (!profile.empty() && now.profile != profile)
        return fail(ErrorKind::failed, "LVM says that it is done, and the profile of pool {} is '{}'", request.name, now.profile);
    // What the kernel does in a pool that was full for long isn't what the text says, and ends with a new table.
    if (now.discards != info.discards || (request.error_when_full && now.error_when_full != info.error_when_full))
        return fail(ErrorKind::failed, "LVM says that it is done, and pool {} has discards={}, and writes to it {} when it is full",
                    request.name, now.discards, now.error_when_full ? "fail" : "wait");
    return now;
}

Result<void> KernelGroup::remove_foreign(const std::string& name, const std::vector<PoolDependent>& dependents, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    TRY(refuse_without_lock(view, *TRY(view.find_pool(name))));
    const std::vector<PoolDependent> now = TRY(pool_dependents(name));
    const auto same = [](const PoolDependent& left, const PoolDependent& right) {
        return left.name == right.name && left.id == right.id && left.device_id == right.device_id;
    };
    // All is looked at before anything is done; and nothing goes from below what wasn't shown.
    for (const PoolDependent& dependent : dependents) {
        const auto found = std::ranges::find_if(now, [&](const PoolDependent& one) { return one.foreign && same(one, dependent); });
        if (found == now.end())
            return fail(ErrorKind::refused, "device {} is no longer what it was", dependent.name);
        if (!found->used_by.empty())
            return fail(ErrorKind::refused, "device {} is in use: {}", dependent.name, found->used_by);
    }
    if (options.dry_run)
        return {};
    // Until the pool is gone too.
    const std::vector<std::string> tags = TRY(volume(name)).tags;
    if (std::ranges::find(tags, unfinished::removal) == tags.end())
        TRY(change(host::LvmWords("lvchange").tag("--addtag", unfinished::removal).volume(name_, name), false));
    for (const PoolDependent& one : now)
        if (std::ranges::any_of(dependents, [&](const PoolDependent& dependent) { return one.foreign && same(one, dependent); }))
            TRY(host_.mapper->remove(one.name));
    report_.reset();
    return {};
}

}  // namespace lamella
