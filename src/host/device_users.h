// SPDX-License-Identifier: Apache-2.0
//
// Who uses block devices and files of this host, as /proc and /sys tell at the moment of the call.
#pragma once

#include <string>
#include <vector>

namespace lamella::host {

struct Mount {
    std::string device;  // "7:3"
    std::string point;
};
// As this process sees them.
std::vector<Mount> mounts();

// Who uses a block device (its partitions are meant too) or a file: mount points, devices above it, swap, processes that have it open.
// Empty: nobody, or nothing is there.
std::vector<std::string> users_of(const std::string& path);

}  // namespace lamella::host
