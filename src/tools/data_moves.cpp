// SPDX-License-Identifier: Apache-2.0
#include "tools/data_moves.h"

#include <algorithm>

#include "tools/copier.h"

namespace lamella::tools {

namespace {

constexpr std::uint64_t most_memory = std::uint64_t{4} << 20;

}  // namespace

Result<DataMoves> DataMoves::plan(std::span<const DataRange> used, std::span<const DataRange> free) {
    DataMoves moves;
    std::size_t hole = 0;
    std::uint64_t taken = 0;  // of that hole
    std::uint64_t missing = 0;
    for (const DataRange& range : used)
        for (DataBlock from = range.begin; from < range.end;) {
            const std::uint64_t wanted = range.end - from;
            if (hole == free.size()) {
                missing += wanted;
                break;
            }
            const std::uint64_t left = free[hole].end - free[hole].begin - taken;
            const std::uint64_t length = std::min(wanted, left);
            if (length != 0)
                moves.runs_.push_back({from, free[hole].begin + taken, length});
            moves.blocks_ += length;
            from = from + length;
            taken += length;
            if (length == left) {
                ++hole;
                taken = 0;
            }
        }
    if (missing != 0)
        return fail(ErrorKind::no_space, "{} data blocks have to move, and there is room for {}", moves.blocks_ + missing, moves.blocks_);
    return moves;
}

DataMove DataMoves::move(DataBlock block, std::uint64_t length) const {
    const auto after = std::ranges::upper_bound(runs_, block, {}, &DataMove::from);
    if (after != runs_.begin()) {
        const DataMove& run = *(after - 1);
        const std::uint64_t within = block - run.from;
        if (within < run.length)
            return {block, run.to + within, std::min(length, run.length - within)};
    }
    return {block, block, after != runs_.end() ? std::min(length, after->from - block) : length};
}

Result<void> DataMoves::copy(BlockDevice& data, std::uint64_t block_bytes, const Control& control) const {
    const std::uint64_t total = blocks_ * block_bytes;
    const auto copier = TRY(Copier::start(data, data, std::clamp<std::uint64_t>(total, 4096, most_memory), total, control));
    for (const DataMove& run : runs_)
        TRY(copier->copy(run.from.value() * block_bytes, run.to.value() * block_bytes, run.length * block_bytes));
    TRY(copier->finish());
    return flush_now(data);
}

}  // namespace lamella::tools
