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

// Where pvcreate lets data begin: behind the label and the first metadata area.
constexpr std::uint64_t default_data_start = 1u << 20;  // bytes

// nullopt: none of the first four sectors holds a label. Errors: damaged (a label with a wrong checksum or contents), failed (I/O).
Result<std::optional<Label>> read_label(BlockDevice& device);

// Writes and flushes the label's sector, and clears labels in the others of the first four.
Result<void> write_label(BlockDevice& device, const Label& label);

// Clears every label. Flushed.
Result<void> clear_labels(BlockDevice& device);

// The layout pvcreate gives a device: a metadata area from 4096 up to the start of the data, and with two of them another one
// of at least 1 MiB at the end. Errors: usage, when there is no room for that.
Result<Label> plan_label(std::uint64_t device_bytes, unsigned metadata_areas, const LvmId& id,
                         std::uint64_t data_start = default_data_start);

// Bytes up to which extents may reach: the device, or its last metadata area when that lies behind the data.
std::uint64_t data_end(const Label& label);

}  // namespace lamella::lvm2
