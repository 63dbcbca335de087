// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <string_view>

#include "base/result.h"

namespace lamella::cli {

// A whole number in decimal digits and nothing else. ErrorKind::usage.
template <typename Number>
Result<Number> parse_number(std::string_view word) {
    Number number = 0;
    auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    if (error != std::errc() || end != word.data() + word.size())
        return fail(ErrorKind::usage, "\"{}\" is not a whole number", word);
    return number;
}

}  // namespace lamella::cli
