// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/result.h"

namespace lamella::cli {

// What every command's exit status means. Scripts rely on these numbers.
enum class ExitCode : int {
    done = 0,
    failed = 1,     // anything that has no better number, I/O errors among them
    usage = 2,      // the command line is wrong
    not_found = 3,  // the group, volume or file named isn't there
    refused = 4,    // busy, held by somebody else, there already, unsafe, or not something that this engine does
    damaged = 5,    // damage was found, which needs repair
    no_space = 6,   // no room: in the group, the pool, its metadata, or the file system below
    leak = 7,       // check: nothing is wrong but room that is counted as used and isn't
    at_risk = 8,    // check: using the pool would overwrite data that is in use
};

constexpr ExitCode exit_code(ErrorKind kind) {
    switch (kind) {
    case ErrorKind::failed: return ExitCode::failed;
    case ErrorKind::usage: return ExitCode::usage;
    case ErrorKind::not_found: return ExitCode::not_found;
    case ErrorKind::exists:
    case ErrorKind::refused:
    case ErrorKind::unsupported: return ExitCode::refused;
    case ErrorKind::damaged: return ExitCode::damaged;
    case ErrorKind::no_space: return ExitCode::no_space;
    }
    return ExitCode::failed;
}

}  // namespace lamella::cli
