// SPDX-License-Identifier: Apache-2.0
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"

namespace lamella::cli {

void define_snapshot(CommandLine& line) {
    struct Arguments {
        std::vector<VolumeAddress> volumes;
        std::vector<std::string> names;
        std::vector<std::string> tags;
        bool read_only = false;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Take a snapshot of one or several thin volumes at one moment",
                  "A snapshot shares all of its chunks with its origin until either is written to. Several volumes of one group are "
                  "snapshot at the same moment, all or none. While the group is served, I/O goes on; the snapshot holds everything that "
                  "was acknowledged before it.\n\n"
                  "Without --name a snapshot is called as its origin, with \"-s\" and the lowest free number. As LVM's, it is marked to be "
                  "skipped at activation.");
    line.example("snapshot ./vms.img:web", "makes web-s1");
    line.example("snapshot ./vms.img:web ./vms.img:db --tag nightly", "both at one moment");
    line.arguments("VOLUME", arguments->volumes, "the thin volumes, all of one group");
    line.option("-n,--name", "NAME", arguments->names, "the snapshot's name; of several volumes, once for each in their order");
    line.option("--tag", "TAG", arguments->tags, "a tag for the snapshots; may be given several times");
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
        }
        VolumeGroup& group = *TRY(context.open(volumes.front().group, Access::write));
        std::vector<VolumeInfo> snapshots = TRY(group.create_snapshots(requests, context.change()));
        std::string text;
        for (const VolumeInfo& snapshot : snapshots)
            text += fmt::format("snapshot {} of {}: {}\n", snapshot.name, snapshot.origin, context.done("created"));
        return answer_volumes(context, text, snapshots);
    });
}

}  // namespace lamella::cli
