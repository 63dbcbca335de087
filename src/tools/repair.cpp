// SPDX-License-Identifier: Apache-2.0
#include "tools/repair.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "base/endian.h"
#include "pdata/btree.h"
#include "pdata/metadata_space_map.h"
#include "tools/data_counts.h"
#include "tools/fresh_metadata.h"
#include "tools/tree_builder.h"
#include "tools/volume_trees.h"

namespace lamella::tools {

using pdata::block_bytes;
using pdata::BlockKind;
using pdata::entries_per_bitmap;
using pdata::Node;

namespace {

constexpr std::uint32_t pointer_bytes = 8;
constexpr std::uint32_t details_bytes = 24;
constexpr std::size_t index_header_bytes = 16;

// What is beyond the format's largest metadata stays unused.
std::uint64_t usable_blocks(const BlockDevice& device) {
    return std::min(device.size() / block_bytes, pdata::MetadataSpaceMap::max_blocks);
}

MetadataBlockSet all_blocks(std::uint64_t blocks) {
    MetadataBlockSet set(blocks);
    set.insert_all();
    return set;
}

// What the metadata space map's counts say is in use, and what they say nothing of.
MetadataBlockSet used_blocks(const MetadataCounts& counts) {
    MetadataBlockSet set(counts.blocks());
    for (MetadataBlock block(0); block.value() < counts.blocks(); ++block)
        if (counts[block] != 0)
            set.insert(block);
    return set;
}

// With the superblock the way to the metadata space map is lost, too. Its index is a block of a kind of its own: the one that has in use
// both the roots and itself is the one that belongs to them. None: there is no such, or several contradict each other.
Result<std::optional<MetadataCounts>> counts_of(NodeCatalog& catalog, const TreeRoots& roots) {
    std::optional<MetadataCounts> found;
    for (MetadataBlock block(1); block.value() < catalog.blocks(); ++block) {
        std::array<std::byte, block_bytes> bytes;
        if (catalog[block].block_class != BlockClass::space_map || !catalog.reader().read_block(block, BlockKind::index, bytes))
            continue;
        std::uint64_t bitmaps = 0;
        while (bitmaps < pdata::MetadataSpaceMap::max_bitmaps &&
               pdata::IndexEntry::unpack(bytes.data() + index_header_bytes + bitmaps * pdata::IndexEntry::disk_bytes).location != 0)
            ++bitmaps;
        pdata::SpaceMapRoot root;
        root.blocks = std::min(bitmaps * entries_per_bitmap, catalog.blocks());
        root.bitmap_root = block.value();
        MetadataCounts counts = MetadataCounts::read(catalog, root);
        const auto used = [&](MetadataBlock of) { return counts.known(of) && counts[of] > 0; };
        bool fits = used(block) && used(roots.devices) && used(roots.details);
        SalvageWalk devices(
            catalog, pointer_bytes,
            [&](std::uint64_t, const std::byte* value) {
                const MetadataBlock device(load_little<std::uint64_t>(value));
                fits = fits && (!counts.known(device) || counts[device] > 0);
            },
            [](MetadataBlock) { return true; }, [](KeyRange, MetadataBlock) {});
        devices.walk(roots.devices);
        if (!fits)
            continue;
        if (found)
            return std::nullopt;
        found = std::move(counts);
    }
    return found;
}

// With the superblock the way to a metadata snapshot is lost, too: it is the one copy of a superblock that is in use. 0: none.
MetadataBlock held_superblock(const NodeCatalog& catalog, const MetadataCounts& counts) {
    MetadataBlock found(0);
    for (MetadataBlock block(1); block.value() < catalog.blocks(); ++block)
        if (catalog[block].block_class == BlockClass::superblock && counts.known(block) && counts[block] > 0)
            found = block;
    return found;
}

}  // namespace

Repair::Repair(std::unique_ptr<MetadataReader> reader) : reader_(std::move(reader)), catalog_(*reader_), leaves_(reader_->blocks()) {}
Repair::~Repair() = default;

Result<std::unique_ptr<Repair>> Repair::plan(BlockDevice& input, const RepairOptions& options, const Control& control) {
    std::unique_ptr<Repair> repair(new Repair(TRY(MetadataReader::start(input, {}))));
    TRY(repair->decide(options, control));
    TRY(repair->count_nodes());
    return repair;
}

Result<void> Repair::decide(const RepairOptions& options, const Control& control) {
    if (options.data_blocks > thin::max_data_blocks)
        return fail(ErrorKind::usage, "{} data blocks, at most {} are possible", *options.data_blocks, thin::max_data_blocks);
    std::array<std::byte, block_bytes> bytes{};
    const bool readable = reader_->read_block(MetadataBlock(0), BlockKind::superblock, bytes).has_value();
    auto superblock = thin::Superblock::unpack(bytes, false);
    report_.superblock_lost = !readable || !superblock;
    if (superblock && superblock->incompatible_flags != 0)
        return std::unexpected(superblock.error());

    if (!report_.superblock_lost) {
        superblock_ = *superblock;
        report_.roots = {superblock_.data_mapping_root, superblock_.device_details_root};
        const auto data = pdata::SpaceMapRoot::unpack(superblock_.data_space_map_root.data());
        // A number that can't be counts as lost. It would make room for itself in the output.
        data_size_lost_ = !can_count(catalog_.blocks(), data.blocks);
        data_blocks_ = data_size_lost_ ? 0 : data.blocks;
        if (options.data_block_sectors && *options.data_block_sectors != superblock_.data_block_sectors)
            return fail(ErrorKind::usage, "a data block size of {} sectors is given; the superblock says {}", *options.data_block_sectors,
                        superblock_.data_block_sectors);
        counts_ = std::make_unique<MetadataCounts>(
            MetadataCounts::read(catalog_, pdata::SpaceMapRoot::unpack(superblock_.metadata_space_map_root.data())));
        TRY(catalog_.scan(counts_->complete() ? used_blocks(*counts_) : all_blocks(catalog_.blocks()), control));
    } else {
        TRY(catalog_.scan(all_blocks(catalog_.blocks()), control));
        const std::vector<RootCandidate> candidates = TRY(find_roots(catalog_));
        std::optional<thin::Superblock> copy;
        for (const RootCandidate& candidate : candidates)
            if (candidate.superblock && (!copy || copy->transaction_id < candidate.superblock->transaction_id))
                copy = candidate.superblock;
        if (copy) {
            superblock_ = *copy;
            report_.superblock_source = "the copy that a metadata snapshot has";
        }
        superblock_.held_root = MetadataBlock(0);
        superblock_.flags = 0;
        if (options.data_block_sectors) {
            superblock_.data_block_sectors = *options.data_block_sectors;
            report_.superblock_source = "what was given by hand";
        } else if (!copy) {
            return fail(ErrorKind::damaged,
                        "{}: the superblock is lost, and nothing else says what the data block size was: it has to be given",
                        reader_->device().name());
        }
        if (options.roots) {
            report_.roots = *options.roots;
        } else if (candidates.empty()) {
            return fail(ErrorKind::damaged, "{}: no compatible roots found", reader_->device().name());
        } else {
            report_.roots = candidates.front().roots;
            superblock_.time = std::max(superblock_.time, candidates.front().time);
            superblock_.transaction_id = std::max(superblock_.transaction_id, candidates.front().transaction_id);
        }
        auto counts = TRY(counts_of(catalog_, report_.roots));
        counts_ = std::make_unique<MetadataCounts>(counts ? std::move(*counts) : MetadataCounts(catalog_.blocks()));
    }
    if (options.roots)
        report_.roots = *options.roots;

    if (report_.superblock_lost)
        superblock_.held_root = held_superblock(catalog_, *counts_);

    SalvageInput input{.roots = report_.roots, .held_root = superblock_.held_root};
    if (!report_.superblock_lost) {
        const auto data = pdata::SpaceMapRoot::unpack(superblock_.data_space_map_root.data());
        if (!data_size_lost_ || options.data_blocks)
            input.data_blocks = std::max(data_blocks_, options.data_blocks.value_or(0));
        input.data_index_root = data.bitmap_root;
        input.data_overflow_root = data.overflow_root;
    } else if (options.data_blocks) {
        input.data_blocks = *options.data_blocks;
    }
    salvage_ = TRY(Salvage::start(catalog_, *counts_, input));
    if (salvage_->devices().empty() && salvage_->damaged())
        return fail(ErrorKind::damaged,
                    "{}: neither the tree of devices nor that of their details can be read; other roots can be listed and given",
                    reader_->device().name());

    superblock_.transaction_id = std::max(superblock_.transaction_id, options.transaction_id.value_or(0));
    superblock_.flags &= ~thin::Superblock::needs_check_flag;
    report_.damaged = salvage_->damaged() || report_.superblock_lost || data_size_lost_ || !counts_->complete();
    report_.metadata_snapshot_dropped = superblock_.held_root != MetadataBlock(0);
    superblock_.held_root = MetadataBlock(0);
    report_.unplaced = salvage_->unplaced();
    data_blocks_ = std::max(data_blocks_, options.data_blocks.value_or(0));
    for (const SalvagedDevice& device : salvage_->devices()) {
        RepairedVolume volume{.id = device.id};
        if (device.details)
            volume.recorded = device.details->mapped_blocks;
        volume.intact = device.mappings - device.recovered;
        volume.recovered = device.recovered;
        volume.by_older_tree = device.by_older_tree;
        volume.complete = device.complete;
        volume.lost = device.lost;
        report_.volumes.push_back(std::move(volume));
        superblock_.time = std::max(superblock_.time, device.max_time);  // no mapping may be later than the pool's time
        // Trees that aren't the superblock's may be of later transactions.
        if (device.details && (report_.superblock_lost || options.roots)) {
            superblock_.time = std::max(
                {superblock_.time, std::min(thin::max_time, std::max(device.details->creation_time, device.details->snapshotted_time))});
            superblock_.transaction_id = std::max(superblock_.transaction_id, device.details->transaction_id);
        }
        // An old copy of the details tells when volumes were origins no better than a lost one.
        doubt_snapshotted_times_ |= !device.details || device.unexplained;
    }
    // To treat a mapping as shared that isn't costs a copy; the other way round costs data.
    if (doubt_snapshotted_times_ && superblock_.time < thin::max_time)
        ++superblock_.time;
    return {};
}

// --- What is to be written ---

void Repair::reach(PlanNode node, std::uint8_t height) {
    if (inner_.size() < height)
        inner_.resize(height);
    inner_[height - 1].push_back(node);
}

Result<void> Repair::count_nodes() {
    source_references_.assign(catalog_.blocks(), 0);
    made_references_.assign(salvage_->made_nodes(), 0);
    struct Visit {
        PlanNode node;
        std::vector<PlanNode> children;
        std::size_t next = 0;
        std::uint8_t height = 0;
    };
    std::uint64_t empty_devices = 0;
    std::uint64_t max_value = 0;
    const auto refer = [&](PlanNode node) -> bool {  // the first time?
        std::uint32_t& count = node.is_made() ? made_references_[node.index()] : source_references_[node.source().value()];
        return ++count == 1;
    };
    const auto is_leaf = [&](PlanNode node) { return !node.is_made() && catalog_[node.source()].block_class == BlockClass::leaf; };
    const auto children = [&](PlanNode node) -> Result<std::vector<PlanNode>> {
        std::vector<PlanNode> nodes;
        if (node.is_made()) {
            for (const MadeNode::Child& child : salvage_->made(node).children)
                nodes.push_back(child.node);
            return nodes;
        }
        const Node inner(TRY(catalog_.inner(node.source())).data());
        for (std::uint32_t index = 0; index < inner.entries(); ++index)
            nodes.push_back(PlanNode::copy_of(inner.child(index)));
        return nodes;
    };
    std::unordered_map<std::uint32_t, std::uint8_t> made_heights;
    std::vector<std::uint8_t> source_heights(catalog_.blocks());
    for (const SalvagedDevice& device : salvage_->devices()) {
        if (!device.root) {
            ++empty_devices;
            continue;
        }
        std::vector<Visit> path;
        const auto enter = [&](PlanNode node) -> Result<void> {
            if (!refer(node))
                return {};
            if (is_leaf(node)) {
                leaves_.insert(node.source());
                max_value = std::max(max_value, catalog_[node.source()].max_value);
                return {};
            }
            path.push_back({node, TRY(children(node)), 0, 0});
            return {};
        };
        TRY(enter(*device.root));
        while (!path.empty()) {
            Visit& visit = path.back();
            if (visit.next < visit.children.size()) {
                const PlanNode child = visit.children[visit.next++];
                TRY(enter(child));
                continue;
            }
            // All below has its height now.
            const PlanNode first = visit.children.front();
            const std::uint8_t below = is_leaf(first)    ? std::uint8_t{0}
                                       : first.is_made() ? made_heights[static_cast<std::uint32_t>(first.index())]
                                                         : source_heights[first.source().value()];
            const auto height = static_cast<std::uint8_t>(below + 1);
            if (visit.node.is_made())
                made_heights[static_cast<std::uint32_t>(visit.node.index())] = height;
            else
                source_heights[visit.node.source().value()] = height;
            reach(visit.node, height);
            path.pop_back();
        }
    }
    std::uint64_t nodes = leaves_.count() + empty_devices;
    for (const auto& level : inner_)
        nodes += level.size();
    if (data_blocks_ == 0 && !leaves_.empty()) {
        data_blocks_ = thin::BlockTime::unpack(max_value).block.value() + 1;
        report_.data_blocks_by_mappings = data_blocks_;
    }

    const std::uint64_t devices = salvage_->devices().size();
    const std::uint64_t data_bitmaps = pdata::bitmaps_for(data_blocks_);
    std::uint64_t needed = 1 + nodes + tree_nodes(devices, pointer_bytes) + tree_nodes(devices, details_bytes) + data_bitmaps +
                           tree_nodes(data_bitmaps, pdata::IndexEntry::disk_bytes) + 1;
    std::uint64_t overflowing = static_cast<std::uint64_t>(
        std::ranges::count_if(source_references_, [](std::uint32_t count) { return count >= pdata::bitmap_overflow; }) +
        std::ranges::count_if(made_references_, [](std::uint32_t count) { return count >= pdata::bitmap_overflow; }));
    needed += tree_nodes(overflowing, sizeof(std::uint32_t)) + 1;
    needed += (needed + entries_per_bitmap - 2) / (entries_per_bitmap - 1);  // the bitmaps count themselves, too
    report_.metadata_blocks = needed;
    return {};
}

class Repair::Writer {
  public:
    Writer(Repair& repair, BlockDevice& output, const DataPlacement* placement) : repair_(repair), output_(output), placement_(placement) {}

    Result<void> run(const Control& control) {
        TRY(repair_.check_room(output_));
        const std::uint64_t blocks = usable_blocks(output_);
        const std::uint64_t data_blocks = placement_ != nullptr ? placement_->data_blocks : repair_.data_blocks_;
        TRY(begin_fresh_metadata(output_));
        stream_ = TRY(BlockStream::start(output_, MetadataBlock(1), MetadataBlock(blocks)));
        data_counts_.emplace(TRY_WITHIN(output_.name(), DataCounts::start(*stream_, data_blocks, blocks)));
        places_.assign(repair_.catalog_.blocks(), 0);
        made_places_.assign(repair_.salvage_->made_nodes(), 0);
        TRY(copy_leaves(control));
        for (const auto& level : repair_.inner_)
            for (const PlanNode node : level)
                TRY(write_inner(node));
        thin::Superblock superblock = repair_.superblock_;
        TRY(write_tops(superblock));
        superblock.metadata_blocks_at_creation = blocks;
        TRY(data_counts_->finish()).pack(superblock.data_space_map_root.data());
        TRY(write_metadata_space_map(*stream_, counts_, blocks)).pack(superblock.metadata_space_map_root.data());
        if (control.stopped())
            return Control::interrupted();
        return end_fresh_metadata(output_, *stream_, superblock);
    }

  private:
    // In the order in which they lie in the input; each thread brings what it read.
    Result<void> copy_leaves(const Control& control) {
        std::mutex mutex;
        Result<void> outcome;
        TRY(repair_.reader_->read_set(
            repair_.leaves_,
            [&](unsigned, const ReadBlock& block) {
                auto sound = block.verify(BlockKind::node);
                if (sound)
                    sound = pdata::verify_node(block.bytes.data());
                const std::lock_guard lock(mutex);
                if (outcome)
                    outcome = sound ? copy_leaf(block) : std::unexpected(sound.error().within(repair_.reader_->describe(block.location)));
            },
            control));
        return outcome;
    }

    Result<void> copy_leaf(const ReadBlock& block) {
        const Node node(block.bytes.data());
        const auto trimmed = repair_.salvage_->trimmed().find(block.location);
        bool whole = trimmed == repair_.salvage_->trimmed().end();
        keys_.clear();
        values_.clear();
        for (std::uint32_t index = 0; index < node.entries(); ++index)
            if (whole || (index < trimmed->second.size() && trimmed->second[index])) {
                keys_.push_back(node.key(index));
                values_.push_back(load_little<std::uint64_t>(node.value(index)));
            }
        if (placement_ != nullptr) {
            whole = false;
            for (std::uint64_t& value : values_) {
                const auto mapping = thin::BlockTime::unpack(value);
                value = thin::BlockTime{placement_->place(mapping.block), mapping.time}.packed();
            }
        }
        TRY(data_counts_->increment(values_));
        if (whole) {
            const BlockStream::Place place = TRY(stream_->next(BlockKind::node));
            std::memcpy(place.bytes, block.bytes.data(), block_bytes);
            note(PlanNode::copy_of(block.location), place.location);
            return {};
        }
        std::vector<std::byte> packed(values_.size() * pointer_bytes);
        for (std::size_t index = 0; index < values_.size(); ++index)
            store_little<std::uint64_t>(packed.data() + index * pointer_bytes, values_[index]);
        note(PlanNode::copy_of(block.location), TRY(write_node(*stream_, true, pointer_bytes, keys_, packed.data())));
        return {};
    }

    Result<void> write_inner(PlanNode node) {
        keys_.clear();
        values_.clear();
        if (node.is_made()) {
            for (const MadeNode::Child& child : repair_.salvage_->made(node).children) {
                keys_.push_back(child.key);
                values_.push_back(place_of(child.node));
            }
        } else {
            const Node source(TRY(repair_.catalog_.inner(node.source())).data());
            for (std::uint32_t index = 0; index < source.entries(); ++index) {
                keys_.push_back(source.key(index));
                values_.push_back(place_of(PlanNode::copy_of(source.child(index))));
            }
        }
        std::vector<std::byte> packed(values_.size() * pointer_bytes);
        for (std::size_t index = 0; index < values_.size(); ++index)
            store_little<std::uint64_t>(packed.data() + index * pointer_bytes, values_[index]);
        note(node, TRY(write_node(*stream_, false, pointer_bytes, keys_, packed.data())));
        return {};
    }

    Result<void> write_tops(thin::Superblock& superblock) {
        std::vector<FreshDevice> devices;
        for (const SalvagedDevice& device : repair_.salvage_->devices()) {
            FreshDevice& fresh = devices.emplace_back(FreshDevice{
                device.id,
                device.root ? MetadataBlock(place_of(*device.root)) : TRY(write_node(*stream_, true, pointer_bytes, {}, nullptr)),
                device.details.value_or(thin::DeviceDetails{
                    .transaction_id = superblock.transaction_id, .creation_time = superblock.time, .snapshotted_time = superblock.time})});
            fresh.details.mapped_blocks = device.mappings;
            if (repair_.doubt_snapshotted_times_ && fresh.details.snapshotted_time <= device.max_time)
                fresh.details.snapshotted_time = superblock.time;
        }
        return write_device_trees(*stream_, devices, superblock);
    }

    void note(PlanNode node, MetadataBlock place) {
        const std::uint32_t references =
            node.is_made() ? repair_.made_references_[node.index()] : repair_.source_references_[node.source().value()];
        (node.is_made() ? made_places_[node.index()] : places_[node.source().value()]) = static_cast<std::uint32_t>(place.value());
        if (counts_.size() <= place.value())
            counts_.resize(place.value() + 1, 1);
        counts_[place.value()] = references;
    }
    std::uint64_t place_of(PlanNode node) const { return node.is_made() ? made_places_[node.index()] : places_[node.source().value()]; }

    Repair& repair_;
    BlockDevice& output_;
    const DataPlacement* placement_;
    std::unique_ptr<BlockStream> stream_;
    std::optional<DataCounts> data_counts_;
    std::vector<std::uint32_t> places_;
    std::vector<std::uint32_t> made_places_;
    std::vector<std::uint32_t> counts_{1};
    std::vector<std::uint64_t> keys_;
    std::vector<std::uint64_t> values_;
};

Result<void> Repair::check_room(const BlockDevice& output) const {
    const std::uint64_t blocks = usable_blocks(output);
    // Bitmaps for the whole of the output, beyond those for what is needed.
    const std::uint64_t bitmaps = pdata::bitmaps_for(blocks);
    const std::uint64_t needed = report_.metadata_blocks + bitmaps - std::min(bitmaps, pdata::bitmaps_for(report_.metadata_blocks));
    if (blocks < needed)
        return fail(ErrorKind::no_space, "{} has {} metadata blocks; the new metadata takes {}", output.name(), blocks, needed);
    return {};
}

Result<void> Repair::write(BlockDevice& output, const Control& control, const DataPlacement* placement) {
    return Writer(*this, output, placement).run(control);
}

}  // namespace lamella::tools
