// SPDX-License-Identifier: Apache-2.0
//
// A volume group on its physical volumes: finding it, reading the newest valid text, and changing it so that a crash at any
// instant leaves the old text or the new one.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "device/block_device.h"
#include "lvm2/group.h"
#include "lvm2/label.h"

namespace lamella::lvm2 {

class HostLock;

struct StoreOptions {
    bool writable = false;
    std::string system_id;  // this host's LVM system id; empty: none
    std::string host;       // creation_host of what is written; empty: this machine's node name
    Clock* clock = &Clock::system();

    // Where texts that are replaced are kept, as LVM keeps /etc/lvm/archive; empty: nowhere. Made when it isn't there.
    // A file goes when it is older than `archive_days` and `archive_files` of this group are left without it.
    std::filesystem::path archive_directory;
    unsigned archive_days = 30;
    unsigned archive_files = 10;

    // Of a group that this host's LVM sees: its global/locking_dir. Each write of the text is under LVM's own lock then, for which a commit
    // waits so long. Empty: LVM doesn't see it.
    std::filesystem::path lvm_locks;
    std::chrono::milliseconds lvm_patience{60'000};
};

struct NewPhysicalVolume {
    BlockDevice* device = nullptr;
    unsigned metadata_areas = 1;  // 0, 1 (at the start) or 2 (at the end too); one volume of a group must have some
};

struct NewGroup {
    std::string name;
    Words tags;
    std::string system_id;                // who may use it; empty: any host
    std::uint32_t extent_sectors = 8192;  // a power of two, at least 8
    std::vector<NewPhysicalVolume> physical_volumes;
    bool overwrite = false;  // devices that are not blank where the group's own data goes
};

struct MissingPhysicalVolume {
    std::string name;  // "pv1"
    LvmId id;
    std::string device_hint;
};

// One group, opened. One thread at a time. The devices are the caller's: open while the store lives, and locked against other
// openers (which is the business of whoever opens them).
class GroupStore {
  public:
    // The devices in any order. All must carry a label and belong to one group; two with the same id are refused.
    // With `writable`: all physical volumes are there, the group is sound and may be written; areas that lag behind or have a
    // damaged header or text are brought up to date from the newest sound one, and a text that was prepared but never committed
    // is dropped, as LVM does. Without: nothing is written, and whatever is unsound is in findings().
    // Errors: not_found (no label), refused (a foreign group, duplicates, missing devices), damaged (no area with a whole text; with
    // `writable` any finding), failed (I/O). Each names device and place.
    static Result<GroupStore> open(std::span<BlockDevice* const> devices, const StoreOptions& options);

    // Labels, areas and a first text (seqno 1). Until the labels are written, last, the devices are as blank as they were.
    // Devices that hold anything but zeros where the group's own data goes are an error (exists), unless told to overwrite.
    static Result<GroupStore> create(const NewGroup& group, const StoreOptions& options);

    enum class RestoreTo {
        labelled,  // devices that carry the ids of the backup's physical volumes, in any order
        blank,     // devices in the order of the backup's physical volumes; each gets a label with its id
    };
    // Makes the text of a backup the group's. Its seqno ends above both the backup's and what is on the devices.
    // The data of thin pools isn't part of a backup: their transaction ids may no longer agree.
    static Result<GroupStore> restore(std::string_view backup, std::span<BlockDevice* const> devices, RestoreTo where,
                                      const StoreOptions& options);

    GroupStore(GroupStore&&) noexcept;
    GroupStore& operator=(GroupStore&&) noexcept;
    ~GroupStore();

    const VolumeGroup& group() const;
    // What is unsound; empty when opened for writing.
    const std::vector<Finding>& findings() const;
    // Physical volumes of the group that no device holds.
    const std::vector<MissingPhysicalVolume>& missing() const;
    // What was damaged or behind, in words, and whether it was repaired. Grows when an area fails in a commit.
    const std::vector<std::string>& notes() const;
    // A commit failed so late that nobody knows which text a reader would find; no other succeeds.
    bool unsettled() const;
    // Null: missing.
    BlockDevice* device(std::string_view physical_volume) const;

    enum class Archive { previous, nothing };
    // Makes `next`, a changed copy of group(), the group: durably in every usable area, with the next seqno and this description
    // ("lamella create web"). The text that it replaces goes to the archive before anything is written, unless this commit only
    // finishes an earlier one. An area that can't be written is left behind with a note as long as one other can.
    // Errors: usage (not a copy of the present group), refused (somebody else has committed a text meanwhile, or LVM has the group locked),
    // no_space (the text has outgrown an area), failed. When it is not known which text a reader would find, every further commit is refused
    // until the group is opened anew.
    Result<void> commit(VolumeGroup next, std::string_view description, Archive archive = Archive::previous);

    // Keeps LVM's lock from now on, so that the commits of one change can't be parted. Given back when the last holder is gone, before the
    // store. Null: LVM doesn't see the group. `patience`: how long it is waited for; none: StoreOptions::lvm_patience. Errors: refused (LVM has
    // the group locked), failed.
    Result<std::shared_ptr<const HostLock>> hold_lock(std::optional<std::chrono::milliseconds> patience = {});

    // The group in vgcfgbackup's format.
    std::string backup(std::string_view description) const;

  private:
    struct State;
    explicit GroupStore(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

// Reads a backup without any device: what restore() would write, and what is unsound in it. Errors: damaged.
inline Result<ParsedGroup> check_backup(std::string_view backup) { return parse_group(backup); }

}  // namespace lamella::lvm2
