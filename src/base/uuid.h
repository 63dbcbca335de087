// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <compare>
#include <string>
#include <string_view>

#include "base/result.h"

namespace lamella {

// An LVM2 identifier: 32 characters of 0-9 a-z A-Z ! #, shown in groups of 6-4-4-4-4-4-6.
class LvmId {
  public:
    static constexpr std::size_t length = 32;

    // From the kernel's random source; 0-9a-zA-Z only, as LVM2 generates them.
    static LvmId generate();
    // With or without dashes.
    static Result<LvmId> parse(std::string_view text);

    // "abcdef-ghij-..."
    std::string dashed() const;
    // 32 characters, as a PV header or a device mapper uuid holds them.
    std::string_view plain() const { return {characters_.data(), length}; }

    auto operator<=>(const LvmId&) const = default;

  private:
    std::array<char, length> characters_{};
};

}  // namespace lamella
