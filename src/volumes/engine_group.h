// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device/block_device.h"
#include "serve/export_source.h"
#include "volumes/volume_group.h"

namespace lamella {

struct EngineOptions {
    bool read_only = false;
    // Of the host's own LVM: the system id by which groups are this host's (empty: none), whether block devices are claimed for reading,
    // too, so that LVM activates nothing of the group meanwhile, and where its locks are (StoreOptions::lvm_locks).
    std::string system_id;
    bool claim_read_only = false;
    std::filesystem::path lvm_locks;
    // Bounds on memory, in bytes.
    std::uint64_t mapping_cache_bytes = 512ull << 20;
    std::uint64_t metadata_cache_bytes = 32ull << 20;
    // Where replaced texts of the group are kept; empty: state_directory()/archive.
    std::filesystem::path archive_directory;
    // How long writes wait for room in a full pool before they fail; 0: without limit. Seconds.
    unsigned no_space_timeout = 60;
    // While the group is open for writing: a classic snapshot whose store is fuller than this many percent gets so many percent more room,
    // as LVM's activation/snapshot_autoextend_threshold and _percent. 100: never.
    unsigned snapshot_autoextend_threshold = 100;
    unsigned snapshot_autoextend_percent = 20;
    // Where pools run instead of on threads of their own: a queue that the caller steps (simulations).
    IoQueue* queue = nullptr;
};

// What `lamella init` makes: physical volumes, a group on them, and a thin pool in it.
struct CreateGroup {
    std::vector<std::string> paths;       // image files or block devices
    std::optional<std::uint64_t> size;    // bytes of each image file that isn't there yet
    std::string name;                     // of the group; empty: the first path's file name up to its first dot
    std::uint64_t extent_size = 4 << 20;  // bytes, a power of two, at least 4 KiB
    unsigned metadata_areas = 1;          // on each physical volume: 0, 1 or 2
    std::vector<std::string> tags;
    bool overwrite = false;          // physical volumes that hold something already
    std::optional<CreatePool> pool;  // none: only the group
};

// A group on image files or block devices that this process opens by itself: LVM2's metadata, thin pools and volumes run in this
// process.
//
// Threads: any; calls are taken one at a time.
class EngineGroup final : public VolumeGroup {
  public:
    // Makes the group and closes it again. With `dry_run` everything is checked, nothing is made. Returns what open() would show.
    static Result<GroupInfo> create(const CreateGroup& request, ChangeOptions options);

    // Locks and opens the physical volumes. Unless read-only, what a crash left half done is finished: see GroupInfo::recovered.
    static Result<std::unique_ptr<EngineGroup>> open(const std::vector<std::string>& paths, const EngineOptions& options);
    // The same on devices that are open, and locked where others could open them.
    static Result<std::unique_ptr<EngineGroup>> open(std::vector<std::unique_ptr<BlockDevice>> devices, const EngineOptions& options);
    // As close(), errors unseen.
    ~EngineGroup() override;

    // Commits and closes everything. No export is open by then.
    Result<void> close();

    // For a server: the volumes that can be served, all or the named ones. The group outlives it.
    std::unique_ptr<ExportSource> exports(std::vector<std::string> only = {});

    // Ends merges that are done, and gives classic snapshots more room where they need it. A thread of the group's own calls it while there
    // is anything to look after, unless EngineOptions::queue is set: then it is for the caller.
    void look_after_snapshots();

    // Everything written so far to any volume is durable.
    Result<void> commit();

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

    class State;

  private:
    explicit EngineGroup(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace lamella
