// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"
#include "cli/sizes.h"

namespace lamella::cli {

void define_remove(CommandLine& line) {
    struct Arguments {
        std::vector<VolumeAddress> volumes;
        bool with_contents = false;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Remove volumes, with all that is on them",
                  "Thin snapshots of a removed volume stay whole; classic ones go with it, and are named in the question. A pool is "
                  "removed only when it has no volumes left, or with all of them by "
                  "--with-contents.");
    line.arguments("VOLUME", arguments->volumes, "the volumes, all of one group");
    line.flag("--with-contents", arguments->with_contents, "a pool with all of its volumes");
    line.changes();
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        const std::vector<VolumeAddress>& volumes = arguments->volumes;
        std::vector<std::string> names;
        for (const VolumeAddress& volume : volumes) {
            if (volume.group != volumes.front().group)
                return fail(ErrorKind::usage, "{} and {} are in different groups: remove them one by one", volumes.front().text(),
                            volume.text());
            names.push_back(volume.volume);
        }
        VolumeGroup& group = *TRY(context.open(volumes.front().group, Access::write));
        const std::size_t named = names.size();
        for (const VolumeInfo& volume : TRY(group.volumes()))
            if (volume.kind == VolumeKind::snapshot && volume.visible && std::ranges::find(names, volume.origin) != names.end() &&
                std::ranges::find(names, volume.name) == names.end())
                names.push_back(volume.name);
        TRY(group.remove(names, arguments->with_contents, {.dry_run = true}));
        const std::string with_snapshots =
            names.size() > named ? fmt::format(" with the snapshots {}", fmt::join(names.begin() + named, names.end(), ", ")) : "";
        TRY(context.confirm_loss(
            group, names,
            fmt::format("Remove {} of {}{}{}, and lose what is on {}?", fmt::join(names.begin(), names.begin() + named, ", "),
                        volumes.front().group.text(), with_snapshots, arguments->with_contents ? " with all that it contains" : "",
                        names.size() > 1 ? "them" : "it")));
        if (!context.dry_run)
            TRY(group.remove(names, arguments->with_contents, context.change()));
        std::string text;
        for (const std::string& name : names)
            text += fmt::format("volume {}: {}\n", name, context.done("removed"));
        return context.answer(text, {{"dry_run", context.dry_run}, {"removed", names}});
    });
}

}  // namespace lamella::cli
