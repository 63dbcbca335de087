// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"

namespace lamella::cli {

void define_status(CommandLine& line) {
    struct Arguments {
        VolumeAddress volume;
        bool table = false;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Print the status line of a pool or thin volume as the kernel's device mapper prints it");
    line.argument("VOLUME", arguments->volume, "the pool or thin volume");
    line.flag("--table", arguments->table, "the table line instead");
    line.runs([arguments](Context& context) -> Result<void> {
        VolumeGroup& group = *TRY(context.open(arguments->volume.group, Access::ask_device));
        const std::string& name = arguments->volume.volume;
        std::string text = arguments->table ? TRY(group.table_line(name)) : TRY(group.status_line(name));
        Json answer = Json::object();
        answer[arguments->table ? "table" : "status"] = text;
        return context.answer(text + "\n", answer);
    });
}

}  // namespace lamella::cli
