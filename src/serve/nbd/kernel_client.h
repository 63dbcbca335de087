// SPDX-License-Identifier: Apache-2.0
//
// The kernel's own NBD client: an export of a server of this process as a block device of this host, /dev/nbdN.
//
// This side speaks the handshake and hands the connected sockets to the kernel by generic netlink; sources: doc/proto.md of
// github.com/NetworkBlockDevice/nbd, linux/nbd.h, linux/nbd-netlink.h, linux/genetlink.h. Nothing of this process is needed by the
// device afterwards but the server itself. When the server's process dies, the device stays, fails all I/O, and can be disconnected
// by anybody who may. Devices are found again by an identifier that the kernel keeps for them (/sys/block/nbdN/backend, since Linux
// 5.14; on older ones none is made).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "serve/nbd/server.h"

namespace lamella::nbd {

// What a client learns of an export before the transmission phase.
struct ExportParameters {
    std::uint64_t size = 0;   // bytes
    std::uint16_t flags = 0;  // transmission_flag
};

// The client's side of a fixed newstyle handshake with NBD_OPT_GO, without structured replies, on a blocking socket that stays its
// owner's. Afterwards the transmission phase has begun. Errors: the server's refusal in its words; failed when it breaks the protocol.
Result<ExportParameters> client_handshake(int socket, std::string_view export_name);

struct KernelDeviceOptions {
    std::string identifier;    // one line; should say of which program and which volume the device is
    bool read_only = false;    // even if the export isn't
    unsigned connections = 2;  // to the server; one is made to a server that can't have several for an export
};

// Makes a block device of an export and returns its path. Blocks for the server's answers: not on a reactor. Loads the kernel's module if
// need be. Errors: unsupported when this host or process can't have one (no module, no right to), else the server's.
Result<std::string> connect_kernel_device(Server& server, std::string_view export_name, const KernelDeviceOptions& options);

// "/dev/nbd0", ...: the connected devices of that identifier, those of dead servers among them.
std::vector<std::string> kernel_devices(std::string_view identifier);

// Gives the device the size that the export has now. In bytes; what is below 512 bytes is left out.
Result<void> resize_kernel_device(const std::string& path, std::uint64_t size);

enum class InUse { refuse, disconnect };

// Writes back what the kernel caches of the device, and frees it. A device whose server is gone can't be written back and is freed all
// the same. In use is one that is mounted, or otherwise held exclusively; users of InUse::disconnect get I/O errors from then on.
// Waits for the server to answer what is written back: not on a reactor.
Result<void> disconnect_kernel_device(const std::string& path, InUse in_use = InUse::refuse);

}  // namespace lamella::nbd
