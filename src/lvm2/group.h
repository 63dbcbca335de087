// SPDX-License-Identifier: Apache-2.0
//
// The model of an LVM2 volume group: what the group's text metadata says, typed where this program understands it and kept
// word by word where it doesn't, so that a rewrite changes nothing but what was asked for.
//
// Plain values: copy the group, change the copy, commit it (GroupStore). No thread affinity. Format facts are checked against
// lvm2 2.03.16; see README.md.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "base/uuid.h"
#include "lvm2/text.h"

namespace lamella::lvm2 {

// Entries that the model has no field for, each behind the key that it followed, so that it is printed there again.
struct KeptEntry {
    std::string after;  // empty: first
    TextEntry entry;
};
using Kept = std::vector<KeptEntry>;

// LVM's words; never empty ones. Words that the model doesn't know are kept and make the group read-only.
using Words = std::vector<std::string>;

struct PhysicalVolume {
    std::string name;  // "pv0": a name within the text alone
    LvmId id;
    std::string device_hint;  // where it was last seen; not to be trusted
    Words status;             // ALLOCATABLE, EXPORTED
    Words flags;              // MISSING
    Words tags;
    std::uint64_t device_sectors = 0;     // of the device, 512 bytes each
    std::uint64_t data_start_sector = 0;  // pe_start: where extent 0 begins
    std::uint32_t extent_count = 0;
    Kept kept;

    bool allocatable() const;
    bool missing() const;  // flagged so in the text
};

// Where a stripe begins: on a physical volume, or (while extents are moved) on a logical one.
struct Area {
    std::string name;                // a PhysicalVolume's name or a LogicalVolume's
    std::uint32_t first_extent = 0;  // of that volume
    bool operator==(const Area&) const = default;
};

// Type "striped"; linear is one stripe. Stripe i of a segment takes extent_count / areas.size() extents of its area.
struct Striped {
    std::vector<Area> areas;
    std::uint32_t stripe_sectors = 0;  // 0: linear
};

enum class Discards { passdown, nopassdown, ignore };
std::string_view to_string(Discards discards);

// A message that the group has queued for its pool and that was not yet confirmed.
struct ThinMessage {
    std::string create;  // the thin volume to create; empty: a deletion
    ThinId delete_id;    // of the device to delete
    bool operator==(const ThinMessage&) const = default;
};

// Type "thin-pool". The pool's transaction id in its own metadata is `transaction_id`, or one less while messages are queued.
struct ThinPool {
    std::string metadata_volume;  // "pool_tmeta"
    std::string data_volume;      // "pool_tdata"
    std::uint64_t transaction_id = 0;
    std::uint32_t chunk_sectors = 0;
    Discards discards = Discards::passdown;
    bool zero_new_blocks = true;
    std::optional<bool> crop_metadata;  // metadata limited to 15.8125 GiB; absent: smaller anyway
    std::vector<ThinMessage> messages;
};

constexpr ThinId max_thin_id{(1u << 24) - 1};

// Type "thin".
struct Thin {
    std::string pool;
    std::uint64_t transaction_id = 0;  // the pool's when the volume was created
    ThinId device_id;
    std::string origin;           // thin volume it is a snapshot of; empty: none, or removed since
    std::string external_origin;  // volume outside of the pool
    std::string merging_into;     // "merge": thin volume that takes this one's place at its next activation
};

// Type "snapshot" of a volume "snapshotN" that ties a copy-on-write store to its origin. Users see the store in its place: LVM shows that
// one, and hides this one, the other way round than their status words say.
struct ClassicSnapshot {
    std::string origin;
    std::string store;  // cow_store, or merging_store while merging
    std::uint32_t chunk_sectors = 0;
    bool merging = false;
};

// Any other type, or one of the above with content that the model has no place for. Kept whole in Segment::kept.
struct Opaque {
    Words names;  // physical and logical volumes that its text names
};

struct Segment {
    std::uint32_t start_extent = 0;
    std::uint32_t extent_count = 0;
    std::string type;  // as written, flags behind a '+' included: "thin-pool+..."
    Words tags;
    std::variant<Opaque, Striped, ThinPool, Thin, ClassicSnapshot> body;
    Kept kept;

    template <typename Body>
    const Body* as() const {
        return std::get_if<Body>(&body);
    }
    template <typename Body>
    Body* as() {
        return std::get_if<Body>(&body);
    }
};

struct LogicalVolume {
    std::string name;
    LvmId id;
    Words status;  // READ, WRITE, VISIBLE, ...
    Words flags;   // ACTIVATION_SKIP, ERROR_WHEN_FULL, ...
    Words tags;
    std::int64_t creation_time = 0;  // seconds since 1970; 0: not recorded
    std::string creation_host;
    std::string profile;
    std::vector<Segment> segments;
    Kept kept;

    bool visible() const;
    bool writable() const;
    bool skips_activation() const;
    bool error_when_full() const;  // of a thin pool
    std::uint64_t extent_count() const;

    // The body of the only segment when it is of that type: pool->sole<ThinPool>().
    template <typename Body>
    const Body* sole() const {
        return segments.size() == 1 ? segments[0].as<Body>() : nullptr;
    }
    template <typename Body>
    Body* sole() {
        return segments.size() == 1 ? segments[0].as<Body>() : nullptr;
    }
};

struct VolumeGroup {
    std::string name;
    LvmId id;
    std::uint32_t seqno = 0;  // +1 at each commit
    Words status;             // RESIZEABLE, READ, WRITE, EXPORTED, ...
    Words flags;
    Words tags;
    std::string system_id;  // host that owns the group; empty: any
    std::string lock_type;  // lvmlockd's; empty or "none": not shared
    bool shared() const { return !lock_type.empty() && lock_type != "none"; }
    std::string profile;
    std::uint32_t extent_sectors = 8192;
    std::uint32_t max_lv = 0;  // 0: no limit
    std::uint32_t max_pv = 0;
    std::uint32_t metadata_copies = 0;
    std::vector<PhysicalVolume> physical_volumes;
    std::vector<LogicalVolume> logical_volumes;
    Kept kept;

    // Around the group's own section: who wrote the text, when and why. Filled in anew by each commit.
    std::string description;
    std::string creation_host;
    std::string creation_system_id;
    std::int64_t creation_time = 0;
    Kept kept_around;

    // Null: none. Linear in the number of volumes; make a map where many are asked for.
    const PhysicalVolume* physical_volume(std::string_view name) const;
    const LogicalVolume* logical_volume(std::string_view name) const;
    LogicalVolume* logical_volume(std::string_view name);

    bool exported() const;
    std::uint64_t extent_bytes() const { return std::uint64_t(extent_sectors) * sector_bytes; }
    // Byte offset of an extent on the device of a physical volume.
    std::uint64_t extent_offset(const PhysicalVolume& volume, std::uint32_t extent) const {
        return (volume.data_start_sector + std::uint64_t(extent) * extent_sectors) * sector_bytes;
    }
    std::uint64_t size_bytes(const LogicalVolume& volume) const { return volume.extent_count() * extent_bytes(); }
    // Extents that hold this many bytes, rounded up.
    std::uint64_t extents_for(std::uint64_t bytes) const { return (bytes + extent_bytes() - 1) / extent_bytes(); }
};

// --- Text ------------------------------------------------------------------------------------------------------------------

// Something in the text that a sound group can't say. A group with findings is not written; a volume that has one, or that
// stands on one that has, is not opened.
struct Finding {
    enum class Subject { group, physical_volume, logical_volume };
    Subject subject = Subject::group;
    std::string name;     // of the physical ("pv0") or logical volume; empty for the group
    std::string message;  // "segment2: 3 extents lie beyond the end of pv1"
};
std::string to_string(const Finding& finding);

struct ParsedGroup {
    VolumeGroup group;
    std::vector<Finding> findings;  // those of check() among them; at most max_findings
};
constexpr std::size_t max_findings = 1000;

// Errors: damaged, when the text can't be parsed or holds no group; anything less is a finding.
Result<ParsedGroup> parse_group(std::string_view text);

// The group's text as LVM 2.03 writes it: byte by byte the same for a group that LVM wrote, apart from the comments on who wrote it.
std::string print_group(const VolumeGroup& group, TextStyle style);

// Every rule that holds between the parts: extents inside their physical volumes and used once, names valid and unique, ids
// unique, references resolved, segments without gaps, thin ids unique within their pool.
std::vector<Finding> check(const VolumeGroup& group);

// Refused, with the reason, when this program must not write the group: exported, owned by another host, under a lock
// manager, or with status or flag words that it doesn't know. `system_id`: this host's; empty: it has none.
Result<void> check_may_write(const VolumeGroup& group, std::string_view system_id);

// --- Names -----------------------------------------------------------------------------------------------------------------

constexpr std::size_t max_name_length = 127;
constexpr std::size_t max_tag_length = 1024;

// Errors: usage, with the rule that is broken.
Result<void> check_group_name(std::string_view name);
// Also refuses what LVM reserves: snapshotN, pvmoveN, *_tdata, *_tmeta, ... `group`: its length counts in the device mapper name.
Result<void> check_volume_name(std::string_view group, std::string_view name);
// Of a pool, whose hidden volumes and devices have longer names: pool_tdata, vg-pool-tpool.
Result<void> check_pool_name(std::string_view group, std::string_view name);
Result<void> check_tag(std::string_view tag);

// The kernel's name for a volume: "vg-lv" or "vg-lv-layer", hyphens within the parts doubled.
std::string dm_name(std::string_view group, std::string_view volume, std::string_view layer = {});
// "LVM-" and both ids, "-layer".
std::string dm_uuid(const LvmId& group, const LvmId& volume, std::string_view layer = {});

// --- Changes ---------------------------------------------------------------------------------------------------------------
//
// Each changes the group as LVM's own command would, or fails and leaves it as it was. Errors: usage (names, sizes),
// not_found, exists, no_space (with the number of extents missing), refused (in use), unsupported (opaque types).

// When and where a volume is created.
struct Stamp {
    std::int64_t time = 0;
    std::string host;
};

struct NewVolume {
    std::string name;
    Words tags;
    bool read_only = false;
    Stamp created;
};

constexpr std::uint32_t max_stripes = 128;
constexpr std::uint32_t min_stripe_sectors = 8;

// LVM's `allocation_policy`, of a group or of a volume. A volume of the policy `anywhere` gets what `normal` would give it.
enum class AllocationPolicy {
    contiguous,  // one run for each stripe, right behind the present one
    cling,       // physical volumes that the volume is on
    normal,      // any; no two stripes on the same
};

// Where extents may come from and in what shape.
struct Placement {
    std::uint32_t stripes = 1;
    std::uint32_t stripe_sectors = 128;                     // with two or more stripes; a power of two, at most an extent
    std::vector<std::string> physical_volumes;              // "pv0", the first choice first; empty: any
    std::optional<AllocationPolicy> policy = std::nullopt;  // none: the group's
};

// `extents` is rounded up to a multiple of the stripes.
Result<void> create_volume(VolumeGroup& group, const NewVolume& volume, std::uint32_t extents, const Placement& placement);

constexpr std::uint64_t min_chunk_bytes = 64u << 10;
constexpr std::uint64_t max_chunk_bytes = 1u << 30;

struct NewThinPool {
    NewVolume volume;
    std::uint32_t data_extents = 0;      // rounded up to a multiple of its stripes
    std::uint32_t metadata_extents = 0;  // 0: default_metadata_bytes()
    std::uint32_t chunk_sectors = 0;     // multiple of 128, up to 2097152; 0: default_chunk_sectors()
    Discards discards = Discards::passdown;
    bool zero_new_blocks = true;
    bool error_when_full = false;
    bool spare = true;  // make or grow the group's spare metadata volume
    Placement data;     // the physical volumes are the metadata's and the spare's too, unless these have their own
    std::vector<std::string> metadata_physical_volumes;  // "pv0"; empty: those of the data, placed as LVM does
};
// Makes NAME_tdata, NAME_tmeta and NAME, and lvolN_pmspare, or makes it as large as this pool's metadata.
Result<void> create_thin_pool(VolumeGroup& group, const NewThinPool& pool);

// Volumes that are there become a pool's data and metadata.
struct PoolConversion {
    std::string data;                    // linear or striped; the pool has its name
    std::string metadata;                // likewise. Empty: one is made
    std::uint32_t metadata_extents = 0;  // of one that is made; 0: default_metadata_bytes()
    std::uint32_t chunk_sectors = 0;     // as in NewThinPool
    Discards discards = Discards::passdown;
    bool zero_new_blocks = true;
    bool error_when_full = false;
    Stamp created;  // of what is made
};
// As create_thin_pool(). What the volumes become keeps their ids and tags; what is on them is the caller's to see to.
Result<void> convert_to_pool(VolumeGroup& group, const PoolConversion& request);
// A linear or striped volume becomes the pool's metadata, and what was that takes the volume's name; both keep their ids and tags.
Result<void> swap_metadata(VolumeGroup& group, std::string_view pool, std::string_view volume);

// What LVM chooses when not told: 64 KiB, doubled until the default metadata size is at most 128 MiB.
std::uint32_t default_chunk_sectors(std::uint64_t data_bytes);
// 64 bytes a chunk, at least 2 MiB, at most 15.875 GiB. Rounded up to whole extents by create_thin_pool().
std::uint64_t default_metadata_bytes(std::uint64_t data_bytes, std::uint32_t chunk_sectors);

// Thin volumes and snapshots appear with a message queued and the pool's transaction id raised: the first of the three durable
// steps. Several may be queued before one commit; the id is raised once. When the pool has carried them out and its transaction
// id is the group's: forget_messages() and a second commit.
Result<ThinId> create_thin(VolumeGroup& group, const NewVolume& volume, std::string_view pool, std::uint32_t extents);
// With its origin's external origin; marked to be skipped by activation as LVM does, unless told otherwise.
Result<ThinId> create_thin_snapshot(VolumeGroup& group, const NewVolume& volume, std::string_view origin, bool skip_activation = true);
Result<void> forget_messages(VolumeGroup& group, std::string_view pool);
// Takes back everything that is queued for a pool which is known not to have carried out any of it: volumes to be created vanish
// again, and the transaction id falls. Deletions can't be taken back: refused while one is queued.
Result<void> withdraw_messages(VolumeGroup& group, std::string_view pool);

// A thin volume: its deletion is queued for its pool as above, and snapshots of it lose their origin. A pool: with its hidden
// volumes, and only when no thin volume is left in it; the spare goes with the last pool.
Result<void> remove_volume(VolumeGroup& group, std::string_view volume);
// With the hidden volumes of a pool, and wherever the name is referred to.
Result<void> rename_volume(VolumeGroup& group, std::string_view volume, std::string_view new_name);

// A volume of type "error", which takes no room; reads and writes of it fail in the kernel.
Result<void> create_error_volume(VolumeGroup& group, const NewVolume& volume, std::uint32_t extents);
bool is_error_volume(const LogicalVolume& volume);

// A thin volume's virtual size, up or down.
Result<void> resize_thin(VolumeGroup& group, std::string_view volume, std::uint32_t extents);
// A linear or striped volume, or a pool's data, by `extents` more, rounded up to a multiple of the stripes, which are those of
// the last segment. Of `placement` only the physical volumes count.
Result<void> extend_volume(VolumeGroup& group, std::string_view volume, std::uint32_t extents, const Placement& placement);
// A pool's metadata, and the spare with it where there is one, and room, and no physical volumes are named.
Result<void> extend_metadata(VolumeGroup& group, std::string_view pool, std::uint32_t extents, const Placement& placement);
// A linear or striped volume that nothing uses: `extents`, rounded down to a multiple of the stripes, are cut off its end.
Result<void> reduce_volume(VolumeGroup& group, std::string_view volume, std::uint32_t extents);

// A pool's data: `extents`, rounded down to a multiple of the stripes, are cut off its end; and the pool's metadata and the group's spare
// change places. Metadata of a pool as small as that was written onto the spare before: with the group's commit the pool is the smaller
// one, and what was its metadata is the spare. unsupported: there is no spare.
Result<void> reduce_pool(VolumeGroup& group, std::string_view pool, std::uint32_t extents);
// Makes lvolN_pmspare, or makes it as large as the largest pool's metadata. usage: no pool is there.
Result<void> make_spare(VolumeGroup& group, const Stamp& created);
// lvolN_pmspare; null: there is none.
const LogicalVolume* spare_metadata(const VolumeGroup& group);

struct NewClassicSnapshot {
    NewVolume volume;  // the store, by whose name the snapshot goes
    std::string origin;
    std::uint32_t extents = 0;        // of the store; rounded up to a multiple of its stripes
    std::uint32_t chunk_sectors = 8;  // a power of two, 8 .. 1024
    Placement placement;
};
constexpr std::uint32_t min_snapshot_chunk_sectors = 8, max_snapshot_chunk_sectors = 1024;

// Of a linear, striped or thin volume. Errors also: refused, for an origin that a snapshot is being merged into, or that is a snapshot's
// store itself.
Result<void> create_classic_snapshot(VolumeGroup& group, const NewClassicSnapshot& snapshot);
// By the store's name: whoever opens the origin next merges it. What was begun stays begun.
Result<void> begin_merge(VolumeGroup& group, std::string_view store);
// The snapshot is gone, merged or not.
Result<void> remove_classic_snapshot(VolumeGroup& group, std::string_view store);
Result<void> extend_store(VolumeGroup& group, std::string_view store, std::uint32_t extents, const Placement& placement);

// Who has classic snapshots and who is one, found once for many questions. Names; true as long as the group isn't changed.
class ClassicSnapshots {
  public:
    explicit ClassicSnapshots(const VolumeGroup& group);

    // Null: the volume isn't a store.
    const ClassicSnapshot* of_store(std::string_view store) const;
    // The snapshot's own size, that of its origin at its moment. 0: the volume isn't a store.
    std::uint64_t extents(std::string_view store) const;
    // In the order of the text; null: the volume has none.
    const std::vector<ClassicSnapshot>* of_origin(std::string_view origin) const;
    // Null: none does.
    const ClassicSnapshot* merging_into(std::string_view origin) const;

  private:
    struct Entry {
        ClassicSnapshot snapshot;
        std::uint64_t extents;
    };
    std::map<std::string, Entry, std::less<>> by_store_;
    std::map<std::string, std::vector<ClassicSnapshot>, std::less<>> by_origin_;
};

// `volume` empty: the group itself. Adding a tag that is there, or removing one that isn't, is an error.
Result<void> add_tag(VolumeGroup& group, std::string_view volume, std::string_view tag);
Result<void> remove_tag(VolumeGroup& group, std::string_view volume, std::string_view tag);
Result<void> set_skip_activation(VolumeGroup& group, std::string_view volume, bool skip);
Result<void> set_read_only(VolumeGroup& group, std::string_view volume, bool read_only);
Result<void> set_pool_options(VolumeGroup& group, std::string_view pool, Discards discards, bool zero_new_blocks, bool error_when_full);

// A thin merge: the snapshot takes its origin's name, id, tags and the rest, and the origin's device is queued for deletion.
// Other snapshots of the origin lose it; snapshots of the snapshot keep theirs under its new name.
Result<void> merge_thin_snapshot(VolumeGroup& group, std::string_view snapshot);

}  // namespace lamella::lvm2
