// SPDX-License-Identifier: Apache-2.0
#include "volumes/engine_group.h"

#include <gtest/gtest.h>
#include <algorithm>
#include <filesystem>
#include <fstream>

#include "device/test_support.h"

namespace lamella {
namespace {

constexpr std::uint64_t mib = 1 << 20;

class EngineGroupTest : public testing::Test {
  protected:
    std::string path(const std::string& name) const { return folder.file(name); }

    static CreateGroup with_pool(const std::string& image) {
        CreateGroup request;
        request.paths = {image};
        request.size = 128 * mib;
        request.pool.emplace();
        request.pool->name = "pool";
        request.pool->size = {.base = SizeRequest::Base::percent_of_free, .value = 50'00};
        return request;
    }

    static std::string content(const std::string& name) {
        std::ifstream file(name, std::ios::binary);
        std::string bytes(std::filesystem::file_size(name), '\0');
        file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
        return bytes;
    }

    EngineOptions options() const {
        EngineOptions options;
        options.archive_directory = path("archive");
        return options;
    }

    test::TemporaryFolder folder;
    const ChangeOptions trial{.dry_run = true};
};

TEST_F(EngineGroupTest, ATrialOfMakingAGroupMakesNothing) {
    auto tried = EngineGroup::create(with_pool(path("vms.img")), trial);
    ASSERT_TRUE(tried) << tried.error().message();
    EXPECT_FALSE(std::filesystem::exists(path("vms.img")));
    auto made = EngineGroup::create(with_pool(path("vms.img")), {});
    ASSERT_TRUE(made) << made.error().message();
    EXPECT_EQ(tried->name, made->name);
    EXPECT_EQ(tried->size, made->size);
    EXPECT_EQ(tried->free, made->free);
    EXPECT_EQ(tried->sequence_number, made->sequence_number);
}

TEST_F(EngineGroupTest, ATrialSeesWhatMakingWouldOverwrite) {
    ASSERT_TRUE(EngineGroup::create(with_pool(path("vms.img")), {}));
    const std::string before = content(path("vms.img"));
    auto tried = EngineGroup::create(with_pool(path("vms.img")), trial);
    auto refused = EngineGroup::create(with_pool(path("vms.img")), {});
    ASSERT_FALSE(tried);
    ASSERT_FALSE(refused);
    EXPECT_EQ(tried.error().kind(), ErrorKind::exists) << tried.error().message();
    EXPECT_EQ(tried.error().message(), refused.error().message());

    CreateGroup over = with_pool(path("vms.img"));
    over.overwrite = true;
    EXPECT_TRUE(EngineGroup::create(over, trial));
    EXPECT_EQ(content(path("vms.img")), before);
}

TEST_F(EngineGroupTest, ATrialFailsAsMakingWould) {
    CreateGroup nowhere = with_pool(path("no/such/folder/vms.img"));
    EXPECT_FALSE(EngineGroup::create(nowhere, {}));
    EXPECT_FALSE(EngineGroup::create(nowhere, trial));
    CreateGroup small = with_pool(path("small.img"));
    small.size = 4 * mib;
    auto refused = EngineGroup::create(small, {});
    auto tried = EngineGroup::create(small, trial);
    ASSERT_FALSE(refused);
    ASSERT_FALSE(tried);
    EXPECT_EQ(tried.error().kind(), refused.error().kind());
    EXPECT_EQ(tried.error().message(), refused.error().message());
    EXPECT_FALSE(std::filesystem::exists(path("small.img")));
}

TEST_F(EngineGroupTest, APartOfTheGroupIsAnUpperLimit) {
    CreateGroup request;
    request.paths = {path("a.img"), path("b.img")};
    request.size = 64 * mib;
    { std::ofstream small(path("b.img")); }
    std::filesystem::resize_file(path("b.img"), 40 * mib);
    ASSERT_TRUE(EngineGroup::create(request, {}));
    auto group = EngineGroup::open(request.paths, options());
    ASSERT_TRUE(group) << group.error().message();
    // 15 and 9 extents: stripes over both take 9 of each.
    CreateVolume striped{.name = "striped", .linear = true, .stripes = 2};
    striped.size = {.base = SizeRequest::Base::percent_of_free, .value = 100'00};
    auto made = (*group)->create_volume(striped, {});
    ASSERT_TRUE(made) << made.error().message();
    EXPECT_EQ(made->size, 18 * 4 * mib);
    EXPECT_EQ((*group)->info()->free, 6 * 4 * mib);
    auto grown =
        (*group)->resize({.name = "striped", .size = {SizeRequest::Base::percent_of_free, SizeRequest::Relation::grow, 100'00}}, {});
    ASSERT_FALSE(grown);
    EXPECT_EQ(grown.error().kind(), ErrorKind::no_space);
    // What is asked in bytes is all or nothing.
    ASSERT_TRUE((*group)->remove({"striped"}, false, {}));
    striped.size = {.base = SizeRequest::Base::bytes, .value = 80 * mib};
    EXPECT_FALSE((*group)->create_volume(striped, {}));
}

TEST_F(EngineGroupTest, APoolTellsWhatItHoldsAndPacksIt) {
    ASSERT_TRUE(EngineGroup::create(with_pool(path("vms.img")), {}));
    auto group = *EngineGroup::open({path("vms.img")}, options());
    for (const char* name : {"a", "b", "c"})
        ASSERT_TRUE(group->create_volume({.name = name, .size = {.value = 8 * mib}}, {}));
    ASSERT_TRUE(group->remove({"b"}, false, {}));
    auto contents = group->pool_contents("pool", false);
    ASSERT_TRUE(contents) << contents.error().message();
    EXPECT_EQ(contents->transaction_id, group->volume("pool")->transaction_id);
    EXPECT_EQ(contents->device_ids, (std::vector<std::uint32_t>{*group->volume("a")->device_id, *group->volume("c")->device_id}));
    EXPECT_FALSE(contents->changing);
    EXPECT_FALSE(group->pool_contents("pool", true)->check) << "in use";
    EXPECT_EQ(group->pool_contents("a", false).error().kind(), ErrorKind::usage);

    // In use: its metadata snapshot is packed, and is let go of again; one that was held is left held.
    auto packed = group->pack_metadata("pool", path("used.pack"));
    ASSERT_TRUE(packed) << packed.error().message();
    EXPECT_TRUE(packed->of_metadata_snapshot);
    EXPECT_EQ(packed->bytes, std::filesystem::file_size(path("used.pack")));
    EXPECT_FALSE(group->volume("pool")->metadata_snapshot);
    const std::uint64_t held = group->reserve_metadata_snapshot("pool", {}).value();
    ASSERT_TRUE(group->pack_metadata("pool", path("used.pack")));
    EXPECT_EQ(group->volume("pool")->metadata_snapshot, held);
    EXPECT_FALSE(group->pack_metadata("pool", path("no/such/folder/x.pack")));
    ASSERT_TRUE(group->release_metadata_snapshot("pool", {}));
    ASSERT_TRUE(group->close());
    group.reset();

    EngineOptions reading = options();
    reading.read_only = true;
    group = *EngineGroup::open({path("vms.img")}, reading);
    packed = group->pack_metadata("pool", path("idle.pack"));
    ASSERT_TRUE(packed) << packed.error().message();
    EXPECT_FALSE(packed->of_metadata_snapshot);
    EXPECT_EQ(packed->transaction_id, contents->transaction_id);
    EXPECT_EQ(group->pool_contents("pool", false)->device_ids, contents->device_ids);
    EXPECT_EQ(group->pool_contents("pool", true)->check->grade, "clean");
}

TEST_F(EngineGroupTest, APoolsPartsLieWhereTheyAreSaidTo) {
    CreateGroup request;
    request.paths = {path("slow.img"), path("fast.img")};
    request.size = 128 * mib;
    request.name = "vms";
    ASSERT_TRUE(EngineGroup::create(request, {}));
    auto group = *EngineGroup::open(request.paths, options());
    CreatePool pool{.name = "pool", .size = {.value = 64 * mib}};
    pool.data_on = {path("slow.img")};
    pool.metadata_on = {"pv1"};
    auto made = group->create_pool(pool, {});
    ASSERT_TRUE(made) << made.error().message();
    EXPECT_EQ(group->volume("pool_tdata")->physical_volumes, std::vector<std::string>{"pv0"});
    EXPECT_EQ(group->volume("pool_tmeta")->physical_volumes, std::vector<std::string>{"pv1"});
    pool.name = "other";
    pool.metadata_on = {path("absent.img")};
    EXPECT_EQ(group->create_pool(pool, {}).error().kind(), ErrorKind::not_found);
    pool.metadata_on.clear();
    pool.autoextend_threshold = 80;
    EXPECT_EQ(group->create_pool(pool, {}).error().kind(), ErrorKind::unsupported);
}

TEST_F(EngineGroupTest, SaysWhatLiesOnADiskThatIsMissing) {
    CreateGroup request;
    request.paths = {path("there.img"), path("gone.img")};
    request.size = 128 * mib;
    request.name = "vms";
    ASSERT_TRUE(EngineGroup::create(request, {}));
    {
        auto group = *EngineGroup::open(request.paths, options());
        ASSERT_TRUE(group->create_pool({.name = "whole", .size = {.value = 16 * mib}, .data_on = {"pv0"}, .metadata_on = {"pv0"}}, {}));
        ASSERT_TRUE(group->create_pool({.name = "pool", .size = {.value = 16 * mib}, .data_on = {"pv1"}, .metadata_on = {"pv0"}}, {}));
        ASSERT_TRUE(group->create_volume({.name = "web", .size = {.value = 8 * mib}, .pool = "pool"}, {}));
        ASSERT_TRUE(group->create_volume({.name = "log", .size = {.value = 8 * mib}, .pool = "whole"}, {}));
        ASSERT_TRUE(group->close());
    }
    EngineOptions reading = options();
    reading.read_only = true;
    auto group = *EngineGroup::open({path("there.img")}, reading);
    for (const char* name : {"pool", "web"})
        EXPECT_EQ(group->volume(name)->refused, "a physical volume of it is missing") << name;
    for (const char* name : {"whole", "log"})
        EXPECT_EQ(group->volume(name)->refused, "") << name;
}

TEST_F(EngineGroupTest, APoolIsNotRemovedFromBelowAContainerEngine) {
    ASSERT_TRUE(EngineGroup::create(with_pool(path("vms.img")), {}));
    auto group = *EngineGroup::open({path("vms.img")}, options());
    ASSERT_TRUE(group->send_message("pool", "create_thin 7"));
    ASSERT_TRUE(group->send_message("pool", "create_thin 9"));
    auto refused = group->remove({"pool"}, false, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::refused);
    ASSERT_TRUE(group->create_volume({.name = "web", .size = {.value = 8 * mib}}, {}));
    auto dependents = group->pool_dependents("pool");
    ASSERT_TRUE(dependents) << dependents.error().message();
    ASSERT_EQ(dependents->size(), 3u);
    EXPECT_EQ((*dependents)[0].name, "web");
    EXPECT_FALSE((*dependents)[0].foreign);
    EXPECT_EQ((*dependents)[1].device_id, 7u);
    EXPECT_TRUE((*dependents)[1].foreign);
    // What the group knows isn't foreign, whatever the caller says.
    PoolDependent web = (*dependents)[0];
    web.foreign = true;
    EXPECT_FALSE(group->remove_foreign("pool", {web}, {}));
    ASSERT_TRUE(group->remove_foreign("pool", {(*dependents)[1]}, {}));
    EXPECT_FALSE(group->remove_foreign("pool", {(*dependents)[1]}, {})) << "it is gone";
    ASSERT_TRUE(group->remove_foreign("pool", {(*dependents)[2]}, trial));
    EXPECT_EQ(group->pool_dependents("pool")->size(), 2u);
    ASSERT_TRUE(group->remove({"pool"}, true, {}));
}

TEST_F(EngineGroupTest, TheSpareIsMadeAsLargeAsTheLargestMetadata) {
    CreateGroup request = with_pool(path("vms.img"));
    request.pool->size = {.base = SizeRequest::Base::bytes, .value = 32 * mib};
    ASSERT_TRUE(EngineGroup::create(request, {}));
    auto group = *EngineGroup::open({path("vms.img")}, options());
    // No room for the spare to grow along: it stays behind the metadata.
    ASSERT_TRUE(group->create_volume(
        {.name = "filler", .size = {.base = SizeRequest::Base::bytes, .value = group->info()->free - 4 * mib}, .linear = true}, {}));
    ASSERT_TRUE(group->resize({.name = "pool", .size = {.relation = SizeRequest::Relation::grow, .value = 4 * mib}, .metadata = true}, {}));
    EXPECT_EQ(group->volume("lvol0_pmspare")->size, 4 * mib);
    EXPECT_EQ(group->make_spare({}).error().kind(), ErrorKind::no_space);
    ASSERT_TRUE(group->remove({"filler"}, false, {}));
    EXPECT_EQ(group->make_spare(trial)->size, 8 * mib);
    EXPECT_EQ(group->volume("lvol0_pmspare")->size, 4 * mib);
    auto spare = group->make_spare({});
    ASSERT_TRUE(spare) << spare.error().message();
    EXPECT_EQ(spare->kind, VolumeKind::spare);
    EXPECT_EQ(group->volume("lvol0_pmspare")->size, 8 * mib);
}

// The pool's last chunks hold what is compared: shrinking has to move them.
TEST_F(EngineGroupTest, AShrinkStopsWhereItIsToldTo) {
    CreateGroup request = with_pool(path("vms.img"));
    request.pool->size = {.base = SizeRequest::Base::bytes, .value = 64 * mib};
    ASSERT_TRUE(EngineGroup::create(request, {}));
    auto group = *EngineGroup::open(request.paths, options());
    const auto exports = group->exports();
    for (const char* name : {"gone", "web"}) {
        ASSERT_TRUE(group->create_volume({.name = name, .size = {.value = 24 * mib}}, {}));
        auto volume = exports->open(name, false);
        ASSERT_TRUE(volume) << volume.error().message();
        ASSERT_TRUE(write_now((*volume)->device(), 0, std::vector<std::byte>(24 * mib, std::byte{'x'})));
    }
    ASSERT_TRUE(group->remove({"gone"}, false, {}));
    const ResizeVolume smaller{.name = "pool", .size = {.value = 32 * mib}, .shrink_allowed = true};
    unsigned stops = 0;
    while (true) {
        SCOPED_TRACE(stops);
        unsigned reports = 0;
        auto shrunk = group->resize(smaller, {.progress = [&](const Progress&) { return ++reports <= stops; }});
        EXPECT_EQ(group->pool_contents("pool", true)->check->grade, "clean");
        auto volume = exports->open("web", true);
        ASSERT_TRUE(volume) << volume.error().message();
        std::vector<std::byte> bytes(24 * mib);
        ASSERT_TRUE(read_now((*volume)->device(), 0, bytes));
        EXPECT_EQ(std::ranges::count(bytes, std::byte{'x'}), static_cast<std::ptrdiff_t>(bytes.size()));
        if (shrunk)
            break;
        EXPECT_NE(shrunk.error().message().find("interrupted; the pool is as it was"), std::string::npos) << shrunk.error().message();
        ASSERT_EQ(group->volume("pool")->size, 64 * mib);
        ASSERT_LT(++stops, 1000u);
    }
    EXPECT_GT(stops, 1u);
    EXPECT_EQ(group->volume("pool")->size, 32 * mib);
}

TEST_F(EngineGroupTest, ATrimStopsWhereItIsToldTo) {
    CreateGroup request = with_pool(path("vms.img"));
    request.size = std::uint64_t{4} << 40;  // sparse; more chunks than are gone through in one go
    request.pool->size = {.base = SizeRequest::Base::bytes, .value = std::uint64_t{2} << 40};
    request.pool->chunk_size = mib;
    ASSERT_TRUE(EngineGroup::create(request, {}));
    auto group = *EngineGroup::open(request.paths, options());
    unsigned reports = 0;
    auto stopped = group->trim("pool", {.progress = [&](const Progress&) { return ++reports < 2; }});
    ASSERT_FALSE(stopped);
    EXPECT_EQ(reports, 2u);
    EXPECT_NE(stopped.error().message().find("interrupted"), std::string::npos) << stopped.error().message();
    EXPECT_TRUE(group->trim("pool", {}));
}

TEST_F(EngineGroupTest, APoolsMetadataGrowsWithItsData) {
    CreateGroup request = with_pool(path("vms.img"));
    request.size = std::uint64_t{16} << 30;  // sparse
    request.pool->size = {.base = SizeRequest::Base::bytes, .value = std::uint64_t{2} << 30};
    ASSERT_TRUE(EngineGroup::create(request, {}));
    auto group = EngineGroup::open(request.paths, options());
    ASSERT_TRUE(group) << group.error().message();
    EXPECT_EQ((*group)->volume("pool")->metadata_size, 4 * mib);
    // 64 bytes a chunk: 12 GiB want 12 MiB of metadata.
    auto grown = (*group)->resize(
        {.name = "pool", .size = {SizeRequest::Base::bytes, SizeRequest::Relation::absolute, std::uint64_t{12} << 30}}, {});
    ASSERT_TRUE(grown) << grown.error().message();
    EXPECT_EQ(grown->size, std::uint64_t{12} << 30);
    EXPECT_EQ(grown->metadata_size, 12 * mib);
    // All that is left, less what the metadata takes.
    grown = (*group)->resize({.name = "pool", .size = {SizeRequest::Base::percent_of_free, SizeRequest::Relation::grow, 100'00}}, {});
    ASSERT_TRUE(grown) << grown.error().message();
    EXPECT_EQ(grown->metadata_size, 16 * mib);
    EXPECT_EQ((*group)->info()->free, 0u);
    ASSERT_TRUE((*group)->close());
    group->reset();
    group = EngineGroup::open(request.paths, options());
    ASSERT_TRUE(group) << group.error().message();
    EXPECT_EQ((*group)->info()->findings, std::vector<std::string>{});
    EXPECT_EQ((*group)->volume("pool")->metadata_size, 16 * mib);
}

}  // namespace
}  // namespace lamella
