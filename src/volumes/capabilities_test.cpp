// SPDX-License-Identifier: Apache-2.0
//
// What each engine says that it can do, it does; and what it doesn't say, it refuses as unsupported. In trials.
#include <gtest/gtest.h>
#include <filesystem>
#include <fstream>

#include "device/test_support.h"
#include "volumes/engine_group.h"
#include "volumes/kernel_fixture.h"

namespace lamella {
namespace {

constexpr Capability all[] = {Capability::activation,   Capability::automatic_extension, Capability::external_origins,
                              Capability::origin_files, Capability::sets_in_use,         Capability::smaller_pools,
                              Capability::trim};

// Groups with a pool "pool", thin volumes "web" and "ro" in it that are in use, and a read-only linear volume "rolin".
Result<void> exercise(VolumeGroup& group, Capability capability, const std::string& image) {
    const ChangeOptions trial{.dry_run = true};
    CreateVolume volume{.name = "new", .size = {.value = 8 * MiB}, .pool = "pool"};
    switch (capability) {
    case Capability::activation: TRY(group.set_active({.active = false}, trial)); return {};
    case Capability::automatic_extension: {
        CreatePool pool;
        pool.name = "new";
        pool.size.value = 4 * MiB;
        pool.autoextend_threshold = 80;
        pool.autoextend_percent = 20;
        TRY(group.create_pool(pool, trial));
        return {};
    }
    case Capability::external_origins:
        volume.external_origin = "rolin";
        TRY(group.create_volume(volume, trial));
        return {};
    case Capability::origin_files:
        volume.origin_file = image;
        TRY(group.create_volume(volume, trial));
        return {};
    case Capability::sets_in_use: TRY(group.create_snapshots({{.origin = "web"}, {.origin = "ro"}}, trial)); return {};
    case Capability::smaller_pools:
        TRY(group.resize({.name = "pool", .size = {.relation = SizeRequest::Relation::shrink, .value = 4 * MiB}, .shrink_allowed = true},
                         trial));
        return {};
    case Capability::trim: TRY(group.trim("pool", trial)); return {};
    }
    return fail(ErrorKind::failed, "not exercised");
}

void expect_agreement(VolumeGroup& group, Capability capability, const std::string& image) {
    const GroupInfo info = test::value_of(group.info());
    const Result<void> done = exercise(group, capability, image);
    SCOPED_TRACE(fmt::format("capability {}: {}", static_cast<int>(capability), done ? "done" : done.error().message()));
    if (info.can(capability))
        EXPECT_TRUE(done);
    else
        EXPECT_TRUE(!done && done.error().kind() == ErrorKind::unsupported);
}

TEST_F(Kernel, CanWhatItSays) {
    for (Capability capability : all) {
        // Sets are of volumes in use; nothing in use becomes inactive.
        device("my--vg-web").open_count = capability == Capability::sets_in_use ? 1 : 0;
        expect_agreement(*open(), capability, "/image");
    }
}

TEST(Engine, CanWhatItSays) {
    test::TemporaryFolder folder;
    const std::string image = folder.file("origin.raw");
    { std::ofstream made(image); }
    std::filesystem::resize_file(image, 4 * MiB);
    CreateGroup request;
    request.paths = {folder.file("vms.img")};
    request.size = 128 * MiB;
    request.pool.emplace();
    request.pool->name = "pool";
    request.pool->size.value = 64 * MiB;
    ASSERT_TRUE(EngineGroup::create(request, {}));
    EngineOptions options;
    options.archive_directory = folder.file("archive");
    const auto group = test::value_of(EngineGroup::open(request.paths, options));
    for (const char* name : {"web", "ro"})
        test::value_of(group->create_volume({.name = name, .size = {.value = 8 * MiB}}, {}));
    test::value_of(group->create_volume({.name = "rolin", .size = {.value = 4 * MiB}, .linear = true, .read_only = true}, {}));
    const auto exports = group->exports();
    for (Capability capability : all) {
        std::vector<std::unique_ptr<Export>> opened;
        if (capability == Capability::sets_in_use)
            for (const char* name : {"web", "ro"})
                opened.push_back(test::value_of(exports->open(name, false)));
        expect_agreement(*group, capability, image);
    }
}

}  // namespace
}  // namespace lamella
