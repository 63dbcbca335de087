// SPDX-License-Identifier: Apache-2.0
#include "device/concatenation_device.h"

#include <algorithm>

namespace lamella {

Result<std::unique_ptr<ConcatenationDevice>> ConcatenationDevice::create(std::span<const Piece> segments, std::string name) {
    if (segments.empty())
        return fail(ErrorKind::usage, "{}: a device of no segments", name);
    std::unique_ptr<ConcatenationDevice> device(new ConcatenationDevice(std::move(name)));
    TRY(device->append(segments));
    return device;
}

ConcatenationDevice::~ConcatenationDevice() = default;

Result<void> ConcatenationDevice::append(std::span<const Piece> segments) {
    std::lock_guard lock(growing_);
    auto table = tables_.empty() ? std::make_unique<Table>() : std::make_unique<Table>(*tables_.back());
    for (const Piece& piece : segments) {
        const std::uint64_t lower_size = piece.device->size();
        if (piece.length == 0 || piece.offset > lower_size || piece.length > lower_size - piece.offset)
            return fail(ErrorKind::usage, "{}: bytes {}+{} are not a run of {} ({} bytes)", name_, piece.offset, piece.length,
                        piece.device->name(), lower_size);
        if (piece.length > UINT64_MAX - table->size)
            return fail(ErrorKind::usage, "{}: its segments add up to more than 2^64 bytes", name_);
        const DeviceTraits traits = piece.device->traits();
        table->traits = table->segments.empty() ? traits : combine(table->traits, traits);
        table->traits.physical_block = block_at(table->traits.physical_block, piece.offset | table->size);
        table->segments.push_back({table->size, piece});
        table->size += piece.length;
    }
    for (const Segment& segment : table->segments) {
        if ((segment.piece.offset | segment.piece.length) % table->traits.alignment != 0)
            return fail(ErrorKind::usage, "{}: bytes {}+{} of {} are not aligned to {}", name_, segment.piece.offset, segment.piece.length,
                        segment.piece.device->name(), table->traits.alignment);
    }
    table_.store(table.get(), std::memory_order_release);
    tables_.push_back(std::move(table));
    return {};
}

std::uint64_t ConcatenationDevice::size() const { return table().size; }

DeviceTraits ConcatenationDevice::traits() const { return table().traits; }

void ConcatenationDevice::add_leaves(std::vector<BlockDevice*>& leaves) {
    for (const Segment& segment : table().segments)
        segment.piece.device->add_leaves(leaves);
}

CompositeDevice::Piece ConcatenationDevice::piece_at(std::uint64_t offset, std::uint64_t limit) const {
    const std::vector<Segment>& segments = table().segments;
    auto after = std::upper_bound(segments.begin(), segments.end(), offset,
                                  [](std::uint64_t place, const Segment& segment) { return place < segment.begin; });
    const Segment& segment = *std::prev(after);
    const std::uint64_t within = offset - segment.begin;
    return {segment.piece.device, segment.piece.offset + within, std::min(limit, segment.piece.length - within)};
}

}  // namespace lamella
