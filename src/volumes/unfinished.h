// SPDX-License-Identifier: Apache-2.0
//
// What tells, after the end of a process, of a change of several of LVM's commands that it had begun. Two things do:
//
//   tags     in the group's text, of what is being made. They tell anybody, on any host and after any crash, that it isn't all there yet:
//              of a volume  lamella.unfinished=part.ID     to become a part of a pool; or a pool that lacks its profile
//                           lamella.unfinished=set.N.ID    one of N snapshots
//                           lamella.unfinished=removal     a pool whose foreign devices were being removed
//              of a group   lamella.unfinished=pool.M.D    the volumes of these ids are becoming metadata and data of a pool
//            They prove nothing: a text is restored from a backup, a disk is carried to another host, volumes are used meanwhile.
//   record   a file of this host, of this boot, held locked by the process that makes the change. It has what the process knew before each
//            command. By it alone is anything removed again: see kernel_recovery.cpp. Where nothing half made can come of a change, as
//            where settings are changed or volumes removed, there is the record alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace lamella {

namespace unfinished {
inline constexpr std::string_view prefix = "lamella.unfinished=";
inline constexpr std::string_view removal = "lamella.unfinished=removal";
// Each of a change of its own.
std::string part_tag();
std::string set_tag(std::size_t snapshots);
std::string pool_tag(const std::string& metadata_id, const std::string& data_id);
// The first of them; empty: there is none.
std::string tag_of(const std::vector<std::string>& tags);
}  // namespace unfinished

struct RecordedVolume {
    std::string name;
    std::string id;                 // empty: the command that makes it isn't known to have ended
    std::vector<std::string> tags;  // its own
};

struct ChangeRecord {
    enum class Kind {
        snapshots,  // a set of them
        parts,      // two volumes, metadata first, that are to become the pool
        metadata,   // one that is to become the pool's metadata
        pool,       // one that is made as a pool
        // Of volumes that were there before:
        conversion,  // two, as `parts`; the id of metadata that LVM makes isn't known
        settings,    // one that is a pool already
        rollback,    // one that its snapshot, the second, is to be merged into; other snapshots of it may be marked as its
        removal,     // any number
    };
    bool of_volumes_there() const { return kind >= Kind::conversion; }
    Kind kind = Kind::snapshots;
    std::string tag;  // of the volumes, until all are there; those that were there before get none
    std::string pool;
    std::vector<std::string> pool_tags;
    std::string profile;                  // of LVM's, by which the pool is to be extended at last; empty: it isn't
    std::uint64_t sequence_number = 0;    // of the group, after the last command that is known to have ended
    std::vector<RecordedVolume> volumes;  // in the order in which they are made
    bool undoing = false;                 // some of them may have been removed again
};

// Held while a change of several commands is made. It ends with the process; the record beside it stays.
class ChangeLock {
  public:
    // refused: somebody has it.
    static Result<ChangeLock> take(const std::filesystem::path& path);
    // By another process, or this one.
    static bool is_held(const std::filesystem::path& path);
    // Something was being made, by whoever holds it or by who is gone.
    static bool has_record(const std::filesystem::path& path);

    Result<void> write(const ChangeRecord& record);
    // None: there is none, or it can't be understood.
    std::optional<ChangeRecord> read() const;
    Result<void> clear();

  private:
    ChangeLock(FileDescriptor file, std::filesystem::path record) : file_(std::move(file)), record_(std::move(record)) {}
    FileDescriptor file_;
    std::filesystem::path record_;  // replaced as a whole: half a record would prove nothing
};

}  // namespace lamella
