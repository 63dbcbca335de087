// SPDX-License-Identifier: Apache-2.0
#include "tools/shrink.h"

#include <nlohmann/json.hpp>

#include "cli/checked_pool.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/metadata_input.h"
#include "cli/output.h"
#include "cli/sizes.h"
#include "device/file_device.h"

namespace lamella::cli {

namespace {

struct Arguments {
    std::string pool;
    std::string output;
    std::string data;
    std::optional<std::uint64_t> blocks;
    SizeArgument size;
    bool size_given() const { return size.bytes != 0 || size.percentage; }
};

// The pool of a group that may even be served: group, data and metadata together.
Result<void> shrink_pool(Context& context, const VolumeAddress& address, const Arguments& arguments) {
    if (!arguments.output.empty() || !arguments.data.empty())
        return fail(ErrorKind::usage, "--output and --data are for metadata outside a group");
    VolumeGroup& group = *TRY(context.open(address.group, Access::write));
    const VolumeInfo before = TRY(group.volume(address.volume));
    if (before.kind != VolumeKind::thin_pool || !before.chunk_size)
        return fail(ErrorKind::usage, "{} is not a thin pool", address.volume);
    ResizeVolume request{.name = address.volume, .shrink_allowed = true};
    if (arguments.blocks)
        request.size = {.value = *arguments.blocks * *before.chunk_size};
    else
        request.size = TRY(size_request(arguments.size, before.size));
    const VolumeInfo trial = TRY(group.resize(request, {.dry_run = true}));
    if (trial.size > before.size)
        return fail(ErrorKind::usage, "pool {} would become larger: that is what extend is for", address.volume);
    TRY(context.confirm(fmt::format("Move the data of pool {}, and make it smaller?", address.text())));
    const VolumeInfo after = TRY(group.resize(request, context.stoppable_change()));
    return answer_volume(context, fmt::format("pool {}: {} to {}", after.name, context.done("shrunk"), print_size(after.size)), after);
}

Result<void> shrink_metadata(Context& context, const Arguments& arguments) {
    if (arguments.output.empty() || arguments.data.empty() || !arguments.blocks)
        return fail(ErrorKind::usage, "--output, --data and --nr-blocks are needed");
    for (const auto& [one, other] :
         {std::pair(&arguments.pool, &arguments.output), {&arguments.pool, &arguments.data}, {&arguments.output, &arguments.data}})
        if (same_file(*one, *other))
            return fail(ErrorKind::usage, "{} and {} are the same file", *one, *other);
    TRY(refuse_if_claimed(arguments.pool));
    auto input = TRY(MetadataInput::open(context.environment(), arguments.pool, Access::read));
    auto output = TRY(MetadataInput::open(context.environment(), arguments.output, context.dry_run ? Access::read : Access::write));
    auto data = TRY(FileDevice::open(arguments.data, {.read_only = context.dry_run}));
    auto shrink = TRY(tools::Shrink::plan(input->device(), *arguments.blocks, context.control()));
    TRY(shrink->check(*data, output->device()));
    TRY(context.confirm(fmt::format("Move data within {}, and replace the metadata on {}?", arguments.data, arguments.output)));
    TRY(input->still_whole());
    if (!context.dry_run)
        TRY(shrink->write(data.get(), output->device(), context.control()));
    TRY(input->still_whole());
    const tools::ShrinkReport& report = shrink->report();
    const std::uint64_t bytes = report.moved_blocks * report.data_block_sectors * sector_bytes;
    std::string text = fmt::format("{}: {} from {} to {} data blocks, {} moved\n", arguments.output, context.done("shrunk"),
                                   report.old_data_blocks, report.data_blocks, print_size(bytes));
    if (report.metadata_snapshot_dropped)
        text += "The metadata snapshot is left out.\n";
    return context.answer(text, {{"dry_run", context.dry_run},
                                 {"old_data_blocks", report.old_data_blocks},
                                 {"data_blocks", report.data_blocks},
                                 {"moved_bytes", bytes},
                                 {"metadata_snapshot_dropped", report.metadata_snapshot_dropped}});
}

}  // namespace

void define_shrink(CommandLine& line) {
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Make a thin pool's data smaller",
        "Data beyond the new end moves to free chunks before it. The pool must be in nobody's use, and its metadata sound; it "
        "is refused before anything is changed if what is in use doesn't fit.\n\n"
        "Of a group (GROUP:POOL --size) the pool's data volume becomes smaller, and its extents are free. The new metadata goes to "
        "the group's spare metadata volume, which changes places with the pool's in the same commit of the group: at every "
        "moment, and after every crash or interrupt (Ctrl-C), the group has the old pool or the new one, whole.\n\n"
        "Outside a group, METADATA is only read: what maps the data where it is now goes to --output. Take that into use instead "
        "of METADATA, and make the data device smaller, when the command has succeeded; until then METADATA is still true. A "
        "metadata snapshot is not carried over.");
    line.example("shrink ./vms.img:pool --size 10G --yes", "of a group that nobody uses");
    line.example("shrink old.bin --output new.bin --data /dev/vg0/pool_tdata --nr-blocks 163840 --yes", "outside one");
    line.argument("POOL", arguments->pool, "the pool of a group: GROUP:POOL; or a device or file with metadata");
    line.option_size("-L,--size", arguments->size, "the new size of a group's pool; with - before it, the difference");
    line.option("--nr-blocks", "NUMBER", arguments->blocks, "the new size in data blocks (chunks)");
    line.exclude("--size", "--nr-blocks");
    line.option("-o,--output", "METADATA", arguments->output, "where the new metadata goes: a device or file, which must be there");
    line.option("--data", "DATA", arguments->data, "the device or file with the pool's data");
    line.changes();
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        if (!arguments->blocks && !arguments->size_given())
            return fail(ErrorKind::usage, "--size or --nr-blocks is needed");
        const auto pool = TRY(pool_address(arguments->pool));
        return pool ? shrink_pool(context, *pool, *arguments) : shrink_metadata(context, *arguments);
    });
}

}  // namespace lamella::cli
