// SPDX-License-Identifier: Apache-2.0
//
// The label of a physical volume: which device it is, and where its data and its metadata areas lie.
// Format: one of the first four sectors, all integers little-endian; checked against `pvck --dump headers` of lvm2 2.03.16.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/uuid.h"
#include "device/block_device.h"

namespace lamella::lvm2 {

// Bytes, from the start of the device. A data area of size 0 reaches to the end.
struct DiskArea {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    bool operator==(const DiskArea&) const = default;
};

struct Label {
    std::uint64_t sector = 1;  // the sector that holds it
    LvmId id;
    std::uint64_t device_bytes = 0;
    std::vector<DiskArea> data_areas;
    std::vector<DiskArea> metadata_areas;
    // Extension; version 0: none.
    std::uint32_t extension_version = 2;
    std::uint32_t extension_flags = 0;
    std::vector<DiskArea> bootloader_areas;
    bool operator==(const Label&) const = default;
};

constexpr std::uint32_t label_in_use = 1;  // extension flag: the physical volume belongs to a group

// nullopt: none of the first four sectors holds a label. Errors: damaged (a label with a wrong checksum or contents), failed (I/O).
Result<std::optional<Label>> read_label(BlockDevice& device);

// Writes and flushes the label's sector. The other three sectors that could hold one are cleared of other labels.
Result<void> write_label(BlockDevice& device, const Label& label);

// The layout pvcreate gives a device: data from 1 MiB on, a metadata area before it and, with two, 1 MiB at the end.
// Errors: usage, when the device is too small.
Result<Label> plan_label(std::uint64_t device_bytes, unsigned metadata_areas, const LvmId& id);

}  // namespace lamella::lvm2
