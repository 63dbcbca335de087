// SPDX-License-Identifier: Apache-2.0
#include "manage/diagnosis.h"

#include <algorithm>
#include <ranges>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "base/files.h"
#include "base/sizes.h"
#include "manage/pool_plan.h"
#include "volumes/unfinished.h"

namespace lamella::manage {

namespace {

constexpr std::uint64_t whole = 100'00;

// In hundredths of a percent, rounded down: nothing that isn't full counts as full.
std::uint64_t part_of(std::uint64_t used, std::uint64_t size) {
    return size == 0
               ? 0
               : static_cast<std::uint64_t>(std::min<unsigned __int128>(static_cast<unsigned __int128>(used) * whole / size, UINT64_MAX));
}

std::string print_part(std::uint64_t used, std::uint64_t size) {
    const std::uint64_t part = part_of(used, size);
    return fmt::format("{} of {} ({}.{:02} %)", print_size(used), print_size(size), part / 100, part % 100);
}

// As one word of a shell: paths have blanks, and the text of a damaged or hostile group may hold any name.
std::string quoted(const std::string& word) {
    const auto plain = [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               std::string_view("._-+/:,=@%").find(c) != std::string_view::npos;
    };
    if (!word.empty() && std::ranges::all_of(word, plain))
        return word;
    std::string result = "'";
    for (char c : word)
        result += c == '\'' ? "'\\''" : std::string(1, static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c);
    return result + "'";
}

class Diagnosis {
  public:
    Diagnosis(const Examination& seen, const DiagnosisOptions& options) : seen_(seen), options_(options) {}

    std::vector<Finding> run() {
        look_at_group();
        for (const VolumeInfo& volume : seen_.volumes) {
            if (volume.kind == VolumeKind::thin_pool)
                look_at_pool(volume);
            else if (volume.kind == VolumeKind::snapshot)
                look_at_store(volume);
        }
        look_at_spare();
        look_at_promises();
        look_at_broken_off();
        look_at_text();
        std::ranges::stable_sort(findings_, std::ranges::greater(), &Finding::urgency);
        return std::move(findings_);
    }

  private:
    Finding& add(Urgency urgency, std::string kind, std::string volume, std::string evidence, std::string risk) {
        return findings_.emplace_back(
            Finding{urgency, std::move(kind), std::move(volume), std::move(evidence), std::move(risk), {}, {}, {}});
    }
    std::string group() const { return quoted(seen_.address.text()); }
    std::string address(const std::string& volume) const { return quoted(VolumeAddress{seen_.address, volume}.text()); }
    bool by_host() const { return seen_.address.paths.empty(); }
    std::uint64_t free() const { return seen_.group.free; }
    std::uint64_t extent() const { return std::max<std::uint64_t>(1, seen_.group.extent_size); }
    std::uint64_t whole_extents(std::uint64_t bytes) const {
        return std::max<std::uint64_t>(1, (bytes + extent() - 1) / extent()) * extent();
    }

    // By a fifth, or as much as leaves a quarter free, if that is more; in whole extents.
    std::uint64_t enough_more(std::uint64_t size, std::uint64_t used) const {
        const std::uint64_t free_then = used / 3 * 4;
        return whole_extents(std::max(size / 5, free_then > size ? free_then - size : 0));
    }
    // The same of metadata, which use a tenth of what they grow by for themselves (the kernel's, 6.1). More than a quarter: with that alone
    // they still count as nearly full. Where there is no room for a fifth, what leaves so much free does.
    struct More {
        std::uint64_t wanted, least;
    };
    More enough_more_metadata(const VolumeInfo& pool) const {
        const std::uint64_t size = *pool.metadata_size;
        const unsigned __int128 have = static_cast<unsigned __int128>(size) * 3,
                                want = static_cast<unsigned __int128>(*pool.metadata_used) * 4;
        const auto missing = want >= have ? static_cast<std::uint64_t>((want - have) * 5 / 13) + 1 : 0;  // 4 (3/4 - 1/10) = 13/5
        return {whole_extents(std::max(size / 5, missing)), whole_extents(missing)};
    }
    // What the group needs for it: metadata grows along with data, and the spare with metadata.
    std::uint64_t cost(Remedy::Kind kind, const VolumeInfo& volume, std::uint64_t more) const {
        if (kind == Remedy::Kind::extend_metadata)
            return more + spare_growth(seen_.volumes, volume.name, more);
        const std::uint64_t metadata = kind == Remedy::Kind::extend_data ? metadata_growth(volume, more, extent()) : 0;
        return more + (metadata == 0 ? 0 : cost(Remedy::Kind::extend_metadata, volume, metadata));
    }
    void extend(Finding& finding, Remedy::Kind kind, const VolumeInfo& volume, std::uint64_t more) const {
        if (const std::uint64_t needed = cost(kind, volume, more); needed > free()) {
            finding.why_not = fmt::format("group {} has {} left, and {} are needed{}: add a physical volume, or remove what isn't needed",
                                          seen_.group.name, print_size(free()), print_size(needed),
                                          needed == more                          ? ""
                                          : kind == Remedy::Kind::extend_metadata ? ", with the spare, which grows along"
                                                                                  : ", with metadata and spare, which grow along");
            return;
        }
        finding.commands.push_back(fmt::format("lamella extend {}{} --size +{}", address(volume.name),
                                               kind == Remedy::Kind::extend_metadata ? " --metadata" : "", print_exact(more)));
        finding.remedy = Remedy{kind, volume.name, more};
    }
    void extend_metadata(Finding& finding, const VolumeInfo& pool, More more) const {
        const std::uint64_t size = pool.metadata_size.value_or(0), most = most_metadata(extent());
        if (size >= most) {
            finding.why_not = fmt::format(
                "metadata can't be larger than {}: fewer snapshots need less, or a pool with larger chunks that the volumes are copied to",
                print_size(most));
            return;
        }
        if (more.wanted > most - size)
            finding.evidence += fmt::format("; {} is the most that metadata can be", print_size(most));
        const std::uint64_t wanted = std::min(more.wanted, most - size), least = std::min(more.least, wanted);
        const auto steps = std::views::iota(std::uint64_t{0}, (wanted - least) / extent());
        const auto step = std::ranges::partition_point(
            steps, [&](std::uint64_t count) { return cost(Remedy::Kind::extend_metadata, pool, wanted - count * extent()) > free(); });
        // What fits; or the least, whose cost is told then.
        extend(finding, Remedy::Kind::extend_metadata, pool, step == steps.end() ? least : wanted - *step * extent());
    }
    // As option values take it, without loss.
    static std::string print_exact(std::uint64_t bytes) {
        constexpr std::pair<std::uint64_t, char> units[] = {{1ull << 40, 'T'}, {1ull << 30, 'G'}, {1ull << 20, 'M'}, {1ull << 10, 'K'}};
        for (const auto& [unit, letter] : units)
            if (bytes >= unit && bytes % unit == 0)
                return fmt::format("{}{}", bytes / unit, letter);
        return fmt::format("{}B", bytes);
    }

    // LVM has one name for all that are missing.
    std::string what_lies_on(const PhysicalVolumeInfo& physical) const {
        constexpr std::size_t most_names = 10;
        std::vector<std::string> names;
        for (const VolumeInfo& volume : seen_.volumes)
            if (std::ranges::find(volume.physical_volumes, physical.name) != volume.physical_volumes.end())
                names.push_back(volume.name);
        if (names.empty())
            return {};
        const bool alone = std::ranges::count(seen_.group.physical_volumes, physical.name, &PhysicalVolumeInfo::name) == 1;
        const std::size_t more = names.size() - std::min(names.size(), most_names);
        names.resize(names.size() - more);
        return fmt::format("; on {}: {}{}", alone ? "it" : "those that are missing", fmt::join(names, ", "),
                           more == 0 ? "" : fmt::format(" and {} more", more));
    }
    void look_at_group() {
        const GroupInfo& info = seen_.group;
        std::size_t missing = 0, duplicates = 0;
        for (const PhysicalVolumeInfo& physical : info.physical_volumes) {
            if (physical.missing) {
                ++missing;
                Finding& finding =
                    add(Urgency::critical, "physical-volume-missing", "",
                        fmt::format("physical volume {} ({}) is not there; it was last seen as {}{}", physical.name, physical.id,
                                    physical.device_hint.empty() ? "-" : physical.device_hint, what_lies_on(physical)),
                        "volumes that lie on it can't be used, and the group isn't changed");
                finding.why_not = "the disk has to be attached again; nothing is dropped from the group on a guess";
            }
            if (physical.duplicate) {
                ++duplicates;
                Finding& finding = add(Urgency::critical, "physical-volume-duplicate", "",
                                       fmt::format("physical volume {} ({}) is found on more than one device; {} is in use", physical.name,
                                                   physical.id, physical.device),
                                       "writes to one copy and reads from the other mix two states of the group");
                finding.commands = {"pvs --all -o pv_name,pv_uuid,vg_name"};
                finding.why_not =
                    "which copy is the right one, only you can know: detach the other, or give a clone its own identity with "
                    "vgimportclone";
            }
            if (by_host() && !physical.missing && !physical.device_hint.empty() && physical.device_hint != physical.device) {
                Finding& finding = add(Urgency::advice, "device-hint-stale", "",
                                       fmt::format("the group's text has {} for physical volume {}, which is {} now", physical.device_hint,
                                                   physical.name, physical.device),
                                       "none for the data; LVM finds physical volumes by their id. Scripts that go by the path go astray");
                finding.why_not = "LVM writes the path anew with its next change of the group";
            }
        }
        if (missing == 0 && duplicates == 0 && !info.physical_volumes.empty() && info.free == 0 && has_pools()) {
            Finding& finding = add(Urgency::advice, "group-full", "", fmt::format("group {} has no room left", info.name),
                                   "neither pools nor the stores of snapshots can be extended when they fill");
            finding.why_not = "a physical volume has to be added";
        }
    }
    // --- What killed processes left ---
    void look_at_broken_off() {
        const bool shared = !seen_.group.lock_type.empty();
        for (const BrokenOff& one : seen_.group.broken_off) {
            if (one.tag.empty()) {
                Finding& finding = add(Urgency::advice, "metadata-snapshot-left", one.volume,
                                       "the pool holds a metadata snapshot, and a process was killed while it asked for one",
                                       "blocks of metadata that were freed since stay in use as long as it is held");
                finding.commands = {fmt::format("lamella metadata-snapshot {} release", address(one.volume))};
                finding.why_not = "it may be somebody else's";
                continue;
            }
            std::size_t same = 0;
            for (const VolumeInfo& volume : seen_.volumes)
                same += std::ranges::find(volume.tags, one.tag) != volume.tags.end();
            Finding& finding =
                add(Urgency::warning, "change-broken-off", one.volume,
                    one.volume.empty() ? fmt::format("the group has the tag {}: a pool was being made of two volumes", one.tag)
                                       : fmt::format("{} has the tag {}, as {} in all: the change that made it didn't come to its end",
                                                     one.volume, one.tag, same == 1 ? "one" : fmt::to_string(same)),
                    "none for the data; but it may lack what was to be made with it: look whether it is of use, and remove what isn't");
            if (one.tag == unfinished::removal) {
                finding.evidence = fmt::format("pool {} has the tag {}: its removal was broken off", one.volume, one.tag);
                finding.risk = "devices in it that weren't LVM's may be gone already";
                finding.commands = {fmt::format("lamella pool remove {} --force-children", address(one.volume))};
                finding.why_not = "removing is for you to decide";
            } else if (one.volume.empty()) {
                finding.commands = {fmt::format("lvs --all -o +lv_uuid {}", quoted(seen_.group.name)),
                                    fmt::format("vgchange --deltag {} {}", quoted(one.tag), quoted(seen_.group.name))};
                finding.why_not = "look whether the volumes of these ids are a pool with the settings that it was to have";
            } else {
                finding.commands = {fmt::format("lamella tag {} --remove {}", address(one.volume), quoted(one.tag))};
                if (shared)
                    finding.why_not = "another host may be at this change now";
                else
                    finding.remedy = Remedy{.kind = Remedy::Kind::drop_tag, .volume = one.volume, .tag = one.tag};
            }
        }
    }
    // What the group says of itself, unless it is told above of the volume or disk that it is about.
    void look_at_text() {
        const auto told = [&](const std::string& text) {
            return std::ranges::any_of(findings_,
                                       [&](const Finding& finding) {
                                           return !finding.volume.empty() && text.starts_with(finding.volume + ": ") &&
                                                  (finding.urgency == Urgency::critical || finding.kind == "pool-foreign" ||
                                                   finding.kind == "messages-queued");
                                       }) ||
                   std::ranges::any_of(seen_.group.physical_volumes, [&](const PhysicalVolumeInfo& physical) {
                       return physical.missing && text.find(physical.id) != std::string::npos;
                   });
        };
        const auto before = static_cast<std::ptrdiff_t>(findings_.size());
        for (const std::string& text : seen_.group.findings) {
            if (told(text))
                continue;
            if (text.starts_with("the group is exported")) {
                Finding& finding = add(Urgency::advice, "group-exported", "", text,
                                       "nothing of it can be used or changed before it is imported, on the one host that is to have it");
                finding.commands = {fmt::format("vgimport {}", quoted(seen_.group.name))};
                finding.why_not = "which host is to have it, only you can know";
                continue;
            }
            Finding& finding =
                add(Urgency::critical, "group-metadata", "", text, "what rests on it is refused, and the group isn't changed");
            finding.commands = {fmt::format("lamella group backup {} --file {}", group(), quoted(seen_.group.name + ".txt")),
                                fmt::format("lamella group check {}", group())};
            finding.why_not = "the group's text is put back from a backup, which only you can choose";
        }
        std::rotate(findings_.begin(), findings_.begin() + before, findings_.end());
    }
    bool has_pools() const {
        return std::ranges::any_of(seen_.volumes, [](const VolumeInfo& volume) { return volume.kind == VolumeKind::thin_pool; });
    }

    // --- Pools ---
    void look_at_pool(const VolumeInfo& pool) {
        if (auto why = seen_.unreadable.find(pool.name); why != seen_.unreadable.end()) {
            Finding& finding = add(Urgency::critical, "pool-metadata-damaged", pool.name, why->second, "no volume of the pool can be used");
            repair(finding, pool);
            return;
        }
        look_at_mode(pool);
        look_at_agreement(pool);
        look_at_check(pool);
        look_at_room(pool);
        look_at_care(pool);
    }
    // Commands in the order in which they go. What is in use has to be let go of before, and that only its users can do.
    using Commands = std::vector<std::string>;
    Commands idle(const VolumeInfo& pool) const {
        if (by_host())
            return {fmt::format("lamella deactivate {} --with-contents", address(pool.name))};
        return seen_.group.served ? Commands{fmt::format("# end what serves {}", group())} : Commands{};
    }
    Commands in_use_again(const VolumeInfo& pool) const {
        return by_host() ? Commands{fmt::format("lamella activate {} --with-contents", address(pool.name))} : Commands{};
    }
    static Commands joined(std::initializer_list<Commands> parts) {
        Commands all;
        for (const Commands& part : parts)
            all.insert(all.end(), part.begin(), part.end());
        return all;
    }
    std::string keep() const { return fmt::format("lamella metadata-backup {}", group()); }
    // While it is in use its metadata can't be checked.
    void look_closer(Finding& finding, const VolumeInfo& pool) const {
        finding.commands = joined({idle(pool), {fmt::format("lamella doctor {}", group())}});
        finding.why_not =
            "its metadata has to be checked while nobody uses it; the doctor says then what to do, and if it has nothing to say "
            "the pool can be used again";
    }
    void repair(Finding& finding, const VolumeInfo& pool) const {
        const std::string name = address(pool.name);
        // Not metadata-backup, which wants metadata that can be read whole.
        const Commands before = joined({idle(pool),
                                        {fmt::format("lamella pack {} {}", name, quoted(pool.name + "-damaged.pack")),
                                         fmt::format("lamella repair {} --dry-run", name)}});
        const std::uint64_t size = pool.metadata_size.value_or(0);
        finding.why_not = "a repair decides what is kept where the metadata is lost: look at its report first";
        if (!by_host()) {
            finding.commands =
                joined({before,
                        {fmt::format("truncate -s {} repaired.bin", size), fmt::format("lamella repair {} --output repaired.bin", name),
                         "lamella dump repaired.bin --output repaired.xml", fmt::format("lamella restore repaired.xml {}", name)}});
        } else if (size <= free()) {
            finding.commands = joined({before, {fmt::format("lamella repair {0} --output {0}", name)}, in_use_again(pool)});
        } else if (size > free() + spare_size()) {
            // LVM makes a spare that is too small larger first.
            finding.commands = before;
            finding.why_not +=
                fmt::format(". Group {} has no room for new metadata, neither beside the old nor in its spare: {} more are needed",
                            seen_.group.name, print_size(size - free()));
        } else {
            finding.commands = joined({before, {fmt::format("lvconvert --repair {}", name)}, in_use_again(pool)});
            finding.why_not += fmt::format(
                ". Group {} has no room for new metadata beside the old, so this repair is LVM's, onto the spare: where that runs "
                "thin_repair "
                "0.9, volumes no longer share what they shared, the pool may be too small for that, and data below a bad node may be lost. "
                "With {} free, lamella repair keeps it",
                seen_.group.name, print_size(size));
        }
    }
    std::uint64_t spare_size() const {
        const auto spare = std::ranges::find(seen_.volumes, VolumeKind::spare, &VolumeInfo::kind);
        return spare == seen_.volumes.end() ? 0 : spare->size;
    }
    // The host's pools get new metadata beside the old.
    bool has_room_for_metadata_of(const VolumeInfo& pool) const { return !by_host() || pool.metadata_size.value_or(0) <= free(); }
    void look_at_mode(const VolumeInfo& pool) {
        if (pool.pool_mode == "Fail") {
            Finding& finding = add(Urgency::critical, "pool-failed", pool.name, "the pool's mode is Fail", "all I/O to its volumes fails");
            look_closer(finding, pool);
        } else if (pool.pool_mode == "ro" && !pool.needs_check) {
            Finding& finding =
                add(Urgency::critical, "pool-read-only", pool.name, "the pool's mode is ro: its metadata is full, or a write of it failed",
                    "writes to its volumes fail; what is there can be read");
            if (pool.metadata_size && pool.metadata_used && part_of(*pool.metadata_used, *pool.metadata_size) >= 95'00) {
                extend_metadata(finding, pool, enough_more_metadata(pool));
            } else {
                look_closer(finding, pool);
            }
        } else if (pool.pool_mode == "out_of_data_space") {
            Finding& finding = add(
                Urgency::critical, "pool-out-of-data", pool.name,
                fmt::format("no chunk is free: {}", print_part(pool.data_used.value_or(pool.size), pool.size)),
                pool.error_when_full ? "writes that need a new chunk fail" : "writes that need a new chunk wait, and fail after a while");
            extend(finding, Remedy::Kind::extend_data, pool, enough_more(pool.size, pool.data_used.value_or(pool.size)));
        }
        if (by_host() && pool.active.value_or(false) && pool.pool_mode.empty()) {
            Finding& finding = add(Urgency::warning, "pool-status-unknown", pool.name,
                                   "LVM has the pool active, and the kernel says nothing of it that can be understood",
                                   "how full it is, and whether it still takes writes, nobody knows");
            finding.commands = {fmt::format("lamella status {}", address(pool.name))};
            finding.why_not = "see what the kernel says itself; another doctor, or a newer one, may understand it";
        }
        if (pool.needs_check) {
            Finding& finding =
                add(Urgency::critical, "pool-needs-check", pool.name, "the pool's metadata has needs_check set: a change of it failed",
                    "the pool stays read-only until the metadata was checked");
            const PoolCheck* checked = check_of(pool);
            if (checked == nullptr) {
                look_closer(finding, pool);
            } else if ((checked->grade == "clean" || checked->grade == "leak") && has_room_for_metadata_of(pool)) {
                finding.commands = joined({{keep()},
                                           idle(pool),
                                           {fmt::format("lamella check {} --auto-repair --clear-needs-check-flag", address(pool.name))},
                                           in_use_again(pool)});
                finding.why_not =
                    "nothing worse than leaks was found: the commands clear it. What made a change of it fail, a disk or a full "
                    "device, has to be seen to before";
            } else {
                repair(finding, pool);
            }
        }
    }
    void look_at_agreement(const VolumeInfo& pool) {
        const auto found = seen_.contents.find(pool.name);
        if (found == seen_.contents.end() || !pool.transaction_id)
            return;
        const PoolContents& contents = found->second;
        std::vector<const VolumeInfo*> named;
        for (const VolumeInfo& volume : seen_.volumes)
            if (volume.pool == pool.name && volume.device_id)
                named.push_back(&volume);
        if (named.empty() && *pool.transaction_id == 0 && (contents.transaction_id > 0 || !contents.device_ids.empty())) {
            Finding& finding = add(
                Urgency::advice, "pool-foreign", pool.name,
                fmt::format("{} devices and transaction id {} in the pool, none in the group: something else, such as a container engine, "
                            "makes them",
                            contents.device_ids.size(), contents.transaction_id),
                "none, as long as nobody makes or removes volumes of the pool through LVM");
            finding.why_not = "the devices are somebody else's";
            return;
        }
        const bool one_less = contents.changing && contents.transaction_id + 1 == *pool.transaction_id;
        if (contents.transaction_id != *pool.transaction_id && !one_less) {
            const bool pool_ahead = contents.transaction_id > *pool.transaction_id;
            Finding& finding =
                add(Urgency::critical, "transaction-mismatch", pool.name,
                    fmt::format("the pool's transaction id is {}, the group's text says {}", contents.transaction_id, *pool.transaction_id),
                    "the pool isn't started: group and pool are of different times, and a volume of the one may be another in the other");
            finding.commands = {keep(), fmt::format("lamella check {}", address(pool.name)),
                                fmt::format("ls -l {}", by_host() ? "/etc/lvm/archive" : quoted((state_directory() / "archive").native()))};
            finding.why_not =
                pool_ahead ? "the group's text is older than the pool: put back the text of that time (lamella group restore --force, with "
                             "nothing of the group in use); "
                             "setting the number alone would hide volumes that are in the pool"
                           : "the pool's metadata is older than the group's text, as after a restore of its metadata: the text of "
                             "that time belongs to it";
        }
        if (one_less) {
            Finding& finding =
                add(Urgency::advice, "messages-queued", pool.name,
                    fmt::format("the pool's transaction id is {}, and the group's text has messages queued that make it {}: a change of it "
                                "was broken off half way",
                                contents.transaction_id, *pool.transaction_id),
                    "none: the messages are sent before anything else is done with the pool");
            finding.why_not = by_host() ? "LVM sends them when it activates the pool next, or with the next change of it"
                                        : "it is finished by the next command that changes the group, or when it is served";
        }
        if (contents.changing)
            return;
        std::set<std::uint32_t> in_pool(contents.device_ids.begin(), contents.device_ids.end());
        for (const VolumeInfo* volume : named)
            if (in_pool.erase(*volume->device_id) == 0) {
                Finding& finding =
                    add(Urgency::critical, "thin-id-missing", volume->name, fmt::format("the pool has no device {}", *volume->device_id),
                        "the volume can't be used: what it held isn't in the pool's metadata as it is now");
                finding.commands = joined({{keep()}, idle(pool), {fmt::format("lamella repair {} --list-roots", address(pool.name))}});
                finding.why_not = "older metadata may still have it: don't remove the volume before that is known";
            }
        for (std::uint32_t id : in_pool) {
            Finding& finding = add(Urgency::warning, "thin-id-leaked", pool.name,
                                   fmt::format("the pool has a device {} that the group's text doesn't name", id),
                                   "its chunks stay in use, and nobody can reach them");
            finding.commands = {keep(), fmt::format("lamella ls {}", address(pool.name))};
            if (contents.transaction_id != *pool.transaction_id) {
                finding.why_not = "pool and group are of different times, and it may be a volume of the other: that comes first";
                continue;
            }
            if (by_host() && pool.pool_mode.empty())
                finding.commands.push_back(fmt::format("lamella activate {}", address(pool.name)));
            finding.commands.push_back(fmt::format("lamella message {} delete {}", address(pool.name), id));
            finding.why_not = "it may be all that is left of somebody's volume: look at it before it is deleted";
        }
    }
    void look_at_check(const VolumeInfo& pool) {
        const PoolCheck* report = check_of(pool);
        if (report == nullptr || report->grade == "clean")
            return;
        if (report->grade == "leak") {
            Finding& finding = add(Urgency::advice, "pool-leak", pool.name,
                                   report->leaked_data_blocks + report->leaked_metadata_blocks == 0
                                       ? report->findings.empty() ? "the space maps' sums are wrong" : report->findings.front()
                                       : fmt::format("{} data blocks and {} metadata blocks are counted as used and aren't",
                                                     report->leaked_data_blocks, report->leaked_metadata_blocks),
                                   "none but the room");
            if (!has_room_for_metadata_of(pool)) {
                finding.why_not =
                    "check --auto-repair gives it back, and writes new metadata beside the old, for which the group has no room";
                return;
            }
            finding.commands = joined({{keep()}, idle(pool), {fmt::format("lamella check {} --auto-repair", address(pool.name))}});
            finding.why_not = "check --auto-repair gives it back, when the pool isn't needed for the moment";
            return;
        }
        const bool at_risk = report->grade == "data-at-risk";
        Finding& finding = add(Urgency::critical, at_risk ? "pool-data-at-risk" : "pool-metadata-damaged", pool.name,
                               fmt::format("{} findings in the pool's metadata; the first: {}", report->finding_count,
                                           report->findings.empty() ? "-" : report->findings.front()),
                               at_risk ? "using the pool would overwrite data that is in use" : "what hangs below it can't be read");
        repair(finding, pool);
    }
    const PoolCheck* check_of(const VolumeInfo& pool) const {
        const auto found = seen_.contents.find(pool.name);
        return found != seen_.contents.end() && found->second.check ? &*found->second.check : nullptr;
    }
    void look_at_room(const VolumeInfo& pool) {
        if (pool.data_used && pool.pool_mode != "out_of_data_space" && part_of(*pool.data_used, pool.size) >= options_.near_full) {
            Finding& finding =
                add(Urgency::warning, "pool-near-full", pool.name, fmt::format("{} of data in use", print_part(*pool.data_used, pool.size)),
                    pool.error_when_full ? "when it is full, writes that need a new chunk fail"
                                         : "when it is full, writes that need a new chunk wait, and fail after a while");
            if (!left_to_dmeventd(finding, pool, part_of(*pool.data_used, pool.size)))
                extend(finding, Remedy::Kind::extend_data, pool, enough_more(pool.size, *pool.data_used));
        }
        if (!pool.metadata_size)
            return;
        // The kernel's own mark: small metadata fills before 80 % have been seen.
        const std::uint64_t mark = std::min<std::uint64_t>(*pool.metadata_size / 4, 4 << 20);
        if (pool.metadata_used && pool.pool_mode != "ro" &&
            (part_of(*pool.metadata_used, *pool.metadata_size) >= options_.near_full ||
             *pool.metadata_used + mark >= *pool.metadata_size)) {
            Finding& finding = add(Urgency::warning, "pool-metadata-near-full", pool.name,
                                   fmt::format("{} of metadata in use", print_part(*pool.metadata_used, *pool.metadata_size)),
                                   "when it is full, the pool becomes read-only");
            if (!left_to_dmeventd(finding, pool, part_of(*pool.metadata_used, *pool.metadata_size)))
                extend_metadata(finding, pool, enough_more_metadata(pool));
        }
        // Every chunk mapped once, in leaves half full: 32 bytes; the space maps' counts are little beside it.
        if (pool.chunk_size && *pool.chunk_size > 0)
            if (const std::uint64_t needed = pool.size / *pool.chunk_size * 32; needed > *pool.metadata_size) {
                Finding& finding = add(Urgency::warning, "pool-metadata-small", pool.name,
                                       fmt::format("{} of metadata; {} chunks of data, each mapped once, may need {}",
                                                   print_size(*pool.metadata_size), pool.size / *pool.chunk_size, print_size(needed)),
                                       "the metadata is full before the data is, and the pool becomes read-only then");
                // And the tenth that they use for themselves.
                const std::uint64_t more = whole_extents((needed - *pool.metadata_size) * 10 / 9);
                extend_metadata(finding, pool, {more, more});
            }
    }
    void look_at_care(const VolumeInfo& pool) {
        if (pool.discards == "ignore") {
            Finding& finding = add(Urgency::advice, "discards-ignored", pool.name, "discards=ignore",
                                   "room that file systems give back (fstrim) stays in use in the pool");
            finding.commands =
                joined({idle(pool), {fmt::format("lamella pool change {} --discards passdown", address(pool.name))}, in_use_again(pool)});
            finding.why_not = "it is how the pool was made, and its volumes must not be in use for the change";
        } else if (!pool.effective_discards.empty() && pool.effective_discards != pool.discards) {
            Finding& finding = add(Urgency::advice, "discards-not-passed-down", pool.name,
                                   fmt::format("discards={}, but the kernel does {}: the disks below don't take discards of that size",
                                               pool.discards, pool.effective_discards),
                                   "discarded room is free in the pool, and stays in use on the disks below");
            finding.why_not = "it is up to the disks";
        }
        if (pool.active.value_or(false))
            look_at_extension(pool);
    }
    void look_at_extension(const VolumeInfo& pool) {
        if (!pool.monitored.value_or(false)) {
            Finding& finding =
                pool.monitored ? add(Urgency::warning, "monitoring-off", pool.name, "dmeventd doesn't watch the pool",
                                     "nobody extends it or warns before it is full")
                               : add(Urgency::advice, "monitoring-unknown", pool.name, "LVM doesn't say whether dmeventd watches the pool",
                                     "it may be that nobody extends it or warns before it is full");
            finding.commands = {fmt::format("lvchange --monitor y {}", address(pool.name))};
            finding.why_not = "something else may look after it";
        }
        const std::string give =
            fmt::format("lamella pool change {} --autoextend-threshold 80 --autoextend-percent 20", address(pool.name));
        const auto found = seen_.extension.find(pool.name);
        if (found == seen_.extension.end())
            return;
        if (!found->second) {
            Finding& finding = add(Urgency::warning, "profile-unreadable", pool.name,
                                   fmt::format("the pool's profile {} can't be read: {}", pool.profile, found->second.error().message()),
                                   "LVM goes by its configuration for all pools, which by default extends none");
            finding.commands = {give};
            finding.why_not = "the profile may be one that has got lost, with other rules than these";
        } else if (const AutomaticExtension& rule = *found->second; rule.threshold >= 100 || rule.percent == 0) {
            Finding& finding =
                add(Urgency::advice, pool.profile.empty() ? "profile-missing" : "extension-off", pool.name,
                    fmt::format("{}, and so it is never extended automatically (threshold {}, percent {})",
                                pool.profile.empty() ? "the pool has no LVM profile of its own" : "its LVM profile is " + pool.profile,
                                rule.threshold, rule.percent),
                    pool.monitored.value_or(false) ? "dmeventd watches it, and writes into the log when it fills, no more"
                                                   : "somebody has to watch it");
            finding.commands = {give};
            finding.why_not = "how far it may grow is for you to say";
        } else if (const std::uint64_t step = cost(Remedy::Kind::extend_data, pool, pool.size / 100 * rule.percent); step > free()) {
            Finding& finding =
                add(Urgency::warning, "extension-without-room", pool.name,
                    fmt::format("from {} percent in use on LVM extends it by {} percent, which takes {}; group {} has {} left",
                                rule.threshold, rule.percent, print_size(step), seen_.group.name, print_size(free())),
                    "the extension fails when it is needed");
            finding.why_not = "a physical volume has to be added, or something removed";
        }
    }
    // Whether dmeventd extends the pool at so much in use; two that do it at once take more than either meant to. What it should have
    // extended a while ago, it doesn't.
    bool left_to_dmeventd(Finding& finding, const VolumeInfo& pool, std::uint64_t part) const {
        const auto found = seen_.extension.find(pool.name);
        if (!pool.active.value_or(false) || !pool.monitored.value_or(false) || found == seen_.extension.end() || !found->second ||
            found->second->threshold >= 100 || found->second->percent == 0 ||
            part >= std::uint64_t{found->second->threshold} * 100 + 5'00 ||
            cost(Remedy::Kind::extend_data, pool, pool.size / 100 * found->second->percent) > free())
            return false;
        finding.why_not = fmt::format("dmeventd watches it, and extends it by {} percent from {} percent in use on", found->second->percent,
                                      found->second->threshold);
        return true;
    }

    // --- Classic snapshots ---
    void look_at_store(const VolumeInfo& snapshot) {
        if (snapshot.snapshot_state == "Invalid") {
            Finding& finding =
                add(Urgency::critical, "snapshot-invalid", snapshot.name, fmt::format("the snapshot of {} is Invalid", snapshot.origin),
                    "what it held is lost for good; the origin is unharmed. More room doesn't bring it back");
            finding.commands = {fmt::format("lamella remove {}", address(snapshot.name)),
                                fmt::format("lamella snapshot {}", address(snapshot.origin))};
            finding.why_not = "removing is for you to decide";
            return;
        }
        if (snapshot.snapshot_state == "Overflow") {
            Finding& finding =
                add(Urgency::critical, "snapshot-overflow", snapshot.name,
                    fmt::format("the snapshot of {} is in Overflow: its store had no room for a write to the snapshot", snapshot.origin),
                    fmt::format("it takes no writes; the next one to {} makes it invalid, and what it holds is lost", snapshot.origin));
            const std::uint64_t store = snapshot.store_size.value_or(0);
            extend(finding, Remedy::Kind::extend_store, snapshot, enough_more(store, store));
            // The kernel forgets it only with the device.
            if (std::exchange(finding.remedy, std::nullopt)) {
                finding.commands.push_back(fmt::format("lamella deactivate {}", address(snapshot.origin)));
                finding.commands.push_back(fmt::format("lamella activate {}", address(snapshot.origin)));
                finding.why_not = "neither it nor its origin may be in use for that";
            }
            return;
        }
        if (snapshot.snapshot_state == "Merge failed") {
            Finding& finding = add(Urgency::critical, "merge-failed", snapshot.name,
                                   fmt::format("merging {} into {} failed", snapshot.name, snapshot.origin),
                                   fmt::format("{} is half merged: nothing is lost as long as {} stays", snapshot.origin, snapshot.name));
            // The kernel goes on with it only when the origin is made a device anew, and may have ended it right after that.
            if (by_host()) {
                finding.commands = {fmt::format("lamella deactivate {}", address(snapshot.origin)),
                                    fmt::format("lamella activate {}", address(snapshot.origin))};
                finding.why_not =
                    "a disk made it fail: see to that first; LVM goes on with the merge by itself when the origin is activated";
            } else {
                finding.commands = {fmt::format("lamella rollback {} --to {}", address(snapshot.origin), quoted(snapshot.name))};
                finding.why_not = "a disk made it fail: see to that first, then let the merge go on";
            }
            return;
        }
        if (snapshot.snapshot_state == "merging") {
            if (!seen_.group.served && !by_host()) {
                Finding& finding = add(Urgency::advice, "merge-waiting", snapshot.name,
                                       fmt::format("the merge of {} into {} was begun and isn't done", snapshot.name, snapshot.origin),
                                       "none; it goes on when the group is next served");
                finding.commands = {fmt::format("lamella rollback {} --to {}", address(snapshot.origin), quoted(snapshot.name))};
                finding.why_not = "it may take long";
            }
            return;
        }
        if (!snapshot.store_size || !snapshot.store_used || part_of(*snapshot.store_used, *snapshot.store_size) < options_.near_full)
            return;
        // A store larger than this never fills: the origin's chunks, and a page of exceptions for each so many of them.
        const std::uint64_t chunk = std::max<std::uint64_t>(512, snapshot.chunk_size.value_or(4096));
        const std::uint64_t chunks = (snapshot.size + chunk - 1) / chunk;
        const std::uint64_t most = (chunks + chunks / (chunk / 16) + 2) * chunk;
        if (*snapshot.store_size >= most)
            return;
        const bool full = *snapshot.store_used >= *snapshot.store_size;
        Finding& finding =
            add(full ? Urgency::critical : Urgency::warning, full ? "snapshot-full" : "snapshot-near-full", snapshot.name,
                fmt::format("{} of its store in use", print_part(*snapshot.store_used, *snapshot.store_size)),
                fmt::format("when it is full, the next write to {} makes it invalid, and what it holds is lost{}", snapshot.origin,
                            snapshot.monitored.value_or(true) ? "" : "; dmeventd doesn't watch it, so nobody extends it before"));
        extend(finding, Remedy::Kind::extend_store, snapshot, enough_more(*snapshot.store_size, *snapshot.store_used));
    }

    // --- The group's spare, and what is promised to thin volumes ---
    void look_at_spare() {
        std::uint64_t needed = 0, spare = 0;
        std::string largest;
        bool there = false;
        for (const VolumeInfo& volume : seen_.volumes) {
            if (volume.kind == VolumeKind::thin_pool && volume.metadata_size.value_or(0) > needed) {
                needed = *volume.metadata_size;
                largest = volume.name;
            }
            if (volume.kind == VolumeKind::spare) {
                spare = volume.size;
                there = true;
            }
        }
        if (needed == 0 || spare >= needed)
            return;
        Finding& finding =
            add(Urgency::warning, there ? "spare-small" : "spare-missing", "",
                there ? fmt::format("the spare is {}, the metadata of {} is {}", print_size(spare), largest, print_size(needed))
                      : fmt::format("group {} has no spare metadata volume; the metadata of {} is {}", seen_.group.name, largest,
                                    print_size(needed)),
                "a repair of the pool has nothing to write to");
        // LVM makes it where it extends a pool's metadata, by an extent at least.
        const std::uint64_t more = needed - spare + (by_host() ? 2 * seen_.group.extent_size : 0);
        if (more <= free()) {
            finding.commands = {fmt::format("lamella doctor {} --fix", group())};
            finding.remedy = Remedy{Remedy::Kind::make_spare, "", more};
        } else {
            finding.why_not =
                fmt::format("group {} has {} left, and {} are needed", seen_.group.name, print_size(free()), print_size(more));
        }
    }
    void look_at_promises() {
        for (const VolumeInfo& pool : seen_.volumes) {
            if (pool.kind != VolumeKind::thin_pool)
                continue;
            unsigned __int128 promised = 0;
            for (const VolumeInfo& volume : seen_.volumes)
                if (volume.kind == VolumeKind::thin && volume.pool == pool.name)
                    promised += volume.size;
            const auto total = static_cast<std::uint64_t>(std::min<unsigned __int128>(promised, UINT64_MAX));
            if (total <= pool.size)
                continue;
            const bool beyond_group = total - pool.size > free();
            Finding& finding =
                add(Urgency::advice, "over-allocated", pool.name,
                    fmt::format("its volumes' sizes add up to {}: {}.{:02} times the pool, {}.{:02} times the pool with all that is "
                                "free in the group",
                                print_size(total), part_of(total, pool.size) / whole, part_of(total, pool.size) % whole / 100,
                                part_of(total, pool.size + free()) / whole, part_of(total, pool.size + free()) % whole / 100),
                    beyond_group ? "if the volumes were filled, the pool would be full before, and couldn't be extended enough"
                                 : "if the volumes were filled, the pool would have to be extended in time");
            finding.why_not = "it is what thin volumes are for; it needs somebody who watches";
        }
    }

    const Examination& seen_;
    const DiagnosisOptions& options_;
    std::vector<Finding> findings_;
};

}  // namespace

std::string_view to_string(Urgency urgency) {
    switch (urgency) {
    case Urgency::advice: return "advice";
    case Urgency::warning: return "warning";
    case Urgency::critical: return "critical";
    }
    return "";
}

namespace {

Result<Examination> look_at(VolumeGroup& group, const GroupAddress& address, bool check) {
    Examination seen{.address = address};
    seen.group = TRY(group.info());
    if (auto disks = group.inspect_disks())
        seen.group.physical_volumes = *std::move(disks);
    seen.volumes = TRY(group.volumes());
    for (VolumeInfo& volume : seen.volumes) {
        if (volume.kind != VolumeKind::thin_pool)
            continue;
        if (auto extension = group.automatic_extension(volume.name); extension || extension.error().kind() != ErrorKind::unsupported)
            seen.extension.emplace(volume.name, std::move(extension));
        if (auto contents = group.pool_contents(volume.name, check)) {
            // Of a pool that isn't active LVM doesn't know it.
            volume.needs_check |= contents->needs_check;
            seen.contents.emplace(volume.name, *std::move(contents));
        } else if (contents.error().kind() == ErrorKind::damaged)
            seen.unreadable.emplace(volume.name, contents.error().message());
    }
    return seen;
}

// Text and pools are of the same time, as far as their numbers tell.
bool agrees(const Examination& seen) {
    return std::ranges::all_of(seen.volumes, [&](const VolumeInfo& volume) {
        const auto found = seen.contents.find(volume.name);
        // 0: somebody else makes all volumes in it.
        return found == seen.contents.end() || volume.transaction_id.value_or(0) == 0 ||
               found->second.transaction_id == *volume.transaction_id;
    });
}

}  // namespace

Result<Examination> examine(VolumeGroup& group, const GroupAddress& address, bool check) {
    Examination seen = TRY(look_at(group, address, check));
    // Somebody may have changed the group between the look at its text and that at its pools.
    if (!agrees(seen))
        seen = TRY(look_at(group, address, check));
    return seen;
}

std::vector<Finding> diagnose(const Examination& examination, const DiagnosisOptions& options) {
    return Diagnosis(examination, options).run();
}

Result<void> apply(VolumeGroup& group, const Remedy& remedy, ChangeOptions options) {
    if (remedy.kind == Remedy::Kind::drop_tag) {
        TRY(group.change_tags(remedy.volume, {}, {remedy.tag}, options));
        return {};
    }
    if (remedy.kind == Remedy::Kind::make_spare) {
        TRY(group.make_spare(options));
        return {};
    }
    const SizeRequest more{.relation = SizeRequest::Relation::grow, .value = remedy.bytes};
    TRY(group.resize({.name = remedy.volume, .size = more, .metadata = remedy.kind == Remedy::Kind::extend_metadata}, options));
    return {};
}

}  // namespace lamella::manage
