// SPDX-License-Identifier: Apache-2.0
#include "host/lvm_report.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <unordered_map>

#include <nlohmann/json.hpp>

namespace lamella::host {

namespace {

using Json = nlohmann::json;

constexpr std::size_t max_depth = 8;
constexpr std::size_t max_members = 1000;  // of an object
constexpr std::size_t max_rows = 1'000'000;

Result<Json> parse(std::string_view text) {
    struct TooBig {};
    std::array<std::size_t, max_depth + 1> members{};
    std::size_t objects = 0;
    const auto limit = [&](int depth, Json::parse_event_t event, Json&) {
        const auto at = static_cast<std::size_t>(depth);
        if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
            if (at >= max_depth || ++objects > max_rows)
                throw TooBig();
            members[at + 1] = 0;
        } else if (event == Json::parse_event_t::key && ++members[at] > max_members) {
            throw TooBig();
        }
        return true;
    };
    try {
        return Json::parse(text, limit);
    } catch (const TooBig&) {
        return fail(ErrorKind::damaged, "LVM's report nests too deep or has too many rows");
    } catch (const Json::exception& error) {
        // The text of the exception quotes the input; its number and place say enough.
        return fail(ErrorKind::damaged, "LVM's report is not JSON (error {})", error.id);
    }
}

// One row of a report: a value is a string in the one dialect, anything in the other.
class Row {
  public:
    Row(const Json& object, std::string_view kind) : object_(object), kind_(kind) {}

    // Empty where there is none.
    std::string text(const char* field) const {
        const Json* value = find(field);
        if (value == nullptr)
            return {};
        if (value->is_string())
            return value->get_ref<const std::string&>();
        return value->is_number() || value->is_boolean() ? value->dump() : std::string();
    }
    // None where it is empty, null or not there. Errors: damaged.
    template <typename Integer>
    Result<std::optional<Integer>> number(const char* field) const {
        const Json* value = find(field);
        if (value == nullptr || value->is_null())
            return std::nullopt;
        const std::string word = text(field);
        if (word.empty() && value->is_string())
            return std::nullopt;
        Integer number{};
        const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
        if (word.empty() || error != std::errc() || end != word.data() + word.size())
            return fail(ErrorKind::damaged, "LVM's report: {} of a row of {} is no whole number", field, kind_);
        return number;
    }
    Result<std::uint64_t> needed(const char* field) const {
        const auto value = TRY(number<std::uint64_t>(field));
        if (!value)
            return fail(ErrorKind::damaged, "LVM's report: a row of {} has no {}", kind_, field);
        return *value;
    }
    Result<std::string> needed_text(const char* field) const {
        std::string value = text(field);
        if (value.empty())
            return fail(ErrorKind::damaged, "LVM's report: a row of {} has no {}", kind_, field);
        return value;
    }
    // 1, 0; none for -1, which is LVM's "unknown" or "not applicable". Words are what versions print that don't know the setting for
    // numbers: any but "" and "unknown" means yes.
    std::optional<bool> flag(const char* field) const {
        const Json* value = find(field);
        if (value == nullptr || value->is_null())
            return std::nullopt;
        const std::string word = text(field);
        if (word == "-1" || word == "unknown")
            return std::nullopt;
        return !word.empty() && word != "0" && word != "false";
    }
    std::vector<std::string> list(const char* field, char separator = ',') const {
        std::vector<std::string> words;
        const Json* value = find(field);
        if (value != nullptr && value->is_array()) {
            for (const Json& item : *value)
                if (item.is_string())
                    words.push_back(item.get<std::string>());
            return words;
        }
        const std::string all = text(field);
        for (std::size_t begin = 0; begin < all.size();) {
            const std::size_t end = std::min(all.find(separator, begin), all.size());
            if (end > begin)
                words.push_back(all.substr(begin, end - begin));
            begin = end + 1;
        }
        return words;
    }

  private:
    const Json* find(const char* field) const {
        const auto found = object_.find(field);
        return found == object_.end() ? nullptr : &*found;
    }

    const Json& object_;
    std::string_view kind_;
};

bool is_bracketed(std::string_view name) { return name.size() > 2 && name.front() == '[' && name.back() == ']'; }

std::string without_brackets(std::string name) { return is_bracketed(name) ? name.substr(1, name.size() - 2) : name; }

constexpr const char* group_fields =
    "vg_name,vg_uuid,vg_seqno,vg_extent_size,vg_extent_count,vg_free_count,vg_systemid,vg_lock_type,vg_lock_args,vg_tags,vg_exported,vg_"
    "partial,"
    "vg_missing_pv_count,vg_permissions";
constexpr const char* physical_fields = "pv_name,pv_uuid,pv_pe_count,pv_pe_alloc_count,pv_tags,pv_missing";
constexpr const char* volume_fields =
    "lv_uuid,lv_name,lv_size,lv_attr,lv_role,lv_layout,lv_tags,lv_time,lv_host,lv_skip_activation,pool_lv,origin,data_lv,metadata_lv,"
    "lv_metadata_size,origin_size,lv_when_full,lv_health_status,lv_merging,lv_merge_failed,lv_snapshot_invalid,lv_check_needed,"
    "lv_profile,kernel_discards";
constexpr const char* segment_fields =
    "lv_uuid,segtype,seg_start,seg_size,stripes,stripe_size,chunk_size,thin_id,transaction_id,zero,discards,seg_monitor,seg_pe_ranges";

Result<void> read_group(const Row& row, LvmGroup& group) {
    group.id = TRY(row.needed_text("vg_uuid"));
    group.name = TRY(row.needed_text("vg_name"));
    group.sequence_number = TRY(row.needed("vg_seqno"));
    group.extent_size = TRY(row.needed("vg_extent_size"));
    group.extents = TRY(row.needed("vg_extent_count"));
    group.free_extents = TRY(row.needed("vg_free_count"));
    group.system_id = row.text("vg_systemid");
    group.lock_type = row.text("vg_lock_type");
    group.lock_arguments = row.text("vg_lock_args");
    group.tags = row.list("vg_tags");
    group.exported = row.flag("vg_exported").value_or(false);
    group.partial = row.flag("vg_partial").value_or(false);
    group.writable = row.text("vg_permissions") != "read-only";
    group.missing_physical_volumes = TRY(row.number<std::uint64_t>("vg_missing_pv_count")).value_or(0);
    if (group.extent_size == 0 || group.free_extents > group.extents || group.extents > UINT64_MAX / group.extent_size)
        return fail(ErrorKind::damaged, "LVM's report: the extents of the group can't be");
    return {};
}

Result<LvmPhysicalVolume> read_physical_volume(const Row& row) {
    LvmPhysicalVolume volume;
    volume.id = TRY(row.needed_text("pv_uuid"));
    volume.device = row.text("pv_name");
    volume.extents = TRY(row.number<std::uint64_t>("pv_pe_count")).value_or(0);
    volume.allocated_extents = TRY(row.number<std::uint64_t>("pv_pe_alloc_count")).value_or(0);
    volume.tags = row.list("pv_tags");
    volume.missing = row.flag("pv_missing").value_or(false);
    return volume;
}

Result<LvmVolume> read_volume(const Row& row) {
    LvmVolume volume;
    volume.id = TRY(row.needed_text("lv_uuid"));
    volume.name = TRY(row.needed_text("lv_name"));
    volume.hidden = is_bracketed(volume.name);
    volume.name = without_brackets(volume.name);
    volume.size = TRY(row.needed("lv_size"));
    volume.attributes = row.text("lv_attr");
    volume.roles = row.list("lv_role");
    volume.layout = row.list("lv_layout");
    volume.tags = row.list("lv_tags");
    volume.creation_time = TRY(row.number<std::int64_t>("lv_time"));
    volume.creation_host = row.text("lv_host");
    volume.pool = without_brackets(row.text("pool_lv"));
    volume.origin = without_brackets(row.text("origin"));
    volume.data = without_brackets(row.text("data_lv"));
    volume.metadata = without_brackets(row.text("metadata_lv"));
    volume.metadata_size = TRY(row.number<std::uint64_t>("lv_metadata_size"));
    volume.origin_size = TRY(row.number<std::uint64_t>("origin_size"));
    volume.when_full = row.text("lv_when_full");
    volume.health = row.text("lv_health_status");
    volume.kernel_discards = row.text("kernel_discards");
    volume.profile = row.text("lv_profile");
    volume.merging = row.flag("lv_merging");
    volume.merge_failed = row.flag("lv_merge_failed");
    volume.snapshot_invalid = row.flag("lv_snapshot_invalid");
    volume.check_needed = row.flag("lv_check_needed");
    volume.skip_activation = row.flag("lv_skip_activation");
    return volume;
}

Result<LvmSegment> read_segment(const Row& row) {
    LvmSegment segment;
    segment.type = row.text("segtype");
    segment.start = TRY(row.number<std::uint64_t>("seg_start")).value_or(0);
    segment.size = TRY(row.number<std::uint64_t>("seg_size")).value_or(0);
    segment.stripes = TRY(row.number<std::uint64_t>("stripes"));
    segment.stripe_size = TRY(row.number<std::uint64_t>("stripe_size"));
    segment.chunk_size = TRY(row.number<std::uint64_t>("chunk_size"));
    segment.thin_id = TRY(row.number<std::uint64_t>("thin_id"));
    segment.transaction_id = TRY(row.number<std::uint64_t>("transaction_id"));
    segment.zero = row.flag("zero");
    segment.discards = row.text("discards");
    segment.monitoring = row.text("seg_monitor");
    segment.pe_ranges = row.list("seg_pe_ranges", ' ');
    return segment;
}

// The rows of a section; none where there is no such section.
Result<std::vector<const Json*>> rows(const Json& report, const char* section) {
    std::vector<const Json*> all;
    const auto found = report.find(section);
    if (found == report.end())
        return all;
    if (!found->is_array())
        return fail(ErrorKind::damaged, "LVM's report: \"{}\" is no list", section);
    for (const Json& row : *found) {
        if (!row.is_object())
            return fail(ErrorKind::damaged, "LVM's report: \"{}\" has something that is no row", section);
        if (!row.empty())  // fields of no interest were left out
            all.push_back(&row);
    }
    return all;
}

Result<LvmGroup> read_one(const Json& report) {
    LvmGroup group;
    const auto groups = TRY(rows(report, "vg"));
    if (groups.size() != 1)
        return fail(ErrorKind::damaged, "LVM's report tells of {} groups at once", groups.size());
    TRY(read_group(Row(*groups.front(), "vg"), group));
    for (const Json* row : TRY(rows(report, "pv")))
        group.physical_volumes.push_back(TRY(read_physical_volume(Row(*row, "pv"))));
    std::unordered_map<std::string, std::size_t> by_id;
    for (const Json* row : TRY(rows(report, "lv"))) {
        LvmVolume volume = TRY(read_volume(Row(*row, "lv")));
        if (!by_id.emplace(volume.id, group.volumes.size()).second)
            return fail(ErrorKind::damaged, "LVM's report has volume {} twice", volume.id);
        group.volumes.push_back(std::move(volume));
    }
    for (const Json* row : TRY(rows(report, "seg"))) {
        const Row segment(*row, "seg");
        const auto volume = by_id.find(TRY(segment.needed_text("lv_uuid")));
        if (volume == by_id.end())
            return fail(ErrorKind::damaged, "LVM's report has a segment of no volume");
        group.volumes[volume->second].segments.push_back(TRY(read_segment(segment)));
    }
    for (LvmVolume& volume : group.volumes)
        std::ranges::stable_sort(volume.segments, {}, &LvmSegment::start);
    return group;
}

}  // namespace

bool LvmVolume::has_role(std::string_view role) const { return std::ranges::find(roles, role) != roles.end(); }

const LvmVolume* LvmGroup::volume(std::string_view wanted) const {
    const auto found = std::ranges::find(volumes, wanted, &LvmVolume::name);
    return found == volumes.end() ? nullptr : &*found;
}

std::vector<std::string> lvm_report_arguments() {
    // Shared groups also where lvm.conf doesn't turn lvmlockd's locks on: LVM reads them then, and changes nothing.
    return {"fullreport",
            "--all",
            "--shared",
            "--reportformat",
            "json",
            "--units",
            "b",
            "--nosuffix",
            "--config",
            "report { time_format=\"%s\" binary_values_as_numeric=1 } log { report_command_log=0 }",
            "--configreport",
            "vg",
            "-o",
            group_fields,
            "--configreport",
            "pv",
            "-o",
            physical_fields,
            "--configreport",
            "lv",
            "-o",
            volume_fields,
            "--configreport",
            "pvseg",
            "-o",
            ",",
            "--configreport",
            "seg",
            "-o",
            segment_fields};
}

Result<LvmReport> parse_lvm_report(std::string_view text) {
    const Json whole = TRY(parse(text));
    if (!whole.is_object())
        return fail(ErrorKind::damaged, "LVM's report is no object");
    LvmReport report;
    if (const auto log = whole.find("log"); log != whole.end() && log->is_array())
        for (const Json& entry : *log)
            if (entry.is_object()) {
                const Row row(entry, "log");
                if (row.text("log_type") == "error" && report.errors.size() < 100)
                    report.errors.push_back(row.text("log_message"));
            }
    const auto reports = whole.find("report");
    if (reports == whole.end() || !reports->is_array())
        return fail(ErrorKind::damaged, "LVM's report has no \"report\"");
    for (const Json& one : *reports) {
        if (!one.is_object())
            return fail(ErrorKind::damaged, "LVM's report has something that is no report of a group");
        // Devices that belong to no group come as a report without one.
        if (!TRY(rows(one, "vg")).empty())
            report.groups.push_back(TRY(read_one(one)));
    }
    return report;
}

namespace {

// The rows of a section over all of a report.
Result<void> each_row(std::string_view text, const char* section, const std::function<Result<void>(const Row&)>& visit) {
    const Json whole = TRY(parse(text));
    const auto reports = whole.is_object() ? whole.find("report") : whole.end();
    if (reports == whole.end() || !reports->is_array())
        return fail(ErrorKind::damaged, "LVM's report has no \"report\"");
    for (const Json& one : *reports) {
        if (!one.is_object())
            return fail(ErrorKind::damaged, "LVM's report has something that is no report");
        for (const Json* row : TRY(rows(one, section)))
            TRY(visit(Row(*row, section)));
    }
    return {};
}

}  // namespace

Result<std::vector<LvmGroupName>> parse_lvm_groups(std::string_view text) {
    std::vector<LvmGroupName> groups;
    TRY(each_row(text, "vg", [&](const Row& row) -> Result<void> {
        std::string name = TRY(row.needed_text("vg_name"));
        groups.push_back({std::move(name), TRY(row.needed_text("vg_uuid")), row.text("vg_systemid")});
        return {};
    }));
    return groups;
}

Result<std::vector<std::string>> parse_lvm_duplicates(std::string_view text) {
    std::vector<std::string> ids;
    TRY(each_row(text, "pv", [&](const Row& row) -> Result<void> {
        if (row.flag("pv_duplicate").value_or(false))
            ids.push_back(TRY(row.needed_text("pv_uuid")));
        return {};
    }));
    return ids;
}

}  // namespace lamella::host
