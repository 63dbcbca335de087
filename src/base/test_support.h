// SPDX-License-Identifier: Apache-2.0
//
// For the tests of all floors.
#pragma once

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <utility>

#include <gtest/gtest.h>

#include "base/result.h"

namespace lamella::test {

// The value; ends the test program if there is none.
template <typename T>
T value_of(Result<T> result) {
    if (!result) {
        ADD_FAILURE() << result.error().message();
        std::abort();
    }
    if constexpr (!std::is_void_v<T>)
        return std::move(*result);
}

struct Ran {
    int status = -1;  // as wait() has it
    std::string output;
};

// Runs a command of the shell; its output is what it writes to either.
inline Ran run(const std::string& command) {
    Ran ran;
    FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
    if (pipe == nullptr)
        return ran;
    std::array<char, 65536> buffer;
    for (std::size_t got; (got = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
        ran.output.append(buffer.data(), got);
    ran.status = ::pclose(pipe);
    return ran;
}

}  // namespace lamella::test
