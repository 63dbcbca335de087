// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/session.h"

#include <array>
#include <cstring>
#include <deque>
#include <optional>

#include <gtest/gtest.h>

#include "base/endian.h"

namespace lamella::nbd {
namespace {

using Event = Session::Event;

// Bytes put together by hand: numbers big-endian, texts as they are.
class Bytes {
  public:
    Bytes& u16(std::uint16_t value) { return number(value); }
    Bytes& u32(std::uint32_t value) { return number(value); }
    Bytes& u64(std::uint64_t value) { return number(value); }
    Bytes& text(std::string_view text) {
        for (const char c : text)
            bytes_.push_back(static_cast<std::byte>(c));
        return *this;
    }
    Bytes& string(std::string_view value) { return u32(static_cast<std::uint32_t>(value.size())).text(value); }
    Bytes& zeroes(std::size_t count) {
        bytes_.resize(bytes_.size() + count);
        return *this;
    }
    Bytes& bytes(const Bytes& more) {
        bytes_.insert(bytes_.end(), more.bytes_.begin(), more.bytes_.end());
        return *this;
    }
    const std::vector<std::byte>& get() const { return bytes_; }
    std::size_t size() const { return bytes_.size(); }

  private:
    template <typename T>
    Bytes& number(T value) {
        const std::size_t at = bytes_.size();
        bytes_.resize(at + sizeof value);
        store_big<T>(bytes_.data() + at, value);
        return *this;
    }
    std::vector<std::byte> bytes_;
};

Bytes option(std::uint32_t number, const Bytes& data = {}) {
    return Bytes().u64(0x49484156454F5054).u32(number).u32(static_cast<std::uint32_t>(data.size())).bytes(data);
}

Bytes find_data(std::string_view name, std::initializer_list<std::uint16_t> infos = {}) {
    Bytes data;
    data.string(name).u16(static_cast<std::uint16_t>(infos.size()));
    for (const std::uint16_t info : infos)
        data.u16(info);
    return data;
}

Bytes context_data(std::string_view name, std::initializer_list<std::string_view> queries) {
    Bytes data;
    data.string(name).u32(static_cast<std::uint32_t>(queries.size()));
    for (const std::string_view query : queries)
        data.string(query);
    return data;
}

struct Reply {
    std::uint32_t option;
    std::uint32_t type;
    std::string data;
};

// A session, and what a driver keeps for it.
class Client {
  public:
    explicit Client(TlsMode tls = TlsMode::none, std::uint32_t flags = 3) : session_(tls) {
        session_.output().clear();
        send(Bytes().u32(flags));
    }

    Session& session() { return session_; }

    Event send(const Bytes& bytes) {
        input_.insert(input_.end(), bytes.get().begin(), bytes.get().end());
        return step();
    }
    Event step() {
        std::span<const std::byte> left = input_;
        const Event event = session_.step(left);
        input_.erase(input_.begin(), input_.end() - static_cast<std::ptrdiff_t>(left.size()));
        return event;
    }
    std::size_t unused() const { return input_.size(); }
    void drop(std::size_t count) { input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(count)); }

    std::vector<Reply> replies() {
        std::vector<Reply> replies;
        const std::byte* at = session_.output().data();
        const std::byte* const end = at + session_.output().size();
        while (at < end) {
            EXPECT_EQ(load_big<std::uint64_t>(at), 0x3e889045565a9u);
            const auto length = load_big<std::uint32_t>(at + 16);
            replies.push_back({load_big<std::uint32_t>(at + 8), load_big<std::uint32_t>(at + 12),
                               std::string(reinterpret_cast<const char*>(at + 20), length)});
            at += 20 + length;
        }
        session_.output().clear();
        return replies;
    }
    // The type of the one reply to an option.
    std::uint32_t reply_to(const Bytes& bytes) {
        EXPECT_EQ(send(bytes), Event::need_input);
        const auto all = replies();
        EXPECT_EQ(all.size(), 1u);
        return all.empty() ? 0 : all.front().type;
    }

    ExportFacts facts{.name = "web", .description = "a web server's disk", .size = 1 << 20, .preferred_block_size = 65536, .trims = true};

    void go() {
        ASSERT_EQ(send(option(7, find_data("web"))), Event::find_export);
        session_.answer_export(facts);
        ASSERT_TRUE(session_.in_transmission());
        session_.output().clear();
    }

    // The outcome of one compact request.
    Request request(std::uint16_t command, std::uint16_t flags, std::uint64_t offset, std::uint32_t length) {
        EXPECT_EQ(send(Bytes().u32(0x25609513).u16(flags).u16(command).u64(77).u64(offset).u32(length)), Event::request);
        const Request request = session_.request();
        session_.payload_taken(request.payload);
        return request;
    }
    Request extended_request(std::uint16_t command, std::uint16_t flags, std::uint64_t offset, std::uint64_t length,
                             const Bytes& payload = {}) {
        EXPECT_EQ(send(Bytes().u32(0x21e41c71).u16(flags).u16(command).u64(77).u64(offset).u64(length).bytes(payload)), Event::request);
        const Request request = session_.request();
        session_.payload_taken(request.payload);
        if (unused() > 0)
            drop(std::min<std::size_t>(unused(), request.payload));
        return request;
    }

  private:
    Session session_;
    std::vector<std::byte> input_;
};

constexpr std::uint32_t ack = 1;
constexpr std::uint32_t unsupported = 0x80000001, policy = 0x80000002, invalid = 0x80000003, tls_required = 0x80000005,
                        unknown = 0x80000006, too_big = 0x80000009, extended_required = 0x8000000a;

TEST(Session, GreetsAsFixedNewstyle) {
    Session session(TlsMode::none);
    EXPECT_EQ(session.output(), Bytes().text("NBDMAGIC").text("IHAVEOPT").u16(3).get());
}

TEST(Session, RefusesUnknownClientFlags) {
    Session session(TlsMode::none);
    const Bytes bytes = Bytes().u32(7);
    std::span<const std::byte> input = bytes.get();
    EXPECT_EQ(session.step(input), Event::close);
    EXPECT_FALSE(session.close_reason().empty());
}

TEST(Session, TakesBytesOneByOne) {
    Client client;
    const Bytes bytes = option(7, find_data("web", {3}));
    for (std::size_t i = 0; i + 1 < bytes.size(); ++i)
        ASSERT_EQ(client.send(Bytes().text({reinterpret_cast<const char*>(bytes.get().data()) + i, 1})), Event::need_input);
    EXPECT_EQ(client.send(Bytes().text({reinterpret_cast<const char*>(bytes.get().data()) + bytes.size() - 1, 1})), Event::find_export);
    EXPECT_EQ(client.session().wanted(), "web");
    EXPECT_TRUE(client.session().wanted_for_use());
}

TEST(Session, GoTellsAllThatWasAsked) {
    Client client;
    ASSERT_EQ(client.send(option(7, find_data("", {1, 2, 3, 99}))), Event::find_export);
    client.session().answer_export(client.facts);
    const auto replies = client.replies();
    ASSERT_EQ(replies.size(), 5u);
    const auto data = [&](std::size_t i) { return Bytes().text(replies[i].data).get(); };
    EXPECT_EQ(data(0), Bytes().u16(1).text("web").get());
    EXPECT_EQ(data(1), Bytes().u16(2).text("a web server's disk").get());
    EXPECT_EQ(data(2), Bytes().u16(3).u32(1).u32(65536).u32(32 << 20).get());
    // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, CACHE, FAST_ZERO; no DF without structured replies.
    EXPECT_EQ(data(3), Bytes().u16(0).u64(1 << 20).u16(1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048).get());
    EXPECT_EQ(replies[4].type, ack);
    EXPECT_TRUE(client.session().in_transmission());
}

TEST(Session, InfoStaysInTheHandshake) {
    Client client;
    ASSERT_EQ(client.send(option(6, find_data("web"))), Event::find_export);
    EXPECT_FALSE(client.session().wanted_for_use());
    client.session().answer_export(client.facts);
    EXPECT_EQ(client.replies().back().type, ack);
    EXPECT_FALSE(client.session().in_transmission());
    EXPECT_EQ(client.reply_to(option(8)), ack);
}

TEST(Session, ReadOnlyExportsOfferNoWrites) {
    Client client;
    client.facts.read_only = true;
    client.facts.rotational = true;
    EXPECT_EQ(client.reply_to(option(8)), ack);
    client.go();
    EXPECT_EQ(client.session().transmission_flags(), 1 | 2 | 4 | 8 | 16 | 128 | 256 | 1024);
    EXPECT_EQ(client.request(1, 0, 0, 512).error, WireError::not_permitted);
    EXPECT_EQ(client.request(4, 0, 0, 512).error, WireError::not_permitted);
    EXPECT_EQ(client.request(6, 0, 0, 512).error, WireError::not_permitted);
    EXPECT_EQ(client.request(0, 0, 0, 512).error, WireError::none);
}

TEST(Session, UnknownExports) {
    Client client;
    ASSERT_EQ(client.send(option(7, find_data("db"))), Event::find_export);
    client.session().answer_export(fail(ErrorKind::not_found, "no such export"));
    EXPECT_EQ(client.replies().front().type, unknown);
    ASSERT_EQ(client.send(option(7, find_data("db"))), Event::find_export);
    client.session().answer_export(fail(ErrorKind::refused, "busy"));
    EXPECT_EQ(client.replies().front().type, policy);
    ASSERT_EQ(client.send(option(1, Bytes().text("db"))), Event::find_export);
    client.session().answer_export(fail(ErrorKind::not_found, "no such export"));
    EXPECT_TRUE(client.session().closed());
    EXPECT_TRUE(client.replies().empty());
}

TEST(Session, ExportName) {
    for (const bool no_zeroes : {false, true}) {
        Client client(TlsMode::none, no_zeroes ? 3 : 1);
        ASSERT_EQ(client.send(option(1, Bytes().text("web"))), Event::find_export);
        EXPECT_EQ(client.session().wanted(), "web");
        client.session().answer_export(client.facts);
        EXPECT_TRUE(client.session().in_transmission());
        EXPECT_EQ(client.session().output().size(), no_zeroes ? 10u : 134u);
        EXPECT_EQ(load_big<std::uint64_t>(client.session().output().data()), 1u << 20);
    }
}

TEST(Session, ExportNameIsAllThatNonFixedNewstyleHas) {
    Client client(TlsMode::none, 0);
    EXPECT_EQ(client.send(option(1, Bytes().text("web"))), Event::find_export);
    Client other(TlsMode::none, 0);
    EXPECT_EQ(other.send(option(3)), Event::close);
}

TEST(Session, Lists) {
    Client client;
    EXPECT_EQ(client.reply_to(option(3, Bytes().text("x"))), invalid);
    ASSERT_EQ(client.send(option(3)), Event::list_exports);
    const ExportInfo exports[] = {{"web", "disk", 1}, {"db", "", 2}};
    client.session().answer_exports(exports);
    const auto replies = client.replies();
    ASSERT_EQ(replies.size(), 3u);
    EXPECT_EQ(Bytes().text(replies[0].data).get(), Bytes().string("web").text("disk").get());
    EXPECT_EQ(Bytes().text(replies[1].data).get(), Bytes().string("db").get());
    EXPECT_EQ(replies[2].type, ack);
}

TEST(Session, AbortIsAnsweredAndCloses) {
    Client client(TlsMode::forced);
    EXPECT_EQ(client.send(option(2, Bytes().text("bye"))), Event::close);
    EXPECT_EQ(client.replies().front().type, ack);
    EXPECT_TRUE(client.session().close_reason().empty());
}

TEST(Session, SkipsWhatItDoesNotKnow) {
    Client client;
    EXPECT_EQ(client.reply_to(option(4)), unsupported);  // PEEK_EXPORT
    EXPECT_EQ(client.reply_to(option(12345, Bytes().zeroes(500'000))), unsupported);
    EXPECT_EQ(client.reply_to(option(7, Bytes().zeroes(500'000))), too_big);
    EXPECT_EQ(client.unused(), 0u);
    EXPECT_EQ(client.reply_to(option(8)), ack);
    EXPECT_EQ(client.send(Bytes().u64(0x49484156454F5054).u32(7).u32(0xffffffff)), Event::close);
}

TEST(Session, MalformedOptions) {
    Client client;
    EXPECT_EQ(client.reply_to(option(8)), ack);
    for (const std::uint32_t number : {6u, 7u, 9u, 10u}) {
        EXPECT_EQ(client.reply_to(option(number)), invalid);
        EXPECT_EQ(client.reply_to(option(number, Bytes().u32(0xffffffff).text("web"))), invalid);
        EXPECT_EQ(client.reply_to(option(number, Bytes().u32(100).text("web"))), invalid);
        EXPECT_EQ(client.reply_to(option(number, Bytes().string(std::string(5000, 'x')).u32(0))), invalid);
    }
    EXPECT_EQ(client.reply_to(option(7, find_data("web").u16(1))), invalid);
    EXPECT_EQ(client.reply_to(option(7, find_data(std::string_view("w\0b", 3)))), invalid);
    EXPECT_EQ(client.reply_to(option(10, Bytes().string("web").u32(0xffffffff))), invalid);
    EXPECT_EQ(client.reply_to(option(10, Bytes().string("web").u32(1).u32(0xfffffff0).text("base:"))), invalid);
    EXPECT_EQ(client.reply_to(option(10, context_data("web", {"allocation"}))), invalid);
    EXPECT_EQ(client.send(Bytes().zeroes(16)), Event::close);
}

TEST(Session, CountsOptions) {
    Client client;
    Event event = Event::need_input;
    for (unsigned i = 0; i <= limits::options && event == Event::need_input; ++i) {
        event = client.send(option(8));
        client.session().output().clear();
    }
    EXPECT_EQ(event, Event::close);
}

TEST(Session, Contexts) {
    Client client;
    EXPECT_EQ(client.reply_to(option(10, context_data("web", {"base:allocation"}))), invalid);  // no structured replies yet
    EXPECT_EQ(client.reply_to(option(8)), ack);

    const auto contexts = [&](std::uint32_t number, std::initializer_list<std::string_view> queries) {
        EXPECT_EQ(client.send(option(number, context_data("web", queries))), Event::find_export);
        client.session().answer_export(client.facts);
        std::vector<std::string> names;
        for (const Reply& reply : client.replies())
            if (reply.type == 4)
                names.push_back(reply.data.substr(4));
        return names;
    };
    using Names = std::vector<std::string>;
    EXPECT_EQ(contexts(9, {}), (Names{"base:allocation", "qemu:allocation-depth"}));
    EXPECT_EQ(contexts(9, {"base:"}), Names{"base:allocation"});
    EXPECT_EQ(contexts(9, {"qemu:", "x-other:", "base:allocation"}), (Names{"base:allocation", "qemu:allocation-depth"}));
    EXPECT_EQ(contexts(9, {"qemu:dirty-bitmap:"}), Names{});
    EXPECT_EQ(contexts(10, {}), Names{});
    EXPECT_EQ(contexts(10, {"base:", "qemu:"}), Names{});
    EXPECT_EQ(client.session().contexts(), 0);
    EXPECT_EQ(contexts(10, {"qemu:allocation-depth", "qemu:allocation-depth"}), Names{"qemu:allocation-depth"});
    EXPECT_EQ(client.session().contexts(), context::allocation_depth);

    client.go();
    EXPECT_EQ(client.request(7, 0, 0, 4096).contexts, context::allocation_depth);
}

TEST(Session, ContextsBelongToOneExport) {
    Client client;
    EXPECT_EQ(client.reply_to(option(8)), ack);
    EXPECT_EQ(client.send(option(10, context_data("web", {"base:allocation"}))), Event::find_export);
    client.session().answer_export(client.facts);
    client.replies();
    client.facts.name = "db";
    ASSERT_EQ(client.send(option(7, find_data("db"))), Event::find_export);
    client.session().answer_export(client.facts);
    EXPECT_EQ(client.session().contexts(), 0);
    EXPECT_EQ(client.request(7, 0, 0, 4096).error, WireError::invalid);
}

TEST(Session, AFailedChoiceOfContextsLeavesNone) {
    Client client;
    EXPECT_EQ(client.reply_to(option(8)), ack);
    EXPECT_EQ(client.send(option(10, context_data("web", {"base:allocation"}))), Event::find_export);
    client.session().answer_export(client.facts);
    client.replies();
    EXPECT_EQ(client.reply_to(option(10, context_data("web", {"nonsense"}))), invalid);
    EXPECT_EQ(client.session().contexts(), 0);
}

TEST(Session, ExtendedHeadersTakePrecedence) {
    Client client;
    EXPECT_EQ(client.reply_to(option(11, Bytes().text("x"))), invalid);
    EXPECT_EQ(client.reply_to(option(11)), ack);
    EXPECT_EQ(client.reply_to(option(8)), extended_required);
    EXPECT_EQ(client.session().style(), ReplyStyle::extended);
    EXPECT_EQ(client.send(option(1, Bytes().text("web"))), Event::close);
}

TEST(Session, StartTlsWithoutTls) {
    Client client;
    EXPECT_EQ(client.reply_to(option(5)), policy);
}

TEST(Session, ForcedTls) {
    Client client(TlsMode::forced);
    for (const std::uint32_t number : {3u, 6u, 7u, 8u, 9u, 10u, 11u, 99u})
        EXPECT_EQ(client.reply_to(option(number, Bytes().text("junk"))), tls_required) << number;
    EXPECT_EQ(client.reply_to(option(5, Bytes().text("x"))), invalid);
    ASSERT_EQ(client.send(option(5)), Event::start_tls);
    EXPECT_EQ(client.replies().front().type, ack);
    client.session().tls_started();
    EXPECT_EQ(client.reply_to(option(5)), invalid);
    EXPECT_EQ(client.reply_to(option(8)), ack);
    client.go();

    Client plain(TlsMode::forced);
    EXPECT_EQ(plain.send(option(1, Bytes().text("web"))), Event::close);
}

TEST(Session, TlsForgetsWhatWasAgreedBefore) {
    Client client(TlsMode::selective);
    EXPECT_EQ(client.reply_to(option(8)), ack);
    EXPECT_EQ(client.send(option(10, context_data("web", {"base:allocation"}))), Event::find_export);
    client.session().answer_export(client.facts);
    client.replies();
    ASSERT_EQ(client.send(option(5)), Event::start_tls);
    client.session().tls_started();
    EXPECT_EQ(client.session().style(), ReplyStyle::simple);
    EXPECT_EQ(client.session().contexts(), 0);
}

TEST(Session, BytesBehindStartTlsAreAnAttack) {
    Client client(TlsMode::selective);
    EXPECT_EQ(client.send(option(5).bytes(option(7, find_data("web")))), Event::close);
    EXPECT_FALSE(client.session().close_reason().empty());
}

TEST(Session, Requests) {
    Client client;
    EXPECT_EQ(client.reply_to(option(8)), ack);
    client.go();
    const Request read = client.request(0, 4, 4096, 512);
    EXPECT_EQ(read.command, Command::read);
    EXPECT_EQ(read.cookie, 77u);
    EXPECT_EQ(read.offset, 4096u);
    EXPECT_EQ(read.length, 512u);
    EXPECT_EQ(read.payload, 0u);
    EXPECT_EQ(read.error, WireError::none);
    EXPECT_EQ(client.request(1, 1, 0, 100).payload, 100u);
    EXPECT_EQ(client.request(3, 1, 0, 0).error, WireError::none);
    EXPECT_EQ(client.request(4, 1, 0, 1 << 20).error, WireError::none);
    EXPECT_EQ(client.request(5, 0, 0, 1 << 20).error, WireError::none);
    EXPECT_EQ(client.request(6, 1 | 2 | 16, 0, 1 << 20).error, WireError::none);
    EXPECT_EQ(client.request(0, 0, 1 << 20, 0).error, WireError::none);
    EXPECT_EQ(client.send(Bytes().u32(0x25609513).u16(0).u16(2).u64(1).u64(0).u32(0)), Event::close);
    EXPECT_TRUE(client.session().close_reason().empty());
}

TEST(Session, BadRequestsAreAnsweredAndTheStreamGoesOn) {
    Client client;
    client.go();
    EXPECT_EQ(client.request(0, 4, 0, 512).error, WireError::invalid);   // DF without structured replies
    EXPECT_EQ(client.request(0, 2, 0, 512).error, WireError::invalid);   // NO_HOLE
    EXPECT_EQ(client.request(0, 32, 0, 512).error, WireError::invalid);  // PAYLOAD_LEN
    EXPECT_EQ(client.request(3, 0, 0, 512).error, WireError::invalid);
    EXPECT_EQ(client.request(7, 0, 0, 512).error, WireError::invalid);  // no context
    EXPECT_EQ(client.request(8, 0, 0, 512).error, WireError::invalid);  // RESIZE
    EXPECT_EQ(client.request(0xffff, 0, 0, 512).error, WireError::invalid);
    EXPECT_EQ(client.request(1, 16, 0, 512).error, WireError::invalid);
    const Request write = client.request(1, 32, 0, 512);
    EXPECT_EQ(write.error, WireError::invalid);
    EXPECT_EQ(write.payload, 512u);  // to be skipped
    EXPECT_EQ(client.request(0, 0, 0, 512).error, WireError::none);
}

TEST(Session, RequestsBeyondTheEnd) {
    Client client;
    client.facts.size = 64 << 20;
    client.go();
    const std::uint64_t end = 64 << 20;
    EXPECT_EQ(client.request(0, 0, end - 1, 2).error, WireError::invalid);
    EXPECT_EQ(client.request(0, 0, ~std::uint64_t{0}, 2).error, WireError::invalid);
    EXPECT_EQ(client.request(0, 0, end + 1, 0).error, WireError::invalid);
    EXPECT_EQ(client.request(1, 0, end - 1, 2).error, WireError::no_space);
    EXPECT_EQ(client.request(6, 0, end - 1, 2).error, WireError::no_space);
    EXPECT_EQ(client.request(4, 0, end - 1, 2).error, WireError::invalid);
    EXPECT_EQ(client.request(5, 0, end - 1, 2).error, WireError::invalid);
    EXPECT_EQ(client.request(0, 0, 0, (32 << 20) + 1).error, WireError::overflow);
    EXPECT_EQ(client.request(1, 0, 0, (32 << 20) + 1).error, WireError::invalid);
    EXPECT_EQ(client.request(0, 0, 0, 32 << 20).error, WireError::none);
    const Request partly = client.request(0, 0, end - 512, 1024);
    EXPECT_TRUE(partly.has_error_offset);
    EXPECT_EQ(partly.error_offset, end);
    client.session().set_export_size(end + 1024);
    EXPECT_EQ(client.request(0, 0, end - 512, 1024).error, WireError::none);
    EXPECT_EQ(client.send(Bytes().u32(0x25609513).u16(0).u16(1).u64(1).u64(0).u32(0xffffffff)), Event::close);
}

TEST(Session, ExtendedRequests) {
    Client client;
    client.facts.size = std::uint64_t{1} << 50;
    EXPECT_EQ(client.reply_to(option(11)), ack);
    EXPECT_EQ(client.send(option(10, context_data("web", {"base:allocation", "qemu:allocation-depth"}))), Event::find_export);
    client.session().answer_export(client.facts);
    client.replies();
    client.go();
    EXPECT_TRUE(client.session().transmission_flags() & transmission_flag::block_status_payload);

    EXPECT_EQ(client.extended_request(6, 0, 0, std::uint64_t{1} << 50).error, WireError::none);
    EXPECT_EQ(client.extended_request(7, 8, 0, std::uint64_t{1} << 40).contexts, 3);
    EXPECT_EQ(client.extended_request(1, 0, 0, 512).error, WireError::invalid);  // WRITE without payload
    EXPECT_EQ(client.extended_request(1, 32, 0, 4, Bytes().u32(1)).payload, 4u);
    const Request read = client.extended_request(0, 32, 0, 4, Bytes().u32(1));
    EXPECT_EQ(read.error, WireError::invalid);
    EXPECT_EQ(read.payload, 4u);

    const Request chosen = client.extended_request(7, 32, 4096, 12, Bytes().u64(std::uint64_t{1} << 33).u32(2));
    EXPECT_EQ(chosen.error, WireError::none);
    EXPECT_EQ(chosen.contexts, 2);
    EXPECT_EQ(chosen.length, std::uint64_t{1} << 33);
    EXPECT_EQ(chosen.payload, 0u);
    EXPECT_EQ(client.extended_request(7, 32, 0, 16, Bytes().u64(4096).u32(2).u32(1)).contexts, 3);
    EXPECT_EQ(client.extended_request(7, 32, 0, 16, Bytes().u64(4096).u32(2).u32(2)).error, WireError::invalid);
    EXPECT_EQ(client.extended_request(7, 32, 0, 12, Bytes().u64(4096).u32(4)).error, WireError::invalid);
    EXPECT_EQ(client.extended_request(7, 32, 0, 8, Bytes().u64(4096)).error, WireError::invalid);
    EXPECT_EQ(client.extended_request(7, 32, 0, 20, Bytes().u64(4096).u32(1).u32(2).u32(3)).error, WireError::invalid);
    EXPECT_EQ(client.unused(), 0u);
    EXPECT_EQ(client.send(Bytes().u32(0x25609513).zeroes(28)), Event::close);
}

std::vector<std::byte> written(std::size_t (*put)(std::byte*, const ReplyTo&), const ReplyTo& to) {
    std::vector<std::byte> bytes(status_bytes);
    bytes.resize(put(bytes.data(), to));
    return bytes;
}

TEST(Reply, Success) {
    const auto flush = [](std::byte* out, const ReplyTo& to) { return put_success(out, to, false); };
    const auto read = [](std::byte* out, const ReplyTo& to) { return put_success(out, to, true); };
    EXPECT_EQ(written(flush, {ReplyStyle::simple, 9, 5}), Bytes().u32(0x67446698).u32(0).u64(9).get());
    EXPECT_EQ(written(flush, {ReplyStyle::structured, 9, 5}), Bytes().u32(0x67446698).u32(0).u64(9).get());
    EXPECT_EQ(written(read, {ReplyStyle::structured, 9, 5}), Bytes().u32(0x668e33ef).u16(1).u16(0).u64(9).u32(0).get());
    EXPECT_EQ(written(flush, {ReplyStyle::extended, 9, 5}), Bytes().u32(0x6e8a278c).u16(1).u16(0).u64(9).u64(5).u64(0).get());
}

TEST(Reply, Errors) {
    const auto error = [](std::byte* out, const ReplyTo& to) { return put_error(out, to, WireError::no_space, "full"); };
    EXPECT_EQ(written(error, {ReplyStyle::simple, 9, 5}), Bytes().u32(0x67446698).u32(28).u64(9).get());
    EXPECT_EQ(written(error, {ReplyStyle::structured, 9, 5}),
              Bytes().u32(0x668e33ef).u16(1).u16(0x8001).u64(9).u32(10).u32(28).u16(4).text("full").get());
    EXPECT_EQ(written(error, {ReplyStyle::extended, 9, 5}),
              Bytes().u32(0x6e8a278c).u16(1).u16(0x8001).u64(9).u64(5).u64(10).u32(28).u16(4).text("full").get());
    const auto at = [](std::byte* out, const ReplyTo& to) { return put_error_at(out, to, WireError::invalid, "end", 4096); };
    EXPECT_EQ(written(at, {ReplyStyle::structured, 9, 5}),
              Bytes().u32(0x668e33ef).u16(1).u16(0x8002).u64(9).u32(17).u32(22).u16(3).text("end").u64(4096).get());
    const auto longest = [](std::byte* out, const ReplyTo& to) {
        return put_error_at(out, to, WireError::invalid, std::string(10'000, 'x'), 4096);
    };
    EXPECT_EQ(written(longest, {ReplyStyle::extended, 9, 5}).size(), error_bytes);
}

TEST(Reply, DataAndHoles) {
    const auto data = [](std::byte* out, const ReplyTo& to) { return put_data(out, to, 4096, 512, false); };
    EXPECT_EQ(written(data, {ReplyStyle::simple, 9, 5}), Bytes().u32(0x67446698).u32(0).u64(9).get());
    EXPECT_EQ(written(data, {ReplyStyle::structured, 9, 5}), Bytes().u32(0x668e33ef).u16(0).u16(1).u64(9).u32(520).u64(4096).get());
    EXPECT_EQ(written(data, {ReplyStyle::extended, 9, 5}), Bytes().u32(0x6e8a278c).u16(0).u16(1).u64(9).u64(5).u64(520).u64(4096).get());
    const auto hole = [](std::byte* out, const ReplyTo& to) { return put_hole(out, to, 4096, 512, true); };
    EXPECT_EQ(written(hole, {ReplyStyle::structured, 9, 5}), Bytes().u32(0x668e33ef).u16(1).u16(2).u64(9).u32(12).u64(4096).u32(512).get());
    EXPECT_EQ(written(hole, {ReplyStyle::extended, 9, 5}),
              Bytes().u32(0x6e8a278c).u16(1).u16(2).u64(9).u64(5).u64(12).u64(4096).u32(512).get());
}

TEST(Reply, StatusMergesWhatOneContextCannotTellApart) {
    const StatusExtent extents[] = {{100, true, false, 1}, {200, true, false, 2}, {300, false, true, 0}};
    std::vector<std::byte> bytes(status_bytes);
    const auto status = [&](ReplyStyle style, std::uint8_t context) {
        std::vector<std::byte> out(status_bytes);
        out.resize(put_status(out.data(), {style, 9, 5}, context, extents, true));
        return out;
    };
    EXPECT_EQ(status(ReplyStyle::structured, context::allocation),
              Bytes().u32(0x668e33ef).u16(1).u16(5).u64(9).u32(20).u32(1).u32(300).u32(0).u32(300).u32(3).get());
    EXPECT_EQ(status(ReplyStyle::structured, context::allocation_depth),
              Bytes().u32(0x668e33ef).u16(1).u16(5).u64(9).u32(28).u32(2).u32(100).u32(1).u32(200).u32(2).u32(300).u32(0).get());
    EXPECT_EQ(status(ReplyStyle::extended, context::allocation),
              Bytes().u32(0x6e8a278c).u16(1).u16(6).u64(9).u64(5).u64(40).u32(1).u32(2).u64(300).u64(0).u64(300).u64(3).get());
}

}  // namespace
}  // namespace lamella::nbd
