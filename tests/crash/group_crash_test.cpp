// SPDX-License-Identifier: Apache-2.0
//
// A group on two simulated disks, under administration, whose power is cut at a random operation. A change of a thin pool is
// durable in three steps (the group's text with messages, the pool, the text without them), and a crash may come between any two
// writes of any of them. Afterwards the group must open for writing, text and pool agree, and hold every change that was reported done;
// the one that was under way may be done or not, but not by half.
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <sstream>

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
constexpr std::uint64_t default_seeds = 80;
constexpr unsigned lives = 4;
constexpr std::uint64_t disk_bytes = 24 << 20;
constexpr std::uint64_t extent_bytes = 64 << 10;

class GroupWorld {
  public:
    explicit GroupWorld(std::uint64_t seed) : seed_(seed), random_(seed * 0x9e3779b97f4a7c15u + 7) {
        archive_ = std::filesystem::temp_directory_path() / fmt::format("lamella-crash-{}-{}", ::getpid(), seed);
        // No disk of this machine: it stays as it is.
        std::filesystem::create_directories(archive_);
        image_ = archive_ / "base.raw";
        std::vector<std::byte> bytes(3 * extent_bytes + sector_bytes);
        fill_sector(bytes.data(), image_value, 0);
        std::ofstream(image_, std::ios::binary)
            .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    }
    ~GroupWorld() { std::filesystem::remove_all(archive_); }

    void run() {
        make_group();
        for (unsigned life = 0; life < lives && !testing::Test::HasFailure(); ++life) {
            SCOPED_TRACE(fmt::format("seed {}, life {}", seed_, life));
            live(life);
        }
    }

  private:
    struct Volume {
        std::uint64_t size = 0;
        Value value = 0;  // what its first sector holds
        std::string origin;
        std::set<std::string> tags{};
        bool of_image = false;  // what it hasn't itself is read from an image outside of the group
        bool operator==(const Volume&) const = default;
    };
    // What the group should hold.
    struct Model {
        std::map<std::string, Volume> volumes;
        std::uint64_t pool_size = 0;
        std::uint64_t metadata_size = 0;
        bool operator==(const Model&) const = default;
    };

    std::uint64_t draw(std::uint64_t count) { return random_() % count; }

    // The disks of one life. The group owns what it is given, so that gets a view of each.
    struct Disks {
        std::vector<std::unique_ptr<CrashDevice>> raw;
        std::vector<std::unique_ptr<BlockDevice>> views;
        std::vector<BlockDevice*> borrowed;
    };
    Disks disks(PowerSwitch& power, CompletionDelays delays = {}) {
        Disks made;
        for (std::size_t number = 0; number < 2; ++number) {
            made.raw.push_back(
                std::make_unique<CrashDevice>(disk_bytes, fmt::format("disk{}", number), power, std::move(content_[number]), delays));
            made.views.push_back(*SliceDevice::create(*made.raw.back(), 0, disk_bytes, made.raw.back()->name()));
            made.borrowed.push_back(made.raw.back().get());
        }
        return made;
    }
    void keep(const Disks& disks) {
        for (std::size_t number = 0; number < 2; ++number)
            content_[number] = disks.raw[number]->remains(random_());
    }

    EngineOptions engine_options(IoQueue& queue) const {
        EngineOptions options;
        options.archive_directory = archive_;
        options.queue = &queue;
        return options;
    }

    void make_group() {
        Simulation simulation(seed_);
        const auto queue = simulation.make_queue();
        PowerSwitch steady;
        content_.resize(2);
        Disks made_disks = disks(steady);
        {
            lvm2::NewGroup group;
            group.name = "vg";
            group.extent_sectors = extent_bytes / sector_bytes;
            // Sometimes only one of the volumes holds the text, sometimes one holds it twice.
            group.physical_volumes = {{made_disks.borrowed[0], static_cast<unsigned>(1 + draw(2))},
                                      {made_disks.borrowed[1], static_cast<unsigned>(draw(3))}};
            lvm2::StoreOptions store_options;
            store_options.writable = true;
            auto store = lvm2::GroupStore::create(group, store_options);
            ASSERT_TRUE(store) << store.error().message();
        }
        auto opened = EngineGroup::open(std::move(made_disks.views), engine_options(*queue));
        ASSERT_TRUE(opened) << opened.error().message();
        CreatePool pool;
        pool.name = "pool";
        pool.size.value = 4 << 20;
        pool.metadata_size = 1 << 20;
        pool.stripes = static_cast<std::uint32_t>(1 + draw(2));
        const auto made = (*opened)->create_pool(pool, {});
        ASSERT_TRUE(made) << made.error().message();
        model_.pool_size = made->size;
        model_.metadata_size = *made->metadata_size;
        ASSERT_TRUE((*opened)->close());
        keep(made_disks);
    }

    void live(unsigned life) {
        Simulation simulation(seed_ * 100 + life);
        const auto queue = simulation.make_queue();
        power_ = std::make_unique<PowerSwitch>();
        Disks machine = disks(*power_, {seed_ + life, static_cast<unsigned>(draw(3))});
        // Also while what an earlier crash left is being put right.
        power_->cut_after(1 + (draw(4) == 0 ? draw(40) : draw(400)));
        if (auto opened = EngineGroup::open(std::move(machine.views), engine_options(*queue))) {
            group_ = opened->get();
            for (unsigned round = 0; !power_->off() && !testing::Test::HasFailure() && round < 5000; ++round)
                administer(*queue);
            (void)(*opened)->close();
            group_ = nullptr;
        } else {
            ASSERT_TRUE(power_->off()) << opened.error().message();
        }
        keep(machine);
        if (!testing::Test::HasFailure())
            inspect();
    }

    // Performs a change; `after`: the model with it.
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

    std::string any_volume() { return std::next(model_.volumes.begin(), static_cast<std::ptrdiff_t>(draw(model_.volumes.size())))->first; }

    void administer(IoQueue& queue) {
        Model after = model_;
        const std::uint64_t what = model_.volumes.empty() ? 0 : draw(model_.volumes.size() > 12 ? 6 : 12);
        switch (what) {
        case 0:
        case 6: {
            const std::string name = fmt::format("v{}", ++last_name_);
            CreateVolume request;
            request.name = name;
            request.size.value = extent_bytes * (1 + draw(40));
            after.volumes[name] = {request.size.value};
            if (draw(3) == 0) {
                request.origin_file = image_;
                after.volumes[name].value = image_value;
                after.volumes[name].of_image = true;
            }
            perform("create " + name, after, [&] { return group_->create_volume(request, {}); });
            if (!power_->off() && model_.volumes.contains(name) && (request.origin_file.empty() || draw(2) == 0))
                write(name, queue);
            return;
        }
        case 1: {
            const std::string name = any_volume();
            // Snapshots keep a name that is gone for an origin no longer.
            after.volumes.erase(name);
            for (auto& [other, volume] : after.volumes)
                if (volume.origin == name)
                    volume.origin.clear();
            return perform("remove " + name, after, [&] { return group_->remove({name}, false, {}); });
        }
        case 2: {
            const std::string name = any_volume();
            const std::string new_name = fmt::format("r{}", ++last_name_);
            auto moved = after.volumes.extract(name);
            moved.key() = new_name;
            after.volumes.insert(std::move(moved));
            for (auto& [other, volume] : after.volumes)
                if (volume.origin == name)
                    volume.origin = new_name;
            return perform("rename " + name, after, [&] { return group_->rename(name, new_name, {}); });
        }
        case 3: {
            const std::string name = any_volume();
            const std::string tag = fmt::format("t{}", ++last_name_);
            after.volumes[name].tags.insert(tag);
            return perform("tag " + name, after, [&] { return group_->change_tags(name, {tag}, {}, {}); });
        }
        case 4: {
            const std::string name = any_volume();
            return write(name, queue);
        }
        case 5: {
            // What the pool has as metadata then was the spare.
            const auto volumes = group_->volumes();
            if (!volumes)
                return;
            std::uint64_t used = 0;
            for (const VolumeInfo& volume : *volumes) {
                if (volume.kind == VolumeKind::spare)
                    after.metadata_size = volume.size;
                if (volume.kind == VolumeKind::thin_pool)
                    used = volume.data_used.value_or(0);
            }
            // So small that data has to move.
            const std::uint64_t steps = std::max<std::uint64_t>(1, (used + 2 * extent_bytes - 1) / (2 * extent_bytes) + draw(2));
            ResizeVolume request{.name = "pool", .shrink_allowed = true};
            request.size = {SizeRequest::Base::bytes, SizeRequest::Relation::absolute, steps * 2 * extent_bytes};
            if (request.size.value >= after.pool_size)
                return;
            after.pool_size = request.size.value;
            return perform("shrink", after, [&] { return group_->resize(request, {}); });
        }
        case 7:
        case 8: {
            std::vector<CreateSnapshot> requests;
            std::set<std::string> origins;
            for (std::uint64_t count = 1 + draw(3); count > 0; --count)
                origins.insert(any_volume());
            for (const std::string& origin : origins) {
                const std::string name = fmt::format("s{}", ++last_name_);
                requests.push_back({origin, name, false, {}});
                after.volumes[name] = after.volumes[origin];
                after.volumes[name].origin = origin;
                after.volumes[name].tags.clear();
            }
            return perform("snapshot", after, [&] { return group_->create_snapshots(requests, {}); });
        }
        case 9:
        case 10: {
            ResizeVolume request;
            request.name = "pool";
            request.metadata = draw(2) == 0;
            request.size = {SizeRequest::Base::bytes, SizeRequest::Relation::grow,
                            2 * extent_bytes * (request.metadata ? 1 : 1 + draw(12))};
            (request.metadata ? after.metadata_size : after.pool_size) += request.size.value;
            return perform("extend", after, [&] { return group_->resize(request, {}); });
        }
        default: {
            ResizeVolume request;
            request.name = any_volume();
            request.size = {SizeRequest::Base::bytes, SizeRequest::Relation::grow, extent_bytes * (1 + draw(4))};
            after.volumes[request.name].size += request.size.value;
            return perform("resize " + request.name, after, [&] { return group_->resize(request, {}); });
        }
        }
    }

    int submit(BlockDevice& device, IoQueue& queue, IoOperation operation, std::vector<std::byte>& bytes) {
        struct One : IoRequest {
            std::optional<int> error;
        } request;
        iovec vector{bytes.data(), bytes.size()};
        request.operation = operation;
        request.durable = operation == IoOperation::write;
        request.length = bytes.size();
        request.vectors = {&vector, 1};
        request.completed = [](IoRequest& completed, int error) { static_cast<One&>(completed).error = error; };
        device.submit(queue, request);
        queue.run_until([&] { return request.error.has_value(); });
        return *request.error;
    }

    // A durable write to the first sector.
    void write(const std::string& name, IoQueue& queue) {
        Model after = model_;
        after.volumes[name].value = ++last_value_;
        std::vector<std::byte> bytes(sector_bytes);
        fill_sector(bytes.data(), last_value_, 0);
        perform("write " + name, after, [&]() -> Result<void> {
            auto exports = group_->exports();
            auto opened = TRY(exports->open(name, false));
            const int error = submit(opened->device(), queue, IoOperation::write, bytes);
            if (error != 0)
                return fail_errno(name, error);
            return {};
        });
    }

    void inspect() {
        Simulation simulation(seed_);
        const auto queue = simulation.make_queue();
        PowerSwitch steady;
        Disks machine = disks(steady);
        auto opened = EngineGroup::open(std::move(machine.views), engine_options(*queue));
        ASSERT_TRUE(opened) << "after the crash in '" << what_ << "': " << opened.error().message();
        group_ = opened->get();
        const auto info = group_->info();
        ASSERT_TRUE(info);
        EXPECT_TRUE(info->findings.empty()) << "after the crash in '" << what_ << "': " << info->findings.front();

        const Model found = look(*queue);
        if (testing::Test::HasFailure())
            return;
        if (under_way_ && found == *under_way_)
            model_ = *under_way_;
        EXPECT_EQ(describe(found), describe(model_))
            << "after the crash in '" << what_ << "'" << (under_way_ ? "; or: " + describe(*under_way_) : "");
        under_way_.reset();

        // The text agrees with the pool, and nothing is queued any more.
        const auto status = group_->status_line("pool");
        ASSERT_TRUE(status) << status.error().message();
        const std::string target = " thin-pool ";
        ASSERT_NE(status->find(target), std::string::npos) << *status;
        std::istringstream words(status->substr(status->find(target) + target.size()));
        std::uint64_t in_pool = 0, used = 0, chunks = 0;
        std::string metadata;
        char slash = 0;
        words >> in_pool >> metadata >> used >> slash >> chunks;
        ASSERT_FALSE(words.fail()) << *status;
        auto store = lvm2::GroupStore::open(machine.borrowed, {});
        ASSERT_TRUE(store) << store.error().message();
        EXPECT_TRUE(store->findings().empty());
        const auto* pool = store->group().logical_volume("pool")->sole<lvm2::ThinPool>();
        ASSERT_NE(pool, nullptr);
        EXPECT_EQ(pool->transaction_id, in_pool);
        EXPECT_TRUE(pool->messages.empty());
        // It can be changed right away.
        CreateVolume request;
        request.name = fmt::format("after{}", ++last_name_);
        request.size.value = extent_bytes;
        const auto created = group_->create_volume(request, {});
        if (used < chunks) {
            ASSERT_TRUE(created) << created.error().message();
            model_.volumes[request.name] = {request.size.value};
        } else {
            ASSERT_FALSE(created);
            ASSERT_EQ(created.error().kind(), ErrorKind::no_space) << created.error().message();
        }
        ASSERT_TRUE((*opened)->close());
        group_ = nullptr;
        keep(machine);
    }

    Model look(IoQueue& queue) {
        Model found;
        const auto volumes = group_->volumes();
        EXPECT_TRUE(volumes);
        if (!volumes)
            return found;
        auto exports = group_->exports();
        for (const VolumeInfo& volume : *volumes) {
            if (volume.kind == VolumeKind::thin_pool) {
                found.pool_size = volume.size;
                found.metadata_size = *volume.metadata_size;
            }
            if (volume.kind != VolumeKind::thin)
                continue;
            EXPECT_EQ(volume.refused, "") << volume.name;
            Volume& one = found.volumes[volume.name];
            one.size = volume.size;
            one.origin = volume.origin;
            one.tags = {volume.tags.begin(), volume.tags.end()};
            one.of_image = !volume.origin_file.empty();
            auto exported = exports->open(volume.name, true);
            EXPECT_TRUE(exported) << volume.name << ": " << exported.error().message();
            if (!exported)
                continue;
            std::vector<std::byte> bytes(sector_bytes);
            EXPECT_EQ(submit((*exported)->device(), queue, IoOperation::read, bytes), 0);
            const auto value = sector_value(bytes.data(), 0);
            EXPECT_TRUE(value) << volume.name << " holds " << describe_sector(bytes.data(), 0);
            one.value = value.value_or(0);
        }
        return found;
    }

    static std::string describe(const Model& model) {
        std::string text = fmt::format("pool {} + {}", model.pool_size, model.metadata_size);
        for (const auto& [name, volume] : model.volumes)
            text += fmt::format("; {} {} value {} origin '{}' tags {}{}", name, volume.size, volume.value, volume.origin,
                                fmt::join(volume.tags, ","), volume.of_image ? " of the image" : "");
        return text;
    }

    const std::uint64_t seed_;
    std::mt19937_64 random_;
    std::filesystem::path archive_;
    std::filesystem::path image_;
    std::vector<SparseBytes> content_;
    std::unique_ptr<PowerSwitch> power_;
    EngineGroup* group_ = nullptr;
    Model model_;
    std::optional<Model> under_way_;
    std::string what_;
    unsigned last_name_ = 0;
    static constexpr Value image_value = 1;
    Value last_value_ = image_value;
};

class GroupCrash : public testing::TestWithParam<unsigned> {};

TEST_P(GroupCrash, KeepsEveryChangeThatWasReportedDone) {
    run_seeds("*GroupCrash*", default_seeds, GetParam(), shards, [](std::uint64_t seed) { GroupWorld(seed).run(); });
}

INSTANTIATE_TEST_SUITE_P(Shards, GroupCrash, testing::Range(0u, shards));

}  // namespace
}  // namespace lamella::crash
