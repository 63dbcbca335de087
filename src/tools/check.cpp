// SPDX-License-Identifier: Apache-2.0
#include "tools/check.h"

#include <algorithm>

#include "pdata/bitmap.h"
#include "pdata/metadata_space_map.h"
#include "thin/metadata.h"
#include "thin/superblock.h"
#include "tools/block_table.h"
#include "tools/data_block_counts.h"
#include "tools/mapping_forest.h"
#include "tools/metadata_reader.h"
#include "tools/space_map_check.h"
#include "tools/space_map_writer.h"
#include "tools/volume_trees.h"

namespace lamella::tools {

namespace {

using pdata::Node;
using pdata::SpaceMapRoot;
using thin::Superblock;

constexpr std::uint64_t time_mask = thin::max_time;

class Checker {
  public:
    Checker(BlockDevice& device, const CheckOptions& options) : device_(device), options_(options) {}

    Result<CheckReport> run() {
        TRY(check_all());
        report_.grade = report_.grade_after = findings_.worst();
        report_.finding_count = findings_.count();
        report_.findings = findings_.take();
        return std::move(report_);
    }

    // Of the findings that aren't the space maps'.
    Severity worst_elsewhere() const { return worst_elsewhere_; }

  private:
    Result<void> check_all();
    bool check_superblock();
    Result<std::optional<Superblock>> check_held_superblock();
    Result<bool> walk_volumes(const Superblock& superblock, bool held, VolumeEntries& volumes);
    void check_details(const Superblock& superblock, const VolumeEntries& volumes, bool held, bool whole);
    Result<void> walk_mappings(const VolumeEntries& volumes, bool live);
    Result<void> visit_leaves(const MetadataBlockSet& leaves, bool live);
    Result<void> find_unsafe_users(const MetadataBlockSet& leaves);
    void check_mapped_blocks(const VolumeEntries& volumes, bool held);
    Result<void> check_space_maps();
    void tell_free_data();
    Result<void> mend();
    Result<void> write_superblock(const Superblock& superblock);

    void add(Severity severity, std::string text, std::optional<std::uint64_t> volume = std::nullopt, bool held = false) {
        Finding finding{.severity = severity, .text = std::move(text), .in_metadata_snapshot = held};
        if (volume && *volume <= UINT32_MAX)
            finding.volume = ThinId(static_cast<std::uint32_t>(*volume));
        else if (volume)
            finding.text = fmt::format("volume {}: {}", *volume, finding.text);
        findings_.add(std::move(finding));
    }

    BlockDevice& device_;
    const CheckOptions& options_;
    CheckReport report_;
    Findings findings_;
    AlignedBuffer superblock_bytes_{pdata::block_bytes};
    Superblock superblock_;
    SpaceMapRoot data_root_;
    SpaceMapRoot metadata_root_;
    std::unique_ptr<MetadataReader> reader_;
    std::unique_ptr<BlockTable> table_;
    std::unique_ptr<MappingForest> forest_;
    std::unique_ptr<DataBlockCounts> counts_;
    bool data_size_known_ = false;
    bool complete_ = true;           // every reference could be counted
    bool superblock_sound_ = false;  // all of its fields, so that it can be written again
    Severity worst_elsewhere_ = Severity::note;
    SpaceMapComparison data_map_;
    SpaceMapComparison metadata_map_;
};

Result<void> Checker::check_all() {
    if (device_.size() < pdata::block_bytes)
        return fail(ErrorKind::damaged, "{}: {} bytes are too few for a pool's metadata", device_.name(), device_.size());
    TRY_WITHIN(fmt::format("{}: reading the superblock", device_.name()), read_now(device_, 0, superblock_bytes_.bytes()));
    if (!check_superblock())
        return {};
    if (options_.scope == CheckOptions::Scope::superblock && !options_.metadata_snapshot)
        return mend();

    reader_ = TRY(MetadataReader::start(device_, {.threads = options_.threads}));
    table_ = TRY(BlockTable::create(reader_->blocks()));
    forest_ = std::make_unique<MappingForest>(*reader_, *table_);
    table_->claim(MetadataBlock(0), BlockUse::superblock);
    table_->refer(MetadataBlock(0));
    counts_ = TRY(DataBlockCounts::create(data_size_known_ ? data_root_.blocks : 0));
    const bool mappings = options_.scope == CheckOptions::Scope::everything;

    VolumeEntries volumes;
    if (!options_.metadata_snapshot) {
        bool whole = TRY(walk_volumes(superblock_, false, volumes));
        check_details(superblock_, volumes, false, whole);
        for (const auto& [id, volume] : volumes)
            if (id <= UINT32_MAX)
                report_.volume_ids.emplace_back(static_cast<std::uint32_t>(id));
        if (mappings)
            TRY(walk_mappings(volumes, true));
    }
    VolumeEntries held_volumes;
    if (superblock_.held_root.value() != 0) {
        if (auto held = TRY(check_held_superblock())) {
            bool whole = TRY(walk_volumes(*held, true, held_volumes));
            check_details(*held, held_volumes, true, whole);
            if (mappings)
                TRY(walk_mappings(held_volumes, false));
        }
    } else if (options_.metadata_snapshot) {
        return fail(ErrorKind::not_found, "{} has no metadata snapshot", device_.name());
    }
    if (mappings) {
        TRY(forest_->add_up(options_.control));
        check_mapped_blocks(volumes, false);
        check_mapped_blocks(held_volumes, true);
        worst_elsewhere_ = findings_.worst();
        if (!options_.metadata_snapshot && !options_.mapping_root && !options_.details_root)
            TRY(check_space_maps());
    }
    worst_elsewhere_ = std::max(worst_elsewhere_, mappings ? Severity::note : findings_.worst());
    return mend();
}

// False: what it says of the rest can't be relied on.
bool Checker::check_superblock() {
    std::span<const std::byte> bytes = superblock_bytes_.bytes();
    if (thin::is_unformatted(bytes)) {
        add(Severity::needs_repair, "superblock: all zeros, so there is no pool's metadata here, or its superblock is lost");
        return false;
    }
    const bool sealed = pdata::verify_block(bytes, pdata::BlockKind::superblock, MetadataBlock(0)).has_value();
    // What allows reading only is no fault of the metadata, but nobody may write it who doesn't know it.
    const bool writes = options_.return_leaks || options_.rebuild_space_maps || options_.clear_needs_check;
    for (const Error& problem : Superblock::problems(bytes, writes))
        findings_.add({.severity = Severity::needs_repair, .text = problem.message(), .block = MetadataBlock(0)});
    superblock_ = Superblock::read_fields(bytes);
    // A wrong block number alone leaves the fields what they are.
    if (!sealed && !pdata::verify_block(bytes, pdata::BlockKind::superblock,
                                        MetadataBlock(load_little<std::uint64_t>(bytes.data() + sizeof(std::uint64_t)))))
        return false;
    if (options_.mapping_root)
        superblock_.data_mapping_root = *options_.mapping_root;
    if (options_.details_root)
        superblock_.device_details_root = *options_.details_root;
    report_.transaction_id = superblock_.transaction_id;
    report_.needs_check = superblock_.needs_check();
    if (report_.needs_check)
        add(Severity::note, "superblock: the pool asks to be checked (needs_check), and is read-only until the flag is cleared");

    data_root_ = SpaceMapRoot::unpack(superblock_.data_space_map_root.data());
    metadata_root_ = SpaceMapRoot::unpack(superblock_.metadata_space_map_root.data());
    const std::uint64_t device_blocks = device_.size() / pdata::block_bytes;
    if (metadata_root_.blocks > pdata::MetadataSpaceMap::max_blocks)
        add(Severity::needs_repair, fmt::format("superblock: {} metadata blocks, at most {} are possible", metadata_root_.blocks,
                                                pdata::MetadataSpaceMap::max_blocks));
    else if (metadata_root_.blocks > device_blocks && options_.scope != CheckOptions::Scope::superblock)
        add(Severity::needs_repair,
            fmt::format("superblock: {} metadata blocks, but the device has only {}", metadata_root_.blocks, device_blocks));
    report_.metadata_blocks = metadata_root_.blocks;
    report_.metadata_free = metadata_root_.blocks - std::min(metadata_root_.allocated, metadata_root_.blocks);
    data_size_known_ = can_count(device_blocks, data_root_.blocks);
    if (!data_size_known_ && options_.scope != CheckOptions::Scope::superblock)
        add(Severity::needs_repair, fmt::format("superblock: {} data blocks, more than this metadata can count", data_root_.blocks));
    report_.data_blocks = data_root_.blocks;
    report_.data_free = data_root_.blocks - std::min(data_root_.allocated, data_root_.blocks);
    superblock_sound_ = findings_.worst() == Severity::note;
    return true;
}

Result<std::optional<Superblock>> Checker::check_held_superblock() {
    MetadataBlock location = superblock_.held_root;
    auto damaged = [&](std::string text) {
        findings_.add({.severity = Severity::needs_repair, .text = std::move(text), .in_metadata_snapshot = true, .block = location});
        complete_ = false;
        return std::nullopt;
    };
    if (location.value() >= table_->blocks())
        return damaged("its superblock would lie beyond the end of the device");
    table_->refer(location);
    if (BlockUse use = table_->claim(location, BlockUse::superblock); use != BlockUse::superblock)
        return damaged(fmt::format("its superblock is used for {} as well", to_string(use)));
    AlignedBuffer bytes(pdata::block_bytes);
    if (auto read = reader_->read_block(location, pdata::BlockKind::superblock, bytes.bytes()); !read)
        return damaged(read.error().message());
    for (const Error& problem : Superblock::problems(bytes.bytes(), false, location))
        damaged(problem.message());
    return Superblock::read_fields(bytes.bytes());
}

// False: not all could be read.
Result<bool> Checker::walk_volumes(const Superblock& superblock, bool held, VolumeEntries& volumes) {
    bool whole = TRY(read_volumes(*reader_, *table_, superblock, held, findings_, options_.control, volumes));
    complete_ = complete_ && whole;
    return whole;
}

void Checker::check_details(const Superblock& superblock, const VolumeEntries& volumes, bool held, bool whole) {
    for (const auto& [id, volume] : volumes) {
        if (id > thin::max_thin_id)
            add(Severity::needs_repair, fmt::format("the highest id there can be is {}", thin::max_thin_id), id, held);
        // Where a tree is damaged, what is missing from it has been told.
        if (!volume.details && whole)
            add(Severity::needs_repair, "it has mappings, but no details", id, held);
        if (!volume.root && whole)
            add(Severity::needs_repair, "it has details, but no mappings", id, held);
        if (!volume.details)
            continue;
        const thin::DeviceDetails& details = *volume.details;
        if (details.transaction_id > superblock.transaction_id)
            add(Severity::needs_repair,
                fmt::format("made in transaction {}, but the pool's is {}", details.transaction_id, superblock.transaction_id), id, held);
        if (details.creation_time > superblock.time)
            add(Severity::needs_repair, fmt::format("made at time {}, but the pool's time is {}", details.creation_time, superblock.time),
                id, held);
        if (details.snapshotted_time > superblock.time)
            add(Severity::needs_repair,
                fmt::format("snapshotted at time {}, but the pool's time is {}", details.snapshotted_time, superblock.time), id, held);
    }
}

Result<void> Checker::walk_mappings(const VolumeEntries& volumes, bool live) {
    std::vector<ForestRoot> roots;
    std::uint32_t owner = 0;
    for (const auto& [id, volume] : volumes) {
        if (!volume.root)
            continue;
        ForestRoot root{.root = *volume.root, .count_reference = !volume.root_counted};
        if (live) {
            root.owner = ++owner;
            // Whose details are lost gets no blame for overwriting.
            root.snapshotted_time = volume.details ? volume.details->snapshotted_time : UINT32_MAX;
            root.marks = BlockRecord::live;
        }
        roots.push_back(root);
    }
    TRY(forest_->descend(roots, options_.control));
    TRY(visit_leaves(forest_->leaves(), live));
    // The metadata snapshot's own leaves protect nothing from being overwritten, so they aren't asked.
    if (live)
        TRY(find_unsafe_users(forest_->leaves()));
    return {};
}

Result<void> Checker::visit_leaves(const MetadataBlockSet& leaves, bool live) {
    const std::uint64_t data_blocks = counts_->blocks();
    const std::uint32_t pool_time = superblock_.time;
    return forest_->visit_leaves(
        leaves,
        [&, data_blocks, pool_time, live](unsigned, MetadataBlock location, const Node& leaf) {
            BlockRecord& record = (*table_)[location];
            const std::uint32_t entries = leaf.entries();
            const std::uint32_t least_snapshotted = live ? record.least_snapshotted() : UINT32_MAX;
            const bool shared = live && record.owner == BlockRecord::many_owners;
            record.mapped = entries;
            const std::byte* values = leaf.value(0);
            auto value_at = [values](std::uint32_t index) { return load_little<std::uint64_t>(values + std::size_t{index} * 8); };
            for (std::uint32_t index = 0; index < entries; ++index)
                if (std::uint64_t block = value_at(index) >> 24; block < data_blocks)
                    counts_->prefetch(DataBlock(block));
            bool odd = false;
            for (std::uint32_t index = 0; index < entries; ++index) {
                const std::uint64_t value = value_at(index);
                const std::uint64_t block = value >> 24;
                const auto time = static_cast<std::uint32_t>(value & time_mask);
                const bool in_place = time >= least_snapshotted;
                odd |= block >= data_blocks || time > pool_time || (in_place && shared);
                if (block < data_blocks)
                    counts_->add(DataBlock(block), in_place);
            }
            if (!odd)
                return;
            for (std::uint32_t index = 0; index < entries; ++index) {
                const thin::BlockTime where = thin::BlockTime::unpack(value_at(index));
                const std::uint64_t key = leaf.key(index);
                BlockTable::Fault::Keys keys{key, key};
                if (where.block.value() >= data_blocks && data_size_known_)
                    table_->add_fault(location, {.text = fmt::format("mapped to data block {}; the pool has {}", where.block, data_blocks),
                                                 .keys = keys});
                if (where.time > pool_time)
                    table_->add_fault(location, {.text = fmt::format("mapped at time {}, but the pool's time is {}: the next snapshot "
                                                                     "wouldn't be safe from changes",
                                                                     where.time, pool_time),
                                                 .keys = keys,
                                                 .severity = Severity::data_at_risk});
                else if (shared && where.time >= least_snapshotted)
                    table_->add_fault(location, {.text = fmt::format("several volumes share data block {}, mapped at time {}, and one of "
                                                                     "them, last snapshotted at time {}, would overwrite it in place",
                                                                     where.block, where.time, least_snapshotted),
                                                 .keys = keys,
                                                 .severity = Severity::data_at_risk});
            }
        },
        {.progress = live ? options_.control.progress : nullptr, .stop = options_.control.stop});
}

// Blocks that several leaves refer to, though one of these users would overwrite them in place: who the users are.
Result<void> Checker::find_unsafe_users(const MetadataBlockSet& leaves) {
    if (!counts_->has_shared())
        return {};
    bool any = false;
    counts_->for_each_shared([&](DataBlock block, std::uint64_t) { any = any || counts_->in_place(block); });
    if (!any)
        return {};
    return forest_->visit_leaves(
        leaves,
        [&](unsigned, MetadataBlock location, const Node& leaf) {
            const std::uint32_t least_snapshotted = (*table_)[location].least_snapshotted();
            for (std::uint32_t index = 0; index < leaf.entries(); ++index) {
                const thin::BlockTime where = thin::BlockTime::unpack(load_little<std::uint64_t>(leaf.value(index)));
                if (where.block.value() >= counts_->blocks() || !counts_->in_place(where.block) || counts_->count(where.block) < 2)
                    continue;
                std::string text =
                    where.time >= least_snapshotted
                        ? fmt::format(
                              "data block {}, mapped at time {}, is in use elsewhere too, but would be overwritten in place, as "
                              "the volume was last snapshotted at time {}",
                              where.block, where.time, least_snapshotted)
                        : fmt::format("data block {} is in use elsewhere too, where it would be overwritten in place", where.block);
                const std::uint64_t key = leaf.key(index);
                table_->add_fault(location, {.text = std::move(text), .keys = {{key, key}}, .severity = Severity::data_at_risk});
            }
        },
        {.stop = options_.control.stop});
}

void Checker::check_mapped_blocks(const VolumeEntries& volumes, bool held) {
    for (const auto& [id, volume] : volumes) {
        if (!volume.root)
            continue;
        const bool in_range = volume.root->value() != 0 && volume.root->value() < table_->blocks();
        const std::uint64_t mapped = in_range ? (*table_)[*volume.root].mapped : 0;
        const std::uint64_t faults = in_range ? (*table_)[*volume.root].faults : 1;
        const std::uint64_t expected = volume.details ? volume.details->mapped_blocks : mapped;
        if (faults == 0 && mapped == expected)
            continue;
        if (faults != 0) {
            forest_->trace_faults(*volume.root, [&, id = id](MappingForest::TreeFault fault) {
                // A fault of single mappings doesn't hide any reference.
                if (fault.severity < Severity::data_at_risk)
                    complete_ = false;
                Finding finding{
                    .severity = fault.severity, .text = std::move(fault.text), .in_metadata_snapshot = held, .range = fault.range};
                if (id <= UINT32_MAX)
                    finding.volume = ThinId(static_cast<std::uint32_t>(id));
                if (fault.block.value() != 0)
                    finding.block = fault.block;
                findings_.add(std::move(finding));
                return !findings_.full();
            });
        }
        if (mapped != expected)
            add(Severity::needs_repair, fmt::format("{} mapped blocks can be read, its details say {}", mapped, expected), id, held);
        report_.volumes.push_back({.id = ThinId(static_cast<std::uint32_t>(id)),
                                   .in_metadata_snapshot = held,
                                   .faults = faults,
                                   .mapped_blocks = mapped,
                                   .expected_blocks = expected});
    }
}

Result<void> Checker::check_space_maps() {
    if (data_size_known_)
        data_map_ = TRY(compare_data_space_map(*reader_, *table_, data_root_, *counts_, complete_, findings_, options_.control));
    metadata_map_ =
        TRY(compare_metadata_space_map(*reader_, *table_, metadata_root_, complete_ && data_map_.readable, findings_, options_.control));
    for (std::uint64_t block = metadata_root_.blocks; block < table_->blocks(); ++block)
        if ((*table_)[MetadataBlock(block)].references != 0) {
            findings_.add({.severity = Severity::data_at_risk,
                           .text = fmt::format("in use, but beyond the {} blocks that the metadata has", metadata_root_.blocks),
                           .block = MetadataBlock(block)});
            complete_ = false;
            break;
        }
    report_.leaked_data_blocks = data_map_.leaked;
    report_.leaked_metadata_blocks = metadata_map_.leaked;
    report_.overcounted_blocks = data_map_.too_high + metadata_map_.too_high;
    auto nothing_worse = [](const SpaceMapComparison& map) { return map.readable && map.too_low == 0 && !map.overflow_wrong; };
    report_.accounting_only = findings_.worst() != Severity::note && worst_elsewhere_ == Severity::note && complete_ &&
                              nothing_worse(data_map_) && nothing_worse(metadata_map_);
    if (options_.free_data && complete_ && findings_.worst() <= Severity::leak)
        tell_free_data();
    if (data_map_.readable)
        report_.data_free = data_root_.blocks - std::min(data_map_.used, data_root_.blocks);
    if (metadata_map_.readable)
        report_.metadata_free = metadata_root_.blocks - std::min(metadata_map_.used, metadata_root_.blocks);
    return {};
}

void Checker::tell_free_data() {
    std::optional<DataBlock> begin;
    for (std::uint64_t number = 0; number < counts_->blocks(); ++number) {
        const DataBlock block(number);
        if (begin && counts_->referenced(block)) {
            options_.free_data({*begin, block});
            begin.reset();
        } else if (!begin && !counts_->referenced(block)) {
            begin = block;
        }
    }
    if (begin)
        options_.free_data({*begin, DataBlock(counts_->blocks())});
}

Result<void> Checker::mend() {
    if (!superblock_sound_)
        return {};
    const bool counted = options_.scope == CheckOptions::Scope::everything && !options_.metadata_snapshot && !options_.mapping_root &&
                         !options_.details_root && complete_ && data_size_known_;
    const bool maps_sound = data_map_.sound() && metadata_map_.sound();
    const bool write_maps = counted && !maps_sound && (options_.rebuild_space_maps || (options_.return_leaks && report_.accounting_only));
    const bool sound_then =
        worst_elsewhere_ == Severity::note && (findings_.worst() <= Severity::leak || report_.accounting_only || write_maps);
    const bool clear = options_.clear_needs_check && report_.needs_check && sound_then;
    if (!write_maps && !clear)
        return {};
    if (options_.control.stopped())
        return Control::interrupted();

    Superblock superblock = Superblock::read_fields(superblock_bytes_.bytes());
    if (write_maps) {
        SpaceMapRoots roots = TRY(write_space_maps(device_, *table_, *counts_, metadata_root_.blocks));
        roots.data.pack(superblock.data_space_map_root.data());
        roots.metadata.pack(superblock.metadata_space_map_root.data());
        report_.space_maps_written = true;
    }
    if (clear) {
        superblock.flags &= ~Superblock::needs_check_flag;
        report_.needs_check_cleared = true;
    }
    return write_superblock(superblock);
}

// Only what the fields say is changed; the block's other bytes are kept.
Result<void> Checker::write_superblock(const Superblock& superblock) {
    superblock.pack(superblock_bytes_.bytes());
    TRY_WITHIN(device_.name(), flush_now(device_));
    TRY_WITHIN(fmt::format("{}: writing the superblock", device_.name()), write_now(device_, 0, superblock_bytes_.bytes()));
    TRY_WITHIN(device_.name(), flush_now(device_));
    return {};
}

}  // namespace

Result<CheckReport> check(BlockDevice& metadata, const CheckOptions& options) {
    Checker checker(metadata, options);
    CheckReport report = TRY(checker.run());
    if (!report.space_maps_written)
        return report;
    // It is done when it is seen to be.
    CheckOptions again = options;
    again.return_leaks = again.rebuild_space_maps = again.clear_needs_check = false;
    CheckReport after = TRY_WITHIN("checking again", check(metadata, again));
    if (after.grade > checker.worst_elsewhere())
        return fail(ErrorKind::damaged, "{}: the space maps were written anew, but then: {}", metadata.name(),
                    after.findings.front().to_text());
    report.grade_after = after.grade;
    report.metadata_free = after.metadata_free;
    report.data_free = after.data_free;
    return report;
}

}  // namespace lamella::tools
