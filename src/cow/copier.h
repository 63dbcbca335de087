// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
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

// Makes copies in pieces, several at once; first come, first served. One queue, and its thread.
class Copier {
  public:
    // `buffer_bytes`: memory of all pieces, at most; of one, if that is more. So many more small copies than large ones are made at once.
    Copier(IoQueue& queue, std::uint64_t buffer_bytes);
    ~Copier();

    void start(Copy& copy);

  private:
    struct Piece;
    using Pieces = std::vector<std::unique_ptr<Piece>>;
    // A piece of so many bytes at most has a buffer of the least power of two that holds it.
    static constexpr std::uint64_t least_buffer_bytes = 4 << 10;
    static constexpr std::uint64_t most_buffer_bytes = 256 << 10;
    // Of a piece beside what its buffer is asked for: itself, and a page that the allocator loses to alignment.
    static constexpr std::uint64_t piece_overhead = 5 << 10;

    void go_on();
    std::unique_ptr<Piece> take_piece(std::uint64_t length);
    Pieces& free_with(std::uint64_t buffer_bytes);
    void release(Piece& piece);

    IoQueue& queue_;
    const std::uint64_t buffer_bytes_;
    std::uint64_t made_bytes_ = 0;  // of pieces, free ones too
    std::array<Pieces, 7> free_;    // by the size of their buffers
    std::deque<Copy*> waiting_;
};

}  // namespace lamella::cow
