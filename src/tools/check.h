// SPDX-License-Identifier: Apache-2.0
//
// Is a pool's metadata sound? Looks at all that the kernel relies on: the superblock's fields; form, checksum, place, order and key
// ranges of every node; devices, their details, ids, times and mapped blocks against the pool's; both space maps, count by count, with
// their sums; the metadata snapshot; and whether data that is in use more than once would be overwritten by one of its users.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"
#include "tools/control.h"
#include "tools/findings.h"

namespace lamella::tools {

struct CheckOptions {
    enum class Scope {
        superblock,
        volumes,     // and the trees of volumes and of their details
        everything,  // and all mappings and space maps
    };
    Scope scope = Scope::everything;
    // Of the metadata snapshot, and nothing else: what can be checked while the pool is in use. not_found: there is none.
    bool metadata_snapshot = false;
    // Instead of the superblock's. Space maps aren't looked at then.
    std::optional<MetadataBlock> mapping_root{};
    std::optional<MetadataBlock> details_root{};

    // What to change if what was found allows it; the device must be writable and nobody else's. All changes are made at once,
    // by writing the superblock; a crash before leaves all as it was.
    //
    // Leaked blocks are given back and the space maps' sums set right, if nothing worse was found.
    bool return_leaks = false;
    // As above, and counts that are wrong in any way, and damage of the space maps: they are written anew. All volumes' trees must
    // be readable.
    bool rebuild_space_maps = false;
    // The flag that keeps the pool read-only is cleared, if nothing is wrong any more but leaks.
    bool clear_needs_check = false;

    // Called with every run of data blocks that nothing refers to, in ascending order, if nothing is wrong but leaks. May be empty.
    std::function<void(DataRange)> free_data{};

    unsigned threads = 0;  // 0: one a core, at most 8
    Control control{};
};

// A volume with something wrong.
struct FaultyVolume {
    ThinId id{};
    bool in_metadata_snapshot = false;
    std::uint64_t faults = 0;           // nodes and mappings
    std::uint64_t mapped_blocks = 0;    // that can be read
    std::uint64_t expected_blocks = 0;  // by its details
};

struct CheckReport {
    // The worst of the findings: note means clean.
    Severity grade = Severity::note;
    // Of what was left after changes; the same if nothing was changed.
    Severity grade_after = Severity::note;
    std::vector<Finding> findings;    // worst first; at most Findings::most
    std::uint64_t finding_count = 0;  // all
    std::vector<FaultyVolume> volumes;
    std::vector<ThinId> volume_ids;  // of all volumes, in ascending order; not the metadata snapshot's

    // Nothing is wrong but leaks and sums of the space maps, which return_leaks mends.
    bool accounting_only = false;
    std::uint64_t leaked_data_blocks = 0;
    std::uint64_t leaked_metadata_blocks = 0;
    std::uint64_t overcounted_blocks = 0;  // in use, but counted too often

    // As the superblock says; 0 if it can't be read.
    std::uint64_t transaction_id = 0;
    std::uint64_t metadata_blocks = 0;
    std::uint64_t metadata_free = 0;  // as counted, where that was in the scope
    std::uint64_t data_blocks = 0;
    std::uint64_t data_free = 0;
    bool needs_check = false;

    // What was changed. The findings are those of before. When space maps were written everything is checked again, and what is wrong
    // with them then is an error of the call.
    bool space_maps_written = false;
    bool needs_check_cleared = false;
};

// Damage is a finding, not an error. Errors: not_found, no_space (for what return_leaks writes; nothing was changed), failed (I/O where it
// is no finding: the superblock can't be read or written; interrupted).
//
// Memory, beside the reader's buffers: 40 bytes for each metadata block in use, 1/4 byte for each data block in use, a little more
// for those in use more than once (DataBlockCounts).
Result<CheckReport> check(BlockDevice& metadata, const CheckOptions& options);

}  // namespace lamella::tools
