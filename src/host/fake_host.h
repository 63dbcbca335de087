// SPDX-License-Identifier: Apache-2.0
//
// An LVM and a kernel that exist in memory only, for tests of what stands on them.
#pragma once

#include <algorithm>
#include <functional>
#include <map>

#include "host/command_runner.h"
#include "host/kernel_mapper.h"

namespace lamella::host {

// Answers each command by `answer`; keeps what was asked.
class FakeRunner final : public CommandRunner {
  public:
    std::vector<Command> commands;
    std::function<Result<CommandResult>(const Command&)> answer = [](const Command&) { return CommandResult{}; };

    Result<CommandResult> run(const Command& command) override {
        commands.push_back(command);
        return answer(command);
    }
    // The words behind the program, separated by blanks.
    std::string line(std::size_t index) const {
        const std::vector<std::string>& words = commands.at(index).words;
        return fmt::format("{}", fmt::join(words.begin() + 1, words.end(), " "));
    }
};

class FakeMapper final : public KernelMapper {
  public:
    std::vector<KernelDevice> all;
    std::map<std::string, std::vector<KernelTarget>> tables;
    std::map<std::string, std::vector<DeviceNumber>> below;
    std::vector<std::string> messages;  // "NAME: TEXT"
    std::optional<Error> refuse, refuse_messages;
    unsigned passes = 0;
    std::function<void(const std::string&)> on_message;
    std::function<void()> on_pass;  // before what is there is looked at

    Result<std::vector<KernelDevice>> devices(std::string_view prefix) override {
        ++passes;
        if (on_pass)
            on_pass();
        if (refuse)
            return std::unexpected(*refuse);
        std::vector<KernelDevice> found;
        std::ranges::copy_if(all, std::back_inserter(found), [&](const KernelDevice& device) { return device.name.starts_with(prefix); });
        return found;
    }
    Result<std::vector<std::string>> names(std::string_view prefix) override {
        if (refuse)
            return std::unexpected(*refuse);
        std::vector<std::string> found;
        for (const KernelDevice& device : all)
            if (device.name.starts_with(prefix))
                found.push_back(device.name);
        return found;
    }
    Result<KernelDevice> device(const std::string& name) override {
        if (refuse)
            return std::unexpected(*refuse);
        const auto found = std::ranges::find(all, name, &KernelDevice::name);
        if (found == all.end())
            return fail(ErrorKind::not_found, "device mapper: there is no device {}", name);
        return *found;
    }
    Result<std::vector<KernelTarget>> table(const std::string& name) override { return TRY(named(tables, name)); }
    Result<std::vector<DeviceNumber>> dependencies(const std::string& name) override { return TRY(named(below, name)); }
    Result<std::string> message(const std::string& name, const std::string& text) override {
        if (refuse)
            return std::unexpected(*refuse);
        if (refuse_messages)
            return std::unexpected(*refuse_messages);
        messages.push_back(name + ": " + text);
        if (on_message)
            on_message(text);
        return std::string();
    }
    Result<void> remove(const std::string& name) override {
        messages.push_back(name + ": removed");
        std::erase_if(all, [&](const KernelDevice& device) { return device.name == name; });
        return {};
    }

  private:
    template <typename Map>
    static Result<typename Map::mapped_type> named(const Map& map, const std::string& name) {
        const auto found = map.find(name);
        if (found == map.end())
            return fail(ErrorKind::not_found, "device mapper: there is no device {}", name);
        return found->second;
    }
};

}  // namespace lamella::host
