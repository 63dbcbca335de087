// SPDX-License-Identifier: Apache-2.0
#include "tools/roots.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>

#include "base/endian.h"
#include "pdata/btree.h"

namespace lamella::tools {

using pdata::Node;

namespace {

constexpr std::uint32_t pointer_bytes = 8;
constexpr std::uint32_t details_bytes = 24;

// What can be reached from a node of a mapping tree, worked out once for each node.
class Measure {
  public:
    struct Subtree {
        std::uint64_t mappings = 0;
        std::uint64_t last = 0;
        std::uint32_t max_time = 0;
        bool whole = true;
        bool open = true;
    };

    explicit Measure(NodeCatalog& catalog) : catalog_(catalog) {}

    Result<Subtree> measure(MetadataBlock block, unsigned depth = 0) {
        const CatalogEntry& entry = catalog_[block];
        if (entry.block_class == BlockClass::leaf)
            return Subtree{entry.entries, entry.last_key, entry.max_time, true, false};
        if (entry.block_class != BlockClass::inner || depth > pdata::Btree::max_depth)
            return Subtree{.whole = false, .open = false};
        if (auto [known, added] = known_.emplace(block.value(), Subtree{}); !added)
            return known->second.open ? Subtree{.whole = false, .open = false} : known->second;
        struct Child {
            KeyRange range;
            MetadataBlock block;
        };
        std::vector<Child> children;
        {
            const Node node(TRY(catalog_.inner(block)).data());
            for (std::uint32_t index = 0; index < node.entries(); ++index)
                children.push_back(
                    {{node.key(index), index + 1 < node.entries() ? node.key(index + 1) : KeyRange::no_end}, node.child(index)});
        }
        Subtree sum{.open = false};
        for (const Child& child : children) {
            const Subtree below = TRY(measure(child.block, depth + 1));
            if (below.mappings == 0 || catalog_[child.block].first_key < child.range.begin || !child.range.contains(below.last)) {
                sum.whole = false;
                continue;
            }
            sum.mappings += below.mappings;
            sum.max_time = std::max(sum.max_time, below.max_time);
            sum.whole = sum.whole && below.whole;
            sum.last = below.last;
        }
        known_[block.value()] = sum;
        return sum;
    }

  private:
    NodeCatalog& catalog_;
    std::unordered_map<std::uint64_t, Subtree> known_;
};

// The entries of a small tree.
struct Top {
    MetadataBlock root{};
    bool sound = true;
    std::vector<std::uint64_t> ids;
    std::vector<MetadataBlock> device_roots;   // tree of devices
    std::vector<thin::DeviceDetails> details;  // tree of details
    std::set<std::uint64_t> inner_children;
};

Top read_top(NodeCatalog& catalog, MetadataBlock root, std::uint32_t value_size) {
    Top top{.root = root};
    SalvageWalk walk(
        catalog, value_size,
        [&](std::uint64_t key, const std::byte* value) {
            top.sound = top.sound && key <= thin::max_thin_id;
            top.ids.push_back(key);
            if (value_size == pointer_bytes)
                top.device_roots.emplace_back(load_little<std::uint64_t>(value));
            else
                top.details.push_back({load_little<std::uint64_t>(value), load_little<std::uint64_t>(value + 8),
                                       load_little<std::uint32_t>(value + 16), load_little<std::uint32_t>(value + 20)});
        },
        [&](MetadataBlock block) {
            if (block != root)
                top.inner_children.insert(block.value());
            return true;
        },
        [&](KeyRange, MetadataBlock) { top.sound = false; });
    walk.walk(root);
    return top;
}

bool leads_to_devices(const NodeCatalog& catalog, const Top& top) {
    return top.sound && !top.ids.empty() && std::ranges::all_of(top.device_roots, [&](MetadataBlock block) {
               const BlockClass kind = catalog[block].block_class;
               return kind == BlockClass::leaf || kind == BlockClass::inner;
           });
}

// The class of the leaves below an inner node, by its first children.
Result<BlockClass> leaves_below(NodeCatalog& catalog, MetadataBlock block) {
    for (unsigned depth = 0; depth < pdata::Btree::max_depth && catalog[block].block_class == BlockClass::inner; ++depth)
        block = Node(TRY(catalog.inner(block)).data()).child(0);
    return catalog[block].block_class;
}

Result<RootCandidate> rate(Measure& measure, const Top& devices, const Top& details) {
    RootCandidate candidate{.roots = {devices.root, details.root}};
    std::map<std::uint64_t, std::size_t> by_id;
    for (std::size_t index = 0; index < details.ids.size(); ++index) {
        by_id.emplace(details.ids[index], index);
        candidate.time = std::max({candidate.time, details.details[index].creation_time, details.details[index].snapshotted_time});
        candidate.transaction_id = std::max(candidate.transaction_id, details.details[index].transaction_id);
    }
    candidate.devices = devices.ids.size();
    for (std::size_t index = 0; index < devices.ids.size(); ++index) {
        const auto subtree = TRY(measure.measure(devices.device_roots[index]));
        candidate.mappings += subtree.mappings;
        candidate.time = std::max(candidate.time, subtree.max_time);
        const auto found = by_id.find(devices.ids[index]);
        if (subtree.whole && found != by_id.end() && details.details[found->second].mapped_blocks == subtree.mappings)
            ++candidate.matching_devices;
    }
    return candidate;
}

}  // namespace

std::string_view to_string(RootSource source) {
    switch (source) {
    case RootSource::superblock: return "superblock";
    case RootSource::metadata_snapshot: return "metadata snapshot";
    case RootSource::scan: return "scan";
    }
    __builtin_unreachable();
}

Result<std::vector<RootCandidate>> find_roots(NodeCatalog& catalog) {
    Measure measure(catalog);
    std::vector<RootCandidate> candidates;
    std::set<std::pair<std::uint64_t, std::uint64_t>> named;
    const auto name = [&](const thin::Superblock& superblock, RootSource source) -> Result<void> {
        if (!named.emplace(superblock.data_mapping_root.value(), superblock.device_details_root.value()).second)
            return {};
        RootCandidate candidate = TRY(rate(measure, read_top(catalog, superblock.data_mapping_root, pointer_bytes),
                                           read_top(catalog, superblock.device_details_root, details_bytes)));
        candidate.source = source;
        candidate.superblock = superblock;
        candidate.time = superblock.time;
        candidate.transaction_id = superblock.transaction_id;
        candidates.push_back(std::move(candidate));
        return {};
    };
    std::vector<Top> devices;
    std::vector<Top> details;
    std::set<std::uint64_t> below_others;
    for (MetadataBlock block(0); block.value() < catalog.blocks(); ++block) {
        const CatalogEntry& entry = catalog[block];
        if (entry.block_class == BlockClass::superblock) {
            std::array<std::byte, pdata::block_bytes> bytes;
            TRY(catalog.reader().read_block(block, pdata::BlockKind::superblock, bytes));
            if (const auto superblock = thin::Superblock::unpack(bytes, false, block))
                TRY(name(*superblock, block == MetadataBlock(0) ? RootSource::superblock : RootSource::metadata_snapshot));
            continue;
        }
        const bool inner = entry.block_class == BlockClass::inner;
        const BlockClass leaves = inner ? TRY(leaves_below(catalog, block)) : entry.block_class;
        // Values that are block numbers are small; an inner node may stand above mappings or above devices.
        if (leaves == BlockClass::leaf && entry.entries > 0 && entry.last_key <= thin::max_thin_id &&
            (inner || entry.max_value < catalog.blocks()) && devices.size() < most_candidates) {
            Top top = read_top(catalog, block, pointer_bytes);
            if (leads_to_devices(catalog, top)) {
                below_others.insert(top.inner_children.begin(), top.inner_children.end());
                devices.push_back(std::move(top));
            }
        } else if (leaves == BlockClass::details_leaf && entry.entries > 0 && details.size() < most_candidates) {
            Top top = read_top(catalog, block, details_bytes);
            if (top.sound) {
                below_others.insert(top.inner_children.begin(), top.inner_children.end());
                details.push_back(std::move(top));
            }
        }
    }
    for (const Top& device_top : devices) {
        if (below_others.contains(device_top.root.value()))
            continue;
        for (const Top& details_top : details) {
            if (candidates.size() >= most_candidates || below_others.contains(details_top.root.value()) ||
                device_top.ids != details_top.ids || named.contains({device_top.root.value(), details_top.root.value()}))
                continue;
            candidates.push_back(TRY(rate(measure, device_top, details_top)));
        }
    }
    std::ranges::stable_sort(candidates, std::greater<>(), [](const RootCandidate& candidate) {
        const auto unmatched = static_cast<std::int64_t>(candidate.devices - candidate.matching_devices);
        return std::tuple(candidate.source == RootSource::superblock, -unmatched, candidate.transaction_id, candidate.time,
                          candidate.mappings, candidate.source == RootSource::scan);
    });
    return candidates;
}

Result<std::vector<RootCandidate>> find_roots(BlockDevice& metadata, const Control& control) {
    auto reader = TRY(MetadataReader::start(metadata, {}));
    NodeCatalog catalog(*reader);
    MetadataBlockSet all(catalog.blocks());
    all.insert_all();
    TRY(catalog.scan(all, control));
    return find_roots(catalog);
}

}  // namespace lamella::tools
