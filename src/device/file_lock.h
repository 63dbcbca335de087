// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <sys/types.h>

#include "base/result.h"

namespace lamella {

// An advisory lock on a whole file or block device (flock): one exclusive holder or any number of shared ones, for as long as the
// object lives. A process that ends, however it ends, holds nothing.
class FileLock {
  public:
    enum class Mode { shared, exclusive };

    // Takes the lock on the file that `fd` has open. Fails with ErrorKind::refused when somebody else holds it: at once, with the
    // holder's process and command in the message; after two seconds where nobody can be seen to hold it. `path` is for messages.
    static Result<FileLock> take(int fd, const std::string& path, Mode mode);

    FileLock() = default;
    FileLock(FileLock&& other) noexcept;
    FileLock& operator=(FileLock&& other) noexcept;
    ~FileLock();

  private:
    explicit FileLock(int fd) : fd_(fd) {}
    int fd_ = -1;  // a duplicate, so that the lock doesn't depend on how long the caller keeps its own
};

// Who uses a block device in the kernel: "dm-3 (vg0-pool_tdata)", "md0", "mounted on /srv". Empty: nobody that can be seen.
// From /sys/dev/block/*/holders, partitions included, and /proc/self/mountinfo.
std::string users_of_block_device(dev_t device);

// Refuses a regular file that stands under a loop device which the kernel uses.
Result<void> refuse_if_loop_in_use(int fd, const std::string& path);

}  // namespace lamella
