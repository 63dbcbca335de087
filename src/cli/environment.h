// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "volumes/names.h"
#include "volumes/volume_group.h"

namespace lamella {
class KernelGroup;
}

namespace lamella::cli {

enum class Access {
    read,  // looks only: a damaged or foreign group is opened as far as it is sound
    write,
    // As read and write, of a device and nothing else: the text of a group that the host's LVM runs isn't looked at where the kernel knows.
    ask_device,
    tell_device,
    trial,  // as for writing, of a change that isn't carried out: what was broken off before isn't settled either
};

// All that a command sees of the world outside, so that tests can stand in for it.
struct Environment {
    std::function<void(std::string_view)> out;  // standard output
    std::function<void(std::string_view)> err;  // standard error
    std::function<void()> flush;                // of standard output
    // Standard output for what is too long to go on with once nobody reads it: an error when it can't be written.
    std::function<Result<void>(std::string_view)> stream;
    // Asks the user at the terminal and returns the answer. Empty when there is no terminal to ask at.
    std::function<std::string(std::string_view question)> ask;
    // Columns of the terminal that standard error is; 0: it is none, or one that can't erase a line.
    unsigned columns = 0;
    Clock* clock = &Clock::system();
    std::function<Result<std::unique_ptr<VolumeGroup>>(const GroupAddress&, Access)> open_group;
    // One of this host's LVM, for what a VolumeGroup doesn't do.
    std::function<Result<std::unique_ptr<KernelGroup>>(const std::string&)> open_kernel_group;
    // The names of all groups that this host's LVM sees.
    std::function<Result<std::vector<std::string>>()> host_groups;
};

// The process's own standard streams, and groups as they are.
Environment system_environment();

// Of this host's LVM, for reading. Errors: as KernelGroup's; refused when not root; not_found without LVM.
Result<std::unique_ptr<KernelGroup>> open_kernel_group(const std::string& name);

// Errors: refused when not root; not_found without LVM; failed.
Result<std::vector<std::string>> host_groups();
// Where this host's LVM has its locks, if some of the paths are devices, which it sees too. Empty: it isn't there, or can't see them.
Result<std::filesystem::path> lvm_locks(std::span<const std::string> paths);

// Opens a group by whatever runs it: a process that serves it, this host's LVM, else the engine in this process.
Result<std::unique_ptr<VolumeGroup>> open_group(const GroupAddress& address, Access access);

}  // namespace lamella::cli
