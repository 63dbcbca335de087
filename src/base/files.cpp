// SPDX-License-Identifier: Apache-2.0
#include "base/files.h"

#include <cstdlib>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace lamella {

namespace {

Result<void> write_all(int fd, const std::string& path, std::string_view content) {
    while (!content.empty()) {
        ssize_t count = ::write(fd, content.data(), content.size());
        if (count < 0 && errno != EINTR)
            return fail_errno(path);
        content.remove_prefix(count > 0 ? static_cast<std::size_t>(count) : 0);
    }
    if (::fsync(fd) != 0)
        return fail_errno(path);
    return {};
}

}  // namespace

std::filesystem::path state_directory() {
    const auto variable = [](const char* name) -> std::filesystem::path {
        const char* value = std::getenv(name);
        return value != nullptr ? value : "";
    };
    if (auto state = variable("LAMELLA_STATE_DIR"); !state.empty())
        return state;
    if (::geteuid() == 0)
        return "/var/lib/lamella";
    if (auto state = variable("XDG_STATE_HOME"); !state.empty())
        return state / "lamella";
    if (auto home = variable("HOME"); !home.empty())
        return home / ".local" / "state" / "lamella";
    return {};
}

Result<void> write_file_aside(const std::string& path, std::string_view content, unsigned mode) {
    std::string aside = path + ".XXXXXX";
    int fd = ::mkostemp(aside.data(), O_CLOEXEC);
    if (fd < 0)
        return fail_errno(path);
    Result<void> written = write_all(fd, path, content);
    if (written && ::fchmod(fd, mode) != 0)
        written = fail_errno(path);
    if (::close(fd) != 0 && written)
        written = fail_errno(path);
    if (written && ::rename(aside.c_str(), path.c_str()) != 0)
        written = fail_errno(path);
    if (!written)
        ::unlink(aside.c_str());
    return written;
}

Result<void> make_directories(const std::string& path) {
    for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
        std::string part = path.substr(0, end);
        if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST)
            return fail_errno(part);
        if (end == std::string::npos)
            return {};
    }
}

}  // namespace lamella
