// SPDX-License-Identifier: Apache-2.0
//
// Removing volumes: in steps, each a commit of its own, in an order in which each can go.
#include <algorithm>

#include "volumes/engine_state.h"

namespace lamella {

namespace {

struct Step {
    enum class Kind { snapshots, thin, pool, thick } kind;  // snapshots: classic ones
    std::string pool;                                       // of thin volumes
    std::vector<std::string> names;
};

Step step_of(const lvm2::VolumeGroup& group, const lvm2::ClassicSnapshots& classic, const std::string& name) {
    const lvm2::LogicalVolume& volume = *group.logical_volume(name);
    if (classic.of_store(name) != nullptr)
        return {Step::Kind::snapshots, {}, {name}};
    if (const auto* thin = volume.sole<lvm2::Thin>())
        return {Step::Kind::thin, thin->pool, {name}};
    return {volume.sole<lvm2::ThinPool>() != nullptr ? Step::Kind::pool : Step::Kind::thick, {}, {name}};
}

// The volume that keeps another one, or a pool, from going now: its external origin goes with that.
const lvm2::LogicalVolume* user_of(const lvm2::VolumeGroup& group, const std::string& name) {
    const auto goes = [&](const std::string& other) {
        const lvm2::LogicalVolume* volume = group.logical_volume(other);
        const auto* thin = volume != nullptr ? volume->sole<lvm2::Thin>() : nullptr;
        return other == name || (thin != nullptr && thin->pool == name);
    };
    const auto user = std::ranges::find_if(group.logical_volumes, [&](const lvm2::LogicalVolume& volume) {
        const auto* thin = volume.sole<lvm2::Thin>();
        return thin != nullptr && goes(thin->external_origin) && !goes(volume.name);
    });
    return user != group.logical_volumes.end() ? &*user : nullptr;
}

Result<void> apply(lvm2::VolumeGroup& group, const Step& step) {
    for (const std::string& name : step.names) {
        if (step.kind == Step::Kind::snapshots) {
            TRY(lvm2::remove_classic_snapshot(group, name));
            continue;
        }
        if (step.kind == Step::Kind::pool) {
            // Its volumes go with it: there is no pool left to tell.
            std::erase_if(group.logical_volumes, [&](const lvm2::LogicalVolume& volume) {
                const auto* body = volume.sole<lvm2::Thin>();
                return body != nullptr && body->pool == name;
            });
            group.logical_volume(name)->sole<lvm2::ThinPool>()->messages.clear();
        }
        TRY(lvm2::remove_volume(group, name));
    }
    return forget_unused_origin_files(group);
}

Result<std::vector<Step>> plan(lvm2::VolumeGroup group, const lvm2::ClassicSnapshots& classic, std::vector<std::string> names) {
    std::vector<Step> steps;
    std::ranges::sort(names);
    names.erase(std::unique(names.begin(), names.end()), names.end());
    while (!names.empty()) {
        // Kind by kind, as many at once as can go.
        std::optional<Step> next;
        for (const std::string& name : names) {
            Step step = step_of(group, classic, name);
            if (user_of(group, name) != nullptr)
                continue;
            if (!next || step.kind < next->kind)
                next = std::move(step);
            else if (step.kind == next->kind && step.pool == next->pool && step.kind != Step::Kind::pool)
                next->names.push_back(name);
        }
        if (!next)
            return fail(ErrorKind::refused, "{} is, or holds, the external origin of {}", names[0], user_of(group, names[0])->name);
        TRY(apply(group, *next));
        // What stood for a file may have gone with the last that used it.
        std::erase_if(names, [&](const std::string& name) { return group.logical_volume(name) == nullptr; });
        steps.push_back(*std::move(next));
    }
    return steps;
}

}  // namespace

Result<void> EngineGroup::remove(const std::vector<std::string>& names, bool with_contents, ChangeOptions options) {
    std::lock_guard lock(state_->mutex);
    TRY(state_->writable(options));
    const auto refuse_snapshots_left = [&](const std::string& origin) -> Result<void> {
        if (const auto* snapshots = state_->classic().of_origin(origin))
            for (const lvm2::ClassicSnapshot& snapshot : *snapshots)
                if (std::find(names.begin(), names.end(), snapshot.store) == names.end())
                    return fail(ErrorKind::refused, "{} has the classic snapshot {}, which would be lost with it: remove both", origin,
                                snapshot.store);
        return {};
    };
    // All is checked before anything is done.
    for (const std::string& name : names) {
        const lvm2::LogicalVolume* volume = TRY(state_->find(name));
        TRY(state_->refuse_in_use(*volume));
        if (const auto* snapshot = state_->classic().of_store(name); snapshot != nullptr && snapshot->merging)
            return fail(ErrorKind::refused, "{} is being merged into {}", name, snapshot->origin);
        if (!state_->shown(*volume))
            return fail(ErrorKind::refused, "{} is a hidden part of something else", name);
        TRY(refuse_snapshots_left(name));
        // A container engine's devices are nowhere else. What can't be read can't hold the pool back: it is removed all the same.
        if (volume->sole<lvm2::ThinPool>() != nullptr && !with_contents)
            if (const auto dependents = state_->pool_dependents(*volume))
                if (const auto foreign = std::ranges::count(*dependents, true, &PoolDependent::foreign); foreign != 0)
                    return fail(ErrorKind::refused, "pool {} holds {} devices that the group doesn't know, such as a container engine's",
                                name, foreign);
        for (const lvm2::LogicalVolume& other : state_->group().logical_volumes) {
            const auto* thin = other.sole<lvm2::Thin>();
            if (thin == nullptr || std::find(names.begin(), names.end(), other.name) != names.end())
                continue;
            if (thin->external_origin == name && std::find(names.begin(), names.end(), thin->pool) == names.end())
                return fail(ErrorKind::refused, "{} is the external origin of {}", name, other.name);
            if (thin->pool == name) {
                if (!with_contents)
                    return fail(ErrorKind::refused, "pool {} holds volumes, {} among them", name, other.name);
                TRY(state_->refuse_in_use(other));
                TRY(refuse_snapshots_left(other.name));
            }
        }
    }
    const std::vector<Step> steps = TRY(plan(state_->group(), state_->classic(), names));
    if (options.dry_run)
        return {};
    for (const Step& step : steps) {
        if (step.kind == Step::Kind::snapshots) {
            TRY(state_->remove_classic_snapshots(step.names));
            continue;
        }
        lvm2::VolumeGroup next = state_->group();
        TRY(apply(next, step));
        const std::string what = fmt::format("{}", fmt::join(step.names, " "));
        if (step.kind == Step::Kind::thin) {
            TRY(state_->change_pools(std::move(next), {step.pool}, "remove " + what, options.progress));
            continue;
        }
        if (step.kind == Step::Kind::pool)
            TRY(state_->close_pool(*state_->group().logical_volume(what)));
        TRY(state_->store.commit(std::move(next), fmt::format("remove {}{}", step.kind == Step::Kind::pool ? "pool " : "", what)));
    }
    return {};
}

}  // namespace lamella
