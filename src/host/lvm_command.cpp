// SPDX-License-Identifier: Apache-2.0
#include "host/lvm_command.h"

#include <unistd.h>
#include <algorithm>
#include <array>
#include <charconv>

#include "base/strong.h"
#include "lvm2/group.h"

namespace lamella::host {

namespace {

// Exit codes of lvm: 0 done, 3 the command line is wrong, 5 it failed.
constexpr int bad_command_line = 3;

// LVM's words for what went wrong, as version 2.03 has them, in the order in which they are looked for.
struct Phrase {
    std::string_view text;
    ErrorKind kind;
};
constexpr std::array phrases{
    Phrase{"insufficient free space", ErrorKind::no_space},
    Phrase{"Insufficient free space", ErrorKind::no_space},
    Phrase{"Insufficient suitable", ErrorKind::no_space},
    Phrase{"insufficient suitable", ErrorKind::no_space},
    Phrase{"nsufficient free extents", ErrorKind::no_space},
    Phrase{"Not enough free", ErrorKind::no_space},
    Phrase{"not enough free", ErrorKind::no_space},
    Phrase{"No space left on device", ErrorKind::no_space},
    Phrase{"reached threshold", ErrorKind::no_space},
    Phrase{"already exists", ErrorKind::exists},
    Phrase{"already in use", ErrorKind::exists},
    Phrase{" in use", ErrorKind::refused},
    Phrase{"is used by", ErrorKind::refused},
    Phrase{"used by another device", ErrorKind::refused},
    Phrase{"is exported", ErrorKind::refused},
    Phrase{"system ID", ErrorKind::refused},
    Phrase{"active volume", ErrorKind::refused},
    Phrase{"active logical volume", ErrorKind::refused},
    Phrase{"only while inactive", ErrorKind::refused},
    Phrase{"lock", ErrorKind::refused},
    Phrase{"Permission denied", ErrorKind::refused},
    Phrase{"read-only", ErrorKind::refused},
    Phrase{"transaction id", ErrorKind::damaged},
    Phrase{"not supported", ErrorKind::unsupported},
    Phrase{"not found", ErrorKind::not_found},
    Phrase{"Failed to find", ErrorKind::not_found},
};

// Lines that say nothing of what went wrong.
bool says_nothing(std::string_view line) {
    for (std::string_view beginning : {"WARNING:", "TEST MODE:", "Run `", "Error during parsing", "Cannot process volume group",
                                       "/run/lvm/", "Do you really want", "File descriptor "})
        if (line.starts_with(beginning))
            return true;
    return line.empty();
}

constexpr std::size_t max_message = 600;

// The program's own words: "lvcreate" of a whole path or command line.
std::string printable(std::string_view text) {
    std::string result;
    for (char c : text)
        result += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    return result;
}

std::vector<std::string> lines_of(std::string_view text) {
    std::vector<std::string> lines;
    for (std::size_t begin = 0; begin < text.size() && lines.size() < 1000;) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        std::string_view line = text.substr(begin, end - begin);
        line.remove_prefix(std::min(line.find_first_not_of(" \t\r"), line.size()));
        lines.push_back(printable(line));
        begin = end + 1;
    }
    return lines;
}

}  // namespace

// --- Words ------------------------------------------------------------------------------------------------------------------

void LvmWords::check(Result<void> good) {
    if (!good && !error_)
        error_ = good.error();
}

void LvmWords::begin_names() {
    if (!names_begun_)
        words_.emplace_back("--");
    names_begun_ = true;
}

LvmWords& LvmWords::option(std::string_view name) {
    words_.emplace_back(name);
    return *this;
}

LvmWords& LvmWords::option(std::string_view name, std::string_view value) {
    words_.emplace_back(name);
    words_.emplace_back(value);
    return *this;
}

LvmWords& LvmWords::size(std::string_view name, std::uint64_t bytes, std::string_view sign) {
    // In sectors LVM counts on; a size in bytes that is no whole number of them it refuses.
    return option(name, fmt::format("{}{}s", sign, bytes / sector_bytes + (bytes % sector_bytes != 0 ? 1 : 0)));
}

LvmWords& LvmWords::percent(std::uint64_t hundredths, std::string_view of, std::string_view sign) {
    if (hundredths % 100 != 0)
        check(fail(ErrorKind::unsupported, "LVM takes whole percent"));
    return option("--extents", fmt::format("{}{}%{}", sign, hundredths / 100, of));
}

LvmWords& LvmWords::tag(std::string_view name, std::string_view tag) {
    check(lvm2::check_tag(tag));
    return option(name, tag);
}

LvmWords& LvmWords::new_name(std::string_view name, std::string_view group, std::string_view volume) {
    check(lvm2::check_volume_name(group, volume));
    return option(name, volume);
}

LvmWords& LvmWords::group(std::string_view name) {
    check(lvm2::check_group_name(name));
    begin_names();
    words_.emplace_back(name);
    return *this;
}

std::string LvmWords::checked(std::string_view group, std::string_view name) {
    check(lvm2::check_group_name(group));
    // LVM's rules for new names don't hold for volumes that are there, but no volume's name breaks those of a group's.
    check(lvm2::check_group_name(name));
    return fmt::format("{}/{}", group, name);
}

LvmWords& LvmWords::volume_option(std::string_view name, std::string_view group, std::string_view volume) {
    return option(name, checked(group, volume));
}

LvmWords& LvmWords::volume(std::string_view group, std::string_view name) {
    begin_names();
    words_.push_back(checked(group, name));
    return *this;
}

LvmWords& LvmWords::device(std::string_view path) {
    begin_names();
    // LVM takes ":0-9" behind a path as a range of extents, and "@" before a word as a tag.
    if (!path.starts_with('/') || path.size() > 4096 || path.find_first_of(":\n") != path.npos)
        check(fail(ErrorKind::usage, "'{:.80}' is not the path of a device", path));
    words_.emplace_back(path);
    return *this;
}

LvmWords& LvmWords::new_volume(std::string_view group, std::string_view name) {
    check(lvm2::check_volume_name(group, name));
    return volume(group, name);
}

Result<std::vector<std::string>> LvmWords::done() const {
    if (error_)
        return std::unexpected(*error_);
    return words_;
}

// --- Errors -----------------------------------------------------------------------------------------------------------------

Error lvm_error(std::string_view command, const CommandResult& result) {
    std::vector<std::string> told;
    for (std::string& line : lines_of(result.errors))
        if (!says_nothing(line) && std::ranges::find(told, line) == told.end())
            told.push_back(std::move(line));
    if (told.empty())  // better a warning than nothing
        for (std::string& line : lines_of(result.errors))
            if (!line.empty())
                told.push_back(std::move(line));
    std::string message = fmt::format("{}", fmt::join(told, "; "));
    if (message.size() > max_message)
        message = message.substr(0, max_message) + "...";
    if (result.signal != 0)
        return Error(ErrorKind::failed, fmt::format("lvm {} was ended by signal {}; {}", command, result.signal,
                                                    message.empty() ? "it said nothing" : message));
    if (message.empty())
        message = fmt::format("lvm {} failed with exit code {} and said nothing", command, result.exit_code);
    ErrorKind kind = result.exit_code == bad_command_line ? ErrorKind::usage : ErrorKind::failed;
    for (const Phrase& phrase : phrases)
        if (kind == ErrorKind::failed && message.find(phrase.text) != std::string::npos)
            kind = phrase.kind;
    return Error(kind, "LVM: " + message);
}

Result<ExtensionRule> parse_extension_rule(std::string_view text) {
    const auto value = [&](std::string_view name) -> Result<std::uint32_t> {
        for (const std::string& line : lines_of(text))
            if (line.starts_with(name) && line.size() > name.size() && line[name.size()] == '=') {
                std::uint32_t number = 0;
                const char* begin = line.data() + name.size() + 1;
                const char* end = line.data() + line.size();
                if (const auto read = std::from_chars(begin, end, number); read.ec == std::errc() && read.ptr == end)
                    return number;
            }
        return fail(ErrorKind::damaged, "LVM's configuration: there is no number {}", name);
    };
    return ExtensionRule{TRY(value("thin_pool_autoextend_threshold")), TRY(value("thin_pool_autoextend_percent"))};
}

Result<std::string> parse_locking_directory(std::string_view text) {
    constexpr std::string_view name = "locking_dir=";
    std::string_view line = text.substr(0, text.find('\n'));
    line.remove_prefix(line.starts_with(name) ? name.size() : 0);
    if (!line.starts_with("\"/") || !line.ends_with('"') || line.size() < 3 || line.find_first_of("\"\\", 1) != line.size() - 1)
        return fail(ErrorKind::damaged, "lvmconfig: global/locking_dir: not a folder: {:.80}", line);
    return std::string(line.substr(1, line.size() - 2));
}

// --- Commands ---------------------------------------------------------------------------------------------------------------

Result<std::string> Lvm::find_program() {
    for (const char* path : {"/usr/sbin/lvm", "/sbin/lvm"})
        if (::access(path, X_OK) == 0)
            return path;
    return fail(ErrorKind::not_found, "there is no lvm at /usr/sbin/lvm or /sbin/lvm: the package lvm2 is not installed");
}

Result<std::string> Lvm::read(std::vector<std::string> words) {
    const std::string name = words.front();
    Command command{.words = std::move(words)};
    command.words.insert(command.words.begin(), program_);
    CommandResult result = TRY(runner_.run(command));
    if (result.exit_code == 0 && result.signal == 0)
        return std::move(result.output);
    // Newer versions tell what is wrong in the report itself.
    if (result.errors.empty())
        if (const auto log = parse_lvm_report(result.output))
            result.errors = fmt::format("{}", fmt::join(log->errors, "\n"));
    return std::unexpected(lvm_error(name, result));
}

Result<std::vector<LvmGroupName>> Lvm::groups() {
    return parse_lvm_groups(TRY(read({"vgs", "--reportformat", "json", "--foreign", "--shared", "--config", "log { report_command_log=0 }",
                                      "-o", "vg_name,vg_uuid,vg_systemid"})));
}

Result<std::vector<std::string>> Lvm::duplicates() {
    return parse_lvm_duplicates(
        TRY(read({"pvs", "--all", "--reportformat", "json", "--config",
                  "report { binary_values_as_numeric=1 } log { report_command_log=0 }", "-o", "pv_uuid,pv_duplicate"})));
}

Result<std::string> Lvm::locking_directory() {
    return parse_locking_directory(TRY(read({"lvmconfig", "--typeconfig", "full", "global/locking_dir"})));
}

Result<ExtensionRule> Lvm::extension_rule(std::string_view profile) {
    std::vector<std::string> words{"lvmconfig", "--type", "full"};
    if (!profile.empty()) {
        if (profile.starts_with('-') || profile.size() > 255 ||
            profile.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-") != profile.npos)
            return fail(ErrorKind::damaged, "'{:.80}' is not the name of a profile", profile);
        words.emplace_back("--metadataprofile");
        words.emplace_back(profile);
    }
    words.insert(words.end(), {"activation/thin_pool_autoextend_threshold", "activation/thin_pool_autoextend_percent"});
    return parse_extension_rule(TRY(read(std::move(words))));
}

Result<LvmGroup> Lvm::report(std::string_view group) {
    TRY(lvm2::check_group_name(group));
    std::vector<std::string> words = lvm_report_arguments();
    words.emplace_back("--");
    words.emplace_back(group);
    LvmReport report = TRY(parse_lvm_report(TRY(read(std::move(words)))));
    if (report.groups.size() > 1)
        return fail(ErrorKind::refused, "{} groups have the name {}; rename one by its uuid: vgrename UUID NAME", report.groups.size(),
                    group);
    if (report.groups.empty() || report.groups.front().name != group)
        return fail(ErrorKind::not_found, "LVM reports no group {}", group);
    return std::move(report.groups.front());
}

std::optional<std::string> Lvm::ask(std::string_view program, std::vector<std::string> words) {
    words.insert(words.begin(), program_.substr(0, program_.rfind('/') + 1) + std::string(program));
    Result<CommandResult> result = runner_.run({.words = std::move(words)});
    if (!result || result->exit_code != 0 || result->signal != 0)
        return std::nullopt;
    return std::move(result->output);
}

HostLocks Lvm::locks(std::string_view group) {
    const auto text = ask("lvmlockctl", {"--info"});
    return text ? parse_host_locks(*text, group) : HostLocks{};
}

std::optional<std::string> Lvm::lease_holder(std::string_view leases, std::uint64_t size, std::string_view volume) {
    const auto text = ask("sanlock", {"direct", "dump", fmt::format("{}:0:{}", leases, size)});
    return text ? parse_lease_holder(*text, volume) : std::nullopt;
}

Result<void> Lvm::change(const LvmWords& words, bool trial) {
    Command command{.words = TRY(words.done()), .changes = true};
    const std::string name = command.words.front();
    command.words.insert(command.words.begin(), program_);
    if (trial)
        command.words.insert(command.words.begin() + 2, "--test");
    const CommandResult result = TRY(runner_.run(command));
    if (result.exit_code != 0 || result.signal != 0)
        return std::unexpected(lvm_error(name, result));
    return {};
}

}  // namespace lamella::host
