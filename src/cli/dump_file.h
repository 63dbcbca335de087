// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/file_descriptor.h"
#include "device/block_device.h"
#include "tools/piece_ring.h"

namespace lamella::cli {

// A text of gigabytes on its way into a file, past the page cache where the file system can: a thread of its own writes while the caller
// goes on. One caller at a time; 4 MiB of memory. An error stays: every later call returns it. Without finish() the end is missing.
class DumpFile {
  public:
    // Takes an open file that is empty, and closes it. `name` is for messages.
    static Result<std::unique_ptr<DumpFile>> start(int fd, std::string name);
    ~DumpFile() = default;
    DumpFile(const DumpFile&) = delete;
    DumpFile& operator=(const DumpFile&) = delete;

    Result<void> write(std::string_view text);
    // Returns when all is durable.
    Result<void> finish();

  private:
    struct Piece {
        AlignedBuffer memory;
        std::size_t size = 0;
        void clear() { size = 0; }
    };

    DumpFile(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
    Result<void> write(const Piece& piece);

    FileDescriptor fd_;
    std::string name_;
    bool direct_ = false;
    std::uint64_t size_ = 0;        // of the text so far
    std::uint64_t written_ = 0;     // by the thread
    tools::PieceRing<Piece> ring_;  // last: its thread uses the rest
};

}  // namespace lamella::cli
