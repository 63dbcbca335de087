// SPDX-License-Identifier: Apache-2.0
//
// What `lamella check` and thin_check share.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "base/result.h"
#include "tools/check.h"

namespace lamella::cli {

// What a group's text says of a pool.
struct PoolText {
    std::uint64_t transaction_id = 0;
    bool messages_queued = false;                // the pool's own transaction id may be one less
    std::map<std::uint32_t, std::string> names;  // of its volumes
};

// Of "./vms.img:pool"; none for any other address.
Result<std::optional<PoolText>> read_pool_text(const std::string& address);

// Adds a finding for everything in which the pool's metadata and its group's text don't agree.
void compare_with_text(tools::CheckReport& report, const PoolText& text);

// refused: a block device that somebody has claimed, as an active pool has its metadata. What is read there may change meanwhile.
Result<void> refuse_if_claimed(const std::string& address);

// "not metadata at all" in words, for what is often given by mistake: a dump, or something too small. Nothing: it isn't that.
std::optional<std::string> mistaken_for_metadata(BlockDevice& device);

}  // namespace lamella::cli
