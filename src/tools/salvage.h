// SPDX-License-Identifier: Apache-2.0
//
// The trees of a damaged pool: what the roots still lead to, and what belongs to them though nothing leads there any more.
//
// A node is judged by its place: checksum, form, height and key range must be what its parent asks for. A child that fails leaves a
// gap. What may fill a gap is an orphan: a sound node that the metadata space map counts more references to than were found. A node
// of an older transaction is counted as free, so it can't come back that way. An orphan goes into a gap if there is no other gap, in
// any tree, that it could belong to (key range, height, the number of mappings that a device still misses); where several gaps and
// orphans are possible, all ways to place every orphan are tried, and what is the same in all of them is proven. The rest is left
// out and told. Where the space map itself is damaged, the blocks that it says nothing of are never orphans.
//
// The result is a plan: nodes of the input that can be copied as they are with everything below, and nodes that have to be made anew
// above them. What devices shared they share in the plan.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "thin/metadata.h"
#include "tools/metadata_counts.h"
#include "tools/node_catalog.h"
#include "tools/salvage_walk.h"

namespace lamella::tools {

struct TreeRoots {
    MetadataBlock devices{};  // device id -> root of its mappings
    MetadataBlock details{};
};

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

// An orphan that couldn't be placed.
struct UnplacedOrphan {
    MetadataBlock block{};
    std::uint64_t first = 0;  // virtual blocks
    std::uint64_t last = 0;
    std::uint64_t mappings = 0;
    std::vector<ThinId> possible_owners;
};

class Salvage {
  public:
    struct Input {
        TreeRoots roots;
        // Of the metadata snapshot; 0: none. Its trees have references of their own.
        MetadataBlock held_root{};
        // Mappings beyond are no mappings.
        std::uint64_t data_blocks = thin::BlockTime::unpack(~std::uint64_t{0}).block.value();
        std::uint64_t data_index_root = 0;  // of the data space map, to know which blocks it lies in; 0: unknown
        std::uint64_t data_overflow_root = 0;
    };

    // Of a catalog of all blocks that `counts` has in use (and those it knows nothing of). Both outlive the salvage.
    static Result<std::unique_ptr<Salvage>> start(NodeCatalog& catalog, const MetadataCounts& counts, const Input& input);

    // In ascending order of their ids: all that the tree of devices or that of details still names.
    const std::vector<SalvagedDevice>& devices() const { return devices_; }
    const MadeNode& made(PlanNode node) const { return made_[node.index()]; }
    std::size_t made_nodes() const { return made_.size(); }
    const std::vector<UnplacedOrphan>& unplaced() const { return unplaced_; }
    // Something was wrong with what the roots lead to.
    bool damaged() const { return damaged_; }
    // Leaves of which some entries are none: those that stay.
    const std::map<MetadataBlock, std::vector<bool>>& trimmed() const { return trimmed_; }

  private:
    // What a child of an inner node turned out to be.
    enum class SlotState : std::uint8_t { sound, broken, lost };
    struct Slot {
        KeyRange range;
        MetadataBlock child{};
        SlotState state = SlotState::sound;
        std::optional<std::size_t> gap;  // lost: its number, once gaps are collected
    };
    // A readable inner node of a mapping tree.
    struct Inner {
        MetadataBlock block{};
        std::uint8_t height = 0;  // 0 until it is known: no child could be read
        bool whole = true;        // so is everything below
        bool growing = true;      // it is being looked at
        bool sound = false;       // a child at least shows that it belongs to a mapping tree
        std::uint64_t first = 0;
        std::uint64_t last = 0;
        std::uint64_t mappings = 0;
        std::uint32_t max_time = 0;
        std::vector<Slot> slots;  // of what isn't whole
    };
    // Where something is missing.
    struct Gap {
        KeyRange range;
        MetadataBlock pointed{};        // what is there instead
        int max_height = -1;            // of what may fill it
        bool whole_tree = false;        // it stands for a device's whole tree, of which one orphan is the root
        bool lost_leaf = false;         // what is missing was a leaf, or may have been one
        std::vector<ThinId> devices;    // that reach it
        std::vector<std::size_t> fill;  // orphans, by number, in ascending order of their keys
    };
    struct Orphan {
        MetadataBlock block{};
        std::uint64_t first = 0;
        std::uint64_t last = 0;
        std::uint64_t mappings = 0;
        std::uint8_t height = 0;
        std::uint32_t missing = 0;  // references that weren't found
        std::uint32_t max_time = 0;
        std::uint32_t shared_time = 0;  // who has it must have been origin or snapshot at this time or later; 0: need not
        bool whole = true;
        bool placed = false;
    };
    struct Unit {
        PlanNode node;
        std::uint8_t height;
        std::uint64_t first;
        std::uint32_t entries;
    };
    struct DeviceRoot {
        MetadataBlock block{};
        bool known = false;              // the tree of devices says where it is
        std::optional<std::size_t> gap;  // instead of a tree
    };

    Salvage(NodeCatalog& catalog, const MetadataCounts& counts, const Input& input);

    Result<void> run();
    void forget();
    void read_tops();
    void read_devices(MetadataBlock root, std::vector<KeyRange>& lost);
    void read_details(MetadataBlock root, std::vector<KeyRange>& lost);
    std::vector<MetadataBlock> orphan_tops(BlockClass kind, const std::vector<KeyRange>& lost) const;
    void read_held();
    void mark_space_maps();
    Result<void> walk_devices();
    Result<std::optional<std::uint32_t>> walk(MetadataBlock block, unsigned depth);
    Result<void> clip(std::uint32_t number, std::uint64_t end);
    void summarize(Inner& inner);
    Result<void> open_slots(Inner& inner);
    bool counts_disagree();
    bool is_elsewhere(MetadataBlock root) const;
    bool is_doubtful_root(ThinId id, MetadataBlock root) const;
    bool leaf_fits(MetadataBlock leaf, KeyRange range);
    std::uint64_t leaf_mappings(MetadataBlock leaf);
    bool seems_device_leaf(MetadataBlock leaf) const;
    const Inner* inner_of(MetadataBlock block) const;
    Result<void> find_orphans();
    Result<bool> find_doubtful();
    Result<void> trust(MetadataBlock root, std::vector<std::uint32_t>& references);
    void collect_gaps();
    void collect_gaps_below(MetadataBlock root, std::optional<ThinId> device);
    void look_for_hidden_losses();
    Result<void> place_orphans();
    Result<bool> place_by_older_trees();
    bool restore_doubtful();
    const thin::DeviceDetails& details_of(ThinId id) const;
    Result<std::uint32_t> shared_time(MetadataBlock block);
    bool is_shared(MetadataBlock block) const;
    bool may_fill(const Orphan& orphan, const Gap& gap) const;
    void put(std::size_t orphan, std::size_t gap);
    void own(std::size_t gap, const std::vector<ThinId>& devices);
    std::vector<std::vector<std::size_t>> possible_gaps() const;
    bool place_proven();
    bool place_by_trial();
    Result<void> make_plan();
    Result<std::optional<PlanNode>> root_of(std::vector<Unit> units);
    Result<std::vector<Unit>> mend(std::uint32_t inner);
    Result<std::vector<Unit>> fill_units(const Gap& gap);
    Result<std::vector<Unit>> raise(std::vector<Unit> units, std::uint8_t height);
    Result<std::vector<Unit>> children_of(const Unit& unit);
    Result<std::vector<Unit>> even_out(std::vector<Unit> units);
    std::vector<Unit> pack(const std::vector<Unit>& units);
    Result<Unit> unit_of(MetadataBlock block);
    void report_lost(SalvagedDevice& device, const std::vector<std::size_t>& gaps) const;

    NodeCatalog& catalog_;
    const MetadataCounts& counts_;
    Input input_;
    bool damaged_ = false;
    bool all_referrers_known_ = true;

    std::vector<std::uint32_t> found_;          // references to each block
    std::vector<std::uint32_t> found_by_held_;  // of found_: references by what only the metadata snapshot has
    MetadataBlockSet other_roles_;              // blocks that aren't nodes of mappings
    MetadataBlockSet doubtful_;                 // blocks with more referrers than the space map counts
    MetadataBlockSet doubtful_everywhere_;      // of these, those that even trees believe in that seem complete
    MetadataBlockSet trusted_;                  // inner nodes of trees with as many mappings as they should have
    std::set<ThinId> trusted_devices_;
    MetadataBlockSet too_long_;  // subtrees that reach beyond their place
    MetadataBlockSet may_clip_;  // of these, those that belong there all the same
    std::vector<SalvagedDevice> devices_;
    std::map<ThinId, DeviceRoot> device_roots_;
    std::uint32_t held_time_ = 0;  // of the metadata snapshot
    std::map<ThinId, MetadataBlock> held_devices_;
    MetadataBlockSet explained_;  // blocks that a gap is known to have held
    std::vector<Inner> inners_;
    std::unordered_map<std::uint64_t, std::uint32_t> inner_numbers_;
    std::vector<Gap> gaps_;
    std::vector<Orphan> orphans_;
    std::map<ThinId, std::int64_t> missing_;  // mappings that a device still lacks; absent: unknown
    std::set<ThinId> by_older_tree_;
    bool hidden_losses_ = false;  // blocks are in use, unreadable, and nothing says what they were
    std::map<MetadataBlock, std::vector<bool>> trimmed_;

    std::vector<MadeNode> made_;
    std::unordered_map<std::uint32_t, std::vector<Unit>> mended_;
    std::vector<UnplacedOrphan> unplaced_;
};

}  // namespace lamella::tools
