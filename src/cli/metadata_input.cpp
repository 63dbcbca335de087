// SPDX-License-Identifier: Apache-2.0
#include "cli/metadata_input.h"

#include <sys/stat.h>

#include "device/file_device.h"
#include "lvm2/store.h"
#include "mapper/volume_device.h"
#include "volumes/names.h"

namespace lamella::cli {

Result<std::unique_ptr<MetadataInput>> MetadataInput::open(const std::string& address, Access access) {
    std::unique_ptr<MetadataInput> input(new MetadataInput);
    if (!path_exists(address) && address.find(':') != std::string::npos) {
        VolumeAddress pool = TRY(parse_volume_address(address));
        if (!pool.group.paths.empty()) {
            TRY_WITHIN(address, input->open_pool(pool.group.paths, pool.volume, access));
            return input;
        }
    }
    input->device_ = TRY(FileDevice::open(address, {.read_only = access == Access::read}));
    return input;
}

Result<void> MetadataInput::open_pool(const std::vector<std::string>& paths, const std::string& pool, Access access) {
    std::vector<BlockDevice*> disks;
    for (const std::string& path : paths)
        disks.push_back(disks_.emplace_back(TRY(FileDevice::open(path, {.read_only = access == Access::read}))).get());
    // For writing the store refuses groups that are another host's, or unsound.
    lvm2::GroupStore store = TRY(lvm2::GroupStore::open(disks, {.writable = access == Access::write}));
    const lvm2::LogicalVolume* volume = store.group().logical_volume(pool);
    if (volume == nullptr)
        return fail(ErrorKind::not_found, "group {} has no such volume", store.group().name);
    const auto* segment = volume->sole<lvm2::ThinPool>();
    if (segment == nullptr)
        return fail(ErrorKind::usage, "not a thin pool");
    const lvm2::LogicalVolume* metadata = store.group().logical_volume(segment->metadata_volume);
    if (metadata == nullptr)
        return fail(ErrorKind::damaged, "the group's text lacks {}", segment->metadata_volume);
    device_ = TRY(mapper::VolumeDevice::open(store.group(), *metadata, [&store](std::string_view name) { return store.device(name); }));
    return {};
}

bool same_file(const std::string& path, const std::string& other) {
    struct stat one {
    }, two{};
    if (::stat(path.c_str(), &one) != 0 || ::stat(other.c_str(), &two) != 0)
        return false;
    if (S_ISBLK(one.st_mode) && S_ISBLK(two.st_mode))
        return one.st_rdev == two.st_rdev;
    return one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

}  // namespace lamella::cli
