// SPDX-License-Identifier: Apache-2.0
#include "manage/metadata_backup.h"

#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"

namespace lamella::cli {

void define_metadata_backup(CommandLine& line) {
    struct Arguments {
        GroupAddress group;
        std::string folder;
        std::uint32_t keep = 10;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Keep a copy of a group's text and its pools' metadata",
        "vgcfgbackup's copies have the text alone, with which a damaged pool can't be put back. Each copy is a folder of its own, "
        "with a file that says how to restore it; no data of any volume is in it. The group's text is compressed by gzip, as "
        "'lamella group restore' reads it; for vgcfgrestore, 'gzip -d' makes it plain. A pool that is in use gives its metadata as it is "
        "at the moment.");
    line.example("metadata-backup ./vms.img", "a copy more; the tenth oldest goes");
    line.argument("GROUP", arguments->group, "the group");
    line.option("-f,--folder", "FOLDER", arguments->folder, "where copies are kept (default: metadata-backup in Lamella's state folder)");
    line.option("--keep", "NUMBER", arguments->keep, "how many copies of the group are kept, this one too (default: 10)");
    line.runs([arguments](Context& context) -> Result<void> {
        if (arguments->keep == 0)
            return fail(ErrorKind::usage, "--keep: at least 1, the copy that is made");
        VolumeGroup& group = *TRY(context.open(arguments->group, Access::read));
        note_broken_off(context, TRY(group.info()));
        const manage::MetadataBackup backup = TRY(manage::back_up_metadata(group, {.folder = arguments->folder, .keep = arguments->keep}));
        Json json = {{"folder", backup.folder.native()}, {"pools", Json::array()}, {"failed", backup.failed}, {"removed", Json::array()}};
        std::string text = fmt::format("metadata kept in {}\n", backup.folder.native());
        for (const manage::PoolBackup& pool : backup.pools) {
            text += fmt::format("  {}: {}{}\n", pool.pool, print_size(pool.packed.bytes),
                                pool.packed.of_metadata_snapshot ? ", its metadata snapshot" : "");
            Json entry = to_json(pool.packed);
            entry["pool"] = pool.pool;
            json["pools"].push_back(std::move(entry));
        }
        for (const std::filesystem::path& removed : backup.removed)
            json["removed"].push_back(removed.native());
        TRY(context.answer(text, json));
        if (!backup.failed.empty()) {
            context.suggest(fmt::format("lamella doctor {}", arguments->group.text()));
            return fail(ErrorKind::damaged, "{}: not kept: {}", arguments->group.text(), fmt::join(backup.failed, "; "));
        }
        return {};
    });
}

}  // namespace lamella::cli
