// SPDX-License-Identifier: Apache-2.0
#include "thin/metadata.h"

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

#include "device/memory_device.h"

namespace lamella::thin {
namespace {

template <typename T>
T value_of(Result<T> result) {
    if (!result) {
        ADD_FAILURE() << result.error().message();
        std::abort();
    }
    if constexpr (!std::is_void_v<T>)
        return std::move(*result);
}

template <typename T>
ErrorKind kind_of(const Result<T>& result) {
    EXPECT_FALSE(result);
    return result ? ErrorKind::failed : result.error().kind();
}

// --- Witnesses: Debian's thin_check and thin_dump ---

struct Ran {
    int status = -1;
    std::string output;
};

Ran run(const std::string& command) {
    Ran ran;
    FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
    if (pipe == nullptr)
        return ran;
    std::array<char, 65536> buffer;
    for (std::size_t got; (got = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
        ran.output.append(buffer.data(), got);
    ran.status = ::pclose(pipe);
    return ran;
}

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
        std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
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
                device->mappings[attribute(line, "origin_begin") + block] = {
                    DataBlock(attribute(line, "data_begin") + block), static_cast<std::uint32_t>(attribute(line, "time"))};
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
        metadata_ = value_of(ThinMetadata::create(
            device_, {.data_block_sectors = data_block_sectors, .data_blocks = model_.data_blocks, .cache_bytes = 1}));
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
        case 2:
            snapshot();
            break;
        case 3:
            if (below(3) == 0)
                remove_device();
            break;
        case 4:
        case 5:
            discard();
            break;
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
        case 11:
            commit();
            break;
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
        default:
            write();
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
                // The metadata snapshot counts as a referrer too.
                if (metadata_->held_root() == MetadataBlock(0)) {
                    EXPECT_EQ(exclusive, referrers(mapping->block) == 1);
                } else if (exclusive) {
                    EXPECT_EQ(referrers(mapping->block), 1u);
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
            EXPECT_EQ(referrers(*data), 0u);
            if (below(50) == 0) {
                metadata_->release_data_block(*data);
                continue;
            }
            entry.mappings[block.value()] = value_of(metadata_->insert(id, block, *data));
            entry.details.mapped_blocks = entry.mappings.size();
        }
    }

    std::uint64_t referrers(DataBlock block) const {
        std::uint64_t count = 0;
        for (const auto& [id, entry] : model_.devices)
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

}  // namespace
}  // namespace lamella::thin
