// SPDX-License-Identifier: Apache-2.0
//
// Where attached volumes are on this host: the kernel's nbd devices; or mount points of FUSE files in the runtime directory, and loop
// devices over them. All of it is read from the system (/proc, /sys) each time, so that nothing can be out of date.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/context.h"

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

// By what the kernel knows an attached volume: named by what the physical volume is, as the control socket. Errors: not_found.
Result<std::string> nbd_identifier(const std::string& physical_volume, const std::string& volume);
// nbd devices of a volume of the group on these physical volumes.
Result<std::vector<std::string>> nbd_devices_of(const std::vector<std::string>& physical_volumes, const std::string& volume);
// Writes it back and frees it. Refused, with their names, while somebody uses it.
Result<void> remove_nbd_device(const std::string& device);

// Block devices over a file: "/dev/loop3", ...
std::vector<std::string> loop_devices_of(const std::string& file);
// Errors: unsupported when this process can't have one (no root, no loop devices).
Result<std::string> make_loop_device(const std::string& file, bool read_only);
// Flushes it and takes it off its file.
Result<void> remove_loop_device(const std::string& device);

// Gives the block devices over a volume that has grown, if it is attached, its new size. Where that fails it is noted: the volume itself
// has grown.
void grow_attached(Context& context, const VolumeAddress& address, VolumeGroup& group, const VolumeInfo& volume);

// As host::users_of() tells them.
Result<void> refuse_if_used(const std::string& path);

// Returns when the process has ended.
void wait_for_end_of(int process);

}  // namespace lamella::cli
