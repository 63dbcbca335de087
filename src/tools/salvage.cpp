// SPDX-License-Identifier: Apache-2.0
#include "tools/salvage.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "base/endian.h"
#include "pdata/bitmap.h"
#include "pdata/btree.h"
#include "thin/superblock.h"

namespace lamella::tools {

using pdata::block_bytes;
using pdata::BlockKind;
using pdata::Node;

namespace {

constexpr std::uint32_t pointer_bytes = 8;
constexpr std::uint32_t details_bytes = 24;
constexpr std::uint32_t max_children = pdata::max_node_entries(pointer_bytes);
constexpr std::uint32_t min_children = max_children / 3;
// How many steps are spent on trying where orphans belong that several gaps could take.
constexpr std::uint64_t max_trial_steps = 300'000;
constexpr std::size_t max_trial_members = 1000;
// A gap takes so many mappings at least if it can't have been a leaf.
constexpr std::uint64_t max_leaf_mappings = max_children;

thin::DeviceDetails unpack_details(const std::byte* value) {
    return {load_little<std::uint64_t>(value), load_little<std::uint64_t>(value + 8), load_little<std::uint32_t>(value + 16),
            load_little<std::uint32_t>(value + 20)};
}

bool lies_in_one_of(const CatalogEntry& entry, const std::vector<KeyRange>& ranges) {
    return std::ranges::any_of(ranges,
                               [&](const KeyRange& range) { return range.contains(entry.first_key) && range.contains(entry.last_key); });
}

}  // namespace

Salvage::Salvage(NodeCatalog& catalog, const MetadataCounts& counts, const Input& input)
    : catalog_(catalog),
      counts_(counts),
      input_(input),
      found_(catalog.blocks()),
      found_by_held_(catalog.blocks()),
      other_roles_(catalog.blocks()),
      doubtful_(catalog.blocks()),
      doubtful_everywhere_(catalog.blocks()),
      trusted_(catalog.blocks()),
      too_long_(catalog.blocks()),
      may_clip_(catalog.blocks()),
      explained_(catalog.blocks()) {}

Result<std::unique_ptr<Salvage>> Salvage::start(NodeCatalog& catalog, const MetadataCounts& counts, const Input& input) {
    std::unique_ptr<Salvage> salvage(new Salvage(catalog, counts, input));
    TRY(salvage->run());
    return salvage;
}

Result<void> Salvage::run() {
    for (bool again = false;; again = true) {
        forget();
        read_tops();
        mark_space_maps();
        TRY(walk_devices());
        damaged_ = damaged_ || counts_disagree();
        if (!damaged_)
            break;
        TRY(find_orphans());
        // A block with too many referrers is a gap in them, to be filled like other gaps. A subtree that reaches beyond its place is
        // in the wrong place, unless nothing else leads to it: then only what lies beyond is.
        const bool doubt = TRY(find_doubtful());
        for (auto block = too_long_.next(MetadataBlock(0)); block; block = too_long_.next(*block + 1))
            if (found_[block->value()] == 0)
                may_clip_.insert(*block);
        if (again || (!doubt && may_clip_.empty()))
            break;
    }
    collect_gaps();
    if (damaged_) {
        look_for_hidden_losses();
        TRY(place_orphans());
    }
    return make_plan();
}

void Salvage::forget() {
    std::ranges::fill(found_, 0);
    other_roles_.clear();
    explained_.clear();
    devices_.clear();
    device_roots_.clear();
    held_devices_.clear();
    by_older_tree_.clear();
    std::ranges::fill(found_by_held_, 0);
    inners_.clear();
    inner_numbers_.clear();
    orphans_.clear();
    gaps_.clear();
    missing_.clear();
    trimmed_.clear();
    too_long_.clear();
    damaged_ = false;
    all_referrers_known_ = true;
}

// --- The trees of devices and details ---

void Salvage::read_devices(MetadataBlock root, std::vector<KeyRange>& lost) {
    SalvageWalk walk(
        catalog_, pointer_bytes,
        [&](std::uint64_t key, const std::byte* value) {
            if (key > thin::max_thin_id)
                return;
            const MetadataBlock block(load_little<std::uint64_t>(value));
            device_roots_.insert_or_assign(ThinId(static_cast<std::uint32_t>(key)), DeviceRoot{block, true, std::nullopt});
            if (block.value() < found_.size())
                ++found_[block.value()];
        },
        [&](MetadataBlock block) {
            if (block.value() < found_.size()) {
                ++found_[block.value()];
                other_roles_.insert(block);
            }
            return true;
        },
        [&](KeyRange range, MetadataBlock) { lost.push_back(range); });
    walk.walk(root);
}

void Salvage::read_details(MetadataBlock root, std::vector<KeyRange>& lost) {
    SalvageWalk walk(
        catalog_, details_bytes,
        [&](std::uint64_t key, const std::byte* value) {
            if (key > thin::max_thin_id)
                return;
            SalvagedDevice device;
            device.id = ThinId(static_cast<std::uint32_t>(key));
            device.details = unpack_details(value);
            devices_.push_back(std::move(device));
        },
        [&](MetadataBlock block) {
            if (block.value() < found_.size()) {
                ++found_[block.value()];
                other_roles_.insert(block);
            }
            return true;
        },
        [&](KeyRange range, MetadataBlock) { lost.push_back(range); });
    walk.walk(root);
}

// A leaf of the tree of devices looks like one of mappings that all lie in data block 0.
bool Salvage::seems_device_leaf(MetadataBlock leaf) const {
    const CatalogEntry& entry = catalog_[leaf];
    if (entry.max_value >= catalog_.blocks() || entry.entries == 0 || entry.last_key > thin::max_thin_id)
        return false;
    if (entry.entries > 1)
        return true;
    const BlockClass kind = catalog_[MetadataBlock(entry.max_value)].block_class;
    return kind == BlockClass::leaf || kind == BlockClass::inner;
}

// Leaves of the small trees to which nothing leads any more, in use and within what is lost; none if they contradict each other.
std::vector<MetadataBlock> Salvage::orphan_tops(BlockClass kind, const std::vector<KeyRange>& lost) const {
    std::vector<MetadataBlock> found;
    if (lost.empty())
        return found;
    for (MetadataBlock block(0); block.value() < catalog_.blocks(); ++block) {
        const CatalogEntry& entry = catalog_[block];
        if (entry.block_class == kind && entry.entries > 0 && counts_.known(block) && counts_[block] > found_[block.value()] &&
            lies_in_one_of(entry, lost) && (kind != BlockClass::leaf || seems_device_leaf(block)))
            found.push_back(block);
    }
    std::ranges::sort(found, {}, [&](MetadataBlock block) { return catalog_[block].first_key; });
    for (std::size_t index = 1; index < found.size(); ++index)
        if (catalog_[found[index]].first_key <= catalog_[found[index - 1]].last_key)
            return {};
    return found;
}

void Salvage::read_tops() {
    std::vector<KeyRange> lost_devices;
    std::vector<KeyRange> lost_details;
    read_devices(input_.roots.devices, lost_devices);
    read_details(input_.roots.details, lost_details);
    damaged_ = !lost_devices.empty() || !lost_details.empty();
    read_held();
    if (all_referrers_known_) {
        for (MetadataBlock block : orphan_tops(BlockClass::details_leaf, lost_details))
            read_details(block, lost_details);
        for (MetadataBlock block : orphan_tops(BlockClass::leaf, lost_devices))
            read_devices(block, lost_devices);
    }

    std::ranges::sort(devices_, {}, &SalvagedDevice::id);
    const auto repeated = std::ranges::unique(devices_, {}, &SalvagedDevice::id);
    devices_.erase(repeated.begin(), repeated.end());
    const std::size_t with_details = devices_.size();
    for (std::size_t index = 0; index < with_details; ++index)
        if (!device_roots_.contains(devices_[index].id)) {
            device_roots_.emplace(devices_[index].id, DeviceRoot{});
            damaged_ = true;
        }
    for (const auto& [id, root] : device_roots_)
        if (!std::ranges::binary_search(devices_.begin(), devices_.begin() + static_cast<std::ptrdiff_t>(with_details), id, {},
                                        &SalvagedDevice::id)) {
            SalvagedDevice device;
            device.id = id;
            devices_.push_back(std::move(device));
            damaged_ = true;
        }
    std::ranges::sort(devices_, {}, &SalvagedDevice::id);
}

// A metadata snapshot refers to nodes, too: with its references known, what is still missing belongs to the pool itself.
void Salvage::read_held() {
    if (input_.held_root == MetadataBlock(0))
        return;
    if (input_.held_root.value() < catalog_.blocks()) {
        other_roles_.insert(input_.held_root);
        ++found_[input_.held_root.value()];
    }
    std::array<std::byte, block_bytes> bytes{};
    const bool read = catalog_.reader().read_block(input_.held_root, BlockKind::superblock, bytes).has_value();
    const auto held = thin::Superblock::unpack(bytes, false, input_.held_root);
    if (!read || !held) {
        all_referrers_known_ = false;
        return;
    }
    held_time_ = held->time;
    // What the pool and the snapshot share refers to what is below it once.
    const auto node = [&](MetadataBlock block) {
        if (block.value() >= found_.size())
            return false;
        ++found_[block.value()];
        return other_roles_.insert(block);
    };
    const auto lost = [&](KeyRange, MetadataBlock) { all_referrers_known_ = false; };
    SalvageWalk devices(
        catalog_, pointer_bytes,
        [&](std::uint64_t key, const std::byte* value) {
            const MetadataBlock block(load_little<std::uint64_t>(value));
            if (key > thin::max_thin_id || block.value() >= found_.size())
                return;
            held_devices_.emplace(ThinId(static_cast<std::uint32_t>(key)), block);
            ++found_[block.value()];
            ++found_by_held_[block.value()];
        },
        node, lost);
    devices.walk(held->data_mapping_root);
    SalvageWalk details(
        catalog_, details_bytes, [](std::uint64_t, const std::byte*) {}, node, lost);
    details.walk(held->device_details_root);
}

void Salvage::mark_space_maps() {
    const auto mark = [&](MetadataBlock block) {
        if (block.value() < other_roles_.blocks())
            other_roles_.insert(block);
        return true;
    };
    mark(MetadataBlock(0));
    for (MetadataBlock block : counts_.own_blocks())
        mark(block);
    const auto lost = [](KeyRange, MetadataBlock) {};
    if (input_.data_index_root != 0) {
        SalvageWalk index(
            catalog_, pdata::IndexEntry::disk_bytes,
            [&](std::uint64_t, const std::byte* value) { mark(MetadataBlock(pdata::IndexEntry::unpack(value).location)); }, mark, lost);
        index.walk(MetadataBlock(input_.data_index_root));
    }
    if (input_.data_overflow_root != 0) {
        SalvageWalk overflow(
            catalog_, sizeof(std::uint32_t), [](std::uint64_t, const std::byte*) {}, mark, lost);
        overflow.walk(MetadataBlock(input_.data_overflow_root));
    }
}

// --- The trees of mappings ---

Result<void> Salvage::walk_devices() {
    for (auto& [id, root] : device_roots_) {
        if (!root.known)
            continue;
        TRY(catalog_.look_at(root.block));
        const BlockClass kind = catalog_[root.block].block_class;
        const bool doubtful = is_doubtful_root(id, root.block);
        const bool other = is_elsewhere(root.block) || doubtful;
        if (doubtful)
            --found_[root.block.value()];  // no longer taken for a reference
        if (!other && kind == BlockClass::leaf && catalog_[root.block].entries > 0 && leaf_fits(root.block, {}))
            continue;
        const SalvagedDevice& device = *std::ranges::lower_bound(devices_, id, {}, &SalvagedDevice::id);
        if (!other && kind == BlockClass::leaf && catalog_[root.block].entries == 0 &&
            (!device.details || device.details->mapped_blocks == 0))
            continue;
        if (!other && kind == BlockClass::inner)
            if (auto number = TRY(walk(root.block, 0))) {
                damaged_ |= !inners_[*number].whole;
                continue;
            }
        damaged_ = true;
    }
    const std::vector<std::uint32_t> found_before = held_devices_.empty() ? std::vector<std::uint32_t>() : found_;
    for (const auto& [id, root] : held_devices_) {
        TRY(catalog_.look_at(root));
        if (catalog_[root].block_class == BlockClass::inner && !other_roles_.contains(root))
            (void)TRY(walk(root, 0));
    }
    for (std::size_t block = 0; block < found_before.size(); ++block)
        found_by_held_[block] += found_[block] - found_before[block];
    return {};
}

// What looks sound may not be: a pointer to the wrong place, or an old copy of a node, shows in the counts.
bool Salvage::counts_disagree() {
    for (MetadataBlock block(0); block.value() < catalog_.blocks(); ++block)
        if (counts_.known(block) && found_[block.value()] > counts_[block] && !other_roles_.contains(block))
            return true;
    return std::ranges::any_of(devices_, [&](const SalvagedDevice& device) {
        const MetadataBlock root = device_roots_.at(device.id).block;
        const Inner* inner = inner_of(root);
        return device.details && device.details->mapped_blocks != (inner != nullptr ? inner->mappings : leaf_mappings(root));
    });
}

// Mappings that are some: of a leaf that a repair keeps. Entries beyond the data device are none.
std::uint64_t Salvage::leaf_mappings(MetadataBlock leaf) {
    const CatalogEntry& entry = catalog_[leaf];
    if (thin::BlockTime::unpack(entry.max_value).block.value() < input_.data_blocks)
        return entry.entries;
    auto found = trimmed_.find(leaf);
    if (found == trimmed_.end()) {
        std::array<std::byte, block_bytes> bytes;
        std::vector<bool> keep;
        if (catalog_.reader().read_block(leaf, BlockKind::node, bytes) && pdata::verify_node(bytes.data())) {
            const Node node(bytes.data());
            for (std::uint32_t index = 0; index < node.entries(); ++index)
                keep.push_back(thin::BlockTime::unpack(load_little<std::uint64_t>(node.value(index))).block.value() < input_.data_blocks);
        }
        found = trimmed_.emplace(leaf, std::move(keep)).first;
        damaged_ = true;
    }
    return static_cast<std::uint64_t>(std::ranges::count(found->second, true));
}

bool Salvage::leaf_fits(MetadataBlock leaf, KeyRange range) {
    const CatalogEntry& entry = catalog_[leaf];
    return entry.block_class == BlockClass::leaf && !other_roles_.contains(leaf) && entry.entries > 0 && entry.first_key >= range.begin &&
           range.contains(entry.last_key) && leaf_mappings(leaf) > 0;
}

bool Salvage::is_elsewhere(MetadataBlock root) const { return root.value() >= catalog_.blocks() || other_roles_.contains(root); }

bool Salvage::is_doubtful_root(ThinId id, MetadataBlock root) const {
    return doubtful_.contains(root) && (doubtful_everywhere_.contains(root) || !trusted_devices_.contains(id));
}

const Salvage::Inner* Salvage::inner_of(MetadataBlock block) const {
    const auto found = inner_numbers_.find(block.value());
    if (found == inner_numbers_.end() || inners_[found->second].growing || !inners_[found->second].sound)
        return nullptr;
    return &inners_[found->second];
}

void Salvage::summarize(Inner& inner) {
    inner.mappings = 0;
    inner.max_time = 0;
    inner.last = inner.first;
    for (const Slot& slot : inner.slots) {
        if (slot.state == SlotState::lost)
            continue;
        if (const Inner* child = inner_of(slot.child)) {
            inner.mappings += child->mappings;
            inner.max_time = std::max(inner.max_time, child->max_time);
            inner.last = child->last;
        } else {
            inner.mappings += leaf_mappings(slot.child);
            inner.max_time = std::max(inner.max_time, catalog_[slot.child].max_time);
            inner.last = catalog_[slot.child].last_key;
        }
    }
}

Result<void> Salvage::open_slots(Inner& inner) {
    if (!inner.slots.empty())
        return {};
    const Node node(TRY(catalog_.inner(inner.block)).data());
    for (std::uint32_t index = 0; index < node.entries(); ++index) {
        Slot slot{.range = {node.key(index), index + 1 < node.entries() ? node.key(index + 1) : KeyRange::no_end},
                  .child = node.child(index)};
        const Inner* child = inner_of(slot.child);
        slot.state = child != nullptr && !child->whole ? SlotState::broken : SlotState::sound;
        inner.slots.push_back(slot);
    }
    return {};
}

// Looks at an inner node and all below it, once. None: it is no inner node of a mapping tree, or leads back to itself.
Result<std::optional<std::uint32_t>> Salvage::walk(MetadataBlock block, unsigned depth) {
    if (auto found = inner_numbers_.find(block.value()); found != inner_numbers_.end()) {
        const Inner& inner = inners_[found->second];
        return inner.growing || !inner.sound ? std::nullopt : std::optional(found->second);
    }
    if (catalog_[block].block_class != BlockClass::inner || other_roles_.contains(block) || depth > pdata::Btree::max_depth)
        return std::nullopt;
    const auto number = static_cast<std::uint32_t>(inners_.size());
    inners_.push_back({.block = block});
    inner_numbers_.emplace(block.value(), number);

    std::vector<Slot> slots;
    {
        const Node node(TRY(catalog_.inner(block)).data());
        for (std::uint32_t index = 0; index < node.entries(); ++index)
            slots.push_back({.range = {node.key(index), index + 1 < node.entries() ? node.key(index + 1) : KeyRange::no_end},
                             .child = node.child(index)});
    }
    // Which of the children are what they should be? All have one height: the one that most of them have.
    std::array<std::uint32_t, pdata::Btree::max_depth + 2> with_height{};
    std::vector<int> heights;
    for (const Slot& slot : slots) {
        int height = -1;
        TRY(catalog_.look_at(slot.child));  // what the space map has as free, for one
        if (slot.child.value() >= catalog_.blocks() ||
            (doubtful_.contains(slot.child) && (doubtful_everywhere_.contains(slot.child) || !trusted_.contains(block)))) {
            // A gap.
        } else if (leaf_fits(slot.child, slot.range)) {
            height = 0;
        } else if (auto child = TRY(walk(slot.child, depth + 1))) {
            const bool begins_here = inners_[*child].first >= slot.range.begin && slot.range.contains(inners_[*child].first);
            const bool too_long = begins_here && !slot.range.contains(inners_[*child].last);
            if (too_long && may_clip_.contains(slot.child))
                TRY(clip(*child, slot.range.end));
            else if (too_long)
                too_long_.insert(slot.child);
            if (begins_here && (!too_long || may_clip_.contains(slot.child)) && inners_[*child].mappings > 0)
                height = inners_[*child].height;
        }
        heights.push_back(height);
        if (height >= 0)
            ++with_height[static_cast<std::size_t>(height)];
    }
    const auto most = std::ranges::max_element(with_height);
    const int child_height = *most == 0 ? -1 : static_cast<int>(most - with_height.begin());
    if (child_height + 1 > static_cast<int>(pdata::Btree::max_depth)) {
        inners_[number].growing = false;
        return std::nullopt;
    }
    bool whole = true;
    for (std::size_t index = 0; index < slots.size(); ++index) {
        Slot& slot = slots[index];
        if (child_height < 0 || heights[index] != child_height) {
            slot.state = SlotState::lost;
            if (slot.child.value() < catalog_.blocks())
                explained_.insert(slot.child);
        } else {
            const Inner* child = inner_of(slot.child);
            slot.state = child != nullptr && !child->whole ? SlotState::broken : SlotState::sound;
            ++found_[slot.child.value()];
        }
        whole &= slot.state == SlotState::sound;
    }
    Inner& inner = inners_[number];
    inner.growing = false;
    inner.sound = child_height >= 0;
    inner.height = static_cast<std::uint8_t>(child_height + 1);
    inner.whole = whole;
    inner.first = slots.front().range.begin;
    inner.slots = std::move(slots);
    summarize(inner);
    if (whole)
        inner.slots = {};
    return inner.sound ? std::optional(number) : std::nullopt;
}

// Takes away what lies at or after `end` in a subtree that starts before it.
Result<void> Salvage::clip(std::uint32_t number, std::uint64_t end) {
    TRY(open_slots(inners_[number]));
    for (std::size_t index = inners_[number].slots.size(); index-- > 0;) {
        Slot& slot = inners_[number].slots[index];
        const KeyRange left{slot.range.begin, std::min(slot.range.end, end)};
        if (slot.range.begin >= end) {
            if (slot.state != SlotState::lost)
                --found_[slot.child.value()];
            inners_[number].slots.pop_back();
            continue;
        }
        slot.range = left;
        if (slot.state == SlotState::lost)
            break;
        if (const Inner* child = inner_of(slot.child)) {
            if (child->last >= end) {
                TRY(clip(inner_numbers_.at(slot.child.value()), end));
                slot.state = SlotState::broken;
            }
        } else if (catalog_[slot.child].last_key >= end) {
            slot.state = SlotState::lost;
            --found_[slot.child.value()];
        }
        break;
    }
    inners_[number].whole = false;
    damaged_ = true;
    summarize(inners_[number]);
    return {};
}

// --- Orphans ---

Result<void> Salvage::find_orphans() {
    // Subtrees first, so that what hangs below an orphan isn't taken for one.
    for (MetadataBlock block(0); block.value() < catalog_.blocks(); ++block)
        if (catalog_[block].block_class == BlockClass::inner && counts_.known(block) && counts_[block] > found_[block.value()] &&
            !other_roles_.contains(block))
            (void)TRY(walk(block, 0));
    for (MetadataBlock block(0); block.value() < catalog_.blocks(); ++block) {
        const CatalogEntry& entry = catalog_[block];
        if ((entry.block_class != BlockClass::inner && entry.block_class != BlockClass::leaf) || !counts_.known(block) ||
            counts_[block] <= found_[block.value()] || other_roles_.contains(block))
            continue;
        Orphan orphan{.block = block, .first = entry.first_key, .last = entry.last_key};
        orphan.missing = counts_[block] - found_[block.value()];
        if (entry.block_class == BlockClass::leaf) {
            if (!leaf_fits(block, {}) || seems_device_leaf(block))
                continue;
            orphan.mappings = leaf_mappings(block);
            orphan.max_time = entry.max_time;
        } else {
            const Inner* inner = inner_of(block);
            if (inner == nullptr || inner->mappings == 0)
                continue;
            orphan.last = inner->last;
            orphan.mappings = inner->mappings;
            orphan.height = inner->height;
            orphan.max_time = inner->max_time;
            orphan.whole = inner->whole;
        }
        orphan.shared_time = is_shared(block) ? 1 + orphan.max_time : TRY(shared_time(block));
        orphans_.push_back(orphan);
    }
    std::ranges::sort(orphans_, [](const Orphan& left, const Orphan& right) {
        return left.first != right.first ? left.first < right.first : left.block < right.block;
    });
    return {};
}

// Marks the inner nodes of a tree as trusted, and counts what they refer to.
Result<void> Salvage::trust(MetadataBlock root, std::vector<std::uint32_t>& references) {
    std::vector<MetadataBlock> open{root};
    while (!open.empty()) {
        const MetadataBlock block = open.back();
        open.pop_back();
        if (inner_of(block) == nullptr || !trusted_.insert(block))
            continue;
        const Node node(TRY(catalog_.inner(block)).data());
        for (std::uint32_t index = 0; index < node.entries(); ++index)
            if (node.child(index).value() < references.size()) {
                ++references[node.child(index).value()];
                open.push_back(node.child(index));
            }
    }
    return {};
}

// Nodes with more referrers than the space map counts, while orphans lie about that could be what one of the referrers meant. A node that
// counts as free has a referrer too many, too: an old copy of a node, for one, leads to what is no longer in use. Referrers in trees that
// have as many mappings as they should are believed, unless that leaves none to doubt.
Result<bool> Salvage::find_doubtful() {
    std::vector<std::uint32_t> trusted_references(catalog_.blocks());
    bool too_many = !orphans_.empty();
    for (const SalvagedDevice& device : devices_) {
        const DeviceRoot& root = device_roots_.at(device.id);
        if (!root.known || is_elsewhere(root.block) || !device.details)
            continue;
        const Inner* inner = inner_of(root.block);
        const std::uint64_t mappings = inner != nullptr ? inner->mappings : leaf_mappings(root.block);
        too_many |= mappings > device.details->mapped_blocks;
        if (mappings != device.details->mapped_blocks)
            continue;
        trusted_devices_.insert(device.id);
        ++trusted_references[root.block.value()];
        TRY(trust(root.block, trusted_references));
    }
    for (const auto& [id, root] : held_devices_) {
        ++trusted_references[root.value()];
        TRY(trust(root, trusted_references));
    }
    bool any = false;
    for (MetadataBlock block(0); block.value() < catalog_.blocks() && too_many; ++block) {
        if (!counts_.known(block) || found_[block.value()] <= counts_[block] || other_roles_.contains(block))
            continue;
        any = true;
        doubtful_.insert(block);
        if (trusted_references[block.value()] > counts_[block])
            doubtful_everywhere_.insert(block);
    }
    return any;
}

// --- Gaps ---

void Salvage::collect_gaps_below(MetadataBlock root, std::optional<ThinId> device) {
    std::set<std::uint64_t> seen;
    struct Visit {
        std::uint32_t inner;
        std::uint64_t end;
    };
    std::vector<Visit> open;
    const auto enter = [&](MetadataBlock block, std::uint64_t end) {
        const Inner* inner = inner_of(block);
        if (inner != nullptr && !inner->whole && seen.insert(block.value()).second)
            open.push_back({inner_numbers_.at(block.value()), end});
    };
    enter(root, KeyRange::no_end);
    while (!open.empty()) {
        const Visit visit = open.back();
        open.pop_back();
        Inner& inner = inners_[visit.inner];
        for (Slot& slot : inner.slots) {
            const std::uint64_t end = std::min(slot.range.end, visit.end);
            if (slot.state == SlotState::broken)
                enter(slot.child, end);
            if (slot.state != SlotState::lost)
                continue;
            if (!slot.gap) {
                slot.gap = gaps_.size();
                // A block in use that can't be read is what the parent means, only damaged: what hung below it is looked for. Else it
                // may be the pointer that is wrong, and the child itself is somewhere.
                const bool unreadable = catalog_[slot.child].block_class == BlockClass::other && counts_[slot.child] != 0;
                Gap gap{.range = {slot.range.begin, end}, .pointed = slot.child};
                gap.max_height = unreadable ? inner.height - 2 : inner.height - 1;
                gap.lost_leaf = unreadable ? inner.height == 1 : !doubtful_.contains(slot.child);
                gaps_.push_back(std::move(gap));
            }
            Gap& gap = gaps_[*slot.gap];
            gap.range.end = std::min(gap.range.end, end);
            if (device)
                gap.devices.push_back(*device);
        }
    }
}

void Salvage::collect_gaps() {
    for (const SalvagedDevice& device : devices_) {
        DeviceRoot& root = device_roots_.at(device.id);
        const bool doubtful = root.known && is_doubtful_root(device.id, root.block);
        const bool other = doubtful || (root.known && is_elsewhere(root.block));
        const Inner* inner = root.known && !other ? inner_of(root.block) : nullptr;
        // A leaf without entries is the tree of a device that maps nothing.
        const bool leaf =
            root.known && !other && catalog_[root.block].block_class == BlockClass::leaf &&
            (catalog_[root.block].entries == 0 ? !device.details || device.details->mapped_blocks == 0 : leaf_fits(root.block, {}));
        std::uint64_t mappings = 0;
        if (inner != nullptr) {
            mappings = inner->mappings;
            collect_gaps_below(root.block, device.id);
        } else if (leaf) {
            mappings = leaf_mappings(root.block);
        } else if (!device.details || device.details->mapped_blocks > 0) {
            root.gap = gaps_.size();
            Gap gap{.pointed = root.block};
            gap.max_height = pdata::Btree::max_depth;
            gap.whole_tree = !root.known || doubtful;
            gap.lost_leaf = root.known && !gap.whole_tree && (!device.details || device.details->mapped_blocks <= max_leaf_mappings);
            gap.devices.push_back(device.id);
            gaps_.push_back(std::move(gap));
            if (root.known && root.block.value() < catalog_.blocks())
                explained_.insert(root.block);
        }
        if (device.details)
            missing_[device.id] = static_cast<std::int64_t>(device.details->mapped_blocks) - static_cast<std::int64_t>(mappings);
    }
    for (const Orphan& orphan : orphans_)
        collect_gaps_below(orphan.block, std::nullopt);
}

void Salvage::look_for_hidden_losses() {
    hidden_losses_ = !counts_.complete();
    for (MetadataBlock block(0); block.value() < catalog_.blocks() && !hidden_losses_; ++block)
        hidden_losses_ = catalog_[block].block_class == BlockClass::other && counts_[block] != 0 && !other_roles_.contains(block) &&
                         !explained_.contains(block);
}

// --- Placing orphans ---

const thin::DeviceDetails& Salvage::details_of(ThinId id) const {
    return *std::ranges::lower_bound(devices_, id, {}, &SalvagedDevice::id)->details;
}

// By trees of the pool: a metadata snapshot shares, too, but has no say about who writes where.
bool Salvage::is_shared(MetadataBlock block) const { return counts_.known(block) && counts_[block] > 1 + found_by_held_[block.value()]; }

// One past the latest time of mappings in parts that several trees share, 0 if none are: who has them was origin or snapshot later than
// that, or he would write to what isn't his alone.
Result<std::uint32_t> Salvage::shared_time(MetadataBlock block) {
    const Inner* inner = inner_of(block);
    if (inner == nullptr)
        return 0;
    std::vector<MetadataBlock> children;
    {
        const Node node(TRY(catalog_.inner(block)).data());
        for (std::uint32_t index = 0; index < node.entries(); ++index)
            children.push_back(node.child(index));
    }
    std::uint32_t time = 0;
    for (MetadataBlock child : children) {
        const Inner* below = inner_of(child);
        if (is_shared(child))
            time = std::max(time, 1 + (below != nullptr ? below->max_time : catalog_[child].max_time));
        else if (below != nullptr)
            time = std::max(time, TRY(shared_time(child)));
    }
    return time;
}

bool Salvage::may_fill(const Orphan& orphan, const Gap& gap) const {
    if (orphan.first < gap.range.begin || !gap.range.contains(orphan.last) || orphan.height > gap.max_height)
        return false;
    // Numbers ascend with keys, and what is there doesn't overlap: only the neighbours can be in the way.
    const auto after = std::ranges::upper_bound(gap.fill, orphan.first, {}, [&](std::size_t other) { return orphans_[other].first; });
    if ((after != gap.fill.end() && orphans_[*after].first <= orphan.last) ||
        (after != gap.fill.begin() && orphans_[*(after - 1)].last >= orphan.first))
        return false;
    for (ThinId device : gap.devices) {
        const auto missing = missing_.find(device);
        if (missing == missing_.end()) {
            // Of a device without details nothing says which tree is its.
            if (gap.whole_tree)
                return false;
            continue;
        }
        if (static_cast<std::int64_t>(orphan.mappings) > missing->second)
            return false;
        // Of a tree that has gaps itself, the number of mappings says less.
        if (gap.whole_tree && (!gap.fill.empty() || (orphan.whole && static_cast<std::int64_t>(orphan.mappings) != missing->second) ||
                               orphan.shared_time > details_of(device).snapshotted_time))
            return false;
    }
    return true;
}

// The devices reach a gap, and what fills it, and the gaps in that.
void Salvage::own(std::size_t gap, const std::vector<ThinId>& devices) {
    for (ThinId device : devices) {
        gaps_[gap].devices.push_back(device);
        for (std::size_t orphan : gaps_[gap].fill)
            if (auto missing = missing_.find(device); missing != missing_.end())
                missing->second -= static_cast<std::int64_t>(orphans_[orphan].mappings);
    }
}

void Salvage::put(std::size_t orphan, std::size_t gap) {
    auto& fill = gaps_[gap].fill;
    fill.insert(std::ranges::upper_bound(fill, orphan), orphan);  // numbers ascend with keys
    const std::vector<ThinId> devices = gaps_[gap].devices;
    for (ThinId device : devices)
        if (auto missing = missing_.find(device); missing != missing_.end())
            missing->second -= static_cast<std::int64_t>(orphans_[orphan].mappings);
    if (orphans_[orphan].missing > 0)
        --orphans_[orphan].missing;
    orphans_[orphan].placed = true;
    // The gaps below the orphan.
    std::vector<MetadataBlock> open{orphans_[orphan].block};
    std::set<std::uint64_t> seen;
    while (!open.empty()) {
        const Inner* inner = inner_of(open.back());
        open.pop_back();
        if (inner == nullptr || inner->whole || !seen.insert(inner->block.value()).second)
            continue;
        for (const Slot& slot : inner->slots) {
            if (slot.state == SlotState::broken)
                open.push_back(slot.child);
            if (slot.gap && *slot.gap != gap)
                own(*slot.gap, devices);
        }
    }
}

// For each orphan the gaps that it may fill.
std::vector<std::vector<std::size_t>> Salvage::possible_gaps() const {
    std::vector<std::vector<std::size_t>> possible(orphans_.size());
    for (std::size_t gap = 0; gap < gaps_.size(); ++gap) {
        auto orphan = std::ranges::lower_bound(orphans_, gaps_[gap].range.begin, {}, &Orphan::first) - orphans_.begin();
        for (auto number = static_cast<std::size_t>(orphan); number < orphans_.size() && gaps_[gap].range.contains(orphans_[number].first);
             ++number)
            if (orphans_[number].missing > 0 && may_fill(orphans_[number], gaps_[gap]))
                possible[number].push_back(gap);
    }
    return possible;
}

// Puts orphans where they can only belong. True: something was put.
bool Salvage::place_proven() {
    bool any = false;
    const std::vector<std::vector<std::size_t>> possible = possible_gaps();
    // A device's tree is somewhere, if all that is lost is accounted for: the only orphan that it can be is it.
    std::vector<std::size_t> candidates(gaps_.size());
    for (const auto& gaps : possible)
        for (std::size_t gap : gaps)
            ++candidates[gap];
    for (std::size_t orphan = 0; orphan < orphans_.size() && !hidden_losses_; ++orphan)
        for (std::size_t gap : possible[orphan])
            if (gaps_[gap].whole_tree && candidates[gap] == 1 && orphans_[orphan].missing > 0 && may_fill(orphans_[orphan], gaps_[gap])) {
                put(orphan, gap);
                any = true;
            }
    if (any)
        return true;
    const auto proven = [&](std::size_t orphan) {
        return !possible[orphan].empty() && possible[orphan].size() <= orphans_[orphan].missing;
    };
    std::vector<std::vector<std::size_t>> wanted(gaps_.size());
    for (std::size_t orphan = 0; orphan < orphans_.size(); ++orphan)
        if (proven(orphan))
            for (std::size_t gap : possible[orphan])
                wanted[gap].push_back(orphan);
    for (std::size_t gap = 0; gap < gaps_.size(); ++gap) {
        // Two that want the same place contradict each other.
        std::vector<bool> contradicted(wanted[gap].size());
        std::size_t furthest = 0;
        for (std::size_t index = 1; index < wanted[gap].size(); ++index) {
            const Orphan& before = orphans_[wanted[gap][furthest]];
            if (before.last >= orphans_[wanted[gap][index]].first)
                contradicted[furthest] = contradicted[index] = true;
            if (orphans_[wanted[gap][index]].last > before.last)
                furthest = index;
        }
        for (std::size_t index = 0; index < wanted[gap].size(); ++index)
            if (!contradicted[index] && may_fill(orphans_[wanted[gap][index]], gaps_[gap])) {
                put(wanted[gap][index], gap);
                any = true;
            }
    }
    return any;
}

// Tries all ways to place the rest, group by group of orphans that could take each other's place. What all of them agree on is put.
bool Salvage::place_by_trial() {
    struct Candidate {
        std::size_t orphan;
        std::vector<std::size_t> gaps;
    };
    std::vector<Candidate> candidates;
    std::vector<std::vector<std::size_t>> possible = possible_gaps();
    for (std::size_t orphan = 0; orphan < orphans_.size(); ++orphan)
        if (orphans_[orphan].missing > 0 && !possible[orphan].empty() && possible[orphan].size() >= orphans_[orphan].missing)
            candidates.push_back({orphan, std::move(possible[orphan])});

    // Groups: gaps that share a candidate or a device.
    std::vector<std::size_t> group(gaps_.size());
    std::iota(group.begin(), group.end(), 0);
    const auto head = [&](std::size_t gap) {
        while (group[gap] != gap)
            gap = group[gap] = group[group[gap]];
        return gap;
    };
    for (const Candidate& candidate : candidates)
        for (std::size_t gap : candidate.gaps)
            group[head(gap)] = head(candidate.gaps.front());
    std::map<ThinId, std::size_t> first_gap;
    for (std::size_t gap = 0; gap < gaps_.size(); ++gap)
        for (ThinId device : gaps_[gap].devices)
            if (auto [found, added] = first_gap.emplace(device, gap); !added)
                group[head(gap)] = head(found->second);

    bool any = false;
    std::set<std::size_t> done;
    for (const Candidate& first : candidates) {
        const std::size_t now = head(first.gaps.front());
        if (!done.insert(now).second)
            continue;
        std::vector<const Candidate*> members;
        for (const Candidate& candidate : candidates)
            if (head(candidate.gaps.front()) == now)
                members.push_back(&candidate);
        if (members.size() > max_trial_members)
            continue;
        std::ranges::stable_sort(members, {}, [](const Candidate* candidate) { return candidate->gaps.size(); });
        // Of these devices nothing is lost but what orphans hold: they must come out whole.
        std::map<ThinId, bool> exact;
        for (std::size_t gap = 0; gap < gaps_.size(); ++gap)
            if (head(gap) == now)
                for (ThinId device : gaps_[gap].devices) {
                    auto [entry, added] = exact.emplace(device, !hidden_losses_ && missing_.contains(device));
                    entry->second = entry->second && !gaps_[gap].lost_leaf;
                }
        for (const Candidate* member : members)
            for (std::size_t gap : member->gaps)
                for (ThinId device : gaps_[gap].devices)
                    exact[device] = exact[device] && orphans_[member->orphan].whole;

        std::uint64_t steps = 0;
        std::uint64_t solutions = 0;
        std::map<std::pair<std::size_t, std::size_t>, std::uint64_t> agreed;
        std::vector<std::pair<std::size_t, std::size_t>> placed;
        const auto add = [&](std::size_t orphan, std::size_t gap, std::int64_t sign) {
            for (ThinId device : gaps_[gap].devices)
                if (auto missing = missing_.find(device); missing != missing_.end())
                    missing->second -= sign * static_cast<std::int64_t>(orphans_[orphan].mappings);
        };
        // Places reference `reference` of member `index`, in one of its gaps from `from` on.
        auto attempt = [&](auto& self, std::size_t index, std::uint32_t reference, std::size_t from) -> void {
            if (++steps > max_trial_steps)
                return;
            if (index == members.size()) {
                for (const auto& [device, must] : exact)
                    if (must && missing_.at(device) != 0)
                        return;
                ++solutions;
                for (const auto& place : placed)
                    ++agreed[place];
                return;
            }
            const Candidate& member = *members[index];
            if (reference == orphans_[member.orphan].missing) {
                self(self, index + 1, 0, 0);
                return;
            }
            for (std::size_t choice = from; choice < member.gaps.size(); ++choice) {
                const std::size_t gap = member.gaps[choice];
                if (!may_fill(orphans_[member.orphan], gaps_[gap]))
                    continue;
                auto& fill = gaps_[gap].fill;
                fill.insert(std::ranges::upper_bound(fill, member.orphan), member.orphan);
                add(member.orphan, gap, 1);
                placed.emplace_back(member.orphan, gap);
                self(self, index, reference + 1, choice + 1);
                placed.pop_back();
                add(member.orphan, gap, -1);
                fill.erase(std::ranges::find(fill, member.orphan));
            }
        };
        attempt(attempt, 0, 0, 0);
        if (solutions == 0 || steps > max_trial_steps)
            continue;
        for (const auto& [place, count] : agreed)
            if (count == solutions) {
                put(place.first, place.second);
                any = true;
            }
    }
    return any;
}

// Devices whose way in the tree of devices is lost, by an earlier state of that tree. It is believed if nothing in it speaks against it:
// what it leads to is in use, nobody's yet, and of as many mappings as the device's details say, or is free by now, changed by the last
// commits; and if no other such state says otherwise.
Result<bool> Salvage::place_by_older_trees() {
    if (std::ranges::none_of(gaps_, [](const Gap& gap) { return gap.whole_tree && gap.fill.empty(); }))
        return false;
    MetadataBlockSet rest(catalog_.blocks());
    rest.insert_all();
    TRY(catalog_.scan(rest));
    std::map<std::uint64_t, std::size_t> orphan_at;
    for (std::size_t orphan = 0; orphan < orphans_.size(); ++orphan)
        if (orphans_[orphan].missing > 0)
            orphan_at.emplace(orphans_[orphan].block.value(), orphan);
    std::map<ThinId, std::set<std::size_t>> claims;
    // What a metadata snapshot refers to was not used anew.
    // What a metadata snapshot refers to was not used anew; and unless the device was origin of a snapshot since, nobody else got it.
    std::set<ThinId> held;
    for (const auto& [id, root] : held_devices_)
        if (const auto orphan = orphan_at.find(root.value());
            orphan != orphan_at.end() && missing_.contains(id) && details_of(id).snapshotted_time <= held_time_) {
            claims[id].insert(orphan->second);
            held.insert(id);
        }
    for (MetadataBlock block(0); block.value() < catalog_.blocks(); ++block) {
        if (catalog_[block].block_class != BlockClass::leaf || counts_[block] != 0 || !seems_device_leaf(block))
            continue;
        std::array<std::byte, block_bytes> bytes;
        if (!catalog_.reader().read_block(block, BlockKind::node, bytes) || !pdata::verify_node(bytes.data()))
            continue;
        const Node node(bytes.data());
        std::map<ThinId, std::size_t> says;
        // A snapshot made since may have what its origin had then.
        bool believed = node.entries() == device_roots_.size();
        for (std::uint32_t index = 0; index < node.entries() && believed; ++index) {
            const ThinId id(static_cast<std::uint32_t>(node.key(index)));
            const MetadataBlock root = node.child(index);
            believed = believed && device_roots_.contains(id);
            if (const auto orphan = orphan_at.find(root.value()); orphan != orphan_at.end()) {
                const auto missing = missing_.find(id);
                believed = believed && missing != missing_.end() &&
                           static_cast<std::int64_t>(orphans_[orphan->second].mappings) == missing->second;
                says.emplace(id, orphan->second);
            } else {
                const auto device = device_roots_.find(id);
                believed = believed && (counts_[root] == 0 || !missing_.contains(id) || missing_.at(id) == 0 ||
                                        (device != device_roots_.end() && !device->second.gap));
            }
        }
        if (believed)
            for (const auto& [id, orphan] : says)
                claims[id].insert(orphan);
    }
    std::map<std::size_t, std::size_t> claimants;
    for (const auto& [id, orphans] : claims)
        for (std::size_t orphan : orphans)
            ++claimants[orphan];
    bool any = false;
    for (const auto& [id, orphans] : claims) {
        const auto device = device_roots_.find(id);
        if (orphans.size() != 1 || device == device_roots_.end() || !device->second.gap)
            continue;
        const std::size_t orphan = *orphans.begin();
        if (claimants[orphan] > orphans_[orphan].missing || !gaps_[*device->second.gap].whole_tree ||
            !may_fill(orphans_[orphan], gaps_[*device->second.gap]))
            continue;
        --claimants[orphan];
        put(orphan, *device->second.gap);
        if (!held.contains(id))
            by_older_tree_.insert(id);
        any = true;
    }
    return any;
}

// A node with too many referrers that couldn't be told apart: if with it in all its places everything is as recorded, it's the count that
// is wrong.
bool Salvage::restore_doubtful() {
    bool any = false;
    for (std::size_t orphan = 0; orphan < orphans_.size(); ++orphan) {
        if (orphans_[orphan].placed || !doubtful_.contains(orphans_[orphan].block))
            continue;
        std::vector<std::size_t> places;
        std::map<ThinId, std::int64_t> gained;
        for (std::size_t gap = 0; gap < gaps_.size(); ++gap)
            if (gaps_[gap].pointed == orphans_[orphan].block && may_fill(orphans_[orphan], gaps_[gap])) {
                places.push_back(gap);
                for (ThinId device : gaps_[gap].devices)
                    gained[device] += static_cast<std::int64_t>(orphans_[orphan].mappings);
            }
        const bool exact = std::ranges::all_of(gained, [&](const auto& gain) {
            const auto missing = missing_.find(gain.first);
            return missing != missing_.end() && missing->second == gain.second;
        });
        // Another that could be in its place leaves the question open.
        const bool rivalled = std::ranges::any_of(orphans_, [&](const Orphan& other) {
            return other.missing > 0 && other.block != orphans_[orphan].block &&
                   std::ranges::any_of(places, [&](std::size_t gap) { return may_fill(other, gaps_[gap]); });
        });
        if (gained.empty() || !exact || rivalled)
            continue;
        for (std::size_t gap : places)
            put(orphan, gap);
        any = true;
    }
    return any;
}

Result<void> Salvage::place_orphans() {
    // While some referrers can't be known (those of a lost metadata snapshot), an orphan may be theirs.
    if (all_referrers_known_)
        while (place_proven() || place_by_trial() || TRY(place_by_older_trees()) || restore_doubtful()) {}
    const std::vector<std::vector<std::size_t>> possible = possible_gaps();
    for (std::size_t number = 0; number < orphans_.size(); ++number) {
        const Orphan& orphan = orphans_[number];
        if (orphan.placed)
            continue;
        UnplacedOrphan unplaced{orphan.block, orphan.first, orphan.last, orphan.mappings, {}};
        for (std::size_t gap : possible[number])
            unplaced.possible_owners.insert(unplaced.possible_owners.end(), gaps_[gap].devices.begin(), gaps_[gap].devices.end());
        std::ranges::sort(unplaced.possible_owners);
        const auto repeated = std::ranges::unique(unplaced.possible_owners);
        unplaced.possible_owners.erase(repeated.begin(), repeated.end());
        unplaced_.push_back(std::move(unplaced));
    }
    return {};
}

// --- The plan ---

Result<Salvage::Unit> Salvage::unit_of(MetadataBlock block) {
    const CatalogEntry& entry = catalog_[block];
    const Inner* inner = inner_of(block);
    return Unit{PlanNode::copy_of(block), inner != nullptr ? inner->height : std::uint8_t{0}, entry.first_key, entry.entries};
}

Result<std::vector<Salvage::Unit>> Salvage::children_of(const Unit& unit) {
    std::vector<Unit> children;
    if (unit.node.is_made()) {
        for (const MadeNode::Child& child : made_[unit.node.index()].children) {
            const std::uint32_t entries = child.node.is_made() ? static_cast<std::uint32_t>(made_[child.node.index()].children.size())
                                                               : catalog_[child.node.source()].entries;
            children.push_back({child.node, static_cast<std::uint8_t>(unit.height - 1), child.key, entries});
        }
        return children;
    }
    const Node node(TRY(catalog_.inner(unit.node.source())).data());
    for (std::uint32_t index = 0; index < node.entries(); ++index)
        children.push_back({PlanNode::copy_of(node.child(index)), static_cast<std::uint8_t>(unit.height - 1), node.key(index),
                            catalog_[node.child(index)].entries});
    return children;
}

// One inner node above each group of units, which have one height; groups are about equal.
std::vector<Salvage::Unit> Salvage::pack(const std::vector<Unit>& units) {
    std::vector<Unit> packed;
    const std::size_t nodes = (units.size() + max_children - 1) / max_children;
    for (std::size_t number = 0; number < nodes; ++number) {
        const std::size_t begin = units.size() * number / nodes;
        const std::size_t end = units.size() * (number + 1) / nodes;
        MadeNode node;
        for (std::size_t index = begin; index < end; ++index)
            node.children.push_back({units[index].first, units[index].node});
        packed.push_back({PlanNode::made(made_.size()), static_cast<std::uint8_t>(units[begin].height + 1), units[begin].first,
                          static_cast<std::uint32_t>(end - begin)});
        made_.push_back(std::move(node));
    }
    return packed;
}

// Merges inner nodes that are less than a third full with a neighbour of the same height.
Result<std::vector<Salvage::Unit>> Salvage::even_out(std::vector<Unit> units) {
    for (std::size_t index = 0; index < units.size();) {
        const auto mergeable = [&](std::size_t other) { return other < units.size() && units[other].height == units[index].height; };
        if (units[index].height == 0 || units[index].entries >= min_children ||
            (!mergeable(index + 1) && (index == 0 || !mergeable(index - 1)))) {
            ++index;
            continue;
        }
        const std::size_t left = mergeable(index + 1) ? index : index - 1;
        std::vector<Unit> children = TRY(children_of(units[left]));
        const std::vector<Unit> right = TRY(children_of(units[left + 1]));
        children.insert(children.end(), right.begin(), right.end());
        const std::vector<Unit> merged = pack(TRY(even_out(std::move(children))));
        const auto at = units.begin() + static_cast<std::ptrdiff_t>(left);
        units.insert(units.erase(at, at + 2), merged.begin(), merged.end());
        index = left;
    }
    return units;
}

// Units of several heights, none above `height`, brought to it by inner nodes above them.
Result<std::vector<Salvage::Unit>> Salvage::raise(std::vector<Unit> units, std::uint8_t height) {
    for (std::uint8_t level = 0; level < height; ++level) {
        std::vector<Unit> raised;
        std::vector<Unit> run;
        const auto end_run = [&]() -> Result<void> {
            const std::vector<Unit> packed = pack(TRY(even_out(std::exchange(run, {}))));
            raised.insert(raised.end(), packed.begin(), packed.end());
            return {};
        };
        for (const Unit& unit : units) {
            if (unit.height == level) {
                run.push_back(unit);
                continue;
            }
            TRY(end_run());
            raised.push_back(unit);
        }
        TRY(end_run());
        units = TRY(even_out(std::move(raised)));
    }
    return units;
}

Result<std::vector<Salvage::Unit>> Salvage::fill_units(const Gap& gap) {
    std::vector<Unit> units;
    for (std::size_t orphan : gap.fill) {
        const MetadataBlock block = orphans_[orphan].block;
        const Inner* inner = inner_of(block);
        if (inner == nullptr || inner->whole) {
            units.push_back(TRY(unit_of(block)));
            continue;
        }
        const std::vector<Unit> mended = TRY(mend(inner_numbers_.at(block.value())));
        units.insert(units.end(), mended.begin(), mended.end());
    }
    return units;
}

// What replaces a broken inner node: nodes of its height.
Result<std::vector<Salvage::Unit>> Salvage::mend(std::uint32_t number) {
    if (auto found = mended_.find(number); found != mended_.end())
        return found->second;
    const Inner& inner = inners_[number];
    std::vector<Unit> children;
    for (const Slot& slot : inner.slots) {
        std::vector<Unit> units;
        if (slot.state == SlotState::sound)
            units.push_back(TRY(unit_of(slot.child)));
        else if (slot.state == SlotState::broken)
            units = TRY(mend(inner_numbers_.at(slot.child.value())));
        else if (slot.gap)
            units = TRY(fill_units(gaps_[*slot.gap]));
        children.insert(children.end(), units.begin(), units.end());
    }
    std::vector<Unit> mended = pack(TRY(even_out(TRY(raise(std::move(children), static_cast<std::uint8_t>(inner.height - 1))))));
    mended_.emplace(number, mended);
    return mended;
}

Result<std::optional<PlanNode>> Salvage::root_of(std::vector<Unit> units) {
    if (units.empty())
        return std::nullopt;
    const std::uint8_t highest = std::ranges::max(units, {}, &Unit::height).height;
    units = TRY(raise(std::move(units), highest));
    while (units.size() > 1)
        units = TRY(even_out(pack(units)));
    PlanNode root = units.front().node;
    while (root.is_made() && made_[root.index()].children.size() == 1)
        root = made_[root.index()].children.front().node;
    return root;
}

void Salvage::report_lost(SalvagedDevice& device, const std::vector<std::size_t>& gaps) const {
    for (std::size_t number : gaps) {
        const Gap& gap = gaps_[number];
        std::uint64_t begin = gap.range.begin;
        for (std::size_t orphan : gap.fill) {
            if (orphans_[orphan].first > begin)
                device.lost.push_back({begin, orphans_[orphan].first});
            begin = orphans_[orphan].last + 1;
        }
        if (begin < gap.range.end)
            device.lost.push_back({begin, gap.range.end});
    }
    // The number of mappings isn't as recorded, and nothing says where: an old copy of a node, perhaps.
    if (gaps.empty())
        device.lost.push_back({});
    std::ranges::sort(device.lost, {}, &KeyRange::begin);
}

Result<void> Salvage::make_plan() {
    std::map<MetadataBlock, std::optional<PlanNode>> roots;
    std::map<ThinId, std::vector<std::size_t>> gaps_of;
    for (std::size_t gap = 0; gap < gaps_.size(); ++gap)
        for (ThinId device : gaps_[gap].devices)
            if (auto& gaps = gaps_of[device]; gaps.empty() || gaps.back() != gap)
                gaps.push_back(gap);
    for (SalvagedDevice& device : devices_) {
        const DeviceRoot& root = device_roots_.at(device.id);
        if (root.gap) {
            device.root = TRY(root_of(TRY(fill_units(gaps_[*root.gap]))));
        } else if (!root.known || is_elsewhere(root.block) || is_doubtful_root(device.id, root.block)) {
            // It maps nothing.
        } else if (const Inner* inner = inner_of(root.block)) {
            device.mappings = inner->mappings;
            device.max_time = inner->max_time;
            if (inner->whole)
                device.root = PlanNode::copy_of(root.block);
            else if (auto known = roots.find(root.block); known != roots.end())
                device.root = known->second;
            else
                roots.emplace(root.block, device.root = TRY(root_of(TRY(mend(inner_numbers_.at(root.block.value()))))));
        } else if (leaf_fits(root.block, {})) {
            device.mappings = leaf_mappings(root.block);
            device.max_time = catalog_[root.block].max_time;
            device.root = PlanNode::copy_of(root.block);
        }
        const std::vector<std::size_t>& gaps = gaps_of[device.id];
        for (std::size_t gap : gaps) {
            for (std::size_t orphan : gaps_[gap].fill) {
                device.recovered += orphans_[orphan].mappings;
                const Inner* inner = inner_of(orphans_[orphan].block);
                device.max_time = std::max(device.max_time, inner != nullptr ? inner->max_time : catalog_[orphans_[orphan].block].max_time);
            }
        }
        device.mappings += device.recovered;
        device.by_older_tree = by_older_tree_.contains(device.id);
        device.complete = device.details ? device.mappings == device.details->mapped_blocks : gaps.empty();
        device.unexplained = !device.complete && gaps.empty();
        if (!device.complete)
            report_lost(device, gaps);
    }
    return {};
}

}  // namespace lamella::tools
