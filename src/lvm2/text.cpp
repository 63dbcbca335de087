// SPDX-License-Identifier: Apache-2.0
#include "lvm2/text.h"

#include <algorithm>
#include <charconv>
#include <limits>

namespace lamella::lvm2 {

const TextValue* TextSection::value(std::string_view key) const {
    for (const TextEntry& entry : entries)
        if (entry.key == key && entry.value())
            return entry.value();
    return nullptr;
}

const TextSection* TextSection::section(std::string_view key) const {
    for (const TextEntry& entry : entries)
        if (entry.key == key && entry.section())
            return entry.section();
    return nullptr;
}

namespace {

bool is_space(char character) {
    return character == ' ' || character == '\t' || character == '\n' || character == '\r' || character == '\f' || character == '\v';
}

bool is_digit(char character) { return character >= '0' && character <= '9'; }

// Ends a key that isn't quoted.
bool ends_key(char character) { return is_space(character) || std::string_view("#={}[],\"'").find(character) != std::string_view::npos; }

class Parser {
  public:
    Parser(std::string_view text, const TextLimits& limits) : text_(text), limits_(limits) {}

    Result<TextSection> parse() {
        if (text_.size() > limits_.bytes)
            return fail(ErrorKind::damaged, "{} bytes of text, more than the limit of {}", text_.size(), limits_.bytes);
        const std::size_t end = text_.find('\0');
        if (end != std::string_view::npos) {
            const bool clean =
                std::ranges::all_of(text_.substr(end), [](char character) { return character == '\0' || is_space(character); });
            text_ = text_.substr(0, end);
            if (!clean) {
                position_ = end;
                return error("a NUL byte in the midst of the text");
            }
        }
        TextSection root;
        TRY(parse_entries(root, 0));
        return root;
    }

  private:
    [[nodiscard]] std::unexpected<Error> error(std::string_view what) const {
        const std::size_t position = std::min(position_, text_.size());
        const std::string_view before = text_.substr(0, position);
        const std::size_t line = 1 + static_cast<std::size_t>(std::ranges::count(before, '\n'));
        const std::size_t line_start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
        return fail(ErrorKind::damaged, "line {}, column {}: {}", line, position - line_start + 1, what);
    }

    bool at_end() const { return position_ == text_.size(); }
    char peek() const { return at_end() ? '\0' : text_[position_]; }

    void skip_space() {
        while (!at_end()) {
            if (text_[position_] == '\n')
                ++line_;
            if (is_space(text_[position_])) {
                ++position_;
            } else if (text_[position_] == '#') {
                const std::size_t end = text_.find('\n', position_);
                position_ = end == std::string_view::npos ? text_.size() : end;
            } else {
                return;
            }
        }
    }

    Result<void> count_entry() {
        if (++entries_ > limits_.entries)
            return error(fmt::format("more than {} entries", limits_.entries));
        return {};
    }

    // Entries up to the end of the text (depth 0) or a closing brace, which is consumed.
    Result<void> parse_entries(TextSection& section, std::size_t depth) {
        for (;;) {
            skip_space();
            if (at_end()) {
                if (depth > 0)
                    return error("the text ends inside of a section");
                return {};
            }
            if (peek() == '}') {
                if (depth == 0)
                    return error("'}' without a section to close");
                ++position_;
                return {};
            }
            TRY(count_entry());
            section.entries.emplace_back();
            TextEntry& entry = section.entries.back();
            entry.line = line_;
            entry.key = TRY(parse_key());
            skip_space();
            if (peek() == '{') {
                if (depth + 1 > limits_.depth)
                    return error(fmt::format("sections nested deeper than {}", limits_.depth));
                ++position_;
                TextSection& child = entry.content.emplace<TextSection>();
                TRY(parse_entries(child, depth + 1));
            } else if (peek() == '=') {
                ++position_;
                skip_space();
                TRY(parse_value(entry.content.emplace<TextValue>(), true));
            } else {
                return error("'=' or '{' expected");
            }
        }
    }

    Result<std::string> parse_key() {
        if (peek() == '"')
            return parse_string();
        const std::size_t begin = position_;
        while (!at_end() && !ends_key(text_[position_]))
            ++position_;
        if (position_ == begin)
            return error("a name expected");
        return std::string(text_.substr(begin, position_ - begin));
    }

    Result<void> parse_value(TextValue& value, bool may_be_array) {
        const char first = peek();
        if (first == '"' || first == '\'') {
            value.value = TRY(parse_string());
            return {};
        }
        if (first == '[') {
            if (!may_be_array)
                return error("an array inside of an array");
            return parse_array(value.value.emplace<TextArray>());
        }
        if (is_digit(first) || first == '-' || first == '+' || first == '.')
            return parse_number(value);
        return error("a number, a string or an array expected");
    }

    Result<void> parse_array(TextArray& array) {
        ++position_;
        for (;;) {
            skip_space();
            if (peek() == ']') {
                ++position_;
                return {};
            }
            TRY(count_entry());
            TRY(parse_value(array.emplace_back(), false));
            skip_space();
            if (peek() == ',')
                ++position_;
            else if (peek() != ']')
                return error("',' or ']' expected");
        }
    }

    // In double quotes a backslash takes the meaning from a quote or backslash behind it; in single quotes nothing does.
    Result<std::string> parse_string() {
        const char quote = peek();
        const std::size_t begin = position_++;
        std::string string;
        for (;;) {
            const std::size_t plain = position_;
            while (!at_end() && text_[position_] != quote && text_[position_] != '\\') {
                if (text_[position_] == '\n')
                    ++line_;
                ++position_;
            }
            string.append(text_, plain, position_ - plain);
            if (at_end()) {
                position_ = begin;
                return error("a string without an end");
            }
            if (text_[position_] == quote) {
                ++position_;
                return string;
            }
            const char next = position_ + 1 < text_.size() ? text_[position_ + 1] : '\0';
            if (quote == '"' && (next == '"' || next == '\\'))
                ++position_;
            string += text_[position_++];
        }
    }

    Result<void> parse_number(TextValue& value) {
        const std::size_t begin = position_;
        if (peek() == '-' || peek() == '+')
            ++position_;
        const std::size_t digits = position_;
        std::size_t points = 0;
        while (is_digit(peek()) || peek() == '.')
            points += text_[position_++] == '.';
        if (points > 1 || position_ - digits == points || (!at_end() && !ends_key(peek()))) {
            position_ = begin;
            return error("a malformed number");
        }
        std::string_view spelling = text_.substr(begin, position_ - begin);
        if (points == 1) {
            value.value = TextFloat{std::string(spelling)};
            return {};
        }
        if (spelling.front() == '+')
            spelling.remove_prefix(1);
        // As C has it: a leading zero means octal.
        const std::string_view magnitude = text_.substr(digits, position_ - digits);
        const int base = magnitude.size() > 1 && magnitude.front() == '0' ? 8 : 10;
        std::int64_t integer = 0;
        const auto [end, code] = std::from_chars(spelling.data(), spelling.data() + spelling.size(), integer, base);
        if (code != std::errc() || end != spelling.data() + spelling.size()) {
            position_ = begin;
            return error(code == std::errc::result_out_of_range ? "a number beyond 64 bits" : "a malformed number");
        }
        value.value = integer;
        return {};
    }

    std::string_view text_;
    const TextLimits& limits_;
    std::size_t position_ = 0;
    std::size_t entries_ = 0;
    std::uint32_t line_ = 1;
};

}  // namespace

Result<TextSection> parse_text(std::string_view text, const TextLimits& limits) { return Parser(text, limits).parse(); }

std::string quote(std::string_view text) {
    std::string quoted;
    quoted.reserve(text.size() + 2);
    quoted += '"';
    for (char character : text) {
        if (character == '"' || character == '\\')
            quoted += '\\';
        quoted += character;
    }
    quoted += '"';
    return quoted;
}

namespace {

std::string spell(const TextValue& value);

std::string spell(const TextArray& array) {
    std::string text = "[";
    for (std::size_t i = 0; i < array.size(); ++i) {
        if (i > 0)
            text += ", ";
        text += spell(array[i]);
    }
    text += ']';
    return text;
}

std::string spell(const TextValue& value) {
    if (const std::int64_t* integer = value.integer())
        return fmt::format("{}", *integer);
    if (const std::string* string = value.string())
        return quote(*string);
    if (const TextArray* array = value.array())
        return spell(*array);
    return std::get<TextFloat>(value.value).spelling;
}

std::string spell_key(const std::string& key) {
    return key.empty() || std::ranges::any_of(key, ends_key) || key.find('!') != std::string::npos ? quote(key) : key;
}

// The lists of a segment's areas, which LVM spreads over lines.
bool is_area_list(std::string_view key) { return key == "stripes" || key == "mirrors" || key == "raids" || key == "raid0_lvs"; }

// A line each: "volume", first extent; of RAID: "metadata", "data", or "data" alone.
std::vector<std::string> spell_areas(const TextArray& array) {
    const std::string* first = array[0].string();
    const bool pairs = array.size() % 2 == 0 && (array[1].integer() || (first && first->find("_rmeta") != std::string::npos));
    std::vector<std::string> lines;
    for (std::size_t i = 0; i < array.size(); i += pairs ? 2 : 1)
        lines.push_back(pairs ? spell(array[i]) + ", " + spell(array[i + 1]) : spell(array[i]));
    return lines;
}

}  // namespace

void TextWriter::indent() {
    constexpr std::size_t deepest = 5;  // LVM indents no further
    if (human())
        text_.append(std::min(depth_, deepest), '\t');
}

void TextWriter::open(std::string_view section) {
    indent();
    text_ += section;
    text_ += " {\n";
    ++depth_;
}

void TextWriter::close() {
    --depth_;
    indent();
    text_ += "}\n";
}

void TextWriter::blank() { text_ += '\n'; }

void TextWriter::line(std::string_view line, std::string_view comment) {
    const std::size_t begin = text_.size();
    indent();
    const std::size_t tabs = text_.size() - begin;
    text_ += line;
    if (human() && !comment.empty()) {
        // Comments stand in the seventh column of eight characters where the line leaves room, else one tab behind it.
        constexpr std::size_t comment_column = 6;
        const std::size_t column = (line.size() + 8 * tabs) / 8 + 1;
        text_.append(column < comment_column ? comment_column - column : 1, '\t');
        text_ += "# ";
        text_ += comment;
    }
    text_ += '\n';
}

void TextWriter::list(std::string_view key, const std::vector<std::string>& lines) {
    blank();
    line(fmt::format("{} = [", key));
    ++depth_;
    for (std::size_t i = 0; i < lines.size(); ++i)
        line(i + 1 < lines.size() ? lines[i] + ',' : lines[i]);
    --depth_;
    line("]");
}

void TextWriter::entry(const TextEntry& entry) {
    if (const TextSection* section = entry.section()) {
        open(spell_key(entry.key));
        for (const TextEntry& child : section->entries)
            this->entry(child);
        close();
        return;
    }
    const TextArray* array = entry.value()->array();
    if (array != nullptr && !array->empty() && is_area_list(entry.key)) {
        list(entry.key, spell_areas(*array));
        return;
    }
    line(fmt::format("{} = {}", spell_key(entry.key), spell(*entry.value())));
}

}  // namespace lamella::lvm2
