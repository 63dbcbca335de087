// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/checked_pool.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/metadata_input.h"
#include "cli/output.h"
#include "cli/region.h"
#include "tools/rmap.h"

namespace lamella::cli {

void define_rmap(CommandLine& line) {
    struct Arguments {
        std::string input;
        std::vector<std::string> regions;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Tell which thin volumes use given data blocks of a pool", "Every volume that shares a block is named.");
    line.example("rmap ./vms.img:pool --region 100..120", "whose data lies in blocks 100 to 119");
    line.argument("METADATA", arguments->input, "a device or file, or the pool of a group: GROUP:POOL");
    line.option("--region", "BEGIN..END", arguments->regions, "data blocks, END not included; may be given several times");
    line.require("--region");
    line.runs([arguments](Context& context) -> Result<void> {
        std::vector<tools::DataRange> ranges;
        for (const std::string& word : arguments->regions)
            ranges.push_back(TRY_WITHIN("--region", parse_region(word)));
        const std::optional<PoolText> text = TRY(read_pool_text(arguments->input));
        auto metadata = TRY(MetadataInput::open(context.environment(), arguments->input, Access::read));
        const auto mappings = TRY(tools::reverse_map(metadata->device(), ranges, context.control()));
        TRY(metadata->still_whole());
        Table table;
        for (const char* heading : {"DATA", "VOLUME", "VIRTUAL"})
            table.column(heading);
        Json runs = Json::array();
        for (const tools::ReverseMapping& run : mappings) {
            const std::uint64_t length = run.data.end - run.data.begin;
            const std::string name = text && text->names.contains(run.volume.value()) ? text->names.at(run.volume.value()) : "";
            table.row({fmt::format("{}..{}", run.data.begin, run.data.end), name.empty() ? fmt::format("{}", run.volume) : name,
                       fmt::format("{}..{}", run.virtual_begin, run.virtual_begin + length)});
            runs.push_back({{"data_begin", run.data.begin.value()},
                            {"volume_id", run.volume.value()},
                            {"volume", name.empty() ? Json() : Json(name)},
                            {"virtual_begin", run.virtual_begin.value()},
                            {"length", length}});
        }
        return context.answer(table.text(), {{"runs", std::move(runs)}});
    });
}

}  // namespace lamella::cli
