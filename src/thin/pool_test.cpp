// SPDX-License-Identifier: Apache-2.0
//
// The pool as its users see it. Most tests run twice: with the pool on a queue that the test steps, on a clock that stands, and
// with the pool on its own thread.
#include "thin/pool.h"

#include <algorithm>
#include <latch>
#include <random>
#include <thread>

#include "base/checksum.h"
#include "base/endian.h"
#include "device/fault_device.h"
#include "device/file_device.h"
#include "device/memory_device.h"
#include "device/test_support.h"
#include "thin/volume.h"

namespace lamella::thin {
namespace {

using namespace std::chrono_literals;
using test::pattern;
using test::Request;

constexpr std::uint64_t block = 64 * 1024;
constexpr std::uint64_t metadata_bytes = 4 << 20;

PoolChange creation(std::uint32_t id) { return {PoolChange::Kind::create_thin, ThinId(id)}; }
PoolChange snapshot(std::uint32_t id, std::uint32_t origin) { return {PoolChange::Kind::create_snapshot, ThinId(id), ThinId(origin)}; }
PoolChange removal(std::uint32_t id) { return {PoolChange::Kind::remove, ThinId(id)}; }

// One user of volumes on the calling thread.
class Client {
  public:
    explicit Client(IoQueue& queue) : queue_(queue) {}

    int write(BlockDevice& volume, std::uint64_t offset, std::vector<std::byte> bytes, bool durable = false) {
        Request request(IoOperation::write, offset, bytes.size(), bytes.data());
        request.durable = durable;
        return request.run(volume, queue_);
    }
    int fill(BlockDevice& volume, std::uint64_t offset, std::uint64_t length, char with) {
        return write(volume, offset, std::vector<std::byte>(length, static_cast<std::byte>(with)));
    }
    std::vector<std::byte> read(BlockDevice& volume, std::uint64_t offset, std::uint64_t length) {
        std::vector<std::byte> bytes(length, std::byte{0xee});
        Request request(IoOperation::read, offset, length, bytes.data());
        EXPECT_EQ(request.run(volume, queue_), 0);
        return bytes;
    }
    // All bytes of the range are this one.
    bool holds(BlockDevice& volume, std::uint64_t offset, std::uint64_t length, char byte) {
        const auto bytes = read(volume, offset, length);
        return std::all_of(bytes.begin(), bytes.end(), [&](std::byte each) { return each == static_cast<std::byte>(byte); });
    }
    int run(BlockDevice& volume, IoOperation operation, std::uint64_t offset = 0, std::uint64_t length = 0) {
        return Request(operation, offset, length).run(volume, queue_);
    }
    int flush(BlockDevice& volume) { return run(volume, IoOperation::flush); }
    int discard(BlockDevice& volume, std::uint64_t offset, std::uint64_t length) {
        return run(volume, IoOperation::discard, offset, length);
    }
    std::vector<StatusExtent> status(BlockDevice& volume, std::uint64_t offset, std::uint64_t length, std::size_t max_extents = 100) {
        struct Asked : StatusRequest {
            std::optional<int> error;
        } asked;
        asked.offset = offset;
        asked.length = length;
        asked.max_extents = max_extents;
        asked.completed = [](StatusRequest& request, int error) { static_cast<Asked&>(request).error = error; };
        volume.status(queue_, asked);
        queue_.run_until([&] { return asked.error.has_value(); });
        EXPECT_EQ(*asked.error, 0);
        return asked.extents;
    }
    IoQueue& queue() { return queue_; }

  private:
    IoQueue& queue_;
};

enum class Mode { stepped, threaded };

class PoolTest : public testing::Test {
  protected:
    void set_up(Mode mode, std::uint64_t data_blocks = 64, std::uint64_t metadata_size = metadata_bytes) {
        mode_ = mode;
        metadata_memory = std::make_unique<MemoryDevice>(metadata_size, "metadata");
        metadata = std::make_unique<FaultDevice>(*metadata_memory);
        data_memory = std::make_unique<MemoryDevice>(data_blocks * options.data_block_sectors * sector_bytes, "data");
        data = std::make_unique<FaultDevice>(*data_memory);
        pool_queue = *make_plain_queue(clock);
        own_queue = *make_io_queue();
        client = std::make_unique<Client>(mode == Mode::stepped ? *pool_queue : *own_queue);
        ASSERT_TRUE(ThinPool::format(*metadata, data->size(), options.data_block_sectors));
    }
    void open() {
        auto opened = ThinPool::open(*metadata, *data, options, mode_ == Mode::stepped ? pool_queue.get() : nullptr);
        ASSERT_TRUE(opened) << opened.error().message();
        pool = *std::move(opened);
    }
    void start(Mode mode, std::uint64_t data_blocks = 64, std::uint64_t metadata_size = metadata_bytes) {
        set_up(mode, data_blocks, metadata_size);
        open();
    }
    void close() {
        auto closed = pool->close();
        EXPECT_TRUE(closed) << closed.error().message();
        pool.reset();
    }
    void reopen() {
        close();
        open();
    }

    void change(std::vector<PoolChange> changes) {
        auto done = pool->transact(changes, transaction, transaction + 1);
        ASSERT_TRUE(done) << done.error().message();
        ++transaction;
    }
    std::shared_ptr<ThinVolume> volume(std::uint32_t id, std::uint64_t size = 32 * block, BlockDevice* origin = nullptr) {
        auto opened = pool->open_volume(ThinId(id), size, fmt::format("volume{}", id), origin);
        EXPECT_TRUE(opened) << opened.error().message();
        return opened ? *opened : nullptr;
    }
    std::shared_ptr<ThinVolume> created(std::uint32_t id, std::uint64_t size = 32 * block, BlockDevice* origin = nullptr) {
        change({creation(id)});
        return volume(id, size, origin);
    }
    PoolStatus status() {
        auto answer = pool->status();
        EXPECT_TRUE(answer);
        return *answer;
    }
    std::uint64_t used() { return status().used_data_blocks; }

    // What the metadata on the device says as of the last commit.
    std::unique_ptr<ThinMetadata> committed() {
        ThinMetadata::Options read_only;
        read_only.read_only = true;
        auto opened = ThinMetadata::open(*metadata_memory, read_only);
        EXPECT_TRUE(opened) << opened.error().message();
        return *std::move(opened);
    }
    void settle() {
        while (pool_queue->run_once(false)) {}
    }

    ManualClock clock;
    ThinPoolOptions options;
    std::unique_ptr<MemoryDevice> metadata_memory;
    std::unique_ptr<FaultDevice> metadata;
    std::unique_ptr<MemoryDevice> data_memory;
    std::unique_ptr<FaultDevice> data;
    std::unique_ptr<IoQueue> pool_queue;
    std::unique_ptr<IoQueue> own_queue;
    std::unique_ptr<Client> client;
    // Of other threads: they live until the pool is gone, which may still be on its way out of a post() to them.
    std::vector<std::unique_ptr<IoQueue>> more_queues;
    IoQueue& another_queue() {
        more_queues.push_back(*make_io_queue());
        return *more_queues.back();
    }
    std::unique_ptr<ThinPool> pool;
    std::uint64_t transaction = 0;

  private:
    Mode mode_ = Mode::stepped;
};

class PoolBothWays : public PoolTest, public testing::WithParamInterface<Mode> {};
INSTANTIATE_TEST_SUITE_P(Queues, PoolBothWays, testing::Values(Mode::stepped, Mode::threaded),
                         [](const auto& mode) { return mode.param == Mode::stepped ? "stepped" : "threaded"; });

// --- Reading and writing --------------------------------------------------------------------------------------------------

TEST_P(PoolBothWays, WhatWasNeverWrittenReadsAsZerosAndIsReportedAsHoles) {
    start(GetParam());
    auto web = created(1);
    EXPECT_TRUE(client->holds(*web, 0, web->size(), 0));
    ASSERT_EQ(client->fill(*web, block, block, 'a'), 0);

    std::vector<std::byte> bytes(3 * block, std::byte{0xee});
    HoleList holes;
    Request request(IoOperation::read, block / 2, 2 * block, bytes.data());
    request.holes = &holes;
    ASSERT_EQ(request.run(*web, client->queue()), 0);
    ASSERT_EQ(holes.count, 2u);
    std::sort(holes.holes.begin(), holes.holes.begin() + 2, [](auto& left, auto& right) { return left.offset < right.offset; });
    EXPECT_EQ(holes.holes[0].offset, 0u);
    EXPECT_EQ(holes.holes[0].length, block / 2);
    EXPECT_EQ(holes.holes[1].offset, block + block / 2);
    EXPECT_EQ(holes.holes[1].length, block / 2);
    EXPECT_EQ(bytes[block / 2], std::byte{'a'});
    EXPECT_EQ(bytes[block + block / 2 - 1], std::byte{'a'});
    web.reset();
    close();
}

TEST_P(PoolBothWays, MoreHolesThanTheListTakesAreFilledWithZeros) {
    start(GetParam(), 128);
    auto web = created(1, 96 * block);
    for (std::uint64_t number = 0; number < 96; number += 2)
        ASSERT_EQ(client->fill(*web, number * block, 512, 'x'), 0);
    std::vector<std::byte> bytes(web->size(), std::byte{0xee});
    HoleList holes;
    Request request(IoOperation::read, 0, bytes.size(), bytes.data());
    request.holes = &holes;
    ASSERT_EQ(request.run(*web, client->queue()), 0);
    EXPECT_EQ(holes.count, HoleList::capacity);
    for (std::size_t hole = 0; hole < holes.count; ++hole)
        std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(holes.holes[hole].offset), holes.holes[hole].length, std::byte{0});
    for (std::uint64_t at = 0; at < bytes.size(); ++at)
        ASSERT_EQ(bytes[at], static_cast<std::byte>(at % (2 * block) < 512 ? 'x' : 0)) << at;
    web.reset();
    close();
}

TEST_P(PoolBothWays, ANewBlockNeverShowsWhatTheDataDeviceHeld) {
    set_up(GetParam());
    ASSERT_TRUE(write_now(*data_memory, 0, std::vector<std::byte>(data_memory->size(), std::byte{0xdb})));
    open();
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 4096, 512, 'a'), 0);              // within a block
    ASSERT_EQ(client->fill(*web, 3 * block - 512, 1024, 'b'), 0);  // over an edge
    ASSERT_EQ(client->fill(*web, 5 * block, block, 'c'), 0);       // all of it
    ASSERT_EQ(client->fill(*web, 8 * block - 100 * 512, 512, 'd'), 0);
    EXPECT_EQ(used(), 5u);
    std::vector<std::byte> expected(web->size());
    std::fill_n(expected.begin() + 4096, 512, std::byte{'a'});
    std::fill_n(expected.begin() + 3 * block - 512, 1024, std::byte{'b'});
    std::fill_n(expected.begin() + 5 * block, block, std::byte{'c'});
    std::fill_n(expected.begin() + 8 * block - 100 * 512, 512, std::byte{'d'});
    EXPECT_EQ(client->read(*web, 0, web->size()), expected);
    web.reset();
    reopen();
    web = volume(1);
    EXPECT_EQ(client->read(*web, 0, web->size()), expected);
    web.reset();
    close();
}

TEST_P(PoolBothWays, AWholeBlockIsWrittenOnceAndAPartIsZeroedAround) {
    start(GetParam());
    auto web = created(1);
    const std::uint64_t before = data->count(IoOperation::write) + data->count(IoOperation::write_zeroes);
    ASSERT_EQ(client->fill(*web, 0, block, 'a'), 0);
    EXPECT_EQ(data->count(IoOperation::write) + data->count(IoOperation::write_zeroes), before + 1);
    web.reset();
    close();
}

TEST_P(PoolBothWays, RefusesWhatLiesBeyondTheEnd) {
    start(GetParam());
    auto web = created(1, 3 * block + 4096);
    EXPECT_EQ(client->fill(*web, 3 * block, 4096, 'a'), 0);
    EXPECT_EQ(client->fill(*web, 3 * block, 8192, 'a'), ENOSPC);
    std::vector<std::byte> bytes(8192);
    EXPECT_EQ(Request(IoOperation::read, 3 * block, 8192, bytes.data()).run(*web, client->queue()), EINVAL);
    EXPECT_EQ(client->discard(*web, UINT64_MAX - 4095, 8192), EINVAL);
    EXPECT_EQ(client->run(*web, IoOperation::write_zeroes, UINT64_MAX - 4095, 8192), ENOSPC);
    web->resize(10 * block);
    EXPECT_EQ(web->size(), 10 * block);
    EXPECT_EQ(client->fill(*web, 9 * block, block, 'z'), 0);
    EXPECT_TRUE(client->holds(*web, 3 * block, 4096, 'a'));
    EXPECT_TRUE(client->holds(*web, 3 * block + 4096, 6 * block - 4096, 0));
    web.reset();
    close();
}

TEST_P(PoolBothWays, SharesOneObjectAmongOpenersAndKnowsWhatIsNotThere) {
    start(GetParam());
    auto web = created(1);
    EXPECT_EQ(volume(1), web);
    auto missing = pool->open_volume(ThinId(9), block, "nine");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().kind(), ErrorKind::not_found);
    web.reset();
    web = volume(1);
    EXPECT_NE(web, nullptr);
    web.reset();
    close();
}

// --- Snapshots ------------------------------------------------------------------------------------------------------------

TEST_P(PoolBothWays, ASnapshotKeepsItsMomentAndBothSidesCanBeWritten) {
    start(GetParam());
    auto web = created(1);
    const auto content = pattern(4 * block, 7);
    ASSERT_EQ(client->write(*web, 0, content), 0);
    change({snapshot(2, 1)});
    auto copy = volume(2);
    EXPECT_EQ(used(), 4u);

    ASSERT_EQ(client->fill(*web, block + 512, 512, 'o'), 0);
    EXPECT_EQ(used(), 5u);
    ASSERT_EQ(client->fill(*copy, 2 * block, block, 's'), 0);
    EXPECT_EQ(used(), 6u);
    ASSERT_EQ(client->fill(*copy, 9 * block, 512, 'n'), 0);
    EXPECT_EQ(used(), 7u);

    auto of_web = content;
    std::fill_n(of_web.begin() + block + 512, 512, std::byte{'o'});
    EXPECT_EQ(client->read(*web, 0, 4 * block), of_web);
    EXPECT_TRUE(client->holds(*web, 9 * block, block, 0));
    auto of_copy = content;
    std::fill_n(of_copy.begin() + 2 * block, block, std::byte{'s'});
    EXPECT_EQ(client->read(*copy, 0, 4 * block), of_copy);

    // A block that was copied once is its volume's own.
    ASSERT_EQ(client->fill(*web, block, 512, 'p'), 0);
    EXPECT_EQ(used(), 7u);
    web.reset();
    copy.reset();
    close();
}

TEST_P(PoolBothWays, SnapshotsOfSnapshotsEachKeepTheirMoment) {
    start(GetParam(), 256);
    auto origin = created(0);
    std::vector<std::vector<std::byte>> moments;
    std::mt19937 random(5);
    for (std::uint32_t generation = 0; generation < 8; ++generation) {
        auto newest = volume(generation);
        for (int write = 0; write < 6; ++write)
            ASSERT_EQ(client->write(*newest, random() % 500 * 4096, pattern(4096 * (1 + random() % 8), random())), 0);
        moments.push_back(client->read(*newest, 0, newest->size()));
        newest.reset();
        change({snapshot(generation + 1, generation)});
        // What happens to the parent later isn't the child's.
        newest = volume(generation);
        for (int write = 0; write < 3; ++write)
            ASSERT_EQ(client->write(*newest, random() % 500 * 4096, pattern(4096, random())), 0);
    }
    origin.reset();
    reopen();
    for (std::uint32_t generation = 0; generation < 8; ++generation) {
        auto child = volume(generation + 1);
        const auto content = client->read(*child, 0, child->size());
        if (generation == 7)
            EXPECT_EQ(content, moments[7]);
        child.reset();
        auto grandchild = generation < 7 ? volume(generation + 2) : nullptr;
        (void)grandchild;
    }
    // The last child is untouched; removing all the others must leave it whole.
    for (std::uint32_t id = 0; id < 8; ++id)
        change({removal(id)});
    auto last = volume(8);
    EXPECT_EQ(client->read(*last, 0, last->size()), moments[7]);
    const std::uint64_t mapped = pool->details(ThinId(8))->mapped_blocks;
    EXPECT_EQ(used(), mapped);
    last.reset();
    close();
}

TEST_P(PoolBothWays, ManyWritersToOneSharedBlockCopyItOnce) {
    start(GetParam());
    auto web = created(1);
    const auto content = pattern(block, 1);
    ASSERT_EQ(client->write(*web, 0, content), 0);
    change({snapshot(2, 1)});

    std::vector<std::vector<std::byte>> memory;
    std::vector<std::unique_ptr<Request>> requests;
    for (unsigned number = 0; number < 16; ++number) {
        memory.emplace_back(4096, static_cast<std::byte>('A' + number));
        requests.push_back(std::make_unique<Request>(IoOperation::write, number * 4096, 4096, memory.back().data()));
        web->submit(client->queue(), *requests.back());
    }
    client->queue().run_until([&] { return std::all_of(requests.begin(), requests.end(), [](auto& each) { return each->done; }); });
    for (unsigned number = 0; number < 16; ++number) {
        EXPECT_EQ(requests[number]->error, 0);
        EXPECT_TRUE(client->holds(*web, number * 4096, 4096, static_cast<char>('A' + number))) << number;
    }
    EXPECT_EQ(used(), 2u);
    auto copy = volume(2);
    EXPECT_EQ(client->read(*copy, 0, block), content);
    web.reset();
    copy.reset();
    close();
}

TEST_P(PoolBothWays, ManyWritersToOneNewBlockProvisionItOnce) {
    set_up(GetParam());
    ASSERT_TRUE(write_now(*data_memory, 0, std::vector<std::byte>(data_memory->size(), std::byte{0xdb})));
    open();
    auto web = created(1);
    std::vector<std::vector<std::byte>> memory;
    std::vector<std::unique_ptr<Request>> requests;
    for (unsigned number = 0; number < 15; ++number) {
        memory.emplace_back(4096, static_cast<std::byte>('A' + number));
        requests.push_back(std::make_unique<Request>(IoOperation::write, number * 4096, 4096, memory.back().data()));
        web->submit(client->queue(), *requests.back());
    }
    client->queue().run_until([&] { return std::all_of(requests.begin(), requests.end(), [](auto& each) { return each->done; }); });
    for (unsigned number = 0; number < 15; ++number)
        EXPECT_TRUE(client->holds(*web, number * 4096, 4096, static_cast<char>('A' + number))) << number;
    EXPECT_TRUE(client->holds(*web, 15 * 4096, 4096, 0));
    EXPECT_EQ(used(), 1u);
    web.reset();
    close();
}

TEST_P(PoolBothWays, ABlockThatIsExclusiveAgainIsNotCopiedButStampedAnew) {
    start(GetParam());
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, 2 * block, 'a'), 0);
    change({snapshot(2, 1)});
    change({removal(2)});
    ASSERT_EQ(client->fill(*web, 512, 512, 'b'), 0);
    ASSERT_EQ(client->flush(*web), 0);
    EXPECT_EQ(used(), 2u);
    EXPECT_TRUE(client->holds(*web, 0, 512, 'a'));
    EXPECT_TRUE(client->holds(*web, 512, 512, 'b'));
    EXPECT_TRUE(client->holds(*web, 1024, block - 1024, 'a'));
    web.reset();
    close();
    auto after = committed();
    const auto written = after->lookup(ThinId(1), VirtualBlock(0));
    const auto untouched = after->lookup(ThinId(1), VirtualBlock(1));
    ASSERT_TRUE(written && *written && untouched && *untouched);
    EXPECT_EQ((*written)->time, after->time());
    EXPECT_LT((*untouched)->time, after->time());
}

TEST_P(PoolBothWays, EveryWriteAfterASnapshotStampsItsBlock) {
    start(GetParam());
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, 6 * block, 'a'), 0);
    change({snapshot(2, 1)});
    ASSERT_EQ(client->fill(*web, 0, 512, 'b'), 0);        // a part: copied
    ASSERT_EQ(client->fill(*web, block, block, 'b'), 0);  // all of it
    ASSERT_EQ(client->run(*web, IoOperation::write_zeroes, 2 * block + 512, 512), 0);
    Request zeroes(IoOperation::write_zeroes, 3 * block, block);
    zeroes.keep_allocated = true;
    ASSERT_EQ(zeroes.run(*web, client->queue()), 0);
    web.reset();
    close();
    auto after = committed();
    for (std::uint64_t number = 0; number < 6; ++number) {
        const auto found = after->lookup(ThinId(1), VirtualBlock(number));
        const auto kept = after->lookup(ThinId(2), VirtualBlock(number));
        ASSERT_TRUE(found && *found && kept && *kept);
        EXPECT_EQ((*found)->time == after->time(), number < 4) << number;
        EXPECT_EQ((*found)->block != (*kept)->block, number < 4) << number;
        EXPECT_EQ((*kept)->time, 0u);
    }
}

TEST_P(PoolBothWays, AChangeIsAllOrNothing) {
    start(GetParam());
    auto web = created(1);
    const auto kind_of = [&](std::vector<PoolChange> changes, std::uint64_t from, std::uint64_t to) {
        auto done = pool->transact(changes, from, to);
        EXPECT_FALSE(done);
        return done ? ErrorKind::failed : done.error().kind();
    };
    EXPECT_EQ(kind_of({creation(5), creation(1)}, transaction, transaction + 1), ErrorKind::exists);
    EXPECT_EQ(kind_of({creation(5), snapshot(6, 77)}, transaction, transaction + 1), ErrorKind::not_found);
    EXPECT_EQ(kind_of({creation(5), creation(5)}, transaction, transaction + 1), ErrorKind::exists);
    EXPECT_EQ(kind_of({snapshot(5, 1), removal(99)}, transaction, transaction + 1), ErrorKind::not_found);
    EXPECT_EQ(kind_of({creation(5)}, transaction + 1, transaction + 2), ErrorKind::refused);
    EXPECT_EQ(kind_of({removal(1)}, transaction, transaction + 1), ErrorKind::refused) << "it is open";
    const auto devices = pool->devices();
    ASSERT_TRUE(devices);
    ASSERT_EQ(devices->size(), 1u);
    EXPECT_EQ(devices->front().id, ThinId(1));
    EXPECT_EQ(status().transaction_id, transaction);
    // The volume can still be written after the failures.
    EXPECT_EQ(client->fill(*web, 0, 512, 'a'), 0);
    web.reset();
    close();
    EXPECT_EQ(committed()->transaction_id(), transaction);
}

TEST_P(PoolBothWays, AChangeIsDurableOnReturn) {
    start(GetParam());
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, block, 'a'), 0);
    change({creation(3), snapshot(2, 1)});
    {
        auto seen = committed();
        EXPECT_EQ(seen->transaction_id(), transaction);
        EXPECT_TRUE(seen->details(ThinId(3)));
        EXPECT_EQ(seen->details(ThinId(2))->mapped_blocks, 1u);
    }
    change({removal(2), removal(3)});
    EXPECT_EQ(committed()->devices(ThinId(0), 10)->size(), 1u);
    web.reset();
    close();
}

// Writers on threads of their own; each write has a number, is acknowledged before the next is submitted, and goes to one of two volumes. A
// snapshot of both must hold, of each writer, the writes up to some number: no less than what was acknowledged before, no gap.
TEST_F(PoolTest, ASnapshotUnderLoadIsAPointInTimeOfEverythingAcknowledged) {
    start(Mode::threaded, 2000);
    constexpr unsigned writers = 4, slots = 24, rounds = 12;
    constexpr std::uint64_t slot_bytes = 8192;
    constexpr std::uint64_t area = slots * slot_bytes;
    change({creation(0), creation(1)});
    std::array<std::shared_ptr<ThinVolume>, 2> origins{volume(0, writers * area), volume(1, writers * area)};

    struct Progress {
        std::atomic<std::uint64_t> submitted{0}, acknowledged{0};
    };
    std::array<Progress, writers> progress;
    std::atomic<bool> stop{false};
    std::atomic<int> errors{0};
    std::vector<std::thread> threads;
    for (unsigned writer = 0; writer < writers; ++writer)
        threads.emplace_back([&, writer, &queue = another_queue()] {
            Client self(queue);
            for (std::uint64_t number = 1; !stop.load(); ++number) {
                std::vector<std::byte> bytes(slot_bytes);
                for (std::size_t at = 0; at < bytes.size(); at += 8)
                    store_little<std::uint64_t>(&bytes[at], number);
                progress[writer].submitted.store(number);
                if (self.write(*origins[number % 2], writer * area + number / 2 % slots * slot_bytes, std::move(bytes), number % 50 == 0) !=
                    0)
                    errors.fetch_add(1);
                progress[writer].acknowledged.store(number);
            }
        });

    std::vector<std::pair<std::uint32_t, std::vector<std::byte>>> taken;
    for (std::uint32_t round = 0; round < rounds; ++round) {
        for (const Progress& each : progress)
            for (const std::uint64_t from = each.acknowledged.load(); each.acknowledged.load() < from + 10;)
                std::this_thread::yield();
        std::array<std::uint64_t, writers> least{}, most{};
        for (unsigned writer = 0; writer < writers; ++writer)
            least[writer] = progress[writer].acknowledged.load();
        const std::uint32_t first = 10 + 2 * round;
        change({snapshot(first, 0), snapshot(first + 1, 1)});
        for (unsigned writer = 0; writer < writers; ++writer)
            most[writer] = progress[writer].submitted.load();

        std::array<std::vector<std::byte>, 2> content;
        for (std::uint32_t side = 0; side < 2; ++side) {
            auto copy = volume(first + side, writers * area);
            content[side] = client->read(*copy, 0, copy->size());
            taken.emplace_back(first + side, content[side]);
        }
        for (unsigned writer = 0; writer < writers; ++writer) {
            const auto found = [&](std::uint64_t number) {
                const std::byte* slot = &content[number % 2][writer * area + number / 2 % slots * slot_bytes];
                const auto value = load_little<std::uint64_t>(slot);
                for (std::size_t at = 0; at < slot_bytes; at += 8)
                    if (load_little<std::uint64_t>(slot + at) != value)
                        return UINT64_MAX;  // torn: a write that was under way
                return value;
            };
            std::uint64_t newest = 0;
            for (std::uint64_t place = 0; place < 2 * slots; ++place)
                if (found(place) != UINT64_MAX)
                    newest = std::max(newest, found(place));
            EXPECT_GE(newest, least[writer]) << "an acknowledged write is missing";
            EXPECT_LE(newest, most[writer]);
            for (std::uint64_t number = newest; number > 0 && number + 2 * slots > newest; --number)
                EXPECT_EQ(found(number), number) << "writer " << writer << ": there is " << newest << " but not " << number;
        }
    }
    stop.store(true);
    for (std::thread& thread : threads)
        thread.join();
    EXPECT_EQ(errors.load(), 0);
    for (const auto& [id, content] : taken) {
        auto copy = volume(id, writers * area);
        EXPECT_EQ(client->read(*copy, 0, copy->size()), content) << "snapshot " << id << " has changed";
    }
    origins = {};
    close();
}

// --- Discards and zeros ---------------------------------------------------------------------------------------------------

TEST_P(PoolBothWays, ADiscardUnmapsWholeBlocksAndPassesThemDown) {
    start(GetParam());
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, 8 * block, 'a'), 0);
    ASSERT_EQ(client->flush(*web), 0);
    const std::size_t pages = data_memory->allocated_pages();
    ASSERT_EQ(client->discard(*web, block + 512, 3 * block), 0);
    EXPECT_TRUE(client->holds(*web, 0, 2 * block, 'a'));
    EXPECT_TRUE(client->holds(*web, 2 * block, 2 * block, 0));
    EXPECT_TRUE(client->holds(*web, 4 * block, 4 * block, 'a'));
    ASSERT_EQ(client->flush(*web), 0);
    EXPECT_EQ(used(), 6u);
    web.reset();
    reopen();  // what is passed down has arrived
    EXPECT_EQ(data_memory->allocated_pages(), pages - 2 * block / 4096);
    web = volume(1);
    EXPECT_TRUE(client->holds(*web, 2 * block, 2 * block, 0));
    EXPECT_TRUE(client->holds(*web, 4 * block, 4 * block, 'a'));
    // The freed room is used again.
    for (std::uint64_t number = 0; number < 32; ++number)
        ASSERT_EQ(client->fill(*web, number * block, block, 'b'), 0);
    EXPECT_EQ(used(), 32u);
    web.reset();
    close();
}

TEST_P(PoolBothWays, ADiscardNeverReachesASharedBlock) {
    start(GetParam());
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, 4 * block, 'a'), 0);
    change({snapshot(2, 1)});
    ASSERT_EQ(client->fill(*web, 0, 512, 'b'), 0);  // block 0 is its own now
    ASSERT_EQ(client->discard(*web, 0, 4 * block), 0);
    ASSERT_EQ(client->flush(*web), 0);
    EXPECT_EQ(used(), 4u);
    web.reset();
    reopen();
    EXPECT_EQ(data_memory->allocated_pages(), 4 * block / 4096);
    auto copy = volume(2);
    EXPECT_TRUE(client->holds(*copy, 0, 4 * block, 'a'));
    web = volume(1);
    EXPECT_TRUE(client->holds(*web, 0, 4 * block, 0));
    // With the snapshot gone too, everything is given back.
    copy.reset();
    change({removal(2)});
    web.reset();
    reopen();
    EXPECT_EQ(data_memory->allocated_pages(), 0u);
    EXPECT_EQ(used(), 0u);
    close();
}

TEST_P(PoolBothWays, DiscardPoliciesAreObeyed) {
    options.discards = DiscardPolicy::no_passdown;
    start(GetParam());
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, 4 * block, 'a'), 0);
    const std::size_t pages = data_memory->allocated_pages();
    ASSERT_EQ(client->discard(*web, 0, 4 * block), 0);
    ASSERT_EQ(client->flush(*web), 0);
    EXPECT_EQ(used(), 0u);
    EXPECT_TRUE(client->holds(*web, 0, 4 * block, 0));
    // What comes back from the pool reads as zeros although nothing was passed down.
    ASSERT_EQ(client->fill(*web, 8 * block, 512, 'n'), 0);
    EXPECT_TRUE(client->holds(*web, 8 * block + 512, block - 512, 0));
    web.reset();
    close();
    EXPECT_GE(data_memory->allocated_pages(), pages - block / 4096);

    options.discards = DiscardPolicy::ignore;
    open();
    web = volume(1);
    EXPECT_FALSE(web->traits().discards);
    ASSERT_EQ(client->fill(*web, 0, block, 'a'), 0);
    EXPECT_EQ(client->discard(*web, 0, block), EOPNOTSUPP);
    EXPECT_TRUE(client->holds(*web, 0, block, 'a'));
    web.reset();
    close();
}

TEST_P(PoolBothWays, WriteZeroesUnmapsOrKeepsAsAsked) {
    start(GetParam());
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, 8 * block, 'a'), 0);
    const auto zeroes = [&](std::uint64_t offset, std::uint64_t length, bool keep, bool fast, bool durable = false) {
        Request request(IoOperation::write_zeroes, offset, length);
        request.keep_allocated = keep;
        request.fast_only = fast;
        request.durable = durable;
        return request.run(*web, client->queue());
    };
    ASSERT_EQ(zeroes(512, 2 * block, false, false), 0);  // a whole block, and parts of two
    EXPECT_TRUE(client->holds(*web, 0, 512, 'a'));
    EXPECT_TRUE(client->holds(*web, 512, 2 * block, 0));
    EXPECT_TRUE(client->holds(*web, 2 * block + 512, block - 512, 'a'));
    ASSERT_EQ(client->flush(*web), 0);
    EXPECT_EQ(used(), 7u);
    ASSERT_EQ(zeroes(4 * block, 2 * block, true, false), 0);
    EXPECT_TRUE(client->holds(*web, 4 * block, 2 * block, 0));
    ASSERT_EQ(client->flush(*web), 0);
    EXPECT_EQ(used(), 7u);
    ASSERT_EQ(zeroes(10 * block, block, true, false), 0);  // a new block, allocated because asked
    EXPECT_EQ(used(), 8u);
    EXPECT_TRUE(client->holds(*web, 10 * block, block, 0));

    EXPECT_EQ(zeroes(6 * block + 512, 512, false, true), EOPNOTSUPP) << "a part of a block is written";
    EXPECT_TRUE(client->holds(*web, 6 * block, block, 'a'));
    ASSERT_EQ(zeroes(6 * block, block, false, true), 0);
    EXPECT_TRUE(client->holds(*web, 6 * block, block, 0));
    ASSERT_EQ(zeroes(7 * block, block, false, false, true), 0);
    const auto gone = committed()->lookup(ThinId(1), VirtualBlock(7));
    EXPECT_TRUE(gone && !*gone) << "durable on completion";
    web.reset();
    close();
}

// --- Status ---------------------------------------------------------------------------------------------------------------

bool same(const StatusExtent& left, const StatusExtent& right) {
    return left.length == right.length && left.allocated == right.allocated && left.zero == right.zero && left.depth == right.depth;
}

TEST_P(PoolBothWays, StatusTellsHolesOwnAndSharedBlocks) {
    start(GetParam());
    auto web = created(1, 8 * block);
    ASSERT_EQ(client->fill(*web, 2 * block, 3 * block, 'a'), 0);
    change({snapshot(2, 1)});
    ASSERT_EQ(client->fill(*web, 3 * block, 512, 'b'), 0);
    auto copy = volume(2, 8 * block);
    const std::vector<StatusExtent> expected{{2 * block, false, true, 0},
                                             {block, true, false, 2},
                                             {block, true, false, 1},
                                             {block, true, false, 2},
                                             {3 * block, false, true, 0}};
    const auto extents = client->status(*web, 0, 8 * block);
    ASSERT_EQ(extents.size(), expected.size());
    for (std::size_t index = 0; index < expected.size(); ++index)
        EXPECT_TRUE(same(extents[index], expected[index])) << index;
    const auto of_copy = client->status(*copy, 2 * block + 512, 2 * block);
    ASSERT_EQ(of_copy.size(), 1u);
    EXPECT_TRUE(same(of_copy[0], {2 * block, true, false, 2}));
    const auto first_only = client->status(*web, block, 5 * block, 1);
    ASSERT_EQ(first_only.size(), 1u);
    EXPECT_TRUE(same(first_only[0], {block, false, true, 0}));
    web.reset();
    copy.reset();
    close();
}

TEST_P(PoolBothWays, PrintsLinesAsTheKernelDoes) {
    start(GetParam());
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, 3 * block, 'a'), 0);
    ASSERT_EQ(client->flush(*web), 0);
    const std::uint64_t total = metadata_bytes / 4096;
    const std::uint64_t reserve = total / 10;
    const auto counts = committed()->metadata_counts();
    const auto used_metadata = total - (counts.free - reserve);
    EXPECT_EQ(*pool->status_line(),
              fmt::format("1 {}/{} 3/64 - rw discard_passdown queue_if_no_space - {}", used_metadata, total, total / 4));
    EXPECT_EQ(pool->table_line("253:0", "253:1"), "253:0 253:1 128 0 0");
    EXPECT_EQ(*pool->highest_mapped_sector(ThinId(1)), 3 * 128 - 1);
    ASSERT_TRUE(pool->message("reserve_metadata_snap"));
    const auto held = status().held_root;
    ASSERT_TRUE(held);
    EXPECT_NE(pool->status_line()->find(fmt::format(" 3/64 {} rw", held->value())), std::string::npos) << *pool->status_line();
    EXPECT_FALSE(pool->message("reserve_metadata_snap"));
    ASSERT_TRUE(pool->message("release_metadata_snap"));
    EXPECT_FALSE(pool->message("release_metadata_snap"));
    EXPECT_FALSE(status().held_root);
    web.reset();
    close();

    options.zero_new_blocks = false;
    options.discards = DiscardPolicy::no_passdown;
    options.error_if_no_space = true;
    options.low_water_blocks = 12;
    open();
    EXPECT_EQ(pool->table_line("a", "b"), "a b 128 12 3 skip_block_zeroing no_discard_passdown error_if_no_space");
    EXPECT_NE(pool->status_line()->find(" - rw no_discard_passdown error_if_no_space - "), std::string::npos) << *pool->status_line();
    close();
    options.read_only = true;
    options.discards = DiscardPolicy::ignore;
    open();
    EXPECT_EQ(pool->table_line("a", "b"), "a b 128 12 4 skip_block_zeroing ignore_discard read_only error_if_no_space");
    EXPECT_NE(pool->status_line()->find(" - ro ignore_discard error_if_no_space - "), std::string::npos) << *pool->status_line();
    close();
}

TEST_P(PoolBothWays, TakesMessages) {
    start(GetParam());
    const auto kind = [&](std::string_view text) {
        auto done = pool->message(text);
        return done ? "done" : std::string(to_string(done.error().kind()));
    };
    EXPECT_EQ(kind("create_thin 1"), "done");
    EXPECT_EQ(kind("create_thin 1"), to_string(ErrorKind::exists));
    EXPECT_EQ(kind("create_snap 2 1"), "done");
    EXPECT_EQ(kind("create_snap 2 1"), to_string(ErrorKind::exists));
    EXPECT_EQ(kind("create_snap 3 9"), to_string(ErrorKind::not_found));
    EXPECT_EQ(kind("create_thin 16777215"), "done");
    EXPECT_EQ(kind("create_thin 16777216"), to_string(ErrorKind::usage));
    EXPECT_EQ(kind("create_thin -1"), to_string(ErrorKind::usage));
    EXPECT_EQ(kind("create_thin"), to_string(ErrorKind::usage));
    EXPECT_EQ(kind("create_thin 4 5"), to_string(ErrorKind::usage));
    EXPECT_EQ(kind("destroy 4"), to_string(ErrorKind::usage));
    EXPECT_EQ(kind(""), to_string(ErrorKind::usage));
    EXPECT_EQ(kind("set_transaction_id 1 2"), to_string(ErrorKind::refused));
    EXPECT_EQ(kind("set_transaction_id 0 7"), "done");
    EXPECT_EQ(status().transaction_id, 7u);
    auto web = volume(1);
    EXPECT_EQ(kind("delete 1"), to_string(ErrorKind::refused)) << "it is open";
    web.reset();
    EXPECT_EQ(kind("delete 1"), "done");
    EXPECT_EQ(kind("delete 1"), to_string(ErrorKind::not_found));
    EXPECT_EQ(pool->devices()->size(), 2u);
    close();
    EXPECT_EQ(committed()->transaction_id(), 7u);
}

// --- External origins -----------------------------------------------------------------------------------------------------

TEST_P(PoolBothWays, ReadsThroughToAnExternalOriginOfAnySize) {
    set_up(GetParam(), 256);
    ASSERT_TRUE(write_now(*data_memory, 0, std::vector<std::byte>(data_memory->size(), std::byte{0xdb})));
    open();
    constexpr std::uint64_t size = 8 * block;
    std::uint32_t id = 0;
    for (const std::uint64_t origin_size : {size, 5 * block, 20 * block, 3 * block + 12 * 4096, std::uint64_t{4096}}) {
        SCOPED_TRACE(origin_size);
        MemoryDevice origin(origin_size, "origin");
        const auto base = pattern(origin_size, 3);
        ASSERT_TRUE(write_now(origin, 0, base));
        std::vector<std::byte> expected(base.begin(), base.begin() + static_cast<std::ptrdiff_t>(std::min(size, origin_size)));
        expected.resize(size);
        auto web = created(++id, size, &origin);
        EXPECT_EQ(client->read(*web, 0, size), expected);
        EXPECT_EQ(client->read(*web, 3 * block - 512, 4 * block),
                  std::vector(expected.begin() + 3 * block - 512, expected.begin() + 7 * block - 512));

        std::mt19937 random(id);
        for (int write = 0; write < 20; ++write) {
            const std::uint64_t at = random() % (size / 512 - 16) * 512;
            const auto bytes = pattern(512 * (1 + random() % 16), random());
            std::copy(bytes.begin(), bytes.end(), expected.begin() + static_cast<std::ptrdiff_t>(at));
            ASSERT_EQ(client->write(*web, at, bytes), 0);
        }
        EXPECT_EQ(client->read(*web, 0, size), expected);
        // Zeros over the origin must stay zeros.
        ASSERT_EQ(client->run(*web, IoOperation::write_zeroes, block, 2 * block + 512), 0);
        std::fill_n(expected.begin() + block, 2 * block + 512, std::byte{0});
        EXPECT_EQ(client->read(*web, 0, size), expected);
        EXPECT_FALSE(web->traits().discard_zeroes);
        // A snapshot needs the same origin.
        change({snapshot(id + 100, id)});
        auto copy = volume(id + 100, size, &origin);
        ASSERT_EQ(client->fill(*web, 0, 512, 'w'), 0);
        EXPECT_EQ(client->read(*copy, 0, size), expected);
        // The origin itself is never written.
        std::vector<std::byte> still(origin_size);
        ASSERT_TRUE(read_now(origin, 0, still));
        EXPECT_EQ(still, base);
        copy.reset();
        web.reset();
    }
    close();
}

// --- Out of space ---------------------------------------------------------------------------------------------------------

TEST_F(PoolTest, AFullPoolQueuesWritesAndFailsThemAfterTheTimeout) {
    start(Mode::stepped, 4);
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, 4 * block, 'a'), 0);
    std::vector<std::byte> bytes(block, std::byte{'b'});
    Request waits(IoOperation::write, 10 * block, block, bytes.data());
    web->submit(*pool_queue, waits);
    settle();
    EXPECT_FALSE(waits.done);
    EXPECT_EQ(status().mode, PoolMode::out_of_data_space);
    EXPECT_NE(pool->status_line()->find(" out_of_data_space discard_passdown queue_if_no_space - "), std::string::npos)
        << *pool->status_line();
    // Everything that needs no room goes on.
    EXPECT_TRUE(client->holds(*web, 0, 4 * block, 'a'));
    EXPECT_EQ(client->fill(*web, 0, 512, 'c'), 0);
    EXPECT_EQ(client->flush(*web), 0);
    clock.advance(59s);
    settle();
    EXPECT_FALSE(waits.done);
    clock.advance(2s);
    settle();
    EXPECT_TRUE(waits.done);
    EXPECT_EQ(waits.error, ENOSPC);
    // From now on at once.
    EXPECT_EQ(client->fill(*web, 11 * block, 512, 'd'), ENOSPC);
    EXPECT_EQ(client->fill(*web, 512, 512, 'c'), 0);
    web.reset();
    close();
}

TEST_F(PoolTest, AFullPoolGoesOnWhenItGrows) {
    start(Mode::stepped, 4);
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, 4 * block, 'a'), 0);
    std::vector<std::byte> bytes(block, std::byte{'b'});
    Request waits(IoOperation::write, 10 * block, block, bytes.data());
    web->submit(*pool_queue, waits);
    settle();
    ASSERT_FALSE(waits.done);
    data_memory->grow(6 * block);
    ASSERT_TRUE(pool->grow_data());
    settle();
    ASSERT_TRUE(waits.done);
    EXPECT_EQ(waits.error, 0);
    EXPECT_EQ(status().mode, PoolMode::write);
    EXPECT_EQ(status().data_blocks, 6u);
    EXPECT_TRUE(client->holds(*web, 10 * block, block, 'b'));
    web.reset();
    close();
}

TEST_F(PoolTest, AFullPoolGoesOnWhenBlocksAreFreed) {
    for (const bool by_removal : {false, true}) {
        SCOPED_TRACE(by_removal);
        transaction = 0;
        start(Mode::stepped, 4);
        auto web = created(1);
        auto other = created(2);
        ASSERT_EQ(client->fill(*web, 0, 3 * block, 'a'), 0);
        ASSERT_EQ(client->fill(*other, 0, block, 'o'), 0);
        std::vector<std::byte> bytes(block, std::byte{'b'});
        Request waits(IoOperation::write, 10 * block, block, bytes.data());
        web->submit(*pool_queue, waits);
        settle();
        ASSERT_FALSE(waits.done);
        if (by_removal) {
            other.reset();
            change({removal(2)});
        } else {
            ASSERT_EQ(client->discard(*other, 0, block), 0);
            clock.advance(2s);  // the commit that comes by itself
        }
        settle();
        ASSERT_TRUE(waits.done);
        EXPECT_EQ(waits.error, 0);
        EXPECT_EQ(status().mode, PoolMode::write);
        EXPECT_TRUE(client->holds(*web, 10 * block, block, 'b'));
        EXPECT_TRUE(client->holds(*web, 0, 3 * block, 'a'));
        web.reset();
        other.reset();
        close();
    }
}

TEST_P(PoolBothWays, AFullPoolFailsWritesAtOnceWhenToldTo) {
    options.error_if_no_space = true;
    start(GetParam(), 4);
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, 4 * block, 'a'), 0);
    EXPECT_EQ(client->fill(*web, 10 * block, 512, 'b'), ENOSPC);
    EXPECT_TRUE(client->holds(*web, 10 * block, block, 0));
    EXPECT_TRUE(client->holds(*web, 0, 4 * block, 'a'));
    EXPECT_EQ(status().mode, PoolMode::out_of_data_space);
    data_memory->grow(5 * block);
    ASSERT_TRUE(pool->grow_data());
    EXPECT_EQ(client->fill(*web, 10 * block, 512, 'b'), 0);
    EXPECT_EQ(client->fill(*web, 11 * block, 512, 'b'), ENOSPC);
    // A block shared with a snapshot can't be broken off, and stays what it was.
    change({snapshot(2, 1)});
    EXPECT_EQ(client->fill(*web, 0, 512, 'c'), ENOSPC);
    auto copy = volume(2);
    EXPECT_TRUE(client->holds(*web, 0, 4 * block, 'a'));
    EXPECT_TRUE(client->holds(*copy, 0, 4 * block, 'a'));
    web.reset();
    copy.reset();
    close();
}

TEST_F(PoolTest, EventsTellOfTheLowWaterMarkAndOfModes) {
    options.low_water_blocks = 3;
    options.error_if_no_space = true;
    start(Mode::stepped, 8);
    int events = 0;
    pool->set_event_handler([&] { ++events; });
    auto web = created(1);
    for (std::uint64_t number = 0; number < 5; ++number)
        ASSERT_EQ(client->fill(*web, number * block, 512, 'a'), 0);
    EXPECT_EQ(client->flush(*web), 0);
    EXPECT_EQ(events, 0) << "three blocks are left, but nobody has asked for one of them";
    EXPECT_EQ(client->fill(*web, 5 * block, 512, 'a'), 0);
    EXPECT_EQ(events, 1);
    // Not a second time, though a discard brings it above the mark in between.
    EXPECT_EQ(client->discard(*web, 0, 3 * block), 0);
    EXPECT_EQ(client->flush(*web), 0);
    for (const std::uint64_t number : {0, 1, 2, 6, 7})
        EXPECT_EQ(client->fill(*web, number * block, 512, 'a'), 0);
    EXPECT_EQ(events, 1);
    EXPECT_EQ(client->fill(*web, 8 * block, 512, 'a'), ENOSPC);
    EXPECT_EQ(events, 2) << "out of space";
    web.reset();
    close();
}

TEST_F(PoolTest, FullMetadataStopsProvisioningUntilItGrows) {
    start(Mode::stepped, 20000, 128 * 4096);
    int events = 0;
    std::uint64_t used_at_first = 0;
    pool->set_event_handler([&] { ++events; });
    auto web = created(1, std::uint64_t{1} << 40);
    // Scattered, so that every write takes a leaf of its own sooner or later.
    std::uint64_t written = 0;
    int error = 0;
    while (error == 0 && written < 20000)
        if (error = client->fill(*web, written * 1000003 * block % web->size() / block * block, 512, 'a'); error == 0) {
            ++written;
            if (events > 0 && used_at_first == 0)
                used_at_first = status().used_metadata_blocks;
        }
    // As dm-thin has it: the mark is at 32 free blocks, and 12 in reserve count as used; what is full is the metadata, so not ENOSPC.
    ASSERT_EQ(error, EIO);
    EXPECT_GE(used_at_first, 128u - 32 + 12);
    EXPECT_LE(used_at_first, 128u - 32 + 12 + 2);
    ASSERT_GT(written, 100u);
    EXPECT_NE(pool->status_line()->find(" ro "), std::string::npos) << *pool->status_line();
    const auto place = [&](std::uint64_t number) { return number * 1000003 * block % web->size() / block * block; };
    // What had been acknowledged is there, and stays.
    for (std::uint64_t number = 0; number < written; number += 97)
        ASSERT_TRUE(client->holds(*web, place(number), 512, 'a')) << number << " of " << written;
    metadata_memory->grow(metadata_bytes);
    ASSERT_TRUE(pool->grow_metadata());
    EXPECT_EQ(status().mode, PoolMode::write);
    EXPECT_EQ(client->fill(*web, place(written), 512, 'b'), 0);
    ASSERT_EQ(client->flush(*web), 0);
    web.reset();
    reopen();
    web = volume(1, std::uint64_t{1} << 40);
    for (std::uint64_t number = 0; number < written; number += 97)
        ASSERT_TRUE(client->holds(*web, place(number), 512, 'a'));
    EXPECT_TRUE(client->holds(*web, place(written), 512, 'b'));
    web.reset();
    close();
}

// --- Durability and faults ------------------------------------------------------------------------------------------------

TEST_P(PoolBothWays, AFlushOrADurableWriteCommits) {
    start(GetParam());
    auto web = created(1);
    const auto on_disk = [&](std::uint64_t number) {
        const auto found = committed()->lookup(ThinId(1), VirtualBlock(number));
        return found && found->has_value();
    };
    ASSERT_EQ(client->write(*web, 0, pattern(512, 1), true), 0);
    EXPECT_TRUE(on_disk(0));
    ASSERT_EQ(client->fill(*web, block, 512, 'a'), 0);
    ASSERT_EQ(client->flush(*web), 0);
    EXPECT_TRUE(on_disk(1));
    // With nothing to commit a flush is one of the data device.
    const std::uint64_t writes = metadata->count(IoOperation::write);
    const std::uint64_t flushes = data->count(IoOperation::flush);
    ASSERT_EQ(client->fill(*web, block, 512, 'b'), 0);
    ASSERT_EQ(client->flush(*web), 0);
    EXPECT_EQ(metadata->count(IoOperation::write), writes);
    EXPECT_GT(data->count(IoOperation::flush), flushes);
    web.reset();
    close();
}

TEST_F(PoolTest, CommitsBySecondsWhenNobodyFlushes) {
    start(Mode::stepped);
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, 512, 'a'), 0);
    EXPECT_FALSE(*committed()->lookup(ThinId(1), VirtualBlock(0)));
    clock.advance(1100ms);
    settle();
    EXPECT_TRUE(*committed()->lookup(ThinId(1), VirtualBlock(0)));
    web.reset();
    close();
}

class PoolFaults : public PoolTest, public testing::WithParamInterface<IoOperation> {};
INSTANTIATE_TEST_SUITE_P(Operations, PoolFaults, testing::Values(IoOperation::write, IoOperation::flush),
                         [](const auto& operation) { return operation.param == IoOperation::write ? "write" : "flush"; });

TEST_P(PoolFaults, AFailedCommitEndsInReadOnlyModeWithNeedsCheck) {
    start(Mode::stepped);
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, block, 'a'), 0);
    ASSERT_EQ(client->flush(*web), 0);
    ASSERT_EQ(client->fill(*web, block, block, 'b'), 0);
    metadata->add({.operation = GetParam(), .count = 1});
    Request first(IoOperation::flush, 0, 0), second(IoOperation::flush, 0, 0);
    web->submit(*pool_queue, first);
    web->submit(*pool_queue, second);
    settle();
    ASSERT_TRUE(first.done && second.done);
    EXPECT_EQ(first.error, EIO);
    EXPECT_EQ(second.error, EIO);
    EXPECT_EQ(status().mode, PoolMode::read_only);
    EXPECT_TRUE(status().needs_check);
    EXPECT_NE(pool->status_line()->find(" ro discard_passdown queue_if_no_space needs_check "), std::string::npos) << *pool->status_line();
    // Reads go on, of what was committed.
    EXPECT_TRUE(client->holds(*web, 0, block, 'a'));
    // Whoever flushes later learns that an acknowledged write is lost, too.
    EXPECT_EQ(client->flush(*web), EIO);
    std::vector<std::byte> bytes(512, std::byte{'a'});
    Request durable(IoOperation::write, 0, bytes.size(), bytes.data());
    durable.durable = true;
    EXPECT_EQ(durable.run(*web, *pool_queue), EIO);
    EXPECT_FALSE(pool->commit());
    // A block that needs no change of metadata can still be written.
    EXPECT_NE(client->fill(*web, 5 * block, 512, 'c'), 0);
    EXPECT_FALSE(pool->transact({creation(7)}, 1, 2));
    EXPECT_FALSE(pool->grow_data());
    web.reset();
    (void)pool->close();
    pool.reset();
    metadata->clear();
    open();
    EXPECT_TRUE(status().needs_check);
    EXPECT_EQ(status().mode, PoolMode::read_only);
    web = volume(1);
    EXPECT_TRUE(client->holds(*web, 0, block, 'a'));
    EXPECT_NE(client->fill(*web, 5 * block, 512, 'c'), 0);
    web.reset();
    (void)pool->close();
}

TEST_F(PoolTest, WhenTheAbortFailsTooThePoolHasFailed) {
    options.metadata_cache_bytes = 4096;
    start(Mode::stepped);
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, block, 'a'), 0);
    ASSERT_EQ(client->flush(*web), 0);
    ASSERT_EQ(client->fill(*web, block, block, 'b'), 0);
    metadata->add({});  // everything
    EXPECT_EQ(client->flush(*web), EIO);
    EXPECT_EQ(status().mode, PoolMode::fail);
    EXPECT_EQ(*pool->status_line(), "Fail");
    std::vector<std::byte> bytes(512);
    EXPECT_EQ(Request(IoOperation::read, 0, 512, bytes.data()).run(*web, *pool_queue), EIO);
    EXPECT_EQ(client->fill(*web, 0, 512, 'c'), EIO);
    EXPECT_EQ(client->flush(*web), EIO);
    EXPECT_EQ(client->discard(*web, 0, block), EIO);
    EXPECT_FALSE(pool->transact({creation(7)}, 1, 2));
    web.reset();
    (void)pool->close();
    pool.reset();
    // On disk is the last commit.
    metadata->clear();
    EXPECT_TRUE(*committed()->lookup(ThinId(1), VirtualBlock(0)));
    EXPECT_FALSE(*committed()->lookup(ThinId(1), VirtualBlock(1)));
}

TEST_F(PoolTest, AFlushThatTheDataDeviceFailsFails) {
    start(Mode::stepped);
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, block, 'a'), 0);
    ASSERT_EQ(client->flush(*web), 0);
    ASSERT_EQ(client->fill(*web, 0, block, 'b'), 0);
    data->add({.operation = IoOperation::flush, .count = 1});
    EXPECT_EQ(client->flush(*web), EIO);
    EXPECT_EQ(client->flush(*web), 0);
    // With metadata to commit: nothing may point to data that isn't known to be there.
    ASSERT_EQ(client->fill(*web, block, block, 'c'), 0);
    data->add({.operation = IoOperation::flush, .count = 1});
    EXPECT_EQ(client->flush(*web), EIO);
    EXPECT_FALSE(*committed()->lookup(ThinId(1), VirtualBlock(1)));
    web.reset();
    (void)pool->close();
}

TEST_F(PoolTest, AFailedWriteOfDataMapsNothingAndLeaksNothing) {
    start(Mode::stepped);
    auto web = created(1);
    data->add({.operation = IoOperation::write, .count = 1});
    data->add({.operation = IoOperation::write_zeroes, .count = 1});
    EXPECT_EQ(client->fill(*web, 0, block, 'a'), EIO);
    EXPECT_TRUE(client->holds(*web, 0, block, 0));
    (void)client->fill(*web, 2 * block, 512, 'a');
    data->clear();
    EXPECT_EQ(client->fill(*web, 0, block, 'b'), 0);
    EXPECT_TRUE(client->holds(*web, 0, block, 'b'));
    EXPECT_LE(used(), 2u);
    // A copy that can't be read or written leaves both sides as they were.
    change({snapshot(2, 1)});
    data->add({.operation = IoOperation::read, .count = 1});
    EXPECT_EQ(client->fill(*web, 0, 512, 'c'), EIO);
    data->clear();
    data->add({.operation = IoOperation::write, .count = 1});
    EXPECT_EQ(client->fill(*web, 0, 512, 'c'), EIO);
    data->clear();
    auto copy = volume(2);
    EXPECT_TRUE(client->holds(*web, 0, block, 'b'));
    EXPECT_TRUE(client->holds(*copy, 0, block, 'b'));
    EXPECT_EQ(client->fill(*web, 0, 512, 'd'), 0);
    EXPECT_TRUE(client->holds(*copy, 0, block, 'b'));
    data->add({.operation = IoOperation::read});
    std::vector<std::byte> bytes(512);
    EXPECT_EQ(Request(IoOperation::read, 0, 512, bytes.data()).run(*web, *pool_queue), EIO);
    data->clear();
    EXPECT_EQ(status().mode, PoolMode::write);
    web.reset();
    copy.reset();
    change({removal(1), removal(2)});
    EXPECT_EQ(used(), 0u);
    close();
}

TEST_P(PoolBothWays, AReadOnlyPoolIsReadAndNeverWritten) {
    start(GetParam());
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, block, 'a'), 0);
    web.reset();
    close();
    options.read_only = true;
    metadata->add({.operation = IoOperation::write});
    data->add({.operation = IoOperation::write});
    open();
    web = volume(1);
    EXPECT_TRUE(client->holds(*web, 0, block, 'a'));
    EXPECT_TRUE(client->holds(*web, block, block, 0));
    EXPECT_NE(client->fill(*web, 5 * block, 512, 'b'), 0);
    EXPECT_FALSE(pool->transact({creation(2)}, 1, 2));
    EXPECT_FALSE(pool->reserve_metadata_snapshot());
    web.reset();
    close();
}

TEST_P(PoolBothWays, RefusesMetadataOfAnotherShape) {
    start(GetParam());
    close();
    options.data_block_sectors = 256;
    auto opened = ThinPool::open(*metadata, *data, options);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().kind(), ErrorKind::damaged);
    options.data_block_sectors = 128;
    MemoryDevice smaller(10 * block);
    opened = ThinPool::open(*metadata, smaller, options);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().kind(), ErrorKind::damaged);
    for (const std::uint32_t sectors : {0u, 64u, 127u, 129u, 4194304u})
        EXPECT_FALSE(ThinPool::format(*metadata, 64 * block, sectors)) << sectors;
}

// --- Limits ---------------------------------------------------------------------------------------------------------------

TEST_P(PoolBothWays, TimeEndsWithAnErrorNotWithAWrap) {
    set_up(GetParam());
    // The superblock of a pool whose time has one step left (thin-format: time u32 at 44; checksum crc32c ^ 160774).
    std::vector<std::byte> superblock(4096);
    ASSERT_TRUE(read_now(*metadata_memory, 0, superblock));
    store_little<std::uint32_t>(&superblock[44], (1u << 24) - 2);
    store_little<std::uint32_t>(superblock.data(), crc32c(0xffffffff, std::span(superblock).subspan(4)) ^ 160774);
    ASSERT_TRUE(write_now(*metadata_memory, 0, superblock));
    open();
    auto web = created(1);
    ASSERT_EQ(client->fill(*web, 0, block, 'a'), 0);
    change({snapshot(2, 1)});
    ASSERT_EQ(client->fill(*web, 0, 512, 'b'), 0);
    const auto refused = pool->transact({snapshot(3, 1)}, transaction, transaction + 1);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::refused) << refused.error().message();
    auto copy = volume(2);
    EXPECT_TRUE(client->holds(*copy, 0, block, 'a'));
    EXPECT_TRUE(client->holds(*web, 0, 512, 'b'));
    EXPECT_EQ(client->fill(*web, block, block, 'c'), 0);
    EXPECT_TRUE(client->holds(*web, block, block, 'c'));
    web.reset();
    copy.reset();
    close();
    EXPECT_EQ(committed()->time(), (1u << 24) - 1);
}

// --- Long work and load ---------------------------------------------------------------------------------------------------

TEST_F(PoolTest, RemovingABigVolumeLetsOthersWork) {
    start(Mode::stepped, 40000, 16 << 20);
    auto big = created(1, 30000 * block);
    auto other = created(2);
    for (std::uint64_t number = 0; number < 30000; ++number)
        ASSERT_EQ(client->fill(*big, number * block, 512, 'a'), 0);
    ASSERT_EQ(client->fill(*other, 0, block, 'o'), 0);
    big.reset();
    // A client that writes and reads as fast as it can while the removal goes on.
    struct Busy : Request {
        Busy(ThinVolume& its_volume, IoQueue& its_queue, std::byte* memory)
            : Request(IoOperation::write, 0, 512, memory), volume(its_volume), queue(its_queue) {
            completed = [](IoRequest& request, int result) {
                auto& self = static_cast<Busy&>(request);
                EXPECT_EQ(result, 0);
                self.idle = true;
                if (self.stop)
                    return;
                ++self.count;
                self.submit();
            };
        }
        void submit() {
            idle = false;
            offset = count % 32 * block;
            length = 512;
            volume.submit(queue, *this);
        }
        ThinVolume& volume;
        IoQueue& queue;
        std::uint64_t count = 0;
        bool stop = false, idle = true;
    };
    std::vector<std::byte> bytes(512, std::byte{'b'});
    Busy busy(*other, *pool_queue, bytes.data());
    busy.submit();
    // It says how far it is, in steps, to the end.
    std::vector<std::uint64_t> removed;
    auto progress = [&](std::uint64_t count, std::uint64_t total) {
        EXPECT_EQ(total, 30000u);
        removed.push_back(count);
    };
    ASSERT_TRUE(pool->transact({removal(1)}, transaction, transaction + 1, progress));
    ++transaction;
    EXPECT_GE(removed.size(), 2u);
    EXPECT_TRUE(std::is_sorted(removed.begin(), removed.end()));
    EXPECT_EQ(removed.back(), 30000u);
    busy.stop = true;
    pool_queue->run_until([&] { return busy.idle; });
    EXPECT_GE(busy.count, 2u) << "the removal was one piece";
    EXPECT_EQ(used(), pool->details(ThinId(2))->mapped_blocks);
    other.reset();
    close();
}

// Against a plain model: random requests by several threads, each on its own volume, with snapshots taken between rounds.
class PoolLoad : public PoolTest {
  protected:
    void load(unsigned seed) {
        constexpr unsigned clients = 3;
        constexpr std::uint64_t size = 24 * block + 4096;
        std::vector<std::shared_ptr<ThinVolume>> volumes;
        std::vector<std::vector<std::byte>> models(clients, std::vector<std::byte>(size));
        for (std::uint32_t number = 0; number < clients; ++number)
            volumes.push_back(created(number, size));
        std::vector<std::pair<std::uint32_t, std::vector<std::byte>>> frozen;
        for (std::uint32_t round = 0; round < 4; ++round) {
            std::vector<std::thread> threads;
            for (unsigned number = 0; number < clients; ++number)
                threads.emplace_back([&, number, &queue = another_queue()] {
                    Client self(queue);
                    std::mt19937 random(seed * 1000 + round * 10 + number);
                    auto& model = models[number];
                    for (int step = 0; step < 150; ++step) {
                        const std::uint64_t at = random() % (size / 512) * 512;
                        const std::uint64_t length =
                            std::min<std::uint64_t>(size - at, (1 + random() % (random() % 8 == 0 ? 400 : 20)) * 512);
                        switch (random() % 8) {
                        case 0: {
                            ASSERT_EQ(self.discard(*volumes[number], at, length), 0);
                            const std::uint64_t begin = (at + block - 1) / block * block;
                            const std::uint64_t end = at + length == size ? size : (at + length) / block * block;
                            if (begin < end)
                                std::fill(model.begin() + static_cast<std::ptrdiff_t>(begin),
                                          model.begin() + static_cast<std::ptrdiff_t>(end), std::byte{0});
                            break;
                        }
                        case 1:
                            ASSERT_EQ(self.run(*volumes[number], IoOperation::write_zeroes, at, length), 0);
                            std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(at), length, std::byte{0});
                            break;
                        case 2:
                            ASSERT_TRUE(std::ranges::equal(self.read(*volumes[number], at, length), std::span(model).subspan(at, length)));
                            break;
                        case 3:
                            if (step % 10 == 0)
                                ASSERT_EQ(self.flush(*volumes[number]), 0);
                            break;
                        default: {
                            auto bytes = pattern(length, random());
                            std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(at));
                            ASSERT_EQ(self.write(*volumes[number], at, std::move(bytes), step % 20 == 0), 0);
                        }
                        }
                    }
                });
            for (std::thread& thread : threads)
                thread.join();
            std::vector<PoolChange> changes;
            for (std::uint32_t number = 0; number < clients; ++number) {
                changes.push_back(snapshot(100 + round * clients + number, number));
                frozen.emplace_back(100 + round * clients + number, models[number]);
            }
            if (round == 3)
                for (std::uint32_t number = 0; number < clients; ++number)
                    changes.push_back(removal(100 + number));
            change(changes);
        }
        frozen.erase(frozen.begin(), frozen.begin() + clients);
        for (unsigned number = 0; number < clients; ++number)
            EXPECT_EQ(client->read(*volumes[number], 0, size), models[number]);
        volumes.clear();
        reopen();
        for (const auto& [id, model] : frozen) {
            auto copy = volume(id, size);
            EXPECT_EQ(client->read(*copy, 0, size), model) << id;
        }
        for (std::uint32_t number = 0; number < clients; ++number) {
            auto again = volume(number, size);
            EXPECT_EQ(client->read(*again, 0, size), models[number]);
        }
        close();
    }
};

TEST_F(PoolLoad, MatchesAPlainModel) {
    set_up(Mode::threaded, 1000);
    ASSERT_TRUE(write_now(*data_memory, 0, std::vector<std::byte>(data_memory->size(), std::byte{0xdb})));
    open();
    load(1);
}

TEST_F(PoolLoad, MatchesAPlainModelWithHardlyAnyMemory) {
    options.mapping_cache_bytes = 1;
    options.copy_buffer_bytes = 1;
    options.metadata_cache_bytes = 1;
    start(Mode::threaded, 1000);
    load(2);
}

TEST_F(PoolLoad, MatchesAPlainModelWithOtherChunks) {
    options.data_block_sectors = 128;
    options.discards = DiscardPolicy::no_passdown;
    start(Mode::threaded, 1000);
    load(3);
}

TEST_F(PoolTest, RunsOnFiles) {
    test::TemporaryFolder folder;
    FileOptions make;
    make.create = metadata_bytes;
    auto metadata_file = FileDevice::open(folder.file("metadata"), make);
    make.create = 64 * block;
    auto data_file = FileDevice::open(folder.file("data"), make);
    ASSERT_TRUE(metadata_file && data_file);
    ASSERT_TRUE(ThinPool::format(**metadata_file, 64 * block, 128));
    own_queue = *make_io_queue();
    Client self(*own_queue);
    const std::uint32_t alignment = std::max<std::uint32_t>((*data_file)->traits().alignment, 4096);
    const auto content = pattern(5 * block, 4);
    for (const bool again : {false, true}) {
        auto opened = ThinPool::open(**metadata_file, **data_file, {});
        ASSERT_TRUE(opened) << opened.error().message();
        pool = *std::move(opened);
        if (!again)
            change({creation(1)});
        auto web = volume(1);
        if (!again) {
            ASSERT_EQ(self.write(*web, alignment, content), 0);
            change({snapshot(2, 1)});
            ASSERT_EQ(self.write(*web, 2 * block + alignment, pattern(alignment, 9)), 0);
            ASSERT_EQ(self.discard(*web, 3 * block, block), 0);
            ASSERT_EQ(self.flush(*web), 0);
        }
        auto copy = volume(2);
        EXPECT_EQ(self.read(*copy, alignment, content.size()), content);
        EXPECT_EQ(self.read(*web, 2 * block + alignment, alignment), pattern(alignment, 9));
        EXPECT_TRUE(self.holds(*web, 3 * block, block, 0));
        EXPECT_TRUE(self.holds(*web, 0, alignment, 0));
        web.reset();
        copy.reset();
        close();
    }
}

}  // namespace
}  // namespace lamella::thin
