// SPDX-License-Identifier: Apache-2.0
//
// Three trees under the superblock: device id -> root of the device's mapping tree; in each of those, virtual block -> data block
// and time; device id -> details. Layout: Linux drivers/md/dm-thin-metadata.c.
//
// A device that is written to is kept in memory with its root and details, which go into their trees at commit. Before the first
// change in a transaction the paths to both entries are made the transaction's own. That isn't just thrift: when the metadata
// snapshot shares the leaf that holds the root, copying the leaf is what counts the root's second referrer, and without that count
// the first change would overwrite what the metadata snapshot holds.
//
// Commit: everything but the superblock is written to places that the last commit doesn't use, and flushed together with the data
// that the new mappings speak of; then the superblock, whose fields fit in one sector, is written durably. Until that sector is
// there, the last commit is untouched; once it is, all that it refers to is there as well.
#include "thin/metadata.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>
#include <unordered_map>

#include "base/endian.h"
#include "pdata/block.h"
#include "pdata/btree.h"
#include "pdata/data_space_map.h"
#include "pdata/metadata_space_map.h"
#include "pdata/transaction.h"
#include "thin/superblock.h"

namespace lamella::thin {

namespace {

using pdata::BlockCache;
using pdata::BlockKind;
using pdata::BlockRef;
using pdata::Btree;
using pdata::DataSpaceMap;
using pdata::MetadataSpaceMap;
using pdata::SpaceMapRoot;
using pdata::TransactionManager;

constexpr std::size_t mapping_bytes = 8;
constexpr std::size_t root_bytes = 8;
constexpr std::size_t details_bytes = 24;
constexpr std::uint64_t max_virtual_blocks = std::uint64_t{1} << 57;  // 2^64 sectors of the smallest data blocks
constexpr std::size_t most_devices_kept = 16384;
constexpr std::size_t most_overflow_changes = 4096;

// Metadata blocks that the usual operations take: paths through the three trees, and a split at each level.
constexpr std::uint64_t path_cost = 24;

using MappingValue = std::array<std::byte, mapping_bytes>;
using DetailsValue = std::array<std::byte, details_bytes>;

MappingValue pack(std::uint64_t value) {
    MappingValue bytes;
    store_little<std::uint64_t>(bytes.data(), value);
    return bytes;
}

DetailsValue pack(const DeviceDetails& details) {
    DetailsValue bytes;
    store_little<std::uint64_t>(bytes.data(), details.mapped_blocks);
    store_little<std::uint64_t>(bytes.data() + 8, details.transaction_id);
    store_little<std::uint32_t>(bytes.data() + 16, details.creation_time);
    store_little<std::uint32_t>(bytes.data() + 20, details.snapshotted_time);
    return bytes;
}

DeviceDetails unpack_details(const std::byte* bytes) {
    return {load_little<std::uint64_t>(bytes), load_little<std::uint64_t>(bytes + 8), load_little<std::uint32_t>(bytes + 16),
            load_little<std::uint32_t>(bytes + 20)};
}

BlockTime unpack_mapping(const std::byte* bytes) { return BlockTime::unpack(load_little<std::uint64_t>(bytes)); }

// Mappings refer to data blocks.
class MappingReferences final : public pdata::ValueReferences {
  public:
    explicit MappingReferences(DataSpaceMap& map) : map_(map) {}

    Result<void> increment(TransactionManager& manager, const std::byte* values, std::size_t count) override {
        return map_.increment(manager, blocks_of(values, count));
    }
    Result<void> decrement(TransactionManager& manager, const std::byte* values, std::size_t count) override {
        return map_.decrement(manager, blocks_of(values, count));
    }

  private:
    std::span<const std::uint64_t> blocks_of(const std::byte* values, std::size_t count) {
        blocks_.resize(count);
        for (std::size_t index = 0; index < count; ++index)
            blocks_[index] = unpack_mapping(values + index * mapping_bytes).block.value();
        std::ranges::sort(blocks_);  // so that each bitmap is looked up once
        return blocks_;
    }

    DataSpaceMap& map_;
    std::vector<std::uint64_t> blocks_;
};

// The device tree refers to mapping trees.
class RootReferences final : public pdata::ValueReferences {
  public:
    explicit RootReferences(const Btree& mappings) : mappings_(mappings) {}

    Result<void> increment(TransactionManager& manager, const std::byte* values, std::size_t count) override {
        for (std::size_t index = 0; index < count; ++index)
            TRY(manager.increment(root_at(values, index)));
        return {};
    }
    Result<void> decrement(TransactionManager& manager, const std::byte* values, std::size_t count) override {
        for (std::size_t index = 0; index < count; ++index)
            TRY(mappings_.drop(manager, root_at(values, index)));
        return {};
    }

  private:
    static MetadataBlock root_at(const std::byte* values, std::size_t index) {
        return MetadataBlock(load_little<std::uint64_t>(values + index * root_bytes));
    }

    const Btree& mappings_;
};

struct Device {
    MetadataBlock root{};
    std::optional<DeviceDetails> details;  // read when asked for
    std::uint64_t owned_in = 0;            // the epoch in which the paths to its entries were made our own
    bool root_changed = false;
    bool details_changed = false;
};

std::string describe(ThinId id) { return fmt::format("thin device {}", id); }

}  // namespace

struct ThinMetadata::Core {
    Core(BlockDevice& metadata_device, const Options& options)
        : device(metadata_device),
          read_only(options.read_only),
          cache(metadata_device, options.cache_bytes),
          metadata_map(cache),
          manager(cache, metadata_map),
          data_map(cache),
          mapping_references(data_map),
          mappings(cache, mapping_bytes, "mapping tree", &mapping_references),
          root_references(mappings),
          devices(cache, root_bytes, "device tree", &root_references),
          details(cache, details_bytes, "device details tree"),
          superblock_block(metadata_block_bytes) {}

    Result<void> format(const Format& format);
    Result<void> open();
    Result<void> load_maps();

    Result<Device*> find(ThinId id);
    Result<DeviceDetails*> details_of(ThinId id, Device& device);
    Result<void> own(ThinId id, Device& device);
    struct Sharing {
        bool shared = false;     // somebody else's path leads to the mapping as well
        std::uint64_t cost = 0;  // metadata blocks that making the path our own and changing it may take
    };
    Result<Sharing> sharing(ThinId id, const Device& device, VirtualBlock block);
    Result<void> write_devices();

    Result<void> may_change() const;
    Result<void> has_room(std::uint64_t cost) const;
    std::uint64_t removal_cost(std::uint64_t leaves) const;
    template <typename Change>
    std::invoke_result_t<Change> change(std::uint64_t cost, Change perform);

    Result<void> flush(IoQueue& queue, std::span<BlockDevice* const> data_leaves);
    Result<void> prepare_commit(IoQueue& queue, std::span<BlockDevice* const> data_leaves);
    Result<void> write_superblock(IoQueue& queue, const Superblock& superblock);
    Result<void> commit(IoQueue& queue, std::span<BlockDevice* const> data_leaves);
    void forget_devices();

    BlockDevice& device;
    bool read_only;
    BlockCache cache;
    MetadataSpaceMap metadata_map;
    TransactionManager manager;
    DataSpaceMap data_map;
    MappingReferences mapping_references;
    Btree mappings;
    RootReferences root_references;
    Btree devices;
    Btree details;

    Superblock committed;
    Superblock current;              // what the next commit will write; its space map roots only then
    AlignedBuffer superblock_block;  // as it lies on the device

    std::unordered_map<ThinId, Device> known;
    std::vector<ThinId> owned;  // in this transaction; some twice, some removed since
    // What this transaction has unmapped, a crash would bring back. Devices share a data block under one virtual block only, so it is
    // enough to know of which virtual blocks mappings were replaced, and whether any were removed.
    pdata::BlockSet replaced;
    bool removed = false;
    std::uint64_t epoch = 1;  // steps when paths stop being our own
    bool changed = false;
    bool must_abort = false;
    bool superblock_in_doubt = false;  // a write of it failed: the device may hold either
};

// --- Opening ---

Result<void> ThinMetadata::Core::format(const Format& format) {
    auto queue = TRY(make_plain_queue());
    // Whatever pool was here before is gone before its trees are overwritten.
    TRY(write_now(device, 0, superblock_block.bytes()));
    TRY(flush(*queue, {}));

    std::uint64_t blocks = std::min(device.size() / metadata_block_bytes, max_metadata_blocks);
    TRY(metadata_map.start(blocks));
    if (MetadataBlock place = TRY(metadata_map.allocate()); place != MetadataBlock(0))
        return fail(ErrorKind::failed, "the superblock of {} would lie at {}", device.name(), place);
    TRY(data_map.start(manager, format.data_blocks));
    current.data_mapping_root = TRY(devices.create(manager));
    current.device_details_root = TRY(details.create(manager));
    current.data_block_sectors = format.data_block_sectors;
    current.metadata_blocks_at_creation = blocks;
    changed = true;
    return commit(*queue, {});
}

Result<void> ThinMetadata::Core::open() {
    if (device.size() < metadata_block_bytes)
        return fail(ErrorKind::damaged, "{}: {} bytes are too few for a superblock", device.name(), device.size());
    TRY(read_now(device, 0, superblock_block.bytes()));
    if (is_unformatted(superblock_block.bytes()))
        return fail(ErrorKind::not_found, "{}: not formatted: its superblock is all zeros", device.name());
    committed = current = TRY_WITHIN(device.name(), Superblock::unpack(superblock_block.bytes(), !read_only));
    auto loaded = load_maps();
    // Mappings can be read without space maps.
    return read_only ? Result<void>() : loaded;
}

Result<void> ThinMetadata::Core::load_maps() {
    TRY(metadata_map.load(SpaceMapRoot::unpack(committed.metadata_space_map_root.data())));
    TRY(data_map.load(SpaceMapRoot::unpack(committed.data_space_map_root.data())));
    if (read_only)
        return {};
    if (metadata_map.blocks() > device.size() / metadata_block_bytes)
        return fail(ErrorKind::damaged, "{}: its space map has {} blocks, the device only {}", device.name(), metadata_map.blocks(),
                    device.size() / metadata_block_bytes);
    for (MetadataBlock block : {MetadataBlock(0), committed.data_mapping_root, committed.device_details_root})
        if (TRY(metadata_map.count(block)) == 0)
            return fail(ErrorKind::damaged, "{} is in use, but counted as free", cache.describe(block));
    return {};
}

// --- Devices in memory ---

Result<Device*> ThinMetadata::Core::find(ThinId id) {
    if (auto found = known.find(id); found != known.end())
        return &found->second;
    MappingValue value;
    if (!TRY_WITHIN(describe(id), devices.lookup(current.data_mapping_root, id.value(), value.data())))
        return fail(ErrorKind::not_found, "{} isn't there", describe(id));
    if (!changed && known.size() >= most_devices_kept)
        known.clear();
    return &known.emplace(id, Device{.root = MetadataBlock(load_little<std::uint64_t>(value.data())), .details = {}}).first->second;
}

Result<DeviceDetails*> ThinMetadata::Core::details_of(ThinId id, Device& entry) {
    if (!entry.details) {
        DetailsValue value;
        if (!TRY_WITHIN(describe(id), details.lookup(current.device_details_root, id.value(), value.data())))
            return fail(ErrorKind::damaged, "{} has no entry in the device details tree", describe(id));
        entry.details = unpack_details(value.data());
    }
    return &*entry.details;
}

Result<void> ThinMetadata::Core::own(ThinId id, Device& entry) {
    if (entry.owned_in == epoch)
        return {};
    auto leave = [](std::byte*) {};
    if (!TRY(devices.update(manager, current.data_mapping_root, id.value(), leave)) ||
        !TRY(details.update(manager, current.device_details_root, id.value(), leave)))
        return fail(ErrorKind::damaged, "{} is missing from the device trees", describe(id));
    entry.owned_in = epoch;
    owned.push_back(id);
    return {};
}

Result<ThinMetadata::Core::Sharing> ThinMetadata::Core::sharing(ThinId id, const Device& entry, VirtualBlock block) {
    bool shared = entry.owned_in != epoch && TRY(devices.path(manager, current.data_mapping_root, id.value())).shared;
    Btree::Path path = TRY(mappings.path(manager, entry.root, block.value()));
    if (!shared && !path.shared)
        return Sharing{false, path_cost};
    // Copying a shared leaf counts a leaf's worth of data blocks: in bitmaps and overflow nodes that may need copying as well.
    constexpr std::uint64_t overflow_fill = pdata::max_node_entries(sizeof(std::uint32_t)) / 3;
    const std::uint64_t most_overflow_nodes = (data_map.blocks() - data_map.free()) / overflow_fill + 4;
    pdata::Node leaf(path.leaf.bytes());
    auto cost_of = [&](std::uint64_t bitmaps, std::uint64_t counts) {
        return path_cost + std::min(bitmaps, data_map.bitmaps()) + std::min(counts, most_overflow_nodes);
    };
    std::uint64_t cost = cost_of(leaf.entries(), leaf.entries());
    if (has_room(cost))
        return Sharing{true, cost};
    // Room is short: look closely.
    std::uint64_t counts = 0;
    std::vector<std::uint64_t> bitmaps;
    for (std::uint32_t index = 0; index < leaf.entries(); ++index) {
        DataBlock data = unpack_mapping(leaf.value(index)).block;
        bitmaps.push_back(data.value() / pdata::entries_per_bitmap);
        counts += TRY(data_map.count(data)) + 1 >= pdata::bitmap_overflow;
    }
    std::ranges::sort(bitmaps);
    bitmaps.erase(std::unique(bitmaps.begin(), bitmaps.end()), bitmaps.end());
    return Sharing{true, cost_of(bitmaps.size(), counts)};
}

// Writes roots and details into their trees, in place since own().
Result<void> ThinMetadata::Core::write_devices() {
    std::ranges::sort(owned);
    for (ThinId id : owned) {
        auto found = known.find(id);
        if (found == known.end())
            continue;  // removed
        Device& entry = found->second;
        if (std::exchange(entry.root_changed, false))
            TRY(devices.update(manager, current.data_mapping_root, id.value(),
                               [&](std::byte* value) { store_little<std::uint64_t>(value, entry.root.value()); }));
        if (std::exchange(entry.details_changed, false))
            TRY(details.update(manager, current.device_details_root, id.value(), [&](std::byte* value) {
                DetailsValue packed = pack(*entry.details);
                std::memcpy(value, packed.data(), packed.size());
            }));
    }
    owned.clear();
    ++epoch;
    return {};
}

void ThinMetadata::Core::forget_devices() {
    known.clear();
    owned.clear();
    ++epoch;
}

// --- Changes ---

Result<void> ThinMetadata::Core::may_change() const {
    if (read_only)
        return fail(ErrorKind::refused, "{} is open for reading only", device.name());
    if (must_abort)
        return fail(ErrorKind::refused, "{}: a change failed half way, its transaction must be aborted", device.name());
    if (committed.needs_check())
        return fail(ErrorKind::refused, "{}: its needs_check flag is set: run thin_check on it", device.name());
    return {};
}

// Whether a change that takes `cost` blocks can be committed afterwards.
Result<void> ThinMetadata::Core::has_room(std::uint64_t cost) const {
    if (std::uint64_t needed = cost + metadata_map.fold_cost(); metadata_map.allocatable() < needed)
        // A client gets EIO, as dm-thin has it: no data that it discards would help, as ENOSPC says.
        return std::unexpected(Error(
            ErrorKind::no_space,
            fmt::format("{}: {} metadata blocks are free, {} may be needed", device.name(), metadata_map.allocatable(), needed), EIO));
    return {};
}

// Removal must stay possible when metadata is short, for it is what helps then; so this is not the worst case, but data blocks
// scattered over a few bitmaps a leaf.
std::uint64_t ThinMetadata::Core::removal_cost(std::uint64_t leaves) const {
    return path_cost + std::min<std::uint64_t>(data_map.bitmaps(), 8 * std::min<std::uint64_t>(leaves, 1u << 20));
}

// Runs a change. All that can be refused has been before: from here on an error leaves the transaction in pieces.
// Cost 0: the change needs no room.
template <typename Change>
std::invoke_result_t<Change> ThinMetadata::Core::change(std::uint64_t cost, Change perform) {
    TRY(may_change());
    if (cost > 0)
        TRY(has_room(cost));
    changed = true;
    auto prepare = [this]() -> Result<void> {
        TRY(data_map.trim(manager));
        if (metadata_map.overflow_changes() > most_overflow_changes)
            TRY(metadata_map.fold_overflow(manager));
        return {};
    };
    if (auto prepared = prepare(); !prepared) {
        must_abort = true;
        return std::unexpected(std::move(prepared).error());
    }
    auto result = perform();
    if (!result)
        must_abort = true;
    return result;
}

// --- Commit ---

Result<void> ThinMetadata::Core::flush(IoQueue& queue, std::span<BlockDevice* const> data_leaves) {
    std::vector<BlockDevice*> leaves;
    device.add_leaves(leaves);
    for (BlockDevice* leaf : data_leaves)
        if (std::ranges::find(leaves, leaf) == leaves.end())
            leaves.push_back(leaf);
    std::vector<pdata::DeviceRequest> requests;
    for (BlockDevice* leaf : leaves)
        requests.emplace_back(pdata::DeviceRequest{.device = leaf, .request = {}}).request.operation = IoOperation::flush;
    return pdata::run_requests(queue, requests, fmt::format("flush for {}", device.name()));
}

Result<void> ThinMetadata::Core::prepare_commit(IoQueue& queue, std::span<BlockDevice* const> data_leaves) {
    TRY(write_devices());
    SpaceMapRoot data_root = TRY(data_map.fold(manager));
    SpaceMapRoot metadata_root = TRY(metadata_map.fold(manager));
    data_root.pack(current.data_space_map_root.data());
    metadata_root.pack(current.metadata_space_map_root.data());
    TRY(cache.write_dirty(queue));
    return flush(queue, data_leaves);
}

Result<void> ThinMetadata::Core::write_superblock(IoQueue& queue, const Superblock& superblock) {
    // What is written stays in a block of its own until it has succeeded: a copy of the block that is there, with new fields.
    AlignedBuffer block(metadata_block_bytes);
    std::memcpy(block.data(), superblock_block.data(), metadata_block_bytes);
    superblock.pack(block.bytes());
    iovec vector{block.data(), block.size()};
    pdata::DeviceRequest write{.device = &device, .request = {}};
    write.request.operation = IoOperation::write;
    write.request.durable = true;
    write.request.length = block.size();
    write.request.vectors = {&vector, 1};
    superblock_in_doubt = true;
    TRY(pdata::run_requests(queue, {&write, 1}, fmt::format("write the superblock of {}", device.name())));
    superblock_in_doubt = false;
    superblock_block = std::move(block);
    return {};
}

Result<void> ThinMetadata::Core::commit(IoQueue& queue, std::span<BlockDevice* const> data_leaves) {
    if (!changed)
        return flush(queue, data_leaves);
    TRY(may_change());
    auto result = prepare_commit(queue, data_leaves);
    if (result)
        result = write_superblock(queue, current);
    if (!result) {
        must_abort = true;
        return result;
    }
    committed = current;
    metadata_map.committed();
    data_map.committed();
    replaced.clear();
    changed = removed = false;
    if (known.size() > most_devices_kept)
        known.clear();
    return {};
}

// --- The interface ---

ThinMetadata::ThinMetadata(std::unique_ptr<Core> core) : core_(std::move(core)) {}
ThinMetadata::~ThinMetadata() = default;

Result<std::unique_ptr<ThinMetadata>> ThinMetadata::create(BlockDevice& device, const Format& format) {
    if (format.data_block_sectors < min_data_block_sectors || format.data_block_sectors > max_data_block_sectors ||
        format.data_block_sectors % min_data_block_sectors != 0)
        return fail(ErrorKind::usage, "a data block of {} sectors: it must be a multiple of {} from {} to {}", format.data_block_sectors,
                    min_data_block_sectors, min_data_block_sectors, max_data_block_sectors);
    if (format.data_blocks > max_data_blocks)
        return fail(ErrorKind::usage, "{} data blocks: at most {} are possible", format.data_blocks, max_data_blocks);
    // Bitmaps, their index tree, the roots of five trees, the metadata map, and what the first commits need beside all that.
    std::uint64_t bitmaps = pdata::bitmaps_for(format.data_blocks);
    std::uint64_t needed = bitmaps + bitmaps / 64 + device.size() / metadata_block_bytes / pdata::entries_per_bitmap + 2 * path_cost;
    if (device.size() / metadata_block_bytes < needed)
        return fail(ErrorKind::no_space, "{}: {} metadata blocks are too few for {} data blocks, which need {}", device.name(),
                    device.size() / metadata_block_bytes, format.data_blocks, needed);
    auto core = std::make_unique<Core>(device, Options{.read_only = false, .cache_bytes = format.cache_bytes});
    TRY(core->format(format));
    return std::unique_ptr<ThinMetadata>(new ThinMetadata(std::move(core)));
}

Result<std::unique_ptr<ThinMetadata>> ThinMetadata::open(BlockDevice& device, const Options& options) {
    auto core = std::make_unique<Core>(device, options);
    TRY(core->open());
    return std::unique_ptr<ThinMetadata>(new ThinMetadata(std::move(core)));
}

std::uint32_t ThinMetadata::data_block_sectors() const { return core_->committed.data_block_sectors; }
std::uint64_t ThinMetadata::transaction_id() const { return core_->current.transaction_id; }
std::uint32_t ThinMetadata::time() const { return core_->current.time; }
bool ThinMetadata::read_only() const { return core_->read_only; }
Result<void> ThinMetadata::set_read_only(bool read_only) {
    assert(!core_->changed);
    if (core_->read_only && !read_only) {
        TRY_WITHIN(core_->device.name(), Superblock::unpack(core_->superblock_block.bytes(), true));
        core_->read_only = false;
        if (auto loaded = core_->load_maps(); !loaded) {
            core_->read_only = true;
            return loaded;
        }
    }
    core_->read_only = read_only;
    return {};
}

bool ThinMetadata::needs_check() const { return core_->committed.needs_check(); }

Result<void> ThinMetadata::set_transaction_id(std::uint64_t old_id, std::uint64_t new_id) {
    if (old_id != transaction_id())
        return fail(ErrorKind::refused, "the pool's transaction id is {}, not {}", transaction_id(), old_id);
    return core_->change(path_cost, [&]() -> Result<void> {
        core_->current.transaction_id = new_id;
        return {};
    });
}

Result<void> ThinMetadata::create_thin(ThinId id) {
    if (id.value() > max_thin_id)
        return fail(ErrorKind::usage, "{}: the highest id is {}", describe(id), max_thin_id);
    MappingValue value;
    if (TRY(core_->devices.lookup(core_->current.data_mapping_root, id.value(), value.data())))
        return fail(ErrorKind::exists, "{} exists already", describe(id));
    return core_->change(path_cost, [&]() -> Result<void> {
        DeviceDetails details{.transaction_id = transaction_id(), .creation_time = time(), .snapshotted_time = time()};
        MetadataBlock root = TRY(core_->mappings.create(core_->manager));
        TRY(core_->devices.insert(core_->manager, core_->current.data_mapping_root, id.value(), pack(root.value()).data()));
        TRY(core_->details.insert(core_->manager, core_->current.device_details_root, id.value(), pack(details).data()));
        core_->known[id] = Device{.root = root, .details = details};
        return {};
    });
}

Result<void> ThinMetadata::create_snapshot(ThinId id, ThinId origin) {
    if (id.value() > max_thin_id)
        return fail(ErrorKind::usage, "{}: the highest id is {}", describe(id), max_thin_id);
    MappingValue value;
    if (TRY(core_->devices.lookup(core_->current.data_mapping_root, id.value(), value.data())))
        return fail(ErrorKind::exists, "{} exists already", describe(id));
    Device* source = TRY(core_->find(origin));
    DeviceDetails* source_details = TRY(core_->details_of(origin, *source));
    if (time() == max_time)
        return fail(ErrorKind::refused, "the pool's time has reached {}, its limit: no more snapshots are possible", max_time);
    return core_->change(2 * path_cost, [&]() -> Result<void> {
        TRY(core_->own(origin, *source));
        ++core_->current.time;
        TRY(core_->manager.increment(source->root));
        DeviceDetails details{.mapped_blocks = source_details->mapped_blocks,
                              .transaction_id = transaction_id(),
                              .creation_time = time(),
                              .snapshotted_time = time()};
        TRY(core_->devices.insert(core_->manager, core_->current.data_mapping_root, id.value(), pack(source->root.value()).data()));
        TRY(core_->details.insert(core_->manager, core_->current.device_details_root, id.value(), pack(details).data()));
        source_details->snapshotted_time = time();
        source->details_changed = true;
        core_->known[id] = Device{.root = source->root, .details = details};
        return {};
    });
}

Result<RemoveProgress> ThinMetadata::remove_device(ThinId id, std::uint64_t budget) {
    Device* device = TRY(core_->find(id));
    DeviceDetails* details = TRY(core_->details_of(id, *device));
    TRY(core_->may_change());
    std::uint64_t nodes = 1;
    if (budget != 0) {
        nodes = TRY_WITHIN(describe(id), core_->mappings.exclusive_nodes(core_->manager, device->root, budget + 1));
        if (nodes > budget) {
            RemoveProgress progress = TRY(remove_range(id, VirtualBlock(0), VirtualBlock(max_virtual_blocks), budget));
            progress.done = false;  // the device itself remains
            return progress;
        }
    }
    return core_->change(core_->removal_cost(nodes), [&]() -> Result<RemoveProgress> {
        // Mapped blocks aren't counted one by one here: shared parts of the tree are let go unseen.
        core_->removed = true;
        RemoveProgress progress{.unmapped = details->mapped_blocks, .next = {}, .done = true};
        MetadataBlock root = device->root;
        TRY(core_->devices.update(core_->manager, core_->current.data_mapping_root, id.value(),
                                  [&](std::byte* value) { store_little<std::uint64_t>(value, root.value()); }));
        TRY_WITHIN(describe(id), core_->devices.remove(core_->manager, core_->current.data_mapping_root, id.value()));
        TRY(core_->details.remove(core_->manager, core_->current.device_details_root, id.value()));
        core_->known.erase(id);
        return progress;
    });
}

Result<DeviceDetails> ThinMetadata::details(ThinId id) { return *TRY(core_->details_of(id, *TRY(core_->find(id)))); }

Result<std::vector<DeviceEntry>> ThinMetadata::devices(ThinId first, std::size_t max) {
    std::vector<DeviceEntry> entries;
    for (std::uint64_t at = first.value(); entries.empty() && at <= max_thin_id && max > 0;)
        at = TRY(core_->details.walk(core_->current.device_details_root, at, [&](std::uint64_t key, const std::byte* value) {
            if (key > max_thin_id)
                return false;
            DeviceEntry& entry = entries.emplace_back(ThinId(static_cast<std::uint32_t>(key)), unpack_details(value));
            if (auto found = core_->known.find(entry.id); found != core_->known.end() && found->second.details)
                entry.details = *found->second.details;
            return entries.size() < max;
        }));
    return entries;
}

Result<std::optional<BlockTime>> ThinMetadata::lookup(ThinId id, VirtualBlock block) {
    Device* device = TRY(core_->find(id));
    MappingValue value;
    if (!TRY_WITHIN(describe(id), core_->mappings.lookup(device->root, block.value(), value.data())))
        return std::nullopt;
    return unpack_mapping(value.data());
}

Result<VirtualBlock> ThinMetadata::lookup_range(ThinId id, VirtualBlock first, VirtualBlock end, std::size_t max,
                                                std::vector<Mapping>& mappings) {
    Device* device = TRY(core_->find(id));
    if (max == 0 || first >= end)
        return first;
    bool complete = false;
    std::size_t found = 0;
    auto visit = [&](std::uint64_t key, const std::byte* value) {
        complete = key >= end.value();
        if (complete)
            return false;
        mappings.push_back({VirtualBlock(key), unpack_mapping(value)});
        return ++found < max;
    };
    // A leaf without a key in the range says nothing about the end of the walk; walk() does.
    std::uint64_t next = TRY_WITHIN(describe(id), core_->mappings.walk(device->root, first.value(), visit));
    return complete ? end : std::min(end, VirtualBlock(next));
}

Result<std::optional<Mapping>> ThinMetadata::next_mapped(ThinId id, VirtualBlock block) {
    Device* device = TRY(core_->find(id));
    MappingValue value;
    auto key = TRY_WITHIN(describe(id), core_->mappings.next(device->root, block.value(), value.data()));
    if (!key)
        return std::nullopt;
    return Mapping{VirtualBlock(*key), unpack_mapping(value.data())};
}

Result<std::optional<VirtualBlock>> ThinMetadata::highest_mapped(ThinId id) {
    Device* device = TRY(core_->find(id));
    MappingValue value;
    auto key = TRY_WITHIN(describe(id), core_->mappings.last(device->root, value.data()));
    if (!key)
        return std::nullopt;
    return VirtualBlock(*key);
}

Result<DataBlock> ThinMetadata::allocate_data_block() {
    TRY(core_->may_change());
    return core_->data_map.reserve();
}

void ThinMetadata::release_data_block(DataBlock block) { core_->data_map.unreserve(block); }

Result<BlockTime> ThinMetadata::insert(ThinId id, VirtualBlock block, DataBlock data_block) {
    TRY(core_->may_change());
    if (block.value() >= max_virtual_blocks)
        return fail(ErrorKind::usage, "{}: block {} lies beyond what a device can have", describe(id), block);
    Device* device = TRY(core_->find(id));
    DeviceDetails* details = TRY(core_->details_of(id, *device));
    std::optional<BlockTime> old = TRY(lookup(id, block));
    const bool same = old && old->block == data_block;
    if (!same && !core_->data_map.is_reserved(data_block))
        return fail(ErrorKind::usage, "{}: data block {} for block {} wasn't allocated for it", describe(id), data_block, block);
    const BlockTime mapping{data_block, time()};
    const MappingValue value = pack(mapping.packed());
    const std::uint64_t cost = TRY_WITHIN(describe(id), core_->sharing(id, *device, block)).cost;
    return core_->change(cost, [&]() -> Result<BlockTime> {
        TRY(core_->own(id, *device));
        device->root_changed = true;
        if (same) {
            TRY(core_->mappings.update(core_->manager, device->root, block.value(),
                                       [&](std::byte* place) { std::memcpy(place, value.data(), value.size()); }));
            return mapping;
        }
        if (old)
            core_->replaced.insert(block.value());
        TRY(core_->data_map.take(core_->manager, data_block));
        if (TRY(core_->mappings.insert(core_->manager, device->root, block.value(), value.data()))) {
            ++details->mapped_blocks;
            device->details_changed = true;
        }
        return mapping;
    });
}

Result<bool> ThinMetadata::data_block_is_exclusive(ThinId id, VirtualBlock block) {
    Device* device = TRY(core_->find(id));
    std::optional<BlockTime> mapping = TRY(lookup(id, block));
    if (!mapping)
        return fail(ErrorKind::not_found, "{}: block {} isn't mapped", describe(id), block);
    if (core_->removed || core_->replaced.contains(block.value()))
        return false;
    // While a node of the path has another referrer, the data block's count doesn't know of that one yet.
    if (auto [shared, cost] = TRY_WITHIN(describe(id), core_->sharing(id, *device, block)); shared)
        TRY(core_->change(cost, [&]() -> Result<void> {
            TRY(core_->own(id, *device));
            device->root_changed = true;
            TRY(core_->mappings.update(core_->manager, device->root, block.value(), [](std::byte*) {}));
            return {};
        }));
    return TRY(core_->data_map.count(mapping->block)) == 1;
}

Result<RemoveProgress> ThinMetadata::remove_range(ThinId id, VirtualBlock first, VirtualBlock end, std::uint64_t budget) {
    Device* device = TRY(core_->find(id));
    DeviceDetails* details = TRY(core_->details_of(id, *device));
    TRY(core_->may_change());
    RemoveProgress progress{.unmapped = 0, .next = first, .done = false};
    for (std::uint64_t leaves = 0;; ++leaves) {
        std::optional<Mapping> found;
        if (progress.next < end)
            found = TRY(next_mapped(id, progress.next));
        if (!found || found->virtual_block >= end) {
            progress.next = std::max(first, end);
            progress.done = true;
            return progress;
        }
        progress.next = found->virtual_block;
        if (budget != 0 && leaves == budget)
            return progress;
        std::uint64_t cost = core_->removal_cost(1);
        if (auto room = core_->has_room(cost); !room && leaves > 0)
            return progress;  // the next call says why
        progress.unmapped += TRY(core_->change(cost, [&]() -> Result<std::uint64_t> {
            core_->removed = true;
            TRY(core_->own(id, *device));
            device->root_changed = device->details_changed = true;
            auto removal =
                TRY_WITHIN(describe(id), core_->mappings.remove_range(core_->manager, device->root, progress.next.value(), end.value(), 1));
            if (removal.removed > details->mapped_blocks)
                return fail(ErrorKind::damaged, "{}: more blocks are mapped than its details say", describe(id));
            details->mapped_blocks -= removal.removed;
            progress.next = VirtualBlock(removal.next);
            return removal.removed;
        }));
    }
}

Result<std::uint32_t> ThinMetadata::data_block_references(DataBlock block) { return core_->data_map.count(block); }

// --- The metadata snapshot ---

Result<void> ThinMetadata::reserve_metadata_snapshot() {
    if (held_root() != MetadataBlock(0))
        return fail(ErrorKind::exists, "{} has a metadata snapshot already, at {}", core_->device.name(), held_root());
    return core_->change(path_cost, [&]() -> Result<void> {
        TRY(core_->write_devices());
        Superblock held = core_->current;
        held.data_space_map_root = {};
        held.metadata_space_map_root = {};
        BlockRef block = TRY(core_->manager.create(BlockKind::superblock));
        held.pack({block.writable(), metadata_block_bytes}, block.location());
        TRY(core_->manager.increment(held.data_mapping_root));
        TRY(core_->manager.increment(held.device_details_root));
        core_->current.held_root = block.location();
        return {};
    });
}

Result<void> ThinMetadata::release_metadata_snapshot() {
    MetadataBlock location = held_root();
    if (location == MetadataBlock(0))
        return fail(ErrorKind::not_found, "{} has no metadata snapshot", core_->device.name());
    Superblock held;
    {
        BlockRef block = TRY_WITHIN("metadata snapshot", core_->cache.read(location, BlockKind::superblock));
        held = TRY_WITHIN("metadata snapshot", Superblock::unpack({block.bytes(), metadata_block_bytes}, true, location));
    }
    return core_->change(core_->removal_cost(1), [&]() -> Result<void> {
        TRY(core_->devices.drop(core_->manager, held.data_mapping_root));
        TRY(core_->details.drop(core_->manager, held.device_details_root));
        TRY(core_->manager.decrement(location));
        core_->current.held_root = MetadataBlock(0);
        return {};
    });
}

MetadataBlock ThinMetadata::held_root() const { return core_->current.held_root; }

// --- Room ---

BlockCounts ThinMetadata::data_counts() const { return {core_->data_map.blocks(), core_->data_map.free()}; }
BlockCounts ThinMetadata::metadata_counts() const { return {core_->metadata_map.blocks(), core_->metadata_map.allocatable()}; }
std::uint64_t ThinMetadata::allocatable() const { return core_->data_map.allocatable(); }
std::uint64_t ThinMetadata::pending_free() const { return core_->data_map.freed_in_transaction(); }
std::uint64_t ThinMetadata::quarantined() const { return core_->data_map.quarantined(); }

std::uint64_t ThinMetadata::metadata_reserve() const { return std::min<std::uint64_t>(4096, core_->metadata_map.blocks() / 10); }

std::uint64_t ThinMetadata::metadata_low_watermark() const { return std::min<std::uint64_t>(1024, core_->metadata_map.blocks() / 4); }

Result<void> ThinMetadata::grow_data(std::uint64_t data_blocks) {
    std::uint64_t now = core_->data_map.blocks();
    if (data_blocks < now || data_blocks > max_data_blocks)
        return fail(ErrorKind::usage, "{} data blocks: there are {}, and can be {}", data_blocks, now, max_data_blocks);
    if (data_blocks == now)
        return {};
    std::uint64_t bitmaps = pdata::bitmaps_for(data_blocks) - core_->data_map.bitmaps();
    return core_->change(bitmaps + bitmaps / 64 + path_cost, [&] { return core_->data_map.extend(core_->manager, data_blocks); });
}

Result<std::uint64_t> ThinMetadata::grow_metadata() {
    std::uint64_t blocks = std::min(core_->device.size() / metadata_block_bytes, max_metadata_blocks);
    if (blocks <= core_->metadata_map.blocks())
        return core_->metadata_map.blocks();
    return core_->change(0, [&]() -> Result<std::uint64_t> {
        TRY(core_->metadata_map.extend(blocks));
        return blocks;
    });
}

// --- Transactions ---

bool ThinMetadata::changed() const { return core_->changed; }
bool ThinMetadata::must_abort() const { return core_->must_abort; }

Result<void> ThinMetadata::commit(IoQueue& queue, std::span<BlockDevice* const> data_leaves) { return core_->commit(queue, data_leaves); }

Result<void> ThinMetadata::commit(std::span<BlockDevice* const> data_leaves) {
    return core_->commit(*TRY(make_plain_queue()), data_leaves);
}

Result<void> ThinMetadata::abort() {
    core_->must_abort = true;
    core_->forget_devices();
    core_->cache.clear();
    core_->current = core_->committed;
    if (core_->superblock_in_doubt)
        TRY(core_->write_superblock(*TRY(make_plain_queue()), core_->committed));
    TRY(core_->load_maps());
    core_->replaced.clear();
    core_->changed = core_->removed = core_->must_abort = false;
    return {};
}

Result<void> ThinMetadata::set_needs_check() {
    if (core_->read_only || core_->changed)
        return fail(ErrorKind::refused, "{}: {}", core_->device.name(),
                    core_->read_only ? "open for reading only" : "a transaction is open");
    core_->committed.flags |= Superblock::needs_check_flag;
    core_->current.flags |= Superblock::needs_check_flag;
    return core_->write_superblock(*TRY(make_plain_queue()), core_->committed);
}

pdata::BlockSet ThinMetadata::take_freed() { return core_->data_map.take_freed(); }
Result<DataBlock> ThinMetadata::quarantine_free(DataBlock from, std::uint64_t most, pdata::BlockSet& blocks) {
    return core_->data_map.quarantine_free(from, most, blocks);
}
void ThinMetadata::make_reusable(const pdata::BlockSet& blocks) { core_->data_map.make_reusable(blocks); }

}  // namespace lamella::thin
