// SPDX-License-Identifier: Apache-2.0
//
// Two threads beside those of the reader. The planner walks the inner nodes and writes down, window by window, what is to be told: a
// device begins, this leaf, that reference, the device ends. It has a window's leaves read and decoded, and hands it over; the caller's
// thread tells it to the sink while the planner is at the next one.
//
// What devices share is found before, from inner nodes too. Each leaf has a predecessor and a successor in every tree that it is part
// of. Where all trees agree that one leaf follows the other, and either has more than one tree, the two always occur together: such
// chains are the definitions. An inner node that several trees share is walked once; at its second visit only its edges are joined to
// what is around it there.
#include "tools/dump.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>
#include <unordered_map>

#include "base/endian.h"
#include "pdata/bitmap.h"
#include "thin/superblock.h"
#include "tools/leaf_walk.h"
#include "tools/metadata_reader.h"

namespace lamella::tools {

using pdata::block_bytes;
using pdata::BlockKind;
using pdata::Node;

namespace {

constexpr std::uint32_t details_bytes = 24;
constexpr std::uint32_t root_bytes = 8;
constexpr std::size_t leaves_per_window = 1024;
constexpr std::size_t events_per_window = 64 * 1024;

struct Device {
    DeviceHeader header;
    MetadataBlock root{};
    unsigned height = 0;
};

// One thing to tell.
struct Event {
    enum class Kind : std::uint8_t { definition_begin, definition_end, device_begin, device_end, leaf, reference };
    Kind kind;
    std::uint64_t value;  // of a leaf: its place in the window; of a device: its index; of definitions: the id
};

struct Leaf {
    MetadataBlock location{};
    KeyBounds bounds;
    std::vector<Mapping> mappings;
    Result<void> outcome;
};

struct Window {
    std::vector<Event> events;
    std::vector<Leaf> leaves;  // the first `count` are this window's
    std::size_t count = 0;
    bool full = false;  // the caller's turn
    bool last = false;
    Result<void> outcome;  // of the last: why there is nothing more
};

// Joins neighbours as it goes. `wanted` limits the keys.
void decode(const Node& node, const KeyBounds& wanted, std::vector<Mapping>& mappings) {
    mappings.clear();
    for (std::uint32_t index = node.lower_bound(wanted.lower); index < node.entries(); ++index) {
        std::uint64_t key = node.key(index);
        if (wanted.upper && key >= *wanted.upper)
            break;
        auto packed = load_little<std::uint64_t>(node.value(index));
        std::uint64_t data = packed >> 24;
        auto time = static_cast<std::uint32_t>(packed & thin::max_time);
        if (!mappings.empty()) {
            Mapping& last = mappings.back();
            if (last.virtual_begin.value() + last.length == key && last.data_begin.value() + last.length == data && last.time == time) {
                ++last.length;
                continue;
            }
        }
        mappings.push_back({VirtualBlock(key), DataBlock(data), 1, time});
    }
}

// Which leaves always occur together.
class Chains {
  public:
    explicit Chains(std::uint64_t blocks) : next_(blocks, unknown), previous_(blocks, unknown), visits_(blocks) {}

    // Takes up one tree.
    Result<void> add(NodeReader& nodes, const Device& device) {
        last_ = none;
        Gatherer gatherer(*this, nodes);
        TRY(walk_leaves(nodes, device.root, device.height, {}, {}, gatherer));
        join(last_, none);
        return {};
    }

    bool shared(MetadataBlock leaf) const { return visits_[leaf.value()] > 1; }
    // A shared leaf that doesn't always follow another one.
    bool head(MetadataBlock leaf) const {
        std::uint32_t before = previous_[leaf.value()];
        return before == none || before == conflict || next_[before] != leaf.value();
    }

  private:
    static constexpr std::uint32_t unknown = 0xffffffff;
    static constexpr std::uint32_t conflict = 0xfffffffe;
    static constexpr std::uint32_t none = 0;  // block 0 is no leaf
    struct Edges {
        std::uint32_t first;
        std::uint32_t last;
    };

    // Notes that in some tree `right` follows `left`.
    void join(std::uint32_t left, std::uint32_t right) {
        auto note = [](std::uint32_t& field, std::uint32_t value) { field = field == unknown || field == value ? value : conflict; };
        if (left != none)
            note(next_[left], right);
        if (right != none)
            note(previous_[right], left);
    }

    bool first_visit(MetadataBlock node) {
        std::uint8_t& visits = visits_[node.value()];
        if (visits < 2)
            ++visits;
        return visits == 1;
    }

    struct Gatherer final : LeafVisitor {
        Gatherer(Chains& chains, NodeReader& nodes) : chains_(chains), nodes_(nodes) {}

        Result<bool> inner(MetadataBlock location, unsigned height, const KeyBounds& bounds) override {
            TRY(chains_.check_inner(location));
            bool second = chains_.visits_[location.value()] == 1;
            if (chains_.first_visit(location))
                return true;
            Edges edges = TRY(chains_.edges(nodes_, location, height, bounds));
            chains_.join(chains_.last_, edges.first);
            chains_.last_ = edges.last;
            if (second) {
                Marker marker(chains_, location);
                TRY(walk_leaves(nodes_, location, height, bounds, {}, marker));
            }
            return false;
        }
        Result<void> leaf(MetadataBlock location, const KeyBounds&) override {
            TRY(chains_.check(location));
            if (!chains_.first_visit(location))
                TRY(chains_.check_leaf(location));
            chains_.join(chains_.last_, static_cast<std::uint32_t>(location.value()));
            chains_.last_ = static_cast<std::uint32_t>(location.value());
            return {};
        }

      private:
        Chains& chains_;
        NodeReader& nodes_;
    };

    // All below a shared node is shared.
    struct Marker final : LeafVisitor {
        Marker(Chains& chains, MetadataBlock top) : chains_(chains), top_(top) {}
        Result<bool> inner(MetadataBlock location, unsigned, const KeyBounds&) override {
            TRY(chains_.check_inner(location));
            return std::exchange(chains_.visits_[location.value()], 2) < 2 || location == top_;
        }
        Result<void> leaf(MetadataBlock location, const KeyBounds&) override {
            TRY(chains_.check(location));
            TRY(chains_.check_leaf(location));
            chains_.visits_[location.value()] = 2;
            return {};
        }

      private:
        Chains& chains_;
        MetadataBlock top_;
    };

    Result<void> check(MetadataBlock location) const {
        if (location.value() == 0 || location.value() >= visits_.size())
            return fail(ErrorKind::damaged, "a B-tree leads to metadata block {}, beyond the device's {}", location, visits_.size());
        return {};
    }

    // Leaves aren't read here, so that nothing else would tell a block that is a leaf in one place and an inner node in another. Only leaves
    // that were visited before have neighbours.
    Result<void> check_inner(MetadataBlock location) const {
        TRY(check(location));
        return previous_[location.value()] == unknown ? Result<void>() : of_two_kinds(location);
    }
    Result<void> check_leaf(MetadataBlock location) const {
        return previous_[location.value()] != unknown ? Result<void>() : of_two_kinds(location);
    }
    static Result<void> of_two_kinds(MetadataBlock location) {
        return fail(ErrorKind::damaged, "metadata block {} is a leaf in one place and an inner node in another", location);
    }

    // The outermost leaves below a node.
    Result<Edges> edges(NodeReader& nodes, MetadataBlock location, unsigned height, const KeyBounds& bounds) {
        if (auto known = edges_.find(location.value()); known != edges_.end())
            return known->second;
        std::array<MetadataBlock, 2> at = {location, location};
        for (std::size_t side : {0, 1}) {
            KeyBounds within = bounds;
            for (unsigned level = height; level > 0; --level) {
                auto bytes = TRY(nodes.read(at[side], level, within));
                Node node(bytes.get());
                std::uint32_t index = side == 0 ? 0 : node.entries() - 1;
                within.lower = node.key(index);
                if (index + 1 < node.entries())
                    within.upper = node.key(index + 1);
                at[side] = node.child(index);
                TRY(check(at[side]));
            }
        }
        Edges edges{static_cast<std::uint32_t>(at[0].value()), static_cast<std::uint32_t>(at[1].value())};
        edges_.emplace(location.value(), edges);
        return edges;
    }

    std::vector<std::uint32_t> next_;
    std::vector<std::uint32_t> previous_;
    std::vector<std::uint8_t> visits_;
    std::unordered_map<std::uint64_t, Edges> edges_;  // of inner nodes visited twice
    std::uint32_t last_ = none;                       // leaf of the tree being taken up
};

class Dump {
  public:
    Dump(BlockDevice& metadata, const DumpOptions& options, PoolVisitor& sink, const Control& control)
        : metadata_(metadata), options_(options), sink_(sink), control_(control) {
        if (options.begin)
            wanted_.lower = options.begin->value();
        if (options.end)
            wanted_.upper = options.end->value();
    }

    Result<void> run() {
        PoolHeader header = TRY(read_superblocks());
        options_.overrides.apply(header);
        reader_ = TRY(MetadataReader::start(metadata_, {}));
        nodes_.emplace(*reader_);
        TRY(gather_devices());
        TRY(sink_.superblock_begin(header));
        if (options_.mappings)
            TRY(tell_mappings());
        else
            for (const Device& device : devices_) {
                TRY(sink_.device_begin(device.header));
                TRY(sink_.device_end());
            }
        return sink_.superblock_end();
    }

  private:
    // --- What there is ---

    Result<PoolHeader> read_superblocks() {
        AlignedBuffer block(block_bytes);
        if (metadata_.size() < block_bytes)
            return fail(ErrorKind::damaged, "{} is too small to hold a pool's metadata", metadata_.name());
        TRY_WITHIN(metadata_.name(), read_now(metadata_, 0, block.bytes()));
        thin::Superblock live = TRY_WITHIN(metadata_.name(), thin::Superblock::unpack(block.bytes(), false));
        auto data = pdata::SpaceMapRoot::unpack(live.data_space_map_root.data());
        auto own = pdata::SpaceMapRoot::unpack(live.metadata_space_map_root.data());
        total_bytes_ = std::min(own.allocated, metadata_.size() / block_bytes) * block_bytes;
        superblock_ = live;
        if (options_.metadata_snapshot) {
            if (live.held_root.value() == 0)
                return fail(ErrorKind::not_found, "no current metadata snap");
            if (options_.snapshot_location && *options_.snapshot_location != live.held_root)
                return fail(ErrorKind::usage, "the metadata snapshot is at block {}, not {}", live.held_root, *options_.snapshot_location);
            std::string where = fmt::format("metadata snapshot in block {} of {}", live.held_root, metadata_.name());
            if (live.held_root.value() >= metadata_.size() / block_bytes)
                return fail(ErrorKind::damaged, "{}: beyond the end", where);
            TRY_WITHIN(where, read_now(metadata_, live.held_root.value() * block_bytes, block.bytes()));
            superblock_ = TRY_WITHIN(where, thin::Superblock::unpack(block.bytes(), false, live.held_root));
        }
        PoolHeader header;
        if (std::ranges::any_of(superblock_.uuid, [](std::byte byte) { return byte != std::byte{0}; }))
            for (std::byte byte : superblock_.uuid)
                header.uuid += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
        header.time = superblock_.time;
        header.transaction_id = superblock_.transaction_id;
        header.flags = superblock_.flags;
        header.version = superblock_.version;
        header.data_block_sectors = superblock_.data_block_sectors;
        header.data_blocks = data.blocks;
        return header;
    }

    Result<void> gather_devices() {
        pdata::BlockCache cache(metadata_, std::size_t{1} << 20);
        pdata::Btree roots(cache, root_bytes, "the tree of devices");
        pdata::Btree details(cache, details_bytes, "the tree of device details");
        TRY(gather(roots, superblock_.data_mapping_root, [&](std::uint64_t id, const std::byte* value) {
            devices_.push_back(
                {.header = {.id = ThinId(static_cast<std::uint32_t>(id))}, .root = MetadataBlock(load_little<std::uint64_t>(value))});
        }));
        std::size_t at = 0;
        std::optional<std::uint64_t> unmatched;
        TRY(gather(details, superblock_.device_details_root, [&](std::uint64_t id, const std::byte* value) {
            if (at == devices_.size() || devices_[at].header.id.value() != id) {
                unmatched = unmatched.value_or(id);
                return;
            }
            DeviceHeader& header = devices_[at++].header;
            header.mapped_blocks = load_little<std::uint64_t>(value);
            header.transaction_id = load_little<std::uint64_t>(value + 8);
            header.creation_time = load_little<std::uint32_t>(value + 16);
            header.snapshotted_time = load_little<std::uint32_t>(value + 20);
        }));
        if (at != devices_.size())
            return fail(ErrorKind::damaged, "{}: device {} has mappings, but no details", metadata_.name(), devices_[at].header.id);
        if (unmatched)
            return fail(ErrorKind::damaged, "{}: device {} has details, but no mappings", metadata_.name(), *unmatched);
        for (ThinId id : options_.devices)
            if (options_.devices_must_exist &&
                std::ranges::find(devices_, id, [](const Device& device) { return device.header.id; }) == devices_.end())
                return fail(ErrorKind::not_found, "{}: no thin device {}", metadata_.name(), id);
        if (!options_.mappings)
            return {};
        for (Device& device : devices_)
            device.height = TRY_WITHIN(fmt::format("device {}", device.header.id), nodes_->height(device.root));
        return {};
    }

    template <typename Take>
    Result<void> gather(const pdata::Btree& tree, MetadataBlock root, Take take) {
        std::uint64_t from = 0;
        bool beyond = false;
        while (from != pdata::Btree::no_limit) {
            // A damaged node ends a walk; the next one, from there on, tells what is wrong with it.
            from = TRY(tree.walk(root, from, [&](std::uint64_t id, const std::byte* value) {
                beyond |= id > thin::max_thin_id;
                if (id <= thin::max_thin_id && wants(ThinId(static_cast<std::uint32_t>(id))))
                    take(id, value);
                return true;
            }));
        }
        if (beyond)
            return fail(ErrorKind::damaged, "{}: a device with an id above {}", metadata_.name(), thin::max_thin_id);
        return {};
    }

    bool wants(ThinId id) const { return options_.devices.empty() || std::ranges::find(options_.devices, id) != options_.devices.end(); }
    bool limited() const { return options_.begin || options_.end; }

    // --- The caller's thread ---

    Result<void> tell_mappings() {
        for (Window& window : windows_)
            window.leaves.resize(leaves_per_window);
        std::thread planner;
        try {
            planner = std::thread([this] { plan(); });
        } catch (const std::system_error& error) {
            return fail_errno("start a thread", error.code().value());
        }
        Result<void> outcome = tell_windows();
        {
            std::lock_guard lock(mutex_);
            given_up_ = true;
        }
        changed_.notify_all();
        planner.join();
        return outcome;
    }

    Result<void> tell_windows() {
        for (std::size_t index = 0;; index = (index + 1) % windows_.size()) {
            Window& window = windows_[index];
            {
                std::unique_lock lock(mutex_);
                changed_.wait(lock, [&] { return window.full; });
            }
            TRY(tell(window));
            if (window.last)
                return window.outcome;
            std::lock_guard lock(mutex_);
            window.full = false;
            changed_.notify_all();
        }
    }

    Result<void> tell(Window& window) {
        for (const Event& event : window.events) {
            switch (event.kind) {
            case Event::Kind::definition_begin:
                teller_.clear();
                TRY(sink_.definition_begin(DefinitionId(event.value)));
                break;
            case Event::Kind::definition_end: TRY(sink_.definition_end()); break;
            case Event::Kind::device_begin:
                teller_ = fmt::format("device {}: ", devices_[event.value].header.id);
                TRY(sink_.device_begin(devices_[event.value].header));
                break;
            case Event::Kind::device_end: TRY(sink_.device_end()); break;
            case Event::Kind::reference: TRY(sink_.reference(DefinitionId(event.value))); break;
            case Event::Kind::leaf: {
                Leaf& leaf = window.leaves[event.value];
                if (!leaf.outcome)
                    return std::unexpected(leaf.outcome.error().within(teller_ + reader_->describe(leaf.location)));
                if (!leaf.mappings.empty())
                    TRY(sink_.map(leaf.mappings));
                break;
            }
            }
        }
        return {};
    }

    // --- The planner ---

    void plan() {
        Result<void> outcome = plan_devices();
        std::unique_lock lock(mutex_);
        if (given_up_)
            return;
        lock.unlock();
        // What was planned before the damage is still told.
        Window& window = windows_[filling_];
        if (Result<void> read = read_window(); !read) {
            window.events.clear();
            if (outcome)
                outcome = std::move(read);
        }
        window.outcome = std::move(outcome);
        window.last = true;
        lock.lock();
        window.full = true;
        changed_.notify_all();
    }

    Result<void> plan_devices() {
        std::optional<Chains> chains;
        if (options_.definitions && !limited()) {
            chains.emplace(reader_->blocks());
            for (const Device& device : devices_)
                TRY_WITHIN(fmt::format("device {}", device.header.id), chains->add(*nodes_, device));
        }
        for (std::size_t index = 0; index < devices_.size(); ++index) {
            Device& device = devices_[index];
            std::string name = fmt::format("device {}", device.header.id);
            if (limited())
                device.header.mapped_blocks = TRY_WITHIN(name, count_mapped(device));
            if (chains) {
                Definer definer(*this, *chains);
                TRY_WITHIN(name, walk_leaves(*nodes_, device.root, device.height, {}, {}, definer));
                TRY(definer.end());
            }
            TRY(add({Event::Kind::device_begin, index}));
            Teller teller(*this, chains ? &*chains : nullptr);
            TRY_WITHIN(name, walk_leaves(*nodes_, device.root, device.height, {}, wanted_, teller));
            TRY(add({Event::Kind::device_end, index}));
        }
        return {};
    }

    // Makes definitions of the chains of a tree that no tree before had.
    struct Definer final : LeafVisitor {
        Definer(Dump& dump, const Chains& chains) : dump_(dump), chains_(chains) {}
        Result<bool> inner(MetadataBlock, unsigned, const KeyBounds&) override { return true; }
        Result<void> leaf(MetadataBlock location, const KeyBounds& bounds) override {
            if (!chains_.shared(location))
                return end();
            if (chains_.head(location)) {
                TRY(end());
                auto [place, is_new] = dump_.definitions_.emplace(location.value(), dump_.definitions_.size() + 1);
                if (is_new) {
                    TRY(dump_.add({Event::Kind::definition_begin, place->second}));
                    open_ = true;
                }
            }
            return open_ ? dump_.add_leaf(location, bounds) : Result<void>();
        }
        Result<void> end() {
            if (std::exchange(open_, false))
                TRY(dump_.add({Event::Kind::definition_end, 0}));
            return {};
        }

      private:
        Dump& dump_;
        const Chains& chains_;
        bool open_ = false;
    };

    struct Teller final : LeafVisitor {
        Teller(Dump& dump, const Chains* chains) : dump_(dump), chains_(chains) {}
        Result<bool> inner(MetadataBlock, unsigned, const KeyBounds&) override { return true; }
        Result<void> leaf(MetadataBlock location, const KeyBounds& bounds) override {
            if (chains_ == nullptr || !chains_->shared(location))
                return dump_.add_leaf(location, bounds);
            if (chains_->head(location))
                return dump_.add({Event::Kind::reference, dump_.definitions_.at(location.value())});
            return {};
        }

      private:
        Dump& dump_;
        const Chains* chains_;
    };

    Result<void> add(Event event) {
        Window& window = windows_[filling_];
        window.events.push_back(event);
        if (window.events.size() >= events_per_window)
            return hand_over();
        return {};
    }

    Result<void> add_leaf(MetadataBlock location, const KeyBounds& bounds) {
        Window& window = windows_[filling_];
        window.leaves[window.count].location = location;
        window.leaves[window.count].bounds = bounds;
        window.events.push_back({Event::Kind::leaf, window.count});
        if (++window.count == leaves_per_window)
            return hand_over();
        return {};
    }

    Result<void> hand_over() {
        TRY(read_window());
        std::unique_lock lock(mutex_);
        windows_[filling_].full = true;
        changed_.notify_all();
        filling_ = (filling_ + 1) % windows_.size();
        Window& next = windows_[filling_];
        changed_.wait(lock, [&] { return given_up_ || !next.full; });
        if (given_up_)
            return Control::interrupted();
        next.events.clear();
        next.count = 0;
        return {};
    }

    Result<void> read_window() {
        Window& window = windows_[filling_];
        return read_leaves({window.leaves.data(), window.count});
    }

    // Reads and decodes in disk order. A leaf that is there twice is read twice.
    Result<void> read_leaves(std::span<Leaf> leaves) {
        if (control_.stopped())
            return Control::interrupted();
        std::vector<std::size_t> order(leaves.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::ranges::sort(order, {}, [&](std::size_t index) { return leaves[index].location; });
        std::vector<MetadataBlock> locations;
        for (std::size_t index : order)
            locations.push_back(leaves[index].location);
        TRY(reader_->read_list(locations,
                               [&](unsigned, const ReadBlock& block) {
                                   Leaf& leaf = leaves[order[block.index]];
                                   leaf.outcome = block.verify(BlockKind::node);
                                   if (leaf.outcome)
                                       leaf.outcome = verify_mapping_node(block.bytes.data(), 0, leaf.bounds);
                                   if (leaf.outcome)
                                       decode(Node(block.bytes.data()), wanted_, leaf.mappings);
                               },
                               {.progress = {}, .stop = control_.stop}));
        done_bytes_ += leaves.size() * block_bytes;
        if (control_.progress)
            control_.progress(done_bytes_, std::max(done_bytes_, total_bytes_));
        return {};
    }

    // How many mappings of a device are within the wanted range.
    Result<std::uint64_t> count_mapped(const Device& device) {
        struct Counter final : LeafVisitor {
            explicit Counter(Dump& dump) : dump_(dump), leaves_(leaves_per_window) {}
            Result<bool> inner(MetadataBlock, unsigned, const KeyBounds&) override { return true; }
            Result<void> leaf(MetadataBlock location, const KeyBounds& bounds) override {
                leaves_[count_].location = location;
                leaves_[count_].bounds = bounds;
                return ++count_ == leaves_per_window ? add_up() : Result<void>();
            }
            Result<void> add_up() {
                TRY(dump_.read_leaves({leaves_.data(), count_}));
                for (const Leaf& leaf : std::span(leaves_.data(), count_)) {
                    if (!leaf.outcome)
                        return std::unexpected(leaf.outcome.error().within(dump_.reader_->describe(leaf.location)));
                    for (const Mapping& mapping : leaf.mappings)
                        mapped_ += mapping.length;
                }
                count_ = 0;
                return {};
            }
            Dump& dump_;
            std::vector<Leaf> leaves_;
            std::size_t count_ = 0;
            std::uint64_t mapped_ = 0;
        };
        Counter counter(*this);
        TRY(walk_leaves(*nodes_, device.root, device.height, {}, wanted_, counter));
        TRY(counter.add_up());
        return counter.mapped_;
    }

    BlockDevice& metadata_;
    const DumpOptions& options_;
    PoolVisitor& sink_;
    const Control& control_;
    KeyBounds wanted_;
    thin::Superblock superblock_;
    std::unique_ptr<MetadataReader> reader_;
    std::optional<NodeReader> nodes_;
    std::vector<Device> devices_;
    std::string teller_;                                            // for messages
    std::unordered_map<std::uint64_t, std::uint64_t> definitions_;  // by the first leaf
    std::uint64_t done_bytes_ = 0;
    std::uint64_t total_bytes_ = 0;

    std::array<Window, 2> windows_;
    std::size_t filling_ = 0;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool given_up_ = false;
};

}  // namespace

Result<void> dump(BlockDevice& metadata, const DumpOptions& options, PoolVisitor& sink, const Control& control) {
    return Dump(metadata, options, sink, control).run();
}

}  // namespace lamella::tools
