// SPDX-License-Identifier: Apache-2.0
//
// Who holds which locks of a group that hosts share through lvmlockd, as far as lvmlockd, sanlock and the kernel's dlm tell.
//
// A thin pool's metadata are one host's at a time: that which holds the pool's lock, as it does from the pool's activation to its end.
// LVM refuses what another host's lock is in the way of. But lvcreate -s and lvextend of 2.03.16 activate the pool here all the same while
// another host has it active: whoever asks LVM for something of a pool has to know first.
//
// Sources: the output of lvmlockctl 2.03.16 and 2.03.39, of sanlock 3.8.5 and of the dlm of Linux 6.1; lvmlockd(8), sanlock(8).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace lamella::host {

// Of one group, on this host.
struct HostLocks {
    enum class State { no_daemon, not_started, started };
    State state = State::no_daemon;
    std::set<std::string> exclusive;  // ids of volumes, dashed; a thin volume has its pool's lock
};

// `text`: of `lvmlockctl --info`; `group`: the id, dashed. What isn't understood of it is held by nobody.
HostLocks parse_host_locks(std::string_view text, std::string_view group);

// `text`: of `sanlock direct dump` of the volume with a group's leases. "host-two (host id 2)", who has the volume with this id
// exclusively; none: nobody, or it can't be told.
std::optional<std::string> parse_lease_holder(std::string_view text, std::string_view volume);

// A volume's lock in dlm, as one node knows it. Of each lock one node, the master, knows who has it; the others know what they have
// themselves.
struct DlmLock {
    bool known = false;               // this node is the master: nobody else has it
    std::set<std::uint32_t> holders;  // ids of nodes, but this one's
};

// `text`: of dlm/LOCKSPACE_locks in debugfs. What has no mode, as lvmlockd keeps it of locks that it gave back, or waits, holds nothing.
DlmLock parse_dlm_lock(std::string_view text, std::string_view volume);

// `text`: of a node's addr_list in configfs. The first address in it; empty: there is none.
std::string parse_dlm_address(std::string_view text);

// Other hosts that have a volume's lock of type dlm, or may have it.
struct DlmHolders {
    bool certain = false;            // each of them has it; else nobody has it but one of them, or this host
    std::vector<std::string> hosts;  // "10.0.0.1 (node id 1)"
};

// As this host's kernel tells, with no other host being asked. `kernel`: the folder with config/ and debug/, /sys/kernel.
DlmHolders dlm_holders(const std::filesystem::path& kernel, std::string_view group, std::string_view volume);

}  // namespace lamella::host
