// SPDX-License-Identifier: Apache-2.0
//
// LVM's commands: argument vectors that can't mean anything else than they are meant to, and errors a caller can act on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "host/command_runner.h"
#include "host/lvm_locks.h"
#include "host/lvm_report.h"

namespace lamella::host {

// The words of one command behind "lvm". Every word that comes from outside is checked by what it is; the first that isn't valid makes
// done() fail. Options come first: after the first name there is a "--" before it, so that no name is taken for an option.
class LvmWords {
  public:
    explicit LvmWords(std::string_view command) : words_{std::string(command)} {}

    // What this program itself says: an option and its value.
    LvmWords& option(std::string_view name);
    LvmWords& option(std::string_view name, std::string_view value);
    // Rounded up to sectors. `sign`: "", "+" or "-".
    LvmWords& size(std::string_view name, std::uint64_t bytes, std::string_view sign = {});
    // "-l 20%ORIGIN". `hundredths` of a percent; LVM takes whole percent.
    LvmWords& percent(std::uint64_t hundredths, std::string_view of, std::string_view sign = {});
    LvmWords& tag(std::string_view name, std::string_view tag);
    // Of something to be made: LVM's rules for new names.
    LvmWords& new_name(std::string_view option, std::string_view group, std::string_view name);

    // A volume that is there, as an option's value.
    LvmWords& volume_option(std::string_view option, std::string_view group, std::string_view name);

    // A group; a volume in one; a bare name as an argument of its own. These end the options.
    LvmWords& group(std::string_view name);
    LvmWords& volume(std::string_view group, std::string_view name);
    LvmWords& new_volume(std::string_view group, std::string_view name);
    // The path of a physical volume.
    LvmWords& device(std::string_view path);

    Result<std::vector<std::string>> done() const;

  private:
    void begin_names();
    void check(Result<void> good);
    std::string checked(std::string_view group, std::string_view name);

    std::vector<std::string> words_;
    bool names_begun_ = false;
    std::optional<Error> error_;
};

// What a command that failed says, made short and safe to print, of the kind that fits: not_found, exists, no_space, refused (in use,
// exported, of another host, under a lock), usage, failed.
Error lvm_error(std::string_view command, const CommandResult& result);

// From how many percent in use on dmeventd extends a thin pool, and by how many percent of its size. From 100 on: never.
struct ExtensionRule {
    std::uint32_t threshold = 100;
    std::uint32_t percent = 0;
};
// Of `lvm lvmconfig` with both settings. Errors: damaged.
Result<ExtensionRule> parse_extension_rule(std::string_view text);

// An absolute path without quotes or backslashes in it, of `lvm lvmconfig global/locking_dir`. Errors: damaged.
Result<std::string> parse_locking_directory(std::string_view text);

// Threads: as the runner's.
class Lvm {
  public:
    // `program`: the absolute path of `lvm`.
    Lvm(CommandRunner& runner, std::string program) : runner_(runner), program_(std::move(program)) {}

    // /usr/sbin/lvm or /sbin/lvm; never from $PATH. Errors: not_found, with what to install.
    static Result<std::string> find_program();

    // One group, with everything in it, by one command. Errors: not_found, refused (another host's, locked), failed, damaged.
    Result<LvmGroup> report(std::string_view group);

    // All groups that this host sees, other hosts' too.
    Result<std::vector<LvmGroupName>> groups();
    // The ids of physical volumes that more than one device carries.
    Result<std::vector<std::string>> duplicates();

    // global/locking_dir of this host's configuration. Errors: damaged.
    Result<std::string> locking_directory();

    // As the profile has it, and where that says nothing, LVM's configuration. `profile`: empty for a pool without one. Errors: failed,
    // when there is no such profile.
    Result<ExtensionRule> extension_rule(std::string_view profile);

    // Of a shared group, by its id; by lvmlockctl, which lies beside lvm. Where that fails nothing is held.
    HostLocks locks(std::string_view group);
    // Who has a volume's lock, by its id, as sanlock beside lvm tells. `leases`: the path of the group's volume for them, `size` its bytes.
    // None: nobody, or it can't be told.
    std::optional<std::string> lease_holder(std::string_view leases, std::uint64_t size, std::string_view volume);

    // Carries out a change; in a trial LVM checks all and writes nothing (--test).
    Result<void> change(const LvmWords& words, bool trial = false);

  private:
    // What a command that only reads prints.
    Result<std::string> read(std::vector<std::string> words);
    // What another program of LVM's folder prints; none: it isn't there or failed.
    std::optional<std::string> ask(std::string_view program, std::vector<std::string> words);

    CommandRunner& runner_;
    std::string program_;
};

}  // namespace lamella::host
