// SPDX-License-Identifier: Apache-2.0
#include "tools/transfer_map.h"

namespace lamella::tools {

Result<void> transfer_map(BlockDevice& metadata, const TransferOptions& options, const VisitTransfer& visit) {
    TransferRun waiting;  // length 0: none
    const auto add = [&](const DiffRun& run) -> Result<void> {
        if (run.kind == DiffRun::Kind::same)
            return {};  // beside what differs, in one leaf
        const auto kind = run.kind == DiffRun::Kind::left_only ? TransferRun::Kind::discard : TransferRun::Kind::copy;
        const bool located = options.locate_data && kind == TransferRun::Kind::copy;
        if (waiting.length != 0 && waiting.kind == kind && waiting.begin + waiting.length == run.begin &&
            (!located || waiting.data_begin + waiting.length == run.right_begin)) {
            waiting.length += run.length;
            return {};
        }
        if (waiting.length != 0)
            TRY(visit(waiting));
        waiting = {kind, run.begin, run.length, located ? run.right_begin : DataBlock(0)};
        return {};
    };
    if (options.base)
        TRY(diff(metadata,
                 {.left = *options.base,
                  .right = options.volume,
                  .left_in_snapshot = options.base_in_snapshot,
                  .right_in_snapshot = options.in_snapshot,
                  .control = options.control},
                 add));
    else
        TRY(diff_since(metadata, options.volume, options.in_snapshot, 0, options.control, add));
    return waiting.length != 0 ? visit(waiting) : Result<void>();
}

}  // namespace lamella::tools
