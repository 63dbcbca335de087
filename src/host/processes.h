// SPDX-License-Identifier: Apache-2.0
//
// Processes of this host, as /proc tells at the moment of the call.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lamella::host {

inline constexpr const char* all_processes = "/proc";

// What a folder has; what vanishes meanwhile, or can't be read, is left out.
std::vector<std::filesystem::path> entries(const std::filesystem::path& folder);
// The folders of processes, named by their ids.
std::vector<std::filesystem::path> processes(const std::filesystem::path& folder);
// A program of that name is running; the kernel keeps 15 bytes of a name. Whoever's it is, and anybody can give a process any name.
bool is_running(const std::filesystem::path& folder, std::string_view program);

// The id of a process that runs one of LVM's commands which change something, `lvm lvcreate ...` as we start them, on that group or
// something in it, by this process's user. None: there is no such. `folder`: all_processes.
std::optional<std::string> lvm_at_work(const std::filesystem::path& folder, std::string_view group);

}  // namespace lamella::host
