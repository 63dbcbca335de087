// SPDX-License-Identifier: Apache-2.0
//
// Where data blocks go that have to be elsewhere.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "device/block_device.h"
#include "tools/control.h"
#include "tools/findings.h"

namespace lamella::tools {

// `length` data blocks in a row, and where the first of them goes.
struct DataMove {
    DataBlock from{};
    DataBlock to{};
    std::uint64_t length = 0;
    bool operator==(const DataMove&) const = default;
};

// Memory: 24 bytes a run.
class DataMoves {
  public:
    // All of `used` into `free`, from the beginning of both. Both are in ascending order and don't overlap. no_space: there are fewer free
    // blocks than used ones.
    static Result<DataMoves> plan(std::span<const DataRange> used, std::span<const DataRange> free);

    // In ascending order of `from`.
    const std::vector<DataMove>& runs() const { return runs_; }
    std::uint64_t blocks() const { return blocks_; }

    // The part of `length` blocks from `block` on that stays together, and where it is afterwards.
    DataMove move(DataBlock block, std::uint64_t length) const;

    // Copies the blocks, and makes them durable. What they are copied from stays as it is. Stops when told.
    Result<void> copy(BlockDevice& data, std::uint64_t block_bytes, const Control& control) const;

  private:
    std::vector<DataMove> runs_;
    std::uint64_t blocks_ = 0;
};

}  // namespace lamella::tools
