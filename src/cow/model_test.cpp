// SPDX-License-Identifier: Apache-2.0
//
// An origin and its snapshots against a plain model of what each shows: random reads, writes, discards, zeroes, snapshots, merges, fills,
// stores that grow, also on demand, and reopenings, over chunk sizes and kinds of stores. One request at a time: what happens at once is
// the affair of the crash tests and of the threads' test below.
#include <atomic>
#include <map>
#include <random>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "cow/origin.h"
#include "device/memory_device.h"
#include "device/simulation.h"
#include "device/test_support.h"

namespace lamella::cow {
namespace {

// Sanitizers slow this down tenfold.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t seeds = 15, large_seeds = 2;
#else
constexpr std::uint64_t seeds = 150, large_seeds = 8;
#endif

class Model {
  public:
    enum class Chunks {
        small,  // 1 to 128 sectors
        large,  // 128 to 8192, whose areas are read in several pieces
    };
    Model(std::uint64_t seed, Chunks chunks)
        : random_(seed), simulation_(seed), queue_(simulation_.make_queue()), home_(simulation_.make_queue()), chunks_(chunks) {
        sectors_ = chunks == Chunks::small ? 300 + draw(900) : 30000 + draw(60000);
        device_ = std::make_unique<MemoryDevice>(sectors_ * sector_bytes, "origin");
        shown_.assign(sectors_, 0);
        open();
    }

    void run(unsigned steps) {
        for (unsigned step = 0; step < steps && !testing::Test::HasFailure(); ++step)
            act();
        for (auto& [number, taken] : taken_)
            taken.snapshot.reset();
        EXPECT_TRUE(origin_->end_merge());
    }

  private:
    using Shown = std::vector<std::uint32_t>;  // by sector: the number of the write that made it
    struct Taken {
        std::unique_ptr<MemoryDevice> store;
        std::shared_ptr<Snapshot> snapshot;
        SnapshotOptions options;
        Shown shown;
        bool merging = false;  // the origin's content is this one's
        bool grows = false;    // when it finds no room, mostly
    };

    std::uint64_t draw(std::uint64_t count) { return random_() % count; }

    void open() {
        origin_ = *Origin::open(*device_, {.copy_buffer_bytes = draw(2) * 1000000 + 1, .merge_step_chunks = 1 + draw(draw(2) * 1000 + 4)},
                                queue_.get());
        for (auto& [number, taken] : taken_) {
            auto opened = origin_->open_snapshot(*taken.store, taken.options);
            ASSERT_TRUE(opened) << opened.error().message();
            taken.snapshot = *opened;
            watch(taken);
        }
        for (auto& [number, taken] : taken_)
            if (taken.merging) {
                ASSERT_TRUE(origin_->start_merge(taken.snapshot));
            }
    }

    void watch(Taken& taken) {
        if (taken.grows)
            taken.snapshot->set_room_handler([this] { room_asked_ = true; });
    }

    void grow(Taken& taken) {
        const std::uint64_t step = chunks_ == Chunks::small ? sector_bytes : 512 * sector_bytes;
        taken.store->grow(taken.store->size() + (1 + draw(50)) * step);
    }

    // Makes room, or doesn't, for whoever waits for it meanwhile.
    template <typename Condition>
    void run_until(Condition condition) {
        for (;;) {
            home_->run_until([&] { return condition() || room_asked_; });
            if (!std::exchange(room_asked_, false))
                return;
            for (auto& [number, taken] : taken_) {
                if (!taken.snapshot->needs_room())
                    continue;
                if (draw(8) != 0)
                    grow(taken);
                taken.snapshot->room_seen_to();
            }
        }
    }

    int submit(BlockDevice& device, IoOperation operation, std::uint64_t first, std::uint64_t count, std::byte* memory = nullptr) {
        test::Request request(operation, first * sector_bytes, count * sector_bytes, memory);
        device.submit(*home_, request);
        run_until([&] { return request.done; });
        return request.error;
    }

    void fill(std::vector<std::byte>& bytes, std::uint32_t number) {
        for (std::size_t at = 0; at < bytes.size(); at += 4)
            std::memcpy(&bytes[at], &number, 4);
    }

    void check(BlockDevice& device, const Shown& shown, std::uint64_t first, std::uint64_t count) {
        std::vector<std::byte> bytes(count * sector_bytes);
        const int error = submit(device, IoOperation::read, first, count, bytes.data());
        if (error != 0 && lost(device))
            return;
        ASSERT_EQ(error, 0) << device.name();
        for (std::uint64_t index = 0; index < bytes.size() / 4; ++index) {
            std::uint32_t found = 0;
            std::memcpy(&found, &bytes[index * 4], 4);
            ASSERT_EQ(found, shown[first + index / 128]) << device.name() << ", sector " << first + index / 128;
        }
    }

    bool merges() const {
        return std::any_of(taken_.begin(), taken_.end(), [](const auto& entry) { return entry.second.merging; });
    }

    // A merge goes on behind every request, and needs room in the other snapshots.
    bool lost(const BlockDevice& device) const {
        return merges() && std::any_of(taken_.begin(), taken_.end(), [&](const auto& entry) {
                   return entry.second.snapshot.get() == &device &&
                          entry.second.snapshot->snapshot_status().condition == SnapshotCondition::invalid;
               });
    }

    // What is no longer good is thrown away.
    void look_at_conditions() {
        std::erase_if(taken_,
                      [](const auto& entry) { return entry.second.snapshot->snapshot_status().condition == SnapshotCondition::invalid; });
    }

    // A snapshot that takes requests; null: there is none.
    Taken* any() {
        std::vector<Taken*> all;
        for (auto& [number, taken] : taken_)
            if (!taken.merging)
                all.push_back(&taken);
        return all.empty() ? nullptr : all[draw(all.size())];
    }

    void act() {
        const std::uint64_t first = draw(4) == 0 ? draw(sectors_) / 8 * 8 : draw(sectors_);
        const std::uint64_t count = std::min(sectors_ - first, 1 + draw(draw(5) == 0 ? 200 : 20));
        Taken* const taken = any();
        const std::uint64_t what = draw(100);
        if (what < 25) {
            write(nullptr, first, count, draw(5) == 0);
        } else if (what < 45 && taken != nullptr) {
            write(taken, first, count, draw(5) == 0);
        } else if (what < 60) {
            check(*origin_, shown_, first, count);
        } else if (what < 75 && taken != nullptr) {
            check(*taken->snapshot, taken->shown, first, count);
        } else if (what < 79) {
            discard_origin(first, count);
        } else if (what < 82 && taken != nullptr) {
            discard(*taken, first, count);
        } else if (what < 88) {
            take();
        } else if (what < 90 && taken != nullptr && draw(3) == 0) {
            std::erase_if(taken_, [&](const auto& entry) { return &entry.second == taken; });
        } else if (what < 92 && taken != nullptr) {
            grow(*taken);
        } else if (what < 95) {
            merge(taken);
        } else if (what < 97) {
            reopen();
        }
        look_at_conditions();
    }

    void write(Taken* taken, std::uint64_t first, std::uint64_t count, bool zeroes) {
        BlockDevice& device = taken == nullptr ? static_cast<BlockDevice&>(*origin_) : *taken->snapshot;
        Shown& shown = taken == nullptr ? shown_ : taken->shown;
        std::vector<std::byte> bytes(count * sector_bytes);
        const std::uint32_t number = zeroes ? 0 : ++last_;
        fill(bytes, number);
        const int error = submit(device, zeroes ? IoOperation::write_zeroes : IoOperation::write, first, count, bytes.data());
        if (error == 0) {
            std::fill_n(shown.begin() + static_cast<std::ptrdiff_t>(first), count, number);
            return;
        }
        // Only a snapshot that has no room fails, and says so.
        ASSERT_NE(taken, nullptr);
        const SnapshotCondition condition = taken->snapshot->snapshot_status().condition;
        if (lost(device))
            return;
        ASSERT_EQ(condition, taken->options.store.overflow ? SnapshotCondition::overflow : SnapshotCondition::invalid);
        if (condition == SnapshotCondition::overflow)
            see(taken->shown, *taken->snapshot, first, count);
    }

    // What a request that may have been done in part has left.
    void see(Shown& shown, BlockDevice& device, std::uint64_t first, std::uint64_t count) {
        std::vector<std::byte> bytes(count * sector_bytes);
        const int error = submit(device, IoOperation::read, first, count, bytes.data());
        if (error != 0 && lost(device))
            return;
        ASSERT_EQ(error, 0) << device.name();
        for (std::uint64_t index = 0; index < count; ++index)
            std::memcpy(&shown[first + index], &bytes[index * sector_bytes], 4);
    }

    void discard_origin(std::uint64_t first, std::uint64_t count) {
        ASSERT_EQ(submit(*origin_, IoOperation::discard, first, count), 0);
        if (merges())  // without effect as long as there is something to merge
            see(shown_, *origin_, first, count);
        else
            std::fill_n(shown_.begin() + static_cast<std::ptrdiff_t>(first), count, 0);
    }

    void discard(Taken& taken, std::uint64_t first, std::uint64_t count) {
        const bool may = taken.options.discard_zeroes_cow && taken.snapshot->snapshot_status().condition == SnapshotCondition::active;
        const int error = submit(*taken.snapshot, IoOperation::discard, first, count);
        if (error != 0 && lost(*taken.snapshot))
            return;
        if (!may) {
            ASSERT_TRUE(error == EOPNOTSUPP || error == EIO) << error;
            return;
        }
        ASSERT_EQ(error, 0);
        see(taken.shown, *taken.snapshot, first, count);
        if (taken.options.discard_passdown_origin)
            see(shown_, *origin_, first, count);
    }

    void take() {
        if (taken_.size() == 4 || merges())
            return;
        Taken taken;
        const std::uint64_t kind = draw(4);
        taken.options.store = {.persistent = kind != 0,
                               .overflow = kind == 1,
                               .chunk_sectors = chunks_ == Chunks::small ? std::uint32_t{1} << draw(8) : std::uint32_t{128} << draw(7)};
        taken.options.discard_zeroes_cow = draw(2) == 0;
        taken.options.discard_passdown_origin = taken.options.discard_zeroes_cow && draw(2) == 0;
        const std::uint64_t most = largest_useful_store(sectors_ * sector_bytes, taken.options.store.chunk_sectors) / sector_bytes;
        const std::uint64_t least = 2 * taken.options.store.chunk_sectors;
        const std::uint64_t size = draw(2) == 0 ? most : least + draw(most - least + 1);
        taken.store = std::make_unique<MemoryDevice>(size * sector_bytes, fmt::format("store{}", ++count_));
        auto opened = origin_->open_snapshot(*taken.store, taken.options);
        ASSERT_TRUE(opened) << opened.error().message();
        taken.snapshot = *opened;
        taken.grows = draw(2) == 0;
        watch(taken);
        taken.shown = shown_;
        taken_.emplace(count_, std::move(taken));
    }

    void merge(Taken* taken) {
        for (auto& [number, merging] : taken_)
            if (merging.merging) {
                if (draw(2) == 0) {
                    origin_->stop_merge();
                    ASSERT_TRUE(origin_->start_merge(merging.snapshot));
                    return;
                }
                run_until([&] {
                    const SnapshotStatus status = merging.snapshot->snapshot_status();
                    return status.usage.allocated == status.usage.metadata;
                });
                // It is the real device's now.
                ASSERT_TRUE(origin_->end_merge());
                check(*device_, shown_, 0, sectors_);
                taken_.erase(number);
                return;
            }
        if (taken == nullptr)
            return;
        if (!taken->options.store.persistent) {
            ASSERT_EQ(origin_->start_merge(taken->snapshot).error().kind(), ErrorKind::unsupported);
            return;
        }
        ASSERT_TRUE(origin_->start_merge(taken->snapshot));
        taken->merging = true;
        shown_ = taken->shown;
    }

    void reopen() {
        ASSERT_TRUE(origin_->end_merge());
        for (auto& [number, taken] : taken_)
            taken.snapshot.reset();
        origin_.reset();
        std::erase_if(taken_, [](const auto& entry) { return !entry.second.options.store.persistent; });
        open();
    }

    std::mt19937_64 random_;
    Simulation simulation_;
    std::unique_ptr<IoQueue> queue_, home_;
    const Chunks chunks_;
    std::uint64_t sectors_ = 0;
    std::unique_ptr<MemoryDevice> device_;
    std::shared_ptr<Origin> origin_;
    Shown shown_;  // by the origin
    std::map<unsigned, Taken> taken_;
    std::uint32_t last_ = 0;
    unsigned count_ = 0;
    bool room_asked_ = false;
};

TEST(CowModel, ShowsWhatThePlainModelShows) {
    const std::uint64_t seed = std::random_device()();
    for (std::uint64_t index = 0; index < seeds && !testing::Test::HasFailure(); ++index) {
        SCOPED_TRACE(fmt::format("seed {}", seed + index));
        Model(seed + index, Model::Chunks::small).run(400);
    }
    for (std::uint64_t index = 0; index < large_seeds && !testing::Test::HasFailure(); ++index) {
        SCOPED_TRACE(fmt::format("seed {}, large chunks", seed + index));
        Model(seed + index, Model::Chunks::large).run(200);
    }
}

// Several queues write to the origin and read and write snapshots, on threads of their own. Each write fills a piece of the disk with one
// number; a piece is never a mixture, and a snapshot's doesn't change under its readers.
TEST(CowThreads, NoPieceIsTorn) {
    constexpr std::uint64_t piece = 4096;
    constexpr std::uint64_t pieces = 256;
    MemoryDevice device(pieces * piece, "origin");
    MemoryDevice first_store(2 * device.size(), "store1"), second_store(2 * device.size(), "store2");
    const auto origin = *Origin::open(device);
    const std::uint64_t seed = std::random_device()();
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::atomic<bool> over{false};
    std::atomic<std::uint64_t> torn{0}, failed{0};
    const auto whole = [](const std::vector<std::byte>& bytes) {
        return std::all_of(bytes.begin(), bytes.end(), [&](std::byte byte) { return byte == bytes[0]; });
    };
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < 2; ++number)
        threads.emplace_back([&, number] {
            std::mt19937_64 random(seed + number);
            const auto queue = *make_plain_queue();
            std::vector<std::byte> bytes(piece);
            for (unsigned count = 0; !over; ++count) {
                // Each writer has pieces of its own.
                const std::uint64_t at = (random() % (pieces / 2) * 2 + number) * piece;
                std::fill(bytes.begin(), bytes.end(), static_cast<std::byte>(random()));
                test::Request writing(IoOperation::write, at, piece, bytes.data());
                failed += writing.run(*origin, *queue) != 0;
            }
        });
    for (unsigned round = 0; round < 6; ++round) {
        auto fine = *origin->open_snapshot(first_store, {.store = {.chunk_sectors = 8}});
        auto coarse = *origin->open_snapshot(second_store, {.store = {.chunk_sectors = 64}});
        std::vector<std::byte> before(device.size()), after(device.size());
        EXPECT_TRUE(read_now(*fine, 0, before));
        const auto queue = *make_plain_queue();
        std::mt19937_64 random(seed + 100 + round);
        std::vector<std::byte> bytes(piece);
        for (unsigned count = 0; count < 300; ++count) {
            Snapshot& snapshot = random() % 2 == 0 ? *fine : *coarse;
            test::Request reading(IoOperation::read, random() % pieces * piece, piece, bytes.data());
            failed += reading.run(snapshot, *queue) != 0;
            torn += !whole(bytes);
        }
        EXPECT_TRUE(read_now(*fine, 0, after));
        EXPECT_EQ(before, after) << "the snapshot holds its moment";
        if (round % 3 == 2) {
            EXPECT_TRUE(origin->start_merge(fine));
            while (fine->snapshot_status().usage.allocated != fine->snapshot_status().usage.metadata)
                std::this_thread::yield();
            EXPECT_TRUE(origin->end_merge());
        }
        fine.reset();
        coarse.reset();
        EXPECT_TRUE(write_zeroes_now(first_store, 0, 8192));
        EXPECT_TRUE(write_zeroes_now(second_store, 0, 8192));
    }
    over = true;
    for (std::thread& thread : threads)
        thread.join();
    EXPECT_EQ(torn, 0u);
    EXPECT_EQ(failed, 0u);
}

}  // namespace
}  // namespace lamella::cow
