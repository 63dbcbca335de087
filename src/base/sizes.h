// SPDX-License-Identifier: Apache-2.0
//
// Sizes as people write them to LVM's commands, and as they read them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace lamella {

// A number and a suffix, in bytes. b or B: bytes; s or S: sectors of 512 bytes; k m g t p e in either case: powers of 1024; no suffix:
// MiB, as LVM takes it. (LVM's reports, unlike its arguments, mean powers of 1000 by capitals; nothing here does.) A fraction may
// follow a point: "1.5G"; what is less than a byte is cut off. At most 2^63 - 1 bytes. ErrorKind::usage.
Result<std::uint64_t> parse_size(std::string_view text);

// What a percentage is of: the free extents of the group, all its extents, those of the physical volumes given, a snapshot's origin,
// or the volume itself.
enum class PercentOf { free, group, physical_volumes, origin, volume };

struct Percentage {
    unsigned percent;  // 1 .. 100; of the volume itself up to 10000
    PercentOf of;
};

// An argument of create, extend or resize: a size or a percentage, absolute or as a change.
struct SizeArgument {
    enum class Sign { none, plus, minus };
    Sign sign = Sign::none;
    std::uint64_t bytes = 0;                 // without a percentage
    std::optional<Percentage> percentage{};  // "50%FREE", "100%PVS", "20%ORIGIN", "10%VG", "+50%LV"; the word in either case
};

// ErrorKind::usage.
Result<SizeArgument> parse_size_argument(std::string_view text);

// "10.00 GiB", "512 B": the largest unit that leaves at least 1, rounded to the nearest hundredth.
std::string print_size(std::uint64_t bytes);

}  // namespace lamella
