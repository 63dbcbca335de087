// SPDX-License-Identifier: Apache-2.0
//
// Snapshots of several volumes are of one moment, also across pools.
#include <atomic>
#include <filesystem>
#include <thread>

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/endian.h"
#include "volumes/engine_group.h"

namespace lamella {
namespace {

class Moment : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = std::filesystem::temp_directory_path() / fmt::format("lamella-moment-{}", ::getpid());
        std::filesystem::create_directories(folder_);
        CreateGroup request;
        request.paths = {(folder_ / "vg.img").string()};
        request.size = 256 << 20;
        request.name = "vg";
        ASSERT_TRUE(EngineGroup::create(request, {}));
        EngineOptions options;
        options.archive_directory = folder_ / "archive";
        auto opened = EngineGroup::open(request.paths, options);
        ASSERT_TRUE(opened) << opened.error().message();
        group_ = std::move(*opened);
        for (const char* pool : {"one", "two"}) {
            CreatePool create;
            create.name = pool;
            create.size.value = 64 << 20;
            auto made = group_->create_pool(create, {});
            ASSERT_TRUE(made) << made.error().message();
            CreateVolume volume;
            volume.name = fmt::format("of-{}", pool);
            volume.pool = pool;
            volume.size.value = 32 << 20;
            auto created = group_->create_volume(volume, {});
            ASSERT_TRUE(created) << created.error().message();
        }
    }
    void TearDown() override {
        group_.reset();
        std::filesystem::remove_all(folder_);
    }

    static std::uint64_t counter_of(ExportSource& source, std::string_view name) {
        auto opened = source.open(name, true);
        EXPECT_TRUE(opened) << opened.error().message();
        AlignedBuffer block(4096);
        EXPECT_TRUE(read_now((*opened)->device(), 0, block.bytes()));
        return load_little<std::uint64_t>(block.data());
    }

    void is_one(const std::string& first, const std::string& second, int rounds, const CreateSnapshot& how);

    std::filesystem::path folder_;
    std::unique_ptr<EngineGroup> group_;
};

// Snapshots of two volumes, while each number is written to the first before the second.
void Moment::is_one(const std::string& first, const std::string& second, int rounds, const CreateSnapshot& how) {
    auto source = group_->exports();
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> written{0};
    std::thread writer([&] {
        auto one = source->open(first, false);
        auto two = source->open(second, false);
        ASSERT_TRUE(one && two);
        AlignedBuffer block(4096);
        for (std::uint64_t counter = 1; !stop.load(); ++counter) {
            store_little<std::uint64_t>(block.data(), counter);
            ASSERT_TRUE(write_now((*one)->device(), 0, block.bytes()));
            ASSERT_TRUE(write_now((*two)->device(), 0, block.bytes()));
            written.store(counter);
        }
    });
    std::vector<std::uint64_t> acknowledged;
    for (int round = 0; round < rounds; ++round) {
        while (written.load() < static_cast<std::uint64_t>(round + 1) * 20)
            std::this_thread::yield();
        acknowledged.push_back(written.load());
        std::vector<CreateSnapshot> requests(2, how);
        requests[0].origin = second;
        requests[0].name = fmt::format("two-{}", round);
        requests[1].origin = first;
        requests[1].name = fmt::format("one-{}", round);
        auto made = group_->create_snapshots(requests, {});
        EXPECT_TRUE(made) << made.error().message();
    }
    stop.store(true);
    writer.join();
    for (int round = 0; round < rounds; ++round) {
        const std::uint64_t one = counter_of(*source, fmt::format("one-{}", round));
        const std::uint64_t two = counter_of(*source, fmt::format("two-{}", round));
        EXPECT_GE(two, acknowledged[round]);
        EXPECT_LE(two, one);
        EXPECT_LE(one, two + 1);
    }
}

TEST_F(Moment, IsOneAcrossPools) { is_one("of-one", "of-two", 12, {}); }

TEST_F(Moment, IsOneForClassicSnapshots) {
    ASSERT_TRUE(group_->create_volume({.name = "thick", .size = {.value = 8 << 20}, .linear = true}, {}));
    CreateSnapshot classic;
    classic.classic = true;
    classic.size = {SizeRequest::Base::bytes, SizeRequest::Relation::absolute, 4 << 20};
    is_one("thick", "of-two", 6, classic);
}

TEST_F(Moment, IsNoneWhenOnePoolCant) {
    // The second pool's device id is taken by somebody who has that pool for his own yet, so that its part fails.
    ASSERT_TRUE(group_->remove({"of-two"}, false, {}));
    ASSERT_TRUE(group_->send_message("two", "create_thin 2"));
    CreateVolume volume;
    volume.name = "of-two";
    volume.pool = "two";
    volume.size.value = 32 << 20;
    ASSERT_TRUE(group_->create_volume(volume, {}));
    std::vector<CreateSnapshot> requests(2);
    requests[0].origin = "of-one";
    requests[0].name = "one-s";
    requests[1].origin = "of-two";
    requests[1].name = "two-s";
    auto made = group_->create_snapshots(requests, {});
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().kind(), ErrorKind::exists) << made.error().message();
    EXPECT_FALSE(group_->volume("one-s"));
    EXPECT_FALSE(group_->volume("two-s"));
    ASSERT_TRUE(group_->send_message("two", "delete 2"));
    auto again = group_->create_snapshots(requests, {});
    EXPECT_TRUE(again) << again.error().message();
    // Writes go on.
    auto source = group_->exports();
    auto opened = source->open("of-one", false);
    ASSERT_TRUE(opened);
    AlignedBuffer block(4096);
    EXPECT_TRUE(write_now((*opened)->device(), 0, block.bytes()));
}

}  // namespace
}  // namespace lamella
