// SPDX-License-Identifier: Apache-2.0
#include "cli/pack_file.h"

#include "cli/metadata_input.h"
#include "device/file_device.h"
#include "thin/superblock.h"

namespace lamella::cli {

Result<tools::PackReport> pack_into(const Environment& environment, const std::string& metadata, const std::string& file,
                                    const tools::Control& control) {
    if (same_file(metadata, file))
        return fail(ErrorKind::usage, "{} and {} are the same file", metadata, file);
    auto input = TRY(MetadataInput::open(environment, metadata, Access::read, MetadataInput::Active::snapshot));
    const tools::PackReport report = TRY(tools::pack_into_file(input->device(), file, control));
    TRY(input->still_whole());
    return report;
}

Result<void> unpack_onto(const std::string& file, const std::string& metadata, const tools::Control& control) {
    if (same_file(file, metadata))
        return fail(ErrorKind::usage, "{} and {} are the same file", file, metadata);
    auto source = TRY(tools::FileSource::open(file));
    tools::PackReader pack = TRY(tools::PackReader::open(*source));
    std::uint64_t bytes = pack.blocks() * thin::metadata_block_bytes;
    FileOptions options;
    if (!path_exists(metadata))
        options.create = bytes;
    auto output = TRY(FileDevice::open(metadata, options));
    if (output->size() < bytes && !output->is_block_device())
        TRY(output->grow(bytes));
    return pack.unpack(*output, control);
}

Result<void> refuse_metadata(const std::string& path) {
    if (!path_exists(path))
        return {};
    auto device = TRY(FileDevice::open(path, {.read_only = true}));
    std::vector<std::byte> block(thin::metadata_block_bytes);
    if (device->size() < block.size())
        return {};
    TRY_WITHIN(path, read_now(*device, 0, block));
    if (thin::Superblock::unpack(block, false))
        return fail(ErrorKind::refused, "{} holds the metadata of a pool", path);
    return {};
}

}  // namespace lamella::cli
