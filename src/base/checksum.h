// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace lamella {

// CRC-32C (Castagnoli) with the given initial value and no final inversion: what dm-thin's metadata blocks use with 0xffffffff.
std::uint32_t crc32c(std::uint32_t initial, std::span<const std::byte> bytes);

// The reflected CRC-32 polynomial 0xEDB88320 with the given initial value and no final inversion: what LVM2 uses with 0xf597a6cf.
std::uint32_t crc32_lvm(std::uint32_t initial, std::span<const std::byte> bytes);

constexpr std::uint32_t lvm_crc_initial = 0xf597a6cf;

}  // namespace lamella
