// SPDX-License-Identifier: Apache-2.0
#include "tools/generate.h"

#include <algorithm>
#include <array>
#include <bit>

namespace lamella::tools {

namespace {

// Puts the numbers below `count` into an order of no pattern: rounds of steps that can be undone on the next power of two, until the result
// is below `count` again.
class Permutation {
  public:
    Permutation(std::uint64_t count, std::uint64_t seed)
        : count_(count), bits_(std::max<int>(2, static_cast<int>(std::bit_width(count)))), seed_(seed) {}

    std::uint64_t operator()(std::uint64_t number) const {
        const std::uint64_t mask = (std::uint64_t{1} << bits_) - 1;
        do {
            for (std::uint64_t factor : {0x9e3779b97f4a7c15ull, 0xbf58476d1ce4e5b9ull, 0x94d049bb133111ebull}) {
                number = (number * factor + seed_) & mask;
                number ^= number >> (bits_ + 1) / 2;
            }
        } while (number >= count_);
        return number;
    }

  private:
    std::uint64_t count_;
    int bits_;
    std::uint64_t seed_;
};

class Generator {
  public:
    Generator(PoolVisitor& sink, const PoolShape& shape) : sink_(sink), shape_(shape), place_(data_blocks(shape), shape.seed) {}

    Result<void> run() {
        PoolHeader header;
        header.time = shape_.snapshots;
        header.transaction_id = 1;
        header.version = 2;
        header.data_block_sectors = shape_.data_block_sectors;
        header.data_blocks = data_blocks(shape_);
        TRY(sink_.superblock_begin(header));
        const DefinitionId shared(0);
        if (shape_.snapshots > 0) {
            TRY(sink_.definition_begin(shared));
            TRY(map(0, shape_.mappings, 0));
            TRY(sink_.definition_end());
        }
        for (std::uint32_t volume = 0; volume < shape_.volumes; ++volume) {
            const bool origin = volume == 0 && shape_.snapshots > 0;
            TRY(sink_.device_begin({.id = ThinId(volume + 1),
                                    .mapped_blocks = shape_.mappings,
                                    .transaction_id = 0,
                                    .creation_time = 0,
                                    .snapshotted_time = origin ? shape_.snapshots : 0}));
            if (origin)
                TRY(sink_.reference(shared));
            else
                TRY(map(0, shape_.mappings, 0));
            TRY(sink_.device_end());
        }
        for (std::uint32_t snapshot = 1; snapshot <= shape_.snapshots; ++snapshot) {
            TRY(sink_.device_begin({.id = ThinId(shape_.volumes + snapshot),
                                    .mapped_blocks = shape_.mappings + shape_.own_mappings,
                                    .transaction_id = 1,
                                    .creation_time = snapshot,
                                    .snapshotted_time = snapshot}));
            TRY(sink_.reference(shared));
            TRY(map(shape_.mappings, shape_.own_mappings, snapshot));
            TRY(sink_.device_end());
        }
        return sink_.superblock_end();
    }

  private:
    Result<void> map(std::uint64_t first, std::uint64_t count, std::uint32_t time) {
        if (!shape_.random) {
            const Mapping run{VirtualBlock(first), DataBlock(next_), count, time};
            next_ += count;
            return count == 0 ? Result<void>() : sink_.map({&run, 1});
        }
        std::array<Mapping, 256> batch;
        for (std::uint64_t done = 0; done < count;) {
            const std::size_t size = std::min<std::uint64_t>(batch.size(), count - done);
            for (std::size_t index = 0; index < size; ++index)
                batch[index] = {VirtualBlock(first + done + index), DataBlock(place_(next_++)), 1, time};
            TRY(sink_.map({batch.data(), size}));
            done += size;
        }
        return {};
    }

    PoolVisitor& sink_;
    const PoolShape& shape_;
    Permutation place_;
    std::uint64_t next_ = 0;
};

}  // namespace

std::uint64_t data_blocks(const PoolShape& shape) { return shape.mappings * shape.volumes + shape.own_mappings * shape.snapshots; }

Result<void> generate(PoolVisitor& sink, const PoolShape& shape) { return Generator(sink, shape).run(); }

}  // namespace lamella::tools
