// SPDX-License-Identifier: Apache-2.0
//
// The 4096-byte blocks of a metadata device, and the cache through which all of them but the superblock are read and written.
// Layout of the common header: Linux drivers/md/persistent-data/dm-btree-internal.h, dm-space-map-common.h:
// checksum u32, 4 bytes of the kind's own, block number u64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"

namespace lamella::pdata {

constexpr std::size_t block_bytes = 4096;

// What a block is: decides the salt of its checksum, so that a block of one kind is never taken for another.
enum class BlockKind : std::uint8_t { superblock, node, index, bitmap };

std::string_view to_string(BlockKind kind);

// Writes the block number and the checksum into a block.
void seal_block(std::span<std::byte> block, BlockKind kind, MetadataBlock location);
// Checks both. The error says which is wrong, not where the block is.
Result<void> verify_block(std::span<const std::byte> block, BlockKind kind, MetadataBlock location);

// The kind whose checksum a block has, wherever it was written to; none: it is damaged, or no block of a pool's metadata.
std::optional<BlockKind> kind_by_checksum(std::span<const std::byte> block);

// Runs requests of one batch: at most `most_in_flight` at once, all of them ended when this returns. The first error wins.
struct DeviceRequest {
    BlockDevice* device;
    IoRequest request;
};
Result<void> run_requests(IoQueue& queue, std::span<DeviceRequest> requests, std::string_view what);

class BlockCache;

// A block held in the cache: it stays where it is as long as this lives. Don't outlive the cache.
class BlockRef {
  public:
    BlockRef() = default;
    BlockRef(BlockRef&& other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
    BlockRef& operator=(BlockRef&& other) noexcept {
        std::swap(frame_, other.frame_);
        return *this;
    }
    ~BlockRef() {
        if (frame_ != nullptr)
            --frame_->pins;
    }

    MetadataBlock location() const { return frame_->location; }
    const std::byte* bytes() const { return frame_->bytes; }
    // Only of a block that came from create() or modify().
    std::byte* writable() const { return frame_->bytes; }

    // A note that whoever gives the contents a meaning has checked them; lost when they are read anew.
    bool structure_checked() const { return frame_->structure_checked; }
    void set_structure_checked() { frame_->structure_checked = true; }

  private:
    friend class BlockCache;
    struct Frame {
        MetadataBlock location{};
        std::byte* bytes = nullptr;
        std::uint32_t pins = 0;
        BlockKind kind = BlockKind::node;
        bool in_use = false;
        bool dirty = false;
        bool recently_used = false;
        bool structure_checked = false;
    };
    explicit BlockRef(Frame* frame) : frame_(frame) { ++frame_->pins; }
    Frame* frame_ = nullptr;
};

// A bounded cache of blocks. Clean blocks are evicted, the longest unused first (CLOCK). When nothing but dirty blocks is left,
// some of them are written out early: they lie where nothing durable refers to, so that may happen at any time.
// Reads and early writes block the caller. One thread at a time.
class BlockCache {
  public:
    // Holds `bytes` of blocks, at least 64 of them. The device outlives the cache.
    BlockCache(BlockDevice& device, std::size_t bytes);
    ~BlockCache();
    BlockCache(const BlockCache&) = delete;
    BlockCache& operator=(const BlockCache&) = delete;

    BlockDevice& device() const { return device_; }
    // "metadata block 17 of ./vms.img:pool"
    std::string describe(MetadataBlock location) const;

    // Checks kind, checksum and block number whenever a block is read from the device.
    Result<BlockRef> read(MetadataBlock location, BlockKind kind);
    // As read(), and dirty from now on. For blocks that the open transaction has made.
    Result<BlockRef> modify(MetadataBlock location, BlockKind kind);
    // A dirty block of zeros; what the device holds there is not read.
    Result<BlockRef> create(MetadataBlock location, BlockKind kind);

    // What it held need not be written any more: the block has become free.
    void forget(MetadataBlock location);
    // Forgets everything, unwritten blocks too. No BlockRef may be alive.
    void clear();

    // Writes all dirty blocks. Nothing is flushed. After an error they are still dirty.
    Result<void> write_dirty(IoQueue& queue);

    std::size_t dirty_blocks() const { return dirty_; }

  private:
    using Frame = BlockRef::Frame;

    Result<Frame*> find_or_read(MetadataBlock location, BlockKind kind);
    Result<void> read_block(MetadataBlock location, std::span<std::byte> bytes);
    Result<Frame*> take_frame();
    Result<void> spill();
    Result<IoQueue*> own_queue();
    Result<void> write_frames(IoQueue& queue, std::vector<Frame*>& frames);
    void release(Frame& frame);
    void set_dirty(Frame& frame);

    BlockDevice& device_;
    std::size_t capacity_;
    std::vector<AlignedBuffer> slabs_;
    std::vector<std::unique_ptr<Frame>> frames_;
    std::vector<Frame*> unused_;
    std::unordered_map<std::uint64_t, Frame*> by_location_;
    std::size_t hand_ = 0;
    std::size_t dirty_ = 0;
    std::unique_ptr<IoQueue> queue_;  // for reads and early writes
};

}  // namespace lamella::pdata
