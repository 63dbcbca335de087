// SPDX-License-Identifier: Apache-2.0
#include "base/strong.h"
#include "mapper/test_support.h"

namespace lamella::mapper {
namespace {

constexpr std::uint64_t chunk = 128 * sector_bytes;

class ThinTargetsTest : public MapperTest {
  protected:
    void make_pool(const std::string& more = "") {
        make("meta", "0 8192 linear a.img 0");
        make("data", "0 16384 linear b.img 0");
        make("pool", "0 16384 thin-pool meta data 128 4" + more);
    }
    Result<std::string> tell(const std::string& message) { return mapper.message("pool", 0, message); }
    BlockDevice& open(const std::string& name) {
        opened.push_back(mapper.open(name).value());
        return opened.back()->device();
    }
    std::vector<std::unique_ptr<OpenDevice>> opened;

    ~ThinTargetsTest() override { opened.clear(); }
};

TEST_F(ThinTargetsTest, LinesMessagesAndContent) {
    make_pool();
    EXPECT_EQ(table("pool"), "0 16384 thin-pool 253:0 253:1 128 4 0\n");
    EXPECT_TRUE(status("pool").starts_with("0 16384 thin-pool 0 ")) << status("pool");
    EXPECT_TRUE(status("pool").ends_with("/1024 0/128 - rw discard_passdown queue_if_no_space - 256\n")) << status("pool");
    ASSERT_TRUE(tell("create_thin 0"));
    EXPECT_EQ(tell("create_thin 0").error().kind(), ErrorKind::exists);
    EXPECT_EQ(tell("nonsense").error().kind(), ErrorKind::usage);
    make("web", "0 20480 thin pool 0");
    EXPECT_EQ(table("web"), "0 20480 thin 253:2 0\n");
    EXPECT_EQ(status("web"), "0 20480 thin 0 -\n");
    EXPECT_EQ(mapper.info("pool")->open_count, 1u);
    BlockDevice& web = open("web");
    const auto bytes = test::pattern(3 * chunk, 1);
    ASSERT_TRUE(write_now(web, 0, bytes));
    ASSERT_TRUE(flush_now(web));
    EXPECT_EQ(status("web"), "0 20480 thin 384 383\n");
    ASSERT_TRUE(tell("create_snap 1 0"));
    make("snap", "0 20480 thin /dev/mapper/pool 1");
    ASSERT_TRUE(write_now(web, 0, test::pattern(chunk, 2)));
    std::vector<std::byte> found(3 * chunk);
    ASSERT_TRUE(read_now(open("snap"), 0, found));
    EXPECT_EQ(found, bytes);
    EXPECT_EQ(tell("delete 1").error().kind(), ErrorKind::refused);
    EXPECT_TRUE(tell("set_transaction_id 0 5"));
    EXPECT_FALSE(tell("set_transaction_id 0 6"));
    EXPECT_EQ(status("pool").substr(0, 20), "0 16384 thin-pool 5 ");
    opened.clear();
    ASSERT_TRUE(mapper.remove("snap"));
    EXPECT_TRUE(tell("delete 1"));
    EXPECT_EQ(mapper.remove("pool").error().kind(), ErrorKind::refused);

    // Another time, from the metadata.
    for (const char* name : {"web", "pool", "data", "meta"})
        ASSERT_TRUE(mapper.remove(name)) << name;
    make_pool();
    make("web", "0 20480 thin pool 0");
    ASSERT_TRUE(read_now(open("web"), chunk, std::span(found).first(2 * chunk)));
    EXPECT_TRUE(std::equal(found.begin(), found.begin() + 2 * chunk, bytes.begin() + chunk));
    EXPECT_EQ(status("web"), "0 20480 thin 384 383\n");
}

TEST_F(ThinTargetsTest, RefusesWhatAPoolCanNot) {
    make_pool();
    ASSERT_TRUE(tell("create_thin 0"));
    ASSERT_TRUE(mapper.create("other", ""));
    EXPECT_EQ(error_of("other", "0 16384 thin-pool meta data 128 4"),
              "other: line 1: thin-pool: metadata device 253:0 is in use by a pool");
    make("more", "0 8192 linear a.img 8192");
    EXPECT_EQ(error_of("other", "0 16384 thin-pool more data 128 4"), "other: line 1: thin-pool: data device 253:1 is in use by a pool");
    EXPECT_NE(error_of("other", "0 16384 thin-pool more more 128 4"), "none");
    EXPECT_NE(error_of("other", "0 8 thin-pool more a.img 127 4\n8 8 zero"), "none");
    EXPECT_NE(error_of("other", "0 20480 thin pool 77"), "none");
    EXPECT_NE(error_of("other", "0 20480 thin pool 16777216"), "none");
    EXPECT_NE(error_of("other", "0 20480 thin data 0"), "none");
    EXPECT_NE(error_of("other", "0 20480 thin pool"), "none");
    for (const char* words : {"", "128", "128 0 1", "128 0 1 nonsense", "128 0 5 a b c d e", "256 0", "128 0 1 ignore_discard"})
        EXPECT_NE(error_of("pool", std::string("0 16384 thin-pool meta data ") + words), "none") << words;
    // Another type of target only by way of an error table, as the kernel has it.
    EXPECT_NE(error_of("pool", "0 16384 linear data 0"), "none");
    EXPECT_EQ(error_of("pool", "0 16384 error"), "none");
    ASSERT_TRUE(mapper.clear("pool"));
    EXPECT_NE(error_of("other", "0 8 zero\n8 16384 thin-pool more b.img 128 4"), "none");
}

TEST_F(ThinTargetsTest, ATableMakesThePoolReadOnlyAndWritableAgain) {
    make_pool();
    ASSERT_TRUE(tell("create_thin 0"));
    make("web", "0 20480 thin pool 0");
    BlockDevice& web = open("web");
    const auto bytes = test::pattern(chunk, 1);
    ASSERT_TRUE(write_now(web, 0, bytes));
    const std::uint32_t events = mapper.info("pool")->event_number;
    ASSERT_TRUE(load("pool", "0 16384 thin-pool meta data 128 4 1 read_only"));
    EXPECT_TRUE(status("pool").contains(" rw "));
    resume("pool");
    EXPECT_TRUE(status("pool").contains(" ro ")) << status("pool");
    EXPECT_NE(mapper.info("pool")->event_number, events);
    EXPECT_EQ(table("pool"), "0 16384 thin-pool 253:0 253:1 128 4 1 read_only\n");
    EXPECT_EQ(tell("create_thin 1").error().kind(), ErrorKind::refused);
    std::vector<std::byte> seen(chunk);
    ASSERT_TRUE(read_now(web, 0, seen));
    EXPECT_EQ(seen, bytes);
    EXPECT_TRUE(flush_now(web));
    EXPECT_TRUE(write_now(web, 0, bytes)) << "it has its chunk";
    EXPECT_FALSE(write_now(web, 2 * chunk, bytes));
    ASSERT_TRUE(load("pool", "0 16384 thin-pool meta data 128 4"));
    resume("pool");
    EXPECT_TRUE(status("pool").contains(" rw "));
    EXPECT_TRUE(write_now(web, 2 * chunk, bytes));
    EXPECT_TRUE(tell("create_thin 1"));
    EXPECT_EQ(load("pool", "0 16384 thin-pool meta data 128 4", true).error().kind(), ErrorKind::usage) << "as the kernel has it";
    // One that begins read-only.
    opened.clear();
    ASSERT_TRUE(mapper.remove("web"));
    ASSERT_TRUE(mapper.remove("pool"));
    make("pool", "0 16384 thin-pool meta data 128 4 1 read_only");
    EXPECT_EQ(mapper.info("pool")->event_number, 1u) << "as the kernel has it";
    EXPECT_EQ(tell("delete 1").error().kind(), ErrorKind::refused);
    ASSERT_TRUE(load("pool", "0 16384 thin-pool meta data 128 4"));
    resume("pool");
    EXPECT_TRUE(tell("delete 1"));
    make("web", "0 20480 thin pool 0");
    ASSERT_TRUE(write_now(open("web"), 4 * chunk, bytes));
    ASSERT_TRUE(flush_now(open("web")));
}

TEST_F(ThinTargetsTest, APoolThatHasFailedTakesNothingNew) {
    make_pool();
    ASSERT_TRUE(tell("create_thin 0"));
    make("web", "0 20480 thin pool 0");
    ASSERT_TRUE(write_now(open("web"), 0, test::pattern(chunk, 1)));
    ASSERT_TRUE(flush_now(open("web")));
    const std::string sound = table("meta");
    const std::string pool = table("pool");
    ASSERT_TRUE(load("meta", "0 8192 error"));
    resume("meta");
    EXPECT_FALSE(write_now(open("web"), chunk, test::pattern(chunk, 1)) && flush_now(open("web")));
    EXPECT_EQ(status("pool"), "0 16384 thin-pool Fail\n");
    EXPECT_EQ(status("web"), "0 20480 thin Fail\n");
    ASSERT_TRUE(load("meta", sound));
    resume("meta");
    EXPECT_EQ(load("pool", pool).error().kind(), ErrorKind::refused);
    EXPECT_EQ(load("web", "0 20480 thin pool 0").error().kind(), ErrorKind::refused);
    opened.clear();
    ASSERT_TRUE(mapper.remove("web"));
    ASSERT_TRUE(mapper.remove("pool"));
    make("pool", pool);
    make("web", "0 20480 thin pool 0");
    EXPECT_TRUE(write_now(open("web"), 0, test::pattern(chunk, 1)));
    EXPECT_TRUE(flush_now(open("web")));
}

TEST_F(ThinTargetsTest, GrowsOnlineWhileWritesWait) {
    make_pool();
    ASSERT_TRUE(tell("create_thin 0"));
    make("web", "0 32768 thin pool 0");
    BlockDevice& web = open("web");
    const auto bytes = test::pattern(128 * chunk, 3);  // all that the pool has
    ASSERT_TRUE(write_now(web, 0, bytes));
    auto more = test::pattern(chunk, 4);
    test::Request write(IoOperation::write, 128 * chunk, chunk, more.data());
    web.submit(*queue, write);
    while (!status("pool").contains("out_of_data_space"))
        step();
    EXPECT_FALSE(write.done);
    EXPECT_GT(mapper.info("pool")->event_number, 0u);
    ASSERT_TRUE(load("data", "0 24576 linear b.img 0"));
    resume("data");
    ASSERT_TRUE(load("pool", "0 24576 thin-pool meta data 128 0"));
    EXPECT_EQ(table("pool"), "0 16384 thin-pool 253:0 253:1 128 4 0\n");
    resume("pool");
    EXPECT_EQ(table("pool"), "0 24576 thin-pool 253:0 253:1 128 0 0\n");
    queue->run_until([&] { return write.done; });
    EXPECT_EQ(write.error, 0);
    EXPECT_TRUE(status("pool").contains(" 129/192 ")) << status("pool");
    // A longer volume, with its clients.
    ASSERT_TRUE(load("web", "0 40960 thin pool 0"));
    resume("web");
    EXPECT_EQ(web.size(), 40960 * sector_bytes);
    ASSERT_TRUE(write_now(web, 300 * chunk, more));
    // Not to less than it has.
    ASSERT_TRUE(load("pool", "0 8192 thin-pool meta data 128 0"));
    EXPECT_FALSE(mapper.resume("pool"));
    EXPECT_FALSE(mapper.info("pool")->suspended);
    EXPECT_TRUE(status("pool").contains(" rw "));
}

TEST_F(ThinTargetsTest, ErrorIfNoSpaceByReload) {
    make_pool();
    ASSERT_TRUE(tell("create_thin 0"));
    make("web", "0 32768 thin pool 0");
    BlockDevice& web = open("web");
    ASSERT_TRUE(write_now(web, 0, test::pattern(128 * chunk, 3)));
    auto more = test::pattern(chunk, 4);
    test::Request write(IoOperation::write, 128 * chunk, chunk, more.data());
    web.submit(*queue, write);
    while (!status("pool").contains("out_of_data_space"))
        step();
    ASSERT_TRUE(load("pool", "0 16384 thin-pool meta data 128 0 1 error_if_no_space"));
    resume("pool");
    queue->run_until([&] { return write.done; });
    EXPECT_EQ(write.error, ENOSPC);
    EXPECT_TRUE(status("pool").contains("error_if_no_space"));
}

TEST_F(ThinTargetsTest, ExternalOrigin) {
    make_pool();
    const auto base = test::pattern(chunk + 4096, 5);
    {
        auto file = FileDevice::open(folder.file("base.raw"), {.create = chunk + 4096});
        ASSERT_TRUE(file);
        ASSERT_TRUE(write_now(**file, 0, base));
    }
    ASSERT_TRUE(tell("create_thin 2"));
    make("clone", "0 20480 thin pool 2 base.raw");
    EXPECT_EQ(table("clone"), fmt::format("0 20480 thin 253:2 2 {}\n", image("base.raw")));
    BlockDevice& clone = open("clone");
    std::vector<std::byte> found(2 * chunk);
    ASSERT_TRUE(read_now(clone, 0, found));
    auto expected = base;
    expected.resize(2 * chunk);
    EXPECT_EQ(found, expected);
    const auto sector = test::pattern(512, 6);
    ASSERT_TRUE(write_now(clone, chunk + 8192, sector));
    std::copy(sector.begin(), sector.end(), expected.begin() + chunk + 8192);
    ASSERT_TRUE(read_now(clone, 0, found));
    EXPECT_EQ(found, expected);
    ASSERT_TRUE(mapper.create("again", ""));
    EXPECT_NE(error_of("again", "0 20480 thin pool 2"), "none");
}

// A flush of a device that stands on a volume is the volume's flush: what a crash right after it leaves has the data.
TEST_F(ThinTargetsTest, FlushReachesThePoolThroughOtherDevices) {
    make_pool();
    ASSERT_TRUE(tell("create_thin 0"));
    make("web", "0 20480 thin pool 0");
    make("middle", "0 20480 linear web 0");
    make("top", "0 8192 linear middle 0\n8192 8 zero\n8200 8192 linear a.img 16384");
    const auto bytes = test::pattern(chunk, 7);
    BlockDevice& top = open("top");
    ASSERT_TRUE(write_now(top, chunk, bytes));
    ASSERT_TRUE(flush_now(top));
    for (const char* name : {"a", "b"})
        std::filesystem::copy_file(folder.file(fmt::format("{}.img", name)), folder.file(fmt::format("{}.copy", name)));

    Mapper after;
    const auto remake = [&](const std::string& name, const std::string& table) {
        ASSERT_TRUE(after.create(name, ""));
        ASSERT_TRUE(after.load(name, table, directory, false));
        ASSERT_TRUE(after.resume(name));
    };
    remake("meta", "0 8192 linear a.copy 0");
    remake("data", "0 16384 linear b.copy 0");
    remake("pool", "0 16384 thin-pool meta data 128 4");
    remake("web", "0 20480 thin pool 0");
    std::vector<std::byte> found(chunk);
    ASSERT_TRUE(read_now(after.open("web").value()->device(), chunk, found));
    EXPECT_EQ(found, bytes);
}

// While a device below is suspended, what would have to do I/O there is refused, and the rest answers: nothing can hang.
TEST_F(ThinTargetsTest, NothingWaitsForASuspendedDevice) {
    make_pool();
    ASSERT_TRUE(tell("create_thin 0"));
    make("web", "0 20480 thin pool 0");
    BlockDevice& web = open("web");
    ASSERT_TRUE(write_now(web, 0, test::pattern(chunk, 1)));
    const std::string before = status("pool");
    suspend("data");
    test::Request flush(IoOperation::flush, 0, 0);
    web.submit(*queue, flush);
    EXPECT_EQ(status("pool"), before);
    EXPECT_EQ(tell("create_thin 1").error().kind(), ErrorKind::refused);
    EXPECT_FALSE(load("web", "0 20480 thin pool 0"));
    EXPECT_EQ(mapper.suspend("pool", {}).error().kind(), ErrorKind::refused);
    EXPECT_FALSE(mapper.remove("web"));
    resume("data");
    queue->run_until([&] { return flush.done; });
    EXPECT_EQ(flush.error, 0);
    suspend("pool");
    resume("pool");
    // And the end of the mapper lets it go on, too.
    suspend("web");
    suspend("meta");
}

TEST_F(ThinTargetsTest, APoolIsSuspendedWithItsVolumes) {
    make_pool();
    ASSERT_TRUE(tell("create_thin 0"));
    ASSERT_TRUE(tell("create_thin 1"));
    make("web", "0 20480 thin pool 0");
    make("db", "0 20480 thin pool 1");
    BlockDevice& web = open("web");
    auto bytes = test::pattern(chunk, 1);
    ASSERT_TRUE(write_now(web, 0, bytes));
    suspend("db");
    suspend("pool");
    EXPECT_FALSE(mapper.info("web")->suspended);
    std::vector<std::byte> found(chunk);
    test::Request read(IoOperation::read, 0, chunk, found.data());
    web.submit(*queue, read);
    test::Request write(IoOperation::write, chunk, chunk, bytes.data());
    web.submit(*queue, write);
    test::Request other(IoOperation::write, 0, chunk, bytes.data());
    open("db").submit(*queue, other);
    step();
    EXPECT_FALSE(read.done);
    EXPECT_FALSE(write.done);
    // A new table of the pool under them.
    ASSERT_TRUE(load("pool", "0 16384 thin-pool meta data 128 2"));
    resume("pool");
    queue->run_until([&] { return read.done && write.done; });
    EXPECT_EQ(read.error, 0);
    EXPECT_EQ(write.error, 0);
    EXPECT_EQ(found, bytes);
    step();
    EXPECT_FALSE(other.done);  // suspended by itself
    resume("db");
    queue->run_until([&] { return other.done; });
    EXPECT_EQ(other.error, 0);
    // What has another table isn't held up by the pool any more.
    ASSERT_TRUE(load("db", "0 8 error"));
    resume("db");
    suspend("pool");
    EXPECT_FALSE(read_now(open("db"), 0, std::span(found).first(512)));
    resume("pool");
}

TEST_F(ThinTargetsTest, NoFlushDoesntWaitForRoom) {
    make_pool();
    ASSERT_TRUE(tell("create_thin 0"));
    make("web", "0 32768 thin pool 0");
    BlockDevice& web = open("web");
    ASSERT_TRUE(write_now(web, 0, test::pattern(128 * chunk, 3)));
    auto more = test::pattern(2 * chunk, 4);
    test::Request write(IoOperation::write, 128 * chunk, 2 * chunk, more.data());
    web.submit(*queue, write);
    while (!status("pool").contains("out_of_data_space"))
        step();
    for (int round = 0; round < 3; ++round) {
        EXPECT_FALSE(*mapper.suspend("web", {}, std::chrono::milliseconds(1)));
        step();
    }
    resume("web");  // calls that off
    while (!*mapper.suspend("web", {.no_flush = true}, std::chrono::milliseconds(1)))
        step();
    EXPECT_TRUE(mapper.info("web")->suspended);
    EXPECT_FALSE(write.done);
    resume("web");
    ASSERT_TRUE(load("data", "0 24576 linear b.img 0"));
    resume("data");
    ASSERT_TRUE(load("pool", "0 24576 thin-pool meta data 128 0"));
    resume("pool");
    queue->run_until([&] { return write.done; });
    EXPECT_EQ(write.error, 0);
    std::vector<std::byte> found(2 * chunk);
    ASSERT_TRUE(read_now(web, 128 * chunk, found));
    EXPECT_EQ(found, more);
}

TEST_F(ThinTargetsTest, PassingDiscardsDownByReload) {
    make_pool();
    EXPECT_TRUE(status("pool").contains(" discard_passdown "));
    EXPECT_NE(error_of("pool", "0 16384 thin-pool meta data 128 4 1 ignore_discard"), "none");
    ASSERT_TRUE(load("pool", "0 16384 thin-pool meta data 128 4 1 no_discard_passdown"));
    resume("pool");
    EXPECT_TRUE(status("pool").contains(" no_discard_passdown ")) << status("pool");
    EXPECT_EQ(table("pool"), "0 16384 thin-pool 253:0 253:1 128 4 1 no_discard_passdown\n");
    ASSERT_TRUE(load("pool", "0 16384 thin-pool meta data 128 4"));
    resume("pool");
    EXPECT_TRUE(status("pool").contains(" discard_passdown "));
}

}  // namespace
}  // namespace lamella::mapper
