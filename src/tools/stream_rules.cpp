// SPDX-License-Identifier: Apache-2.0
#include "tools/stream_rules.h"

#include <bit>

#include "pdata/metadata_space_map.h"
#include "thin/superblock.h"

namespace lamella::tools {

namespace {

// Each takes a block of metadata at least.
constexpr std::uint64_t max_definitions = pdata::MetadataSpaceMap::max_blocks;

}  // namespace

Result<void> StreamRules::superblock(const PoolHeader& header) {
    if (header.version == 0 || header.version > thin::superblock_version)
        return fail(ErrorKind::unsupported, "metadata version {}, known up to {}", header.version, thin::superblock_version);
    if (header.time > thin::max_time)
        return fail(ErrorKind::damaged, "time {}, at most {} is possible", header.time, thin::max_time);
    if (header.data_block_sectors < thin::min_data_block_sectors || header.data_block_sectors > thin::max_data_block_sectors ||
        header.data_block_sectors % thin::min_data_block_sectors != 0)
        return fail(ErrorKind::damaged, "data block size of {} sectors, not a multiple of {} from {} to {}", header.data_block_sectors,
                    thin::min_data_block_sectors, thin::min_data_block_sectors, thin::max_data_block_sectors);
    if (header.data_blocks > thin::max_data_blocks)
        return fail(ErrorKind::damaged, "{} data blocks, at most {} are possible", header.data_blocks, thin::max_data_blocks);
    header_ = header;
    return {};
}

Result<void> StreamRules::definition_begin(DefinitionId id) {
    if (definitions_.contains(id))
        return fail(ErrorKind::damaged, "a definition of that name was there before");
    if (definitions_.size() == max_definitions)
        return fail(ErrorKind::damaged, "more than {} definitions", max_definitions);
    definition_ = id;
    first_ = end_ = mapped_ = 0;
    return {};
}

Result<void> StreamRules::definition_end() {
    definitions_.emplace(definition_, Definition{first_, end_, mapped_});
    return {};
}

Result<void> StreamRules::device_begin(const DeviceHeader& header) {
    if (header.id.value() > thin::max_thin_id)
        return fail(ErrorKind::damaged, "device {}, at most {} is possible", header.id, thin::max_thin_id);
    if (header.id.value() >= devices_.size())
        devices_.resize(std::bit_ceil(std::size_t{header.id.value()} + 1));
    if (devices_[header.id.value()])
        return fail(ErrorKind::damaged, "device {} was there before", header.id);
    if (header.transaction_id > header_.transaction_id)
        return fail(ErrorKind::damaged, "device {} was made in transaction {}, later than the pool's {}", header.id, header.transaction_id,
                    header_.transaction_id);
    if (header.creation_time > header_.time || header.snapshotted_time > header_.time)
        return fail(ErrorKind::damaged, "device {} was {} at time {}, later than the pool's {}", header.id,
                    header.creation_time > header_.time ? "created" : "snapshotted",
                    header.creation_time > header_.time ? header.creation_time : header.snapshotted_time, header_.time);
    devices_[header.id.value()] = true;
    device_ = header;
    first_ = end_ = mapped_ = 0;
    return {};
}

Result<void> StreamRules::device_end() {
    if (mapped_ != device_.mapped_blocks)
        return fail(ErrorKind::damaged, "device {} has {} mapped blocks, but says {}", device_.id, mapped_, device_.mapped_blocks);
    return {};
}

Result<void> StreamRules::reference(DefinitionId id) {
    auto found = definitions_.find(id);
    if (found == definitions_.end())
        return fail(ErrorKind::damaged, "no definition of that name came before");
    const Definition& definition = found->second;
    if (definition.mapped == 0)
        return {};
    if (definition.first < end_)
        return fail(ErrorKind::damaged, "the definition begins at virtual block {}, but the device is mapped up to {} already",
                    definition.first, end_ - 1);
    if (mapped_ == 0)
        first_ = definition.first;
    end_ = definition.end;
    mapped_ += definition.mapped;
    return {};
}

std::unexpected<Error> StreamRules::refuse(const Mapping& mapping) const {
    if (mapping.length == 0)
        return fail(ErrorKind::damaged, "a mapping of no blocks");
    if (mapping.virtual_begin.value() < end_)
        return fail(ErrorKind::damaged, "virtual block {} is mapped out of order, or twice: it comes after {}", mapping.virtual_begin,
                    end_ - 1);
    if (mapping.length > ~std::uint64_t{0} - mapping.virtual_begin.value())
        return fail(ErrorKind::damaged, "{} blocks from virtual block {} on are more than there can be", mapping.length,
                    mapping.virtual_begin);
    if (mapping.time > header_.time)
        return fail(ErrorKind::damaged, "mapped at time {}, later than the pool's {}", mapping.time, header_.time);
    if (header_.data_blocks == 0)
        return fail(ErrorKind::damaged, "a mapping in a pool of no data blocks (give their number: --nr-data-blocks)");
    return fail(ErrorKind::damaged, "data blocks {} to {}, but the pool has {}", mapping.data_begin,
                mapping.data_begin.value() + (mapping.length - 1), header_.data_blocks);
}

}  // namespace lamella::tools
