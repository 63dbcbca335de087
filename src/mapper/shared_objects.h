// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <typeindex>
#include <utility>

#include "device/block_device.h"

namespace lamella::mapper {

// What targets of several tables share, found by its C++ type and the device that it belongs to: the pool of a metadata device, the
// snapshots of an origin. An object lives as long as a target holds it.
//
// Threads: the mapper's calls alone (see Target); no I/O.
class SharedObjects {
  public:
    // Null: there is none.
    template <typename T>
    std::shared_ptr<T> find(const BlockDevice& key) const {
        const auto found = objects_.find({typeid(T), &key});
        return found == objects_.end() ? nullptr : std::static_pointer_cast<T>(found->second.lock());
    }

    // In place of one that may be there.
    template <typename T>
    void put(const BlockDevice& key, const std::shared_ptr<T>& object) {
        std::erase_if(objects_, [](const auto& entry) { return entry.second.expired(); });
        objects_.insert_or_assign(Key(typeid(T), &key), object);
    }

  private:
    using Key = std::pair<std::type_index, const BlockDevice*>;
    std::map<Key, std::weak_ptr<void>> objects_;
};

}  // namespace lamella::mapper
