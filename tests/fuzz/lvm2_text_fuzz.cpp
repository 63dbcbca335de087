// SPDX-License-Identifier: Apache-2.0
//
// Configuration text: what is parsed, printed and parsed again is the same.
#include <cstdlib>
#include <string_view>

#include "lvm2/text.h"

using namespace lamella;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto text = lvm2::parse_text({reinterpret_cast<const char*>(data), size});
    if (!text)
        return 0;
    for (const lvm2::TextStyle style : {lvm2::TextStyle::on_disk, lvm2::TextStyle::human}) {
        lvm2::TextWriter writer(style);
        for (const lvm2::TextEntry& entry : text->entries)
            writer.entry(entry);
        const auto again = lvm2::parse_text(writer.text());
        if (!again || *again != *text)
            std::abort();
    }
    return 0;
}
