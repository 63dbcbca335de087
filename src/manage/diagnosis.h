// SPDX-License-Identifier: Apache-2.0
//
// The doctor: what is wrong with a group or soon will be, how it shows, what it threatens, and the commands that mend it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "volumes/names.h"
#include "volumes/volume_group.h"

namespace lamella::manage {

enum class Urgency {
    advice,   // nothing is lost or refused; better done before it matters
    warning,  // something will fail if nobody acts
    critical  // something fails, or data is at risk
};
std::string_view to_string(Urgency urgency);

// What can be done to a group without asking: it loses nothing, ends nothing, and takes no more than room that is free.
struct Remedy {
    enum class Kind { extend_store, extend_data, extend_metadata, make_spare, drop_tag };
    Kind kind;
    std::string volume;       // empty: the group
    std::uint64_t bytes = 0;  // of room, by which it is extended
    std::string tag = {};     // that is taken away
    bool operator==(const Remedy&) const = default;
};

struct Finding {
    Urgency urgency = Urgency::advice;
    std::string kind;      // a word for programs, "pool-near-full"; docs/doctor.md lists them
    std::string volume;    // empty: the group
    std::string evidence;  // what shows it, with the numbers
    std::string risk;      // what comes of it if nothing is done
    // Safe as they stand, in this order; for what needs a decision, what leads to it.
    std::vector<std::string> commands;
    std::optional<Remedy> remedy;
    std::string why_not;  // why there is no remedy that could be carried out without asking
};

// All that a diagnosis rests on. What couldn't be learned is absent, and nothing is concluded from it.
struct Examination {
    GroupAddress address;
    GroupInfo group;
    std::vector<VolumeInfo> volumes;
    std::map<std::string, PoolContents> contents;   // by pool
    std::map<std::string, std::string> unreadable;  // pools whose metadata can't be opened, and why
    // By pool. An error: the profile of the pool, which should say so, isn't there.
    std::map<std::string, Result<AutomaticExtension>> extension;
};
// `check`: the metadata of pools that nobody uses is read whole.
Result<Examination> examine(VolumeGroup& group, const GroupAddress& address, bool check);

struct DiagnosisOptions {
    // Hundredths of a percent in use from which data, metadata and stores count as nearly full.
    std::uint32_t near_full = 80'00;
};

// The most urgent first; those of a kind in the order of the group's volumes.
std::vector<Finding> diagnose(const Examination& examination, const DiagnosisOptions& options = {});

Result<void> apply(VolumeGroup& group, const Remedy& remedy, ChangeOptions options);

}  // namespace lamella::manage
