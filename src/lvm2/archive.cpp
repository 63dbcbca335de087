// SPDX-License-Identifier: Apache-2.0
#include "lvm2/archive.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace lamella::lvm2 {

namespace {

namespace fs = std::filesystem;

// The number in "GROUP_00012-345.vg".
std::optional<std::uint32_t> archive_number(std::string_view file, std::string_view group) {
    if (!file.starts_with(group) || !file.ends_with(".vg"))
        return std::nullopt;
    file.remove_prefix(group.size());
    file.remove_suffix(3);
    // The group's name may itself end in what looks like a number: "_", digits, "-", digits and nothing else may follow it.
    if (file.empty() || file.front() != '_')
        return std::nullopt;
    file.remove_prefix(1);
    std::uint32_t number = 0;
    const auto [end, code] = std::from_chars(file.data(), file.data() + file.size(), number);
    if (code != std::errc() || end == file.data() + file.size() || *end != '-')
        return std::nullopt;
    const std::string_view random(end + 1, file.data() + file.size() - end - 1);
    if (random.empty() || !std::ranges::all_of(random, [](char character) { return character >= '0' && character <= '9'; }))
        return std::nullopt;
    return number;
}

struct ArchiveFile {
    fs::path path;
    std::uint32_t number;
};

// Ascending by number.
Result<std::vector<ArchiveFile>> list_archive(const fs::path& directory, std::string_view group) {
    std::vector<ArchiveFile> files;
    std::error_code code;
    for (fs::directory_iterator entry(directory, code); !code && entry != fs::directory_iterator(); entry.increment(code))
        if (const auto number = archive_number(entry->path().filename().native(), group))
            files.push_back({entry->path(), *number});
    if (code)
        return fail_errno(fmt::format("reading the archive {}", directory.native()), code.value());
    std::ranges::sort(files, {}, &ArchiveFile::number);
    return files;
}

Result<void> write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(fd, text.data(), text.size());
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return fail_errno("writing");
        text.remove_prefix(static_cast<std::size_t>(written));
    }
    if (::fsync(fd) != 0)
        return fail_errno("fsync");
    return {};
}

Result<void> sync_directory(const fs::path& directory) {
    const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(directory.native());
    const int result = ::fsync(fd);
    const int error = errno;
    ::close(fd);
    if (result != 0)
        return fail_errno(directory.native(), error);
    return {};
}

void remove_expired(const std::vector<ArchiveFile>& files, std::int64_t now, const ArchivePolicy& policy) {
    constexpr std::int64_t day_seconds = 24 * 60 * 60;
    const std::int64_t oldest = now - std::int64_t(policy.days) * day_seconds;
    std::size_t left = files.size();
    for (const ArchiveFile& file : files) {
        if (left <= policy.files)
            return;
        struct stat status;
        // A file that can't be removed is no reason to fail a change of the group.
        if (::stat(file.path.c_str(), &status) == 0 && status.st_mtime < oldest && ::unlink(file.path.c_str()) == 0)
            --left;
    }
}

}  // namespace

Result<void> archive_text(const fs::path& directory, std::string_view group, std::string_view text, std::int64_t now,
                          const ArchivePolicy& policy) {
    std::error_code code;
    fs::create_directories(directory, code);
    if (code)
        return fail_errno(fmt::format("making the archive {}", directory.native()), code.value());

    std::string temporary = (directory / ".lamella-XXXXXX").native();
    const int fd = ::mkostemp(temporary.data(), O_CLOEXEC);
    if (fd < 0)
        return fail_errno(fmt::format("a file in the archive {}", directory.native()));
    Result<void> result = write_all(fd, text);
    ::close(fd);
    if (!result) {
        ::unlink(temporary.c_str());
        return std::unexpected(result.error().within(temporary));
    }

    auto listed = list_archive(directory, group);
    if (!listed) {
        ::unlink(temporary.c_str());
        return std::unexpected(std::move(listed).error());
    }
    std::vector<ArchiveFile>& files = *listed;
    std::uint32_t number = files.empty() ? 0 : files.back().number + 1;
    std::random_device random;
    // Another process may take a number at the same moment; link() never replaces a file.
    for (int attempt = 0; attempt < 10; ++attempt, ++number) {
        const fs::path path = directory / fmt::format("{}_{:05}-{}.vg", group, number, random() % 1'000'000'000);
        if (::link(temporary.c_str(), path.c_str()) != 0) {
            if (errno == EEXIST)
                continue;
            result = fail_errno(path.native());
            break;
        }
        files.push_back({path, number});
        ::unlink(temporary.c_str());
        TRY(sync_directory(directory));
        remove_expired(files, now, policy);
        return {};
    }
    ::unlink(temporary.c_str());
    if (!result)
        return result;
    return fail(ErrorKind::failed, "no free name in the archive {}", directory.native());
}

}  // namespace lamella::lvm2
