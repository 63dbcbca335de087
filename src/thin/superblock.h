// SPDX-License-Identifier: Apache-2.0
//
// Block 0 of a pool's metadata device. Layout: Linux drivers/md/dm-thin-metadata.c, struct thin_disk_superblock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/strong.h"

namespace lamella::thin {

constexpr std::size_t metadata_block_bytes = 4096;
constexpr std::uint64_t superblock_magic = 27022010;
constexpr std::uint32_t superblock_version = 2;

// A data block is 128 .. 2097152 sectors (64 KiB .. 1 GiB), a multiple of 128.
constexpr std::uint32_t min_data_block_sectors = 128;
constexpr std::uint32_t max_data_block_sectors = 2097152;

// Times and device ids have 24 bits; data block numbers 40.
constexpr std::uint32_t max_time = (1u << 24) - 1;
constexpr std::uint32_t max_thin_id = (1u << 24) - 1;
constexpr std::uint64_t max_data_blocks = std::uint64_t{1} << 40;

struct Superblock {
    static constexpr std::size_t space_map_root_bytes = 128;

    static constexpr std::uint32_t needs_check_flag = 1;

    std::uint32_t flags = 0;  // bits that aren't known are kept
    std::array<std::byte, 16> uuid{};
    std::uint32_t version = superblock_version;
    std::uint32_t time = 0;
    std::uint64_t transaction_id = 0;
    MetadataBlock held_root{};  // of the metadata snapshot; 0: none
    std::array<std::byte, space_map_root_bytes> data_space_map_root{};
    std::array<std::byte, space_map_root_bytes> metadata_space_map_root{};
    MetadataBlock data_mapping_root{};
    MetadataBlock device_details_root{};
    std::uint32_t data_block_sectors = min_data_block_sectors;
    std::uint64_t metadata_blocks_at_creation = 0;  // not kept up when the device grows: the space map root counts
    std::uint32_t compatible_flags = 0;
    std::uint32_t compatible_read_only_flags = 0;
    std::uint32_t incompatible_flags = 0;

    bool needs_check() const { return (flags & needs_check_flag) != 0; }

    // Writes every field, the block number and the checksum into `block` (4096 bytes); bytes beyond the fields are left as they
    // are. `location` is 0, or where a metadata snapshot's copy lies.
    void pack(std::span<std::byte> block, MetadataBlock location = MetadataBlock(0)) const;

    // Checks magic, checksum, block number, version, flags and the range of every field; an error (damaged, or unsupported for
    // features that aren't known) names the field. `writable`: unknown compatible_read_only_flags refuse as well.
    static Result<Superblock> unpack(std::span<const std::byte> block, bool writable, MetadataBlock location = MetadataBlock(0));
    // All that unpack() would find, not only the first.
    static std::vector<Error> problems(std::span<const std::byte> block, bool writable, MetadataBlock location = MetadataBlock(0));
    // The fields as they are, whatever they say.
    static Superblock read_fields(std::span<const std::byte> block);
};

// True for a block of zeros only: metadata that was never formatted.
bool is_unformatted(std::span<const std::byte> block);

}  // namespace lamella::thin
