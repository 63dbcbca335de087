// SPDX-License-Identifier: Apache-2.0
#include "mapper/table_text.h"

#include <algorithm>

#include "base/strong.h"
#include "mapper/words.h"

namespace lamella::mapper {

namespace {

// Calls function(line, number) for each line that isn't empty and no comment.
template <typename Function>
Result<void> for_each_line(std::string_view text, Function function) {
    if (text.size() > max_table_text)
        return fail(ErrorKind::usage, "longer than {} bytes", max_table_text);
    if (text.find('\0') != std::string_view::npos)
        return fail(ErrorKind::usage, "a zero byte");
    for (std::size_t number = 1; !text.empty(); ++number) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        const std::size_t first = line.find_first_not_of(" \t\r\v\f");
        if (first != std::string_view::npos && line[first] != '#')
            TRY(function(line, number));
    }
    return {};
}

Result<TableLine> parse_line(std::string_view line) {
    TableLine parsed;
    Words words(TRY(split_words(line)));
    parsed.start = TRY(words.take_sectors("the start"));
    parsed.length = TRY(words.take_sectors("the length"));
    if (parsed.length == 0)
        return fail(ErrorKind::usage, "a length of 0");
    parsed.type = TRY(words.take("the type of the target"));
    while (words.left() > 0)
        parsed.words.emplace_back(TRY(words.take("a word")));
    return parsed;
}

}  // namespace

std::string TableLine::place() const { return fmt::format("line {}: {:.40}", number, type); }

Result<std::vector<TableLine>> parse_table(std::string_view text) {
    std::vector<TableLine> lines;
    std::uint64_t end = 0;
    TRY_WITHIN("table", for_each_line(text, [&](std::string_view line, std::size_t number) -> Result<void> {
                   const std::string place = fmt::format("line {}", number);
                   if (lines.size() == max_table_lines)
                       return fail(ErrorKind::usage, "{}: more than {} targets", place, max_table_lines);
                   TableLine parsed = TRY_WITHIN(place, parse_line(line));
                   parsed.number = number;
                   if (parsed.start != end)
                       return fail(ErrorKind::usage, "{}: begins at sector {}, {} sector {}, where the line before it ends", place,
                                   parsed.start / sector_bytes, parsed.start < end ? "before" : "beyond", end / sector_bytes);
                   if (parsed.length > INT64_MAX - end)
                       return fail(ErrorKind::usage, "{}: ends beyond 2^63 bytes", place);
                   end += parsed.length;
                   lines.push_back(std::move(parsed));
                   return {};
               }));
    if (lines.empty())
        return fail(ErrorKind::usage, "table: no lines");
    return lines;
}

Result<std::vector<NamedTable>> split_table_file(std::string_view text, std::string_view default_name) {
    std::vector<NamedTable> tables;
    std::size_t written = 0;  // lines of the last table
    bool all_named = false;
    TRY(for_each_line(text, [&](std::string_view line, std::size_t number) -> Result<void> {
        const std::size_t first = line.find_first_not_of(" \t");
        const std::size_t blank = std::min(line.find_first_of(" \t", first), line.size());
        std::string_view name = line.substr(first, blank - first);
        const bool named = name.size() > 1 && name.ends_with(':');
        if (named)
            name.remove_suffix(1);
        else
            name = default_name;
        if (tables.empty())
            all_named = named;
        if (named != all_named)
            return fail(ErrorKind::usage, "line {}: either every line begins with the name of its device, or none does", number);
        if (tables.empty() || tables.back().name != name) {
            if (std::ranges::find(tables, name, &NamedTable::name) != tables.end())
                return fail(ErrorKind::usage, "line {}: the lines of {:.128} are not together", number, name);
            if (tables.size() == max_devices)
                return fail(ErrorKind::usage, "line {}: more than {} devices", number, max_devices);
            tables.push_back({std::string(name), {}});
            written = 0;
        }
        tables.back().text.append(number - 1 - written, '\n').append(named ? line.substr(blank) : line);
        written = number - 1;
        return {};
    }));
    if (tables.empty())
        return fail(ErrorKind::usage, "no table in it");
    return tables;
}

}  // namespace lamella::mapper
