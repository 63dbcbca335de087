// SPDX-License-Identifier: Apache-2.0
#include "cli/pack_file.h"

#include <fcntl.h>
#include <unistd.h>

#include "cli/metadata_input.h"
#include "device/file_device.h"
#include "thin/superblock.h"

namespace lamella::cli {

Result<tools::PackReport> pack_into(const std::string& metadata, const std::string& file, const tools::Control& control) {
    if (same_file(metadata, file))
        return fail(ErrorKind::usage, "{} and {} are the same file", metadata, file);
    auto input = TRY(MetadataInput::open(metadata, Access::read));
    int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return fail_errno("open " + file);
    auto write = [&](std::uint64_t offset, std::span<const std::byte> bytes) -> Result<void> {
        while (!bytes.empty()) {
            ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
            if (written < 0 && errno == EINTR)
                continue;
            if (written < 0)
                return fail_errno("write " + file);
            bytes = bytes.subspan(static_cast<std::size_t>(written));
            offset += static_cast<std::uint64_t>(written);
        }
        return {};
    };
    auto flush = [&]() -> Result<void> {
        if (::fdatasync(fd) != 0)
            return fail_errno("flush " + file);
        return {};
    };
    auto report = tools::pack(input->device(), write, flush, control);
    ::close(fd);
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
