// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <ctime>

#include <sys/utsname.h>

#include "lvm2/group.h"
#include "lvm2/group_text.h"

namespace lamella::lvm2 {

namespace {

// "4 Megabytes", of sectors.
std::string size_comment(std::uint64_t sectors) {
    constexpr std::string_view units[] = {"Kilobytes", "Megabytes", "Gigabytes", "Terabytes", "Petabytes", "Exabytes"};
    double size = static_cast<double>(sectors) / 2;
    std::size_t unit = 0;
    for (; size > 1024 && unit + 1 < std::size(units); ++unit)
        size /= 1024;
    return fmt::format("{:g} {}", size, units[unit]);
}

std::string local_time(std::int64_t seconds, const char* format) {
    const std::time_t time = seconds;
    std::tm broken_down;
    char text[64];
    if (!::localtime_r(&time, &broken_down) || std::strftime(text, sizeof text, format, &broken_down) == 0)
        return {};
    return text;
}

std::string list(const Words& words) {
    std::string text = "[";
    for (const std::string& word : words) {
        if (text.size() > 1)
            text += ", ";
        text += quote(word);
    }
    text += ']';
    return text;
}

// Writes an object's fields in LVM's order. done(KEY) marks where the entries kept behind KEY belong; rest() prints those
// kept behind a key that the object no longer has.
class Fielder {
  public:
    Fielder(TextWriter& writer, const Kept& kept) : writer_(writer), kept_(kept), printed_(kept.size()) { done(""); }

    void done(std::string_view key) {
        for (std::size_t i = 0; i < kept_.size(); ++i)
            if (!printed_[i] && kept_[i].after == key) {
                writer_.entry(kept_[i].entry);
                printed_[i] = true;
            }
    }
    void rest() {
        for (std::size_t i = 0; i < kept_.size(); ++i)
            if (!printed_[i])
                writer_.entry(kept_[i].entry);
    }

    void number(std::string_view key, std::uint64_t value, std::string_view comment = {}) {
        writer_.line(fmt::format("{} = {}", key, value), comment);
        done(key);
    }
    void string(std::string_view key, std::string_view value, std::string_view comment = {}) {
        writer_.line(fmt::format("{} = {}", key, quote(value)), comment);
        done(key);
    }
    void string_unless_empty(std::string_view key, std::string_view value) {
        if (value.empty())
            done(key);
        else
            string(key, value);
    }
    void words(std::string_view key, const Words& words) {
        writer_.line(fmt::format("{} = {}", key, list(words)));
        done(key);
    }
    void words_unless_empty(std::string_view key, const Words& words) {
        if (words.empty())
            done(key);
        else
            this->words(key, words);
    }

  private:
    TextWriter& writer_;
    const Kept& kept_;
    std::vector<bool> printed_;
};

void print_body(TextWriter&, Fielder&, const Opaque&) {}

void print_body(TextWriter& writer, Fielder& fields, const Striped& body) {
    fields.number("stripe_count", body.areas.size(), body.areas.size() == 1 ? "linear" : "");
    if (body.areas.size() > 1)
        fields.number("stripe_size", body.stripe_sectors, size_comment(body.stripe_sectors));
    else
        fields.done("stripe_size");
    std::vector<std::string> areas;
    for (const Area& area : body.areas)
        areas.push_back(fmt::format("{}, {}", quote(area.name), area.first_extent));
    writer.list("stripes", areas);
    fields.done("stripes");
}

void print_body(TextWriter& writer, Fielder& fields, const ThinPool& body) {
    fields.string("metadata", body.metadata_volume);
    fields.string("pool", body.data_volume);
    fields.number("transaction_id", body.transaction_id);
    fields.number("chunk_size", body.chunk_sectors, size_comment(body.chunk_sectors));
    fields.string("discards", to_string(body.discards));
    if (body.zero_new_blocks)
        fields.number("zero_new_blocks", 1);
    else
        fields.done("zero_new_blocks");
    if (body.crop_metadata)
        fields.number("crop_metadata", *body.crop_metadata ? 1 : 0);
    else
        fields.done("crop_metadata");
    for (std::size_t i = 0; i < body.messages.size(); ++i) {
        if (i == 0)
            writer.blank();
        const std::string name = fmt::format("message{}", i + 1);
        writer.open(name);
        if (body.messages[i].create.empty())
            writer.line(fmt::format("delete = {}", body.messages[i].delete_id));
        else
            writer.line(fmt::format("create = {}", quote(body.messages[i].create)));
        writer.close();
        fields.done(name);
    }
}

void print_body(TextWriter&, Fielder& fields, const Thin& body) {
    fields.string("thin_pool", body.pool);
    fields.number("transaction_id", body.transaction_id);
    fields.number("device_id", body.device_id.value());
    fields.string_unless_empty("external_origin", body.external_origin);
    fields.string_unless_empty("origin", body.origin);
    fields.string_unless_empty("merge", body.merging_into);
}

void print_body(TextWriter&, Fielder& fields, const ClassicSnapshot& body) {
    fields.number("chunk_size", body.chunk_sectors);
    fields.string("origin", body.origin);
    fields.string(body.merging ? "merging_store" : "cow_store", body.store);
}

void print_segment(TextWriter& writer, const VolumeGroup& group, const Segment& segment, std::size_t number) {
    writer.open(fmt::format("segment{}", number));
    Fielder fields(writer, segment.kept);
    fields.number("start_extent", segment.start_extent);
    writer.line(fmt::format("extent_count = {}", segment.extent_count),
                size_comment(std::uint64_t(segment.extent_count) * group.extent_sectors));
    writer.blank();
    fields.done("extent_count");
    fields.string("type", segment.type);
    fields.words_unless_empty("tags", segment.tags);
    std::visit([&](const auto& body) { print_body(writer, fields, body); }, segment.body);
    fields.rest();
    writer.close();
}

void print_logical_volume(TextWriter& writer, const VolumeGroup& group, const LogicalVolume& volume) {
    writer.blank();
    writer.open(volume.name);
    Fielder fields(writer, volume.kept);
    fields.string("id", volume.id.dashed());
    fields.words("status", volume.status);
    fields.words("flags", volume.flags);
    fields.words_unless_empty("tags", volume.tags);
    if (volume.creation_time != 0) {
        writer.line(fmt::format("creation_time = {}", volume.creation_time),
                    writer.human() ? local_time(volume.creation_time, "%Y-%m-%d %T %z") : "");
        fields.done("creation_time");
        fields.string("creation_host", volume.creation_host);
    } else {
        fields.done("creation_time");
        fields.done("creation_host");
    }
    fields.string_unless_empty("profile", volume.profile);
    writer.line(fmt::format("segment_count = {}", volume.segments.size()));
    writer.blank();
    fields.done("segment_count");
    for (std::size_t i = 0; i < volume.segments.size(); ++i) {
        print_segment(writer, group, volume.segments[i], i + 1);
        fields.done(fmt::format("segment{}", i + 1));
    }
    fields.rest();
    writer.close();
}

void print_physical_volume(TextWriter& writer, const VolumeGroup& group, const PhysicalVolume& volume) {
    writer.blank();
    writer.open(volume.name);
    Fielder fields(writer, volume.kept);
    fields.string("id", volume.id.dashed());
    writer.line(fmt::format("device = {}", quote(volume.device_hint)), "Hint only");
    writer.blank();
    fields.done("device");
    fields.words("status", volume.status);
    fields.words("flags", volume.flags);
    fields.words_unless_empty("tags", volume.tags);
    fields.number("dev_size", volume.device_sectors, size_comment(volume.device_sectors));
    fields.number("pe_start", volume.data_start_sector);
    fields.number("pe_count", volume.extent_count, size_comment(std::uint64_t(volume.extent_count) * group.extent_sectors));
    fields.rest();
    writer.close();
}

// LVM writes the volumes that it shows before those that it hides. A classic snapshot is shown by the name of its store, though
// the VISIBLE word is on the hidden volume that ties it to its origin.
std::vector<const LogicalVolume*> printing_order(const VolumeGroup& group) {
    std::map<std::string_view, bool> stores;  // name, shown
    for (const LogicalVolume& volume : group.logical_volumes)
        if (const ClassicSnapshot* snapshot = volume.sole<ClassicSnapshot>()) {
            const LogicalVolume* origin = group.logical_volume(snapshot->origin);
            const bool virtual_origin = snapshot->origin.ends_with("_vorigin");
            stores[snapshot->store] = !snapshot->merging && (virtual_origin || (origin && origin->visible()));
        }
    const auto shown = [&](const LogicalVolume& volume) {
        if (volume.sole<ClassicSnapshot>())
            return false;
        const auto store = stores.find(volume.name);
        return store == stores.end() ? volume.visible() : store->second;
    };
    std::vector<const LogicalVolume*> order;
    order.reserve(group.logical_volumes.size());
    for (const LogicalVolume& volume : group.logical_volumes)
        order.push_back(&volume);
    std::ranges::stable_partition(order, [&](const LogicalVolume* volume) { return shown(*volume); });
    return order;
}

void print_around(TextWriter& writer, const VolumeGroup& group) {
    const std::string time = local_time(group.creation_time, "%a %b %e %H:%M:%S %Y");
    writer.line(fmt::format("# Generated by Lamella: {}", time));
    writer.blank();
    Fielder fields(writer, group.kept_around);
    fields.string("contents", text_contents);
    fields.number("version", text_version);
    writer.blank();
    fields.string("description", group.description);
    writer.blank();
    // The two comments below stand in both styles.
    utsname system{};
    std::string host_comment;
    if (::uname(&system) == 0 && group.creation_host == system.nodename)
        host_comment = fmt::format("\t# {} {} {} {} {}", system.sysname, system.nodename, system.release, system.version, system.machine);
    writer.line(fmt::format("creation_host = {}{}", quote(group.creation_host), host_comment));
    fields.done("creation_host");
    fields.string_unless_empty("creation_host_system_id", group.creation_system_id);
    writer.line(fmt::format("creation_time = {}\t# {}", group.creation_time, time));
    fields.done("creation_time");
    fields.rest();
    writer.blank();
}

}  // namespace

std::string print_group(const VolumeGroup& group, TextStyle style) {
    TextWriter writer(style);
    if (style == TextStyle::human)
        print_around(writer, group);
    writer.open(group.name);
    Fielder fields(writer, group.kept);
    fields.string("id", group.id.dashed());
    fields.number("seqno", group.seqno);
    fields.string("format", "lvm2", "informational");
    fields.words("status", group.status);
    fields.words("flags", group.flags);
    fields.words_unless_empty("tags", group.tags);
    fields.string_unless_empty("system_id", group.system_id);
    fields.string_unless_empty("lock_type", group.lock_type);
    fields.number("extent_size", group.extent_sectors, size_comment(group.extent_sectors));
    fields.number("max_lv", group.max_lv);
    fields.number("max_pv", group.max_pv);
    fields.string_unless_empty("profile", group.profile);
    fields.number("metadata_copies", group.metadata_copies);
    writer.blank();
    writer.open("physical_volumes");
    for (const PhysicalVolume& volume : group.physical_volumes)
        print_physical_volume(writer, group, volume);
    writer.close();
    fields.done("physical_volumes");
    writer.blank();
    if (!group.logical_volumes.empty()) {
        writer.open("logical_volumes");
        for (const LogicalVolume* volume : printing_order(group))
            print_logical_volume(writer, group, *volume);
        writer.close();
    }
    writer.blank();
    fields.done("logical_volumes");
    fields.rest();
    writer.close();
    if (style == TextStyle::on_disk)
        print_around(writer, group);
    return std::move(writer).text();
}

}  // namespace lamella::lvm2
