// SPDX-License-Identifier: Apache-2.0
//
// What `lamella dm` prints of devices, in dmsetup's layout.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/dm_control.h"

namespace lamella::cli {

// dmsetup info: a line a property, an empty line at the end.
std::string describe_device(const mapper::DeviceInfo& device);

struct DeviceColumns {
    std::string fields;    // "name,major,...", "+..." for more than the default; empty: the default
    bool headings = true;  // without: fields joined by the separator
    std::string separator = ":";
};
// dmsetup info -c. Errors: usage, for an unknown field.
Result<std::string> device_columns(const std::vector<MappedDeviceView>& devices, const DeviceColumns& columns);

enum class DeviceWord { number, block_name, name };  // devno, blkdevname, devname
Result<DeviceWord> parse_device_word(std::string_view option);

// "up: 1 dependencies	: (253, 0)"; without the name for one that was asked for alone.
std::string dependency_line(const MappedDeviceView& device, DeviceWord word, bool with_name);
// "up	(253:1)"; between the numbers stands what dmsetup puts there: ", " in a list of one type of target.
std::string list_line(const mapper::DeviceInfo& device, DeviceWord word, std::string_view between = ":");

// dmsetup ls --tree. `options`: device, nodevice, blkdevname, active, open, rw, uuid, ascii, utf, inverted, compact, notrunc; separated by
// commas. Errors: usage, for others.
Result<std::string> device_tree(const std::vector<MappedDeviceView>& devices, std::string_view options);

}  // namespace lamella::cli
