// SPDX-License-Identifier: Apache-2.0
//
// A raw image outside of the group as the external origin of thin volumes.
//
// LVM has no segment type for that. So that whoever knows nothing of this never shows zeros where the image's content belongs, the text has
// a volume of type "error" in the image's place: read-only, without room of its own, the external origin of the thin volumes. LVM and the
// kernel, told to activate such a thin volume, answer reads of what it hasn't itself with errors. A tag on that volume names the image:
//
//     lamella-file=SIZE:CHECKSUM:PATH
//
// SIZE in bytes, decimal. CHECKSUM: CRC-32C of up to 64 blocks of 4096 bytes that lie evenly over the image, eight hexadecimal digits. PATH:
// what a tag can't hold, and #, as # and two hexadecimal digits; it begins with / or in the folder of the group's first image file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "device/block_device.h"
#include "lvm2/group.h"

namespace lamella {

struct OriginFile {
    std::string path;
    std::uint64_t size = 0;      // bytes, more than 0
    std::uint32_t checksum = 0;  // finds an image that was replaced, not every change; and keeps a foreign group from showing any file

    // What a volume of the text stands for; none: it is none, or its tag can't be read.
    static std::optional<OriginFile> of(const lvm2::LogicalVolume& volume);

    // What the text is to say of a file. `folder`: of the group's image, empty where there is none. ErrorKind: not_found, usage (not a raw
    // image, or its path too long for a tag), those of FileDevice.
    static Result<OriginFile> examine(const std::string& path, const std::filesystem::path& folder);

    std::string tag() const;
    std::filesystem::path place(const std::filesystem::path& folder) const { return folder / path; }
    // Whether the file is there, with its size. ErrorKind: not_found, refused.
    Result<void> check(const std::filesystem::path& folder) const;
    // For reading, locked against writers that lock (FileDevice), its checksum compared.
    Result<std::unique_ptr<BlockDevice>> open(const std::filesystem::path& folder) const;
};

// The name of the volume that stands for a file; it is made if there is none.
Result<std::string> volume_of_origin_file(lvm2::VolumeGroup& group, const OriginFile& file, const lvm2::Stamp& stamp);
// Volumes that stand for files go with the last thin volume that uses them.
Result<void> forget_unused_origin_files(lvm2::VolumeGroup& group);

}  // namespace lamella
