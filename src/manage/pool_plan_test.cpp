// SPDX-License-Identifier: Apache-2.0
#include "manage/pool_plan.h"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lamella::manage {
namespace {

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t gib = 1 << 30;
constexpr std::uint64_t extent = 4 * mib;

TEST(PoolPlan, LeavesRoomForTheSpareAndTwoExtensions) {
    auto plan = plan_pool(100 * gib, extent, 0, {.chunk_size = 512 * 1024});
    ASSERT_TRUE(plan) << plan.error().message();
    EXPECT_EQ(plan->spare, plan->metadata);
    // The arithmetic of the guides, 95 % of data and 1 % of metadata, leaves less than one extension after the spare.
    EXPECT_LT(plan->data, 70 * gib);
    EXPECT_GT(plan->data, 69 * gib);
    EXPECT_GE(plan->reserve, plan->data * 44 / 100 - 2 * extent);
    EXPECT_EQ(plan->data + plan->metadata + plan->spare + plan->reserve + plan->left, 100 * gib);
    EXPECT_LT(plan->left, 3 * extent);
}

TEST(PoolPlan, WhatIsAskedIsKept) {
    auto plan = plan_pool(100 * gib, extent, 1 * gib, {.data = 10 * gib, .metadata = 512 * mib, .extensions = 0});
    ASSERT_TRUE(plan) << plan.error().message();
    EXPECT_EQ(plan->data, 10 * gib);
    EXPECT_EQ(plan->metadata, 512 * mib);
    EXPECT_EQ(plan->spare, 0u) << "there is one that is large enough";
    EXPECT_EQ(plan->reserve, 0u);
}

TEST(PoolPlan, SaysWhatEachPartWouldTake) {
    auto plan = plan_pool(10 * gib, extent, 0, {.data = 9 * gib});
    ASSERT_FALSE(plan);
    EXPECT_EQ(plan.error().kind(), ErrorKind::no_space);
    EXPECT_THAT(plan.error().message(), testing::HasSubstr("9.00 GiB of data, 12.00 MiB of metadata, 12.00 MiB for the spare"));
    EXPECT_EQ(plan_pool(2 * extent, extent, 0, {}).error().kind(), ErrorKind::no_space);
    EXPECT_EQ(plan_pool(0, extent, 0, {}).error().kind(), ErrorKind::no_space);
    EXPECT_EQ(plan_pool(gib, extent, 0, {.chunk_size = 1000}).error().kind(), ErrorKind::usage);
    EXPECT_EQ(plan_pool(gib, extent, 0, {.percent = 0}).error().kind(), ErrorKind::usage);
}

TEST(PoolPlan, MoreVolumesNeedMoreMetadata) {
    const std::uint64_t few = metadata_needed(gib, 64 * 1024, 10).value();
    const std::uint64_t many = metadata_needed(gib, 64 * 1024, 10'000).value();
    EXPECT_EQ(few, 2 * mib);
    EXPECT_GE(many, 10'000 * 4096u);
    EXPECT_EQ(metadata_needed(gib, 64 * 1024, UINT64_MAX).value(), metadata_needed(gib, 64 * 1024, 1 << 30).value()) << "the format's most";
}

// Whatever the group has, the plan fits it, and an extent more of data wouldn't.
TEST(PoolPlan, IsTheLargestThatFits) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    for (int round = 0; round < 300; ++round) {
        const std::uint64_t step = std::uint64_t{1} << (12 + random() % 14);
        const std::uint64_t free = random() % (200'000 * step);
        const PoolNeeds needs{.chunk_size = 65536 * (1 + random() % 16),
                              .volumes = random() % 1000,
                              .extensions = static_cast<unsigned>(random() % 4),
                              .percent = static_cast<unsigned>(1 + random() % 100)};
        const std::uint64_t spare = random() % 2 * random() % (64 * mib) / step * step;
        auto plan = plan_pool(free, step, spare, needs);
        if (!plan) {
            EXPECT_EQ(plan.error().kind(), ErrorKind::no_space);
            continue;
        }
        EXPECT_EQ(plan->data + plan->metadata + plan->spare + plan->reserve + plan->left, free);
        PoolNeeds more = needs;
        more.data = plan->data + step;
        EXPECT_FALSE(plan_pool(free, step, spare, more)) << plan->data << " of " << free;
    }
}

TEST(PoolPlan, TheSpareGrowsWithTheLargestMetadata) {
    std::vector<VolumeInfo> volumes(3);
    volumes[0] = {.name = "a", .kind = VolumeKind::thin_pool, .metadata_size = 8};
    volumes[1] = {.name = "b", .kind = VolumeKind::thin_pool, .metadata_size = 16};
    EXPECT_EQ(spare_growth(volumes, "a", 4), 16u) << "there is none yet";
    volumes[2] = {.name = "lvol0_pmspare", .kind = VolumeKind::spare, .size = 16};
    EXPECT_EQ(spare_growth(volumes, "a", 4), 0u);
    EXPECT_EQ(spare_growth(volumes, "b", 4), 4u);
}

TEST(PoolPlan, MetadataGrowsAlongWithData) {
    VolumeInfo pool{.name = "a", .kind = VolumeKind::thin_pool, .size = 4 * gib, .chunk_size = 64 * 1024, .metadata_size = 4 * mib};
    EXPECT_EQ(metadata_growth(pool, 0, extent), 0u);
    EXPECT_EQ(metadata_growth(pool, 64 * 1024, extent), extent) << "a chunk more than 4 MiB are for";
    EXPECT_EQ(metadata_growth(pool, 4 * gib, extent), extent);
    EXPECT_EQ(metadata_growth(pool, 4 * gib + 64 * 1024, extent), 2 * extent);
    pool.metadata_size = 64 * mib;
    EXPECT_EQ(metadata_growth(pool, 4 * gib, extent), 0u);
    pool.chunk_size.reset();
    EXPECT_EQ(metadata_growth(pool, 1024 * gib, extent), 0u) << "nothing is concluded from what isn't known";
}

}  // namespace
}  // namespace lamella::manage
