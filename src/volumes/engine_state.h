// SPDX-License-Identifier: Apache-2.0
//
// Inside EngineGroup: the open devices, the group's text, the pools and volumes in use. Everything here runs under EngineGroup's
// lock; only the engine's own files include this.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "cow/origin.h"
#include "device/block_device.h"
#include "lvm2/store.h"
#include "mapper/volume_device.h"
#include "thin/pool.h"
#include "thin/volume.h"
#include "volumes/engine_group.h"
#include "volumes/origin_file.h"

namespace lamella {

// Errors: usage.
Result<lvm2::Discards> parse_discards(const std::string& word);

class EngineGroup::State {
  public:
    State(const EngineOptions& options, std::vector<std::unique_ptr<BlockDevice>> devices, lvm2::GroupStore store);

    std::mutex mutex;

    const EngineOptions options;
    std::vector<std::unique_ptr<BlockDevice>> devices;
    lvm2::GroupStore store;
    std::vector<std::string> recovered;
    std::vector<std::string> findings;

    const lvm2::VolumeGroup& group() const { return store.group(); }
    Result<const lvm2::LogicalVolume*> find(std::string_view name) const;
    // It may be changed; and, but for a trial, is as what was done before left it, as far as that can be finished.
    Result<void> writable(const ChangeOptions& change);
    mapper::FindDevice find_device() const;
    lvm2::Stamp stamp() const;

    // --- Pools ---
    struct Pool {
        std::unique_ptr<mapper::VolumeDevice> metadata;
        std::unique_ptr<mapper::VolumeDevice> data;
        std::unique_ptr<thin::ThinPool> pool;
    };
    // Opens the pool, or finds it open. What a crash left of a change of it is finished first.
    Result<thin::ThinPool*> pool(std::string_view name);
    bool pool_is_open(const lvm2::LogicalVolume& pool) const { return pools_.contains(pool.id); }
    Result<void> close_pool(const lvm2::LogicalVolume& pool);
    // A pool that is open does from now on what the group's text has for it.
    Result<void> refresh_pool(const lvm2::LogicalVolume& pool);
    Result<void> close_all();
    // The part of these pools in a change that `next` has queued messages for: the three durable steps. What several pools create
    // is of one moment; when one of them can't, none has.
    Result<void> change_pools(lvm2::VolumeGroup next, const std::vector<std::string>& pools, const std::string& description,
                              const ReportProgress& progress = {});
    // Finishes what the messages in the text ask for, if anything.
    Result<void> recover_pools();
    // Cuts extents off a pool that nothing uses: its data moves to before the new end, and its metadata is written anew, onto the
    // group's spare. The group's text, in one commit, takes both into use. Until then all is as it was.
    Result<VolumeInfo> shrink_pool(const std::string& name, std::uint32_t extents, const ChangeOptions& change);
    // If no volume of the pool is in use, its metadata is checked. damaged: there is anything wrong but leaks.
    Result<void> check_idle_pool(const std::string& name);
    // Empty metadata for a pool to be, before the group's text knows of it.
    Result<void> format_pool(const lvm2::VolumeGroup& next, const std::string& name) const;
    // The devices of an open pool have grown in the text.
    Result<void> refresh_pool(std::string_view name);

    // What a pool's metadata says, whether the pool is open or not.
    struct PoolView {
        thin::PoolStatus status;
        std::unordered_map<ThinId, thin::DeviceDetails> devices;
    };
    Result<std::vector<PoolDependent>> pool_dependents(const lvm2::LogicalVolume& pool);
    // The pool's metadata; while the pool is open, as its metadata snapshot has it, which is reserved for it unless it is held already.
    using ReadMetadata = std::function<Result<void>(BlockDevice& metadata, const thin::PoolStatus& status, bool in_snapshot)>;
    Result<void> read_metadata(const std::string& pool, const ReadMetadata& read);
    Result<PoolView> view_pool(const lvm2::LogicalVolume& pool, bool with_devices);
    // no_space: no chunk is free, so that nothing could be written to a volume made in it, nor to the origin of a snapshot.
    Result<void> refuse_full_pool(const std::string& name);

    // The device that a hidden volume of a pool is, or the store of a snapshot. refused: a host that shares the group may have it.
    Result<std::unique_ptr<mapper::VolumeDevice>> map(std::string_view name) const;

    // --- Volumes ---
    // A volume in use by exports.
    struct OpenOrigin;
    struct OpenVolume {
        // What the device stands on goes after it.
        std::shared_ptr<OpenVolume> external_origin;
        std::unique_ptr<BlockDevice> origin_file;
        std::shared_ptr<OpenOrigin> origin;  // of a volume with classic snapshots, and of each of those
        std::shared_ptr<BlockDevice> device;
        std::uint32_t users = 0;
    };
    // Shared by all who have the volume open. Ends (under the lock) with drop_volume().
    Result<std::shared_ptr<OpenVolume>> open_volume(const lvm2::LogicalVolume& volume);
    void drop_volume(const LvmId& id);
    std::shared_ptr<OpenVolume> user_of(const lvm2::LogicalVolume& volume, std::shared_ptr<OpenVolume> opened);
    bool in_use(const lvm2::LogicalVolume& volume) const { return volumes_.contains(volume.id); }
    Result<void> refuse_in_use(const lvm2::LogicalVolume& volume) const;
    Result<void> refresh_volume(const lvm2::LogicalVolume& volume);

    // --- Classic snapshots: engine_snapshots.cpp ---
    // A volume with its classic snapshots: as soon as one of them is in use all are, because a write to the origin concerns each.
    struct OpenOrigin {
        struct Store {
            std::unique_ptr<mapper::VolumeDevice> device;
            std::shared_ptr<cow::Snapshot> snapshot;
            std::uint64_t no_room_at = 0;  // the seqno at which there was none to extend it
        };
        std::shared_ptr<OpenVolume> real;
        std::shared_ptr<cow::Origin> origin;
        std::map<LvmId, Store> stores;
    };
    const lvm2::ClassicSnapshots& classic() const;
    void forget_classic() { classic_of_ = UINT64_MAX; }  // when another text takes the group's place
    // Whether users see the volume. LVM's own words for classic snapshots are the wrong way round.
    bool shown(const lvm2::LogicalVolume& volume) const;
    // Bytes that a client sees.
    std::uint64_t served_size(const lvm2::LogicalVolume& volume) const;
    // All or none.
    Result<std::vector<VolumeInfo>> create_classic_snapshots(const std::vector<CreateSnapshot>& requests, bool dry_run);
    Result<VolumeInfo> resize_store(const ResizeVolume& request, bool dry_run);
    Result<void> remove_classic_snapshots(const std::vector<std::string>& names);
    // How far a store is filled, in use or not.
    Result<cow::SnapshotStatus> snapshot_status(const lvm2::LogicalVolume& store) const;
    Result<void> merge_classic_snapshot(const std::string& name, const std::string& snapshot, bool dry_run);
    // Goes on with what the text says is being merged.
    void resume_merges();
    void look_after_snapshots();
    // Without the lock.
    void stop_looking_after();

    // --- Descriptions ---
    VolumeInfo describe(const lvm2::VolumeGroup& from, const lvm2::LogicalVolume& volume, const PoolView* view) const;
    Result<VolumeInfo> describe(std::string_view name);
    // Where the paths of images outside of the group begin.
    std::filesystem::path image_folder() const;
    // Why I/O on it is refused; empty: it isn't.
    std::string why_refused(const lvm2::LogicalVolume& volume) const;

  private:
    Result<void> recover_pool(const lvm2::LogicalVolume& pool);
    Result<std::vector<thin::PoolChange>> changes_of(const lvm2::VolumeGroup& from, const lvm2::ThinPool& pool) const;
    Result<void> open_pool(const lvm2::LogicalVolume& pool);
    thin::ThinPoolOptions pool_options(const lvm2::LogicalVolume& pool) const;

    std::string finding_about(std::string_view name) const;
    // The device of a volume itself, without what its classic snapshots make of it.
    Result<std::shared_ptr<OpenVolume>> open_real(const lvm2::LogicalVolume& volume);
    Result<std::shared_ptr<OpenOrigin>> open_origin(const lvm2::LogicalVolume& volume);
    Result<void> open_store(OpenOrigin& open, const lvm2::VolumeGroup& from, const lvm2::ClassicSnapshots& snapshots,
                            const lvm2::ClassicSnapshot& snapshot);
    Result<void> begin_at_one_moment(const lvm2::VolumeGroup& next, const lvm2::ClassicSnapshots& snapshots,
                                     const std::vector<std::string>& names,
                                     std::vector<std::pair<std::shared_ptr<OpenOrigin>, LvmId>>& begun);
    Result<void> start_merge(const std::string& origin);
    std::shared_ptr<OpenOrigin> opened_origin(const std::string& name) const;
    void finish_merge(const LvmId& origin);
    void extend_where_needed(OpenOrigin& open);
    bool extend_store(const LvmId& id, OpenOrigin::Store& in_use, const cow::StoreUsage& usage);
    // By a thread of its own; in simulations the caller does.
    bool looks_after_snapshots() const { return options.queue == nullptr && !options.read_only; }
    void look_after_from_now_on();
    void look_now();  // any thread
    void note(std::string finding);

    mutable std::optional<lvm2::ClassicSnapshots> classic_;
    mutable std::uint64_t classic_of_ = UINT64_MAX;  // the seqno that they were gathered at
    std::map<LvmId, std::weak_ptr<OpenOrigin>> origins_;
    // Origins that a snapshot is being merged into are open until that is done.
    std::map<LvmId, std::shared_ptr<OpenOrigin>> merges_;
    std::thread looking_after_;
    std::mutex look_mutex_;  // of what follows; nothing else is locked, or waited for, under it
    std::condition_variable look_again_;
    bool stop_looking_ = false;
    bool look_now_ = false;  // there is something to do, as for writes that wait for room in a store

    std::map<LvmId, Pool> pools_;
    std::map<LvmId, std::shared_ptr<OpenVolume>> volumes_;
};

}  // namespace lamella
