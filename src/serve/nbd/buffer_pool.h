// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "device/block_device.h"
#include "serve/nbd/limits.h"

namespace lamella::nbd {

// The memory for the data of one reactor's requests: buffers in a few sizes, page-aligned, kept for reuse. Not thread-safe.
class BufferPool {
  public:
    // READ or WRITE at its longest, widened at both ends to whole units of at most 4096 bytes.
    static constexpr std::size_t largest = limits::payload_bytes + 2 * 4096;

    // `limit`: bytes in use at any time.
    explicit BufferPool(std::uint64_t limit) : limit_(limit) {}

    // The room that take(bytes) would use.
    static std::size_t room(std::size_t bytes) { return class_bytes(class_of(bytes)); }
    bool has(std::size_t bytes) const { return room(bytes) <= limit_ - in_use_; }
    // has(bytes). At least `bytes` long; holds what an earlier request left.
    AlignedBuffer take(std::size_t bytes);
    void give(AlignedBuffer&& buffer);
    std::uint64_t in_use() const { return in_use_; }

  private:
    // 4 KiB, 8 KiB, ... 16 MiB, and the largest.
    static constexpr std::size_t classes = 14;
    static constexpr std::uint64_t kept_bytes = 16 << 20;

    static std::size_t class_of(std::size_t bytes);
    static std::size_t class_bytes(std::size_t index) { return index + 1 == classes ? largest : std::size_t{4096} << index; }

    std::uint64_t limit_;
    std::uint64_t in_use_ = 0;
    std::uint64_t kept_ = 0;
    std::array<std::vector<AlignedBuffer>, classes> free_;
};

}  // namespace lamella::nbd
