// SPDX-License-Identifier: Apache-2.0
//
// Changes of a group's model, as LVM's commands make them. Each works on a copy of what it changes, or checks everything before
// it changes anything, so that a failure leaves the group as it was.
#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "lvm2/allocation.h"
#include "lvm2/change_parts.h"

namespace lamella::lvm2 {

namespace {

bool has(const Words& words, std::string_view word) { return std::ranges::find(words, word) != words.end(); }

// LVM's order of the words that change here.
constexpr std::array<std::string_view, 3> status_order = {"READ", "WRITE", "VISIBLE"};
constexpr std::array<std::string_view, 5> flag_order = {"WRITE_LOCKED", "ACTIVATION_SKIP", "NOAUTOACTIVATE", "ERROR_WHEN_FULL",
                                                        "CACHE_VOL"};

template <std::size_t size>
void set_word(Words& words, const std::array<std::string_view, size>& order, std::string_view word, bool set) {
    std::erase(words, word);
    if (!set)
        return;
    const auto rank = [&](std::string_view one) { return std::ranges::find(order, one); };
    // Before the first word that comes later; words of no known rank stay where they are.
    const auto place =
        std::ranges::find_if(words, [&](const std::string& one) { return rank(one) != order.end() && rank(one) > rank(word); });
    words.insert(place, std::string(word));
}

// --- Finding things

Result<LogicalVolume*> find_thin(VolumeGroup& group, std::string_view name) {
    LogicalVolume* volume = TRY(find(group, name));
    if (!volume->sole<Thin>())
        return fail(ErrorKind::usage, "{}/{} is not a thin volume", group.name, name);
    return volume;
}

// How a volume refers to others. `visit(name)` sees each reference and may change it; Opaque ones come as a copy.
template <typename Visit>
void visit_references(LogicalVolume& volume, Visit visit) {
    const auto unless_empty = [&](std::string& name) {
        if (!name.empty())
            visit(name);
    };
    for (Segment& segment : volume.segments) {
        if (Striped* striped = segment.as<Striped>()) {
            for (Area& area : striped->areas)
                visit(area.name);
        } else if (ThinPool* pool = segment.as<ThinPool>()) {
            visit(pool->metadata_volume);
            visit(pool->data_volume);
            for (ThinMessage& message : pool->messages)
                unless_empty(message.create);
        } else if (Thin* thin = segment.as<Thin>()) {
            visit(thin->pool);
            unless_empty(thin->origin);
            unless_empty(thin->external_origin);
            unless_empty(thin->merging_into);
        } else if (ClassicSnapshot* snapshot = segment.as<ClassicSnapshot>()) {
            visit(snapshot->origin);
            visit(snapshot->store);
        }
    }
}

bool mentions(const TextSection& section, std::string_view name) {
    const auto is_name = [&](const TextValue& value) { return value.string() && *value.string() == name; };
    return std::ranges::any_of(section.entries, [&](const TextEntry& entry) {
        if (entry.section())
            return entry.key == name || mentions(*entry.section(), name);
        if (entry.value()->array())
            return std::ranges::any_of(*entry.value()->array(), is_name);
        return is_name(*entry.value());
    });
}

// Errors: unsupported, when text that isn't understood speaks of the volume: nobody could say what becomes of it.
Result<void> check_not_opaque(const VolumeGroup& group, const LogicalVolume& volume) {
    for (const Segment& segment : volume.segments)
        if (segment.as<Opaque>() && !is_error_segment(segment))
            return fail(ErrorKind::unsupported, "{}/{} is of type '{}', which can't be changed here", group.name, volume.name,
                        segment.type);
    for (const LogicalVolume& other : group.logical_volumes)
        for (const Segment& segment : other.segments)
            if (const Opaque* opaque = segment.as<Opaque>(); opaque && has(opaque->names, volume.name))
                return fail(ErrorKind::unsupported, "{}/{} is a part of {}, which is of type '{}'", group.name, volume.name, other.name,
                            segment.type);
    for (const KeptEntry& kept : group.kept)
        if (kept.entry.section() && mentions(*kept.entry.section(), volume.name))
            return fail(ErrorKind::unsupported, "{}/{} is mentioned in '{}'", group.name, volume.name, kept.entry.key);
    return {};
}

// --- Thin pools

void queue_message(ThinPool& pool, ThinMessage message) {
    if (pool.messages.empty())
        ++pool.transaction_id;
    pool.messages.push_back(std::move(message));
}

// The pool's transaction id as long as what is queued isn't carried out.
std::uint64_t present_transaction(const ThinPool& pool) { return pool.transaction_id - (pool.messages.empty() ? 0 : 1); }

Result<ThinId> free_thin_id(const VolumeGroup& group, std::string_view pool_name, const ThinPool& pool) {
    std::set<ThinId> used;
    for (const LogicalVolume& volume : group.logical_volumes)
        if (const Thin* thin = volume.sole<Thin>(); thin && thin->pool == pool_name)
            used.insert(thin->device_id);
    for (const ThinMessage& message : pool.messages)
        if (message.create.empty())
            used.insert(message.delete_id);
    if (used.empty())
        return ThinId(1);
    if (*used.rbegin() < max_thin_id)
        return *used.rbegin() + 1;
    ThinId free(1);
    for (ThinId id : used) {
        if (id > free)
            break;
        if (id == free)
            ++free;
    }
    if (free > max_thin_id)
        return fail(ErrorKind::no_space, "thin pool {}/{} has no free device id", group.name, pool_name);
    return free;
}

Result<ThinId> add_thin(VolumeGroup& group, const NewVolume& request, std::string_view pool_name, std::uint32_t extents, std::string origin,
                        bool skip_activation) {
    TRY(check_new(group, request));
    if (extents == 0)
        return fail(ErrorKind::usage, "a thin volume of no size");
    LogicalVolume* pool_volume = TRY(find_pool(group, pool_name));
    ThinPool& pool = *pool_volume->sole<ThinPool>();
    Thin body;
    body.pool = pool_volume->name;
    body.transaction_id = present_transaction(pool);
    body.device_id = TRY(free_thin_id(group, pool_volume->name, pool));
    body.origin = std::move(origin);
    const ThinId id = body.device_id;
    LogicalVolume volume = make_volume(request);
    set_word(volume.flags, flag_order, "ACTIVATION_SKIP", skip_activation);
    volume.segments.push_back(whole_segment("thin", extents, std::move(body)));
    queue_message(pool, {request.name, {}});
    group.logical_volumes.push_back(std::move(volume));
    return id;
}

Words* tags_of(VolumeGroup& group, std::string_view volume) {
    if (volume.empty())
        return &group.tags;
    LogicalVolume* found = group.logical_volume(volume);
    return found ? &found->tags : nullptr;
}

}  // namespace

// --- What others use of this ------------------------------------------------------------------------------------------------

Result<LogicalVolume*> find(VolumeGroup& group, std::string_view name) {
    LogicalVolume* volume = group.logical_volume(name);
    if (!volume)
        return fail(ErrorKind::not_found, "group {} has no logical volume {}", group.name, name);
    if (has(volume->status, "LOCKED") || has(volume->status, "PVMOVE"))
        return fail(ErrorKind::refused, "{}/{} is locked: extents are being moved", group.name, name);
    return volume;
}

Result<LogicalVolume*> find_pool(VolumeGroup& group, std::string_view name) {
    LogicalVolume* volume = TRY(find(group, name));
    if (!volume->sole<ThinPool>())
        return fail(ErrorKind::usage, "{}/{} is not a thin pool", group.name, name);
    return volume;
}

Result<void> check_not_used(const VolumeGroup& group, const LogicalVolume& volume, bool origins_too) {
    const auto refuse = [&](std::string_view how, const LogicalVolume& user) {
        return fail(ErrorKind::refused, "{}/{} is {} {}", group.name, volume.name, how, user.name);
    };
    for (const LogicalVolume& other : group.logical_volumes)
        for (const Segment& segment : other.segments) {
            if (const Striped* striped = segment.as<Striped>()) {
                if (std::ranges::find(striped->areas, volume.name, &Area::name) != striped->areas.end())
                    return refuse("a part of", other);
            } else if (const ThinPool* pool = segment.as<ThinPool>()) {
                if (pool->metadata_volume == volume.name || pool->data_volume == volume.name)
                    return refuse("a part of thin pool", other);
            } else if (const Thin* thin = segment.as<Thin>()) {
                if (thin->external_origin == volume.name)
                    return refuse("the external origin of", other);
            } else if (const ClassicSnapshot* snapshot = segment.as<ClassicSnapshot>()) {
                if (snapshot->origin == volume.name && origins_too)
                    return refuse("the origin of the classic snapshot", *group.logical_volume(snapshot->store));
                if (snapshot->store == volume.name)
                    return fail(ErrorKind::refused, "{}/{} is a classic snapshot of {}", group.name, volume.name, snapshot->origin);
            }
        }
    return check_not_opaque(group, volume);
}

Result<std::uint32_t> round_up(std::uint32_t extents, std::uint32_t stripes) {
    const std::uint64_t rounded = stripes == 0 ? extents : (std::uint64_t(extents) + stripes - 1) / stripes * stripes;
    if (rounded == 0 || rounded > std::numeric_limits<std::uint32_t>::max())
        return fail(ErrorKind::usage, "a volume of {} extents", rounded);
    return static_cast<std::uint32_t>(rounded);
}

Result<void> check_new(const VolumeGroup& group, const NewVolume& volume) {
    TRY(check_volume_name(group.name, volume.name));
    if (group.logical_volume(volume.name) || group.physical_volume(volume.name))
        return fail(ErrorKind::exists, "group {} has a volume {} already", group.name, volume.name);
    for (const KeptEntry& kept : group.kept)
        if (kept.entry.section() && mentions(*kept.entry.section(), volume.name))
            return fail(ErrorKind::exists, "group {} remembers a volume {} in '{}'", group.name, volume.name, kept.entry.key);
    std::set<std::string_view> tags;
    for (const std::string& tag : volume.tags) {
        TRY(check_tag(tag));
        if (!tags.insert(tag).second)
            return fail(ErrorKind::usage, "the tag {} is given twice", tag);
    }
    if (group.max_lv != 0 && std::ranges::count_if(group.logical_volumes, &LogicalVolume::visible) >= std::int64_t(group.max_lv))
        return fail(ErrorKind::refused, "group {} is limited to {} logical volumes", group.name, group.max_lv);
    return {};
}

LogicalVolume make_volume(std::string name, const Stamp& created, bool visible, bool read_only) {
    LogicalVolume volume;
    volume.name = std::move(name);
    volume.id = LvmId::generate();
    volume.status = {"READ"};
    if (!read_only)
        volume.status.push_back("WRITE");
    if (visible)
        volume.status.push_back("VISIBLE");
    volume.creation_time = created.time;
    volume.creation_host = created.host;
    return volume;
}

LogicalVolume make_volume(const NewVolume& request) {
    LogicalVolume volume = make_volume(request.name, request.created, true, request.read_only);
    volume.tags = request.tags;
    return volume;
}

Result<void> extend_striped(VolumeGroup& group, LogicalVolume& volume, std::uint32_t extents, const Placement& placement) {
    const Segment* last = volume.segments.empty() ? nullptr : &volume.segments.back();
    const Striped* striped = last ? last->as<Striped>() : nullptr;
    if (!striped)
        return fail(ErrorKind::unsupported, "{}/{} is of type '{}', which can't be extended here", group.name, volume.name,
                    last ? last->type : "");
    Placement shape = placement;
    shape.stripes = static_cast<std::uint32_t>(striped->areas.size());
    if (shape.stripes > 1)
        shape.stripe_sectors = striped->stripe_sectors;
    if (!shape.policy)
        shape.policy = allocation_policy(group, &volume);
    const std::uint64_t present = volume.extent_count();
    std::vector<Segment> added =
        TRY(allocate(group, shape, static_cast<std::uint32_t>(present), TRY(round_up(extents, shape.stripes)), volume.segments));
    std::ranges::move(added, std::back_inserter(volume.segments));
    join_segments(volume.segments);
    return {};
}

std::string free_numbered_name(const VolumeGroup& group, std::string_view beginning) {
    std::int64_t highest = -1;
    for (const LogicalVolume& volume : group.logical_volumes) {
        std::string_view name = volume.name;
        if (!name.starts_with(beginning))
            continue;
        name.remove_prefix(beginning.size());
        std::uint32_t number = 0;
        if (std::from_chars(name.data(), name.data() + name.size(), number).ec == std::errc())
            highest = std::max<std::int64_t>(highest, number);
    }
    return fmt::format("{}{}", beginning, highest + 1);
}

void erase_volume(VolumeGroup& group, std::string_view name) {
    std::erase_if(group.logical_volumes, [name = std::string(name)](const LogicalVolume& volume) { return volume.name == name; });
}

// Cuts extents off the end, rounded down to a multiple of the stripes.
Result<void> cut_off(const VolumeGroup& group, LogicalVolume& volume, std::uint32_t extents) {
    if (!std::ranges::all_of(volume.segments, [](const Segment& segment) { return segment.as<Striped>() != nullptr; }))
        return fail(ErrorKind::unsupported, "{}/{} is of type '{}', which can't be reduced", group.name, volume.name,
                    volume.segments[0].type);
    std::vector<Segment> segments = volume.segments;
    for (std::uint32_t left = extents; left > 0;) {
        if (segments.empty())
            break;
        Segment& last = segments.back();
        const auto stripes = static_cast<std::uint32_t>(last.as<Striped>()->areas.size());
        const std::uint32_t cut = std::min(left, last.extent_count) / stripes * stripes;
        if (cut == 0)
            break;
        last.extent_count -= cut;
        left -= cut;
        if (last.extent_count == 0)
            segments.pop_back();
    }
    if (segments.empty())
        return fail(ErrorKind::usage, "{}/{} has {} extents, {} can't be cut off", group.name, volume.name, volume.extent_count(), extents);
    volume.segments = std::move(segments);
    return {};
}

// --- Linear and striped volumes --------------------------------------------------------------------------------------------

Result<void> create_volume(VolumeGroup& group, const NewVolume& request, std::uint32_t extents, const Placement& placement) {
    TRY(check_new(group, request));
    LogicalVolume volume = make_volume(request);
    volume.segments = TRY(allocate(group, placement, 0, TRY(round_up(extents, placement.stripes))));
    group.logical_volumes.push_back(std::move(volume));
    return {};
}

Result<void> extend_volume(VolumeGroup& group, std::string_view name, std::uint32_t extents, const Placement& placement) {
    LogicalVolume* volume = TRY(find(group, name));
    TRY(check_not_used(group, *volume, false));  // what grows at its end is nothing to its classic snapshots
    if (volume->sole<Thin>())
        return fail(ErrorKind::usage, "{}/{} is a thin volume: it is resized, not extended", group.name, name);
    ThinPool* pool = volume->sole<ThinPool>();
    if (!pool)
        return extend_striped(group, *volume, extents, placement);
    LogicalVolume* data = TRY(find(group, pool->data_volume));
    TRY(extend_striped(group, *data, extents, placement));
    volume->segments[0].extent_count = static_cast<std::uint32_t>(data->extent_count());
    return {};
}

Result<void> reduce_volume(VolumeGroup& group, std::string_view name, std::uint32_t extents) {
    LogicalVolume* volume = TRY(find(group, name));
    TRY(check_not_used(group, *volume));
    return cut_off(group, *volume, extents);
}

Result<void> reduce_pool(VolumeGroup& group, std::string_view name, std::uint32_t extents) {
    VolumeGroup changed = group;
    LogicalVolume* volume = TRY(find_pool(changed, name));
    const ThinPool& pool = *volume->sole<ThinPool>();
    if (!pool.messages.empty())
        return fail(ErrorKind::refused, "thin pool {}/{} has messages queued", group.name, name);
    LogicalVolume* spare = find_spare(changed);
    if (spare == nullptr)
        return fail(ErrorKind::unsupported, "group {} has no spare metadata volume, which takes the smaller pool's metadata", group.name);
    LogicalVolume* data = TRY(find(changed, pool.data_volume));
    TRY(cut_off(changed, *data, extents));
    volume->segments[0].extent_count = static_cast<std::uint32_t>(data->extent_count());
    std::swap(TRY(find(changed, pool.metadata_volume))->segments, spare->segments);
    group = std::move(changed);
    return {};
}

// --- Thin pools and volumes ------------------------------------------------------------------------------------------------

Result<ThinId> create_thin(VolumeGroup& group, const NewVolume& volume, std::string_view pool, std::uint32_t extents) {
    return add_thin(group, volume, pool, extents, "", false);
}

Result<ThinId> create_thin_snapshot(VolumeGroup& group, const NewVolume& volume, std::string_view origin_name, bool skip_activation) {
    const LogicalVolume* origin = TRY(find_thin(group, origin_name));
    const Thin thin = *origin->sole<Thin>();
    const ThinId id = TRY(
        add_thin(group, volume, thin.pool, static_cast<std::uint32_t>(origin->extent_count()), std::string(origin_name), skip_activation));
    group.logical_volume(volume.name)->sole<Thin>()->external_origin = thin.external_origin;
    return id;
}

Result<void> forget_messages(VolumeGroup& group, std::string_view pool) {
    TRY(find_pool(group, pool))->sole<ThinPool>()->messages.clear();
    return {};
}

Result<void> withdraw_messages(VolumeGroup& group, std::string_view name) {
    ThinPool* pool = TRY(find_pool(group, name))->sole<ThinPool>();
    if (std::ranges::any_of(pool->messages, [](const ThinMessage& message) { return message.create.empty(); }))
        return fail(ErrorKind::refused, "thin pool {}/{} has a deletion queued, which can't be taken back", group.name, name);
    if (pool->messages.empty())
        return {};
    const std::vector<ThinMessage> messages = std::move(pool->messages);
    pool->messages.clear();
    --pool->transaction_id;
    for (const ThinMessage& message : messages)
        erase_volume(group, message.create);
    return {};
}

Result<void> resize_thin(VolumeGroup& group, std::string_view name, std::uint32_t extents) {
    LogicalVolume* volume = TRY(find_thin(group, name));
    if (extents == 0)
        return fail(ErrorKind::usage, "{}/{}: a thin volume of no size", group.name, name);
    volume->segments[0].extent_count = extents;
    return {};
}

namespace {

Result<void> remove_thin(VolumeGroup& group, const LogicalVolume& volume) {
    const Thin thin = *volume.sole<Thin>();
    LogicalVolume* pool_volume = TRY(find_pool(group, thin.pool));
    ThinPool& pool = *pool_volume->sole<ThinPool>();
    if (std::ranges::find(pool.messages, volume.name, &ThinMessage::create) != pool.messages.end())
        return fail(ErrorKind::refused, "{}/{} is still queued to be created in its pool", group.name, volume.name);
    for (const LogicalVolume& other : group.logical_volumes)
        if (const Thin* user = other.sole<Thin>(); user && user->merging_into == volume.name)
            return fail(ErrorKind::refused, "{} is being merged into {}/{}", other.name, group.name, volume.name);
    for (LogicalVolume& other : group.logical_volumes)
        if (Thin* snapshot = other.sole<Thin>(); snapshot && snapshot->origin == volume.name)
            snapshot->origin.clear();
    queue_message(pool, {"", thin.device_id});
    erase_volume(group, volume.name);
    return {};
}

Result<void> remove_pool(VolumeGroup& group, const LogicalVolume& volume) {
    const ThinPool pool = *volume.sole<ThinPool>();
    for (const LogicalVolume& other : group.logical_volumes)
        if (const Thin* thin = other.sole<Thin>(); thin && thin->pool == volume.name)
            return fail(ErrorKind::refused, "thin pool {}/{} still holds {}", group.name, volume.name, other.name);
    for (const std::string* part : {&pool.metadata_volume, &pool.data_volume})
        if (const LogicalVolume* found = group.logical_volume(*part))
            TRY(check_not_opaque(group, *found));
    erase_volume(group, volume.name);
    erase_volume(group, pool.metadata_volume);
    erase_volume(group, pool.data_volume);
    // Pools of other types may count on the spare.
    const bool pools_left = std::ranges::any_of(group.logical_volumes, [](const LogicalVolume& other) {
        return other.sole<ThinPool>() ||
               std::ranges::any_of(other.segments, [](const Segment& segment) { return segment.type.starts_with("cache"); });
    });
    const LogicalVolume* spare = find_spare(group);
    if (spare && !pools_left)
        erase_volume(group, spare->name);
    return {};
}

}  // namespace

Result<void> remove_volume(VolumeGroup& group, std::string_view name) {
    const LogicalVolume volume = *TRY(find(group, name));
    TRY(check_not_used(group, volume));
    if (volume.sole<Thin>())
        return remove_thin(group, volume);
    if (volume.sole<ThinPool>())
        return remove_pool(group, volume);
    if (volume.sole<ClassicSnapshot>())
        return fail(ErrorKind::unsupported, "{}/{} belongs to a classic snapshot", group.name, name);
    erase_volume(group, volume.name);
    return {};
}

Result<void> rename_volume(VolumeGroup& group, std::string_view old_name, std::string_view new_name) {
    LogicalVolume* volume = TRY(find(group, old_name));
    TRY(check_new(group, {std::string(new_name), {}, false, {}}));
    TRY(check_not_opaque(group, *volume));
    if (!volume->visible() && check_volume_name(group.name, volume->name).has_value() == false)
        return fail(ErrorKind::refused, "{}/{} is named after the volume that it is a part of", group.name, old_name);
    std::map<std::string, std::string> names = {{volume->name, std::string(new_name)}};
    if (const ThinPool* pool = volume->sole<ThinPool>()) {
        TRY(check_pool_name(group.name, new_name));
        for (const std::string* part : {&pool->metadata_volume, &pool->data_volume}) {
            const LogicalVolume* found = TRY(find(group, *part));
            TRY(check_not_opaque(group, *found));
            if (!part->starts_with(volume->name + "_"))
                continue;
            std::string renamed = std::string(new_name) + part->substr(volume->name.size());
            if (group.logical_volume(renamed))
                return fail(ErrorKind::exists, "group {} has a volume {} already", group.name, renamed);
            names.emplace(*part, std::move(renamed));
        }
    }
    const auto rename = [&](std::string& name) {
        if (const auto found = names.find(name); found != names.end())
            name = found->second;
    };
    for (LogicalVolume& other : group.logical_volumes) {
        rename(other.name);
        visit_references(other, rename);
    }
    return {};
}

// --- Attributes ------------------------------------------------------------------------------------------------------------

Result<void> add_tag(VolumeGroup& group, std::string_view volume, std::string_view tag) {
    TRY(check_tag(tag));
    Words* tags = tags_of(group, volume);
    if (!tags)
        return fail(ErrorKind::not_found, "group {} has no logical volume {}", group.name, volume);
    if (has(*tags, tag))
        return fail(ErrorKind::exists, "{}{}{} carries the tag {} already", group.name, volume.empty() ? "" : "/", volume, tag);
    tags->push_back(std::string(tag));
    return {};
}

Result<void> remove_tag(VolumeGroup& group, std::string_view volume, std::string_view tag) {
    Words* tags = tags_of(group, volume);
    if (!tags)
        return fail(ErrorKind::not_found, "group {} has no logical volume {}", group.name, volume);
    if (std::erase(*tags, tag) == 0)
        return fail(ErrorKind::not_found, "{}{}{} carries no tag {}", group.name, volume.empty() ? "" : "/", volume, tag);
    return {};
}

Result<void> set_skip_activation(VolumeGroup& group, std::string_view volume, bool skip) {
    set_word(TRY(find(group, volume))->flags, flag_order, "ACTIVATION_SKIP", skip);
    return {};
}

Result<void> set_read_only(VolumeGroup& group, std::string_view name, bool read_only) {
    LogicalVolume* volume = TRY(find(group, name));
    TRY(check_not_used(group, *volume));
    if (volume->sole<ThinPool>())
        return fail(ErrorKind::usage, "{}/{} is a thin pool", group.name, name);
    set_word(volume->status, status_order, "WRITE", !read_only);
    return {};
}

Result<void> set_pool_options(VolumeGroup& group, std::string_view name, Discards discards, bool zero_new_blocks, bool error_when_full) {
    LogicalVolume* volume = TRY(find_pool(group, name));
    ThinPool& pool = *volume->sole<ThinPool>();
    pool.discards = discards;
    pool.zero_new_blocks = zero_new_blocks;
    set_word(volume->flags, flag_order, "ERROR_WHEN_FULL", error_when_full);
    return {};
}

Result<void> merge_thin_snapshot(VolumeGroup& group, std::string_view name) {
    LogicalVolume* snapshot = TRY(find_thin(group, name));
    const std::string snapshot_name = snapshot->name;
    const std::string origin_name = snapshot->sole<Thin>()->origin;
    if (origin_name.empty())
        return fail(ErrorKind::usage, "{}/{} has no origin to be merged into", group.name, name);
    LogicalVolume* origin = TRY(find_thin(group, origin_name));
    TRY(check_not_used(group, *origin));
    TRY(check_not_used(group, *snapshot));
    const Thin& origin_thin = *origin->sole<Thin>();
    for (const LogicalVolume& other : group.logical_volumes)
        if (const Thin* thin = other.sole<Thin>(); thin && &other != snapshot && thin->merging_into == origin_name)
            return fail(ErrorKind::refused, "{} is being merged into {}/{} already", other.name, group.name, origin_name);
    LogicalVolume* pool_volume = TRY(find_pool(group, origin_thin.pool));
    ThinPool& pool = *pool_volume->sole<ThinPool>();
    for (const std::string* one : {&snapshot_name, &origin_name})
        if (std::ranges::find(pool.messages, *one, &ThinMessage::create) != pool.messages.end())
            return fail(ErrorKind::refused, "{}/{} is still queued to be created in its pool", group.name, *one);

    queue_message(pool, {"", origin_thin.device_id});
    for (LogicalVolume& other : group.logical_volumes)
        if (Thin* thin = other.sole<Thin>()) {
            if (thin->origin == origin_name)
                thin->origin.clear();
            else if (thin->origin == snapshot_name)
                thin->origin = origin_name;
        }
    // Everything but the segment is the origin's from now on.
    std::vector<Segment> segments = std::move(snapshot->segments);
    segments[0].as<Thin>()->merging_into.clear();
    *snapshot = *origin;
    snapshot->segments = std::move(segments);
    group.logical_volumes.erase(group.logical_volumes.begin() + (origin - group.logical_volumes.data()));
    return {};
}

}  // namespace lamella::lvm2
