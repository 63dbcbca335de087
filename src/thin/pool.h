// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "device/block_device.h"
#include "thin/metadata.h"

namespace lamella::thin {

class ThinVolume;
class PoolThread;

enum class DiscardPolicy { ignore, no_passdown, passdown };
enum class PoolMode { write, out_of_data_space, out_of_metadata_space, read_only, fail };

struct ThinPoolOptions {
    std::uint32_t data_block_sectors = 128;  // must be what the metadata says
    std::uint64_t low_water_blocks = 0;      // an event when fewer data blocks are free
    bool zero_new_blocks = true;
    DiscardPolicy discards = DiscardPolicy::passdown;
    bool error_if_no_space = false;
    Duration no_space_timeout = std::chrono::seconds(60);  // 0: writes wait for room without limit
    bool read_only = false;

    // Bounds on memory, in bytes.
    std::uint64_t mapping_cache_bytes = 512ull << 20;
    std::uint64_t metadata_cache_bytes = 32ull << 20;
    std::uint64_t copy_buffer_bytes = 16ull << 20;
};

// What a pool is told to do in one step, durable together with its transaction id: the messages of dm-thin that LVM2 queues.
struct PoolChange {
    enum class Kind { create_thin, create_snapshot, remove };
    Kind kind;
    ThinId id;
    ThinId origin{};  // create_snapshot
};

struct PoolStatus {
    PoolMode mode = PoolMode::write;
    std::uint64_t transaction_id = 0;
    std::uint64_t used_metadata_blocks = 0;  // the reserve counts as used
    std::uint64_t metadata_blocks = 0;
    std::uint64_t used_data_blocks = 0;
    std::uint64_t data_blocks = 0;
    std::optional<MetadataBlock> held_root;
    bool needs_check = false;
    bool error_if_no_space = false;
    std::uint64_t metadata_low_watermark = 0;
    std::uint32_t data_block_sectors = 0;
};

// What the metadata of a pool says of it, be it in use or not.
PoolStatus status_of(const ThinMetadata& metadata);

// dm-thin's table line of a pool with these options, without start, length and target name.
std::string pool_table_line(const ThinPoolOptions& options, std::string_view metadata_device, std::string_view data_device);

// A thin pool in use: dm-thin's thin-pool target. One thread, the pool's, owns the metadata: it provisions, breaks sharing,
// discards and commits. Volumes read mappings without it (see ThinVolume).
//
// Threads: every method may be called from any thread but the pool's own and a reactor's; each waits for its answer.
// One caller at a time for a change. The devices are borrowed and outlive the pool.
class ThinPool {
  public:
    // Writes empty metadata. Existing metadata is overwritten: the caller has made sure.
    static Result<void> format(BlockDevice& metadata, std::uint64_t data_bytes, std::uint32_t data_block_sectors);

    // `queue`: run the pool on a queue that the caller steps (simulations), instead of on a thread of its own.
    static Result<std::unique_ptr<ThinPool>> open(BlockDevice& metadata, BlockDevice& data, const ThinPoolOptions& options,
                                                  IoQueue* queue = nullptr);
    // As close(), errors unseen.
    ~ThinPool();
    ThinPool(const ThinPool&) = delete;

    // Commits and stops. Volumes are closed by then: their last reference is gone.
    Result<void> close();

    // `size` in bytes. Volumes of one id share one object while it is open. The external origin is borrowed.
    Result<std::shared_ptr<ThinVolume>> open_volume(ThinId id, std::uint64_t size, std::string name,
                                                    BlockDevice* external_origin = nullptr);

    // Performs the changes and moves the transaction id from `old_transaction` to `new_transaction`; durable on return, all or
    // nothing. A removal takes several commits: a crash in one leaves the old id, what was created beside it there, and part of
    // what was to be removed gone; the same change may then be asked for again with what isn't done yet. Snapshots are one
    // moment of all their origins: everything acknowledged before is in them.
    // `progress`, if given, hears how many of the mappings of all devices to be removed are gone; on the pool's thread: must not block.
    using Progress = std::function<void(std::uint64_t removed, std::uint64_t total)>;
    Result<void> transact(const std::vector<PoolChange>& changes, std::uint64_t old_transaction, std::uint64_t new_transaction,
                          const Progress& progress = {});

    // For one moment of volumes in several pools: holds the writes to these volumes back, once those under way have ended, until
    // thaw(). Snapshots that transact() takes meanwhile are of that moment.
    Result<void> freeze(const std::vector<ThinId>& origins);
    void thaw(const std::vector<ThinId>& origins);

    Result<PoolStatus> status();
    Result<DeviceDetails> details(ThinId id);
    Result<std::vector<DeviceEntry>> devices();
    // The number of 512-byte sectors up to the end of the highest mapped block; nullopt: nothing is mapped.
    Result<std::optional<std::uint64_t>> highest_mapped_sector(ThinId id);

    // dm-thin's lines, without start, length and target name.
    Result<std::string> status_line();
    std::string table_line(std::string_view metadata_device, std::string_view data_device) const {
        return pool_table_line(options(), metadata_device, data_device);
    }
    // dm-thin's messages: "create_thin 1", "create_snap 2 1", "delete 2", "set_transaction_id 3 4", "reserve_metadata_snap",
    // "release_metadata_snap".
    Result<void> message(std::string_view text);

    Result<MetadataBlock> reserve_metadata_snapshot();
    Result<void> release_metadata_snapshot();

    // The devices have grown: takes the new size into use, and leaves an out-of-space mode if that was the cause.
    Result<void> grow_data();
    Result<void> grow_metadata();

    // Passes discards of free data blocks down, whatever the pool's policy, from one block on: as much as takes a moment. Blocks that are
    // being discarded aren't handed out meanwhile; writes that find no other wait for them. unsupported: the data device can't discard.
    struct Trimmed {
        DataBlock next{};  // where to go on
        bool done = false;
        std::uint64_t blocks = 0;  // that were discarded
    };
    Result<Trimmed> trim(DataBlock from);

    // Everything written so far is durable.
    Result<void> commit();

    // Those of its opening, as changed since.
    const ThinPoolOptions& options() const;
    std::uint32_t data_block_sectors() const { return options().data_block_sectors; }
    // Takes the low water mark, the zeroing of new blocks, what happens without space, whether discards are passed down and whether the
    // pool is read-only from `options`; writes that wait for space fail if that is to be an error now. A pool whose metadata needs a check,
    // or that has failed, doesn't become writable by this. The rest stays as it is; whether there are discards at all, too. Errors: of
    // the commit before it becomes read-only; metadata that can't be opened for writing.
    Result<void> change_options(const ThinPoolOptions& options);
    // Writes that wait for space complete with ERESTART: somebody above keeps them.
    void give_back_waiting();

    // Called on the pool's thread when something happens that dm-thin raises an event for; must not block.
    void set_event_handler(std::function<void()> handler);

  private:
    explicit ThinPool(std::unique_ptr<PoolThread> thread);
    std::unique_ptr<PoolThread> thread_;
};

}  // namespace lamella::thin
