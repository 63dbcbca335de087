// SPDX-License-Identifier: Apache-2.0
//
// The texts were printed by lvmlockctl 2.03.16 and sanlock 3.8.5 on the second of two hosts that share a group: the first has a pool and a
// linear volume active.
#include "host/lvm_locks.h"

#include <gmock/gmock.h>

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

}  // namespace
}  // namespace lamella::host
