// SPDX-License-Identifier: Apache-2.0
//
// How users name things.
//
//   GROUP    the path of a group's physical volume, or several separated by commas:  ./vms.img   /dev/sdb1,/dev/sdc1
//            or the name of a volume group that this host's LVM runs:                 vg0
//   VOLUME   a logical volume of such a group:                                       ./vms.img:web   vg0/web
//
// A word is a path when it holds a '/', or when something of that name exists in the current folder; a path that holds commas or
// colons itself is recognised by existing. Of several colons the last one separates the volume's name. Names are made of what LVM
// allows in names; whether a name may be given to something new is for the group to say.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace lamella {

struct GroupAddress {
    std::vector<std::string> paths;  // of physical volumes: the user-space engine
    std::string name;                // of a group that the host runs: the kernel engine; empty when there are paths

    // As the user would type it.
    std::string text() const;
    bool operator==(const GroupAddress&) const = default;
};

struct VolumeAddress {
    GroupAddress group;
    std::string volume;

    std::string text() const;
    bool operator==(const VolumeAddress&) const = default;
};

using Address = std::variant<GroupAddress, VolumeAddress>;

// Whether something is at a path. A parameter so that parsing can be tested without files.
using PathExists = bool (*)(const std::string& path);
bool path_exists(const std::string& path);

// Errors: usage, with what was expected instead.
Result<GroupAddress> parse_group_address(std::string_view text, PathExists exists = path_exists);
Result<VolumeAddress> parse_volume_address(std::string_view text, PathExists exists = path_exists);
// What commands take that show either. A word that is a path to something is a group.
Result<Address> parse_address(std::string_view text, PathExists exists = path_exists);

}  // namespace lamella
