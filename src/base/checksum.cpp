// SPDX-License-Identifier: Apache-2.0
#include "base/checksum.h"

#include <array>

#include <isa-l/crc.h>

namespace lamella {

std::uint32_t crc32c(std::uint32_t initial, std::span<const std::byte> bytes) {
    // ISA-L takes a mutable pointer but only reads.
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
    return crc32_iscsi(data, static_cast<int>(bytes.size()), initial);
}

namespace {
constexpr std::array<std::uint32_t, 256> make_table() {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t index = 0; index < 256; ++index) {
        std::uint32_t value = index;
        for (int bit = 0; bit < 8; ++bit)
            value = (value >> 1) ^ ((value & 1) != 0 ? 0xEDB88320u : 0u);
        table[index] = value;
    }
    return table;
}
constexpr auto lvm_table = make_table();
}  // namespace

std::uint32_t crc32_lvm(std::uint32_t initial, std::span<const std::byte> bytes) {
    std::uint32_t crc = initial;
    for (std::byte byte : bytes)
        crc = (crc >> 8) ^ lvm_table[(crc ^ static_cast<std::uint32_t>(byte)) & 0xff];
    return crc;
}

}  // namespace lamella
