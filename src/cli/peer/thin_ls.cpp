// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "cli/checked_pool.h"
#include "cli/metadata_input.h"
#include "cli/peer/peer_command.h"
#include "tools/usage.h"

namespace lamella::cli {

namespace {

using tools::Usage;
using tools::VolumeUsage;

// "188MiB": in the first unit in which it isn't more than 8192, rounded: in each unit on the way, as 0.9 does it; or, as 1.x, in the last.
std::string pretty(std::uint64_t bytes, bool round_last = false) {
    static constexpr std::string_view units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    if (bytes == 0)
        return "0";
    std::size_t unit = 0;
    for (; bytes > 8192 && unit + 1 < std::size(units); ++unit)
        bytes = (bytes + (round_last && bytes >= 1 << 20 ? 0 : 512)) / 1024;
    return fmt::format("{}{}", bytes, units[unit]);
}

struct Field {
    std::string_view name;
    enum class Of { exclusive, highest, cheap } needs;
    std::string (*text)(const VolumeUsage& volume, std::uint64_t block_bytes);
};

constexpr std::uint64_t sector = 512;
std::uint64_t mapped(const VolumeUsage& volume) { return volume.details.mapped_blocks; }
std::uint64_t shared(const VolumeUsage& volume) { return mapped(volume) - std::min(volume.exclusive_blocks, mapped(volume)); }
// Past its last byte; 0 if nothing is mapped.
std::uint64_t end(const VolumeUsage& volume) { return volume.highest_mapped ? volume.highest_mapped->value() + 1 : 0; }
std::string number(std::uint64_t value) { return fmt::format("{}", value); }
std::string last(std::uint64_t past) { return past == 0 ? "-" : number(past - 1); }

constexpr Field fields[] = {
    {"DEV", Field::Of::cheap, [](const VolumeUsage& volume, std::uint64_t) { return number(volume.id.value()); }},
    {"MAPPED_BLOCKS", Field::Of::cheap, [](const VolumeUsage& volume, std::uint64_t) { return number(mapped(volume)); }},
    {"EXCLUSIVE_BLOCKS", Field::Of::exclusive, [](const VolumeUsage& volume, std::uint64_t) { return number(volume.exclusive_blocks); }},
    {"SHARED_BLOCKS", Field::Of::exclusive, [](const VolumeUsage& volume, std::uint64_t) { return number(shared(volume)); }},
    {"HIGHEST_BLOCK", Field::Of::highest, [](const VolumeUsage& volume, std::uint64_t) { return last(end(volume)); }},
    {"MAPPED_SECTORS", Field::Of::cheap,
     [](const VolumeUsage& volume, std::uint64_t bytes) { return number(mapped(volume) * bytes / sector); }},
    {"EXCLUSIVE_SECTORS", Field::Of::exclusive,
     [](const VolumeUsage& volume, std::uint64_t bytes) { return number(volume.exclusive_blocks * bytes / sector); }},
    {"SHARED_SECTORS", Field::Of::exclusive,
     [](const VolumeUsage& volume, std::uint64_t bytes) { return number(shared(volume) * bytes / sector); }},
    {"HIGHEST_SECTOR", Field::Of::highest,
     [](const VolumeUsage& volume, std::uint64_t bytes) { return last(end(volume) * bytes / sector); }},
    {"MAPPED_BYTES", Field::Of::cheap, [](const VolumeUsage& volume, std::uint64_t bytes) { return number(mapped(volume) * bytes); }},
    {"EXCLUSIVE_BYTES", Field::Of::exclusive,
     [](const VolumeUsage& volume, std::uint64_t bytes) { return number(volume.exclusive_blocks * bytes); }},
    {"SHARED_BYTES", Field::Of::exclusive, [](const VolumeUsage& volume, std::uint64_t bytes) { return number(shared(volume) * bytes); }},
    {"HIGHEST_BYTE", Field::Of::highest, [](const VolumeUsage& volume, std::uint64_t bytes) { return last(end(volume) * bytes); }},
    {"MAPPED", Field::Of::cheap, [](const VolumeUsage& volume, std::uint64_t bytes) { return pretty(mapped(volume) * bytes); }},
    {"EXCLUSIVE", Field::Of::exclusive,
     [](const VolumeUsage& volume, std::uint64_t bytes) { return pretty(volume.exclusive_blocks * bytes); }},
    {"SHARED", Field::Of::exclusive, [](const VolumeUsage& volume, std::uint64_t bytes) { return pretty(shared(volume) * bytes); }},
    {"HIGHEST_MAPPED", Field::Of::highest,
     [](const VolumeUsage& volume, std::uint64_t bytes) { return end(volume) == 0 ? "-" : pretty(end(volume) * bytes - 1, true); }},
    {"TRANSACTION", Field::Of::cheap, [](const VolumeUsage& volume, std::uint64_t) { return number(volume.details.transaction_id); }},
    {"CREATE_TIME", Field::Of::cheap, [](const VolumeUsage& volume, std::uint64_t) { return number(volume.details.creation_time); }},
    {"SNAP_TIME", Field::Of::cheap, [](const VolumeUsage& volume, std::uint64_t) { return number(volume.details.snapshotted_time); }},
};

Result<std::vector<const Field*>> parse_fields(std::string_view words) {
    std::vector<const Field*> found;
    while (true) {
        const std::string_view word = words.substr(0, words.find(','));
        const Field* field = std::ranges::find(fields, word, &Field::name);
        if (field == std::end(fields))
            return fail(ErrorKind::usage, "unknown field \"{}\"", word);
        found.push_back(field);
        if (word.size() == words.size())
            return found;
        words.remove_prefix(word.size() + 1);
    }
}

}  // namespace

void define_thin_ls(PeerCommand& command) {
    struct Arguments {
        std::string input;
        std::string format = "DEV,MAPPED,CREATE_TIME,SNAP_TIME";
        bool no_headers = false;
        bool metadata_snapshot = false;
    };
    auto arguments = std::make_shared<Arguments>();
    std::string names;
    for (const Field& field : fields)
        names += fmt::format("{}{}", names.empty() ? "" : ", ", field.name);
    command.describe("List the devices of a pool", fmt::format("Fields: {}.", names));
    command.argument("METADATA", arguments->input, "the pool's metadata");
    command.option("-o,--format", "FIELD,...", arguments->format, "the fields to print");
    command.flag("--no-headers", arguments->no_headers, "leave out the line of headings");
    command.flag("-m,--metadata-snap", arguments->metadata_snapshot, "the devices of the metadata snapshot, of a pool in use");
    command.runs([arguments](PeerContext& context) -> Result<int> {
        const auto chosen = TRY(parse_fields(arguments->format));
        auto needs = [&](Field::Of what) { return std::ranges::any_of(chosen, [&](const Field* field) { return field->needs == what; }); };
        if (!arguments->metadata_snapshot)
            TRY(refuse_if_claimed(arguments->input));
        auto metadata = TRY(MetadataInput::open(context.environment(), arguments->input, Access::read));
        const Usage usage = TRY(tools::usage(metadata->device(), {.metadata_snapshot = arguments->metadata_snapshot,
                                                                  .exclusive = needs(Field::Of::exclusive),
                                                                  .highest = needs(Field::Of::highest),
                                                                  .control = context.control()}));
        TRY(metadata->still_whole());
        std::vector<std::vector<std::string>> rows;
        if (!arguments->no_headers) {
            rows.emplace_back();
            for (const Field* field : chosen)
                rows.back().emplace_back(field->name);
        }
        for (const VolumeUsage& volume : usage.volumes) {
            rows.emplace_back();
            for (const Field* field : chosen)
                rows.back().push_back(field->text(volume, usage.data_block_sectors * sector));
        }
        std::vector<std::size_t> widths(chosen.size());
        for (const auto& row : rows)
            for (std::size_t column = 0; column < row.size(); ++column)
                widths[column] = std::max(widths[column], row[column].size());
        for (const auto& row : rows) {
            std::string line;
            for (std::size_t column = 0; column < row.size(); ++column)
                line += fmt::format("{:>{}} ", row[column], widths[column]);
            TRY(context.environment().stream(line + "\n"));
        }
        return 0;
    });
}

}  // namespace lamella::cli
