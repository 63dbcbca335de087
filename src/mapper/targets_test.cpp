// SPDX-License-Identifier: Apache-2.0
//
// Each target against what its manual and the kernel's lines say; those of thin pools in thin_targets_test.cpp.
#include <thread>

#include "mapper/test_support.h"

namespace lamella::mapper {
namespace {

TEST_F(MapperTest, TargetTypesAreFoundByName) {
    EXPECT_GE(target_types().size(), 8u);
    for (const TargetType* type : target_types())
        EXPECT_EQ(find_target_type(type->name), type);
    EXPECT_EQ(find_target_type("cache"), nullptr);
}

TEST_F(MapperTest, AStripeIsDeadOnceARequestHasFailedThere) {
    make("one", "0 2048 linear a.img 0");
    make("two", "0 2048 linear b.img 0");
    const std::string line = "0 2048 striped 4 16 one 0 two 0 one 512 two 512";
    make("stripes", line);
    auto open = mapper.open("stripes");
    BlockDevice& device = (*open)->device();
    std::vector<std::byte> found(4096);
    const auto letters = [&] {
        const std::string all = status("stripes");
        return all.substr(all.find(" 1 ") + 3);
    };
    EXPECT_TRUE(write_now(device, 0, test::pattern(64 * 512, 1)));
    EXPECT_EQ(status("stripes"), "0 2048 striped 4 253:0 253:1 253:0 253:1 1 AAAA\n");
    ASSERT_TRUE(load("two", "0 2048 error"));
    resume("two");
    EXPECT_TRUE(read_now(device, 0, found));
    EXPECT_EQ(letters(), "AAAA\n");
    // An event an error, but not for ever.
    for (unsigned errors = 1; errors < 20; ++errors) {
        EXPECT_FALSE(read_now(device, 16 * 512, found));
        EXPECT_EQ(letters(), "ADAD\n");
        EXPECT_EQ(mapper.info("stripes")->event_number, std::min(errors, 14u));
    }
    // It stays so until there is a new table.
    ASSERT_TRUE(load("two", "0 2048 linear b.img 0"));
    resume("two");
    EXPECT_TRUE(read_now(device, 16 * 512, found));
    EXPECT_EQ(letters(), "ADAD\n");
    ASSERT_TRUE(load("stripes", line));
    resume("stripes");
    EXPECT_EQ(letters(), "AAAA\n");
    // A request over both, and a flush.
    ASSERT_TRUE(load("one", "0 2048 flakey a.img 0 0 1000"));
    resume("one");
    EXPECT_FALSE(write_now(device, 0, test::pattern(64 * 512, 2)));
    EXPECT_EQ(letters(), "DADA\n");
    ASSERT_TRUE(load("two", "0 2048 flakey b.img 0 0 1000"));
    resume("two");
    EXPECT_FALSE(flush_now(device));
    EXPECT_EQ(letters(), "DDDD\n");
}

TEST_F(MapperTest, DelayLines) {
    make("three", "0 1000 delay a.img 0 100");
    EXPECT_EQ(table("three"), fmt::format("0 1000 delay {} 0 100\n", image("a.img")));
    EXPECT_EQ(status("three"), "0 1000 delay 0 0 0\n");
    make("nine", "0 1000 delay a.img 0 1 b.img 8 20 a.img 16 300");
    EXPECT_EQ(table("nine"), fmt::format("0 1000 delay {0} 0 1 {1} 8 20 {0} 16 300\n", image("a.img"), image("b.img")));
    for (const char* words : {"", "a.img 0", "a.img 0 1 b.img", "a.img 0 x", "a.img 0 1 b.img 0 1 a.img 0 1 b.img 0 1"})
        EXPECT_NE(error_of("nine", std::string("0 1000 delay ") + words), "none") << words;
}

TEST_F(MapperTest, DelayedRequestsWaitAndASuspendLetsThemGo) {
    make("slow", "0 1000 delay a.img 0 0 a.img 0 3600000 a.img 0 0");
    auto open = mapper.open("slow");
    BlockDevice& device = (*open)->device();
    auto bytes = test::pattern(4096, 1);
    test::Request write(IoOperation::write, 0, 4096, bytes.data());
    device.submit(*queue, write);
    std::vector<std::byte> found(4096);
    test::Request read(IoOperation::read, 0, 4096, found.data());
    EXPECT_EQ(read.run(device, *queue), 0);  // not delayed
    test::Request flush(IoOperation::flush, 0, 0);
    EXPECT_EQ(flush.run(device, *queue), 0);
    EXPECT_FALSE(write.done);
    EXPECT_EQ(status("slow"), "0 1000 delay 0 1 0\n");
    // The write is carried out on this thread's queue, which has to be stepped for it.
    EXPECT_FALSE(*mapper.suspend("slow", {}, std::chrono::milliseconds(1)));
    queue->run_until([&] { return write.done; });
    EXPECT_EQ(write.error, 0);
    suspend("slow");
    resume("slow");
    EXPECT_EQ(status("slow"), "0 1000 delay 0 0 0\n");
    test::Request again(IoOperation::read, 0, 4096, found.data());
    EXPECT_EQ(again.run(device, *queue), 0);
    EXPECT_EQ(found, bytes);
    // And delays are in force again.
    test::Request late(IoOperation::write, 0, 4096, bytes.data());
    device.submit(*queue, late);
    step();
    EXPECT_FALSE(late.done);
    ASSERT_TRUE(load("slow", "0 1000 linear a.img 0"));
    EXPECT_FALSE(*mapper.resume("slow", std::chrono::milliseconds(1)));
    queue->run_until([&] { return late.done; });
    resume("slow");
}

TEST_F(MapperTest, DelaysTakeAsLongAsTheySay) {
    make("slow", "0 1000 delay a.img 0 30");
    auto open = mapper.open("slow");
    std::vector<std::byte> found(4096);
    const Duration before = Clock::system().monotonic();
    test::Request read(IoOperation::read, 0, 4096, found.data());
    EXPECT_EQ(read.run((*open)->device(), *queue), 0);
    EXPECT_GE(Clock::system().monotonic() - before, std::chrono::milliseconds(30));
}

TEST_F(MapperTest, FlakeyLines) {
    ASSERT_TRUE(mapper.create("flaky", ""));
    const std::string head = "0 1000 flakey " + image("a.img") + " 0 ";
    for (const char* words : {"2 3 0 ", "2 3 1 drop_writes ", "0 3 5 corrupt_bio_byte 32 r 1 0 ", "0 3 1 error_writes ",
                              "0 3 6 drop_writes corrupt_bio_byte 224 r 0 32 "}) {
        EXPECT_EQ(error_of("flaky", head + words), "none");
        EXPECT_EQ(table("flaky", true), head + words + "\n");
    }
    EXPECT_EQ(error_of("flaky", head + "2 3"), "none");
    for (const char* words : {"", "1", "0 0", "1 1 1", "1 1 0 drop_writes", "1 1 1 error_reads", "1 1 2 drop_writes error_writes",
                              "1 1 2 drop_writes drop_writes", "1 1 5 corrupt_bio_byte 0 r 1 0", "1 1 5 corrupt_bio_byte 1 x 1 0",
                              "1 1 5 corrupt_bio_byte 1 r 256 0", "1 1 6 drop_writes corrupt_bio_byte 1 w 0 0", "1 4294967295"})
        EXPECT_NE(error_of("flaky", head + words), "none") << words;
}

TEST_F(MapperTest, FlakeyWorksWhileItIsUp) {
    make("up", "0 1000 flakey a.img 0 4000000000 1");
    auto open = mapper.open("up");
    const auto bytes = test::pattern(4096, 2);
    ASSERT_TRUE(write_now((*open)->device(), 0, bytes));
    std::vector<std::byte> found(4096);
    ASSERT_TRUE(read_now((*open)->device(), 0, found));
    EXPECT_EQ(found, bytes);
}

TEST_F(MapperTest, FlakeyFailsDropsAndCorruptsWhileItIsDown) {
    make("plain", "0 1000 linear a.img 0");
    make("disk", "0 1000 linear a.img 0");
    auto plain = mapper.open("plain");
    auto open = mapper.open("disk");
    BlockDevice& device = (*open)->device();
    auto old = test::pattern(4096, 3);
    auto fresh = test::pattern(4096, 4);
    std::vector<std::byte> found(4096);
    const auto flakey = [&](const std::string& features) {
        ASSERT_TRUE(write_now((*plain)->device(), 0, old));
        ASSERT_TRUE(load("disk", "0 1000 flakey a.img 0 0 1000 " + features));
        resume("disk");
    };
    const auto stored = [&] {
        EXPECT_TRUE(read_now((*plain)->device(), 0, found));
        return found;
    };
    flakey("");
    EXPECT_FALSE(read_now(device, 0, found));
    EXPECT_FALSE(write_now(device, 0, fresh));
    EXPECT_FALSE(flush_now(device));
    EXPECT_EQ(stored(), old);

    flakey("1 drop_writes");
    EXPECT_TRUE(write_now(device, 0, fresh));
    EXPECT_TRUE(flush_now(device));
    EXPECT_TRUE(read_now(device, 0, found));
    EXPECT_EQ(found, old);
    EXPECT_EQ(stored(), old);

    flakey("1 error_writes");
    EXPECT_FALSE(write_now(device, 0, fresh));
    EXPECT_TRUE(read_now(device, 0, found));
    EXPECT_EQ(found, old);

    flakey("5 corrupt_bio_byte 32 r 7 0");
    EXPECT_TRUE(read_now(device, 0, found));
    auto expected = old;
    expected[31] = std::byte{7};
    EXPECT_EQ(found, expected);
    EXPECT_TRUE(write_now(device, 0, fresh));
    EXPECT_EQ(stored(), fresh);

    flakey("5 corrupt_bio_byte 4096 w 9 0");
    const auto before = fresh;
    EXPECT_TRUE(write_now(device, 0, fresh));
    EXPECT_EQ(fresh, before);  // the client's memory isn't touched
    expected = fresh;
    expected[4095] = std::byte{9};
    EXPECT_EQ(stored(), expected);
    EXPECT_TRUE(read_now(device, 0, found));
    EXPECT_EQ(found, expected);

    flakey("5 corrupt_bio_byte 4097 w 9 0");  // behind the request's end
    EXPECT_TRUE(write_now(device, 0, fresh));
    EXPECT_EQ(stored(), fresh);

    // Flags: all of them have to be there. 1 is in the number of the operation of a write, 131072 is FUA, 2048 (SYNC) no client sends.
    const auto corrupted = [&](const char* flags, bool durable) {
        flakey(fmt::format("5 corrupt_bio_byte 1 w 9 {}", flags));
        auto sent = fresh;
        test::Request write(IoOperation::write, 0, sent.size(), sent.data());
        write.durable = durable;
        EXPECT_EQ(write.run(device, *queue), 0);
        expected = fresh;
        expected[0] = std::byte{9};
        EXPECT_TRUE(stored() == fresh || stored() == expected);
        return stored() == expected;
    };
    for (const bool durable : {false, true}) {
        EXPECT_TRUE(corrupted("0", durable));
        EXPECT_TRUE(corrupted("1", durable));
        EXPECT_EQ(corrupted("131072", durable), durable);
        EXPECT_EQ(corrupted("131073", durable), durable);
        EXPECT_FALSE(corrupted("2048", durable));
        EXPECT_FALSE(corrupted("133120", durable));
    }
    flakey("5 corrupt_bio_byte 1 r 9 1");  // a read has no such bit
    EXPECT_TRUE(read_now(device, 0, found));
    EXPECT_EQ(found, old);
}

}  // namespace
}  // namespace lamella::mapper
