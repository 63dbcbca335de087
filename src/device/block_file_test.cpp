// SPDX-License-Identifier: Apache-2.0
//
// FileDevice on real block devices: loop devices, where the tests may make them.
#include <cstring>
#include <fstream>

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "device/file_device.h"
#include "device/test_support.h"

namespace lamella {
namespace {

using test::pattern;
using test::QueueKind;
using test::Request;

constexpr std::uint64_t mib = 1024 * 1024;

class LoopDeviceTest : public test::OnBothQueues {
  protected:
    void SetUp() override {
        OnBothQueues::SetUp();
        if (queue == nullptr)
            return;
        file = folder.file("disk");
        { ASSERT_TRUE(FileDevice::open(file, {.create = 16 * mib})); }
        const int control = ::open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        if (control < 0)
            GTEST_SKIP() << "no loop devices here";
        // Another process may take the free number first.
        for (int attempt = 0; attempt < 10 && loop < 0; ++attempt) {
            const int number = ::ioctl(control, LOOP_CTL_GET_FREE);
            if (number < 0)
                break;
            path = fmt::format("/dev/loop{}", number);
            const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
            const int backing = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
            loop_config config{};
            config.fd = static_cast<__u32>(backing);
            if (fd >= 0 && backing >= 0 && ::ioctl(fd, LOOP_CONFIGURE, &config) == 0)
                loop = fd;
            else if (fd >= 0)
                ::close(fd);
            if (backing >= 0)
                ::close(backing);
        }
        ::close(control);
        if (loop < 0)
            GTEST_SKIP() << "loop devices can't be set up here";
    }
    void TearDown() override {
        if (loop >= 0) {
            ::ioctl(loop, LOOP_CLR_FD);
            ::close(loop);
        }
    }

    test::TemporaryFolder folder;
    std::string file;
    std::string path;
    int loop = -1;
};
INSTANTIATE_TEST_SUITE_P(Queues, LoopDeviceTest, testing::Values(QueueKind::plain, QueueKind::uring), test::name_of);

TEST_P(LoopDeviceTest, WritesReadsDiscardsAndZeros) {
    auto opened = FileDevice::open(path);
    ASSERT_TRUE(opened) << opened.error().message();
    FileDevice& device = **opened;
    EXPECT_TRUE(device.is_block_device());
    EXPECT_EQ(device.size(), 16 * mib);
    EXPECT_TRUE(device.traits().discards);
    const auto data = pattern(4 * mib, 1);
    AlignedBuffer buffer(4 * mib);
    std::memcpy(buffer.data(), data.data(), data.size());
    Request write{IoOperation::write, mib, 4 * mib, buffer.data()};
    write.durable = true;
    ASSERT_EQ(write.run(device, *queue), 0);
    ASSERT_EQ((Request{IoOperation::flush, 0, 0}.run(device, *queue)), 0);
    std::memset(buffer.data(), 0, buffer.size());
    ASSERT_EQ((Request{IoOperation::read, mib, 4 * mib, buffer.data()}.run(device, *queue)), 0);
    ASSERT_EQ(0, std::memcmp(buffer.data(), data.data(), data.size()));
    // The file below is the witness that a discard arrives.
    struct stat before {};
    ASSERT_EQ(0, ::stat(file.c_str(), &before));
    EXPECT_EQ((Request{IoOperation::discard, mib, mib}.run(device, *queue)), 0);
    struct stat after {};
    ASSERT_EQ(0, ::stat(file.c_str(), &after));
    EXPECT_LT(after.st_blocks, before.st_blocks);
    for (const bool keep : {false, true}) {
        Request zeroes{IoOperation::write_zeroes, (keep ? 2 : 3) * mib, mib};
        zeroes.keep_allocated = keep;
        zeroes.durable = true;
        EXPECT_EQ(zeroes.run(device, *queue), 0);
    }
    Request impossible{IoOperation::write_zeroes, 0, mib};
    impossible.keep_allocated = impossible.fast_only = true;
    EXPECT_EQ(impossible.run(device, *queue), EOPNOTSUPP);
    std::vector<std::byte> zeros(2 * mib, std::byte{1});
    ASSERT_TRUE(read_now(device, 2 * mib, zeros));
    EXPECT_EQ(zeros, std::vector<std::byte>(2 * mib));
    EXPECT_EQ(device.known_zero(8 * mib, mib), 0u) << "nobody knows of a disk";
    EXPECT_EQ(device.grow(32 * mib).error().kind(), ErrorKind::unsupported);
}

TEST_P(LoopDeviceTest, NoticesThatADiskHasGrown) {
    auto device = *FileDevice::open(path);
    ASSERT_EQ(0, ::truncate(file.c_str(), 32 * mib));
    ASSERT_EQ(0, ::ioctl(loop, LOOP_SET_CAPACITY));
    ASSERT_TRUE(device->refresh_size());
    EXPECT_EQ(device->size(), 32 * mib);
}

TEST_P(LoopDeviceTest, ClaimsDisksAndRefusesWhatOthersHaveClaimed) {
    {
        auto device = *FileDevice::open(path);
        EXPECT_EQ(FileDevice::open(path).error().kind(), ErrorKind::refused);
        EXPECT_EQ(FileDevice::open(file).error().kind(), ErrorKind::refused) << "the file below is in use, too";
    }
    EXPECT_TRUE(FileDevice::open(file)) << "a loop device that nobody uses is no hindrance";
    // A mounted file system names its folder.
    const std::string folder_name = folder.file("mount");
    if (std::system(fmt::format("mkfs.ext4 -q {} >/dev/null 2>&1", path).c_str()) != 0)
        GTEST_SKIP() << "no mkfs.ext4";
    ASSERT_EQ(0, ::mkdir(folder_name.c_str(), 0700));
    const bool mounted = ::mount(path.c_str(), folder_name.c_str(), "ext4", 0, nullptr) == 0;
    if (mounted) {
        const auto disk = FileDevice::open(path);
        const auto image = FileDevice::open(file);
        const auto reader = FileDevice::open(file, {.read_only = true});
        EXPECT_EQ(0, ::umount(folder_name.c_str()));
        EXPECT_FALSE(disk);
        EXPECT_FALSE(image);
        EXPECT_TRUE(reader);
        if (!disk && !image) {
            EXPECT_NE(disk.error().message().find("mounted on " + folder_name), std::string::npos) << disk.error().message();
            EXPECT_NE(image.error().message().find(path), std::string::npos) << image.error().message();
            EXPECT_NE(image.error().message().find("mounted on " + folder_name), std::string::npos) << image.error().message();
        }
    }
    ::rmdir(folder_name.c_str());
    if (!mounted)
        GTEST_SKIP() << "file systems can't be mounted here";
}

}  // namespace
}  // namespace lamella
