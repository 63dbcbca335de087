// SPDX-License-Identifier: Apache-2.0
#include "volumes/kernel_view.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/strong.h"
#include "base/uuid.h"
#include "lvm2/group.h"
#include "volumes/snapshot_state.h"

namespace lamella {

namespace {

constexpr std::uint64_t metadata_block_bytes = 4096;

std::vector<std::string_view> words_of(std::string_view text) {
    std::vector<std::string_view> words;
    while (true) {
        text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
        if (text.empty())
            return words;
        words.push_back(text.substr(0, text.find(' ')));
        text.remove_prefix(words.back().size());
    }
}

std::optional<std::uint64_t> number(std::string_view word) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    return !word.empty() && error == std::errc() && end == word.data() + word.size() ? std::optional(value) : std::nullopt;
}

struct Fraction {
    std::uint64_t used, total;
};

std::optional<Fraction> fraction(std::string_view word) {
    const std::size_t slash = word.find('/');
    if (slash == std::string_view::npos)
        return std::nullopt;
    const auto used = number(word.substr(0, slash));
    const auto total = number(word.substr(slash + 1));
    return used && total ? std::optional(Fraction{*used, *total}) : std::nullopt;
}

const host::KernelTarget* sole_target(const host::KernelDevice* device) {
    return device != nullptr && device->status.size() == 1 ? &device->status.front() : nullptr;
}

// "pending": not known yet. Where lvm.conf turns monitoring off, LVM doesn't ask dmeventd; newer versions say "not enabled" then.
std::optional<bool> monitored(const host::LvmSegment& segment) {
    const std::string& said = segment.monitoring;
    return said.empty() || said == "pending" || said == "not enabled" ? std::nullopt : std::optional(said == "monitored");
}

bool is_classic(const host::LvmVolume& volume) { return volume.has_role("thicksnapshot"); }

VolumeKind kind_of(const host::LvmVolume& volume, const std::string& type) {
    if (type == "thin-pool")
        return VolumeKind::thin_pool;
    if (type == "thin")
        return VolumeKind::thin;
    if (is_classic(volume))
        return VolumeKind::snapshot;
    const bool of_thin_pool = volume.hidden && volume.has_role("thin") && volume.has_role("pool");
    if (of_thin_pool && volume.has_role("data"))
        return VolumeKind::pool_data;
    if (of_thin_pool && volume.has_role("metadata"))
        return VolumeKind::pool_metadata;
    if (volume.hidden && volume.has_role("spare"))
        return VolumeKind::spare;
    return type == "linear" ? VolumeKind::linear : type == "striped" ? VolumeKind::striped : VolumeKind::other;
}

}  // namespace

std::optional<KernelPoolStatus> parse_pool_status(std::string_view parameters) {
    const std::vector<std::string_view> words = words_of(parameters);
    KernelPoolStatus status;
    if (words.size() == 1 && (words[0] == "Fail" || words[0] == "Error")) {
        status.failed = true;
        return status;
    }
    // TRANSACTION USED/ALL-METADATA USED/ALL-DATA HELD-ROOT MODE DISCARDS WHEN-FULL NEEDS-CHECK LOW-MARK; older kernels lack the end.
    if (words.size() < 5)
        return std::nullopt;
    const auto transaction_id = number(words[0]);
    const auto metadata = fraction(words[1]);
    const auto data = fraction(words[2]);
    if (!transaction_id || !metadata || !data)
        return std::nullopt;
    status.transaction_id = *transaction_id;
    status.used_metadata_blocks = metadata->used;
    status.used_data_blocks = data->used;
    status.held_root = number(words[3]);
    status.mode = words[4];
    const auto says = [&](std::string_view word) { return std::ranges::find(words, word) != words.end(); };
    status.needs_check = says("needs_check");
    if (says("error_if_no_space") || says("queue_if_no_space"))
        status.error_when_full = says("error_if_no_space");
    return status;
}

KernelView::KernelView(host::LvmGroup group, Result<std::vector<host::KernelDevice>> kernel, std::optional<host::HostLocks> locks)
    : group_(std::move(group)), kernel_(std::move(kernel)), locks_(std::move(locks)) {
    if (kernel_)
        for (const host::KernelDevice& device : *kernel_)
            if (!device.uuid.empty())
                by_uuid_.emplace(device.uuid, &device);
    for (const host::LvmVolume& volume : group_.volumes)
        by_name_.emplace(volume.name, &volume);
}

Result<const host::LvmVolume*> KernelView::find(std::string_view name) const {
    const auto found = by_name_.find(std::string(name));
    if (found == by_name_.end())
        return fail(ErrorKind::not_found, "group {} has no volume {}", group_.name, name);
    return found->second;
}

Result<const host::LvmVolume*> KernelView::find_pool(std::string_view name) const {
    const host::LvmVolume* pool = TRY(find(name));
    if (pool->segments.size() != 1 || pool->segments[0].type != "thin-pool")
        return fail(ErrorKind::usage, "{} is not a thin pool", name);
    return pool;
}

const host::LvmVolume* KernelView::lock_of(const host::LvmVolume& volume) const {
    const host::LvmVolume* of = &volume;
    if (is_classic(volume))
        if (const auto origin = find(volume.origin))
            of = *origin;
    const auto pool = find_pool(of->pool.empty() ? of->name : of->pool);
    if (pool)
        return *pool;
    return of != &volume ? of : nullptr;
}

const host::KernelDevice* KernelView::device(const host::LvmVolume& volume, std::string_view layer) const {
    const auto group_id = LvmId::parse(group_.id);
    const auto volume_id = LvmId::parse(volume.id);
    if (!group_id || !volume_id)
        return nullptr;
    const auto found = by_uuid_.find(lvm2::dm_uuid(*group_id, *volume_id, layer));
    return found == by_uuid_.end() ? nullptr : found->second;
}

const host::KernelDevice* KernelView::pool_device(const host::LvmVolume& pool) const {
    // While LVM has no thin volumes in it, a pool's own device has the target.
    for (const char* layer : {"tpool", "pool", ""})
        if (const host::KernelDevice* found = device(pool, layer))
            if (const host::KernelTarget* target = sole_target(found); target != nullptr && target->type == "thin-pool")
                return found;
    return nullptr;
}

std::uint32_t KernelView::open_count(const host::LvmVolume& volume) const {
    const host::KernelDevice* found = device(volume);
    return found != nullptr ? found->open_count : 0;
}

// --- Volumes ----------------------------------------------------------------------------------------------------------------

VolumeInfo KernelView::describe(const host::LvmVolume& volume) const {
    VolumeInfo info;
    info.name = volume.name;
    info.id = volume.id;
    info.segment_type = volume.segments.empty() ? std::string() : volume.segments[0].type;
    info.kind = kind_of(volume, info.segment_type);
    info.size = volume.size;
    info.visible = !volume.hidden;
    info.read_only = volume.read_only();
    info.skip_activation = volume.skip_activation.value_or(false);
    info.tags = volume.tags;
    info.creation_time = volume.creation_time;
    info.creation_host = volume.creation_host;
    info.active = volume.active();
    info.profile = volume.profile;
    if (info.segment_type == "linear" || info.segment_type == "striped") {
        info.stripes = static_cast<std::uint32_t>(std::min<std::uint64_t>(volume.segments[0].stripes.value_or(1), UINT32_MAX));
        info.stripe_size = volume.segments[0].stripe_size.value_or(0);
        for (const host::LvmSegment& segment : volume.segments)
            for (const std::string& range : segment.pe_ranges) {
                std::string name = range.substr(0, range.rfind(':'));
                if (std::ranges::find(info.physical_volumes, name) == info.physical_volumes.end())
                    info.physical_volumes.push_back(std::move(name));
            }
    }
    if (info.kind == VolumeKind::thin) {
        info.pool = volume.pool;
        const auto origin = by_name_.find(volume.origin);
        // What LVM calls an origin is another volume of the pool, or one outside of it that shows where nothing was written.
        (origin != by_name_.end() && origin->second->pool != volume.pool ? info.external_origin : info.origin) = volume.origin;
        if (volume.origin.empty() && has_lineage_tag(volume.tags))
            info.former_origin = origin_by_tag(volume.tags);
        if (const auto id = volume.segments[0].thin_id; id && *id <= UINT32_MAX)
            info.device_id = static_cast<std::uint32_t>(*id);
        if (volume.merging.value_or(false))
            info.snapshot_state = "merging";
        // "640 639": mapped sectors and the highest; "Fail" otherwise. A layer more where it has classic snapshots.
        const host::KernelDevice* own = device(volume, "real");
        if (const host::KernelTarget* target = sole_target(own != nullptr ? own : device(volume));
            target != nullptr && target->type == "thin") {
            const auto words = words_of(target->parameters);
            if (const auto sectors = words.empty() ? std::nullopt : number(words[0]))
                info.mapped = *sectors * sector_bytes;
            else
                info.refused = "its pool has failed";
        }
    }
    if (info.kind == VolumeKind::thin_pool)
        describe_pool(volume, info);
    else
        info.open_count = open_count(volume);
    if (info.kind == VolumeKind::snapshot)
        describe_snapshot(volume, info);
    if (volume.health == "partial" || volume.attribute(8) == 'p')
        info.refused = "a physical volume of it is missing";
    else if (const host::KernelDevice* found = device(volume); found != nullptr && found->suspended)
        info.refused = "it is suspended";
    info.lock_held = lock_held(volume);
    info.state = snapshot_state_of(info);
    return info;
}

// Thin volumes and classic snapshots have no locks of their own, nor has what LVM hides.
std::optional<bool> KernelView::lock_held(const host::LvmVolume& volume) const {
    if (!locks_ || locks_->state == host::HostLocks::State::no_daemon || volume.hidden)
        return std::nullopt;
    const host::LvmVolume* of = lock_of(volume);
    return locks_->exclusive.contains((of != nullptr ? of : &volume)->id);
}

void KernelView::describe_pool(const host::LvmVolume& volume, VolumeInfo& info) const {
    const host::LvmSegment& segment = volume.segments[0];
    info.transaction_id = segment.transaction_id;
    info.chunk_size = segment.chunk_size;
    info.metadata_size = volume.metadata_size;
    info.discards = segment.discards;
    info.effective_discards = volume.kernel_discards;
    info.zero_new_blocks = segment.zero.value_or(true);
    info.error_when_full = volume.when_full == "error";
    info.monitored = monitored(segment);
    info.needs_check = volume.check_needed.value_or(false);
    const host::KernelTarget* target = sole_target(pool_device(volume));
    const auto status = target != nullptr ? parse_pool_status(target->parameters) : std::nullopt;
    if (!status)
        return;
    info.pool_mode = status->failed ? "Fail" : status->mode;
    if (status->failed) {
        info.refused = "it has failed";
        return;
    }
    info.data_used = status->used_data_blocks * info.chunk_size.value_or(0);
    info.metadata_used = status->used_metadata_blocks * metadata_block_bytes;
    info.metadata_snapshot = status->held_root;
    info.needs_check |= status->needs_check;
    // LVM's text has what was asked for.
    info.error_when_full = status->error_when_full.value_or(info.error_when_full);
}

void KernelView::describe_snapshot(const host::LvmVolume& volume, VolumeInfo& info) const {
    const bool merging = volume.merging.value_or(false);
    info.segment_type = "snapshot";
    info.origin = volume.origin;
    info.store_size = volume.size;
    info.size = volume.origin_size.value_or(volume.size);
    info.stripes = 1;
    info.stripe_size = 0;
    if (!volume.segments.empty()) {
        info.chunk_size = volume.segments[0].chunk_size;
        info.monitored = monitored(volume.segments[0]);
    }
    // While it is merged, the origin's device has the target.
    const host::KernelDevice* of = device(volume);
    if (const auto origin = by_name_.find(volume.origin); merging && origin != by_name_.end())
        of = device(*origin->second);
    const host::KernelTarget* target = sole_target(of);
    if (target != nullptr && (target->type == "snapshot" || target->type == "snapshot-merge")) {
        const auto words = words_of(target->parameters);
        const auto used = words.empty() ? std::nullopt : fraction(words[0]);
        if (used && words.size() > 1) {
            info.store_used = used->used * sector_bytes;
            if (const auto metadata = number(words[1]))
                info.store_metadata = *metadata * sector_bytes;
            info.snapshot_state = merging ? "merging" : "active";
        } else if (!words.empty() && words[0] != "Unknown") {
            info.snapshot_state = target->parameters;  // "Invalid", "Overflow", "Merge failed"
        }
    }
    // LVM's own word, where the kernel has none or isn't asked.
    if (volume.merge_failed.value_or(false))
        info.snapshot_state = "Merge failed";
    else if (volume.snapshot_invalid.value_or(false))
        info.snapshot_state = "Invalid";
    else if (merging && info.snapshot_state.empty())
        info.snapshot_state = "merging";
    if (info.snapshot_state == "Invalid" || info.snapshot_state == "Overflow")
        info.store_used = info.store_metadata = std::nullopt;
}

std::vector<VolumeInfo> KernelView::volumes() const {
    std::vector<VolumeInfo> all;
    all.reserve(group_.volumes.size());
    for (const host::LvmVolume& volume : group_.volumes)
        all.push_back(describe(volume));
    return all;
}

// --- The group --------------------------------------------------------------------------------------------------------------

void KernelView::add_findings(const host::LvmVolume& volume, std::vector<std::string>& findings) const {
    const VolumeInfo info = describe(volume);
    if (locks_unknown() && pool_device(volume) != nullptr)
        findings.push_back(fmt::format(
            "{}: the pool is active here, and whether this host holds its lock isn't known: lvmlockd doesn't answer", volume.name));
    else if (lacks_lock(volume) && pool_device(volume) != nullptr)
        findings.push_back(
            fmt::format("{0}: the pool is active here, and this host doesn't hold its lock: another host may write to it "
                        "too; lamella deactivate {1}/{0} --with-contents, at once",
                        volume.name, group_.name));
    const auto add = [&](std::string what) { findings.push_back(fmt::format("{}: {}", volume.name, what)); };
    if (info.needs_check)
        add("the pool's metadata needs a check");
    if (info.pool_mode == "Fail")
        add("the pool has failed");
    if (info.pool_mode == "ro")
        add("the pool is read-only");
    const host::KernelTarget* target = sole_target(pool_device(volume));
    const auto status = target != nullptr ? parse_pool_status(target->parameters) : std::nullopt;
    if (!status || status->failed || status->transaction_id == info.transaction_id)
        return;
    const bool has_volumes = std::ranges::any_of(group_.volumes, [&](const auto& other) { return other.pool == volume.name; });
    if (info.transaction_id == 0u && !has_volumes)
        add("an external program makes the volumes in this pool (a container engine?): LVM knows none of them");
    else
        add(fmt::format("the pool is at transaction {}, LVM's metadata at {}", status->transaction_id, info.transaction_id.value_or(0)));
}

GroupInfo KernelView::info() const {
    GroupInfo info;
    info.name = group_.name;
    info.id = group_.id;
    info.sequence_number = group_.sequence_number;
    info.extent_size = group_.extent_size;
    info.size = group_.extents * group_.extent_size;
    info.free = group_.free_extents * group_.extent_size;
    info.system_id = group_.system_id;
    info.lock_type = group_.lock_type == "none" ? "" : group_.lock_type;
    info.tags = group_.tags;
    info.writable = group_.writable && !group_.exported && !group_.partial;
    info.capabilities = {Capability::activation, Capability::automatic_extension};
    for (const host::LvmPhysicalVolume& physical : group_.physical_volumes) {
        PhysicalVolumeInfo one;
        one.name = physical.device;
        one.id = physical.id;
        one.device = physical.device;
        one.extents = physical.extents;
        one.size = physical.extents * group_.extent_size;
        one.allocated = physical.allocated_extents * group_.extent_size;
        one.missing = physical.missing;
        one.tags = physical.tags;
        if (one.missing)
            info.findings.push_back(fmt::format("physical volume {} is missing", one.id));
        info.physical_volumes.push_back(std::move(one));
    }
    if (group_.exported)
        info.findings.emplace_back("the group is exported: vgimport makes it usable");
    if (!kernel_)
        info.findings.push_back(fmt::format("how full volumes are is unknown: {}", kernel_.error().message()));
    for (const host::LvmVolume& volume : group_.volumes)
        if (volume.segments.size() == 1 && volume.segments[0].type == "thin-pool")
            add_findings(volume, info.findings);
    return info;
}

}  // namespace lamella
