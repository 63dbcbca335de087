// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "base/result.h"

namespace lamella::tools {

// How a long tool tells how far it is, and is told to give up.
struct Control {
    // Bytes of metadata dealt with, and to be dealt with; the total may still rise. May be empty. Called often, on any thread but never
    // on two at once; must not block.
    std::function<void(std::uint64_t done, std::uint64_t total)> progress{};
    // May be null. Once true the tool ends soon, with an error, and leaves nothing behind that looks whole.
    const std::atomic<bool>* stop = nullptr;

    bool stopped() const { return stop != nullptr && stop->load(std::memory_order_relaxed); }
    // What a tool that was stopped returns.
    static std::unexpected<Error> interrupted() { return fail(ErrorKind::failed, "interrupted"); }
};

}  // namespace lamella::tools
