// SPDX-License-Identifier: Apache-2.0
#include "host/lvm_locks.h"

#include <fmt/format.h>
#include <algorithm>
#include <vector>

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

bool is_zero(std::string_view number) { return number.find_first_not_of('0') == number.npos; }

bool is_number(std::string_view word) { return !word.empty() && word.find_first_not_of("0123456789") == word.npos; }

}  // namespace

// VG NAME lock_type=TYPE UUID
// LS TYPE LOCKSPACE
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

}  // namespace lamella::host
