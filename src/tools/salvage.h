// SPDX-License-Identifier: Apache-2.0
//
// The trees of a damaged pool: what the roots still lead to, and what belongs to them though nothing leads there any more.
//
// A node is judged by its place: checksum, form, height and key range must be what its parent asks for. A child that fails leaves a
// gap (salvage_trees.h). What may fill a gap is an orphan: a sound node that the metadata space map counts more references to than were
// found. A node of an older transaction is counted as free, so it can't come back that way. Where orphans belong is proven, or they are
// left out (orphan_placement.h). Where the space map itself is damaged, the blocks that it says nothing of are never orphans.
//
// The result is a plan: nodes of the input that can be copied as they are with everything below, and nodes that have to be made anew
// above them. What devices shared they share in the plan.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "tools/orphan_placement.h"
#include "tools/salvage_trees.h"

namespace lamella::tools {

// A node of the plan: a block of the input, or one to be made.
class PlanNode {
  public:
    static PlanNode copy_of(MetadataBlock block) { return PlanNode(static_cast<std::uint32_t>(block.value())); }
    static PlanNode made(std::size_t index) { return PlanNode(made_flag | static_cast<std::uint32_t>(index)); }

    bool is_made() const { return (value_ & made_flag) != 0; }
    MetadataBlock source() const { return MetadataBlock(value_); }
    std::size_t index() const { return value_ & ~made_flag; }
    auto operator<=>(const PlanNode&) const = default;

  private:
    static constexpr std::uint32_t made_flag = 1u << 31;
    explicit PlanNode(std::uint32_t value) : value_(value) {}
    std::uint32_t value_;
};

// An inner node to be made.
struct MadeNode {
    struct Child {
        std::uint64_t key;
        PlanNode node;
    };
    std::vector<Child> children;
};

struct SalvagedDevice {
    ThinId id{};
    // As recorded; none: lost.
    std::optional<thin::DeviceDetails> details;
    // None: nothing is mapped, or nothing could be saved.
    std::optional<PlanNode> root;
    std::uint64_t mappings = 0;   // all that come back
    std::uint64_t recovered = 0;  // of these, those that nothing led to any more
    std::uint32_t max_time = 0;   // of any mapping
    bool unexplained = false;     // as many mappings aren't there as recorded, and nothing is damaged that they hung on
    bool by_older_tree = false;   // which tree is this device's was told by an earlier state of the tree of devices
    bool complete = true;         // nothing is missing, as far as can be known
    std::vector<KeyRange> lost;   // virtual blocks that may have been mapped and don't come back
};

class Salvage {
  public:
    // Of a catalog of all blocks that `counts` has in use (and those it knows nothing of). Both outlive the salvage.
    static Result<std::unique_ptr<Salvage>> start(NodeCatalog& catalog, const MetadataCounts& counts, const SalvageInput& input);

    // In ascending order of their ids: all that the tree of devices or that of details still names.
    const std::vector<SalvagedDevice>& devices() const { return devices_; }
    const MadeNode& made(PlanNode node) const { return made_[node.index()]; }
    std::size_t made_nodes() const { return made_.size(); }
    const std::vector<UnplacedOrphan>& unplaced() const { return placement_->unplaced(); }
    // Something was wrong with what the roots lead to.
    bool damaged() const { return trees_.damaged(); }
    // Leaves of which some entries are none: those that stay.
    const std::map<MetadataBlock, std::vector<bool>>& trimmed() const { return trees_.trimmed(); }

  private:
    using Inner = SalvageTrees::Inner;
    using Slot = SalvageTrees::Slot;
    using SlotState = SalvageTrees::SlotState;
    using Gap = OrphanPlacement::Gap;
    struct Unit {
        PlanNode node;
        std::uint8_t height;
        std::uint64_t first;
        std::uint32_t entries;
    };

    Salvage(NodeCatalog& catalog, const MetadataCounts& counts, const SalvageInput& input)
        : catalog_(catalog), trees_(catalog, counts, input) {}

    Result<void> make_plan();
    Result<std::optional<PlanNode>> root_of(std::vector<Unit> units);
    Result<std::vector<Unit>> mend(MetadataBlock inner);
    Result<std::vector<Unit>> fill_units(const Gap& gap);
    Result<std::vector<Unit>> raise(std::vector<Unit> units, std::uint8_t height);
    Result<std::vector<Unit>> children_of(const Unit& unit);
    Result<std::vector<Unit>> even_out(std::vector<Unit> units);
    std::vector<Unit> pack(const std::vector<Unit>& units);
    Result<Unit> unit_of(MetadataBlock block);
    void survey_lost(MetadataBlock block, KeyRange range, std::vector<KeyRange>& uncertain, std::vector<KeyRange>& there) const;
    void report_lost(SalvagedDevice& device) const;

    NodeCatalog& catalog_;
    SalvageTrees trees_;
    std::optional<OrphanPlacement> placement_;
    std::vector<SalvagedDevice> devices_;
    std::vector<MadeNode> made_;
    std::map<MetadataBlock, std::vector<Unit>> mended_;
};

}  // namespace lamella::tools
