// SPDX-License-Identifier: Apache-2.0
#include "volumes/origin_file.h"

#include <sys/stat.h>
#include <algorithm>
#include <charconv>

#include "base/checksum.h"
#include "device/file_device.h"
#include "volumes/size_request.h"

namespace lamella {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view tag_prefix = "lamella-file=";
constexpr std::uint64_t block_bytes = 4096;
constexpr std::uint64_t most_blocks = 64;

bool fits_a_tag(char byte) {
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
           std::string_view("._-+/=!:&").find(byte) != std::string_view::npos;
}

std::optional<std::string> decoded(std::string_view text) {
    std::string path;
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] != '#') {
            path += text[at];
            continue;
        }
        unsigned byte = 0;
        if (at + 2 >= text.size())
            return std::nullopt;
        const auto [end, error] = std::from_chars(&text[at + 1], &text[at + 3], byte, 16);
        if (error != std::errc() || end != &text[at + 3] || byte == 0)
            return std::nullopt;
        path += static_cast<char>(byte);
        at += 2;
    }
    return path;
}

template <typename Number>
bool take_number(std::string_view& text, Number& number, int base) {
    const char* const end_of_text = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data(), end_of_text, number, base);
    if (error != std::errc() || end == end_of_text || *end != ':')
        return false;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()) + 1);
    return true;
}

Result<std::uint32_t> checksum_of(BlockDevice& device) {
    const std::uint64_t blocks = (device.size() + block_bytes - 1) / block_bytes;
    const std::uint64_t count = std::min(blocks, most_blocks);
    std::vector<std::byte> bytes(block_bytes);
    std::uint32_t checksum = UINT32_MAX;
    for (std::uint64_t index = 0; index < count; ++index) {
        const std::uint64_t offset = (count == 1 ? 0 : index * (blocks - 1) / (count - 1)) * block_bytes;
        const std::span block(bytes.data(), std::min(block_bytes, device.size() - offset));
        TRY(read_now(device, offset, block));
        checksum = crc32c(checksum, block);
    }
    return checksum;
}

// Its size, 0 for a block device. Before it is opened: opening a pipe would wait for its other end.
Result<std::uint64_t> check_kind(const fs::path& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0)
        return fail_errno(path.string());
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return fail(ErrorKind::usage, "{} is neither a file nor a block device", path.string());
    return S_ISREG(status.st_mode) ? static_cast<std::uint64_t>(status.st_size) : 0;
}

Result<std::unique_ptr<FileDevice>> open_for_reading(const fs::path& path) {
    const std::uint64_t size = TRY(check_kind(path));
    // Not past the page cache, which many volumes may share.
    auto device = TRY(FileDevice::open(path.string(), {.read_only = true, .direct = FileOptions::Direct::never}));
    if (!device->is_block_device() && device->size() != size)
        return fail(ErrorKind::usage, "{} has {} bytes, which is no number of sectors: no raw image", path.string(), size);
    return device;
}

}  // namespace

std::optional<OriginFile> OriginFile::of(const lvm2::LogicalVolume& volume) {
    if (!lvm2::is_error_volume(volume))
        return std::nullopt;
    for (std::string_view text : volume.tags) {
        if (!text.starts_with(tag_prefix))
            continue;
        text.remove_prefix(tag_prefix.size());
        OriginFile file;
        if (!take_number(text, file.size, 10) || !take_number(text, file.checksum, 16) || file.size == 0)
            return std::nullopt;
        std::optional<std::string> path = decoded(text);
        if (!path || path->empty())
            return std::nullopt;
        file.path = std::move(*path);
        return file;
    }
    return std::nullopt;
}

std::string OriginFile::tag() const {
    std::string text = fmt::format("{}{}:{:08x}:", tag_prefix, size, checksum);
    for (const char byte : path) {
        if (fits_a_tag(byte))
            text += byte;
        else
            text += fmt::format("#{:02x}", static_cast<unsigned char>(byte));
    }
    return text;
}

Result<OriginFile> OriginFile::examine(const std::string& path, const fs::path& folder) {
    auto device = TRY(open_for_reading(path));
    OriginFile file;
    file.size = device->size();
    if (file.size == 0)
        return fail(ErrorKind::usage, "{} is empty", path);
    std::array<std::byte, 4> magic{};
    if (file.size >= magic.size()) {
        TRY(read_now(*device, 0, magic));
        if (magic == std::array{std::byte{'Q'}, std::byte{'F'}, std::byte{'I'}, std::byte{0xfb}})
            return fail(ErrorKind::usage, "{} is in the format qcow2; qemu-img convert -O raw makes a raw image of it", path);
    }
    file.checksum = TRY(checksum_of(*device));
    std::error_code error;
    const fs::path whole = fs::canonical(path, error);
    if (error)
        return fail_errno(path, error.value());
    const fs::path from_folder = folder.empty() ? fs::path() : whole.lexically_relative(folder);
    file.path = from_folder.empty() || *from_folder.begin() == ".." ? whole.string() : from_folder.string();
    if (auto fits = lvm2::check_tag(file.tag()); !fits)
        return fail(ErrorKind::usage, "{}: the path is too long for a tag of the group, which has to name it", file.path);
    return file;
}

Result<void> OriginFile::check(const fs::path& folder) const {
    const fs::path whole = place(folder);
    if (const std::uint64_t found = TRY(check_kind(whole)); found != 0 && found != size)
        return fail(ErrorKind::refused, "{} has {} bytes; it had {} when volumes were made of it", whole.string(), found, size);
    return {};
}

Result<std::unique_ptr<BlockDevice>> OriginFile::open(const fs::path& folder) const {
    TRY(check(folder));
    const fs::path whole = place(folder);
    std::unique_ptr<BlockDevice> device = TRY(open_for_reading(whole));
    if (device->size() != size)
        return fail(ErrorKind::refused, "{} has {} bytes; it had {} when volumes were made of it", whole.string(), device->size(), size);
    if (TRY(checksum_of(*device)) != checksum)
        return fail(ErrorKind::refused, "{} has changed since volumes were made of it", whole.string());
    return device;
}

Result<std::string> volume_of_origin_file(lvm2::VolumeGroup& group, const OriginFile& file, const lvm2::Stamp& stamp) {
    const std::string tag = file.tag();
    for (const lvm2::LogicalVolume& volume : group.logical_volumes)
        if (const auto known = OriginFile::of(volume); known && known->tag() == tag)
            return volume.name;
    std::string base = fs::path(file.path).stem().string().substr(0, 64);
    std::ranges::replace_if(
        base, [](char byte) { return !fits_a_tag(byte) || std::string_view("/=!:&").contains(byte); }, '_');
    if (!lvm2::check_volume_name(group.name, base))
        base = "file_" + base;
    std::string name = base;
    for (unsigned number = 1; group.logical_volume(name) != nullptr; ++number)
        name = fmt::format("{}-{}", base, number);
    TRY(lvm2::create_error_volume(group, {name, {tag}, true, stamp}, TRY(checked_extents(group.extents_for(file.size)))));
    // An LVM that activates everything would only find errors in it.
    TRY(lvm2::set_skip_activation(group, name, true));
    return name;
}

Result<void> forget_unused_origin_files(lvm2::VolumeGroup& group) {
    std::vector<std::string> unused;
    for (const lvm2::LogicalVolume& volume : group.logical_volumes)
        if (OriginFile::of(volume) && std::ranges::none_of(group.logical_volumes, [&](const lvm2::LogicalVolume& other) {
                const auto* thin = other.sole<lvm2::Thin>();
                return thin != nullptr && thin->external_origin == volume.name;
            }))
            unused.push_back(volume.name);
    for (const std::string& name : unused)
        TRY(lvm2::remove_volume(group, name));
    return {};
}

}  // namespace lamella
