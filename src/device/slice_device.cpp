// SPDX-License-Identifier: Apache-2.0
#include "device/slice_device.h"

namespace lamella {

Result<std::unique_ptr<SliceDevice>> SliceDevice::create(BlockDevice& lower, std::uint64_t start, std::uint64_t length, std::string name) {
    if (start > lower.size() || length > lower.size() - start)
        return fail(ErrorKind::usage, "{}: bytes {}+{} lie beyond the end of {} ({} bytes)", name, start, length, lower.name(),
                    lower.size());
    if ((start | length) % lower.traits().alignment != 0)
        return fail(ErrorKind::usage, "{}: bytes {}+{} of {} are not aligned to {}", name, start, length, lower.name(),
                    lower.traits().alignment);
    return std::unique_ptr<SliceDevice>(new SliceDevice(lower, start, length, std::move(name)));
}

DeviceTraits SliceDevice::traits() const {
    DeviceTraits traits = lower_.traits();
    traits.physical_block = block_at(traits.physical_block, start_);
    return traits;
}

}  // namespace lamella
