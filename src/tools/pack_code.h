// SPDX-License-Identifier: Apache-2.0
//
// A block as instructions, as packed metadata has it. An instruction is a byte, its kind in the high four bits and a number in the low
// four, and what belongs to it. The instructions for numbers work on one register, and each puts the register out as 8 bytes.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "pdata/block.h"

namespace lamella::tools {

// Appends the instructions for a block of 4096 bytes.
void encode_block(std::span<const std::byte> block, pdata::BlockKind kind, std::vector<std::byte>& code);

// Takes one block's instructions from the front of `code`; `block` has 4096 bytes. damaged: no such instruction, or too many bytes.
Result<void> decode_block(std::span<const std::byte>& code, std::span<std::byte> block);

}  // namespace lamella::tools
