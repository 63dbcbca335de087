// SPDX-License-Identifier: Apache-2.0
//
// Metadata read by thousands of blocks: in disk order where the caller has no other order, by requests of up to 256 KiB, several of
// them under way on each of several threads. Blocks are handed out on the thread that read them, so that checksums and decoding use all
// cores while the next ones are on their way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"
#include "pdata/block.h"
#include "tools/control.h"
#include "tools/metadata_block_set.h"

namespace lamella::tools {

// A block as it came from the device; nothing about it is checked yet.
struct ReadBlock {
    MetadataBlock location{};
    // Where in the list it was asked for; 0 when a set was.
    std::size_t index = 0;
    // 4096 of them, valid during the visit; none if the block couldn't be read.
    std::span<const std::byte> bytes{};
    // errno of the read, 0 for none.
    int error = 0;

    // Could it be read, and are checksum and block number right for that kind?
    Result<void> verify(pdata::BlockKind kind) const;
};

// Memory: 1 MiB of buffers a thread, nothing that grows with the metadata.
//
// Threads: one caller at a time. Visits come on the reader's own threads, several at once.
class MetadataReader {
  public:
    struct Options {
        unsigned threads = 0;  // 0: one a core, at most 8
    };
    static constexpr unsigned max_threads = 8;

    // Starts its threads. The device outlives the reader; it is only read. failed: no threads or queues to be had.
    static Result<std::unique_ptr<MetadataReader>> start(BlockDevice& device, const Options& options);
    ~MetadataReader();
    MetadataReader(const MetadataReader&) = delete;
    MetadataReader& operator=(const MetadataReader&) = delete;

    BlockDevice& device() const { return device_; }
    // Whole blocks of the device, at most as many as metadata can have (MetadataSpaceMap::max_blocks).
    std::uint64_t blocks() const { return blocks_; }
    unsigned threads() const;
    // "metadata block 17 of ./vms.img:pool"
    std::string describe(MetadataBlock location) const;

    // `thread` is below threads(): for what each thread gathers on its own.
    using Visit = std::function<void(unsigned thread, const ReadBlock& block)>;

    // Visits each block of the set once, each thread in ascending order. What can't be read is visited with its error; a bad
    // block doesn't take its neighbours with it. Fails only when stopped. `progress` of the control counts the blocks of this call.
    Result<void> read_set(const MetadataBlockSet& blocks, const Visit& visit, const Control& control = {});
    // Visits the blocks of a list, about in its order; neighbours in the list that are neighbours on disk are read together. A location
    // beyond the device is visited with EINVAL.
    Result<void> read_list(std::span<const MetadataBlock> blocks, const Visit& visit, const Control& control = {});

    // One block, on the calling thread, into 4096 bytes; checks it. The error says which block and why.
    Result<void> read_block(MetadataBlock location, pdata::BlockKind kind, std::span<std::byte> bytes) const;

  private:
    struct Pass;
    class Workers;
    MetadataReader(BlockDevice& device, std::uint64_t blocks);
    Result<void> run(Pass& pass);

    BlockDevice& device_;
    std::uint64_t blocks_;
    std::unique_ptr<Workers> workers_;
};

}  // namespace lamella::tools
