// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/pack_file.h"

namespace lamella::cli {

namespace {

struct Arguments {
    std::string input;
    std::string output;
};

}  // namespace

void define_pack(CommandLine& line) {
    auto arguments = std::make_shared<Arguments>();
    line.describe("Pack a pool's metadata into a small file",
                  "To be kept, or sent to somebody who can help: no data of any volume is in it. The format is that of thin_metadata_pack. "
                  "Damaged metadata can be packed too: whatever has a valid checksum is there.");
    line.example("pack ./vms.img:pool pool.pack", "the pool of a group that nobody uses");
    line.argument("METADATA", arguments->input, "a device or file, or the pool of a group: GROUP:POOL");
    line.argument("FILE", arguments->output, "the file to write");
    line.runs([arguments](Context& context) -> Result<void> {
        TRY(refuse_metadata(arguments->output));
        tools::PackReport report = TRY(pack_into(context.environment(), arguments->input, arguments->output, context.control()));
        return context.answer(fmt::format("{}: {} blocks of metadata in {}\n", arguments->output, report.blocks, print_size(report.bytes)),
                              {{"blocks", report.blocks}, {"bytes", report.bytes}});
    });
}

void define_unpack(CommandLine& line) {
    auto arguments = std::make_shared<Arguments>();
    line.describe("Unpack a pool's metadata", "What METADATA held before is lost.");
    line.example("unpack pool.pack metadata.bin", "into a new file, to check or dump it");
    line.argument("FILE", arguments->input, "what lamella pack or thin_metadata_pack wrote");
    line.argument("METADATA", arguments->output, "a device, or a file, which is made if it isn't there");
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        if (path_exists(arguments->output))
            TRY(context.confirm(fmt::format("{}: replace what is there?", arguments->output)));
        TRY(unpack_onto(arguments->input, arguments->output, context.control()));
        return context.answer(fmt::format("{}: unpacked\n", arguments->output), Json::object());
    });
}

}  // namespace lamella::cli
