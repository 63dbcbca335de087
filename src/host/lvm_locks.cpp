// SPDX-License-Identifier: Apache-2.0
#include "host/lvm_locks.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <map>
#include <vector>

#include "host/processes.h"

namespace lamella::host {

namespace {

using Words = std::vector<std::string_view>;

constexpr std::size_t most_lines = 100'000;

std::vector<Words> lines_of(std::string_view text) {
    std::vector<Words> lines;
    while (!text.empty() && lines.size() < most_lines) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        Words& words = lines.emplace_back();
        for (std::size_t begin; (begin = line.find_first_not_of(" \t\r")) != line.npos;) {
            line.remove_prefix(begin);
            const std::size_t length = std::min(line.find_first_of(" \t\r"), line.size());
            words.push_back(line.substr(0, length));
            line.remove_prefix(length);
        }
    }
    return lines;
}

// The words lie in the text.
std::vector<Words> lines_of(std::string&& text) = delete;

bool is_zero(std::string_view number) { return number.find_first_not_of('0') == number.npos; }

bool is_number(std::string_view word) { return !word.empty() && word.find_first_not_of("0123456789") == word.npos; }

template <typename Number>
std::optional<Number> number(std::string_view word) {
    Number value{};
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    return !word.empty() && error == std::errc() && end == word.data() + word.size() ? std::optional(value) : std::nullopt;
}

// A file of the kernel's, which tells no size. Empty: it can't be read, or is longer.
std::string text_of(const std::filesystem::path& path, std::size_t most) {
    std::ifstream file(path, std::ios::binary);
    std::string text;
    std::array<char, 1 << 14> part;
    while (text.size() <= most && (file.read(part.data(), part.size()), file.gcount() > 0))
        text.append(part.data(), static_cast<std::size_t>(file.gcount()));
    return text.size() > most ? "" : text;
}

std::optional<std::uint32_t> id_in(const std::filesystem::path& path) {
    constexpr std::size_t longest = 16;
    const std::string text = text_of(path, longest);
    const std::vector<Words> lines = lines_of(text);
    const auto id = lines.size() == 1 && lines[0].size() == 1 ? number<std::uint32_t>(lines[0][0]) : std::nullopt;
    return id && *id != 0 ? id : std::nullopt;
}

}  // namespace

// VG NAME lock_type=TYPE UUID
// LS TYPE LOCKSPACE           REM:LOCKSPACE: is being left
// LK GL|VG MODE ver N ...
// LK LV MODE UUID             MODE: ex, sh, un
HostLocks parse_host_locks(std::string_view text, std::string_view group) {
    HostLocks locks;
    locks.state = HostLocks::State::not_started;
    bool of_group = false;
    for (const Words& line : lines_of(text)) {
        if (line.size() >= 4 && line[0] == "VG")
            of_group = line.back() == group;
        if (!of_group)
            continue;
        locks.state = HostLocks::State::started;
        // It ends, or never came to be.
        if (line.size() >= 2 && line[0] == "LS" && line.back().starts_with("REM:")) {
            locks.state = HostLocks::State::not_started;
            of_group = false;
        }
        if (line.size() >= 4 && line[0] == "LK" && line[1] == "LV" && line[2] == "ex")
            locks.exclusive.emplace(line[3]);
    }
    return locks;
}

// offset  lockspace  resource  timestamp  own  gen  lver     of a resource; free while its timestamp is 0
// offset  lockspace  host      timestamp  own  gen           of a host
std::optional<std::string> parse_lease_holder(std::string_view text, std::string_view volume) {
    constexpr std::size_t of_host = 6, of_resource = 7;
    const std::vector<Words> lines = lines_of(text);
    const auto lease = std::ranges::find_if(lines, [&](const Words& line) { return line.size() == of_resource && line[2] == volume; });
    if (lease == lines.end() || !is_number((*lease)[3]) || is_zero((*lease)[3]) || !is_number((*lease)[4]) || is_zero((*lease)[4]))
        return std::nullopt;
    std::string_view id = (*lease)[4];
    const auto host = std::ranges::find_if(lines, [&](const Words& line) { return line.size() == of_host && line[4] == id; });
    id.remove_prefix(id.find_first_not_of('0'));
    if (host == lines.end())
        return fmt::format("host id {}", id);
    std::string name((*host)[2].substr(0, 64));
    // A host writes what it likes there, and this goes to a terminal.
    std::ranges::replace_if(
        name, [](unsigned char character) { return character < 0x20 || character >= 0x7f; }, '?');
    return fmt::format("{} (host id {})", name, id);
}

// id nodeid remid pid xid exflags flags sts grmode rqmode time r_nodeid r_len "r_name"
//
// r_nodeid: the master; 0: this node. nodeid: where else the lock is known; of a lock that the master knows its holder, 0: this node.
// rqmode remains of a request that was refused.
DlmLock parse_dlm_lock(std::string_view text, std::string_view volume) {
    constexpr std::size_t words = 14, nodeid = 1, sts = 7, grmode = 8, r_nodeid = 11, r_name = 13;
    constexpr int waiting = 1, protected_read = 3, exclusive = 5;
    const std::string name = fmt::format("\"{}\"", volume);
    const std::vector<Words> lines = lines_of(text);
    DlmLock lock;
    if (lines.size() >= most_lines)
        return lock;
    for (const Words& line : lines) {
        if (line.size() != words || line[r_name] != name)
            continue;
        const auto node = number<std::uint32_t>(line[nodeid]), master = number<std::uint32_t>(line[r_nodeid]);
        const auto state = number<int>(line[sts]), mode = number<int>(line[grmode]);
        // Mastership isn't known, or changes.
        if (!node || !master || !state || !mode || *master != 0)
            return {};
        lock.known = true;
        if (*node != 0 && *state > waiting && *mode >= protected_read && *mode <= exclusive)
            lock.holders.insert(*node);
    }
    return lock;
}

// AF_INET  10.0.0.1
// AF_INET6 fd00:0000:...
std::string parse_dlm_address(std::string_view text) {
    constexpr std::size_t longest = 39;
    for (const Words& line : lines_of(text))
        if (line.size() == 2 && line[0].starts_with("AF_INET") && line[1].size() <= longest &&
            line[1].find_first_not_of("0123456789abcdefABCDEF.:") == std::string_view::npos)
            return std::string(line[1]);
    return "";
}

DlmHolders dlm_holders(const std::filesystem::path& kernel, std::string_view group, std::string_view volume) {
    constexpr std::size_t longest_text = 16 << 20, longest_addresses = 4096;  // the kernel writes no more of the latter
    const std::filesystem::path cluster = kernel / "config/dlm/cluster";
    const std::string space = fmt::format("lvm_{}", group);
    std::optional<std::uint32_t> own;
    std::map<std::uint32_t, std::string> addresses;
    for (const std::filesystem::path& node : entries(cluster / "comms"))
        if (const auto id = id_in(node / "nodeid")) {
            addresses[*id] = parse_dlm_address(text_of(node / "addr_list", longest_addresses));
            if (text_of(node / "local", 2) == "1\n")
                own = id;
        }
    const auto name_of = [&](std::uint32_t id) {
        const std::string& address = addresses[id];
        return address.empty() ? fmt::format("node id {}", id) : fmt::format("{} (node id {})", address, id);
    };
    DlmHolders found;
    if (const DlmLock lock = parse_dlm_lock(text_of(kernel / "debug/dlm" / (space + "_locks"), longest_text), volume); lock.known) {
        found.certain = true;
        for (const std::uint32_t id : lock.holders)
            found.hosts.push_back(name_of(id));
        return found;
    }
    std::set<std::uint32_t> members;
    for (const std::filesystem::path& node : entries(cluster / "spaces" / space / "nodes"))
        if (const auto id = id_in(node / "nodeid"))
            members.insert(*id);
    if (!own || members.erase(*own) == 0)
        return found;
    for (const std::uint32_t id : members)
        found.hosts.push_back(name_of(id));
    return found;
}

}  // namespace lamella::host
