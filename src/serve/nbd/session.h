// SPDX-License-Identifier: Apache-2.0
//
// The server's side of one NBD connection, without I/O: bytes in, events out. It knows no socket, no thread and no device, so that
// tests and fuzzers drive it with bytes alone.
//
//   Handshake                                     Transmission
//     step(input) -> list_exports                   step(input) -> request
//     answer_exports(list)                          the driver takes request().payload bytes from the stream itself and says so with
//     step(input) -> find_export                    payload_taken(), performs the request, and encodes the reply with reply.h
//     answer_export(facts)
//     output() holds what to send
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "serve/export_source.h"
#include "serve/nbd/reply.h"
#include "serve/nbd/tls.h"
#include "serve/nbd/wire.h"

namespace lamella::nbd {

// What the handshake tells a client about an export.
struct ExportFacts {
    std::string name;  // the one in the list, also where the client asked for the default export
    std::string description;
    std::uint64_t size = 0;  // bytes
    std::uint32_t preferred_block_size = 4096;
    bool read_only = false;
    bool rotational = false;
    bool trims = false;
};

// One request, checked. With an error set nothing is left to do but to skip its payload and to answer.
struct Request {
    Command command = Command::read;
    std::uint16_t flags = 0;
    std::uint64_t cookie = 0;
    std::uint64_t offset = 0;   // bytes
    std::uint64_t length = 0;   // bytes of the export
    std::uint64_t payload = 0;  // bytes that follow in the stream
    std::uint8_t contexts = 0;  // BLOCK_STATUS: which to answer
    WireError error = WireError::none;
    const char* error_text = "";
    bool has_error_offset = false;
    std::uint64_t error_offset = 0;

    bool has(std::uint16_t flag) const { return (flags & flag) != 0; }
};

class Session {
  public:
    enum class Event {
        need_input,    // everything usable was taken from the input
        list_exports,  // go on after answer_exports()
        find_export,   // go on after answer_export(): the client wants to know or use export wanted()
        start_tls,     // send output(), then make TLS, then tls_started(); nothing that came before it may be used after it
        request,       // see request()
        close,         // send output() and what is in flight, then end the connection
    };

    // `tls`: what is allowed, not what is running.
    explicit Session(TlsMode tls);

    // Takes bytes from the front of `input` up to the next event. What it leaves must be there again, with more behind it, at the
    // next call. Not to be called while an answer, TLS or a payload is due, nor after close. The driver sends output() before it
    // calls again in the handshake; that bounds what a client can make it hold.
    Event step(std::span<const std::byte>& input);

    // The name that the client sent; empty for the default export.
    const std::string& wanted() const { return wanted_; }
    // The client wants this export for transmission, not only for information.
    bool wanted_for_use() const { return option_ == Option::go || option_ == Option::export_name; }
    void answer_exports(std::span<const ExportInfo> exports);
    // When the client wanted the export for use and `facts` hold it, the transmission phase has begun. Without it the session may be
    // closed, since EXPORT_NAME has no answer to say so.
    void answer_export(const Result<ExportFacts>& facts);
    void tls_started();

    // Bytes to send; the driver takes them away.
    std::vector<std::byte>& output() { return output_; }
    const std::vector<std::byte>& output() const { return output_; }

    bool in_transmission() const { return state_ == State::transmission; }
    bool closed() const { return state_ == State::closed; }
    // Why it closed; empty when the client asked for it.
    const std::string& close_reason() const { return close_reason_; }

    const Request& request() const { return request_; }
    void payload_taken(std::uint64_t bytes);
    // How to reply, and the bits of the contexts that the client chose.
    ReplyStyle style() const { return style_; }
    std::uint8_t contexts() const { return contexts_; }
    // Bytes. Requests are checked against it; the export may have grown since the handshake.
    void set_export_size(std::uint64_t size) { facts_.size = size; }
    std::uint16_t transmission_flags() const;

  private:
    enum class State { client_flags, option_header, option_data, skip, exports_due, export_due, tls_due, transmission, closed };

    Event close(std::string reason);
    Event handle_option(std::span<const std::byte> data);
    Event handle_find(std::span<const std::byte> data);
    Event handle_contexts(std::span<const std::byte> data);
    Event next_option();
    void reply(OptionReply type, std::span<const std::byte> data = {});
    void reply_error(OptionReply type, std::string_view text);
    void answer_info();
    void answer_contexts();

    Event take_request(std::span<const std::byte>& input);
    void check_request();
    void refuse(WireError error, const char* text);
    bool take_status_payload(std::span<const std::byte> payload);

    const TlsMode tls_mode_;
    bool tls_running_ = false;
    State state_ = State::client_flags;
    bool fixed_newstyle_ = false;
    bool no_zeroes_ = false;

    // The option at hand.
    Option option_{};
    std::uint32_t option_length_ = 0;
    unsigned options_ = 0;
    OptionReply skip_reply_{};
    const char* skip_text_ = "";
    std::string wanted_;
    std::uint32_t wanted_infos_ = 0;  // bits by Info
    std::uint8_t queried_contexts_ = 0;

    // What was agreed.
    ReplyStyle style_ = ReplyStyle::simple;
    std::uint8_t contexts_ = 0;
    std::string contexts_export_;
    ExportFacts facts_;

    Request request_;
    std::uint64_t payload_left_ = 0;

    std::vector<std::byte> output_;
    std::string close_reason_;
};

}  // namespace lamella::nbd
