// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "device/block_device.h"
#include "tools/control.h"

namespace lamella::tools {

// Copies ranges from one device to another, or to other places of the same, up to 16 pieces at once: while some are read, others are
// written. Nothing says in which order, so no range may be read that is written too. One thread, the caller's; progress is told on it.
// A device's error stays: every later call returns it. Nothing is flushed.
class Copier {
  public:
    // `memory`: bytes for all pieces together, at least 4096. `total`: bytes that will be copied, for the progress. The devices and the
    // control outlive the copier.
    static Result<std::unique_ptr<Copier>> start(BlockDevice& from, BlockDevice& to, std::uint64_t memory, std::uint64_t total,
                                                 const Control& control);
    // Waits for what is under way.
    ~Copier();
    Copier(const Copier&) = delete;
    Copier& operator=(const Copier&) = delete;

    // Bytes. Returns when the last piece is under way.
    Result<void> copy(std::uint64_t from, std::uint64_t to, std::uint64_t length);
    // Returns when all is written.
    Result<void> finish();
    // Bytes that are written.
    std::uint64_t copied() const { return copied_; }

  private:
    static constexpr std::uint64_t most_pieces = 16;
    struct Piece {
        Copier* copier = nullptr;
        AlignedBuffer memory;
        std::uint64_t from = 0;
        std::uint64_t to = 0;
        std::uint64_t length = 0;
        iovec vector{};
        IoRequest request{};
    };

    Copier(BlockDevice& from, BlockDevice& to, std::uint64_t total, const Control& control);
    void submit(Piece& piece, IoOperation operation);
    void completed(Piece& piece, int error);
    Result<void> copy_unaligned(std::uint64_t from, std::uint64_t to, std::uint64_t length);
    void wait_for_all();
    void note_copied(std::uint64_t length);

    BlockDevice& from_;
    BlockDevice& to_;
    const std::uint64_t total_;
    const std::uint64_t alignment_;
    const Control& control_;
    std::unique_ptr<IoQueue> queue_;
    std::vector<Piece> pieces_;
    std::vector<Piece*> free_;
    std::uint64_t copied_ = 0;
    Result<void> outcome_;
};

}  // namespace lamella::tools
