// SPDX-License-Identifier: Apache-2.0
#include "tools/shrink.h"

#include "pdata/block_set.h"
#include "tools/check.h"
#include "tools/volume_trees.h"
#include "tools/xml_parser.h"

namespace lamella::tools {

namespace {

Result<void> check_new_size(std::uint64_t data_blocks, std::uint64_t old_data_blocks) {
    if (data_blocks == 0)
        return fail(ErrorKind::usage, "a pool has one data block at least");
    if (data_blocks >= old_data_blocks)
        return fail(ErrorKind::usage, "the pool has {} data blocks, and is to have {}: it doesn't become smaller", old_data_blocks,
                    data_blocks);
    return {};
}

Result<void> check_data_size(const BlockDevice& data, const ShrinkReport& report) {
    const std::uint64_t room = data.size() / (report.data_block_sectors * sector_bytes);
    if (room < report.old_data_blocks)
        return fail(ErrorKind::usage, "{} has room for {} data blocks, the pool has {}", data.name(), room, report.old_data_blocks);
    return {};
}

// Takes runs of blocks in ascending order, and remembers them and what is between: those on one side of a boundary of the ones, those on
// the other of the others.
class Halves {
  public:
    Halves(std::uint64_t end, std::uint64_t total) : end_(end), total_(total) {}

    void add_free(std::uint64_t begin, std::uint64_t end) {
        add(used_, next_, begin, end_, total_);
        add(free_, begin, end, 0, end_);
        next_ = end;
    }
    Result<DataMoves> plan() {
        add(used_, next_, total_, end_, total_);
        return DataMoves::plan(used_, free_);
    }

  private:
    static void add(std::vector<DataRange>& ranges, std::uint64_t begin, std::uint64_t end, std::uint64_t lower, std::uint64_t upper) {
        begin = std::max(begin, lower);
        end = std::min(end, upper);
        if (begin < end)
            ranges.push_back({DataBlock(begin), DataBlock(end)});
    }

    std::uint64_t end_;
    std::uint64_t total_;
    std::uint64_t next_ = 0;
    std::vector<DataRange> used_;  // from end_ on
    std::vector<DataRange> free_;  // before it
};

// Which data blocks a dump maps.
class UseCollector final : public PoolVisitor {
  public:
    Result<void> superblock_begin(const PoolHeader& header) override {
        header_ = header;
        return {};
    }
    Result<void> superblock_end() override { return {}; }
    Result<void> definition_begin(DefinitionId) override { return {}; }
    Result<void> definition_end() override { return {}; }
    Result<void> device_begin(const DeviceHeader&) override { return {}; }
    Result<void> device_end() override { return {}; }
    Result<void> map(std::span<const Mapping> mappings) override {
        for (const Mapping& mapping : mappings)
            for (std::uint64_t block = 0; block < mapping.length; ++block)
                used_.insert(mapping.data_begin.value() + block);
        return {};
    }
    Result<void> reference(DefinitionId) override { return {}; }

    const PoolHeader& header() const { return header_; }
    const pdata::BlockSet& used() const { return used_; }

  private:
    PoolHeader header_;
    pdata::BlockSet used_;
};

// Hands a pool's contents on, with its data blocks where they are afterwards.
class Mover final : public PoolVisitor {
  public:
    Mover(PoolVisitor& next, const DataMoves& moves, std::uint64_t data_blocks) : next_(next), moves_(moves), data_blocks_(data_blocks) {}

    Result<void> superblock_begin(const PoolHeader& header) override {
        PoolHeader changed = header;
        changed.data_blocks = data_blocks_;
        return next_.superblock_begin(changed);
    }
    Result<void> superblock_end() override { return next_.superblock_end(); }
    Result<void> definition_begin(DefinitionId id) override { return next_.definition_begin(id); }
    Result<void> definition_end() override { return next_.definition_end(); }
    Result<void> device_begin(const DeviceHeader& header) override { return next_.device_begin(header); }
    Result<void> device_end() override { return next_.device_end(); }
    Result<void> map(std::span<const Mapping> mappings) override {
        moved_.clear();
        for (const Mapping& mapping : mappings)
            for (std::uint64_t at = 0; at < mapping.length;) {
                const DataMove part = moves_.move(mapping.data_begin + at, mapping.length - at);
                moved_.push_back({mapping.virtual_begin + at, part.to, part.length, mapping.time});
                at += part.length;
            }
        return next_.map(moved_);
    }
    Result<void> reference(DefinitionId id) override { return next_.reference(id); }

  private:
    PoolVisitor& next_;
    const DataMoves& moves_;
    std::uint64_t data_blocks_;
    std::vector<Mapping> moved_;
};

}  // namespace

Result<std::unique_ptr<Shrink>> Shrink::plan(BlockDevice& metadata, std::uint64_t data_blocks, const Control& control) {
    const thin::Superblock superblock = TRY(read_superblock(metadata));
    const std::uint64_t total = pdata::SpaceMapRoot::unpack(superblock.data_space_map_root.data()).blocks;
    TRY_WITHIN(metadata.name(), check_new_size(data_blocks, total));
    Halves halves(data_blocks, total);
    const CheckReport report = TRY(tools::check(
        metadata, {.free_data = [&](DataRange range) { halves.add_free(range.begin.value(), range.end.value()); }, .control = control}));
    if (report.grade > Severity::leak)
        return fail(ErrorKind::damaged, "{}: nothing was changed: {}", metadata.name(), report.findings.front().to_text());
    std::unique_ptr<Shrink> shrink(new Shrink);
    shrink->moves_ = TRY_WITHIN(metadata.name(), halves.plan());
    shrink->source_ = TRY(Repair::plan(metadata, {}, control));
    if (shrink->source_->report().damaged)
        return fail(ErrorKind::damaged, "{}: nothing was changed: not all of the metadata can be read", metadata.name());
    shrink->report_ = {.old_data_blocks = total,
                       .data_blocks = data_blocks,
                       .data_block_sectors = superblock.data_block_sectors,
                       .moved_blocks = shrink->moves_.blocks(),
                       .runs = shrink->moves_.runs().size(),
                       .metadata_snapshot_dropped = shrink->source_->report().metadata_snapshot_dropped};
    return shrink;
}

Result<void> Shrink::check(const BlockDevice& data, const BlockDevice& output) const {
    TRY(source_->check_room(output));
    return check_data_size(data, report_);
}

Result<void> Shrink::write(BlockDevice* data, BlockDevice& output, const Control& control) {
    TRY(source_->check_room(output));
    if (data != nullptr) {
        TRY(check_data_size(*data, report_));
        TRY(moves_.copy(*data, report_.data_block_sectors * sector_bytes, control));
    }
    const DataPlacement placement{.data_blocks = report_.data_blocks, .place = [&](DataBlock block) { return moves_.move(block, 1).to; }};
    return source_->write(output, control, &placement);
}

Result<ShrinkReport> shrink_xml(const OpenText& input, std::uint64_t data_blocks, BlockDevice* data, PoolVisitor& output,
                                const Control& control) {
    UseCollector collector;
    TRY(parse_pool_xml(*TRY(input()), {}, collector, control));
    const PoolHeader& header = collector.header();
    TRY(check_new_size(data_blocks, header.data_blocks));
    Halves halves(data_blocks, header.data_blocks);
    std::uint64_t next = 0;
    collector.used().for_each_run([&](std::uint64_t first, std::uint64_t length) {
        if (first > next)
            halves.add_free(next, first);
        next = first + length;
    });
    if (next < header.data_blocks)
        halves.add_free(next, header.data_blocks);
    const DataMoves moves = TRY(halves.plan());
    const ShrinkReport report{.old_data_blocks = header.data_blocks,
                              .data_blocks = data_blocks,
                              .data_block_sectors = header.data_block_sectors,
                              .moved_blocks = moves.blocks(),
                              .runs = moves.runs().size()};
    if (data != nullptr) {
        TRY(check_data_size(*data, report));
        TRY(moves.copy(*data, report.data_block_sectors * sector_bytes, control));
    }
    Mover mover(output, moves, data_blocks);
    TRY(parse_pool_xml(*TRY(input()), {}, mover, control));
    return report;
}

}  // namespace lamella::tools
