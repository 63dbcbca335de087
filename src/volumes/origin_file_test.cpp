// SPDX-License-Identifier: Apache-2.0
#include "volumes/origin_file.h"

#include <fstream>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/test_support.h"
#include "volumes/engine_group.h"

namespace lamella {
namespace {

constexpr std::uint64_t mib = 1 << 20;
using Base = SizeRequest::Base;

// --- Tags -----------------------------------------------------------------------------------------------------------------

lvm2::LogicalVolume standing_for(const std::string& tag) {
    lvm2::LogicalVolume volume;
    volume.name = "base";
    volume.tags = {"other", tag};
    volume.segments.emplace_back();
    volume.segments[0].type = "error";
    volume.segments[0].extent_count = 1;
    return volume;
}

TEST(OriginFileTag, TellsAnyPath) {
    for (const std::string path : {"base.raw", "/srv/images/a b.raw", "#1 \xc3\xa4%\n\x7f:=.raw", "--"}) {
        const OriginFile file{path, 1234567890123, 0xabc};
        EXPECT_TRUE(lvm2::check_tag(file.tag())) << file.tag();
        const auto read = OriginFile::of(standing_for(file.tag()));
        ASSERT_TRUE(read) << file.tag();
        EXPECT_EQ(read->path, path);
        EXPECT_EQ(read->size, file.size);
        EXPECT_EQ(read->checksum, file.checksum);
    }
    EXPECT_EQ((OriginFile{"a b", 512, 0xabc}.tag()), "lamella-file=512:00000abc:a#20b");
}

TEST(OriginFileTag, IsReadWithCare) {
    for (const char* text :
         {"lamella-file=", "lamella-file=512", "lamella-file=512:1", "lamella-file=512:1:", "lamella-file=0:1:x", "lamella-file=-1:1:x",
          "lamella-file=99999999999999999999:1:x", "lamella-file=512:111111111:x", "lamella-file=512:g:x", "lamella-file=512:1:#",
          "lamella-file=512:1:#2", "lamella-file=512:1:#00", "lamella-file=512:1:#+1", "lamella-file= 512:1:x", "file=512:1:x"})
        EXPECT_FALSE(OriginFile::of(standing_for(text))) << text;
    lvm2::LogicalVolume linear = standing_for("lamella-file=512:1:x");
    linear.segments[0].type = "striped";
    EXPECT_FALSE(OriginFile::of(linear));
}

// --- Groups ---------------------------------------------------------------------------------------------------------------

class OriginFileTest : public testing::Test {
  protected:
    void SetUp() override {
        options.archive_directory = folder.file("archive");
        options.no_space_timeout = 1;
        CreateGroup request;
        request.paths = {folder.file("vms.img")};
        request.size = 128 * mib;
        request.pool.emplace();
        request.pool->name = "pool";
        request.pool->size = {.base = Base::bytes, .value = 64 * mib};
        ASSERT_TRUE(EngineGroup::create(request, {}));
        // Neither whole chunks nor whole blocks.
        content = test::pattern(6 * mib + 1536, 5);
        put("base.raw", content);
        reopen();
    }
    void TearDown() override { group.reset(); }
    void reopen() {
        group.reset();
        auto opened = EngineGroup::open({folder.file("vms.img")}, options);
        ASSERT_TRUE(opened) << opened.error().message();
        group = std::move(*opened);
    }
    void put(const std::string& name, const std::vector<std::byte>& bytes) {
        std::ofstream(folder.file(name), std::ios::binary)
            .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    }
    Result<VolumeInfo> clone(const std::string& name, std::uint64_t size = 0, const std::string& file = "base.raw") {
        CreateVolume request{.name = name, .size = {.value = size}};
        request.origin_file = folder.file(file);
        return group->create_volume(request, {});
    }
    std::vector<std::byte> read(const std::string& name) {
        auto opened = group->exports()->open(name, true);
        if (!opened) {
            ADD_FAILURE() << opened.error().message();
            return {};
        }
        std::vector<std::byte> bytes((*opened)->device().size());
        const auto done = read_now((*opened)->device(), 0, bytes);
        EXPECT_TRUE(done) << done.error().message();
        return bytes;
    }
    void write(const std::string& name, std::uint64_t offset, const std::vector<std::byte>& bytes) {
        auto opened = group->exports()->open(name, false);
        ASSERT_TRUE(opened) << opened.error().message();
        const auto done = write_now((*opened)->device(), offset, bytes);
        ASSERT_TRUE(done) << done.error().message();
    }
    std::vector<std::byte> expected(std::uint64_t size) {
        std::vector<std::byte> bytes = content;
        bytes.resize(size);
        return bytes;
    }
    ErrorKind open_error(const std::string& name) {
        auto opened = group->exports()->open(name, true);
        return opened ? ErrorKind::failed : opened.error().kind();
    }

    test::TemporaryFolder folder;
    EngineOptions options;
    std::vector<std::byte> content;
    std::unique_ptr<EngineGroup> group;
};

TEST_F(OriginFileTest, AVolumeBeginsAsTheFile) {
    auto made = clone("clone");
    ASSERT_TRUE(made) << made.error().message();
    EXPECT_EQ(made->kind, VolumeKind::thin);
    EXPECT_EQ(made->size, 8 * mib);
    EXPECT_EQ(made->origin_file, "base.raw");  // beside the group's image
    EXPECT_EQ(made->external_origin, "base");
    EXPECT_TRUE(made->skip_activation);
    EXPECT_EQ(made->mapped, 0u);
    const VolumeInfo file = *group->volume("base");
    EXPECT_EQ(file.kind, VolumeKind::file);
    EXPECT_EQ(file.segment_type, "error");
    EXPECT_TRUE(file.read_only);
    EXPECT_TRUE(file.refused.empty()) << file.refused;
    EXPECT_EQ(read("clone"), expected(8 * mib));
    {
        // Who copies what is allocated copies all of the file.
        auto opened = group->exports()->open("clone", true);
        ASSERT_TRUE(opened);
        const auto extents = status_now((*opened)->device(), 0, 8 * mib, 16);
        ASSERT_TRUE(extents);
        ASSERT_EQ(extents->size(), 2u);
        EXPECT_EQ(extents->at(0).length, content.size());
        EXPECT_TRUE(extents->at(0).allocated && !extents->at(0).zero);
        EXPECT_TRUE(extents->at(1).zero);
    }
    // Part of a chunk, beside the file's end.
    auto bytes = expected(8 * mib);
    const std::uint64_t at = content.size() - 700;
    write("clone", at - at % 512, std::vector<std::byte>(512, std::byte{'w'}));
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at - at % 512), 512, std::byte{'w'});
    EXPECT_EQ(read("clone"), bytes);
    reopen();
    EXPECT_EQ(read("clone"), bytes);
    std::ifstream untouched(folder.file("base.raw"), std::ios::binary);
    std::vector<char> now((std::istreambuf_iterator<char>(untouched)), {});
    EXPECT_TRUE(std::ranges::equal(now, content, {}, [](char byte) { return static_cast<std::byte>(byte); }));
}

TEST_F(OriginFileTest, SnapshotsFallThroughToo) {
    ASSERT_TRUE(clone("clone", 16 * mib));
    ASSERT_TRUE(clone("small", 4 * mib));
    ASSERT_TRUE(group->create_snapshots({{.origin = "clone", .name = "s1"}}, {}));
    write("clone", 0, std::vector<std::byte>(mib, std::byte{'w'}));
    ASSERT_TRUE(group->create_snapshots({{.origin = "s1", .name = "s2"}}, {}));
    EXPECT_EQ(read("s1"), expected(16 * mib));
    EXPECT_EQ(read("s2"), expected(16 * mib));
    auto small = expected(16 * mib);
    small.resize(4 * mib);
    EXPECT_EQ(read("small"), small);
    EXPECT_EQ(group->volume("s2")->origin_file, "base.raw");
    ASSERT_TRUE(group->rollback("clone", "s1", {}));
    EXPECT_EQ(read("clone"), expected(16 * mib));
    // One volume stands for the file; renamed, it goes on; it goes with the last that uses it.
    EXPECT_EQ(group->remove({"base"}, false, {}).error().kind(), ErrorKind::refused);
    ASSERT_TRUE(group->rename("base", "debian", {}));
    EXPECT_EQ(group->volume("small")->external_origin, "debian");
    EXPECT_EQ(read("s2"), expected(16 * mib));
    ASSERT_TRUE(group->remove({"clone", "s2"}, false, {}));
    EXPECT_TRUE(group->volume("debian"));
    ASSERT_TRUE(group->remove({"small"}, false, {}));
    EXPECT_EQ(group->volume("debian").error().kind(), ErrorKind::not_found);
    EXPECT_EQ(group->info()->findings.size(), 0u);
}

TEST_F(OriginFileTest, ClassicSnapshotsFallThroughToo) {
    ASSERT_TRUE(clone("clone", 16 * mib));
    write("clone", 0, std::vector<std::byte>(mib, std::byte{'w'}));
    CreateSnapshot request{.origin = "clone", .name = "c", .classic = true};
    request.size = {Base::bytes, SizeRequest::Relation::absolute, 12 * mib};
    auto then = expected(16 * mib);
    std::fill_n(then.begin(), mib, std::byte{'w'});
    {
        auto in_use = group->exports()->open("clone", false);
        ASSERT_TRUE(in_use);
        auto made = group->create_snapshots({request}, {});
        ASSERT_TRUE(made) << made.error().message();
        ASSERT_TRUE(write_now((*in_use)->device(), mib / 2, std::vector<std::byte>(4 * mib, std::byte{'x'})));
        EXPECT_EQ(read("c"), then);
    }
    EXPECT_EQ(group->volume("clone")->open_count, 0u);
    reopen();
    EXPECT_EQ(read("c"), then);
    auto now = then;
    std::fill_n(now.begin() + mib / 2, 4 * mib, std::byte{'x'});
    EXPECT_EQ(read("clone"), now);
    ASSERT_TRUE(group->rollback("clone", "c", {}));
    EXPECT_EQ(read("clone"), then);
    while (group->volume("c")) {}
    EXPECT_EQ(read("clone"), then);
    reopen();
    EXPECT_EQ(read("clone"), then);
}

TEST_F(OriginFileTest, GoesWithWhatIsMadeOfIt) {
    ASSERT_TRUE(clone("clone"));
    ASSERT_TRUE(clone("other"));
    EXPECT_EQ(group->remove({"base", "clone"}, false, {.dry_run = true}).error().kind(), ErrorKind::refused);
    EXPECT_EQ(group->remove({"base", "clone"}, false, {}).error().kind(), ErrorKind::refused);
    EXPECT_TRUE(group->volume("clone"));
    ASSERT_TRUE(group->remove({"base", "clone", "other"}, false, {.dry_run = true}));
    EXPECT_TRUE(group->volume("clone"));
    ASSERT_TRUE(group->remove({"base", "clone", "other"}, false, {}));
    EXPECT_EQ(group->volumes()->size(), 4u);
    ASSERT_TRUE(clone("clone"));
    ASSERT_TRUE(group->remove({"base", "pool"}, true, {.dry_run = true}));
    ASSERT_TRUE(group->remove({"base", "pool"}, true, {}));
    EXPECT_EQ(group->info()->findings.size(), 0u);
}

// External origins within the group, across pools: whatever their names are.
TEST_F(OriginFileTest, VolumesGoBeforeTheirExternalOrigin) {
    for (const char* pool : {"a", "z"}) {
        CreatePool request;
        request.name = pool;
        request.size = {.base = Base::bytes, .value = 8 * mib};
        ASSERT_TRUE(group->create_pool(request, {}));
    }
    const auto make = [&](const std::string& name, const std::string& pool, const std::string& origin, bool read_only) {
        CreateVolume request{.name = name, .size = {.value = 4 * mib}, .pool = pool};
        request.external_origin = origin;
        request.read_only = read_only;
        const auto made = group->create_volume(request, {});
        ASSERT_TRUE(made) << made.error().message();
    };
    make("lowest", "z", "", true);
    make("middle", "a", "lowest", true);
    make("top", "z", "middle", false);
    {
        auto in_use = group->exports()->open("top", false);
        ASSERT_TRUE(in_use);
        EXPECT_EQ(group->volume("lowest")->open_count, 1u);
        EXPECT_EQ(group->remove({"lowest", "middle", "top"}, false, {}).error().kind(), ErrorKind::refused);
    }
    EXPECT_EQ(group->volume("lowest")->open_count, 0u);
    EXPECT_EQ(group->remove({"a"}, true, {}).error().kind(), ErrorKind::refused);
    EXPECT_TRUE(group->volume("middle"));
    ASSERT_TRUE(group->remove({"lowest", "middle", "top"}, false, {.dry_run = true}));
    ASSERT_TRUE(group->remove({"lowest", "middle", "top"}, false, {}));
    EXPECT_EQ(group->volume("top").error().kind(), ErrorKind::not_found);
    EXPECT_EQ(group->volume("lowest").error().kind(), ErrorKind::not_found);
    make("base", "a", "", true);
    make("clone", "z", "base", false);
    ASSERT_TRUE(group->remove({"a", "z"}, true, {}));
    EXPECT_EQ(group->info()->findings.size(), 0u);
}

TEST_F(OriginFileTest, AFileThatIsntWhatItWasIsRefused) {
    ASSERT_TRUE(clone("clone"));
    write("clone", 0, std::vector<std::byte>(mib, std::byte{'w'}));
    ::rename(folder.file("base.raw").c_str(), folder.file("away").c_str());
    EXPECT_NE(open_error("clone"), ErrorKind::failed);
    EXPECT_NE(group->volume("clone")->refused.find("base.raw"), std::string::npos) << group->volume("clone")->refused;
    auto longer = content;
    longer.resize(content.size() + 1);
    put("base.raw", longer);
    EXPECT_NE(open_error("clone"), ErrorKind::failed);
    auto other = content;
    other[100] ^= std::byte{1};
    put("base.raw", other);
    EXPECT_EQ(open_error("clone"), ErrorKind::refused);
    ::unlink(folder.file("base.raw").c_str());
    ASSERT_EQ(0, ::mkfifo(folder.file("base.raw").c_str(), 0600));
    EXPECT_NE(open_error("clone"), ErrorKind::failed);
    ::unlink(folder.file("base.raw").c_str());
    ::rename(folder.file("away").c_str(), folder.file("base.raw").c_str());
    auto bytes = expected(8 * mib);
    std::fill_n(bytes.begin(), mib, std::byte{'w'});
    EXPECT_EQ(read("clone"), bytes);
    EXPECT_EQ(group->volume("clone")->refused, "");
}

TEST_F(OriginFileTest, WhatIsNoRawImageIsRefused) {
    EXPECT_EQ(clone("clone", 0, "nowhere").error().kind(), ErrorKind::not_found);
    put("empty", {});
    EXPECT_EQ(clone("clone", 0, "empty").error().kind(), ErrorKind::usage);
    put("odd", std::vector<std::byte>(1000));
    EXPECT_EQ(clone("clone", 0, "odd").error().kind(), ErrorKind::usage);
    put("qcow2", {std::byte{'Q'}, std::byte{'F'}, std::byte{'I'}, std::byte{0xfb}, std::byte{0}});
    EXPECT_EQ(clone("clone", 0, "qcow2").error().kind(), ErrorKind::usage);
    EXPECT_EQ(clone("clone", 0, "").error().kind(), ErrorKind::usage);           // a folder
    EXPECT_EQ(clone("clone", 0, "vms.img").error().kind(), ErrorKind::refused);  // held by this group
    EXPECT_EQ(group->volumes()->size(), 4u);                                     // the pool and its parts
}

}  // namespace
}  // namespace lamella
