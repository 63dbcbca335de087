// SPDX-License-Identifier: Apache-2.0
//
// The input: a metadata space map root (32 bytes), a data space map root (32 bytes), then 4096-byte blocks, sealed as block 1, 2,
// ... of the kind that the first byte of each says. Counts are read and changed through both maps.
#include <algorithm>
#include <array>
#include <cstring>

#include "device/memory_device.h"
#include "pdata/block.h"
#include "pdata/data_space_map.h"
#include "pdata/metadata_space_map.h"
#include "pdata/transaction.h"

using namespace lamella;
using namespace lamella::pdata;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr std::size_t root_bytes = 32;
    constexpr std::uint64_t device_blocks = 64;
    if (size < 2 * root_bytes)
        return 0;
    std::array<std::byte, 2 * root_bytes> roots;
    std::memcpy(roots.data(), data, roots.size());
    data += roots.size();
    size -= roots.size();

    MemoryDevice device(device_blocks * block_bytes);
    for (std::uint64_t number = 1; number < 16 && (number - 1) * block_bytes < size; ++number) {
        std::array<std::byte, block_bytes> block{};
        const std::size_t at = (number - 1) * block_bytes;
        std::memcpy(block.data(), data + at, std::min(block_bytes, size - at));
        constexpr BlockKind kinds[] = {BlockKind::node, BlockKind::index, BlockKind::bitmap};
        seal_block(block, kinds[data[at] % 3], MetadataBlock(number));
        if (!write_now(device, number * block_bytes, block))
            return 0;
    }
    BlockCache cache(device, 0);
    MetadataSpaceMap metadata_map(cache);
    TransactionManager manager(cache, metadata_map);
    if (!metadata_map.load(SpaceMapRoot::unpack(roots.data())))
        return 0;
    for (std::uint64_t block : {0ull, 5ull, 20000ull})
        (void)metadata_map.count(MetadataBlock(block));

    DataSpaceMap data_map(cache);
    bool sound = true;
    if (data_map.load(SpaceMapRoot::unpack(roots.data() + root_bytes))) {
        for (int count = 0; count < 20 && sound; ++count) {
            auto block = data_map.reserve();
            sound = block && data_map.take(manager, *block);
            for (int referrers = 0; referrers < count % 5 && sound; ++referrers) {
                std::uint64_t number = block->value();
                sound = data_map.increment(manager, {&number, 1}).has_value();
            }
        }
        const std::uint64_t some[] = {0, 3, 17000};
        sound = sound && data_map.decrement(manager, some) && data_map.fold(manager);
    }
    for (std::uint64_t block = 1; block < 8 && sound; ++block)
        sound = metadata_map.increment(MetadataBlock(block)) && metadata_map.increment(MetadataBlock(block)) &&
                metadata_map.decrement(MetadataBlock(block));
    if (sound)
        (void)metadata_map.fold(manager);
    return 0;
}
