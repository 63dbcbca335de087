// SPDX-License-Identifier: Apache-2.0
//
// Volumes that become pools, and metadata that changes places, with what is written and read afterwards.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <algorithm>

#include "base/test_support.h"
#include "device/file_device.h"
#include "device/test_support.h"
#include "lvm2/store.h"
#include "volumes/engine_group.h"

namespace lamella {
namespace {

using test::value_of;

constexpr std::uint64_t mib = 1 << 20;

class EnginePoolsTest : public testing::Test {
  protected:
    void SetUp() override {
        options.archive_directory = folder.file("archive");
        CreateGroup request;
        request.paths = {folder.file("vms.img")};
        request.size = 128 * mib;
        value_of(EngineGroup::create(request, {}));
        reopen();
    }
    void reopen() {
        if (group != nullptr) {
            ASSERT_TRUE(group->close());
        }
        group.reset();
        group = value_of(EngineGroup::open({folder.file("vms.img")}, options));
        EXPECT_EQ(value_of(group->info()).findings, std::vector<std::string>{});
    }
    void make_linear(const std::string& name, std::uint64_t size) {
        value_of(group->create_volume({.name = name, .size = {.value = size}, .linear = true}, {}));
    }
    void fill(const std::string& name, std::uint64_t length, char byte) {
        const auto exports = group->exports();
        const auto volume = value_of(exports->open(name, false));
        ASSERT_TRUE(write_now(volume->device(), 0, std::vector<std::byte>(length, static_cast<std::byte>(byte))));
    }
    // The byte that all of the range is; '?': there are several; '!': it can't be read.
    char shows(const std::string& name, std::uint64_t offset, std::uint64_t length) {
        const auto exports = group->exports();
        const auto volume = exports->open(name, true);
        std::vector<std::byte> bytes(length);
        if (!volume || !read_now((*volume)->device(), offset, bytes))
            return '!';
        return std::ranges::all_of(bytes, [&](std::byte byte) { return byte == bytes[0]; }) ? static_cast<char>(bytes[0]) : '?';
    }
    ErrorKind refusal(const ConvertToPool& request) {
        const auto converted = group->convert_to_pool(request, {});
        EXPECT_FALSE(converted);
        return converted ? ErrorKind::failed : converted.error().kind();
    }

    test::TemporaryFolder folder;
    EngineOptions options;
    std::unique_ptr<EngineGroup> group;
};

TEST_F(EnginePoolsTest, AVolumeBecomesAPoolThatIsUsed) {
    make_linear("data", 32 * mib);
    make_linear("metadata", 4 * mib);
    for (const char* name : {"data", "metadata"})
        fill(name, 4 * mib, 'x');
    const std::uint64_t free = value_of(group->info()).free;
    ConvertToPool request{.name = "data", .metadata = "metadata"};
    request.chunk_size = 128 * 1024;
    EXPECT_EQ(value_of(group->convert_to_pool(request, {.dry_run = true})).kind, VolumeKind::thin_pool);
    EXPECT_EQ(shows("data", 0, 4 * mib), 'x');
    const VolumeInfo pool = value_of(group->convert_to_pool(request, {}));
    EXPECT_EQ(pool.kind, VolumeKind::thin_pool);
    EXPECT_EQ(pool.size, 32 * mib);
    EXPECT_EQ(pool.chunk_size, 128u * 1024);
    EXPECT_EQ(value_of(group->info()).free, free - 4 * mib) << "the spare";
    EXPECT_EQ(group->volume("metadata").error().kind(), ErrorKind::not_found);

    value_of(group->create_volume({.name = "web", .size = {.value = 16 * mib}, .pool = "data"}, {}));
    fill("web", 4096, 'w');
    reopen();
    EXPECT_EQ(shows("web", 0, 4096), 'w');
    EXPECT_EQ(shows("web", 4096, 16 * mib - 4096), '\0') << "nothing of what was on the volume";
    EXPECT_EQ(value_of(group->volume("data")).data_used, 128u * 1024);
    ASSERT_TRUE(group->remove({"data"}, true, {}));
    EXPECT_EQ(value_of(group->info()).free, value_of(group->info()).size);
}

TEST_F(EnginePoolsTest, OnlyWhatNobodyNeedsBecomesAPool) {
    make_linear("thick", 16 * mib);
    fill("thick", 16 * mib, 't');
    ConvertToPool request{.name = "thick", .metadata = ""};
    EXPECT_EQ(refusal({.name = "thick", .metadata = "thick"}), ErrorKind::usage);
    EXPECT_EQ(refusal({.name = "absent", .metadata = ""}), ErrorKind::not_found);
    request.chunk_size = 65 * 1024;
    EXPECT_EQ(refusal(request), ErrorKind::usage);
    request.chunk_size = 64 * 1024;
    request.discards = "sometimes";
    EXPECT_EQ(refusal(request), ErrorKind::usage);
    request.discards = "passdown";
    request.metadata_size = 1024 * mib;
    EXPECT_EQ(refusal(request), ErrorKind::no_space);
    request.metadata_size.reset();
    {
        const auto exports = group->exports();
        const auto in_use = value_of(exports->open("thick", false));
        EXPECT_EQ(refusal(request), ErrorKind::refused);
    }
    CreateSnapshot snapshot;
    snapshot.origin = "thick";
    snapshot.name = "s1";
    value_of(group->create_snapshots({snapshot}, {}));
    EXPECT_EQ(refusal(request), ErrorKind::refused);
    EXPECT_EQ(refusal({.name = "s1", .metadata = ""}), ErrorKind::refused);
    ASSERT_TRUE(group->remove({"s1"}, false, {}));
    EXPECT_EQ(shows("thick", 0, 16 * mib), 't');
    value_of(group->convert_to_pool(request, {}));
    EXPECT_EQ(refusal(request), ErrorKind::unsupported) << "it is a pool already";
}

TEST_F(EnginePoolsTest, MetadataChangesPlacesAndBack) {
    CreatePool request;
    request.name = "pool";
    request.size.value = 32 * mib;
    value_of(group->create_pool(request, {}));
    value_of(group->create_volume({.name = "web", .size = {.value = 16 * mib}, .pool = "pool"}, {}));
    fill("web", 8 * mib, 'w');
    make_linear("other", *value_of(group->volume("pool")).metadata_size);
    fill("other", 4096, 'o');
    {
        const auto exports = group->exports();
        const auto in_use = value_of(exports->open("web", true));
        EXPECT_EQ(group->swap_metadata("pool", "other", {}).error().kind(), ErrorKind::refused);
    }
    ASSERT_TRUE(group->swap_metadata("pool", "other", {.dry_run = true}));
    EXPECT_EQ(shows("web", 0, 8 * mib), 'w');
    EXPECT_EQ(shows("other", 0, 4096), 'o');

    // What is no metadata makes no volume readable; what was is a volume now.
    ASSERT_TRUE(group->swap_metadata("pool", "other", {}));
    EXPECT_EQ(shows("web", 0, 4096), '!');
    EXPECT_EQ(shows("other", 0, 4096), '?');
    ASSERT_TRUE(group->swap_metadata("pool", "other", {}));
    EXPECT_EQ(shows("other", 0, 4096), 'o');
    EXPECT_EQ(shows("web", 0, 8 * mib), 'w');
    reopen();
    const auto check = value_of(group->pool_contents("pool", true)).check;
    ASSERT_TRUE(check);
    EXPECT_EQ(check->grade, "clean");
    EXPECT_EQ(shows("web", 0, 8 * mib), 'w');
    EXPECT_EQ(group->swap_metadata("web", "other", {}).error().kind(), ErrorKind::usage);
    EXPECT_FALSE(group->swap_metadata("pool", "web", {}));
}

TEST_F(EnginePoolsTest, SettingsChangeInUse) {
    CreatePool request;
    request.name = "pool";
    request.size.value = 32 * mib;
    value_of(group->create_pool(request, {}));
    value_of(group->create_volume({.name = "web", .size = {.value = 16 * mib}, .pool = "pool"}, {}));
    {
        const auto exports = group->exports();
        const auto in_use = value_of(exports->open("web", false));
        ChangePool change{.name = "pool", .discards = "nopassdown", .error_when_full = true};
        EXPECT_EQ(value_of(group->change_pool(change, {.dry_run = true})).discards, "nopassdown");
        EXPECT_THAT(value_of(group->status_line("pool")), testing::HasSubstr("queue_if_no_space")) << "a trial changes nothing";
        const VolumeInfo pool = value_of(group->change_pool(change, {}));
        EXPECT_EQ(pool.discards, "nopassdown");
        EXPECT_TRUE(pool.error_when_full);
        const std::string status = value_of(group->status_line("pool"));
        EXPECT_THAT(status, testing::HasSubstr("no_discard_passdown error_if_no_space")) << "the pool in use does it too";
        EXPECT_EQ(group->change_pool({.name = "pool", .discards = "ignore"}, {}).error().kind(), ErrorKind::refused);
        EXPECT_EQ(group->change_pool({.name = "pool", .discards = "some"}, {}).error().kind(), ErrorKind::usage);
        EXPECT_EQ(group->change_pool({.name = "web", .discards = "ignore"}, {}).error().kind(), ErrorKind::usage);
        EXPECT_EQ(group->change_pool({.name = "pool", .autoextend_threshold = 80, .autoextend_percent = 20}, {}).error().kind(),
                  ErrorKind::unsupported);
    }
    value_of(group->change_pool({.name = "pool", .discards = "ignore"}, {}));
    reopen();
    const VolumeInfo pool = value_of(group->volume("pool"));
    EXPECT_EQ(pool.discards, "ignore");
    EXPECT_TRUE(pool.error_when_full) << "what isn't named stays";
}

// Another host may be writing to them.
TEST_F(EnginePoolsTest, ReadsNoPoolOrStoreOfASharedGroup) {
    value_of(group->create_pool({.name = "pool", .size = {.value = 32 * mib}}, {}));
    value_of(group->create_volume({.name = "web", .size = {.value = 16 * mib}, .pool = "pool"}, {}));
    make_linear("thick", 16 * mib);
    value_of(group->create_snapshots({{.origin = "thick", .name = "before"}}, {}));
    fill("web", mib, 'w');
    EXPECT_EQ(value_of(group->volume("pool")).data_used, mib);
    ASSERT_TRUE(group->close());
    group.reset();
    {
        const auto file = value_of(FileDevice::open(folder.file("vms.img"), {}));
        BlockDevice* const disks[] = {file.get()};
        lvm2::GroupStore store = value_of(lvm2::GroupStore::open(disks, {.writable = true, .archive_directory = folder.file("archive")}));
        lvm2::VolumeGroup next = store.group();
        next.lock_type = "sanlock";
        ASSERT_TRUE(store.commit(next, "vgchange --locktype sanlock"));
    }
    options.read_only = true;
    reopen();
    EXPECT_EQ(value_of(group->info()).lock_type, "sanlock");
    const auto volumes = value_of(group->volumes());
    const auto listed = [&](const char* name) { return *std::ranges::find(volumes, name, &VolumeInfo::name); };
    for (const VolumeInfo& pool : {listed("pool"), value_of(group->volume("pool"))}) {
        EXPECT_EQ(pool.data_used, std::nullopt);
        EXPECT_EQ(pool.metadata_used, std::nullopt);
        EXPECT_THAT(pool.refused, testing::HasSubstr("another one may be writing to pool_tmeta"));
    }
    EXPECT_EQ(listed("web").mapped, std::nullopt);
    EXPECT_EQ(listed("before").store_used, std::nullopt);
    EXPECT_EQ(listed("before").state, "unknown");
    EXPECT_EQ(group->pool_usage("pool").error().kind(), ErrorKind::refused);
    EXPECT_EQ(group->pool_contents("pool", false).error().kind(), ErrorKind::refused);
    EXPECT_EQ(shows("web", 0, mib), '!');
    EXPECT_EQ(shows("before", 0, mib), '!');
}

}  // namespace
}  // namespace lamella
