// SPDX-License-Identifier: Apache-2.0
#include "tools/salvage.h"

#include <algorithm>

#include "pdata/btree.h"

namespace lamella::tools {

using pdata::Node;

namespace {

constexpr std::uint32_t max_children = pdata::max_node_entries(sizeof(std::uint64_t));
constexpr std::uint32_t min_children = max_children / 3;

}  // namespace

Result<std::unique_ptr<Salvage>> Salvage::start(NodeCatalog& catalog, const MetadataCounts& counts, const SalvageInput& input) {
    std::unique_ptr<Salvage> salvage(new Salvage(catalog, counts, input));
    TRY(salvage->trees_.judge());
    TRY(salvage->placement_.emplace(salvage->trees_).place());
    TRY(salvage->make_plan());
    return salvage;
}

Result<Salvage::Unit> Salvage::unit_of(MetadataBlock block) {
    const CatalogEntry& entry = catalog_[block];
    const Inner* inner = trees_.inner_of(block);
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
        const MetadataBlock block = placement_->orphan(orphan).block;
        const Inner* inner = trees_.inner_of(block);
        if (inner == nullptr || inner->whole) {
            units.push_back(TRY(unit_of(block)));
            continue;
        }
        const std::vector<Unit> mended = TRY(mend(block));
        units.insert(units.end(), mended.begin(), mended.end());
    }
    return units;
}

// What replaces a broken inner node: nodes of its height.
Result<std::vector<Salvage::Unit>> Salvage::mend(MetadataBlock block) {
    if (auto found = mended_.find(block); found != mended_.end())
        return found->second;
    const Inner& inner = *trees_.inner_of(block);
    std::vector<Unit> children;
    for (const Slot& slot : inner.slots) {
        std::vector<Unit> units;
        if (slot.state == SlotState::sound)
            units.push_back(TRY(unit_of(slot.child)));
        else if (slot.state == SlotState::broken)
            units = TRY(mend(slot.child));
        else if (slot.gap)
            units = TRY(fill_units(placement_->gaps()[*slot.gap]));
        children.insert(children.end(), units.begin(), units.end());
    }
    std::vector<Unit> mended = pack(TRY(even_out(TRY(raise(std::move(children), static_cast<std::uint8_t>(inner.height - 1))))));
    mended_.emplace(block, mended);
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

namespace {

void sort_by_begin(std::vector<KeyRange>& ranges) { std::ranges::sort(ranges, {}, &KeyRange::begin); }

// `ranges` without `others`, in ascending order and joined.
std::vector<KeyRange> without(std::vector<KeyRange> ranges, std::vector<KeyRange> others) {
    sort_by_begin(ranges);
    sort_by_begin(others);
    std::vector<KeyRange> left;
    std::uint64_t done = 0;  // all up to here is dealt with
    std::size_t next = 0;
    for (const KeyRange& range : ranges) {
        const auto add = [&](std::uint64_t begin, std::uint64_t end) {
            if (begin >= end)
                return;
            if (!left.empty() && left.back().end == begin)
                left.back().end = end;
            else
                left.push_back({begin, end});
        };
        std::uint64_t begin = std::max(range.begin, done);
        for (; next < others.size() && others[next].begin < range.end; ++next) {
            add(begin, others[next].begin);
            begin = std::max(begin, others[next].end);
            if (others[next].end > range.end)
                break;
        }
        add(begin, range.end);
        done = std::max({done, begin, range.end});
    }
    return left;
}

}  // namespace

// What a broken tree was to hold of a range, and where what it still holds lies. A node in which a child is something else altogether, and
// not merely damaged, may be an old copy: then nothing that it says bounds what is missing but the place it has itself.
void Salvage::survey_lost(MetadataBlock block, KeyRange range, std::vector<KeyRange>& uncertain, std::vector<KeyRange>& there) const {
    const Inner* inner = trees_.inner_of(block);
    if (inner == nullptr || inner->whole) {
        const CatalogEntry& entry = catalog_[block];
        there.push_back({inner != nullptr ? inner->first : entry.first_key, (inner != nullptr ? inner->last : entry.last_key) + 1});
        return;
    }
    if (std::ranges::any_of(inner->slots,
                            [&](const Slot& slot) { return slot.state == SlotState::lost && !trees_.is_unreadable(slot.child); }))
        uncertain.push_back(range);
    for (const Slot& slot : inner->slots) {
        const KeyRange place{slot.range.begin, std::min(slot.range.end, range.end)};
        if (slot.state != SlotState::lost) {
            survey_lost(slot.child, place, uncertain, there);
            continue;
        }
        uncertain.push_back(place);
        if (slot.gap)
            for (std::size_t orphan : placement_->gaps()[*slot.gap].fill)
                survey_lost(placement_->orphan(orphan).block, place, uncertain, there);
    }
}

void Salvage::report_lost(SalvagedDevice& device) const {
    const SalvageTrees::Device& judged = trees_.devices().at(device.id);
    std::vector<KeyRange> uncertain;
    std::vector<KeyRange> there;
    if (judged.gap) {
        uncertain.emplace_back();
        for (std::size_t orphan : placement_->gaps()[*judged.gap].fill)
            survey_lost(placement_->orphan(orphan).block, {}, uncertain, there);
    } else {
        survey_lost(judged.root, {}, uncertain, there);
    }
    device.lost = without(std::move(uncertain), std::move(there));
    // More mappings are missing than there is room for, and nothing says where: an old copy of a node, perhaps.
    std::uint64_t room = 0;
    for (const KeyRange& range : device.lost)
        room = range.end == KeyRange::no_end ? KeyRange::no_end : room + (range.end - range.begin);
    if (device.lost.empty() ||
        (device.details && device.details->mapped_blocks > device.mappings && device.details->mapped_blocks - device.mappings > room))
        device.lost = {{}};
}

Result<void> Salvage::make_plan() {
    const std::vector<Gap>& all_gaps = placement_->gaps();
    std::map<MetadataBlock, std::optional<PlanNode>> roots;
    std::map<ThinId, std::vector<std::size_t>> gaps_of;
    for (std::size_t gap = 0; gap < all_gaps.size(); ++gap)
        for (ThinId device : all_gaps[gap].devices)
            if (auto& gaps = gaps_of[device]; gaps.empty() || gaps.back() != gap)
                gaps.push_back(gap);
    for (const auto& [id, judged] : trees_.devices()) {
        SalvagedDevice& device = devices_.emplace_back(SalvagedDevice{.id = id, .details = judged.details});
        const MetadataBlock root = judged.root;
        if (judged.gap) {
            device.root = TRY(root_of(TRY(fill_units(all_gaps[*judged.gap]))));
        } else if (!judged.root_known || trees_.is_elsewhere(root) || trees_.is_doubtful_root(id, root)) {
            // It maps nothing.
        } else if (const Inner* inner = trees_.inner_of(root)) {
            device.mappings = inner->mappings;
            device.max_time = inner->max_time;
            if (inner->whole)
                device.root = PlanNode::copy_of(root);
            else if (auto known = roots.find(root); known != roots.end())
                device.root = known->second;
            else
                roots.emplace(root, device.root = TRY(root_of(TRY(mend(root)))));
        } else if (trees_.leaf_fits(root, {})) {
            device.mappings = trees_.leaf_mappings(root);
            device.max_time = catalog_[root].max_time;
            device.root = PlanNode::copy_of(root);
        }
        const std::vector<std::size_t>& gaps = gaps_of[id];
        for (std::size_t gap : gaps) {
            for (std::size_t orphan : all_gaps[gap].fill) {
                device.recovered += placement_->orphan(orphan).mappings;
                const Inner* inner = trees_.inner_of(placement_->orphan(orphan).block);
                device.max_time =
                    std::max(device.max_time, inner != nullptr ? inner->max_time : catalog_[placement_->orphan(orphan).block].max_time);
            }
        }
        device.mappings += device.recovered;
        device.by_older_tree = placement_->by_older_tree(id);
        device.complete = device.details ? device.mappings == device.details->mapped_blocks : gaps.empty();
        device.unexplained = !device.complete && gaps.empty();
        if (!device.complete)
            report_lost(device);
    }
    return {};
}

}  // namespace lamella::tools