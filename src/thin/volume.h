// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "device/block_device.h"
#include "thin/mapping_cache.h"

namespace lamella::thin {

class PoolThread;

// A thin volume or snapshot: dm-thin's thin target. Reads, and writes to blocks that no snapshot shares, go straight to the
// data device on the caller's queue; everything else goes through the pool's thread.
//
// Threads: as BlockDevice. Closed (the last shared pointer gone) on a thread that is not the pool's, with nothing in flight.
class ThinVolume final : public BlockDevice {
  public:
    ThinVolume(PoolThread& pool, ThinId id, std::uint64_t size, std::string name, std::uint32_t snapshot_time, BlockDevice* external_origin,
               MappingBudget& budget);
    ~ThinVolume() override;

    std::uint64_t size() const override { return size_.load(); }
    DeviceTraits traits() const override;
    std::string name() const override { return name_; }
    void submit(IoQueue& queue, IoRequest& request) override;
    void status(IoQueue& queue, StatusRequest& request) override;
    void add_leaves(std::vector<BlockDevice*>& leaves) override;

    ThinId id() const { return id_; }
    PoolThread& pool() const { return pool_; }
    // Bytes. Blocks beyond a smaller size stay mapped, as dm-thin leaves them.
    void resize(std::uint64_t size);

  private:
    friend class PoolThread;
    friend struct ThinIo;

    PoolThread& pool_;
    const ThinId id_;
    std::atomic<std::uint64_t> size_;
    const std::string name_;
    BlockDevice* const external_origin_;

    // A mapping older than this is shared with a snapshot, and is not written in place.
    std::atomic<std::uint32_t> snapshot_time_;
    MappingCache mappings_;
};

}  // namespace lamella::thin
