// SPDX-License-Identifier: Apache-2.0
#include "tools/json_parser.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <string>
#include <vector>

#include "tools/stream_rules.h"

namespace lamella::tools {

namespace {

// Far more than any line of a dump takes.
constexpr std::size_t max_line_bytes = 4096;
constexpr std::size_t mappings_per_call = 1024;

// Takes a line apart: no more of JSON than a dump needs.
class Cursor {
  public:
    explicit Cursor(std::string_view text) : text_(text) {}

    // After blanks. False: something else comes.
    bool take(char c) {
        skip_blanks();
        if (text_.empty() || text_.front() != c)
            return false;
        text_.remove_prefix(1);
        return true;
    }
    Result<void> expect(char c) {
        if (!take(c))
            return fail(ErrorKind::damaged, "'{}' is missing", c);
        return {};
    }
    // A string without escapes.
    Result<std::string_view> string() {
        TRY(expect('"'));
        const std::size_t end = text_.find_first_of("\"\\");
        if (end == std::string_view::npos || text_[end] != '"')
            return fail(ErrorKind::damaged, "a string doesn't end, or has an escape");
        const std::string_view value = text_.substr(0, end);
        text_.remove_prefix(end + 1);
        return value;
    }
    template <typename Number>
    Result<Number> number() {
        skip_blanks();
        Number value{};
        const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
        if (error != std::errc())
            return fail(ErrorKind::damaged, "a whole number up to {} is missing", std::numeric_limits<Number>::max());
        text_.remove_prefix(static_cast<std::size_t>(end - text_.data()));
        return value;
    }
    bool word(std::string_view word) {
        skip_blanks();
        if (!text_.starts_with(word))
            return false;
        text_.remove_prefix(word.size());
        return true;
    }
    bool at_end() {
        skip_blanks();
        return text_.empty();
    }

  private:
    void skip_blanks() { text_.remove_prefix(std::min(text_.find_first_not_of(" \t\r"), text_.size())); }

    std::string_view text_;
};

class Parser {
  public:
    Parser(TextSource& source, const HeaderOverrides& overrides, PoolVisitor& sink, const Control& control)
        : source_(source), overrides_(overrides), sink_(sink), control_(control) {
        batch_.reserve(mappings_per_call);
    }

    Result<void> run() {
        Result<void> outcome = parse();
        if (!outcome)
            return std::unexpected(outcome.error().within(fmt::format("{}:{}", source_.name(), line_number_)));
        return {};
    }

  private:
    enum class State : std::uint8_t { before, pool, definition, device, after };

    Result<void> parse() {
        std::string line;
        for (std::string_view piece = TRY(next_piece()); !piece.empty(); piece = TRY(next_piece()))
            while (!piece.empty()) {
                const std::size_t end = piece.find('\n');
                line += piece.substr(0, end);
                if (line.size() > max_line_bytes) {
                    ++line_number_;
                    return fail(ErrorKind::damaged, "a line of more than {} bytes", max_line_bytes);
                }
                piece.remove_prefix(end == std::string_view::npos ? piece.size() : end + 1);
                if (end == std::string_view::npos)
                    continue;
                ++line_number_;
                TRY(take(line));
                line.clear();
            }
        ++line_number_;
        if (!line.empty())
            TRY(take(line));
        if (state_ != State::after)
            return fail(ErrorKind::damaged, "the text ends before the dump does");
        return {};
    }

    Result<std::string_view> next_piece() {
        if (control_.stopped())
            return Control::interrupted();
        const std::string_view piece = TRY(source_.next());
        taken_ += piece.size();
        if (control_.progress)
            control_.progress(taken_, std::max(taken_, source_.size().value_or(taken_)));
        return piece;
    }

    Result<void> take(std::string_view line) {
        Cursor cursor(line);
        if (cursor.at_end())
            return {};
        if (state_ == State::after)
            return fail(ErrorKind::damaged, "text after the end");
        TRY(cursor.expect('{'));
        const std::string_view what = TRY(cursor.string());
        TRY(cursor.expect(':'));
        if ((what == "superblock") != (state_ == State::before))
            return fail(ErrorKind::damaged, "\"{}\" is in the wrong place", what);
        if (what == "map")
            TRY(map(cursor));
        else if (what == "superblock")
            TRY(superblock(cursor));
        else if (what == "definition")
            TRY(definition(cursor));
        else if (what == "device")
            TRY(device(cursor));
        else if (what == "reference")
            TRY(reference(cursor));
        else if (what == "end")
            TRY(end(cursor));
        else
            return fail(ErrorKind::damaged, "\"{}\" is nothing that a dump has", what);
        TRY(cursor.expect('}'));
        if (!cursor.at_end())
            return fail(ErrorKind::damaged, "text after the object");
        // Only once all of the line has been read.
        return state_ == State::after ? sink_.superblock_end() : Result<void>();
    }

    // The members of an object, each once: names[index] calls member(index).
    template <std::size_t count, typename Member>
    static Result<void> object(Cursor& cursor, const std::array<std::string_view, count>& names, Member member) {
        std::array<bool, count> seen{};
        TRY(cursor.expect('{'));
        for (std::size_t number = 0; number < count; ++number) {
            if (number > 0)
                TRY(cursor.expect(','));
            const std::string_view name = TRY(cursor.string());
            const auto found = std::ranges::find(names, name);
            if (found == names.end() || std::exchange(seen[static_cast<std::size_t>(found - names.begin())], true))
                return fail(ErrorKind::damaged, "\"{}\" is unknown here, or there twice", name);
            TRY(cursor.expect(':'));
            TRY(member(static_cast<std::size_t>(found - names.begin())));
        }
        return cursor.expect('}');
    }

    Result<void> superblock(Cursor& cursor) {
        PoolHeader header;
        TRY(object(cursor,
                   std::array<std::string_view, 7>{"uuid", "time", "transaction", "flags", "version", "data_block_size", "nr_data_blocks"},
                   [&](std::size_t member) -> Result<void> {
                       switch (member) {
                       case 0: header.uuid = TRY(cursor.string()); break;
                       case 1: header.time = TRY(cursor.number<std::uint32_t>()); break;
                       case 2: header.transaction_id = TRY(cursor.number<std::uint64_t>()); break;
                       case 3: header.flags = TRY(cursor.number<std::uint32_t>()); break;
                       case 4: header.version = TRY(cursor.number<std::uint32_t>()); break;
                       case 5: header.data_block_sectors = TRY(cursor.number<std::uint32_t>()); break;
                       default: header.data_blocks = TRY(cursor.number<std::uint64_t>()); break;
                       }
                       return {};
                   }));
        overrides_.apply(header);
        TRY(rules_.superblock(header));
        state_ = State::pool;
        return sink_.superblock_begin(header);
    }

    Result<void> definition(Cursor& cursor) {
        const DefinitionId id(TRY(cursor.number<std::uint64_t>()));
        TRY(close());
        TRY(rules_.definition_begin(id));
        state_ = State::definition;
        return sink_.definition_begin(id);
    }

    Result<void> device(Cursor& cursor) {
        DeviceHeader header;
        TRY(object(cursor, std::array<std::string_view, 5>{"dev_id", "mapped_blocks", "transaction", "creation_time", "snap_time"},
                   [&](std::size_t member) -> Result<void> {
                       switch (member) {
                       case 0: header.id = ThinId(TRY(cursor.number<std::uint32_t>())); break;
                       case 1: header.mapped_blocks = TRY(cursor.number<std::uint64_t>()); break;
                       case 2: header.transaction_id = TRY(cursor.number<std::uint64_t>()); break;
                       case 3: header.creation_time = TRY(cursor.number<std::uint32_t>()); break;
                       default: header.snapshotted_time = TRY(cursor.number<std::uint32_t>()); break;
                       }
                       return {};
                   }));
        TRY(close());
        TRY(rules_.device_begin(header));
        state_ = State::device;
        return sink_.device_begin(header);
    }

    Result<void> map(Cursor& cursor) {
        if (state_ == State::pool)
            return fail(ErrorKind::damaged, "a mapping outside of devices and definitions");
        Mapping mapping;
        TRY(cursor.expect('['));
        mapping.virtual_begin = VirtualBlock(TRY(cursor.number<std::uint64_t>()));
        TRY(cursor.expect(','));
        mapping.data_begin = DataBlock(TRY(cursor.number<std::uint64_t>()));
        TRY(cursor.expect(','));
        mapping.length = TRY(cursor.number<std::uint64_t>());
        TRY(cursor.expect(','));
        mapping.time = TRY(cursor.number<std::uint32_t>());
        TRY(cursor.expect(']'));
        TRY(rules_.map(mapping));
        batch_.push_back(mapping);
        return batch_.size() == mappings_per_call ? flush() : Result<void>();
    }

    Result<void> reference(Cursor& cursor) {
        const DefinitionId id(TRY(cursor.number<std::uint64_t>()));
        if (state_ != State::device)
            return fail(ErrorKind::damaged, "a reference outside of devices");
        TRY(rules_.reference(id));
        TRY(flush());
        return sink_.reference(id);
    }

    Result<void> end(Cursor& cursor) {
        if (!cursor.word("true"))
            return fail(ErrorKind::damaged, "true is missing");
        TRY(close());
        state_ = State::after;
        return {};
    }

    Result<void> flush() {
        if (batch_.empty())
            return {};
        TRY(sink_.map(batch_));
        batch_.clear();
        return {};
    }

    // Ends the open definition or device.
    Result<void> close() {
        TRY(flush());
        if (state_ == State::definition) {
            TRY(rules_.definition_end());
            TRY(sink_.definition_end());
        } else if (state_ == State::device) {
            TRY(rules_.device_end());
            TRY(sink_.device_end());
        }
        state_ = State::pool;
        return {};
    }

    TextSource& source_;
    const HeaderOverrides& overrides_;
    PoolVisitor& sink_;
    const Control& control_;
    StreamRules rules_;
    State state_ = State::before;
    std::vector<Mapping> batch_;
    std::uint64_t line_number_ = 0;
    std::uint64_t taken_ = 0;
};

}  // namespace

Result<void> parse_pool_json(TextSource& source, const HeaderOverrides& overrides, PoolVisitor& sink, const Control& control) {
    return Parser(source, overrides, sink, control).run();
}

}  // namespace lamella::tools
