// SPDX-License-Identifier: Apache-2.0
//
// What `lvm fullreport` prints, as typed rows.
//
// LVM has two dialects of JSON: `json` (since 2.02.158) has a string for every value, `json_std` (since 2.03.17) bare numbers, null for
// those that are undefined, and arrays for lists; sizes and times are strings there, too. Both are understood, whichever was asked for.
// Since 2.03.26 a report may have a "log" beside it: that gives error text. Sizes are bytes (the report is made with --units b
// --nosuffix), times seconds since 1970, flags 0, 1 or -1.
//
// What LVM doesn't know, or a version of it doesn't print, is empty here: an unknown percentage is not 0.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lamella::host {

struct LvmSegment {
    std::string type;  // "linear", "thin-pool", ...; a classic snapshot's is that of its store
    std::uint64_t start = 0;
    std::uint64_t size = 0;
    std::optional<std::uint64_t> stripes;
    std::optional<std::uint64_t> stripe_size;
    std::optional<std::uint64_t> chunk_size;  // of a pool, or of a classic snapshot's store; 0 for others
    std::optional<std::uint64_t> thin_id;     // of a thin volume
    std::optional<std::uint64_t> transaction_id;
    std::optional<bool> zero;
    std::string discards;
    std::string monitoring;              // "monitored", "not monitored", ...; empty: not applicable
    std::vector<std::string> pe_ranges;  // "/dev/sdb1:0-15", "pool_tdata:0-15"
};

struct LvmVolume {
    std::string id;    // dashed
    std::string name;  // without the brackets of a hidden one
    bool hidden = false;
    std::uint64_t size = 0;
    std::string attributes;          // lv_attr: 10 characters
    std::vector<std::string> roles;  // "public", "snapshot", "thinsnapshot", ...
    std::vector<std::string> layout;
    std::vector<std::string> tags;
    std::optional<std::int64_t> creation_time;
    std::string creation_host;
    std::string pool, origin, data, metadata;  // names, without brackets
    std::optional<std::uint64_t> metadata_size;
    std::optional<std::uint64_t> origin_size;
    std::string when_full;        // "queue", "error"
    std::string health;           // "", "partial", "failed", "out_of_data", "metadata_read_only", ...
    std::string kernel_discards;  // what the kernel makes of `discards`
    std::string profile;
    std::optional<bool> merging, merge_failed, snapshot_invalid, check_needed, skip_activation;
    std::vector<LvmSegment> segments;  // by their starts

    bool has_role(std::string_view role) const;
    // A column of lv_attr; '-' where there is none.
    char attribute(std::size_t index) const { return index < attributes.size() ? attributes[index] : '-'; }
    bool active() const { return attribute(4) != '-' && attribute(4) != 'X' && attribute(4) != 'h'; }
    // The metadata's permission. ('R' is a writable volume that happens to be active read-only.)
    bool read_only() const { return attribute(1) == 'r'; }
};

struct LvmPhysicalVolume {
    std::string id;
    std::string device;  // its path; "[unknown]" when missing
    std::uint64_t extents = 0;
    std::uint64_t allocated_extents = 0;
    std::vector<std::string> tags;
    bool missing = false;
};

struct LvmGroup {
    std::string id;
    std::string name;
    std::uint64_t sequence_number = 0;
    std::uint64_t extent_size = 0;
    std::uint64_t extents = 0;
    std::uint64_t free_extents = 0;
    std::string system_id;
    std::string lock_type;       // "none", "sanlock", "dlm", ...
    std::string lock_arguments;  // of that: lvmlockd's
    std::vector<std::string> tags;
    bool exported = false;
    bool partial = false;
    bool writable = true;
    std::uint64_t missing_physical_volumes = 0;
    std::vector<LvmPhysicalVolume> physical_volumes;
    std::vector<LvmVolume> volumes;  // hidden ones too

    const LvmVolume* volume(std::string_view name) const;
    // Between hosts, by lvmlockd.
    bool shared() const { return !lock_type.empty() && lock_type != "none"; }
};

struct LvmReport {
    std::vector<LvmGroup> groups;
    std::vector<std::string> errors;  // of the "log" section
};

// The fields that parse_lvm_report() wants, as arguments of `lvm fullreport`, without a group.
std::vector<std::string> lvm_report_arguments();

// Limits: the text is as long as a CommandRunner lets it be; 4 levels below "report", 1,000 members an object, 1,000,000 rows.
// Errors: damaged, when this isn't a report, with the place of the fault.
Result<LvmReport> parse_lvm_report(std::string_view text);

// Of `lvm vgs` with the fields vg_name, vg_uuid and vg_systemid.
struct LvmGroupName {
    std::string name;
    std::string id;
    std::string system_id;
};
Result<std::vector<LvmGroupName>> parse_lvm_groups(std::string_view text);
// Of `lvm pvs` with the fields pv_uuid and pv_duplicate: the ids of physical volumes that more than one device carries.
Result<std::vector<std::string>> parse_lvm_duplicates(std::string_view text);

}  // namespace lamella::host
