// SPDX-License-Identifier: Apache-2.0
//
// The input changes a sound pool (changed_pool.h). Blocks of an even number get a right checksum then, so that what lies behind is reached. Whatever a repair makes of it: all of its output must be readable.
#include <cstdlib>
#include <vector>

#include "changed_pool.h"
#include "tools/repair.h"

using namespace lamella;
using namespace lamella::thin;

namespace {

void read_all(BlockDevice& device) {
    auto metadata = ThinMetadata::open(device, {.read_only = true});
    if (!metadata)
        std::abort();
    const auto devices = (*metadata)->devices(ThinId(0), 1000);
    if (!devices)
        std::abort();
    for (const DeviceEntry& device_entry : *devices) {
        std::vector<Mapping> mappings;
        VirtualBlock from{0};
        const VirtualBlock end(std::uint64_t{1} << 40);
        while (from < end) {
            const auto next = (*metadata)->lookup_range(device_entry.id, from, end, 10000, mappings);
            if (!next)
                std::abort();
            from = *next;
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const fuzz::PoolImage sound_image = fuzz::make_pool_image(true);
    const auto pool = fuzz::changed_pool(sound_image, 2, data, size);
    MemoryDevice& device = *pool;
    auto repair = tools::Repair::plan(device, {.data_block_sectors = 128});
    // A pool of so much data that its counts alone fill this: writing them all is nothing but slow.
    if (!repair || (*repair)->report().metadata_blocks > 2000)
        return 0;
    MemoryDevice output(((*repair)->report().metadata_blocks + 64) * pdata::block_bytes);
    if ((*repair)->write(output))
        read_all(output);
    return 0;
}
