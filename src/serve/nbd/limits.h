// SPDX-License-Identifier: Apache-2.0
//
// Limits of the protocol core: each length that a client sends is checked against one of these before anything is done with it.
// Limits that an administrator may want to change are ServerLimits (server.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace lamella::nbd::limits {

// Strings of the protocol: names, queries, error texts. From the protocol's own conventions.
constexpr std::size_t string_bytes = 4096;

// Data of one option. Longer data is skipped up to `skipped_option_bytes` and refused; beyond that the connection ends.
constexpr std::uint32_t option_bytes = 64 << 10;
constexpr std::uint32_t skipped_option_bytes = 1 << 20;

// Options before the transmission phase. `qemu-nbd --list` sends two for each export on one connection.
constexpr unsigned options = 20'000;

// Data of a READ or WRITE, and the maximum payload that the server advertises.
constexpr std::uint32_t payload_bytes = 32 << 20;

// Payload that is read and thrown away so that its request can be answered with an error. Beyond it the connection ends.
constexpr std::uint64_t skipped_payload_bytes = 64 << 20;

// Extents in one status chunk. The client asks again for what they don't cover.
constexpr std::size_t status_extents = 1024;

}  // namespace lamella::nbd::limits
