// SPDX-License-Identifier: Apache-2.0
#include "volumes/names.h"

#include <gtest/gtest.h>

namespace lamella {
namespace {

bool nothing_exists(const std::string&) { return false; }
bool images_exist(const std::string& path) { return path.ends_with(".img"); }

TEST(Names, GroupByPath) {
    EXPECT_EQ(parse_group_address("./vms.img", nothing_exists)->paths, std::vector<std::string>{"./vms.img"});
    EXPECT_EQ(parse_group_address("/dev/sdb1,/dev/sdc1", nothing_exists)->paths, (std::vector<std::string>{"/dev/sdb1", "/dev/sdc1"}));
    EXPECT_EQ(parse_group_address("vms.img", images_exist)->paths, std::vector<std::string>{"vms.img"});
    EXPECT_EQ(parse_group_address("a,b.img", images_exist)->paths, std::vector<std::string>{"a,b.img"});  // exists as it stands
    EXPECT_EQ(parse_group_address("./a:b", nothing_exists)->paths, std::vector<std::string>{"./a:b"});
}

TEST(Names, GroupByName) {
    auto group = parse_group_address("vg0", nothing_exists);
    ASSERT_TRUE(group);
    EXPECT_EQ(group->name, "vg0");
    EXPECT_TRUE(group->paths.empty());
}

TEST(Names, BadGroups) {
    for (std::string_view text : {"", "./a,", ",./a", "./a,,./b", "-vg", "v g", "vg0,vg1", ".."})
        EXPECT_EQ(parse_group_address(text, nothing_exists).error().kind(), ErrorKind::usage) << text;
    EXPECT_FALSE(parse_group_address(std::string("./a\0b", 5), nothing_exists));
    EXPECT_FALSE(parse_group_address(std::string(100'000, '/'), nothing_exists));
}

TEST(Names, VolumeByPath) {
    auto volume = parse_volume_address("./vms.img:web", nothing_exists);
    ASSERT_TRUE(volume);
    EXPECT_EQ(volume->group.paths, std::vector<std::string>{"./vms.img"});
    EXPECT_EQ(volume->volume, "web");
    EXPECT_EQ(volume->text(), "./vms.img:web");

    volume = parse_volume_address("/a:b/c:d:web-s1", nothing_exists);
    ASSERT_TRUE(volume);
    EXPECT_EQ(volume->group.paths, std::vector<std::string>{"/a:b/c:d"});
    EXPECT_EQ(volume->volume, "web-s1");

    volume = parse_volume_address("vms.img:web", images_exist);
    ASSERT_TRUE(volume);
    EXPECT_EQ(volume->group.paths, std::vector<std::string>{"vms.img"});

    volume = parse_volume_address("/dev/sdb1,/dev/sdc1:web", nothing_exists);
    ASSERT_TRUE(volume);
    EXPECT_EQ(volume->group.paths.size(), 2u);
}

TEST(Names, VolumeByName) {
    auto volume = parse_volume_address("vg0/web", nothing_exists);
    ASSERT_TRUE(volume);
    EXPECT_EQ(volume->group.name, "vg0");
    EXPECT_EQ(volume->volume, "web");
    EXPECT_EQ(volume->text(), "vg0/web");
}

TEST(Names, BadVolumes) {
    for (std::string_view text : {"", ":", ":web", "./vms.img", "./vms.img:", "./vms.img:-x", "./vms.img:a b", "vg0:web", "web", "vg0/",
                                  "./a:b/c", "/vg/lv", "a/b/c"})
        EXPECT_EQ(parse_volume_address(text, nothing_exists).error().kind(), ErrorKind::usage) << text;
    // A file that exists is never taken for a volume of the host's.
    EXPECT_FALSE(parse_volume_address("images/vms.img", images_exist));
}

TEST(Names, Either) {
    EXPECT_TRUE(std::holds_alternative<GroupAddress>(*parse_address("./vms.img", nothing_exists)));
    EXPECT_TRUE(std::holds_alternative<GroupAddress>(*parse_address("./odd:name.img", images_exist)));
    EXPECT_TRUE(std::holds_alternative<VolumeAddress>(*parse_address("./vms.img:web", nothing_exists)));
    EXPECT_TRUE(std::holds_alternative<VolumeAddress>(*parse_address("vg0/web", nothing_exists)));
    EXPECT_TRUE(std::holds_alternative<GroupAddress>(*parse_address("vg0", nothing_exists)));
    EXPECT_FALSE(parse_address("./vms.img:a b", nothing_exists));
}

TEST(Names, WhatLvmAllows) {
    for (std::string name : {"web", "a", "A_b.c+d-e", "0", ".hidden", "pool_tdata", "lvol0_pmspare"})
        EXPECT_TRUE(parse_volume_address("./vms.img:" + name, nothing_exists)) << name;
    for (std::string name : {".", "..", "-a", "a b", "\xc3\xa4", "a@b", "a\n"})
        EXPECT_FALSE(parse_volume_address("./vms.img:" + name, nothing_exists)) << name;
    EXPECT_FALSE(parse_volume_address("./vms.img:" + std::string(1000, 'a'), nothing_exists));
}

}  // namespace
}  // namespace lamella
