// SPDX-License-Identifier: Apache-2.0
//
// A metadata area: a header of one sector, and behind it a ring that holds the group's text, the newest and older ones.
//
// The header locates two texts: the committed one (slot 0) and the one prepared to follow it (slot 1). A change is
//
//   write(text)   puts the text behind the committed one, on a sector of its own;        then a flush
//   precommit()   lets slot 1 of the header locate it;                                   then a flush
//   commit()      lets slot 0 locate it, and clears slot 1;                              then a flush
//
// so that at any instant slot 0 locates a text that is whole. The flushes are the caller's: it takes each step on all areas of a
// group before it flushes their devices. Slot 1 says nothing to a reader: as in LVM, a text that was never committed is dropped.
//
// Checked against lvm2 2.03.16, also where in the ring it puts which text.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"
#include "lvm2/label.h"

namespace lamella::lvm2 {

// Where in an area a text lies. Bytes from the start of the area; the text may go on behind the header when it reaches the end.
struct TextLocation {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;  // 0: no text
    std::uint32_t checksum = 0;
    std::uint32_t flags = 0;
    bool operator==(const TextLocation&) const = default;
};

// The device outlives the area. One thread.
class MetadataArea {
  public:
    // Reads the header. Errors: damaged, failed (I/O); each names device and place.
    static Result<MetadataArea> open(BlockDevice& device, const DiskArea& place);
    // Writes an empty header; not flushed.
    static Result<MetadataArea> create(BlockDevice& device, const DiskArea& place);

    BlockDevice& device() const { return *device_; }
    const DiskArea& place() const { return place_; }
    // "area at byte 4096 of ./vms.img"
    std::string name() const;

    // Flagged to be left alone: neither read nor written.
    bool ignored() const;
    const TextLocation& committed() const { return slots_[0]; }
    const TextLocation& precommitted() const { return slots_[1]; }

    // The committed text without the NUL behind it; nullopt: there is none. Errors: damaged, failed (I/O).
    Result<std::optional<std::string>> read() const;

    // The largest text, its NUL included, that this area takes.
    std::uint64_t capacity() const;

    // `text` without its NUL. Errors: no_space, when it is larger than capacity() or would run into the committed one.
    Result<void> write(std::string_view text);
    Result<void> precommit();
    Result<void> commit();
    // Clears slot 1.
    Result<void> revert();

  private:
    MetadataArea(BlockDevice& device, const DiskArea& place) : device_(&device), place_(place) {}
    Result<void> write_header(const std::array<TextLocation, 2>& slots);
    std::uint64_t next_offset() const;

    BlockDevice* device_;
    DiskArea place_;
    std::array<std::byte, sector_bytes> header_{};  // as last read or written; what the model doesn't know stays
    std::array<TextLocation, 2> slots_;
    TextLocation prepared_;  // by write()
};

}  // namespace lamella::lvm2
