// SPDX-License-Identifier: Apache-2.0
#include "tools/trim.h"

#include <algorithm>

#include "tools/volume_trees.h"

namespace lamella::tools {

namespace {

// One request holds up everything else on its way as long as it takes.
constexpr std::uint64_t most_bytes = std::uint64_t{1} << 30;

}  // namespace

Result<TrimReport> trim(BlockDevice& metadata, BlockDevice& data, bool dry_run, const Control& control,
                        const std::function<Result<void>()>& still_whole) {
    const thin::Superblock superblock = TRY(read_superblock(metadata));
    const std::uint64_t bytes_per_block = superblock.data_block_sectors * sector_bytes;
    if (!data.traits().discards)
        return fail(ErrorKind::unsupported, "{} can't discard", data.name());

    std::vector<DataRange> free;
    CheckReport report = TRY(check(metadata, {.free_data = [&](DataRange range) { free.push_back(range); }, .control = control}));
    if (report.grade > Severity::leak)
        return fail(ErrorKind::damaged, "{}: nothing was discarded: {}", metadata.name(), report.findings.front().to_text());
    if (data.size() / bytes_per_block < report.data_blocks)
        return fail(ErrorKind::usage, "{} has room for {} data blocks, the pool has {}", data.name(), data.size() / bytes_per_block,
                    report.data_blocks);

    if (still_whole)
        TRY(still_whole());
    TrimReport done{.data_block_sectors = superblock.data_block_sectors};
    for (const DataRange& range : free) {
        const std::uint64_t end = range.end.value() * bytes_per_block;
        for (std::uint64_t at = range.begin.value() * bytes_per_block; at < end && !dry_run;) {
            if (control.stopped())
                return Control::interrupted();
            const std::uint64_t length = std::min(most_bytes, end - at);
            TRY_WITHIN(data.name(), discard_now(data, at, length));
            at += length;
        }
        done.blocks += range.end - range.begin;
        ++done.ranges;
    }
    return done;
}

}  // namespace lamella::tools
