// SPDX-License-Identifier: Apache-2.0
#include "thin/metadata.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <string>

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/test_support.h"
#include "device/crash_device.h"
#include "device/memory_device.h"
#include "pdata/block.h"
#include "thin/superblock.h"

namespace lamella::thin {
namespace {

using lamella::test::value_of;

template <typename T>
ErrorKind kind_of(const Result<T>& result) {
    EXPECT_FALSE(result);
    return result ? ErrorKind::failed : result.error().kind();
}

// --- Witnesses: Debian's thin_check and thin_dump ---

using lamella::test::Ran;
using lamella::test::run;

// The device's content in a file for as long as this lives.
class Image {
  public:
    explicit Image(BlockDevice& device) {
        std::string name = (std::filesystem::temp_directory_path() / "lamella-metadata-XXXXXX").string();
        int fd = ::mkstemp(name.data());
        EXPECT_GE(fd, 0);
        ::close(fd);
        path = name;
        std::vector<std::byte> bytes(device.size());
        value_of(read_now(device, 0, bytes));
        std::ofstream(path, std::ios::binary)
            .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    }
    ~Image() { std::filesystem::remove(path); }
    Image(const Image&) = delete;
    Image& operator=(const Image&) = delete;

    std::string path;
};

void expect_clean(BlockDevice& device) {
    Image image(device);
    Ran ran = run("thin_check " + image.path);
    EXPECT_EQ(ran.status, 0) << ran.output;
}

struct ModelDevice {
    std::map<std::uint64_t, BlockTime> mappings;
    DeviceDetails details;
};
struct Model {
    std::map<std::uint32_t, ModelDevice> devices;
    std::uint32_t time = 0;
    std::uint64_t transaction_id = 0;
    std::uint64_t data_blocks = 0;
};

std::uint64_t attribute(const std::string& line, const std::string& name) {
    std::size_t at = line.find(" " + name + "=\"");
    EXPECT_NE(at, std::string::npos) << name << " in " << line;
    return at == std::string::npos ? 0 : std::strtoull(line.c_str() + at + name.size() + 3, nullptr, 10);
}

Model parse_dump(const std::string& xml) {
    Model model;
    ModelDevice* device = nullptr;
    std::size_t at = 0;
    while (at < xml.size()) {
        std::size_t end = std::min(xml.find('\n', at), xml.size());
        std::string line = " " + xml.substr(at, end - at);
        at = end + 1;
        if (line.find("<superblock") != std::string::npos) {
            model.time = static_cast<std::uint32_t>(attribute(line, "time"));
            model.transaction_id = attribute(line, "transaction");
            model.data_blocks = attribute(line, "nr_data_blocks");
        } else if (line.find("<device") != std::string::npos) {
            device = &model.devices[static_cast<std::uint32_t>(attribute(line, "dev_id"))];
            device->details = {attribute(line, "mapped_blocks"), attribute(line, "transaction"),
                               static_cast<std::uint32_t>(attribute(line, "creation_time")),
                               static_cast<std::uint32_t>(attribute(line, "snap_time"))};
        } else if (line.find("<single_mapping") != std::string::npos) {
            device->mappings[attribute(line, "origin_block")] = {DataBlock(attribute(line, "data_block")),
                                                                 static_cast<std::uint32_t>(attribute(line, "time"))};
        } else if (line.find("<range_mapping") != std::string::npos) {
            for (std::uint64_t block = 0; block < attribute(line, "length"); ++block)
                device->mappings[attribute(line, "origin_begin") + block] = {DataBlock(attribute(line, "data_begin") + block),
                                                                             static_cast<std::uint32_t>(attribute(line, "time"))};
        }
    }
    return model;
}

void expect_same(const Model& found, const Model& expected) {
    EXPECT_EQ(found.time, expected.time);
    EXPECT_EQ(found.transaction_id, expected.transaction_id);
    EXPECT_EQ(found.data_blocks, expected.data_blocks);
    ASSERT_EQ(found.devices.size(), expected.devices.size());
    for (const auto& [id, device] : expected.devices) {
        ASSERT_TRUE(found.devices.contains(id)) << "device " << id;
        EXPECT_EQ(found.devices.at(id).details, device.details) << "device " << id;
        EXPECT_TRUE(found.devices.at(id).mappings == device.mappings) << "device " << id;
    }
}

void expect_dump(BlockDevice& device, const Model& expected) {
    Image image(device);
    Ran dump = run("thin_dump " + image.path);
    ASSERT_EQ(dump.status, 0) << dump.output;
    expect_same(parse_dump(dump.output), expected);
}

Model read_all(ThinMetadata& metadata) {
    Model model;
    model.time = metadata.time();
    model.transaction_id = metadata.transaction_id();
    model.data_blocks = metadata.data_counts().total;
    for (std::uint32_t first = 0;;) {
        auto entries = value_of(metadata.devices(ThinId(first), 3));
        if (entries.empty())
            break;
        for (const DeviceEntry& entry : entries) {
            ModelDevice& device = model.devices[entry.id.value()];
            device.details = entry.details;
            std::vector<Mapping> mappings;
            const VirtualBlock end(std::uint64_t{1} << 56);
            for (VirtualBlock at(0); at < end;)
                at = value_of(metadata.lookup_range(entry.id, at, end, 100, mappings));
            for (const Mapping& mapping : mappings)
                device.mappings[mapping.virtual_block.value()] = mapping.where;
        }
        first = entries.back().id.value() + 1;
    }
    return model;
}

// --- Random work, a plain model beside it ---

class Workload {
  public:
    Workload(std::uint32_t data_block_sectors, unsigned seed)
        : random_(seed), device_(2048 * metadata_block), queue_(value_of(make_plain_queue())) {
        model_.data_blocks = 40000;
        metadata_ = value_of(
            ThinMetadata::create(device_, {.data_block_sectors = data_block_sectors, .data_blocks = model_.data_blocks, .cache_bytes = 1}));
        committed_ = model_;
    }

    void step() {
        switch (below(20)) {
        case 0:
            if (auto id = below(30); model_.devices.size() < 12) {
                auto created = metadata_->create_thin(ThinId(static_cast<std::uint32_t>(id)));
                if (model_.devices.contains(static_cast<std::uint32_t>(id))) {
                    EXPECT_EQ(kind_of(created), ErrorKind::exists);
                } else {
                    value_of(std::move(created));
                    model_.devices[static_cast<std::uint32_t>(id)].details = {0, model_.transaction_id, model_.time, model_.time};
                }
            }
            break;
        case 1:
        case 2: snapshot(); break;
        case 3:
            if (below(3) == 0)
                remove_device();
            break;
        case 4:
        case 5: discard(); break;
        case 6:
            value_of(metadata_->set_transaction_id(model_.transaction_id, model_.transaction_id + 7));
            model_.transaction_id += 7;
            break;
        case 7:
            if (below(4) == 0) {
                model_.data_blocks += below(30000);
                value_of(metadata_->grow_data(model_.data_blocks));
            }
            break;
        case 8:
            if (below(4) == 0 && device_.size() < 6000 * metadata_block) {
                device_.grow(device_.size() + below(1000) * metadata_block);
                value_of(metadata_->grow_metadata());
                EXPECT_EQ(metadata_->metadata_counts().total, device_.size() / metadata_block);
            }
            break;
        case 9:
            if (metadata_->held_root() == MetadataBlock(0))
                value_of(metadata_->reserve_metadata_snapshot());
            else
                value_of(metadata_->release_metadata_snapshot());
            break;
        case 10:
        case 11: commit(); break;
        case 12:
            if (below(3) == 0) {
                value_of(metadata_->abort());
                model_ = committed_;
            }
            break;
        case 13:
            commit();
            metadata_.reset();
            metadata_ = value_of(ThinMetadata::open(device_, {.read_only = false, .cache_bytes = below(2) == 0 ? 1 : 1u << 22}));
            withheld_.clear();
            break;
        default: write();
        }
    }

    void commit() {
        value_of(metadata_->commit(*queue_, {}));
        committed_ = model_;
        pdata::BlockSet freed = metadata_->take_freed();
        std::set<std::uint64_t> used;
        for (const auto& [id, entry] : model_.devices)
            for (const auto& [block, mapping] : entry.mappings)
                used.insert(mapping.block.value());
        freed.for_each([&](std::uint64_t block) {
            EXPECT_FALSE(used.contains(block));
            withheld_.insert(block);
        });
        if (metadata_->held_root() == MetadataBlock(0)) {
            EXPECT_EQ(metadata_->data_counts().used(), used.size());
        }
        EXPECT_EQ(metadata_->quarantined(), withheld_.size());
        if (below(2) == 0) {
            pdata::BlockSet all;
            for (std::uint64_t block : withheld_)
                all.insert(block);
            metadata_->make_reusable(all);
            withheld_.clear();
        }
    }

    void check() {
        expect_same(read_all(*metadata_), model_);
        commit();
        expect_clean(device_);
        expect_dump(device_, model_);
    }

    Model& model() { return model_; }

  private:
    static constexpr std::uint64_t metadata_block = 4096;
    static constexpr std::uint64_t volume_blocks = 5000;

    std::uint64_t below(std::uint64_t limit) { return random_() % limit; }

    std::pair<const std::uint32_t, ModelDevice>* any_device() {
        if (model_.devices.empty())
            return nullptr;
        return &*std::next(model_.devices.begin(), static_cast<std::ptrdiff_t>(below(model_.devices.size())));
    }

    void write() {
        auto* chosen = any_device();
        if (chosen == nullptr)
            return;
        const ThinId id(chosen->first);
        ModelDevice& entry = chosen->second;
        const bool ascending = below(2) == 0;
        std::uint64_t start = below(volume_blocks);
        for (std::uint64_t count = below(200); count > 0; --count) {
            VirtualBlock block(ascending ? start++ : below(volume_blocks));
            auto found = entry.mappings.find(block.value());
            auto mapping = value_of(metadata_->lookup(id, block));
            ASSERT_EQ(mapping.has_value(), found != entry.mappings.end());
            if (mapping) {
                EXPECT_EQ(*mapping, found->second);
                if (entry.details.snapshotted_time <= mapping->time)
                    continue;
                bool exclusive = value_of(metadata_->data_block_is_exclusive(id, block));
                if (!exclusive) {
                    // It may only be the last commit's business. The metadata snapshot counts as a referrer, too.
                    commit();
                    exclusive = value_of(metadata_->data_block_is_exclusive(id, block));
                    if (metadata_->held_root() == MetadataBlock(0)) {
                        EXPECT_EQ(exclusive, referrers(model_, mapping->block) == 1);
                    }
                }
                if (exclusive) {
                    EXPECT_EQ(referrers(model_, mapping->block), 1u);
                    EXPECT_LE(referrers(committed_, mapping->block), 1u) << "a crash would bring another's mapping back";
                }
                if (exclusive) {
                    entry.mappings[block.value()] = value_of(metadata_->insert(id, block, mapping->block));
                    EXPECT_EQ(entry.mappings[block.value()].time, model_.time);
                    EXPECT_EQ(entry.mappings[block.value()].block, mapping->block);
                    continue;
                }
            }
            auto data = metadata_->allocate_data_block();
            if (!data) {
                EXPECT_EQ(data.error().kind(), ErrorKind::no_space);
                EXPECT_EQ(metadata_->allocatable(), 0u);
                return;
            }
            EXPECT_FALSE(withheld_.contains(data->value()));
            EXPECT_EQ(referrers(model_, *data), 0u);
            if (below(50) == 0) {
                metadata_->release_data_block(*data);
                continue;
            }
            entry.mappings[block.value()] = value_of(metadata_->insert(id, block, *data));
            entry.details.mapped_blocks = entry.mappings.size();
        }
    }

    static std::uint64_t referrers(const Model& model, DataBlock block) {
        std::uint64_t count = 0;
        for (const auto& [id, entry] : model.devices)
            for (const auto& [at, mapping] : entry.mappings)
                count += mapping.block == block;
        return count;
    }

    void snapshot() {
        auto* origin = any_device();
        if (origin == nullptr || model_.devices.size() >= 12)
            return;
        std::uint32_t id = 0;
        while (model_.devices.contains(id))
            ++id;
        EXPECT_EQ(kind_of(metadata_->create_snapshot(ThinId(origin->first), ThinId(origin->first))), ErrorKind::exists);
        EXPECT_EQ(kind_of(metadata_->create_snapshot(ThinId(id), ThinId(1000))), ErrorKind::not_found);
        value_of(metadata_->create_snapshot(ThinId(id), ThinId(origin->first)));
        ++model_.time;
        origin->second.details.snapshotted_time = model_.time;
        ModelDevice copy = origin->second;
        copy.details = {copy.mappings.size(), model_.transaction_id, model_.time, model_.time};
        model_.devices[id] = std::move(copy);
    }

    void remove_device() {
        auto* chosen = any_device();
        if (chosen == nullptr)
            return;
        const std::uint32_t id = chosen->first;
        const std::uint64_t budget = below(2) * 3;
        const std::uint64_t mapped = chosen->second.mappings.size();
        std::uint64_t unmapped = 0;
        for (bool done = false; !done;) {
            RemoveProgress progress = value_of(metadata_->remove_device(ThinId(id), budget));
            unmapped += progress.unmapped;
            done = progress.done;
            if (!done) {
                auto& mappings = chosen->second.mappings;
                mappings.erase(mappings.begin(), mappings.lower_bound(progress.next.value()));
                chosen->second.details.mapped_blocks = mappings.size();
                EXPECT_EQ(value_of(metadata_->details(ThinId(id))), chosen->second.details);
                if (below(8) == 0)
                    return;  // half removed, which is a sound state too
            }
        }
        EXPECT_EQ(kind_of(metadata_->details(ThinId(id))), ErrorKind::not_found);
        EXPECT_EQ(unmapped, mapped);
        model_.devices.erase(id);
    }

    void discard() {
        auto* chosen = any_device();
        if (chosen == nullptr)
            return;
        VirtualBlock first(below(volume_blocks));
        VirtualBlock end = first + below(below(5) == 0 ? volume_blocks : 300);
        std::uint64_t budget = below(3);
        auto& mappings = chosen->second.mappings;
        for (bool done = false; !done;) {
            RemoveProgress progress = value_of(metadata_->remove_range(ThinId(chosen->first), first, end, budget));
            std::uint64_t removed = 0;
            for (auto at = mappings.lower_bound(first.value()); at != mappings.end() && at->first < progress.next.value(); ++removed)
                at = mappings.erase(at);
            EXPECT_EQ(removed, progress.unmapped);
            first = progress.next;
            done = progress.done;
        }
        EXPECT_EQ(first, std::max(first, end));
        chosen->second.details.mapped_blocks = mappings.size();
    }

    std::mt19937_64 random_;
    MemoryDevice device_;
    std::unique_ptr<IoQueue> queue_;
    std::unique_ptr<ThinMetadata> metadata_;
    Model model_;
    Model committed_;
    std::set<std::uint64_t> withheld_;
};

class RandomWorkload : public testing::TestWithParam<std::uint32_t> {};

TEST_P(RandomWorkload, IsWhatThinCheckAndThinDumpSee) {
    const char* given = std::getenv("LAMELLA_TEST_SEED");
    const unsigned seed = given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device()();
    SCOPED_TRACE(testing::Message() << "LAMELLA_TEST_SEED=" << seed);
    Workload workload(GetParam(), seed);
    for (int step = 0; step < 400 && !testing::Test::HasFailure(); ++step) {
        workload.step();
        if (step % 40 == 39)
            workload.check();
    }
}

INSTANTIATE_TEST_SUITE_P(ChunkSizes, RandomWorkload, testing::Values(128, 384, 2048));

// --- Made elsewhere ---

void load_file(const std::string& path, BlockDevice& device) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> bytes(device.size());
    file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    value_of(write_now(device, 0, std::as_bytes(std::span(bytes))));
}

TEST(ThinMetadata, OpensAndChangesWhatThinRestoreWrote) {
    std::string xml = R"(<superblock uuid="" time="3" transaction="9" flags="0" version="2" data_block_size="128" nr_data_blocks="50000">)";
    xml +=
        R"(<device dev_id="1" mapped_blocks="10001" transaction="1" creation_time="0" snap_time="2">)"
        R"(<range_mapping origin_begin="100" data_begin="0" length="10000" time="1"/><single_mapping origin_block="50000" data_block="49999" time="0"/></device>)"
        R"(<device dev_id="2" mapped_blocks="10000" transaction="2" creation_time="2" snap_time="2">)"
        R"(<range_mapping origin_begin="100" data_begin="0" length="10000" time="1"/></device>)"
        R"(<device dev_id="3" mapped_blocks="5000" transaction="3" creation_time="3" snap_time="3">)"
        R"(<range_mapping origin_begin="0" data_begin="5000" length="5000" time="1"/></device></superblock>)";
    MemoryDevice device(1024 * 4096);
    {
        Image image(device);
        std::ofstream(image.path + ".xml") << xml;
        Ran ran = run("thin_restore -i " + image.path + ".xml -o " + image.path);
        std::filesystem::remove(image.path + ".xml");
        ASSERT_EQ(ran.status, 0) << ran.output;
        load_file(image.path, device);
    }
    auto metadata = value_of(ThinMetadata::open(device, {}));
    Model model = read_all(*metadata);
    expect_dump(device, model);
    EXPECT_EQ(model.devices[1].mappings.size(), 10001u);
    EXPECT_EQ(model.time, 3u);
    EXPECT_EQ(model.transaction_id, 9u);

    // Data blocks 5000 to 9999 have three referrers.
    EXPECT_EQ(value_of(metadata->data_block_references(DataBlock(6000))), 3u);
    EXPECT_FALSE(value_of(metadata->data_block_is_exclusive(ThinId(3), VirtualBlock(10))));
    model.devices[3].mappings[10] = value_of(metadata->insert(ThinId(3), VirtualBlock(10), value_of(metadata->allocate_data_block())));
    EXPECT_EQ(value_of(metadata->remove_range(ThinId(1), VirtualBlock(50), VirtualBlock(9000))).unmapped, 8900u);
    auto& mappings = model.devices[1].mappings;
    mappings.erase(mappings.begin(), mappings.lower_bound(9000));
    model.devices[1].details.mapped_blocks -= 8900;
    value_of(metadata->commit());
    expect_clean(device);
    expect_dump(device, model);
}

// --- Limits and refusals ---

TEST(ThinMetadata, RefusesWhatIsNotOne) {
    MemoryDevice device(256 * 4096);
    EXPECT_EQ(kind_of(ThinMetadata::open(device, {})), ErrorKind::not_found);
    std::array<std::byte, 4096> noise;
    noise.fill(std::byte{0x5a});
    value_of(write_now(device, 0, noise));
    EXPECT_EQ(kind_of(ThinMetadata::open(device, {})), ErrorKind::damaged);
    MemoryDevice tiny(1000);
    EXPECT_EQ(kind_of(ThinMetadata::open(tiny, {})), ErrorKind::damaged);
    EXPECT_EQ(kind_of(ThinMetadata::create(tiny, {.data_block_sectors = 128, .data_blocks = 10})), ErrorKind::no_space);
    MemoryDevice small(16384);
    EXPECT_EQ(kind_of(ThinMetadata::create(small, {.data_block_sectors = 128, .data_blocks = 10})), ErrorKind::no_space);
    EXPECT_EQ(kind_of(ThinMetadata::create(device, {.data_block_sectors = 127, .data_blocks = 10})), ErrorKind::usage);
    EXPECT_EQ(kind_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 1ull << 41})), ErrorKind::usage);
    EXPECT_EQ(kind_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 10000000})), ErrorKind::no_space);
    value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 1000}));
    expect_clean(device);
    MemoryDevice truncated(255 * 4096);
    std::vector<std::byte> bytes(truncated.size());
    value_of(read_now(device, 0, bytes));
    value_of(write_now(truncated, 0, bytes));
    EXPECT_EQ(kind_of(ThinMetadata::open(truncated, {})), ErrorKind::damaged);
}

TEST(ThinMetadata, IdsAndTimesEndAt24Bits) {
    MemoryDevice device(256 * 4096);
    {
        auto metadata = value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 1000}));
        value_of(metadata->create_thin(ThinId(max_thin_id)));
        EXPECT_EQ(kind_of(metadata->create_thin(ThinId(max_thin_id + 1))), ErrorKind::usage);
        EXPECT_EQ(kind_of(metadata->create_snapshot(ThinId(max_thin_id + 1), ThinId(max_thin_id))), ErrorKind::usage);
        value_of(metadata->commit());
    }
    std::array<std::byte, 4096> block;
    value_of(read_now(device, 0, block));
    Superblock superblock = value_of(Superblock::unpack(block, true));
    superblock.time = max_time - 1;
    superblock.pack(block);
    value_of(write_now(device, 0, block));
    auto metadata = value_of(ThinMetadata::open(device, {}));
    value_of(metadata->create_snapshot(ThinId(1), ThinId(max_thin_id)));
    EXPECT_EQ(metadata->time(), max_time);
    EXPECT_EQ(kind_of(metadata->create_snapshot(ThinId(2), ThinId(1))), ErrorKind::refused);
    EXPECT_FALSE(metadata->must_abort());
    auto mapping = value_of(metadata->insert(ThinId(1), VirtualBlock(0), value_of(metadata->allocate_data_block())));
    EXPECT_EQ(mapping.time, max_time);
    EXPECT_EQ(value_of(metadata->lookup(ThinId(1), VirtualBlock(0))), mapping);
    value_of(metadata->commit());
    expect_clean(device);
}

TEST(ThinMetadata, ArgumentsAreChecked) {
    MemoryDevice device(256 * 4096);
    auto metadata = value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 1000}));
    value_of(metadata->create_thin(ThinId(0)));
    EXPECT_EQ(kind_of(metadata->insert(ThinId(0), VirtualBlock(0), DataBlock(5))), ErrorKind::usage);
    EXPECT_EQ(kind_of(metadata->insert(ThinId(0), VirtualBlock(~0ull), DataBlock(5))), ErrorKind::usage);
    EXPECT_EQ(kind_of(metadata->lookup(ThinId(1), VirtualBlock(0))), ErrorKind::not_found);
    EXPECT_EQ(kind_of(metadata->data_block_is_exclusive(ThinId(0), VirtualBlock(3))), ErrorKind::not_found);
    EXPECT_EQ(kind_of(metadata->set_transaction_id(5, 6)), ErrorKind::refused);
    EXPECT_EQ(kind_of(metadata->grow_data(999)), ErrorKind::usage);
    EXPECT_EQ(kind_of(metadata->release_metadata_snapshot()), ErrorKind::not_found);
    value_of(metadata->reserve_metadata_snapshot());
    EXPECT_EQ(kind_of(metadata->reserve_metadata_snapshot()), ErrorKind::exists);
    EXPECT_FALSE(metadata->must_abort());
    EXPECT_EQ(metadata->metadata_reserve(), 25u);
    EXPECT_EQ(metadata->metadata_low_watermark(), 64u);
    value_of(metadata->commit());

    auto reader = value_of(ThinMetadata::open(device, {.read_only = true}));
    EXPECT_EQ(kind_of(reader->create_thin(ThinId(7))), ErrorKind::refused);
    EXPECT_EQ(kind_of(reader->allocate_data_block()), ErrorKind::refused);
    EXPECT_EQ(value_of(reader->devices(ThinId(0), 10)).size(), 1u);
}

TEST(ThinMetadata, AReservationThatIsNeverUsedLeaksNothing) {
    MemoryDevice device(256 * 4096);
    auto metadata = value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 10}));
    value_of(metadata->create_thin(ThinId(0)));
    std::set<std::uint64_t> blocks;
    for (int count = 0; count < 10; ++count)
        blocks.insert(value_of(metadata->allocate_data_block()).value());
    EXPECT_EQ(blocks.size(), 10u);
    EXPECT_EQ(metadata->data_counts().free, 0u);
    EXPECT_EQ(kind_of(metadata->allocate_data_block()), ErrorKind::no_space);
    value_of(metadata->commit());
    expect_clean(device);
    metadata->release_data_block(DataBlock(4));
    EXPECT_EQ(value_of(metadata->allocate_data_block()), DataBlock(4));
}

TEST(ThinMetadata, FreedBlocksWaitForTheCommitAndTheQuarantine) {
    MemoryDevice device(256 * 4096);
    auto metadata = value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 10}));
    value_of(metadata->create_thin(ThinId(0)));
    for (std::uint64_t block = 0; block < 10; ++block)
        value_of(metadata->insert(ThinId(0), VirtualBlock(block), value_of(metadata->allocate_data_block())));
    value_of(metadata->commit());
    value_of(metadata->remove_range(ThinId(0), VirtualBlock(2), VirtualBlock(5)));
    EXPECT_EQ(metadata->data_counts().free, 3u);
    EXPECT_EQ(metadata->pending_free(), 3u);
    EXPECT_EQ(kind_of(metadata->allocate_data_block()), ErrorKind::no_space);
    value_of(metadata->commit());
    EXPECT_EQ(metadata->pending_free(), 0u);
    EXPECT_EQ(metadata->quarantined(), 3u);
    EXPECT_EQ(kind_of(metadata->allocate_data_block()), ErrorKind::no_space);
    pdata::BlockSet freed = metadata->take_freed();
    freed.for_each_run([](std::uint64_t first, std::uint64_t length) {
        EXPECT_EQ(first, 2u);
        EXPECT_EQ(length, 3u);
    });
    EXPECT_TRUE(metadata->take_freed().empty());
    metadata->make_reusable(freed);
    EXPECT_EQ(metadata->allocatable(), 3u);
    EXPECT_EQ(value_of(metadata->allocate_data_block()), DataBlock(2));
}

TEST(ThinMetadata, FullMetadataStaysSoundAndCanBeHelped) {
    for (std::uint64_t blocks : {64, 80, 120, 200}) {
        MemoryDevice device(blocks * 4096);
        auto metadata = value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 100000}));
        std::mt19937_64 random(blocks);
        value_of(metadata->create_thin(ThinId(1)));
        Result<void> refused;
        for (std::uint32_t count = 0; refused; ++count) {
            auto data = value_of(metadata->allocate_data_block());
            auto inserted = metadata->insert(ThinId(1), VirtualBlock(random() % 1000000), data);
            if (!inserted)
                refused = std::unexpected(inserted.error());
            else if (count % 100 == 99)
                refused = metadata->create_snapshot(ThinId(count), ThinId(1));
            else if (count % 64 == 0)
                value_of(metadata->commit());
        }
        EXPECT_EQ(refused.error().kind(), ErrorKind::no_space) << refused.error().message();
        EXPECT_FALSE(metadata->must_abort());
        value_of(metadata->commit());
        expect_clean(device);
        // Room comes from removal as well as from growth.
        if (blocks % 16 == 0) {
            EXPECT_TRUE(value_of(metadata->remove_device(ThinId(1))).done);
        } else {
            device.grow(device.size() + 100 * 4096);
            EXPECT_EQ(value_of(metadata->grow_metadata()), blocks + 100);
        }
        value_of(metadata->commit());
        value_of(metadata->create_thin(ThinId(2)));
        value_of(metadata->commit());
        expect_clean(device);
    }
}

TEST(ThinMetadata, TheNeedsCheckFlagStopsChanges) {
    MemoryDevice device(256 * 4096);
    auto metadata = value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 10}));
    value_of(metadata->create_thin(ThinId(0)));
    EXPECT_EQ(kind_of(metadata->set_needs_check()), ErrorKind::refused);
    value_of(metadata->abort());
    value_of(metadata->set_needs_check());
    EXPECT_EQ(kind_of(metadata->create_thin(ThinId(0))), ErrorKind::refused);
    metadata = value_of(ThinMetadata::open(device, {}));
    EXPECT_TRUE(metadata->needs_check());
    EXPECT_EQ(kind_of(metadata->create_thin(ThinId(0))), ErrorKind::refused);
    Image image(device);
    EXPECT_EQ(run("thin_check --clear-needs-check-flag " + image.path).status, 0);
    load_file(image.path, device);
    metadata = value_of(ThinMetadata::open(device, {}));
    EXPECT_FALSE(metadata->needs_check());
    value_of(metadata->create_thin(ThinId(0)));
}

// --- Faults ---

// Passes everything on until told to fail; counts flushes.
class FlakyDevice final : public BlockDevice {
  public:
    explicit FlakyDevice(std::uint64_t size) : memory(size, "flaky") {}
    std::uint64_t size() const override { return memory.size(); }
    DeviceTraits traits() const override { return memory.traits(); }
    std::string name() const override { return memory.name(); }
    void submit(IoQueue& queue, IoRequest& request) override {
        bool fails =
            (request.operation == IoOperation::write && (writes_until_failure-- == 0 || (fail_superblock && request.offset == 0))) ||
            (request.operation == IoOperation::flush && fail_flush);
        flushes += request.operation == IoOperation::flush;
        if (fails)
            queue.complete_later(request, EIO);
        else
            memory.submit(queue, request);
    }

    MemoryDevice memory;
    int writes_until_failure = -1;
    bool fail_flush = false;
    bool fail_superblock = false;
    int flushes = 0;
};

TEST(ThinMetadata, AFailedCommitIsAborted) {
    for (int fault = 0; fault < 6; ++fault) {
        FlakyDevice device(256 * 4096);
        auto metadata = value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 100}));
        value_of(metadata->create_thin(ThinId(1)));
        value_of(metadata->commit());
        const Model before = read_all(*metadata);
        value_of(metadata->create_thin(ThinId(2)));
        for (std::uint64_t block = 0; block < 20; ++block)
            value_of(metadata->insert(ThinId(2), VirtualBlock(block), value_of(metadata->allocate_data_block())));
        device.writes_until_failure = fault < 3 ? fault : -1;
        device.fail_flush = fault == 3;
        device.fail_superblock = fault >= 4;
        auto committed = metadata->commit();
        if (fault < 3 && committed)
            continue;  // there were fewer writes than that
        EXPECT_EQ(kind_of(committed), ErrorKind::failed);
        EXPECT_TRUE(metadata->must_abort());
        EXPECT_EQ(kind_of(metadata->create_thin(ThinId(3))), ErrorKind::refused);
        EXPECT_EQ(kind_of(metadata->commit()), ErrorKind::refused);
        if (fault == 5) {
            // Which superblock the device holds isn't known until one has been written.
            EXPECT_FALSE(metadata->abort());
            EXPECT_TRUE(metadata->must_abort());
        }
        device.writes_until_failure = -1;
        device.fail_flush = device.fail_superblock = false;
        value_of(metadata->abort());
        expect_same(read_all(*metadata), before);
        value_of(metadata->create_thin(ThinId(4)));
        value_of(metadata->commit());
        expect_clean(device);
        metadata = value_of(ThinMetadata::open(device, {}));
        EXPECT_EQ(value_of(metadata->devices(ThinId(0), 10)).size(), 2u);
    }
}

TEST(ThinMetadata, ACommitFlushesEachLeafOnce) {
    FlakyDevice device(256 * 4096);
    FlakyDevice data(4096);
    auto metadata = value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 100}));
    device.flushes = 0;
    value_of(metadata->create_thin(ThinId(1)));
    BlockDevice* leaves[] = {&device, &data};
    value_of(metadata->commit(leaves));
    EXPECT_EQ(device.flushes, 1);
    EXPECT_EQ(data.flushes, 1);
    // Nothing changed: the data is flushed all the same.
    value_of(metadata->commit(leaves));
    EXPECT_EQ(data.flushes, 2);
}

TEST(ThinMetadata, AFlippedBitAnywhereIsAnErrorOrHarmless) {
    const unsigned seed = std::random_device()();
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    MemoryDevice device(128 * 4096);
    Model model;
    {
        auto metadata = value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 20000}));
        for (std::uint32_t id = 0; id < 3; ++id) {
            value_of(metadata->create_thin(ThinId(id)));
            for (std::uint64_t block = 0; block < 600; ++block)
                value_of(metadata->insert(ThinId(id), VirtualBlock(block * 3), value_of(metadata->allocate_data_block())));
        }
        value_of(metadata->create_snapshot(ThinId(3), ThinId(0)));
        value_of(metadata->insert(ThinId(0), VirtualBlock(5), value_of(metadata->allocate_data_block())));
        value_of(metadata->reserve_metadata_snapshot());
        value_of(metadata->commit());
        model = read_all(*metadata);
    }
    std::vector<std::byte> sound(device.size());
    value_of(read_now(device, 0, sound));
    int damaged = 0;
    for (std::uint64_t block = 0; block < 128; ++block) {
        for (int flip = 0; flip < 4; ++flip) {
            std::vector<std::byte> bytes(sound.begin() + static_cast<std::ptrdiff_t>(block * 4096),
                                         sound.begin() + static_cast<std::ptrdiff_t>(block * 4096 + 4096));
            std::uint64_t bit = flip == 0 ? 100 * 8 : random() % (4096 * 8);
            bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
            value_of(write_now(device, block * 4096, bytes));
            for (bool read_only : {true, false}) {
                auto metadata = ThinMetadata::open(device, {.read_only = read_only});
                damaged += !metadata;
                if (!metadata)
                    continue;
                for (std::uint32_t id = 0; id < 4; ++id)
                    for (std::uint64_t at = 0; at < 1800; at += 7) {
                        auto found = (*metadata)->lookup(ThinId(id), VirtualBlock(at));
                        damaged += !found;
                        if (!found) {
                            EXPECT_EQ(found.error().kind(), ErrorKind::damaged);
                            EXPECT_NE(found.error().message().find(fmt::format("metadata block {} of memory", block)), std::string::npos)
                                << found.error().message();
                            continue;
                        }
                        auto expected = model.devices[id].mappings.find(at);
                        ASSERT_EQ(found->has_value(), expected != model.devices[id].mappings.end());
                        if (*found) {
                            EXPECT_EQ(**found, expected->second);
                        }
                    }
                if (read_only)
                    continue;
                auto use = [](const auto& result) { return result.has_value(); };
                auto data = (*metadata)->allocate_data_block();
                bool fine = use(data) && use((*metadata)->insert(ThinId(2), VirtualBlock(2), *data)) &&
                            use((*metadata)->remove_range(ThinId(0), VirtualBlock(3), VirtualBlock(1000))) &&
                            use((*metadata)->remove_device(ThinId(3))) && use((*metadata)->create_thin(ThinId(9))) &&
                            use((*metadata)->release_metadata_snapshot());
                damaged += !fine;
                if ((*metadata)->must_abort())
                    (void)(*metadata)->abort();
                else
                    (void)(*metadata)->commit();
            }
            value_of(write_now(device, 0, sound));
        }
    }
    EXPECT_GT(damaged, 100);
}

// --- Power cuts ---

// Random work until the power goes; what a cut leaves must be what the last commit left, or the one that was under way.
void run_until_cut(unsigned seed, bool ask_tools) {
    SCOPED_TRACE(testing::Message() << "LAMELLA_TEST_SEED=" << seed);
    std::mt19937_64 random(seed);
    PowerSwitch power;
    CrashDevice device(512 * 4096, "disk", power, {.seed = seed, .max_steps = 3});
    auto metadata = value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 20000, .cache_bytes = 1}));
    auto queue = value_of(make_plain_queue());
    Model committed = read_all(*metadata);
    std::optional<Model> under_way;
    power.cut_after(1 + random() % 400);
    std::uint32_t ids = 0;
    for (bool alive = true; alive;) {
        auto going = [&](const auto& result) {
            return alive = alive && (result.has_value() || result.error().kind() != ErrorKind::failed);
        };
        ThinId id(static_cast<std::uint32_t>(random() % (ids + 1)));
        switch (random() % 8) {
        case 0: going(metadata->create_thin(ThinId(ids++))); break;
        case 1: going(metadata->create_snapshot(ThinId(ids++), id)); break;
        case 2: going(metadata->remove_range(id, VirtualBlock(random() % 3000), VirtualBlock(random() % 3000))); break;
        case 3:
            if (ids > 6)
                going(metadata->remove_device(id, random() % 3));
            break;
        case 4:
        case 5: {
            auto contents = [&]() -> std::optional<Model> { return power.off() ? std::nullopt : std::optional(read_all(*metadata)); };
            if (alive && !metadata->must_abort() && (under_way = contents())) {
                auto result = metadata->commit(*queue, {});
                if (going(result)) {
                    committed = *under_way;
                    under_way.reset();
                    metadata->make_reusable(metadata->take_freed());
                }
            }
            break;
        }
        default:
            for (int count = 0; count < 100 && alive; ++count) {
                VirtualBlock block(random() % 3000);
                auto data = metadata->allocate_data_block();
                if (!data) {
                    going(data);
                    break;
                }
                if (auto inserted = metadata->insert(id, block, *data); !inserted) {
                    metadata->release_data_block(*data);
                    going(inserted);
                    if (inserted.error().kind() == ErrorKind::no_space) {
                        // Make room, so that the power can go in the middle of something.
                        for (std::uint32_t old = 0; old < ids; ++old)
                            going(metadata->remove_device(ThinId(old)));
                    }
                    break;
                }
            }
        }
        alive = alive && !power.off();
    }
    metadata.reset();
    for (unsigned cut = 0; cut < 3; ++cut) {
        auto disk = device.cut(seed + cut);
        auto opened = ThinMetadata::open(*disk, {});
        ASSERT_TRUE(opened) << opened.error().message();
        Model found = read_all(**opened);
        auto same = [&](const Model& model) {
            return found.time == model.time && found.devices.size() == model.devices.size() &&
                   std::all_of(model.devices.begin(), model.devices.end(), [&](const auto& device_model) {
                       auto at = found.devices.find(device_model.first);
                       return at != found.devices.end() && at->second.details == device_model.second.details &&
                              at->second.mappings == device_model.second.mappings;
                   });
        };
        EXPECT_TRUE(same(committed) || (under_way && same(*under_way)));
        if (ask_tools && cut == 0)
            expect_clean(*disk);
        // It goes on from there.
        value_of((*opened)->create_thin(ThinId(1000)));
        value_of((*opened)->commit());
    }
}

TEST(ThinMetadata, AfterAPowerCutItIsAsACommitLeftIt) {
    const char* given = std::getenv("LAMELLA_TEST_SEED");
    const unsigned seed = given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device()();
    const unsigned runs = given != nullptr ? 1 : 60;
    for (unsigned count = 0; count < runs && !testing::Test::HasFailure(); ++count)
        run_until_cut(seed + count, count % 10 == 0);
}

TEST(ThinMetadata, APowerCutWhileFormattingLeavesNothingOrAPool) {
    const unsigned seed = std::random_device()();
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    int formatted = 0;
    for (std::uint64_t operations = 1; operations < 30; ++operations) {
        PowerSwitch power;
        CrashDevice device(256 * 4096, "disk", power);
        // There was a pool before.
        auto old = value_of(ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 500}));
        value_of(old->create_thin(ThinId(5)));
        value_of(old->commit());
        power.cut_after(operations);
        auto result = ThinMetadata::create(device, {.data_block_sectors = 128, .data_blocks = 1000});
        auto disk = device.cut(seed + operations);
        auto opened = ThinMetadata::open(*disk, {});
        EXPECT_TRUE(opened || !result);
        if (opened)
            expect_clean(*disk);
        formatted += opened.has_value() && (*opened)->data_counts().total == 1000;
    }
    EXPECT_GT(formatted, 10);
}

}  // namespace
}  // namespace lamella::thin
