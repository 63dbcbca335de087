// SPDX-License-Identifier: Apache-2.0
//
// Commands that read the metadata of a pool of the host's LVM while it isn't active: what they read was of one moment, or they fail.

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/peer/peer_command.h"
#include "cli/program.h"
#include "volumes/pool_on_image.h"

namespace lamella::cli {
namespace {

using testing::HasSubstr;
using Words = std::vector<std::string>;

class PoolInUse : public PoolOnImageTest {
  protected:
    PoolInUse() {
        environment.out = [](std::string_view) {};
        environment.err = [this](std::string_view text) { err += text; };
        environment.flush = [] {};
        environment.stream = [](std::string_view) -> Result<void> { return {}; };
    }

    std::string file(const char* name, std::uint64_t size) const {
        const std::string path = folder + "/" + name;
        std::ofstream(path, std::ios::app).flush();
        std::filesystem::resize_file(path, size);
        return path;
    }
    // With the pool used before this host is looked at for the time with that number; 0: it isn't used.
    int run(const Words& words, unsigned used_at) {
        err.clear();
        LittleLvm lvm = this->lvm();
        unsigned looks = 0;
        environment.open_kernel_group = [&](const std::string&) -> Result<std::unique_ptr<KernelGroup>> {
            auto group = open(lvm);
            mapper->on_pass = [&, used_at] {
                if (++looks == used_at)
                    use_pool();
            };
            return group;
        };
        const int status = words[0].starts_with("thin_") ? run_peer_command(words[0], {words.begin() + 1, words.end()}, environment)
                                                         : static_cast<int>(run_program(words, environment));
        looked = looks;
        return status;
    }

    Environment environment;
    std::string err;
    unsigned looked = 0;
};

TEST_F(PoolInUse, NothingThatWasReadMeanwhileIsTold) {
    constexpr unsigned read_at = 2;  // the first look is for what was broken off
    const std::string data = file("data", 8 * MiB), metadata = file("metadata", 4 * MiB), packed = folder + "/packed";
    const std::string pool = "my-vg/pool";
    const std::vector<Words> commands{
        {"ls", pool},
        {"dump", pool},
        {"rmap", pool, "--region", "0..9"},
        {"diff", pool, "--left", "1", "--right", "1"},
        {"check", pool},
        {"pack", pool, packed},
        {"repair", pool, "--dry-run"},
        {"repair", pool, "--list-roots"},
        {"repair", pool, "--output", metadata, "--yes"},
        {"shrink", pool, "--output", metadata, "--data", data, "--nr-blocks", "100", "--yes"},
        {"shrink", pool, "--output", metadata, "--data", data, "--nr-blocks", "100", "--dry-run"},
        {"trim", pool, data, "--yes"},
        {"thin_ls", pool},
        {"thin_dump", pool},
        {"thin_rmap", "--region", "0..9", pool},
        {"thin_delta", "--thin1", "1", "--thin2", "1", pool},
        {"thin_check", pool},
        {"thin_metadata_pack", "-i", pool, "-o", packed},
        {"thin_repair", "-i", pool, "-o", metadata},
        {"thin_shrink", "--binary", "-i", pool, "-o", metadata, "--data", data, "--nr-blocks", "100"},
        {"thin_trim", "--metadata-dev", pool, "--data-dev", data},
    };
    for (const Words& command : commands) {
        SCOPED_TRACE(fmt::format("{}", fmt::join(command, " ")));
        ASSERT_EQ(run(command, 0), 0) << err;
        ASSERT_GT(looked, read_at) << "it is asked again after reading";
        for (unsigned look = read_at + 1, looks = looked; look <= looks; ++look) {
            EXPECT_NE(run(command, look), 0) << "used at look " << look << " of " << looks;
            EXPECT_THAT(err, HasSubstr("was used after its metadata were read"));
        }
    }
}

// A question may stand for hours.
TEST_F(PoolInUse, IsLookedAtAfterTheQuestion) {
    environment.ask = [this](std::string_view) {
        use_pool();
        return std::string("y");
    };
    const std::string data = file("data", 8 * MiB), metadata = file("metadata", 4 * MiB), pool = "my-vg/pool";
    const auto untouched = [&] {
        std::ifstream stream(metadata, std::ios::binary);
        return std::all_of(std::istreambuf_iterator<char>(stream), {}, [](char byte) { return byte == 0; });
    };
    for (const Words& command : std::vector<Words>{{"shrink", pool, "--output", metadata, "--data", data, "--nr-blocks", "100"},
                                                   {"repair", pool, "--output", metadata}}) {
        SCOPED_TRACE(command[0]);
        EXPECT_NE(run(command, 0), 0);
        EXPECT_THAT(err, HasSubstr("was used after its metadata were read"));
        EXPECT_TRUE(untouched());
    }
}

}  // namespace
}  // namespace lamella::cli
