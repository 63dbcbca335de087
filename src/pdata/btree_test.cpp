// SPDX-License-Identifier: Apache-2.0
#include "pdata/btree.h"

#include <array>
#include <cstring>
#include <map>
#include <random>

#include <gtest/gtest.h>

#include "pdata/test_support.h"

namespace lamella::pdata {
namespace {

using Value = std::array<std::byte, Btree::max_value_bytes>;

// Values refer to numbers: how many leaf entries of distinct leaves hold each is counted here.
class CountingReferences final : public ValueReferences {
  public:
    explicit CountingReferences(std::size_t value_bytes) : value_bytes_(value_bytes) {}
    Result<void> increment(TransactionManager&, const std::byte* values, std::size_t count) override {
        for (std::size_t index = 0; index < count; ++index)
            ++counts[load_little<std::uint32_t>(values + index * value_bytes_)];
        return {};
    }
    Result<void> decrement(TransactionManager&, const std::byte* values, std::size_t count) override {
        for (std::size_t index = 0; index < count; ++index) {
            auto found = counts.find(load_little<std::uint32_t>(values + index * value_bytes_));
            if (found == counts.end())
                return fail(ErrorKind::failed, "a value loses a referrer that it doesn't have");
            if (--found->second == 0)
                counts.erase(found);
        }
        return {};
    }
    std::map<std::uint32_t, std::uint32_t> counts;

  private:
    std::size_t value_bytes_;
};

struct Tree {
    MetadataBlock root;
    std::map<std::uint64_t, std::uint32_t> model;
};

class BtreeModel : public testing::TestWithParam<std::uint32_t> {
  protected:
    Value value_for(std::uint32_t number) const {
        Value value{};
        for (std::size_t byte = 0; byte < GetParam(); ++byte)
            value[byte] = static_cast<std::byte>(number * 31 + byte);
        store_little<std::uint32_t>(value.data(), number);
        return value;
    }

    void check(Store& store, const Btree& btree, const std::vector<Tree>& trees, const CountingReferences& references) {
        std::map<std::uint64_t, std::uint32_t> blocks;
        for (const Tree& tree : trees) {
            auto expected = tree.model.begin();
            std::uint64_t end = value_of(btree.walk(tree.root, 0, [&](std::uint64_t key, const std::byte* value) {
                EXPECT_NE(expected, tree.model.end());
                if (expected == tree.model.end())
                    return false;
                EXPECT_EQ(key, expected->first);
                EXPECT_EQ(std::memcmp(value, value_for(expected->second).data(), GetParam()), 0);
                ++expected;
                return true;
            }));
            EXPECT_EQ(end, Btree::no_limit);
            EXPECT_EQ(expected, tree.model.end());
            count_references(store, tree.root, blocks);
        }
        std::map<std::uint32_t, std::uint32_t> values;
        for (auto [block, count] : blocks) {
            EXPECT_EQ(value_of(store.map.count(MetadataBlock(block))), count) << "block " << block;
            BlockRef ref = value_of(store.cache.read(MetadataBlock(block), BlockKind::node));
            Node node(ref.bytes());
            for (std::uint32_t index = 0; node.is_leaf() && index < node.entries(); ++index)
                ++values[load_little<std::uint32_t>(node.value(index))];
        }
        EXPECT_EQ(values, references.counts);
    }
};

TEST_P(BtreeModel, RandomChangesOfTreesThatShareNodes) {
    const unsigned seed = std::random_device()();
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", values of " << GetParam() << " bytes");
    std::mt19937_64 random(seed);
    auto below = [&](std::uint64_t limit) { return random() % limit; };

    Store store(8000);
    CountingReferences references(GetParam());
    Btree btree(store.cache, GetParam(), "test tree", &references);
    std::vector<Tree> trees{{value_of(btree.create(store.manager)), {}}};
    std::uint32_t next_value = 1;
    const std::uint64_t key_space = 20000;
    auto insert = [&](Tree& tree, std::uint64_t key) {
        std::uint32_t number = next_value++;
        ++references.counts[number];
        bool fresh = value_of(btree.insert(store.manager, tree.root, key, value_for(number).data()));
        EXPECT_EQ(fresh, !tree.model.contains(key));
        tree.model[key] = number;
    };
    for (int step = 0; step < 600 && !HasFailure(); ++step) {
        std::size_t number = below(trees.size());
        Tree& tree = trees[number];
        switch (below(12)) {
        case 0:
        case 1:
        case 2:
            for (int count = 0; count < 40; ++count)
                insert(tree, below(key_space));
            break;
        case 3: {
            std::uint64_t start = below(key_space);
            for (std::uint64_t key = start; key < start + 300; ++key)
                insert(tree, key);
            break;
        }
        case 4: {
            std::uint64_t start = below(key_space) + 300;
            for (std::uint64_t key = start; key > start - 300; --key)
                insert(tree, key);
            break;
        }
        case 5:
        case 6:
            for (int count = 0; count < 30; ++count) {
                std::uint64_t key = below(key_space);
                EXPECT_EQ(value_of(btree.remove(store.manager, tree.root, key)), tree.model.erase(key) == 1);
            }
            break;
        case 7: {
            std::uint64_t first = below(key_space);
            std::uint64_t end = first + below(below(4) == 0 ? key_space : 500);
            std::uint64_t budget = below(2) == 0 ? Btree::no_limit : 1 + below(5);
            auto removal = value_of(btree.remove_range(store.manager, tree.root, first, end, budget));
            std::uint64_t removed = 0;
            for (auto at = tree.model.lower_bound(first); at != tree.model.end() && at->first < removal.next;) {
                at = tree.model.erase(at);
                ++removed;
            }
            EXPECT_EQ(removal.removed, removed);
            if (removal.done)
                EXPECT_EQ(removal.next, std::max(first, end));
            else
                EXPECT_NE(budget, Btree::no_limit);
            break;
        }
        case 8:  // a snapshot of the tree
            if (trees.size() < 6) {
                value_of(store.manager.increment(tree.root));
                trees.push_back(tree);
            }
            break;
        case 9:
            if (trees.size() > 1 && below(2) == 0) {
                value_of(btree.drop(store.manager, tree.root));
                trees.erase(trees.begin() + static_cast<std::ptrdiff_t>(number));
            }
            break;
        case 10:
            store.commit();
            if (below(3) == 0)
                store.reopen();
            break;
        case 11:
            for (int count = 0; count < 30; ++count) {
                std::uint64_t key = below(key_space);
                Value value;
                auto expected = tree.model.find(key);
                ASSERT_EQ(value_of(btree.lookup(tree.root, key, value.data())), expected != tree.model.end());
                auto following = tree.model.lower_bound(key);
                auto next = value_of(btree.next(tree.root, key, value.data()));
                ASSERT_EQ(next.has_value(), following != tree.model.end());
                if (next) {
                    EXPECT_EQ(*next, following->first);
                    EXPECT_EQ(std::memcmp(value.data(), value_for(following->second).data(), GetParam()), 0);
                }
            }
            Value value;
            auto last = value_of(btree.last(tree.root, value.data()));
            EXPECT_EQ(last, tree.model.empty() ? std::nullopt : std::optional(tree.model.rbegin()->first));
            break;
        }
        if (step % 20 == 0)
            check(store, btree, trees, references);
    }
    check(store, btree, trees, references);
    for (Tree& tree : trees)
        value_of(btree.drop(store.manager, tree.root));
    EXPECT_TRUE(references.counts.empty());
    store.commit();
    store.commit();
    // Left: the superblock, the space map's index, bitmap and overflow tree.
    EXPECT_EQ(store.map.allocatable(), 8000u - 4);
}

INSTANTIATE_TEST_SUITE_P(ValueSizes, BtreeModel, testing::Values(4, 8, 16, 24));

TEST(Btree, NodesHoldWhatTheKernelComputes) {
    EXPECT_EQ(max_node_entries(4), 336u);
    EXPECT_EQ(max_node_entries(8), 252u);
    EXPECT_EQ(max_node_entries(16), 168u);
    EXPECT_EQ(max_node_entries(24), 126u);
}

TEST(Btree, AscendingKeysFillNodesWell) {
    for (bool ascending : {true, false}) {
        Store store(4000);
        Btree btree(store.cache, 8, "test tree");
        MetadataBlock root = value_of(btree.create(store.manager));
        Value value{};
        const std::uint64_t count = 100000;
        for (std::uint64_t key = 0; key < count; ++key)
            value_of(btree.insert(store.manager, root, ascending ? key : count - key, value.data()));
        std::map<std::uint64_t, std::uint32_t> blocks;
        count_references(store, root, blocks);
        EXPECT_LT(blocks.size(), count / 252 * 11 / 10) << (ascending ? "ascending" : "descending");
    }
}

TEST(Btree, AWholeTreeGoesWithItsRange) {
    Store store(4000);
    Btree btree(store.cache, 8, "test tree");
    MetadataBlock root = value_of(btree.create(store.manager));
    Value value{};
    for (std::uint64_t key = 0; key < 100000; ++key)
        value_of(btree.insert(store.manager, root, key * 7, value.data()));
    auto removal = value_of(btree.remove_range(store.manager, root, 0, Btree::no_limit));
    EXPECT_EQ(removal.removed, 100000u);
    EXPECT_TRUE(removal.done);
    std::map<std::uint64_t, std::uint32_t> blocks;
    count_references(store, root, blocks);
    EXPECT_EQ(blocks.size(), 1u);
}

TEST(Btree, DamageIsNamedAndContained) {
    Store store(2000);
    Btree btree(store.cache, 8, "test tree");
    MetadataBlock root = value_of(btree.create(store.manager));
    Value value{};
    for (std::uint64_t key = 0; key < 2000; ++key)
        value_of(btree.insert(store.manager, root, key, value.data()));
    store.commit();
    MetadataBlock leaf;
    std::uint64_t first = 0;
    std::uint64_t end = 0;
    {
        BlockRef block = value_of(store.cache.read(root, BlockKind::node));
        Node node(block.bytes());
        ASSERT_FALSE(node.is_leaf());
        leaf = node.child(3);
        first = node.key(3);
        end = node.key(4);
    }
    store.reopen();
    std::array<std::byte, 1> byte;
    value_of(read_now(store.device, leaf.value() * block_bytes + 100, byte));
    byte[0] ^= std::byte{4};
    value_of(write_now(store.device, leaf.value() * block_bytes + 100, byte));
    for (std::uint64_t key = 0; key < 2000; ++key) {
        auto found = btree.lookup(root, key, value.data());
        EXPECT_EQ(found.has_value(), key < first || key >= end);
        if (!found) {
            EXPECT_EQ(found.error().kind(), ErrorKind::damaged);
            EXPECT_NE(found.error().message().find(fmt::format("test tree: metadata block {} of memory", leaf)), std::string::npos)
                << found.error().message();
        }
    }
    std::uint64_t visited = 0;
    auto count = [&](std::uint64_t, const std::byte*) { return ++visited, true; };
    EXPECT_EQ(value_of(btree.walk(root, 0, count)), first);
    EXPECT_EQ(visited, first);
    EXPECT_FALSE(btree.walk(root, first, count));
}

TEST(Btree, ATreeThatLoopsIsTooDeep) {
    Store store(100);
    Btree btree(store.cache, 8, "test tree");
    BlockRef block = value_of(store.manager.create(BlockKind::node));
    std::byte* bytes = block.writable();
    store_little<std::uint32_t>(bytes + 4, Node::internal_flag);
    store_little<std::uint32_t>(bytes + 16, 1);
    store_little<std::uint32_t>(bytes + 20, 252);
    store_little<std::uint32_t>(bytes + 24, 8);
    store_little<std::uint64_t>(bytes + 32 + 252 * 8, block.location().value());
    MetadataBlock root = block.location();
    Value value{};
    EXPECT_FALSE(btree.lookup(root, 5, value.data()));
    EXPECT_FALSE(btree.next(root, 5, value.data()));
    EXPECT_FALSE(btree.drop(store.manager, root));
    EXPECT_FALSE(btree.insert(store.manager, root, 5, value.data()));
}

TEST(Btree, NodesAreChecked) {
    auto damaged = [](auto change) {
        std::array<std::byte, block_bytes> block{};
        store_little<std::uint32_t>(block.data() + 4, Node::leaf_flag);
        store_little<std::uint32_t>(block.data() + 16, 2);
        store_little<std::uint32_t>(block.data() + 20, 252);
        store_little<std::uint32_t>(block.data() + 24, 8);
        store_little<std::uint64_t>(block.data() + 40, 1);
        EXPECT_TRUE(verify_node(block.data()));
        change(block.data());
        return !verify_node(block.data()).has_value();
    };
    EXPECT_TRUE(damaged([](std::byte* block) { store_little<std::uint32_t>(block + 4, 3); }));
    EXPECT_TRUE(damaged([](std::byte* block) { store_little<std::uint32_t>(block + 16, 253); }));
    EXPECT_TRUE(damaged([](std::byte* block) { store_little<std::uint32_t>(block + 20, 255); }));
    EXPECT_TRUE(damaged([](std::byte* block) { store_little<std::uint32_t>(block + 20, 0xffffffff); }));
    EXPECT_TRUE(damaged([](std::byte* block) { store_little<std::uint32_t>(block + 24, 0xffffffff); }));
    EXPECT_TRUE(damaged([](std::byte* block) { store_little<std::uint64_t>(block + 40, 0); }));
}

}  // namespace
}  // namespace lamella::pdata
