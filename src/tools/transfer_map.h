// SPDX-License-Identifier: Apache-2.0
//
// What has to be done to have the content of a thin volume elsewhere: the metadata's half of thin_migrate.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"
#include "tools/control.h"
#include "tools/diff.h"

namespace lamella::tools {

// In blocks of the pool. What no run names is the same on both sides: unmapped, or as the base has it.
struct TransferRun {
    enum class Kind : std::uint8_t {
        copy,     // the volume's data
        discard,  // the volume has nothing there; the base has
    };
    Kind kind = Kind::copy;
    VirtualBlock begin{};
    std::uint64_t length = 0;
    DataBlock data_begin{};  // with TransferOptions::locate_data, of what is to be copied: consecutive from there on
    bool operator==(const TransferRun&) const = default;
};

struct TransferOptions {
    DiffSide volume;
    bool in_snapshot = false;  // as the metadata snapshot has it: the one way while the pool is in use
    // What the other side has already: only the difference is told then. None: it has nothing, and zeros everywhere.
    std::optional<DiffSide> base{};
    bool base_in_snapshot = false;
    // For who reads the pool's data and not the volume: runs end where their data does.
    bool locate_data = false;
    Control control{};
};

// Calls visit() with runs in ascending order, as long as can be. Stops with what visit() returns, if that is an error. Errors and memory:
// as diff(). The cost follows the difference; without a base all leaves of the volume are read.
using VisitTransfer = std::function<Result<void>(const TransferRun&)>;
Result<void> transfer_map(BlockDevice& metadata, const TransferOptions& options, const VisitTransfer& visit);

}  // namespace lamella::tools
