// SPDX-License-Identifier: Apache-2.0
#include "serve/fuse/fuse_export.h"

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "device/memory_device.h"

namespace lamella::fuse {
namespace {

constexpr std::uint64_t device_bytes = 8 << 20;

class FuseMount : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/lamella-fuse-XXXXXX";
        folder = ::mkdtemp(name);
        std::error_code error;
        if (!std::filesystem::exists("/dev/fuse", error))
            GTEST_SKIP() << "no /dev/fuse here";
    }
    void TearDown() override {
        mounted.reset();
        ::umount2(folder.c_str(), MNT_DETACH);
        std::error_code error;
        std::filesystem::remove(folder, error);
    }
    void mount(bool read_only = false) {
        auto result = FuseExport::mount(device, {folder, "web", read_only});
        ASSERT_TRUE(result) << result.error().message();
        mounted = std::move(*result);
    }
    std::string device_content(std::uint64_t offset, std::size_t length) {
        std::string bytes(length, 'x');
        EXPECT_TRUE(read_now(device, offset, std::as_writable_bytes(std::span(bytes))));
        return bytes;
    }
    void fill_device(char c) {
        std::string bytes(device_bytes, c);
        ASSERT_TRUE(write_now(device, 0, std::as_bytes(std::span(bytes))));
    }

    std::string folder;
    MemoryDevice device{device_bytes};
    std::unique_ptr<FuseExport> mounted;
};

// Closes what a test opened on every way out: an open file keeps the mount busy.
struct OpenFile {
    explicit OpenFile(const std::string& path, int flags = O_RDWR) : fd(::open(path.c_str(), flags | O_CLOEXEC)) {
        EXPECT_GE(fd, 0) << path;
    }
    ~OpenFile() { ::close(fd); }
    int fd;
};

TEST_F(FuseMount, OneFile) {
    mount();
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
        names.push_back(entry.path().filename());
    EXPECT_EQ(names, std::vector<std::string>{"web"});
    EXPECT_EQ(mounted->path(), folder + "/web");
    EXPECT_EQ(std::filesystem::file_size(mounted->path()), device_bytes);
    EXPECT_FALSE(std::filesystem::exists(folder + "/other"));
    EXPECT_TRUE(mounted->unmount());
    EXPECT_FALSE(mounted->mounted());
    EXPECT_FALSE(std::filesystem::exists(folder + "/web"));
}

// A plain array of bytes says what the file has to hold, whatever shape the calls have.
TEST_F(FuseMount, AnyOffsetAndLength) {
    mount();
    OpenFile file(mounted->path());
    std::string model(device_bytes, '\0');
    unsigned seed = std::random_device()();
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937 random(seed);
    for (int i = 0; i < 400; ++i) {
        std::uint64_t offset = random() % device_bytes;
        std::size_t length = std::min<std::uint64_t>(1 + random() % (i % 10 == 0 ? 2'000'000 : 5000), device_bytes - offset);
        if (random() % 2) {
            offset = offset / 512 * 512;
            length = std::max<std::size_t>(length / 512 * 512, 512);
        }
        switch (random() % 4) {
        case 0:
        case 1: {
            std::string bytes(length, static_cast<char>('a' + random() % 26));
            ASSERT_EQ(::pwrite(file.fd, bytes.data(), length, static_cast<off_t>(offset)), static_cast<ssize_t>(length));
            model.replace(offset, length, bytes);
            break;
        }
        case 2: {
            std::string bytes(length, 'x');
            ASSERT_EQ(::pread(file.fd, bytes.data(), length, static_cast<off_t>(offset)), static_cast<ssize_t>(length));
            ASSERT_TRUE(bytes == model.substr(offset, length)) << "at " << offset << " + " << length;
            break;
        }
        case 3: {
            int mode = random() % 2 ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE;
            ASSERT_EQ(::fallocate(file.fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length)), 0);
            model.replace(offset, length, std::string(length, '\0'));
            break;
        }
        }
    }
    EXPECT_EQ(::fsync(file.fd), 0);
    EXPECT_TRUE(device_content(0, device_bytes) == model);
}

// Writers of neighbouring bytes within one sector: a read-modify-write that isn't kept apart from others would lose some.
TEST_F(FuseMount, UnalignedWritersDoNotLoseEachOthersBytes) {
    mount();
    constexpr int writers = 4, rounds = 200;
    std::vector<std::thread> threads;
    for (int w = 0; w < writers; ++w)
        threads.emplace_back([this, w] {
            OpenFile file(mounted->path());
            for (int i = 0; i < rounds; ++i) {
                char c = static_cast<char>('A' + w);
                EXPECT_EQ(::pwrite(file.fd, &c, 1, i * writers + w), 1);
            }
        });
    for (std::thread& thread : threads)
        thread.join();
    std::string content = device_content(0, writers * rounds);
    for (int i = 0; i < writers * rounds; ++i)
        ASSERT_EQ(content[static_cast<std::size_t>(i)], 'A' + i % writers) << i;
}

TEST_F(FuseMount, NothingIsCached) {
    mount();
    OpenFile file(mounted->path());
    char c = 0;
    ASSERT_EQ(::pread(file.fd, &c, 1, 5000), 1);
    EXPECT_EQ(c, 0);
    fill_device('n');
    ASSERT_EQ(::pread(file.fd, &c, 1, 5000), 1);
    EXPECT_EQ(c, 'n');
}

TEST_F(FuseMount, HolesAndData) {
    std::string bytes(65536, 'd');
    ASSERT_TRUE(write_now(device, 1 << 20, std::as_bytes(std::span(bytes))));
    mount();
    OpenFile file(mounted->path());
    EXPECT_EQ(::lseek(file.fd, 0, SEEK_DATA), 1 << 20);
    EXPECT_EQ(::lseek(file.fd, (1 << 20) + 100, SEEK_DATA), (1 << 20) + 100);
    EXPECT_EQ(::lseek(file.fd, 0, SEEK_HOLE), 0);
    EXPECT_EQ(::lseek(file.fd, 1 << 20, SEEK_HOLE), (1 << 20) + 65536);
    EXPECT_EQ(::lseek(file.fd, 2 << 20, SEEK_DATA), -1);
    EXPECT_EQ(errno, ENXIO);
    fill_device('d');
    EXPECT_EQ(::lseek(file.fd, 0, SEEK_HOLE), static_cast<off_t>(device_bytes));
    EXPECT_EQ(::lseek(file.fd, device_bytes, SEEK_HOLE), -1);
}

TEST_F(FuseMount, PunchedHolesAreGivenBack) {
    fill_device('d');
    ASSERT_GT(device.allocated_pages(), 0u);
    mount();
    OpenFile file(mounted->path());
    ASSERT_EQ(::fallocate(file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, device_bytes), 0);
    EXPECT_EQ(device.allocated_pages(), 0u);
    EXPECT_EQ(::fallocate(file.fd, 0, 0, 4096), -1);
    EXPECT_EQ(errno, EOPNOTSUPP);
}

TEST_F(FuseMount, Ends) {
    mount();
    OpenFile file(mounted->path());
    char bytes[1000] = {};
    EXPECT_EQ(::pread(file.fd, bytes, sizeof bytes, device_bytes - 10), 10);
    EXPECT_EQ(::pread(file.fd, bytes, sizeof bytes, device_bytes), 0);
    EXPECT_EQ(::pwrite(file.fd, bytes, sizeof bytes, device_bytes - 10), 10);
    EXPECT_EQ(::pwrite(file.fd, bytes, sizeof bytes, device_bytes), -1);
    EXPECT_EQ(errno, ENOSPC);
    EXPECT_EQ(::ftruncate(file.fd, 100), -1);
    EXPECT_EQ(::ftruncate(file.fd, device_bytes), 0);
    EXPECT_EQ(std::filesystem::file_size(mounted->path()), device_bytes);
}

TEST_F(FuseMount, ReadOnly) {
    fill_device('r');
    mount(true);
    EXPECT_EQ(::open(mounted->path().c_str(), O_RDWR | O_CLOEXEC), -1);
    EXPECT_EQ(errno, EROFS);
    OpenFile file(mounted->path(), O_RDONLY);
    char c = 0;
    EXPECT_EQ(::pread(file.fd, &c, 1, 0), 1);
    EXPECT_EQ(c, 'r');
}

TEST_F(FuseMount, BusyIsRefused) {
    mount();
    {
        OpenFile file(mounted->path());
        auto refused = mounted->unmount();
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().kind(), ErrorKind::refused);
        EXPECT_TRUE(mounted->mounted());
        char c = 'b';
        EXPECT_EQ(::pwrite(file.fd, &c, 1, 0), 1);
    }
    // A closed file's release may still be on its way for a moment after close() returned.
    Result<void> unmounted = mounted->unmount();
    for (int i = 0; i < 1000 && !unmounted; ++i) {
        std::this_thread::yield();
        unmounted = mounted->unmount();
    }
    EXPECT_TRUE(unmounted);
}

TEST_F(FuseMount, DestroyedWhileInUse) {
    mount();
    OpenFile file(mounted->path());
    mounted.reset();
    char c = 0;
    EXPECT_EQ(::pread(file.fd, &c, 1, 0), -1);
    EXPECT_FALSE(std::filesystem::exists(folder + "/web"));
}

TEST_F(FuseMount, UnmountedFromOutside) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root";
    mount();
    ASSERT_EQ(::umount2(folder.c_str(), 0), 0);
    while (mounted->mounted())
        std::this_thread::yield();
    EXPECT_TRUE(mounted->unmount());
}

TEST_F(FuseMount, BadMountPoint) {
    auto result = FuseExport::mount(device, {folder + "/missing", "web", false});
    EXPECT_FALSE(result);
}

}  // namespace
}  // namespace lamella::fuse
