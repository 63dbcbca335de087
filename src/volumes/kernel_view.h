// SPDX-License-Identifier: Apache-2.0
//
// What LVM's report and the kernel's status say of a group together, in the words of volume_group.h. For the kernel engine's own files.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "host/kernel_mapper.h"
#include "host/lvm_locks.h"
#include "host/lvm_report.h"
#include "volumes/volume_group.h"

namespace lamella {

// A thin-pool target's status line, as far as it is used.
struct KernelPoolStatus {
    bool failed = false;  // "Fail" or "Error": nothing else is known
    std::uint64_t transaction_id = 0;
    std::uint64_t used_metadata_blocks = 0;
    std::uint64_t used_data_blocks = 0;
    std::optional<std::uint64_t> held_root;
    std::string mode;  // "rw", "ro", "out_of_data_space"
    bool needs_check = false;
    std::optional<bool> error_when_full;  // as it is now: a pool that has queued for dm-thin's no_space_timeout fails from then on
};
// None: it isn't such a line.
std::optional<KernelPoolStatus> parse_pool_status(std::string_view parameters);

// One moment of a group. What the kernel doesn't tell is unknown.
class KernelView {
  public:
    // `kernel`: devices whose names may be the group's; or why there are none.
    // `locks`: of a group that hosts share.
    KernelView(host::LvmGroup group, Result<std::vector<host::KernelDevice>> kernel, std::optional<host::HostLocks> locks = {});

    KernelView(KernelView&&) = default;
    KernelView& operator=(KernelView&&) = default;

    const host::LvmGroup& lvm() const { return group_; }
    GroupInfo info() const;
    std::vector<VolumeInfo> volumes() const;
    VolumeInfo describe(const host::LvmVolume& volume) const;

    // Errors: not_found.
    Result<const host::LvmVolume*> find(std::string_view name) const;
    // Errors also: usage, when it isn't one.
    Result<const host::LvmVolume*> find_pool(std::string_view name) const;

    // By uuid: names are no proof. `layer`: "", "tpool", "cow", ... Null: there is none.
    const host::KernelDevice* device(const host::LvmVolume& volume, std::string_view layer = {}) const;
    // The device with the thin-pool target. Null: the pool isn't active, or the kernel wasn't to be asked.
    const host::KernelDevice* pool_device(const host::LvmVolume& pool) const;
    // Who has a volume's device open: file systems, programs, devices on top.
    std::uint32_t open_count(const host::LvmVolume& volume) const;
    // The kernel's devices, those of others with similar names among them; or why they aren't known.
    const Result<std::vector<host::KernelDevice>>& kernel() const { return kernel_; }

    // What this host holds of a shared group's locks. None: it isn't shared.
    const std::optional<host::HostLocks>& locks() const { return locks_; }
    // Whose lock stands for a volume, where LVM's commands don't take it reliably: a pool's, for it and its thin volumes; the origin's, or
    // its pool's, for a classic snapshot. Null: the volume has a lock of its own.
    const host::LvmVolume* lock_of(const host::LvmVolume& volume) const;
    // In a shared group: what a host has alone, as a pool, isn't this host's now, as far as it is known.
    bool lacks_lock(const host::LvmVolume& owner) const { return locks_ && !locks_->exclusive.contains(owner.id); }
    // lvmlockd doesn't answer.
    bool locks_unknown() const { return locks_ && locks_->state == host::HostLocks::State::no_daemon; }

  private:
    std::optional<bool> lock_held(const host::LvmVolume& volume) const;
    void describe_pool(const host::LvmVolume& volume, VolumeInfo& info) const;
    void describe_snapshot(const host::LvmVolume& volume, VolumeInfo& info) const;
    void add_findings(const host::LvmVolume& volume, std::vector<std::string>& findings) const;

    host::LvmGroup group_;
    Result<std::vector<host::KernelDevice>> kernel_;
    std::optional<host::HostLocks> locks_;
    std::unordered_map<std::string, const host::KernelDevice*> by_uuid_;
    std::unordered_map<std::string, const host::LvmVolume*> by_name_;
};

}  // namespace lamella
