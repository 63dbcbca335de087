// SPDX-License-Identifier: Apache-2.0
//
// What is left when a process is killed between the commands of a change.
//
// LVM's commands are each done or not: they go on when the process that waits for them is killed. What tells of a change of several, and
// what proves whose it is, is in unfinished.h. Opening a group changes nothing of it. Before the next change of the group
//
//   all snapshots of a set there      only the tags go
//   the pool there                    it gets the tags and the profile that it was to have
//   settings begun                    as the pool there
//   volumes to be removed there       nothing, but it is said
//   a snapshot to be merged there     the other snapshots lose the tag that was to tell of their origin: LVM knows it
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
#include <thread>
#include <tuple>

#include "base/uuid.h"
#include "volumes/kernel_group.h"
#include "volumes/kernel_parts.h"
#include "volumes/snapshot_state.h"

namespace lamella {

namespace {

using host::LvmVolume;
using host::LvmWords;

bool has_tag(const std::vector<std::string>& tags, std::string_view tag) { return std::ranges::find(tags, tag) != tags.end(); }

// Of the volumes of a record that are becoming a pool; empty: the group gets none.
std::string group_tag(const ChangeRecord& record) {
    return record.kind == ChangeRecord::Kind::parts ? unfinished::pool_tag(record.volumes.at(0).id, record.volumes.at(1).id) : "";
}

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
    // Those of a pool's two parts go just before they become hidden: the group has one then, unless somebody took that away, too. A volume
    // that changes places with a pool's metadata loses it before, and what has its id afterwards may be the old metadata.
    if (tags.erase(record.tag) == 0 && !has_tag(view.lvm().tags, group_tag(record)))
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
    const bool were_there = record.kind == ChangeRecord::Kind::conversion;
    const auto pool = view.find_pool(record.pool);
    if (!pool || (record.kind != ChangeRecord::Kind::parts && !were_there) || (record.volumes[0].id.empty() && !were_there) ||
        record.volumes[1].id.empty())
        return nullptr;
    const auto metadata = view.find((*pool)->metadata);
    const auto data = view.find((*pool)->data);
    const std::string& data_id = record.volumes[1].id;
    const bool same = metadata && (record.volumes[0].id.empty() || (*metadata)->id == record.volumes[0].id) &&
                      ((*pool)->id == data_id || (data && (*data)->id == data_id));
    return same ? *pool : nullptr;
}

// A removal has any number.
std::string list_of(const std::vector<std::string>& names) {
    constexpr std::size_t shown = 10;
    if (names.size() <= shown)
        return fmt::format("{}", fmt::join(names, ", "));
    return fmt::format("{} and {} more", fmt::join(names.begin(), names.begin() + shown, ", "), names.size() - shown);
}

constexpr std::string_view all_but_its_end = "a change that was broken off when all was done but its end";

}  // namespace

// --- Making -----------------------------------------------------------------------------------------------------------------

Result<std::filesystem::path> KernelGroup::change_path(const host::LvmGroup& group) const {
    return host_.state_directory / ("change-" + TRY(LvmId::parse(group.id)).dashed());
}

Result<ChangeLock> KernelGroup::lock_changes() {
    const KernelView view = TRY(look());
    ChangeLock lock = TRY(ChangeLock::take(TRY(change_path(view.lvm()))));
    // One that recover() couldn't undo; in a shared group nothing is. What was looked at before may be something else afterwards.
    if (lock.read() && !view.lvm().shared()) {
        TRY(wait_for_lvm());
        if (const Settled settled = TRY_WITHIN("a change was broken off, and can't be undone now", settle(lock)); !settled.said.empty())
            return fail(ErrorKind::refused, "{}; this was seen to first: try again", settled.said);
    }
    return lock;
}

Result<void> KernelGroup::made_next(ChangeLock& lock, ChangeRecord& record) {
    const KernelView view = TRY(look());
    const auto next = std::ranges::find(record.volumes, "", &RecordedVolume::id);
    next->id = TRY(view.find(next->name))->id;
    record.sequence_number = view.lvm().sequence_number;
    return lock.write(record);
}

// Whoever was told of a new device, or of the end of writing to one, looks into it: udev's programs, for a moment.
Result<void> KernelGroup::wait_for_udev(const std::function<bool(const KernelView&)>& closed) {
    constexpr auto moment = std::chrono::milliseconds(50);
    constexpr unsigned most_moments = 100;
    const Duration begin = host_.clock->monotonic();
    for (unsigned moments = 0; moments < most_moments && host_.clock->monotonic() - begin < most_moments * moment; ++moments) {
        if (closed(TRY(look())))
            break;
        std::this_thread::sleep_for(moment);
    }
    return {};
}

Result<void> KernelGroup::wait_for_lvm() {
    constexpr auto moment = std::chrono::milliseconds(50);
    constexpr unsigned most_moments = 600;
    auto process = host::lvm_at_work(host_.process_directory, name_);
    for (unsigned moments = 0; process && moments < most_moments; ++moments) {
        std::this_thread::sleep_for(moment);
        process = host::lvm_at_work(host_.process_directory, name_);
    }
    if (process)
        return fail(ErrorKind::refused, "a change of group {} was broken off, and LVM's command for it (process {}) is still at work",
                    name_, *process);
    report_.reset();
    return {};
}

Error KernelGroup::undone(ChangeLock& lock, ChangeRecord& record, const Error& error) {
    const auto undo = [&]() -> Result<Settled> {
        // The command that failed is known to have ended.
        record.sequence_number = TRY(look()).lvm().sequence_number;
        TRY(lock.write(record));
        return settle(lock);
    };
    const auto settled = undo();
    if (settled && settled->done)
        return Error(error.kind(), fmt::format("{}; {} is there all the same, and {}", error.message(), settled->made,
                                               settled->watched ? std::string("whole")
                                                                : "isn't extended automatically: " + settled->watched.error().message()));
    if (settled && !settled->left)
        return error;
    return Error(error.kind(), fmt::format("{}; and what was made before couldn't be removed again{}", error.message(),
                                           settled ? "" : ": " + settled.error().message()));
}

// --- Afterwards -------------------------------------------------------------------------------------------------------------

// Volumes that were there before the change stay, whatever came of it.
Result<KernelGroup::Settled> KernelGroup::settle_there(ChangeLock& lock, const ChangeRecord& record, const KernelView& view, Maker maker) {
    Settled settled;
    if (record.kind == ChangeRecord::Kind::removal) {
        std::set<std::string> ids;
        std::ranges::transform(record.volumes, std::inserter(ids, ids.end()), &RecordedVolume::id);
        std::vector<std::string> left;
        for (const LvmVolume& volume : view.lvm().volumes)
            if (ids.contains(volume.id))
                left.push_back(volume.name);
        if (!left.empty() && left.size() != record.volumes.size())
            settled.said = fmt::format("{}: still there, as a removal of {} volumes was broken off", list_of(left), record.volumes.size());
        TRY(lock.clear());
        return settled;
    }
    if (record.kind == ChangeRecord::Kind::rollback) {
        const auto& [origin, snapshot] = std::tie(record.volumes[0], record.volumes[1]);
        const auto found = view.find(snapshot.name);
        LvmWords words("lvchange");
        words.tag("--deltag", lineage_tag(origin.name));
        // One that waits for its merge may be of a rollback before.
        const bool merging = std::ranges::any_of(
            view.lvm().volumes, [&](const LvmVolume& volume) { return volume.origin == origin.name && volume.merging.value_or(false); });
        if (found && (*found)->id == snapshot.id && !merging)
            for (const LvmVolume& volume : view.lvm().volumes)
                if (volume.origin == origin.name && has_tag(volume.tags, lineage_tag(origin.name))) {
                    words.volume(name_, volume.name);
                    settled.said = fmt::format("{}: a rollback to {} was broken off before it began", origin.name, snapshot.name);
                }
        if (!settled.said.empty())
            TRY(change(words, false));
        TRY(lock.clear());
        return settled;
    }
    const LvmVolume* pool = find_converted(view, record);
    if (record.kind == ChangeRecord::Kind::settings && view.lvm().sequence_number != record.sequence_number)
        for (const LvmVolume& volume : view.lvm().volumes)
            // Without the profile it is somebody else who changed the group.
            if (volume.id == record.volumes.front().id && view.find_pool(volume.name) &&
                (record.profile.empty() || volume.profile == record.profile))
                pool = &volume;
    if (pool != nullptr) {
        settled.done = true;
        settled.made = pool->name;
        settled.said = fmt::format("{}: {} by {}", pool->name, record.kind == ChangeRecord::Kind::settings ? "given settings" : "made",
                                   all_but_its_end);
        settled.watched = watch(pool->name, record.profile, maker == Maker::gone);
        if (record.profile.empty() && !settled.watched) {
            settled.said += fmt::format("; LVM couldn't have the kernel hear of them: {}", settled.watched.error().message());
            settled.watched = {};
        }
    }
    TRY(lock.clear());
    return settled;
}

Result<KernelGroup::Settled> KernelGroup::settle(ChangeLock& lock, Maker maker) {
    using Kind = ChangeRecord::Kind;
    auto record = lock.read();
    if (!record)
        return Settled{.left = true};
    if (maker == Maker::gone && !record->of_volumes_there())
        TRY(wait_for_udev([&](const KernelView& view) {
            return std::ranges::none_of(record->volumes, [&](const RecordedVolume& recorded) {
                const LvmVolume* volume = find_recorded(view, *record, recorded);
                return volume != nullptr && view.open_count(*volume) > 0;
            });
        }));
    const KernelView view = TRY(look_to_change());
    if (record->of_volumes_there())
        return settle_there(lock, *record, view, maker);
    const bool has_group_tag = has_tag(view.lvm().tags, group_tag(*record));
    Settled settled;
    const auto end = [&](std::string said, bool done = false) -> Result<Settled> {
        if (has_group_tag)
            TRY(change(LvmWords("vgchange").tag("--deltag", group_tag(*record)).group(name_), false));
        TRY(lock.clear());
        settled.said = std::move(said);
        settled.done = done;
        return settled;
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
        if (!record->profile.empty())
            settled.watched = watch(pool->name, record->profile, maker == Maker::gone);
        settled.made = pool->name;
        return end(fmt::format("{}: made by {}", pool->name, all_but_its_end), true);
    }

    std::vector<const LvmVolume*> there;
    bool proven = true;
    for (const RecordedVolume& recorded : record->volumes) {
        const LvmVolume* volume = find_recorded(view, *record, recorded);
        if (volume != nullptr)
            there.push_back(volume);
        else if (record->undoing)
            continue;
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
    if (!record->undoing && (record->kind == Kind::snapshots || record->kind == Kind::pool) && there.size() == record->volumes.size()) {
        settled.made = list_of(names);
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
        if (record->kind == Kind::pool)
            settled.watched = watch(names.front(), record->profile, maker == Maker::gone);
        TRY(change(words, false));
        return end(fmt::format("{}: made by {}", list_of(names), all_but_its_end), true);
    }
    // For good: what somebody is at now may look untouched later.
    if (!proven) {
        TRY(lock.clear());
        return Settled{.left = true};
    }
    // Some may be gone when it fails, or is killed.
    record->undoing = true;
    TRY(lock.write(*record));
    std::set<std::string> ids;
    std::ranges::transform(there, std::inserter(ids, ids.end()), &LvmVolume::id);
    TRY(remove_volumes(names, false, {}, Recorded::no, &ids));
    return end(fmt::format("{}: made by a change that was broken off, removed again", list_of(names)));
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
    if (view.lvm().shared() || (std::ranges::none_of(left, [](const BrokenOff& one) { return !one.tag.empty(); }) &&
                                !ChangeLock::has_record(TRY(change_path(view.lvm())))))
        return {};
    auto lock = ChangeLock::take(TRY(change_path(view.lvm())));
    if (!lock)
        return lock.error().kind() == ErrorKind::refused ? Result<void>() : std::unexpected(lock.error());
    TRY(wait_for_lvm());
    // Whoever had the lock may have come to its end since the look.
    if (const auto settled = settle(*lock); settled && !settled->said.empty())
        recovered_.push_back(
            settled->watched ? settled->said
                             : fmt::format("{}; it isn't extended automatically: {}", settled->said, settled->watched.error().message()));
    else if (!settled)
        recovered_.push_back(fmt::format("a change was broken off, and can't be undone now: {}", settled.error().message()));
    return {};
}

}  // namespace lamella
