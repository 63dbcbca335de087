// SPDX-License-Identifier: Apache-2.0
//
// Between a group's text and its model: what group_parsing and group_printing have in common.
//
// What the model has no field for is kept as an entry behind the key that it followed. The printer walks LVM's order of keys and,
// behind each, whether the key itself is printed or not, puts the entries that were kept there. A segment that can't be typed as
// a whole becomes Opaque, all of it kept.
#pragma once

#include <cstdint>
#include <string_view>

namespace lamella::lvm2 {

// What a text says that it is. There is no other version.
constexpr std::string_view text_contents = "Text Format Volume Group";
constexpr std::int64_t text_version = 1;

}  // namespace lamella::lvm2
