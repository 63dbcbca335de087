// SPDX-License-Identifier: Apache-2.0
//
// What the roots of a damaged pool still lead to, and what they don't: each node judged by its place and by the metadata space map's counts.
// Where something is missing the node above has a lost slot; what is in use and nothing leads to is an orphan. Nothing is decided here
// about which orphan belongs where.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
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

struct SalvageInput {
    TreeRoots roots;
    // Of the metadata snapshot; 0: none. Its trees have references of their own.
    MetadataBlock held_root{};
    // Mappings beyond are no mappings.
    std::uint64_t data_blocks = thin::BlockTime::unpack(~std::uint64_t{0}).block.value();
    std::uint64_t data_index_root = 0;  // of the data space map, to know which blocks it lies in; 0: unknown
    std::uint64_t data_overflow_root = 0;
};

class SalvageTrees {
  public:
    // What a child of an inner node turned out to be.
    enum class SlotState : std::uint8_t { sound, broken, lost };
    struct Slot {
        KeyRange range;
        MetadataBlock child{};
        SlotState state = SlotState::sound;
        std::optional<std::size_t> gap{};  // lost: its number, once gaps are collected
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
        std::vector<Slot> slots{};  // of what isn't whole
    };
    struct Device {
        std::optional<thin::DeviceDetails> details{};  // as recorded; none: lost
        MetadataBlock root{};
        bool root_known = false;           // the tree of devices says where it is
        std::optional<std::size_t> gap{};  // instead of a tree, once gaps are collected
    };
    // A sound node with more references than were found.
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

    // Of a catalog of all blocks that `counts` has in use (and those it knows nothing of). Both outlive this.
    SalvageTrees(NodeCatalog& catalog, const MetadataCounts& counts, const SalvageInput& input);
    // Once, before anything is asked.
    Result<void> judge();

    NodeCatalog& catalog() const { return catalog_; }
    const MetadataCounts& counts() const { return counts_; }
    // All that the tree of devices or that of details still names.
    const std::map<ThinId, Device>& devices() const { return devices_; }
    std::map<ThinId, Device>& devices() { return devices_; }
    // Of the metadata snapshot: its time, and the roots of its devices.
    std::uint32_t held_time() const { return held_time_; }
    const std::map<ThinId, MetadataBlock>& held_devices() const { return held_devices_; }
    // In ascending order of their keys. None unless something is damaged.
    const std::vector<Orphan>& orphans() const { return orphans_; }
    // Something is wrong with what the roots lead to.
    bool damaged() const { return damaged_; }
    // False: a metadata snapshot is lost in part, and what is in use may be its.
    bool all_referrers_known() const { return all_referrers_known_; }
    // A gap is known to have held this block.
    void explain(MetadataBlock block) { explained_.insert(block); }
    // A block is in use and unreadable, and no gap is known to have held it.
    bool any_unexplained() const;
    // Leaves of which some entries are none: those that stay.
    const std::map<MetadataBlock, std::vector<bool>>& trimmed() const { return trimmed_; }

    // None: it is no inner node of a mapping tree.
    const Inner* inner_of(MetadataBlock block) const;
    Inner& inner_at(MetadataBlock block) { return inners_[inner_numbers_.at(block.value())]; }
    // The mappings of a leaf that are some; entries beyond the data device are none.
    std::uint64_t leaf_mappings(MetadataBlock leaf);
    // It is a leaf of mappings, all of them in the range.
    bool leaf_fits(MetadataBlock leaf, KeyRange range);
    // A leaf of the tree of devices looks like one of mappings that all lie in data block 0.
    bool seems_device_leaf(MetadataBlock leaf) const;
    // In use and no node: what refers to it means what it was before it was damaged. Of anything else it may be the reference that is wrong.
    bool is_unreadable(MetadataBlock block) const { return catalog_[block].block_class == BlockClass::other && counts_[block] != 0; }
    // A device's root that can't be one.
    bool is_elsewhere(MetadataBlock root) const;
    // Blocks with more referrers than the space map counts.
    bool is_doubtful(MetadataBlock block) const { return doubtful_.contains(block); }
    bool is_doubtful_root(ThinId id, MetadataBlock root) const;

  private:
    void forget();
    void read_tops();
    void read_devices(MetadataBlock root, std::vector<KeyRange>& lost);
    void read_details(MetadataBlock root, std::vector<KeyRange>& lost);
    template <typename Entry>
    void read_top(MetadataBlock root, std::uint32_t value_size, Entry entry, std::vector<KeyRange>& lost);
    std::vector<MetadataBlock> orphan_tops(BlockClass kind, const std::vector<KeyRange>& lost) const;
    std::optional<TreeRoots> find_held_roots() const;
    void read_held(bool tops_whole);
    void mark_space_maps();
    Result<void> walk_devices();
    Result<std::optional<std::uint32_t>> walk(MetadataBlock block, unsigned depth);
    Result<void> clip(std::uint32_t number, std::uint64_t end);
    void summarize(Inner& inner);
    Result<void> open_slots(Inner& inner);
    std::optional<std::uint32_t> devices_are_old() const;
    bool counts_disagree();
    std::uint64_t tree_mappings(MetadataBlock root);
    Result<void> find_orphans();
    bool is_shared(MetadataBlock block) const;
    Result<std::uint32_t> shared_time(MetadataBlock block);
    Result<bool> find_doubtful();
    Result<void> trust(MetadataBlock root, std::vector<std::uint32_t>& references);

    NodeCatalog& catalog_;
    const MetadataCounts& counts_;
    SalvageInput input_;
    bool damaged_ = false;
    bool all_referrers_known_ = true;

    std::vector<std::uint32_t> found_;          // references to each block
    std::vector<std::uint32_t> found_by_held_;  // of found_: references by what only the metadata snapshot has
    MetadataBlockSet other_roles_;              // blocks that aren't nodes of mappings
    MetadataBlockSet doubtful_;
    MetadataBlockSet doubtful_everywhere_;  // of these, those that even trees believe in that seem complete
    MetadataBlockSet trusted_;              // inner nodes of trees with as many mappings as they should have
    std::set<ThinId> trusted_devices_;
    MetadataBlockSet too_long_;   // subtrees that reach beyond their place
    MetadataBlockSet may_clip_;   // of these, those that belong there all the same
    MetadataBlockSet explained_;  // blocks that a gap is known to have held
    std::map<ThinId, Device> devices_;
    std::uint32_t held_time_ = 0;
    std::map<ThinId, MetadataBlock> held_devices_;
    std::vector<Inner> inners_;
    std::unordered_map<std::uint64_t, std::uint32_t> inner_numbers_;
    bool tops_whole_ = false;                        // the trees of devices and details, as far as checksums tell
    std::optional<std::uint32_t> distrusted_since_;  // devices_are_old()
    std::vector<Orphan> orphans_;
    std::map<MetadataBlock, std::vector<bool>> trimmed_;
};

}  // namespace lamella::tools
