// SPDX-License-Identifier: Apache-2.0
//
// The input changes a sound image: every 8 bytes of it name a block, an offset and what to put there. Blocks of an even number get a
// right checksum then, so that what lies behind is reached. Whatever a repair makes of it: all of its output must be readable.
#include <array>
#include <cstdlib>
#include <cstring>
#include <set>
#include <vector>

#include "device/memory_device.h"
#include "pdata/block.h"
#include "thin/metadata.h"
#include "tools/repair.h"

using namespace lamella;
using namespace lamella::thin;

namespace {

constexpr std::uint64_t device_blocks = 96;
constexpr std::size_t block_bytes = pdata::block_bytes;

std::vector<std::byte> make_image() {
    MemoryDevice device(device_blocks * block_bytes);
    auto metadata = ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 20000}).value();
    for (std::uint32_t id = 0; id < 2; ++id) {
        (void)metadata->create_thin(ThinId(id));
        for (std::uint64_t block = 0; block < 700; ++block)
            (void)metadata->insert(ThinId(id), VirtualBlock(block * 2), metadata->allocate_data_block().value());
    }
    for (std::uint32_t id = 2; id < 5; ++id) {
        (void)metadata->create_snapshot(ThinId(id), ThinId(id % 2));
        (void)metadata->insert(ThinId(id), VirtualBlock(5), metadata->allocate_data_block().value());
        (void)metadata->commit();
    }
    (void)metadata->reserve_metadata_snapshot();
    (void)metadata->commit();
    std::vector<std::byte> bytes(device.size());
    (void)read_now(device, 0, bytes);
    return bytes;
}

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
    static const std::vector<std::byte> sound_image = make_image();
    std::vector<std::byte> bytes = sound_image;
    std::set<std::uint64_t> changed;
    for (std::size_t at = 0; at + 8 <= size && changed.size() < 64; at += 8) {
        const std::uint64_t number = data[at] % device_blocks;
        const std::size_t offset = (data[at + 1] | std::size_t{data[at + 2]} << 8) % (block_bytes - 8);
        std::memcpy(&bytes[number * block_bytes + offset], data + at + 3, 5);
        changed.insert(number);
    }
    for (std::uint64_t number : changed) {
        const auto block = std::span(bytes).subspan(number * block_bytes, block_bytes);
        if (number % 2 == 0)
            for (auto kind : {pdata::BlockKind::superblock, pdata::BlockKind::node, pdata::BlockKind::index, pdata::BlockKind::bitmap})
                if (pdata::verify_block(std::span(sound_image).subspan(number * block_bytes, block_bytes), kind, MetadataBlock(number))) {
                    pdata::seal_block(block, kind, MetadataBlock(number));
                    break;
                }
    }
    MemoryDevice device(device_blocks * block_bytes);
    (void)write_now(device, 0, bytes);
    auto repair = tools::Repair::plan(device, {.data_block_sectors = 128});
    if (!repair || (*repair)->report().metadata_blocks > 100000)
        return 0;
    MemoryDevice output(((*repair)->report().metadata_blocks + 64) * block_bytes);
    if ((*repair)->write(output))
        read_all(output);
    return 0;
}
