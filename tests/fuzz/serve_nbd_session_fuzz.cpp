// SPDX-License-Identifier: Apache-2.0
//
// What a client sends, into the protocol core. The first byte chooses TLS and the export; the second, in how long pieces the rest
// arrives. Every request is answered as the server would, so that the replies' sizes are checked too.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "serve/nbd/reply.h"
#include "serve/nbd/session.h"

namespace {

using namespace lamella;
using namespace lamella::nbd;

void require(bool condition) {
    if (!condition)
        std::abort();
}

void answer(const Session& session, const Request& request) {
    std::vector<std::byte> out(status_bytes);
    const ReplyTo to{session.style(), request.cookie, request.offset};
    std::size_t size = 0;
    if (request.error != WireError::none) {
        size = request.has_error_offset ? put_error_at(out.data(), to, request.error, request.error_text, request.error_offset)
                                        : put_error(out.data(), to, request.error, request.error_text);
        require(size <= error_bytes);
        return;
    }
    // Whatever is let through lies within the export and the limits.
    require(request.length == 0 || request.offset + request.length > request.offset);
    if (request.command == Command::read) {
        require(request.length <= limits::payload_bytes);
        size = put_data(out.data(), to, request.offset, static_cast<std::uint32_t>(request.length), true);
        require(size <= data_header_bytes);
    } else if (request.command == Command::block_status) {
        require(session.style() != ReplyStyle::simple && request.contexts != 0 && request.length > 0);
        const StatusExtent extent{request.length, true, false, 1};
        for (std::uint8_t bit = 1; bit < 1 << context::count; bit = static_cast<std::uint8_t>(bit << 1))
            if (request.contexts & bit)
                require(put_status(out.data(), to, bit, {&extent, 1}, true) <= status_bytes);
    } else {
        if (request.command == Command::write)
            require(request.payload == request.length && request.payload <= limits::payload_bytes);
        else
            require(request.payload == 0);
        require(put_success(out.data(), to, false) <= chunk_header_bytes);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2)
        return 0;
    const std::uint8_t choice = data[0];
    const std::size_t piece = data[1] == 0 ? size : data[1];
    const auto* bytes = reinterpret_cast<const std::byte*>(data);
    Session session(static_cast<TlsMode>(choice % 3));
    const ExportFacts facts{.name = "web",
                            .description = "disk",
                            .size = choice & 4 ? std::uint64_t{1} << 63 : std::uint64_t{1} << 20,
                            .read_only = (choice & 8) != 0,
                            .trims = (choice & 16) != 0};

    std::vector<std::byte> input;
    std::size_t fed = 2;
    std::uint64_t skip = 0;
    while (true) {
        if (skip > 0) {
            const auto part = std::min<std::uint64_t>(skip, input.size());
            session.payload_taken(part);
            input.erase(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(part));
            skip -= part;
        }
        Session::Event event = Session::Event::need_input;
        if (skip == 0) {
            std::span<const std::byte> left = input;
            event = session.step(left);
            require(left.size() <= input.size());
            input.erase(input.begin(), input.end() - static_cast<std::ptrdiff_t>(left.size()));
        }
        session.output().clear();
        switch (event) {
        case Session::Event::need_input: {
            if (fed == size)
                return 0;
            const std::size_t part = std::min(piece, size - fed);
            input.insert(input.end(), bytes + fed, bytes + fed + part);
            fed += part;
            // What waits for more is the beginning of one option or request.
            require(skip > 0 || input.size() - part <= limits::option_bytes + 16);
            break;
        }
        case Session::Event::list_exports: {
            const ExportInfo exports[] = {{"web", "disk", 1 << 20}};
            session.answer_exports(exports);
            break;
        }
        case Session::Event::find_export:
            if (session.wanted().empty() || session.wanted() == "web")
                session.answer_export(facts);
            else
                session.answer_export(fail(ErrorKind::not_found, "no such export"));
            if (session.closed())
                return 0;
            break;
        case Session::Event::start_tls: session.tls_started(); break;
        case Session::Event::request:
            answer(session, session.request());
            skip = session.request().payload;
            break;
        case Session::Event::close: return 0;
        }
    }
}
