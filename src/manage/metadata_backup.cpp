// SPDX-License-Identifier: Apache-2.0
#include "manage/metadata_backup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <ctime>
#include <system_error>

#include <fmt/chrono.h>
#include <nlohmann/json.hpp>

#include "base/compression.h"
#include "base/files.h"
#include "lvm2/group.h"
#include "volumes/json.h"

namespace lamella::manage {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view unfinished = ".unfinished";

Result<void> sync_folder(const fs::path& folder) {
    const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(folder.native());
    const int synced = ::fsync(fd);
    ::close(fd);
    return synced == 0 ? Result<void>() : fail_errno(folder.native());
}

// Of one group, complete and not, in the order in which they were made.
Result<std::vector<fs::path>> copies_in(const fs::path& folder) {
    std::vector<fs::path> copies;
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
        copies.push_back(entry->path());
    if (error)
        return fail(ErrorKind::failed, "{}: {}", folder.native(), error.message());
    std::ranges::sort(copies);
    return copies;
}

// The commands in their order, to be run in the folder of the copy. A group that the host runs is named; of another the paths aren't known
// here, and its owner knows them.
Json how_to_restore(const GroupInfo& info, const MetadataBackup& backup) {
    const bool by_host = info.can(Capability::activation);
    const std::string group = by_host ? info.name : "GROUP";
    Json steps = Json::array();
    if (by_host)
        steps.push_back(fmt::format("lamella deactivate {}", group));
    steps.push_back(fmt::format("lamella group restore {} --file group.txt.gz --force --yes", group));
    for (const PoolBackup& pool : backup.pools)
        steps.push_back(fmt::format("lamella dump {}{}.pack --output {}.xml && lamella restore {}.xml {}{}{} --yes",
                                    pool.packed.of_metadata_snapshot ? "--metadata-snapshot " : "", pool.pool, pool.pool, pool.pool, group,
                                    by_host ? "/" : ":", pool.pool));
    if (by_host)
        steps.push_back(fmt::format("lamella activate {}", group));
    return steps;
}

Result<MetadataBackup> write_copy(VolumeGroup& group, const GroupInfo& info, std::int64_t now, const fs::path& folder) {
    MetadataBackup backup;
    const std::string text = TRY(group.backup_text());
    const std::vector<std::byte> compressed = TRY(compress(Compression::gzip, std::as_bytes(std::span(text))));
    TRY(write_file_aside(folder / "group.txt.gz", {reinterpret_cast<const char*>(compressed.data()), compressed.size()}));
    Json pools = Json::array();
    for (const VolumeInfo& volume : TRY(group.volumes())) {
        if (volume.kind != VolumeKind::thin_pool)
            continue;
        // A damaged or hostile text may hold any name, also one that leads out of the folder.
        if (const auto good = lvm2::check_group_name(volume.name); !good) {
            backup.failed.push_back(good.error().message());
            continue;
        }
        const fs::path file = folder / (volume.name + ".pack");
        auto packed = group.pack_metadata(volume.name, file.native());
        // Not the pool's trouble, but the folder's.
        if (!packed && (packed.error().error_number() == ENOSPC || packed.error().error_number() == EDQUOT))
            return std::unexpected(packed.error());
        if (!packed) {
            std::error_code ignored;
            fs::remove(file, ignored);
            backup.failed.push_back(fmt::format("{}: {}", volume.name, packed.error().message()));
            continue;
        }
        backup.pools.push_back({volume.name, *packed});
        Json entry = to_json(*packed);
        entry["pool"] = volume.name;
        entry["file"] = file.filename().native();
        pools.push_back(std::move(entry));
    }
    Json manifest = {{"group", info.name},        {"id", info.id},           {"sequence_number", info.sequence_number}, {"time", now},
                     {"pools", std::move(pools)}, {"failed", backup.failed}, {"restore", how_to_restore(info, backup)}};
    const std::string printed = TRY(print_json_indented(manifest));
    TRY(write_file_aside(folder / "backup.json", printed));
    TRY(sync_folder(folder));
    return backup;
}

}  // namespace

Result<MetadataBackup> back_up_metadata(VolumeGroup& group, const MetadataBackupOptions& options) {
    const GroupInfo info = TRY(group.info());
    if (const auto good = lvm2::check_group_name(info.name); !good)
        return fail(ErrorKind::damaged, "metadata is not kept under the group's name: {}", good.error().message());
    const fs::path root = options.folder.empty() ? state_directory() / "metadata-backup" : options.folder;
    if (!root.is_absolute() && options.folder.empty())
        return fail(ErrorKind::usage, "there is no folder to keep metadata in: set LAMELLA_STATE_DIR, or name one");
    const fs::path of_group = fs::absolute(root) / fmt::format("{}-{}", info.name, info.id.substr(0, 6));
    TRY(make_directories(of_group.native()));

    const std::int64_t now = options.clock->wall_seconds();
    const std::string stamp = fmt::format("{:%Y%m%dT%H%M%SZ}", fmt::gmtime(static_cast<std::time_t>(now)));
    fs::path place = of_group / stamp;
    for (unsigned number = 2; fs::exists(place); ++number)
        place = of_group / fmt::format("{}-{:02}", stamp, number);
    const fs::path aside = place.native() + std::string(unfinished);
    if (::mkdir(aside.c_str(), 0700) != 0)
        return fail_errno(aside.native());
    auto backup = write_copy(group, info, now, aside);
    if (backup && ::rename(aside.c_str(), place.c_str()) != 0)
        backup = fail_errno(place.native());
    if (!backup) {
        std::error_code ignored;
        fs::remove_all(aside, ignored);
        return backup;
    }
    TRY(sync_folder(of_group));
    backup->folder = place;

    // What a crash left unfinished goes as well, but not what somebody else is at this moment making: that bears a later time.
    std::vector<fs::path> complete;
    std::vector<fs::path> leave;
    for (const fs::path& copy : TRY(copies_in(of_group)))
        if (!copy.native().ends_with(unfinished))
            complete.push_back(copy);
        else if (copy.filename() < place.filename())
            leave.push_back(copy);
    const std::size_t keep = std::max(1u, options.keep);
    if (complete.size() > keep)
        leave.insert(leave.end(), complete.begin(), complete.end() - static_cast<std::ptrdiff_t>(keep));
    for (const fs::path& copy : leave) {
        std::error_code error;
        fs::remove_all(copy, error);
        if (error)
            return fail(ErrorKind::failed, "{}: {}", copy.native(), error.message());
        backup->removed.push_back(copy);
    }
    return backup;
}

}  // namespace lamella::manage
