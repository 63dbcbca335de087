// SPDX-License-Identifier: Apache-2.0
//
// What is left when a process is killed between the commands of a change.
//
// LVM's commands are each done or not: they go on when the process that waits for them is killed. A change that takes several tags what it
// makes, and takes the tags away with its last command; as tags are in the group's text, they tell of it after any crash. The next process
// that opens the group undoes the change, or ends it where all is there:
//
//   of a volume  lamella.unfinished=part       to become a part of a pool: removed
//                lamella.unfinished=set.N      one of N snapshots: all N there, only the tags go; else they are removed
//                lamella.unfinished=removal    a pool whose foreign devices were being removed: left to whoever removes the pool again
//   of a group   lamella.unfinished=pool.M.D   the volumes of these ids are becoming a pool: they are removed, and the pool if it is there
//                                              already and nothing is in it
//
// A lock tells a process that is at work from one that is gone. It holds within a host; in a group that hosts share nothing is undone.
#include <fcntl.h>
#include <sys/file.h>
#include <algorithm>
#include <charconv>

#include "base/uuid.h"
#include "volumes/kernel_group.h"
#include "volumes/kernel_parts.h"

namespace lamella {

namespace {

using host::LvmVolume;
using host::LvmWords;

// Empty: it has none.
std::string unfinished_tag(const std::vector<std::string>& tags) {
    for (const std::string& tag : tags)
        if (tag.starts_with(unfinished::prefix))
            return tag;
    return {};
}

std::string_view behind(std::string_view tag, std::string_view beginning) {
    return tag.starts_with(beginning) ? tag.substr(beginning.size()) : std::string_view();
}

}  // namespace

// --- Locks ------------------------------------------------------------------------------------------------------------------

Result<ChangeLock> ChangeLock::take(const std::filesystem::path& path) {
    FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.get() < 0)
        return fail_errno(path.native());
    if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0)
        return ChangeLock(std::move(file));
    if (errno == EWOULDBLOCK)
        return fail(ErrorKind::refused, "another process of lamella changes the group now");
    return fail_errno(path.native());
}

Result<ChangeLock> KernelGroup::lock_changes() {
    return ChangeLock::take(host_.state_directory / ("change-" + TRY(LvmId::parse(TRY(look()).lvm().id)).dashed()));
}

// --- Leftovers --------------------------------------------------------------------------------------------------------------

// A pool that nobody has made anything in. What can't be looked into is not.
bool KernelGroup::is_unused_pool(const KernelView& view, const LvmVolume& pool) {
    if (!view.find_pool(pool.name) || std::ranges::any_of(view.lvm().volumes, [&](const LvmVolume& one) { return one.pool == pool.name; }))
        return false;
    const auto contents = pool_contents(pool.name, false);
    return contents && contents->device_ids.empty();
}

Result<std::vector<std::string>> KernelGroup::finish_unfinished() {
    const KernelView view = TRY(look_to_change());
    std::vector<std::string> done, gone, complete, group_tags;
    std::vector<const LvmVolume*> set;
    std::size_t set_size = 0;
    for (const LvmVolume& volume : view.lvm().volumes) {
        const std::string tag = unfinished_tag(volume.tags);
        if (volume.hidden)
            continue;
        if (tag == unfinished::part)
            gone.push_back(volume.name);
        if (const std::string_view count = behind(tag, unfinished::set); !count.empty()) {
            std::from_chars(count.data(), count.data() + count.size(), set_size);
            set.push_back(&volume);
        }
    }
    for (const LvmVolume* volume : set)
        (set.size() == set_size ? complete : gone).push_back(volume->name);
    for (const std::string& tag : view.lvm().tags) {
        const std::string_view parts = behind(tag, unfinished::pool);
        if (parts.empty())
            continue;
        group_tags.push_back(tag);
        for (const LvmVolume& volume : view.lvm().volumes) {
            const auto data = view.find(volume.data);
            const bool of_pool = data && parts.find((*data)->id) != parts.npos;
            if (volume.hidden || unfinished_tag(volume.tags) == unfinished::part || (parts.find(volume.id) == parts.npos && !of_pool))
                continue;
            if (!view.find_pool(volume.name) || is_unused_pool(view, volume))
                gone.push_back(volume.name);
            else
                done.push_back(fmt::format("{}: making this pool was broken off, and it is in use: look at its settings", volume.name));
        }
    }
    if (!gone.empty()) {
        TRY(remove(gone, false, {}));
        done.push_back(fmt::format("{}: made by a change that was broken off, removed again", fmt::join(gone, ", ")));
    }
    if (!complete.empty()) {
        LvmWords words("lvchange");
        words.tag("--deltag", unfinished_tag((*set.begin())->tags));
        for (const std::string& name : complete)
            words.volume(name_, name);
        TRY(change(words, false));
        done.push_back(fmt::format("{}: made by a change that was broken off when all was done but its end", fmt::join(complete, ", ")));
    }
    for (const std::string& tag : group_tags)
        TRY(change(LvmWords("vgchange").tag("--deltag", tag).group(name_), false));
    return done;
}

Result<void> KernelGroup::recover() {
    const KernelView view = TRY(look());
    bool any = !unfinished_tag(view.lvm().tags).empty();
    for (const LvmVolume& volume : view.lvm().volumes) {
        const std::string tag = unfinished_tag(volume.tags);
        if (volume.hidden || tag.empty())
            continue;
        if (tag == unfinished::removal)
            findings_.push_back(fmt::format("{}: its removal was broken off; lamella pool remove {}/{} --force-children goes on with it",
                                            volume.name, name_, volume.name));
        else
            any = true;
    }
    if (!any)
        return {};
    if (view.lvm().shared()) {
        findings_.emplace_back("a change of the group was broken off, or another host makes it now");
        return {};
    }
    const auto lock = lock_changes();
    if (!lock) {
        if (lock.error().kind() == ErrorKind::refused)
            return {};
        return std::unexpected(lock.error());
    }
    // Whoever had the lock may have come to its end since the look.
    if (auto done = finish_unfinished())
        recovered_.insert(recovered_.end(), done->begin(), done->end());
    else
        findings_.push_back(fmt::format("what a change left that was broken off is still there: {}", done.error().message()));
    return {};
}

}  // namespace lamella
