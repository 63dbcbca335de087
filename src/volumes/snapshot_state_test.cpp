// SPDX-License-Identifier: Apache-2.0
#include "volumes/snapshot_state.h"

#include <gtest/gtest.h>

namespace lamella {
namespace {

VolumeInfo classic(const char* word, std::optional<std::uint64_t> used = 10) {
    VolumeInfo volume;
    volume.kind = VolumeKind::snapshot;
    volume.origin = "boot";
    volume.store_size = 100;
    volume.store_used = used;
    volume.snapshot_state = word;
    return volume;
}

TEST(SnapshotState, OfClassicOnes) {
    EXPECT_EQ(snapshot_state_of(classic("active")), "valid");
    EXPECT_EQ(snapshot_state_of(classic("active", 100)), "full");
    EXPECT_EQ(snapshot_state_of(classic("Invalid", std::nullopt)), "invalid");
    EXPECT_EQ(snapshot_state_of(classic("Overflow", std::nullopt)), "overflow");
    EXPECT_EQ(snapshot_state_of(classic("merging")), "merging");
    EXPECT_EQ(snapshot_state_of(classic("Merge failed")), "merge failed");
    EXPECT_EQ(snapshot_state_of(classic("", std::nullopt)), "unknown") << "usage that nobody tells is no valid snapshot";
    VolumeInfo inactive = classic("", std::nullopt);
    inactive.active = false;
    EXPECT_EQ(snapshot_state_of(inactive), "inactive");
    inactive.snapshot_state = "Invalid";
    EXPECT_EQ(snapshot_state_of(inactive), "invalid") << "what is known of it counts more";
}

TEST(SnapshotState, OfThinOnes) {
    VolumeInfo volume;
    volume.kind = VolumeKind::thin;
    EXPECT_EQ(snapshot_state_of(volume), "") << "it is no snapshot";
    volume.origin = "web";
    EXPECT_EQ(snapshot_state_of(volume), "valid");
    volume.origin.clear();
    volume.former_origin = "web";
    EXPECT_EQ(snapshot_state_of(volume), "valid");
    volume.refused = "its pool has failed";
    EXPECT_EQ(snapshot_state_of(volume), "refused");
    volume.active = false;
    EXPECT_EQ(snapshot_state_of(volume), "inactive");
    volume.snapshot_state = "merging";
    EXPECT_EQ(snapshot_state_of(volume), "merging");
}

TEST(SnapshotState, RemembersOriginsInTags) {
    EXPECT_EQ(origin_by_tag({"x", lineage_tag("web"), "lamella"}), "web");
    EXPECT_EQ(origin_by_tag({"lamella.origin"}), "");
    EXPECT_TRUE(has_lineage_tag({lineage_tag("web")}));
    EXPECT_FALSE(has_lineage_tag({"x"}));
}

}  // namespace
}  // namespace lamella
