// SPDX-License-Identifier: Apache-2.0
//
// The damage campaign. Each fault is drawn from a seed, put into a pool with known content, and repaired; then it is undone. What must
// hold: all mappings come back whose leaf and path survived; nothing comes back that wasn't there; what doesn't come back lies in a range
// that the report names; the output is sound, by our own account and (a sample) by thin_check; the input is as it was.
//
// How many mappings came back whose leaf survived, but not their path, is counted and printed.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <sstream>

#include <gtest/gtest.h>

#include "base/checksum.h"
#include "crash/seeds.h"
#include "crash/structure.h"
#include "pools.h"
#include "tools/damage.h"
#include "tools/repair.h"

namespace lamella::damage {
namespace {

using tools::BlockRole;

using crash::number_from;
using crash::slowness;

// What came back of what was there.
struct Tally {
    std::uint64_t faults = 0;
    std::uint64_t refused = 0;    // no output at all
    std::uint64_t reachable = 0;  // mappings whose leaf and path survived
    std::uint64_t reachable_back = 0;
    std::uint64_t orphaned = 0;  // mappings whose leaf survived, but not their path
    std::uint64_t orphaned_back = 0;
    std::uint64_t wrong = 0;    // mappings that came back and weren't there like this
    std::uint64_t unsound = 0;  // outputs that don't hold together

    void add(const Tally& other) {
        faults += other.faults;
        refused += other.refused;
        reachable += other.reachable;
        reachable_back += other.reachable_back;
        orphaned += other.orphaned;
        orphaned_back += other.orphaned_back;
        wrong += other.wrong;
        unsound += other.unsound;
    }
    void print(const std::string& what) const {
        const auto share = [](std::uint64_t part, std::uint64_t whole) {
            return whole == 0 ? 100.0 : 100.0 * double(part) / double(whole);
        };
        std::printf(
            "%-34s %6llu faults, %5llu refused; leaf and path sound: %8.4f %% back; leaf alone: %8.4f %% back; wrong: %llu; unsound: "
            "%llu\n",
            what.c_str(), (unsigned long long)faults, (unsigned long long)refused, share(reachable_back, reachable),
            share(orphaned_back, orphaned), (unsigned long long)wrong, (unsigned long long)unsound);
    }
};

using Contents = std::map<ThinId, std::map<std::uint64_t, thin::BlockTime>>;

Result<Contents> read_contents(BlockDevice& device) {
    Contents contents;
    thin::ThinMetadata::Options options;
    options.read_only = true;
    auto metadata = TRY(thin::ThinMetadata::open(device, options));
    ThinId next{0};
    for (;;) {
        const auto devices = TRY(metadata->devices(next, 100));
        if (devices.empty())
            return contents;
        for (const thin::DeviceEntry& entry : devices) {
            auto& mappings = contents[entry.id];
            std::vector<thin::Mapping> found;
            VirtualBlock from{0};
            const VirtualBlock end(std::uint64_t{1} << 50);
            while (from < end)
                from = TRY(metadata->lookup_range(entry.id, from, end, 100000, found));
            for (const thin::Mapping& mapping : found)
                mappings.emplace_hint(mappings.end(), mapping.virtual_block.value(), mapping.where);
        }
        next = devices.back().id + 1;
    }
}

enum class Kind { zero, flip, scramble, swap, stale, link, mixed, superblock };
std::string_view to_string(Kind kind) {
    constexpr std::string_view names[] = {"zeroed", "flipped", "scrambled", "swapped", "stale", "cross-linked", "mixed", "superblock lost"};
    return names[static_cast<std::size_t>(kind)];
}

// Puts one fault of a kind into the pool.
void damage(const Pool& pool, const std::vector<tools::SurveyedBlock>& blocks, Kind kind, std::mt19937_64& random, tools::Damage& damage) {
    const auto pick = [&] { return blocks[random() % blocks.size()]; };
    // Half of the faults hit the few blocks that much depends on.
    const auto target = [&] {
        tools::SurveyedBlock block = pick();
        for (int tries = 0; random() % 2 == 0 && tries < 20 && block.role == BlockRole::mapping_leaf; ++tries)
            block = pick();
        return block;
    };
    const auto done = [](Result<void> result) { ASSERT_TRUE(result) << result.error().message(); };
    switch (kind) {
    case Kind::zero: done(damage.zero(target().location)); break;
    case Kind::flip: done(damage.flip(target().location, 1 + static_cast<unsigned>(random() % 8), random)); break;
    case Kind::scramble: done(damage.scramble(target().location, random)); break;
    case Kind::swap: done(damage.swap(target().location, pick().location)); break;
    case Kind::stale: {
        for (int tries = 0; tries < 1000; ++tries) {
            const MetadataBlock location = pick().location;
            const auto earlier = pool.earlier.find(location);
            if (earlier == pool.earlier.end())
                continue;
            done(damage.replace(location, earlier->second[random() % earlier->second.size()]));
            break;
        }
        break;
    }
    case Kind::link: {
        for (int tries = 0; tries < 1000; ++tries) {
            const tools::SurveyedBlock parent = pick();
            if (parent.role != BlockRole::mapping_inner && (parent.role != BlockRole::device_node || random() % 4 != 0))
                continue;
            tools::SurveyedBlock child = pick();
            if (child.role != BlockRole::mapping_leaf && child.role != BlockRole::mapping_inner && random() % 4 != 0)
                continue;
            if (damage.link(parent.location, static_cast<std::uint32_t>(random() % 200), child.location))
                break;
        }
        break;
    }
    case Kind::superblock: done(damage.scramble(MetadataBlock(0), random)); break;
    case Kind::mixed: break;
    }
}

bool touches(const std::set<MetadataBlock>& changed, const std::vector<MetadataBlock>& path) {
    return std::ranges::any_of(path, [&](MetadataBlock block) { return changed.contains(block); });
}

Tally compare(const Pool& pool, const std::set<MetadataBlock>& changed, const Contents& back) {
    Tally tally;
    for (const auto& [id, volume] : pool.volumes) {
        const auto found = back.find(id);
        std::map<std::uint64_t, thin::BlockTime> left;
        if (found != back.end())
            left = found->second;
        for (const LeafPath& leaf : volume.leaves) {
            const bool leaf_sound = !changed.contains(leaf.leaf);
            const bool path_sound = !touches(changed, leaf.path);
            for (const thin::Mapping& mapping : leaf.mappings) {
                const auto entry = left.find(mapping.virtual_block.value());
                const bool returned = entry != left.end() && entry->second == mapping.where;
                if (entry != left.end()) {
                    tally.wrong += !returned;
                    left.erase(entry);
                }
                if (!leaf_sound)
                    continue;
                (path_sound ? tally.reachable : tally.orphaned) += 1;
                (path_sound ? tally.reachable_back : tally.orphaned_back) += returned;
            }
        }
        tally.wrong += left.size();
    }
    for (const auto& [id, mappings] : back)
        if (!pool.volumes.contains(id))
            tally.wrong += mappings.size();
    return tally;
}

// Every mapping that is missing lies in a range that the report names as lost, unless its device is gone.
void expect_losses_named(const Pool& pool, const Contents& back, const tools::RepairReport& report) {
    for (const tools::RepairedVolume& volume : report.volumes) {
        const auto original = pool.volumes.find(volume.id);
        if (original == pool.volumes.end())
            continue;
        const auto& found = back.at(volume.id);
        std::uint64_t missing = 0;
        std::uint64_t unnamed = 0;
        for (const LeafPath& leaf : original->second.leaves)
            for (const thin::Mapping& mapping : leaf.mappings)
                if (!found.contains(mapping.virtual_block.value())) {
                    ++missing;
                    unnamed += std::ranges::none_of(
                        volume.lost, [&](const tools::KeyRange& range) { return range.contains(mapping.virtual_block.value()); });
                }
        EXPECT_EQ(unnamed, 0u) << "volume " << volume.id.value() << ": missing mappings outside the ranges named as lost";
        EXPECT_TRUE(missing == 0 || !volume.complete)
            << "volume " << volume.id.value() << " is called complete; " << missing << " are missing";
        EXPECT_EQ(volume.intact + volume.recovered, found.size()) << "volume " << volume.id.value();
    }
}

std::uint32_t sum_of(BlockDevice& device) {
    std::vector<std::byte> bytes(device.size());
    EXPECT_TRUE(read_now(device, 0, bytes));
    return crc32c(~0u, bytes);
}

class Campaign {
  public:
    explicit Campaign(Pool pool) : pool_(std::move(pool)) {
        auto surveyed = tools::survey(*pool_.metadata);
        EXPECT_TRUE(surveyed) << surveyed.error().message();
        blocks_ = *surveyed;
        const char* peers = std::getenv("LAMELLA_DAMAGE_PEERS");
        std::stringstream list(peers != nullptr ? peers : "");
        for (std::string peer; std::getline(list, peer, ';');)
            peers_.emplace_back(peer, Tally{});
    }

    void run(Kind kind, std::uint64_t seed, bool spare_superblock = true) {
        SCOPED_TRACE(fmt::format("pool {}, {} blocks, seed {}: LAMELLA_DAMAGE_SEED={}", pool_.name, to_string(kind), seed, seed));
        std::mt19937_64 random(seed * 1000 + static_cast<std::uint64_t>(kind));
        tools::Damage damaged(*pool_.metadata);
        std::vector<tools::SurveyedBlock> targets;
        for (const tools::SurveyedBlock& block : blocks_)
            if (!spare_superblock || block.role != BlockRole::superblock)
                targets.push_back(block);
        if (kind == Kind::mixed)
            for (std::uint64_t fault = 2 + random() % 6; fault > 0; --fault)
                damage(pool_, targets, static_cast<Kind>(random() % 4), random, damaged);
        else
            damage(pool_, targets, kind, random, damaged);
        const auto changed_list = damaged.changed();
        const std::set<MetadataBlock> changed(changed_list.begin(), changed_list.end());
        if (std::getenv("LAMELLA_DAMAGE_SEED") != nullptr)
            for (const tools::SurveyedBlock& block : blocks_)
                if (changed.contains(block.location))
                    std::printf("damaged: block %llu, %s\n", (unsigned long long)block.location.value(),
                                std::string(to_string(block.role)).c_str());
        repair(changed, seed, kind == Kind::link || kind == Kind::stale);
        for (auto& [command, tally] : peers_)
            tally.add(run_peer(command, changed));
        ASSERT_TRUE(damaged.undo());
    }

    void print(Kind kind) {
        tally_.print(fmt::format("{} pool, {}", pool_.name, to_string(kind)));
        for (auto& [command, tally] : peers_) {
            tally.print("  " + command);
            tally = {};
        }
        tally_ = {};
    }

    const Tally& tally() const { return tally_; }

  private:
    void repair(const std::set<MetadataBlock>& changed, std::uint64_t seed, bool checksums_right) {
        ++tally_.faults;
        const bool sample = seed % 16 == 0;
        const std::uint32_t input_sum = sample ? sum_of(*pool_.metadata) : 0;
        tools::RepairOptions options;
        if (changed.contains(MetadataBlock(0))) {
            options.data_block_sectors = pool_.superblock.data_block_sectors;
            options.data_blocks = 300000;
        }
        auto repair = tools::Repair::plan(*pool_.metadata, options);
        // With both trees at the top gone nothing says which mappings are whose.
        if (!repair) {
            ++tally_.refused;
            EXPECT_EQ(repair.error().kind(), ErrorKind::damaged) << repair.error().message();
            EXPECT_TRUE(touches(changed, {pool_.superblock.data_mapping_root}) && touches(changed, {pool_.superblock.device_details_root}))
                << repair.error().message();
            return;
        }
        MemoryDevice output((*repair)->report().metadata_blocks * 4096 + (1u << 20), "output");
        auto written = (*repair)->write(output);
        ASSERT_TRUE(written) << written.error().message();
        if (sample) {
            EXPECT_EQ(sum_of(*pool_.metadata), input_sum) << "the input was changed";
        }
        auto structure = crash::check_structure(output);
        EXPECT_TRUE(structure) << structure.error().message();
        if (sample) {
            auto checked = crash::run_thin_check(output);
            EXPECT_TRUE(checked) << checked.error().message();
        }
        auto back = read_contents(output);
        ASSERT_TRUE(back) << back.error().message();
        const Tally tally = compare(pool_, changed, *back);
        const tools::TreeRoots& roots = (*repair)->report().roots;
        // Without the superblock nothing proves which transaction was the last: roots of an older one are told, not hidden.
        if (roots.devices != pool_.superblock.data_mapping_root || roots.details != pool_.superblock.device_details_root) {
            EXPECT_TRUE((*repair)->report().superblock_lost);
            tally_.add(tally);
            return;
        }
        // Where a sound node leads to another volume's, it may be open which of the two is right: then neither gets it, and that is told.
        if (!checksums_right || (*repair)->report().unplaced.empty()) {
            EXPECT_EQ(tally.reachable_back, tally.reachable) << "mappings with a sound path are missing";
        }
        EXPECT_EQ(tally.wrong, 0u) << "mappings came back that weren't there";
        if (std::getenv("LAMELLA_DAMAGE_SEED") != nullptr)
            tell((*repair)->report());
        tally_.add(tally);
        expect_losses_named(pool_, *back, (*repair)->report());
    }

    static void tell(const tools::RepairReport& report) {
        for (const tools::RepairedVolume& volume : report.volumes) {
            std::printf("volume %u: recorded %lld, intact %llu, recovered %llu%s\n", volume.id.value(),
                        volume.recorded ? (long long)*volume.recorded : -1, (unsigned long long)volume.intact,
                        (unsigned long long)volume.recovered, volume.complete ? "" : ", incomplete");
            for (const tools::KeyRange& range : volume.lost)
                std::printf("  lost %llu..%llu\n", (unsigned long long)range.begin, (unsigned long long)range.end);
        }
        for (const tools::UnplacedOrphan& orphan : report.unplaced)
            std::printf("orphan %llu: %llu..%llu, %llu mappings, %zu possible owners\n", (unsigned long long)orphan.block.value(),
                        (unsigned long long)orphan.first, (unsigned long long)orphan.last, (unsigned long long)orphan.mappings,
                        orphan.possible_owners.size());
    }

    Tally run_peer(const std::string& command, const std::set<MetadataBlock>& changed) {
        Tally tally;
        const std::string folder = std::filesystem::temp_directory_path() / fmt::format("lamella-damage-{}", ::getpid());
        std::filesystem::create_directories(folder);
        const std::string in = folder + "/in";
        const std::string out = folder + "/out";
        std::vector<std::byte> bytes(pool_.metadata->size());
        EXPECT_TRUE(read_now(*pool_.metadata, 0, bytes));
        std::ofstream(in, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        std::ofstream(out, std::ios::binary | std::ios::trunc).close();
        std::filesystem::resize_file(out, bytes.size() * 4);
        const int status = std::system((command + " -i " + in + " -o " + out + " >/dev/null 2>&1").c_str());
        Contents back;
        bool sound = false;
        if (status == 0) {
            std::vector<std::byte> repaired(bytes.size() * 4);
            std::ifstream(out, std::ios::binary)
                .read(reinterpret_cast<char*>(repaired.data()), static_cast<std::streamsize>(repaired.size()));
            MemoryDevice output(repaired.size(), "output of " + command);
            EXPECT_TRUE(write_now(output, 0, repaired));
            if (auto contents = read_contents(output)) {
                back = std::move(*contents);
                sound = crash::check_structure(output).has_value();
            }
        }
        tally = compare(pool_, changed, back);
        tally.faults = 1;
        tally.refused = status != 0;
        tally.unsound = status == 0 && !sound;
        std::filesystem::remove_all(folder);
        return tally;
    }

    Pool pool_;
    std::vector<tools::SurveyedBlock> blocks_;
    Tally tally_;
    std::vector<std::pair<std::string, Tally>> peers_;
};

struct Case {
    std::string pool;
    Kind kind;
};

class DamageCampaign : public testing::TestWithParam<Case> {};

TEST_P(DamageCampaign, ReturnsWhatSurvived) {
    const Case& parameters = GetParam();
    Campaign campaign(parameters.pool == "small"  ? make_small_pool(1)
                      : parameters.pool == "deep" ? make_deep_pool(2)
                                                  : make_shared_pool(3));
    const std::uint64_t default_faults = parameters.kind == Kind::superblock ? 2 : parameters.pool == "small" ? 100 : 20;
    const std::uint64_t one = number_from("LAMELLA_DAMAGE_SEED", UINT64_MAX);
    const std::uint64_t faults = number_from("LAMELLA_DAMAGE_FAULTS", default_faults / slowness);
    for (std::uint64_t seed = one == UINT64_MAX ? 0 : one; seed < (one == UINT64_MAX ? faults : one + 1) && !HasFailure(); ++seed)
        campaign.run(parameters.kind, seed);
    campaign.print(parameters.kind);
}

// An old inner node of one volume, with a right checksum. Some of the blocks that it names are other leaves of the volume by now, within the
// ranges that the node has for them: the ranges of what it lacks altogether aren't all that is missing.
TEST(DamageSeeds, OldNodeThatLeadsToPartOfWhatItSays) {
    Campaign campaign(make_shared_pool(3));
    campaign.run(Kind::stale, 209);
    EXPECT_GT(campaign.tally().orphaned, campaign.tally().orphaned_back) << "the seed draws something else by now";
}

std::vector<Case> all_cases() {
    std::vector<Case> cases;
    for (const char* pool : {"small", "deep", "shared"})
        for (Kind kind : {Kind::zero, Kind::flip, Kind::scramble, Kind::swap, Kind::stale, Kind::link, Kind::mixed, Kind::superblock})
            cases.push_back({pool, kind});
    return cases;
}

INSTANTIATE_TEST_SUITE_P(All, DamageCampaign, testing::ValuesIn(all_cases()), [](const auto& instance) {
    std::string name = instance.param.pool + "_" + std::string(to_string(instance.param.kind));
    std::ranges::replace(name, '-', '_');
    std::ranges::replace(name, ' ', '_');
    return name;
});

}  // namespace
}  // namespace lamella::damage
