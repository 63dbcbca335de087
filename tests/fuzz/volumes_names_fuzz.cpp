// SPDX-License-Identifier: Apache-2.0
//
// Addresses: what is understood is understood the same again when it is written out, whatever exists.
#include <cstdlib>
#include <string>

#include "volumes/names.h"

using namespace lamella;

namespace {

bool nothing_exists(const std::string&) { return false; }

bool images_exist(const std::string& path) { return path.ends_with(".img"); }

void check(std::string_view text, PathExists exists) {
    if (auto group = parse_group_address(text, exists)) {
        auto again = parse_group_address(group->text(), exists);
        if (!again || *again != *group || group->paths.empty() == group->name.empty())
            std::abort();
    }
    if (auto volume = parse_volume_address(text, exists)) {
        auto again = parse_volume_address(volume->text(), exists);
        if (!again || *again != *volume)
            std::abort();
    }
    (void)parse_address(text, exists);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    check(text, nothing_exists);
    check(text, images_exist);
    return 0;
}
