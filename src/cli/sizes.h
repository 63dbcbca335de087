// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/sizes.h"
#include "volumes/volume_group.h"

namespace lamella::cli {

// What the engine is asked for. A percentage of the volume itself is reckoned here, by its size now; of a volume that is yet to be
// made (nullopt) it is a usage error.
Result<SizeRequest> size_request(const SizeArgument& argument, std::optional<std::uint64_t> size_now);

// print_size(), or "-" when unknown.
std::string shown_size(std::optional<std::uint64_t> bytes);
// "41.67", or "-" when something is unknown.
std::string shown_percent(std::optional<std::uint64_t> part, std::optional<std::uint64_t> whole);

}  // namespace lamella::cli
