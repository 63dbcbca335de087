// SPDX-License-Identifier: Apache-2.0
//
// Which orphan belongs where.
//
// An orphan goes into a gap if there is no other gap, in any tree, that it could belong to (key range, height, the number of mappings that
// a device still misses); where several gaps and orphans are possible, all ways to place every orphan are tried, and what is the same in
// all of them is proven. The rest is left out and told.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "base/result.h"
#include "base/strong.h"
#include "tools/salvage_trees.h"

namespace lamella::tools {

// An orphan that couldn't be placed.
struct UnplacedOrphan {
    MetadataBlock block{};
    std::uint64_t first = 0;  // virtual blocks
    std::uint64_t last = 0;
    std::uint64_t mappings = 0;
    std::vector<ThinId> possible_owners;
};

class OrphanPlacement {
  public:
    using Orphan = SalvageTrees::Orphan;
    // Where something is missing.
    struct Gap {
        KeyRange range{};
        MetadataBlock pointed{};          // what is there instead
        int max_height = -1;              // of what may fill it
        bool whole_tree = false;          // it stands for a device's whole tree, of which one orphan is the root
        bool lost_leaf = false;           // what is missing was a leaf, or may have been one
        std::vector<ThinId> devices{};    // that reach it
        std::vector<std::size_t> fill{};  // orphans, by number, in ascending order of their keys
    };

    // Of trees that were judged, which outlive this.
    explicit OrphanPlacement(SalvageTrees& trees);
    // Once: numbers the gaps in the trees' slots and devices, and fills them.
    Result<void> place();

    const std::vector<Gap>& gaps() const { return gaps_; }
    const Orphan& orphan(std::size_t number) const { return orphans_[number]; }
    const std::vector<UnplacedOrphan>& unplaced() const { return unplaced_; }
    // Which tree is this device's was told by an earlier state of the tree of devices.
    bool by_older_tree(ThinId id) const { return by_older_tree_.contains(id); }

  private:
    using Inner = SalvageTrees::Inner;
    using Slot = SalvageTrees::Slot;
    using SlotState = SalvageTrees::SlotState;

    void collect_gaps();
    void collect_gaps_below(MetadataBlock root, std::optional<ThinId> device);
    const thin::DeviceDetails& details_of(ThinId id) const;
    bool may_fill(const Orphan& orphan, const Gap& gap) const;
    void put(std::size_t orphan, std::size_t gap);
    void own(std::size_t gap, const std::vector<ThinId>& devices);
    std::vector<std::vector<std::size_t>> possible_gaps() const;
    bool place_proven();
    bool place_by_trial();
    Result<bool> place_by_older_trees();
    bool restore_doubtful();
    void tell_unplaced();

    SalvageTrees& trees_;
    NodeCatalog& catalog_;
    const MetadataCounts& counts_;
    std::vector<Orphan> orphans_;
    std::vector<Gap> gaps_;
    std::map<ThinId, std::int64_t> missing_;  // mappings that a device still lacks; absent: unknown
    std::set<ThinId> by_older_tree_;
    bool hidden_losses_ = false;  // blocks are in use, unreadable, and nothing says what they were
    std::vector<UnplacedOrphan> unplaced_;
};

}  // namespace lamella::tools
