// SPDX-License-Identifier: Apache-2.0
#include "volumes/unfinished.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/uuid.h"
#include "volumes/json.h"

namespace lamella {

namespace {

constexpr std::size_t max_record = 64 << 20;  // a removal of a hundred thousand volumes

// Of the open file, not of the process, and so without flock()'s lack: it can be asked about without taking it.
struct flock whole_file() {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    return lock;
}

std::filesystem::path record_of(std::filesystem::path lock) { return lock += ".record"; }

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
        return ChangeLock(std::move(file), record_of(path));
    if (errno == EAGAIN || errno == EACCES)
        return fail(ErrorKind::refused, "another process of lamella changes the group now");
    return fail_errno(path.native());
}

bool ChangeLock::is_held(const std::filesystem::path& path) {
    const FileDescriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    struct flock lock = whole_file();
    return file.get() >= 0 && ::fcntl(file.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool ChangeLock::has_record(const std::filesystem::path& path) {
    std::error_code error;
    return std::filesystem::exists(record_of(path), error);
}

Result<void> ChangeLock::clear() {
    std::error_code error;
    std::filesystem::remove(record_, error);
    return error ? fail_errno(record_.native(), error.value()) : Result<void>();
}

Result<void> ChangeLock::write(const ChangeRecord& record) { return write_file_aside(record_.native(), TRY(print_json(to_json(record)))); }

std::optional<ChangeRecord> ChangeLock::read() const {
    const FileDescriptor file(::open(record_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat status {};
    if (file.get() < 0 || ::fstat(file.get(), &status) != 0 || status.st_size > static_cast<off_t>(max_record))
        return std::nullopt;
    std::string text(static_cast<std::size_t>(status.st_size), '\0');
    const ssize_t got = ::pread(file.get(), text.data(), text.size(), 0);
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    const auto json = parse_json(text);
    Result<ChangeRecord> record = fail(ErrorKind::usage, "no record");
    if (json)
        record = from_json<ChangeRecord>(*json, "record");
    if (!record)
        return std::nullopt;
    using Kind = ChangeRecord::Kind;
    const bool of_two = record->kind == Kind::parts || record->kind == Kind::conversion || record->kind == Kind::rollback;
    const bool of_many = record->kind == Kind::snapshots || record->kind == Kind::removal;
    if ((!record->of_volumes_there() && !record->tag.starts_with(unfinished::prefix)) || record->volumes.empty() ||
        (!of_many && record->volumes.size() != (of_two ? 2 : 1)))
        return std::nullopt;
    return *std::move(record);
}

}  // namespace lamella
