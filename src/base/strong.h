// SPDX-License-Identifier: Apache-2.0
//
// Integers that can't be mixed up: a data block is not a metadata block, a sector is not a byte.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

#include <fmt/format.h>

namespace lamella {

// An unsigned integer of its own kind. Steps and differences are plain integers: block + 1, end - begin.
template <typename Tag, typename Value = std::uint64_t>
class Strong {
  public:
    using value_type = Value;

    constexpr Strong() = default;
    constexpr explicit Strong(Value value) : value_(value) {}

    constexpr Value value() const { return value_; }

    constexpr auto operator<=>(const Strong&) const = default;

    constexpr Strong& operator++() {
        ++value_;
        return *this;
    }
    constexpr Strong& operator+=(Value step) {
        value_ += step;
        return *this;
    }
    friend constexpr Strong operator+(Strong left, Value step) { return Strong(left.value_ + step); }
    friend constexpr Strong operator-(Strong left, Value step) { return Strong(left.value_ - step); }
    friend constexpr Value operator-(Strong left, Strong right) { return left.value_ - right.value_; }

  private:
    Value value_ = 0;
};

// A 4096-byte block of a pool's metadata device.
using MetadataBlock = Strong<struct MetadataBlockTag>;
// A block (chunk) of a pool's data device.
using DataBlock = Strong<struct DataBlockTag>;
// A block of a thin volume, in units of its pool's data block size.
using VirtualBlock = Strong<struct VirtualBlockTag>;
// A thin device within a pool: 0 .. 2^24-1.
using ThinId = Strong<struct ThinIdTag, std::uint32_t>;

constexpr std::uint64_t sector_bytes = 512;

}  // namespace lamella

template <typename Tag, typename Value>
struct std::hash<lamella::Strong<Tag, Value>> {
    std::size_t operator()(lamella::Strong<Tag, Value> strong) const { return std::hash<Value>()(strong.value()); }
};

template <typename Tag, typename Value>
struct fmt::formatter<lamella::Strong<Tag, Value>> : fmt::formatter<Value> {
    template <typename Context>
    auto format(lamella::Strong<Tag, Value> strong, Context& context) const {
        return fmt::formatter<Value>::format(strong.value(), context);
    }
};
