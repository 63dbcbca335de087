// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/context.h"
#include "volumes/volume_group.h"

namespace lamella::cli {

// Columns for people: as wide as their widest cell, two spaces apart. Widths count UTF-8 characters.
class Table {
  public:
    enum class Align { left, right };
    void column(std::string heading, Align align = Align::left);
    // One cell a column.
    void row(std::vector<std::string> cells);
    std::string text() const;

  private:
    struct Column {
        std::string heading;
        Align align;
    };
    std::vector<Column> columns_;
    std::vector<std::vector<std::string>> rows_;
};

// LVM's word: "thin", "thin-pool", "linear", "raid1", ...
std::string kind_word(const VolumeInfo& volume);
// "2026-11-20 10:30:00" in local time, or "-".
std::string local_time(std::optional<std::int64_t> seconds);
// "-" for an empty list.
std::string joined(const std::vector<std::string>& words);

// Of snapshots: state, age, use.
std::string snapshot_table(const std::vector<VolumeInfo>& volumes);
// VolumeInfo::age of each.
void find_ages(const Clock& clock, std::vector<VolumeInfo>& volumes);
std::string volume_table(const std::vector<VolumeInfo>& volumes);
// A volume, a group: a line for each thing that is known of it.
std::string describe_volume(const VolumeInfo& volume);
std::string describe_group(const GroupInfo& group);

// Before something is put into these pools: it takes room only as it is written to, and then it may be too late to make some.
void warn_of_full_pools(Context& context, VolumeGroup& group, const std::set<std::string>& pools);

// The answer of a command that changed one volume: the sentence, or {"dry_run", "volume"}.
Result<void> answer_volume(Context& context, std::string_view sentence, const VolumeInfo& volume);
// Likewise of several: {"dry_run", "volumes"}.
Result<void> answer_volumes(Context& context, std::string_view sentences, const std::vector<VolumeInfo>& volumes);
// What killed processes left of their changes: what the opening of a group put right, and what is still there; on standard error.
void note_broken_off(Context& context, const GroupInfo& group);
// The same as text, a line each.
std::vector<std::string> broken_off_lines(const GroupInfo& group);
// These, and what is wrong with the group.
void note_findings(Context& context, const GroupInfo& group);

}  // namespace lamella::cli
