// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"
#include "cli/sizes.h"

namespace lamella::cli {

namespace {

// A fifth of the origin with the room for its exceptions, or all that is left of the group if that is less, but no less than a twentieth.
// `room`: what is left; less by the store's size afterwards.
Result<SizeRequest> automatic_size(const VolumeInfo& origin, std::uint64_t chunk_size, std::uint64_t extent_size, std::uint64_t& room) {
    constexpr std::uint64_t exception_bytes = 16;
    const std::uint64_t fifth = origin.size / 5;
    const std::uint64_t exceptions = fifth / std::max<std::uint64_t>(chunk_size, 1) * exception_bytes + 4 * chunk_size;
    const std::uint64_t size = std::min(fifth + exceptions, room);
    if (size < origin.size / 20)
        return fail(ErrorKind::no_space, "{}: {} are free for its snapshot; --size auto takes a twentieth of the volume at least, {}",
                    origin.name, print_size(room), print_size(origin.size / 20));
    const std::uint64_t extent = std::max<std::uint64_t>(extent_size, 1);
    room -= std::min(room, (size + extent - 1) / extent * extent);
    return SizeRequest{.base = SizeRequest::Base::bytes, .relation = SizeRequest::Relation::absolute, .value = size};
}

}  // namespace

void define_snapshot(CommandLine& line) {
    struct Arguments {
        std::vector<VolumeAddress> volumes;
        std::vector<std::string> names;
        std::vector<std::string> tags;
        bool read_only = false;
        std::string size;  // a SizeArgument, or "auto"
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
        "origin goes on. With --size a thin volume gets one, too. No store becomes larger than the origin can ever need. With "
        "--size auto it has room for a fifth of the origin or, where the group has less, all that is free, but no less than a twentieth "
        "of the origin.");
    line.example("snapshot ./vms.img:web", "makes web-s1");
    line.example("snapshot ./vms.img:web ./vms.img:db --tag nightly", "both at one moment");
    line.example("snapshot ./vms.img:boot --size 100%ORIGIN", "a classic snapshot that never gets full");
    line.arguments("VOLUME", arguments->volumes, "the volumes, all of one group");
    line.option("-n,--name", "NAME", arguments->names, "the snapshot's name; of several volumes, once for each in their order");
    line.option("--tag", "TAG", arguments->tags, "a tag for the snapshots; may be given several times");
    line.option("-L,--size", "SIZE", arguments->size,
                "a classic snapshot's room: bytes, N%ORIGIN, N%FREE, ... or auto (default 20%ORIGIN)");
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
            request.classic = !arguments->size.empty();
            if (request.classic && arguments->size != "auto") {
                const SizeArgument size = TRY_WITHIN("--size", parse_size_argument(arguments->size));
                if (size.sign != SizeArgument::Sign::none)
                    return fail(ErrorKind::usage, "--size: a new snapshot has no store yet that could grow or shrink");
                request.size = TRY(size_request(size, std::nullopt));
            }
            if (arguments->chunk_size) {
                request.classic = true;
                request.chunk_size = *arguments->chunk_size;
            }
        }
        VolumeGroup& group = *TRY(context.open(volumes.front().group, Access::write));
        if (arguments->size == "auto") {
            const GroupInfo info = TRY(group.info());
            std::uint64_t room = info.free;
            for (CreateSnapshot& request : requests)
                request.size = TRY(automatic_size(TRY(group.volume(request.origin)), request.chunk_size, info.extent_size, room));
        }
        std::set<std::string> pools;
        for (const CreateSnapshot& request : requests)
            if (const auto origin = group.volume(request.origin); origin && !request.classic && !origin->pool.empty())
                pools.insert(origin->pool);
        warn_of_full_pools(context, group, pools);
        std::vector<VolumeInfo> snapshots = TRY(group.create_snapshots(requests, context.change()));
        std::string text;
        for (const VolumeInfo& snapshot : snapshots)
            text += fmt::format("snapshot {} of {}: {}\n", snapshot.name, snapshot.origin, context.done("created"));
        return answer_volumes(context, text, snapshots);
    });
}

}  // namespace lamella::cli
