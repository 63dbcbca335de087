// SPDX-License-Identifier: Apache-2.0
//
// The kernel's device mapper, as far as it is asked for anything: what is there, tables, messages. Devices of LVM's are LVM's to make and to
// remove.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lamella::host {

// A line of a status or a table. Sectors of 512 bytes.
struct KernelTarget {
    std::uint64_t start = 0;
    std::uint64_t length = 0;
    std::string type;        // "thin-pool"
    std::string parameters;  // "2 113/1024 5/1024 - rw ..."

    // "0 131072 thin-pool 2 113/1024 ...", without a blank at its end.
    std::string line() const { return fmt::format("{} {} {}{}{}", start, length, type, parameters.empty() ? "" : " ", parameters); }
};

struct DeviceNumber {
    std::uint32_t major = 0;
    std::uint32_t minor = 0;
    bool operator==(const DeviceNumber&) const = default;
};

struct KernelDevice {
    std::string name;
    std::string uuid;  // "LVM-<group><volume>-tpool"
    DeviceNumber number;
    std::uint32_t open_count = 0;
    std::uint32_t event_number = 0;  // changes with each event of its targets
    bool suspended = false;
    bool read_only = false;
    std::vector<KernelTarget> status;  // of the live table; empty: there is none
};

// Threads: one caller at a time. Errors: refused (not root), not_found, unsupported (a kernel without device mapper), failed.
class KernelMapper {
  public:
    virtual ~KernelMapper() = default;

    // All devices whose names begin with `prefix`, in one pass. Status is read without a flush: a pool that is full would not answer one.
    virtual Result<std::vector<KernelDevice>> devices(std::string_view prefix) = 0;
    // The names alone, by one ioctl.
    virtual Result<std::vector<std::string>> names(std::string_view prefix) = 0;
    virtual Result<KernelDevice> device(const std::string& name) = 0;
    virtual Result<std::vector<KernelTarget>> table(const std::string& name) = 0;
    // The devices that stand directly below.
    virtual Result<std::vector<DeviceNumber>> dependencies(const std::string& name) = 0;
    // To the target at sector 0. Returns its answer, empty for most. Errors also: usage, for what the target doesn't take.
    virtual Result<std::string> message(const std::string& name, const std::string& text) = 0;

    // refused: somebody has it open.
    virtual Result<void> remove(const std::string& name) = 0;

    // This host's, through libdevmapper.
    static std::unique_ptr<KernelMapper> of_host();
};

}  // namespace lamella::host
