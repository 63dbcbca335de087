// SPDX-License-Identifier: Apache-2.0
//
// The input changes a sound pool (changed_pool.h). The blocks that were changed get a right checksum, so that what lies behind is reached. Then the pool is opened, read, changed and committed.
#include <vector>

#include "changed_pool.h"

using namespace lamella;
using namespace lamella::thin;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const fuzz::PoolImage sound_image = fuzz::make_pool_image(false);
    const auto pool = fuzz::changed_pool(sound_image, 1, data, size);
    MemoryDevice& device = *pool;

    for (bool read_only : {true, false}) {
        auto opened = ThinMetadata::open(device, {.read_only = read_only, .cache_bytes = 0});
        if (!opened)
            continue;
        ThinMetadata& metadata = **opened;
        for (std::uint32_t first = 0; first <= 4; ++first)
            (void)metadata.devices(ThinId(first), 10);
        for (std::uint32_t id = 0; id < 5; ++id) {
            (void)metadata.lookup(ThinId(id), VirtualBlock(4));
            (void)metadata.highest_mapped(ThinId(id));
            std::vector<Mapping> mappings;
            (void)metadata.lookup_range(ThinId(id), VirtualBlock(0), VirtualBlock(1 << 20), 2000, mappings);
        }
        if (read_only)
            continue;
        auto use = [](const auto& result) { return result.has_value(); };
        for (std::uint32_t id = 0; id < 5 && !metadata.must_abort(); ++id) {
            for (std::uint64_t block : {4, 5, 900}) {
                (void)metadata.data_block_is_exclusive(ThinId(id), VirtualBlock(block));
                if (auto fresh = metadata.allocate_data_block(); fresh && !use(metadata.insert(ThinId(id), VirtualBlock(block), *fresh)))
                    metadata.release_data_block(*fresh);
            }
            (void)metadata.remove_range(ThinId(id), VirtualBlock(100), VirtualBlock(600), 4);
        }
        (void)metadata.create_snapshot(ThinId(9), ThinId(0));
        (void)metadata.remove_device(ThinId(1), 2);
        (void)metadata.remove_device(ThinId(2));
        (void)metadata.release_metadata_snapshot();
        (void)metadata.grow_data(40000);
        if (metadata.must_abort() || !use(metadata.commit()))
            (void)metadata.abort();
        (void)metadata.create_thin(ThinId(10));
        (void)metadata.commit();
    }
    return 0;
}
