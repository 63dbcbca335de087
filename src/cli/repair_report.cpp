// SPDX-License-Identifier: Apache-2.0
#include "cli/repair_report.h"

#include <nlohmann/json.hpp>

namespace lamella::cli {

namespace {

std::string range_text(const tools::KeyRange& range) {
    return range.end == tools::KeyRange::no_end ? fmt::format("from {} on", range.begin)
                                                : fmt::format("{}..{}", range.begin, range.end - 1);
}

}  // namespace

std::string repair_text(const std::string& input, const tools::RepairReport& report) {
    if (!report.damaged)
        return fmt::format("{}: nothing is damaged\n", input);
    std::string text;
    if (report.superblock_lost)
        text += fmt::format(
            "the superblock is lost; made up for by {}, with the tree of devices at metadata block {} and that of details at {}\n",
            report.superblock_source, report.roots.devices, report.roots.details);
    if (report.data_blocks_by_mappings)
        text += fmt::format("how many data blocks the pool has is lost: {} are taken, up to the last that is mapped\n",
                            *report.data_blocks_by_mappings);
    std::uint64_t lost_volumes = 0;
    for (const tools::RepairedVolume& volume : report.volumes) {
        const std::uint64_t back = volume.intact + volume.recovered;
        if (volume.complete && volume.recovered == 0 && volume.recorded)
            continue;
        text += fmt::format("volume {}: {}{} mapped blocks are back", volume.id, back,
                            volume.recorded ? fmt::format(" of {}", *volume.recorded) : std::string());
        if (volume.recovered != 0)
            text += fmt::format(", {} of them behind damaged nodes", volume.recovered);
        if (volume.by_older_tree)
            text += "; that they are this volume's says an earlier state of the tree of devices";
        if (!volume.recorded)
            text += "; its details are lost, and were made up for";
        text += '\n';
        for (const tools::KeyRange& range : volume.lost)
            text += fmt::format("volume {}: virtual blocks {} are lost, as far as they were mapped\n", volume.id, range_text(range));
        lost_volumes += !volume.complete;
    }
    for (const tools::UnplacedOrphan& orphan : report.unplaced) {
        text += fmt::format("metadata block {} with {} mappings of virtual blocks {}..{}: not put back, nothing proves whose it is",
                            orphan.block, orphan.mappings, orphan.first, orphan.last);
        for (std::size_t index = 0; index < orphan.possible_owners.size(); ++index)
            text += fmt::format("{} {}", index == 0 ? "; it may be of volume" : ",", orphan.possible_owners[index]);
        text += '\n';
    }
    if (report.metadata_snapshot_dropped)
        text += "the metadata snapshot is not in the output\n";
    return text + fmt::format("{}: {} of {} volumes are whole\n", input, report.volumes.size() - lost_volumes, report.volumes.size());
}

Json repair_json(const tools::RepairReport& report) {
    Json json = Json::object();
    json["damaged"] = report.damaged;
    json["superblock_lost"] = report.superblock_lost;
    json["superblock_source"] = report.superblock_lost ? Json(report.superblock_source) : Json();
    json["data_blocks_by_mappings"] = report.data_blocks_by_mappings ? Json(*report.data_blocks_by_mappings) : Json();
    json["metadata_snapshot_dropped"] = report.metadata_snapshot_dropped;
    json["device_tree"] = report.roots.devices.value();
    json["details_tree"] = report.roots.details.value();
    json["metadata_blocks"] = report.metadata_blocks;
    json["volumes"] = Json::array();
    for (const tools::RepairedVolume& volume : report.volumes) {
        Json lost = Json::array();
        for (const tools::KeyRange& range : volume.lost)
            lost.push_back(
                {{"virtual_begin", range.begin}, {"virtual_end", range.end == tools::KeyRange::no_end ? Json() : Json(range.end)}});
        json["volumes"].push_back({{"volume_id", volume.id.value()},
                                   {"recorded_blocks", volume.recorded ? Json(*volume.recorded) : Json()},
                                   {"intact_blocks", volume.intact},
                                   {"recovered_blocks", volume.recovered},
                                   {"by_older_tree", volume.by_older_tree},
                                   {"complete", volume.complete},
                                   {"lost", lost}});
    }
    json["unplaced"] = Json::array();
    for (const tools::UnplacedOrphan& orphan : report.unplaced) {
        Json owners = Json::array();
        for (ThinId id : orphan.possible_owners)
            owners.push_back(id.value());
        json["unplaced"].push_back({{"metadata_block", orphan.block.value()},
                                    {"virtual_begin", orphan.first},
                                    {"virtual_end", orphan.last + 1},
                                    {"mapped_blocks", orphan.mappings},
                                    {"possible_volume_ids", owners}});
    }
    return json;
}

std::string roots_text(const std::vector<tools::RootCandidate>& candidates) {
    std::string text;
    std::size_t number = 0;
    for (const tools::RootCandidate& candidate : candidates)
        text += fmt::format(
            "{}: trees at metadata blocks {} and {} ({}): {} of {} volumes match their details, {} mapped blocks, "
            "transaction {}, time {}\n",
            ++number, candidate.roots.devices, candidate.roots.details, to_string(candidate.source), candidate.matching_devices,
            candidate.devices, candidate.mappings, candidate.transaction_id, candidate.time);
    return text;
}

Json roots_json(const std::vector<tools::RootCandidate>& candidates) {
    Json json = Json::object();
    json["roots"] = Json::array();
    for (const tools::RootCandidate& candidate : candidates)
        json["roots"].push_back({{"number", json["roots"].size() + 1},
                                 {"source", to_string(candidate.source)},
                                 {"device_tree", candidate.roots.devices.value()},
                                 {"details_tree", candidate.roots.details.value()},
                                 {"volumes", candidate.devices},
                                 {"matching_volumes", candidate.matching_devices},
                                 {"mapped_blocks", candidate.mappings},
                                 {"transaction_id", candidate.transaction_id},
                                 {"time", candidate.time}});
    return json;
}

}  // namespace lamella::cli
