// SPDX-License-Identifier: Apache-2.0
//
// How a group is committed, and why a crash can't hurt it.
//
// Every physical volume may have up to two metadata areas, and all of them get the same text. A commit takes three steps, each on
// all areas, with a flush of all their devices behind each:
//
//   1. the new text is written into each ring, where it overlaps nothing of the committed text;
//   2. each header's slot 1 comes to locate it (precommit);
//   3. each header's slot 0 comes to locate it, and slot 1 is cleared (commit).
//
// A header is one sector, which a disk writes whole or not at all. Before the third step no slot 0 has changed, so a reader finds
// the old text everywhere, whatever became of the ring's other bytes. In the third step some areas may be new and others old; the
// new text was flushed in all of them before, so that a reader that takes the highest seqno finds it whole. Either way it finds
// one of the two. The next open for writing brings the areas that lag behind to the text that it chose; until that has happened
// a reader that sees only some of the devices might choose otherwise, which is why that comes first.
//
// Slot 1 is for LVM's own suspended devices; neither LVM nor this program reads it when it opens a group. It is written because a
// group has to look as LVM would leave it at each step.
#include "lvm2/store.h"

#include <algorithm>
#include <unordered_map>

#include <sys/utsname.h>

#include "lvm2/archive.h"
#include "lvm2/host_lock.h"
#include "lvm2/metadata_area.h"

namespace lamella::lvm2 {

namespace {

struct Device {
    BlockDevice* block = nullptr;
    Label label;
};

struct StoredArea {
    BlockDevice* block;
    DiskArea place;
    std::optional<MetadataArea> area;  // nullopt: the header is damaged
    std::optional<std::string> text;   // committed there, until the group's text is chosen; nullopt: none, or damaged
    bool stale = false;                // not the group's text
    bool failed = false;               // left behind by a commit; not to be written again
};

std::string node_name() {
    utsname system{};
    return ::uname(&system) == 0 ? system.nodename : "localhost";
}

// A description in one line, as LVM bounds it.
std::string bounded(std::string_view description) {
    constexpr std::size_t limit = 2000;
    std::string text(description.substr(0, limit));
    for (char& character : text)
        if (static_cast<unsigned char>(character) < ' ')
            character = ' ';
    return text;
}

Result<std::vector<Device>> read_labels(std::span<BlockDevice* const> blocks) {
    std::vector<Device> devices;
    for (BlockDevice* block : blocks) {
        std::optional<Label> label = TRY(read_label(*block));
        if (!label)
            return fail(ErrorKind::not_found, "{} carries no LVM label", block->name());
        for (const Device& other : devices)
            if (other.label.id == label->id)
                return fail(ErrorKind::refused, "{} and {} carry the same physical volume id {}; one of them is a copy",
                            other.block->name(), block->name(), label->id.dashed());
        devices.push_back({block, std::move(*label)});
    }
    if (devices.empty())
        return fail(ErrorKind::usage, "no device given");
    return devices;
}

// Reads what every area of the device holds. What can't be read is noted, not an error: others may hold it.
void read_areas(const Device& device, std::vector<StoredArea>& areas, std::vector<std::string>& notes) {
    for (const DiskArea& place : device.label.metadata_areas) {
        StoredArea stored{.block = device.block, .place = place, .area = {}, .text = {}};
        if (auto area = MetadataArea::open(*device.block, place)) {
            stored.area = std::move(*area);
            if (stored.area->ignored())
                continue;
            if (auto text = stored.area->read())
                stored.text = std::move(*text);
            else
                notes.push_back(text.error().message());
        } else {
            notes.push_back(area.error().message());
        }
        areas.push_back(std::move(stored));
    }
}

std::string area_name(const StoredArea& stored) {
    return fmt::format("metadata area at byte {} of {}", stored.place.offset, stored.block->name());
}

Result<void> flush_devices(const std::vector<Device>& devices) {
    for (const Device& device : devices)
        TRY_WITHIN(device.block->name(), flush_now(*device.block));
    return {};
}

}  // namespace

struct GroupStore::State {
    StoreOptions options;
    std::vector<Device> devices;
    std::vector<StoredArea> areas;
    VolumeGroup group;
    std::string text;  // on disk, without its NUL
    std::vector<Finding> findings;
    std::vector<MissingPhysicalVolume> missing;
    std::vector<std::string> notes;
    bool unknown = false;  // an error left it open which text a reader finds
    std::weak_ptr<const HostLock> held;

    std::string host() const { return options.host.empty() ? node_name() : options.host; }

    BlockDevice* device_of(const LvmId& id) const {
        for (const Device& device : devices)
            if (device.label.id == id)
                return device.block;
        return nullptr;
    }

    void stamp(VolumeGroup& target, std::string_view description) const {
        target.description = bounded(description);
        target.creation_host = host();
        target.creation_system_id = options.system_id;
        target.creation_time = options.clock->wall_seconds();
    }

    void note(std::string words) { notes.push_back(std::move(words)); }

    // The newest text of all areas becomes the group's.
    Result<void> choose() {
        struct Candidate {
            ParsedGroup parsed;
            const StoredArea* from;
        };
        std::optional<Candidate> best;
        std::unordered_map<std::string_view, bool> seen;
        std::optional<Error> damage;
        for (const StoredArea& stored : areas) {
            if (!stored.text || !seen.emplace(*stored.text, true).second)
                continue;
            Result<ParsedGroup> parsed = parse_group(*stored.text);
            if (!parsed) {
                note(fmt::format("{}: {}", area_name(stored), parsed.error().message()));
                damage = parsed.error().within(area_name(stored));
                continue;
            }
            if (best && best->parsed.group.id != parsed->group.id)
                return fail(ErrorKind::refused, "{} belongs to group {} ({}), but {} to group {} ({})", best->from->block->name(),
                            best->parsed.group.name, best->parsed.group.id.dashed(), stored.block->name(), parsed->group.name,
                            parsed->group.id.dashed());
            if (best && best->parsed.group.seqno == parsed->group.seqno)
                parsed->findings.push_back({Finding::Subject::group, "",
                                            fmt::format("{} and {} hold different texts with the same seqno {}", area_name(*best->from),
                                                        area_name(stored), parsed->group.seqno)});
            // The first of two with one seqno stays, with the finding.
            if (!best || parsed->group.seqno > best->parsed.group.seqno)
                best = Candidate{std::move(*parsed), &stored};
            else if (parsed->group.seqno == best->parsed.group.seqno)
                best->parsed.findings.push_back(std::move(parsed->findings.back()));
        }
        if (!best) {
            if (damage)
                return std::unexpected(std::move(*damage));
            if (!notes.empty())
                return fail(ErrorKind::damaged, "no metadata area holds a whole text: {}", notes.front());
            return fail(ErrorKind::not_found, "{}: a physical volume, but of no group", devices.front().block->name());
        }
        text = *best->from->text;
        group = std::move(best->parsed.group);
        findings = std::move(best->parsed.findings);
        for (StoredArea& stored : areas) {
            stored.stale = stored.text != text;
            if (stored.stale && stored.text)
                note(fmt::format("{} is behind, or holds another text than the others", area_name(stored)));
            stored.text.reset();
        }
        return {};
    }

    // Which device is which physical volume, and whether it is large enough.
    Result<void> match_devices() {
        for (const Device& device : devices) {
            const auto found = std::ranges::find(group.physical_volumes, device.label.id, &PhysicalVolume::id);
            if (found == group.physical_volumes.end())
                return fail(ErrorKind::refused, "{} (physical volume {}) is no part of group {}", device.block->name(),
                            device.label.id.dashed(), group.name);
            const std::uint64_t end = group.extent_offset(*found, found->extent_count);
            if (end > device.block->size())
                findings.push_back(
                    {Finding::Subject::physical_volume, found->name,
                     fmt::format("{} has {} bytes, the volume reaches up to {}", device.block->name(), device.block->size(), end)});
            check_places(device, {group.extent_offset(*found, 0), end - group.extent_offset(*found, 0)}, found->name);
        }
        for (const PhysicalVolume& volume : group.physical_volumes)
            if (device_of(volume.id) == nullptr)
                missing.push_back({volume.name, volume.id, volume.device_hint});
        return {};
    }

    // A metadata area must lie behind the sectors that hold labels, and apart from the other one and from the data.
    void check_places(const Device& device, const DiskArea& data, const std::string& name) {
        constexpr std::uint64_t label_end = 4 * sector_bytes;
        std::vector<DiskArea> taken = {{0, label_end}, data};
        for (const DiskArea& place : device.label.metadata_areas) {
            for (const DiskArea& other : taken)
                if (place.offset < other.offset + other.size && other.offset < place.offset + place.size)
                    findings.push_back({Finding::Subject::physical_volume, name,
                                        fmt::format("{}: the metadata area at byte {} overlaps what lies at byte {}", device.block->name(),
                                                    place.offset, other.offset)});
            taken.push_back(place);
        }
    }

    Result<void> check_writable() const {
        if (!findings.empty())
            return fail(ErrorKind::damaged, "group {} is not sound: {}{}", group.name, to_string(findings.front()),
                        findings.size() > 1 ? fmt::format(" (and {} more)", findings.size() - 1) : "");
        if (!missing.empty()) {
            std::string names;
            for (const MissingPhysicalVolume& volume : missing)
                names += fmt::format("{}{} (id {}, last seen as {})", names.empty() ? "" : ", ", volume.name, volume.id.dashed(),
                                     volume.device_hint);
            return fail(ErrorKind::refused, "group {} lacks physical volume {}", group.name, names);
        }
        for (const PhysicalVolume& volume : group.physical_volumes)
            if (volume.missing())
                return fail(ErrorKind::refused, "physical volume {} of group {} is marked as missing; vgextend --restoremissing",
                            volume.name, group.name);
        TRY(check_may_write(group, options.system_id));
        for (const Device& device : devices)
            if (device.block->traits().read_only)
                return fail(ErrorKind::refused, "{} can't be written", device.block->name());
        return {};
    }

    // None: LVM doesn't see the group.
    Result<std::shared_ptr<const HostLock>> lock_against_lvm(std::optional<std::chrono::milliseconds> patience = {}) {
        if (options.lvm_locks.empty())
            return nullptr;
        std::shared_ptr<const HostLock> lock = held.lock();
        if (lock == nullptr)
            held = lock = std::make_shared<const HostLock>(
                TRY(HostLock::take(options.lvm_locks, group.name, patience.value_or(options.lvm_patience))));
        return lock;
    }

    // LVM's commands on this host open physical volumes whoever has claimed them. Errors: refused, when an area isn't as it was left.
    Result<void> check_unchanged() const {
        for (const StoredArea& stored : areas) {
            if (stored.failed || !stored.area)
                continue;
            const auto now = MetadataArea::open(*stored.block, stored.place);
            if (now && now->committed() != stored.area->committed())
                return fail(ErrorKind::refused, "group {}: somebody else has changed its text on {} meanwhile; open the group anew",
                            group.name, stored.block->name());
        }
        return {};
    }

    // Writes `new_text` to the areas that `wanted` picks, in the three steps. An area that fails is left out of the steps that
    // follow. Returns how many reached the end; the error says why when none did.
    template <typename Wanted>
    Result<std::size_t> write_text(const std::string& new_text, Wanted wanted) {
        std::vector<StoredArea*> writing;
        for (StoredArea& stored : areas)
            if (!stored.failed && stored.area && wanted(stored))
                writing.push_back(&stored);
        std::optional<Error> last_error;
        const auto leave_behind = [&](StoredArea* stored, const Error& error) {
            if (stored->failed)
                return;
            stored->failed = true;
            stored->stale = true;
            note(fmt::format("{} is left behind: {}", area_name(*stored), error.message()));
            last_error = error;
        };
        const auto step = [&](auto&& perform) {
            for (StoredArea* stored : writing)
                if (Result<void> result = perform(*stored->area); !result)
                    leave_behind(stored, result.error());
            for (const Device& device : devices) {
                const auto on_device = [&](const StoredArea* stored) { return stored->block == device.block && !stored->failed; };
                if (std::ranges::none_of(writing, on_device))
                    continue;
                if (Result<void> flushed = flush_now(*device.block); !flushed)
                    for (StoredArea* stored : writing)
                        if (on_device(stored))
                            leave_behind(stored, flushed.error().within(device.block->name()));
            }
            std::erase_if(writing, [](const StoredArea* stored) { return stored->failed; });
        };
        step([&](MetadataArea& area) { return area.write(new_text); });
        step([&](MetadataArea& area) { return area.precommit(); });
        const bool committing = !writing.empty();
        step([&](MetadataArea& area) { return area.commit(); });
        if (writing.empty()) {
            unknown = unknown || committing;
            if (last_error)
                return std::unexpected(std::move(*last_error));
            return fail(ErrorKind::failed, "group {}: no metadata area can be written", group.name);
        }
        for (StoredArea* stored : writing)
            stored->stale = false;
        return writing.size();
    }

    // Brings every area to the chosen text, durably, before anything else is written. What was read may be in a cache alone.
    Result<void> repair() {
        for (StoredArea& stored : areas) {
            if (!stored.stale && stored.area->precommitted().size != 0) {
                TRY(stored.area->revert());
                note(fmt::format("{}: dropped a text that was prepared but not committed", area_name(stored)));
            }
            if (!stored.area)
                stored.area = TRY(MetadataArea::create(*stored.block, stored.place));
        }
        TRY(flush_devices(devices));
        const auto stale = [](const StoredArea& stored) { return stored.stale; };
        if (std::ranges::none_of(areas, stale))
            return {};
        const std::size_t repaired = TRY(write_text(text, stale));
        note(fmt::format("{} metadata areas were brought to seqno {}", repaired, group.seqno));
        return {};
    }

    // LVM marks the label of a physical volume that is in a group. One that isn't marked might be taken for free.
    Result<void> mark_labels() {
        for (Device& device : devices) {
            if (device.label.extension_version == 0 || (device.label.extension_flags & label_in_use) != 0)
                continue;
            Label marked = device.label;
            marked.extension_flags |= label_in_use;
            TRY(write_label(*device.block, marked));
            device.label = marked;
            note(fmt::format("{}: the label was marked as in use", device.block->name()));
        }
        return {};
    }

    // The first text of a group on devices whose areas were just made, and then the labels that make them known.
    Result<void> write_first() {
        text = print_group(group, TextStyle::on_disk);
        TRY(check_capacity(text));
        TRY(flush_devices(devices));
        const std::size_t written = TRY(write_text(text, [](const StoredArea&) { return true; }));
        if (written != areas.size())
            return fail(ErrorKind::failed, "group {}: {}", group.name, notes.empty() ? "an area failed" : notes.back());
        for (const Device& device : devices)
            TRY(write_label(*device.block, device.label));
        return {};
    }

    Result<void> check_capacity(const std::string& new_text) const {
        for (const StoredArea& stored : areas)
            if (stored.area && !stored.failed && new_text.size() + 1 > stored.area->capacity())
                return fail(ErrorKind::no_space, "group {}: its text has grown to {} bytes, {} takes {}", group.name, new_text.size() + 1,
                            area_name(stored), stored.area->capacity());
        return {};
    }

    Result<void> make_areas(const Device& device) {
        for (const DiskArea& place : device.label.metadata_areas) {
            StoredArea stored{.block = device.block, .place = place, .area = {}, .text = {}};
            stored.area = TRY(MetadataArea::create(*device.block, place));
            areas.push_back(std::move(stored));
        }
        return {};
    }
};

GroupStore::GroupStore(std::unique_ptr<State> state) : state_(std::move(state)) {}
GroupStore::GroupStore(GroupStore&&) noexcept = default;
GroupStore& GroupStore::operator=(GroupStore&&) noexcept = default;
GroupStore::~GroupStore() = default;

const VolumeGroup& GroupStore::group() const { return state_->group; }
const std::vector<Finding>& GroupStore::findings() const { return state_->findings; }
const std::vector<MissingPhysicalVolume>& GroupStore::missing() const { return state_->missing; }
const std::vector<std::string>& GroupStore::notes() const { return state_->notes; }
bool GroupStore::unsettled() const { return state_->unknown; }

BlockDevice* GroupStore::device(std::string_view physical_volume) const {
    const PhysicalVolume* volume = state_->group.physical_volume(physical_volume);
    return volume ? state_->device_of(volume->id) : nullptr;
}

Result<GroupStore> GroupStore::open(std::span<BlockDevice* const> devices, const StoreOptions& options) {
    auto state = std::make_unique<State>();
    state->options = options;
    state->devices = TRY(read_labels(devices));
    for (const Device& device : state->devices)
        read_areas(device, state->areas, state->notes);
    TRY(state->choose());
    TRY(state->match_devices());
    if (options.writable) {
        TRY(state->check_writable());
        const auto lock = TRY(state->lock_against_lvm());
        if (lock)
            TRY(state->check_unchanged());
        TRY(state->repair());
        TRY(state->mark_labels());
    }
    return GroupStore(std::move(state));
}

Result<void> GroupStore::commit(VolumeGroup next, std::string_view description, Archive archive) {
    State& state = *state_;
    if (!state.options.writable)
        return fail(ErrorKind::refused, "group {} was opened for reading", state.group.name);
    if (state.unknown)
        return fail(ErrorKind::refused, "group {}: an earlier change failed in its last step; open the group anew", state.group.name);
    if (next.id != state.group.id || next.seqno != state.group.seqno)
        return fail(ErrorKind::usage, "group {}: a change of seqno {}, but the group is at {}", state.group.name, next.seqno,
                    state.group.seqno);
    if (!std::ranges::equal(next.physical_volumes, state.group.physical_volumes, {}, &PhysicalVolume::id, &PhysicalVolume::id))
        return fail(ErrorKind::usage, "group {}: a change of its physical volumes", state.group.name);
    if (next.seqno == std::numeric_limits<std::uint32_t>::max())
        return fail(ErrorKind::refused, "group {}: its seqno can't grow", state.group.name);
    // From the look at what is there until the new text is.
    const auto lock = TRY(state.lock_against_lvm());
    TRY(state.check_unchanged());
    ++next.seqno;
    state.stamp(next, description);

    // What is written is what a reader will make of it.
    const std::string new_text = print_group(next, TextStyle::on_disk);
    ParsedGroup read_back = TRY(parse_group(new_text));
    if (!read_back.findings.empty())
        return fail(ErrorKind::failed, "group {}: the change is not sound and was not made: {}", state.group.name,
                    to_string(read_back.findings.front()));
    TRY(state.check_capacity(new_text));
    if (archive == Archive::previous && !state.options.archive_directory.empty()) {
        VolumeGroup previous = state.group;
        state.stamp(previous, fmt::format("Created *before* executing '{}'", description));
        TRY(archive_text(state.options.archive_directory, state.group.name, print_group(previous, TextStyle::human),
                         state.options.clock->wall_seconds(), {state.options.archive_days, state.options.archive_files}));
    }
    TRY(state.write_text(new_text, [](const StoredArea&) { return true; }));
    state.group = std::move(read_back.group);
    state.text = new_text;
    return {};
}

Result<std::shared_ptr<const HostLock>> GroupStore::hold_lock(std::optional<std::chrono::milliseconds> patience) {
    return state_->lock_against_lvm(patience);
}

std::string GroupStore::backup(std::string_view description) const {
    VolumeGroup copy = state_->group;
    state_->stamp(copy, description);
    return print_group(copy, TextStyle::human);
}

// --- New groups ------------------------------------------------------------------------------------------------------------

namespace {

// Errors: refused, when the bytes are not all zeros.
Result<void> check_blank(BlockDevice& device, std::uint64_t begin, std::uint64_t end) {
    constexpr std::size_t step = 64u << 10;
    std::vector<std::byte> bytes(step);
    while (begin < end) {
        const std::uint64_t known = device.known_zero(begin, end - begin);
        if (known > 0) {
            begin += std::min(known, end - begin);
            continue;
        }
        const auto part = std::span(bytes).first(std::min<std::uint64_t>(step, end - begin));
        TRY_WITHIN(device.name(), read_now(device, begin, part));
        const auto found = std::ranges::find_if(part, [](std::byte byte) { return byte != std::byte{0}; });
        if (found != part.end())
            return fail(ErrorKind::exists, "{} is not blank: byte {} is not zero", device.name(),
                        begin + static_cast<std::uint64_t>(found - part.begin()));
        begin += part.size();
    }
    return {};
}

// Everything that a new group writes to the device: before its data, and areas behind it.
Result<void> check_blank(BlockDevice& device, const Label& label) {
    if (auto old = read_label(device); old && *old)
        return fail(ErrorKind::exists, "{} is a physical volume already ({})", device.name(), (*old)->id.dashed());
    TRY(check_blank(device, 0, label.data_areas[0].offset));
    TRY(check_blank(device, data_end(label), label.device_bytes));
    return {};
}

Result<PhysicalVolume> make_physical_volume(std::size_t number, const BlockDevice& device, const Label& label,
                                            std::uint32_t extent_sectors) {
    PhysicalVolume volume;
    volume.name = fmt::format("pv{}", number);
    volume.id = label.id;
    volume.device_hint = device.name();
    volume.status = {"ALLOCATABLE"};
    volume.device_sectors = label.device_bytes / sector_bytes;
    volume.data_start_sector = label.data_areas[0].offset / sector_bytes;
    const std::uint64_t extents = (data_end(label) - label.data_areas[0].offset) / sector_bytes / extent_sectors;
    if (extents == 0)
        return fail(ErrorKind::usage, "{} has no room for a single extent of {} sectors", device.name(), extent_sectors);
    if (extents > std::numeric_limits<std::uint32_t>::max())
        return fail(ErrorKind::usage, "{} has {} extents, more than 32 bits count; choose a larger extent size", device.name(), extents);
    volume.extent_count = static_cast<std::uint32_t>(extents);
    return volume;
}

}  // namespace

Result<GroupStore> GroupStore::create(const NewGroup& request, const StoreOptions& options) {
    TRY(check_group_name(request.name));
    for (const std::string& tag : request.tags)
        TRY(check_tag(tag));
    // LVM allows 1 KiB; what is below a page makes no sense on today's disks.
    constexpr std::uint32_t minimum_extent_sectors = 8;
    if (request.extent_sectors < minimum_extent_sectors || (request.extent_sectors & (request.extent_sectors - 1)) != 0)
        return fail(ErrorKind::usage, "an extent size of {} sectors; a power of two from {} on is needed", request.extent_sectors,
                    minimum_extent_sectors);
    if (std::ranges::none_of(request.physical_volumes, [](const NewPhysicalVolume& volume) { return volume.metadata_areas > 0; }))
        return fail(ErrorKind::usage, "group {}: no physical volume with a metadata area", request.name);

    auto state = std::make_unique<State>();
    state->options = options;
    state->options.writable = true;
    VolumeGroup& group = state->group;
    group.name = request.name;
    group.id = LvmId::generate();
    group.seqno = 1;
    group.status = {"RESIZEABLE", "READ", "WRITE"};
    group.tags = request.tags;
    group.system_id = request.system_id;
    group.extent_sectors = request.extent_sectors;
    state->stamp(group, fmt::format("Write from lamella: group {} created.", request.name));

    std::uint64_t extents = 0;
    for (const NewPhysicalVolume& volume : request.physical_volumes) {
        BlockDevice& block = *volume.device;
        if (std::ranges::find(state->devices, &block, &Device::block) != state->devices.end())
            return fail(ErrorKind::usage, "{} is given twice", block.name());
        if (block.traits().read_only)
            return fail(ErrorKind::refused, "{} can't be written", block.name());
        Label label = TRY_WITHIN(block.name(), plan_label(block.size(), volume.metadata_areas, LvmId::generate()));
        label.extension_flags = label_in_use;
        if (!request.overwrite)
            TRY(check_blank(block, label));
        group.physical_volumes.push_back(TRY(make_physical_volume(group.physical_volumes.size(), block, label, group.extent_sectors)));
        extents += group.physical_volumes.back().extent_count;
        state->devices.push_back({&block, label});
    }
    if (extents > std::numeric_limits<std::uint32_t>::max())
        return fail(ErrorKind::usage, "group {}: {} extents, more than 32 bits count; choose a larger extent size", group.name, extents);
    TRY(check_may_write(group, options.system_id));

    for (const Device& device : state->devices) {
        TRY(clear_labels(*device.block));
        TRY(state->make_areas(device));
    }
    TRY(state->write_first());
    return GroupStore(std::move(state));
}

Result<GroupStore> GroupStore::restore(std::string_view backup, std::span<BlockDevice* const> blocks, RestoreTo where,
                                       const StoreOptions& options) {
    ParsedGroup parsed = TRY(parse_group(backup));
    if (!parsed.findings.empty())
        return fail(ErrorKind::damaged, "the backup of group {} is not sound: {}", parsed.group.name, to_string(parsed.findings.front()));

    auto state = std::make_unique<State>();
    state->options = options;
    state->options.writable = true;
    state->group.name = parsed.group.name;
    // From the look at what is there until the backup's text is.
    const auto lock = TRY(state->lock_against_lvm());
    std::uint32_t seqno_on_disk = 0;
    if (where == RestoreTo::labelled) {
        state->devices = TRY(read_labels(blocks));
        for (const Device& device : state->devices)
            read_areas(device, state->areas, state->notes);
        // What is there may be damaged; all that counts is how far its seqno got.
        for (const StoredArea& stored : state->areas) {
            auto old = stored.text ? parse_group(*stored.text) : Result<ParsedGroup>(std::unexpect, Error(ErrorKind::not_found, ""));
            if (!old)
                continue;
            if (old->group.id != parsed.group.id)
                return fail(ErrorKind::refused, "{} belongs to another group, {} ({})", stored.block->name(), old->group.name,
                            old->group.id.dashed());
            seqno_on_disk = std::max(seqno_on_disk, old->group.seqno);
        }
    } else {
        if (blocks.size() != parsed.group.physical_volumes.size())
            return fail(ErrorKind::usage, "the backup of group {} has {} physical volumes, {} devices are given", parsed.group.name,
                        parsed.group.physical_volumes.size(), blocks.size());
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            const PhysicalVolume& volume = parsed.group.physical_volumes[i];
            Label label =
                TRY_WITHIN(blocks[i]->name(), plan_label(blocks[i]->size(), 1, volume.id, volume.data_start_sector * sector_bytes));
            label.extension_flags = label_in_use;
            TRY(check_blank(*blocks[i], label));
            state->devices.push_back({blocks[i], label});
        }
    }
    state->group = std::move(parsed.group);
    TRY(state->match_devices());
    for (PhysicalVolume& volume : state->group.physical_volumes)
        if (const BlockDevice* block = state->device_of(volume.id))
            volume.device_hint = block->name();
    TRY(state->check_writable());
    const std::uint32_t newest = std::max(state->group.seqno, seqno_on_disk);
    if (newest == std::numeric_limits<std::uint32_t>::max())
        return fail(ErrorKind::refused, "group {}: its seqno can't grow", state->group.name);
    state->group.seqno = newest + 1;
    state->stamp(state->group, "Write from lamella: group restored from a backup.");

    if (where == RestoreTo::blank)
        for (const Device& device : state->devices)
            TRY(state->make_areas(device));
    for (StoredArea& stored : state->areas)
        if (!stored.area)
            stored.area = TRY(MetadataArea::create(*stored.block, stored.place));
    if (state->areas.empty())
        return fail(ErrorKind::refused, "group {}: no device has a metadata area", state->group.name);
    if (where == RestoreTo::labelled)
        for (Device& device : state->devices)
            if (device.label.extension_version != 0)
                device.label.extension_flags |= label_in_use;
    TRY(state->write_first());
    return GroupStore(std::move(state));
}

}  // namespace lamella::lvm2
