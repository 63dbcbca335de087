// SPDX-License-Identifier: Apache-2.0
//
// Texts of a group that were replaced, as files NAME_NNNNN-RANDOM.vg in a directory: what LVM keeps in /etc/lvm/archive.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "base/result.h"

namespace lamella::lvm2 {

struct ArchivePolicy {
    unsigned days = 30;   // a file younger than this stays
    unsigned files = 10;  // so many files of a group stay, however old
};

// Writes `text` aside, makes it durable, gives it the next number of this group, and removes what the policy lets go.
// `now`: seconds since 1970. The directory is made when it isn't there.
Result<void> archive_text(const std::filesystem::path& directory, std::string_view group, std::string_view text, std::int64_t now,
                          const ArchivePolicy& policy);

}  // namespace lamella::lvm2
