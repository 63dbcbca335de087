// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"

namespace lamella::cow {

// A chunk of the origin ("old chunk") and of the store's device ("new chunk"), in units of the store's chunk size.
using OriginChunk = Strong<struct OriginChunkTag>;
using StoreChunk = Strong<struct StoreChunkTag>;

struct StoreOptions {
    // false: a transient store (N), which keeps nothing on disk but data and ends when it is closed.
    bool persistent = true;
    // PO: a write to the snapshot that finds no room makes it read-only (Overflow) instead of Invalid.
    bool overflow = false;
    // Sectors of 512 bytes: a power of two, 1 .. 2^21, a multiple of the alignment of both devices. 0: the kernel's default, 32 or the
    // store's alignment where that is larger. What a persistent store says of itself overrides it, as in the kernel.
    std::uint32_t chunk_sectors = 0;
};

// What opening a store would say of the chunk size first. ErrorKind::usage.
Result<void> check_store_options(const StoreOptions& options, const BlockDevice& store, const BlockDevice& origin);

// What dm-snapshot's status line counts, in sectors. In a persistent store both `allocated` and `metadata` include the header's chunk
// and the areas of the exceptions: a store that holds nothing (a finished merge) has allocated == metadata. A chunk that is allocated
// counts before its exception is committed. In a transient store `metadata` is 0.
struct StoreUsage {
    std::uint64_t allocated = 0;
    std::uint64_t total = 0;  // the device, whose last part may be less than a chunk
    std::uint64_t metadata = 0;
};

// What a device holds, found without changing it.
struct StoreSummary {
    enum class Kind {
        fresh,    // all zeros where the header would be: dm-snapshot would begin a new store
        valid,    // exceptions that hold
        invalid,  // marked invalid: for good
    };
    Kind kind = Kind::fresh;
    std::uint32_t chunk_sectors = 0;  // 0: fresh
    StoreUsage usage;                 // fresh or invalid: only `total`
    std::uint64_t exceptions = 0;     // chunks
};

// Reads a persistent store as a snapshot of `origin_bytes` bytes; changes nothing. The checks and errors of a snapshot's opening.
Result<StoreSummary> inspect_store(BlockDevice& device, std::uint64_t origin_bytes);

// How large a store must be that never fills up, however much of the origin is written: bytes; a power of two for `chunk_sectors`.
std::uint64_t largest_useful_store(std::uint64_t origin_bytes, std::uint32_t chunk_sectors);

// "P", "PO" or "N", as a table names the kind of store; either case, as the kernel takes it. ErrorKind::usage.
Result<StoreOptions> parse_store_type(std::string_view word);
std::string_view store_type_word(const StoreOptions& options);

}  // namespace lamella::cow
