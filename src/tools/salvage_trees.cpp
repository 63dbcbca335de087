// SPDX-License-Identifier: Apache-2.0
#include "tools/salvage_trees.h"

#include <algorithm>

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

thin::DeviceDetails unpack_details(const std::byte* value) {
    return {load_little<std::uint64_t>(value), load_little<std::uint64_t>(value + 8), load_little<std::uint32_t>(value + 16),
            load_little<std::uint32_t>(value + 20)};
}

bool lies_in_one_of(const CatalogEntry& entry, const std::vector<KeyRange>& ranges) {
    return std::ranges::any_of(ranges,
                               [&](const KeyRange& range) { return range.contains(entry.first_key) && range.contains(entry.last_key); });
}

}  // namespace
SalvageTrees::SalvageTrees(NodeCatalog& catalog, const MetadataCounts& counts, const SalvageInput& input)
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

Result<void> SalvageTrees::judge() {
    for (bool again = false;;) {
        forget();
        read_tops();
        mark_space_maps();
        TRY(walk_devices());
        damaged_ = damaged_ || counts_disagree();
        if (!damaged_)
            return {};
        TRY(find_orphans());
        if (!distrusted_since_ && !orphans_.empty()) {
            distrusted_since_ = devices_are_old();
            if (distrusted_since_)
                continue;
        }
        // A block with too many referrers is a gap in them, to be filled like other gaps. A subtree that reaches beyond its place is
        // in the wrong place, unless nothing else leads to it: then only what lies beyond is.
        const bool doubt = TRY(find_doubtful());
        for (auto block = too_long_.next(MetadataBlock(0)); block; block = too_long_.next(*block + 1))
            if (found_[block->value()] == 0)
                may_clip_.insert(*block);
        if (again || (!doubt && may_clip_.empty()))
            return {};
        again = true;
    }
}

// The tree of devices is an old copy, whole and with a right checksum, if it lacks volumes that the details name. What a volume's root was
// then may be a later volume's by now, that was made as its snapshot: nothing but times tells whose. So since when volumes are missing.
std::optional<std::uint32_t> SalvageTrees::devices_are_old() const {
    std::optional<std::uint32_t> since;
    for (const auto& [id, device] : devices_)
        if (tops_whole_ && device.details && !device.root_known)
            since = std::min(since.value_or(thin::max_time), device.details->creation_time);
    return since;
}

void SalvageTrees::forget() {
    std::ranges::fill(found_, 0);
    other_roles_.clear();
    explained_.clear();
    devices_.clear();
    held_devices_.clear();
    std::ranges::fill(found_by_held_, 0);
    inners_.clear();
    inner_numbers_.clear();
    orphans_.clear();
    trimmed_.clear();
    too_long_.clear();
    damaged_ = false;
    all_referrers_known_ = true;
}

// --- The trees of devices and details ---

// Entries of ids that can be some; what is lost is added to `lost`.
template <typename Entry>
void SalvageTrees::read_top(MetadataBlock root, std::uint32_t value_size, Entry entry, std::vector<KeyRange>& lost) {
    SalvageWalk walk(
        catalog_, value_size,
        [&](std::uint64_t key, const std::byte* value) {
            if (key <= thin::max_thin_id)
                entry(devices_[ThinId(static_cast<std::uint32_t>(key))], value);
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

void SalvageTrees::read_devices(MetadataBlock root, std::vector<KeyRange>& lost) {
    const auto entry = [&](Device& device, const std::byte* value) {
        device.root = MetadataBlock(load_little<std::uint64_t>(value));
        device.root_known = true;
        if (device.root.value() < found_.size())
            ++found_[device.root.value()];
    };
    read_top(root, pointer_bytes, entry, lost);
}

void SalvageTrees::read_details(MetadataBlock root, std::vector<KeyRange>& lost) {
    const auto entry = [&](Device& device, const std::byte* value) {
        if (!device.details)
            device.details = unpack_details(value);
    };
    read_top(root, details_bytes, entry, lost);
}

bool SalvageTrees::seems_device_leaf(MetadataBlock leaf) const {
    const CatalogEntry& entry = catalog_[leaf];
    if (entry.max_value >= catalog_.blocks() || entry.entries == 0 || entry.last_key > thin::max_thin_id)
        return false;
    if (entry.entries > 1)
        return true;
    const BlockClass kind = catalog_[MetadataBlock(entry.max_value)].block_class;
    return kind == BlockClass::leaf || kind == BlockClass::inner;
}

// Leaves of the small trees to which nothing leads any more, in use and within what is lost; none if they contradict each other.
std::vector<MetadataBlock> SalvageTrees::orphan_tops(BlockClass kind, const std::vector<KeyRange>& lost) const {
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

void SalvageTrees::read_tops() {
    std::vector<KeyRange> lost_devices;
    std::vector<KeyRange> lost_details;
    read_devices(input_.roots.devices, lost_devices);
    read_details(input_.roots.details, lost_details);
    damaged_ = !lost_devices.empty() || !lost_details.empty();
    read_held(!damaged_);
    if (all_referrers_known_) {
        for (MetadataBlock block : orphan_tops(BlockClass::details_leaf, lost_details))
            read_details(block, lost_details);
        for (MetadataBlock block : orphan_tops(BlockClass::leaf, lost_devices))
            read_devices(block, lost_devices);
    }

    tops_whole_ = lost_devices.empty() && lost_details.empty();
    for (auto& [id, device] : devices_) {
        damaged_ |= !device.root_known || !device.details;
        if (distrusted_since_ && device.root_known && device.details && device.details->snapshotted_time >= *distrusted_since_) {
            device.root_known = false;
            if (device.root.value() < found_.size())
                --found_[device.root.value()];
        }
    }
}

// Where the trees of a metadata snapshot begin whose superblock is lost: with the pool's own trees read, the one tree of each kind that
// still misses a referrer is the snapshot's. It may be the pool's own, which then has two.
std::optional<TreeRoots> SalvageTrees::find_held_roots() const {
    const auto find = [&](MetadataBlock live, BlockClass kind) {
        std::optional<MetadataBlock> found;
        for (MetadataBlock block(0); block.value() < catalog_.blocks(); ++block) {
            // Of trees of several nodes only the root itself can be told from a part that is shared.
            const bool single = catalog_[live].block_class == kind && catalog_[block].block_class == kind &&
                                (kind != BlockClass::leaf || seems_device_leaf(block));
            if ((block != live && !single) || !counts_.known(block) || counts_[block] <= found_[block.value()])
                continue;
            if (found)
                return std::optional<MetadataBlock>();
            found = block;
        }
        return found;
    };
    const auto devices = find(input_.roots.devices, BlockClass::leaf);
    const auto details = find(input_.roots.details, BlockClass::details_leaf);
    return devices && details ? std::optional(TreeRoots{*devices, *details}) : std::nullopt;
}

// A metadata snapshot refers to nodes, too: with its references known, what is still missing belongs to the pool itself.
void SalvageTrees::read_held(bool tops_whole) {
    if (input_.held_root == MetadataBlock(0))
        return;
    if (input_.held_root.value() < catalog_.blocks()) {
        other_roles_.insert(input_.held_root);
        ++found_[input_.held_root.value()];
    }
    std::array<std::byte, block_bytes> bytes{};
    const bool read = catalog_.reader().read_block(input_.held_root, BlockKind::superblock, bytes).has_value();
    const auto held = thin::Superblock::unpack(bytes, false, input_.held_root);
    std::optional<TreeRoots> roots;
    held_time_ = 0;
    if (read && held) {
        roots = {held->data_mapping_root, held->device_details_root};
        held_time_ = held->time;
    } else if (tops_whole) {
        roots = find_held_roots();
    }
    if (!roots) {
        all_referrers_known_ = false;
        return;
    }
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
    devices.walk(roots->devices);
    SalvageWalk details(
        catalog_, details_bytes,
        [&](std::uint64_t, const std::byte* value) {
            // At least so late it was.
            if (const std::uint32_t time = unpack_details(value).creation_time; time <= thin::max_time)
                held_time_ = std::max(held_time_, time);
        },
        node, lost);
    details.walk(roots->details);
}

void SalvageTrees::mark_space_maps() {
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

Result<void> SalvageTrees::walk_devices() {
    for (const auto& [id, device] : devices_) {
        if (!device.root_known)
            continue;
        TRY(catalog_.look_at(device.root));
        const BlockClass kind = catalog_[device.root].block_class;
        const bool doubtful = is_doubtful_root(id, device.root);
        const bool other = is_elsewhere(device.root) || doubtful;
        if (doubtful)
            --found_[device.root.value()];  // no longer taken for a reference
        if (!other && kind == BlockClass::leaf && catalog_[device.root].entries > 0 && leaf_fits(device.root, {}))
            continue;
        if (!other && kind == BlockClass::leaf && catalog_[device.root].entries == 0 &&
            (!device.details || device.details->mapped_blocks == 0))
            continue;
        if (!other && kind == BlockClass::inner)
            if (auto number = TRY(walk(device.root, 0))) {
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
bool SalvageTrees::counts_disagree() {
    for (MetadataBlock block(0); block.value() < catalog_.blocks(); ++block)
        if (counts_.known(block) && found_[block.value()] > counts_[block] && !other_roles_.contains(block))
            return true;
    return std::ranges::any_of(devices_, [&](const auto& entry) {
        const Device& device = entry.second;
        return device.details && device.details->mapped_blocks != tree_mappings(device.root);
    });
}

std::uint64_t SalvageTrees::tree_mappings(MetadataBlock root) {
    const Inner* inner = inner_of(root);
    return inner != nullptr ? inner->mappings : leaf_mappings(root);
}

std::uint64_t SalvageTrees::leaf_mappings(MetadataBlock leaf) {
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

bool SalvageTrees::leaf_fits(MetadataBlock leaf, KeyRange range) {
    const CatalogEntry& entry = catalog_[leaf];
    return entry.block_class == BlockClass::leaf && !other_roles_.contains(leaf) && entry.entries > 0 && entry.first_key >= range.begin &&
           range.contains(entry.last_key) && leaf_mappings(leaf) > 0;
}

bool SalvageTrees::is_elsewhere(MetadataBlock root) const { return root.value() >= catalog_.blocks() || other_roles_.contains(root); }

bool SalvageTrees::is_doubtful_root(ThinId id, MetadataBlock root) const {
    return doubtful_.contains(root) && (doubtful_everywhere_.contains(root) || !trusted_devices_.contains(id));
}

const SalvageTrees::Inner* SalvageTrees::inner_of(MetadataBlock block) const {
    const auto found = inner_numbers_.find(block.value());
    if (found == inner_numbers_.end() || inners_[found->second].growing || !inners_[found->second].sound)
        return nullptr;
    return &inners_[found->second];
}

void SalvageTrees::summarize(Inner& inner) {
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

Result<void> SalvageTrees::open_slots(Inner& inner) {
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
Result<std::optional<std::uint32_t>> SalvageTrees::walk(MetadataBlock block, unsigned depth) {
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
Result<void> SalvageTrees::clip(std::uint32_t number, std::uint64_t end) {
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

Result<void> SalvageTrees::find_orphans() {
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
Result<void> SalvageTrees::trust(MetadataBlock root, std::vector<std::uint32_t>& references) {
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
Result<bool> SalvageTrees::find_doubtful() {
    std::vector<std::uint32_t> trusted_references(catalog_.blocks());
    bool too_many = !orphans_.empty();
    for (const auto& [id, device] : devices_) {
        if (!device.root_known || is_elsewhere(device.root) || !device.details)
            continue;
        const std::uint64_t mappings = tree_mappings(device.root);
        too_many |= mappings > device.details->mapped_blocks;
        if (mappings != device.details->mapped_blocks)
            continue;
        trusted_devices_.insert(id);
        ++trusted_references[device.root.value()];
        TRY(trust(device.root, trusted_references));
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

// By trees of the pool: a metadata snapshot shares, too, but has no say about who writes where.
bool SalvageTrees::is_shared(MetadataBlock block) const {
    return counts_.known(block) && counts_[block] > 1 + found_by_held_[block.value()];
}

// One past the latest time of mappings in parts that several trees share, 0 if none are: who has them was origin or snapshot later than
// that, or he would write to what isn't his alone.
Result<std::uint32_t> SalvageTrees::shared_time(MetadataBlock block) {
    const Inner* inner = inner_of(block);
    if (inner == nullptr)
        return 0;
    // What is lost may lead anywhere, back to this node too.
    std::vector<MetadataBlock> children;
    for (const Slot& slot : inner->slots)
        if (slot.state != SlotState::lost)
            children.push_back(slot.child);
    if (inner->slots.empty()) {
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

bool SalvageTrees::any_unexplained() const {
    for (MetadataBlock block(0); block.value() < catalog_.blocks(); ++block)
        if (catalog_[block].block_class == BlockClass::other && counts_[block] != 0 && !other_roles_.contains(block) &&
            !explained_.contains(block))
            return true;
    return false;
}

}  // namespace lamella::tools
