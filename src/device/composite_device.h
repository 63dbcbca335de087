// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "device/block_device.h"

namespace lamella {

// A device whose bytes lie on lower devices. A kind of composite says where; what follows from that is here: a request within one
// piece is handed down as it is, any other is split, and the first error of a part becomes the error of the whole. A flush goes once to
// each leaf. Lower devices are not owned; they outlive the composite.
//
// Memory: a split request takes room in proportion to the pieces that it touches, and gives it back when it completes.
class CompositeDevice : public BlockDevice {
  public:
    void submit(IoQueue& queue, IoRequest& request) final;
    void status(IoQueue& queue, StatusRequest& request) final;
    // Looks at no more than 1024 pieces.
    std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) final;

    // A run of bytes of a lower device.
    struct Piece {
        BlockDevice* device;
        std::uint64_t offset;  // on `device`
        std::uint64_t length;
    };

    // Where `offset` (below size()) lies, and how far it is one run, at most `limit` bytes.
    virtual Piece piece_at(std::uint64_t offset, std::uint64_t limit) const = 0;

  protected:
    // The runs that [offset, offset + length) covers, in any order, as few as possible. The default asks piece_at() from start to end.
    virtual void add_runs(std::uint64_t offset, std::uint64_t length, std::vector<Piece>& runs) const;

    // What devices have in common: the strictest alignment, discards only when all have them.
    static DeviceTraits combine(const DeviceTraits& left, const DeviceTraits& right);
    // A physical block that is one of the whole, too, where `place` (bytes) is one of the places at which pieces begin or end.
    static std::uint32_t block_at(std::uint32_t physical_block, std::uint64_t place);
};

}  // namespace lamella
