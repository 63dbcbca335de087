// SPDX-License-Identifier: Apache-2.0
#include "host/device_users.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <fmt/format.h>

#include "host/processes.h"

namespace lamella::host {

namespace {

constexpr std::size_t max_users_named = 8;

// /proc/self/mountinfo writes spaces and the like as \040.
std::string unescaped(const std::string& text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 3 < text.size()) {
            result += static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8));
            i += 3;
        } else {
            result += text[i];
        }
    }
    return result;
}

std::string first_line(const std::filesystem::path& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// "7:3" for a device and for each of its partitions, with their names.
std::vector<std::pair<std::string, std::string>> numbers_of(const struct stat& device) {
    std::string number = fmt::format("{}:{}", major(device.st_rdev), minor(device.st_rdev));
    std::filesystem::path folder = "/sys/dev/block/" + number;
    std::error_code error;
    std::vector<std::pair<std::string, std::string>> numbers{{number, std::filesystem::canonical(folder, error).filename()}};
    for (const auto& entry : entries(folder))
        if (std::filesystem::exists(entry / "partition", error))
            numbers.emplace_back(first_line(entry / "dev"), entry.filename());
    return numbers;
}

// Processes other than this one that have the file or device open.
std::vector<std::string> processes_with(const struct stat& wanted) {
    std::vector<std::string> users;
    for (const auto& process : processes(all_processes)) {
        const std::string id = process.filename();
        if (id == std::to_string(::getpid()))
            continue;
        for (const auto& file : entries(process / "fd")) {
            struct stat status;
            if (::stat(file.c_str(), &status) != 0 || (status.st_mode & S_IFMT) != (wanted.st_mode & S_IFMT))
                continue;
            bool same = S_ISBLK(wanted.st_mode) ? status.st_rdev == wanted.st_rdev
                                                : status.st_dev == wanted.st_dev && status.st_ino == wanted.st_ino;
            if (same) {
                users.push_back(fmt::format("process {} ({})", id, first_line(process / "comm")));
                break;
            }
        }
        if (users.size() >= max_users_named)
            break;
    }
    return users;
}

}  // namespace

std::vector<Mount> mounts() {
    std::vector<Mount> result;
    std::ifstream file("/proc/self/mountinfo");
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string id, parent, device, root, point;
        if (words >> id >> parent >> device >> root >> point)
            result.push_back({device, unescaped(point)});
    }
    return result;
}

std::vector<std::string> users_of(const std::string& path) {
    std::vector<std::string> users;
    struct stat status;
    if (::stat(path.c_str(), &status) != 0)
        return users;
    if (S_ISBLK(status.st_mode)) {
        for (const auto& [number, name] : numbers_of(status)) {
            for (const Mount& mount : mounts())
                if (mount.device == number)
                    users.push_back("mounted at " + mount.point);
            for (const auto& holder : entries("/sys/dev/block/" + number + "/holders"))
                users.push_back("device " + holder.filename().string());
            std::ifstream swaps("/proc/swaps");
            for (std::string line; std::getline(swaps, line);)
                if (line.starts_with("/dev/" + name + " ") || line.starts_with("/dev/" + name + "\t"))
                    users.push_back("swap");
        }
    }
    if (users.empty())
        users = processes_with(status);
    return users;
}

}  // namespace lamella::host
