// SPDX-License-Identifier: Apache-2.0
//
// Repair of a pool's metadata: what can be saved of damaged metadata is written to another device, as sound metadata.
//
// Nodes that are sound are copied as they are, with the sharing that they have; only what stands above something that is missing is made
// anew. So a repair takes no more room than the input's own nodes do, and keeps times, ids and sharing exact. What is saved, and on
// what proof, is in salvage.h; how a lost superblock is made up for in roots.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "device/block_device.h"
#include "thin/superblock.h"
#include "tools/control.h"
#include "tools/metadata_counts.h"
#include "tools/metadata_reader.h"
#include "tools/node_catalog.h"
#include "tools/roots.h"
#include "tools/salvage.h"

namespace lamella::tools {

struct RepairOptions {
    // For what only the superblock knows; used where it is lost, and beside it: a transaction id or number of data blocks can be raised,
    // a block size must be what the superblock says.
    std::optional<std::uint64_t> transaction_id{};
    std::optional<std::uint32_t> data_block_sectors{};
    std::optional<std::uint64_t> data_blocks{};
    // Instead of the roots that the superblock names, or that rank first.
    std::optional<TreeRoots> roots{};
};

struct RepairedVolume {
    ThinId id{};
    std::optional<std::uint64_t> recorded;  // mappings that it had, if its details survived
    std::uint64_t intact = 0;               // mappings that come back because their path is sound
    std::uint64_t recovered = 0;            // mappings that nothing led to any more
    bool by_older_tree = false;             // SalvagedDevice::by_older_tree
    bool complete = false;                  // nothing is missing, as far as can be known
    std::vector<KeyRange> lost;             // virtual blocks that may have been mapped, and don't come back
};

struct RepairReport {
    bool damaged = false;  // something was; otherwise the output is a copy in order
    bool superblock_lost = false;
    std::string superblock_source;  // where the facts of a lost one came from
    // How many data blocks the pool has is lost: so many are taken, up to the last that is mapped.
    std::optional<std::uint64_t> data_blocks_by_mappings;
    bool metadata_snapshot_dropped = false;
    TreeRoots roots;
    std::vector<RepairedVolume> volumes;
    std::vector<UnplacedOrphan> unplaced;
    std::uint64_t metadata_blocks = 0;  // that the output takes at least; a few more where data blocks have 3 and more references
};

// Data that is elsewhere from now on.
struct DataPlacement {
    std::uint64_t data_blocks = 0;  // that the pool has then
    std::function<DataBlock(DataBlock)> place;
};

class Repair {
  public:
    // Reads the input, which is never written, and decides. Memory: 48 bytes a metadata block, and up to 128 MiB of inner nodes.
    // Errors: damaged (there is nothing to go by; the message says what could be given by hand), usage (options that contradict the
    // input), failed (I/O, stopped). The device outlives the repair.
    static Result<std::unique_ptr<Repair>> plan(BlockDevice& input, const RepairOptions& options, const Control& control = {});
    ~Repair();

    const RepairReport& report() const { return report_; }
    const thin::Superblock& superblock() const { return superblock_; }

    // no_space: the output is too small, as far as can be told before: but for counts of 3 and more.
    Result<void> check_room(const BlockDevice& output) const;
    // Writes the output: another device than the input. Until the end it holds nothing that looks like metadata; then everything is
    // durable. Every mapping is to where `placement` has its data block, if that is given. Errors: no_space (see check_room(), which comes
    // first), failed.
    Result<void> write(BlockDevice& output, const Control& control = {}, const DataPlacement* placement = nullptr);

  private:
    class Writer;
    explicit Repair(std::unique_ptr<MetadataReader> reader);
    Result<void> decide(const RepairOptions& options, const Control& control);
    Result<void> count_nodes();
    void reach(PlanNode node, std::uint8_t height);

    std::unique_ptr<MetadataReader> reader_;
    NodeCatalog catalog_;
    std::unique_ptr<MetadataCounts> counts_;
    std::unique_ptr<Salvage> salvage_;
    thin::Superblock superblock_;
    std::uint64_t data_blocks_ = 0;
    bool data_size_lost_ = false;
    bool doubt_snapshotted_times_ = false;
    RepairReport report_;

    // What is to be written: leaves, and inner nodes by height.
    MetadataBlockSet leaves_;
    std::vector<std::vector<PlanNode>> inner_;
    std::vector<std::uint32_t> source_references_;
    std::vector<std::uint32_t> made_references_;
};

}  // namespace lamella::tools
