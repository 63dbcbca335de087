// SPDX-License-Identifier: Apache-2.0
//
// LVM's configuration text: what volume group metadata, its backups and lvm.conf are written in.
//
//   key = value          value: 64-bit signed integer, float, "string", [ array of those ]
//   name { ... }         sections nest
//   # comment            to the end of the line
//
// The tree keeps order, types and everything it doesn't know; comments are not kept. A key may stand twice (the first one counts
// for find(), both are kept). Values only, no I/O; no thread affinity.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace lamella::lvm2 {

struct TextEntry;

// A float, kept as it is spelled: nothing that is on disk uses one, so nothing here may round one.
struct TextFloat {
    std::string spelling;
    bool operator==(const TextFloat&) const = default;
};

struct TextValue;
using TextArray = std::vector<TextValue>;

struct TextValue {
    std::variant<std::int64_t, TextFloat, std::string, TextArray> value;

    const std::int64_t* integer() const { return std::get_if<std::int64_t>(&value); }
    const std::string* string() const { return std::get_if<std::string>(&value); }
    const TextArray* array() const { return std::get_if<TextArray>(&value); }
    bool operator==(const TextValue&) const = default;
};

struct TextSection {
    std::vector<TextEntry> entries;

    // The first entry of that name and kind; null: none. Linear in the number of entries.
    const TextValue* value(std::string_view key) const;
    const TextSection* section(std::string_view key) const;
    bool operator==(const TextSection&) const = default;
};

struct TextEntry {
    std::string key;
    std::variant<TextValue, TextSection> content;
    std::uint32_t line = 0;  // where it was read; 0: made by the program

    const TextValue* value() const { return std::get_if<TextValue>(&content); }
    const TextSection* section() const { return std::get_if<TextSection>(&content); }
    // The line is not part of what an entry says.
    bool operator==(const TextEntry& other) const { return key == other.key && content == other.content; }
};

// What a parse may cost: with the defaults a few hundred MiB at worst. They hold a group of 60,000 volumes.
struct TextLimits {
    std::size_t bytes = 32u << 20;
    std::size_t depth = 32;
    std::size_t entries = 1u << 20;  // sections, values and array elements together
};

// Errors: damaged, "line L, column C: ...". A NUL ends the text; only NULs and white space may follow it.
Result<TextSection> parse_text(std::string_view text, const TextLimits& limits = {});

// A string as LVM writes it: quoted, with a backslash before each quote and backslash.
std::string quote(std::string_view text);

enum class TextStyle {
    on_disk,  // no indentation, no comments
    human,    // vgcfgbackup's: tabs, and comments where LVM puts them
};

// Builds text line by line in either style.
class TextWriter {
  public:
    explicit TextWriter(TextStyle style) : style_(style) {}

    void open(std::string_view section);
    void close();
    void blank();
    // A line of its own, or, with a comment, "line<tab># comment" in human style.
    void line(std::string_view line, std::string_view comment = {});
    // The entry as LVM would write a value or section of that shape.
    void entry(const TextEntry& entry);
    // A list that is spread over lines, these, behind a blank one.
    void list(std::string_view key, const std::vector<std::string>& lines);

    bool human() const { return style_ == TextStyle::human; }
    const std::string& text() const& { return text_; }
    std::string text() && { return std::move(text_); }

  private:
    void indent();

    TextStyle style_;
    std::size_t depth_ = 0;
    std::string text_;
};

}  // namespace lamella::lvm2
