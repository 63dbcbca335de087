// SPDX-License-Identifier: Apache-2.0
#include "tools/data_moves.h"

#include <algorithm>

namespace lamella::tools {

namespace {

constexpr std::uint64_t most_bytes = std::uint64_t{4} << 20;  // in one piece

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
    AlignedBuffer buffer(std::min(std::max(most_bytes, block_bytes), std::max(blocks_, std::uint64_t{1}) * block_bytes));
    const std::uint64_t total = blocks_ * block_bytes;
    std::uint64_t done = 0;
    for (const DataMove& run : runs_) {
        const std::uint64_t bytes = run.length * block_bytes;
        for (std::uint64_t at = 0; at < bytes;) {
            if (control.stopped())
                return Control::interrupted();
            const auto piece = buffer.bytes().first(std::min<std::uint64_t>(buffer.size(), bytes - at));
            TRY_WITHIN(data.name(), read_now(data, run.from.value() * block_bytes + at, piece));
            TRY_WITHIN(data.name(), write_now(data, run.to.value() * block_bytes + at, piece));
            at += piece.size();
            done += piece.size();
            if (control.progress)
                control.progress(done, total);
        }
    }
    return flush_now(data);
}

}  // namespace lamella::tools
