// SPDX-License-Identifier: Apache-2.0
//
// Placement against a record of what lvm2 2.03.16 did under a real kernel (testdata/README.md): pools, their metadata and the spare
// can't be made by LVM without one. lvm_test.cpp compares plain volumes with LVM itself.
#include "lvm2/allocation.h"

#include <fstream>
#include <map>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lamella::lvm2 {
namespace {

using testing::AllOf;
using testing::HasSubstr;

VolumeGroup new_group(const std::vector<std::uint32_t>& sizes) {
    VolumeGroup group;
    group.name = "vg";
    group.id = LvmId::generate();
    group.seqno = 1;
    group.status = {"RESIZEABLE", "READ", "WRITE"};
    group.extent_sectors = 2048;
    for (const std::uint32_t size : sizes) {
        PhysicalVolume volume;
        volume.name = fmt::format("pv{}", group.physical_volumes.size());
        volume.id = LvmId::generate();
        volume.status = {"ALLOCATABLE"};
        volume.data_start_sector = 2048;
        volume.extent_count = size;
        volume.device_sectors = (size + 1) * std::uint64_t(2048);
        group.physical_volumes.push_back(std::move(volume));
    }
    return group;
}

// "v1" -> {"0+8: pv0@4 pv1@0", ...}
using Layout = std::map<std::string, std::vector<std::string>>;

Layout layout(const VolumeGroup& group) {
    Layout lines;
    for (const LogicalVolume& volume : group.logical_volumes)
        for (const Segment& segment : volume.segments)
            if (const Striped* body = segment.as<Striped>()) {
                std::string line = fmt::format("{}+{}:", segment.start_extent, segment.extent_count);
                for (const Area& area : body->areas)
                    line += fmt::format(" {}@{}", area.name, area.first_extent);
                lines[volume.name].push_back(std::move(line));
            }
    return lines;
}

// Does to the model what the command did to LVM's group.
Result<void> repeat(VolumeGroup& group, const std::string& command) {
    std::istringstream words(command);
    std::string word, name;
    words >> word;
    const std::string verb = word;
    std::uint32_t extents = 0;
    NewThinPool pool;
    bool is_pool = false;
    const auto number = [&] {  // "8", "+8", "+8M"; an extent has 1 MiB
        words >> word;
        return static_cast<std::uint32_t>(std::strtoul(word.c_str(), nullptr, 10));
    };
    while (words >> word) {
        if (word == "--type")
            words >> word, is_pool = true;
        else if (word == "-n")
            words >> name;
        else if (word == "-l")
            extents = number();
        else if (word == "-i")
            pool.data.stripes = number();
        else if (word == "--poolmetadatasize")
            pool.metadata_extents = number();
        else if (word == "--poolmetadataspare")
            words >> word, pool.spare = false;
        else if (word.starts_with("vg/"))
            name = word.substr(3);
        else if (word != "vg")
            pool.data.physical_volumes.push_back(word);
    }
    const NewVolume volume{name, {}, false, {1, "test"}};
    if (verb == "lvremove")
        return remove_volume(group, name);
    if (verb == "lvextend" && pool.metadata_extents > 0)
        return extend_metadata(group, name, pool.metadata_extents, pool.data);
    if (verb == "lvextend")
        return extend_volume(group, name, extents, pool.data);
    if (!is_pool)
        return create_volume(group, volume, extents, pool.data);
    pool.volume = volume;
    pool.data_extents = extents;
    return create_thin_pool(group, pool);
}

TEST(Allocation, ChoosesWhatLvmChose) {
    const char* other = std::getenv("LAMELLA_TEST_ALLOCATIONS");
    std::ifstream file(other ? other : LVM2_TESTDATA "/allocations.txt");
    ASSERT_TRUE(file);
    VolumeGroup group;
    Layout wanted;
    std::string history, command;
    std::optional<std::string> failure;  // with the number of extents that LVM missed, where it told
    int commands = 0, beyond_lvm = 0;
    const auto end_command = [&] {
        if (command.empty())
            return;
        SCOPED_TRACE(history);
        VolumeGroup changed = group;
        const Result<void> result = repeat(changed, command);
        const std::string message = result ? "" : result.error().message();
        ++commands;
        if (!failure) {
            ASSERT_TRUE(result) << message;
            ASSERT_EQ(layout(changed), wanted);
            group = std::move(changed);
        } else if (result && failure->empty() && command.find("thin-pool") != std::string::npos) {
            ++beyond_lvm;  // see allocate_pool()
            for (const Finding& finding : check(changed))
                ADD_FAILURE() << to_string(finding);
        } else {
            ASSERT_FALSE(result);
            ASSERT_EQ(result.error().kind(), ErrorKind::no_space) << message;
            if (!failure->empty()) {
                ASSERT_THAT(message, HasSubstr(fmt::format(" {} are missing", *failure)));
            }
        }
        command.clear();
        failure.reset();
    };
    for (std::string line; !HasFailure() && std::getline(file, line);) {
        std::istringstream words(line);
        std::string word, rest;
        words >> word;
        if (word == "group") {
            end_command();
            std::vector<std::uint32_t> sizes;
            for (std::uint32_t size = 0; words >> size;)
                sizes.push_back(size);
            group = new_group(sizes);
            wanted.clear();
            history = line + "\n";
        } else if (word == "$") {
            end_command();
            command = line.substr(2);
            history += command + "\n";
        } else if (word == "!") {
            words >> rest;
            failure = rest;
        } else {
            // All segments of a volume that changed.
            words >> rest;
            if (rest == "gone" || rest.starts_with("0+"))
                wanted.erase(word);
            if (rest != "gone")
                wanted[word].push_back(line.substr(word.size() + 1));
        }
    }
    end_command();
    EXPECT_GT(commands, 100);
    fmt::print("{} commands, {} pools where LVM failed\n", commands, beyond_lvm);
}

// A group of one physical volume with this many free runs of 1 to 3 extents, between volumes of one.
VolumeGroup fragmented(std::uint32_t runs) {
    VolumeGroup group = new_group({});
    LogicalVolume between;
    between.name = "between";
    between.id = LvmId::generate();
    between.status = {"READ", "WRITE", "VISIBLE"};
    std::uint32_t place = 0;
    for (std::uint32_t i = 0; i < runs; ++i) {
        place += 1 + i * 7 % 3;
        Segment segment;
        segment.start_extent = i;
        segment.extent_count = 1;
        segment.type = "striped";
        segment.body = Striped{.areas = {{"pv0", place++}}, .stripe_sectors = 0};
        between.segments.push_back(std::move(segment));
    }
    group.physical_volumes = new_group({place}).physical_volumes;
    group.logical_volumes.push_back(std::move(between));
    return group;
}

TEST(Allocation, TakesTheLastExtentOfAFragmentedGroup) {
    for (const std::uint32_t runs : {30u, 1000u, 20'000u}) {
        SCOPED_TRACE(runs);
        VolumeGroup group = fragmented(runs);
        const auto free = static_cast<std::uint32_t>(free_extents(group));
        ASSERT_TRUE(create_volume(group, {"first", {}, false, {}}, 2, {}));
        ASSERT_TRUE(extend_volume(group, "first", free - 2, {}));
        EXPECT_EQ(free_extents(group), 0u);
        EXPECT_TRUE(check(group).empty());
        EXPECT_THAT(extend_volume(group, "first", 1, {}).error().message(), HasSubstr(" 1 are missing"));
    }
}

TEST(Allocation, SaysWhyThereIsNoRoom) {
    const auto message = [](const Result<void>& result) { return result ? "" : result.error().message(); };
    VolumeGroup group = new_group({10, 4});
    EXPECT_THAT(message(create_volume(group, {"v", {}, false, {}}, 15, {})),
                HasSubstr("has 14 free extents; 15 are needed, 1 are missing"));
    EXPECT_THAT(message(create_volume(group, {"v", {}, false, {}}, 12, {.stripes = 2})),
                AllOf(HasSubstr("2 stripes need different physical volumes"), HasSubstr(" 4 are missing")));
    EXPECT_THAT(message(create_volume(group, {"v", {}, false, {}}, 8, {.physical_volumes = {"pv1"}})), HasSubstr("on the volumes allowed"));
    NewThinPool pool{.volume = {"p", {}, false, {}}, .data_extents = 2, .metadata_extents = 11, .spare = false};
    EXPECT_THAT(message(create_thin_pool(group, pool)), HasSubstr("metadata needs one run of 11 extents"));
    ASSERT_TRUE(create_volume(group, {"v", {}, false, {}}, 3, {}));
    ASSERT_TRUE(create_volume(group, {"w", {}, false, {}}, 1, {}));
    const Placement contiguous{.policy = AllocationPolicy::contiguous};
    EXPECT_THAT(message(extend_volume(group, "v", 1, contiguous)), HasSubstr("the allocation policy is 'contiguous'"));
    EXPECT_EQ(layout(group), (Layout{{"v", {"0+3: pv0@0"}}, {"w", {"0+1: pv0@3"}}}));
}

}  // namespace
}  // namespace lamella::lvm2
