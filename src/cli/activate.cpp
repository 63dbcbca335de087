// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"

namespace lamella::cli {

namespace {

struct Arguments {
    std::vector<std::string> words;
    SetActive request;
};

// A group, or volumes of one.
Result<GroupAddress> read_words(const std::vector<std::string>& words, std::vector<std::string>& names) {
    std::optional<GroupAddress> group;
    for (const std::string& word : words) {
        const Address address = TRY(parse_address(word));
        const auto* volume = std::get_if<VolumeAddress>(&address);
        if (volume == nullptr && words.size() > 1)
            return fail(ErrorKind::usage, "{} is a whole group; beside it nothing else is named", word);
        const GroupAddress& of = volume != nullptr ? volume->group : std::get<GroupAddress>(address);
        if (group && *group != of)
            return fail(ErrorKind::usage, "{} and {} are in different groups: one after the other", words.front(), word);
        group = of;
        if (volume != nullptr)
            names.push_back(volume->volume);
    }
    return *group;
}

Result<void> set_active(Context& context, Arguments& arguments) {
    arguments.request.names.clear();
    const GroupAddress address = TRY(read_words(arguments.words, arguments.request.names));
    VolumeGroup& group = *TRY(context.open(address, Access::write));
    const std::vector<VolumeInfo> changed = TRY(group.set_active(arguments.request, context.change()));
    const std::string_view word = arguments.request.active ? "activated" : "deactivated";
    std::string text;
    for (const VolumeInfo& volume : changed)
        text += fmt::format("volume {}: {}\n", volume.name, context.done(word));
    if (changed.empty())
        text = fmt::format("nothing to be {}\n", word);
    return answer_volumes(context, text, changed);
}

void define_words(CommandLine& line, const std::shared_ptr<Arguments>& arguments) {
    line.flag("--with-contents", arguments->request.with_contents, "of a pool, its volumes too");
    line.arguments("GROUP|VOLUME", arguments->words, "a group, or volumes of one");
    line.changes();
    line.runs([arguments](Context& context) { return set_active(context, *arguments); });
}

}  // namespace

void define_activate(CommandLine& line) {
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Make volumes of the host's LVM block devices",
        "Of a whole group all volumes but those that are marked to be skipped, as thin snapshots are. A classic snapshot comes and "
        "goes with its origin. The volumes of a group on paths are used through serve or attach instead.");
    line.example("activate vg0/web-s1 --ignore-skip", "a snapshot, as /dev/vg0/web-s1");
    line.flag("-K,--ignore-skip", arguments->request.ignore_skip, "also what is marked to be skipped");
    define_words(line, arguments);
}

void define_deactivate(CommandLine& line) {
    auto arguments = std::make_shared<Arguments>();
    arguments->request.active = false;
    line.describe("Take the block devices of volumes away",
                  "Refused while one is in use; the answer says by whom. A pool goes after the volumes in it.");
    line.example("deactivate vg0", "all of the group, before its disks are taken away");
    line.example("deactivate vg0/pool --with-contents", "a pool, before its metadata is repaired");
    define_words(line, arguments);
}

}  // namespace lamella::cli
