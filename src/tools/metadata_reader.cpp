// SPDX-License-Identifier: Apache-2.0
#include "tools/metadata_reader.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "device/io_queue.h"
#include "pdata/metadata_space_map.h"

namespace lamella::tools {

using pdata::block_bytes;

namespace {

constexpr std::size_t blocks_per_read = 64;
constexpr std::size_t reads_per_thread = 4;
// Blocks that nobody asked for are read along when that saves a request.
constexpr std::uint64_t widest_gap = 8;

}  // namespace

Result<void> ReadBlock::verify(pdata::BlockKind kind) const {
    if (error != 0)
        return fail_errno("reading it", error);
    return pdata::verify_block(bytes, kind, location);
}

// One call of read_set() or read_list(): what is left to be handed to the threads.
struct MetadataReader::Pass {
    struct Run {
        MetadataBlock first{};
        std::size_t count = 0;
        std::size_t index = 0;  // in the list
    };

    const MetadataBlockSet* set = nullptr;
    std::span<const MetadataBlock> list{};
    const Visit& visit;
    const Control& control;
    std::uint64_t device_blocks;
    std::uint64_t total = 0;

    std::mutex mutex{};
    MetadataBlock next_in_set{};
    std::size_t next_in_list = 0;
    std::uint64_t done = 0;

    std::optional<Run> take() {
        std::lock_guard lock(mutex);
        if (control.stopped())
            return std::nullopt;
        return set != nullptr ? take_from_set() : take_from_list();
    }

    void finished(std::size_t count) {
        if (!control.progress)
            return;
        std::lock_guard lock(mutex);
        done += count;
        control.progress(done * block_bytes, total * block_bytes);
    }

    bool wanted(MetadataBlock location) const { return set == nullptr || set->contains(location); }

  private:
    std::optional<Run> take_from_set() {
        auto first = set->next(next_in_set);
        if (!first)
            return std::nullopt;
        MetadataBlock last = *first;
        for (;;) {
            auto next = set->next(last + 1);
            if (!next || *next - last > widest_gap || *next - *first >= blocks_per_read)
                break;
            last = *next;
        }
        next_in_set = last + 1;
        return Run{*first, static_cast<std::size_t>(last - *first + 1), 0};
    }

    std::optional<Run> take_from_list() {
        if (next_in_list == list.size())
            return std::nullopt;
        Run run{list[next_in_list], 1, next_in_list};
        while (run.count < blocks_per_read && run.index + run.count < list.size() && list[run.index + run.count] == run.first + run.count &&
               run.first.value() + run.count < device_blocks)
            ++run.count;
        next_in_list += run.count;
        return run;
    }
};

class MetadataReader::Workers {
  public:
    explicit Workers(BlockDevice& device) : device_(device) {}

    ~Workers() {
        {
            std::lock_guard lock(mutex_);
            ending_ = true;
        }
        changed_.notify_all();
        for (std::thread& thread : threads_)
            thread.join();
    }

    Result<void> start(unsigned count) {
        try {
            for (unsigned number = 0; number < count; ++number)
                threads_.emplace_back([this, number] { loop(number); });
        } catch (const std::system_error& error) {
            if (threads_.empty())
                return fail_errno("starting a thread", error.code().value());
        }
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return ready_ == threads_.size(); });
        if (queue_error_)
            return std::unexpected(*queue_error_);
        return {};
    }

    unsigned count() const { return static_cast<unsigned>(threads_.size()); }

    void run(Pass& pass) {
        std::unique_lock lock(mutex_);
        pass_ = &pass;
        busy_ = count();
        ++generation_;
        changed_.notify_all();
        changed_.wait(lock, [this] { return busy_ == 0; });
        pass_ = nullptr;
    }

  private:
    struct Read {
        Pass::Run run;
        AlignedBuffer buffer{blocks_per_read * block_bytes};
        iovec vector{};
        IoRequest request{};
        std::vector<Read*>* ended = nullptr;
        int error = 0;
    };

    void loop(unsigned number) {
        auto queue = make_io_queue();
        std::array<Read, reads_per_thread> reads;
        std::uint64_t seen = 0;
        std::unique_lock lock(mutex_);
        ++ready_;
        if (!queue)
            queue_error_ = queue.error();
        changed_.notify_all();
        for (;;) {
            changed_.wait(lock, [&] { return ending_ || generation_ != seen; });
            if (ending_)
                return;
            seen = generation_;
            Pass& pass = *pass_;
            lock.unlock();
            work(number, pass, **queue, reads);
            lock.lock();
            if (--busy_ == 0)
                changed_.notify_all();
        }
    }

    void work(unsigned number, Pass& pass, IoQueue& queue, std::span<Read> reads) {
        std::vector<Read*> ended;
        std::size_t in_flight = 0;
        for (Read& read : reads)
            in_flight += submit(pass, queue, read, ended);
        while (in_flight > 0) {
            while (ended.empty())
                queue.run_once(true);
            std::vector<Read*> now;
            now.swap(ended);
            for (Read* read : now) {
                visit(number, pass, *read);
                pass.finished(read->run.count);
                --in_flight;
                in_flight += submit(pass, queue, *read, ended);
            }
        }
    }

    // 1 if there was something left to read.
    std::size_t submit(Pass& pass, IoQueue& queue, Read& read, std::vector<Read*>& ended) {
        auto run = pass.take();
        if (!run)
            return 0;
        read.run = *run;
        read.ended = &ended;
        read.vector = {read.buffer.data(), run->count * block_bytes};
        read.request = {.operation = IoOperation::read,
                        .offset = run->first.value() * block_bytes,
                        .length = read.vector.iov_len,
                        .vectors = {&read.vector, 1}};
        read.request.context = &read;
        read.request.completed = [](IoRequest& request, int error) {
            auto& self = *static_cast<Read*>(request.context);
            self.error = error;
            self.ended->push_back(&self);
        };
        if (run->first.value() >= pass.device_blocks) {
            read.error = EINVAL;
            queue.complete_later(read.request, EINVAL);
        } else {
            device_.submit(queue, read.request);
        }
        return 1;
    }

    void visit(unsigned number, Pass& pass, Read& read) {
        for (std::size_t offset = 0; offset < read.run.count; ++offset) {
            MetadataBlock location = read.run.first + offset;
            if (!pass.wanted(location))
                continue;
            ReadBlock block{.location = location, .index = pass.set != nullptr ? 0 : read.run.index + offset};
            auto bytes = read.buffer.bytes().subspan(offset * block_bytes, block_bytes);
            block.error = read.error;
            // One bad sector fails the whole request: each block gets its own chance.
            if (read.error != 0 && location.value() < pass.device_blocks) {
                auto again = read_now(device_, location.value() * block_bytes, bytes);
                block.error = again ? 0 : again.error().error_number();
            }
            if (block.error == 0)
                block.bytes = bytes;
            pass.visit(number, block);
        }
    }

    BlockDevice& device_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::thread> threads_;
    std::size_t ready_ = 0;
    std::optional<Error> queue_error_;
    Pass* pass_ = nullptr;
    std::uint64_t generation_ = 0;
    unsigned busy_ = 0;
    bool ending_ = false;
};

MetadataReader::MetadataReader(BlockDevice& device, std::uint64_t blocks)
    : device_(device), blocks_(blocks), workers_(std::make_unique<Workers>(device)) {}

MetadataReader::~MetadataReader() = default;

Result<std::unique_ptr<MetadataReader>> MetadataReader::start(BlockDevice& device, const Options& options) {
    std::uint64_t blocks = std::min<std::uint64_t>(device.size() / block_bytes, pdata::MetadataSpaceMap::max_blocks);
    std::unique_ptr<MetadataReader> reader(new MetadataReader(device, blocks));
    unsigned threads = options.threads != 0 ? options.threads : std::thread::hardware_concurrency();
    TRY(reader->workers_->start(std::clamp(threads, 1u, max_threads)));
    return reader;
}

unsigned MetadataReader::threads() const { return workers_->count(); }

std::string MetadataReader::describe(MetadataBlock location) const {
    return fmt::format("metadata block {} of {}", location, device_.name());
}

Result<void> MetadataReader::read_set(const MetadataBlockSet& blocks, const Visit& visit, const Control& control) {
    Pass pass{.set = &blocks, .visit = visit, .control = control, .device_blocks = blocks_};
    if (control.progress)
        pass.total = blocks.count();
    return run(pass);
}

Result<void> MetadataReader::read_list(std::span<const MetadataBlock> blocks, const Visit& visit, const Control& control) {
    Pass pass{.list = blocks, .visit = visit, .control = control, .device_blocks = blocks_, .total = blocks.size()};
    return run(pass);
}

Result<void> MetadataReader::run(Pass& pass) {
    workers_->run(pass);
    if (pass.control.stopped())
        return Control::interrupted();
    return {};
}

Result<void> MetadataReader::read_block(MetadataBlock location, pdata::BlockKind kind, std::span<std::byte> bytes) const {
    if (location.value() >= blocks_)
        return fail(ErrorKind::damaged, "{}: beyond the end of the device", describe(location));
    TRY_WITHIN(describe(location), read_now(device_, location.value() * block_bytes, bytes));
    TRY_WITHIN(describe(location), pdata::verify_block(bytes, kind, location));
    return {};
}

}  // namespace lamella::tools
