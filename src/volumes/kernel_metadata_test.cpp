// SPDX-License-Identifier: Apache-2.0
//
// New metadata of a pool change places with the old. Whatever happens meanwhile, the old stay: they may be all that tells where data is.
#include "device/file_device.h"
#include "lvm2/store.h"
#include "tools/check.h"
#include "volumes/pool_on_image.h"

namespace lamella {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class ReplacedMetadata : public PoolOnImageTest {
  protected:
    static bool has(const LittleLvm& lvm, const std::string& range) {
        return std::ranges::find(lvm.volumes, range, &LittleLvm::Volume::range) != lvm.volumes.end();
    }
    static Result<std::string> replace(KernelGroup& group) {
        const auto made = TRY(group.new_metadata("pool", true));
        return group.take_metadata(*made);
    }
};

TEST_F(ReplacedMetadata, TheOldStayWhicheverIdTheyHave) {
    for (const bool newer : {false, true}) {
        SCOPED_TRACE(newer ? "ids go with names" : "ids go with extents");
        LittleLvm lvm = this->lvm(newer);
        const std::string old = lvm.at("pool_tmeta").range;
        EXPECT_EQ(test::value_of(replace(*open(lvm))), "pool_meta0");
        EXPECT_NE(lvm.at("pool_tmeta").range, old);
        EXPECT_EQ(lvm.at("pool_meta0").range, old);
        EXPECT_THAT(recover(lvm), IsEmpty());
        EXPECT_EQ(lvm.at("pool_meta0").range, old);
    }
}

// LVM knows nothing of the transactions of a container engine's pool.
TEST_F(ReplacedMetadata, APoolOfSomebodyElsesHasTransactionsOfItsOwn) {
    LittleLvm foreign = lvm();
    foreign.transaction_id = 0;
    EXPECT_EQ(test::value_of(replace(*open(foreign))), "pool_meta0");
    LittleLvm older = lvm();
    older.transaction_id = 0;
    older.make("web", "thin").pool = "pool";
    const auto refused = replace(*open(older));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::refused);
    EXPECT_THAT(refused.error().message(), HasSubstr("transaction id"));
}

TEST_F(ReplacedMetadata, TheOldStayWhereverItIsBrokenOff) {
    for (const bool newer : {false, true})
        for (const bool before : {false, true}) {
            unsigned kills = 0;
            for (bool killed = true; killed; ++kills) {
                SCOPED_TRACE(fmt::format("ids change places: {}, killed {} command {}", newer, before ? "before" : "after", kills));
                LittleLvm lvm = this->lvm(newer);
                const std::string old = lvm.at("pool_tmeta").range;
                lvm.kill_before = before;
                killed = kill(lvm, kills, [](KernelGroup& group) { test::value_of(replace(group)); });
                for (int i = 0; i < 2; ++i) {
                    recover(lvm);
                    EXPECT_TRUE(has(lvm, old));
                    EXPECT_TRUE(lvm.at("pool_tmeta").range == old || lvm.at("pool_meta0").range == old);
                }
                // What was only begun goes.
                if (kills == 0) {
                    EXPECT_THAT(lvm.names(), testing::ElementsAre("pool"));
                }
            }
            EXPECT_EQ(kills, 5u);
        }
}

TEST_F(ReplacedMetadata, TheOldStayWhereLvmFails) {
    for (const bool newer : {false, true})
        for (unsigned at = 0; at < 4; ++at) {
            SCOPED_TRACE(fmt::format("ids change places: {}, command {} fails", newer, at));
            LittleLvm lvm = this->lvm(newer);
            const std::string old = lvm.at("pool_tmeta").range;
            lvm.until_failure = at;
            const auto taken = replace(*open(lvm));
            ASSERT_FALSE(taken);
            EXPECT_EQ(lvm.at("pool_tmeta").range, old);
            // lvcreate and the deactivation are undone.
            const bool stays = taken.error().message().find("volume pool_meta0 stays") != std::string::npos;
            EXPECT_EQ(stays, at >= 2) << taken.error().message();
            EXPECT_EQ(lvm.names().size(), stays ? 2u : 1u);
        }
}

// udev looks into what was just written to.
TEST_F(ReplacedMetadata, WhatIsOpenForAMomentIsRemovedAfterIt) {
    LittleLvm lvm = this->lvm();
    const auto group = open(lvm);
    auto made = test::value_of(group->new_metadata("pool", true));
    host::KernelDevice device{
        .name = lvm2::dm_name("my-vg", "pool_meta0"),
        .uuid = lvm2::dm_uuid(*LvmId::parse("FTM2AD-Md9x-9Pyd-AcDP-m8QK-xGzn-4hs1m3"), *LvmId::parse(lvm.at("pool_meta0").id), "")};
    device.open_count = 1;
    mapper->all.push_back(device);
    unsigned looks = 0;
    mapper->on_pass = [&] {
        if (++looks == 4)
            mapper->all.front().open_count = 0;
    };
    made.reset();
    EXPECT_THAT(lvm.names(), testing::ElementsAre("pool"));
}

// LVM was ended after it had written its text, and before it told the pool.
TEST_F(ReplacedMetadata, ATextWithMessagesIsOneTransactionAhead) {
    LittleLvm lvm = this->lvm();
    ++lvm.transaction_id;
    EXPECT_FALSE(test::value_of(open(lvm)->pool_contents("pool", false)).changing) << "there are none";
    {
        const auto disk = test::value_of(FileDevice::open(image));
        std::vector<BlockDevice*> devices = {disk.get()};
        auto store = test::value_of(lvm2::GroupStore::open(devices, {.writable = true}));
        lvm2::VolumeGroup next = store.group();
        test::value_of(lvm2::create_thin(next, {"db", {}, false, {}}, "pool", 1));
        test::value_of(store.commit(next, "a change"));
    }
    const PoolContents contents = test::value_of(open(lvm)->pool_contents("pool", false));
    EXPECT_TRUE(contents.changing);
    EXPECT_EQ(contents.transaction_id + 1, lvm.transaction_id);
}

// The record tells of a volume by its id; without its tag it may be anybody's by now.
TEST_F(ReplacedMetadata, AVolumeWithoutItsTagIsKept) {
    LittleLvm lvm = this->lvm();
    ASSERT_TRUE(kill(lvm, 1, [](KernelGroup& group) { test::value_of(replace(group)); }));
    ASSERT_EQ(lvm.names().size(), 2u);
    lvm.at("pool_meta0").tags.clear();
    // By which the next process sees that something was broken off.
    lvm.make("other", "linear").tags = {"lamella.unfinished=part.1"};
    recover(lvm);
    EXPECT_THAT(lvm.names(), Contains("pool_meta0"));
}

TEST_F(ReplacedMetadata, NothingReplacesMetadataThatWereUsedMeanwhile) {
    {
        // Since they were read.
        LittleLvm lvm = this->lvm();
        const auto group = open(lvm);
        const auto source = test::value_of(group->read_metadata("pool"));
        use_pool();
        const auto made = group->new_metadata("pool", false, source.get());
        ASSERT_FALSE(made);
        EXPECT_EQ(made.error().kind(), ErrorKind::refused);
        EXPECT_THAT(made.error().message(), HasSubstr("was used"));
        EXPECT_EQ(lvm.sequence_number, 1u) << "no command";
    }
    // Since the new ones were begun; while LVM's command before the last ran.
    for (const bool late : {false, true})
        for (const bool active : {false, true}) {
            SCOPED_TRACE(fmt::format("late: {}, active: {}", late, active));
            LittleLvm lvm = this->lvm();
            const std::string old = lvm.at("pool_tmeta").range;
            const auto group = open(lvm);
            auto made = test::value_of(group->new_metadata("pool", true));
            const auto use = [&] { active ? activate(lvm) : use_pool(); };
            if (late)
                lvm.before_change = [&](const host::Command& command) {
                    EXPECT_THAT(command.words, Not(Contains("--swapmetadata")));
                    if (std::ranges::find(command.words, "--deltag") != command.words.end())
                        use();
                };
            else
                use();
            const auto taken = group->take_metadata(*made);
            ASSERT_FALSE(taken);
            EXPECT_EQ(taken.error().kind(), ErrorKind::refused);
            EXPECT_THAT(taken.error().message(), HasSubstr(active ? "was activated" : "was used"));
            EXPECT_EQ(taken.error().message().find("stays") != std::string::npos, late);
            made.reset();
            EXPECT_EQ(lvm.at("pool_tmeta").range, old);
            EXPECT_EQ(lvm.names().size(), late ? 2u : 1u);
        }
}

// The flag of a pool with leaks is cleared without giving them back.
TEST_F(ReplacedMetadata, LeaksAreNoReasonToRefuse) {
    LittleLvm lvm = this->lvm();
    const auto group = open(lvm);
    const auto made = test::value_of(group->new_metadata("pool", true));
    AlignedBuffer block(thin::metadata_block_bytes);
    test::value_of(read_now(made->device(), 0, block.bytes()));
    thin::Superblock superblock = test::value_of(thin::Superblock::unpack(block.bytes(), true));
    // One data block more in use than there is.
    superblock.data_space_map_root[8] = static_cast<std::byte>(std::to_integer<unsigned>(superblock.data_space_map_root[8]) + 1);
    superblock.pack(block.bytes());
    test::value_of(write_now(made->device(), 0, block.bytes()));
    EXPECT_EQ(test::value_of(tools::check(made->device(), {})).grade, tools::Severity::leak);
    EXPECT_EQ(test::value_of(group->take_metadata(*made)), "pool_meta0");
}

// Blocks that are free again are written, and look like others of the same pool.
TEST_F(ReplacedMetadata, ReadingTellsOfAMetadataSnapshotThatWasReleased) {
    const std::string metadata = folder + "/" + lvm2::dm_name("my-vg", "pool_tmeta");
    std::ofstream(metadata) << std::string(16 * thin::metadata_block_bytes, 'a');
    LittleLvm lvm = this->lvm();
    const auto hold = [&](const std::string& root) {
        mapper->all.back().status[0].parameters = "1 113/1024 5/1024 " + root + " rw no_discard_passdown queue_if_no_space - 256";
    };
    for (const bool anothers : {true, false})
        for (const bool block : {true, false}) {
            SCOPED_TRACE(fmt::format("{} {}", anothers, block));
            const auto group = open(lvm);
            activate(lvm);
            if (anothers)
                hold("7");
            mapper->on_message = [&](const std::string& text) { hold(text == "reserve_metadata_snap" ? "7" : "-"); };
            {
                const auto held = test::value_of(group->read_metadata("pool"));
                EXPECT_EQ(held->of_others(), anothers);
                test::value_of(held->still_whole());
                // Released and taken again, in the same place or another.
                if (block)
                    std::ofstream(metadata, std::ios::in | std::ios::out).seekp(7 * thin::metadata_block_bytes) << 'b';
                else
                    hold("8");
                const auto whole = held->still_whole();
                ASSERT_FALSE(whole);
                EXPECT_THAT(whole.error().message(), HasSubstr("was released while it was read"));
            }
            const bool releases = !anothers && block;
            EXPECT_EQ(std::ranges::count(mapper->messages, "my--vg-pool-tpool: release_metadata_snap"), releases ? 1 : 0)
                << "that of others stays";
            std::ofstream(metadata, std::ios::in | std::ios::out).seekp(7 * thin::metadata_block_bytes) << 'a';
        }
}

TEST_F(ReplacedMetadata, ReadingTellsOfUseMeanwhile) {
    LittleLvm lvm = this->lvm();
    const auto group = open(lvm);
    const auto held = test::value_of(group->read_metadata("pool"));
    EXPECT_FALSE(held->in_snapshot());
    test::value_of(held->still_whole());
    use_pool();
    EXPECT_EQ(held->still_whole().error().kind(), ErrorKind::refused);
    const auto anew = test::value_of(group->read_metadata("pool"));
    test::value_of(anew->still_whole());
    activate(lvm);
    EXPECT_EQ(anew->still_whole().error().kind(), ErrorKind::refused);
}

}  // namespace
}  // namespace lamella
