// SPDX-License-Identifier: Apache-2.0
//
// Who holds which locks of a group that hosts share through lvmlockd, as far as lvmlockd and sanlock tell.
//
// A thin pool's metadata are one host's at a time: that which holds the pool's lock, as it does from the pool's activation to its end.
// LVM refuses what another host's lock is in the way of. But lvcreate -s and lvextend of 2.03.16 activate the pool here all the same while
// another host has it active: whoever asks LVM for something of a pool has to know first.
//
// Sources: the output of lvmlockctl 2.03.16 and 2.03.39 and of sanlock 3.8.5; lvmlockd(8), sanlock(8).
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>

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

}  // namespace lamella::host
