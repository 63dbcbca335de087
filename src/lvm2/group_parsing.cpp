// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <unordered_set>

#include "lvm2/group.h"
#include "lvm2/group_text.h"

namespace lamella::lvm2 {

namespace {

using Subject = Finding::Subject;

// The findings of one object.
class Report {
  public:
    Report(std::vector<Finding>& findings, Subject subject, std::string_view name) : findings_(findings), subject_(subject), name_(name) {}

    template <typename... Args>
    void add(fmt::format_string<Args...> format, Args&&... args) {
        if (findings_.size() < max_findings)
            findings_.push_back({subject_, std::string(name_), where_ + fmt::format(format, std::forward<Args>(args)...)});
    }

    // What comes from now on stands in this part of the object.
    void set_part(std::string_view part) { where_ = part.empty() ? "" : fmt::format("{}: ", part); }

  private:
    std::vector<Finding>& findings_;
    Subject subject_;
    std::string_view name_;
    std::string where_;
};

// Reads typed values out of entries; what doesn't fit is reported and false returned.
class Fields {
  public:
    explicit Fields(Report& report) : report_(report) {}

    template <std::unsigned_integral T>
    bool number(const TextEntry& entry, T& number) {
        const std::int64_t* integer = entry.value() ? entry.value()->integer() : nullptr;
        if (integer == nullptr || *integer < 0 || std::uint64_t(*integer) > std::numeric_limits<T>::max())
            return wrong(entry, "a number of its range");
        number = static_cast<T>(*integer);
        return true;
    }

    bool time(const TextEntry& entry, std::int64_t& seconds) {
        const std::int64_t* integer = entry.value() ? entry.value()->integer() : nullptr;
        if (integer == nullptr)
            return wrong(entry, "a time");
        seconds = *integer;
        return true;
    }

    bool string(const TextEntry& entry, std::string& string) {
        if (!entry.value() || !entry.value()->string())
            return wrong(entry, "a string");
        string = *entry.value()->string();
        return true;
    }

    bool id(const TextEntry& entry, LvmId& id) {
        if (entry.value() && entry.value()->string()) {
            if (auto parsed = LvmId::parse(*entry.value()->string())) {
                id = *parsed;
                return true;
            }
        }
        return wrong(entry, "an identifier");
    }

    bool words(const TextEntry& entry, Words& words) {
        const TextArray* array = entry.value() ? entry.value()->array() : nullptr;
        if (array == nullptr)
            return wrong(entry, "a list of strings");
        words.clear();
        for (const TextValue& value : *array) {
            if (!value.string() || value.string()->empty())
                return wrong(entry, "a list of strings");
            words.push_back(*value.string());
        }
        return true;
    }

  private:
    bool wrong(const TextEntry& entry, std::string_view expected) {
        report_.add("'{:.64}' in line {} is not {}", entry.key, entry.line, expected);
        return false;
    }

    Report& report_;
};

// Collects the entries that nobody claims.
class Keeper {
  public:
    explicit Keeper(Kept& kept) : kept_(kept) {}
    void known(const TextEntry& entry) { last_ = entry.key; }
    void keep(TextEntry&& entry) { kept_.push_back({last_, std::move(entry)}); }

  private:
    Kept& kept_;
    std::string last_;
};

// --- Segments

bool read_areas(const TextEntry& entry, std::vector<Area>& areas) {
    const TextArray* array = entry.value() ? entry.value()->array() : nullptr;
    if (array == nullptr || array->empty() || array->size() % 2 != 0)
        return false;
    areas.clear();
    areas.reserve(array->size() / 2);
    for (std::size_t i = 0; i < array->size(); i += 2) {
        const std::string* name = (*array)[i].string();
        const std::int64_t* extent = (*array)[i + 1].integer();
        if (!name || !extent || *extent < 0 || *extent > std::numeric_limits<std::uint32_t>::max())
            return false;
        areas.push_back({*name, static_cast<std::uint32_t>(*extent)});
    }
    return true;
}

// Each reader of a body says of an entry: claimed, not known (to be kept), or broken (reported).
enum class Claim { known, unknown, broken };

Claim claim(bool good) { return good ? Claim::known : Claim::broken; }

Claim read_entry(Striped& body, const TextEntry& entry, Fields& fields, Report& report) {
    if (entry.key == "stripe_size")
        return claim(fields.number(entry, body.stripe_sectors));
    if (entry.key == "stripe_count") {
        std::uint32_t count;
        return claim(fields.number(entry, count));  // compared with the list in finish()
    }
    if (entry.key == "stripes") {
        if (!read_areas(entry, body.areas)) {
            report.add("'stripes' in line {} is not a list of volumes and extents", entry.line);
            return Claim::broken;
        }
        return Claim::known;
    }
    return Claim::unknown;
}

bool finish(Striped& body, const TextSection& section, Report& report) {
    const TextValue* count = section.value("stripe_count");
    if (body.areas.empty() || !count || !count->integer() || std::uint64_t(*count->integer()) != body.areas.size()) {
        report.add("the number of stripes is not that of the list of stripes");
        return false;
    }
    return true;
}

bool read_message(const TextSection& section, ThinMessage& message) {
    if (section.entries.size() != 1)
        return false;
    const TextEntry& entry = section.entries[0];
    if (!entry.value())
        return false;
    if (entry.key == "create" && entry.value()->string()) {
        message.create = *entry.value()->string();
        return !message.create.empty();
    }
    const std::int64_t* id = entry.value()->integer();
    if (entry.key != "delete" || !id || *id < 0 || *id > std::numeric_limits<std::uint32_t>::max())
        return false;
    message.delete_id = ThinId(static_cast<std::uint32_t>(*id));
    return true;
}

Claim read_entry(ThinPool& body, const TextEntry& entry, Fields& fields, Report& report) {
    if (entry.key == "metadata")
        return claim(fields.string(entry, body.metadata_volume));
    if (entry.key == "pool")
        return claim(fields.string(entry, body.data_volume));
    if (entry.key == "transaction_id")
        return claim(fields.number(entry, body.transaction_id));
    if (entry.key == "chunk_size")
        return claim(fields.number(entry, body.chunk_sectors));
    if (entry.key == "discards") {
        std::string word;
        if (!fields.string(entry, word))
            return Claim::broken;
        for (Discards discards : {Discards::passdown, Discards::nopassdown, Discards::ignore})
            if (word == to_string(discards)) {
                body.discards = discards;
                return Claim::known;
            }
        report.add("'{:.64}' is not a way to treat discards", word);
        return Claim::broken;
    }
    if (entry.key == "zero_new_blocks" || entry.key == "crop_metadata") {
        std::uint32_t number;
        if (!fields.number(entry, number))
            return Claim::broken;
        if (entry.key == "crop_metadata")
            body.crop_metadata = number != 0;
        else
            body.zero_new_blocks = number != 0;
        return Claim::known;
    }
    if (entry.section()) {
        ThinMessage message;
        if (!entry.key.starts_with("message") || !read_message(*entry.section(), message)) {
            report.add("'{:.64}' in line {} is not a message of a thin pool", entry.key, entry.line);
            return Claim::broken;
        }
        body.messages.push_back(std::move(message));
        return Claim::known;
    }
    return Claim::unknown;
}

bool finish(ThinPool& body, const TextSection& section, Report& report) {
    for (std::string_view key : {"metadata", "pool", "transaction_id", "chunk_size"})
        if (!section.value(key)) {
            report.add("'{}' is missing", key);
            return false;
        }
    // What LVM assumes where the text doesn't say.
    if (!section.value("discards"))
        body.discards = Discards::ignore;
    if (!section.value("zero_new_blocks"))
        body.zero_new_blocks = false;
    return true;
}

Claim read_entry(Thin& body, const TextEntry& entry, Fields& fields, Report&) {
    if (entry.key == "thin_pool")
        return claim(fields.string(entry, body.pool));
    if (entry.key == "transaction_id")
        return claim(fields.number(entry, body.transaction_id));
    if (entry.key == "device_id") {
        std::uint32_t id;
        if (!fields.number(entry, id))
            return Claim::broken;
        body.device_id = ThinId(id);
        return Claim::known;
    }
    if (entry.key == "external_origin")
        return claim(fields.string(entry, body.external_origin));
    if (entry.key == "origin")
        return claim(fields.string(entry, body.origin));
    if (entry.key == "merge")
        return claim(fields.string(entry, body.merging_into));
    return Claim::unknown;
}

bool finish(Thin&, const TextSection& section, Report& report) {
    for (std::string_view key : {"thin_pool", "transaction_id", "device_id"})
        if (!section.value(key)) {
            report.add("'{}' is missing", key);
            return false;
        }
    return true;
}

Claim read_entry(ClassicSnapshot& body, const TextEntry& entry, Fields& fields, Report&) {
    if (entry.key == "chunk_size")
        return claim(fields.number(entry, body.chunk_sectors));
    if (entry.key == "origin")
        return claim(fields.string(entry, body.origin));
    if (entry.key == "cow_store" || entry.key == "merging_store") {
        body.merging = entry.key == "merging_store";
        return claim(fields.string(entry, body.store));
    }
    return Claim::unknown;
}

bool finish(ClassicSnapshot& body, const TextSection&, Report& report) {
    if (body.origin.empty() || body.store.empty()) {
        report.add("a snapshot without an origin or a store");
        return false;
    }
    return true;
}

bool is_common_key(std::string_view key) { return key == "start_extent" || key == "extent_count" || key == "type" || key == "tags"; }

// Types the segment as `Body`, moving what nobody claims to segment.kept. False, with nothing moved: it is no such body.
template <typename Body>
bool read_body(Segment& segment, TextSection& section, Report& report) {
    Fields fields(report);
    Body body;
    std::vector<bool> unknown(section.entries.size());
    for (std::size_t i = 0; i < section.entries.size(); ++i) {
        const TextEntry& entry = section.entries[i];
        if (is_common_key(entry.key))
            continue;
        const Claim answer = read_entry(body, entry, fields, report);
        if (answer == Claim::broken)
            return false;
        unknown[i] = answer == Claim::unknown;
    }
    if (!finish(body, section, report))
        return false;
    Keeper keeper(segment.kept);
    for (std::size_t i = 0; i < section.entries.size(); ++i) {
        if (unknown[i])
            keeper.keep(std::move(section.entries[i]));
        else
            keeper.known(section.entries[i]);
    }
    segment.body = std::move(body);
    return true;
}

void collect_strings(const TextSection& section, Words& names) {
    for (const TextEntry& entry : section.entries) {
        if (entry.section()) {
            collect_strings(*entry.section(), names);
        } else if (const std::string* string = entry.value()->string()) {
            names.push_back(*string);
        } else if (const TextArray* array = entry.value()->array()) {
            for (const TextValue& value : *array)
                if (value.string())
                    names.push_back(*value.string());
        }
    }
}

void read_opaque(Segment& segment, TextSection& section) {
    Opaque body;
    Keeper keeper(segment.kept);
    TextSection kept;
    for (TextEntry& entry : section.entries) {
        if (is_common_key(entry.key))
            keeper.known(entry);
        else
            keeper.keep(std::move(entry));
    }
    for (const KeptEntry& entry : segment.kept)
        kept.entries.push_back(entry.entry);
    collect_strings(kept, body.names);
    segment.body = std::move(body);
}

Segment read_segment(TextSection& section, Report& report) {
    Segment segment;
    Fields fields(report);
    bool sized[2] = {};
    for (const TextEntry& entry : section.entries) {
        if (entry.key == "start_extent")
            sized[0] = fields.number(entry, segment.start_extent);
        else if (entry.key == "extent_count")
            sized[1] = fields.number(entry, segment.extent_count);
        else if (entry.key == "type")
            fields.string(entry, segment.type);
        else if (entry.key == "tags")
            fields.words(entry, segment.tags);
    }
    if (!sized[0] || !sized[1] || segment.type.empty())
        report.add("without a start, a count of extents or a type");

    bool typed = false;
    if (segment.type == "striped" || segment.type == "linear")
        typed = read_body<Striped>(segment, section, report);
    else if (segment.type == "thin-pool" || segment.type == "thin-pool+CROP_METADATA")
        typed = read_body<ThinPool>(segment, section, report);
    else if (segment.type == "thin")
        typed = read_body<Thin>(segment, section, report);
    else if (segment.type == "snapshot")
        typed = read_body<ClassicSnapshot>(segment, section, report);
    if (!typed)
        read_opaque(segment, section);
    return segment;
}

// --- Volumes

PhysicalVolume read_physical_volume(TextEntry& entry, std::vector<Finding>& findings) {
    PhysicalVolume volume;
    volume.name = entry.key;
    Report report(findings, Subject::physical_volume, volume.name);
    if (!entry.section()) {
        report.add("not a section");
        return volume;
    }
    Fields fields(report);
    Keeper keeper(volume.kept);
    unsigned seen = 0;  // bits: id, device size, start, count
    for (TextEntry& field : std::get<TextSection>(entry.content).entries) {
        if (field.key == "id")
            seen |= fields.id(field, volume.id) ? 1 : 0;
        else if (field.key == "device")
            fields.string(field, volume.device_hint);
        else if (field.key == "status")
            fields.words(field, volume.status);
        else if (field.key == "flags")
            fields.words(field, volume.flags);
        else if (field.key == "tags")
            fields.words(field, volume.tags);
        else if (field.key == "dev_size")
            fields.number(field, volume.device_sectors);
        else if (field.key == "pe_start")
            seen |= fields.number(field, volume.data_start_sector) ? 2 : 0;
        else if (field.key == "pe_count")
            seen |= fields.number(field, volume.extent_count) ? 4 : 0;
        else {
            keeper.keep(std::move(field));
            continue;
        }
        keeper.known(field);
    }
    if (seen != 7)
        report.add("without an id, a start or a count of extents");
    return volume;
}

LogicalVolume read_logical_volume(TextEntry& entry, std::vector<Finding>& findings) {
    LogicalVolume volume;
    volume.name = entry.key;
    Report report(findings, Subject::logical_volume, volume.name);
    if (!entry.section()) {
        report.add("not a section");
        return volume;
    }
    Fields fields(report);
    Keeper keeper(volume.kept);
    bool identified = false;
    std::uint32_t segment_count = 0;
    for (TextEntry& field : std::get<TextSection>(entry.content).entries) {
        if (field.key == "id")
            identified = fields.id(field, volume.id);
        else if (field.key == "status")
            fields.words(field, volume.status);
        else if (field.key == "flags")
            fields.words(field, volume.flags);
        else if (field.key == "tags")
            fields.words(field, volume.tags);
        else if (field.key == "creation_time")
            fields.time(field, volume.creation_time);
        else if (field.key == "creation_host")
            fields.string(field, volume.creation_host);
        else if (field.key == "profile")
            fields.string(field, volume.profile);
        else if (field.key == "segment_count")
            fields.number(field, segment_count);
        else if (field.section() && field.key.starts_with("segment")) {
            report.set_part(fmt::format("{:.32}", field.key));
            volume.segments.push_back(read_segment(std::get<TextSection>(field.content), report));
            report.set_part({});
        } else {
            keeper.keep(std::move(field));
            continue;
        }
        keeper.known(field);
    }
    if (!identified)
        report.add("without an id");
    if (segment_count != volume.segments.size())
        report.add("{} segments, but {} announced", volume.segments.size(), segment_count);
    std::ranges::stable_sort(volume.segments, {}, &Segment::start_extent);
    return volume;
}

void read_group(VolumeGroup& group, TextEntry& root, std::vector<Finding>& findings) {
    group.name = root.key;
    Report report(findings, Subject::group, {});
    Fields fields(report);
    Keeper keeper(group.kept);
    unsigned seen = 0;  // bits: id, seqno, extent size
    for (TextEntry& field : std::get<TextSection>(root.content).entries) {
        if (field.key == "id")
            seen |= fields.id(field, group.id) ? 1 : 0;
        else if (field.key == "seqno")
            seen |= fields.number(field, group.seqno) ? 2 : 0;
        else if (field.key == "format") {
            std::string format;
            if (fields.string(field, format) && format != "lvm2")
                report.add("format '{:.32}' where 'lvm2' is expected", format);
        } else if (field.key == "status")
            fields.words(field, group.status);
        else if (field.key == "flags")
            fields.words(field, group.flags);
        else if (field.key == "tags")
            fields.words(field, group.tags);
        else if (field.key == "system_id")
            fields.string(field, group.system_id);
        else if (field.key == "lock_type")
            fields.string(field, group.lock_type);
        else if (field.key == "extent_size")
            seen |= fields.number(field, group.extent_sectors) ? 4 : 0;
        else if (field.key == "max_lv")
            fields.number(field, group.max_lv);
        else if (field.key == "max_pv")
            fields.number(field, group.max_pv);
        else if (field.key == "profile")
            fields.string(field, group.profile);
        else if (field.key == "metadata_copies")
            fields.number(field, group.metadata_copies);
        else if (field.key == "physical_volumes" && field.section()) {
            for (TextEntry& entry : std::get<TextSection>(field.content).entries)
                group.physical_volumes.push_back(read_physical_volume(entry, findings));
        } else if (field.key == "logical_volumes" && field.section()) {
            auto& entries = std::get<TextSection>(field.content).entries;
            group.logical_volumes.reserve(entries.size());
            for (TextEntry& entry : entries)
                group.logical_volumes.push_back(read_logical_volume(entry, findings));
        } else {
            keeper.keep(std::move(field));
            continue;
        }
        keeper.known(field);
    }
    if (seen != 7)
        report.add("without an id, a seqno or an extent size");
}

// Of the strings in an opaque segment only those that name a volume matter.
void resolve_opaque_names(VolumeGroup& group) {
    std::unordered_set<std::string_view> names;
    for (const PhysicalVolume& volume : group.physical_volumes)
        names.insert(volume.name);
    for (const LogicalVolume& volume : group.logical_volumes)
        names.insert(volume.name);
    for (LogicalVolume& volume : group.logical_volumes)
        for (Segment& segment : volume.segments)
            if (Opaque* opaque = segment.as<Opaque>())
                std::erase_if(opaque->names, [&](const std::string& name) { return !names.contains(name); });
}

}  // namespace

Result<ParsedGroup> parse_group(std::string_view text) {
    TextSection root = TRY(parse_text(text));
    const TextValue* contents = root.value("contents");
    if (!contents || !contents->string() || *contents->string() != text_contents)
        return fail(ErrorKind::damaged, "the text is not that of a volume group: 'contents' is not \"{}\"", text_contents);
    const TextValue* version = root.value("version");
    if (!version || !version->integer() || *version->integer() != text_version)
        return fail(ErrorKind::damaged, "the text of the volume group has a version other than {}", text_version);

    ParsedGroup parsed;
    VolumeGroup& group = parsed.group;
    Report report(parsed.findings, Subject::group, {});
    Fields fields(report);
    Keeper keeper(group.kept_around);
    bool found = false;
    for (TextEntry& entry : root.entries) {
        if (entry.section() && !found) {
            found = true;
            read_group(group, entry, parsed.findings);
        } else if (entry.key == "description") {
            fields.string(entry, group.description);
        } else if (entry.key == "creation_host") {
            fields.string(entry, group.creation_host);
        } else if (entry.key == "creation_host_system_id") {
            fields.string(entry, group.creation_system_id);
        } else if (entry.key == "creation_time") {
            fields.time(entry, group.creation_time);
        } else if (entry.key != "contents" && entry.key != "version") {
            keeper.keep(std::move(entry));
            continue;
        }
        keeper.known(entry);
    }
    if (!found)
        return fail(ErrorKind::damaged, "the text holds no volume group");
    resolve_opaque_names(group);
    for (Finding& finding : check(group))
        if (parsed.findings.size() < max_findings)
            parsed.findings.push_back(std::move(finding));
    return parsed;
}

}  // namespace lamella::lvm2
