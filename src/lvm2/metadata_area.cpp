// SPDX-License-Identifier: Apache-2.0
#include "lvm2/metadata_area.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/checksum.h"
#include "base/endian.h"
#include "lvm2/text.h"

namespace lamella::lvm2 {

namespace {

constexpr std::string_view magic = " LVM2 x[5A%r0N*>";
constexpr std::uint32_t header_version = 1;
constexpr std::uint32_t ignored_flag = 1;

constexpr std::uint64_t header_bytes = sector_bytes;
constexpr std::size_t at_magic = 4;  // the checksum covers everything from here on
constexpr std::size_t at_version = 20;
constexpr std::size_t at_start = 24;
constexpr std::size_t at_size = 32;
constexpr std::size_t at_slots = 40;
constexpr std::size_t slot_bytes = 24;

std::uint32_t checksum(std::span<const std::byte> bytes) { return crc32_lvm(lvm_crc_initial, bytes); }

TextLocation load_slot(const std::byte* bytes) {
    return {load_little<std::uint64_t>(bytes), load_little<std::uint64_t>(bytes + 8), load_little<std::uint32_t>(bytes + 16),
            load_little<std::uint32_t>(bytes + 20)};
}

void store_slot(std::byte* bytes, const TextLocation& slot) {
    store_little<std::uint64_t>(bytes, slot.offset);
    store_little<std::uint64_t>(bytes + 8, slot.size);
    store_little<std::uint32_t>(bytes + 16, slot.checksum);
    store_little<std::uint32_t>(bytes + 20, slot.flags);
}

// Bytes [begin, end) of an area.
struct Range {
    std::uint64_t begin;
    std::uint64_t end;
};

// The one or two ranges of the ring that hold `size` bytes from `offset` on.
std::vector<Range> ring_ranges(std::uint64_t area_size, std::uint64_t offset, std::uint64_t size) {
    if (size <= area_size - offset)
        return {{offset, offset + size}};
    return {{offset, area_size}, {header_bytes, header_bytes + size - (area_size - offset)}};
}

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

std::string MetadataArea::name() const { return fmt::format("metadata area at byte {} of {}", place_.offset, device_->name()); }

Result<MetadataArea> MetadataArea::open(BlockDevice& device, const DiskArea& place) {
    MetadataArea area(device, place);
    if (place.size <= 2 * header_bytes || place.offset > device.size() || place.size > device.size() - place.offset)
        return fail(ErrorKind::damaged, "{}: {} bytes, on a device of {}", area.name(), place.size, device.size());
    TRY_WITHIN(area.name(), read_now(device, place.offset, area.header_));
    const std::byte* header = area.header_.data();
    if (load_little<std::uint32_t>(header) != checksum(std::span(area.header_).subspan(at_magic)))
        return fail(ErrorKind::damaged, "{}: the header has a wrong checksum", area.name());
    if (std::memcmp(header + at_magic, magic.data(), magic.size()) != 0)
        return fail(ErrorKind::damaged, "{}: the header has a wrong magic", area.name());
    if (load_little<std::uint32_t>(header + at_version) != header_version)
        return fail(ErrorKind::damaged, "{}: the header has version {}", area.name(), load_little<std::uint32_t>(header + at_version));
    if (load_little<std::uint64_t>(header + at_start) != place.offset)
        return fail(ErrorKind::damaged, "{}: the header says that the area is at byte {}", area.name(),
                    load_little<std::uint64_t>(header + at_start));
    const std::uint64_t size = load_little<std::uint64_t>(header + at_size);
    if (size <= 2 * header_bytes || size > place.size)
        return fail(ErrorKind::damaged, "{}: {} bytes by its header, {} by the label", area.name(), size, place.size);
    area.place_.size = size;

    area.slots_[0] = load_slot(header + at_slots);
    // An unused slot 0 ends the list; what lies behind it means nothing.
    if (area.slots_[0].offset != 0)
        area.slots_[1] = load_slot(header + at_slots + slot_bytes);
    const TextLocation& text = area.slots_[0];
    if (!area.ignored() && text.size != 0 && (text.offset < header_bytes || text.offset >= size || text.size > size - header_bytes))
        return fail(ErrorKind::damaged, "{}: a text of {} bytes at byte {} of an area of {}", area.name(), text.size, text.offset, size);
    return area;
}

Result<MetadataArea> MetadataArea::create(BlockDevice& device, const DiskArea& place) {
    MetadataArea area(device, place);
    if (place.size <= 2 * header_bytes || place.offset > device.size() || place.size > device.size() - place.offset)
        return fail(ErrorKind::usage, "{}: {} bytes, on a device of {}", area.name(), place.size, device.size());
    TRY(area.write_header({}));
    return area;
}

bool MetadataArea::ignored() const { return (slots_[0].flags & ignored_flag) != 0; }

Result<std::optional<std::string>> MetadataArea::read() const {
    const TextLocation& text = slots_[0];
    if (ignored() || text.size == 0)
        return std::nullopt;
    if (text.size > TextLimits().bytes)
        return fail(ErrorKind::damaged, "{}: a text of {} bytes, more than the limit of {}", name(), text.size, TextLimits().bytes);
    std::string bytes(text.size, '\0');
    std::size_t done = 0;
    for (const Range& range : ring_ranges(place_.size, text.offset, text.size)) {
        const std::size_t length = range.end - range.begin;
        TRY_WITHIN(name(), read_now(*device_, place_.offset + range.begin, std::as_writable_bytes(std::span(bytes).subspan(done, length))));
        done += length;
    }
    if (checksum(std::as_bytes(std::span(bytes))) != text.checksum)
        return fail(ErrorKind::damaged, "{}: the text at byte {} has a wrong checksum", name(), text.offset);
    if (bytes.back() == '\0')
        bytes.pop_back();
    return bytes;
}

// Two texts have to find room, each beginning on a sector; and no text is written that wouldn't be read.
std::uint64_t MetadataArea::capacity() const {
    const std::uint64_t half = (place_.size - header_bytes) / 2;
    return half < sector_bytes ? 0 : std::min<std::uint64_t>(half - sector_bytes, TextLimits().bytes);
}

// On the first sector behind the committed text; at the beginning of the ring when that leaves no whole sector before its end.
std::uint64_t MetadataArea::next_offset() const {
    const TextLocation& text = slots_[0];
    if (text.size == 0)
        return header_bytes;
    const std::uint64_t end = ring_ranges(place_.size, text.offset, text.size).back().end;
    const std::uint64_t next = round_up(end, sector_bytes);
    return end + sector_bytes > place_.size + 1 || next + sector_bytes > place_.size ? header_bytes : next;
}

Result<void> MetadataArea::write(std::string_view text) {
    if (text.size() + 1 > capacity())
        return fail(ErrorKind::no_space, "{}: a text of {} bytes doesn't fit, {} is the limit", name(), text.size() + 1, capacity());
    // Zeros up to the end of the last sector, so that nothing of an older text follows.
    const std::uint64_t size = text.size() + 1;
    const std::uint64_t offset = next_offset();
    const std::uint64_t to_end = place_.size - offset;
    const std::uint64_t padded =
        size <= to_end ? std::min(round_up(size, sector_bytes), to_end) : to_end + round_up(size - to_end, sector_bytes);
    std::vector<std::byte> bytes(padded);
    std::memcpy(bytes.data(), text.data(), text.size());

    const std::vector<Range> ranges = ring_ranges(place_.size, offset, padded);
    if (slots_[0].size != 0)
        for (const Range& old : ring_ranges(place_.size, slots_[0].offset, slots_[0].size))
            for (const Range& range : ranges)
                if (range.begin < old.end && old.begin < range.end)
                    return fail(ErrorKind::no_space, "{}: a text of {} bytes would run into the present one of {}", name(), size,
                                slots_[0].size);
    std::size_t done = 0;
    for (const Range& range : ranges) {
        TRY_WITHIN(name(), write_now(*device_, place_.offset + range.begin, std::span(bytes).subspan(done, range.end - range.begin)));
        done += range.end - range.begin;
    }
    prepared_ = {offset, size, checksum(std::span(bytes).first(size)), 0};
    return {};
}

Result<void> MetadataArea::precommit() { return write_header({slots_[0], prepared_}); }
Result<void> MetadataArea::commit() { return write_header({prepared_, TextLocation{}}); }
Result<void> MetadataArea::revert() { return write_header({slots_[0], TextLocation{}}); }

Result<void> MetadataArea::write_header(const std::array<TextLocation, 2>& slots) {
    std::array<std::byte, sector_bytes> header = header_;
    std::memcpy(header.data() + at_magic, magic.data(), magic.size());
    store_little<std::uint32_t>(header.data() + at_version, header_version);
    store_little<std::uint64_t>(header.data() + at_start, place_.offset);
    store_little<std::uint64_t>(header.data() + at_size, place_.size);
    store_slot(header.data() + at_slots, slots[0]);
    store_slot(header.data() + at_slots + slot_bytes, slots[1]);
    store_little<std::uint32_t>(header.data(), checksum(std::span(header).subspan(at_magic)));
    TRY_WITHIN(name(), write_now(*device_, place_.offset, header));
    header_ = header;
    slots_ = slots;
    return {};
}

}  // namespace lamella::lvm2
