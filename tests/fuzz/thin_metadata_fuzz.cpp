// SPDX-License-Identifier: Apache-2.0
//
// The input changes a sound image: every 8 bytes of it name a block, an offset and what to put there. The blocks that were changed
// get a right checksum, so that what lies behind is reached. Then the pool is opened, read, changed and committed.
#include <array>
#include <cstring>
#include <set>
#include <vector>

#include "base/endian.h"
#include "device/memory_device.h"
#include "pdata/block.h"
#include "thin/metadata.h"

using namespace lamella;
using namespace lamella::thin;

namespace {

constexpr std::uint64_t device_blocks = 96;
constexpr std::size_t block_bytes = pdata::block_bytes;

struct SoundImage {
    std::vector<std::byte> bytes;
    std::array<pdata::BlockKind, device_blocks> kinds{};
};

SoundImage make_image() {
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
    }
    (void)metadata->reserve_metadata_snapshot();
    (void)metadata->commit();
    SoundImage image;
    image.bytes.resize(device.size());
    (void)read_now(device, 0, image.bytes);
    for (std::uint64_t number = 0; number < device_blocks; ++number)
        for (auto kind : {pdata::BlockKind::superblock, pdata::BlockKind::node, pdata::BlockKind::index, pdata::BlockKind::bitmap})
            if (pdata::verify_block(std::span(image.bytes).subspan(number * block_bytes, block_bytes), kind, MetadataBlock(number)))
                image.kinds[number] = kind;
    return image;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const SoundImage sound_image = make_image();
    std::vector<std::byte> bytes = sound_image.bytes;
    std::set<std::uint64_t> changed;
    for (std::size_t at = 0; at + 8 <= size && changed.size() < 64; at += 8) {
        const std::uint64_t number = data[at] % device_blocks;
        const std::size_t offset = (data[at + 1] | std::size_t{data[at + 2]} << 8) % (block_bytes - 8);
        std::memcpy(&bytes[number * block_bytes + offset], data + at + 3, 5);
        changed.insert(number);
    }
    for (std::uint64_t number : changed)
        pdata::seal_block(std::span(bytes).subspan(number * block_bytes, block_bytes), sound_image.kinds[number], MetadataBlock(number));
    MemoryDevice device(device_blocks * block_bytes);
    (void)write_now(device, 0, bytes);

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
