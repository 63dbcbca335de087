// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lamella {

// Of dm-thin's messages that somebody sends a pool by hand, those are refused that part its metadata from the text of the group, which keeps
// books of the pool's devices and of its transaction. `known`: the ids of the volumes that the group has in the pool. Where it has none,
// somebody else runs the pool, and may send anything. A device that the group doesn't know may be deleted, if `certain`: `known` is
// complete, and text and pool are of one transaction, so that nothing is under way that would give the group a device.
Result<void> refuse_behind_the_text(std::string_view pool, std::string_view message, const std::vector<std::uint32_t>& known, bool certain);

}  // namespace lamella
