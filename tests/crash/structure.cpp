// SPDX-License-Identifier: Apache-2.0
#include "structure.h"

#include <cstdio>
#include <cstdlib>
#include <unordered_map>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "thin/metadata.h"

namespace lamella::crash {

Result<void> check_structure(BlockDevice& device) {
    thin::ThinMetadata::Options options;
    options.read_only = true;
    auto metadata = TRY_WITHIN("opening the metadata", thin::ThinMetadata::open(device, options));
    if (metadata->needs_check())
        return fail(ErrorKind::damaged, "needs_check is set");

    struct Use {
        VirtualBlock virtual_block;
        std::uint32_t mappings = 0;
        bool all_shared = true;  // each mapping is one that its device treats as shared
    };
    std::unordered_map<DataBlock, Use> uses;
    ThinId next{0};
    for (;;) {
        const auto devices = TRY_WITHIN("listing devices", metadata->devices(next, 100));
        if (devices.empty())
            break;
        for (const thin::DeviceEntry& entry : devices) {
            std::vector<thin::Mapping> mappings;
            VirtualBlock from{0};
            const VirtualBlock end(std::uint64_t{1} << 40);
            while (from < end)
                from =
                    TRY_WITHIN(fmt::format("mappings of device {}", entry.id), metadata->lookup_range(entry.id, from, end, 1000, mappings));
            if (mappings.size() != entry.details.mapped_blocks)
                return fail(ErrorKind::damaged, "device {} has {} mappings, its details say {}", entry.id, mappings.size(),
                            entry.details.mapped_blocks);
            for (const thin::Mapping& mapping : mappings) {
                if (mapping.where.block.value() >= metadata->data_counts().total)
                    return fail(ErrorKind::damaged, "device {} maps block {} beyond the data device", entry.id, mapping.where.block);
                if (mapping.where.time > metadata->time())
                    return fail(ErrorKind::damaged, "device {} has a mapping from the future, {}", entry.id, mapping.where.time);
                auto [use, first] = uses.try_emplace(mapping.where.block, Use{mapping.virtual_block});
                if (!first && use->second.virtual_block != mapping.virtual_block)
                    return fail(ErrorKind::damaged, "data block {} is mapped as virtual block {} and {}", mapping.where.block,
                                use->second.virtual_block, mapping.virtual_block);
                ++use->second.mappings;
                use->second.all_shared &= entry.details.snapshotted_time > mapping.where.time;
            }
        }
        next = devices.back().id + 1;
    }
    for (const auto& [block, use] : uses) {
        if (use.mappings > 1 && !use.all_shared)
            return fail(ErrorKind::damaged, "data block {} has {} mappings, not all of which are treated as shared", block, use.mappings);
        const std::uint32_t references = TRY(metadata->data_block_references(block));
        // A metadata snapshot holds leaves of its own, as many as there were devices.
        if (references == 0 || (metadata->held_root().value() == 0 && references > use.mappings))
            return fail(ErrorKind::damaged, "data block {} has {} mappings and a reference count of {}", block, use.mappings, references);
    }
    // Blocks that only a metadata snapshot still maps are in use, too.
    const std::uint64_t used = metadata->data_counts().used();
    if (metadata->held_root().value() == 0 ? used != uses.size() : used < uses.size())
        return fail(ErrorKind::damaged, "{} data blocks are mapped, {} are in use", uses.size(), used);
    return {};
}

Result<void> run_thin_check(BlockDevice& metadata) {
    char path[] = "/tmp/lamella-crash-XXXXXX";
    const int file = ::mkstemp(path);
    if (file < 0)
        return fail_errno("mkstemp");
    std::vector<std::byte> bytes(metadata.size());
    Result<void> result = read_now(metadata, 0, bytes);
    if (result && ::write(file, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
        result = fail_errno("writing a copy of the metadata");
    ::close(file);
    if (result) {
        std::string output;
        FILE* pipe = ::popen((std::string("thin_check ") + path + " 2>&1").c_str(), "r");
        char line[500];
        while (pipe != nullptr && std::fgets(line, sizeof line, pipe) != nullptr)
            output += line;
        if (pipe == nullptr || ::pclose(pipe) != 0)
            result = fail(ErrorKind::damaged, "thin_check: {}", output);
    }
    ::unlink(path);
    return result;
}

}  // namespace lamella::crash
