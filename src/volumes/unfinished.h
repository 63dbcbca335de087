// SPDX-License-Identifier: Apache-2.0
//
// What tells, after the end of a process, of a change of several of LVM's commands that it had begun. Two things do:
//
//   tags     in the group's text, of what is being made. They tell anybody, on any host and after any crash, that it isn't all there yet:
//              of a volume  lamella.unfinished=part.ID     to become a part of a pool
//                           lamella.unfinished=set.N.ID    one of N snapshots
//                           lamella.unfinished=removal     a pool whose foreign devices were being removed
//              of a group   lamella.unfinished=pool.M.D    the volumes of these ids are becoming metadata and data of a pool
//            They prove nothing: a text is restored from a backup, a disk is carried to another host, volumes are used meanwhile.
//   record   a file of this host, of this boot, held locked by the process that makes the change. It has what the process knew before each
//            command. By it alone is anything removed again: see kernel_recovery.cpp.
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
    std::string tag;  // of the volumes, until all are there
    // The volumes are to become a pool of this name, metadata first, with these tags. Empty: they are a set of snapshots.
    std::string pool;
    std::vector<std::string> pool_tags;
    std::uint64_t sequence_number = 0;    // of the group, after the last command that is known to have ended
    std::vector<RecordedVolume> volumes;  // in the order in which they are made
};

// Held while a change of several commands is made. It ends with the process; the record in it stays.
class ChangeLock {
  public:
    // refused: somebody has it.
    static Result<ChangeLock> take(const std::filesystem::path& path);
    // By another process, or this one.
    static bool is_held(const std::filesystem::path& path);

    Result<void> write(const ChangeRecord& record);
    // None: there is none, or it can't be understood.
    std::optional<ChangeRecord> read() const;
    Result<void> clear();

  private:
    explicit ChangeLock(FileDescriptor file) : file_(std::move(file)) {}
    Result<void> write_text(std::string_view text);
    FileDescriptor file_;
};

}  // namespace lamella
