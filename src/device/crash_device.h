// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/strong.h"
#include "device/block_device.h"
#include "device/memory_device.h"
#include "device/sparse_bytes.h"

namespace lamella {

// The power of one simulated machine: all its disks lose it at once. Any thread.
class PowerSwitch {
  public:
    // The power goes as the Nth operation from now on (write, write_zeroes, discard or flush, over all disks) is submitted: 1 is the
    // next. What that operation would do may happen in full, in part or not at all.
    void cut_after(std::uint64_t operations);
    void cut_now() { off_.store(true); }
    bool off() const { return off_.load(); }
    // Operations that were submitted since the start, those after the cut left out.
    std::uint64_t operations() const { return operations_.load(); }

  private:
    friend class CrashDevice;
    // Counts an operation. False: the power was off before it.
    bool count();

    std::atomic<bool> off_{false};
    std::atomic<std::uint64_t> operations_{0};
    std::atomic<std::uint64_t> limit_{UINT64_MAX};
};

// How late completions come: up to `max_steps` steps of the queue, each by the seed, so that they overtake each other. An operation
// takes effect as it completes.
struct CompletionDelays {
    std::uint64_t seed = 0;
    unsigned max_steps = 0;
};

// A simulated disk with a volatile cache, for crash tests. Any thread.
//
// It keeps two things apart: what survives for certain, and the writes, zeros and discards that no flush has covered. A flush covers
// exactly the operations whose completion had been delivered when the flush was submitted, once the flush has completed; a durable
// operation covers itself once it has completed. After a cut, of every uncovered operation all, nothing, or what lies in any of the
// disk's physical blocks may have reached the disk, each operation independently of the others: lost, kept, reordered, torn. Of two that
// wrote one sector after the other, the earlier never wins over a later one that was kept.
//
// When the power goes, requests in flight and all later ones complete with EIO and without effect, so that the layers above can be
// taken down; then remains() gives the disk that the next start finds.
class CrashDevice final : public BlockDevice {
  public:
    CrashDevice(std::uint64_t size, std::string name, PowerSwitch& power, CompletionDelays delays = {});
    // Starts from what an earlier life left. `physical_block`: as DeviceTraits has it.
    CrashDevice(std::uint64_t size, std::string name, PowerSwitch& power, SparseBytes content, CompletionDelays delays = {},
                std::uint32_t physical_block = sector_bytes);
    ~CrashDevice() override;

    // What a cut at this moment would leave, by the seed. The device itself goes on (or stays off): as many seeds as wanted may be
    // asked for the same moment.
    SparseBytes remains(std::uint64_t seed) const;
    // The same as a disk of its own, to open and check.
    std::unique_ptr<MemoryDevice> cut(std::uint64_t seed) const;
    // Operations that no flush has covered.
    std::size_t uncovered() const;

    std::uint64_t size() const override;
    DeviceTraits traits() const override;
    std::string name() const override { return name_; }
    void submit(IoQueue& queue, IoRequest& request) override;
    void status(IoQueue& queue, StatusRequest& request) override;
    std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) override;

    // Bytes; growing only. Survives a cut at once.
    void grow(std::uint64_t size);

  private:
    // What an operation changes. No data: zeros.
    struct Effect {
        std::uint64_t number = 0;
        std::uint64_t offset = 0;
        std::uint64_t length = 0;
        std::vector<std::byte> data;
        bool keep_allocated = false;
        bool completed = false;
        // Sectors that a later operation has overwritten for certain: runs of (offset, length).
        std::vector<std::pair<std::uint64_t, std::uint64_t>> superseded;
    };
    struct Operation;

    unsigned draw_delay();
    void step(Operation& operation);
    int take_effect(Operation& operation);
    void make_durable(const std::shared_ptr<Effect>& effect);
    static void apply(const Effect& effect, SparseBytes& content);
    // Sector by sector: those that nothing has superseded in the blocks that `kept` wants, counted from the first that the effect touches.
    template <typename Predicate>
    void apply_sectors(const Effect& effect, SparseBytes& content, Predicate kept) const;

    const std::string name_;
    PowerSwitch& power_;
    const CompletionDelays delays_;
    const std::uint32_t physical_block_;
    mutable std::mutex mutex_;
    std::uint64_t size_;
    std::mt19937_64 random_;
    std::uint64_t next_number_ = 1;
    SparseBytes durable_;                             // survives for certain
    SparseBytes current_;                             // what reads see
    std::vector<std::shared_ptr<Effect>> uncovered_;  // in the order submitted
};

}  // namespace lamella
