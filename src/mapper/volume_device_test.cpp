// SPDX-License-Identifier: Apache-2.0
#include "mapper/volume_device.h"

#include <map>
#include <random>
#include <set>
#include <thread>

#include "base/endian.h"
#include "device/memory_device.h"
#include "device/test_support.h"

namespace lamella::mapper {
namespace {

using lvm2::Area;
using lvm2::LogicalVolume;
using lvm2::Segment;
using lvm2::Striped;
using lvm2::VolumeGroup;
using test::Request;

// A physical volume and a sector of it.
struct Place {
    std::string volume;
    std::uint64_t sector;
    bool operator==(const Place&) const = default;
};

// Where LVM puts each sector of a volume: laid out by walking, extent by extent and chunk by chunk, with a cursor on each stripe.
std::vector<Place> layout(const VolumeGroup& group, const LogicalVolume& volume) {
    std::vector<Place> sectors;
    for (const Segment& segment : volume.segments) {
        const Striped& striped = *segment.as<Striped>();
        std::vector<std::uint64_t> cursors;
        for (const Area& area : striped.areas)
            cursors.push_back(group.physical_volume(area.name)->data_start_sector +
                              std::uint64_t{area.first_extent} * group.extent_sectors);
        const std::size_t end = sectors.size() + std::size_t{segment.extent_count} * group.extent_sectors;
        const std::uint64_t chunk = striped.areas.size() == 1 ? group.extent_sectors : striped.stripe_sectors;
        while (sectors.size() < end)
            for (std::size_t stripe = 0; stripe < striped.areas.size(); ++stripe)
                for (std::uint64_t sector = 0; sector < chunk; ++sector)
                    sectors.push_back({striped.areas[stripe].name, cursors[stripe]++});
    }
    return sectors;
}

class VolumeDeviceTest : public testing::Test {
  protected:
    static constexpr std::uint32_t extent_sectors = 64;  // 32 KiB
    static constexpr std::uint32_t extents = 40;

    VolumeDeviceTest() {
        group.name = "vg";
        group.extent_sectors = extent_sectors;
        for (unsigned number = 0; number < 3; ++number) {
            lvm2::PhysicalVolume volume;
            volume.name = "pv" + std::to_string(number);
            volume.id = LvmId::generate();
            volume.data_start_sector = 16 * (number + 1);
            volume.extent_count = extents;
            volume.device_sectors = volume.data_start_sector + extents * extent_sectors;
            auto device = std::make_unique<MemoryDevice>(volume.device_sectors * sector_bytes, volume.name);
            // Each sector says where it is.
            std::vector<std::byte> bytes(device->size());
            for (std::uint64_t sector = 0; sector < volume.device_sectors; ++sector) {
                store_little<std::uint64_t>(&bytes[sector * sector_bytes], number);
                store_little<std::uint64_t>(&bytes[sector * sector_bytes + 8], sector);
            }
            EXPECT_TRUE(write_now(*device, 0, bytes));
            devices[volume.name] = std::move(device);
            group.physical_volumes.push_back(std::move(volume));
        }
    }

    FindDevice find() {
        return [this](std::string_view name) -> BlockDevice* {
            const auto found = devices.find(std::string(name));
            return found == devices.end() ? nullptr : found->second.get();
        };
    }

    static Segment segment(std::uint32_t start, std::uint32_t count, std::vector<Area> areas, std::uint32_t stripe_sectors = 0) {
        Segment made;
        made.start_extent = start;
        made.extent_count = count;
        made.type = "striped";
        made.body = Striped{std::move(areas), stripe_sectors};
        return made;
    }

    LogicalVolume volume(std::vector<Segment> segments) {
        LogicalVolume made;
        made.name = "lv";
        made.id = LvmId::generate();
        made.segments = std::move(segments);
        return made;
    }

    static Place read_place(std::span<const std::byte> sector) {
        return {"pv" + std::to_string(load_little<std::uint64_t>(sector.data())), load_little<std::uint64_t>(sector.data() + 8)};
    }

    void expect_layout(VolumeDevice& device, const LogicalVolume& of) {
        const std::vector<Place> expected = layout(group, of);
        ASSERT_EQ(device.size(), expected.size() * sector_bytes);
        std::vector<std::byte> bytes(device.size());
        ASSERT_TRUE(read_now(device, 0, bytes));
        for (std::size_t sector = 0; sector < expected.size(); ++sector) {
            const Place found = read_place(std::span(bytes).subspan(sector * sector_bytes, sector_bytes));
            ASSERT_EQ(found, expected[sector]) << "sector " << sector << " is at " << found.volume << ":" << found.sector << ", not at "
                                               << expected[sector].volume << ":" << expected[sector].sector;
        }
        // And in pieces of any shape.
        std::mt19937_64 random(1);
        for (int round = 0; round < 50; ++round) {
            const std::uint64_t at = random() % expected.size();
            const std::uint64_t count = 1 + random() % (expected.size() - at);
            std::vector<std::byte> piece(count * sector_bytes);
            ASSERT_TRUE(read_now(device, at * sector_bytes, piece));
            ASSERT_TRUE(std::equal(piece.begin(), piece.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at * sector_bytes)));
        }
    }

    VolumeGroup group;
    std::map<std::string, std::unique_ptr<MemoryDevice>> devices;
};

TEST_F(VolumeDeviceTest, Linear) {
    const auto lv = volume({segment(0, 5, {{"pv1", 3}})});
    auto device = VolumeDevice::open(group, lv, find());
    ASSERT_TRUE(device) << device.error().message();
    expect_layout(**device, lv);
}

TEST_F(VolumeDeviceTest, LinearSegmentsOverSeveralVolumes) {
    const auto lv =
        volume({segment(0, 5, {{"pv2", 30}}), segment(5, 1, {{"pv0", 0}}), segment(6, 7, {{"pv2", 2}}), segment(13, 40, {{"pv1", 0}})});
    auto device = VolumeDevice::open(group, lv, find());
    ASSERT_TRUE(device) << device.error().message();
    expect_layout(**device, lv);
}

TEST_F(VolumeDeviceTest, StripedOverTwoAndThree) {
    for (const std::uint32_t stripe_sectors : {8u, 16u, 64u}) {
        const auto two = volume({segment(0, 10, {{"pv2", 7}, {"pv0", 1}}, stripe_sectors)});
        auto device = VolumeDevice::open(group, two, find());
        ASSERT_TRUE(device) << device.error().message();
        expect_layout(**device, two);
        const auto three = volume({segment(0, 9, {{"pv1", 0}, {"pv0", 37}, {"pv2", 11}}, stripe_sectors)});
        device = VolumeDevice::open(group, three, find());
        ASSERT_TRUE(device) << device.error().message();
        expect_layout(**device, three);
    }
}

TEST_F(VolumeDeviceTest, StripedAndLinearSegmentsTogether) {
    const auto lv = volume({segment(0, 4, {{"pv0", 0}, {"pv1", 0}}, 16), segment(4, 3, {{"pv2", 0}}),
                            segment(7, 6, {{"pv2", 10}, {"pv0", 10}, {"pv1", 10}}, 8)});
    auto device = VolumeDevice::open(group, lv, find());
    ASSERT_TRUE(device) << device.error().message();
    expect_layout(**device, lv);
}

TEST_F(VolumeDeviceTest, WritesGoWhereReadsLook) {
    const auto lv = volume({segment(0, 4, {{"pv0", 0}, {"pv1", 5}}, 16), segment(4, 3, {{"pv2", 0}})});
    auto device = VolumeDevice::open(group, lv, find());
    ASSERT_TRUE(device);
    const auto bytes = test::pattern((*device)->size(), 3);
    ASSERT_TRUE(write_now(**device, 0, bytes));
    const std::vector<Place> places = layout(group, lv);
    for (std::size_t sector = 0; sector < places.size(); ++sector) {
        std::vector<std::byte> found(sector_bytes);
        ASSERT_TRUE(read_now(*devices[places[sector].volume], places[sector].sector * sector_bytes, found));
        ASSERT_TRUE(std::equal(found.begin(), found.end(), bytes.begin() + static_cast<std::ptrdiff_t>(sector * sector_bytes)));
    }
    // What lies beside it is untouched.
    std::vector<std::byte> beside(sector_bytes);
    ASSERT_TRUE(read_now(*devices["pv2"], (48 + 3 * extent_sectors) * sector_bytes, beside));
    EXPECT_EQ(read_place(beside), (Place{"pv2", 48 + 3 * extent_sectors}));
}

TEST_F(VolumeDeviceTest, GrowsByALongerLastSegment) {
    for (const bool striped : {false, true}) {
        auto lv = volume({striped ? segment(0, 4, {{"pv0", 2}, {"pv1", 6}}, 16) : segment(0, 4, {{"pv0", 2}})});
        auto device = VolumeDevice::open(group, lv, find());
        ASSERT_TRUE(device);
        lv.segments[0].extent_count = 10;
        ASSERT_TRUE((*device)->update(group, lv, find()));
        expect_layout(**device, lv);
    }
}

TEST_F(VolumeDeviceTest, GrowsByNewSegments) {
    auto lv = volume({segment(0, 4, {{"pv0", 2}, {"pv1", 6}}, 16)});
    auto device = VolumeDevice::open(group, lv, find());
    ASSERT_TRUE(device);
    lv.segments[0].extent_count = 6;
    lv.segments.push_back(segment(6, 2, {{"pv2", 0}}));
    ASSERT_TRUE((*device)->update(group, lv, find()));
    expect_layout(**device, lv);
    lv.segments.push_back(segment(8, 8, {{"pv2", 20}, {"pv0", 20}}, 8));
    ASSERT_TRUE((*device)->update(group, lv, find()));
    expect_layout(**device, lv);
    // The same again changes nothing.
    ASSERT_TRUE((*device)->update(group, lv, find()));
    expect_layout(**device, lv);
}

TEST_F(VolumeDeviceTest, FlushesEveryVolumeBelow) {
    const auto lv = volume({segment(0, 4, {{"pv0", 0}, {"pv1", 5}}, 16), segment(4, 1, {{"pv0", 20}})});
    auto device = VolumeDevice::open(group, lv, find());
    ASSERT_TRUE(device);
    std::vector<BlockDevice*> leaves;
    (*device)->add_leaves(leaves);
    std::set<BlockDevice*> each(leaves.begin(), leaves.end());
    EXPECT_EQ(leaves.size(), 2u);
    EXPECT_EQ(each, (std::set<BlockDevice*>{devices["pv0"].get(), devices["pv1"].get()}));
}

TEST_F(VolumeDeviceTest, RefusesWhatItCannotMap) {
    const auto kind_of = [&](const LogicalVolume& lv, const std::string& word) {
        auto device = VolumeDevice::open(group, lv, find());
        EXPECT_FALSE(device);
        if (device)
            return ErrorKind::usage;
        EXPECT_NE(device.error().message().find(word), std::string::npos) << device.error().message();
        return device.error().kind();
    };
    Segment raid = segment(0, 4, {{"pv0", 0}});
    raid.type = "raid5";
    raid.body = lvm2::Opaque{};
    EXPECT_EQ(kind_of(volume({raid}), "raid5"), ErrorKind::unsupported);
    EXPECT_EQ(kind_of(volume({segment(0, 4, {{"pv0", 0}}), segment(4, 1, {{"lv_moving", 0}})}), "lv_moving"), ErrorKind::unsupported);
    devices.erase("pv1");
    EXPECT_EQ(kind_of(volume({segment(0, 4, {{"pv0", 0}, {"pv1", 0}}, 16)}), "pv1"), ErrorKind::not_found);
    EXPECT_EQ(kind_of(volume({segment(0, 4, {{"pv2", extents - 3}})}), "pv2"), ErrorKind::damaged);
    EXPECT_EQ(kind_of(volume({segment(0, 4, {{"pv2", 0xffffffff}})}), "pv2"), ErrorKind::damaged);
}

// Growth while I/O goes on: what was there keeps its place and content.
TEST_F(VolumeDeviceTest, GrowsUnderReaders) {
    auto lv = volume({segment(0, 2, {{"pv0", 0}, {"pv1", 0}}, 16)});
    auto device = VolumeDevice::open(group, lv, find());
    ASSERT_TRUE(device);
    const std::vector<Place> places = layout(group, lv);
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> reads{0};
    std::thread reader([&] {
        std::mt19937 random(5);
        std::vector<std::byte> sector(sector_bytes);
        while (!stop.load()) {
            const std::uint64_t at = random() % places.size();
            ASSERT_TRUE(read_now(**device, at * sector_bytes, sector));
            ASSERT_EQ(read_place(sector), places[at]);
            reads.fetch_add(1);
        }
    });
    for (std::uint32_t step = 1; step <= 10; ++step) {
        lv.segments.push_back(segment(step * 2, 2, {{step % 2 == 0 ? "pv0" : "pv2", 2 + 3 * step}}));
        ASSERT_TRUE((*device)->update(group, lv, find()));
        for (const std::uint64_t seen = reads.load(); reads.load() < seen + 20;)
            std::this_thread::yield();
    }
    stop.store(true);
    reader.join();
    expect_layout(**device, lv);
}

}  // namespace
}  // namespace lamella::mapper
