// SPDX-License-Identifier: Apache-2.0
#include "lvm2/label.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/checksum.h"
#include "base/endian.h"
#include "base/strong.h"

namespace lamella::lvm2 {

namespace {

constexpr std::size_t scanned_sectors = 4;
constexpr std::size_t max_metadata_areas = 2;  // LVM makes no more
constexpr std::string_view label_magic = "LABELONE";
constexpr std::string_view label_type = "LVM2 001";

// Offsets within the label's sector.
constexpr std::size_t at_sector = 8;
constexpr std::size_t at_checksum = 16;
constexpr std::size_t at_contents_offset = 20;  // the checksum covers everything from here on
constexpr std::size_t at_type = 24;
constexpr std::size_t contents_offset = 32;
// Offsets within the contents.
constexpr std::size_t at_device_bytes = 32;
constexpr std::size_t at_areas = 40;

constexpr std::uint64_t page_bytes = 4096;
constexpr std::uint64_t second_area_bytes = 1u << 20;
constexpr std::uint64_t minimum_area_bytes = 8 * page_bytes;

using Sector = std::array<std::byte, sector_bytes>;

bool holds(std::span<const std::byte> bytes, std::size_t offset, std::string_view text) {
    return std::memcmp(bytes.data() + offset, text.data(), text.size()) == 0;
}

std::uint32_t checksum(std::span<const std::byte> sector) { return crc32_lvm(lvm_crc_initial, sector.subspan(at_contents_offset)); }

// Reads or writes the contents of a label one field behind the other, within its sector.
class Cursor {
  public:
    Cursor(std::span<std::byte> bytes, std::size_t position) : bytes_(bytes), position_(position) {}

    template <typename T>
    bool read(T& value) {
        if (bytes_.size() - position_ < sizeof value)
            return false;
        value = load_little<T>(bytes_.data() + position_);
        position_ += sizeof value;
        return true;
    }
    template <typename T>
    bool write(T value) {
        if (bytes_.size() - position_ < sizeof value)
            return false;
        store_little<T>(bytes_.data() + position_, value);
        position_ += sizeof value;
        return true;
    }

    // A list of areas, ended by a pair of zeros.
    bool read(std::vector<DiskArea>& areas) {
        for (;;) {
            DiskArea area;
            if (!read(area.offset) || !read(area.size))
                return false;
            if (area.offset == 0)
                return true;
            areas.push_back(area);
        }
    }
    bool write(const std::vector<DiskArea>& areas) {
        for (const DiskArea& area : areas)
            if (!write(area.offset) || !write(area.size))
                return false;
        return write(std::uint64_t(0)) && write(std::uint64_t(0));
    }

  private:
    std::span<std::byte> bytes_;
    std::size_t position_;
};

Result<Label> parse(std::span<std::byte> sector, std::uint64_t number) {
    if (load_little<std::uint64_t>(sector.data() + at_sector) != number)
        return fail(ErrorKind::damaged, "the label in sector {} says that it is in sector {}", number,
                    load_little<std::uint64_t>(sector.data() + at_sector));
    if (load_little<std::uint32_t>(sector.data() + at_checksum) != checksum(sector))
        return fail(ErrorKind::damaged, "the label in sector {} has a wrong checksum", number);
    if (!holds(sector, at_type, label_type))
        return fail(ErrorKind::damaged, "the label in sector {} is not of type '{}'", number, label_type);
    const std::uint32_t offset = load_little<std::uint32_t>(sector.data() + at_contents_offset);
    if (offset < contents_offset || offset > sector_bytes - at_areas)
        return fail(ErrorKind::damaged, "the label in sector {} has its contents at byte {}", number, offset);

    Label label;
    label.sector = number;
    const std::string_view id(reinterpret_cast<const char*>(sector.data() + offset), LvmId::length);
    label.id = TRY_WITHIN(fmt::format("the label in sector {}", number), LvmId::parse(id));
    label.device_bytes = load_little<std::uint64_t>(sector.data() + offset + at_device_bytes);
    Cursor cursor(sector, offset + at_areas);
    if (!cursor.read(label.data_areas) || !cursor.read(label.metadata_areas))
        return fail(ErrorKind::damaged, "the label in sector {} has a list of areas without an end", number);
    if (label.metadata_areas.size() > max_metadata_areas)
        return fail(ErrorKind::damaged, "the label in sector {} lists {} metadata areas", number, label.metadata_areas.size());
    // Labels from before the extension end here, in zeros.
    label.extension_version = 0;
    if (!cursor.read(label.extension_version) || label.extension_version == 0) {
        label.extension_version = 0;
        return label;
    }
    if (!cursor.read(label.extension_flags) || !cursor.read(label.bootloader_areas))
        return fail(ErrorKind::damaged, "the label in sector {} has an extension without an end", number);
    return label;
}

Result<void> clear_labels_but(BlockDevice& device, std::optional<std::uint64_t> kept) {
    std::array<std::byte, scanned_sectors * sector_bytes> bytes;
    TRY(read_now(device, 0, bytes));
    const Sector zeros{};
    for (std::uint64_t number = 0; number < scanned_sectors; ++number)
        if (number != kept && holds(bytes, number * sector_bytes, label_magic))
            TRY(write_now(device, number * sector_bytes, zeros));
    return {};
}

}  // namespace

Result<std::optional<Label>> read_label(BlockDevice& device) {
    std::array<std::byte, scanned_sectors * sector_bytes> bytes;
    if (device.size() < bytes.size())
        return std::nullopt;
    TRY_WITHIN(device.name(), read_now(device, 0, bytes));
    std::optional<Error> damage;
    for (std::uint64_t number = 0; number < scanned_sectors; ++number) {
        const auto sector = std::span(bytes).subspan(number * sector_bytes, sector_bytes);
        if (!holds(sector, 0, label_magic))
            continue;
        Result<Label> label = parse(sector, number);
        if (label)
            return std::move(*label);
        if (!damage)
            damage = label.error().within(device.name());
    }
    if (damage)
        return std::unexpected(std::move(*damage));
    return std::nullopt;
}

Result<void> write_label(BlockDevice& device, const Label& label) {
    Sector sector{};
    std::memcpy(sector.data(), label_magic.data(), label_magic.size());
    store_little<std::uint64_t>(sector.data() + at_sector, label.sector);
    store_little<std::uint32_t>(sector.data() + at_contents_offset, contents_offset);
    std::memcpy(sector.data() + at_type, label_type.data(), label_type.size());
    std::memcpy(sector.data() + contents_offset, label.id.plain().data(), LvmId::length);
    store_little<std::uint64_t>(sector.data() + contents_offset + at_device_bytes, label.device_bytes);
    Cursor cursor(sector, contents_offset + at_areas);
    bool fits = cursor.write(label.data_areas) && cursor.write(label.metadata_areas);
    if (fits && label.extension_version != 0)
        fits = cursor.write(label.extension_version) && cursor.write(label.extension_flags) && cursor.write(label.bootloader_areas);
    if (!fits || label.sector >= scanned_sectors)
        return fail(ErrorKind::usage, "{}: a label with {} areas in sector {}", device.name(),
                    label.data_areas.size() + label.metadata_areas.size() + label.bootloader_areas.size(), label.sector);
    store_little<std::uint32_t>(sector.data() + at_checksum, checksum(sector));

    TRY_WITHIN(device.name(), write_now(device, label.sector * sector_bytes, sector));
    TRY_WITHIN(device.name(), clear_labels_but(device, label.sector));
    TRY_WITHIN(device.name(), flush_now(device));
    return {};
}

Result<void> clear_labels(BlockDevice& device) {
    TRY_WITHIN(device.name(), clear_labels_but(device, std::nullopt));
    TRY_WITHIN(device.name(), flush_now(device));
    return {};
}

Result<Label> plan_label(std::uint64_t device_bytes, unsigned metadata_areas, const LvmId& id, std::uint64_t data_start) {
    Label label;
    label.id = id;
    label.device_bytes = device_bytes / sector_bytes * sector_bytes;
    label.data_areas = {{data_start, 0}};
    std::uint64_t end = label.device_bytes;
    if (metadata_areas > max_metadata_areas)
        return fail(ErrorKind::usage, "{} metadata areas; a physical volume has at most {}", metadata_areas, max_metadata_areas);
    if (metadata_areas >= 1) {
        if (data_start < page_bytes + minimum_area_bytes)
            return fail(ErrorKind::usage, "no room for a metadata area before data at byte {}", data_start);
        label.metadata_areas.push_back({page_bytes, data_start - page_bytes});
    }
    if (metadata_areas == 2 && end > second_area_bytes) {
        const std::uint64_t start = (end - second_area_bytes) / second_area_bytes * second_area_bytes;
        label.metadata_areas.push_back({start, end - start});
        end = start;
    }
    if (end <= data_start)
        return fail(ErrorKind::usage, "{} bytes are too few for a physical volume", device_bytes);
    return label;
}

std::uint64_t data_end(const Label& label) {
    std::uint64_t end = label.device_bytes;
    for (const DiskArea& area : label.metadata_areas)
        if (!label.data_areas.empty() && area.offset > label.data_areas[0].offset)
            end = std::min(end, area.offset);
    return end;
}

}  // namespace lamella::lvm2
