// SPDX-License-Identifier: Apache-2.0
#include "device/file_lock.h"

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace lamella {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t max_named = 4;  // holders in one message
constexpr unsigned attempts_for_a_dead_holder = 200;
constexpr std::chrono::milliseconds between_attempts(10);

std::string first_line(const fs::path& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

std::string join(const std::vector<std::string>& words) {
    std::string text;
    for (std::size_t index = 0; index < words.size(); ++index) {
        if (index == max_named)
            return text + fmt::format(" and {} more", words.size() - max_named);
        text += (index == 0 ? "" : ", ") + words[index];
    }
    return text;
}

// Lines of /proc/locks: "1: FLOCK  ADVISORY  WRITE 708 08:01:12345 0 EOF", the device's numbers in hexadecimal. Empty: nobody that lives
// and can be seen.
std::string holders_of_lock(const struct stat& status) {
    std::ifstream locks("/proc/locks");
    std::vector<std::string> holders;
    std::string line;
    while (std::getline(locks, line)) {
        char kind[16];
        int process;
        unsigned major_number, minor_number;
        unsigned long long inode;
        if (std::sscanf(line.c_str(), "%*s %15s %*s %*s %d %x:%x:%llu", kind, &process, &major_number, &minor_number, &inode) != 5)
            continue;
        if (std::string_view(kind) != "FLOCK" || inode != status.st_ino || makedev(major_number, minor_number) != status.st_dev)
            continue;
        if (process <= 0)
            holders.push_back("a process of another container");
        else if (::kill(process, 0) == 0 || errno != ESRCH)  // ended, it is still listed as long as its file is open
            holders.push_back(fmt::format("{} (pid {})", first_line(fmt::format("/proc/{}/comm", process)), process));
    }
    return join(holders);
}

void add_holders(const fs::path& device_folder, std::vector<std::string>& users) {
    std::error_code error;
    for (fs::directory_iterator entry(device_folder / "holders", error), end; !error && entry != end; entry.increment(error)) {
        const std::string holder = entry->path().filename();
        const std::string name = first_line(entry->path() / "dm/name");
        users.push_back(name.empty() ? holder : fmt::format("{} ({})", holder, name));
    }
}

void add_mounts(const std::string& numbers, std::vector<std::string>& users) {
    // "36 35 98:0 /root /mount/point options ..."
    std::ifstream mounts("/proc/self/mountinfo");
    std::string line;
    while (std::getline(mounts, line)) {
        std::vector<std::string> fields;
        for (std::size_t start = 0; fields.size() < 5 && start < line.size();) {
            const std::size_t end = std::min(line.find(' ', start), line.size());
            fields.push_back(line.substr(start, end - start));
            start = end + 1;
        }
        if (fields.size() == 5 && fields[2] == numbers)
            users.push_back("mounted on " + fields[4]);
    }
}

}  // namespace

Result<FileLock> FileLock::take(int fd, const std::string& path, Mode mode) {
    const int own = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return fail_errno(path);
    FileLock lock(own);
    std::string holders;
    for (unsigned attempt = 0;; ++attempt) {
        int result;
        do {
            result = ::flock(own, (mode == Mode::exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB);
        } while (result != 0 && errno == EINTR);
        if (result == 0)
            return lock;
        if (errno != EWOULDBLOCK) {
            const int error = errno;
            lock.fd_ = -1;
            ::close(own);
            return fail_errno(fmt::format("{}: locking", path), error);
        }
        struct stat status {};
        if (::fstat(fd, &status) == 0)
            holders = holders_of_lock(status);
        // Of a process that was killed with I/O under way the kernel keeps the file open until that has ended.
        if (!holders.empty() || attempt == attempts_for_a_dead_holder)
            break;
        std::this_thread::sleep_for(between_attempts);
    }
    // Nothing to unlock: the caller's description may hold a lock of its own.
    lock.fd_ = -1;
    ::close(own);
    return fail(ErrorKind::refused, "{} is in use by {}", path, holders.empty() ? "another process" : holders);
}

FileLock::FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
}

FileLock::~FileLock() {
    if (fd_ < 0)
        return;
    ::flock(fd_, LOCK_UN);
    ::close(fd_);
}

std::string users_of_block_device(dev_t device) {
    const std::string numbers = fmt::format("{}:{}", major(device), minor(device));
    const fs::path folder = fs::path("/sys/dev/block") / numbers;
    std::vector<std::string> users;
    add_holders(folder, users);
    add_mounts(numbers, users);
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
        std::error_code ignored;
        if (!fs::exists(entry->path() / "partition", ignored))
            continue;
        add_holders(entry->path(), users);
        add_mounts(first_line(entry->path() / "dev"), users);
    }
    return join(users);
}

Result<void> refuse_if_loop_in_use(int fd, const std::string& path) {
    struct stat file {};
    if (::fstat(fd, &file) != 0)
        return fail_errno(path);
    std::error_code error;
    for (fs::directory_iterator entry("/sys/block", error), end; !error && entry != end; entry.increment(error)) {
        const std::string loop = entry->path().filename();
        if (!loop.starts_with("loop"))
            continue;
        const std::string backing = first_line(entry->path() / "loop/backing_file");
        struct stat backing_file {};
        if (backing.empty() || ::stat(backing.c_str(), &backing_file) != 0 || backing_file.st_dev != file.st_dev ||
            backing_file.st_ino != file.st_ino)
            continue;
        unsigned major_number, minor_number;
        if (std::sscanf(first_line(entry->path() / "dev").c_str(), "%u:%u", &major_number, &minor_number) != 2)
            continue;
        std::string users = users_of_block_device(makedev(major_number, minor_number));
        if (users.empty()) {
            // Whoever claims it otherwise (a mount in another namespace, a program) refuses an exclusive open.
            const int claim = ::open(("/dev/" + loop).c_str(), O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);
            if (claim < 0 && errno == EBUSY)
                users = "the kernel or another program";
            if (claim >= 0)
                ::close(claim);
        }
        if (!users.empty())
            return fail(ErrorKind::refused, "{} is the file of /dev/{}, which is in use: {}", path, loop, users);
    }
    return {};
}

}  // namespace lamella
