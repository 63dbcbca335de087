// SPDX-License-Identifier: Apache-2.0
#include "tools/shrink.h"

#include "cli/checked_pool.h"
#include "cli/dump_output.h"
#include "cli/metadata_input.h"
#include "cli/peer/peer_command.h"
#include "device/file_device.h"
#include "tools/printer.h"

namespace lamella::cli {

namespace {

struct Arguments {
    std::string input;
    std::string output;
    std::string data;
    std::optional<std::uint64_t> blocks;
    bool no_copy = false;
    bool binary = false;
};

Result<void> shrink_binary(PeerContext& context, const Arguments& arguments, BlockDevice* data) {
    TRY(refuse_if_claimed(arguments.input));
    auto input = TRY(MetadataInput::open(context.environment(), arguments.input, Access::read));
    auto output = TRY(MetadataInput::open(context.environment(), arguments.output, Access::write));
    auto shrink = TRY(tools::Shrink::plan(input->device(), *arguments.blocks, context.control()));
    TRY(input->still_whole());
    TRY(shrink->write(data, output->device(), context.control()));
    return input->still_whole();
}

Result<void> shrink_text(PeerContext& context, const Arguments& arguments, BlockDevice* data) {
    DumpOutput output(arguments.output, {});
    auto printer = tools::make_printer(tools::DumpFormat::xml, output);
    const auto open = [&]() -> Result<std::unique_ptr<tools::TextSource>> { return TRY(tools::FileSource::open(arguments.input)); };
    TRY(tools::shrink_xml(open, *arguments.blocks, data, *printer, context.control()));
    return output.finish();
}

}  // namespace

void define_thin_shrink(PeerCommand& command) {
    auto arguments = std::make_shared<Arguments>();
    command.describe(
        "Rewrite metadata and move data of a pool that is not active, so that it becomes smaller",
        "Data beyond the new end is copied to blocks that the input has free, and made durable before the output is valid. The "
        "input is only read, and true until the output is taken into use instead of it.");
    command.option("-i,--input", "FILE", arguments->input, "the XML of the whole pool; with --binary its metadata");
    command.require("--input");
    command.option("-o,--output", "FILE", arguments->output, "the XML to write; with --binary a device or file, which must be there");
    command.require("--output");
    command.option("--data", "DEVICE", arguments->data, "the pool's data");
    command.require("--data");
    command.option("--nr-blocks", "NUMBER", arguments->blocks, "the new size, in data blocks");
    command.require("--nr-blocks");
    command.flag("--no-copy", arguments->no_copy, "copy no data");
    command.flag("--binary", arguments->binary, "from metadata to metadata");
    command.runs([arguments](PeerContext& context) -> Result<int> {
        for (const auto& [one, other] : {std::pair(&arguments->input, &arguments->output),
                                         {&arguments->input, &arguments->data},
                                         {&arguments->output, &arguments->data}})
            if (same_file(*one, *other))
                return fail(ErrorKind::usage, "{} and {} are the same file", *one, *other);
        std::unique_ptr<BlockDevice> data;
        if (!arguments->no_copy)
            data = TRY(FileDevice::open(arguments->data));
        TRY((arguments->binary ? shrink_binary : shrink_text)(context, *arguments, data.get()));
        return 0;
    });
}

}  // namespace lamella::cli
