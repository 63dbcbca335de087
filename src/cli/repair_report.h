// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "tools/repair.h"
#include "volumes/json.h"

namespace lamella::cli {

// What a repair saved, volume by volume: a line for each, and a line for each range that is lost.
std::string repair_text(const std::string& input, const tools::RepairReport& report);
Json repair_json(const tools::RepairReport& report);

// Where the pool's trees may begin, numbered from 1 on.
std::string roots_text(const std::vector<tools::RootCandidate>& candidates);
Json roots_json(const std::vector<tools::RootCandidate>& candidates);

}  // namespace lamella::cli
