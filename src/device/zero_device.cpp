// SPDX-License-Identifier: Apache-2.0
#include "device/zero_device.h"

#include <algorithm>
#include <cerrno>

#include "device/vectors.h"

namespace lamella {

DeviceTraits ZeroDevice::traits() const { return {.discards = true, .discard_zeroes = true}; }

void ZeroDevice::submit(IoQueue& queue, IoRequest& request) {
    const int error = check_request(request, size_, traits().alignment);
    if (error == 0 && request.operation == IoOperation::read &&
        (request.holes == nullptr || (request.length > 0 && !request.holes->add(0, request.length))))
        zero_vectors(request.vectors, 0, request.length);
    queue.complete_later(request, error);
}

void ZeroDevice::status(IoQueue& queue, StatusRequest& request) {
    request.extents.clear();
    if (request.offset < size_)
        request.add({.length = std::min(request.length, size_ - request.offset), .allocated = false, .zero = true, .depth = 0});
    queue.complete_later(request, request.offset < size_ ? 0 : EINVAL);
}

std::uint64_t ZeroDevice::known_zero(std::uint64_t offset, std::uint64_t limit) {
    return offset < size_ ? std::min(limit, size_ - offset) : 0;
}

}  // namespace lamella
