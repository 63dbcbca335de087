// SPDX-License-Identifier: Apache-2.0
//
// What unit tests of devices share: requests that remember their outcome, patterns, files that go away, both queues.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <unistd.h>

#include <gtest/gtest.h>

#include "device/block_device.h"

namespace lamella::test {

inline std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::byte> bytes(size);
    for (std::byte& byte : bytes)
        byte = static_cast<std::byte>(random());
    return bytes;
}

// A request over one buffer that notes how it ended.
struct Request : IoRequest {
    Request(IoOperation what, std::uint64_t at, std::uint64_t size, std::byte* memory = nullptr) : vector{memory, size} {
        operation = what;
        offset = at;
        length = size;
        if (what == IoOperation::read || what == IoOperation::write)
            vectors = {&vector, 1};
        completed = [](IoRequest& request, int result) {
            auto& self = static_cast<Request&>(request);
            EXPECT_FALSE(self.done) << "completed twice";
            self.done = true;
            self.error = result;
        };
    }
    Request(const Request&) = delete;

    int run(BlockDevice& device, IoQueue& queue) {
        device.submit(queue, *this);
        EXPECT_FALSE(done) << "completed inside submit()";
        queue.run_until([this] { return done; });
        return error;
    }

    iovec vector;
    bool done = false;
    int error = -1;
};

class TemporaryFolder {
  public:
    TemporaryFolder() {
        std::string name = "/tmp/lamella-test-XXXXXX";
        if (::mkdtemp(name.data()) == nullptr)
            std::abort();
        path_ = name;
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }
    TemporaryFolder(const TemporaryFolder&) = delete;

    std::string file(const std::string& name) const { return path_ + "/" + name; }

  private:
    std::string path_;
};

enum class QueueKind { plain, uring };

inline std::string name_of(const testing::TestParamInfo<QueueKind>& info) { return info.param == QueueKind::plain ? "plain" : "uring"; }

inline Result<std::unique_ptr<IoQueue>> make_queue(QueueKind kind, Clock& clock = Clock::system(), unsigned depth = 256) {
    return kind == QueueKind::plain ? make_plain_queue(clock) : make_uring_queue(depth, clock);
}

// Where the kernel refuses io_uring its tests say so and are skipped.
class OnBothQueues : public testing::TestWithParam<QueueKind> {
  protected:
    void SetUp() override {
        auto made = make_queue(GetParam());
        if (!made && GetParam() == QueueKind::uring)
            GTEST_SKIP() << made.error().message();
        ASSERT_TRUE(made) << made.error().message();
        queue = *std::move(made);
    }
    std::unique_ptr<IoQueue> queue;
};

}  // namespace lamella::test
