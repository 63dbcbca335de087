// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>

namespace lamella::cli {

// Set by the first SIGINT, SIGTERM or SIGHUP after this was first called: for long tools that look at it as they go. A second signal ends
// the process at once, as it would have without this.
const std::atomic<bool>& interrupted();

}  // namespace lamella::cli
