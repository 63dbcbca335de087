// SPDX-License-Identifier: Apache-2.0
#include "pools.h"

#include <array>
#include <random>

#include "base/endian.h"
#include "base/test_support.h"
#include "pdata/block.h"
#include "pdata/btree.h"

namespace lamella::damage {

namespace {

using pdata::block_bytes;
using pdata::Node;

using lamella::test::value_of;

std::vector<std::byte> read_block(BlockDevice& device, MetadataBlock block) {
    std::vector<std::byte> bytes(block_bytes);
    value_of(read_now(device, block.value() * block_bytes, bytes));
    return bytes;
}

// A pool in the making: random work in transactions, each of which leaves its traces.
class Maker {
  public:
    Maker(std::string name, std::uint64_t seed, std::uint64_t metadata_blocks, std::uint64_t data_blocks) : random_(seed) {
        pool_.name = std::move(name);
        pool_.metadata = std::make_unique<MemoryDevice>(metadata_blocks * block_bytes, pool_.name);
        metadata_ = value_of(thin::ThinMetadata::create(*pool_.metadata, {.data_blocks = data_blocks}));
    }

    std::uint64_t draw(std::uint64_t below) { return random_() % below; }
    thin::ThinMetadata& metadata() { return *metadata_; }

    void write(ThinId id, std::uint64_t first, std::uint64_t count) {
        for (std::uint64_t block = first; block < first + count; ++block)
            value_of(metadata_->insert(id, VirtualBlock(block), value_of(metadata_->allocate_data_block())));
    }
    void scatter(ThinId id, std::uint64_t below, std::uint64_t count) {
        while (count-- > 0)
            write(id, draw(below), 1);
    }
    void discard(ThinId id, std::uint64_t first, std::uint64_t count) {
        value_of(metadata_->remove_range(id, VirtualBlock(first), VirtualBlock(first + count)));
    }

    void commit() {
        std::vector<std::vector<std::byte>> before;
        const std::uint64_t blocks = pool_.metadata->size() / block_bytes;
        for (MetadataBlock block(0); block.value() < blocks; ++block)
            before.push_back(read_block(*pool_.metadata, block));
        value_of(metadata_->set_transaction_id(metadata_->transaction_id(), metadata_->transaction_id() + 1));
        value_of(metadata_->commit());
        metadata_->make_reusable(metadata_->take_freed());
        for (MetadataBlock block(1); block.value() < blocks; ++block)
            if (before[block.value()] != read_block(*pool_.metadata, block) &&
                pdata::verify_block(before[block.value()], pdata::BlockKind::node, block))
                pool_.earlier[block].push_back(std::move(before[block.value()]));
    }

    Pool finish() {
        commit();
        metadata_.reset();
        pool_.superblock = value_of(thin::Superblock::unpack(read_block(*pool_.metadata, MetadataBlock(0)), false));
        walk_tops(pool_.superblock.device_details_root, {}, [&](std::uint64_t key, const std::byte* value, const auto& path) {
            Volume& volume = pool_.volumes[ThinId(static_cast<std::uint32_t>(key))];
            volume.details = {load_little<std::uint64_t>(value), load_little<std::uint64_t>(value + 8),
                              load_little<std::uint32_t>(value + 16), load_little<std::uint32_t>(value + 20)};
            volume.details_path = path;
        });
        walk_tops(pool_.superblock.data_mapping_root, {}, [&](std::uint64_t key, const std::byte* value, const auto& path) {
            add_leaves(pool_.volumes[ThinId(static_cast<std::uint32_t>(key))], MetadataBlock(load_little<std::uint64_t>(value)), path);
        });
        return std::move(pool_);
    }

  private:
    template <typename Visit>
    void walk_tops(MetadataBlock block, std::vector<MetadataBlock> path, const Visit& visit) {
        path.push_back(block);
        const auto bytes = read_block(*pool_.metadata, block);
        const Node node(bytes.data());
        for (std::uint32_t index = 0; index < node.entries(); ++index)
            if (node.is_leaf())
                visit(node.key(index), node.value(index), path);
            else
                walk_tops(node.child(index), path, visit);
    }

    void add_leaves(Volume& volume, MetadataBlock block, std::vector<MetadataBlock> path) {
        const auto bytes = read_block(*pool_.metadata, block);
        const Node node(bytes.data());
        if (!node.is_leaf()) {
            path.push_back(block);
            for (std::uint32_t index = 0; index < node.entries(); ++index)
                add_leaves(volume, node.child(index), path);
            return;
        }
        LeafPath& leaf = volume.leaves.emplace_back();
        leaf.path = std::move(path);
        leaf.leaf = block;
        for (std::uint32_t index = 0; index < node.entries(); ++index)
            leaf.mappings.push_back(
                {VirtualBlock(node.key(index)), thin::BlockTime::unpack(load_little<std::uint64_t>(node.value(index)))});
    }

    std::mt19937_64 random_;
    Pool pool_;
    std::unique_ptr<thin::ThinMetadata> metadata_;
};

}  // namespace

Pool make_small_pool(std::uint64_t seed) {
    Maker maker("small", seed, 512, 20000);
    for (std::uint32_t id = 1; id <= 5; ++id)
        value_of(maker.metadata().create_thin(ThinId(id)));
    maker.commit();
    maker.write(ThinId(1), 0, 100);
    maker.write(ThinId(2), 500, 900);
    maker.scatter(ThinId(3), 100000, 1500);
    maker.commit();
    value_of(maker.metadata().create_snapshot(ThinId(11), ThinId(1)));
    value_of(maker.metadata().create_snapshot(ThinId(12), ThinId(2)));
    value_of(maker.metadata().create_snapshot(ThinId(13), ThinId(3)));
    maker.commit();
    maker.scatter(ThinId(2), 2000, 60);
    maker.scatter(ThinId(3), 100000, 40);
    maker.write(ThinId(4), 7, 3);
    maker.commit();
    value_of(maker.metadata().create_snapshot(ThinId(23), ThinId(3)));
    maker.discard(ThinId(2), 600, 50);
    maker.scatter(ThinId(23), 100000, 30);
    maker.commit();
    maker.scatter(ThinId(13), 100000, 3);
    return maker.finish();
}

Pool make_deep_pool(std::uint64_t seed) {
    Maker maker("deep", seed, 2048, 300000);
    for (std::uint32_t id = 1; id <= 3; ++id)
        value_of(maker.metadata().create_thin(ThinId(id)));
    maker.write(ThinId(1), 1000, 80000);
    maker.commit();
    maker.write(ThinId(2), 0, 30000);
    maker.scatter(ThinId(3), 1u << 30, 20000);
    maker.commit();
    value_of(maker.metadata().create_snapshot(ThinId(4), ThinId(1)));
    maker.commit();
    maker.write(ThinId(1), 30000, 300);
    maker.scatter(ThinId(1), 81000, 40);
    maker.commit();
    maker.scatter(ThinId(4), 81000, 25);
    maker.discard(ThinId(2), 4000, 700);
    maker.commit();
    value_of(maker.metadata().create_snapshot(ThinId(5), ThinId(1)));
    maker.scatter(ThinId(5), 90000, 15);
    maker.scatter(ThinId(3), 1u << 30, 50);
    return maker.finish();
}

Pool make_shared_pool(std::uint64_t seed) {
    Maker maker("shared", seed, 1024, 100000);
    value_of(maker.metadata().create_thin(ThinId(1)));
    maker.write(ThinId(1), 0, 12000);
    maker.commit();
    for (std::uint32_t id = 100; id < 130; ++id) {
        value_of(maker.metadata().create_snapshot(ThinId(id), ThinId(1)));
        maker.scatter(ThinId(1), 12000, 1 + maker.draw(20));
        if (id % 3 == 0)
            maker.scatter(ThinId(id), 12500, 2);
        if (id == 115)
            value_of(maker.metadata().reserve_metadata_snapshot());
        maker.commit();
    }
    return maker.finish();
}

}  // namespace lamella::damage
