// SPDX-License-Identifier: Apache-2.0
#include "volumes/pool_check.h"

#include "tools/check.h"
#include "tools/usage.h"

namespace lamella {

Result<PoolCheck> check_metadata(BlockDevice& metadata) {
    const tools::CheckReport report = TRY(tools::check(metadata, {}));
    PoolCheck found;
    found.grade = report.grade == tools::Severity::note ? "clean" : to_string(report.grade);
    found.finding_count = report.finding_count;
    found.leaked_data_blocks = report.leaked_data_blocks;
    found.leaked_metadata_blocks = report.leaked_metadata_blocks;
    constexpr std::size_t most = 8;
    for (const tools::Finding& finding : report.findings)
        if (found.findings.size() < most)
            found.findings.push_back(finding.to_text());
    return found;
}

Result<std::vector<ThinUsage>> thin_usage(BlockDevice& metadata, bool in_metadata_snapshot) {
    const tools::Usage usage = TRY(tools::usage(metadata, {.metadata_snapshot = in_metadata_snapshot, .highest = false}));
    const std::uint64_t block_bytes = usage.data_block_sectors * sector_bytes;
    std::vector<ThinUsage> volumes;
    volumes.reserve(usage.volumes.size());
    for (const tools::VolumeUsage& volume : usage.volumes)
        volumes.push_back({volume.id.value(), volume.details.mapped_blocks * block_bytes, volume.exclusive_blocks * block_bytes});
    return volumes;
}

}  // namespace lamella
