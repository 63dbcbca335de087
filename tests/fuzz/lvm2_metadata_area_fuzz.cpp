// SPDX-License-Identifier: Apache-2.0
//
// A metadata area with any header and ring. The header's checksum is made right, so that the input gets past it. A text that is
// then committed must be read back.
#include <cstdlib>
#include <cstring>
#include <span>

#include "base/checksum.h"
#include "base/endian.h"
#include "device/memory_device.h"
#include "lvm2/metadata_area.h"

using namespace lamella;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr lvm2::DiskArea place{4096, 32768};
    MemoryDevice device(65536, "fuzz");
    std::vector<std::byte> bytes(place.size);
    if (size > 0)
        std::memcpy(bytes.data(), data, std::min(size, bytes.size()));
    store_little<std::uint32_t>(bytes.data(), crc32_lvm(lvm_crc_initial, std::span(bytes).subspan(4, 508)));
    if (!write_now(device, place.offset, bytes))
        std::abort();
    auto area = lvm2::MetadataArea::open(device, place);
    if (!area)
        return 0;
    (void)area->read();
    const std::string text(size % 3000, 'x');
    if (area->ignored() || !area->write(text) || !area->precommit() || !area->commit())
        return 0;
    auto again = lvm2::MetadataArea::open(device, place);
    if (!again)
        std::abort();
    const auto read = again->read();
    if (!read || !*read || **read != text)
        std::abort();
    return 0;
}
