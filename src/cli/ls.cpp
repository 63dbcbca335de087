// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "base/sizes.h"
#include "cli/checked_pool.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/metadata_input.h"
#include "cli/numbers.h"
#include "cli/output.h"
#include "tools/usage.h"

namespace lamella::cli {

void define_ls(CommandLine& line) {
    struct Arguments {
        std::string input;
        std::vector<std::string> deleted;
        bool metadata_snapshot = false;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("List a pool's thin volumes with what each has to itself",
                  "Exclusive is what no other volume maps: what deleting that volume alone would free. --if-deleted tells what deleting "
                  "several at once would free, which may be more than their exclusive blocks together; what the metadata snapshot "
                  "holds stays in use.");
    line.example("ls ./vms.img:pool --if-deleted 4 --if-deleted 5", "and what goes if devices 4 and 5 go");
    line.argument("METADATA", arguments->input, "a device or file, or the pool of a group: GROUP:POOL or vg0/POOL");
    line.option("--if-deleted", "ID", arguments->deleted, "a volume that might be deleted");
    line.flag("-m,--metadata-snapshot", arguments->metadata_snapshot, "the pool as its metadata snapshot has it: it may be active");
    line.runs([arguments](Context& context) -> Result<void> {
        tools::UsageOptions options{.metadata_snapshot = arguments->metadata_snapshot, .control = context.control()};
        for (const std::string& word : arguments->deleted)
            options.deleted.emplace_back(TRY_WITHIN("--if-deleted", parse_number<std::uint32_t>(word)));
        std::optional<PoolText> text = TRY(read_pool_text(arguments->input));
        if (!arguments->metadata_snapshot)
            TRY(refuse_if_claimed(arguments->input));
        auto metadata = TRY(MetadataInput::open(context.environment(), arguments->input, Access::read, MetadataInput::Active::snapshot));
        options.metadata_snapshot |= metadata->in_snapshot();
        if (metadata->kernel_group() != nullptr) {
            const std::string pool = TRY(kernel_pool_address(arguments->input))->volume;
            text.emplace();
            for (const VolumeInfo& volume : TRY(metadata->kernel_group()->volumes()))
                if (volume.device_id && volume.pool == pool)
                    text->names[*volume.device_id] = volume.name;
        }
        const tools::Usage usage = TRY(tools::usage(metadata->device(), options));
        TRY(metadata->still_whole());
        const std::uint64_t block_bytes = usage.data_block_sectors * sector_bytes;
        Table table;
        using Align = Table::Align;
        table.column("ID", Align::right);
        if (text)
            table.column("VOLUME");
        for (const char* heading : {"MAPPED", "EXCLUSIVE", "SHARED", "HIGHEST", "TRANSACTION", "CREATED", "SNAPSHOTTED"})
            table.column(heading, Align::right);
        Json volumes = Json::array();
        for (const tools::VolumeUsage& volume : usage.volumes) {
            const std::string name = text && text->names.contains(volume.id.value()) ? text->names.at(volume.id.value()) : "";
            const std::uint64_t mapped = volume.details.mapped_blocks * block_bytes;
            const std::uint64_t exclusive = volume.exclusive_blocks * block_bytes;
            const std::uint64_t end = volume.highest_mapped ? (volume.highest_mapped->value() + 1) * block_bytes : 0;
            std::vector<std::string> row = {fmt::format("{}", volume.id)};
            if (text)
                row.push_back(name.empty() ? "-" : name);
            for (std::uint64_t bytes : {mapped, exclusive, mapped - exclusive, end})
                row.push_back(print_size(bytes));
            for (std::uint64_t value : {volume.details.transaction_id, std::uint64_t{volume.details.creation_time},
                                        std::uint64_t{volume.details.snapshotted_time}})
                row.push_back(fmt::format("{}", value));
            table.row(std::move(row));
            volumes.push_back({{"volume_id", volume.id.value()},
                               {"volume", name.empty() ? Json() : Json(name)},
                               {"mapped_bytes", mapped},
                               {"exclusive_bytes", exclusive},
                               {"highest_mapped_end", end},
                               {"transaction_id", volume.details.transaction_id},
                               {"creation_time", volume.details.creation_time},
                               {"snapshotted_time", volume.details.snapshotted_time}});
        }
        Json answer = {{"chunk_bytes", block_bytes}, {"volumes", std::move(volumes)}};
        std::string shown = table.text();
        if (!options.deleted.empty()) {
            answer["freed_bytes"] = usage.freed_blocks * block_bytes;
            shown +=
                fmt::format("deleting {} of them would free {}\n", options.deleted.size(), print_size(usage.freed_blocks * block_bytes));
        }
        return context.answer(shown, answer);
    });
}

}  // namespace lamella::cli
