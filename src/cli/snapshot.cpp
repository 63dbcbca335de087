// SPDX-License-Identifier: Apache-2.0
#include <set>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"
#include "cli/sizes.h"

namespace lamella::cli {

// A snapshot takes room only as its origin changes; then it may be too late to make some.
static void warn_of_full_pools(Context& context, VolumeGroup& group, const std::vector<VolumeInfo>& snapshots) {
    std::set<std::string> pools;
    for (const VolumeInfo& snapshot : snapshots) {
        if (snapshot.pool.empty() || !pools.insert(snapshot.pool).second)
            continue;
        const auto pool = group.volume(snapshot.pool);
        if (!pool)
            continue;
        const auto fuller = [](std::optional<std::uint64_t> used, std::uint64_t of, unsigned percent) {
            return used && of != 0 && *used >= of / 100 * percent;
        };
        if (fuller(pool->data_used, pool->size, 90))
            context.note(fmt::format("warning: pool {}: {} % of its data is in use, and changes to snapshot volumes take more", pool->name,
                                     shown_percent(pool->data_used, pool->size)));
        if (fuller(pool->metadata_used, pool->metadata_size.value_or(0), 75))
            context.note(fmt::format("warning: pool {}: {} % of its metadata is in use, and snapshots take more", pool->name,
                                     shown_percent(pool->metadata_used, pool->metadata_size)));
    }
}

void define_snapshot(CommandLine& line) {
    struct Arguments {
        std::vector<VolumeAddress> volumes;
        std::vector<std::string> names;
        std::vector<std::string> tags;
        bool read_only = false;
        SizeArgument size;
        std::optional<std::uint64_t> chunk_size;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Take a snapshot of one or several volumes at one moment",
        "A thin volume's snapshot shares all of its chunks with its origin until either is written to. Several volumes of one group are "
        "snapshot at the same moment, all or none. While the group is served, I/O goes on; the snapshot holds everything that "
        "was acknowledged before it.\n\n"
        "Without --name a snapshot is called as its origin, with \"-s\" and the lowest free number. As LVM's, a thin one is marked "
        "to be skipped at activation.\n\n"
        "A linear or striped volume has classic snapshots: each has a store of its own in the group, to which every chunk of the "
        "origin is copied before it is written to for the first time. When the store is full the snapshot is invalid, and the "
        "origin goes on. With --size a thin volume gets one, too.");
    line.example("snapshot ./vms.img:web", "makes web-s1");
    line.example("snapshot ./vms.img:web ./vms.img:db --tag nightly", "both at one moment");
    line.example("snapshot ./vms.img:boot --size 100%ORIGIN", "a classic snapshot that never gets full");
    line.arguments("VOLUME", arguments->volumes, "the volumes, all of one group");
    line.option("-n,--name", "NAME", arguments->names, "the snapshot's name; of several volumes, once for each in their order");
    line.option("--tag", "TAG", arguments->tags, "a tag for the snapshots; may be given several times");
    line.option_size("-L,--size", arguments->size, "a classic snapshot's room: bytes, N%ORIGIN, N%FREE, ... (default 20%ORIGIN)");
    line.option_size("-c,--chunk-size", arguments->chunk_size, "a classic snapshot's unit of copying, 4K to 512K (default 4K)");
    line.flag("--read-only", arguments->read_only, "refuse writes to the snapshots");
    line.changes();
    line.runs([arguments](Context& context) -> Result<void> {
        const std::vector<VolumeAddress>& volumes = arguments->volumes;
        for (const VolumeAddress& volume : volumes)
            if (volume.group != volumes.front().group)
                return fail(ErrorKind::usage, "{} and {} are in different groups: no moment is common to both", volumes.front().text(),
                            volume.text());
        if (!arguments->names.empty() && arguments->names.size() != volumes.size())
            return fail(ErrorKind::usage, "--name is given {} times for {} volumes", arguments->names.size(), volumes.size());
        std::vector<CreateSnapshot> requests;
        for (std::size_t i = 0; i < volumes.size(); ++i) {
            CreateSnapshot& request = requests.emplace_back();
            request.origin = volumes[i].volume;
            if (!arguments->names.empty())
                request.name = arguments->names[i];
            request.read_only = arguments->read_only;
            request.tags = arguments->tags;
            if (arguments->size.bytes != 0 || arguments->size.percentage) {
                if (arguments->size.sign != SizeArgument::Sign::none)
                    return fail(ErrorKind::usage, "--size: a new snapshot has no store yet that could grow or shrink");
                request.classic = true;
                request.size = TRY(size_request(arguments->size, std::nullopt));
            }
            if (arguments->chunk_size) {
                request.classic = true;
                request.chunk_size = *arguments->chunk_size;
            }
        }
        VolumeGroup& group = *TRY(context.open(volumes.front().group, Access::write));
        std::vector<VolumeInfo> snapshots = TRY(group.create_snapshots(requests, context.change()));
        warn_of_full_pools(context, group, snapshots);
        std::string text;
        for (const VolumeInfo& snapshot : snapshots)
            text += fmt::format("snapshot {} of {}: {}\n", snapshot.name, snapshot.origin, context.done("created"));
        return answer_volumes(context, text, snapshots);
    });
}

}  // namespace lamella::cli
