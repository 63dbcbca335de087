// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/session.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <optional>

#include "base/endian.h"
#include "serve/nbd/limits.h"

namespace lamella::nbd {

namespace {

constexpr std::size_t option_header_bytes = 16;
constexpr std::size_t export_name_zeroes = 124;

void append(std::vector<std::byte>& bytes, std::string_view text) {
    const auto* data = reinterpret_cast<const std::byte*>(text.data());
    bytes.insert(bytes.end(), data, data + text.size());
}

template <typename T>
void append_big(std::vector<std::byte>& bytes, T value) {
    std::byte stored[sizeof value];
    store_big<T>(stored, value);
    bytes.insert(bytes.end(), stored, stored + sizeof value);
}

// Takes fields off the front of an option's data; once something is missing everything is.
class Fields {
  public:
    explicit Fields(std::span<const std::byte> data) : data_(data) {}

    template <typename T>
    T number() {
        if (!has(sizeof(T)))
            return 0;
        const T value = load_big<T>(data_.data());
        data_ = data_.subspan(sizeof(T));
        return value;
    }

    // A 32-bit length and as many bytes: a string as the protocol has them.
    std::string_view string() {
        const auto length = number<std::uint32_t>();
        if (length > limits::string_bytes || !has(length)) {
            sound_ = false;
            return {};
        }
        const std::string_view text(reinterpret_cast<const char*>(data_.data()), length);
        data_ = data_.subspan(length);
        if (text.find('\0') != text.npos)
            sound_ = false;
        return text;
    }

    bool sound() const { return sound_; }
    std::size_t left() const { return data_.size(); }

  private:
    bool has(std::size_t bytes) {
        if (!sound_ || data_.size() < bytes)
            sound_ = false;
        return sound_;
    }

    std::span<const std::byte> data_;
    bool sound_ = true;
};

struct ContextName {
    std::uint8_t bit;
    std::string_view name;
    std::string_view wildcard;  // in LIST_META_CONTEXT
};
constexpr ContextName context_names[] = {
    {context::allocation, "base:allocation", "base:"},
    {context::allocation_depth, "qemu:allocation-depth", "qemu:"},
};
static_assert(std::size(context_names) == context::count);

bool is_known(Option option) {
    switch (option) {
    case Option::export_name:
    case Option::abort:
    case Option::list:
    case Option::starttls:
    case Option::info:
    case Option::go:
    case Option::structured_reply:
    case Option::list_meta_context:
    case Option::set_meta_context:
    case Option::extended_headers: return true;
    }
    return false;
}

}  // namespace

Session::Session(TlsMode tls) : tls_mode_(tls) {
    append_big<std::uint64_t>(output_, greeting_magic);
    append_big<std::uint64_t>(output_, option_magic);
    append_big<std::uint16_t>(output_, handshake_flag::fixed_newstyle | handshake_flag::no_zeroes);
}

Session::Event Session::close(std::string reason) {
    state_ = State::closed;
    close_reason_ = std::move(reason);
    return Event::close;
}

Session::Event Session::next_option() {
    state_ = State::option_header;
    return Event::need_input;  // step() goes on with what is there
}

void Session::reply(OptionReply type, std::span<const std::byte> data) {
    append_big<std::uint64_t>(output_, option_reply_magic);
    append_big<std::uint32_t>(output_, static_cast<std::uint32_t>(option_));
    append_big<std::uint32_t>(output_, static_cast<std::uint32_t>(type));
    append_big<std::uint32_t>(output_, static_cast<std::uint32_t>(data.size()));
    output_.insert(output_.end(), data.begin(), data.end());
}

void Session::reply_error(OptionReply type, std::string_view text) {
    text = text.substr(0, limits::string_bytes);
    reply(type, {reinterpret_cast<const std::byte*>(text.data()), text.size()});
}

Session::Event Session::step(std::span<const std::byte>& input) {
    for (;;) {
        switch (state_) {
        case State::client_flags: {
            if (input.size() < 4)
                return Event::need_input;
            const auto flags = load_big<std::uint32_t>(input.data());
            input = input.subspan(4);
            if (flags & ~std::uint32_t{handshake_flag::fixed_newstyle | handshake_flag::no_zeroes})
                return close("the client set unknown handshake flags");
            fixed_newstyle_ = flags & handshake_flag::fixed_newstyle;
            no_zeroes_ = flags & handshake_flag::no_zeroes;
            state_ = State::option_header;
            break;
        }
        case State::option_header: {
            if (input.size() < option_header_bytes)
                return Event::need_input;
            if (load_big<std::uint64_t>(input.data()) != option_magic)
                return close("the client sent something that is no option");
            option_ = Option{load_big<std::uint32_t>(input.data() + 8)};
            option_length_ = load_big<std::uint32_t>(input.data() + 12);
            input = input.subspan(option_header_bytes);
            if (++options_ > limits::options)
                return close("the client sent too many options");
            if (!fixed_newstyle_ && option_ != Option::export_name)
                return close("the client sent an option that non-fixed newstyle doesn't have");
            if (option_length_ > limits::skipped_option_bytes)
                return close("the client sent an option of unreasonable length");

            const bool needs_tls = tls_mode_ == TlsMode::forced && !tls_running_;
            if (option_ == Option::export_name && (needs_tls || option_length_ > limits::string_bytes))
                return close(needs_tls ? "the client wanted an export without TLS" : "the client sent a name that is too long");
            state_ = State::skip;
            if (needs_tls && option_ != Option::starttls && option_ != Option::abort) {
                skip_reply_ = OptionReply::error_tls_required;
                skip_text_ = "this server requires TLS";
            } else if (!is_known(option_)) {
                skip_reply_ = OptionReply::error_unsupported;
                skip_text_ = "unknown option";
            } else if (option_length_ > limits::option_bytes) {
                skip_reply_ = OptionReply::error_too_big;
                skip_text_ = "the option's data is too long";
            } else {
                state_ = State::option_data;
            }
            break;
        }
        case State::skip: {
            const auto skipped = std::min<std::size_t>(option_length_, input.size());
            input = input.subspan(skipped);
            option_length_ -= static_cast<std::uint32_t>(skipped);
            if (option_length_ > 0)
                return Event::need_input;
            reply_error(skip_reply_, skip_text_);
            state_ = State::option_header;
            break;
        }
        case State::option_data: {
            if (input.size() < option_length_)
                return Event::need_input;
            const auto data = input.first(option_length_);
            input = input.subspan(option_length_);
            if (option_ == Option::starttls && data.empty() && !input.empty())
                // A client waits for the answer; what lies behind was put there by somebody else, to be taken for its own.
                return close("bytes followed STARTTLS before TLS was up");
            const Event event = handle_option(data);
            if (event != Event::need_input)
                return event;
            break;
        }
        case State::transmission: return take_request(input);
        case State::exports_due:
        case State::export_due:
        case State::tls_due:
        case State::closed: assert(!"step() called while an answer is due"); return Event::need_input;
        }
    }
}

Session::Event Session::handle_option(std::span<const std::byte> data) {
    const auto refuse_data = [&] {
        reply_error(OptionReply::error_invalid, "this option has no data");
        return next_option();
    };
    switch (option_) {
    case Option::abort: reply(OptionReply::ack); return close("");
    case Option::list:
        if (!data.empty())
            return refuse_data();
        state_ = State::exports_due;
        return Event::list_exports;
    case Option::starttls:
        if (!data.empty())
            return refuse_data();
        if (tls_running_ || tls_mode_ == TlsMode::none) {
            if (tls_running_)
                reply_error(OptionReply::error_invalid, "TLS is running already");
            else
                reply_error(OptionReply::error_policy, "this server has no TLS");
            return next_option();
        }
        reply(OptionReply::ack);
        state_ = State::tls_due;
        return Event::start_tls;
    case Option::structured_reply:
        if (!data.empty())
            return refuse_data();
        if (style_ == ReplyStyle::extended) {
            reply_error(OptionReply::error_extended_header_required, "extended headers were agreed already");
            return next_option();
        }
        style_ = ReplyStyle::structured;
        reply(OptionReply::ack);
        return next_option();
    case Option::extended_headers:
        if (!data.empty())
            return refuse_data();
        style_ = ReplyStyle::extended;
        reply(OptionReply::ack);
        return next_option();
    case Option::export_name:
        if (style_ == ReplyStyle::extended)
            return close("the client used EXPORT_NAME after extended headers");
        wanted_.assign(reinterpret_cast<const char*>(data.data()), data.size());
        state_ = State::export_due;
        return Event::find_export;
    case Option::info:
    case Option::go: return handle_find(data);
    case Option::list_meta_context:
    case Option::set_meta_context: return handle_contexts(data);
    }
    assert(!"an unknown option is skipped");
    return next_option();
}

Session::Event Session::handle_find(std::span<const std::byte> data) {
    Fields fields(data);
    const std::string_view name = fields.string();
    const unsigned count = fields.number<std::uint16_t>();
    std::uint32_t infos = 0;
    for (unsigned i = 0; i < count && fields.sound(); ++i)
        if (const auto info = fields.number<std::uint16_t>(); info < 32)
            infos |= 1u << info;
    if (!fields.sound() || fields.left() > 0) {
        reply_error(OptionReply::error_invalid, "the option's data is malformed");
        return next_option();
    }
    wanted_ = name;
    wanted_infos_ = infos;
    state_ = State::export_due;
    return Event::find_export;
}

Session::Event Session::handle_contexts(std::span<const std::byte> data) {
    const bool set = option_ == Option::set_meta_context;
    if (set)
        contexts_ = 0;  // also when this one fails
    if (style_ == ReplyStyle::simple) {
        reply_error(OptionReply::error_invalid, "structured replies or extended headers must be agreed first");
        return next_option();
    }
    Fields fields(data);
    const std::string_view name = fields.string();
    const auto count = fields.number<std::uint32_t>();
    std::uint8_t queried = 0;
    if (count == 0 && !set)
        queried = context::allocation | context::allocation_depth;
    for (std::uint32_t i = 0; i < count && fields.sound(); ++i) {
        const std::string_view query = fields.string();
        if (fields.sound() && query.find(':') == query.npos) {
            reply_error(OptionReply::error_invalid, "a context query without namespace");
            return next_option();
        }
        for (const ContextName& known : context_names)
            if (query == known.name || (!set && query == known.wildcard))
                queried |= known.bit;
    }
    if (!fields.sound() || fields.left() > 0) {
        reply_error(OptionReply::error_invalid, "the option's data is malformed");
        return next_option();
    }
    wanted_ = name;
    queried_contexts_ = queried;
    state_ = State::export_due;
    return Event::find_export;
}

void Session::answer_exports(std::span<const ExportInfo> exports) {
    assert(state_ == State::exports_due);
    state_ = State::option_header;
    std::vector<std::byte> data;
    for (const ExportInfo& info : exports) {
        const auto name = std::string_view(info.name).substr(0, limits::string_bytes);
        data.clear();
        append_big<std::uint32_t>(data, static_cast<std::uint32_t>(name.size()));
        append(data, name);
        append(data, std::string_view(info.description).substr(0, limits::string_bytes));
        reply(OptionReply::server, data);
    }
    reply(OptionReply::ack);
}

void Session::answer_export(const Result<ExportFacts>& facts) {
    assert(state_ == State::export_due);
    state_ = State::option_header;
    if (!facts) {
        if (option_ == Option::export_name) {
            close(facts.error().message());
            return;
        }
        const bool refused = facts.error().kind() == ErrorKind::refused;
        reply_error(refused ? OptionReply::error_policy : OptionReply::error_unknown, facts.error().message());
        return;
    }
    facts_ = *facts;
    switch (option_) {
    case Option::list_meta_context:
    case Option::set_meta_context: answer_contexts(); return;
    case Option::info: answer_info(); return;
    default: break;
    }

    if (contexts_export_ != facts_.name)
        contexts_ = 0;
    if (option_ == Option::go) {
        answer_info();
    } else {
        append_big<std::uint64_t>(output_, facts_.size);
        append_big<std::uint16_t>(output_, transmission_flags());
        if (!no_zeroes_)
            output_.resize(output_.size() + export_name_zeroes);
    }
    state_ = State::transmission;
}

std::uint16_t Session::transmission_flags() const {
    namespace flag = transmission_flag;
    unsigned flags = flag::has_flags | flag::send_flush | flag::send_fua | flag::can_multi_conn | flag::send_cache;
    if (facts_.read_only)
        flags |= flag::read_only;
    else
        flags |= flag::send_write_zeroes | flag::send_fast_zero;
    if (facts_.trims && !facts_.read_only)
        flags |= flag::send_trim;
    if (facts_.rotational)
        flags |= flag::rotational;
    if (style_ != ReplyStyle::simple)
        flags |= flag::send_df;
    if (style_ == ReplyStyle::extended && contexts_ != 0 && contexts_export_ == facts_.name)
        flags |= flag::block_status_payload;
    return static_cast<std::uint16_t>(flags);
}

void Session::answer_info() {
    const auto wants = [&](Info info) { return (wanted_infos_ & (1u << static_cast<unsigned>(info))) != 0; };
    std::vector<std::byte> data;
    const auto begin = [&](Info info) {
        data.clear();
        append_big<std::uint16_t>(data, static_cast<std::uint16_t>(info));
    };
    if (wants(Info::name) || wanted_ != facts_.name) {
        begin(Info::name);
        append(data, facts_.name);
        reply(OptionReply::info, data);
    }
    if (wants(Info::description) && !facts_.description.empty()) {
        begin(Info::description);
        append(data, std::string_view(facts_.description).substr(0, limits::string_bytes));
        reply(OptionReply::info, data);
    }
    // Every byte can be addressed: a minimum of 1 keeps clients with 512-byte sectors usable on devices of 4096.
    begin(Info::block_size);
    append_big<std::uint32_t>(data, 1);
    append_big<std::uint32_t>(data, std::clamp(std::bit_floor(facts_.preferred_block_size), 512u, limits::payload_bytes));
    append_big<std::uint32_t>(data, limits::payload_bytes);
    reply(OptionReply::info, data);

    begin(Info::export_);
    append_big<std::uint64_t>(data, facts_.size);
    append_big<std::uint16_t>(data, transmission_flags());
    reply(OptionReply::info, data);
    reply(OptionReply::ack);
}

void Session::answer_contexts() {
    const bool set = option_ == Option::set_meta_context;
    std::vector<std::byte> data;
    for (const ContextName& known : context_names) {
        if (!(queried_contexts_ & known.bit))
            continue;
        data.clear();
        append_big<std::uint32_t>(data, set ? known.bit : 0);
        append(data, known.name);
        reply(OptionReply::meta_context, data);
    }
    if (set) {
        contexts_ = queried_contexts_;
        contexts_export_ = facts_.name;
    }
    reply(OptionReply::ack);
}

void Session::tls_started() {
    assert(state_ == State::tls_due);
    state_ = State::option_header;
    tls_running_ = true;
    // Nothing that was agreed in the clear may hold.
    style_ = ReplyStyle::simple;
    contexts_ = 0;
    contexts_export_.clear();
    facts_ = {};
}

void Session::payload_taken(std::uint64_t bytes) {
    assert(bytes <= payload_left_);
    payload_left_ -= bytes;
}

void Session::refuse(WireError error, const char* text) {
    request_.error = error;
    request_.error_text = text;
}

Session::Event Session::take_request(std::span<const std::byte>& input) {
    assert(payload_left_ == 0);
    const bool extended = style_ == ReplyStyle::extended;
    const std::size_t header = extended ? extended_request_bytes : request_bytes;
    if (input.size() < header)
        return Event::need_input;
    if (load_big<std::uint32_t>(input.data()) != (extended ? extended_request_magic : request_magic))
        return close("the client sent something that is no request");

    request_ = {};
    request_.flags = load_big<std::uint16_t>(input.data() + 4);
    request_.command = Command{load_big<std::uint16_t>(input.data() + 6)};
    request_.cookie = load_big<std::uint64_t>(input.data() + 8);
    request_.offset = load_big<std::uint64_t>(input.data() + 16);
    request_.length = extended ? load_big<std::uint64_t>(input.data() + 24) : load_big<std::uint32_t>(input.data() + 24);

    // Where the stream goes on. Compact headers: after WRITE's data. Extended headers: the client says.
    const bool says_payload = request_.has(command_flag::payload_length);
    if (extended ? says_payload : request_.command == Command::write)
        request_.payload = request_.length;
    if (request_.payload > limits::skipped_payload_bytes)
        return close("the client sent a payload of unreasonable length");

    if (request_.command == Command::disconnect)
        return close("");
    if (request_.command == Command::block_status && request_.payload > 0) {
        if (contexts_ != 0 && request_.payload > 8 && request_.payload <= 8 + 4 * context::count && request_.payload % 4 == 0) {
            if (input.size() < header + request_.payload)
                return Event::need_input;
            const bool sound = take_status_payload(input.subspan(header, request_.payload));
            input = input.subspan(header + request_.payload);
            request_.payload = 0;
            if (sound)
                check_request();
            else
                refuse(WireError::invalid, "unknown or repeated metadata contexts");
            return Event::request;
        }
        refuse(WireError::invalid, "malformed payload");
    } else {
        request_.contexts = contexts_;
        check_request();
    }
    input = input.subspan(header);
    payload_left_ = request_.payload;
    return Event::request;
}

bool Session::take_status_payload(std::span<const std::byte> payload) {
    request_.length = load_big<std::uint64_t>(payload.data());
    for (std::size_t at = 8; at < payload.size(); at += 4) {
        const auto id = load_big<std::uint32_t>(payload.data() + at);
        if (!std::has_single_bit(id) || (id & contexts_) == 0 || (id & request_.contexts) != 0)
            return false;
        request_.contexts |= static_cast<std::uint8_t>(id);
    }
    return true;
}

void Session::check_request() {
    const bool structured = style_ != ReplyStyle::simple;
    const bool extended = style_ == ReplyStyle::extended;
    unsigned allowed = command_flag::fua;  // without effect, but allowed, where nothing is written
    bool writes = false;
    switch (request_.command) {
    case Command::read:
        if (structured)
            allowed |= command_flag::do_not_fragment;
        break;
    case Command::write:
        writes = true;
        if (extended) {
            allowed |= command_flag::payload_length;
            if (!request_.has(command_flag::payload_length))
                return refuse(WireError::invalid, "WRITE without payload");
        }
        break;
    case Command::flush:
    case Command::cache: break;
    case Command::trim: writes = true; break;
    case Command::write_zeroes:
        writes = true;
        allowed |= command_flag::no_hole | command_flag::fast_zero;
        break;
    case Command::block_status:
        allowed |= command_flag::request_one;
        if (extended)
            allowed |= command_flag::payload_length;
        break;
    case Command::disconnect:
    default: return refuse(WireError::invalid, "unknown command");
    }
    if (request_.flags & ~allowed)
        return refuse(WireError::invalid, "a flag that this command doesn't have");
    if (writes && facts_.read_only)
        return refuse(WireError::not_permitted, "the export is read-only");
    if (request_.command == Command::trim && !facts_.trims)
        return refuse(WireError::invalid, "the export can't trim");
    if (request_.command == Command::flush) {
        if (request_.offset != 0 || request_.length != 0)
            refuse(WireError::invalid, "FLUSH with an offset or a length");
        return;
    }

    if (request_.offset > facts_.size || request_.length > facts_.size - request_.offset) {
        const bool stores = request_.command == Command::write || request_.command == Command::write_zeroes;
        if (request_.command == Command::read && request_.offset < facts_.size) {
            request_.has_error_offset = true;
            request_.error_offset = facts_.size;
        }
        return refuse(stores ? WireError::no_space : WireError::invalid, "beyond the end of the export");
    }
    if (request_.command == Command::write && request_.length > limits::payload_bytes)
        return refuse(WireError::invalid, "longer than the maximum payload");
    if (request_.command == Command::read && request_.length > limits::payload_bytes)
        return refuse(WireError::overflow, "longer than the maximum payload");
    if (request_.command == Command::block_status) {
        if (request_.contexts == 0)
            return refuse(WireError::invalid, "no metadata context was agreed");
        if (request_.length == 0)
            return refuse(WireError::invalid, "a status of nothing");
    }
}

}  // namespace lamella::nbd
