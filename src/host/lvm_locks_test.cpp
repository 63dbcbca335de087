// SPDX-License-Identifier: Apache-2.0
//
// The texts were printed by lvmlockctl 2.03.16 and sanlock 3.8.5 on the second of two hosts that share a group: the first has a pool and a
// linear volume active. What is dlm's was printed by Linux 6.1 on the first of two hosts, before and after the second took volumes over.
#include "host/lvm_locks.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <unistd.h>
#include <filesystem>
#include <fstream>

namespace lamella::host {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr const char* group = "m7ic9l-17Em-JPK1-Ap1t-xBvp-gfe4-aF9O0o";
constexpr const char* pool = "P7Ro3p-sydE-gtY9-twEe-dNU3-hNQ2-xCYkUV";
constexpr const char* other_group = "J98ZJB-rZsM-39kE-YW1p-RF3C-b8Qy-ANEdKr";

constexpr const char* first_host = R"(
VG vg0 lock_type=sanlock m7ic9l-17Em-JPK1-Ap1t-xBvp-gfe4-aF9O0o
LS sanlock lvm_vg0
LK VG un ver 9
LK LV ex P7Ro3p-sydE-gtY9-twEe-dNU3-hNQ2-xCYkUV
LK LV sh cKNmDA-T1tU-F893-C0bk-MqLD-mtHW-shA4KL
VG vg1 lock_type=sanlock J98ZJB-rZsM-39kE-YW1p-RF3C-b8Qy-ANEdKr
LS sanlock lvm_vg1
LK VG un ver 0
LK GL un ver 0
LK LV ex Lxu2LK-p5iF-FQks-BNI5-yGCd-JyUZ-j3K155
LK LV un P7Ro3p-sydE-gtY9-twEe-dNU3-hNQ2-xCYkUV
LW VG ex ver 0 pid 17 (lvs)
)";

constexpr const char* leases =
    R"(  offset                            lockspace                                         resource  timestamp  own  gen lver
00000000                              lvm_vg0                                         host-one 0000000161 0001 0001
00000512                              lvm_vg0                                         host-two 0000000160 0002 0001
68157440                              lvm_vg0                                             GLLK 0000000000 0002 0001 1
69206016                              lvm_vg0                                             VGLK 0000000000 0002 0001 83
70254592                              lvm_vg0           P7Ro3p-sydE-gtY9-twEe-dNU3-hNQ2-xCYkUV 0000000012 0001 0001 1
71303168                              lvm_vg0           cKNmDA-T1tU-F893-C0bk-MqLD-mtHW-shA4KL 0000000000 0001 0001 1
72351744                              lvm_vg0           BYgX4J-OI5u-RLWf-fA1h-muBv-UHU6-kcy2e4 0000000014 0017 0001 1
73400320                              lvm_vg0                                          #unused 0000000000 0000 0000 0
)";

TEST(LvmLocks, AreThoseOfTheGroup) {
    const HostLocks held = parse_host_locks(first_host, group);
    EXPECT_EQ(held.state, HostLocks::State::started);
    EXPECT_THAT(held.exclusive, ElementsAre(pool)) << "another is held with others";
    EXPECT_THAT(parse_host_locks(first_host, other_group).exclusive, ElementsAre("Lxu2LK-p5iF-FQks-BNI5-yGCd-JyUZ-j3K155"));
}

TEST(LvmLocks, AreNotStartedWhereLvmlockdDoesNotKnowTheGroup) {
    for (const char* text : {"", "\n", "VG vg0 lock_type=sanlock\n", "LK LV ex m7ic9l-17Em-JPK1-Ap1t-xBvp-gfe4-aF9O0o\n", "\x01\xff VG"}) {
        EXPECT_EQ(parse_host_locks(text, group).state, HostLocks::State::not_started) << text;
        EXPECT_THAT(parse_host_locks(text, group).exclusive, IsEmpty()) << text;
    }
}

// As of a lockspace that couldn't be made, since an lvmlockd that ended has left it.
TEST(LvmLocks, AreNotStartedWhereTheirLockspaceIsBeingLeft) {
    const std::string text = fmt::format("VG vg0 lock_type=dlm {}\nLS dlm REM:lvm_vg0\nLK VG un ver 0\nLK LV ex {}\n", group, pool);
    EXPECT_EQ(parse_host_locks(text, group).state, HostLocks::State::not_started);
    EXPECT_THAT(parse_host_locks(text, group).exclusive, IsEmpty());
}

TEST(LvmLocks, NameWhoHoldsALease) {
    EXPECT_EQ(parse_lease_holder(leases, pool), "host-one (host id 1)");
    EXPECT_EQ(parse_lease_holder(leases, "BYgX4J-OI5u-RLWf-fA1h-muBv-UHU6-kcy2e4"), "host id 17") << "a host that has left no name";
    EXPECT_EQ(parse_lease_holder(leases, "cKNmDA-T1tU-F893-C0bk-MqLD-mtHW-shA4KL"), std::nullopt) << "held once";
    EXPECT_EQ(parse_lease_holder(leases, group), std::nullopt);
    EXPECT_EQ(parse_lease_holder("0 lvm_vg0 a\x1b[2Jb 1 0001 1\n7 lvm_vg0 P7Ro3p-sydE-gtY9-twEe-dNU3-hNQ2-xCYkUV 12 0001 1 1\n", pool),
              "a?[2Jb (host id 1)");
    for (const char* text :
         {"", "a b P7Ro3p-sydE-gtY9-twEe-dNU3-hNQ2-xCYkUV d e f g", "a b P7Ro3p-sydE-gtY9-twEe-dNU3-hNQ2-xCYkUV 1 0 f g"})
        EXPECT_EQ(parse_lease_holder(text, pool), std::nullopt) << text;
}

constexpr const char* taken = "R3O7Jt-mzuZ-v32A-fIXP-mcUq-m41d-X5LD3z";      // exclusively, by node 2
constexpr const char* in_common = "ZT66ww-Zzse-ZbAC-8608-fQRz-fluf-VXRd7q";  // by both; node 2 is its master
constexpr const char* elsewhere = "YczKaX-8zLr-Dyi0-9HDu-aPHb-SllG-NAMMD2";  // node 2 is its master
constexpr const char* given = "Pk4rL2-Ckcq-U6fy-QaaE-aMDf-pUP4-6zCFqM";      // by this one, as before

constexpr const char* lines = R"(id nodeid remid pid xid exflags flags sts grmode rqmode time_ms r_nodeid r_len r_name
6 2 3 156 0 85 10001 2 0 5 242731 0 38 "Pk4rL2-Ckcq-U6fy-QaaE-aMDf-pUP4-6zCFqM"
3 0 0 96 0 85 1 2 5 -1 3838208 0 38 "Pk4rL2-Ckcq-U6fy-QaaE-aMDf-pUP4-6zCFqM"
8 2 7 96 0 85 1 2 3 -1 141370 2 38 "ZT66ww-Zzse-ZbAC-8608-fQRz-fluf-VXRd7q"
1 0 0 96 0 4 1 2 0 -1 122228 0 4 "VGLK"
4 2 1 156 0 4 10001 2 0 -1 1329468 0 4 "VGLK"
5 2 2 156 0 85 10001 2 5 -1 2980769 0 38 "R3O7Jt-mzuZ-v32A-fIXP-mcUq-m41d-X5LD3z"
2 0 0 96 0 85 1 2 0 5 3463616 0 38 "R3O7Jt-mzuZ-v32A-fIXP-mcUq-m41d-X5LD3z"
7 2 6 96 0 85 1 2 0 5 456075 2 38 "YczKaX-8zLr-Dyi0-9HDu-aPHb-SllG-NAMMD2"
)";

TEST(DlmLocks, AreKnownToTheirMaster) {
    EXPECT_TRUE(parse_dlm_lock(lines, taken).known);
    EXPECT_THAT(parse_dlm_lock(lines, taken).holders, ElementsAre(2));
    EXPECT_TRUE(parse_dlm_lock(lines, given).known);
    EXPECT_THAT(parse_dlm_lock(lines, given).holders, IsEmpty()) << "what a node asked for in vain, it doesn't have";
    for (const char* volume : {elsewhere, in_common, group}) {
        EXPECT_FALSE(parse_dlm_lock(lines, volume).known) << volume;
        EXPECT_THAT(parse_dlm_lock(lines, volume).holders, IsEmpty()) << volume;
    }
}

TEST(DlmLocks, AreHeldInAnyModeButNone) {
    const auto holders = [](const char* state, const char* granted) {
        return parse_dlm_lock(fmt::format("6 2 3 156 0 85 10001 {} {} -1 1 0 38 \"{}\"\n", state, granted, given), given).holders;
    };
    EXPECT_THAT(holders("2", "3"), ElementsAre(2));
    EXPECT_THAT(holders("3", "3"), ElementsAre(2)) << "waits for another mode, and holds this one";
    EXPECT_THAT(holders("2", "0"), IsEmpty());
    EXPECT_THAT(holders("1", "-1"), IsEmpty()) << "waits";
}

TEST(DlmLocks, AreUnknownWhereALineIsNotUnderstood) {
    for (const char* words : {"6 x 3 156 0 85 10001 2 5 -1 1 0 38", "6 2 3 156 0 85 10001 2 5 -1 1 -1 38",
                              "6 2 3 156 0 85 10001 2 5x -1 1 0 38", "6 99999999999 3 156 0 85 10001 2 5 -1 1 0 38"})
        EXPECT_FALSE(parse_dlm_lock(fmt::format("{}{} \"{}\"\n", lines, words, taken), taken).known) << words;
    std::string many;
    for (unsigned line = 0; line < 100'000; ++line)
        many += "\n";
    EXPECT_FALSE(parse_dlm_lock(lines + many, taken).known) << "more lines may have more holders";
}

TEST(DlmLocks, HaveAddresses) {
    EXPECT_EQ(parse_dlm_address("AF_INET\t10.0.0.2\n"), "10.0.0.2");
    EXPECT_EQ(parse_dlm_address("<UNKNOWN>\nAF_INET6\tfd00:0000:0000:0000:0000:0000:0000:0002\nAF_INET\t10.0.0.2\n"),
              "fd00:0000:0000:0000:0000:0000:0000:0002");
    for (const char* text :
         {"", "AF_INET", "AF_INET \x1b[2J", "AF_UNIX 10.0.0.2", "AF_INET 10.0.0.2 x", "AF_INET 1234567890123456789012345678901234567890"})
        EXPECT_EQ(parse_dlm_address(text), "") << text;
}

// A kernel's files, with nodes 1, which is this host, to 3.
class DlmHosts : public testing::Test {
  protected:
    void SetUp() override {
        kernel = std::filesystem::path(testing::TempDir()) / fmt::format("lamella-dlm-{}", ::getpid());
        write("config/dlm/cluster/spaces/lvm_vg1/nodes/7/nodeid", "7\n");
        for (const int node : {1, 2, 3}) {
            const std::string comm = fmt::format("config/dlm/cluster/comms/{}/", node);
            write(comm + "nodeid", fmt::format("{}\n", node));
            write(comm + "local", node == 1 ? "1\n" : "0\n");
            write(comm + "addr_list", fmt::format("AF_INET\t10.0.0.{}\n", node));
        }
        join(1);
    }
    void TearDown() override { std::filesystem::remove_all(kernel); }

    void write(const std::string& name, const std::string& text) const {
        std::filesystem::create_directories((kernel / name).parent_path());
        std::ofstream(kernel / name) << text;
    }
    void join(int node) const { write(fmt::format("config/dlm/cluster/spaces/lvm_vg0/nodes/{}/nodeid", node), fmt::format("{}\n", node)); }
    DlmHolders holders(const char* volume) const { return dlm_holders(kernel, "vg0", volume); }

    std::filesystem::path kernel;
};

TEST_F(DlmHosts, AreThoseOfTheLockspaceWhereDlmTellsNoMore) {
    EXPECT_THAT(holders(taken).hosts, IsEmpty()) << "this host alone";
    join(2);
    EXPECT_THAT(holders(taken).hosts, ElementsAre("10.0.0.2 (node id 2)"));
    EXPECT_FALSE(holders(taken).certain) << "it may be free";
    join(3);
    EXPECT_THAT(holders(taken).hosts, ElementsAre("10.0.0.2 (node id 2)", "10.0.0.3 (node id 3)"));
    join(9);
    EXPECT_THAT(holders(taken).hosts, testing::Contains("node id 9")) << "without an address";
}

TEST_F(DlmHosts, AreThoseThatTheMasterKnows) {
    join(2);
    join(3);
    write("debug/dlm/lvm_vg0_locks", lines);
    EXPECT_TRUE(holders(taken).certain);
    EXPECT_THAT(holders(taken).hosts, ElementsAre("10.0.0.2 (node id 2)"));
    EXPECT_TRUE(holders(given).certain);
    EXPECT_THAT(holders(given).hosts, IsEmpty());
    EXPECT_FALSE(holders(elsewhere).certain);
    EXPECT_THAT(holders(elsewhere).hosts, ElementsAre("10.0.0.2 (node id 2)", "10.0.0.3 (node id 3)"));
}

// Whoever is left out would be no holder.
TEST_F(DlmHosts, AreNotToldWhereItIsUnknownWhichIsThisOne) {
    join(2);
    write("config/dlm/cluster/comms/1/local", "0\n");
    EXPECT_THAT(holders(taken).hosts, IsEmpty());
    write("config/dlm/cluster/comms/3/local", "1\n");
    EXPECT_THAT(holders(taken).hosts, IsEmpty()) << "it is no member";
    std::filesystem::remove_all(kernel);
    EXPECT_THAT(holders(taken).hosts, IsEmpty());
}

}  // namespace
}  // namespace lamella::host
