// SPDX-License-Identifier: Apache-2.0
//
// bench_cow_load WHAT ORIGIN CHUNK WRITES DEPTH [STORE...]: drives the cow floor by itself, on files that are there and written already, and
// prints a line "PHASE NUMBER", a second, for each phase. CHUNK in sectors; every write is of 4 KiB at the start of a chunk, each chunk
// once, in random order; DEPTH at a time.
//
//   touch     raw: the origin's file alone; first, second: the origin with a snapshot in each STORE (none: an origin without)
//   snapshot  raw; first, second: writes to the snapshot in STORE
//   merge     copy: bytes of STORE's chunks copied to the origin's file; merge: bytes merged
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "base/clock.h"
#include "cow/copier.h"
#include "cow/origin.h"
#include "device/file_device.h"

namespace lamella {
namespace {

constexpr std::uint64_t write_bytes = 4096;

double since(Duration begin) { return std::chrono::duration<double>(Clock::system().monotonic() - begin).count(); }

// Writes a second.
class Load {
  public:
    Load(IoQueue& queue, std::uint64_t chunk_bytes, std::uint64_t writes, unsigned depth)
        : queue_(queue), chunk_bytes_(chunk_bytes), order_(writes), slots_(depth), data_(write_bytes) {
        std::iota(order_.begin(), order_.end(), 0);
        std::shuffle(order_.begin(), order_.end(), std::mt19937_64(1));
        std::fill_n(data_.data(), write_bytes, std::byte{7});
    }

    Result<double> run(BlockDevice& device) {
        device_ = &device;
        next_ = done_ = 0;
        error_ = 0;
        const Duration begin = Clock::system().monotonic();
        for (Slot& slot : slots_) {
            slot.load = this;
            slot.vector = {data_.data(), write_bytes};
            slot.completed = [](IoRequest& request, int error) {
                Load& load = *static_cast<Slot&>(request).load;
                if (error != 0)
                    load.error_ = error;
                ++load.done_;
                load.submit(static_cast<Slot&>(request));
            };
            submit(slot);
        }
        queue_.run_until([&] { return done_ == order_.size(); });
        if (error_ != 0)
            return fail_errno(device.name(), error_);
        return static_cast<double>(order_.size()) / since(begin);
    }

  private:
    struct Slot : IoRequest {
        Load* load = nullptr;
        iovec vector{};
    };
    void submit(Slot& slot) {
        if (next_ == order_.size())
            return;
        slot.operation = IoOperation::write;
        slot.offset = order_[next_++] * chunk_bytes_;
        slot.length = write_bytes;
        slot.vectors = {&slot.vector, 1};
        device_->submit(queue_, slot);
    }

    IoQueue& queue_;
    const std::uint64_t chunk_bytes_;
    std::vector<std::uint64_t> order_;
    std::vector<Slot> slots_;
    AlignedBuffer data_;
    BlockDevice* device_ = nullptr;
    std::size_t next_ = 0, done_ = 0;
    int error_ = 0;
};

Result<double> copy(BlockDevice& from, BlockDevice& to, std::uint64_t bytes) {
    const auto queue = TRY(make_io_queue());
    cow::Copier copier(*queue, 16 << 20);
    struct Job : cow::Copy {
        bool done = false;
    } job;
    job.from = &from;
    job.length = bytes;
    job.targets.push_back({.device = &to, .start = 0, .length = bytes, .offset = 0});
    job.completed = [](cow::Copy& finished) { static_cast<Job&>(finished).done = true; };
    const Duration begin = Clock::system().monotonic();
    copier.start(job);
    queue->run_until([&] { return job.done; });
    TRY(flush_now(to));
    return static_cast<double>(bytes) / since(begin);
}

Result<void> run(std::string_view what, int count, char** words) {
    const auto number = [&](int index) { return std::strtoull(words[index], nullptr, 10); };
    const auto file = TRY(FileDevice::open(words[2]));
    const auto chunk_sectors = static_cast<std::uint32_t>(number(3));
    const std::uint64_t writes = number(4);
    if (writes * chunk_sectors * sector_bytes > file->size())
        return fail(ErrorKind::usage, "{} has no {} chunks of {} sectors", words[2], writes, chunk_sectors);
    const auto queue = TRY(make_io_queue());
    Load load(*queue, chunk_sectors * sector_bytes, writes, static_cast<unsigned>(number(5)));
    std::vector<std::unique_ptr<FileDevice>> stores;
    for (int index = 6; index < count; ++index) {
        stores.push_back(TRY(FileDevice::open(words[index])));
        TRY(write_now(*stores.back(), 0, std::vector<std::byte>(write_bytes)));
    }
    if (what != "merge")
        fmt::print("raw {:.0f}\n", TRY(load.run(*file)));
    else
        fmt::print("copy {:.0f}\n", TRY(copy(*stores.at(0), *file, writes * chunk_sectors * sector_bytes)));
    const auto origin = TRY(cow::Origin::open(*file));
    std::vector<std::shared_ptr<cow::Snapshot>> snapshots;
    for (const auto& store : stores)
        snapshots.push_back(TRY(origin->open_snapshot(*store, {.store = {.chunk_sectors = chunk_sectors}})));
    BlockDevice& device = what == "snapshot" ? static_cast<BlockDevice&>(*snapshots.at(0)) : *origin;
    const double first = TRY(load.run(device));
    if (what == "merge") {
        const Duration begin = Clock::system().monotonic();
        TRY(origin->start_merge(snapshots.at(0)));
        while (snapshots[0]->snapshot_status().usage.allocated != snapshots[0]->snapshot_status().usage.metadata)
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        fmt::print("merge {:.0f}\n", static_cast<double>(writes * chunk_sectors * sector_bytes) / since(begin));
        return {};
    }
    fmt::print("first {:.0f}\nsecond {:.0f}\n", first, TRY(load.run(device)));
    for (const auto& snapshot : snapshots)
        if (snapshot->snapshot_status().condition != cow::SnapshotCondition::active)
            return fail(ErrorKind::failed, "{}: {}", snapshot->name(), snapshot->snapshot_status().line());
    return {};
}

}  // namespace
}  // namespace lamella

int main(int count, char** words) {
    if (count < 6) {
        fmt::print(stderr, "bench_cow_load touch|snapshot|merge ORIGIN CHUNK WRITES DEPTH [STORE...]\n");
        return 2;
    }
    if (const auto done = lamella::run(words[1], count, words); !done) {
        fmt::print(stderr, "bench_cow_load: {}\n", done.error().message());
        return 1;
    }
    return 0;
}
