// SPDX-License-Identifier: Apache-2.0
//
// A volume group on its physical volumes: finding it, reading the newest valid text, and changing it so that a crash at any
// instant leaves the old text or the new one.
#pragma once

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

struct StoreOptions {
    bool writable = false;
    std::string system_id;  // this host's LVM system id; empty: none
    std::string host;       // creation_host of what is written; empty: this machine's node name
    Clock* clock = &Clock::system();

    // Where texts that were replaced are kept, as LVM keeps /etc/lvm/archive; empty: nowhere.
    // A file is removed when it is older than `archive_days` and more than `archive_files` of this group would be left.
    std::filesystem::path archive_directory;
    unsigned archive_days = 30;
    unsigned archive_files = 10;
};

struct NewPhysicalVolume {
    BlockDevice* device = nullptr;
    unsigned metadata_areas = 1;  // 0, 1 (at the start) or 2 (at the end too)
    std::optional<LvmId> id;      // given by a restore; else a new one
};

struct NewGroup {
    std::string name;
    Words tags;
    std::string system_id;
    std::uint32_t extent_sectors = 8192;  // a power of two, at least 8
    std::vector<NewPhysicalVolume> physical_volumes;
    bool overwrite = false;  // devices that hold a label already
};

struct MissingPhysicalVolume {
    std::string name;  // "pv1"
    LvmId id;
    std::string device_hint;
};

// One group, opened. Owned by one thread at a time. The devices are the caller's: open while the store lives, and locked against
// other writers (exclusive opening is the device's business).
class GroupStore {
  public:
    // The devices in any order. All that carry a label must belong to one group; two with the same id are refused.
    // With `writable`: everything is there, sound and may be written, areas that lag behind are brought up to date, and a
    // text that was prepared but not committed is finished or dropped as LVM would. Without: nothing is written.
    // Errors: refused, damaged (naming device and place), failed (I/O), not_found (no label on a device).
    static Result<GroupStore> open(std::span<BlockDevice* const> devices, const StoreOptions& options);

    // Labels, areas and a first text (seqno 1). Refuses devices with a label unless told to overwrite.
    static Result<GroupStore> create(const NewGroup& group, const StoreOptions& options);

    // Writes a backup's text back onto devices that carry its physical volumes' ids, or, with `make_labels`, onto blank ones
    // in the order of the backup's physical volumes. The seqno ends above both the backup's and what is there.
    static Result<GroupStore> restore(std::string_view backup, std::span<BlockDevice* const> devices, bool make_labels,
                                      const StoreOptions& options);

    GroupStore(GroupStore&&) noexcept;
    GroupStore& operator=(GroupStore&&) noexcept;
    ~GroupStore();

    const VolumeGroup& group() const;
    // What is unsound; empty when opened for writing.
    const std::vector<Finding>& findings() const;
    // Physical volumes of the group that no device holds.
    const std::vector<MissingPhysicalVolume>& missing() const;
    // What open() did or would have to do: "area at 4096 of ./b.img brought from seqno 6 to 7".
    const std::vector<std::string>& repairs() const;
    // Null: missing.
    BlockDevice* device(std::string_view physical_volume) const;

    // Makes `next` (seqno as group()'s) the group, durably on every usable area, with seqno + 1 and a description
    // ("lamella create web"). An area that can't be written is left behind with a warning in repairs(), as long as one can.
    // After an error group() says what was readable before; the on-disk group is the old or the new one.
    Result<void> commit(VolumeGroup next, std::string_view description);

    // The text in vgcfgbackup's format.
    std::string backup(std::string_view description) const;

  private:
    struct State;
    explicit GroupStore(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

// Reads the text of a backup without any device: what `restore` would write. Errors: damaged.
Result<ParsedGroup> check_backup(std::string_view backup);

}  // namespace lamella::lvm2
