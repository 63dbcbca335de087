// SPDX-License-Identifier: Apache-2.0
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
                  "Snapshots of a removed volume stay whole. A pool is removed only when it has no volumes left, or with all of them by "
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
        TRY(group.remove(names, arguments->with_contents, {.dry_run = true}));
        TRY(context.confirm(fmt::format("Remove {} of {}{}, and lose what is on {}?", fmt::join(names, ", "), volumes.front().group.text(),
                                        arguments->with_contents ? " with all that it contains" : "", names.size() > 1 ? "them" : "it")));
        if (!context.dry_run)
            TRY(group.remove(names, arguments->with_contents, context.change()));
        std::string text;
        for (const std::string& name : names)
            text += fmt::format("volume {}: {}\n", name, context.done("removed"));
        return context.answer(text, {{"dry_run", context.dry_run}, {"removed", names}});
    });
}

}  // namespace lamella::cli
