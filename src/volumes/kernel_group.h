// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "device/block_device.h"
#include "host/command_runner.h"
#include "host/kernel_mapper.h"
#include "host/lvm_command.h"
#include "host/processes.h"
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
    std::filesystem::path device_directory = "/dev/mapper";        // where the kernel's devices have their names
    std::filesystem::path process_directory = host::all_processes;
    std::filesystem::path kernel_directory = "/sys/kernel";  // with config/ and debug/
};

class KernelGroup;

// A pool's metadata, for reading, until the object is gone. While the pool is active it is what the pool's metadata snapshot holds, which
// is taken for it and let go of with it, unless somebody held one already. One that a process couldn't let go of, because it was killed,
// the next KernelGroup::open() lets go of. A pool that is read-only or has failed takes no metadata snapshot, and changes nothing on its
// disks: its metadata are read from there.
class HeldMetadata {
  public:
    ~HeldMetadata();
    HeldMetadata(HeldMetadata&&) = delete;

    BlockDevice& device() const { return *device_; }
    // Only the metadata snapshot in it is whole: the rest changes meanwhile.
    bool in_snapshot() const { return in_snapshot_; }
    // The metadata snapshot is somebody else's, of whatever moment.
    bool of_others() const { return in_snapshot_ && mark_ < 0; }
    // What was read until now was of one moment: a pool that wasn't active may have been used meanwhile, a read-only one mended. refused:
    // it isn't.
    Result<void> still_whole() const;

  private:
    friend class KernelGroup;
    HeldMetadata(KernelGroup& group, std::string pool) : group_(group), pool_(std::move(pool)) {}

    KernelGroup& group_;
    std::string pool_;
    std::vector<std::byte> superblock_;       // as it was before anything else was read; in a metadata snapshot that one's
    std::optional<std::uint64_t> held_root_;  // of the metadata snapshot
    std::vector<std::unique_ptr<BlockDevice>> disks_;
    std::unique_ptr<BlockDevice> device_;
    host::KernelMapper* mapper_ = nullptr;
    std::string pool_device_;
    bool in_snapshot_ = false;
    std::string still_;  // the status of a pool that changes nothing, when it was opened; empty: of another
    int mark_ = -1;      // a locked file that tells of the metadata snapshot; -1: it isn't ours
};

// Metadata in the making, on a volume of the group that take_metadata() makes the pool's. The volume goes with the object, but not from when
// it is about to change places with the pool's own. The group outlives it.
class NewMetadata {
  public:
    ~NewMetadata();
    NewMetadata(NewMetadata&&) = delete;

    BlockDevice& device() const { return *device_; }
    // The pool is still not active, and its metadata are those that these are to replace. refused: it was used meanwhile.
    Result<void> still_fits() const;

  private:
    friend class KernelGroup;
    NewMetadata(KernelGroup& group, ChangeLock lock) : group_(group), lock_(std::move(lock)) {}

    KernelGroup& group_;
    ChangeLock lock_;
    ChangeRecord record_;
    std::unique_ptr<BlockDevice> device_;
    std::string pool_, name_;            // name_ is empty: there is no volume, or it isn't ours to remove any more
    std::vector<std::byte> superblock_;  // the pool's, when what the new metadata are made of was read
};

// What the user-space engine opens in LVM's place.
struct HostDisks {
    std::vector<std::string> paths;  // of all physical volumes
    std::string system_id;           // by which the group is this host's; empty: it is any host's
    std::string lock_directory;      // where LVM's commands lock it
};

// A group that this host's LVM and device mapper run. Text metadata is read and changed by LVM's commands, one at a time; the state of
// devices is asked of the kernel itself. Listing all of a group takes one command of LVM's and one pass of device mapper's ioctls; status
// lines of what is active, and a pool's metadata snapshot, take no command of LVM's.
//
// What it can't do, and says so (unsupported): discards of a pool's free chunks (fstrim of the file systems does that); one moment for
// snapshots of several volumes that are in use; thin volumes on an external origin of another size; a pool's data made smaller.
//
// Threads: one caller at a time.
class KernelGroup final : public VolumeGroup {
  public:
    // Changes nothing of the group's; but a metadata snapshot that a killed process of ours left is released.
    // Errors: refused (not root; another host's group), failed. Whether there is such a group turns out with the first question.
    static Result<std::unique_ptr<KernelGroup>> open(const std::string& name, KernelHost host);

    // Before a change: what was broken off is undone or ended, as far as it is proven to be ours and untouched since. GroupInfo::recovered
    // has what was done, GroupInfo::broken_off what is left.
    Result<void> recover();

    // The pool's metadata as it is now. The group outlives the result. Errors: not_found, usage, refused (another process reads it this
    // way), failed.
    Result<std::unique_ptr<HeldMetadata>> read_metadata(const std::string& pool);

    // What open() put right.
    const std::vector<std::string>& recovered() const { return recovered_; }
    // Something of the group is active, and so it isn't served from its disks. No command of LVM's is run to find out.
    bool is_active();

    // Metadata of a pool that isn't active are never written in place. They are written to a volume as large as the present ones, which
    // then takes their place; `copied`: it begins as a copy of them. `source`: what the new ones are made of; if it is the same pool's,
    // they take the place of what was read then and of nothing newer. Errors: not_found, usage, refused (active, shared between hosts,
    // used since `source` was read), unsupported (metadata that can't be read from the disks: on raid), no_space, failed.
    Result<std::unique_ptr<NewMetadata>> new_metadata(const std::string& pool, bool copied, const HeldMetadata* source = nullptr);
    // When what is there is sound but for leaks, fits to what LVM knows of the pool, and the pool wasn't used meanwhile. What was the
    // pool's metadata is the volume of that name afterwards, and stays. Errors: damaged, refused, failed; the pool is as it was then, and
    // where LVM's last command failed, the error says that the new volume stays.
    Result<std::string> take_metadata(NewMetadata& made);

    // The group's disks while the kernel has nothing of it active. It may have a moment later: only who has claimed them keeps it from that.
    // Errors: refused, when something is active, or the group may not be changed from here.
    Result<HostDisks> inactive_disks();
    // Whatever is active.
    Result<std::vector<std::string>> disks();

    // VolumeGroup
    Result<GroupInfo> info() override;
    Result<std::vector<PhysicalVolumeInfo>> inspect_disks() override;
    Result<std::vector<VolumeInfo>> volumes() override;
    Result<GroupListing> listing() override;
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
    Result<VolumeInfo> change_pool(const ChangePool& request, ChangeOptions options) override;
    Result<AutomaticExtension> automatic_extension(const std::string& pool) override;
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
    friend class HeldMetadata;
    friend class NewMetadata;
    KernelGroup(std::string name, KernelHost host) : name_(std::move(name)), host_(std::move(host)), lvm_(*host_.runner, host_.lvm) {}

    // LVM's report, asked for again when it is older than a second or something was changed from here.
    Result<const host::LvmGroup*> reported();
    // That, and the kernel's state of now.
    Result<KernelView> look();
    enum class Purpose { change, activate };
    // A report of now, of a group that may be changed, or have volumes activated, from here.
    Result<KernelView> look_to(Purpose purpose);
    Result<KernelView> look_to_change() { return look_to(Purpose::change); }
    // In a group that hosts share nothing is changed, or made active, without lvmlockd. Errors: refused.
    Result<void> refuse_without_locking(const KernelView& view) const;
    // Nothing is done to a pool, what is in it, or a classic snapshot without its lock (KernelView::lock_of). Errors: refused, with who holds
    // it.
    Result<void> refuse_without_lock(const KernelView& view, const host::LvmVolume& volume);
    Result<void> refuse_without_lock_of(const KernelView& view, const host::LvmVolume& owner);
    // Other hosts that have the volume's lock.
    struct LockHolder {
        bool certain = false;  // else it may be free
        std::string who;       // "host-1 (host id 1)"; empty: nobody, or, if that isn't certain, it can't be told
    };
    LockHolder lock_holder(const KernelView& view, const host::LvmVolume& volume);
    Result<host::KernelDevice> active_pool(const KernelView& view, const std::string& pool);
    // The device of an active pool or volume by its name, as the kernel alone tells it: LVM names devices by its own rules, and marks them
    // as its own by their uuids. A pool's is that with the thin-pool target. None: LVM has to be asked.
    std::optional<host::KernelDevice> device_by_name(const std::string& volume);
    // A pool that may be told to hold its metadata, or let go of it. That changes nothing of the group's.
    Result<host::KernelDevice> pool_to_tell(const std::string& pool);
    // A pool's metadata where they lie on the disks. Nobody changes them while it isn't active.
    struct AtRest {
        std::vector<std::unique_ptr<BlockDevice>> disks;
        std::unique_ptr<BlockDevice> device;
    };
    Result<AtRest> metadata_at_rest(const KernelView& view, const host::LvmVolume& pool);
    // The text on the disks, of which LVM's report has no word of it, has messages that the pool hasn't been sent. False, too: it can't be
    // read.
    static bool has_messages(const KernelView& view, const std::string& pool);
    // refused: the pool is active, or its superblock isn't that one any more.
    Result<void> refuse_used(const std::string& pool, const std::vector<std::byte>& superblock);
    // Gives folders free that killed processes left in the state folder. True: there may be a metadata snapshot of one.
    Result<bool> sweep();
    // Lets go of metadata snapshots that processes of before left.
    Result<void> release_leftovers();
    static bool metadata_is_open(const KernelView& view, const host::LvmVolume& pool);
    std::filesystem::path mark_of(const std::string& pool_id) const;

    // What is found afterwards. In a trial, `expected`.
    Result<VolumeInfo> changed(const host::LvmWords& words, const std::string& name, VolumeInfo expected, const ChangeOptions& options);
    Result<void> change(const host::LvmWords& words, bool trial);
    Result<void> remember_origin(const KernelView& view, const host::LvmVolume& origin, const host::LvmVolume& merged,
                                 std::optional<ChangeLock>& lock);
    Result<host::LvmWords> snapshot_words(const KernelView& view, const CreateSnapshot& request) const;
    // The name of an LVM profile that has a pool extended automatically, made if it isn't there.
    Result<std::string> write_profile(unsigned threshold, unsigned percent);
    // Has dmeventd look after a pool with that profile, and looks whether it does. `anew`: the kernel may not have heard of the pool's
    // settings. Without a profile that is all.
    Result<void> watch(const std::string& pool, const std::string& profile, bool anew);
    enum class Recorded { no, yes };
    Result<void> remove_volumes(const std::vector<std::string>& names, bool with_contents, ChangeOptions options, Recorded recorded,
                                const std::set<std::string>* ids = nullptr);
    // LVM's command that a killed process had begun goes on. Errors: refused, when it still does after a while.
    Result<void> wait_for_lvm();
    // `watched`: whether it is extended automatically, if it was to be.
    Result<VolumeInfo> create_pool_of_parts(const KernelView& view, const CreatePool& request, VolumeInfo info,
                                            const ChangeOptions& options, Result<void>& watched);
    // Held over the commands of a change that takes several. refused: another process makes one.
    Result<ChangeLock> lock_changes();
    Result<std::filesystem::path> change_path(const host::LvmGroup& group) const;
    // Remembers that the command which makes the next of the record's volumes has ended.
    Result<void> made_next(ChangeLock& lock, ChangeRecord& record);
    struct Settled {
        std::string said;      // what was done; empty: nothing
        std::string made;      // where all is there: its names
        bool left = false;     // something may be there still
        bool done = false;     // all of the change is, after all
        Result<void> watched;  // where it is a pool that was to be extended automatically: whether it is
    };
    // What a change of several commands left is undone or ended; or, where it may be somebody's by now, left for good. So ends, too, a
    // change of which no command has failed.
    enum class Maker { at_work, gone };
    Result<Settled> settle(ChangeLock& lock, Maker maker = Maker::gone);
    Result<Settled> settle_there(ChangeLock& lock, const ChangeRecord& record, const KernelView& view, Maker maker);
    // Until nobody has open what was made; no longer than some seconds.
    Result<void> wait_for_udev(const std::function<bool(const KernelView&)>& closed);
    Result<void> refuse_open_in_set(const KernelView& view, const host::LvmVolume& origin);
    Result<void> still_closed(const KernelView& before, const std::vector<CreateSnapshot>& requests);
    // Undoes a change of which a command failed. Returns that error, with what couldn't be undone.
    Error undone(ChangeLock& lock, ChangeRecord& record, const Error& error);
    Result<GroupInfo> info_of(const KernelView& view) const;
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
    Duration reported_at_{};
    std::string shared_by_;  // "sanlock 1.0.0:lvmlock", as last reported; empty: no hosts share it
    std::vector<std::string> recovered_;
    std::vector<std::string> unknown_holders_;  // pools whose metadata snapshot may be a killed process's
};

}  // namespace lamella
