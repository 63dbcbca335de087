// SPDX-License-Identifier: Apache-2.0
//
// bench_make_pool FILE BYTES VOLUMES MAPPINGS SNAPSHOTS OWN_MAPPINGS random|linear: metadata of that shape (tools/generate.h) in a new file
// of that size.
#include <cstdlib>
#include <string_view>

#include <fmt/format.h>

#include "device/file_device.h"
#include "tools/builder.h"
#include "tools/generate.h"

namespace {

lamella::Result<void> make_pool(char** words) {
    auto number = [](const char* word) { return std::strtoull(word, nullptr, 10); };
    auto device = TRY(lamella::FileDevice::open(words[1], {.create = number(words[2])}));
    auto builder = TRY(lamella::tools::MetadataBuilder::start(*device));
    return lamella::tools::generate(*builder, {.volumes = static_cast<std::uint32_t>(number(words[3])),
                                               .mappings = number(words[4]),
                                               .snapshots = static_cast<std::uint32_t>(number(words[5])),
                                               .own_mappings = number(words[6]),
                                               .random = std::string_view(words[7]) == "random"});
}

}  // namespace

int main(int count, char** words) {
    if (count != 8) {
        fmt::print(stderr, "bench_make_pool FILE BYTES VOLUMES MAPPINGS SNAPSHOTS OWN_MAPPINGS random|linear\n");
        return 2;
    }
    if (auto made = make_pool(words); !made) {
        fmt::print(stderr, "bench_make_pool: {}\n", made.error().message());
        return 1;
    }
    return 0;
}
