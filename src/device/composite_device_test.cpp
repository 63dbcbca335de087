// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <atomic>
#include <cstring>
#include <thread>

#include "device/concatenation_device.h"
#include "device/crash_device.h"
#include "device/error_device.h"
#include "device/fault_device.h"
#include "device/memory_device.h"
#include "device/slice_device.h"
#include "device/striped_device.h"
#include "device/test_support.h"
#include "device/zero_device.h"

namespace lamella {
namespace {

using test::pattern;
using test::Request;

constexpr std::uint64_t kib = 1024;
using Piece = CompositeDevice::Piece;
using Stripe = StripedDevice::Stripe;

// Three disks; a volume of a run of the first, stripes over all three, and a run of the third.
class CompositeDeviceTest : public testing::Test {
  protected:
    static constexpr std::uint64_t disk_size = 512 * kib;
    static constexpr std::uint64_t first = 36 * kib;
    static constexpr std::uint64_t striped_size = 3 * 16 * 6 * kib;
    static constexpr std::uint64_t third = 60 * kib;
    static constexpr std::uint64_t size = first + striped_size + third;

    void SetUp() override {
        for (std::size_t index = 0; index < 3; ++index) {
            memories.push_back(std::make_unique<MemoryDevice>(disk_size, fmt::format("disk{}", index)));
            disks.push_back(std::make_unique<FaultDevice>(*memories.back()));
        }
        const std::array<Stripe, 3> stripes = {Stripe{disks[0].get(), 100 * kib}, Stripe{disks[1].get(), 0},
                                               Stripe{disks[2].get(), 8 * kib}};
        striped = *StripedDevice::create(stripes, 16 * kib, striped_size, "striped");
        slice = *SliceDevice::create(*disks[2], 200 * kib, 100 * kib, "slice");
        const std::array<Piece, 3> segments = {Piece{disks[0].get(), 4 * kib, first}, Piece{striped.get(), 0, striped_size},
                                               Piece{slice.get(), 12 * kib, third}};
        device = *ConcatenationDevice::create(segments, "volume");
        queue = *make_plain_queue();
    }

    // Where a byte of the volume lies, worked out the slow way.
    std::pair<std::size_t, std::uint64_t> place_of(std::uint64_t offset) const {
        if (offset < first)
            return {0, 4 * kib + offset};
        offset -= first;
        if (offset < striped_size) {
            const std::uint64_t chunk = offset / (16 * kib);
            const std::array<std::uint64_t, 3> starts = {100 * kib, 0, 8 * kib};
            return {chunk % 3, starts[chunk % 3] + chunk / 3 * 16 * kib + offset % (16 * kib)};
        }
        return {2, 200 * kib + 12 * kib + offset - striped_size};
    }

    std::vector<std::unique_ptr<MemoryDevice>> memories;
    std::vector<std::unique_ptr<FaultDevice>> disks;
    std::unique_ptr<StripedDevice> striped;
    std::unique_ptr<SliceDevice> slice;
    std::unique_ptr<ConcatenationDevice> device;
    std::unique_ptr<IoQueue> queue;
};

// A block of a disk's is one of a device above only where pieces begin and end with blocks.
TEST(PhysicalBlocks, AreThoseThatLieOnBlocksOfTheDisks) {
    PowerSwitch power;
    CrashDevice large(512 * kib, "large", power, SparseBytes(), {}, 4096);
    MemoryDevice small(512 * kib, "small");
    ASSERT_EQ(small.traits().physical_block, 512u);
    const auto of_slice = [&](std::uint64_t start) {
        return (*SliceDevice::create(large, start, 64 * kib, "slice"))->traits().physical_block;
    };
    EXPECT_EQ(of_slice(0), 4096u);
    EXPECT_EQ(of_slice(128 * kib), 4096u);
    EXPECT_EQ(of_slice(2 * kib), 2048u);
    EXPECT_EQ(of_slice(5 * 512), 512u);
    const auto of_pieces = [&](std::vector<Piece> pieces) {
        return (*ConcatenationDevice::create(pieces, "pieces"))->traits().physical_block;
    };
    EXPECT_EQ(of_pieces({{&large, 0, 8 * kib}, {&large, 64 * kib, 512}}), 4096u) << "only the last ends within a block";
    EXPECT_EQ(of_pieces({{&large, 0, 9 * kib}, {&large, 64 * kib, 8 * kib}}), 1024u) << "the second begins within a block of the whole";
    EXPECT_EQ(of_pieces({{&large, 0, 8 * kib}, {&large, 66 * kib, 8 * kib}}), 2048u);
    EXPECT_EQ(of_pieces({{&large, 0, 8 * kib}, {&small, 0, 8 * kib}}), 512u);
    const auto of_stripes = [&](std::uint64_t start, std::uint64_t chunk) {
        const std::array<Stripe, 2> stripes = {Stripe{&large, 0}, Stripe{&large, start}};
        return (*StripedDevice::create(stripes, chunk, 4 * chunk, "stripes"))->traits().physical_block;
    };
    EXPECT_EQ(of_stripes(64 * kib, 4 * kib), 4096u);
    EXPECT_EQ(of_stripes(65 * kib, 4 * kib), 1024u);
    EXPECT_EQ(of_stripes(64 * kib, 2 * kib), 2048u);
    auto pieces = *ConcatenationDevice::create(std::array<Piece, 1>{Piece{&large, 0, 8 * kib}}, "grows");
    EXPECT_EQ(pieces->traits().physical_block, 4096u);
    ASSERT_TRUE(pieces->append(std::array<Piece, 1>{Piece{&small, 0, 8 * kib}}));
    EXPECT_EQ(pieces->traits().physical_block, 512u);
}

TEST_F(CompositeDeviceTest, PutsEveryByteInItsPlace) {
    ASSERT_EQ(device->size(), size);
    const auto data = pattern(size, 1);
    ASSERT_TRUE(write_now(*device, 0, data));
    std::vector<std::vector<std::byte>> contents(3, std::vector<std::byte>(disk_size));
    for (std::size_t index = 0; index < 3; ++index)
        ASSERT_TRUE(read_now(*memories[index], 0, contents[index]));
    std::vector<std::vector<std::byte>> expected(3, std::vector<std::byte>(disk_size));
    for (std::uint64_t offset = 0; offset < size; ++offset) {
        const auto [disk, place] = place_of(offset);
        expected[disk][place] = data[offset];
    }
    EXPECT_EQ(contents, expected);  // and nothing elsewhere
}

TEST_F(CompositeDeviceTest, RandomOperationsMatchAnArray) {
    constexpr unsigned seed = 5;
    std::mt19937 random(seed);
    std::vector<std::byte> model(size);
    for (int round = 0; round < 1000; ++round) {
        SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << round);
        const std::uint64_t offset = random() % (size / 512) * 512;
        const std::uint64_t length = random() % ((size - offset) / 512 + 1) * 512;
        std::vector<std::byte> bytes(length + 1, std::byte{0xee});  // never empty: memcmp wants an address
        switch (random() % 5) {
        case 0: {
            bytes = pattern(length, random());
            ASSERT_EQ((Request{IoOperation::write, offset, length, bytes.data()}.run(*device, *queue)), 0);
            std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
            break;
        }
        case 1:
        case 2: {
            const IoOperation operation = random() % 2 == 0 ? IoOperation::discard : IoOperation::write_zeroes;
            ASSERT_EQ((Request{operation, offset, length}.run(*device, *queue)), 0);
            std::memset(model.data() + offset, 0, length);
            break;
        }
        default: {
            HoleList holes;
            Request request{IoOperation::read, offset, length, bytes.data()};
            const std::uint64_t half = length / 1024 * 512 + (length > 512 ? 100 : 0);
            const std::array<iovec, 2> vectors = {iovec{bytes.data(), half}, iovec{bytes.data() + half, length - half}};
            request.vectors = vectors;
            if (round % 2 == 0)
                request.holes = &holes;
            ASSERT_EQ(request.run(*device, *queue), 0);
            for (std::size_t index = 0; index < holes.count; ++index) {
                const auto [at, count] = holes.holes[index];
                ASSERT_LE(at + count, length);
                for (std::uint64_t byte = at; byte < at + count; ++byte)
                    ASSERT_EQ(bytes[byte], std::byte{0xee}) << "a hole was filled in";
                std::memset(bytes.data() + at, 0, count);
            }
            ASSERT_EQ(0, std::memcmp(bytes.data(), model.data() + offset, length));
        }
        }
    }
}

TEST_F(CompositeDeviceTest, StatusAndKnownZeroJoinThePieces) {
    const auto data = pattern(size, 1);
    EXPECT_EQ(device->known_zero(0, UINT64_MAX), size);
    // 64 KiB over two stripes and a half.
    ASSERT_TRUE(write_now(*device, first + 8 * kib, std::span(data).first(40 * kib)));
    EXPECT_EQ(device->known_zero(4 * kib, UINT64_MAX), first + 4 * kib);
    EXPECT_EQ(device->known_zero(first + 8 * kib, 512), 0u);
    const auto extents = *status_now(*device, 0, UINT64_MAX, 10);
    ASSERT_EQ(extents.size(), 3u);
    EXPECT_EQ(extents[0].length, first + 8 * kib);
    EXPECT_EQ(extents[1].length, 40 * kib);
    EXPECT_TRUE(extents[1].allocated);
    EXPECT_EQ(extents[2].length, size - first - 48 * kib);
    EXPECT_EQ(status_now(*device, 0, size, 1)->front().length, first + 8 * kib);
    EXPECT_EQ(status_now(*device, 0, size, 2)->size(), 2u);
    EXPECT_FALSE(status_now(*device, size, 1, 1));
}

TEST_F(CompositeDeviceTest, FlushesEachLeafOnce) {
    EXPECT_TRUE(flush_now(*device));
    for (const auto& disk : disks)
        EXPECT_EQ(disk->count(IoOperation::flush), 1u);
    disks[1]->add({.operation = IoOperation::flush});
    EXPECT_EQ(flush_now(*device).error().error_number(), EIO);
    EXPECT_TRUE(flush_now(*slice)) << "stands on another disk";
}

TEST_F(CompositeDeviceTest, ALongTransferIsOneRequestAStripe) {
    const auto data = pattern(striped_size, 1);
    ASSERT_TRUE(write_now(*striped, 0, data));
    for (const auto& disk : disks)
        EXPECT_EQ(disk->count(IoOperation::write), 1u);
    ASSERT_TRUE(discard_now(*striped, 0, striped_size));
    for (const auto& disk : disks)
        EXPECT_EQ(disk->count(IoOperation::discard), 1u);
}

TEST_F(CompositeDeviceTest, TheErrorOfAPartIsTheErrorOfTheWholeOnce) {
    std::vector<std::byte> bytes(size);
    disks[1]->add({.operation = IoOperation::write, .error = ENOSPC});
    EXPECT_EQ((Request{IoOperation::write, 0, size, bytes.data()}.run(*device, *queue)), ENOSPC);
    EXPECT_EQ((Request{IoOperation::read, 0, size, bytes.data()}.run(*device, *queue)), 0);
    EXPECT_EQ((Request{IoOperation::write, 0, first, bytes.data()}.run(*device, *queue)), 0);
    // Every part fails, in different ways; one of them is reported, when the last has completed.
    disks[0]->add({.error = EIO});
    disks[2]->add({.hold = true});
    Request request{IoOperation::write, 0, size, bytes.data()};
    device->submit(*queue, request);
    for (int round = 0; round < 5; ++round)
        queue->run_once(false);
    EXPECT_FALSE(request.done);
    disks[2]->release();
    queue->run_until([&] { return request.done; });
    EXPECT_TRUE(request.error == EIO || request.error == ENOSPC);
}

TEST_F(CompositeDeviceTest, RefusesWhatDoesNotFit) {
    std::vector<std::byte> bytes(4096);
    EXPECT_EQ((Request{IoOperation::read, size, 512, bytes.data()}.run(*device, *queue)), EINVAL);
    EXPECT_EQ((Request{IoOperation::write, size - 512, 1024, bytes.data()}.run(*device, *queue)), ENOSPC);
    EXPECT_EQ((Request{IoOperation::write, first - 1000, 2048, bytes.data()}.run(*device, *queue)), EINVAL);
    EXPECT_EQ(memories[0]->allocated_pages(), 0u) << "nothing of a refused write is done";
    EXPECT_FALSE(SliceDevice::create(*disks[0], disk_size, 512, "x"));
    EXPECT_FALSE(SliceDevice::create(*disks[0], UINT64_MAX - 511, 1024, "x"));
    EXPECT_FALSE(SliceDevice::create(*disks[0], 100, 512, "x"));
    const Stripe stripe{disks[0].get(), 0};
    EXPECT_FALSE(StripedDevice::create({}, 4096, 4096, "x"));
    EXPECT_FALSE(StripedDevice::create({&stripe, 1}, 0, 4096, "x"));
    EXPECT_FALSE(StripedDevice::create({&stripe, 1}, 4096, 4096 * 1000, "x"));
    EXPECT_FALSE(StripedDevice::create({&stripe, 1}, 4096, 5000, "x"));
    const Piece beyond{disks[0].get(), 0, disk_size + 512};
    EXPECT_FALSE(device->append({&beyond, 1}));
    EXPECT_EQ(device->size(), size);
    EXPECT_FALSE(ConcatenationDevice::create({}, "x"));
}

TEST(ConcatenationDevice, GrowsUnderLoad) {
    constexpr std::uint64_t piece = 64 * kib;
    constexpr int pieces = 100;
    MemoryDevice disk(piece * (pieces + 1));
    const Piece begin{&disk, 0, piece};
    auto device = *ConcatenationDevice::create({&begin, 1}, "growing");
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (int index = 0; index < 2; ++index) {
        threads.emplace_back([&, index] {
            auto queue = *make_plain_queue();
            std::mt19937 random(static_cast<unsigned>(index));
            std::vector<std::byte> bytes(8 * kib);
            while (!stop) {
                const std::uint64_t size = device->size();
                const std::uint64_t offset = random() % (size / 512 - 16) * 512;
                const IoOperation operation = index == 0 ? IoOperation::write : IoOperation::read;
                ASSERT_EQ((Request{operation, offset, bytes.size(), bytes.data()}.run(*device, *queue)), 0);
            }
        });
    }
    for (std::uint64_t index = 1; index <= pieces; ++index) {
        const Piece next{&disk, piece * index, piece};
        ASSERT_TRUE(device->append({&next, 1}));
    }
    stop = true;
    for (std::thread& thread : threads)
        thread.join();
    EXPECT_EQ(device->size(), piece * (pieces + 1));
}

TEST(ErrorAndZeroDevice, FailAndForget) {
    ErrorDevice error(64 * kib, "error");
    std::vector<std::byte> bytes(4096, std::byte{1});
    EXPECT_EQ(read_now(error, 0, bytes).error().error_number(), EIO);
    EXPECT_FALSE(flush_now(error));
    EXPECT_FALSE(status_now(error, 0, 512, 1));
    ZeroDevice zero(64 * kib, "zero");
    EXPECT_TRUE(write_now(zero, 0, bytes));
    EXPECT_TRUE(read_now(zero, 0, bytes));
    EXPECT_EQ(bytes, std::vector<std::byte>(4096));
    EXPECT_EQ(zero.known_zero(512, UINT64_MAX), 64 * kib - 512);
    EXPECT_TRUE(status_now(zero, 0, 512, 1)->front().zero);
    EXPECT_EQ(write_now(zero, 64 * kib, bytes).error().error_number(), ENOSPC);
}

}  // namespace
}  // namespace lamella
