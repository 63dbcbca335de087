// SPDX-License-Identifier: Apache-2.0
#include "lvm2/group.h"

#include <algorithm>
#include <array>
#include <limits>
#include <unordered_map>

namespace lamella::lvm2 {

namespace {

bool has(const Words& words, std::string_view word) { return std::ranges::find(words, word) != words.end(); }

}  // namespace

bool PhysicalVolume::allocatable() const { return has(status, "ALLOCATABLE") && !missing(); }
bool PhysicalVolume::missing() const { return has(flags, "MISSING") || has(status, "MISSING"); }

bool LogicalVolume::visible() const { return has(status, "VISIBLE"); }
bool LogicalVolume::writable() const { return has(status, "WRITE"); }
bool LogicalVolume::skips_activation() const { return has(flags, "ACTIVATION_SKIP"); }
bool LogicalVolume::error_when_full() const { return has(flags, "ERROR_WHEN_FULL"); }

std::uint64_t LogicalVolume::extent_count() const {
    std::uint64_t count = 0;
    for (const Segment& segment : segments)
        count += segment.extent_count;
    return count;
}

const PhysicalVolume* VolumeGroup::physical_volume(std::string_view wanted) const {
    const auto found = std::ranges::find(physical_volumes, wanted, &PhysicalVolume::name);
    return found == physical_volumes.end() ? nullptr : &*found;
}

const LogicalVolume* VolumeGroup::logical_volume(std::string_view wanted) const {
    const auto found = std::ranges::find(logical_volumes, wanted, &LogicalVolume::name);
    return found == logical_volumes.end() ? nullptr : &*found;
}

LogicalVolume* VolumeGroup::logical_volume(std::string_view wanted) {
    return const_cast<LogicalVolume*>(std::as_const(*this).logical_volume(wanted));
}

bool VolumeGroup::exported() const { return has(status, "EXPORTED"); }

std::string_view to_string(Discards discards) {
    switch (discards) {
    case Discards::passdown: return "passdown";
    case Discards::nopassdown: return "nopassdown";
    case Discards::ignore: return "ignore";
    }
    return "ignore";
}

std::string to_string(const Finding& finding) {
    switch (finding.subject) {
    case Finding::Subject::group: break;
    case Finding::Subject::physical_volume: return fmt::format("physical volume {}: {}", finding.name, finding.message);
    case Finding::Subject::logical_volume: return fmt::format("logical volume {}: {}", finding.name, finding.message);
    }
    return finding.message;
}

// --- Names -----------------------------------------------------------------------------------------------------------------

namespace {

bool is_alphanumeric(char character) {
    return (character >= '0' && character <= '9') || (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z');
}

Result<void> check_name(std::string_view what, std::string_view name) {
    if (name.empty())
        return fail(ErrorKind::usage, "the name of a {} is empty", what);
    if (name.size() > max_name_length)
        return fail(ErrorKind::usage, "'{:.32}...' is too long for the name of a {}: {} characters of at most {}", name, what, name.size(),
                    max_name_length);
    if (name.front() == '-')
        return fail(ErrorKind::usage, "'{}': the name of a {} can't begin with a hyphen", name, what);
    if (name == "." || name == "..")
        return fail(ErrorKind::usage, "'{}' can't be the name of a {}", name, what);
    for (char character : name)
        if (!is_alphanumeric(character) && std::string_view("._-+").find(character) == std::string_view::npos)
            return fail(ErrorKind::usage, "'{}': the name of a {} has letters, digits and . _ - + only", name, what);
    return {};
}

void append_escaped(std::string& text, std::string_view part) {
    for (char character : part) {
        if (character == '-')
            text += '-';
        text += character;
    }
}

// What LVM keeps for its own volumes.
constexpr std::array<std::string_view, 2> reserved_beginnings = {"snapshot", "pvmove"};
constexpr std::array<std::string_view, 17> reserved_parts = {"_cdata",  "_cmeta", "_corig",  "_cpool",   "_cvol",   "_wcorig",
                                                             "_mimage", "_mlog",  "_rimage", "_rmeta",   "_tdata",  "_tmeta",
                                                             "_vdata",  "_imeta", "_iorig",  "_pmspare", "_vorigin"};
// The kernel's limit.
constexpr std::size_t dm_name_limit = 127;
// LVM's own, of the group's name and the volume's together: it writes no group with a longer one (lvm2 2.03.16).
constexpr std::size_t both_names_limit = 124;

}  // namespace

Result<void> check_group_name(std::string_view name) { return check_name("volume group", name); }

namespace {

Result<void> check_length(std::string_view group, const std::string& name) {
    if (name.size() > max_name_length)
        return fail(ErrorKind::usage, "'{}' is too long: {} characters of at most {}", name, name.size(), max_name_length);
    if (group.size() + name.size() > both_names_limit)
        return fail(ErrorKind::usage, "'{}' is too long: with its group's name it has {} characters, LVM allows {}", name,
                    group.size() + name.size(), both_names_limit);
    const std::size_t length = dm_name(group, name).size();
    if (length > dm_name_limit)
        return fail(ErrorKind::usage, "'{}' is too long: with its group it makes a device name of {} characters, {} are allowed", name,
                    length, dm_name_limit);
    return {};
}

}  // namespace

Result<void> check_volume_name(std::string_view group, std::string_view name) {
    TRY(check_name("logical volume", name));
    for (std::string_view beginning : reserved_beginnings)
        if (name.starts_with(beginning))
            return fail(ErrorKind::usage, "'{}': names that begin with '{}' are LVM's own", name, beginning);
    for (std::string_view part : reserved_parts)
        if (name.find(part) != std::string_view::npos)
            return fail(ErrorKind::usage, "'{}': names that contain '{}' are LVM's own", name, part);
    return check_length(group, std::string(name));
}

Result<void> check_pool_name(std::string_view group, std::string_view name) {
    TRY(check_volume_name(group, name));
    TRY_WITHIN("the pool's data and metadata get longer names than its own", check_length(group, fmt::format("{}_tdata", name)));
    return {};
}

Result<void> check_tag(std::string_view tag) {
    if (tag.empty())
        return fail(ErrorKind::usage, "a tag is empty");
    if (tag.size() > max_tag_length)
        return fail(ErrorKind::usage, "the tag '{:.32}...' is too long: {} characters of at most {}", tag, tag.size(), max_tag_length);
    if (tag.front() == '-')
        return fail(ErrorKind::usage, "'{}': a tag can't begin with a hyphen", tag);
    for (char character : tag)
        if (!is_alphanumeric(character) && std::string_view("._-+/=!:&#").find(character) == std::string_view::npos)
            return fail(ErrorKind::usage, "'{}': a tag has letters, digits and . _ - + / = ! : & # only", tag);
    return {};
}

std::string dm_name(std::string_view group, std::string_view volume, std::string_view layer) {
    std::string name;
    append_escaped(name, group);
    name += '-';
    append_escaped(name, volume);
    if (!layer.empty()) {
        name += '-';
        append_escaped(name, layer);
    }
    return name;
}

std::string dm_uuid(const LvmId& group, const LvmId& volume, std::string_view layer) {
    std::string uuid = "LVM-";
    uuid += group.plain();
    uuid += volume.plain();
    if (!layer.empty()) {
        uuid += '-';
        uuid += layer;
    }
    return uuid;
}

// --- May it be written -----------------------------------------------------------------------------------------------------

namespace {

constexpr std::array<std::string_view, 11> known_group_words = {"EXPORTED", "RESIZEABLE",   "PVMOVE",         "READ",
                                                                "WRITE",    "WRITE_LOCKED", "NOAUTOACTIVATE", "CLUSTERED",
                                                                "SHARED",   "PARTIAL",      "PRECOMMITTED"};
constexpr std::array<std::string_view, 3> known_physical_words = {"ALLOCATABLE", "EXPORTED", "MISSING"};
constexpr std::array<std::string_view, 14> known_logical_words = {
    "READ",      "WRITE",   "WRITE_LOCKED", "FIXED_MINOR",     "VISIBLE",        "PVMOVE",          "LOCKED",
    "NOTSYNCED", "REBUILD", "WRITEMOSTLY",  "ACTIVATION_SKIP", "NOAUTOACTIVATE", "ERROR_WHEN_FULL", "CACHE_VOL"};

template <std::size_t size>
Result<void> check_words(std::string_view what, const Words& words, const std::array<std::string_view, size>& known) {
    for (const std::string& word : words)
        if (std::ranges::find(known, word) == known.end())
            return fail(ErrorKind::refused, "{} carries the word '{:.64}', which this program doesn't know: it may be read, not written",
                        what, word);
    return {};
}

}  // namespace

Result<void> check_may_write(const VolumeGroup& group, std::string_view system_id) {
    const auto what = fmt::format("group {}", group.name);
    if (group.exported())
        return fail(ErrorKind::refused, "{} is exported; vgimport it first", what);
    if (!group.system_id.empty() && group.system_id != system_id)
        return fail(ErrorKind::refused, "{} belongs to the host with system id '{:.128}'{}", what, group.system_id,
                    system_id.empty() ? ", and this host has none" : fmt::format(", this one has '{}'", system_id));
    if (group.shared())
        return fail(ErrorKind::refused, "{} is shared under the lock type '{:.64}'", what, group.lock_type);
    if (has(group.status, "CLUSTERED"))
        return fail(ErrorKind::refused, "{} is clustered", what);
    if (has(group.status, "PARTIAL"))
        return fail(ErrorKind::refused, "{} is partial", what);
    // In a group of one host LVM writes the one word in the other's place, so that versions without system ids don't write to it.
    if (!has(group.status, "WRITE") && !has(group.flags, "WRITE_LOCKED"))
        return fail(ErrorKind::refused, "{} is read-only", what);
    TRY(check_words(what, group.status, known_group_words));
    TRY(check_words(what, group.flags, known_group_words));
    for (const PhysicalVolume& volume : group.physical_volumes) {
        TRY(check_words(fmt::format("{}, physical volume {}", what, volume.name), volume.status, known_physical_words));
        TRY(check_words(fmt::format("{}, physical volume {}", what, volume.name), volume.flags, known_physical_words));
    }
    for (const LogicalVolume& volume : group.logical_volumes) {
        TRY(check_words(fmt::format("{}/{}", group.name, volume.name), volume.status, known_logical_words));
        TRY(check_words(fmt::format("{}/{}", group.name, volume.name), volume.flags, known_logical_words));
    }
    return {};
}

// --- Check -----------------------------------------------------------------------------------------------------------------

namespace {

using Subject = Finding::Subject;

class Checker {
  public:
    explicit Checker(const VolumeGroup& group) : group_(group) {}

    std::vector<Finding> run() {
        check_group();
        check_physical_volumes();
        index_logical_volumes();
        for (const LogicalVolume& volume : group_.logical_volumes)
            check_logical_volume(volume);
        check_uses();
        check_thin_ids();
        check_cycles();
        check_overlap();
        return std::move(findings_);
    }

  private:
    struct Used {
        std::size_t physical;
        std::uint32_t first;
        std::uint32_t count;
        const LogicalVolume* by;
    };

    template <typename... Args>
    void add(Subject subject, std::string_view name, fmt::format_string<Args...> format, Args&&... args) {
        if (findings_.size() < max_findings)
            findings_.push_back({subject, std::string(name), fmt::format(format, std::forward<Args>(args)...)});
    }
    template <typename... Args>
    void add(const LogicalVolume& volume, fmt::format_string<Args...> format, Args&&... args) {
        add(Subject::logical_volume, volume.name, format, std::forward<Args>(args)...);
    }

    void check_group() {
        if (auto good = check_group_name(group_.name); !good)
            add(Subject::group, "", "{}", good.error().message());
        if (group_.extent_sectors == 0)
            add(Subject::group, "", "extents of no size");
        if (group_.seqno == 0)
            add(Subject::group, "", "a seqno of 0");
        for (const std::string& tag : group_.tags)
            if (auto good = check_tag(tag); !good)
                add(Subject::group, "", "{}", good.error().message());
        if (group_.physical_volumes.empty())
            add(Subject::group, "", "no physical volume");
    }

    void check_physical_volumes() {
        std::unordered_map<std::string_view, const PhysicalVolume*> ids;
        for (std::size_t i = 0; i < group_.physical_volumes.size(); ++i) {
            const PhysicalVolume& volume = group_.physical_volumes[i];
            if (!physical_.emplace(volume.name, i).second)
                add(Subject::physical_volume, volume.name, "the name stands twice");
            const auto [other, fresh] = ids.emplace(volume.id.plain(), &volume);
            if (!fresh)
                add(Subject::physical_volume, volume.name, "the id is also that of {}", other->second->name);
            // Both products fit: 32 bits each. The start doesn't have to.
            const std::uint64_t data = std::uint64_t(volume.extent_count) * group_.extent_sectors;
            if (volume.device_sectors != 0 &&
                (volume.data_start_sector > volume.device_sectors || data > volume.device_sectors - volume.data_start_sector))
                add(Subject::physical_volume, volume.name, "{} extents from sector {} on do not fit in {} sectors", volume.extent_count,
                    volume.data_start_sector, volume.device_sectors);
            else if (volume.data_start_sector > std::numeric_limits<std::uint64_t>::max() / sector_bytes - data)
                add(Subject::physical_volume, volume.name, "data beyond the end of any device");
            for (const std::string& tag : volume.tags)
                if (auto good = check_tag(tag); !good)
                    add(Subject::physical_volume, volume.name, "{}", good.error().message());
        }
    }

    void index_logical_volumes() {
        std::unordered_map<std::string_view, const LogicalVolume*> ids;
        for (const LogicalVolume& volume : group_.logical_volumes) {
            if (!logical_.emplace(volume.name, &volume).second)
                add(volume, "the name stands twice");
            if (physical_.contains(volume.name))
                add(volume, "the name is also that of a physical volume");
            const auto [other, fresh] = ids.emplace(volume.id.plain(), &volume);
            if (!fresh)
                add(volume, "the id is also that of {}", other->second->name);
        }
    }

    const LogicalVolume* logical(std::string_view name) const {
        const auto found = logical_.find(name);
        return found == logical_.end() ? nullptr : found->second;
    }

    void check_logical_volume(const LogicalVolume& volume) {
        if (auto good = check_name("logical volume", volume.name); !good)
            add(volume, "{}", good.error().message());
        for (const std::string& tag : volume.tags)
            if (auto good = check_tag(tag); !good)
                add(volume, "{}", good.error().message());
        if (volume.segments.empty())
            add(volume, "no segments");
        std::uint64_t expected = 0;
        for (const Segment& segment : volume.segments) {
            if (segment.extent_count == 0)
                add(volume, "a segment of no extents at extent {}", segment.start_extent);
            if (segment.start_extent != expected)
                add(volume, "a segment begins at extent {} where {} is expected", segment.start_extent, expected);
            expected = std::uint64_t(segment.start_extent) + segment.extent_count;
            const bool sole_only = segment.as<ThinPool>() || segment.as<Thin>() || segment.as<ClassicSnapshot>();
            if (sole_only && volume.segments.size() != 1)
                add(volume, "a segment of type '{}' is not the only one", segment.type);
            std::visit([&](const auto& body) { check_body(volume, segment, body); }, segment.body);
        }
        if (expected > std::numeric_limits<std::uint32_t>::max())
            add(volume, "more extents than 32 bits count");
    }

    void check_body(const LogicalVolume& volume, const Segment& segment, const Striped& body) {
        const auto stripes = static_cast<std::uint32_t>(body.areas.size());
        if (stripes == 0 || segment.extent_count % stripes != 0) {
            add(volume, "{} extents do not divide into {} stripes", segment.extent_count, stripes);
            return;
        }
        if (stripes > 1 && (body.stripe_sectors == 0 || (body.stripe_sectors & (body.stripe_sectors - 1)) != 0 ||
                            body.stripe_sectors > group_.extent_sectors))
            add(volume, "a stripe size of {} sectors", body.stripe_sectors);
        const std::uint32_t count = segment.extent_count / stripes;
        for (const Area& area : body.areas) {
            const std::uint64_t end = std::uint64_t(area.first_extent) + count;
            if (const auto physical = physical_.find(area.name); physical != physical_.end()) {
                const PhysicalVolume& target = group_.physical_volumes[physical->second];
                if (end > target.extent_count)
                    add(volume, "extents {} to {} of {}, which has {}", area.first_extent, end - 1, area.name, target.extent_count);
                else
                    used_.push_back({physical->second, area.first_extent, count, &volume});
            } else if (const LogicalVolume* target = logical(area.name)) {
                if (end > target->extent_count())
                    add(volume, "extents {} to {} of {}, which has {}", area.first_extent, end - 1, area.name, target->extent_count());
            } else {
                add(volume, "a stripe on '{:.128}', which is not there", area.name);
            }
        }
    }

    void check_body(const LogicalVolume& volume, const Segment& segment, const ThinPool& body) {
        const std::uint64_t chunk = std::uint64_t(body.chunk_sectors) * sector_bytes;
        if (chunk < min_chunk_bytes || chunk > max_chunk_bytes || chunk % min_chunk_bytes != 0)
            add(volume, "a chunk size of {} sectors", body.chunk_sectors);
        for (const std::string* name : {&body.metadata_volume, &body.data_volume}) {
            const LogicalVolume* part = logical(*name);
            if (part == nullptr)
                add(volume, "its part '{:.128}' is not there", *name);
            else
                parts_[part].push_back(&volume);
        }
        if (body.metadata_volume == body.data_volume)
            add(volume, "data and metadata are one volume");
        const LogicalVolume* data = logical(body.data_volume);
        if (data && data->extent_count() != segment.extent_count)
            add(volume, "{} extents, but {} in {}", segment.extent_count, data->extent_count(), data->name);
        if (!body.messages.empty() && body.transaction_id == 0)
            add(volume, "messages without a transaction");
        for (const ThinMessage& message : body.messages) {
            if (message.create.empty())
                continue;
            const LogicalVolume* created = logical(message.create);
            const Thin* thin = created ? created->sole<Thin>() : nullptr;
            if (!thin || thin->pool != volume.name)
                add(volume, "a message to create '{:.128}', which is not a thin volume of the pool", message.create);
        }
    }

    void check_body(const LogicalVolume& volume, const Segment&, const Thin& body) {
        const LogicalVolume* pool = logical(body.pool);
        if (!pool || !pool->sole<ThinPool>())
            add(volume, "'{:.128}' is not a thin pool", body.pool);
        if (body.device_id.value() > max_thin_id.value())
            add(volume, "device id {} is beyond 24 bits", body.device_id);
        else
            thin_.push_back({body.pool, body.device_id, &volume});
        for (const std::string* name : {&body.origin, &body.merging_into}) {
            const LogicalVolume* origin = name->empty() ? nullptr : logical(*name);
            const Thin* thin = origin ? origin->sole<Thin>() : nullptr;
            if (!name->empty() && (!thin || thin->pool != body.pool))
                add(volume, "its origin '{:.128}' is not a thin volume of the same pool", *name);
        }
        if (!body.external_origin.empty() && !logical(body.external_origin))
            add(volume, "its external origin '{:.128}' is not there", body.external_origin);
    }

    void check_body(const LogicalVolume& volume, const Segment&, const ClassicSnapshot& body) {
        for (const std::string* name : {&body.origin, &body.store})
            if (!logical(*name))
                add(volume, "'{:.128}' is not there", *name);
        if (const LogicalVolume* store = logical(body.store))
            parts_[store].push_back(&volume);
    }

    void check_body(const LogicalVolume&, const Segment&, const Opaque&) {}

    // A pool's parts and a snapshot's store serve one volume only.
    void check_uses() {
        for (const auto& [part, users] : parts_)
            if (users.size() > 1)
                add(*part, "a part of both {} and {}", users[0]->name, users[1]->name);
    }

    void check_thin_ids() {
        std::ranges::sort(
            thin_, [](const ThinUse& left, const ThinUse& right) { return std::tie(left.pool, left.id) < std::tie(right.pool, right.id); });
        for (std::size_t i = 1; i < thin_.size(); ++i)
            if (thin_[i - 1].pool == thin_[i].pool && thin_[i - 1].id == thin_[i].id)
                add(*thin_[i].volume, "device id {} is also that of {}", thin_[i].id, thin_[i - 1].volume->name);
    }

    // Who stands on whom. Without a loop, whatever opens a volume from its parts comes to an end.
    void check_cycles() {
        enum class Mark : std::uint8_t { fresh, open, done };
        std::unordered_map<const LogicalVolume*, Mark> marks;
        marks.reserve(logical_.size());
        struct Frame {
            const LogicalVolume* volume;
            std::vector<const LogicalVolume*> below;
            std::size_t next = 0;
        };
        for (const LogicalVolume& root : group_.logical_volumes) {
            if (marks[&root] != Mark::fresh)
                continue;
            std::vector<Frame> stack;
            stack.push_back({&root, below(root)});
            marks[&root] = Mark::open;
            while (!stack.empty()) {
                Frame& top = stack.back();
                if (top.next == top.below.size()) {
                    marks[top.volume] = Mark::done;
                    stack.pop_back();
                    continue;
                }
                const LogicalVolume* next = top.below[top.next++];
                Mark& mark = marks[next];
                if (mark == Mark::open)
                    add(*next, "stands on itself, by way of {}", top.volume->name);
                if (mark != Mark::fresh)
                    continue;
                mark = Mark::open;
                stack.push_back({next, below(*next)});
            }
        }
    }

    std::vector<const LogicalVolume*> below(const LogicalVolume& volume) const {
        std::vector<const LogicalVolume*> volumes;
        const auto on = [&](std::string_view name) {
            if (const LogicalVolume* found = logical(name))
                volumes.push_back(found);
        };
        for (const Segment& segment : volume.segments) {
            if (const Striped* striped = segment.as<Striped>()) {
                for (const Area& area : striped->areas)
                    if (!physical_.contains(area.name))
                        on(area.name);
            } else if (const ThinPool* pool = segment.as<ThinPool>()) {
                on(pool->metadata_volume);
                on(pool->data_volume);
            } else if (const Thin* thin = segment.as<Thin>()) {
                on(thin->pool);
                if (!thin->external_origin.empty())
                    on(thin->external_origin);
            } else if (const ClassicSnapshot* snapshot = segment.as<ClassicSnapshot>()) {
                on(snapshot->origin);
                on(snapshot->store);
            }
        }
        return volumes;
    }

    void check_overlap() {
        std::ranges::sort(used_, [](const Used& left, const Used& right) {
            return std::tie(left.physical, left.first) < std::tie(right.physical, right.first);
        });
        for (std::size_t i = 1; i < used_.size(); ++i) {
            const Used& before = used_[i - 1];
            Used& here = used_[i];
            if (before.physical != here.physical)
                continue;
            const std::uint64_t end = std::uint64_t(before.first) + before.count;
            if (end <= here.first)
                continue;
            const std::string& name = group_.physical_volumes[here.physical].name;
            add(*here.by, "extent {} of {} is also used by {}", here.first, name, before.by->name);
            if (before.by != here.by)
                add(*before.by, "extent {} of {} is also used by {}", here.first, name, here.by->name);
            // The longer reach counts for those that follow.
            if (end > std::uint64_t(here.first) + here.count)
                here = {before.physical, before.first, before.count, before.by};
        }
    }

    struct ThinUse {
        std::string_view pool;
        ThinId id;
        const LogicalVolume* volume;
    };

    const VolumeGroup& group_;
    std::vector<Finding> findings_;
    std::unordered_map<std::string_view, std::size_t> physical_;
    std::unordered_map<std::string_view, const LogicalVolume*> logical_;
    std::unordered_map<const LogicalVolume*, std::vector<const LogicalVolume*>> parts_;
    std::vector<ThinUse> thin_;
    std::vector<Used> used_;
};

}  // namespace

std::vector<Finding> check(const VolumeGroup& group) { return Checker(group).run(); }

}  // namespace lamella::lvm2
