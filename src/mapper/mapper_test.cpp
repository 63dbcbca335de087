// SPDX-License-Identifier: Apache-2.0
#include "mapper/mapper.h"

#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "mapper/test_support.h"

namespace lamella::mapper {
namespace {

using std::chrono::milliseconds;

TEST_F(MapperTest, LinesMapToDevicesAndPrintAsTheKernels) {
    make("lower", "0 1024 linear a.img 8");
    make("upper", "0 256 linear /dev/mapper/lower 16\n256 256 striped 2 8 b.img 64 lower 512\n512 8 error\n520 8 zero\n");
    EXPECT_EQ(table("lower"), fmt::format("0 1024 linear {} 8\n", image("a.img")));
    EXPECT_EQ(table("upper"),
              fmt::format("0 256 linear 253:0 16\n256 256 striped 2 8 {} 64 253:0 512\n512 8 error \n520 8 zero \n", image("b.img")));
    auto status = mapper.status("upper");
    ASSERT_TRUE(status);
    EXPECT_EQ((*status)[1].text, fmt::format("2 {} 253:0 1 AA", image("b.img")));
    EXPECT_EQ((*status)[0].text, "");

    auto upper = mapper.open("upper");
    ASSERT_TRUE(upper);
    BlockDevice& device = (*upper)->device();
    EXPECT_EQ(device.size(), 528u * 512);
    const auto bytes = test::pattern(512 * 512, 1);
    ASSERT_TRUE(write_now(device, 0, bytes));
    auto file_a = mapper.open("lower");
    std::vector<std::byte> found(256 * 512);
    ASSERT_TRUE(read_now((*file_a)->device(), 16 * 512, found));
    EXPECT_TRUE(std::equal(found.begin(), found.end(), bytes.begin()));
    std::vector<std::byte> sector(512);
    EXPECT_FALSE(read_now(device, 512 * 512, sector));
    ASSERT_TRUE(write_now(device, 520 * 512, std::span(bytes).first(512)));
    ASSERT_TRUE(read_now(device, 520 * 512, sector));
    EXPECT_EQ(sector, std::vector<std::byte>(512));
    EXPECT_TRUE(flush_now(device));
    EXPECT_FALSE(read_now(device, 528 * 512, sector));
    file_a->reset();
    upper->reset();
    // A table that is printed can be loaded.
    const std::string text = table("upper");
    ASSERT_TRUE(load("upper", text));
    EXPECT_EQ(table("upper", true), text);
}

TEST_F(MapperTest, DescribesDevices) {
    make("lower", "0 1024 linear a.img 8");
    ASSERT_TRUE(mapper.create("upper", "LVM-abc"));
    auto info = mapper.info("upper");
    ASSERT_TRUE(info);
    EXPECT_FALSE(info->live || info->inactive || info->suspended);
    EXPECT_EQ(info->minor, 1u);
    ASSERT_TRUE(load("upper", "0 8 linear b.img 0\n8 8 linear lower 0", true));
    info = mapper.info("LVM-abc");
    EXPECT_TRUE(info->inactive);
    EXPECT_FALSE(info->live);
    EXPECT_EQ(info->name, "upper");
    EXPECT_EQ(mapper.info("lower")->open_count, 1u);  // an inactive table holds, too
    resume("upper");
    info = mapper.info("upper");
    EXPECT_TRUE(info->live && info->read_only);
    EXPECT_FALSE(info->inactive);
    EXPECT_EQ(info->target_count, 2u);
    EXPECT_EQ(info->size, 16u * 512);
    auto below = mapper.dependencies("upper");
    ASSERT_EQ(below->size(), 2u);
    EXPECT_EQ((*below)[0].name, "lower");
    EXPECT_EQ((*below)[0].minor, 0u);
    EXPECT_EQ((*below)[1].name, image("b.img"));
    auto open = mapper.open("upper");
    EXPECT_EQ(mapper.info("upper")->open_count, 1u);
    EXPECT_FALSE(write_now((*open)->device(), 0, std::vector<std::byte>(512)));
    EXPECT_TRUE((*open)->device().traits().read_only);
    EXPECT_EQ((*open)->device().traits().physical_block, 512u) << "whatever the disks' is: what is below may get another table";
}

TEST_F(MapperTest, RefusesNamesAndTables) {
    for (const char* name : {"", ".", "..", "a/b", "a b", "\\x20"})
        EXPECT_EQ(mapper.create(name, "").error().kind(), ErrorKind::usage) << name;
    EXPECT_EQ(mapper.create(std::string(128, 'x'), "").error().kind(), ErrorKind::usage);
    ASSERT_TRUE(mapper.create(std::string(127, 'x'), std::string(128, 'u')));
    make("disk", "0 8 zero");
    EXPECT_EQ(mapper.create("disk", "").error().kind(), ErrorKind::exists);
    EXPECT_EQ(mapper.create("other", std::string(128, 'u')).error().kind(), ErrorKind::exists);
    EXPECT_EQ(mapper.info("nothing").error().kind(), ErrorKind::not_found);
    const auto error_of = [&](const std::string& text) { return MapperTest::error_of("disk", text); };
    EXPECT_EQ(error_of("0 8 nosuch"), "disk: line 1: nosuch: there is no target of that type");
    EXPECT_EQ(error_of("0 8 zero 1"), "disk: line 1: zero: \"1\" is one word too many");
    EXPECT_EQ(error_of("0 8 linear"), "disk: line 1: linear: the device is missing");
    EXPECT_EQ(error_of("0 8 linear a.img"), "disk: line 1: linear: the start on the device is missing");
    EXPECT_EQ(error_of("0 8 linear a.img x"), "disk: line 1: linear: the start on the device \"x\" is not a whole number");
    EXPECT_NE(error_of("0 8 linear a.img 32768"), "none");  // beyond its end
    EXPECT_NE(error_of("0 9 linear a.img 32760"), "none");
    EXPECT_EQ(error_of("0 8 linear a.img 32760"), "none");
    EXPECT_NE(error_of("0 8 linear nosuch.img 0"), "none");
    EXPECT_NE(error_of("0 8 linear 253:77 0"), "none");
    EXPECT_EQ(error_of("0 8 linear disk 0"), "disk: line 1: linear: device disk would stand on itself");
    EXPECT_NE(error_of("0 17 striped 2 8 a.img 0 b.img 0"), "none");
    EXPECT_NE(error_of("0 16 striped 0 8"), "none");
    EXPECT_NE(error_of("0 16 striped 2 0 a.img 0 b.img 0"), "none");
    EXPECT_NE(error_of("0 16 striped 2 8 a.img 0"), "none");
    make("above", "0 8 linear disk 0");
    EXPECT_EQ(error_of("0 8 linear above 0"), "disk: line 1: linear: device disk would stand on itself");
}

TEST_F(MapperTest, OneFileIsOpenedOnce) {
    make("one", "0 8 linear a.img 0");
    std::filesystem::create_symlink(image("a.img"), folder.file("link.img"));
    make("two", "0 8 linear link.img 8");  // the lock would refuse a second opening
    EXPECT_EQ(table("two"), fmt::format("0 8 linear {} 8\n", image("a.img")));
    // What reads only doesn't hand its hold on to who wants to write.
    ASSERT_TRUE(mapper.create("reader", ""));
    ASSERT_TRUE(load("reader", "0 8 linear b.img 0", true));
    ASSERT_TRUE(mapper.create("writer", ""));
    EXPECT_EQ(load("writer", "0 8 linear b.img 0").error().kind(), ErrorKind::refused);
    ASSERT_TRUE(mapper.clear("reader"));
    EXPECT_TRUE(load("writer", "0 8 linear b.img 0"));
    // And it is given back.
    ASSERT_TRUE(mapper.clear("writer"));
    EXPECT_TRUE(FileDevice::open(image("b.img")));
}

TEST_F(MapperTest, SuspendHoldsRequestsUntilResume) {
    make("disk", "0 1024 linear a.img 0");
    auto open = mapper.open("disk");
    BlockDevice& device = (*open)->device();
    suspend("disk");
    EXPECT_TRUE(mapper.info("disk")->suspended);
    EXPECT_TRUE(*mapper.suspend("disk", {}));  // again: nothing more
    auto bytes = test::pattern(4096, 2);
    test::Request write(IoOperation::write, 0, 4096, bytes.data());
    test::Request flush(IoOperation::flush, 0, 0);
    device.submit(*queue, write);
    device.submit(*queue, flush);
    step();
    EXPECT_FALSE(write.done || flush.done);
    EXPECT_EQ(device.size(), 1024u * 512);
    // A new table takes what was held.
    ASSERT_TRUE(load("disk", "0 1024 linear b.img 0"));
    resume("disk");
    queue->run_until([&] { return write.done && flush.done; });
    EXPECT_EQ(write.error, 0);
    EXPECT_EQ(flush.error, 0);
    make("b", "0 8 linear b.img 0");
    auto b = mapper.open("b");
    std::vector<std::byte> found(4096);
    ASSERT_TRUE(read_now((*b)->device(), 0, found));
    EXPECT_EQ(found, bytes);
}

TEST_F(MapperTest, SuspendWaitsForWhatIsBelow) {
    make("lower", "0 1024 linear a.img 0");
    make("upper", "0 1024 linear lower 0");
    auto open = mapper.open("upper");
    suspend("lower");
    auto bytes = test::pattern(4096, 3);
    test::Request write(IoOperation::write, 0, 4096, bytes.data());
    (*open)->device().submit(*queue, write);
    step();
    // In flight in the upper one, held by the lower one: not suspended yet, but nothing more is taken.
    EXPECT_FALSE(*mapper.suspend("upper", {}, milliseconds(1)));
    test::Request later(IoOperation::flush, 0, 0);
    (*open)->device().submit(*queue, later);
    resume("lower");
    queue->run_until([&] { return write.done; });
    EXPECT_EQ(write.error, 0);
    suspend("upper");
    step();
    EXPECT_FALSE(later.done);
    resume("upper");
    queue->run_until([&] { return later.done; });

    // Called off.
    suspend("lower");
    test::Request again(IoOperation::write, 0, 4096, bytes.data());
    (*open)->device().submit(*queue, again);
    step();
    EXPECT_FALSE(*mapper.suspend("upper", {}, milliseconds(1)));
    resume("upper");
    EXPECT_FALSE(mapper.info("upper")->suspended);
    resume("lower");
    queue->run_until([&] { return again.done; });
    suspend("upper");
    resume("upper");
}

TEST_F(MapperTest, InactiveTables) {
    make("disk", "0 8 zero");
    ASSERT_TRUE(load("disk", "0 16 zero"));
    EXPECT_EQ(table("disk"), "0 8 zero \n");
    EXPECT_EQ(table("disk", true), "0 16 zero \n");
    ASSERT_TRUE(mapper.clear("disk"));
    EXPECT_FALSE(mapper.info("disk")->inactive);
    resume("disk");
    EXPECT_EQ(table("disk"), "0 8 zero \n");
    ASSERT_TRUE(load("disk", "0 16 zero"));
    auto open = mapper.open("disk");
    resume("disk");
    EXPECT_EQ((*open)->device().size(), 16u * 512);
}

TEST_F(MapperTest, WithoutTableRequestsFail) {
    ASSERT_TRUE(mapper.create("empty", ""));
    auto open = mapper.open("empty");
    EXPECT_EQ((*open)->device().size(), 0u);
    test::Request flush(IoOperation::flush, 0, 0);
    EXPECT_EQ(flush.run((*open)->device(), *queue), EIO);
    suspend("empty");
    test::Request held(IoOperation::flush, 0, 0);
    (*open)->device().submit(*queue, held);
    step();
    EXPECT_FALSE(held.done);
    resume("empty");
    queue->run_until([&] { return held.done; });
    EXPECT_EQ(held.error, EIO);
}

TEST_F(MapperTest, RemovesWhatNobodyUses) {
    make("lower", "0 1024 linear a.img 0");
    make("upper", "0 1024 linear lower 0");
    EXPECT_EQ(mapper.remove("lower").error().kind(), ErrorKind::refused);
    auto open = mapper.open("upper");
    EXPECT_EQ(mapper.remove("upper").error().kind(), ErrorKind::refused);
    EXPECT_FALSE(*mapper.remove("upper", true));
    EXPECT_FALSE(*mapper.remove("lower", true));
    EXPECT_TRUE(mapper.info("lower")->deferred_remove);
    EXPECT_FALSE(mapper.open("upper"));
    ASSERT_TRUE(mapper.message("upper", 0, "@cancel_deferred_remove"));
    EXPECT_TRUE(mapper.open("upper"));
    EXPECT_FALSE(*mapper.remove("upper", true));
    open->reset();
    EXPECT_TRUE(mapper.devices().empty());
    EXPECT_TRUE(FileDevice::open(image("a.img")));
}

TEST_F(MapperTest, RenamesAndNames) {
    make("one", "0 8 zero");
    make("two", "0 8 zero");
    EXPECT_EQ(mapper.rename("one", "two").error().kind(), ErrorKind::exists);
    EXPECT_EQ(mapper.rename("one", "a/b").error().kind(), ErrorKind::usage);
    ASSERT_TRUE(mapper.rename("one", "three"));
    EXPECT_FALSE(mapper.info("one"));
    EXPECT_EQ(mapper.info("three")->minor, 0u);
    EXPECT_EQ(mapper.info("three")->event_number, 1u);
    ASSERT_TRUE(mapper.set_uuid("three", "U1"));
    EXPECT_EQ(mapper.set_uuid("three", "U2").error().kind(), ErrorKind::refused);
    EXPECT_EQ(mapper.set_uuid("two", "U1").error().kind(), ErrorKind::exists);
    EXPECT_TRUE(mapper.rename("U1", "four"));
    EXPECT_EQ(mapper.info("four")->uuid, "U1");
    ASSERT_TRUE(mapper.remove("four"));
    make("five", "0 8 zero");
    EXPECT_EQ(mapper.info("five")->minor, 0u);  // the lowest that is free
}

TEST_F(MapperTest, MessagesFindTheirTarget) {
    make("disk", "0 8 zero\n8 8 error");
    EXPECT_EQ(mapper.message("disk", 0, "hello").error().kind(), ErrorKind::unsupported);
    EXPECT_EQ(mapper.message("disk", 0, "hello").error().message(), "disk: zero: this type of target takes no messages");
    EXPECT_EQ(mapper.message("disk", 8, "hello").error().message(), "disk: error: this type of target takes no messages");
    EXPECT_EQ(mapper.message("disk", 16, "hello").error().kind(), ErrorKind::usage);
    EXPECT_EQ(mapper.message("disk", 0, "  ").error().kind(), ErrorKind::usage);
}

// Tables change between two images under writers on several threads; a mirror of each write is kept by whoever wrote it. Nothing may be
// lost, and nothing may fail.
TEST_F(MapperTest, SwapsTablesUnderLoad) {
    make("disk", "0 1024 linear a.img 0");
    auto open = mapper.open("disk");
    BlockDevice& device = (*open)->device();
    constexpr unsigned writers = 3;
    constexpr std::uint64_t share = 1024 * 512 / 4 / 4096 * 4096;
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> written{0};
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::vector<std::vector<std::byte>> mirrors(writers, std::vector<std::byte>(share));
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < writers; ++number) {
        threads.emplace_back([&, number] {
            std::mt19937 random(seed + number);
            auto made = make_plain_queue();
            ASSERT_TRUE(made);
            IoQueue& own = **made;
            while (!stop.load()) {
                const std::uint64_t at = random() % (share / 4096) * 4096;
                auto bytes = test::pattern(4096, random());
                test::Request write(IoOperation::write, number * share + at, 4096, bytes.data());
                ASSERT_EQ(write.run(device, own), 0);
                std::copy(bytes.begin(), bytes.end(), mirrors[number].begin() + static_cast<std::ptrdiff_t>(at));
                written.fetch_add(1);
            }
        });
    }
    // The content lies in one place; tables reach it by one and by two levels, whole and in pieces.
    make("below", "0 1024 linear a.img 0");
    const std::vector<std::string> tables = {"0 1024 linear below 0", "0 512 linear a.img 0\n512 512 linear below 512",
                                             "0 1024 striped 1 8 a.img 0", "0 1024 linear a.img 0"};
    for (int round = 0; round < 60; ++round) {
        const std::uint64_t seen = written.load();
        if (round % 3 == 0)
            suspend("disk");
        ASSERT_TRUE(load("disk", tables[static_cast<std::size_t>(round) % tables.size()]));
        resume("disk");
        while (written.load() < seen + 20)
            std::this_thread::yield();
    }
    stop.store(true);
    for (std::thread& thread : threads)
        thread.join();
    for (unsigned number = 0; number < writers; ++number) {
        std::vector<std::byte> found(share);
        ASSERT_TRUE(read_now(device, number * share, found));
        EXPECT_EQ(found, mirrors[number]);
    }
}

TEST_F(MapperTest, ManyLevelsAreRefused) {
    make("d0", "0 8 zero");
    std::size_t level = 1;
    for (;; ++level) {
        ASSERT_LT(level, 200u);
        const std::string name = fmt::format("d{}", level);
        ASSERT_TRUE(mapper.create(name, ""));
        if (!load(name, fmt::format("0 8 linear d{} 0", level - 1)))
            break;
        resume(name);
    }
    EXPECT_GE(level, 32u);
    auto open = mapper.open(fmt::format("d{}", level - 1));
    std::vector<std::byte> sector(512);
    EXPECT_TRUE(read_now((*open)->device(), 0, sector));
}

}  // namespace
}  // namespace lamella::mapper
