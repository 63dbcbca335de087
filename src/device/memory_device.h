// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>
#include <string>

#include "device/block_device.h"
#include "device/sparse_bytes.h"

namespace lamella {

// A sparse device in memory: pages that were never written, or discarded, read as zeros and take no room. For tests and trials.
// Any thread.
class MemoryDevice final : public BlockDevice {
  public:
    explicit MemoryDevice(std::uint64_t size, std::string name = "memory");
    MemoryDevice(std::uint64_t size, std::string name, SparseBytes content);

    std::uint64_t size() const override;
    DeviceTraits traits() const override;
    std::string name() const override { return name_; }
    void submit(IoQueue& queue, IoRequest& request) override;
    void status(IoQueue& queue, StatusRequest& request) override;
    std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) override;

    // Bytes; growing only.
    void grow(std::uint64_t size);
    // Pages of 4096 bytes that hold data.
    std::size_t allocated_pages() const;

  private:
    int perform(IoRequest& request);

    mutable std::mutex mutex_;
    std::uint64_t size_;
    std::string name_;
    SparseBytes content_;
};

}  // namespace lamella
