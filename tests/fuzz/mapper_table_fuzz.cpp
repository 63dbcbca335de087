// SPDX-License-Identifier: Apache-2.0
//
// The language of tables: what is understood is understood the same again when it is written out; words come back from their escaped form.
#include <cstdlib>
#include <string>

#include "base/strong.h"
#include "mapper/table_text.h"
#include "mapper/words.h"

using namespace lamella;
using namespace lamella::mapper;

namespace {

void require(bool holds) {
    if (!holds)
        std::abort();
}

std::string written(const std::vector<TableLine>& lines) {
    std::string text;
    for (const TableLine& line : lines) {
        text += fmt::format("{} {} {}", line.start / sector_bytes, line.length / sector_bytes, escape_word(line.type));
        for (const std::string& word : line.words)
            text += " " + escape_word(word);
        text += "\n";
    }
    return text;
}

// A backslash can bring a blank or a line's end into a word, but not make an empty one.
void check_table(std::string_view text) {
    const auto lines = parse_table(text);
    if (!lines)
        return;
    std::uint64_t end = 0;
    for (const TableLine& line : *lines) {
        require(line.start == end && line.length > 0 && !line.type.empty());
        end += line.length;
    }
    require(end <= INT64_MAX);
    const std::string again = written(*lines);
    if (again.size() > max_table_text)
        return;
    const auto parsed = parse_table(again);
    require(parsed && parsed->size() == lines->size());
    for (std::size_t index = 0; index < lines->size(); ++index)
        require((*parsed)[index].words == (*lines)[index].words && (*parsed)[index].type == (*lines)[index].type &&
                (*parsed)[index].start == (*lines)[index].start);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    check_table(text);
    if (const auto tables = split_table_file(text, "disk"))
        for (const NamedTable& table : *tables)
            check_table(table.text);
    if (const auto words = split_words(text)) {
        std::string line;
        for (const std::string& word : *words)
            line += escape_word(word) + " ";
        require(split_words(line) == *words);
    }
    DeviceNumber number{};
    (void)parse_device_number(text, number);
    return 0;
}
