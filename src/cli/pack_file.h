// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "cli/environment.h"
#include "tools/pack.h"

namespace lamella::cli {

// Packs metadata, named as MetadataInput names it, into a file, which is made or replaced.
Result<tools::PackReport> pack_into(const Environment& environment, const std::string& metadata, const std::string& file,
                                    const tools::Control& control);

// Unpacks a file onto a device or into a file, which is made, or made longer, if need be.
Result<void> unpack_onto(const std::string& file, const std::string& metadata, const tools::Control& control);

// refused: what is at the path begins with the superblock of a pool.
Result<void> refuse_metadata(const std::string& path);

}  // namespace lamella::cli
