// SPDX-License-Identifier: Apache-2.0
#include "cli/metadata_input.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <linux/major.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <array>
#include <cstdio>
#include <cstdlib>

#include "base/endian.h"
#include "cli/output.h"
#include "device/file_device.h"
#include "mapper/volume_device.h"
#include "thin/superblock.h"
#include "tools/pack.h"
#include "tools/repair.h"
#include "volumes/names.h"

namespace lamella::cli {

namespace {

// What a path leads to in the end: of a loop device, its file.
struct Place {
    dev_t device = 0;
    std::uint64_t inode = 0;                     // 0: it is a block device
    std::optional<std::uint64_t> loop_offset{};  // where in the file a loop device begins
};

std::optional<Place> place_of(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0)
        return std::nullopt;
    if (!S_ISBLK(status.st_mode))
        return Place{status.st_dev, status.st_ino};
    if (major(status.st_rdev) == LOOP_MAJOR) {
        const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        loop_info64 info{};
        const bool known = fd >= 0 && ::ioctl(fd, LOOP_GET_STATUS64, &info) == 0;
        if (fd >= 0)
            ::close(fd);
        if (known)
            return Place{static_cast<dev_t>(info.lo_device), info.lo_inode, info.lo_offset};
    }
    return Place{status.st_rdev, 0};
}

}  // namespace

Result<std::optional<VolumeAddress>> pool_address(const std::string& text) {
    if (path_exists(text) || text.find(':') == std::string::npos)
        return std::nullopt;
    VolumeAddress address = TRY(parse_volume_address(text));
    return address.group.paths.empty() ? std::nullopt : std::optional(std::move(address));
}

Result<std::optional<VolumeAddress>> kernel_pool_address(const std::string& text) {
    if (path_exists(text) || text.find(':') != std::string::npos)
        return std::nullopt;
    const auto address = parse_volume_address(text);
    return address && address->group.paths.empty() ? std::optional(*address) : std::nullopt;
}

Result<GroupDisks> GroupDisks::open(const std::vector<std::string>& paths, Access access) {
    std::vector<std::unique_ptr<BlockDevice>> disks;
    std::vector<BlockDevice*> devices;
    for (const std::string& path : paths)
        devices.push_back(disks.emplace_back(TRY(FileDevice::open(path, {.read_only = access == Access::read}))).get());
    lvm2::StoreOptions options{.writable = access == Access::write};
    if (options.writable)
        options.lvm_locks = TRY(lvm_locks(paths));
    lvm2::GroupStore store = TRY(lvm2::GroupStore::open(devices, options));
    return GroupDisks{std::move(disks), std::move(store)};
}

Result<std::unique_ptr<BlockDevice>> GroupDisks::volume(const std::string& name) const {
    const lvm2::LogicalVolume* volume = store.group().logical_volume(name);
    if (volume == nullptr)
        return fail(ErrorKind::damaged, "the group's text lacks {}", name);
    return TRY(mapper::VolumeDevice::open(store.group(), *volume, [this](std::string_view disk) { return store.device(disk); }));
}

Result<std::unique_ptr<MetadataInput>> MetadataInput::open(const Environment& environment, const std::string& address, Access access,
                                                           Active active) {
    std::unique_ptr<MetadataInput> input(new MetadataInput);
    if (const auto pool = TRY(pool_address(address))) {
        TRY_WITHIN(address, input->open_pool(pool->group.paths, pool->volume, access));
        return input;
    }
    if (const auto pool = TRY(kernel_pool_address(address))) {
        if (access == Access::write)
            return fail(ErrorKind::unsupported, "{}: the metadata of a pool that the host's LVM runs is written by LVM alone", address);
        input->kernel_ = TRY(environment.open_kernel_group(pool->group.name));
        for (const std::string& line : broken_off_lines(TRY(input->kernel_->info())))
            environment.err(fmt::format("lamella: {}\n", line));
        input->held_ = TRY_WITHIN(address, input->kernel_->read_metadata(pool->volume));
        if (input->held_->in_snapshot() && active == Active::refused)
            return fail(ErrorKind::refused, "{} is active: only its metadata snapshot can be read, as ls, dump, diff, check and pack do",
                        address);
        if (input->held_->of_others())
            environment.err(fmt::format("lamella: {}: as it was when the metadata snapshot was taken that is held already\n", address));
        return input;
    }
    input->device_ = TRY(FileDevice::open(address, {.read_only = access == Access::read}));
    if (access == Access::read && input->device_->size() >= sector_bytes) {
        std::array<std::byte, sector_bytes> first;
        TRY_WITHIN(address, read_now(*input->device_, 0, first));
        if (load_little<std::uint64_t>(first.data()) == tools::pack_magic) {
            auto source = TRY(tools::FileSource::open(address));
            tools::PackReader pack = TRY(tools::PackReader::open(*source));
            input->device_ = TRY(temporary_device(pack.blocks() * thin::metadata_block_bytes));
            TRY(pack.unpack(*input->device_));
        }
    }
    return input;
}

Result<std::unique_ptr<MetadataInput>> MetadataInput::open_to_replace(const Environment& environment, const std::string& address,
                                                                      bool copied, const MetadataInput* source) {
    const auto pool = TRY(kernel_pool_address(address));
    if (!pool)
        return open(environment, address, Access::write);
    std::unique_ptr<MetadataInput> input(new MetadataInput);
    input->kernel_ = TRY(environment.open_kernel_group(pool->group.name));
    TRY_WITHIN(address, input->kernel_->recover());
    for (const std::string& line : broken_off_lines(TRY(input->kernel_->info())))
        environment.err(fmt::format("lamella: {}\n", line));
    input->made_ =
        TRY_WITHIN(address, input->kernel_->new_metadata(pool->volume, copied, source != nullptr ? source->held_.get() : nullptr));
    return input;
}

Result<void> MetadataInput::still_whole() const {
    return held_ != nullptr ? held_->still_whole() : made_ != nullptr ? made_->still_fits() : Result<void>();
}

Result<std::string> MetadataInput::take() { return made_ != nullptr ? kernel_->take_metadata(*made_) : std::string(); }

Result<std::unique_ptr<BlockDevice>> repaired_copy(BlockDevice& metadata, const tools::HeaderOverrides& overrides,
                                                   const tools::Control& control) {
    auto repair = TRY(tools::Repair::plan(metadata,
                                          {.transaction_id = overrides.transaction_id,
                                           .data_block_sectors = overrides.data_block_sectors,
                                           .data_blocks = overrides.data_blocks},
                                          control));
    auto copy = TRY(temporary_device(metadata.size()));
    TRY(repair->write(*copy, control));
    return copy;
}

Result<std::unique_ptr<BlockDevice>> temporary_device(std::uint64_t bytes) {
    const char* folder = std::getenv("TMPDIR");
    std::string path = fmt::format("{}/lamella-XXXXXX", folder != nullptr && *folder != 0 ? folder : "/var/tmp");
    int fd = ::mkostemp(path.data(), O_CLOEXEC);
    if (fd < 0)
        return fail_errno("make " + path);
    int sized = ::ftruncate(fd, static_cast<off_t>(bytes));
    ::close(fd);
    auto device = sized == 0 ? FileDevice::open(path) : Result<std::unique_ptr<FileDevice>>(fail_errno("make " + path));
    ::unlink(path.c_str());
    return device;
}

Result<void> MetadataInput::open_pool(const std::vector<std::string>& paths, const std::string& pool, Access access) {
    GroupDisks group = TRY(GroupDisks::open(paths, access));
    const lvm2::LogicalVolume* volume = group.store.group().logical_volume(pool);
    if (volume == nullptr)
        return fail(ErrorKind::not_found, "group {} has no volume {}", group.store.group().name, pool);
    const auto* segment = volume->sole<lvm2::ThinPool>();
    if (segment == nullptr)
        return fail(ErrorKind::usage, "{} is not a thin pool", pool);
    device_ = TRY(group.volume(segment->metadata_volume));
    disks_ = std::move(group.disks);
    return {};
}

std::string kept_text(const std::string& volume) {
    return volume.empty() ? "" : fmt::format("what was the pool's metadata is volume {}: remove it when all is well\n", volume);
}

bool same_file(const std::string& path, const std::string& other) {
    const auto one = place_of(path);
    const auto two = place_of(other);
    if (!one || !two || one->device != two->device || one->inode != two->inode)
        return false;
    return !one->loop_offset || !two->loop_offset || *one->loop_offset == *two->loop_offset;
}

}  // namespace lamella::cli
