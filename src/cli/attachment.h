// SPDX-License-Identifier: Apache-2.0
//
// Where attached volumes are on this host: mount points of FUSE files in the runtime directory, and loop devices over them. All of
// it is read from the system (/proc, /sys) each time, so that nothing can be out of date.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace lamella::cli {

// RUNTIME/mnt/GROUP/VOLUME
std::string mount_point_of(const std::string& group, const std::string& volume);
// Makes the folder; what a dead process left mounted there is unmounted. Refused when a living one has mounted something there:
// another group of the same name.
Result<std::string> make_mount_point(const std::string& group, const std::string& volume);
// The folder, and the group's if it is the last; nothing happens where something is in it.
void remove_mount_point(const std::string& mount_point);
enum class MountState {
    none,
    live,
    dead,  // its process is gone
};
MountState mount_state(const std::string& mount_point);
// Even when in use: for mounts whose process is gone.
Result<void> unmount_dead(const std::string& mount_point);

// Block devices over a file: "/dev/loop3", ...
std::vector<std::string> loop_devices_of(const std::string& file);
// Errors: unsupported when this process can't have one (no root, no loop devices).
Result<std::string> make_loop_device(const std::string& file, bool read_only);
// Flushes it and takes it off its file.
Result<void> remove_loop_device(const std::string& device);

// Who uses a block device or a file: mount points, devices above it, swap, processes that have it open. Empty: nobody.
std::vector<std::string> users_of(const std::string& path);

// Returns when the process has ended.
void wait_for_end_of(int process);

}  // namespace lamella::cli
