// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"

namespace lamella::cli {

void define_message(CommandLine& line) {
    struct Arguments {
        VolumeAddress pool;
        std::vector<std::string> words;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Send a device mapper message to a pool",
                  "The thin-pool target's own messages, for tools that know them. The volumes of a group are better changed by the other "
                  "commands, which keep its LVM2 metadata in step.");
    line.example("message ./vms.img:pool reserve_metadata_snap", "as dmsetup message would");
    line.argument("POOL", arguments->pool, "the pool: GROUP:NAME");
    line.arguments("WORD", arguments->words, "the message");
    line.runs([arguments](Context& context) -> Result<void> {
        VolumeGroup& group = *TRY(context.open(arguments->pool.group, Access::tell_device));
        std::string message = fmt::format("{}", fmt::join(arguments->words, " "));
        TRY(group.send_message(arguments->pool.volume, message));
        return context.answer(fmt::format("pool {}: message sent\n", arguments->pool.volume), {{"message", message}});
    });
}

}  // namespace lamella::cli
