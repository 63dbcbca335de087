// SPDX-License-Identifier: Apache-2.0
#include "host/kernel_mapper.h"

#include <libdevmapper.h>
#include <unistd.h>
#include <cstdarg>

namespace lamella::host {

namespace {

// What libdevmapper logged last as an error on this thread. It would go to standard error otherwise.
thread_local std::string last_logged;

extern "C" void keep_error(int level, const char*, int, int, const char* format, ...) {
    if ((level & 7) > 3)  // errors are 3, what is fatal 2
        return;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    last_logged = text;
}

class Task {
  public:
    Task(int kind, const std::string& what) : task_(::dm_task_create(kind), ::dm_task_destroy), what_(what) { last_logged.clear(); }

    // For a device by name.
    Result<void> name(const std::string& name) {
        return task_ && ::dm_task_set_name(task_.get(), name.c_str()) ? Result<void>() : failed();
    }
    Result<void> run() { return task_ && ::dm_task_run(task_.get()) ? Result<void>() : failed(); }
    dm_task* get() { return task_.get(); }

    std::unexpected<Error> failed() const {
        if (::geteuid() != 0)
            return fail(ErrorKind::refused, "device mapper: {}: this is for root alone", what_);
        const int number = task_ ? ::dm_task_get_errno(task_.get()) : 0;
        if (number == ENXIO)
            return fail(ErrorKind::not_found, "device mapper: there is no device {}", what_);
        if (number != 0)
            return fail_errno(fmt::format("device mapper: {}", what_), number);
        return fail(ErrorKind::unsupported, "device mapper: {}: {}", what_,
                    last_logged.empty() ? "the kernel doesn't answer; is the module dm-mod loaded?" : last_logged);
    }

  private:
    std::unique_ptr<dm_task, decltype(&::dm_task_destroy)> task_;
    std::string what_;
};

std::vector<KernelTarget> targets_of(dm_task* task) {
    std::vector<KernelTarget> targets;
    void* next = nullptr;
    do {
        std::uint64_t start = 0, length = 0;
        char* type = nullptr;
        char* parameters = nullptr;
        next = ::dm_get_next_target(task, next, &start, &length, &type, &parameters);
        if (type != nullptr) {
            KernelTarget& target = targets.emplace_back(start, length, type, parameters != nullptr ? parameters : "");
            while (target.parameters.ends_with(' '))
                target.parameters.pop_back();
        }
    } while (next != nullptr);
    return targets;
}

class SystemMapper final : public KernelMapper {
  public:
    SystemMapper() {
        ::dm_log_with_errno_init(keep_error);
        // Names come and go as they are: LVM's need no escapes.
        ::dm_set_name_mangling_mode(DM_STRING_MANGLING_NONE);
        // One open of the control device for all of a pass.
        ::dm_hold_control_dev(1);
    }
    ~SystemMapper() override {
        ::dm_hold_control_dev(0);
        ::dm_lib_release();
        ::dm_log_with_errno_init(nullptr);
    }

    Result<std::vector<KernelDevice>> devices(std::string_view prefix) override {
        std::vector<KernelDevice> devices;
        for (const std::string& name : TRY(names(prefix))) {
            auto found = device(name);
            if (found)
                devices.push_back(std::move(*found));
            else if (found.error().kind() != ErrorKind::not_found)  // gone meanwhile
                return std::unexpected(found.error());
        }
        return devices;
    }

    Result<std::vector<std::string>> names(std::string_view prefix) override {
        Task list(DM_DEVICE_LIST, "list of devices");
        TRY(list.run());
        std::vector<std::string> names;
        const dm_names* entry = ::dm_task_get_names(list.get());
        if (entry == nullptr || entry->dev == 0)
            return names;
        for (;;) {
            if (std::string_view(entry->name).starts_with(prefix))
                names.emplace_back(entry->name);
            if (entry->next == 0)
                return names;
            entry = reinterpret_cast<const dm_names*>(reinterpret_cast<const char*>(entry) + entry->next);
        }
    }

    Result<std::vector<KernelTarget>> table(const std::string& name) override {
        Task task(DM_DEVICE_TABLE, name);
        TRY(task.name(name));
        TRY(task.run());
        return targets_of(task.get());
    }

    Result<std::vector<DeviceNumber>> dependencies(const std::string& name) override {
        Task task(DM_DEVICE_DEPS, name);
        TRY(task.name(name));
        TRY(task.run());
        std::vector<DeviceNumber> below;
        if (const dm_deps* deps = ::dm_task_get_deps(task.get()))
            for (std::uint32_t i = 0; i < deps->count; ++i)
                // The kernel's wide form of a device number.
                below.emplace_back(static_cast<std::uint32_t>((deps->device[i] >> 8) & 0xfff),
                                   static_cast<std::uint32_t>((deps->device[i] & 0xff) | ((deps->device[i] >> 12) & 0xfff00)));
        return below;
    }

    Result<std::string> message(const std::string& name, const std::string& text) override {
        Task task(DM_DEVICE_TARGET_MSG, name);
        TRY(task.name(name));
        if (!::dm_task_set_sector(task.get(), 0) || !::dm_task_set_message(task.get(), text.c_str()))
            return task.failed();
        if (auto sent = task.run(); !sent) {
            if (::dm_task_get_errno(task.get()) == EINVAL)
                return fail(ErrorKind::usage, "device mapper: {}: not a message that its target takes now: '{:.80}'", name, text);
            return std::unexpected(sent.error());
        }
        const char* answer = ::dm_task_get_message_response(task.get());
        return std::string(answer != nullptr ? answer : "");
    }

    Result<void> remove(const std::string& name) override {
        Task task(DM_DEVICE_REMOVE, name);
        TRY(task.name(name));
        return task.run();
    }

    Result<KernelDevice> device(const std::string& name) override {
        Task task(DM_DEVICE_STATUS, name);
        TRY(task.name(name));
        if (!::dm_task_no_flush(task.get()))
            return task.failed();
        TRY(task.run());
        dm_info info{};
        if (!::dm_task_get_info(task.get(), &info))
            return task.failed();
        if (!info.exists)
            return fail(ErrorKind::not_found, "device mapper: there is no device {}", name);
        KernelDevice device;
        device.name = name;
        if (const char* uuid = ::dm_task_get_uuid(task.get()))
            device.uuid = uuid;
        device.number = {info.major, info.minor};
        device.open_count = info.open_count > 0 ? static_cast<std::uint32_t>(info.open_count) : 0;
        device.event_number = info.event_nr;
        device.suspended = info.suspended != 0;
        device.read_only = info.read_only != 0;
        if (info.live_table)
            device.status = targets_of(task.get());
        return device;
    }
};

}  // namespace

std::unique_ptr<KernelMapper> KernelMapper::of_host() { return std::make_unique<SystemMapper>(); }

}  // namespace lamella::host
