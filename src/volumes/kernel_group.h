// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "device/block_device.h"
#include "host/command_runner.h"
#include "host/kernel_mapper.h"
#include "host/lvm_command.h"
#include "volumes/kernel_view.h"
#include "volumes/unfinished.h"
#include "volumes/volume_group.h"

namespace lamella {

// What a group stands on, and where what has to be remembered over the end of a process is kept.
struct KernelHost {
    std::unique_ptr<host::CommandRunner> runner;
    std::unique_ptr<host::KernelMapper> mapper;
    std::string lvm;                        // absolute path of the program
    std::filesystem::path state_directory;  // of this boot; exists
    Clock* clock = &Clock::system();
    std::filesystem::path profile_directory = "/etc/lvm/profile";  // where LVM looks for a pool's profile
};

// A pool's metadata, for reading, until the object is gone. While the pool is active it is what the pool's metadata snapshot holds, which
// is taken for it and let go of with it, unless somebody held one already. One that a process couldn't let go of, because it was killed,
// the next KernelGroup::open() lets go of.
class HeldMetadata {
  public:
    ~HeldMetadata();
    HeldMetadata(HeldMetadata&&) = delete;

    BlockDevice& device() const { return *device_; }
    // Only the metadata snapshot in it is whole: the rest changes meanwhile.
    bool in_snapshot() const { return in_snapshot_; }
    // The metadata snapshot is somebody else's, of whatever moment.
    bool of_others() const { return in_snapshot_ && mark_ < 0; }

  private:
    friend class KernelGroup;
    HeldMetadata() = default;

    std::vector<std::unique_ptr<BlockDevice>> disks_;
    std::unique_ptr<BlockDevice> device_;
    host::KernelMapper* mapper_ = nullptr;
    std::string pool_device_;
    bool in_snapshot_ = false;
    int mark_ = -1;  // a locked file that tells of the metadata snapshot; -1: it isn't ours
};

// What the user-space engine opens in LVM's place.
struct HostDisks {
    std::vector<std::string> paths;  // of all physical volumes
    std::string system_id;           // by which the group is this host's; empty: it is any host's
};

// A group that this host's LVM and device mapper run. Text metadata is read and changed by LVM's commands, one at a time; the state of
// devices is asked of the kernel itself. Listing all of a group takes one command of LVM's and one pass of device mapper's ioctls.
//
// What it can't do, and says so (unsupported): discards of a pool's free chunks (fstrim of the file systems does that); one moment for
// snapshots of several volumes that are in use; thin volumes on an external origin of another size; a pool's data made smaller.
//
// Threads: one caller at a time.
class KernelGroup final : public VolumeGroup {
  public:
    // Changes nothing of the group's; but a metadata snapshot that a killed process of ours left is released.
    // Errors: not_found (no such group), refused (not root; another host's group), failed.
    static Result<std::unique_ptr<KernelGroup>> open(const std::string& name, KernelHost host);

    // Before a change: what was broken off is undone or ended, as far as it is proven to be ours and untouched since. GroupInfo::recovered
    // has what was done, GroupInfo::broken_off what is left.
    Result<void> recover();

    // The pool's metadata as it is now. The group outlives the result. Errors: not_found, usage, refused (another process reads it this
    // way), failed.
    Result<std::unique_ptr<HeldMetadata>> read_metadata(const std::string& pool);

    // The group's disks while the kernel has nothing of it active. It may have a moment later: only who has claimed them keeps it from that.
    // Errors: refused, when something is active, or the group may not be changed from here.
    Result<HostDisks> inactive_disks();
    // Whatever is active.
    Result<std::vector<std::string>> disks();

    // VolumeGroup
    Result<GroupInfo> info() override;
    Result<std::vector<PhysicalVolumeInfo>> inspect_disks() override;
    Result<std::vector<VolumeInfo>> volumes() override;
    Result<VolumeInfo> volume(const std::string& name) override;
    Result<VolumeInfo> create_pool(const CreatePool& request, ChangeOptions options) override;
    Result<VolumeInfo> create_volume(const CreateVolume& request, ChangeOptions options) override;
    Result<std::vector<VolumeInfo>> create_snapshots(const std::vector<CreateSnapshot>& requests, ChangeOptions options) override;
    Result<VolumeInfo> resize(const ResizeVolume& request, ChangeOptions options) override;
    Result<VolumeInfo> rename(const std::string& name, const std::string& new_name, ChangeOptions options) override;
    Result<VolumeInfo> change_tags(const std::string& name, const std::vector<std::string>& add, const std::vector<std::string>& remove,
                                   ChangeOptions options) override;
    Result<void> remove(const std::vector<std::string>& names, bool with_contents, ChangeOptions options) override;
    Result<VolumeInfo> convert_to_pool(const ConvertToPool& request, ChangeOptions options) override;
    Result<VolumeInfo> swap_metadata(const std::string& pool, const std::string& volume, ChangeOptions options) override;
    Result<std::vector<VolumeInfo>> set_active(const SetActive& request, ChangeOptions options) override;
    Result<std::vector<PoolDependent>> pool_dependents(const std::string& pool) override;
    Result<void> remove_foreign(const std::string& pool, const std::vector<PoolDependent>& dependents, ChangeOptions options) override;
    Result<VolumeInfo> rollback(const std::string& name, const std::string& snapshot, ChangeOptions options) override;
    Result<std::uint64_t> reserve_metadata_snapshot(const std::string& pool, ChangeOptions options) override;
    Result<void> release_metadata_snapshot(const std::string& pool, ChangeOptions options) override;
    Result<std::uint64_t> trim(const std::string& pool, ChangeOptions options) override;
    Result<PoolContents> pool_contents(const std::string& pool, bool check) override;
    Result<std::vector<ThinUsage>> pool_usage(const std::string& pool) override;
    Result<PackedMetadata> pack_metadata(const std::string& pool, const std::string& file) override;
    Result<VolumeInfo> make_spare(ChangeOptions options) override;
    Result<std::string> status_line(const std::string& name) override;
    Result<std::string> table_line(const std::string& name) override;
    Result<void> send_message(const std::string& pool, const std::string& message) override;
    Result<std::string> backup_text() override;
    Result<void> restore_text(const std::string& text, bool force, ChangeOptions options) override;

  private:
    KernelGroup(std::string name, KernelHost host) : name_(std::move(name)), host_(std::move(host)), lvm_(*host_.runner, host_.lvm) {}

    // LVM's report is asked for again when it is older than a second or something was changed from here; the kernel is asked each time.
    Result<KernelView> look();
    enum class Purpose { change, activate };
    // A report of now, of a group that may be changed, or have volumes activated, from here.
    Result<KernelView> look_to(Purpose purpose);
    Result<KernelView> look_to_change() { return look_to(Purpose::change); }
    Result<host::KernelDevice> active_pool(const KernelView& view, const std::string& pool);
    // Lets go of metadata snapshots that processes of before left.
    Result<void> release_leftovers();
    std::filesystem::path mark_of(const host::LvmVolume& pool) const;

    // What is found afterwards. In a trial, `expected`.
    Result<VolumeInfo> changed(const host::LvmWords& words, const std::string& name, VolumeInfo expected, const ChangeOptions& options);
    Result<void> change(const host::LvmWords& words, bool trial);
    Result<void> remember_origin(const KernelView& view, const host::LvmVolume& origin, const host::LvmVolume& merged);
    Result<host::LvmWords> snapshot_words(const KernelView& view, const CreateSnapshot& request) const;
    // The name of an LVM profile that has a pool extended automatically, made if it isn't there.
    Result<std::string> write_profile(unsigned threshold, unsigned percent);
    // Has dmeventd look after a pool with that profile, and looks whether it does.
    Result<void> watch(const std::string& pool, const std::string& profile);
    Result<VolumeInfo> create_pool_of_parts(const KernelView& view, const CreatePool& request, VolumeInfo info,
                                            const ChangeOptions& options);
    // Held over the commands of a change that takes several. refused: another process makes one.
    Result<ChangeLock> lock_changes();
    Result<std::filesystem::path> change_path(const host::LvmGroup& group) const;
    // Remembers that the command which makes the next of the record's volumes has ended.
    Result<void> made_next(ChangeLock& lock, ChangeRecord& record);
    struct Settled {
        std::string said;   // what was done; empty: nothing
        bool left = false;  // something may be there still
    };
    // What a change of several commands left is undone or ended; or, where it may be somebody's by now, left for good.
    Result<Settled> settle(ChangeLock& lock);
    // Undoes a change of which a command failed. Returns that error, with what couldn't be undone.
    Error undone(ChangeLock& lock, ChangeRecord& record, const Error& error);
    // Without what a living process makes.
    Result<std::vector<BrokenOff>> broken_off(const KernelView& view) const;
    // Something other than these is in the way of their becoming inactive.
    Result<void> refuse_used_by_others(const KernelView& view, const std::vector<const host::LvmVolume*>& leaving);
    // Thin volumes in a pool that somebody else made there, as container engines do.
    Result<void> refuse_foreign_children(const KernelView& view, const host::LvmVolume& pool);

    std::string name_;
    KernelHost host_;
    host::Lvm lvm_;
    std::optional<host::LvmGroup> report_;
    Duration reported_{};
    std::vector<std::string> recovered_;
    std::vector<std::string> unknown_holders_;  // pools whose metadata snapshot may be a killed process's
};

}  // namespace lamella
