// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <memory>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/compression.h"
#include "base/files.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"
#include "cli/sizes.h"

namespace lamella::cli {

namespace {

constexpr std::size_t max_backup = 16 << 20;

Result<std::string> read_text(const std::string& path) {
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(path == "-" ? ::fdopen(::dup(0), "r") : std::fopen(path.c_str(), "re"),
                                                         std::fclose);
    if (!file)
        return fail_errno(path);
    std::string text;
    char buffer[64 * 1024];
    while (std::size_t count = std::fread(buffer, 1, sizeof buffer, file.get())) {
        text.append(buffer, count);
        if (text.size() > max_backup)
            return fail(ErrorKind::usage, "{}: larger than {}; no group's metadata is", path, print_size(max_backup));
    }
    if (std::ferror(file.get()))
        return fail_errno(path);
    if (!is_gzip(text))
        return text;
    const auto plain = TRY_WITHIN(path, decompress(Compression::gzip, std::as_bytes(std::span(text)), max_backup));
    return std::string(reinterpret_cast<const char*>(plain.data()), plain.size());
}

void define_backup(CommandLine line) {
    struct Arguments {
        GroupAddress group;
        std::string file = "-";
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Write a group's LVM2 metadata as text",
                  "In the format of vgcfgbackup: either can restore what the other wrote. It holds "
                  "where volumes lie, not what is in them, nor the mappings of thin pools.");
    line.argument("GROUP", arguments->group, "the group");
    line.option("-f,--file", "FILE", arguments->file, "where to (default: standard output)");
    line.runs([arguments](Context& context) -> Result<void> {
        VolumeGroup& group = *TRY(context.open(arguments->group, Access::read));
        std::string text = TRY(group.backup_text());
        if (arguments->file == "-")
            return context.answer(text, {{"text", text}});
        TRY(write_file_aside(arguments->file, text));
        return context.answer(fmt::format("metadata written to {}\n", arguments->file),
                              {{"file", arguments->file}, {"bytes", text.size()}});
    });
}

void define_restore(CommandLine line) {
    struct Arguments {
        GroupAddress group;
        std::string file;
        bool force = false;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Put a group's LVM2 metadata back from a backup",
        "Volumes made since the backup are gone afterwards, and those removed since are back with whatever lies at their place now. "
        "With thin pools in the group, --force is needed: their own metadata is not in the backup.");
    line.argument("GROUP", arguments->group, "the group");
    line.option("-f,--file", "FILE", arguments->file, "the backup, plain or compressed by gzip; \"-\" is standard input");
    line.require("--file");
    line.flag("--force", arguments->force, "also where thin pools may not agree with it");
    line.changes();
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        std::string text = TRY(read_text(arguments->file));
        VolumeGroup& group = *TRY(context.open(arguments->group, Access::write));
        TRY(group.restore_text(text, arguments->force, {.dry_run = true}));
        TRY(context.confirm(fmt::format("Replace the metadata of {} by that of {}?", arguments->group.text(), arguments->file)));
        TRY(group.restore_text(text, arguments->force, context.change()));
        return context.answer(
            fmt::format("metadata of {}: {} from {}\n", arguments->group.text(), context.done("restored"), arguments->file),
            {{"dry_run", context.dry_run}, {"file", arguments->file}});
    });
}

void define_check(CommandLine line) {
    auto address = std::make_shared<GroupAddress>();
    line.describe("Check a group's labels and LVM2 metadata",
                  "Says what is wrong; changes nothing. Its exit status is 5 when something is.");
    line.argument("GROUP", *address, "the group");
    line.runs([address](Context& context) -> Result<void> {
        VolumeGroup& group = *TRY(context.open(*address, Access::read));
        GroupInfo info = TRY(group.info());
        note_broken_off(context, info);
        std::string text;
        for (const std::string& finding : info.findings)
            text += finding + "\n";
        if (info.findings.empty()) {
            text = fmt::format("group {}: sound\n", info.name);
            return context.answer(text, {{"group", info.name}, {"findings", info.findings}});
        }
        TRY(context.answer(text, {{"group", info.name}, {"findings", info.findings}}));
        context.suggest(fmt::format("lamella group backup {}, to keep what can be read", address->text()));
        return fail(ErrorKind::damaged, "group {}: {} finding{}", info.name, info.findings.size(), info.findings.size() > 1 ? "s" : "");
    });
}

}  // namespace

void define_group(CommandLine& line) {
    line.describe("Back up, restore or check a group's LVM2 metadata");
    define_backup(line.subcommand("backup"));
    define_restore(line.subcommand("restore"));
    define_check(line.subcommand("check"));
}

}  // namespace lamella::cli
