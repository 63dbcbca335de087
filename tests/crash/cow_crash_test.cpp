// SPDX-License-Identifier: Apache-2.0
//
// An origin and its classic snapshots on simulated disks, under load, while snapshots come, go, fill up and merge, until the power is cut
// at a random operation; then what is left is opened. The origin and every snapshot must hold what a disk with a volatile cache may hold;
// a snapshot may be invalid where it had no room left, and must be where it was; a merge goes on. Several lives follow each other on the
// same disks. A seed chooses everything.
#include <map>
#include <memory>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "content.h"
#include "cow/origin.h"
#include "device/crash_device.h"
#include "device/memory_device.h"
#include "device/simulation.h"
#include "device/slice_device.h"
#include "seeds.h"

namespace lamella::crash {
namespace {

constexpr unsigned shards = 4;
constexpr std::uint64_t default_seeds = 600;
constexpr std::uint64_t large_seeds = 20;
constexpr unsigned lives = 4;
constexpr unsigned store_count = 3;
constexpr int ways_of_a_cut = 8;

enum class Chunks {
    small,  // 1 to 32 sectors
    large,  // 1024 to 8192: exceptions of areas that are read in several pieces, copies of several reads
};

static_assert((default_seeds + large_seeds) * lives >= 2000);

std::atomic<std::uint64_t> cuts{0};
std::atomic<std::uint64_t> cuts_within_merges{0};  // some of the chunks merged, some not

class World {
  public:
    World(std::uint64_t seed, Chunks chunks)
        : seed_(seed),
          random_(seed * 0x9e3779b97f4a7c15u + 1),
          chunks_(chunks),
          store_bytes_(chunks == Chunks::small ? 160 * 1024 : 20 << 20) {
        one_disk_ = draw(2) == 0;
        origin_bytes_ = (chunks == Chunks::small ? 100 + draw(400) : 10000 + draw(20000)) * sector_bytes;
        // Where the origin ends in a block, stores behind it on the same disk aren't whole blocks of the disk's.
        if (draw(2) == 0)
            physical_block_ = 4096;
        if (draw(2) == 0)
            origin_bytes_ -= origin_bytes_ % physical_block_;
        origin_.content = Content(origin_bytes_ / sector_bytes);
        merge_step_chunks_ = draw(3) == 0 ? 1024 : 1 + draw(8);
    }

    void run() {
        if (one_disk_)
            sizes_ = {origin_bytes_ + store_count * store_bytes_};
        else
            sizes_ = {origin_bytes_, store_count * store_bytes_};
        contents_.resize(sizes_.size());
        for (unsigned life = 0; life < lives && !testing::Test::HasFailure(); ++life) {
            SCOPED_TRACE(fmt::format("seed {}, life {}", seed_, life));
            live(life);
            ++cuts;
        }
    }

  private:
    // The origin, or a snapshot.
    struct Volume {
        BlockDevice* device = nullptr;
        Content content{0};
        std::set<std::pair<std::uint64_t, std::uint64_t>> busy{};  // sectors [first, end) with a request in flight
        unsigned in_flight = 0;
        bool going = false;

        bool is_busy(std::uint64_t first, std::uint64_t end) const {
            return std::any_of(busy.begin(), busy.end(), [&](const auto& range) { return range.first < end && first < range.second; });
        }
    };
    struct Taken : Volume {
        std::shared_ptr<cow::Snapshot> snapshot;
        cow::SnapshotOptions options;
        unsigned store = 0;
        bool merging = false;  // its content is the origin's
        std::uint64_t allocated_before_merge = 0;
        bool had_no_room = false;
        bool invalid = false;
    };
    struct Slot : IoRequest {
        World* world = nullptr;
        IoQueue* home = nullptr;
        Volume* volume = nullptr;
        bool passes_down = false;
        std::uint64_t first = 0, end = 0, begun = 0;
        Value value = 0;
        std::vector<std::byte> memory;
        iovec vector{};
    };

    std::uint64_t draw(std::uint64_t count) { return count == 0 ? 0 : random_() % count; }

    // --- Disks ---

    void lay_out(std::vector<std::unique_ptr<BlockDevice>> disks) {
        disks_ = std::move(disks);
        origin_slice_ = *SliceDevice::create(*disks_[0], 0, origin_bytes_, "origin");
        for (unsigned number = 0; number < store_count; ++number)
            stores_[number] = *SliceDevice::create(*disks_.back(), (one_disk_ ? origin_bytes_ : 0) + number * store_bytes_, store_bytes_,
                                                   fmt::format("store{}", number));
    }
    std::vector<std::unique_ptr<BlockDevice>> forget_disks() {
        origin_slice_.reset();
        for (auto& store : stores_)
            store.reset();
        return std::exchange(disks_, {});
    }

    // --- One life ---

    void live(unsigned life) {
        Simulation simulation(seed_ * 100 + life);
        simulation_ = &simulation;
        power_ = std::make_unique<PowerSwitch>();
        const auto queue = simulation.make_queue();
        const std::unique_ptr<IoQueue> homes[] = {simulation.make_queue(), simulation.make_queue()};
        queue_ = queue.get();
        const CompletionDelays delays{seed_ + life, static_cast<unsigned>(draw(4))};
        std::vector<std::unique_ptr<BlockDevice>> disks;
        std::vector<CrashDevice*> raw;
        for (std::size_t number = 0; number < sizes_.size(); ++number) {
            auto disk =
                std::make_unique<CrashDevice>(sizes_[number], "disk", *power_, std::move(contents_[number]), delays, physical_block_);
            raw.push_back(disk.get());
            disks.push_back(std::move(disk));
        }
        lay_out(std::move(disks));
        open_all();
        resume_merge();
        power_->cut_after(1 + (draw(6) == 0 ? draw(20) : draw(400)));
        std::vector<std::unique_ptr<Slot>> slots;
        for (unsigned number = 0; number < 6; ++number) {
            auto slot = std::make_unique<Slot>();
            slot->world = this;
            slot->home = homes[number % 2].get();
            slot->completed = [](IoRequest& request, int error) {
                static_cast<Slot&>(request).world->finished(static_cast<Slot&>(request), error);
            };
            slots.push_back(std::move(slot));
        }
        accepting_ = true;
        for (unsigned round = 0; !power_->off() && !testing::Test::HasFailure(); ++round) {
            for (const auto& slot : slots)
                if (slot->volume == nullptr)
                    submit(*slot);
            for (std::uint64_t steps = draw(30); steps > 0 && !power_->off(); --steps)
                simulation.step();
            if (!power_->off())
                administer();
            ASSERT_LT(round, 20000u) << "the power never goes";
        }
        accepting_ = false;
        drain(nullptr);
        note_conditions();
        note_merge();
        close_all();
        // One of them goes on living.
        std::vector<std::unique_ptr<BlockDevice>> lost = forget_disks();
        for (int way = 0; way < (chunks_ == Chunks::small ? ways_of_a_cut : 1); ++way) {
            for (std::size_t number = 0; number < raw.size(); ++number)
                contents_[number] = raw[number]->remains(random_());
            if (!testing::Test::HasFailure())
                look_behind_the_ends();
        }
        lost.clear();
        if (!testing::Test::HasFailure())
            inspect();
    }

    void open_all() {
        origin_device_ = *cow::Origin::open(*origin_slice_, {.merge_step_chunks = merge_step_chunks_}, queue_);
        origin_.device = origin_device_.get();
        origin_.going = false;
        for (auto& [number, taken] : taken_)
            open(*taken);
    }

    // A merge that was under way goes on.
    void resume_merge() {
        if (Taken* taken = merging(); taken != nullptr && taken->snapshot != nullptr)
            expect(origin_device_->start_merge(taken->snapshot), "start_merge");
    }

    void open(Taken& taken) {
        auto opened = origin_device_->open_snapshot(*stores_[taken.store], taken.options);
        expect(opened, "open_snapshot");
        if (opened) {
            taken.snapshot = *opened;
            taken.device = opened->get();
            taken.going = taken.merging;
            watch(taken);
        }
    }

    // The event comes when the mark is on the disk: from then on the disk must say so.
    void watch(Taken& taken) {
        taken.snapshot->set_event_handler([this, &taken] {
            if (!power_->off() && !taken.merging && !inspecting_)
                taken.invalid = true;
        });
    }

    template <typename T>
    void expect(const Result<T>& result, const char* what) {
        if (!result && !power_->off())
            ADD_FAILURE() << what << ": " << result.error().message();
    }

    void close_all() {
        expect(origin_device_->end_merge(), "end_merge");
        for (auto& [number, taken] : taken_)
            taken->snapshot.reset();
        origin_device_.reset();
    }

    // Whether the store may have been marked invalid for want of room.
    void note_conditions() {
        for (auto& [number, taken] : taken_) {
            if (taken->snapshot == nullptr)
                continue;
            const auto status = taken->snapshot->snapshot_status();
            const std::uint64_t chunk = taken->snapshot->options().store.chunk_sectors;
            taken->had_no_room = status.usage.total - status.usage.allocated < 2 * chunk;
        }
    }

    void note_merge() {
        const Taken* taken = merging();
        if (taken == nullptr || taken->snapshot == nullptr)
            return;
        const cow::StoreUsage usage = taken->snapshot->snapshot_status().usage;
        if (usage.allocated > usage.metadata && usage.allocated < taken->allocated_before_merge)
            ++cuts_within_merges;
    }

    void drain(const Volume* only) {
        const auto busy = [&] {
            if ((only == nullptr || only == &origin_) && origin_.in_flight > 0)
                return true;
            return std::any_of(taken_.begin(), taken_.end(), [&](const auto& entry) {
                return (only == nullptr || only == entry.second.get()) && entry.second->in_flight > 0;
            });
        };
        for (unsigned steps = 0; busy(); ++steps)
            if (!simulation_->step() || steps > 2'000'000) {
                ADD_FAILURE() << "requests never complete";
                std::abort();  // they would write to memory that is gone
            }
    }

    // --- Requests ---

    void submit(Slot& slot) {
        std::vector<Volume*> usable;
        for (int often = 0; often < 2 && !origin_.going; ++often)
            usable.push_back(&origin_);
        for (const auto& [number, taken] : taken_)
            if (!taken->going && taken->device != nullptr)
                usable.push_back(taken.get());
        if (!accepting_ || usable.empty())
            return;
        Volume& volume = *usable[draw(usable.size())];
        Taken* const taken = &volume == &origin_ ? nullptr : static_cast<Taken*>(&volume);
        const std::uint64_t sectors = volume.content.sectors();
        const std::uint64_t what = draw(100);
        slot.operation = what < 55   ? IoOperation::write
                         : what < 75 ? IoOperation::read
                         : what < 85 ? IoOperation::flush
                         : what < 92 ? IoOperation::discard
                                     : IoOperation::write_zeroes;
        const std::uint64_t count = 1 + draw(draw(4) == 0 ? 80 : 12);
        slot.first = draw(sectors);
        if (draw(3) == 0)
            slot.first -= slot.first % 16;
        slot.end = std::min(sectors, slot.first + count);
        if (slot.operation == IoOperation::flush)
            slot.first = slot.end = 0;
        else if (volume.is_busy(slot.first, slot.end))
            return;
        slot.passes_down = taken != nullptr && slot.operation == IoOperation::discard && taken->options.discard_passdown_origin;
        if (slot.passes_down && (origin_.going || origin_.is_busy(slot.first, slot.end)))
            return;
        slot.volume = &volume;
        slot.offset = slot.first * sector_bytes;
        slot.length = (slot.end - slot.first) * sector_bytes;
        slot.vectors = {};
        slot.durable = slot.keep_allocated = false;
        slot.begun = ++now_;
        slot.value = 0;
        ++volume.in_flight;
        if (slot.operation != IoOperation::flush)
            volume.busy.insert({slot.first, slot.end});
        switch (slot.operation) {
        case IoOperation::write:
            slot.durable = draw(8) == 0;
            slot.value = ++last_value_;
            slot.memory.resize(slot.length);
            for (std::uint64_t sector = slot.first; sector < slot.end; ++sector)
                fill_sector(&slot.memory[(sector - slot.first) * sector_bytes], slot.value, sector);
            volume.content.submitted(slot.first, slot.end - slot.first, slot.value);
            break;
        case IoOperation::write_zeroes: slot.durable = draw(8) == 0; [[fallthrough]];
        case IoOperation::discard:
            volume.content.submitted(slot.first, slot.end - slot.first, 0);
            if (slot.passes_down) {
                ++origin_.in_flight;
                origin_.busy.insert({slot.first, slot.end});
                origin_.content.submitted(slot.first, slot.end - slot.first, 0);
            }
            break;
        case IoOperation::read: slot.memory.assign(slot.length, std::byte{0xee}); break;
        case IoOperation::flush: break;
        }
        if (slot.operation == IoOperation::read || slot.operation == IoOperation::write) {
            slot.vector = {slot.memory.data(), slot.memory.size()};
            slot.vectors = {&slot.vector, 1};
        }
        volume.device->submit(*slot.home, slot);
    }

    void finished(Slot& slot, int error) {
        Volume& volume = *slot.volume;
        Taken* const taken = &volume == &origin_ ? nullptr : static_cast<Taken*>(&volume);
        Content& content = volume.content;
        ++now_;
        if (error == 0) {
            switch (slot.operation) {
            case IoOperation::write:
            case IoOperation::write_zeroes: content.acknowledged(slot.first, slot.end - slot.first, now_, slot.durable); break;
            case IoOperation::flush: content.flushed(slot.begun); break;
            case IoOperation::read: {
                const std::string wrong = content.check_read(slot.first, slot.memory);
                if (!wrong.empty())
                    ADD_FAILURE() << (taken == nullptr ? "origin" : taken->snapshot->name()) << ": " << wrong;
                break;
            }
            // What a discard does depends on where the chunks lie: either content is right.
            case IoOperation::discard: break;
            }
        } else if (!power_->off()) {
            const bool no_discards = slot.operation == IoOperation::discard && error == EOPNOTSUPP && taken != nullptr;
            const bool ended =
                taken != nullptr && error == EIO && taken->snapshot->snapshot_status().condition != cow::SnapshotCondition::active;
            if (!no_discards && !ended)
                ADD_FAILURE() << (taken == nullptr ? "origin" : taken->snapshot->name()) << ": operation "
                              << static_cast<int>(slot.operation) << " failed: " << error;
        }
        if (slot.passes_down) {
            origin_.busy.erase({slot.first, slot.end});
            --origin_.in_flight;
        }
        if (slot.operation != IoOperation::flush)
            volume.busy.erase({slot.first, slot.end});
        --volume.in_flight;
        slot.volume = nullptr;
        if (!power_->off() && draw(4) != 0)
            submit(slot);
    }

    // --- Administration ---

    void administer() {
        switch (draw(16)) {
        case 0:
        case 1:
        case 2: take(); break;
        case 3: remove(); break;
        case 4: merge(); break;
        case 5: pause_merge(); break;
        case 6: reopen(); break;
        default: break;
        }
        // What is invalid gets no more requests, and is removed one day.
        for (auto& [number, taken] : taken_)
            if (taken->snapshot != nullptr && taken->snapshot->snapshot_status().condition == cow::SnapshotCondition::invalid)
                taken->going = true;
    }

    Taken* merging() {
        for (auto& [number, taken] : taken_)
            if (taken->merging)
                return taken.get();
        return nullptr;
    }

    void take() {
        unsigned store = 0;
        while (taken_.contains(store))
            ++store;
        if (store == store_count || merging() != nullptr)
            return;
        auto taken = std::make_unique<Taken>();
        taken->store = store;
        const std::uint64_t kind = draw(5);
        taken->options.store = {.persistent = kind != 0,
                                .overflow = kind > 2,
                                .chunk_sectors = chunks_ == Chunks::small ? std::uint32_t{1} << draw(6) : std::uint32_t{1024} << draw(4)};
        taken->options.discard_zeroes_cow = draw(2) == 0;
        taken->options.discard_passdown_origin = taken->options.discard_zeroes_cow && draw(2) == 0;
        taken->options.name = fmt::format("snapshot {} in store {}", ++taken_count_, store);
        // A store that is used again: what the last one left is wiped first, as lvcreate does it, or only its beginning.
        expect(write_zeroes_now(*stores_[store], 0, draw(2) == 0 ? store_bytes_ : 4096), "wiping");
        expect(flush_now(*stores_[store]), "wiping");
        if (power_->off())
            return;
        const std::uint64_t begun = ++now_;
        auto opened = origin_device_->open_snapshot(*stores_[store], taken->options);
        expect(opened, "open_snapshot");
        if (!opened)
            return;
        taken->snapshot = *opened;
        taken->device = opened->get();
        watch(*taken);
        taken->content = origin_.content.snapshot(begun);
        origin_.content.flushed(begun);
        taken_.emplace(store, std::move(taken));
    }

    void remove() {
        if (taken_.empty())
            return;
        const auto chosen = std::next(taken_.begin(), static_cast<std::ptrdiff_t>(draw(taken_.size())));
        if (chosen->second->merging)
            return;
        chosen->second->going = true;
        drain(chosen->second.get());
        taken_.erase(chosen);  // nothing is kept for it while it is being closed
    }

    void merge() {
        if (Taken* taken = merging()) {
            const auto status = taken->snapshot->snapshot_status();
            if (status.usage.allocated == status.usage.metadata) {
                expect(origin_device_->end_merge(), "end_merge");
                taken->snapshot.reset();
                if (!power_->off())
                    taken_.erase(taken->store);
            } else {
                expect(origin_device_->start_merge(taken->snapshot), "start_merge");  // paused, perhaps
            }
            return;
        }
        if (taken_.empty() || draw(3) != 0)
            return;
        Taken& taken = *std::next(taken_.begin(), static_cast<std::ptrdiff_t>(draw(taken_.size())))->second;
        if (taken.going || !taken.options.store.persistent)
            return;
        // As when the origin's table is replaced: suspended, then resumed.
        taken.going = origin_.going = true;
        drain(&taken);
        drain(&origin_);
        if (power_->off() || taken.snapshot->snapshot_status().condition == cow::SnapshotCondition::invalid) {
            origin_.going = false;
            return;
        }
        taken.merging = true;
        taken.allocated_before_merge = taken.snapshot->snapshot_status().usage.allocated;
        origin_.content = taken.content;
        expect(origin_device_->start_merge(taken.snapshot), "start_merge");
        origin_.going = false;
    }

    void pause_merge() {
        if (merging() != nullptr)
            origin_device_->stop_merge();
    }

    // Everything is closed and opened again, without a crash.
    void reopen() {
        if (draw(3) != 0)
            return;
        accepting_ = false;
        drain(nullptr);
        note_conditions();
        close_all();
        for (auto entry = taken_.begin(); entry != taken_.end();)
            entry = !entry->second->options.store.persistent ? taken_.erase(entry) : std::next(entry);
        if (power_->off()) {
            origin_device_ = *cow::Origin::open(*origin_slice_, {.merge_step_chunks = merge_step_chunks_}, queue_);
            return;
        }
        open_all();
        for (auto& [number, taken] : taken_)
            if (taken->snapshot != nullptr) {
                EXPECT_EQ(taken->snapshot->snapshot_status().condition == cow::SnapshotCondition::invalid, taken->invalid);
            }
        resume_merge();
        accepting_ = true;
    }

    // --- After the cut ---

    void lay_out_what_is_left() {
        std::vector<std::unique_ptr<BlockDevice>> disks;
        for (std::size_t number = 0; number < sizes_.size(); ++number)
            disks.push_back(std::make_unique<MemoryDevice>(sizes_[number], "disk", contents_[number].copy()));
        lay_out(std::move(disks));
    }

    void look_behind_the_ends() {
        lay_out_what_is_left();
        for (auto& [number, taken] : taken_)
            if (taken->options.store.persistent && !taken->merging)
                look_behind_the_end(*stores_[taken->store]);
        forget_disks();
    }

    void inspect() {
        lay_out_what_is_left();
        power_ = std::make_unique<PowerSwitch>();
        for (auto entry = taken_.begin(); entry != taken_.end();)
            entry = !entry->second->options.store.persistent ? taken_.erase(entry) : std::next(entry);
        Simulation simulation(seed_);
        simulation_ = &simulation;
        const auto queue = simulation.make_queue();
        queue_ = queue.get();
        inspecting_ = true;
        open_all();
        for (auto entry = taken_.begin(); entry != taken_.end();) {
            Taken& taken = *entry->second;
            if (taken.snapshot == nullptr)
                break;
            SCOPED_TRACE(taken.snapshot->name());
            const bool invalid = taken.snapshot->snapshot_status().condition == cow::SnapshotCondition::invalid;
            if (taken.invalid) {
                EXPECT_TRUE(invalid) << "it was";
            }
            if (invalid) {
                EXPECT_TRUE(taken.invalid || taken.had_no_room) << "nothing made it so";
                taken.snapshot.reset();
                entry = taken_.erase(entry);
                continue;
            }
            if (!taken.merging)
                check(taken, taken.snapshot->name());
            ++entry;
        }
        resume_merge();
        check(origin_, "origin");
        // A merge comes to its end, and what was the snapshot's is the origin's.
        if (Taken* taken = merging(); taken != nullptr && taken->snapshot != nullptr && !testing::Test::HasFailure()) {
            simulation.settle();
            EXPECT_EQ(taken->snapshot->snapshot_status().usage.allocated, taken->snapshot->snapshot_status().usage.metadata);
            expect(origin_device_->end_merge(), "end_merge");
            check(origin_, "origin after the merge");
        }
        close_all();
        forget_disks();
        inspecting_ = false;
    }

    // Opening a store mends what is wrong there. The kernel doesn't: it would take what stands behind the end for exceptions as soon as
    // the gap before it is filled.
    void look_behind_the_end(BlockDevice& store) {
        std::vector<std::byte> bytes(sector_bytes);
        expect(read_now(store, 0, bytes), "reading the header");
        if (load_little<std::uint32_t>(&bytes[0]) == 0 || load_little<std::uint32_t>(&bytes[4]) == 0)
            return;
        const std::uint64_t chunk = load_little<std::uint32_t>(&bytes[12]) * sector_bytes, per_area = chunk / 16;
        bytes.resize(chunk);
        std::uint64_t left_behind = 0;
        bool ended = false;
        for (std::uint64_t start = chunk; !ended && start < store.size(); start += (per_area + 1) * chunk) {
            expect(read_now(store, start, bytes), "reading an area");
            for (std::uint64_t at = 0; at < chunk; at += 16) {
                if (load_little<std::uint64_t>(&bytes[at + 8]) == 0)
                    ended = true;
                else if (ended)
                    ++left_behind;
            }
        }
        EXPECT_EQ(left_behind, 0u) << store.name() << ": exceptions behind the end";
    }

    void check(Volume& volume, const std::string& name) {
        std::vector<std::byte> bytes(volume.content.sectors() * sector_bytes);
        const auto got = read_now(*volume.device, 0, bytes);
        ASSERT_TRUE(got) << got.error().message();
        const std::string wrong = volume.content.check_after_crash(0, bytes);
        EXPECT_EQ(wrong, "") << name;
    }

    const std::uint64_t seed_;
    std::mt19937_64 random_;
    const Chunks chunks_;
    const std::uint64_t store_bytes_;
    bool one_disk_;
    std::uint64_t origin_bytes_;
    std::uint32_t physical_block_ = sector_bytes;
    std::uint64_t merge_step_chunks_ = 0;
    std::vector<std::uint64_t> sizes_;
    std::vector<SparseBytes> contents_;
    std::unique_ptr<PowerSwitch> power_;
    std::vector<std::unique_ptr<BlockDevice>> disks_;
    std::unique_ptr<SliceDevice> origin_slice_;
    std::array<std::unique_ptr<SliceDevice>, store_count> stores_;
    Simulation* simulation_ = nullptr;
    IoQueue* queue_ = nullptr;
    std::shared_ptr<cow::Origin> origin_device_;
    Volume origin_;
    std::map<unsigned, std::unique_ptr<Taken>> taken_;  // by store
    unsigned taken_count_ = 0;
    bool accepting_ = false;
    bool inspecting_ = false;  // a copy of the disks
    std::uint64_t now_ = 0;
    Value last_value_ = 0;
};

class CowCrash : public testing::TestWithParam<unsigned> {};

TEST_P(CowCrash, HoldsWhatWasFlushed) {
    run_seeds("*CowCrash.HoldsWhatWasFlushed*", default_seeds, GetParam(), shards,
              [](std::uint64_t seed) { World(seed, Chunks::small).run(); });
    RecordProperty("cuts", static_cast<int>(cuts.load()));
    RecordProperty("cuts_within_merges", static_cast<int>(cuts_within_merges.load()));
    if (cuts >= 200) {
        EXPECT_GT(cuts_within_merges, 0u);
    }
}

TEST_P(CowCrash, LargeChunksHoldWhatWasFlushed) {
    run_seeds("*CowCrash.LargeChunksHoldWhatWasFlushed*", large_seeds, GetParam(), shards,
              [](std::uint64_t seed) { World(seed, Chunks::large).run(); });
    RecordProperty("cuts", static_cast<int>(cuts.load()));
}

INSTANTIATE_TEST_SUITE_P(Shards, CowCrash, testing::Range(0u, shards));

}  // namespace
}  // namespace lamella::crash
