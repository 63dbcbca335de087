// SPDX-License-Identifier: Apache-2.0
//
// A volume of a group with classic snapshots, whose power is cut at a random operation: while chunks are copied, while snapshots are
// taken, extended, removed and merged. Afterwards the origin holds every durable write, each snapshot that was reported taken holds its
// moment and its own writes, and none that was being taken or removed is there by half. A merge goes on, and the origin shows its end.
#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <random>

#include <gtest/gtest.h>

#include "content.h"
#include "device/crash_device.h"
#include "device/simulation.h"
#include "device/slice_device.h"
#include "lvm2/store.h"
#include "seeds.h"
#include "volumes/engine_group.h"

namespace lamella::crash {
namespace {

constexpr unsigned shards = 2;
constexpr std::uint64_t default_seeds = 150;
constexpr unsigned lives = 4;
constexpr std::uint64_t disk_bytes = 8 << 20;
constexpr std::uint64_t extent_bytes = 64 << 10;
constexpr std::uint64_t origin_bytes = 4 * extent_bytes;
constexpr std::uint64_t chunk_bytes = 4096;
constexpr std::size_t places = 12;  // chunks that are written to: their first sector
constexpr std::uint64_t place_bytes = 5 * chunk_bytes;

class SnapshotsWorld {
  public:
    explicit SnapshotsWorld(std::uint64_t seed) : seed_(seed), random_(seed * 0x9e3779b97f4a7c15u + 11) {
        archive_ = std::filesystem::temp_directory_path() / fmt::format("lamella-snapshots-{}-{}", ::getpid(), seed);
    }
    ~SnapshotsWorld() { std::filesystem::remove_all(archive_); }

    void run() {
        make_group();
        for (unsigned life = 0; life < lives && !testing::Test::HasFailure(); ++life) {
            SCOPED_TRACE(fmt::format("seed {}, life {}", seed_, life));
            live(life);
        }
    }

  private:
    using Values = std::array<Value, places>;
    using Model = std::map<std::string, Values>;  // "thick" and its snapshots

    std::uint64_t draw(std::uint64_t count) { return random_() % count; }

    std::unique_ptr<CrashDevice> disk(PowerSwitch& power, CompletionDelays delays = {}) {
        return std::make_unique<CrashDevice>(disk_bytes, "disk", power, std::move(content_), delays);
    }
    Result<std::unique_ptr<EngineGroup>> open(BlockDevice& device, IoQueue& queue) const {
        EngineOptions options;
        options.archive_directory = archive_;
        options.queue = &queue;
        options.snapshot_autoextend_threshold = 70;
        std::vector<std::unique_ptr<BlockDevice>> views;
        views.push_back(TRY(SliceDevice::create(device, 0, disk_bytes, device.name())));
        return EngineGroup::open(std::move(views), options);
    }

    void make_group() {
        Simulation simulation(seed_);
        const auto queue = simulation.make_queue();
        PowerSwitch steady;
        const auto machine = disk(steady);
        {
            lvm2::NewGroup group;
            group.name = "vg";
            group.extent_sectors = extent_bytes / sector_bytes;
            group.physical_volumes = {{machine.get(), 1}};
            lvm2::StoreOptions store_options;
            store_options.writable = true;
            const auto store = lvm2::GroupStore::create(group, store_options);
            ASSERT_TRUE(store) << store.error().message();
        }
        auto opened = open(*machine, *queue);
        ASSERT_TRUE(opened) << opened.error().message();
        ASSERT_TRUE((*opened)->create_volume({.name = "thick", .size = {.value = origin_bytes}, .linear = true}, {}));
        ASSERT_TRUE((*opened)->close());
        model_["thick"] = {};
        content_ = machine->remains(random_());
    }

    void live(unsigned life) {
        Simulation simulation(seed_ * 100 + life);
        const auto queue = simulation.make_queue();
        power_ = std::make_unique<PowerSwitch>();
        const auto machine = disk(*power_, {seed_ + life, static_cast<unsigned>(draw(3))});
        power_->cut_after(1 + (draw(4) == 0 ? draw(30) : draw(300)));
        if (auto opened = open(*machine, *queue)) {
            group_ = opened->get();
            {
                // In use for all of this life, or by each write anew.
                const auto source = group_->exports();
                Result<std::unique_ptr<Export>> held;
                if (draw(2) == 0)
                    held = source->open("thick", false);
                in_use_ = held && *held != nullptr;
                for (unsigned round = 0; !power_->off() && !testing::Test::HasFailure() && round < 2000; ++round)
                    administer(*queue, *source);
            }
            (void)(*opened)->close();
            group_ = nullptr;
        } else {
            ASSERT_TRUE(power_->off()) << opened.error().message();
        }
        content_ = machine->remains(random_());
        if (!testing::Test::HasFailure())
            inspect();
    }

    template <typename Change>
    void perform(const std::string& what, Model after, Change change) {
        under_way_ = after;
        what_ = what;
        const auto done = change();
        if (done) {
            model_ = std::move(after);
            under_way_.reset();
        } else if (!power_->off()) {
            under_way_.reset();
            EXPECT_EQ(done.error().kind(), ErrorKind::no_space) << what << ": " << done.error().message();
        }
    }

    std::string any_snapshot() { return std::next(model_.begin(), static_cast<std::ptrdiff_t>(draw(model_.size() - 1)))->first; }

    void administer(IoQueue& queue, ExportSource& source) {
        // "thick" sorts behind the snapshots.
        const bool has_snapshots = model_.size() > 1;
        Model after = model_;
        const std::uint64_t what = draw(20);
        group_->look_after_snapshots();
        if (what == 0 && model_.size() < 5 && merging_.empty()) {
            const std::string name = fmt::format("s{}", ++last_name_);
            after[name] = after["thick"];
            CreateSnapshot request;
            request.origin = "thick";
            request.name = name;
            request.size = {SizeRequest::Base::percent_of_origin, SizeRequest::Relation::absolute, draw(2) == 0 ? 100'00u : 50'00u};
            perform("snapshot " + name, after, [&] { return group_->create_snapshots({request}, {}); });
        } else if (what == 1 && has_snapshots) {
            const std::string name = any_snapshot();
            after.erase(name);
            perform("remove " + name, after, [&] { return group_->remove({name}, false, {}); });
        } else if (what == 2 && has_snapshots) {
            ResizeVolume request{.name = any_snapshot()};
            request.size = {SizeRequest::Base::bytes, SizeRequest::Relation::grow, extent_bytes};
            perform("extend " + request.name, after, [&] { return group_->resize(request, {}); });
        } else if (what == 3 && has_snapshots && !in_use_ && merging_.empty()) {
            const std::string name = any_snapshot();
            after["thick"] = after[name];
            after.erase(name);
            merging_ = name;
            perform("merge " + name, after, [&] { return group_->rollback("thick", name, {}); });
        } else {
            write(has_snapshots && draw(3) == 0 ? any_snapshot() : "thick", queue, source);
        }
        if (!merging_.empty() && !power_->off() && !group_->volume(merging_))
            merging_.clear();
    }

    int submit(BlockDevice& device, IoQueue& queue, IoOperation operation, std::uint64_t offset, std::vector<std::byte>& bytes) {
        struct One : IoRequest {
            std::optional<int> error;
        } request;
        iovec vector{bytes.data(), bytes.size()};
        request.operation = operation;
        request.durable = operation == IoOperation::write;
        request.offset = offset;
        request.length = bytes.size();
        request.vectors = {&vector, 1};
        request.completed = [](IoRequest& completed, int error) { static_cast<One&>(completed).error = error; };
        device.submit(queue, request);
        queue.run_until([&] { return request.error.has_value(); });
        return *request.error;
    }

    void write(const std::string& name, IoQueue& queue, ExportSource& source) {
        const std::size_t place = draw(places);
        Model after = model_;
        after[name][place] = ++last_value_;
        std::vector<std::byte> bytes(draw(3) == 0 ? chunk_bytes : sector_bytes);
        for (std::size_t sector = 0; sector < bytes.size() / sector_bytes; ++sector)
            fill_sector(bytes.data() + sector * sector_bytes, last_value_, place);
        const bool alone = name == "thick" && in_use_;
        perform("write " + name, after, [&]() -> Result<void> {
            std::unique_ptr<Export> opened;
            // An export that lives isn't opened a second time; what serves its volume is the group's own anyway.
            const auto others = alone ? group_->exports() : nullptr;
            opened = TRY((alone ? *others : source).open(name, false));
            const int error = submit(opened->device(), queue, IoOperation::write, place * place_bytes, bytes);
            if (error != 0)
                return fail_errno(name, error);
            return {};
        });
    }

    void inspect() {
        Simulation simulation(seed_);
        const auto queue = simulation.make_queue();
        PowerSwitch steady;
        const auto machine = disk(steady);
        auto opened = open(*machine, *queue);
        ASSERT_TRUE(opened) << "after the crash in '" << what_ << "': " << opened.error().message();
        group_ = opened->get();
        const auto info = group_->info();
        ASSERT_TRUE(info);
        EXPECT_TRUE(info->findings.empty()) << "after the crash in '" << what_ << "': " << info->findings.front();
        const auto first = look(*queue);
        if (under_way_ && first == *under_way_)
            model_ = *under_way_;
        EXPECT_EQ(describe(first), describe(model_))
            << "after the crash in '" << what_ << "'" << (under_way_ ? "; or: " + describe(*under_way_) : "");
        under_way_.reset();
        if (draw(2) == 0) {
            // To the end of a merge.
            const auto merging = [&] {
                group_->look_after_snapshots();
                const auto volumes = group_->volumes();
                return std::ranges::any_of(*volumes, [](const VolumeInfo& volume) { return volume.snapshot_state == "merging"; });
            };
            while (merging() && !testing::Test::HasFailure())
                queue->run_once(true);
            EXPECT_EQ(describe(look(*queue)), describe(model_)) << "after the merge";
        }
        ASSERT_TRUE((*opened)->close());
        group_ = nullptr;
        merging_.clear();
        content_ = machine->remains(random_());
        {
            PowerSwitch still;
            const auto again = disk(still);
            const auto reopened = open(*again, *queue);
            ASSERT_TRUE(reopened) << reopened.error().message();
            const auto volumes = (*reopened)->volumes();
            ASSERT_TRUE(volumes);
            for (const VolumeInfo& volume : *volumes)
                if (volume.snapshot_state == "merging")
                    merging_ = volume.name;
            ASSERT_TRUE((*reopened)->close());
            content_ = again->remains(random_());
        }
    }

    Model look(IoQueue& queue) {
        Model found;
        const auto source = group_->exports();
        const auto volumes = group_->volumes();
        EXPECT_TRUE(volumes);
        for (const VolumeInfo& volume : *volumes) {
            if (!volume.visible)
                continue;
            EXPECT_EQ(volume.refused, "") << volume.name;
            const auto exported = source->open(volume.name, true);
            EXPECT_TRUE(exported) << volume.name << ": " << exported.error().message();
            if (!exported)
                continue;
            for (std::size_t place = 0; place < places; ++place) {
                std::vector<std::byte> bytes(sector_bytes);
                EXPECT_EQ(submit((*exported)->device(), queue, IoOperation::read, place * place_bytes, bytes), 0) << volume.name;
                const auto value = sector_value(bytes.data(), place);
                EXPECT_TRUE(value) << volume.name << " holds " << describe_sector(bytes.data(), place);
                found[volume.name][place] = value.value_or(0);
            }
        }
        return found;
    }

    static std::string describe(const Model& model) {
        std::string text;
        for (const auto& [name, values] : model)
            text += fmt::format("{}: {}; ", name, fmt::join(values, " "));
        return text;
    }

    const std::uint64_t seed_;
    std::mt19937_64 random_;
    std::filesystem::path archive_;
    SparseBytes content_;
    std::unique_ptr<PowerSwitch> power_;
    EngineGroup* group_ = nullptr;
    bool in_use_ = false;
    std::string merging_;
    Model model_;
    std::optional<Model> under_way_;
    std::string what_;
    unsigned last_name_ = 0;
    Value last_value_ = 0;
};

class SnapshotsCrash : public testing::TestWithParam<unsigned> {};

TEST_P(SnapshotsCrash, HoldTheirMomentThroughCuts) {
    run_seeds("*SnapshotsCrash*", default_seeds, GetParam(), shards, [](std::uint64_t seed) { SnapshotsWorld(seed).run(); });
}

INSTANTIATE_TEST_SUITE_P(Shards, SnapshotsCrash, testing::Range(0u, shards));

}  // namespace
}  // namespace lamella::crash
