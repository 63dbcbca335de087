// SPDX-License-Identifier: Apache-2.0
#include "device/file_device.h"

#include <atomic>
#include <cstring>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "device/test_support.h"

namespace lamella {
namespace {

using test::pattern;
using test::QueueKind;
using test::Request;

constexpr std::uint64_t mib = 1024 * 1024;

class FileDeviceTest : public test::OnBothQueues {
  protected:
    test::TemporaryFolder folder;
};
INSTANTIATE_TEST_SUITE_P(Queues, FileDeviceTest, testing::Values(QueueKind::plain, QueueKind::uring), test::name_of);

TEST_P(FileDeviceTest, KeepsWhatIsWrittenUnderManyRequestsAtOnce) {
    for (const auto direct : {FileOptions::Direct::automatic, FileOptions::Direct::never}) {
        const std::string path = folder.file(direct == FileOptions::Direct::never ? "buffered" : "direct");
        constexpr std::uint64_t size = 8 * mib;
        auto device = *FileDevice::open(path, {.direct = direct, .create = size});
        EXPECT_FALSE(device->direct() && direct == FileOptions::Direct::never);
        const auto data = pattern(size, 3);
        AlignedBuffer source(size);
        std::memcpy(source.data(), data.data(), size);
        // 4 KiB each, 2048 at once: more than any ring here holds.
        std::vector<std::unique_ptr<Request>> requests;
        for (std::uint64_t offset = 0; offset < size; offset += 4096) {
            requests.push_back(std::make_unique<Request>(IoOperation::write, offset, 4096, source.data() + offset));
            device->submit(*queue, *requests.back());
        }
        for (auto& request : requests) {
            queue->run_until([&] { return request->done; });
            ASSERT_EQ(request->error, 0);
        }
        EXPECT_EQ((Request{IoOperation::flush, 0, 0}.run(*device, *queue)), 0);
        AlignedBuffer read(size);
        ASSERT_EQ((Request{IoOperation::read, 0, size, read.data()}.run(*device, *queue)), 0);
        EXPECT_EQ(0, std::memcmp(read.data(), data.data(), size));
        // The file itself is the witness.
        std::ifstream file(path, std::ios::binary);
        std::vector<char> content(size);
        ASSERT_TRUE(file.read(content.data(), static_cast<std::streamsize>(size)));
        EXPECT_EQ(0, std::memcmp(content.data(), data.data(), size));
    }
}

TEST_P(FileDeviceTest, RandomOperationsMatchAnArray) {
    constexpr std::uint64_t size = mib;
    constexpr unsigned seed = 11;
    auto device = *FileDevice::open(folder.file("random"), {.create = size});
    const std::uint64_t unit = device->traits().alignment;
    std::vector<std::byte> model(size);
    std::mt19937 random(seed);
    std::vector<std::byte> memory(size + 64);
    for (int round = 0; round < 1500; ++round) {
        SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << round);
        const std::uint64_t offset = random() % (size / unit) * unit;
        const std::uint64_t length = random() % std::min<std::uint64_t>(32, (size - offset) / unit + 1) * unit;
        std::byte* bytes = memory.data() + random() % 64;  // rarely what O_DIRECT takes
        switch (random() % 5) {
        case 0:
        case 1: {
            const auto data = pattern(length, random());
            std::copy(data.begin(), data.end(), bytes);
            Request request{IoOperation::write, offset, length, bytes};
            request.durable = random() % 16 == 0;
            ASSERT_EQ(request.run(*device, *queue), 0);
            std::copy(data.begin(), data.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
            break;
        }
        case 2: {
            Request request{IoOperation::write_zeroes, offset, length};
            request.keep_allocated = random() % 2 == 0;
            request.durable = random() % 16 == 0;
            ASSERT_EQ(request.run(*device, *queue), 0);
            std::memset(model.data() + offset, 0, length);
            break;
        }
        case 3: {
            Request request{IoOperation::discard, offset, length};
            ASSERT_EQ(request.run(*device, *queue), 0);
            std::memset(model.data() + offset, 0, length);
            break;
        }
        default: {
            // Any range, in three vectors.
            const std::uint64_t from = random() % size;
            const std::uint64_t count = random() % std::min<std::uint64_t>(size - from + 1, 40000);
            std::memset(bytes, 0xee, count);
            const std::uint64_t third = count / 3;
            const std::array<iovec, 3> vectors = {iovec{bytes, third}, iovec{bytes + third, third},
                                                  iovec{bytes + 2 * third, count - 2 * third}};
            Request request{IoOperation::read, from, count};
            request.vectors = vectors;
            ASSERT_EQ(request.run(*device, *queue), 0);
            ASSERT_EQ(0, std::memcmp(bytes, model.data() + from, count));
        }
        }
    }
}

TEST_P(FileDeviceTest, TakesMoreVectorsThanOneSystemCall) {
    constexpr std::size_t count = 3000;
    constexpr std::uint64_t unit = 4096;
    auto device = *FileDevice::open(folder.file("vectors"), {.create = count * unit});
    AlignedBuffer memory(count * unit);
    const auto data = pattern(count * unit, 5);
    std::memcpy(memory.data(), data.data(), data.size());
    std::vector<iovec> vectors;
    for (std::size_t index = 0; index < count; ++index)
        vectors.push_back({memory.data() + index * unit, unit});
    Request write{IoOperation::write, 0, count * unit};
    write.vectors = vectors;
    ASSERT_EQ(write.run(*device, *queue), 0);
    AlignedBuffer back(count * unit);
    ASSERT_EQ((Request{IoOperation::read, 0, count * unit, back.data()}.run(*device, *queue)), 0);
    EXPECT_EQ(0, std::memcmp(back.data(), data.data(), data.size()));
}

TEST_P(FileDeviceTest, RefusesWhatItCannotDo) {
    auto device = *FileDevice::open(folder.file("limits"), {.create = 64 * 1024});
    const std::uint64_t unit = device->traits().alignment;
    AlignedBuffer buffer(8192);
    EXPECT_EQ((Request{IoOperation::write, unit / 2, unit, buffer.data()}.run(*device, *queue)), EINVAL);
    EXPECT_EQ((Request{IoOperation::write, 0, unit / 2, buffer.data()}.run(*device, *queue)), EINVAL);
    EXPECT_EQ((Request{IoOperation::write, 64 * 1024, 4096, buffer.data()}.run(*device, *queue)), ENOSPC);
    EXPECT_EQ((Request{IoOperation::read, 64 * 1024 - 100, 200, buffer.data()}.run(*device, *queue)), EINVAL);
    EXPECT_EQ((Request{IoOperation::discard, 0, 1ULL << 63}.run(*device, *queue)), EINVAL);
    // Parts of a unit are not discarded.
    ASSERT_TRUE(write_now(*device, 0, pattern(8192, 1)));
    EXPECT_EQ((Request{IoOperation::discard, 1, unit - 1}.run(*device, *queue)), 0);
    std::vector<std::byte> back(8192);
    ASSERT_TRUE(read_now(*device, 0, back));
    EXPECT_EQ(back, pattern(8192, 1));
    Request wider{IoOperation::discard, 1, 2 * unit};
    EXPECT_EQ(wider.run(*device, *queue), 0);
    EXPECT_EQ(wider.length, 2 * unit);
    auto expected = pattern(8192, 1);
    std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(unit), unit, std::byte{0});
    ASSERT_TRUE(read_now(*device, 0, back));
    EXPECT_EQ(back, expected);
}

TEST_P(FileDeviceTest, ReportsAFileCutShortAsAnIoError) {
    const std::string path = folder.file("cut");
    auto device = *FileDevice::open(path, {.create = 64 * 1024});
    ASSERT_EQ(0, ::truncate(path.c_str(), 16 * 1024));
    AlignedBuffer buffer(64 * 1024);
    EXPECT_EQ((Request{IoOperation::read, 0, 64 * 1024, buffer.data()}.run(*device, *queue)), EIO);
    EXPECT_EQ((Request{IoOperation::read, 32 * 1024, 4096, buffer.data()}.run(*device, *queue)), EIO);
    EXPECT_EQ((Request{IoOperation::read, 0, 16 * 1024, buffer.data()}.run(*device, *queue)), 0);
}

TEST_P(FileDeviceTest, ReportsTheErrorsOfTheKernel) {
    // A descriptor that isn't open for writing gives EBADF, and /dev/full gives ENOSPC: the queue hands both on.
    AlignedBuffer buffer(4096);
    const int full = ::open("/dev/full", O_RDWR | O_CLOEXEC);
    ASSERT_GE(full, 0);
    Request write{IoOperation::write, 0, 4096, buffer.data()};
    queue->submit_file(full, false, write);
    EXPECT_FALSE(write.done);
    queue->run_until([&] { return write.done; });
    EXPECT_EQ(write.error, ENOSPC);
    ::close(full);
    Request closed{IoOperation::read, 0, 4096, buffer.data()};
    queue->submit_file(full, false, closed);
    queue->run_until([&] { return closed.done; });
    EXPECT_EQ(closed.error, EBADF);
}

TEST_P(FileDeviceTest, FreesAndZerosRanges) {
    const std::string path = folder.file("sparse");
    auto device = *FileDevice::open(path, {.create = 4 * mib});
    ASSERT_TRUE(device->traits().discards);
    ASSERT_TRUE(device->traits().discard_zeroes);
    const auto blocks = [&] {
        struct stat status {};
        EXPECT_EQ(0, ::stat(path.c_str(), &status));
        return static_cast<std::uint64_t>(status.st_blocks) * 512;
    };
    EXPECT_EQ(device->known_zero(0, 100 * mib), 4 * mib);
    ASSERT_TRUE(write_now(*device, mib, pattern(2 * mib, 1)));
    ASSERT_TRUE(flush_now(*device));
    EXPECT_GE(blocks(), 2 * mib);
    EXPECT_EQ(device->known_zero(0, 100 * mib), mib);
    EXPECT_EQ(device->known_zero(mib, mib), 0u);
    const auto extents = *status_now(*device, 0, 4 * mib, 10);
    ASSERT_EQ(extents.size(), 3u);
    EXPECT_TRUE(extents[0].zero);
    EXPECT_EQ(extents[0].length, mib);
    EXPECT_TRUE(extents[1].allocated);
    EXPECT_EQ(extents[1].length, 2 * mib);
    EXPECT_EQ(extents[2].length, mib);
    Request discard{IoOperation::discard, mib, mib};
    EXPECT_EQ(discard.run(*device, *queue), 0);
    EXPECT_LT(blocks(), 2 * mib);
    const std::uint64_t before = blocks();
    Request kept{IoOperation::write_zeroes, 2 * mib, mib};
    kept.keep_allocated = true;
    EXPECT_EQ(kept.run(*device, *queue), 0);
    EXPECT_EQ(blocks(), before);
    Request freed{IoOperation::write_zeroes, 2 * mib, mib};
    EXPECT_EQ(freed.run(*device, *queue), 0);
    EXPECT_LT(blocks(), before);
    std::vector<std::byte> all(4 * mib, std::byte{1});
    ASSERT_TRUE(read_now(*device, 0, all));
    EXPECT_EQ(all, std::vector<std::byte>(4 * mib));
}

TEST(FileDevice, GrowsAndNoticesGrowth) {
    test::TemporaryFolder folder;
    const std::string path = folder.file("grow");
    auto device = *FileDevice::open(path, {.create = mib});
    EXPECT_EQ(FileDevice::open(path, {.create = mib}).error().kind(), ErrorKind::exists);
    ASSERT_TRUE(device->grow(2 * mib));
    EXPECT_EQ(device->size(), 2 * mib);
    EXPECT_EQ(device->grow(mib).error().kind(), ErrorKind::usage);
    ASSERT_EQ(0, ::truncate(path.c_str(), 3 * mib));
    EXPECT_EQ(device->size(), 2 * mib);
    ASSERT_TRUE(device->refresh_size());
    EXPECT_EQ(device->size(), 3 * mib);
}

TEST(FileDevice, ReadOnlyDevicesRefuseWrites) {
    test::TemporaryFolder folder;
    const std::string path = folder.file("read-only");
    { ASSERT_TRUE(FileDevice::open(path, {.create = mib})); }
    auto device = *FileDevice::open(path, {.read_only = true});
    EXPECT_TRUE(device->traits().read_only);
    EXPECT_FALSE(device->traits().discards);
    EXPECT_EQ(write_now(*device, 0, pattern(4096, 1)).error().error_number(), EROFS);
    EXPECT_EQ(discard_now(*device, 0, 4096).error().error_number(), EROFS);
    std::vector<std::byte> bytes(4096);
    EXPECT_TRUE(read_now(*device, 0, bytes));
    EXPECT_TRUE(flush_now(*device));
    EXPECT_TRUE(FileDevice::open(path, {.read_only = true})) << "readers share";
    EXPECT_EQ(FileDevice::open(path).error().kind(), ErrorKind::refused);
}

TEST(FileDevice, RefusesWhatIsNoDevice) {
    EXPECT_EQ(FileDevice::open("/tmp").error().kind(), ErrorKind::usage);
    EXPECT_EQ(FileDevice::open("/dev/null").error().kind(), ErrorKind::usage);
    EXPECT_EQ(FileDevice::open("/tmp/no-such-file-of-lamella").error().kind(), ErrorKind::not_found);
}

TEST(FileDevice, NamesTheProcessThatHoldsAFile) {
    test::TemporaryFolder folder;
    const std::string path = folder.file("locked");
    { ASSERT_TRUE(FileDevice::open(path, {.create = mib})); }
    int to_parent[2];
    int to_child[2];
    ASSERT_EQ(0, ::pipe(to_parent));
    ASSERT_EQ(0, ::pipe(to_child));
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        ::close(to_child[1]);  // so that the parent's end, however it comes, is seen here
        char byte = 'n';
        {
            auto device = FileDevice::open(path);
            byte = device ? 'y' : 'n';
            if (::write(to_parent[1], &byte, 1) != 1 || ::read(to_child[0], &byte, 1) < 0)
                ::_exit(1);
        }
        ::_exit(0);
    }
    ::close(to_parent[1]);
    char byte = 0;
    EXPECT_EQ(1, ::read(to_parent[0], &byte, 1));
    EXPECT_EQ(byte, 'y');
    for (const bool read_only : {false, true}) {
        const auto refused = FileDevice::open(path, {.read_only = read_only});
        EXPECT_FALSE(refused);
        if (!refused) {
            EXPECT_EQ(refused.error().kind(), ErrorKind::refused);
            EXPECT_NE(refused.error().message().find(fmt::format("device_test (pid {})", child)), std::string::npos)
                << refused.error().message();
        }
    }
    ::close(to_child[1]);
    int status = 0;
    ASSERT_EQ(child, ::waitpid(child, &status, 0));
    EXPECT_EQ(status, 0);
    EXPECT_TRUE(FileDevice::open(path)) << "a process that ended holds nothing";
    ::close(to_parent[0]);
    ::close(to_child[0]);
}

// As where the kernel is still ending the I/O of a process that was killed: the lock lives on in a file that is open elsewhere.
TEST(FileDevice, WaitsForAProcessThatHasEnded) {
    test::TemporaryFolder folder;
    const std::string path = folder.file("locked");
    { ASSERT_TRUE(FileDevice::open(path, {.create = mib})); }
    int keep[2];
    ASSERT_EQ(0, ::pipe(keep));
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        const int fd = ::open(path.c_str(), O_RDWR);
        if (fd < 0 || ::flock(fd, LOCK_EX) != 0)
            ::_exit(1);
        if (::fork() == 0) {
            ::close(keep[1]);
            char byte;
            (void)!::read(keep[0], &byte, 1);
        }
        ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(child, ::waitpid(child, &status, 0));
    ASSERT_EQ(status, 0);
    std::atomic<bool> opening{false};
    std::thread end([&] {
        while (!opening.load())
            std::this_thread::yield();
        ::close(keep[1]);
    });
    opening.store(true);
    const auto opened = FileDevice::open(path);
    EXPECT_TRUE(opened) << opened.error().message();
    end.join();
    ::close(keep[0]);
}

}  // namespace
}  // namespace lamella
