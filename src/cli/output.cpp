// SPDX-License-Identifier: Apache-2.0
#include "cli/output.h"

#include <algorithm>
#include <ctime>

#include <nlohmann/json.hpp>

#include "cli/sizes.h"

namespace lamella::cli {

namespace {

std::size_t width_of(std::string_view text) {
    return static_cast<std::size_t>(std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string or_dash(std::string text) { return text.empty() ? "-" : text; }

std::string yes_no(bool value) { return value ? "yes" : "no"; }

// Lines of "heading  value"; what isn't known or has no meaning is left out.
class Description {
  public:
    void line(std::string heading, std::string value) {
        if (!value.empty())
            table_.row({std::move(heading), std::move(value)});
    }
    void size(std::string heading, std::optional<std::uint64_t> bytes) {
        if (bytes)
            line(std::move(heading), fmt::format("{} ({} bytes)", print_size(*bytes), *bytes));
    }
    void share(std::string heading, std::optional<std::uint64_t> part, std::optional<std::uint64_t> whole) {
        line(std::move(heading), part ? fmt::format("{}, {} %", print_size(*part), shown_percent(part, whole)) : "unknown");
    }
    void number(std::string heading, std::optional<std::uint64_t> value) {
        if (value)
            line(std::move(heading), fmt::format("{}", *value));
    }
    std::string text() const { return table_.text(); }

    Description() {
        table_.column("");
        table_.column("");
    }

  private:
    Table table_;
};

}  // namespace

void Table::column(std::string heading, Align align) { columns_.push_back({std::move(heading), align}); }

void Table::row(std::vector<std::string> cells) {
    cells.resize(columns_.size());
    rows_.push_back(std::move(cells));
}

std::string Table::text() const {
    std::vector<std::size_t> widths;
    for (const Column& column : columns_)
        widths.push_back(width_of(column.heading));
    for (const auto& row : rows_)
        for (std::size_t i = 0; i < row.size(); ++i)
            widths[i] = std::max(widths[i], width_of(row[i]));

    std::string text;
    auto add_line = [&](auto&& cell_of) {
        std::size_t begin = text.size();
        for (std::size_t i = 0; i < columns_.size(); ++i) {
            const std::string& cell = cell_of(i);
            std::string padding(widths[i] - width_of(cell), ' ');
            text += i > 0 ? "  " : "";
            text += columns_[i].align == Align::right ? padding + cell : cell + padding;
        }
        text.erase(std::max(begin, text.find_last_not_of(' ') + 1));
        text += '\n';
    };
    if (std::ranges::any_of(columns_, [](const Column& column) { return !column.heading.empty(); }))
        add_line([&](std::size_t i) -> const std::string& { return columns_[i].heading; });
    for (const auto& row : rows_)
        add_line([&](std::size_t i) -> const std::string& { return row[i]; });
    return text;
}

std::string kind_word(const VolumeInfo& volume) {
    switch (volume.kind) {
    case VolumeKind::linear: return "linear";
    case VolumeKind::striped: return "striped";
    case VolumeKind::thin_pool: return "thin-pool";
    case VolumeKind::thin: return "thin";
    case VolumeKind::pool_data: return "pool data";
    case VolumeKind::pool_metadata: return "pool metadata";
    case VolumeKind::spare: return "pool spare";
    case VolumeKind::snapshot: return "snapshot";
    case VolumeKind::file: return "file";
    case VolumeKind::other: break;
    }
    return or_dash(volume.segment_type);
}

// How full a classic snapshot's store is, as lvs has it; a word where it holds nothing any more.
static std::string snapshot_usage(const VolumeInfo& volume) {
    return volume.store_used || volume.snapshot_state.empty() ? shown_percent(volume.store_used, volume.store_size) : volume.snapshot_state;
}

std::string local_time(std::optional<std::int64_t> seconds) {
    std::time_t time = static_cast<std::time_t>(seconds.value_or(0));
    std::tm broken_down{};
    char text[64];
    if (!seconds || !::localtime_r(&time, &broken_down) || std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &broken_down) == 0)
        return "-";
    return text;
}

std::string joined(const std::vector<std::string>& words) { return or_dash(fmt::format("{}", fmt::join(words, ","))); }

static std::string shown_age(std::optional<std::int64_t> seconds) {
    if (!seconds)
        return "-";
    if (*seconds < 60)
        return fmt::format("{} s", *seconds);
    if (*seconds < 3600)
        return fmt::format("{} min", *seconds / 60);
    return *seconds < 48 * 3600 ? fmt::format("{} h", *seconds / 3600) : fmt::format("{} d", *seconds / 86400);
}

static std::string shown_origin(const VolumeInfo& volume) {
    return or_dash(!volume.origin.empty()          ? volume.origin
                   : !volume.former_origin.empty() ? "(" + volume.former_origin + ")"
                   : !volume.origin_file.empty()   ? volume.origin_file
                                                   : volume.external_origin);
}

std::string volume_table(const std::vector<VolumeInfo>& volumes) {
    Table table;
    table.column("LV");
    table.column("Kind");
    table.column("Size", Table::Align::right);
    table.column("Data%", Table::Align::right);
    table.column("Meta%", Table::Align::right);
    table.column("Pool");
    table.column("Origin");
    table.column("Access");
    table.column("Created");
    table.column("Tags");
    for (const VolumeInfo& volume : volumes) {
        bool is_pool = volume.kind == VolumeKind::thin_pool;
        table.row({
            volume.visible ? volume.name : "[" + volume.name + "]",
            kind_word(volume),
            print_size(volume.size),
            volume.kind == VolumeKind::snapshot ? snapshot_usage(volume)
                                                : shown_percent(is_pool ? volume.data_used : volume.mapped, volume.size),
            shown_percent(volume.metadata_used, volume.metadata_size),
            or_dash(volume.pool),
            shown_origin(volume),
            !volume.refused.empty() ? "refused"
            : volume.read_only      ? "read-only"
                                    : "read-write",
            local_time(volume.creation_time),
            joined(volume.tags),
        });
    }
    return table.text();
}

std::string snapshot_table(const std::vector<VolumeInfo>& volumes) {
    const bool exclusive = std::ranges::any_of(volumes, [](const VolumeInfo& volume) { return volume.exclusive.has_value(); });
    Table table;
    using Align = Table::Align;
    table.column("Snapshot");
    table.column("Kind");
    table.column("State");
    table.column("Size", Align::right);
    table.column("Used", Align::right);
    table.column("Used%", Align::right);
    if (exclusive)
        table.column("Exclusive", Align::right);
    table.column("Origin");
    table.column("Age", Align::right);
    table.column("Tags");
    for (const VolumeInfo& volume : volumes) {
        const bool thin = volume.kind == VolumeKind::thin;
        const std::optional<std::uint64_t> used = thin ? volume.mapped : volume.store_used;
        std::vector<std::string> row = {
            volume.visible ? volume.name : "[" + volume.name + "]",
            thin ? "thin" : "classic",
            volume.state,
            print_size(volume.size),
            used ? print_size(*used) : "-",
            shown_percent(used, thin ? volume.size : volume.store_size),
        };
        if (exclusive)
            row.push_back(volume.exclusive ? print_size(*volume.exclusive) : "-");
        row.insert(row.end(), {shown_origin(volume), shown_age(volume.age), joined(volume.tags)});
        table.row(std::move(row));
    }
    return table.text();
}

std::string describe_volume(const VolumeInfo& volume) {
    Description text;
    text.line("LV", volume.name);
    text.line("UUID", volume.id);
    text.line("Kind", kind_word(volume));
    text.size("Size", volume.size);
    text.line("Access", volume.read_only ? "read-only" : "read-write");
    text.line("Refused", volume.refused);
    if (volume.lock_held)
        text.line("Lock", *volume.lock_held ? "held by this host" : "not held by this host");
    text.line("Hidden", volume.visible ? "" : "yes");
    text.line("Skipped at activation", volume.skip_activation ? "yes" : "");
    text.line("Tags", fmt::format("{}", fmt::join(volume.tags, ",")));
    if (volume.creation_time)
        text.line("Created", local_time(volume.creation_time) + (volume.age ? fmt::format(", {} ago", shown_age(volume.age)) : "") +
                                 (volume.creation_host.empty() ? "" : " on " + volume.creation_host));
    if (volume.kind == VolumeKind::thin) {
        text.line("Pool", volume.pool);
        text.line("Origin", volume.origin);
        text.line("Origin once", volume.former_origin);
        text.line("External origin", volume.origin_file.empty()
                                         ? volume.external_origin
                                         : fmt::format("{} (volume {})", volume.origin_file, volume.external_origin));
        text.number("Device id", volume.device_id);
        text.share("Mapped", volume.mapped, volume.size);
        if (!volume.state.empty())
            text.line("State", volume.state);
    }
    if (volume.kind == VolumeKind::file)
        text.line("File", volume.origin_file);
    if (volume.kind == VolumeKind::snapshot) {
        text.line("Origin", volume.origin);
        text.line("State", volume.state);
        text.size("Chunk size", volume.chunk_size);
        text.size("Store size", volume.store_size);
        text.share("Store used", volume.store_used, volume.store_size);
    }
    if (volume.kind == VolumeKind::thin_pool) {
        text.size("Chunk size", volume.chunk_size);
        text.share("Data used", volume.data_used, volume.size);
        text.size("Metadata size", volume.metadata_size);
        text.share("Metadata used", volume.metadata_used, volume.metadata_size);
        text.number("Metadata snapshot at block", volume.metadata_snapshot);
        text.number("Transaction id", volume.transaction_id);
        text.line("Discards", volume.discards);
        text.line("Zeroes new chunks", yes_no(volume.zero_new_blocks));
        text.line("When full", volume.error_when_full ? "error" : "queue");
        text.line("Mode", volume.pool_mode.empty() ? "unknown" : volume.pool_mode);
        text.line("Needs check", volume.needs_check ? "yes" : "");
    }
    if (volume.stripes > 1) {
        text.number("Stripes", volume.stripes);
        text.size("Stripe size", volume.stripe_size);
    }
    text.line("PV", fmt::format("{}", fmt::join(volume.physical_volumes, ",")));
    if (volume.open_count > 0)
        text.number("Open connections", volume.open_count);
    return text.text();
}

std::string describe_group(const GroupInfo& group) {
    Description text;
    text.line("VG", group.name);
    text.line("UUID", group.id);
    text.size("Size", group.size);
    text.size("Free", group.free);
    text.size("Extent size", group.extent_size);
    text.number("Sequence number", group.sequence_number);
    text.line("System id", group.system_id);
    text.line("Lock type", group.lock_type);
    text.line("Tags", fmt::format("{}", fmt::join(group.tags, ",")));
    const Json json = to_json(group);
    std::vector<std::string> can;
    for (const Json& word : json.at("capabilities"))
        std::ranges::replace(can.emplace_back(word.get<std::string>()), '_', ' ');
    text.line("Can also", fmt::format("{}", fmt::join(can, ", ")));
    text.line("Served", group.served ? group.writable ? "yes" : "yes, read-only" : "no");
    Table volumes;
    volumes.column("PV");
    volumes.column("Device");
    volumes.column("Size", Table::Align::right);
    volumes.column("Free", Table::Align::right);
    volumes.column("Tags");
    for (const PhysicalVolumeInfo& volume : group.physical_volumes) {
        std::uint64_t usable = volume.extents * group.extent_size;
        volumes.row({volume.name, volume.missing ? or_dash(volume.device) + " (missing)" : or_dash(volume.device), print_size(volume.size),
                     print_size(usable - std::min(usable, volume.allocated)), joined(volume.tags)});
    }
    return text.text() + "\n" + volumes.text();
}

void warn_of_full_pools(Context& context, VolumeGroup& group, const std::set<std::string>& pools) {
    const auto fuller = [](std::optional<std::uint64_t> used, std::uint64_t of, unsigned percent) {
        return used && of != 0 && *used >= of / 100 * percent;
    };
    for (const std::string& name : pools) {
        const auto pool = group.volume(name);
        if (!pool)
            continue;
        if (fuller(pool->data_used, pool->size, 90))
            context.note(fmt::format("warning: pool {}: {} % of its data is in use, and what is written to its volumes takes more", name,
                                     shown_percent(pool->data_used, pool->size)));
        if (fuller(pool->metadata_used, pool->metadata_size.value_or(0), 75))
            context.note(fmt::format("warning: pool {}: {} % of its metadata is in use, and volumes and snapshots take more", name,
                                     shown_percent(pool->metadata_used, pool->metadata_size)));
    }
}

Result<void> answer_volume(Context& context, std::string_view sentence, const VolumeInfo& volume) {
    return context.answer(fmt::format("{}\n", sentence), {{"dry_run", context.dry_run}, {"volume", to_json(volume)}});
}

Result<void> answer_volumes(Context& context, std::string_view sentences, const std::vector<VolumeInfo>& volumes) {
    return context.answer(sentences, {{"dry_run", context.dry_run}, {"volumes", to_json(volumes)}});
}

std::vector<std::string> broken_off_lines(const GroupInfo& group) {
    std::vector<std::string> lines, volumes;
    for (const std::string& recovered : group.served ? std::vector<std::string>() : group.recovered)
        lines.push_back(fmt::format("group {}: {}", group.name, recovered));
    for (const BrokenOff& one : group.broken_off)
        if (!one.volume.empty())
            volumes.push_back(one.volume);
    if (!group.broken_off.empty())
        lines.push_back(fmt::format("group {}: a change was broken off{}{}{}: lamella doctor {} tells more", group.name,
                                    volumes.empty() ? "" : " that was at ", fmt::join(volumes, ", "),
                                    group.lock_type.empty() ? "" : ", or another host makes it now", group.name));
    return lines;
}

void note_broken_off(Context& context, const GroupInfo& group) {
    for (const std::string& line : broken_off_lines(group))
        context.note(line);
}

void note_findings(Context& context, const GroupInfo& group) {
    note_broken_off(context, group);
    for (const std::string& finding : group.findings)
        context.note(fmt::format("warning: group {}: {}", group.name, finding));
    if (!group.lock_type.empty() && !group.can(Capability::activation))
        context.note(
            fmt::format("warning: group {}: it is shared between hosts by lvmlockd ({:.64}): another one may be writing to its pools and "
                        "snapshots, so how full they are isn't read",
                        group.name, group.lock_type));
}

}  // namespace lamella::cli
