// SPDX-License-Identifier: Apache-2.0
//
// Device mapper in user space: named devices, each made of a table of targets, with the verbs of dmsetup.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "device/block_device.h"
#include "mapper/mapped_device.h"
#include "mapper/shared_objects.h"
#include "mapper/table_text.h"
#include "mapper/target.h"

namespace lamella {
class FileDevice;
}

namespace lamella::mapper {

class Table;

// What the kernel commonly gives device mapper. Numbers of this mapper name its own devices and nothing else on the host.
constexpr std::uint32_t device_major = 253;

// As the kernel's ioctl allows them, but for the characters: those that libdevmapper doesn't mangle. Errors: usage.
Result<void> check_device_name(std::string_view name);
Result<void> check_uuid(std::string_view uuid);

struct DeviceInfo {
    std::string name;
    std::string uuid;  // may be empty
    std::uint32_t minor = 0;
    bool suspended = false;
    bool read_only = false;
    bool live = false;      // there is a live table
    bool inactive = false;  // there is an inactive table
    bool deferred_remove = false;
    std::uint32_t open_count = 0;  // clients, and other devices whose tables name it
    std::uint32_t event_number = 0;
    std::uint32_t target_count = 0;  // of the live table
    std::uint64_t size = 0;          // bytes
};

struct TargetLine {
    std::uint64_t start = 0;   // sectors
    std::uint64_t length = 0;  // sectors
    std::string type;
    std::string text;
};

// A device that a table stands on.
struct Dependency {
    std::string word;                      // as in tables
    std::optional<std::uint32_t> minor{};  // of a device of this mapper
    std::string name;                      // likewise; else the path
};

// A device in use by a client. Given back from any thread that may wait, with no request in flight.
class OpenDevice {
  public:
    virtual ~OpenDevice() = default;
    virtual BlockDevice& device() = 0;
};

// Devices are named by name or, where none has that name, by uuid. Each has up to two tables: the live one, which I/O goes through, and
// an inactive one, which load() brings and resume() makes live.
//
// Errors: not_found for a device that isn't there; refused for one that is in use, or suspended where that is in the way; exists.
//
// Threads: any that may wait; calls are carried out one at a time. None of them from a reactor, none from a Target.
class Mapper {
  public:
    Mapper();
    // Nobody uses a device any more.
    ~Mapper();
    Mapper(const Mapper&) = delete;

    Result<void> create(const std::string& name, const std::string& uuid);
    // `directory`: where paths that don't begin with '/' begin. In place of an inactive table that may be there.
    Result<void> load(std::string_view name, std::string_view text, const std::string& directory, bool read_only);
    // Forgets the inactive table.
    Result<void> clear(std::string_view name);

    // False: I/O is in flight still, after `patience`; the device takes none any more, and the same call again goes on waiting.
    // resume() calls a suspend() off that hasn't ended, unless there is a new table.
    Result<bool> suspend(std::string_view name, const SuspendOptions& options, Duration patience = default_patience);
    // Makes an inactive table live; false as with suspend(). When the new table can't be made live the old one stays.
    Result<bool> resume(std::string_view name, Duration patience = default_patience);

    Result<void> rename(std::string_view name, const std::string& new_name);
    // Once.
    Result<void> set_uuid(std::string_view name, const std::string& uuid);
    // True: it is gone. False: something that it does by itself is in flight still, after `patience`, as with suspend(); or it is in use
    // and goes when nobody uses it any more (`deferred`; what is in flight then puts that off to the next time that something is given up).
    Result<bool> remove(std::string_view name, bool deferred = false, Duration patience = default_patience);
    // A message to the target that has the sector.
    Result<std::string> message(std::string_view name, std::uint64_t sector, std::string_view text);

    Result<DeviceInfo> info(std::string_view name);
    // The device's event number, also after it has been renamed or removed, which are events if it has a live table. Any thread.
    Result<std::function<std::uint32_t()>> events(std::string_view name);
    // Called after an event of any device, from any thread; must not block. Any thread may set another.
    void set_event_handler(std::function<void()> handler) { bell_->set_handler(std::move(handler)); }
    // By name.
    std::vector<DeviceInfo> devices();
    // Empty where there is no such table. `flush`: see Target::status(). A target that can't be asked because a device below is
    // suspended is shown as it was last.
    Result<std::vector<TargetLine>> status(std::string_view name, bool flush = true, bool inactive = false);
    Result<std::vector<TargetLine>> table(std::string_view name, bool inactive = false);
    // Of the live table, as the kernel lists them: the last one opened first.
    Result<std::vector<Dependency>> dependencies(std::string_view name);

    Result<std::unique_ptr<OpenDevice>> open(std::string_view name);

    // Lets I/O that is held go on: before clients are waited for at the end.
    void resume_all();

    static constexpr Duration default_patience = std::chrono::milliseconds(200);

  private:
    struct Device;
    class Context;
    class Opened;
    enum class State { active, suspending, suspended };

    Result<Device*> find(std::string_view name);
    // Null: no device of this mapper.
    Device* device_of(const MappedDevice* mapped) const;
    std::uint32_t open_count(const Device& device) const;
    DeviceInfo describe(const Device& device) const;
    Result<std::unique_ptr<Table>> build(Device& device, std::string_view text, const std::string& directory, bool read_only);
    Result<LowerDevice> open_lower(Device& owner, std::string_view word, const std::string& directory, bool read_only);
    Result<LowerDevice> open_file(const std::string& path, bool read_only);
    Result<void> refuse_cycle(const Device& owner, const Device& lower) const;
    Result<void> refuse_suspended_below(const Table& table) const;
    // As refuse_suspended_below(), where it matters to a target.
    Result<void> refuse_stuck(const Table* table) const;
    Result<bool> finish_suspending(Device& device, Duration patience);
    Result<bool> begin_suspending(Device& device, const SuspendOptions& options, Duration patience);
    Result<void> swap(Device& device);
    // Ends a suspend() that hasn't ended.
    void call_off(Device& device);
    Result<bool> remove_now(Device& device, Duration patience);
    void remove_deferred();
    Result<std::vector<TargetLine>> lines(std::string_view name, bool inactive, bool status, bool flush);

    const std::shared_ptr<EventBell> bell_ = std::make_shared<EventBell>();
    mutable std::mutex mutex_;
    std::map<std::string, std::unique_ptr<Device>, std::less<>> devices_;
    std::map<std::string, std::weak_ptr<FileDevice>, std::less<>> files_;  // by path without links
    SharedObjects shared_;
};

}  // namespace lamella::mapper
