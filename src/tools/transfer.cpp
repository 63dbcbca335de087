// SPDX-License-Identifier: Apache-2.0
#include "tools/transfer.h"

#include <algorithm>

#include "tools/copier.h"
#include "tools/volume_trees.h"

namespace lamella::tools {

namespace {

// One request holds up everything else on its way as long as it takes.
constexpr std::uint64_t most_zeros = std::uint64_t{1} << 30;

Result<std::uint64_t> data_block_bytes(BlockDevice& metadata) { return TRY(read_superblock(metadata)).data_block_sectors * sector_bytes; }

// Keys and values of nodes may be anything; what lies beyond all devices may as well lie at the end of them.
std::uint64_t bytes_until(std::uint64_t block, std::uint64_t length, std::uint64_t block_bytes) {
    std::uint64_t bytes = 0;
    const bool fits = !__builtin_add_overflow(block, length, &block) && !__builtin_mul_overflow(block, block_bytes, &bytes);
    return fits ? bytes : UINT64_MAX;
}

}  // namespace

Result<TransferSize> measure_transfer(BlockDevice& metadata, const TransferOptions& options) {
    const std::uint64_t block_bytes = TRY(data_block_bytes(metadata));
    TransferSize size;
    TRY(transfer_map(metadata, options, [&](const TransferRun& run) -> Result<void> {
        if (run.kind == TransferRun::Kind::copy)
            size.copied += run.length * block_bytes;
        size.end = bytes_until(run.begin.value(), run.length, block_bytes);
        return {};
    }));
    return size;
}

Result<TransferReport> transfer(BlockDevice& metadata, BlockDevice& data, const TransferTarget& target, const TransferOptions& options) {
    const std::uint64_t block_bytes = TRY(data_block_bytes(metadata));
    const TransferSize expected = TRY(measure_transfer(metadata, options));
    const Control& control = options.control;
    const std::uint64_t memory = std::max<std::uint64_t>(std::min(target.memory, expected.copied), 4096);
    const auto copier = TRY(Copier::start(data, target.device, memory, expected.copied, control));
    TransferReport report;

    const auto zero = [&](std::uint64_t from, std::uint64_t end) -> Result<void> {
        while (from < end) {
            if (control.stopped())
                return Control::interrupted();
            const std::uint64_t length = std::min(most_zeros, end - from);
            TRY_WITHIN(target.device.name(), write_zeroes_now(target.device, from, length));
            report.zeroed += length;
            from += length;
        }
        return {};
    };
    TransferOptions located = options;
    located.locate_data = true;
    located.control.progress = {};
    std::uint64_t done = 0;  // bytes of the volume
    TRY(transfer_map(metadata, located, [&](const TransferRun& run) -> Result<void> {
        const std::uint64_t begin = std::min(bytes_until(run.begin.value(), 0, block_bytes), target.size);
        const std::uint64_t end = std::min(bytes_until(run.begin.value(), run.length, block_bytes), target.size);
        if (target.zero_rest)
            TRY(zero(done, begin));
        if (run.kind == TransferRun::Kind::copy)
            TRY(copier->copy(bytes_until(run.data_begin.value(), 0, block_bytes), begin, end - begin));
        else
            TRY(zero(begin, end));
        done = end;
        return {};
    }));
    if (target.zero_rest)
        TRY(zero(done, target.size));
    TRY(copier->finish());
    report.copied = copier->copied();
    if (!options.base)
        report.left = target.size - report.copied - report.zeroed;
    TRY(flush_now(target.device));
    return report;
}

}  // namespace lamella::tools
