// SPDX-License-Identifier: Apache-2.0
//
// Copies of what describes a group's data: its LVM2 text and its pools' metadata, which vgcfgbackup doesn't have. No data is in them.
//
//   FOLDER/GROUP-abc123/20261121T143000Z/   abc123: the beginning of the group's id, so that a namesake doesn't push its copies out
//       group.txt.gz    as vgcfgbackup writes it; compressed by gzip
//       POOL.pack       of each pool, as thin_metadata_pack writes it; compressed
//       backup.json     what is there, and how to put it back; written last
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "volumes/volume_group.h"

namespace lamella::manage {

struct MetadataBackupOptions {
    std::filesystem::path folder;  // empty: state_directory()/metadata-backup
    unsigned keep = 10;            // copies of the group, this one too; at least 1
    Clock* clock = &Clock::system();
};

struct PoolBackup {
    std::string pool;
    PackedMetadata packed;
};

struct MetadataBackup {
    std::filesystem::path folder;  // of this copy
    std::vector<PoolBackup> pools;
    std::vector<std::string> failed;             // pools whose metadata couldn't be packed, and why
    std::vector<std::filesystem::path> removed;  // older copies
};

// Makes a copy under another name, makes it durable, and renames it into place; only then older copies go. A pool that can't be read
// doesn't keep the rest from being kept. Errors: failed, no_space; older copies are all there then.
Result<MetadataBackup> back_up_metadata(VolumeGroup& group, const MetadataBackupOptions& options);

}  // namespace lamella::manage
