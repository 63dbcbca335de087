// SPDX-License-Identifier: Apache-2.0
//
// bench_snapshot_load WHAT FILE ORIGIN CHUNK WRITES DEPTH SNAPSHOTS: random writes under snapshots, on a file that is there and written
// already: an origin of ORIGIN bytes, behind it the snapshots' stores. Prints a line "PHASE NUMBER", a second, for each phase. CHUNK in
// sectors; every write is of 4 KiB at the start of a chunk, each chunk once, in random order, DEPTH at a time, and a flush at the end.
//
//   touch     raw: the origin's place in the file alone; floor: what copies ask of the disk at least; ceiling: the same without any order;
//             first, second: the origin with a classic snapshot in each store (none: an origin without)
//   snapshot  raw; first, second: writes to the classic snapshot
//   merge     copy: bytes of the store copied to the origin's place; merge: bytes merged
//   thin      raw; first, second: a thin volume of a pool in the file, with so many thin snapshots
//   device    first, second: the file itself, which may be a device of the kernel's with snapshots of its own
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <memory>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "cow/copier.h"
#include "cow/origin.h"
#include "device/file_device.h"
#include "device/slice_device.h"
#include "random_load.h"
#include "thin/pool.h"
#include "thin/volume.h"

namespace lamella {
namespace {

constexpr double long_enough = 1;  // second: of what can be done again

// What the copies themselves ask of the disk: in each of some groups, again and again, chunks are read at random places, written one
// after the other to each store, flushed; a sector is written to each store, flushed; then the writes are made. No bookkeeping, and all of
// a group's I/O at once, so that no order that keeps the promise has less to do. Writes a second.
class Floor {
  public:
    Floor(IoQueue& queue, BlockDevice& origin, std::span<const std::unique_ptr<SliceDevice>> stores, std::uint64_t chunk_bytes,
          std::uint64_t writes)
        : queue_(queue), origin_(origin), stores_(stores), chunk_bytes_(chunk_bytes), order_(shuffled(writes)) {}

    Result<double> run(unsigned group_count, unsigned depth) {
        next_ = done_ = 0;
        std::vector<Group> groups(group_count);
        const Duration begin = Clock::system().monotonic();
        for (Group& group : groups) {
            group.floor = this;
            group.buffer = AlignedBuffer(std::max<std::uint64_t>(chunk_bytes_, request_bytes) * (depth / group_count));
            group.most = depth / group_count;
            group.begin();
        }
        queue_.run_until([&] { return done_ == order_.size(); });
        if (error_ != 0)
            return fail_errno("the floor", error_);
        return static_cast<double>(order_.size()) / since(begin);
    }

  private:
    struct Group {
        struct Part : IoRequest {
            Group* group = nullptr;
            iovec vector{};
        };
        enum class Step { read, copy, flush_copy, commit, flush_commit, write };

        Floor* floor = nullptr;
        AlignedBuffer buffer;
        unsigned most = 0;
        std::size_t first = 0, count = 0;
        Step step{};
        std::deque<Part> parts;
        std::size_t under_way = 0;

        void begin() {
            first = floor->next_;
            count = std::min<std::size_t>(most, floor->order_.size() - first);
            floor->next_ += count;
            step = Step::read;
            if (count > 0)
                go();
        }
        void add(BlockDevice& device, IoOperation operation, std::uint64_t offset, std::size_t from, std::uint64_t length) {
            Part& part = parts.emplace_back();
            part.group = this;
            part.vector = {buffer.data() + from, length};
            part.operation = operation;
            part.offset = offset;
            part.length = length;
            if (length > 0)
                part.vectors = {&part.vector, 1};
            part.completed = [](IoRequest& request, int error) {
                Group& group = *static_cast<Part&>(request).group;
                if (error != 0)
                    group.floor->error_ = error;
                if (--group.under_way == 0)
                    group.ended();
            };
            ++under_way;
            device.submit(floor->queue_, part);
        }
        void go() {
            parts.clear();
            const std::uint64_t chunk = floor->chunk_bytes_;
            switch (step) {
            case Step::read:
            case Step::write:
                for (std::size_t index = 0; index < count; ++index)
                    if (step == Step::read)
                        add(floor->origin_, IoOperation::read, floor->order_[first + index] * chunk, index * chunk, chunk);
                    else
                        add(floor->origin_, IoOperation::write, floor->order_[first + index] * chunk, 0, request_bytes);
                break;
            case Step::copy:
                for (const auto& store : floor->stores_)
                    add(*store, IoOperation::write, (2 + first) * chunk, 0, count * chunk);
                break;
            case Step::commit:
                for (const auto& store : floor->stores_)
                    add(*store, IoOperation::write, chunk, 0, sector_bytes);
                break;
            case Step::flush_copy:
            case Step::flush_commit: add(*floor->stores_[0], IoOperation::flush, 0, 0, 0); break;
            }
        }
        void ended() {
            if (step == Step::write) {
                floor->done_ += count;
                return begin();
            }
            step = static_cast<Step>(static_cast<int>(step) + 1);
            go();
        }
    };

    IoQueue& queue_;
    BlockDevice& origin_;
    const std::span<const std::unique_ptr<SliceDevice>> stores_;
    const std::uint64_t chunk_bytes_;
    const std::vector<std::uint64_t> order_;
    std::size_t next_ = 0, done_ = 0;
    int error_ = 0;
};

// The same I/O in no order at all: nothing waits for anything, so that no way to make copies that keeps `depth` writes waiting at most is
// faster on this disk. So many copies can't do with fewer than two flushes: each waits for one that begins when its data is written and,
// after that, for one that begins when its exception is, and at most `depth` wait for the same.
class Ceiling {
  public:
    Ceiling(IoQueue& queue, BlockDevice& origin, std::span<const std::unique_ptr<SliceDevice>> stores, std::uint64_t chunk_bytes,
            std::uint64_t writes)
        : queue_(queue), origin_(origin), stores_(stores), chunk_bytes_(chunk_bytes), order_(shuffled(writes)) {}

    // Writes a second, with so many requests at the disk.
    Result<double> run(unsigned depth, unsigned requests) {
        depth_ = std::min<std::size_t>(depth, order_.size());
        first_ = index_ = under_way_ = 0;
        std::vector<Slot> slots(requests);
        buffer_ = AlignedBuffer(std::max<std::uint64_t>(chunk_bytes_, request_bytes) * depth_);
        const Duration begin = Clock::system().monotonic();
        for (Slot& slot : slots) {
            slot.ceiling = this;
            slot.completed = [](IoRequest& request, int error) {
                Slot& done = static_cast<Slot&>(request);
                if (error != 0)
                    done.ceiling->error_ = error;
                --done.ceiling->under_way_;
                done.ceiling->next(done);
            };
            next(slot);
        }
        queue_.run_until([&] { return under_way_ == 0; });
        if (error_ != 0)
            return fail_errno("the ceiling", error_);
        return static_cast<double>(first_) / since(begin);
    }

  private:
    struct Slot : IoRequest {
        Ceiling* ceiling = nullptr;
        iovec vector{};
    };

    // For each group of writes a read and a write of each; to each store their chunks, one behind the other, and a sector; two flushes.
    void next(Slot& slot) {
        if (first_ + depth_ > order_.size())
            return;
        const std::size_t of_chunks = 2 * depth_, of_stores = 2 * stores_.size();
        const std::size_t index = index_++;
        if (index < of_chunks) {
            const bool reads = index % 2 == 0;
            submit(slot, origin_, reads ? IoOperation::read : IoOperation::write, order_[first_ + index / 2] * chunk_bytes_,
                   reads ? chunk_bytes_ : request_bytes);
        } else if (index < of_chunks + of_stores) {
            SliceDevice& store = *stores_[(index - of_chunks) / 2];
            if (index % 2 == 0)
                submit(slot, store, IoOperation::write, (2 + first_) * chunk_bytes_, depth_ * chunk_bytes_);
            else
                submit(slot, store, IoOperation::write, chunk_bytes_, sector_bytes);
        } else {
            if (index == of_chunks + of_stores + 1) {
                index_ = 0;
                first_ += depth_;
            }
            submit(slot, *stores_[0], IoOperation::flush, 0, 0);
        }
    }
    void submit(Slot& slot, BlockDevice& device, IoOperation operation, std::uint64_t offset, std::uint64_t length) {
        slot.vector = {buffer_.data(), length};
        slot.operation = operation;
        slot.offset = offset;
        slot.length = length;
        slot.vectors = std::span<const iovec>(&slot.vector, length > 0 ? 1 : 0);
        ++under_way_;
        device.submit(queue_, slot);
    }

    IoQueue& queue_;
    BlockDevice& origin_;
    const std::span<const std::unique_ptr<SliceDevice>> stores_;
    const std::uint64_t chunk_bytes_;
    const std::vector<std::uint64_t> order_;
    AlignedBuffer buffer_;
    std::size_t depth_ = 0;
    std::size_t first_ = 0, index_ = 0;  // of the group; of the request in it
    std::size_t under_way_ = 0;
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

struct Work {
    BlockDevice& file;
    std::uint64_t origin_bytes;
    std::uint32_t chunk_sectors;
    std::uint64_t writes;
    unsigned depth;
    std::uint64_t snapshots;

    std::uint64_t chunk_bytes() const { return chunk_sectors * sector_bytes; }
};

Result<void> first_and_second(Load& load, BlockDevice& device) {
    fmt::print("first {:.0f}\n", TRY(load.run(device)));
    fmt::print("second {:.0f}\n", TRY(load.run(device, long_enough)));
    return {};
}

Result<void> classic(std::string_view what, const Work& work) {
    const auto queue = TRY(make_io_queue());
    const std::uint64_t chunk_bytes = work.chunk_bytes(), bytes = work.writes * chunk_bytes;
    Load load(*queue, chunk_bytes, work.writes, work.depth);
    // As a group lays its volumes: on one disk, so that a flush is one for all.
    const auto real = TRY(SliceDevice::create(work.file, 0, work.origin_bytes, "origin"));
    std::vector<std::unique_ptr<SliceDevice>> stores;
    for (std::uint64_t index = 0; index < work.snapshots; ++index) {
        const std::uint64_t room = (work.file.size() - work.origin_bytes) / work.snapshots / chunk_bytes * chunk_bytes;
        stores.push_back(TRY(SliceDevice::create(work.file, work.origin_bytes + index * room, room, fmt::format("store{}", index))));
        TRY(write_now(*stores.back(), 0, std::vector<std::byte>(request_bytes)));
    }
    if (what == "merge") {
        fmt::print("copy {:.0f}\n", TRY(copy(*stores.at(0), *real, bytes)));
    } else {
        fmt::print("raw {:.0f}\n", TRY(load.run(*real, long_enough)));
        // Which way of grouping is best depends on the disk.
        double best = 0;
        for (const unsigned groups : {1u, 2u, 4u})
            if (what == "touch" && !stores.empty() && groups <= work.depth)
                best = std::max(best, TRY(Floor(*queue, *real, stores, chunk_bytes, work.writes).run(groups, work.depth)));
        if (best > 0) {
            fmt::print("floor {:.0f}\n", best);
            best = 0;
            for (const unsigned requests : {work.depth, 2 * work.depth, 4 * work.depth})
                best = std::max(best, TRY(Ceiling(*queue, *real, stores, chunk_bytes, work.writes).run(work.depth, requests)));
            fmt::print("ceiling {:.0f}\n", best);
        }
    }
    const auto origin = TRY(cow::Origin::open(*real));
    std::vector<std::shared_ptr<cow::Snapshot>> snapshots;
    for (const auto& store : stores)
        snapshots.push_back(TRY(origin->open_snapshot(*store, {.store = {.chunk_sectors = work.chunk_sectors}})));
    if (what == "merge") {
        TRY(load.run(*origin));
        const Duration begin = Clock::system().monotonic();
        TRY(origin->start_merge(snapshots.at(0)));
        while (snapshots[0]->snapshot_status().usage.allocated != snapshots[0]->snapshot_status().usage.metadata)
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        fmt::print("merge {:.0f}\n", static_cast<double>(bytes) / since(begin));
        return {};
    }
    TRY(first_and_second(load, what == "snapshot" ? static_cast<BlockDevice&>(*snapshots.at(0)) : *origin));
    for (const auto& snapshot : snapshots)
        if (snapshot->snapshot_status().condition != cow::SnapshotCondition::active)
            return fail(ErrorKind::failed, "{}: {}", snapshot->name(), snapshot->snapshot_status().line());
    return {};
}

// A thin volume, all of it mapped, then shared with its snapshots.
Result<void> thin_snapshots(const Work& work) {
    constexpr std::uint64_t metadata_bytes = 16 << 20;
    const auto queue = TRY(make_io_queue());
    const auto metadata = TRY(SliceDevice::create(work.file, 0, metadata_bytes, "metadata"));
    const auto data = TRY(SliceDevice::create(work.file, metadata_bytes, work.file.size() - metadata_bytes, "data"));
    Load load(*queue, work.chunk_bytes(), work.writes, work.depth);
    fmt::print("raw {:.0f}\n", TRY(load.run(*data, long_enough)));
    TRY(thin::ThinPool::format(*metadata, data->size(), work.chunk_sectors));
    const auto pool = TRY(thin::ThinPool::open(*metadata, *data, {.data_block_sectors = work.chunk_sectors}));
    using Kind = thin::PoolChange::Kind;
    TRY(pool->transact({{.kind = Kind::create_thin, .id = ThinId(0)}}, 0, 1));
    const auto volume = TRY(pool->open_volume(ThinId(0), work.origin_bytes, "volume"));
    const std::vector<std::byte> piece(1 << 20, std::byte{1});
    for (std::uint64_t at = 0; at < work.origin_bytes; at += piece.size())
        TRY(write_now(*volume, at, piece));
    for (std::uint64_t number = 1; number <= work.snapshots; ++number)
        TRY(pool->transact({{.kind = Kind::create_snapshot, .id = ThinId(number), .origin = ThinId(0)}}, number, number + 1));
    return first_and_second(load, *volume);
}

Result<void> run(std::string_view what, char** words) {
    const auto number = [&](int index) { return std::strtoull(words[index], nullptr, 10); };
    const auto file = TRY(FileDevice::open(words[2]));
    const Work work{*file, number(3), static_cast<std::uint32_t>(number(4)), number(5), static_cast<unsigned>(number(6)), number(7)};
    if (work.writes * work.chunk_bytes() > work.origin_bytes)
        return fail(ErrorKind::usage, "{} bytes have no {} chunks of {} sectors", work.origin_bytes, work.writes, work.chunk_sectors);
    if (what == "thin")
        return thin_snapshots(work);
    if (what != "device")
        return classic(what, work);
    const auto queue = TRY(make_io_queue());
    Load load(*queue, work.chunk_bytes(), work.writes, work.depth);
    return first_and_second(load, *file);
}

}  // namespace
}  // namespace lamella

int main(int count, char** words) {
    if (count != 8) {
        fmt::print(stderr, "bench_snapshot_load touch|snapshot|merge|thin|device FILE ORIGIN CHUNK WRITES DEPTH SNAPSHOTS\n");
        return 2;
    }
    if (const auto done = lamella::run(words[1], words); !done) {
        fmt::print(stderr, "bench_snapshot_load: {}\n", done.error().message());
        return 1;
    }
    return 0;
}
