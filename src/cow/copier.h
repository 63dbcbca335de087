// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "device/block_device.h"
#include "device/io_queue.h"

namespace lamella::cow {

class ExceptionLog;

// A copy of a run of bytes to any number of places: read once. Owned by whoever starts it, until `completed`.
struct Copy {
    // Where a part of what is read goes.
    struct Target {
        BlockDevice* device;
        std::uint64_t start;          // bytes, from the start of the copy
        std::uint64_t length;         // bytes; what is behind the end of the copy isn't written
        std::uint64_t offset;         // on `device`
        ExceptionLog* log = nullptr;  // of the store that `device` is: the copy is data of new exceptions
        void* owner = nullptr;
        int error = 0;  // of the read, too
    };

    BlockDevice* from = nullptr;
    std::uint64_t offset = 0;  // on `from`
    std::uint64_t length = 0;
    std::vector<Target> targets;
    void (*completed)(Copy& copy) = nullptr;

    // The copier's own.
    std::uint64_t next = 0;
    unsigned pieces = 0;
};

// Makes copies in pieces, several at once, within a bound on memory; first come, first served. One queue, and its thread.
class Copier {
  public:
    static constexpr std::uint64_t piece_bytes = 256 * 1024;

    Copier(IoQueue& queue, std::uint64_t buffer_bytes);
    ~Copier();

    void start(Copy& copy);

  private:
    struct Piece;
    void go_on();
    void release(Piece& piece);

    IoQueue& queue_;
    std::vector<std::unique_ptr<Piece>> pieces_;
    std::vector<Piece*> free_;
    std::uint64_t may_add_;
    std::deque<Copy*> waiting_;
};

}  // namespace lamella::cow
