// SPDX-License-Identifier: Apache-2.0
#include "volumes/snapshot_state.h"

namespace lamella {

namespace {

constexpr std::string_view lineage_prefix = "lamella.origin=";

}  // namespace

std::string snapshot_state_of(const VolumeInfo& volume) {
    const std::string& word = volume.snapshot_state;
    const bool thin = volume.kind == VolumeKind::thin;
    if (volume.kind != VolumeKind::snapshot && !(thin && (!volume.origin.empty() || !volume.former_origin.empty())))
        return {};
    if (word == "Invalid")
        return "invalid";
    if (word == "Overflow")
        return "overflow";
    if (word == "Merge failed")
        return "merge failed";
    if (word == "merging")
        return "merging";
    if (volume.active == false)
        return "inactive";
    if (!volume.refused.empty())
        return "refused";
    if (thin)
        return "valid";
    if (word != "active")
        return "unknown";
    return volume.store_used && volume.store_used >= volume.store_size ? "full" : "valid";
}

std::string lineage_tag(std::string_view origin) { return fmt::format("{}{}", lineage_prefix, origin); }

bool has_lineage_tag(const std::vector<std::string>& tags) { return !origin_by_tag(tags).empty(); }

std::string origin_by_tag(const std::vector<std::string>& tags) {
    for (const std::string& tag : tags)
        if (tag.starts_with(lineage_prefix))
            return tag.substr(lineage_prefix.size());
    return {};
}

}  // namespace lamella
