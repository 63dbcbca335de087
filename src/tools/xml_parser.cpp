// SPDX-License-Identifier: Apache-2.0
//
// A dump of a large pool is gigabytes of lines that look alike, so there are two ways through the text. The fast one knows a mapping
// exactly as thin_dump writes it and takes numbers straight from the buffer; whatever it doesn't recognise, down to a second blank,
// it leaves untouched for the general one, which reads XML tag by tag. Both end in the same calls, so that the fast one decides nothing
// but speed.
#include "tools/xml_parser.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <unordered_map>
#include <vector>

#include "tools/stream_rules.h"

namespace lamella::tools {

namespace {

// A tag or a comment with all that belongs to it.
constexpr std::size_t max_tag_bytes = 64 * 1024;
constexpr std::size_t window_bytes = (std::size_t{1} << 20) + max_tag_bytes;
// More than a mapping takes as thin_dump writes it.
constexpr std::size_t mapping_line_bytes = 256;
constexpr std::size_t max_name_bytes = 255;
constexpr std::size_t mappings_per_call = 1024;
// Names that aren't numbers get ids from here on.
constexpr std::uint64_t first_interned_id = std::uint64_t{1} << 63;

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.' || c == ':';
}

enum class Element : std::uint8_t { none, superblock, definition, device, mapping, reference };

struct Attribute {
    std::string_view name;
    std::string_view value;  // references not resolved yet
};

struct Tag {
    static constexpr std::size_t max_attributes = 16;

    std::string_view name;
    bool closing = false;  // </name>
    bool empty = false;    // <name/>
    std::array<Attribute, max_attributes> attributes;
    std::size_t count = 0;
};

class Parser {
  public:
    Parser(TextSource& source, const HeaderOverrides& overrides, PoolVisitor& sink, const Control& control)
        : source_(source), overrides_(overrides), sink_(sink), control_(control), window_(window_bytes) {
        batch_.reserve(mappings_per_call);
    }

    Result<void> run() {
        Result<void> outcome = parse();
        if (!outcome)
            return std::unexpected(outcome.error().within(fmt::format("{}:{}", source_.name(), line_)));
        return {};
    }

  private:
    template <typename... Args>
    std::unexpected<Error> wrong(fmt::format_string<Args...> format, Args&&... args) const {
        return fail(ErrorKind::damaged, format, std::forward<Args>(args)...);
    }

    std::string_view rest() const { return {window_.data() + begin_, end_ - begin_}; }

    // Looks as far ahead as `bytes`, unless the text ends before.
    Result<void> look_ahead(std::size_t bytes) {
        while (end_ - begin_ < bytes && !at_end_)
            TRY(fill());
        return {};
    }

    Result<void> fill() {
        if (control_.stopped())
            return Control::interrupted();
        if (begin_ > 0) {
            std::memmove(window_.data(), window_.data() + begin_, end_ - begin_);
            end_ -= begin_;
            begin_ = 0;
        }
        if (piece_.empty()) {
            piece_ = TRY(source_.next());
            at_end_ = piece_.empty();
            taken_ += piece_.size();
            if (control_.progress)
                control_.progress(taken_, std::max(taken_, source_.size().value_or(taken_)));
        }
        std::size_t size = std::min(piece_.size(), window_.size() - end_);
        std::memcpy(window_.data() + end_, piece_.data(), size);
        piece_.remove_prefix(size);
        end_ += size;
        return {};
    }

    Result<void> parse() {
        while (TRY(skip_to_tag())) {
            if (element_ == Element::definition || element_ == Element::device) {
                while (TRY(fast_mapping())) {}
                if (!TRY(skip_to_tag()))
                    break;
            }
            TRY(handle(TRY(read_tag())));
        }
        if (element_ != Element::none)
            return wrong("the text ends within <{}>", name_of(element_));
        if (!done_)
            return wrong("no <superblock>");
        return {};
    }

    // Leaves the window at a '<' that begins a tag. False: the text has ended.
    Result<bool> skip_to_tag() {
        for (;;) {
            while (begin_ < end_ && is_space(window_[begin_]))
                line_ += window_[begin_++] == '\n';
            if (begin_ == end_) {
                if (at_end_)
                    return false;
                TRY(fill());
                continue;
            }
            if (window_[begin_] != '<')
                return wrong("text where a tag is expected");
            TRY(look_ahead(4));
            if (rest().starts_with("<!--"))
                TRY(skip_past("-->", 4));
            else if (rest().starts_with("<?"))
                TRY(skip_past("?>", 2));
            else if (rest().starts_with("<!"))
                return wrong("a declaration that such a file doesn't have");
            else
                return true;
        }
    }

    Result<void> skip_past(std::string_view end, std::size_t from) {
        std::size_t length = from;
        for (;;) {
            std::size_t found = rest().find(end, length);
            if (found != std::string_view::npos) {
                consume(found + end.size());
                return {};
            }
            if (at_end_)
                return wrong("a comment or instruction without an end");
            // A long one goes piece by piece.
            if (rest().size() > max_tag_bytes) {
                consume(rest().size() - end.size());
                length = 0;
            } else {
                length = std::max(from, rest().size() - std::min(rest().size(), end.size()));
            }
            TRY(fill());
        }
    }

    void consume(std::size_t bytes) {
        for (const char* at = window_.data() + begin_; at < window_.data() + begin_ + bytes; ++at)
            line_ += *at == '\n';
        begin_ += bytes;
    }

    // --- The general way ---

    // The views stay valid until the window moves.
    Result<Tag> read_tag() {
        std::size_t length = 1;
        char quote = 0;
        for (;; ++length) {
            if (length >= max_tag_bytes)
                return wrong("a tag of more than {} bytes", max_tag_bytes);
            if (length >= end_ - begin_) {
                TRY(look_ahead(length + 1));
                if (length >= end_ - begin_)
                    return wrong("the text ends within a tag");
            }
            char c = window_[begin_ + length];
            if (quote != 0)
                quote = c == quote ? 0 : quote;
            else if (c == '"' || c == '\'')
                quote = c;
            else if (c == '>')
                break;
            else if (c == '<')
                return wrong("a '<' within a tag");
        }
        std::string_view text(window_.data() + begin_ + 1, length - 1);
        Tag tag;
        if (text.starts_with('/')) {
            tag.closing = true;
            text.remove_prefix(1);
        } else if (text.ends_with('/')) {
            tag.empty = true;
            text.remove_suffix(1);
        }
        tag.name = take_name(text);
        if (tag.name.empty())
            return wrong("a tag without a name");
        for (;;) {
            bool apart = skip_spaces(text);
            if (text.empty())
                break;
            Attribute attribute{take_name(text), {}};
            skip_spaces(text);
            if (!apart || attribute.name.empty() || !text.starts_with('=') || tag.closing)
                return wrong("<{}>: not an attribute: \"{}\"", tag.name, attribute.name);
            text.remove_prefix(1);
            skip_spaces(text);
            if (text.empty() || (text.front() != '"' && text.front() != '\''))
                return wrong("<{}>: attribute {} without a value in quotes", tag.name, attribute.name);
            std::size_t close = text.find(text.front(), 1);
            if (close == std::string_view::npos)
                return wrong("<{}>: attribute {} without a value in quotes", tag.name, attribute.name);
            attribute.value = text.substr(1, close - 1);
            text.remove_prefix(close + 1);
            for (std::size_t index = 0; index < tag.count; ++index)
                if (tag.attributes[index].name == attribute.name)
                    return wrong("<{}>: attribute {} twice", tag.name, attribute.name);
            if (tag.count == Tag::max_attributes)
                return wrong("<{}>: more than {} attributes", tag.name, Tag::max_attributes);
            tag.attributes[tag.count++] = attribute;
        }
        pending_ = length + 1;
        return tag;
    }

    static bool skip_spaces(std::string_view& text) {
        std::size_t length = 0;
        while (length < text.size() && is_space(text[length]))
            ++length;
        text.remove_prefix(length);
        return length > 0;
    }

    static std::string_view take_name(std::string_view& text) {
        std::size_t length = 0;
        while (length < text.size() && is_name(text[length]))
            ++length;
        std::string_view name = text.substr(0, length);
        text.remove_prefix(length);
        return name;
    }

    // The tag's own lines count only once it is dealt with, so that errors name the line that it begins in.
    Result<void> handle(const Tag& tag) {
        if (tag.closing)
            TRY(close(tag.name));
        else
            TRY(open(tag));
        if (tag.empty)
            TRY(close(tag.name));
        consume(pending_);
        return {};
    }

    static std::string_view name_of(Element element) {
        switch (element) {
        case Element::none: return "";
        case Element::superblock: return "superblock";
        case Element::definition: return "def";
        case Element::device: return "device";
        case Element::mapping: return "a mapping";
        case Element::reference: return "ref";
        }
        __builtin_unreachable();
    }

    Result<void> open(const Tag& tag) {
        Element inside = element_;
        if (tag.name == "superblock" && inside == Element::none && !done_) {
            element_ = Element::superblock;
            return superblock(tag);
        }
        if (tag.name == "def" && inside == Element::superblock) {
            element_ = Element::definition;
            return definition(tag);
        }
        if (tag.name == "device" && inside == Element::superblock) {
            element_ = Element::device;
            return device(tag);
        }
        bool maps = inside == Element::definition || inside == Element::device;
        if ((tag.name == "single_mapping" || tag.name == "range_mapping") && maps) {
            container_ = inside;
            element_ = Element::mapping;
            mapping_name_ = tag.name == "single_mapping" ? "single_mapping" : "range_mapping";
            return mapping(tag);
        }
        if (tag.name == "ref" && inside == Element::device) {
            container_ = inside;
            element_ = Element::reference;
            return reference(tag);
        }
        if (inside == Element::none)
            return wrong("<{}> where <superblock> is expected{}", tag.name, done_ ? " to have ended the text" : "");
        return wrong("<{}> within <{}>", tag.name, inside == Element::mapping ? mapping_name_ : name_of(inside));
    }

    Result<void> close(std::string_view name) {
        std::string_view expected = element_ == Element::mapping ? mapping_name_ : name_of(element_);
        if (element_ == Element::none || name != expected)
            return wrong("</{}> where {} is expected", name, element_ == Element::none ? "nothing" : fmt::format("</{}>", expected));
        switch (element_) {
        case Element::superblock:
            element_ = Element::none;
            done_ = true;
            return sink_.superblock_end();
        case Element::definition:
            element_ = Element::superblock;
            TRY(hand_on());
            TRY(rules_.definition_end());
            return sink_.definition_end();
        case Element::device:
            element_ = Element::superblock;
            TRY(rules_.device_end());
            TRY(hand_on());
            return sink_.device_end();
        default: element_ = container_; return {};
        }
    }

    // --- Attributes ---

    // Reads the attributes that are wanted, each at most once; any other is an error.
    class Values {
      public:
        explicit Values(const Tag& tag) : tag_(tag) {}

        template <typename T>
        Result<bool> optional(std::string_view name, T& value) {
            const Attribute* attribute = find(name);
            if (attribute == nullptr)
                return false;
            std::string_view text = attribute->value;
            auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
            if (error == std::errc::result_out_of_range)
                return fail(ErrorKind::damaged, "<{}>: {} is {}, at most {} is possible", tag_.name, name, text.substr(0, 40),
                            std::numeric_limits<T>::max());
            if (error != std::errc() || end != text.data() + text.size())
                return fail(ErrorKind::damaged, "<{}>: {} is \"{}\", not a whole number", tag_.name, name, text.substr(0, 40));
            return true;
        }
        template <typename T>
        Result<T> required(std::string_view name) {
            T value{};
            if (!TRY(optional(name, value)))
                return fail(ErrorKind::damaged, "<{}> without {}", tag_.name, name);
            return value;
        }
        Result<std::string_view> text(std::string_view name) {
            const Attribute* attribute = find(name);
            if (attribute == nullptr)
                return fail(ErrorKind::damaged, "<{}> without {}", tag_.name, name);
            return attribute->value;
        }
        // After all that are wanted.
        Result<void> no_more() const {
            for (std::size_t index = 0; index < tag_.count; ++index)
                if ((seen_ & 1u << index) == 0)
                    return fail(ErrorKind::damaged, "<{}>: unknown attribute {}", tag_.name, tag_.attributes[index].name);
            return {};
        }

      private:
        const Attribute* find(std::string_view name) {
            for (std::size_t index = 0; index < tag_.count; ++index)
                if (tag_.attributes[index].name == name) {
                    seen_ |= 1u << index;
                    return &tag_.attributes[index];
                }
            return nullptr;
        }

        const Tag& tag_;
        unsigned seen_ = 0;
    };

    Result<void> superblock(const Tag& tag) {
        Values values(tag);
        PoolHeader header;
        std::uint64_t metadata_snapshot = 0;
        header.version = 2;
        header.uuid = TRY(parse_uuid(TRY(values.text("uuid"))));
        header.time = TRY(values.required<std::uint32_t>("time"));
        header.transaction_id = TRY(values.required<std::uint64_t>("transaction"));
        TRY(values.optional("flags", header.flags));
        TRY(values.optional("version", header.version));
        header.data_block_sectors = TRY(values.required<std::uint32_t>("data_block_size"));
        header.data_blocks = TRY(values.required<std::uint64_t>("nr_data_blocks"));
        TRY(values.optional("metadata_snap", metadata_snapshot));
        TRY(values.no_more());
        overrides_.apply(header);
        TRY(rules_.superblock(header));
        return sink_.superblock_begin(header);
    }

    Result<std::string> parse_uuid(std::string_view text) const {
        if (text.empty())
            return std::string();
        if (text.size() != 32 || text.find_first_not_of("0123456789abcdef") != std::string_view::npos)
            return wrong("<superblock>: uuid is \"{}\", not 32 hexadecimal digits", text.substr(0, 40));
        return std::string(text);
    }

    Result<void> definition(const Tag& tag) {
        DefinitionId id = TRY(definition_id(tag));
        TRY_WITHIN("<def>", rules_.definition_begin(id));
        return sink_.definition_begin(id);
    }

    Result<void> reference(const Tag& tag) {
        DefinitionId id = TRY(definition_id(tag));
        TRY(hand_on());
        TRY_WITHIN("<ref>", rules_.reference(id));
        return sink_.reference(id);
    }

    Result<DefinitionId> definition_id(const Tag& tag) {
        Values values(tag);
        std::string name = TRY(resolve(TRY(values.text("name"))));
        TRY(values.no_more());
        if (name.size() > max_name_bytes)
            return wrong("<{}>: a name of more than {} bytes", tag.name, max_name_bytes);
        std::uint64_t number = 0;
        auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
        bool canonical = error == std::errc() && end == name.data() + name.size() && number < first_interned_id &&
                         (name.size() == 1 || name.front() != '0');
        if (canonical)
            return DefinitionId(number);
        if (auto found = names_.find(name); found != names_.end())
            return DefinitionId(found->second);
        // A name that nothing defines isn't worth keeping: no interned id is as high as this one.
        if (tag.name == "ref")
            return DefinitionId(std::numeric_limits<std::uint64_t>::max());
        return DefinitionId(names_.emplace(std::move(name), first_interned_id + names_.size()).first->second);
    }

    Result<std::string> resolve(std::string_view text) const {
        static constexpr std::pair<std::string_view, char> entities[] = {
            {"&lt;", '<'}, {"&gt;", '>'}, {"&amp;", '&'}, {"&quot;", '"'}, {"&apos;", '\''}};
        std::string result;
        while (!text.empty()) {
            if (text.front() != '&') {
                result += text.front();
                text.remove_prefix(1);
                continue;
            }
            bool known = false;
            for (auto [entity, character] : entities)
                if (text.starts_with(entity)) {
                    result += character;
                    text.remove_prefix(entity.size());
                    known = true;
                    break;
                }
            if (!known)
                return wrong("an entity that isn't known: \"{}\"", text.substr(0, 10));
        }
        return result;
    }

    Result<void> device(const Tag& tag) {
        Values values(tag);
        DeviceHeader header;
        header.id = ThinId(TRY(values.required<std::uint32_t>("dev_id")));
        header.mapped_blocks = TRY(values.required<std::uint64_t>("mapped_blocks"));
        header.transaction_id = TRY(values.required<std::uint64_t>("transaction"));
        header.creation_time = TRY(values.required<std::uint32_t>("creation_time"));
        header.snapshotted_time = TRY(values.required<std::uint32_t>("snap_time"));
        TRY(values.no_more());
        TRY(rules_.device_begin(header));
        return sink_.device_begin(header);
    }

    Result<void> mapping(const Tag& tag) {
        Values values(tag);
        Mapping mapping;
        bool single = tag.name == "single_mapping";
        mapping.virtual_begin = VirtualBlock(TRY(values.required<std::uint64_t>(single ? "origin_block" : "origin_begin")));
        mapping.data_begin = DataBlock(TRY(values.required<std::uint64_t>(single ? "data_block" : "data_begin")));
        mapping.length = single ? 1 : TRY(values.required<std::uint64_t>("length"));
        mapping.time = TRY(values.required<std::uint32_t>("time"));
        TRY(values.no_more());
        return add(mapping);
    }

    Result<void> add(const Mapping& mapping) {
        TRY(rules_.map(mapping));
        batch_.push_back(mapping);
        if (batch_.size() == mappings_per_call)
            TRY(hand_on());
        return {};
    }

    Result<void> hand_on() {
        if (!batch_.empty())
            TRY(sink_.map(batch_));
        batch_.clear();
        return {};
    }

    // --- The fast way ---

    // Takes the digits of a number of at most 19 digits. False: there is none, or it is longer.
    static bool number(const char*& at, std::uint64_t& value) {
        const char* begin = at;
        std::uint64_t result = 0;
        for (unsigned digit; (digit = static_cast<unsigned char>(*at) - unsigned{'0'}) < 10; ++at) {
            if (at - begin == 19)
                return false;
            result = result * 10 + digit;
        }
        value = result;
        return at != begin;
    }
    template <std::size_t Size>
    static bool literal(const char*& at, const char (&text)[Size]) {
        if (std::memcmp(at, text, Size - 1) != 0)
            return false;
        at += Size - 1;
        return true;
    }

    // A whole mapping, spaces and line ends before it included. False: something else, and nothing is taken.
    Result<bool> fast_mapping() {
        if (end_ - begin_ < mapping_line_bytes) {
            if (at_end_)
                return false;
            TRY(look_ahead(mapping_line_bytes));
            if (end_ - begin_ < mapping_line_bytes)
                return false;
        }
        const char* at = window_.data() + begin_;
        // As much white space as can be there without looking at the window's end: then at least a mapping still lies in it.
        const char* last = at + mapping_line_bytes / 4;
        std::uint64_t lines = 0;
        while (at < last && is_space(*at))
            lines += *at++ == '\n';
        std::uint64_t first = 0, data = 0, length = 1, time = 0;
        bool known = false;
        if (literal(at, "<single_mapping origin_block=\""))
            known = number(at, first) && literal(at, "\" data_block=\"") && number(at, data);
        else if (literal(at, "<range_mapping origin_begin=\""))
            known = number(at, first) && literal(at, "\" data_begin=\"") && number(at, data) && literal(at, "\" length=\"") &&
                    number(at, length);
        known = known && literal(at, "\" time=\"") && number(at, time) && literal(at, "\"/>") &&
                time <= std::numeric_limits<std::uint32_t>::max();
        if (!known)
            return false;
        line_ += lines;
        begin_ = static_cast<std::size_t>(at - window_.data());
        TRY(add({VirtualBlock(first), DataBlock(data), length, static_cast<std::uint32_t>(time)}));
        return true;
    }

    TextSource& source_;
    const HeaderOverrides& overrides_;
    PoolVisitor& sink_;
    const Control& control_;
    StreamRules rules_;

    std::vector<char> window_;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    std::string_view piece_;  // what the window had no room for yet
    bool at_end_ = false;
    std::uint64_t taken_ = 0;
    std::uint64_t line_ = 1;

    Element element_ = Element::none;
    Element container_ = Element::none;  // of the open mapping or reference
    std::string_view mapping_name_;
    bool done_ = false;
    std::size_t pending_ = 0;  // bytes of the tag being handled
    std::unordered_map<std::string, std::uint64_t> names_;
    std::vector<Mapping> batch_;
};

}  // namespace

Result<void> parse_pool_xml(TextSource& source, const HeaderOverrides& overrides, PoolVisitor& sink, const Control& control) {
    return Parser(source, overrides, sink, control).run();
}

}  // namespace lamella::tools
