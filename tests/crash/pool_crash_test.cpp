// SPDX-License-Identifier: Apache-2.0
//
// A thin pool on simulated disks, under load and administration, whose power is cut at a random operation; then what is left is
// opened, and must be what a disk with a volatile cache may be after a crash. Several lives follow each other on the same disks.
//
// Volumes are used from two queues with several requests in flight each, the pool runs on a third. A seed chooses everything:
// layout, options, requests, the order of completions, the instant of the cut and what of the disk's cache survives it.
#include <map>
#include <memory>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "content.h"
#include "device/concatenation_device.h"
#include "device/crash_device.h"
#include "device/memory_device.h"
#include "device/simulation.h"
#include "seeds.h"
#include "structure.h"
#include "thin/pool.h"
#include "thin/volume.h"

namespace lamella::crash {
namespace {

constexpr unsigned shards = 4;
constexpr std::uint64_t default_seeds = 520;
constexpr unsigned lives = 4;
constexpr std::uint64_t thin_check_every = 50;
constexpr std::uint64_t metadata_start = 1 << 20;

const char* to_string(IoOperation operation) {
    constexpr const char* names[] = {"read", "write", "flush", "discard", "write_zeroes"};
    return names[static_cast<unsigned>(operation)];
}

// What an external origin holds.
constexpr Value origin_value = UINT32_MAX;

std::atomic<std::uint64_t> cuts{0};

class World {
  public:
    explicit World(std::uint64_t seed) : seed_(seed), random_(seed * 0x9e3779b97f4a7c15u + 1) {
        chunk_sectors_ = draw(4) == 0 ? 384 : 128;
        one_disk_ = draw(2) == 0;
        metadata_bytes_ = draw(4) == 0 ? 1 << 20 : 4 << 20;
        data_blocks_ = draw(4) == 0 ? 40 + draw(40) : 160;
        volume_bytes_ = (10 + draw(16)) * 64 * 1024 + (draw(3) == 0 ? 4096 * draw(8) : 0);
        options_.data_block_sectors = chunk_sectors_;
        options_.error_if_no_space = draw(2) == 0;
        options_.discards = draw(8) == 0   ? thin::DiscardPolicy::ignore
                            : draw(3) == 0 ? thin::DiscardPolicy::no_passdown
                                           : thin::DiscardPolicy::passdown;
        options_.mapping_cache_bytes = draw(3) == 0 ? 1 : 1 << 20;
        options_.copy_buffer_bytes = draw(3) == 0 ? 1 : 1 << 20;
        options_.low_water_blocks = draw(20);
        // Read-only, so that no crash concerns it; it may end before the volumes over it do, within a block too.
        const std::uint64_t origin_sectors = draw(volume_bytes_ / sector_bytes * 3 / 2) + 1;
        std::vector<std::byte> bytes(origin_sectors * sector_bytes);
        for (std::uint64_t sector = 0; sector < origin_sectors; ++sector)
            fill_sector(&bytes[sector * sector_bytes], origin_value, sector);
        origin_ = std::make_unique<MemoryDevice>(bytes.size(), "origin");
        if (auto written = write_now(*origin_, 0, bytes); !written)
            ADD_FAILURE() << written.error().message();
    }

    void run() {
        build_disks();
        for (unsigned life = 0; life < lives && !testing::Test::HasFailure(); ++life) {
            SCOPED_TRACE(fmt::format("seed {}, life {}", seed_, life));
            live(life);
            ++cuts;
        }
    }

  private:
    struct Volume {
        std::shared_ptr<thin::ThinVolume> device;
        Content content;
        BlockDevice* origin = nullptr;                             // external
        bool going = false;                                        // is being removed or made: no new requests
        std::set<std::pair<std::uint64_t, std::uint64_t>> busy{};  // sectors [first, end) with a request in flight
        unsigned in_flight = 0;

        bool is_busy(std::uint64_t first, std::uint64_t end) const {
            for (const auto& [other_first, other_end] : busy)
                if (first < other_end && other_first < end)
                    return true;
            return false;
        }
    };

    // A client with one request at a time.
    struct Slot : IoRequest {
        World* world = nullptr;
        IoQueue* home = nullptr;
        Volume* volume = nullptr;  // null: idle
        std::uint32_t id = 0;
        std::uint64_t first = 0, end = 0;  // sectors
        std::uint64_t begun = 0;           // the world's time
        std::uint64_t zero_first = 0, zero_end = 0;
        Value value = 0;
        std::vector<std::byte> memory;
        iovec vector{};
    };

    std::uint64_t draw(std::uint64_t count) { return random_() % count; }

    // With LAMELLA_CRASH_TRACE set a replay tells what happens.
    template <typename... Arguments>
    void trace(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
        static const bool wanted = std::getenv("LAMELLA_CRASH_TRACE") != nullptr;
        if (wanted)
            fmt::print(stderr, "{:6} disk {:5}: {}\n", now_, power_->operations(),
                       fmt::format(format, std::forward<Arguments>(arguments)...));
    }
    std::uint64_t chunk_bytes() const { return chunk_sectors_ * sector_bytes; }

    // --- Disks ---

    struct Disks {
        // Destroyed in the reverse order.
        std::vector<std::unique_ptr<BlockDevice>> disks;
        std::vector<std::unique_ptr<ConcatenationDevice>> runs;
        BlockDevice* metadata = nullptr;
        BlockDevice* data = nullptr;
    };

    // Metadata and data on the given disks: with one disk, in alternating runs as a group that was extended has them.
    Disks lay_out(std::vector<std::unique_ptr<BlockDevice>> disks) {
        Disks laid{std::move(disks), {}};
        if (!one_disk_) {
            laid.metadata = laid.disks[0].get();
            laid.data = laid.disks[1].get();
            return laid;
        }
        std::vector<CompositeDevice::Piece> metadata, data;
        for (const auto& [is_metadata, start, length] : pieces_)
            (is_metadata ? metadata : data).push_back({laid.disks[0].get(), start, length});
        laid.runs.push_back(*ConcatenationDevice::create(metadata, "metadata"));
        laid.runs.push_back(*ConcatenationDevice::create(data, "data"));
        laid.metadata = laid.runs[0].get();
        laid.data = laid.runs[1].get();
        return laid;
    }

    void build_disks() {
        const std::uint64_t data_bytes = data_blocks_ * chunk_bytes();
        std::vector<std::pair<std::uint64_t, std::uint64_t>> garbage;  // where data will lie
        if (one_disk_) {
            pieces_ = {{true, metadata_start, metadata_bytes_}, {false, metadata_start + metadata_bytes_, data_bytes}};
            content_.emplace_back();
            sizes_ = {metadata_start + metadata_bytes_ + data_bytes + (16 << 20)};
            garbage_disk_ = 0;
        } else {
            content_.resize(2);
            sizes_ = {metadata_bytes_, data_bytes};
            garbage_disk_ = 1;
        }
        // Earlier tenants' data, which nobody may ever see.
        if (draw(4) != 0) {
            const std::vector<std::byte> dirt(64 * 1024, std::byte{0xdb});
            for (std::uint64_t at = one_disk_ ? metadata_start : 0; at + dirt.size() <= sizes_[garbage_disk_]; at += dirt.size())
                if (draw(8) != 0)
                    content_[garbage_disk_].write(at, dirt);
        }
        // Formatting isn't part of the story.
        std::vector<std::unique_ptr<BlockDevice>> disks;
        PowerSwitch steady;
        std::vector<CrashDevice*> raw;
        for (std::size_t number = 0; number < sizes_.size(); ++number) {
            auto disk = std::make_unique<CrashDevice>(sizes_[number], "disk", steady, std::move(content_[number]));
            raw.push_back(disk.get());
            disks.push_back(std::move(disk));
        }
        Disks laid = lay_out(std::move(disks));
        auto formatted = thin::ThinPool::format(*laid.metadata, laid.data->size(), chunk_sectors_);
        ASSERT_TRUE(formatted) << formatted.error().message();
        for (std::size_t number = 0; number < raw.size(); ++number)
            content_[number] = raw[number]->remains(0);
    }

    // --- One life ---

    void live(unsigned life) {
        Simulation simulation(seed_ * 100 + life);
        simulation_ = &simulation;
        power_ = std::make_unique<PowerSwitch>();
        const auto queue = simulation.make_queue();
        const std::vector<std::unique_ptr<IoQueue>> homes = [&] {
            std::vector<std::unique_ptr<IoQueue>> made;
            made.push_back(simulation.make_queue());
            made.push_back(simulation.make_queue());
            return made;
        }();
        queue_ = queue.get();

        std::vector<std::unique_ptr<BlockDevice>> disks;
        crash_disks_.clear();
        const CompletionDelays delays{seed_ + life, static_cast<unsigned>(draw(4))};
        for (std::size_t number = 0; number < sizes_.size(); ++number) {
            auto disk = std::make_unique<CrashDevice>(sizes_[number], "disk", *power_, std::move(content_[number]), delays);
            crash_disks_.push_back(disk.get());
            disks.push_back(std::move(disk));
        }
        disks_ = lay_out(std::move(disks));

        open_pool();
        if (testing::Test::HasFailure())
            return;
        // Now and then already the recovery itself is struck.
        power_->cut_after(1 + (draw(6) == 0 ? draw(20) : draw(600)));
        std::vector<std::unique_ptr<Slot>> slots;
        for (unsigned number = 0; number < 6; ++number) {
            auto slot = std::make_unique<Slot>();
            slot->world = this;
            slot->home = homes[number % homes.size()].get();
            slot->completed = [](IoRequest& request, int error) {
                static_cast<Slot&>(request).world->finished(static_cast<Slot&>(request), error);
            };
            slots.push_back(std::move(slot));
        }
        slots_ = &slots;
        accepting_ = true;
        finish_change();
        for (unsigned round = 0; !power_->off() && !testing::Test::HasFailure(); ++round) {
            for (const auto& slot : slots)
                if (slot->volume == nullptr)
                    submit(*slot);
            for (std::uint64_t steps = draw(30); steps > 0 && !power_->off(); --steps)
                simulation.step();
            if (!power_->off())
                administer();
            if (round > 20000) {
                ADD_FAILURE() << "the power never goes";
                return;
            }
        }
        accepting_ = false;
        drain();
        close_pool();
        for (std::size_t number = 0; number < crash_disks_.size(); ++number) {
            content_[number] = crash_disks_[number]->remains(random_());
            sizes_[number] = crash_disks_[number]->size();
        }
        disks_ = {};
        slots_ = nullptr;
        if (!testing::Test::HasFailure())
            inspect();
    }

    void open_pool() {
        auto opened = thin::ThinPool::open(*disks_.metadata, *disks_.data, options_, queue_);
        if (!opened) {
            if (!power_->off())
                ADD_FAILURE() << "the pool doesn't open: " << opened.error().message();
            return;
        }
        pool_ = *std::move(opened);
        for (auto& [id, volume] : volumes_)
            open_volume(id, *volume);
    }

    void open_volume(std::uint32_t id, Volume& volume) {
        auto opened = pool_->open_volume(ThinId(id), volume.content.sectors() * sector_bytes, fmt::format("volume{}", id), volume.origin);
        if (opened)
            volume.device = *std::move(opened);
        else if (!power_->off())
            ADD_FAILURE() << "volume " << id << " doesn't open: " << opened.error().message();
        else
            volume.going = true;
    }

    void close_pool() {
        for (auto& [id, volume] : volumes_)
            volume->device.reset();
        if (pool_ == nullptr)
            return;
        const std::uint64_t then = now_;
        auto closed = pool_->close();
        pool_.reset();
        if (closed)
            for (auto& [id, volume] : volumes_)
                volume->content.flushed(then);
        else if (!power_->off())
            ADD_FAILURE() << "closing: " << closed.error().message();
    }

    // Until no request is in flight (on the volume).
    void drain(const Volume* only = nullptr) {
        const auto busy = [&] {
            for (const auto& [id, volume] : volumes_)
                if ((only == nullptr || only == volume.get()) && volume->in_flight > 0)
                    return true;
            return false;
        };
        for (unsigned steps = 0; busy(); ++steps)
            if (!simulation_->step() || steps > 2'000'000) {
                ADD_FAILURE() << "requests never complete";
                std::abort();  // they would write to memory that is gone
            }
    }

    // --- Requests ---

    void submit(Slot& slot) {
        std::vector<std::pair<std::uint32_t, Volume*>> usable;
        for (const auto& [id, volume] : volumes_)
            if (!volume->going && volume->device != nullptr)
                usable.emplace_back(id, volume.get());
        if (!accepting_ || usable.empty())
            return;
        const auto [id, volume] = usable[draw(usable.size())];
        const std::uint64_t sectors = volume->content.sectors();
        slot.id = id;
        slot.durable = slot.keep_allocated = slot.fast_only = false;
        const std::uint64_t what = draw(100);
        slot.operation = what < 55   ? IoOperation::write
                         : what < 70 ? IoOperation::read
                         : what < 82 ? IoOperation::flush
                         : what < 91 ? IoOperation::discard
                                     : IoOperation::write_zeroes;
        std::uint64_t count = 1 + draw(draw(4) == 0 ? std::min<std::uint64_t>(sectors, 3 * chunk_sectors_) : 24);
        slot.first = draw(sectors);
        if (slot.operation == IoOperation::discard || (slot.operation == IoOperation::write_zeroes && draw(2) == 0)) {
            slot.first -= draw(3) != 0 ? slot.first % chunk_sectors_ : 0;
            count = draw(3) != 0 ? chunk_sectors_ * (1 + draw(4)) : count * 8;
        } else if (draw(6) == 0) {  // whole blocks
            slot.first -= slot.first % chunk_sectors_;
            count = chunk_sectors_ * (1 + draw(2));
        }
        slot.end = std::min(sectors, slot.first + count);
        if (slot.operation == IoOperation::flush)
            slot.first = slot.end = 0;
        else if (volume->is_busy(slot.first, slot.end))
            return;

        slot.volume = volume;
        slot.offset = slot.first * sector_bytes;
        slot.length = (slot.end - slot.first) * sector_bytes;
        slot.vectors = {};
        slot.begun = ++now_;
        slot.zero_first = slot.zero_end = 0;
        ++volume->in_flight;
        if (slot.operation != IoOperation::flush)
            volume->busy.insert({slot.first, slot.end});
        switch (slot.operation) {
        case IoOperation::write:
            slot.durable = draw(8) == 0;
            slot.value = ++last_value_;
            slot.memory.resize(slot.length);
            for (std::uint64_t sector = slot.first; sector < slot.end; ++sector)
                fill_sector(&slot.memory[(sector - slot.first) * sector_bytes], slot.value, sector);
            volume->content.submitted(slot.first, slot.end - slot.first, slot.value);
            break;
        case IoOperation::write_zeroes:
            slot.durable = draw(8) == 0;
            slot.keep_allocated = draw(3) == 0;
            volume->content.submitted(slot.first, slot.end - slot.first, 0);
            break;
        case IoOperation::discard:
            // Whole blocks read as zeros, or the origin, from then on; parts of blocks stay as they are.
            slot.zero_first = (slot.first + chunk_sectors_ - 1) / chunk_sectors_ * chunk_sectors_;
            slot.zero_end = slot.end == sectors ? slot.end : slot.end / chunk_sectors_ * chunk_sectors_;
            if (slot.zero_first < slot.zero_end)
                unmapped(*volume, slot.zero_first, slot.zero_end);
            break;
        case IoOperation::read: slot.memory.assign(slot.length, std::byte{0xee}); break;
        case IoOperation::flush: break;
        }
        if (slot.operation == IoOperation::read || slot.operation == IoOperation::write) {
            slot.vector = {slot.memory.data(), slot.memory.size()};
            slot.vectors = {&slot.vector, 1};
        }
        trace("volume {} {} {}..{} write {}{}", id, to_string(slot.operation), slot.first, slot.end, slot.value,
              slot.durable ? " durable" : "");
        volume->device->submit(*slot.home, slot);
    }

    void unmapped(Volume& volume, std::uint64_t first, std::uint64_t end) {
        const std::uint64_t through = volume.origin == nullptr ? 0 : volume.origin->size() / sector_bytes;
        const std::uint64_t middle = std::clamp(through, first, end);
        volume.content.submitted(first, middle - first, origin_value);
        volume.content.submitted(middle, end - middle, 0);
    }

    void finished(Slot& slot, int error) {
        Volume& volume = *slot.volume;
        Content& content = volume.content;
        ++now_;
        trace("volume {} {} {}..{} done: {}", slot.id, to_string(slot.operation), slot.first, slot.end, error);
        if (error == 0) {
            switch (slot.operation) {
            case IoOperation::write:
            case IoOperation::write_zeroes: content.acknowledged(slot.first, slot.end - slot.first, now_, slot.durable); break;
            case IoOperation::discard:
                EXPECT_NE(options_.discards, thin::DiscardPolicy::ignore);
                if (slot.zero_first < slot.zero_end)
                    content.acknowledged(slot.zero_first, slot.zero_end - slot.zero_first, now_, false);
                break;
            case IoOperation::flush: content.flushed(slot.begun); break;
            case IoOperation::read: {
                const std::string wrong = content.check_read(slot.first, slot.memory);
                if (!wrong.empty())
                    ADD_FAILURE() << "volume " << slot.id << ": " << wrong;
                break;
            }
            }
        } else if (!power_->off()) {
            const bool refused_discard =
                error == EOPNOTSUPP && slot.operation == IoOperation::discard && options_.discards == thin::DiscardPolicy::ignore;
            const bool full = error == ENOSPC && (slot.operation == IoOperation::write || slot.operation == IoOperation::write_zeroes);
            if (!refused_discard && !full)
                ADD_FAILURE() << "volume " << slot.id << ": " << to_string(slot.operation) << " failed: " << error;
        }
        if (slot.operation != IoOperation::flush)
            volume.busy.erase({slot.first, slot.end});
        --volume.in_flight;
        slot.volume = nullptr;
        // Mostly at once the next, so that requests come in while the pool is told things.
        if (!power_->off() && draw(4) != 0)
            submit(slot);
    }

    // --- Administration ---

    void administer() {
        switch (draw(14)) {
        case 0:
        case 1:
        case 2: snapshots(); break;
        case 3: create(); break;
        case 4:
        case 5: remove(); break;
        case 6: commit(); break;
        case 7: grow(); break;
        case 8: reopen(); break;
        case 9: metadata_snapshot(); break;
        case 10: simulation_->clock().advance(std::chrono::milliseconds(draw(1500))); break;
        case 11: trim(); break;
        default: break;
        }
    }

    // A change of the pool that was begun: a crash leaves it done or not.
    struct Planned {
        std::uint64_t begun;
        std::vector<std::pair<std::uint32_t, std::uint32_t>> snapshots;  // id, origin
        std::vector<std::uint32_t> created;
        std::vector<std::uint32_t> removed;
        std::vector<thin::PoolChange> changes() const {
            std::vector<thin::PoolChange> all;
            for (const auto& [id, origin] : snapshots)
                all.push_back({thin::PoolChange::Kind::create_snapshot, ThinId(id), ThinId(origin)});
            for (const std::uint32_t id : created)
                all.push_back({thin::PoolChange::Kind::create_thin, ThinId(id)});
            for (const std::uint32_t id : removed)
                all.push_back({thin::PoolChange::Kind::remove, ThinId(id)});
            return all;
        }
    };

    void perform(Planned planned) {
        planned.begun = ++now_;
        planned_ = std::move(planned);
        for (const thin::PoolChange& change : planned_->changes())
            trace("change: {} {} {}", static_cast<int>(change.kind), change.id, change.origin);
        auto done = pool_->transact(planned_->changes(), transaction_, transaction_ + 1);
        trace("change: {}", done ? "done" : done.error().message());
        if (done)
            return settle_change(true);
        if (power_->off())
            return;  // the inspection tells
        // Only for want of room, and then without effect.
        EXPECT_EQ(done.error().kind(), ErrorKind::no_space) << done.error().message();
        settle_change(false);
    }

    void settle_change(bool done) {
        const Planned planned = *std::exchange(planned_, std::nullopt);
        if (done)
            ++transaction_;
        for (const auto& [id, origin] : planned.snapshots) {
            if (!done)
                continue;
            auto snapshot = std::make_unique<Volume>(
                Volume{nullptr, volumes_.at(origin)->content.snapshot(planned.begun), volumes_.at(origin)->origin});
            volumes_.at(origin)->content.flushed(planned.begun);
            if (pool_ != nullptr)
                open_volume(id, *snapshot);
            volumes_.emplace(id, std::move(snapshot));
        }
        for (const std::uint32_t id : planned.created) {
            if (!done)
                continue;
            BlockDevice* const origin = draw(4) == 0 ? origin_.get() : nullptr;
            const std::uint64_t through = origin == nullptr ? 0 : origin->size() / sector_bytes;
            auto volume = std::make_unique<Volume>(Volume{nullptr, Content(volume_bytes_ / sector_bytes, through, origin_value), origin});
            if (pool_ != nullptr)
                open_volume(id, *volume);
            volumes_.emplace(id, std::move(volume));
        }
        for (const std::uint32_t id : planned.removed) {
            if (done)
                volumes_.erase(id);
            else
                unfinished_removals_.insert(id);
        }
    }

    // Removals that a crash interrupted are begun again, as the group's text would have it.
    void finish_change() {
        while (!unfinished_removals_.empty() && !power_->off()) {
            Planned again{};
            again.removed = {*unfinished_removals_.begin()};
            unfinished_removals_.erase(unfinished_removals_.begin());
            perform(again);
        }
        if (volumes_.empty() && !power_->off())
            create();
    }

    void snapshots() {
        if (volumes_.size() > 9)
            return remove();
        Planned planned{};
        for (const auto& [id, volume] : volumes_)
            if (!volume->going && draw(3) == 0 && planned.snapshots.size() < 3)
                planned.snapshots.emplace_back(next_id_++, id);
        if (!planned.snapshots.empty())
            perform(planned);
    }

    void create() {
        if (volumes_.size() > 9)
            return;
        Planned planned{};
        planned.created.push_back(next_id_++);
        perform(planned);
    }

    void remove() {
        if (volumes_.size() < 3)
            return;
        auto chosen = std::next(volumes_.begin(), static_cast<std::ptrdiff_t>(draw(volumes_.size())));
        Volume& volume = *chosen->second;
        volume.going = true;
        drain(&volume);
        volume.device.reset();
        if (power_->off())
            return;
        Planned planned{};
        planned.removed.push_back(chosen->first);
        perform(planned);
    }

    void commit() {
        const std::uint64_t then = ++now_;
        auto done = pool_->commit();
        trace("commit since {}: {}", then, done ? "done" : done.error().message());
        if (done)
            for (auto& [id, volume] : volumes_)
                volume->content.flushed(then);
        else
            EXPECT_TRUE(power_->off()) << done.error().message();
    }

    void grow() {
        if (draw(2) == 0) {
            const std::uint64_t more = chunk_bytes() * (1 + draw(6));
            if (one_disk_) {
                if (!extend(false, more))
                    return;
            } else {
                crash_disks_[1]->grow(crash_disks_[1]->size() + more);
            }
            auto done = pool_->grow_data();
            EXPECT_TRUE(done || power_->off()) << done.error().message();
        } else {
            const std::uint64_t more = 4096 * (1 + draw(100));
            if (one_disk_) {
                if (!extend(true, more))
                    return;
            } else {
                if (crash_disks_[0]->size() > 16 << 20)
                    return;
                crash_disks_[0]->grow(crash_disks_[0]->size() + more);
            }
            auto done = pool_->grow_metadata();
            EXPECT_TRUE(done || power_->off()) << done.error().message();
        }
    }

    bool extend(bool metadata, std::uint64_t length) {
        const auto& [last_kind, last_start, last_length] = pieces_.back();
        const std::uint64_t start = last_start + last_length;
        if (start + length > sizes_[0])
            return false;
        const CompositeDevice::Piece piece{crash_disks_[0], start, length};
        EXPECT_TRUE(disks_.runs[metadata ? 0 : 1]->append({&piece, 1}));
        pieces_.push_back({metadata, start, length});
        return true;
    }

    void reopen() {
        accepting_ = false;
        drain();
        close_pool();
        if (power_->off())
            return;
        open_pool();
        accepting_ = true;
    }

    void metadata_snapshot() {
        const auto status = pool_->status();
        if (!status)
            return;
        if (status->held_root) {
            auto done = pool_->release_metadata_snapshot();
            EXPECT_TRUE(done || power_->off()) << done.error().message();
        } else {
            auto done = pool_->reserve_metadata_snapshot();
            EXPECT_TRUE(done || power_->off() || done.error().kind() == ErrorKind::no_space) << done.error().message();
        }
    }

    // While the volumes are written: a block that is handed out meanwhile would lose what it got.
    void trim() {
        thin::ThinPool::Trimmed part;
        while (!part.done) {
            const auto done = pool_->trim(part.next);
            if (!done) {
                EXPECT_TRUE(power_->off() || done.error().kind() == ErrorKind::no_space || done.error().kind() == ErrorKind::failed ||
                            done.error().kind() == ErrorKind::refused)
                    << done.error().message();
                return;
            }
            EXPECT_TRUE(done->done || done->next > part.next);
            part = *done;
        }
    }

    // --- After the crash ---

    void inspect() {
        std::vector<std::unique_ptr<BlockDevice>> disks;
        for (std::size_t number = 0; number < sizes_.size(); ++number)
            disks.push_back(std::make_unique<MemoryDevice>(sizes_[number], "remains", content_[number].copy()));
        Disks laid = lay_out(std::move(disks));
        const auto sound = check_structure(*laid.metadata);
        ASSERT_TRUE(sound) << "after the crash: " << sound.error().message();
        if (cuts.load() % thin_check_every == 0) {
            const auto checked = run_thin_check(*laid.metadata);
            ASSERT_TRUE(checked) << checked.error().message();
        }

        options_.read_only = true;
        Simulation simulation(seed_);
        auto queue = simulation.make_queue();
        auto opened = thin::ThinPool::open(*laid.metadata, *laid.data, options_, queue.get());
        options_.read_only = false;
        ASSERT_TRUE(opened) << opened.error().message();
        thin::ThinPool& pool = **opened;

        const auto status = pool.status();
        ASSERT_TRUE(status);
        if (planned_) {
            ASSERT_TRUE(status->transaction_id == transaction_ || status->transaction_id == transaction_ + 1) << status->transaction_id;
            settle_change(status->transaction_id == transaction_ + 1);
        }
        ASSERT_EQ(status->transaction_id, transaction_);

        std::set<std::uint32_t> present;
        const auto devices = pool.devices();
        ASSERT_TRUE(devices);
        for (const thin::DeviceEntry& entry : *devices)
            present.insert(entry.id.value());
        for (auto unfinished = unfinished_removals_.begin(); unfinished != unfinished_removals_.end();) {
            // What was being removed may be there, in part or whole; nobody looks at it again.
            volumes_.erase(*unfinished);
            unfinished = present.erase(*unfinished) != 0 ? std::next(unfinished) : unfinished_removals_.erase(unfinished);
        }
        std::set<std::uint32_t> expected;
        for (const auto& [id, volume] : volumes_)
            expected.insert(id);
        ASSERT_EQ(present, expected);

        std::vector<std::byte> bytes;
        for (auto& [id, volume] : volumes_) {
            volume->going = false;
            volume->busy.clear();
            bytes.assign(volume->content.sectors() * sector_bytes, std::byte{0xee});
            auto device = pool.open_volume(ThinId(id), bytes.size(), "volume", volume->origin);
            ASSERT_TRUE(device) << device.error().message();
            struct Read : IoRequest {
                std::optional<int> error;
            } read;
            iovec vector{bytes.data(), bytes.size()};
            read.operation = IoOperation::read;
            read.length = bytes.size();
            read.vectors = {&vector, 1};
            read.completed = [](IoRequest& request, int error) { static_cast<Read&>(request).error = error; };
            (*device)->submit(*queue, read);
            queue->run_until([&] { return read.error.has_value(); });
            ASSERT_EQ(*read.error, 0);
            const std::string wrong = volume->content.check_after_crash(0, bytes);
            ASSERT_EQ(wrong, "") << "volume " << id << " after the crash";
        }
    }

    const std::uint64_t seed_;
    std::mt19937_64 random_;
    std::uint32_t chunk_sectors_;
    bool one_disk_;
    std::uint64_t metadata_bytes_;
    std::uint64_t data_blocks_;
    std::uint64_t volume_bytes_;
    thin::ThinPoolOptions options_;
    std::unique_ptr<MemoryDevice> origin_;  // external, of some of the volumes

    std::vector<SparseBytes> content_;  // of the disks, between two lives
    std::vector<std::uint64_t> sizes_;
    std::size_t garbage_disk_ = 0;
    struct Run {
        bool metadata;
        std::uint64_t start;
        std::uint64_t length;
    };
    std::vector<Run> pieces_;

    std::uint64_t now_ = 0;
    Value last_value_ = 0;
    std::uint32_t next_id_ = 0;
    std::uint64_t transaction_ = 0;
    std::optional<Planned> planned_;
    std::set<std::uint32_t> unfinished_removals_;
    std::map<std::uint32_t, std::unique_ptr<Volume>> volumes_;

    Simulation* simulation_ = nullptr;
    std::unique_ptr<PowerSwitch> power_;
    IoQueue* queue_ = nullptr;
    std::vector<CrashDevice*> crash_disks_;
    Disks disks_;
    std::unique_ptr<thin::ThinPool> pool_;
    std::vector<std::unique_ptr<Slot>>* slots_ = nullptr;
    bool accepting_ = false;
};

class PoolCrash : public testing::TestWithParam<unsigned> {};

TEST_P(PoolCrash, LosesNothingThatWasFlushed) {
    run_seeds("*PoolCrash*", default_seeds, GetParam(), shards, [](std::uint64_t seed) { World(seed).run(); });
    RecordProperty("cuts", static_cast<int>(cuts.load()));
}

INSTANTIATE_TEST_SUITE_P(Shards, PoolCrash, testing::Range(0u, shards));

}  // namespace
}  // namespace lamella::crash
