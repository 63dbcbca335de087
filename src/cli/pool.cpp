// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <fstream>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/output.h"
#include "lvm2/group.h"
#include "manage/pool_plan.h"

namespace lamella::cli {

namespace {

// What a container engine wants of its pool: no zeroing, as it formats what it makes; chunks as its own guide has them.
struct Purpose {
    std::string_view name;
    std::uint64_t chunk_size;
    std::uint64_t volumes;           // layers and containers
    std::string_view configuration;  // {}: the pool's name for the device mapper
};
constexpr Purpose purposes[] = {
    {"docker", 512 * 1024, 2000,
     "/etc/docker/daemon.json (docker before 25.0, which was the last to have this driver):\n"
     "  {{\"storage-driver\": \"devicemapper\",\n"
     "   \"storage-opts\": [\"dm.thinpooldev=/dev/mapper/{}\", \"dm.use_deferred_removal=true\", \"dm.use_deferred_deletion=true\"]}}\n"},
    {"containerd", 64 * 1024, 2000,
     "/etc/containerd/config.toml:\n"
     "  [plugins.\"io.containerd.snapshotter.v1.devmapper\"]\n"
     "    pool_name = \"{}\"\n"
     "    root_path = \"/var/lib/containerd/devmapper\"\n"
     "    base_image_size = \"10GB\"\n"
     "    discard_blocks = true\n"},
};

Result<std::optional<std::uint64_t>> data_bytes(const SizeArgument& size, const GroupInfo& group) {
    if (size.sign != SizeArgument::Sign::none)
        return fail(ErrorKind::usage, "--size: a new pool has no size yet that could grow or shrink");
    if (!size.percentage)
        return size.bytes == 0 ? std::nullopt : std::optional(size.bytes);
    if (size.percentage->of != PercentOf::free && size.percentage->of != PercentOf::group)
        return fail(ErrorKind::usage, "--size: a pool's percentage is of the group (%VG) or of what is free in it (%FREE)");
    const std::uint64_t of = size.percentage->of == PercentOf::free ? group.free : group.size;
    const auto bytes = static_cast<std::uint64_t>(static_cast<unsigned __int128>(of) * size.percentage->percent / 100);
    return bytes / group.extent_size * group.extent_size;
}

struct ExtensionArguments {
    std::optional<std::uint32_t> threshold;
    std::optional<std::uint32_t> percent;
    bool given() const { return threshold || percent; }
};

void define_extension(CommandLine& line, ExtensionArguments& extension, const std::string& default_threshold) {
    line.option("--autoextend-threshold", "PERCENT", extension.threshold,
                "LVM extends the pool when so much of it is in use, by a profile of its own; groups of this host only (default " +
                    default_threshold + ")");
    line.option("--autoextend-percent", "PERCENT", extension.percent, "by how much (default 20)");
}

template <typename Request>
Result<void> set_extension(Request& request, const ExtensionArguments& extension) {
    request.autoextend_threshold = extension.threshold.value_or(80);
    request.autoextend_percent = extension.percent.value_or(20);
    if (request.autoextend_threshold < 50 || request.autoextend_threshold > 99 || request.autoextend_percent == 0)
        return fail(ErrorKind::usage, "--autoextend-threshold is from 50 to 99, --autoextend-percent at least 1");
    return {};
}

// What was asked for is what the group's text has; what the kernel and dmeventd do may be less.
std::vector<std::string> warnings_of(Context& context, const VolumeInfo& pool) {
    std::vector<std::string> warnings;
    if (!pool.effective_discards.empty() && pool.effective_discards != pool.discards)
        warnings.push_back(
            fmt::format("pool {}: discards are {}, but the kernel does {}: the disks below don't take them, or not of this size", pool.name,
                        pool.discards, pool.effective_discards));
    if (!context.dry_run && !pool.profile.empty() && pool.active.value_or(false) && !pool.monitored)
        warnings.push_back(
            fmt::format("pool {}: LVM doesn't say whether dmeventd watches it; without dmeventd nobody extends it", pool.name));
    for (const std::string& warning : warnings)
        context.note(warning);
    return warnings;
}

Result<void> answer_pool(Context& context, std::string_view sentence, const VolumeInfo& pool) {
    const std::vector<std::string> warnings = warnings_of(context, pool);
    return context.answer(fmt::format("{}\n", sentence), {{"dry_run", context.dry_run}, {"volume", to_json(pool)}, {"warnings", warnings}});
}

// Whether a block device has heads that move; empty: it isn't known, or it is a file.
std::optional<bool> rotates(const std::string& device) {
    struct stat status {};
    if (::stat(device.c_str(), &status) != 0 || !S_ISBLK(status.st_mode))
        return std::nullopt;
    const std::string folder = fmt::format("/sys/dev/block/{}:{}", major(status.st_rdev), minor(status.st_rdev));
    for (const char* place : {"/queue/rotational", "/../queue/rotational"})  // that of a partition is its disk's
        if (std::ifstream file(folder + place); file)
            if (char digit = 0; file >> digit)
                return digit != '0';
    return std::nullopt;
}

// Where some of a group's disks rotate and others don't: those of the latter that have room, for metadata and spare.
std::vector<std::string> faster_disks(const GroupInfo& group, const std::vector<std::string>& data_on, std::uint64_t needed) {
    std::vector<std::string> fast;
    bool slow = false;
    std::uint64_t room = 0;
    for (const PhysicalVolumeInfo& disk : group.physical_volumes) {
        const auto rotating = disk.missing ? std::nullopt : rotates(disk.device);
        slow |= rotating.value_or(false);
        const bool of_data =
            std::ranges::find(data_on, disk.device) != data_on.end() || std::ranges::find(data_on, disk.name) != data_on.end();
        if (!rotating.value_or(true) && !of_data) {
            fast.push_back(disk.device);
            room += disk.size - std::min(disk.size, disk.allocated);
        }
    }
    return slow && room >= needed ? fast : std::vector<std::string>();
}

// A volume named beside another: by its bare name, or with the group's.
Result<std::string> name_in(const GroupAddress& group, const std::string& word) {
    if (word.find_first_of("/:") == std::string::npos)
        return word;
    const VolumeAddress address = TRY(parse_volume_address(word));
    if (address.group != group)
        return fail(ErrorKind::usage, "{} is not in {}", word, group.text());
    return address.volume;
}

void define_create(CommandLine line) {
    struct Arguments {
        VolumeAddress pool;
        SizeArgument size;
        CreatePool request;
        std::string purpose;
        std::optional<std::uint64_t> chunk_size;
        std::optional<std::uint64_t> volumes;
        std::uint32_t extensions = 2;
        ExtensionArguments extension;
        std::string zero;
        std::string when_full = "queue";
    };
    auto arguments = std::make_shared<Arguments>();
    CreatePool& request = arguments->request;
    line.describe(
        "Make a thin pool that can grow and be repaired",
        "Metadata is sized by the pool's chunks and the volumes expected, the group's spare metadata volume with it, and room for two "
        "extensions stays free in the group; a pool for which that doesn't add up isn't made. Without --size the pool is as large "
        "as leaves room for all this.\n\n"
        "--for a container engine sets the chunk size and the rest as it wants them, and prints what belongs into its "
        "configuration.");
    line.example("pool create vg0/thinpool --for containerd", "as large as leaves room for it to grow");
    line.example("pool create vg0/pool --size 1T --metadata-on /dev/nvme0n1p1", "with its metadata on the faster device");
    line.argument("POOL", arguments->pool, "the pool to make: GROUP:NAME");
    line.option_size("-L,--size", arguments->size, "the size of its data: bytes with a unit, or N%VG, N%FREE");
    line.option_choice("--for", arguments->purpose, {"docker", "containerd"}, "who will make devices in it");
    line.option_size("-c,--chunk-size", arguments->chunk_size, "its unit of allocation, a multiple of 64K up to 1G (default 64K)");
    line.option("--volumes", "N", arguments->volumes, "volumes and snapshots expected in it, for its metadata (default 100)");
    line.option_size("--metadata-size", request.metadata_size, "its room for metadata (default: by its chunks and volumes)");
    line.option("--extensions", "N", arguments->extensions, "for how many extensions room stays free in the group (default 2)");
    define_extension(line, arguments->extension, "80 with --for or --autoextend-percent");
    line.option("--data-on", "DEVICE", request.data_on, "physical volumes for its data; may be given several times");
    line.option("--metadata-on", "DEVICE", request.metadata_on,
                "physical volumes for its metadata; may be given several times (default: those that don't rotate, where others do)");
    line.option("-i,--stripes", "N", request.stripes, "stripes of its data");
    line.option_size("-I,--stripe-size", request.stripe_size, "bytes in a stripe before the next one begins (default 64K)");
    line.option_choice("--zero", arguments->zero, {"y", "n"}, "whether it zeroes new chunks (default y; n with --for)");
    line.option_choice("--discards", request.discards, {"passdown", "nopassdown", "ignore"}, "what it does with discards");
    line.option_choice("--when-full", arguments->when_full, {"queue", "error"}, "what writes do when it is full (default queue)");
    line.option("--tag", "TAG", request.tags, "a tag; may be given several times");
    line.changes();
    line.runs([arguments](Context& context) -> Result<void> {
        const auto* purpose = std::ranges::find(purposes, arguments->purpose, &Purpose::name);
        const bool general = purpose == std::end(purposes);
        CreatePool& pool = arguments->request;
        pool.name = arguments->pool.volume;
        pool.chunk_size = arguments->chunk_size.value_or(general ? 64 * 1024 : purpose->chunk_size);
        pool.zero_new_blocks = arguments->zero.empty() ? general : arguments->zero == "y";
        pool.error_when_full = arguments->when_full == "error";
        VolumeGroup& group = *TRY(context.open(arguments->pool.group, Access::write));
        const GroupInfo info = TRY(group.info());
        if (arguments->extension.given() || (!general && info.can(Capability::automatic_extension)))
            TRY(set_extension(pool, arguments->extension));

        std::uint64_t spare = 0;
        for (const VolumeInfo& volume : TRY(group.volumes()))
            if (volume.kind == VolumeKind::spare)
                spare = volume.size;
        manage::PoolNeeds needs{.data = TRY(data_bytes(arguments->size, info)),
                                .metadata = pool.metadata_size,
                                .chunk_size = pool.chunk_size,
                                .volumes = arguments->volumes.value_or(general ? 100 : purpose->volumes),
                                .extensions = arguments->extensions,
                                .percent = pool.autoextend_percent != 0 ? pool.autoextend_percent : 20};
        const manage::PoolPlan plan = TRY(manage::plan_pool(info.free, info.extent_size, spare, needs));
        pool.size = {.value = plan.data};
        pool.metadata_size = plan.metadata;
        const bool chosen = pool.metadata_on.empty();
        if (chosen)
            pool.metadata_on = faster_disks(info, pool.data_on, plan.metadata + plan.spare);
        const VolumeInfo made = TRY(group.create_pool(pool, context.change()));

        std::string text = fmt::format("thin-pool volume {}, {}: {}\n", made.name, print_size(made.size), context.done("created"));
        text += fmt::format("  data      {}, {} chunks of {}\n", print_size(plan.data), plan.data / pool.chunk_size,
                            print_size(pool.chunk_size));
        text += fmt::format(
            "  metadata  {}, for {} volumes{}\n", print_size(plan.metadata), needs.volumes,
            chosen && !pool.metadata_on.empty() ? fmt::format(", on {}: the others rotate", fmt::join(pool.metadata_on, ", ")) : "");
        text += fmt::format("  spare     {}\n", print_size(std::max(spare, plan.metadata)));
        text += fmt::format("  free      {}, {} of it for {} extension{} by {} percent\n", print_size(plan.reserve + plan.left),
                            print_size(plan.reserve), needs.extensions, needs.extensions == 1 ? "" : "s", needs.percent);
        const std::string configuration =
            general ? "" : fmt::format(fmt::runtime(purpose->configuration), lvm2::dm_name(info.name, made.name));
        text += configuration;
        const std::vector<std::string> warnings = warnings_of(context, made);
        return context.answer(text, {{"dry_run", context.dry_run},
                                     {"volume", to_json(made)},
                                     {"warnings", warnings},
                                     {"metadata_on", pool.metadata_on},
                                     {"reserve", plan.reserve},
                                     {"free", plan.reserve + plan.left},
                                     {"configuration", configuration}});
    });
}

// What container engines have outside of the pool that names devices in it. Whose devices they are, neither LVM nor the kernel knows.
constexpr struct {
    std::string_view engine, path, remark;
} engine_records[] = {
    {"docker", "/var/lib/docker", ""},
    {"containerd", "/var/lib/containerd/devmapper", " (what root_path names)"},
    {"containerd", "/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db", ""},
};

std::string dependent_text(const PoolDependent& dependent) {
    std::string text = dependent.name.empty() ? "device" : dependent.name;
    if (dependent.device_id)
        text += fmt::format(" (thin id {})", *dependent.device_id);
    if (dependent.foreign)
        text += ", not of the group";
    return dependent.used_by.empty() ? text : text + ", " + dependent.used_by;
}

void define_remove(CommandLine line) {
    struct Arguments {
        VolumeAddress pool;
        bool force = false;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Remove a pool, with what somebody else made in it",
        "A container engine makes devices in a pool of which the group knows nothing, and which keep the pool from being removed. "
        "They are found by what they stand on, not by their names; what is in use is never removed. The order is shown, and asked "
        "for, before anything is done.\n\n"
        "The engine's own records name devices that are gone then: stop it first, and remove its records of this pool as well.");
    line.example("pool remove vg0/thinpool --force-children", "after the container engine was stopped");
    line.argument("POOL", arguments->pool, "the pool: GROUP:NAME");
    line.flag("--force-children", arguments->force, "with all that is in it");
    line.changes();
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        const std::string& name = arguments->pool.volume;
        VolumeGroup& group = *TRY(context.open(arguments->pool.group, Access::write));
        if (TRY(group.volume(name)).kind != VolumeKind::thin_pool)
            return fail(ErrorKind::usage, "{} is not a thin pool; lamella remove removes volumes", name);
        const std::vector<PoolDependent> dependents = TRY(group.pool_dependents(name));
        std::vector<std::string> order;
        std::vector<PoolDependent> foreign;
        for (const PoolDependent& dependent : dependents) {
            order.push_back(dependent_text(dependent));
            if (dependent.foreign)
                foreign.push_back(dependent);
        }
        for (const PoolDependent& dependent : dependents)
            if (!dependent.used_by.empty())
                return fail(ErrorKind::refused, "pool {}: {}", name, dependent_text(dependent));
        if (!dependents.empty() && !arguments->force) {
            context.suggest("--force-children, with --dry-run to see what would go");
            return fail(ErrorKind::refused, "pool {} has {} volumes and devices in it: {}{}", name, order.size(), order.front(),
                        order.size() > 1 ? ", ..." : "");
        }
        order.push_back(fmt::format("{}, the pool itself", name));
        Json records = Json::array();
        std::string about_records;
        if (!foreign.empty()) {
            about_records = "The container engine's own records name devices of this pool. Remove them too, while it is stopped:\n";
            for (const auto& [engine, path, remark] : engine_records) {
                about_records += fmt::format("  {}: {}{}\n", engine, path, remark);
                records.push_back({{"engine", engine}, {"path", path}});
            }
        }
        TRY(context.confirm_loss(
            group, {name},
            fmt::format("{}Remove these, in this order, and lose what is on them?\n  {}\n", about_records, fmt::join(order, "\n  "))));
        if (!foreign.empty())
            TRY(group.remove_foreign(name, foreign, context.change()));
        if (!context.dry_run || foreign.empty())
            TRY(group.remove({name}, arguments->force, context.change()));
        std::string text;
        for (const std::string& one : order)
            text += fmt::format("{}: {}\n", one, context.done("removed"));
        return context.answer(
            text + about_records,
            {{"dry_run", context.dry_run}, {"removed", order}, {"foreign", to_json(foreign)}, {"engine_records", records}});
    });
}

void define_convert(CommandLine line) {
    struct Arguments {
        VolumeAddress volume;
        ConvertToPool request;
        ExtensionArguments extension;
        std::string zero = "y";
        std::string when_full = "queue";
    };
    auto arguments = std::make_shared<Arguments>();
    ConvertToPool& settings = arguments->request;
    line.describe(
        "Make a thin pool of volumes that are there",
        "The volume becomes the pool's data, and the pool has its name; another one, or one that is made, becomes its metadata. What "
        "is on them is lost.");
    line.example("pool convert vg0/thinpool --metadata vg0/thinpoolmeta", "of two volumes, as container engines' guides have it");
    line.argument("VOLUME", arguments->volume, "the volume that becomes the pool: linear or striped");
    line.option("--metadata", "VOLUME", settings.metadata, "a volume of the same group for its metadata (default: one is made)");
    line.option_size("--metadata-size", settings.metadata_size, "of one that is made (default: as LVM reckons it)");
    line.exclude("--metadata-size", "--metadata");
    line.option_size("-c,--chunk-size", settings.chunk_size, "its unit of allocation, a multiple of 64K up to 1G (default 64K)");
    line.option_choice("--zero", arguments->zero, {"y", "n"},
                       "whether it zeroes new chunks (default y); without, what was on the volume shows through");
    line.option_choice("--discards", settings.discards, {"passdown", "nopassdown", "ignore"}, "what it does with discards");
    line.option_choice("--when-full", arguments->when_full, {"queue", "error"}, "what writes do when it is full (default queue)");
    define_extension(line, arguments->extension, "80 with --autoextend-percent");
    line.changes();
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        ConvertToPool request = arguments->request;
        request.name = arguments->volume.volume;
        request.metadata = TRY(name_in(arguments->volume.group, request.metadata));
        request.zero_new_blocks = arguments->zero == "y";
        request.error_when_full = arguments->when_full == "error";
        if (arguments->extension.given())
            TRY(set_extension(request, arguments->extension));
        VolumeGroup& group = *TRY(context.open(arguments->volume.group, Access::write));
        TRY(group.convert_to_pool(request, {.dry_run = true}));
        TRY(context.confirm(fmt::format("Make {}{} a thin pool, and lose what is on {}?", arguments->volume.text(),
                                        request.metadata.empty() ? "" : " with " + request.metadata,
                                        request.metadata.empty() ? "it" : "them")));
        const VolumeInfo made = TRY(group.convert_to_pool(request, context.change()));
        return answer_pool(context,
                           fmt::format("thin-pool volume {}, {}: {}", made.name, print_size(made.size), context.done("made of it")), made);
    });
}

void define_change(CommandLine line) {
    struct Arguments {
        VolumeAddress pool;
        ChangePool request;
        ExtensionArguments extension;
        std::string when_full;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe("Change what a pool does with discards, when it is full, and when it fills",
                  "The pool may be in use; but to begin or to end ignoring discards, its volumes must not be. When a group of this host "
                  "is to extend a pool, LVM's dmeventd watches it; a profile with the rules is made in /etc/lvm/profile.");
    line.example("pool change vg0/pool --discards passdown --when-full error", "as lvchange would");
    line.example("pool change vg0/pool --autoextend-threshold 80 --autoextend-percent 20", "by a fifth, whenever 80 percent are in use");
    line.example("pool change vg0/pool --profile thin-performance", "as lvchange --metadataprofile would, and dmeventd watches it");
    line.argument("POOL", arguments->pool, "the pool");
    line.option_choice("--discards", arguments->request.discards, {"passdown", "nopassdown", "ignore"}, "what it does with discards");
    line.option_choice("--when-full", arguments->when_full, {"queue", "error"}, "what writes do when it is full");
    define_extension(line, arguments->extension, "80 with --autoextend-percent");
    line.option("--profile", "NAME", arguments->request.profile,
                "LVM goes by that profile, which is in /etc/lvm/profile already; groups of this host only");
    line.exclude("--profile", "--autoextend-threshold");
    line.exclude("--profile", "--autoextend-percent");
    line.changes();
    line.runs([arguments](Context& context) -> Result<void> {
        ChangePool& request = arguments->request;
        request.name = arguments->pool.volume;
        if (!arguments->when_full.empty())
            request.error_when_full = arguments->when_full == "error";
        if (arguments->extension.given())
            TRY(set_extension(request, arguments->extension));
        else if (request.discards.empty() && !request.error_when_full && request.profile.empty())
            return fail(ErrorKind::usage, "nothing is to be changed: --discards, --when-full, --autoextend-threshold or --profile");
        VolumeGroup& group = *TRY(context.open(arguments->pool.group, Access::write));
        const VolumeInfo pool = TRY(group.change_pool(request, context.change()));
        return answer_pool(context, fmt::format("pool {}: {}", pool.name, context.done("changed")), pool);
    });
}

void define_swap_metadata(CommandLine line) {
    struct Arguments {
        VolumeAddress pool;
        std::string volume;
    };
    auto arguments = std::make_shared<Arguments>();
    line.describe(
        "Let a pool's metadata and a volume change places",
        "For repairs by hand: the volume becomes the pool's metadata, whatever is on it, and what was the pool's metadata is a volume "
        "of that name, which can be looked at. The pool and its volumes must not be active. The same command again undoes it.");
    line.example("pool swap-metadata vg0/pool vg0/repaired", "after thin_repair wrote to vg0/repaired");
    line.argument("POOL", arguments->pool, "the pool");
    line.argument("VOLUME", arguments->volume, "a linear or striped volume of the same group");
    line.changes();
    line.destroys();
    line.runs([arguments](Context& context) -> Result<void> {
        const std::string volume = TRY(name_in(arguments->pool.group, arguments->volume));
        const std::string& pool = arguments->pool.volume;
        VolumeGroup& group = *TRY(context.open(arguments->pool.group, Access::write));
        TRY(group.swap_metadata(pool, volume, {.dry_run = true}));
        TRY(context.confirm(fmt::format("Take what is on {} as the metadata of {}?", volume, arguments->pool.text())));
        const VolumeInfo info = TRY(group.swap_metadata(pool, volume, context.change()));
        return answer_volume(context, fmt::format("pool {}: metadata {} with {}", pool, context.done("swapped"), volume), info);
    });
}

}  // namespace

void define_pool(CommandLine& line) {
    line.describe("Make a thin pool of the right sizes or of volumes, change it, or remove it with all that stands on it");
    define_create(line.subcommand("create"));
    define_convert(line.subcommand("convert"));
    define_change(line.subcommand("change"));
    define_swap_metadata(line.subcommand("swap-metadata"));
    define_remove(line.subcommand("remove"));
}

}  // namespace lamella::cli
