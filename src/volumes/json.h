// SPDX-License-Identifier: Apache-2.0
//
// The types of volume_group.h as JSON: what `--json` prints and what the control socket carries (docs/json.md).
//
// Every field has its C++ name; sizes are bytes, times are seconds since 1970. What is unknown is null. Reading, a field that is
// absent keeps its default and one that isn't known is passed over, so that versions can talk to each other; a field of the wrong
// type, or a number out of range, is an error that names its place.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"

namespace lamella {

using Json = nlohmann::ordered_json;

// T: bool, std::uint64_t, std::string, the types of volume_group.h, and std::vector of those that its calls take or return several of.
template <typename T>
Json to_json(const T& value);

// For from_json() at the other end, T: std::vector<VolumeInfo>. Without the members that are what from_json() has for absent ones.
template <typename T>
Json to_json_brief(const T& value);

// `place` begins the error's message: "params.request: ...". Errors: usage.
template <typename T>
Result<T> from_json(const Json& json, std::string_view place);

// A member that has to be there.
template <typename T>
Result<T> member(const Json& object, std::string_view key, std::string_view place);

Json error_to_json(const Error& error);
// What can't be understood becomes an error of kind `failed`.
Error error_from_json(const Json& json);

// Text from a stranger: nesting and the members of one object are limited. Errors: usage, with the place of the fault.
Result<Json> parse_json(std::string_view text);

// One line, without its end. Errors: failed, when a string isn't UTF-8 (strings of infos always are: to_json sees to it).
Result<std::string> print_json(const Json& json);
// For people: indented, with a line end.
Result<std::string> print_json_indented(const Json& json);

}  // namespace lamella
