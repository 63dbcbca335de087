// SPDX-License-Identifier: Apache-2.0
//
// The input is a superblock: as it is, and with its checksum set right so that the fields are reached.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "pdata/block.h"
#include "thin/superblock.h"

using namespace lamella;
using namespace lamella::thin;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::array<std::byte, metadata_block_bytes> block{};
    std::memcpy(block.data(), data, std::min(block.size(), size));
    (void)is_unformatted(block);
    (void)Superblock::unpack(block, true);
    pdata::seal_block(block, pdata::BlockKind::superblock, MetadataBlock(0));
    if (auto superblock = Superblock::unpack(block, false)) {
        std::array<std::byte, metadata_block_bytes> again = block;
        superblock->pack(again);
        if (again != block)
            std::abort();
    }
    return 0;
}
