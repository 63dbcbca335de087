// SPDX-License-Identifier: Apache-2.0
#include "tools/orphan_placement.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "base/endian.h"
#include "pdata/btree.h"

namespace lamella::tools {

using pdata::block_bytes;
using pdata::BlockKind;
using pdata::Node;

namespace {

// How many steps are spent on trying where orphans belong that several gaps could take.
constexpr std::uint64_t max_trial_steps = 300'000;
constexpr std::size_t max_trial_members = 1000;
// A gap takes so many mappings at least if it can't have been a leaf.
constexpr std::uint64_t max_leaf_mappings = pdata::max_node_entries(sizeof(std::uint64_t));

}  // namespace

// --- Gaps ---

OrphanPlacement::OrphanPlacement(SalvageTrees& trees)
    : trees_(trees), catalog_(trees.catalog()), counts_(trees.counts()), orphans_(trees.orphans()) {}

Result<void> OrphanPlacement::place() {
    collect_gaps();
    if (!trees_.damaged())
        return {};
    hidden_losses_ = !counts_.complete() || trees_.any_unexplained();
    // While some referrers can't be known (those of a lost metadata snapshot), an orphan may be theirs.
    if (trees_.all_referrers_known())
        while (place_proven() || place_by_trial() || TRY(place_by_older_trees()) || restore_doubtful()) {}
    tell_unplaced();
    return {};
}

void OrphanPlacement::collect_gaps_below(MetadataBlock root, std::optional<ThinId> device) {
    std::set<std::uint64_t> seen;
    struct Visit {
        MetadataBlock inner;
        std::uint64_t end;
    };
    std::vector<Visit> open;
    const auto enter = [&](MetadataBlock block, std::uint64_t end) {
        const Inner* inner = trees_.inner_of(block);
        if (inner != nullptr && !inner->whole && seen.insert(block.value()).second)
            open.push_back({block, end});
    };
    enter(root, KeyRange::no_end);
    while (!open.empty()) {
        const Visit visit = open.back();
        open.pop_back();
        Inner& inner = trees_.inner_at(visit.inner);
        for (Slot& slot : inner.slots) {
            const std::uint64_t end = std::min(slot.range.end, visit.end);
            if (slot.state == SlotState::broken)
                enter(slot.child, end);
            if (slot.state != SlotState::lost)
                continue;
            if (!slot.gap) {
                slot.gap = gaps_.size();
                // What hung below a child that is only damaged is looked for; else the child itself, which is somewhere.
                const bool unreadable = trees_.is_unreadable(slot.child);
                Gap gap{.range = {slot.range.begin, end}, .pointed = slot.child};
                gap.max_height = unreadable ? inner.height - 2 : inner.height - 1;
                gap.lost_leaf = unreadable ? inner.height == 1 : !trees_.is_doubtful(slot.child);
                gaps_.push_back(std::move(gap));
            }
            Gap& gap = gaps_[*slot.gap];
            gap.range.end = std::min(gap.range.end, end);
            if (device)
                gap.devices.push_back(*device);
        }
    }
}

void OrphanPlacement::collect_gaps() {
    for (auto& [id, device] : trees_.devices()) {
        const bool doubtful = device.root_known && trees_.is_doubtful_root(id, device.root);
        const bool other = doubtful || (device.root_known && trees_.is_elsewhere(device.root));
        const Inner* inner = device.root_known && !other ? trees_.inner_of(device.root) : nullptr;
        // A leaf without entries is the tree of a device that maps nothing.
        const bool leaf = device.root_known && !other && catalog_[device.root].block_class == BlockClass::leaf &&
                          (catalog_[device.root].entries == 0 ? !device.details || device.details->mapped_blocks == 0
                                                              : trees_.leaf_fits(device.root, {}));
        std::uint64_t mappings = 0;
        if (inner != nullptr) {
            mappings = inner->mappings;
            collect_gaps_below(device.root, id);
        } else if (leaf) {
            mappings = trees_.leaf_mappings(device.root);
        } else if (!device.details || device.details->mapped_blocks > 0) {
            device.gap = gaps_.size();
            Gap gap{.pointed = device.root};
            gap.max_height = pdata::Btree::max_depth;
            gap.whole_tree = !device.root_known || doubtful;
            gap.lost_leaf = device.root_known && !gap.whole_tree && (!device.details || device.details->mapped_blocks <= max_leaf_mappings);
            gap.devices.push_back(id);
            gaps_.push_back(std::move(gap));
            if (device.root_known && device.root.value() < catalog_.blocks())
                trees_.explain(device.root);
        }
        if (device.details)
            missing_[id] = static_cast<std::int64_t>(device.details->mapped_blocks) - static_cast<std::int64_t>(mappings);
    }
    for (const Orphan& orphan : orphans_)
        collect_gaps_below(orphan.block, std::nullopt);
}

// --- Placing orphans ---

const thin::DeviceDetails& OrphanPlacement::details_of(ThinId id) const { return *trees_.devices().at(id).details; }

bool OrphanPlacement::may_fill(const Orphan& orphan, const Gap& gap) const {
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
void OrphanPlacement::own(std::size_t gap, const std::vector<ThinId>& devices) {
    for (ThinId device : devices) {
        gaps_[gap].devices.push_back(device);
        for (std::size_t orphan : gaps_[gap].fill)
            if (auto missing = missing_.find(device); missing != missing_.end())
                missing->second -= static_cast<std::int64_t>(orphans_[orphan].mappings);
    }
}

void OrphanPlacement::put(std::size_t orphan, std::size_t gap) {
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
        const Inner* inner = trees_.inner_of(open.back());
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
std::vector<std::vector<std::size_t>> OrphanPlacement::possible_gaps() const {
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
bool OrphanPlacement::place_proven() {
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
bool OrphanPlacement::place_by_trial() {
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
Result<bool> OrphanPlacement::place_by_older_trees() {
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
    // What a metadata snapshot refers to was not used anew; and unless the device was origin of a snapshot since, nobody else got it.
    std::set<ThinId> held;
    for (const auto& [id, root] : trees_.held_devices())
        if (const auto orphan = orphan_at.find(root.value());
            orphan != orphan_at.end() && missing_.contains(id) && details_of(id).snapshotted_time <= trees_.held_time()) {
            claims[id].insert(orphan->second);
            held.insert(id);
        }
    for (MetadataBlock block(0); block.value() < catalog_.blocks(); ++block) {
        if (catalog_[block].block_class != BlockClass::leaf || counts_[block] != 0 || !trees_.seems_device_leaf(block))
            continue;
        std::array<std::byte, block_bytes> bytes;
        if (!catalog_.reader().read_block(block, BlockKind::node, bytes) || !pdata::verify_node(bytes.data()))
            continue;
        const Node node(bytes.data());
        std::map<ThinId, std::size_t> says;
        // A snapshot made since may have what its origin had then.
        bool believed = node.entries() == trees_.devices().size();
        for (std::uint32_t index = 0; index < node.entries() && believed; ++index) {
            const ThinId id(static_cast<std::uint32_t>(node.key(index)));
            const MetadataBlock root = node.child(index);
            believed = believed && trees_.devices().contains(id);
            if (const auto orphan = orphan_at.find(root.value()); orphan != orphan_at.end()) {
                const auto missing = missing_.find(id);
                believed = believed && missing != missing_.end() &&
                           static_cast<std::int64_t>(orphans_[orphan->second].mappings) == missing->second;
                says.emplace(id, orphan->second);
            } else {
                const auto device = trees_.devices().find(id);
                believed = believed && (counts_[root] == 0 || !missing_.contains(id) || missing_.at(id) == 0 ||
                                        (device != trees_.devices().end() && !device->second.gap));
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
        const auto device = trees_.devices().find(id);
        if (orphans.size() != 1 || device == trees_.devices().end() || !device->second.gap)
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
bool OrphanPlacement::restore_doubtful() {
    bool any = false;
    for (std::size_t orphan = 0; orphan < orphans_.size(); ++orphan) {
        if (orphans_[orphan].placed || !trees_.is_doubtful(orphans_[orphan].block))
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

void OrphanPlacement::tell_unplaced() {
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
}

}  // namespace lamella::tools
