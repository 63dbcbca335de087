// SPDX-License-Identifier: Apache-2.0
//
// The lines that lvmconfig, lvmlockctl, sanlock and the kernel's dlm print: what is taken from them was in them.
#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "host/lvm_command.h"
#include "host/lvm_locks.h"

using namespace lamella;

namespace {

// Those of the corpus.
constexpr std::string_view group = "m7ic9l-17Em-JPK1-Ap1t-xBvp-gfe4-aF9O0o";
constexpr std::string_view volume = "P7Ro3p-sydE-gtY9-twEe-dNU3-hNQ2-xCYkUV";

void demand(bool good) {
    if (!good)
        std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    if (const auto rule = host::parse_extension_rule(text))
        demand(text.contains("thin_pool_autoextend_threshold=") && text.contains("thin_pool_autoextend_percent="));
    if (const auto folder = host::parse_locking_directory(text))
        demand(folder->starts_with('/') && folder->find_first_of("\"\\\n") == folder->npos && text.contains(*folder));
    const host::HostLocks locks = host::parse_host_locks(text, group);
    demand(locks.state != host::HostLocks::State::no_daemon);
    demand(locks.state == host::HostLocks::State::started ? text.contains(group) : locks.exclusive.empty());
    for (const std::string& id : locks.exclusive)
        demand(!id.empty() && id.find_first_of(" \t\r\n") == id.npos && text.contains(id));
    if (const auto holder = host::parse_lease_holder(text, volume))
        demand(text.contains(volume) && holder->contains("host id ") &&
               std::ranges::all_of(*holder, [](char character) { return character >= ' ' && character <= '~'; }));
    const host::DlmLock lock = host::parse_dlm_lock(text, volume);
    demand(lock.known ? text.contains(volume) : lock.holders.empty());
    for (const std::uint32_t node : lock.holders)
        demand(node != 0 && text.contains(std::to_string(node)));
    const std::string address = host::parse_dlm_address(text);
    demand(text.contains(address) && address.size() < 40 && address.find_first_not_of("0123456789abcdefABCDEF.:") == address.npos);
    return 0;
}
