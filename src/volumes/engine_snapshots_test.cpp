// SPDX-License-Identifier: Apache-2.0
//
// Classic snapshots of a group. Stores, copies and merges by themselves are tested in src/cow; the text in src/lvm2; both with a real
// kernel in tests/kernel.
#include <algorithm>
#include <thread>

#include <fcntl.h>
#include <sys/file.h>

#include <gtest/gtest.h>

#include "base/file_descriptor.h"
#include "device/fault_device.h"
#include "device/file_device.h"
#include "device/slice_device.h"
#include "device/test_support.h"
#include "volumes/engine_group.h"

namespace lamella {
namespace {

constexpr std::uint64_t mib = 1 << 20;
using Base = SizeRequest::Base;

class EngineSnapshotsTest : public testing::Test {
  protected:
    void SetUp() override {
        options.archive_directory = folder.file("archive");
        CreateGroup request;
        request.paths = {folder.file("vms.img")};
        request.size = 256 * mib;
        request.pool.emplace();
        request.pool->name = "pool";
        request.pool->size = {.base = Base::bytes, .value = 32 * mib};
        ASSERT_TRUE(EngineGroup::create(request, {}));
        reopen();
        ASSERT_TRUE(group->create_volume({.name = "thick", .size = {.value = 32 * mib}, .linear = true}, {}));
        ASSERT_TRUE(group->create_volume({.name = "thin", .size = {.value = 16 * mib}, .pool = "pool"}, {}));
    }
    void TearDown() override { close(); }

    void close() {
        exported.clear();
        source.reset();
        if (group != nullptr) {
            EXPECT_TRUE(group->close());
        }
        group.reset();
        faults.reset();
        disk.reset();
    }
    // Whatever becomes of it: a commit that failed makes closing fail, too.
    void abandon() {
        faults->clear();
        exported.clear();
        source.reset();
        (void)group->close();
        group.reset();
    }
    void reopen() {
        close();
        auto file = FileDevice::open(folder.file("vms.img"));
        ASSERT_TRUE(file) << file.error().message();
        disk = std::move(*file);
        faults = std::make_unique<FaultDevice>(*disk);
        std::vector<std::unique_ptr<BlockDevice>> devices;
        devices.push_back(*SliceDevice::create(*faults, 0, disk->size(), disk->name()));
        auto opened = EngineGroup::open(std::move(devices), options);
        ASSERT_TRUE(opened) << opened.error().message();
        group = std::move(*opened);
        ASSERT_TRUE(group->info()->findings.empty()) << group->info()->findings[0];
    }
    // In use until release().
    BlockDevice& use(const std::string& name) {
        if (source == nullptr)
            source = group->exports();
        if (!exported.contains(name)) {
            auto opened = source->open(name, false);
            EXPECT_TRUE(opened) << opened.error().message();
            exported.emplace(name, std::move(*opened));
        }
        return exported.at(name)->device();
    }
    void release() { exported.clear(); }

    void fill(const std::string& name, std::uint64_t offset, std::uint64_t length, char byte) {
        const std::vector<std::byte> bytes(length, static_cast<std::byte>(byte));
        const auto written = write_now(use(name), offset, bytes);
        EXPECT_TRUE(written) << name << ": " << written.error().message();
    }
    // The byte that all of the range is; '?': there are several.
    char shows(const std::string& name, std::uint64_t offset, std::uint64_t length) {
        std::vector<std::byte> bytes(length);
        if (!read_now(use(name), offset, bytes))
            return '!';
        return std::ranges::all_of(bytes, [&](std::byte byte) { return byte == bytes[0]; }) ? static_cast<char>(bytes[0]) : '?';
    }
    static CreateSnapshot classic(std::string origin, std::string name, std::uint64_t size = 0, std::uint64_t chunk = 4096) {
        CreateSnapshot request;
        request.origin = std::move(origin);
        request.name = std::move(name);
        request.chunk_size = chunk;
        if (size != 0) {
            request.classic = true;
            request.size = {Base::bytes, SizeRequest::Relation::absolute, size};
        }
        return request;
    }
    ErrorKind failure(const CreateSnapshot& request) {
        auto made = group->create_snapshots({request}, {});
        return made ? ErrorKind::failed : made.error().kind();
    }
    void wait_until(const std::function<bool()>& condition) {
        while (!condition())
            std::this_thread::yield();
    }

    test::TemporaryFolder folder;
    EngineOptions options;
    std::unique_ptr<FileDevice> disk;
    std::unique_ptr<FaultDevice> faults;
    std::unique_ptr<EngineGroup> group;
    std::unique_ptr<ExportSource> source;
    std::map<std::string, std::unique_ptr<Export>> exported;
};

TEST_F(EngineSnapshotsTest, HoldTheirMomentInUseAndAfter) {
    fill("thick", 0, 8 * mib, 'a');
    auto made = group->create_snapshots({classic("thick", "s1")}, {});
    ASSERT_TRUE(made) << made.error().message();
    EXPECT_EQ(made->at(0).kind, VolumeKind::snapshot);
    EXPECT_EQ(made->at(0).size, 32 * mib);
    EXPECT_EQ(made->at(0).store_size, 12 * mib);  // a fifth of 8 extents, and one for the store's own needs
    fill("thick", mib, mib, 'b');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "")}, {}));
    fill("thick", 2 * mib, mib, 'c');
    fill("thick-s1", 0, 64 << 10, 'd');
    const auto all_hold = [&] {
        EXPECT_EQ(shows("s1", 0, 8 * mib), 'a');
        EXPECT_EQ(shows("thick", 0, mib), 'a');
        EXPECT_EQ(shows("thick", mib, mib), 'b');
        EXPECT_EQ(shows("thick", 2 * mib, mib), 'c');
        EXPECT_EQ(shows("thick-s1", 0, 64 << 10), 'd');
        EXPECT_EQ(shows("thick-s1", mib, mib), 'b');
        EXPECT_EQ(shows("thick-s1", 2 * mib, 6 * mib), 'a');
    };
    all_hold();
    reopen();
    all_hold();
}

TEST_F(EngineSnapshotsTest, AThinVolumeGetsOneWhenASizeIsAsked) {
    fill("thin", 0, 4 * mib, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("thin", "s1", 8 * mib)}, {}));  // in use
    fill("thin", 0, mib, 'b');
    EXPECT_EQ(shows("s1", 0, 4 * mib), 'a');
    EXPECT_EQ(shows("thin", 0, mib), 'b');
    auto thin = group->create_snapshots({classic("thin", "")}, {});
    ASSERT_TRUE(thin) << thin.error().message();
    EXPECT_EQ(thin->at(0).kind, VolumeKind::thin);
    EXPECT_EQ(shows("thin-s1", 0, mib), 'b');
    reopen();
    EXPECT_EQ(shows("s1", 0, 4 * mib), 'a');
    EXPECT_EQ(shows("thin", 0, mib), 'b');
}

TEST_F(EngineSnapshotsTest, AThinVolumeThatWaitsForRoomGetsNone) {
    ASSERT_TRUE(group->create_volume({.name = "large", .size = {.value = 64 * mib}, .pool = "pool"}, {}));
    const std::vector<std::byte> bytes(40 * mib, std::byte{'a'});
    BlockDevice& device = use("large");
    std::thread writer([&] { EXPECT_TRUE(write_now(device, 0, bytes)); });
    wait_until([&] { return group->volume("pool")->pool_mode == "out_of_data_space"; });
    EXPECT_EQ(failure(classic("large", "s1", 8 * mib)), ErrorKind::refused);
    EXPECT_EQ(group->volume("s1").error().kind(), ErrorKind::not_found);
    ASSERT_TRUE(group->resize({.name = "pool", .size = {.value = 64 * mib}}, {}));
    writer.join();
    ASSERT_TRUE(group->create_snapshots({classic("large", "s1", 8 * mib)}, {}));
}

// As the kernel engine: before a write has met it, too.
TEST_F(EngineSnapshotsTest, NothingIsMadeInAFullPool) {
    ASSERT_TRUE(group->create_volume({.name = "large", .size = {.value = 64 * mib}, .pool = "pool"}, {}));
    fill("large", 0, 32 * mib - 64 * 1024, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("large", "")}, {.dry_run = true}));
    fill("large", 32 * mib - 64 * 1024, 64 * 1024, 'a');
    for (bool served : {true, false}) {
        ASSERT_EQ(group->volume("pool")->pool_mode, "rw");
        for (bool dry_run : {true, false}) {
            const auto snapshot = group->create_snapshots({classic("large", "")}, {.dry_run = dry_run});
            ASSERT_FALSE(snapshot) << served;
            EXPECT_EQ(snapshot.error().kind(), ErrorKind::no_space);
            EXPECT_EQ(snapshot.error().message(), "pool pool is full: no chunk is free");
            const auto volume = group->create_volume({.name = "x", .size = {.value = mib}, .pool = "pool"}, {.dry_run = dry_run});
            ASSERT_FALSE(volume) << served;
            EXPECT_EQ(volume.error().message(), "pool pool is full: no chunk is free");
        }
        if (served)
            reopen();
    }
    ASSERT_TRUE(group->resize({.name = "pool", .size = {.value = 64 * mib}}, {}));
    ASSERT_TRUE(group->create_snapshots({classic("large", "")}, {}));
}

TEST_F(EngineSnapshotsTest, SizesAreCutToWhatCanBeUsed) {
    auto made = group->create_snapshots({classic("thick", "large", 200 * mib)}, {});
    ASSERT_TRUE(made) << made.error().message();
    EXPECT_EQ(made->at(0).store_size, 36 * mib);
    auto extended = group->resize({.name = "large", .size = {Base::bytes, SizeRequest::Relation::grow, 100 * mib}}, {});
    ASSERT_TRUE(extended) << extended.error().message();
    EXPECT_EQ(extended->store_size, 36 * mib);
    EXPECT_EQ(group->resize({.name = "large", .size = {Base::bytes, SizeRequest::Relation::absolute, 4 * mib}}, {}).error().kind(),
              ErrorKind::unsupported);
    EXPECT_EQ(failure(classic("thick", "odd", 4 * mib, 5000)), ErrorKind::usage);
    EXPECT_EQ(failure(classic("thick", "fine", 4 * mib, 2048)), ErrorKind::usage);
    EXPECT_EQ(failure(classic("large", "of-a-snapshot")), ErrorKind::refused);
    EXPECT_EQ(failure(classic("pool", "of-a-pool")), ErrorKind::unsupported);
    EXPECT_EQ(failure(classic("snapshot0", "of-a-tie")), ErrorKind::unsupported);
    EXPECT_EQ(failure(classic("nowhere", "x")), ErrorKind::not_found);
}

TEST_F(EngineSnapshotsTest, AFullOneIsInvalidAndItsOriginGoesOn) {
    fill("thick", 0, 8 * mib, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1", 4 * mib)}, {}));
    fill("thick", 0, 8 * mib, 'b');
    EXPECT_EQ(shows("thick", 0, 8 * mib), 'b');
    EXPECT_EQ(shows("s1", 0, mib), '!');
    EXPECT_EQ(group->volume("s1")->snapshot_state, "Invalid");
    EXPECT_EQ(group->volume("s1")->store_used, std::nullopt);
    reopen();
    EXPECT_EQ(group->volume("s1")->snapshot_state, "Invalid");
    EXPECT_EQ(*group->status_line("s1"), "0 65536 snapshot Invalid");
    // More room doesn't bring back what is lost, and nobody is told so; in use, too.
    for (bool served : {false, true}) {
        if (served) {
            EXPECT_EQ(shows("thick", 0, mib), 'b');
        }
        for (bool dry_run : {false, true}) {
            const auto extended =
                group->resize({.name = "s1", .size = {Base::bytes, SizeRequest::Relation::grow, 8 * mib}}, {.dry_run = dry_run});
            ASSERT_FALSE(extended);
            EXPECT_EQ(extended.error().kind(), ErrorKind::refused);
            EXPECT_EQ(extended.error().message(), "s1 is Invalid: more room doesn't bring back what it lost; remove it");
        }
    }
    release();
    EXPECT_EQ(group->volume("s1")->store_size, 4 * mib);
    EXPECT_EQ(group->rollback("thick", "s1", {}).error().kind(), ErrorKind::refused);
    EXPECT_TRUE(group->remove({"s1"}, false, {}));
}

TEST_F(EngineSnapshotsTest, AStoreGrowsWhileItIsInUse) {
    options.snapshot_autoextend_threshold = 50;
    reopen();
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1", 8 * mib)}, {}));
    fill("thick", 0, 5 * mib, 'b');
    wait_until([&] { return group->volume("s1")->store_size > 8 * mib; });
    EXPECT_EQ(group->volume("s1")->store_size, 12 * mib);
    fill("thick", 5 * mib, 4 * mib, 'b');
    EXPECT_EQ(shows("s1", 0, 9 * mib), '\0');
    EXPECT_EQ(group->volume("s1")->snapshot_state, "active");
}

TEST_F(EngineSnapshotsTest, AStoreGrowsNoFurtherThanItsOriginCanEverNeed) {
    options.snapshot_autoextend_threshold = 50;
    options.snapshot_autoextend_percent = 300;
    reopen();
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1", 8 * mib)}, {}));
    fill("thick", 0, 5 * mib, 'b');
    wait_until([&] { return group->volume("s1")->store_size > 8 * mib; });
    EXPECT_EQ(group->volume("s1")->store_size, 32 * mib) << "by 300 percent";
    fill("thick", 5 * mib, 20 * mib, 'b');
    wait_until([&] { return group->volume("s1")->store_size > 32 * mib; });
    fill("thick", 25 * mib, 7 * mib, 'b');
    EXPECT_EQ(shows("s1", 0, 32 * mib), '\0');
    EXPECT_EQ(group->volume("s1")->store_size, 36 * mib) << "all chunks, and their exceptions";
    EXPECT_EQ(group->volume("s1")->snapshot_state, "active");
}

TEST_F(EngineSnapshotsTest, AStripedVolumeHasThemToo) {
    close();
    CreateGroup request;
    request.paths = {folder.file("a.img"), folder.file("b.img")};
    request.size = 64 * mib;
    ASSERT_TRUE(EngineGroup::create(request, {}));
    const auto open_both = [&] {
        auto opened = EngineGroup::open(request.paths, options);
        ASSERT_TRUE(opened) << opened.error().message();
        group = std::move(*opened);
    };
    open_both();
    ASSERT_TRUE(group->create_volume({.name = "striped", .size = {.value = 32 * mib}, .linear = true, .stripes = 2}, {}));
    fill("striped", 0, 32 * mib, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("striped", "s1", 16 * mib), classic("striped", "s2")}, {}));
    fill("striped", mib - 4096, 8192, 'b');  // chunks on both stripes
    fill("s2", 5 * mib, mib, 'c');
    close();
    open_both();
    EXPECT_EQ(group->volume("striped")->stripes, 2u);
    EXPECT_EQ(shows("striped", mib - 4096, 8192), 'b');
    EXPECT_EQ(shows("s1", 0, 32 * mib), 'a');
    EXPECT_EQ(shows("s2", 0, 5 * mib), 'a');
    EXPECT_EQ(shows("s2", 5 * mib, mib), 'c');
    release();
    const auto back = group->rollback("striped", "s2", {});
    ASSERT_TRUE(back) << back.error().message();
    EXPECT_EQ(shows("striped", 0, 5 * mib), 'a');
    EXPECT_EQ(shows("striped", 5 * mib, mib), 'c');
    EXPECT_EQ(shows("s1", 0, 32 * mib), 'a');
}

TEST_F(EngineSnapshotsTest, AStoreThatGrowsIsNotOutrun) {
    options.snapshot_autoextend_threshold = 90;
    reopen();
    fill("thick", 0, 32 * mib, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1", 4 * mib), classic("thick", "s2", 4 * mib)}, {}));
    // Each several times what its store holds, in one go.
    fill("thick", 0, 12 * mib, 'b');
    fill("s2", 12 * mib, 12 * mib, 'c');
    EXPECT_EQ(shows("s1", 0, 32 * mib), 'a');
    EXPECT_EQ(shows("s2", 0, 12 * mib), 'a');
    EXPECT_EQ(shows("s2", 12 * mib, 12 * mib), 'c');
    EXPECT_EQ(shows("thick", 0, 12 * mib), 'b');
    EXPECT_EQ(shows("thick", 12 * mib, 20 * mib), 'a');
    EXPECT_GT(group->volume("s2")->store_size, 24 * mib);
}

// A command of LVM's that has the group locked, at a question to its user say, costs time and no snapshot.
TEST_F(EngineSnapshotsTest, AStoreGrowsWhenLvmIsDone) {
    options.snapshot_autoextend_threshold = 90;
    options.lvm_locks = folder.file("lvm");
    std::filesystem::create_directory(options.lvm_locks);
    reopen();
    fill("thick", 0, 12 * mib, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1", 4 * mib)}, {}));
    FileDescriptor theirs(::open((options.lvm_locks / "V_vms").c_str(), O_CREAT | O_RDWR, 0600));
    ASSERT_EQ(::flock(theirs.get(), LOCK_EX), 0);
    BlockDevice& device = use("thick");
    std::thread writer([&] { EXPECT_TRUE(write_now(device, 0, std::vector<std::byte>(12 * mib, std::byte{'b'}))); });
    wait_until([&] {
        return std::ranges::any_of(group->info()->findings, [](const auto& text) { return text.contains("can't be extended yet"); });
    });
    EXPECT_EQ(group->volume("s1")->snapshot_state, "active");
    EXPECT_EQ(group->volume("s1")->store_size, 4 * mib);
    ASSERT_EQ(::flock(theirs.get(), LOCK_UN), 0);
    writer.join();
    EXPECT_EQ(shows("s1", 0, 12 * mib), 'a');
    EXPECT_EQ(group->volume("s1")->snapshot_state, "active");
}

TEST_F(EngineSnapshotsTest, AStoreThatCantGrowIsLostAndItsOriginGoesOn) {
    options.snapshot_autoextend_threshold = 90;
    reopen();
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1", 4 * mib)}, {}));
    ASSERT_TRUE(group->create_volume({.name = "rest", .size = {.base = Base::percent_of_free, .value = 10000}, .linear = true}, {}));
    fill("thick", 0, 8 * mib, 'b');
    EXPECT_EQ(shows("thick", 0, 8 * mib), 'b');
    EXPECT_EQ(group->volume("s1")->snapshot_state, "Invalid");
}

TEST_F(EngineSnapshotsTest, SnapshotsAreTakenAndRemovedWhileAStoreGrows) {
    options.snapshot_autoextend_threshold = 90;
    reopen();
    fill("thick", 0, 32 * mib, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1", 4 * mib)}, {}));
    BlockDevice& device = use("thick");
    const std::vector<std::byte> bytes(mib, std::byte{'b'});
    std::thread writer([&] {
        for (std::uint64_t at = 0; at < 16; ++at)
            EXPECT_TRUE(write_now(device, at * mib, bytes));
    });
    for (int round = 0; round < 4; ++round) {
        EXPECT_TRUE(group->create_snapshots({classic("thick", "other", 4 * mib)}, {}));
        EXPECT_TRUE(group->remove({"other"}, false, {}));
    }
    writer.join();
    EXPECT_EQ(shows("s1", 0, 32 * mib), 'a');
    EXPECT_EQ(shows("thick", 0, 16 * mib), 'b');
}

TEST_F(EngineSnapshotsTest, AMergeWaitsForRoomInOtherSnapshots) {
    options.snapshot_autoextend_threshold = 90;
    reopen();
    fill("thick", 0, 16 * mib, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1", 100 * mib)}, {}));
    fill("thick", 0, 16 * mib, 'b');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s2", 4 * mib)}, {}));
    release();
    ASSERT_TRUE(group->rollback("thick", "s1", {}));
    wait_until([&] { return !group->volume("s1"); });
    EXPECT_EQ(shows("s2", 0, 16 * mib), 'b');
    EXPECT_EQ(shows("thick", 0, 16 * mib), 'a');
}

TEST_F(EngineSnapshotsTest, AMergeMakesTheOriginWhatTheSnapshotWas) {
    fill("thick", 0, 8 * mib, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1", 100 * mib)}, {}));
    fill("thick", 0, 8 * mib, 'b');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s2", 100 * mib)}, {}));
    fill("thick", 0, mib, 'c');
    fill("s1", 4 * mib, mib, 'd');
    EXPECT_EQ(group->rollback("thick", "s1", {}).error().kind(), ErrorKind::refused);  // in use
    release();
    EXPECT_EQ(group->rollback("thin", "s1", {}).error().kind(), ErrorKind::usage);
    ASSERT_TRUE(group->rollback("thick", "s1", {.dry_run = true}));
    EXPECT_EQ(group->volume("s1")->snapshot_state, "active");

    ASSERT_TRUE(group->rollback("thick", "s1", {}));
    // In use while it merges, and merged from the start.
    EXPECT_EQ(shows("thick", 0, 4 * mib), 'a');
    EXPECT_EQ(shows("thick", 4 * mib, mib), 'd');
    fill("thick", 2 * mib, mib, 'e');
    wait_until([&] { return !group->volume("s1"); });
    EXPECT_EQ(group->volume("s1").error().kind(), ErrorKind::not_found);
    EXPECT_EQ(group->volume("snapshot0").error().kind(), ErrorKind::not_found);
    const auto all_hold = [&] {
        EXPECT_EQ(shows("thick", 0, 2 * mib), 'a');
        EXPECT_EQ(shows("thick", 2 * mib, mib), 'e');
        EXPECT_EQ(shows("thick", 4 * mib, mib), 'd');
        EXPECT_EQ(shows("s2", 0, 8 * mib), 'b');
    };
    all_hold();
    reopen();
    all_hold();
}

TEST_F(EngineSnapshotsTest, AMergeGoesOnWhereItStopped) {
    fill("thick", 0, 16 * mib, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1", 100 * mib)}, {}));
    fill("thick", 0, 16 * mib, 'b');
    release();
    ASSERT_TRUE(group->rollback("thick", "s1", {}));
    // Wherever it is: no snapshot is taken, nothing is removed or restored meanwhile.
    if (group->volume("s1")) {
        EXPECT_EQ(failure(classic("thick", "s2")), ErrorKind::refused);
        EXPECT_EQ(group->remove({"s1"}, false, {}).error().kind(), ErrorKind::refused);
    }
    reopen();
    EXPECT_EQ(shows("thick", 0, 16 * mib), 'a');  // serving goes on with it
    wait_until([&] { return !group->volume("s1"); });
    EXPECT_EQ(shows("thick", 0, 16 * mib), 'a');
}

TEST_F(EngineSnapshotsTest, AnOriginStaysWhileItHasSnapshots) {
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1"), classic("thick", "s2")}, {}));
    EXPECT_EQ(group->remove({"thick"}, false, {}).error().kind(), ErrorKind::refused);
    EXPECT_EQ(group->remove({"thick", "s1"}, false, {}).error().kind(), ErrorKind::refused);
    ASSERT_TRUE(group->rename("s2", "other", {}));
    ASSERT_TRUE(group->rename("thick", "base", {}));
    EXPECT_EQ(group->volume("other")->origin, "base");
    use("base");
    EXPECT_EQ(group->resize({.name = "base", .size = {Base::bytes, SizeRequest::Relation::grow, 4 * mib}}, {}).error().kind(),
              ErrorKind::refused);
    EXPECT_EQ(group->create_snapshots({classic("base", "x"), classic("thin", "y")}, {}).error().kind(), ErrorKind::unsupported);
    release();
    ASSERT_TRUE(group->resize({.name = "base", .size = {Base::bytes, SizeRequest::Relation::grow, 4 * mib}}, {}));
    EXPECT_EQ(group->volume("s1")->size, 32 * mib);
    fill("base", 30 * mib, 6 * mib, 'n');
    EXPECT_EQ(shows("s1", 30 * mib, 2 * mib), '\0');
    release();
    ASSERT_TRUE(group->remove({"base", "s1", "other"}, false, {.dry_run = true}));
    ASSERT_TRUE(group->remove({"base", "s1", "other"}, false, {}));
    EXPECT_EQ(group->info()->findings.size(), 0u);
}

TEST_F(EngineSnapshotsTest, APoolStaysWhileAVolumeOfItHasAClassicSnapshot) {
    ASSERT_TRUE(group->create_snapshots({classic("thin", "s1", 8 * mib)}, {}));
    EXPECT_EQ(group->remove({"pool"}, true, {}).error().kind(), ErrorKind::refused);
    ASSERT_TRUE(group->remove({"pool", "s1"}, true, {.dry_run = true}));
    EXPECT_TRUE(group->volume("s1"));
    ASSERT_TRUE(group->remove({"pool", "s1"}, true, {}));
    EXPECT_EQ(group->volume("thin").error().kind(), ErrorKind::not_found);
    EXPECT_EQ(group->volume("s1").error().kind(), ErrorKind::not_found);
    reopen();
}

// The header of the metadata area, in which a commit is made: written to announce a text, then to make it the group's.
constexpr FaultDevice::Rule header{.operation = IoOperation::write, .offset = 4096, .length = 512};

TEST_F(EngineSnapshotsTest, ACommitThatFailsLeavesNoSnapshot) {
    fill("thick", 0, 4 * mib, 'a');
    FaultDevice::Rule announcing = header;
    faults->add(announcing);
    EXPECT_FALSE(group->create_snapshots({classic("thick", "s1"), classic("thin", "s2", 8 * mib)}, {}));
    const std::uint64_t reads = faults->count(IoOperation::read);
    fill("thick", 0, 4 * mib, 'b');
    EXPECT_EQ(faults->count(IoOperation::read), reads);  // nothing is copied for it
    abandon();
    reopen();
    EXPECT_EQ(group->volume("s1").error().kind(), ErrorKind::not_found);
    EXPECT_EQ(group->volume("s2").error().kind(), ErrorKind::not_found);
    EXPECT_EQ(shows("thick", 0, 4 * mib), 'b');
}

TEST_F(EngineSnapshotsTest, ACommitThatFailsLateMayHaveMadeTheSnapshot) {
    fill("thick", 0, 4 * mib, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "first")}, {}));
    const std::uint64_t flushes = faults->count(IoOperation::flush);
    ASSERT_TRUE(group->create_snapshots({classic("thick", "second")}, {}));
    const std::uint64_t in_one = faults->count(IoOperation::flush) - flushes;
    // The last flush of all: the text is the group's, and nobody could tell.
    faults->add({.operation = IoOperation::flush, .skip = in_one - 1, .count = 1});
    EXPECT_FALSE(group->create_snapshots({classic("thick", "third")}, {}));
    fill("thick", 0, 4 * mib, 'b');
    EXPECT_FALSE(group->create_snapshots({classic("thin", "fourth", 8 * mib)}, {}));
    abandon();
    reopen();
    for (const char* name : {"first", "second", "third"})
        EXPECT_EQ(shows(name, 0, 4 * mib), 'a') << name;
    EXPECT_EQ(shows("thick", 0, 4 * mib), 'b');
    EXPECT_EQ(group->volume("fourth").error().kind(), ErrorKind::not_found);
}

TEST_F(EngineSnapshotsTest, ACommitThatFailsLateMayHaveMadeNone) {
    fill("thick", 0, 4 * mib, 'a');
    FaultDevice::Rule committing = header;
    committing.skip = 1;
    faults->add(committing);
    EXPECT_FALSE(group->create_snapshots({classic("thick", "s1")}, {}));
    fill("thick", 0, 4 * mib, 'b');
    abandon();
    reopen();
    EXPECT_EQ(group->volume("s1").error().kind(), ErrorKind::not_found);
    EXPECT_EQ(shows("thick", 0, 4 * mib), 'b');
}

TEST_F(EngineSnapshotsTest, AMergeThatFailedGoesOnWhenAsked) {
    fill("thick", 0, 8 * mib, 'a');
    ASSERT_TRUE(group->create_snapshots({classic("thick", "s1", 100 * mib)}, {}));
    fill("thick", 0, 8 * mib, 'b');
    release();
    faults->add({.operation = IoOperation::write, .offset = mib, .skip = 3, .count = 1});
    ASSERT_TRUE(group->rollback("thick", "s1", {}));
    wait_until([&] { return group->volume("s1")->snapshot_state == "Merge failed"; });
    EXPECT_EQ(shows("thick", 0, 8 * mib), 'a');
    EXPECT_EQ(*group->status_line("thick"), "0 65536 snapshot-merge Merge failed");
    EXPECT_EQ(*group->status_line("s1"), "0 65536 snapshot-merge Merge failed");
    EXPECT_EQ(*group->table_line("thick"), "0 65536 snapshot-merge vms-thick-real vms-s1-cow P 8");
    release();
    // Where the store can't be read, its origin's line can still be told.
    options.read_only = true;
    reopen();
    EXPECT_TRUE(group->status_line("thick")->starts_with("0 65536 snapshot-merge ")) << *group->status_line("thick");
    faults->add({.operation = IoOperation::read, .offset = mib});
    EXPECT_EQ(*group->status_line("thick"), "0 65536 snapshot-merge Unknown");
    EXPECT_FALSE(group->status_line("s1"));
    options.read_only = false;
    reopen();
    ASSERT_TRUE(group->rollback("thick", "s1", {}));
    wait_until([&] { return !group->volume("s1"); });
    EXPECT_EQ(shows("thick", 0, 8 * mib), 'a');
    reopen();
    EXPECT_EQ(shows("thick", 0, 8 * mib), 'a');
}

}  // namespace
}  // namespace lamella
