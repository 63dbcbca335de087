// SPDX-License-Identifier: Apache-2.0
//
// What the layer above offers to clients: block devices by name. A front end asks an ExportSource for the list and opens what a
// client wants; the source may gain and lose exports at any time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "device/block_device.h"

namespace lamella {

// An export as a list shows it.
struct ExportInfo {
    std::string name;         // UTF-8, 1 .. 4096 bytes
    std::string description;  // for people; may be empty
    std::uint64_t size = 0;   // bytes
};

// An export in use: every connection to it shares one. Destroyed after the last of them has ended and all of its requests have
// completed, on the same thread that opened it.
class Export {
  public:
    virtual ~Export() = default;

    // The same device for as long as the export lives. Its size is asked anew at each handshake and while requests arrive, so that
    // a client that knows of a growth can use it. Bytes beyond the last multiple of its alignment aren't served.
    virtual BlockDevice& device() = 0;
    // Writes are refused before they reach the device.
    virtual bool read_only() const = 0;
    virtual std::string description() const { return {}; }
    // Whether the server flushes the device after its last client. Not for a device whose I/O may be held back for long: the flush would
    // wait with it, on the thread that opens exports.
    virtual bool flush_at_end() const { return true; }
    // Bytes. The unit in which requests are cheapest: for a thin volume the largest power of two that divides its chunk size.
    // Put into NBD's limits (a power of two, 512 bytes .. 32 MiB) by the server.
    virtual std::uint32_t preferred_block_size() const { return 4096; }
};

// Threads: a server calls its source from one thread of its own that does nothing else, so that an implementation may block,
// on I/O for example, without delaying other clients' requests. It may not wait for the server.
class ExportSource {
  public:
    virtual ~ExportSource() = default;

    // In the order in which clients shall see them.
    virtual std::vector<ExportInfo> list() = 0;

    // `read_only`: the server was asked to serve nothing for writing. An unknown name is ErrorKind::not_found; other errors go to
    // the client as text. Not called again for a name whose Export still lives.
    virtual Result<std::unique_ptr<Export>> open(std::string_view name, bool read_only) = 0;
};

}  // namespace lamella
