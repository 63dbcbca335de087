// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "device/block_device.h"

namespace lamella::fuse {

struct MountOptions {
    std::string mount_point;  // an empty folder
    std::string file_name;    // what the volume's file in it is called
    bool read_only = false;
};

// A device as a regular file in a FUSE file system of its own. The file has the device's size, as a multiple of its alignment, and
// follows it when it grows. It takes reads and writes of any offset and length; fsync is a flush; punching holes and zeroing
// ranges reach the device, and SEEK_HOLE and SEEK_DATA tell what is known to be zero. It can't be truncated. Nothing is cached by
// the kernel: what another front end of the device writes shows at once.
//
// Only the user that mounts it (and root's loop devices, when root does) can use it. Without root, fusermount3 must be installed.
//
// Threads: mount(), unmount() and the destructor from one thread; requests are handled on a thread that each mount has for itself.
class FuseExport {
  public:
    // The device outlives the mount.
    static Result<std::unique_ptr<FuseExport>> mount(BlockDevice& device, const MountOptions& options, Clock& clock = Clock::system());
    // Detaches the file system if it is still mounted, and waits for requests in flight.
    ~FuseExport();

    // Flushes the device and unmounts. Refused while somebody has the file open.
    Result<void> unmount();
    // False once it was unmounted, by unmount() or from outside. Any thread.
    bool mounted() const;

    // Of the file.
    std::string path() const;

  private:
    class Implementation;
    explicit FuseExport(std::unique_ptr<Implementation> implementation);
    std::unique_ptr<Implementation> implementation_;
};

// Takes away what is left of a mount whose process is gone, in use or not.
Result<void> unmount_dead(const std::string& mount_point);

}  // namespace lamella::fuse
