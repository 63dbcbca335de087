// SPDX-License-Identifier: Apache-2.0
//
// The input is a dump in XML. What is accepted, printed and read again must be the same; how the text is cut into pieces must not matter;
// and what a device of a few blocks has room for is restored and dumped without an error.
#include <cstdlib>
#include <string>

#include "device/memory_device.h"
#include "pdata/block.h"
#include "tools/dump.h"
#include "tools/printer.h"
#include "tools/restore.h"
#include "tools/xml_parser.h"

using namespace lamella;
using namespace lamella::tools;

namespace {

class StringSink final : public TextSink {
  public:
    Result<void> write(std::string_view piece) override {
        text += piece;
        return {};
    }
    std::string text;
};

Result<std::string> printed(std::string_view xml, std::size_t piece) {
    StringSource source(xml, piece);
    StringSink sink;
    auto printer = make_printer(DumpFormat::xml, sink);
    TRY(parse_pool_xml(source, {}, *printer));
    return sink.text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::string_view xml(reinterpret_cast<const char*>(data), size);
    auto whole = printed(xml, size + 1);
    auto pieces = printed(xml, 3);
    if (whole.has_value() != pieces.has_value())
        std::abort();
    if (!whole) {
        if (whole.error().message() != pieces.error().message())
            std::abort();
        return 0;
    }
    if (*whole != *pieces || printed(*whole, 7) != *whole)
        std::abort();
    MemoryDevice device(64 * pdata::block_bytes);
    StringSource source(xml, 100);
    if (auto restored = restore(source, device, {}); !restored) {
        if (restored.error().kind() != ErrorKind::no_space)
            std::abort();
        return 0;
    }
    StringSink sink;
    auto printer = make_printer(DumpFormat::xml, sink);
    if (!dump(device, {.definitions = true}, *printer))
        std::abort();
    return 0;
}
