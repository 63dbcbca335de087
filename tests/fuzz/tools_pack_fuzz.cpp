// SPDX-License-Identifier: Apache-2.0
//
// The input is the instructions of one packed block, and a whole pack.
#include <array>

#include "device/memory_device.h"
#include "pdata/block.h"
#include "tools/pack.h"
#include "tools/pack_code.h"

using namespace lamella;
using namespace lamella::tools;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
    std::span<const std::byte> code = bytes;
    std::array<std::byte, pdata::block_bytes> block{};
    (void)decode_block(code, block);
    StringSource source({reinterpret_cast<const char*>(data), size}, 100);
    if (auto pack = PackReader::open(source)) {
        MemoryDevice target(64 * pdata::block_bytes);
        (void)pack->unpack(target);
    }
    return 0;
}
