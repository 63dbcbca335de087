// SPDX-License-Identifier: Apache-2.0
//
// The first sectors of a device, as a label: what is read must be read again from what is written of it.
#include <cstdlib>
#include <span>

#include "device/memory_device.h"
#include "lvm2/label.h"

using namespace lamella;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    MemoryDevice device(1u << 20, "fuzz");
    if (!write_now(device, 0, std::as_bytes(std::span(data, std::min<std::size_t>(size, 4096)))))
        std::abort();
    const auto label = lvm2::read_label(device);
    if (!label || !*label)
        return 0;
    if (!lvm2::write_label(device, **label))
        return 0;  // more areas than fit behind a shorter header
    const auto again = lvm2::read_label(device);
    if (!again || !*again || **again != **label)
        std::abort();
    return 0;
}
