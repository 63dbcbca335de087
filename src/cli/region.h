// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cli/numbers.h"
#include "tools/findings.h"

namespace lamella::cli {

// "BEGIN..END" in data blocks, END not included. ErrorKind::usage.
inline Result<tools::DataRange> parse_region(std::string_view word) {
    const std::size_t dots = word.find("..");
    if (dots == std::string_view::npos)
        return fail(ErrorKind::usage, "\"{}\" is not BEGIN..END in blocks", word);
    const tools::DataRange range{DataBlock(TRY(parse_number<std::uint64_t>(word.substr(0, dots)))),
                                 DataBlock(TRY(parse_number<std::uint64_t>(word.substr(dots + 2))))};
    if (range.begin >= range.end)
        return fail(ErrorKind::usage, "\"{}\" is empty", word);
    return range;
}

}  // namespace lamella::cli
