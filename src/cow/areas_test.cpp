// SPDX-License-Identifier: Apache-2.0
//
// Areas larger than what is read or zeroed at once: with chunks of 2 MiB an area holds 131072 exceptions. A store of that size on sparse
// memory, all but the last exceptions of its first area written by hand.
#include <thread>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "cow/exception_log.h"
#include "cow/exception_store.h"
#include "cow/origin.h"
#include "device/memory_device.h"

namespace lamella::cow {
namespace {

constexpr std::uint64_t chunk = 2 << 20;
constexpr std::uint64_t per_area = chunk / exception_bytes;
constexpr std::uint64_t written_by_hand = per_area - 2;  // from chunk 0 of the origin and chunk 2 of the store on

std::vector<std::byte> filled(std::size_t size, int value) { return std::vector<std::byte>(size, static_cast<std::byte>(value)); }

std::vector<std::byte> read(BlockDevice& from, std::uint64_t offset, std::uint64_t size) {
    std::vector<std::byte> bytes(size);
    const auto got = read_now(from, offset, bytes);
    EXPECT_TRUE(got) << got.error().message();
    return bytes;
}

TEST(LargeAreas, AreReadFilledZeroedAndMerged) {
    MemoryDevice device((per_area + 8) * chunk, "origin");
    MemoryDevice store((per_area + 16) * chunk, "store");
    const auto write = [](BlockDevice& to, std::uint64_t offset, const std::vector<std::byte>& bytes) {
        const auto written = write_now(to, offset, bytes);
        ASSERT_TRUE(written) << written.error().message();
    };
    std::vector<std::byte> header(16);
    for (std::size_t at = 0; const std::uint32_t word : {0x70416e53u, 1u, 1u, std::uint32_t{chunk / sector_bytes}})
        store_little(&header[4 * at++], word);
    write(store, 0, header);
    std::vector<std::byte> area(written_by_hand * exception_bytes);
    for (std::uint64_t index = 0; index < written_by_hand; ++index) {
        store_little(&area[index * exception_bytes], index);
        store_little(&area[index * exception_bytes + 8], index + 2);
    }
    write(store, chunk, area);
    const std::uint64_t next_area = (per_area + 2) * chunk;
    write(store, next_area - 512, filled(512 + chunk + 512, 0xff));
    write(store, written_by_hand * chunk + chunk, filled(512, 7));  // the last chunk by hand
    for (std::uint64_t index = written_by_hand - 1; index < per_area + 2; ++index)
        write(device, index * chunk, filled(512, 1));

    const SnapshotOptions options{.store = {.chunk_sectors = chunk / sector_bytes}};
    auto origin = *Origin::open(device);
    auto opened = origin->open_snapshot(store, options);
    ASSERT_TRUE(opened) << opened.error().message();
    auto snapshot = *std::move(opened);
    const auto shows_its_moment = [&] {
        EXPECT_EQ(read(*snapshot, (written_by_hand - 1) * chunk, 512), filled(512, 7));
        for (std::uint64_t index = written_by_hand; index < per_area + 2; ++index)
            EXPECT_EQ(read(*snapshot, index * chunk, 512), filled(512, 1)) << index;
    };
    shows_its_moment();
    write(*origin, written_by_hand * chunk, filled(512, 2));
    EXPECT_EQ(read(store, next_area, chunk), filled(chunk, 0)) << "zeroed before the area is full";
    EXPECT_EQ(read(store, next_area + chunk, 512), filled(512, 0xff)) << "and no more than that";
    for (std::uint64_t index = written_by_hand + 1; index < per_area + 2; ++index)
        write(*origin, index * chunk, filled(512, 2));
    const auto line = fmt::format("{}/{} {}", (per_area + 5) * 4096, (per_area + 16) * 4096, 3 * 4096);
    EXPECT_EQ(snapshot->snapshot_status().line(), line) << "the header, two areas, and a chunk for each exception";
    shows_its_moment();

    snapshot.reset();
    EXPECT_EQ(inspect_store(store, device.size())->exceptions, per_area + 2);
    snapshot = *origin->open_snapshot(store, options);
    EXPECT_EQ(snapshot->snapshot_status().line(), line);
    shows_its_moment();

    // Back over the border of the areas; all of it would be 256 GiB.
    ASSERT_TRUE(origin->start_merge(snapshot));
    while (snapshot->snapshot_status().usage.allocated >= per_area * 4096)
        std::this_thread::yield();
    origin->stop_merge();
    for (std::uint64_t index = written_by_hand; index < per_area + 2; ++index)
        EXPECT_EQ(read(device, index * chunk, 512), filled(512, 1)) << index;
    snapshot.reset();
    ASSERT_TRUE(origin->end_merge());
    const auto left = inspect_store(store, device.size());
    ASSERT_TRUE(left) << left.error().message();
    EXPECT_LT(left->exceptions, written_by_hand);
}

}  // namespace
}  // namespace lamella::cow
