// SPDX-License-Identifier: Apache-2.0
#include "device/file_operation.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>

#include <gtest/gtest.h>

namespace lamella {
namespace {

using Call = FileOperation::Call;

TEST(FileOperation, GoesOnAfterShortTransfersWithinAndBetweenVectors) {
    std::array<std::byte, 300> memory;
    const std::array<iovec, 4> vectors = {iovec{&memory[0], 100}, iovec{&memory[100], 0}, iovec{&memory[100], 100},
                                          iovec{&memory[200], 100}};
    IoRequest request{.operation = IoOperation::write, .durable = true, .offset = 1000, .length = 300, .vectors = vectors};
    FileOperation operation;
    operation.start(3, false, request);
    EXPECT_EQ(operation.step().flags, RWF_DSYNC);
    EXPECT_EQ(operation.advance(-EINTR), std::nullopt);
    EXPECT_EQ(operation.step().offset, 1000u);
    EXPECT_EQ(operation.step().vector_count, 4u);
    EXPECT_EQ(operation.advance(30), std::nullopt);
    EXPECT_EQ(operation.step().offset, 1030u);
    EXPECT_EQ(operation.step().flags, RWF_DSYNC);
    EXPECT_EQ(operation.step().vectors[0].iov_base, &memory[30]);
    EXPECT_EQ(operation.step().vectors[0].iov_len, 70u);
    EXPECT_EQ(operation.advance(-EAGAIN), std::nullopt);
    EXPECT_EQ(operation.advance(70), std::nullopt);
    EXPECT_EQ(operation.step().vector_count, 2u);
    EXPECT_EQ(operation.step().vectors[0].iov_base, &memory[100]);
    EXPECT_EQ(operation.advance(150), std::nullopt);
    EXPECT_EQ(operation.step().offset, 1250u);
    EXPECT_EQ(operation.step().vectors[0].iov_base, &memory[250]);
    EXPECT_EQ(operation.advance(50), 0);
}

TEST(FileOperation, ReportsErrorsAndAFileThatEndsEarly) {
    std::array<std::byte, 100> memory;
    const iovec vector{memory.data(), memory.size()};
    IoRequest request{.operation = IoOperation::read, .length = 100, .vectors = {&vector, 1}};
    FileOperation operation;
    operation.start(3, false, request);
    EXPECT_EQ(operation.advance(-ENOSPC), ENOSPC);
    operation.start(3, false, request);
    EXPECT_EQ(operation.advance(60), std::nullopt);
    EXPECT_EQ(operation.advance(0), EIO);
}

TEST(FileOperation, WritesRealZerosWhenTheFileSystemHasNoCommandForThem) {
    IoRequest request{.operation = IoOperation::write_zeroes, .durable = true, .offset = 4096, .length = 3 << 20};
    FileOperation operation;
    operation.start(3, false, request);
    EXPECT_EQ(operation.step().call, Call::allocate);
    EXPECT_EQ(operation.step().flags, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    EXPECT_EQ(operation.advance(-EOPNOTSUPP), std::nullopt);
    EXPECT_EQ(operation.step().flags, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
    EXPECT_EQ(operation.advance(-EOPNOTSUPP), std::nullopt);
    std::uint64_t place = 4096;
    while (operation.step().call == Call::write) {
        EXPECT_EQ(operation.step().offset, place);
        std::uint64_t length = 0;
        for (unsigned index = 0; index < operation.step().vector_count; ++index) {
            const iovec& vector = operation.step().vectors[index];
            EXPECT_EQ(static_cast<const std::byte*>(vector.iov_base)[vector.iov_len - 1], std::byte{0});
            length += vector.iov_len;
        }
        ASSERT_GT(length, 0u);
        length = std::min<std::uint64_t>(length, 700 * 1024);  // short
        place += length;
        ASSERT_EQ(operation.advance(static_cast<long>(length)), std::nullopt);
    }
    EXPECT_EQ(place, 4096u + (3 << 20));
    EXPECT_EQ(operation.step().call, Call::sync);
    EXPECT_EQ(operation.advance(0), 0);
}

TEST(FileOperation, KeepsZerosAllocatedAndFastWhenAsked) {
    IoRequest request{.operation = IoOperation::write_zeroes, .keep_allocated = true, .fast_only = true, .length = 4096};
    FileOperation operation;
    operation.start(3, false, request);
    EXPECT_EQ(operation.step().flags, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
    EXPECT_EQ(operation.advance(-EOPNOTSUPP), EOPNOTSUPP);
    // A block device would write zeros for ZERO_RANGE without saying so.
    request.keep_allocated = false;
    operation.start(3, true, request);
    EXPECT_EQ(operation.step().flags, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    EXPECT_EQ(operation.advance(-EOPNOTSUPP), EOPNOTSUPP);
    operation.start(3, true, request);
    EXPECT_EQ(operation.advance(0), 0);
}

TEST(FileOperation, DiscardsFilesByHolesAndDisksByCommand) {
    IoRequest request{.operation = IoOperation::discard, .offset = 8192, .length = 4096};
    FileOperation operation;
    operation.start(3, false, request);
    EXPECT_EQ(operation.step().call, Call::allocate);
    EXPECT_EQ(operation.advance(-EOPNOTSUPP), EOPNOTSUPP);
    operation.start(3, true, request);
    EXPECT_EQ(operation.step().call, Call::discard);
    EXPECT_EQ(operation.step().offset, 8192u);
    EXPECT_EQ(operation.advance(0), 0);
}

}  // namespace
}  // namespace lamella
