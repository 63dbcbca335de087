// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"

namespace lamella::cli {

void define_show(CommandLine& line) {
    auto address = std::make_shared<Address>();
    line.describe("Show all that is known of a group or a volume");
    line.example("show ./vms.img", "the group and its physical volumes");
    line.example("show ./vms.img:pool", "one volume");
    line.argument("GROUP|VOLUME", *address, "GROUP, or GROUP:NAME");
    line.runs([address](Context& context) -> Result<void> {
        if (const auto* volume_address = std::get_if<VolumeAddress>(address.get())) {
            VolumeGroup& group = *TRY(context.open(volume_address->group, Access::read));
            std::vector<VolumeInfo> volume{TRY(group.volume(volume_address->volume))};
            find_ages(context.clock(), volume);
            note_findings(context, TRY(group.info()));
            return context.answer(describe_volume(volume[0]), {{"volume", to_json(volume[0])}});
        }
        VolumeGroup& group = *TRY(context.open(std::get<GroupAddress>(*address), Access::read));
        GroupInfo info = TRY(group.info());
        note_findings(context, info);
        return context.answer(describe_group(info), {{"group", to_json(info)}});
    });
}

}  // namespace lamella::cli
