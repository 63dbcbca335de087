// SPDX-License-Identifier: Apache-2.0
//
// Integers as they lie in bytes. On-disk structures (little-endian) and network messages (big-endian) are packed and unpacked
// field by field with these; no structure is ever cast onto foreign bytes. The caller has checked that the bytes are there.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace lamella {

template <std::unsigned_integral T>
T load_little(const std::byte* bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof value);
    if constexpr (std::endian::native == std::endian::big)
        value = std::byteswap(value);
    return value;
}

template <std::unsigned_integral T>
void store_little(std::byte* bytes, T value) {
    if constexpr (std::endian::native == std::endian::big)
        value = std::byteswap(value);
    std::memcpy(bytes, &value, sizeof value);
}

template <std::unsigned_integral T>
T load_big(const std::byte* bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof value);
    if constexpr (std::endian::native == std::endian::little)
        value = std::byteswap(value);
    return value;
}

template <std::unsigned_integral T>
void store_big(std::byte* bytes, T value) {
    if constexpr (std::endian::native == std::endian::little)
        value = std::byteswap(value);
    std::memcpy(bytes, &value, sizeof value);
}

}  // namespace lamella
