// SPDX-License-Identifier: Apache-2.0
#include "device/trial_device.h"

#include <algorithm>
#include <array>
#include <cerrno>

namespace lamella {
namespace {

constexpr std::uint64_t page_bytes = SparseBytes::page_bytes;

}  // namespace

DeviceTraits TrialDevice::traits() const {
    DeviceTraits traits = lower_.traits();
    traits.read_only = false;
    traits.discards = false;
    traits.discard_zeroes = false;
    return traits;
}

void TrialDevice::submit(IoQueue& queue, IoRequest& request) {
    int error;
    {
        std::lock_guard lock(mutex_);
        error = perform(request);
    }
    queue.complete_later(request, error);
}

int TrialDevice::perform(IoRequest& request) {
    if (const int error = check_request(request, size(), traits().alignment); error != 0)
        return error;
    if (request.operation == IoOperation::flush)
        return 0;
    if (request.operation == IoOperation::discard)
        return EOPNOTSUPP;
    const std::uint64_t end = request.offset + request.length;
    for (std::uint64_t page = request.offset / page_bytes; page * page_bytes < end; ++page)
        if (!take_page(page))
            return EIO;
    switch (request.operation) {
    case IoOperation::read: written_.read(request.offset, request.length, request.vectors, 0); break;
    case IoOperation::write: written_.write(request.offset, request.length, request.vectors, 0); break;
    default: written_.zero(request.offset, request.length, true); break;
    }
    return 0;
}

Result<void> TrialDevice::take_page(std::uint64_t number) {
    const std::uint64_t offset = number * page_bytes;
    if (written_.holds(offset))
        return {};
    std::array<std::byte, page_bytes> page{};
    TRY(read_now(lower_, offset, std::span(page).first(std::min(page_bytes, size() - offset))));
    written_.write(offset, page);
    return {};
}

}  // namespace lamella
