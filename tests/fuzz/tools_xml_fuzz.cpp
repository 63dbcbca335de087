// SPDX-License-Identifier: Apache-2.0
//
// The input is a dump in XML, or in JSON if it begins with '{'. What is accepted, printed and read again must be the same; how the text is cut into pieces must not matter;
// and what a device of a few blocks has room for is restored and dumped without an error.
#include <cstdlib>
#include <string>

#include "device/memory_device.h"
#include "pdata/block.h"
#include "tools/dump.h"
#include "tools/json_parser.h"
#include "tools/printer.h"
#include "tools/restore.h"
#include "tools/xml_parser.h"

using namespace lamella;
using namespace lamella::tools;

namespace {

bool is_json(std::string_view text) { return text.starts_with('{'); }

Result<std::string> printed(std::string_view text, std::size_t piece) {
    StringSource source(text, piece);
    StringSink sink;
    auto printer = make_printer(is_json(text) ? DumpFormat::json : DumpFormat::xml, sink);
    TRY((is_json(text) ? parse_pool_json : parse_pool_xml)(source, {}, *printer, {}));
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
