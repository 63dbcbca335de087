// SPDX-License-Identifier: Apache-2.0
#include "manage/pool_plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/sizes.h"
#include "lvm2/group.h"
#include "tools/metadata_size.h"

namespace lamella::manage {

namespace {

std::uint64_t whole_extents(std::uint64_t bytes, std::uint64_t extent) { return (bytes + extent - 1) / extent * extent; }

struct Parts {
    PoolPlan plan;
    std::uint64_t total() const { return plan.data + plan.metadata + plan.spare + plan.reserve; }
};

Result<Parts> parts(std::uint64_t data, std::uint64_t extent, std::uint64_t spare, const PoolNeeds& needs) {
    const auto metadata_for = [&](std::uint64_t bytes) -> Result<std::uint64_t> {
        return whole_extents(TRY(metadata_needed(bytes, needs.chunk_size, needs.volumes)), extent);
    };
    PoolPlan plan{.data = data};
    plan.metadata = needs.metadata ? whole_extents(*needs.metadata, extent) : TRY(metadata_for(data));
    plan.spare = plan.metadata > spare ? plan.metadata - spare : 0;
    std::uint64_t grown = data;
    for (unsigned extension = 0; extension < needs.extensions; ++extension)
        grown += whole_extents(grown / 100 * needs.percent, extent);
    const std::uint64_t metadata_then = std::max(plan.metadata, TRY(metadata_for(grown)));
    const std::uint64_t spare_then = std::max(spare, plan.metadata);
    plan.reserve = grown - data + (metadata_then - plan.metadata) + (metadata_then > spare_then ? metadata_then - spare_then : 0);
    return Parts{plan};
}

}  // namespace

Result<std::uint64_t> metadata_needed(std::uint64_t data, std::uint64_t chunk_size, std::uint64_t volumes) {
    const std::uint64_t estimate = TRY(tools::metadata_size(data, chunk_size, volumes));
    return std::max(estimate, lvm2::default_metadata_bytes(data, static_cast<std::uint32_t>(chunk_size / sector_bytes)));
}

std::uint64_t most_metadata(std::uint64_t extent) { return lvm2::default_metadata_bytes(UINT64_MAX, 1) / extent * extent; }

std::uint64_t metadata_growth(const VolumeInfo& pool, std::uint64_t more, std::uint64_t extent) {
    if (pool.chunk_size.value_or(0) == 0 || !pool.metadata_size)
        return 0;
    const auto chunk_sectors = static_cast<std::uint32_t>(*pool.chunk_size / sector_bytes);
    const std::uint64_t wanted = whole_extents(lvm2::default_metadata_bytes(pool.size + more, chunk_sectors), extent);
    return wanted > *pool.metadata_size ? wanted - *pool.metadata_size : 0;
}

std::uint64_t spare_growth(const std::vector<VolumeInfo>& volumes, const std::string& pool, std::uint64_t more) {
    std::uint64_t largest = 0, spare = 0;
    for (const VolumeInfo& volume : volumes)
        if (volume.kind == VolumeKind::thin_pool)
            largest = std::max(largest, volume.metadata_size.value_or(0) + (volume.name == pool ? more : 0));
        else if (volume.kind == VolumeKind::spare)
            spare = volume.size;
    return largest > spare ? largest - spare : 0;
}

Result<PoolPlan> plan_pool(std::uint64_t free, std::uint64_t extent, std::uint64_t spare, const PoolNeeds& needs) {
    if (needs.percent == 0 || needs.percent > 1000 || needs.extensions > 100)
        return fail(ErrorKind::usage, "{} extensions by {} percent: from 1 to 1000 percent, and at most 100 of them", needs.extensions,
                    needs.percent);
    const std::uint64_t least = whole_extents(needs.chunk_size, extent);
    std::uint64_t data = needs.data ? whole_extents(*needs.data, extent) : least;
    if (data > free || needs.metadata.value_or(0) > free)
        return fail(ErrorKind::no_space, "{} are free in the group, less than the pool alone", print_size(free));
    Parts fitting = TRY(parts(data, extent, spare, needs));
    if (fitting.total() > free)
        return fail(
            ErrorKind::no_space,
            "{} of data, {} of metadata, {} for the spare, and {} for {} extension{} by {} percent are {}; {} are free in the group",
            print_size(data), print_size(fitting.plan.metadata), print_size(fitting.plan.spare), print_size(fitting.plan.reserve),
            needs.extensions, needs.extensions == 1 ? "" : "s", needs.percent, print_size(fitting.total()), print_size(free));
    if (!needs.data) {
        // The largest number of extents that leaves room for all the rest, which grows with them.
        std::uint64_t low = data / extent, high = free / extent + 1;
        while (high - low > 1) {
            const std::uint64_t middle = low + (high - low) / 2;
            const Parts tried = TRY(parts(middle * extent, extent, spare, needs));
            if (tried.total() <= free) {
                low = middle;
                fitting = tried;
            } else {
                high = middle;
            }
        }
    }
    fitting.plan.left = free - fitting.total();
    return fitting.plan;
}

}  // namespace lamella::manage
