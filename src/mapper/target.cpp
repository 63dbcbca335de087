// SPDX-License-Identifier: Apache-2.0
#include "mapper/target.h"

#include <algorithm>

#include "device/slice_device.h"

namespace lamella::mapper {

#define TARGET(name) extern const TargetType name##_target;
#include "mapper/targets.inc"
#undef TARGET

namespace {

constexpr const TargetType* all_types[] = {
#define TARGET(name) &name##_target,
#include "mapper/targets.inc"
#undef TARGET
};

}  // namespace

std::span<const TargetType* const> target_types() { return all_types; }

const TargetType* find_target_type(std::string_view name) {
    const auto found = std::ranges::find(all_types, name, &TargetType::name);
    return found == std::end(all_types) ? nullptr : *found;
}

Result<std::string> Target::message(std::span<const std::string> words) {
    (void)words;
    return fail(ErrorKind::unsupported, "this type of target takes no messages");
}

Result<std::unique_ptr<BlockDevice>> slice_of(const LowerDevice& lower, std::uint64_t start, std::uint64_t length) {
    return TRY(SliceDevice::create(*lower.device, start, length, lower.word));
}

}  // namespace lamella::mapper
