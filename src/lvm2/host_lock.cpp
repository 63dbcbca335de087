// SPDX-License-Identifier: Apache-2.0
#include "lvm2/host_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <thread>

#include "base/files.h"

namespace lamella::lvm2 {

namespace {

bool is_at(const std::filesystem::path& path, int file) {
    struct stat there {
    }, held{};
    return ::stat(path.c_str(), &there) == 0 && ::fstat(file, &held) == 0 && there.st_dev == held.st_dev && there.st_ino == held.st_ino;
}

}  // namespace

Result<HostLock> HostLock::take(const std::filesystem::path& directory, const std::string& group, std::chrono::milliseconds patience) {
    TRY_WITHIN(fmt::format("group {}: the folder of LVM's locks (global/locking_dir in lvm.conf), without which LVM changes nothing either",
                           group),
               make_directories(directory.native()));
    const std::filesystem::path path = directory / ("V_" + group);
    const auto end = std::chrono::steady_clock::now() + patience;
    for (;;) {
        FileDescriptor file(::open(path.c_str(), O_CREAT | O_APPEND | O_RDWR | O_CLOEXEC, 0777));
        if (!file.valid())
            return fail_errno(path.native());
        if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) {
            if (is_at(path, file.get()))
                return HostLock(path, std::move(file));
            continue;  // removed by who had it before
        }
        if (errno != EWOULDBLOCK && errno != EINTR)
            return fail_errno(path.native());
        if (std::chrono::steady_clock::now() >= end)
            return fail(ErrorKind::refused, "group {}: a command of LVM's has it locked ({}), and still after {} s", group, path.native(),
                        patience.count() / 1000);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
}

HostLock::~HostLock() {
    // While it is held nobody else takes this file for the lock.
    if (file_.valid() && is_at(path_, file_.get()))
        ::unlink(path_.c_str());
}

}  // namespace lamella::lvm2
