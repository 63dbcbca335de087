// SPDX-License-Identifier: Apache-2.0
//
// VolumeGroup: the one interface to a group of volumes, whichever engine runs it and in whichever process it is open.
//
// Sizes are bytes everywhere. Times are seconds since 1970-01-01 UTC. Names are those of LVM2: a group, a logical volume.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace lamella {

enum class VolumeKind {
    linear,  // type striped with one stripe
    striped,
    thin_pool,
    thin,           // a thin volume or thin snapshot
    snapshot,       // a classic snapshot, by the name of its store
    file,           // stands for an image outside of the group, the external origin of thin volumes
    pool_data,      // hidden: POOL_tdata
    pool_metadata,  // hidden: POOL_tmeta
    spare,          // hidden: lvolN_pmspare
    other,          // a segment type that this engine doesn't run: listed and kept
};

// What is known of one logical volume. What isn't known, or has no meaning for the kind, is empty.
struct VolumeInfo {
    std::string name;
    std::string id;  // dashed LVM identifier
    VolumeKind kind = VolumeKind::other;
    std::string segment_type;  // LVM's word: "linear", "striped", "thin-pool", "thin", "raid1", ...
    std::uint64_t size = 0;
    bool visible = true;
    bool read_only = false;
    bool skip_activation = false;
    std::vector<std::string> tags;
    std::optional<std::int64_t> creation_time;
    std::string creation_host;
    std::optional<std::int64_t> age;  // seconds since creation_time, by the clock of the command that lists it; else empty
    std::uint32_t stripes = 1;
    std::uint64_t stripe_size = 0;
    std::vector<std::string> physical_volumes;  // names in the group's metadata, of a linear or striped volume

    // Thin volumes.
    std::string pool;
    std::string origin;  // the thin volume that this is a snapshot of, while that exists
    // Of a snapshot without `origin`: the volume that it is of, where another snapshot was merged into that since. As the group's tags
    // have it; the name may be another's by now.
    std::string former_origin;
    std::string external_origin;
    std::string origin_file;  // where the external origin is an image outside; also of a volume of kind `file`
    std::optional<std::uint32_t> device_id;
    std::optional<std::uint64_t> mapped;     // bytes that have blocks of their own or shared ones
    std::optional<std::uint64_t> exclusive;  // of these, what no other volume maps; only where pool_usage() was asked

    // Thin pools.
    std::optional<std::uint64_t> transaction_id;
    std::optional<std::uint64_t> chunk_size;
    std::optional<std::uint64_t> data_used;
    std::optional<std::uint64_t> metadata_size;
    std::optional<std::uint64_t> metadata_used;
    std::optional<std::uint64_t> metadata_snapshot;  // the held root, a block number
    std::string discards;                            // "passdown", "nopassdown", "ignore"
    bool zero_new_blocks = true;
    bool error_when_full = false;
    // What the device mapper does with discards, where that isn't what `discards` asks for because the disks below can't; empty when unknown.
    std::string effective_discards;
    std::string pool_mode;  // as the kernel's status line: "rw", "ro", "out_of_data_space", "Fail"; empty when unknown
    bool needs_check = false;

    // Classic snapshots. `size` is what a client sees, the origin's size at the snapshot's time.
    std::optional<std::uint64_t> store_size;
    std::optional<std::uint64_t> store_used;      // with the store's own metadata; as dm-snapshot's status line
    std::optional<std::uint64_t> store_metadata;  // while merging: done when store_used has come down to this
    // "active", "merging", "Invalid", "Overflow", "Merge failed"; empty when unknown.
    std::string snapshot_state;
    // Of snapshots of either kind: "valid", "full", "invalid", "overflow", "merging", "merge failed", "inactive", "refused", "unknown".
    std::string state;

    // What only a group that the host's LVM runs has. Unknown elsewhere.
    std::optional<bool> active;
    std::optional<bool> monitored;  // by dmeventd
    std::string profile;            // the LVM profile with its rules for automatic extension
    // In a group that hosts share: this host has for itself alone the lock of this volume, of its pool or of its origin. Empty elsewhere,
    // and where lvmlockd doesn't say.
    std::optional<bool> lock_held;

    // Being served: connections that have it open.
    std::uint32_t open_count = 0;
    // Why I/O on it is refused, if it is.
    std::string refused;
};

struct PhysicalVolumeInfo {
    std::string name;  // "pv0"
    std::string id;
    std::string device;  // path it was opened by; the hint in the metadata when missing
    std::uint64_t size = 0;
    std::uint64_t allocated = 0;
    std::uint64_t extents = 0;
    bool missing = false;
    bool duplicate = false;   // other devices carry the same physical volume
    std::string device_hint;  // the path that the group's metadata has for it
    std::vector<std::string> tags;
};

// What not every group can be asked for. What isn't among its capabilities it refuses (unsupported), and says what to do instead.
enum class Capability {
    activation,           // set_active()
    automatic_extension,  // CreatePool::autoextend_threshold
    external_origins,     // CreateVolume::external_origin
    origin_files,         // CreateVolume::origin_file
    sets_in_use,          // create_snapshots() of several volumes that are written meanwhile
    smaller_pools,        // resize() of a pool's data to less
    trim,                 // trim()
};

// What a process of lamella left that was killed, and what isn't put right by itself because nothing proves whose it is now.
struct BrokenOff {
    std::string volume;  // empty: the group
    std::string tag;     // that tells of it (volumes/unfinished.h); empty: a pool's metadata snapshot
};

struct GroupInfo {
    std::string name;
    std::string id;
    std::uint64_t sequence_number = 0;
    std::uint64_t extent_size = 0;
    std::uint64_t size = 0;
    std::uint64_t free = 0;
    std::string system_id;
    std::string lock_type;
    std::vector<std::string> tags;
    std::vector<PhysicalVolumeInfo> physical_volumes;
    std::vector<std::string> findings;   // what is wrong with the group, in words; empty when sound
    std::vector<std::string> recovered;  // what opening it put right
    std::vector<BrokenOff> broken_off;
    bool writable = true;
    bool served = false;  // answered by a process that serves it
    std::vector<Capability> capabilities;

    bool can(Capability capability) const { return std::ranges::find(capabilities, capability) != capabilities.end(); }
};

struct GroupListing {
    GroupInfo group;
    std::vector<VolumeInfo> volumes;
};

// A size as a user gives it, resolved by the engine that knows the group.
struct SizeRequest {
    enum class Base { bytes, percent_of_group, percent_of_free, percent_of_physical_volumes, percent_of_origin };
    enum class Relation { absolute, grow, shrink };
    Base base = Base::bytes;
    Relation relation = Relation::absolute;
    std::uint64_t value = 0;  // bytes, or percent in hundredths
};

struct CreateVolume {
    std::string name;
    SizeRequest size;     // rounded up to whole extents
    std::string pool;     // thin: the pool; empty: the only pool of the group
    bool linear = false;  // a thick volume, of `stripes` stripes
    std::uint32_t stripes = 1;
    std::uint64_t stripe_size = 64 * 1024;
    std::string external_origin;  // thin: a read-only volume of the group to fall through to
    // Thin: the whole path of a raw image outside of the group to fall through to. A `size` of 0 bytes is the image's.
    std::string origin_file;
    std::vector<std::string> tags;
    bool read_only = false;
};

struct CreatePool {
    std::string name;
    SizeRequest size;
    std::uint64_t chunk_size = 64 * 1024;
    std::optional<std::uint64_t> metadata_size;  // nullopt: as LVM2 reckons it
    std::uint32_t stripes = 1;
    std::uint64_t stripe_size = 64 * 1024;
    bool zero_new_blocks = true;
    bool error_when_full = false;
    std::string discards = "passdown";
    std::vector<std::string> tags;
    // Physical volumes, by device or by the name in the group's text. Empty: any; metadata then lies where the data does.
    std::vector<std::string> data_on;
    std::vector<std::string> metadata_on;
    // LVM's automatic extension, by a profile of the pool's own: by so many percent from so many percent in use on. 0: none. A group that
    // the host doesn't run has none (unsupported).
    unsigned autoextend_threshold = 0;
    unsigned autoextend_percent = 0;
};

// Volumes that are there already become a pool, as by lvconvert --type thin-pool. What is on them is lost.
struct ConvertToPool {
    std::string name;                            // the volume that becomes its data; the pool goes by its name and id
    std::string metadata;                        // the volume that becomes its metadata; empty: one is made
    std::optional<std::uint64_t> metadata_size;  // of one that is made; nullopt: as LVM2 reckons it
    std::uint64_t chunk_size = 64 * 1024;
    bool zero_new_blocks = true;  // without it, what was on the volume shows through where a chunk isn't written whole
    bool error_when_full = false;
    std::string discards = "passdown";
    unsigned autoextend_threshold = 0;  // as CreatePool's
    unsigned autoextend_percent = 0;
};

// What of a pool that is there becomes another; what is left empty stays.
struct ChangePool {
    std::string name;
    std::string discards;
    std::optional<bool> error_when_full;
    unsigned autoextend_threshold = 0;  // as CreatePool's
    unsigned autoextend_percent = 0;
    std::string profile;  // one of LVM's that is there already, instead of those two numbers; empty: as it is
};

// What LVM makes of a pool's profile and of its configuration for all pools.
struct AutomaticExtension {
    std::uint32_t threshold = 100;  // percent in use from which dmeventd extends data or metadata, if it watches the pool; 100: never
    std::uint32_t percent = 0;      // of its size, by which
};

// Makes volumes devices of this host, or takes these devices away.
struct SetActive {
    std::vector<std::string> names;  // empty: all of the group
    bool active = true;
    bool ignore_skip = false;    // those too that are marked to be skipped: thin snapshots, as LVM makes them
    bool with_contents = false;  // of a pool that is named, its volumes too
};

// What stands on a pool and has to go before it.
struct PoolDependent {
    std::string name;                        // of a volume of the group; else of a device, or empty
    std::string id;                          // that of the device mapper, which tells devices of one name apart; empty without one
    std::optional<std::uint32_t> device_id;  // in the pool
    bool foreign = false;                    // the group's text doesn't know it
    std::string used_by;                     // "mounted on /srv", "open"; empty: nobody
};

struct CreateSnapshot {
    std::string origin;
    std::string name;  // empty: the origin's name with "-s" and the lowest free number
    bool read_only = false;
    std::vector<std::string> tags;
    // A classic one, with a store of its own: what linear and striped volumes have anyway, and thin ones on demand.
    bool classic = false;
    SizeRequest size{SizeRequest::Base::percent_of_origin, SizeRequest::Relation::absolute,
                     2000};           // of the store; cut to the largest useful
    std::uint64_t chunk_size = 4096;  // of the store; a power of two
};

struct ResizeVolume {
    std::string name;
    SizeRequest size;
    bool metadata = false;  // a pool's metadata instead of its data
    bool shrink_allowed = false;
};

// What `lamella check` finds in the metadata of a pool that nobody uses.
struct PoolCheck {
    std::string grade;                  // "clean", "leak", "needs-repair", "data-at-risk"
    std::vector<std::string> findings;  // the worst first, a few
    std::uint64_t finding_count = 0;
    std::uint64_t leaked_data_blocks = 0;
    std::uint64_t leaked_metadata_blocks = 0;
};

// What a pool's own metadata says. The group's text has its own idea of it; when a change was broken off, or somebody else changed the
// pool, the two don't agree.
struct PoolContents {
    std::uint64_t transaction_id = 0;
    bool changing = false;                  // the text has messages queued for the pool: its id may be one less, a volume more or less
    std::vector<std::uint32_t> device_ids;  // ascending
    bool needs_check = false;               // the flag on the disk
    std::optional<PoolCheck> check;
};

// What a thin volume has in its pool, in bytes.
struct ThinUsage {
    std::uint32_t device_id = 0;
    std::uint64_t mapped = 0;
    std::uint64_t exclusive = 0;  // mapped by no other volume: what removing this one alone would free
};

struct PackedMetadata {
    std::uint64_t bytes = 0;  // of the file
    std::uint64_t transaction_id = 0;
    // The pool is in use: what is whole in the pack is its metadata snapshot, of the moment of the call.
    bool of_metadata_snapshot = false;
};

// How far a change that takes long has come: for a removal, bytes that were mapped and now aren't. What several pools have to do
// is counted for one after the other.
struct Progress {
    std::uint64_t done = 0;
    std::uint64_t total = 0;
};
// False: whoever asked wants no more. A trim and the shrinking of a pool then end soon, with an error; everything else goes on.
using ReportProgress = std::function<bool(const Progress&)>;

// The metadata commands of a group are the same for a trial: nothing is written, the result is what would be.
struct ChangeOptions {
    bool dry_run = false;
    // May be empty. Called while the change is carried out, often, on any thread but never on two at once; must not block.
    ReportProgress progress = {};
};

// Threads: one caller at a time. Errors: not_found, exists, refused, no_space, usage, unsupported, damaged, failed.
class VolumeGroup {
  public:
    virtual ~VolumeGroup() = default;

    virtual Result<GroupInfo> info() = 0;
    // The physical volumes as info() has them, and what takes longer to find out: whether other devices carry them too, and the paths that
    // the group's text has for them.
    virtual Result<std::vector<PhysicalVolumeInfo>> inspect_disks() = 0;
    // In the order of the group's metadata; hidden ones too.
    virtual Result<std::vector<VolumeInfo>> volumes() = 0;
    virtual Result<VolumeInfo> volume(const std::string& name) = 0;
    // info() and volumes(); of one look where that costs less.
    virtual Result<GroupListing> listing() {
        GroupListing all{.group = TRY(info()), .volumes = {}};
        all.volumes = TRY(volumes());
        return all;
    }

    virtual Result<VolumeInfo> create_pool(const CreatePool& request, ChangeOptions options) = 0;
    virtual Result<VolumeInfo> create_volume(const CreateVolume& request, ChangeOptions options) = 0;
    // All at one moment, or none.
    virtual Result<std::vector<VolumeInfo>> create_snapshots(const std::vector<CreateSnapshot>& requests, ChangeOptions options) = 0;
    virtual Result<VolumeInfo> resize(const ResizeVolume& request, ChangeOptions options) = 0;
    virtual Result<VolumeInfo> rename(const std::string& name, const std::string& new_name, ChangeOptions options) = 0;
    virtual Result<VolumeInfo> change_tags(const std::string& name, const std::vector<std::string>& add,
                                           const std::vector<std::string>& remove, ChangeOptions options) = 0;
    // A pool goes only when it has no volumes left, or `with_contents`; those that the group's text doesn't know count, where that can be
    // told.
    virtual Result<void> remove(const std::vector<std::string>& names, bool with_contents, ChangeOptions options) = 0;
    // refused: a volume of them is in use, or a part or the origin of another.
    virtual Result<VolumeInfo> convert_to_pool(const ConvertToPool& request, ChangeOptions options) = 0;
    // `volume` becomes the pool's metadata, and what that was goes by the volume's name and can be looked at, as by lvconvert
    // --swapmetadata. What is on either isn't looked at. refused: the pool or one of its volumes is active.
    virtual Result<VolumeInfo> swap_metadata(const std::string& pool, const std::string& volume, ChangeOptions options) = 0;
    // While the pool is in use, too; but not from or to ignoring discards (refused).
    virtual Result<VolumeInfo> change_pool(const ChangePool& request, ChangeOptions options) = 0;
    // unsupported: nobody extends pools of this group by himself. Errors: failed, if the pool's profile can't be read.
    virtual Result<AutomaticExtension> automatic_extension(const std::string& pool) = 0;
    // Returns those that changed. refused: one is in use, by whom; named, and marked to be skipped.
    virtual Result<std::vector<VolumeInfo>> set_active(const SetActive& request, ChangeOptions options) = 0;
    // In the order in which they have to go.
    virtual Result<std::vector<PoolDependent>> pool_dependents(const std::string& pool) = 0;
    // Takes away what dependents() told of that is foreign, and nothing else; afterwards the pool can be removed. refused: one is in use,
    // or is no longer what it was.
    virtual Result<void> remove_foreign(const std::string& pool, const std::vector<PoolDependent>& dependents, ChangeOptions options) = 0;
    // The content of `snapshot` becomes that of `name`; the snapshot is gone afterwards, as after LVM's merge. A classic snapshot is
    // merged in the background, while `name` can be used already: volume(snapshot) tells how far that is, until it isn't found any more.
    // A merge that was broken off goes on.
    virtual Result<VolumeInfo> rollback(const std::string& name, const std::string& snapshot, ChangeOptions options) = 0;

    // A pool's metadata snapshot. Reserving returns its block number.
    virtual Result<std::uint64_t> reserve_metadata_snapshot(const std::string& pool, ChangeOptions options) = 0;
    virtual Result<void> release_metadata_snapshot(const std::string& pool, ChangeOptions options) = 0;

    // Discards what nothing in a pool maps, with its volumes in use or not, on the devices below. Returns how many bytes; in a trial, how many
    // there are. Of a pool that nobody uses the metadata is checked first.
    virtual Result<std::uint64_t> trim(const std::string& pool, ChangeOptions options) = 0;

    // `check`: its metadata is read whole, unless it is in use.
    virtual Result<PoolContents> pool_contents(const std::string& pool, bool check) = 0;
    // Every volume's, exactly. It takes a walk over all of the pool's mappings; of a pool in use over its metadata snapshot, as for
    // pack_metadata().
    virtual Result<std::vector<ThinUsage>> pool_usage(const std::string& pool) = 0;
    // The pool's metadata as tools/pack.h has it, in a file that is made or replaced, and durable. A pool in use gives its metadata snapshot,
    // which is reserved and released for it unless it is held already.
    virtual Result<PackedMetadata> pack_metadata(const std::string& pool, const std::string& file) = 0;
    // lvolN_pmspare, which a repair of a pool writes to, is made, or made as large as the largest pool's metadata.
    virtual Result<VolumeInfo> make_spare(ChangeOptions options) = 0;

    // A thin-pool or thin target's status and table line and messages, as the kernel's. What would part the pool's metadata from the
    // group's text is refused: see pool_message.h.
    virtual Result<std::string> status_line(const std::string& name) = 0;
    virtual Result<std::string> table_line(const std::string& name) = 0;
    virtual Result<void> send_message(const std::string& pool, const std::string& message) = 0;

    // The group's metadata in vgcfgbackup's format.
    virtual Result<std::string> backup_text() = 0;
    virtual Result<void> restore_text(const std::string& text, bool force, ChangeOptions options) = 0;
};

}  // namespace lamella
