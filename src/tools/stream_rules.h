// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "tools/visitor.h"

namespace lamella::tools {

// What must hold for the contents of a pool before metadata is made of them: numbers within what the format can store, times and transaction
// ids no later than the pool's, mappings in ascending order and inside the pool's data, no device or definition twice, every device with
// as many mapped blocks as it says. Told of each thing in the order of PoolVisitor; an error is of kind damaged and doesn't say where.
//
// Memory: 2 MiB at most, and some 60 bytes a definition.
class StreamRules {
  public:
    Result<void> superblock(const PoolHeader& header);
    Result<void> definition_begin(DefinitionId id);
    Result<void> definition_end();
    Result<void> device_begin(const DeviceHeader& header);
    Result<void> device_end();
    Result<void> reference(DefinitionId id);

    Result<void> map(const Mapping& mapping) {
        if (mapping.length == 0 || mapping.virtual_begin.value() < end_ ||
            mapping.length > ~std::uint64_t{0} - mapping.virtual_begin.value() || mapping.data_begin.value() >= header_.data_blocks ||
            mapping.length > header_.data_blocks - mapping.data_begin.value() || mapping.time > header_.time) [[unlikely]]
            return refuse(mapping);
        if (mapped_ == 0)
            first_ = mapping.virtual_begin.value();
        end_ = mapping.virtual_begin.value() + mapping.length;
        mapped_ += mapping.length;
        return {};
    }

  private:
    struct Definition {
        std::uint64_t first = 0;  // virtual block
        std::uint64_t end = 0;
        std::uint64_t mapped = 0;
    };

    std::unexpected<Error> refuse(const Mapping& mapping) const;

    PoolHeader header_;
    std::unordered_map<DefinitionId, Definition> definitions_;
    std::vector<bool> devices_;  // by id: the device was there; up to the highest so far
    // Of the open definition or device.
    DefinitionId definition_{};
    DeviceHeader device_;
    std::uint64_t first_ = 0;
    std::uint64_t end_ = 0;  // virtual block after the last mapping
    std::uint64_t mapped_ = 0;
};

}  // namespace lamella::tools
