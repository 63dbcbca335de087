// SPDX-License-Identifier: Apache-2.0
//
// The language of tables, as dmsetup takes it: a line a target,
//
//   START LENGTH TYPE WORD...
//
// in sectors of 512 bytes, from 0 on without gaps. Empty lines and lines that begin with '#' are passed over.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lamella::mapper {

constexpr std::size_t max_table_text = 1 << 20;  // bytes
constexpr std::size_t max_table_lines = 4096;    // targets of a device
constexpr std::size_t max_devices = 4096;        // of a mapper

struct TableLine {
    std::uint64_t start = 0;   // bytes
    std::uint64_t length = 0;  // bytes
    std::string type;
    std::vector<std::string> words;
    std::size_t number = 0;  // of the line in its text, from 1

    // "line 3: linear", for errors.
    std::string place() const;
};

// At least one line; together less than 2^63 bytes. Errors: usage, naming line and word.
Result<std::vector<TableLine>> parse_table(std::string_view text);

struct NamedTable {
    std::string name;
    std::string text;  // the lines without the name; others of the file as empty lines, so that numbers of lines are the file's
};

// A file of tables: either one table, for a device of `default_name`; or, as `dmsetup table` prints them, lines of several devices, each
// with "NAME: " before it. Errors: usage.
Result<std::vector<NamedTable>> split_table_file(std::string_view text, std::string_view default_name);

}  // namespace lamella::mapper
