// SPDX-License-Identifier: Apache-2.0
#include "pdata/block.h"

#include <algorithm>
#include <cstring>

#include "base/checksum.h"
#include "base/endian.h"

namespace lamella::pdata {

namespace {

constexpr std::size_t blocks_per_slab = 64;
constexpr std::size_t min_frames = 64;
constexpr std::size_t most_blocks_per_request = 64;
constexpr std::size_t most_in_flight = 32;
constexpr std::size_t checksum_offset = 0;
constexpr std::size_t location_offset = 8;

// Linux: drivers/md/dm-thin-metadata.c, persistent-data/dm-btree-spine.c, dm-space-map-common.c.
std::uint32_t checksum_salt(BlockKind kind) {
    switch (kind) {
    case BlockKind::superblock: return 160774;
    case BlockKind::node: return 121107;
    case BlockKind::index: return 160478;
    case BlockKind::bitmap: return 240779;
    }
    __builtin_unreachable();
}

std::uint32_t block_checksum(std::span<const std::byte> block, BlockKind kind) {
    return crc32c(0xffffffff, block.subspan(sizeof(std::uint32_t))) ^ checksum_salt(kind);
}

}  // namespace

std::string_view to_string(BlockKind kind) {
    switch (kind) {
    case BlockKind::superblock: return "superblock";
    case BlockKind::node: return "B-tree node";
    case BlockKind::index: return "space map index";
    case BlockKind::bitmap: return "space map bitmap";
    }
    __builtin_unreachable();
}

void seal_block(std::span<std::byte> block, BlockKind kind, MetadataBlock location) {
    store_little<std::uint64_t>(block.data() + location_offset, location.value());
    store_little<std::uint32_t>(block.data() + checksum_offset, block_checksum(block, kind));
}

Result<void> verify_block(std::span<const std::byte> block, BlockKind kind, MetadataBlock location) {
    auto stored = load_little<std::uint32_t>(block.data() + checksum_offset);
    auto computed = block_checksum(block, kind);
    if (stored != computed)
        return fail(ErrorKind::damaged, "not a {}: checksum {:#010x}, expected {:#010x}", to_string(kind), stored, computed);
    auto number = load_little<std::uint64_t>(block.data() + location_offset);
    if (number != location.value())
        return fail(ErrorKind::damaged, "{} says it is block {}", to_string(kind), number);
    return {};
}

std::optional<BlockKind> kind_by_checksum(std::span<const std::byte> block) {
    std::uint32_t salt =
        load_little<std::uint32_t>(block.data() + checksum_offset) ^ crc32c(0xffffffff, block.subspan(sizeof(std::uint32_t)));
    for (BlockKind kind : {BlockKind::node, BlockKind::bitmap, BlockKind::index, BlockKind::superblock})
        if (salt == checksum_salt(kind))
            return kind;
    return std::nullopt;
}

Result<void> run_requests(IoQueue& queue, std::span<DeviceRequest> requests, std::string_view what) {
    struct State {
        std::size_t in_flight = 0;
        int error = 0;
    } state;
    std::size_t next = 0;
    while (next < requests.size() || state.in_flight > 0) {
        while (next < requests.size() && state.in_flight < most_in_flight && state.error == 0) {
            IoRequest& request = requests[next].request;
            request.context = &state;
            request.completed = [](IoRequest& completed, int error) {
                auto& batch = *static_cast<State*>(completed.context);
                --batch.in_flight;
                if (batch.error == 0)
                    batch.error = error;
            };
            ++state.in_flight;
            requests[next].device->submit(queue, request);
            ++next;
        }
        if (state.error != 0)
            next = requests.size();
        if (state.in_flight > 0)
            queue.run_once(true);
    }
    if (state.error != 0)
        return fail_errno(what, state.error);
    return {};
}

BlockCache::BlockCache(BlockDevice& device, std::size_t bytes) : device_(device), capacity_(std::max(bytes / block_bytes, min_frames)) {}

BlockCache::~BlockCache() = default;

std::string BlockCache::describe(MetadataBlock location) const { return fmt::format("metadata block {} of {}", location, device_.name()); }

Result<BlockRef> BlockCache::read(MetadataBlock location, BlockKind kind) { return BlockRef(TRY(find_or_read(location, kind))); }

Result<BlockRef> BlockCache::modify(MetadataBlock location, BlockKind kind) {
    Frame* frame = TRY(find_or_read(location, kind));
    set_dirty(*frame);
    return BlockRef(frame);
}

Result<BlockRef> BlockCache::create(MetadataBlock location, BlockKind kind) {
    Frame* frame = nullptr;
    if (auto found = by_location_.find(location.value()); found != by_location_.end()) {
        frame = found->second;
        // Only damaged counts can hand out a block that somebody is looking at.
        if (frame->pins != 0)
            return fail(ErrorKind::damaged, "{} is in use, but counted as free", describe(location));
    } else {
        frame = TRY(take_frame());
        frame->location = location;
        by_location_.emplace(location.value(), frame);
    }
    frame->kind = kind;
    frame->in_use = true;
    frame->structure_checked = false;
    frame->recently_used = true;
    set_dirty(*frame);
    std::memset(frame->bytes, 0, block_bytes);
    return BlockRef(frame);
}

void BlockCache::forget(MetadataBlock location) {
    auto found = by_location_.find(location.value());
    if (found == by_location_.end() || !found->second->dirty)
        return;
    Frame& frame = *found->second;
    frame.dirty = false;
    --dirty_;
    if (frame.pins == 0)
        release(frame);
}

void BlockCache::clear() {
    by_location_.clear();
    unused_.clear();
    for (auto& frame : frames_) {
        frame->in_use = frame->dirty = false;
        unused_.push_back(frame.get());
    }
    dirty_ = 0;
}

Result<void> BlockCache::write_dirty(IoQueue& queue) {
    std::vector<Frame*> frames;
    frames.reserve(dirty_);
    for (auto& frame : frames_)
        if (frame->in_use && frame->dirty)
            frames.push_back(frame.get());
    return write_frames(queue, frames);
}

Result<BlockCache::Frame*> BlockCache::find_or_read(MetadataBlock location, BlockKind kind) {
    if (auto found = by_location_.find(location.value()); found != by_location_.end()) {
        Frame* frame = found->second;
        if (frame->kind != kind)
            return fail(ErrorKind::damaged, "{} is used as a {} and as a {}", describe(location), to_string(frame->kind), to_string(kind));
        frame->recently_used = true;
        return frame;
    }
    if (location.value() >= device_.size() / block_bytes)
        return fail(ErrorKind::damaged, "{} lies beyond its end", describe(location));
    Frame* frame = TRY(take_frame());
    std::span<std::byte> bytes(frame->bytes, block_bytes);
    auto result = read_block(location, bytes);
    if (result)
        result = verify_block(bytes, kind, location);
    if (!result) {
        unused_.push_back(frame);
        return std::unexpected(result.error().within(describe(location)));
    }
    frame->location = location;
    frame->kind = kind;
    frame->in_use = true;
    frame->recently_used = true;
    frame->structure_checked = false;
    by_location_.emplace(location.value(), frame);
    return frame;
}

Result<void> BlockCache::read_block(MetadataBlock location, std::span<std::byte> bytes) {
    iovec vector{bytes.data(), bytes.size()};
    DeviceRequest read{.device = &device_, .request = {}};
    read.request.operation = IoOperation::read;
    read.request.offset = location.value() * block_bytes;
    read.request.length = bytes.size();
    read.request.vectors = {&vector, 1};
    return run_requests(*TRY(own_queue()), {&read, 1}, "read");
}

Result<IoQueue*> BlockCache::own_queue() {
    if (!queue_)
        queue_ = TRY(make_plain_queue());
    return queue_.get();
}

// An unused frame, made, found or evicted.
Result<BlockCache::Frame*> BlockCache::take_frame() {
    if (unused_.empty() && frames_.size() < capacity_) {
        AlignedBuffer& slab = slabs_.emplace_back(blocks_per_slab * block_bytes);
        for (std::size_t index = 0; index < blocks_per_slab && frames_.size() < capacity_; ++index) {
            Frame& frame = *frames_.emplace_back(std::make_unique<Frame>());
            frame.bytes = slab.data() + index * block_bytes;
            unused_.push_back(&frame);
        }
    }
    for (bool spilled = false; unused_.empty(); spilled = true) {
        // Two rounds: the first may only take away the marks of recent use.
        for (std::size_t step = 0; step < 2 * frames_.size() && unused_.empty(); ++step) {
            Frame& frame = *frames_[hand_];
            hand_ = (hand_ + 1) % frames_.size();
            if (frame.pins != 0 || frame.dirty)
                continue;
            if (std::exchange(frame.recently_used, false))
                continue;
            release(frame);
        }
        if (!unused_.empty())
            break;
        if (spilled || dirty_ == 0)
            return fail(ErrorKind::failed, "the metadata cache of {} is full of blocks in use", device_.name());
        TRY(spill());
    }
    Frame* frame = unused_.back();
    unused_.pop_back();
    return frame;
}

Result<void> BlockCache::spill() {
    std::vector<Frame*> frames;
    std::size_t wanted = std::max(capacity_ / 8, min_frames / 2);
    for (std::size_t step = 0; step < frames_.size() && frames.size() < wanted; ++step) {
        Frame& frame = *frames_[(hand_ + step) % frames_.size()];
        if (frame.in_use && frame.dirty && frame.pins == 0)
            frames.push_back(&frame);
    }
    return write_frames(*TRY(own_queue()), frames);
}

Result<void> BlockCache::write_frames(IoQueue& queue, std::vector<Frame*>& frames) {
    std::ranges::sort(frames, {}, [](const Frame* frame) { return frame->location; });
    std::vector<iovec> vectors(frames.size());
    std::vector<DeviceRequest> requests;
    for (std::size_t index = 0; index < frames.size(); ++index) {
        Frame& frame = *frames[index];
        seal_block({frame.bytes, block_bytes}, frame.kind, frame.location);
        vectors[index] = {frame.bytes, block_bytes};
        bool follows = index > 0 && frames[index - 1]->location + 1 == frame.location &&
                       requests.back().request.vectors.size() < most_blocks_per_request;
        if (!follows) {
            DeviceRequest& write = requests.emplace_back(DeviceRequest{.device = &device_, .request = {}});
            write.request.operation = IoOperation::write;
            write.request.offset = frame.location.value() * block_bytes;
            write.request.vectors = {&vectors[index], 0};
        }
        IoRequest& request = requests.back().request;
        request.vectors = {request.vectors.data(), request.vectors.size() + 1};
        request.length += block_bytes;
    }
    TRY(run_requests(queue, requests, fmt::format("write the metadata of {}", device_.name())));
    for (Frame* frame : frames)
        frame->dirty = false;
    dirty_ -= frames.size();
    return {};
}

void BlockCache::release(Frame& frame) {
    by_location_.erase(frame.location.value());
    frame.in_use = false;
    unused_.push_back(&frame);
}

void BlockCache::set_dirty(Frame& frame) {
    if (!frame.dirty) {
        frame.dirty = true;
        ++dirty_;
    }
}

}  // namespace lamella::pdata
