// SPDX-License-Identifier: Apache-2.0
#include "thin/superblock.h"

#include <algorithm>
#include <cstring>

#include "base/endian.h"
#include "pdata/block.h"
#include "pdata/metadata_space_map.h"

namespace lamella::thin {

namespace {

// Byte offsets in the block. 0: checksum; 8: block number.
constexpr std::size_t flags_offset = 4;
constexpr std::size_t uuid_offset = 16;
constexpr std::size_t magic_offset = 32;
constexpr std::size_t version_offset = 40;
constexpr std::size_t time_offset = 44;
constexpr std::size_t transaction_id_offset = 48;
constexpr std::size_t held_root_offset = 56;
constexpr std::size_t data_space_map_offset = 64;
constexpr std::size_t metadata_space_map_offset = 192;
constexpr std::size_t data_mapping_root_offset = 320;
constexpr std::size_t device_details_root_offset = 328;
constexpr std::size_t data_block_sectors_offset = 336;
constexpr std::size_t metadata_block_sectors_offset = 340;
constexpr std::size_t metadata_blocks_offset = 344;
constexpr std::size_t compatible_offset = 352;
constexpr std::size_t compatible_read_only_offset = 356;
constexpr std::size_t incompatible_offset = 360;

constexpr std::uint32_t metadata_block_sectors = metadata_block_bytes / sector_bytes;

}  // namespace

void Superblock::pack(std::span<std::byte> block, MetadataBlock location) const {
    std::byte* bytes = block.data();
    store_little<std::uint32_t>(bytes + flags_offset, flags);
    std::memcpy(bytes + uuid_offset, uuid.data(), uuid.size());
    store_little<std::uint64_t>(bytes + magic_offset, superblock_magic);
    store_little<std::uint32_t>(bytes + version_offset, version);
    store_little<std::uint32_t>(bytes + time_offset, time);
    store_little<std::uint64_t>(bytes + transaction_id_offset, transaction_id);
    store_little<std::uint64_t>(bytes + held_root_offset, held_root.value());
    std::memcpy(bytes + data_space_map_offset, data_space_map_root.data(), space_map_root_bytes);
    std::memcpy(bytes + metadata_space_map_offset, metadata_space_map_root.data(), space_map_root_bytes);
    store_little<std::uint64_t>(bytes + data_mapping_root_offset, data_mapping_root.value());
    store_little<std::uint64_t>(bytes + device_details_root_offset, device_details_root.value());
    store_little<std::uint32_t>(bytes + data_block_sectors_offset, data_block_sectors);
    store_little<std::uint32_t>(bytes + metadata_block_sectors_offset, metadata_block_sectors);
    store_little<std::uint64_t>(bytes + metadata_blocks_offset, metadata_blocks_at_creation);
    store_little<std::uint32_t>(bytes + compatible_offset, compatible_flags);
    store_little<std::uint32_t>(bytes + compatible_read_only_offset, compatible_read_only_flags);
    store_little<std::uint32_t>(bytes + incompatible_offset, incompatible_flags);
    pdata::seal_block(block, pdata::BlockKind::superblock, location);
}

Superblock Superblock::read_fields(std::span<const std::byte> block) {
    const std::byte* bytes = block.data();
    Superblock superblock;
    superblock.flags = load_little<std::uint32_t>(bytes + flags_offset);
    std::memcpy(superblock.uuid.data(), bytes + uuid_offset, superblock.uuid.size());
    superblock.version = load_little<std::uint32_t>(bytes + version_offset);
    superblock.time = load_little<std::uint32_t>(bytes + time_offset);
    superblock.transaction_id = load_little<std::uint64_t>(bytes + transaction_id_offset);
    superblock.held_root = MetadataBlock(load_little<std::uint64_t>(bytes + held_root_offset));
    std::memcpy(superblock.data_space_map_root.data(), bytes + data_space_map_offset, space_map_root_bytes);
    std::memcpy(superblock.metadata_space_map_root.data(), bytes + metadata_space_map_offset, space_map_root_bytes);
    superblock.data_mapping_root = MetadataBlock(load_little<std::uint64_t>(bytes + data_mapping_root_offset));
    superblock.device_details_root = MetadataBlock(load_little<std::uint64_t>(bytes + device_details_root_offset));
    superblock.data_block_sectors = load_little<std::uint32_t>(bytes + data_block_sectors_offset);
    superblock.metadata_blocks_at_creation = load_little<std::uint64_t>(bytes + metadata_blocks_offset);
    superblock.compatible_flags = load_little<std::uint32_t>(bytes + compatible_offset);
    superblock.compatible_read_only_flags = load_little<std::uint32_t>(bytes + compatible_read_only_offset);
    superblock.incompatible_flags = load_little<std::uint32_t>(bytes + incompatible_offset);
    return superblock;
}

std::vector<Error> Superblock::problems(std::span<const std::byte> block, bool writable, MetadataBlock location) {
    std::vector<Error> found;
    auto add = [&]<typename... Args>(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
        found.emplace_back(kind, "superblock: " + fmt::format(format, std::forward<Args>(args)...));
    };
    const std::byte* bytes = block.data();
    // The magic first: on foreign bytes "not a thin pool's superblock" says more than a bad checksum does.
    if (auto magic = load_little<std::uint64_t>(bytes + magic_offset); magic != superblock_magic)
        add(ErrorKind::damaged, "magic {}, expected {}", magic, superblock_magic);
    if (auto sealed = pdata::verify_block(block, pdata::BlockKind::superblock, location); !sealed)
        found.push_back(sealed.error().within("superblock"));

    const Superblock superblock = read_fields(block);
    if (superblock.version == 0 || superblock.version > superblock_version)
        add(ErrorKind::unsupported, "version {}, known up to {}", superblock.version, superblock_version);
    if (superblock.time > max_time)
        add(ErrorKind::damaged, "time {}, at most {} is possible", superblock.time, max_time);
    struct BlockField {
        std::string_view name;
        MetadataBlock value;
        bool may_be_zero;
    };
    const BlockField block_fields[] = {
        {"held root", superblock.held_root, true},
        {"data mapping root", superblock.data_mapping_root, false},
        {"device details root", superblock.device_details_root, false},
    };
    for (const BlockField& field : block_fields)
        if (field.value.value() >= pdata::MetadataSpaceMap::max_blocks || (field.value.value() == 0 && !field.may_be_zero))
            add(ErrorKind::damaged, "{} {}, at most {} is possible", field.name, field.value, pdata::MetadataSpaceMap::max_blocks - 1);
    if (superblock.data_block_sectors < min_data_block_sectors || superblock.data_block_sectors > max_data_block_sectors ||
        superblock.data_block_sectors % min_data_block_sectors != 0)
        add(ErrorKind::damaged, "data block size of {} sectors, not a multiple of {} from {} to {}", superblock.data_block_sectors,
            min_data_block_sectors, min_data_block_sectors, max_data_block_sectors);
    if (auto sectors = load_little<std::uint32_t>(bytes + metadata_block_sectors_offset); sectors != metadata_block_sectors)
        add(ErrorKind::damaged, "metadata block size of {} sectors, expected {}", sectors, metadata_block_sectors);
    if (superblock.incompatible_flags != 0)
        add(ErrorKind::unsupported, "unknown incompatible features {:#x}", superblock.incompatible_flags);
    if (writable && superblock.compatible_read_only_flags != 0)
        add(ErrorKind::unsupported, "unknown features {:#x} that allow reading only", superblock.compatible_read_only_flags);
    return found;
}

Result<Superblock> Superblock::unpack(std::span<const std::byte> block, bool writable, MetadataBlock location) {
    std::vector<Error> found = problems(block, writable, location);
    if (!found.empty())
        return std::unexpected(std::move(found.front()));
    return read_fields(block);
}

bool is_unformatted(std::span<const std::byte> block) {
    return std::ranges::all_of(block, [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace lamella::thin
