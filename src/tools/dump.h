// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include "device/block_device.h"
#include "tools/control.h"
#include "tools/visitor.h"

namespace lamella::tools {

struct DumpOptions {
    // The pool as it was when its metadata snapshot was taken: the one way to read metadata that is in use. Complete all the same: the
    // number of data blocks, which the snapshot lacks, is the live pool's.
    bool metadata_snapshot = false;
    // Where the snapshot must lie.
    std::optional<MetadataBlock> snapshot_location{};
    // Mappings that several devices share are told once, as definitions. Else each device tells all of its own.
    bool definitions = false;
    bool mappings = true;
    // Only these; empty: all.
    std::vector<ThinId> devices{};
    bool devices_must_exist = false;  // else one that there isn't is passed over
    // Only mappings of virtual blocks from here up to there; a device then counts only those as mapped. Without definitions.
    std::optional<VirtualBlock> begin{};
    std::optional<VirtualBlock> end{};
    HeaderOverrides overrides{};
};

// Tells a sink what a pool's metadata holds, devices in the order of their ids. Only reads. Leaves are read in disk order, some thousand
// at a time, by threads that check and decode them while the sink works on what was read before.
//
// Errors: damaged, naming block and device, at the first thing that is not as it should be (`repair` can do with less); not_found without
// a metadata snapshot, or a device; whatever the sink returns. Memory: about 30 MiB, 40 bytes a device; with definitions 9 bytes a metadata block.
Result<void> dump(BlockDevice& metadata, const DumpOptions& options, PoolVisitor& sink, const Control& control = {});

}  // namespace lamella::tools
