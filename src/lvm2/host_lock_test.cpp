// SPDX-License-Identifier: Apache-2.0
#include "lvm2/host_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/test_support.h"
#include "device/memory_device.h"
#include "lvm2/store.h"

namespace lamella::lvm2 {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

class HostLockTest : public testing::Test {
  protected:
    void SetUp() override {
        std::string made = testing::TempDir() + "lamella-lock-XXXXXX";
        ASSERT_NE(::mkdtemp(made.data()), nullptr);
        folder = std::filesystem::path(made) / "lvm";
    }
    void TearDown() override { std::filesystem::remove_all(folder.parent_path()); }
    std::filesystem::path file() const { return folder / "V_vg"; }
    // As a command of LVM's.
    FileDescriptor lvm_locks(int operation) const {
        FileDescriptor opened(::open(file().c_str(), O_CREAT | O_APPEND | O_RDWR, 0777));
        EXPECT_EQ(::flock(opened.get(), operation | LOCK_NB), 0);
        return opened;
    }
    std::filesystem::path folder;
};

TEST_F(HostLockTest, KeepsLvmOutAndLeavesNoFile) {
    {
        const HostLock lock = test::value_of(HostLock::take(folder, "vg", milliseconds(0)));
        const FileDescriptor reader(::open(file().c_str(), O_RDWR));
        EXPECT_NE(::flock(reader.get(), LOCK_SH | LOCK_NB), 0);
    }
    EXPECT_FALSE(std::filesystem::exists(file()));
}

TEST_F(HostLockTest, IsKeptOutByReadersAndWriters) {
    std::filesystem::create_directory(folder);
    for (const int operation : {LOCK_SH, LOCK_EX}) {
        const FileDescriptor theirs = lvm_locks(operation);
        const auto refused = HostLock::take(folder, "vg", milliseconds(1));
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().kind(), ErrorKind::refused);
        EXPECT_THAT(refused.error().message(), HasSubstr("V_vg"));
        EXPECT_TRUE(HostLock::take(folder, "other", milliseconds(0))) << "it is the group's alone";
    }
    EXPECT_TRUE(HostLock::take(folder, "vg", milliseconds(0)));
}

// LVM removes the file when it unlocks: who has that one open has no lock.
TEST_F(HostLockTest, CountsOnlyWhileItsFileIsThere) {
    std::filesystem::create_directory(folder);
    const FileDescriptor stale = lvm_locks(LOCK_EX);
    std::filesystem::remove(file());
    const HostLock lock = test::value_of(HostLock::take(folder, "vg", milliseconds(0)));
    struct stat held {
    }, there{};
    ASSERT_EQ(::fstat(stale.get(), &held), 0);
    ASSERT_EQ(::stat(file().c_str(), &there), 0);
    EXPECT_NE(held.st_ino, there.st_ino);
}

TEST_F(HostLockTest, WaitsForItsTurn) {
    std::filesystem::create_directory(folder);
    FileDescriptor theirs = lvm_locks(LOCK_EX);
    std::thread ends([&] {
        std::filesystem::remove(file());
        theirs.close();
    });
    EXPECT_TRUE(HostLock::take(folder, "vg", std::chrono::minutes(1)));
    ends.join();
}

TEST_F(HostLockTest, OfAStoreIsHeldForItsWritesAlone) {
    MemoryDevice disk(64u << 20, "a");
    std::vector<BlockDevice*> devices = {&disk};
    StoreOptions options;
    options.writable = true;
    ASSERT_TRUE(GroupStore::create({.name = "vg", .physical_volumes = {{&disk, 1}}}, options));
    options.lvm_locks = folder;
    options.lvm_patience = milliseconds(1);
    GroupStore store = test::value_of(GroupStore::open(devices, options));
    EXPECT_FALSE(std::filesystem::exists(file()));
    VolumeGroup next = store.group();
    next.tags = {"t"};
    {
        const FileDescriptor theirs = lvm_locks(LOCK_SH);
        const auto refused = store.commit(next, "a change");
        ASSERT_FALSE(refused);
        EXPECT_THAT(refused.error().message(), HasSubstr("LVM's has it locked"));
        EXPECT_EQ(GroupStore::open(devices, options).error().kind(), ErrorKind::refused) << "it might write";
    }
    EXPECT_EQ(GroupStore::open(devices, {})->group().tags, Words{});
    {
        const FileDescriptor theirs = lvm_locks(LOCK_EX);
        const auto refused = GroupStore::restore(store.backup("a backup"), devices, GroupStore::RestoreTo::labelled, options);
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().kind(), ErrorKind::refused);
    }
    ASSERT_TRUE(store.commit(next, "a change"));
    EXPECT_FALSE(std::filesystem::exists(file()));
    {
        // A change of several commits keeps it between them.
        const auto held = test::value_of(store.hold_lock());
        ASSERT_TRUE(store.commit(store.group(), "its first step"));
        EXPECT_FALSE(HostLock::take(folder, "vg", milliseconds(1)));
        const auto twice = test::value_of(store.hold_lock());
        ASSERT_TRUE(store.commit(store.group(), "its second"));
        EXPECT_FALSE(HostLock::take(folder, "vg", milliseconds(1)));
    }
    EXPECT_TRUE(HostLock::take(folder, "vg", milliseconds(0)));
    store = test::value_of(GroupStore::open(devices, {.writable = true}));
    EXPECT_EQ(test::value_of(store.hold_lock()), nullptr) << "LVM doesn't see it";
}

}  // namespace
}  // namespace lamella::lvm2
