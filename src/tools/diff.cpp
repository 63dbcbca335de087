// SPDX-License-Identifier: Apache-2.0
//
// Each side is a cursor: a path of nodes down a tree, and an entry in the lowest of them. What stands under the two cursors is a mapping
// or a whole subtree, known by its place on disk, its height and its first key. Two subtrees at one place are the same and are passed
// over. Else the one that begins first is opened; of two that begin with the same key the higher; so a shared subtree is met unopened
// on both sides, whatever the paths that lead there.
//
// Leaves are fetched some dozens at a time: the next ones of the same parent that the other side's parent hasn't got.
#include "tools/diff.h"

#include <algorithm>
#include <unordered_set>
#include <vector>

#include "pdata/btree.h"
#include "thin/metadata.h"
#include "tools/metadata_reader.h"
#include "tools/volume_trees.h"

namespace lamella::tools {

using pdata::block_bytes;
using pdata::Node;

namespace {

constexpr std::size_t most_fetched = 64;
constexpr std::uint32_t mapping_bytes = 8;

class Cursor {
  public:
    explicit Cursor(MetadataReader& reader) : reader_(reader) {}

    // Without a root the cursor is at its end.
    Result<void> start(std::optional<MetadataBlock> root) {
        if (!root)
            return {};
        // The height of the root: that of its first child and one more.
        AlignedBuffer bytes(block_bytes);
        MetadataBlock at = *root;
        for (height_ = 0;; ++height_) {
            TRY(read(at, bytes.bytes()));
            Node node(bytes.data());
            if (node.is_leaf())
                break;
            if (height_ + 1 >= pdata::Btree::max_depth)
                return fail(ErrorKind::damaged, "{}: deeper than a tree can be", reader_.describe(at));
            at = node.child(0);
        }
        root_ = *root;
        at_root_ = true;
        return {};
    }

    // How many nodes are open.
    std::size_t depth() const { return path_.size(); }
    bool at_end() const { return !at_root_ && path_.empty(); }
    // A whole subtree, not a mapping.
    bool at_subtree() const { return at_root_ || !path_.back().node().is_leaf(); }
    unsigned height() const { return at_root_ ? height_ : static_cast<unsigned>(height_ - path_.size()); }
    std::uint64_t key() const { return at_root_ ? 0 : path_.back().node().key(path_.back().index); }
    MetadataBlock subtree() const { return at_root_ ? root_ : path_.back().node().child(path_.back().index); }
    thin::BlockTime mapping() const {
        const Frame& frame = path_.back();
        return thin::BlockTime::unpack(load_little<std::uint64_t>(frame.node().value(frame.index)));
    }

    // To what follows the subtree or mapping.
    void skip() {
        if (at_root_) {
            at_root_ = false;
            return;
        }
        ++path_.back().index;
        leave_finished();
    }

    // To the first thing within the subtree. `other` may be null.
    Result<void> open(const Cursor* other) {
        const MetadataBlock location = subtree();
        const unsigned level = height();
        const std::uint64_t first_key = key();
        const std::optional<std::uint64_t> end = at_root_ ? std::nullopt : end_key();
        Frame frame;
        frame.bytes = AlignedBuffer(block_bytes);
        if (level == 0 && !at_root_)
            TRY(fetch_leaf(location, other, frame.bytes.bytes()));
        else
            TRY(read(location, frame.bytes.bytes()));
        frame.end = end;
        Node node = frame.node();
        if (node.is_leaf() != (level == 0))
            return fail(ErrorKind::damaged, "{}: a tree of uneven depth", reader_.describe(location));
        if (node.entries() > 0 && (node.key(0) < first_key || (end && node.key(node.entries() - 1) >= *end)))
            return fail(ErrorKind::damaged, "{}: its keys don't belong to its place in the tree", reader_.describe(location));
        at_root_ = false;
        path_.push_back(std::move(frame));
        leave_finished();
        return {};
    }

  private:
    struct Frame {
        AlignedBuffer bytes;
        std::uint32_t index = 0;
        std::optional<std::uint64_t> end{};  // of its keys
        Node node() const { return Node(bytes.data()); }
    };

    // Where the keys of the entry under the cursor end.
    std::optional<std::uint64_t> end_key() const {
        const Frame& frame = path_.back();
        return frame.index + 1 < frame.node().entries() ? std::optional(frame.node().key(frame.index + 1)) : frame.end;
    }

    void leave_finished() {
        while (!path_.empty() && path_.back().index >= path_.back().node().entries()) {
            path_.pop_back();
            if (!path_.empty())
                ++path_.back().index;
        }
    }

    Result<void> verify(MetadataBlock location, const std::byte* bytes) const {
        TRY_WITHIN(reader_.describe(location), pdata::verify_node(bytes));
        if (Node(bytes).value_size() != mapping_bytes)
            return fail(ErrorKind::damaged, "{}: no part of a volume's mappings", reader_.describe(location));
        return {};
    }

    Result<void> read(MetadataBlock location, std::span<std::byte> bytes) const {
        TRY(reader_.read_block(location, pdata::BlockKind::node, bytes));
        return verify(location, bytes.data());
    }

    Result<void> fetch_leaf(MetadataBlock location, const Cursor* other, std::span<std::byte> bytes) {
        auto found = std::ranges::find(fetched_, location);
        if (found == fetched_.end()) {
            TRY(fetch(other));
            found = std::ranges::find(fetched_, location);
        }
        const auto place = static_cast<std::size_t>(found - fetched_.begin());
        std::ranges::copy(buffer_.bytes().subspan(place * block_bytes, block_bytes), bytes.begin());
        return verify(location, bytes.data());
    }

    // The leaf under the cursor, and those after it that will be asked for.
    Result<void> fetch(const Cursor* other) {
        const Frame& parent = path_.back();
        const Node node = parent.node();
        std::unordered_set<std::uint64_t> shared;
        if (other != nullptr)
            for (const Frame& frame : other->path_)
                if (Node theirs = frame.node(); !theirs.is_leaf())
                    for (std::uint32_t index = 0; index < theirs.entries(); ++index)
                        shared.insert(theirs.child(index).value());
        fetched_.clear();
        for (std::uint32_t index = parent.index; index < node.entries() && fetched_.size() < most_fetched; ++index)
            if (index == parent.index || !shared.contains(node.child(index).value()))
                fetched_.push_back(node.child(index));
        if (buffer_.size() == 0)
            buffer_ = AlignedBuffer(most_fetched * block_bytes);
        if (fetched_.size() == 1)
            return reader_.read_block(fetched_[0], pdata::BlockKind::node, buffer_.bytes().first(block_bytes));
        Result<void> outcome;
        const std::vector<MetadataBlock> wanted = fetched_;
        TRY(reader_.read_list(wanted, [&](unsigned, const ReadBlock& block) {
            if (auto sound = block.verify(pdata::BlockKind::node); sound)
                std::ranges::copy(block.bytes, buffer_.bytes().begin() + static_cast<std::ptrdiff_t>(block.index * block_bytes));
            else if (block.index == 0)
                outcome = std::unexpected(sound.error().within(reader_.describe(block.location)));
            else
                fetched_[block.index] = MetadataBlock(0);  // an error only if it is asked for
        }));
        return outcome;
    }

    MetadataReader& reader_;
    MetadataBlock root_{};
    bool at_root_ = false;
    unsigned height_ = 0;
    std::vector<Frame> path_;
    std::vector<MetadataBlock> fetched_;
    AlignedBuffer buffer_;
};

// Joins mappings to runs.
class Runs {
  public:
    explicit Runs(const VisitDiff& visit) : visit_(visit) {}

    Result<void> add(DiffRun::Kind kind, std::uint64_t key, DataBlock left, DataBlock right) {
        const bool has_left = kind != DiffRun::Kind::right_only;
        const bool has_right = kind != DiffRun::Kind::left_only;
        if (run_.length != 0 && run_.kind == kind && run_.begin + run_.length == VirtualBlock(key) &&
            (!has_left || run_.left_begin + run_.length == left) && (!has_right || run_.right_begin + run_.length == right)) {
            ++run_.length;
            return {};
        }
        TRY(finish());
        run_ = {kind, VirtualBlock(key), 1, left, right};
        return {};
    }

    Result<void> finish() {
        if (run_.length != 0)
            TRY(visit_(run_));
        run_.length = 0;
        return {};
    }

  private:
    const VisitDiff& visit_;
    DiffRun run_;
};

struct Opened {
    thin::Superblock superblock;
    std::unique_ptr<MetadataReader> reader;
};

Result<Opened> open(BlockDevice& metadata) {
    Opened opened;
    opened.superblock = TRY(read_superblock(metadata));
    opened.reader = TRY(MetadataReader::start(metadata, {}));
    return opened;
}

Result<MetadataBlock> root_of(const Opened& pool, const DiffSide& side, bool in_snapshot) {
    if (const auto* root = std::get_if<MetadataBlock>(&side))
        return *root;
    const ThinId id = std::get<ThinId>(side);
    const MetadataReader& reader = *pool.reader;
    AlignedBuffer bytes(block_bytes);
    MetadataBlock at = pool.superblock.data_mapping_root;
    if (in_snapshot) {
        const MetadataBlock held = pool.superblock.held_root;
        if (held.value() == 0)
            return fail(ErrorKind::not_found, "{} has no metadata snapshot", reader.device().name());
        TRY(reader.read_block(held, pdata::BlockKind::superblock, bytes.bytes()));
        at = TRY_WITHIN("metadata snapshot", thin::Superblock::unpack(bytes.bytes(), false, held)).data_mapping_root;
    }
    for (unsigned depth = 0; depth < pdata::Btree::max_depth; ++depth) {
        TRY(reader.read_block(at, pdata::BlockKind::node, bytes.bytes()));
        TRY_WITHIN(reader.describe(at), pdata::verify_node(bytes.data()));
        Node node(bytes.data());
        if (node.value_size() != mapping_bytes)
            return fail(ErrorKind::damaged, "{}: no part of the tree of volumes", reader.describe(at));
        if (!node.is_leaf()) {
            at = node.child(node.child_for(id.value()));
            continue;
        }
        const std::uint32_t index = node.lower_bound(id.value());
        if (index == node.entries() || node.key(index) != id.value())
            return fail(ErrorKind::not_found, "{} has no volume {}{}", reader.device().name(), id,
                        in_snapshot ? " in its metadata snapshot" : "");
        return node.child(index);
    }
    return fail(ErrorKind::damaged, "{}: deeper than a tree can be", reader.describe(at));
}

}  // namespace

Result<void> diff(BlockDevice& metadata, const DiffOptions& options, const VisitDiff& visit) {
    Opened pool = TRY(open(metadata));
    Cursor left(*pool.reader);
    Cursor right(*pool.reader);
    TRY(left.start(TRY(root_of(pool, options.left, options.left_in_snapshot))));
    TRY(right.start(TRY(root_of(pool, options.right, options.right_in_snapshot))));
    Runs runs(visit);
    using Kind = DiffRun::Kind;
    // All of a subtree that both have, from the left; then the left is past it.
    auto tell_same = [&]() -> Result<void> {
        const std::size_t depth = left.depth();
        do {
            if (left.at_subtree()) {
                if (options.control.stopped())
                    return Control::interrupted();
                TRY(left.open(nullptr));
                continue;
            }
            const DataBlock block = left.mapping().block;
            TRY(runs.add(Kind::same, left.key(), block, block));
            left.skip();
        } while (left.depth() > depth);
        return {};
    };
    // What the right shares with the left is of no use to the right; to the left it is if it is to be told.
    const Cursor* left_may_skip = options.same ? nullptr : &right;
    for (std::uint64_t step = 0; !left.at_end() || !right.at_end(); ++step) {
        if (step % 1024 == 0 && options.control.stopped())
            return Control::interrupted();
        if (!left.at_end() && !right.at_end() && left.at_subtree() && right.at_subtree() && left.subtree() == right.subtree()) {
            if (options.same)
                TRY(tell_same());
            else
                left.skip();
            right.skip();
            continue;
        }
        const bool open_left = !left.at_end() && left.at_subtree();
        const bool open_right = !right.at_end() && right.at_subtree();
        if (open_left || open_right) {
            // Whichever begins first, or is higher; a mapping waits for the subtree that may have it too.
            const bool left_first = right.at_end() || (!left.at_end() && left.key() < right.key());
            const bool right_first = left.at_end() || (!right.at_end() && right.key() < left.key());
            if (left_first && !open_left) {
                TRY(runs.add(Kind::left_only, left.key(), left.mapping().block, {}));
                left.skip();
                continue;
            }
            if (right_first && !open_right) {
                TRY(runs.add(Kind::right_only, right.key(), {}, right.mapping().block));
                right.skip();
                continue;
            }
            if (left_first || (!right_first && open_left && (!open_right || left.height() > right.height()))) {
                TRY(left.open(left_may_skip));
            } else if (right_first || !open_left || right.height() > left.height()) {
                TRY(right.open(&left));
            } else {
                TRY(left.open(left_may_skip));
                TRY(right.open(&left));
            }
            continue;
        }
        if (right.at_end() || (!left.at_end() && left.key() < right.key())) {
            TRY(runs.add(Kind::left_only, left.key(), left.mapping().block, {}));
            left.skip();
        } else if (left.at_end() || right.key() < left.key()) {
            TRY(runs.add(Kind::right_only, right.key(), {}, right.mapping().block));
            right.skip();
        } else {
            const DataBlock left_block = left.mapping().block;
            const DataBlock right_block = right.mapping().block;
            TRY(runs.add(left_block == right_block ? Kind::same : Kind::different, left.key(), left_block, right_block));
            left.skip();
            right.skip();
        }
    }
    return runs.finish();
}

Result<void> diff_since(BlockDevice& metadata, DiffSide volume, bool in_snapshot, std::uint32_t since, const Control& control,
                        const VisitDiff& visit) {
    Opened pool = TRY(open(metadata));
    Cursor cursor(*pool.reader);
    TRY(cursor.start(TRY(root_of(pool, volume, in_snapshot))));
    Runs runs(visit);
    while (!cursor.at_end()) {
        if (cursor.at_subtree()) {
            if (control.stopped())
                return Control::interrupted();
            TRY(cursor.open(nullptr));
            continue;
        }
        const thin::BlockTime where = cursor.mapping();
        if (where.time >= since)
            TRY(runs.add(DiffRun::Kind::right_only, cursor.key(), {}, where.block));
        cursor.skip();
    }
    return runs.finish();
}

}  // namespace lamella::tools
