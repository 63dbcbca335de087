// SPDX-License-Identifier: Apache-2.0
#include "host/processes.h"

#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <fstream>
#include <system_error>

namespace lamella::host {

namespace {

constexpr std::size_t max_command_line = 4 << 20;  // more than the kernel takes of us

constexpr std::array<std::string_view, 10> changing{"lvchange", "lvconvert", "lvcreate", "lvextend", "lvreduce",
                                                    "lvremove", "lvrename",  "lvresize", "vgchange", "vgcfgrestore"};

std::vector<std::string> words_of(const std::filesystem::path& process) {
    std::ifstream file(process / "cmdline", std::ios::binary);
    std::vector<std::string> words;
    std::size_t bytes = 0;
    for (std::string word; bytes < max_command_line && std::getline(file, word, '\0'); bytes += word.size() + 1)
        words.push_back(word);
    return words;
}

}  // namespace

std::vector<std::filesystem::path> entries(const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> found;
    std::error_code error;
    for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
        found.push_back(entry->path());
    return found;
}

std::vector<std::filesystem::path> processes(const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> found = entries(folder);
    std::erase_if(found, [](const auto& path) { return path.filename().native().find_first_not_of("0123456789") != std::string::npos; });
    return found;
}

bool is_running(const std::filesystem::path& folder, std::string_view program) {
    return std::ranges::any_of(processes(folder), [&](const std::filesystem::path& process) {
        std::ifstream file(process / "comm", std::ios::binary);
        std::string name;
        return std::getline(file, name) && name == program;
    });
}

std::optional<std::string> lvm_at_work(const std::filesystem::path& folder, std::string_view group) {
    const std::string in_group = std::string(group) + "/";
    for (const std::filesystem::path& process : processes(folder)) {
        // Anybody can give a process of theirs these words.
        struct stat owner {};
        if (::stat(process.c_str(), &owner) != 0 || owner.st_uid != ::geteuid())
            continue;
        const std::vector<std::string> words = words_of(process);
        if (words.size() > 2 && std::filesystem::path(words[0]).filename() == "lvm" &&
            std::ranges::find(changing, words[1]) != changing.end() &&
            std::any_of(words.begin() + 2, words.end(),
                        [&](const std::string& word) { return word == group || word.starts_with(in_group); }))
            return process.filename().native();
    }
    return std::nullopt;
}

}  // namespace lamella::host
