// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace lamella::lvm2 {

// The lock that LVM's commands on this host take around a group's text: flock() of the file V_GROUP in global/locking_dir, shared for
// reading and exclusive for changing. Who unlocks removes the file, so a lock counts only if the file is still the one at that path
// (lib/misc/lvm-flock.c). Held until the object is gone.
class HostLock {
  public:
    // Exclusively. `group` is a valid name; the folder is made if it isn't there. Waits while a command of LVM's has the lock, no longer than
    // `patience`. Errors: refused (not free in that time), failed.
    static Result<HostLock> take(const std::filesystem::path& directory, const std::string& group, std::chrono::milliseconds patience);
    HostLock(HostLock&&) = default;
    ~HostLock();

  private:
    HostLock(std::filesystem::path path, FileDescriptor file) : path_(std::move(path)), file_(std::move(file)) {}
    std::filesystem::path path_;
    FileDescriptor file_;
};

}  // namespace lamella::lvm2
