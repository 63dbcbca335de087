// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "device/composite_device.h"
#include "mapper/target.h"

namespace lamella::mapper {

// The targets of a device, one after the other. Made by Mapper; not changed once it is live. I/O as BlockDevice says; the rest is the
// mapper's, one call at a time.
class Table final : public CompositeDevice {
  public:
    struct Entry {
        std::uint64_t begin;   // bytes
        std::uint64_t length;  // bytes
        const TargetType* type;
        std::unique_ptr<Target> target;
        std::string last_status{};
    };

    Table(std::string name, bool read_only) : name_(std::move(name)), read_only_(read_only) {}

    // Each begins where the one before ends. Errors: usage where the types can't be together, or the length doesn't suit the target.
    Result<void> add(std::uint64_t length, const TargetType& type, std::unique_ptr<Target> target);
    // A device that targets stand on; again: nothing happens.
    void add_lower(const LowerDevice& lower);

    std::span<Entry> entries() { return entries_; }
    // Each once, in the order of their opening.
    const std::vector<LowerDevice>& lowers() const { return lowers_; }
    bool read_only() const { return read_only_; }
    bool own_io() const;
    // Null: none.
    const TargetType* immutable_type() const;
    bool wildcard() const;

    void presuspend(const SuspendOptions& options);
    void presuspend_undo();
    void give_back();
    bool drained(Duration patience);
    void postsuspend();
    // When one target fails, none has been resumed.
    Result<void> resume();

    std::uint64_t size() const override { return size_; }
    DeviceTraits traits() const override;
    std::string name() const override { return name_; }
    void add_leaves(std::vector<BlockDevice*>& leaves) override;
    Piece piece_at(std::uint64_t offset, std::uint64_t limit) const override;

  private:
    const std::string name_;
    const bool read_only_;
    std::vector<LowerDevice> lowers_;  // outlives the targets
    std::vector<Entry> entries_;
    std::uint64_t size_ = 0;
    DeviceTraits traits_;
};

}  // namespace lamella::mapper
