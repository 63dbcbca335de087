// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace lamella {

// Writes a whole file under another name, makes it durable, and renames it into place: readers see the old content or the new.
Result<void> write_file_aside(const std::string& path, std::string_view content, unsigned mode = 0600);

// Where what belongs to this host or user is kept: $LAMELLA_STATE_DIR; else for root /var/lib/lamella; else $XDG_STATE_HOME/lamella or
// ~/.local/state/lamella. Empty: nowhere.
std::filesystem::path state_directory();

// The folder and those above it that are missing, for their owner alone.
Result<void> make_directories(const std::string& path);

}  // namespace lamella
