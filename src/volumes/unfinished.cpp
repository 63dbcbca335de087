// SPDX-License-Identifier: Apache-2.0
#include "volumes/unfinished.h"

#include <fcntl.h>
#include <unistd.h>
#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/uuid.h"
#include "volumes/json.h"

namespace lamella {

namespace {

constexpr std::size_t max_record = 1 << 20;

// Of the open file, not of the process, and so without flock()'s lack: it can be asked about without taking it.
struct flock whole_file() {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    return lock;
}

std::string change_id() { return std::string(LvmId::generate().plain()); }

}  // namespace

namespace unfinished {

std::string part_tag() { return fmt::format("{}part.{}", prefix, change_id()); }
std::string set_tag(std::size_t snapshots) { return fmt::format("{}set.{}.{}", prefix, snapshots, change_id()); }
std::string pool_tag(const std::string& metadata_id, const std::string& data_id) {
    return fmt::format("{}pool.{}.{}", prefix, metadata_id, data_id);
}

std::string tag_of(const std::vector<std::string>& tags) {
    for (const std::string& tag : tags)
        if (tag.starts_with(prefix))
            return tag;
    return {};
}

}  // namespace unfinished

Result<ChangeLock> ChangeLock::take(const std::filesystem::path& path) {
    FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.get() < 0)
        return fail_errno(path.native());
    struct flock lock = whole_file();
    if (::fcntl(file.get(), F_OFD_SETLK, &lock) == 0)
        return ChangeLock(std::move(file));
    if (errno == EAGAIN || errno == EACCES)
        return fail(ErrorKind::refused, "another process of lamella changes the group now");
    return fail_errno(path.native());
}

bool ChangeLock::is_held(const std::filesystem::path& path) {
    const FileDescriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    struct flock lock = whole_file();
    return file.get() >= 0 && ::fcntl(file.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

Result<void> ChangeLock::write_text(std::string_view text) {
    // A text that was cut short by the end of the process is not understood, and proves nothing.
    if (::ftruncate(file_.get(), 0) != 0 || ::pwrite(file_.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
        return fail_errno("remember what is being changed");
    return {};
}

Result<void> ChangeLock::clear() { return write_text({}); }

Result<void> ChangeLock::write(const ChangeRecord& record) { return write_text(TRY(print_json(to_json(record)))); }

std::optional<ChangeRecord> ChangeLock::read() const {
    std::string text(max_record, '\0');
    const ssize_t got = ::pread(file_.get(), text.data(), text.size(), 0);
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    const auto json = parse_json(text);
    Result<ChangeRecord> record = fail(ErrorKind::usage, "no record");
    if (json)
        record = from_json<ChangeRecord>(*json, "record");
    if (!record || !record->tag.starts_with(unfinished::prefix) || (!record->pool.empty() && record->volumes.size() != 2))
        return std::nullopt;
    return *std::move(record);
}

}  // namespace lamella
