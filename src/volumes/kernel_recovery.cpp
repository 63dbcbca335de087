// SPDX-License-Identifier: Apache-2.0
//
// What is left when a process is killed between the commands of a change.
//
// LVM's commands are each done or not: they go on when the process that waits for them is killed. What tells of a change of several, and
// what proves whose it is, is in unfinished.h. Opening a group changes nothing of it. Before the next change of the group
//
//   all snapshots of a set there      only the tags go
//   the pool there                    it gets the tags that it was to have
//   else                              what was made is removed, if the record proves that it is this change's and that nobody was at it:
//                                     the ids are the record's (or, of what the last command made, name and tag); names and tags are as
//                                     they were given; nothing is open, no thin snapshot active or marked to become so, nothing made of
//                                     them; and where what the last command was to make isn't there, the group's text hasn't changed since
//                                     at all: else it may have been made, found, and removed by somebody
//
// and whatever isn't proven stays, with its tags, until somebody decides: a snapshot too many harms less than one that is gone. Not proven
// can be that nobody wrote to a volume and closed it again.
//
// A lock tells a process that is at work from one that is gone. It holds within a host; in a group that hosts share nothing is settled.
#include <algorithm>
#include <set>

#include "base/uuid.h"
#include "volumes/kernel_group.h"
#include "volumes/kernel_parts.h"

namespace lamella {

namespace {

using host::LvmVolume;
using host::LvmWords;

bool has_tag(const std::vector<std::string>& tags, std::string_view tag) { return std::ranges::find(tags, tag) != tags.end(); }

const LvmVolume* find_recorded(const KernelView& view, const ChangeRecord& record, const RecordedVolume& recorded) {
    for (const LvmVolume& volume : view.lvm().volumes)
        if (recorded.id.empty() ? volume.name == recorded.name && has_tag(volume.tags, record.tag) : volume.id == recorded.id)
            return &volume;
    return nullptr;
}

bool is_untouched(const KernelView& view, const ChangeRecord& record, const RecordedVolume& recorded, const LvmVolume& volume) {
    if (!view.kernel() || view.open_count(volume) > 0 || volume.hidden || volume.merging.value_or(false) || volume.name != recorded.name)
        return false;
    std::set<std::string> tags(volume.tags.begin(), volume.tags.end());
    // Those of a pool's parts go just before they become hidden.
    if (tags.erase(record.tag) == 0 && record.pool.empty())
        return false;
    if (tags != std::set<std::string>(recorded.tags.begin(), recorded.tags.end()))
        return false;
    if (view.describe(volume).kind == VolumeKind::thin &&
        (volume.active() || view.device(volume) != nullptr || !volume.skip_activation.value_or(false)))
        return false;
    return std::ranges::none_of(view.lvm().volumes, [&](const LvmVolume& other) {
        return other.origin == volume.name || view.describe(other).external_origin == volume.name;
    });
}

// The pool that the two volumes of a record have become. Which of pool and data keeps the volume's id is up to the version of LVM.
const LvmVolume* find_converted(const KernelView& view, const ChangeRecord& record) {
    const auto pool = view.find_pool(record.pool);
    if (!pool || record.volumes.size() != 2 || record.volumes[0].id.empty() || record.volumes[1].id.empty())
        return nullptr;
    const auto metadata = view.find((*pool)->metadata);
    const auto data = view.find((*pool)->data);
    const std::string& data_id = record.volumes[1].id;
    const bool same = metadata && (*metadata)->id == record.volumes[0].id && ((*pool)->id == data_id || (data && (*data)->id == data_id));
    return same ? *pool : nullptr;
}

}  // namespace

// --- Making -----------------------------------------------------------------------------------------------------------------

Result<std::filesystem::path> KernelGroup::change_path(const host::LvmGroup& group) const {
    return host_.state_directory / ("change-" + TRY(LvmId::parse(group.id)).dashed());
}

Result<ChangeLock> KernelGroup::lock_changes() { return ChangeLock::take(TRY(change_path(TRY(look()).lvm()))); }

Result<void> KernelGroup::made_next(ChangeLock& lock, ChangeRecord& record) {
    const KernelView view = TRY(look());
    const auto next = std::ranges::find(record.volumes, "", &RecordedVolume::id);
    next->id = TRY(view.find(next->name))->id;
    record.sequence_number = view.lvm().sequence_number;
    return lock.write(record);
}

Error KernelGroup::undone(ChangeLock& lock, ChangeRecord& record, const Error& error) {
    const auto undo = [&]() -> Result<Settled> {
        // The command that failed is known to have ended.
        record.sequence_number = TRY(look()).lvm().sequence_number;
        TRY(lock.write(record));
        return settle(lock);
    };
    const auto settled = undo();
    if (settled && !settled->left)
        return error;
    return Error(error.kind(), fmt::format("{}; and what was made before couldn't be removed again{}", error.message(),
                                           settled ? "" : ": " + settled.error().message()));
}

// --- Afterwards -------------------------------------------------------------------------------------------------------------

Result<KernelGroup::Settled> KernelGroup::settle(ChangeLock& lock) {
    const auto record = lock.read();
    if (!record)
        return Settled{.left = true};
    const KernelView view = TRY(look_to_change());
    const std::string group_tag = record->pool.empty() ? "" : unfinished::pool_tag(record->volumes.at(0).id, record->volumes.at(1).id);
    const bool has_group_tag = has_tag(view.lvm().tags, group_tag);
    const auto end = [&](std::string said) -> Result<Settled> {
        if (has_group_tag)
            TRY(change(LvmWords("vgchange").tag("--deltag", group_tag).group(name_), false));
        TRY(lock.clear());
        return Settled{.said = std::move(said)};
    };
    if (const LvmVolume* pool = find_converted(view, *record)) {
        if (!has_group_tag)
            return end("");
        LvmWords words("lvchange");
        std::vector<std::string> missing;
        std::ranges::copy_if(record->pool_tags, std::back_inserter(missing), [&](const auto& tag) { return !has_tag(pool->tags, tag); });
        add_tags(words, missing);
        if (!missing.empty())
            TRY(change(words.volume(name_, pool->name), false));
        return end(fmt::format("{}: made by a change that was broken off when all was done but its end", pool->name));
    }

    std::vector<const LvmVolume*> there;
    bool proven = true;
    for (const RecordedVolume& recorded : record->volumes) {
        const LvmVolume* volume = find_recorded(view, *record, recorded);
        if (volume != nullptr)
            there.push_back(volume);
        // The last command made it, or the text is as it was before.
        else if (!recorded.id.empty() || view.lvm().sequence_number != record->sequence_number)
            proven = false;
        else
            break;
        proven = proven && (volume == nullptr || is_untouched(view, *record, recorded, *volume));
        if (recorded.id.empty())
            break;
    }
    std::vector<std::string> names;
    std::ranges::transform(there, std::back_inserter(names), &LvmVolume::name);
    if (there.empty())
        return end("");
    if (record->pool.empty() && there.size() == record->volumes.size()) {
        LvmWords words("lvchange");
        words.tag("--deltag", record->tag);
        bool any = false;
        for (const LvmVolume* volume : there)
            if (has_tag(volume->tags, record->tag)) {
                words.volume(name_, volume->name);
                any = true;
            }
        if (!any)
            return end("");
        TRY(change(words, false));
        return end(fmt::format("{}: made by a change that was broken off when all was done but its end", fmt::join(names, ", ")));
    }
    // For good: what somebody is at now may look untouched later.
    if (!proven) {
        TRY(lock.clear());
        return Settled{.left = true};
    }
    TRY(remove(names, false, {}));
    return end(fmt::format("{}: made by a change that was broken off, removed again", fmt::join(names, ", ")));
}

Result<std::vector<BrokenOff>> KernelGroup::broken_off(const KernelView& view) const {
    std::vector<BrokenOff> left;
    for (const std::string& tag : view.lvm().tags)
        if (tag.starts_with(unfinished::prefix))
            left.push_back({"", tag});
    for (const LvmVolume& volume : view.lvm().volumes)
        if (const std::string tag = unfinished::tag_of(volume.tags); !volume.hidden && !tag.empty())
            left.push_back({volume.name, tag});
    // Its maker is at work.
    if (!left.empty() && ChangeLock::is_held(TRY(change_path(view.lvm()))))
        left.clear();
    for (const std::string& pool : unknown_holders_)
        left.push_back({pool, ""});
    return left;
}

Result<void> KernelGroup::recover() {
    const KernelView view = TRY(look());
    const auto left = TRY(broken_off(view));
    if (view.lvm().shared() || std::ranges::none_of(left, [](const BrokenOff& one) { return !one.tag.empty(); }))
        return {};
    auto lock = lock_changes();
    if (!lock)
        return lock.error().kind() == ErrorKind::refused ? Result<void>() : std::unexpected(lock.error());
    // Whoever had the lock may have come to its end since the look.
    if (const auto settled = settle(*lock); settled && !settled->said.empty())
        recovered_.push_back(settled->said);
    else if (!settled)
        recovered_.push_back(fmt::format("a change was broken off, and can't be undone now: {}", settled.error().message()));
    return {};
}

}  // namespace lamella
